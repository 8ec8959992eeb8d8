//! Bodies, bounded in bytes, depth and time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use http_body_util::BodyExt as _;

use super::answer::{Refusal, Result};

/// For a whole body that is gathered, and between two pieces of one that is streamed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of a body that is too long, so many bytes more are read before it is refused.
const DRAINED: usize = 64 * 1024 * 1024;

/// A body's pieces.
#[derive(Debug)]
pub(super) struct Pieces {
    body: Body,
    left: usize,
    most: usize,
}

impl Pieces {
    pub(super) const fn new(body: Body, most: usize) -> Self {
        Self { body, left: most, most }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.map_err(|_late| slow())?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| Refusal::bad("body", format!("breaks off: {error}")))?;
            let Ok(bytes) = frame.into_data() else { continue };
            if bytes.len() > self.left {
                self.drain().await;
                return Err(Refusal::fail(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "body",
                    format!("is longer than {} bytes", self.most),
                ));
            }
            self.left -= bytes.len();
            return Ok(Some(bytes));
        }
    }

    /// Reads on for a while: a client that is still sending would not see the answer, since what is sent to a closed
    /// connection resets it.
    async fn drain(&mut self) {
        let read_on = async {
            let mut left = DRAINED;
            while let Some(Ok(frame)) = self.body.frame().await {
                let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
                left = rest;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, read_on).await;
    }
}

/// The whole of a body that is text.
pub(super) async fn text(body: Body, most: usize) -> Result<String> {
    let gather = async {
        let mut pieces = Pieces::new(body, most);
        let mut whole = Vec::new();
        while let Some(piece) = pieces.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok::<_, Refusal>(whole)
    };
    let whole = tokio::time::timeout(PATIENCE, gather).await.map_err(|_late| slow())??;
    String::from_utf8(whole).map_err(|error| Refusal::bad("body", format!("is no UTF-8: {error}")))
}

fn slow() -> Refusal {
    Refusal::fail(StatusCode::REQUEST_TIMEOUT, "body", format!("did not come within {PATIENCE:?}"))
}
