//! What came by another way in and could not become a job, as a dead letter: its raw bytes are the payload, and the
//! error says why.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::clock::StoreTime;
use crate::job::lifecycle::FinalState;
use crate::job::progress::Progress;
use crate::job::record::{self, Spec};

/// What the error of an entry of a Redis inbox begins with that is none.
pub const NO_INBOX_JOB: &str = "the inbox entry is no job";
/// The same for a message of an AMQP broker.
pub const NO_AMQP_JOB: &str = "the AMQP message is no job";

/// Whether this is the error of a dead letter that never was a job: there is nothing to try again.
#[must_use]
pub fn is_no_job(error: &str) -> bool {
    error.starts_with(NO_INBOX_JOB) || error.starts_with(NO_AMQP_JOB)
}

/// A dead letter, in the forms that stores keep: what it is, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub content: String,
    pub progress: String,
}

impl Letter {
    /// `now` is the store's. `error` begins with one of the constants above.
    #[must_use]
    pub fn new(payload: &Value, error: String, now: StoreTime) -> Self {
        let now = now.as_millis();
        let progress = Progress {
            state: Some(FinalState::Dead),
            due: Some(now),
            ended: Some(now),
            error: Some(error),
            ..Progress::default()
        };
        let content = record::encode(&Spec::bare(false, payload.to_string()));
        Self { content, progress: progress.encode(0) }
    }
}

/// Raw bytes as a payload: text as a string, other bytes in base64.
#[must_use]
pub fn raw(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_bytes_are_kept() {
        assert_eq!(raw(b"{oops"), json!("{oops"));
        assert_eq!(raw(b"\xff\x00"), json!({"base64": "/wA="}));
    }

    #[test]
    fn a_letter_is_dead_and_says_why() {
        let error = format!("{NO_AMQP_JOB}: it is long");
        let letter = Letter::new(&raw(b"x"), error, StoreTime::from_millis(5));
        assert_eq!(letter.content, "P\"x\"");
        let progress = Progress::decode(&letter.progress).unwrap().1;
        assert_eq!((progress.state, progress.ended), (Some(FinalState::Dead), Some(5)));
        assert!(is_no_job(&progress.error.unwrap()) && !is_no_job("no path"));
    }
}
