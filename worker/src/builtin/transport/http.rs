//! `http`: one request and its answer, by HTTP/1.1 over a connection of our own. The request carries what a receiver needs
//! to drop repeats: the job's id, its attempt and its token. Redirects are answers like others, and no proxy is asked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use roundsman_shared::clock::Wall;
use roundsman_shared::job::settle::Outcome;
use roundsman_shared::reach::Reach;
use url::Url;

use super::circuit::{Destination, Verdict};
use super::connect::{Connector, Idle, Trouble, chain, keep_swept};
use super::sign::Signer;
use super::{Letter, retry_after};
use crate::builtin::capture;

/// Bytes of an answer that are read; the connection is closed then.
const MAX_ANSWER: usize = capture::MAX_RESULT;
/// Bytes of an answer that is no success that are kept as the job's error.
const SAID: usize = 512;
/// Bytes of an answer's head.
const MAX_HEAD: usize = 64 * 1024;
const AGENT: &str = concat!("roundsman/", env!("CARGO_PKG_VERSION"));

type Sender = SendRequest<Full<Bytes>>;

/// Connections that may be used again.
#[derive(Default)]
pub(super) struct Http {
    idle: Rc<RefCell<Idle<Sender>>>,
    sweeping: Rc<Cell<bool>>,
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    retry_after: Option<String>,
    body: Vec<u8>,
    /// There was more.
    cut: bool,
}

impl Http {
    /// Sends the letter; answers what became of the job, and what that says of the destination.
    pub(super) async fn deliver(
        &self,
        connector: &Connector,
        method: &str,
        url: &Url,
        letter: &Letter<'_>,
        reach: &Reach,
        signer: &Signer,
    ) -> Result<(Outcome, Verdict), Trouble> {
        let request = request(method, url, letter, signer, Wall::now().as_millis() / 1000)?;
        let answer = self.exchange(connector, url, request, reach).await?;
        Ok(judge(&answer, Wall::now().as_millis()))
    }

    async fn exchange(
        &self,
        connector: &Connector,
        url: &Url,
        request: hyper::Request<Full<Bytes>>,
        reach: &Reach,
    ) -> Result<Answer, Trouble> {
        let to = Destination::of(url);
        while let Some(mut sender) = self.take(&to) {
            match sender.send_request(request.clone()).await {
                Ok(response) => return self.read(&to, sender, response).await,
                // The server closed it in this moment, as a server may that has heard nothing for a while.
                Err(error) => tracing::debug!(%to, %error, "a kept connection was of no use"),
            }
        }
        let stream = connector.open(&to, reach, url.scheme() == "https").await?;
        let made = Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = made.map_err(|error| broken(&to, &error))?;
        tokio::task::spawn_local(connection);
        let response = sender.send_request(request).await.map_err(|error| broken(&to, &error))?;
        self.read(&to, sender, response).await
    }

    fn take(&self, to: &Destination) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let sender = idle.take(to)?;
            if sender.is_ready() {
                return Some(sender);
            }
        }
    }

    /// Reads what is wanted of the answer, and keeps the connection if that was all of it.
    async fn read(
        &self,
        to: &Destination,
        sender: Sender,
        response: hyper::Response<Incoming>,
    ) -> Result<Answer, Trouble> {
        let status = response.status().as_u16();
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (mut incoming, mut body, mut whole) = (response.into_body(), Vec::new(), true);
        let mut cut = false;
        while let Some(frame) = incoming.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                // The status is the answer; of what it broke off with, nothing is needed.
                Err(_) if !(200..300).contains(&status) => {
                    whole = false;
                    break;
                }
                Err(error) => return Err(broken(to, &error)),
            };
            let Some(data) = frame.data_ref() else { continue };
            let room = MAX_ANSWER - body.len();
            body.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                (whole, cut) = (false, true);
                break;
            }
        }
        if whole {
            self.idle.borrow_mut().put(to, sender);
            keep_swept(&self.idle, &self.sweeping);
        }
        Ok(Answer { status, retry_after, body, cut })
    }

    #[cfg(test)]
    fn kept(&self) -> usize {
        self.idle.borrow().len()
    }
}

fn broken(to: &Destination, error: &hyper::Error) -> Trouble {
    Trouble::Broken(format!("{to}: {}", chain(error)))
}

fn request(
    method: &str,
    url: &Url,
    letter: &Letter<'_>,
    signer: &Signer,
    now: i64,
) -> Result<hyper::Request<Full<Bytes>>, Trouble> {
    let hopeless = |error: &dyn std::fmt::Display| Trouble::Hopeless(format!("it makes no request: {error}"));
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let host = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    };
    let body = letter.body.as_str().to_owned();
    let mut request = hyper::Request::builder().method(method).uri(path).header(header::HOST, host);
    request = request
        .header(header::USER_AGENT, AGENT)
        .header("webhook-id", letter.task.id.as_str())
        .header("webhook-timestamp", now)
        .header("roundsman-attempt", letter.task.attempt)
        .header("roundsman-token", letter.task.token);
    if let Some(signature) = signer.sign(letter.task.id.as_str(), now, body.as_bytes()) {
        request = request.header("webhook-signature", signature);
    }
    if let Some(kind) = letter.body.content_type() {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    // What cannot stand in a header was none when it came.
    let trace = letter.task.spec.headers.get("traceparent").map(|text| HeaderValue::from_str(text));
    if let Some(Ok(trace)) = trace {
        request = request.header(HeaderName::from_static("traceparent"), trace);
    }
    if let Some(credentials) = credentials(url) {
        request = request.header(header::AUTHORIZATION, credentials);
    }
    request.body(Full::new(Bytes::from(body))).map_err(|error| hopeless(&error))
}

/// What stands before the host of a URL, for the receiver.
fn credentials(url: &Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let plain = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let pair = [&plain(url.username()), &b":"[..], &plain(url.password().unwrap_or(""))].concat();
    let mut value =
        HeaderValue::try_from(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
            .ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What an answer means, at `now` in Unix ms.
fn judge(answer: &Answer, now: i64) -> (Outcome, Verdict) {
    let said = said(&answer.body);
    let status = hyper::StatusCode::from_u16(answer.status).ok();
    let reason = status.and_then(|status| status.canonical_reason()).unwrap_or("");
    let error = format!("{} {reason}", answer.status).trim_end().to_owned();
    let error = if said.is_empty() { error } else { format!("{error}: {said}") };
    let retry = |after: Option<Duration>, error: String| Outcome::Retry { error, after };
    match answer.status {
        200..300 => (capture::done(&answer.body, answer.cut), Verdict::Well),
        300..400 => (retry(None, format!("{error} (redirects are not followed)")), Verdict::Well),
        410 => (Outcome::Dead { error }, Verdict::Well),
        429 | 503 => {
            let after = answer.retry_after.as_deref().and_then(|text| retry_after::parse(text, now));
            let verdict = if answer.status == 503 { Verdict::Ill(error.clone()) } else { Verdict::Well };
            (retry(after, error), verdict)
        }
        500.. => (retry(None, error.clone()), Verdict::Ill(error)),
        _ => (retry(None, error), Verdict::Well),
    }
}

/// The beginning of an answer, in one line.
fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(SAID)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
