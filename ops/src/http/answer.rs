//! Answers in JSend's envelope: `success` with data, `fail` with the offending fields, `error` with a message.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use roundsman_shared::job::record::RecordError;
use roundsman_shared::job::{SpecError, State};
use roundsman_shared::names::{JobId, NameError, QueueName};
use roundsman_shared::store::{Enqueued, StoreError};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::errors::{Failure, chain};

/// When a store that is away, or full, is worth another try.
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(10);

/// 200 with data.
pub(super) fn success(data: impl Serialize) -> Response {
    answer(StatusCode::OK, data)
}

/// Another success with data.
pub(super) fn answer(status: StatusCode, data: impl Serialize) -> Response {
    #[derive(Serialize)]
    struct Envelope<T> {
        status: &'static str,
        data: T,
    }
    (status, Json(Envelope { status: "success", data })).into_response()
}

/// Why a call was not carried out.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// Of a `fail`: reasons by field.
    fields: Map<String, Value>,
    /// Of an `error`.
    message: String,
    retry_after: Option<Duration>,
}

pub(super) type Result<T = Response> = std::result::Result<T, Refusal>;

impl Refusal {
    /// A `fail`: something is wrong with the call, and this field says what.
    pub(super) fn fail(status: StatusCode, field: &str, reason: impl Into<String>) -> Self {
        let fields = Map::from_iter([(field.to_owned(), Value::String(reason.into()))]);
        Self { status, fields, message: String::new(), retry_after: None }
    }

    /// 400.
    pub(super) fn bad(field: &str, reason: impl Into<String>) -> Self {
        Self::fail(StatusCode::BAD_REQUEST, field, reason)
    }

    /// An `error`: nothing is wrong with the call.
    pub(super) fn error(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, fields: Map::new(), message: message.into(), retry_after: None }
    }

    /// 404.
    pub(super) fn no_job(queue: &QueueName, id: &JobId) -> Self {
        Self::fail(StatusCode::NOT_FOUND, "id", format!("there is no job {queue}/{id}"))
    }

    /// 404.
    pub(super) fn no_queue(queue: &QueueName) -> Self {
        Self::fail(
            StatusCode::NOT_FOUND,
            "queue",
            format!("there is no queue {queue}: nothing has named it yet"),
        )
    }

    /// 409: the lifecycle does not allow it in this state.
    pub(super) fn in_state(queue: &QueueName, id: &JobId, state: State) -> Self {
        Self::fail(StatusCode::CONFLICT, "state", format!("{queue}/{id} is {state}"))
    }

    /// What became of an enqueue that stored nothing.
    pub(super) fn not_stored(queue: &QueueName, id: &JobId, answer: &Enqueued) -> Self {
        match answer {
            Enqueued::Conflict => Self::fail(
                StatusCode::CONFLICT,
                "id",
                format!("{queue}/{id} is there already with other content; it is untouched"),
            ),
            Enqueued::Full { waiting } => Self::error(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the queue {queue} is full: {waiting} jobs wait (max_waiting); nothing was stored"),
            )
            .retry_after(LATER),
            Enqueued::Expired => Self::bad("expires", "has passed already; nothing was stored"),
            Enqueued::Created { .. } | Enqueued::Existing => Self::error(StatusCode::OK, "it was stored"),
        }
    }

    #[must_use]
    pub(super) const fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The reason without its envelope, for an item among many.
    pub(super) fn reason(&self) -> Value {
        if self.fields.is_empty() {
            json!({"message": self.message})
        } else {
            Value::Object(self.fields.clone())
        }
    }

    /// The reason in one line.
    pub(super) fn line(&self) -> String {
        if self.fields.is_empty() {
            return self.message.clone();
        }
        let field =
            |(name, reason): (&String, &Value)| format!("{name}: {}", reason.as_str().unwrap_or_default());
        self.fields.iter().map(field).collect::<Vec<_>>().join("; ")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = if self.status.is_client_error() {
            json!({"status": "fail", "data": self.fields})
        } else {
            json!({"status": "error", "message": self.message, "code": self.status.as_u16()})
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self.status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            // The rest of the body may still be on its way.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"roundsman\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let text = chain(&error);
        match error {
            StoreError::Unavailable(_) => {
                Self::error(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(SOON)
            }
            StoreError::NearLimit(_) => {
                Self::error(StatusCode::INSUFFICIENT_STORAGE, format!("{text}; nothing was stored"))
                    .retry_after(LATER)
            }
            StoreError::Unfit(_) | StoreError::Corrupt(_) => {
                Self::error(StatusCode::INTERNAL_SERVER_ERROR, text)
            }
        }
    }
}

impl From<RecordError> for Refusal {
    fn from(error: RecordError) -> Self {
        Self::error(StatusCode::INTERNAL_SERVER_ERROR, chain(&error))
    }
}

impl From<SpecError> for Refusal {
    fn from(error: SpecError) -> Self {
        match error {
            SpecError::Json(text) => Self::bad(culprit(&text).unwrap_or("body"), &text),
            SpecError::Field { field, reason } => Self::bad(field, reason),
            SpecError::PayloadTooLong { size, limit } => Self::fail(
                StatusCode::PAYLOAD_TOO_LARGE,
                "payload",
                format!("{size} bytes are over the limit of {limit} of this queue (max_payload)"),
            ),
        }
    }
}

/// The field that a JSON error is about, where it names one.
pub(super) fn culprit(text: &str) -> Option<&str> {
    let rest = ["unknown field `", "missing field `", "duplicate field `"]
        .into_iter()
        .find_map(|start| text.strip_prefix(start))?;
    Some(rest.split_once('`')?.0)
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::bad("queue", chain(&error))
    }
}

/// Of what the API shares with the command line.
impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        use roundsman_shared::exit;
        let text = failure.lines().collect::<Vec<_>>().join("; ");
        match failure.code() {
            exit::USAGE => Self::bad("query", text),
            exit::NOT_FOUND => Self::fail(StatusCode::NOT_FOUND, "id", text),
            exit::CONFLICT => Self::fail(StatusCode::CONFLICT, "state", text),
            exit::UNAVAILABLE => Self::error(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(SOON),
            _ => Self::error(StatusCode::INTERNAL_SERVER_ERROR, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_error_names_its_field() {
        assert_eq!(culprit("unknown field `colour`, expected one of"), Some("colour"));
        assert_eq!(culprit("missing field `payload` at line 1"), Some("payload"));
        assert_eq!(culprit("EOF while parsing"), None);
    }

    #[test]
    fn an_item_tells_its_reason() {
        assert_eq!(Refusal::bad("in", "soon").line(), "in: soon");
        assert_eq!(Refusal::error(StatusCode::BAD_GATEWAY, "x").reason(), json!({"message": "x"}));
    }
}
