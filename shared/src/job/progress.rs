//! What has happened to a job so far. A job that was never delivered has none; the first delivery that does not end
//! it leaves one, and the outcome that ends it leaves the last.
//!
//! Stores keep it as one string, in one of two forms. TOKEN is that of the delivery that wrote it: by it a repeated
//! acknowledgement is told from a stale one, and stores read nothing else of it but when the job ended.
//!
//! ```text
//! TOKEN {json}
//! TOKEN done ENDED DUE STARTED POOL/N HOST[ RESULT]     a job that was done at its first attempt, as most are
//! ```

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::job::lifecycle::FinalState;
use crate::names::WorkerId;

/// Attempts beyond this are forgotten, but for the first.
pub const MAX_ATTEMPTS_KEPT: usize = 20;
/// Bytes of an error text that are kept.
pub const MAX_ERROR: usize = 2 * 1024;
/// Bytes of a handler's standard error that are kept with an attempt.
pub const MAX_STDERR_TAIL: usize = 2 * 1024;

/// A fencing token: rises with each delivery of a job. Microseconds of the store's clock, where that rises.
pub type Token = i64;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    Done,
    Retry,
    Snooze,
    Dead,
    Cancelled,
    Expired,
    /// Put back by its worker, unfinished.
    GaveBack,
    /// Stopped at its timeout.
    TimedOut,
    /// Its worker died with it.
    Crashed,
    /// Its worker was killed by a SIGKILL that Roundsman did not send.
    Killed,
    /// Its worker, or the worker's host, was not heard for the length of the lease.
    Lapsed,
}

/// One delivery, as it is shown afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub attempt: u32,
    pub token: Token,
    pub worker: String,
    pub host: String,
    /// Unix milliseconds; absent where the job was handed to a worker that never started it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub started: Option<i64>,
    pub ended: i64,
    pub outcome: AttemptEnd,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stderr_tail: Option<String>,
}

/// See the module's text.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Set once the job has ended.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub state: Option<FinalState>,
    /// Deliveries so far, without those that were given back or snoozed.
    #[serde(default)]
    pub attempt: u32,
    /// Of these, the ones that ended in failure: what `max_attempts` limits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub crashes: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub killed: u32,
    /// Milliseconds snoozed in all.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub snoozed: u64,
    /// The due time that the job had before it was put back to the front, in Unix ms.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub due: Option<i64>,
    /// When it ended, in Unix ms.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero_u64(n: &u64) -> bool {
    *n == 0
}

impl PartialEq for Progress {
    fn eq(&self, other: &Self) -> bool {
        let text = |p: &Self| serde_json::to_string(p).unwrap_or_default();
        text(self) == text(other)
    }
}

impl Progress {
    /// Reads either form.
    #[must_use]
    pub fn decode(text: &str) -> Option<(Token, Self)> {
        let (token, rest) = text.split_once(' ')?;
        let token = token.parse().ok()?;
        let progress = match rest.strip_prefix("done ") {
            Some(short) => Self::decode_short(token, short)?,
            None => serde_json::from_str(rest).ok()?,
        };
        Some((token, progress))
    }

    /// Writes the short form where it says everything, else the long one.
    #[must_use]
    pub fn encode(&self, token: Token) -> String {
        self.encode_short(token).unwrap_or_else(|| {
            format!("{token} {}", serde_json::to_string(self).expect("plain data serialises"))
        })
    }

    fn decode_short(token: Token, text: &str) -> Option<Self> {
        let mut parts = text.splitn(6, ' ');
        let mut number = || parts.next()?.parse::<i64>().ok();
        let (ended, due, started) = (number()?, number()?, number()?);
        let (worker, host) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let result = parts.next().map(|json| RawValue::from_string(json.to_owned())).transpose().ok()?;
        let attempt = Attempt {
            attempt: 1,
            token,
            worker,
            host,
            started: Some(started),
            ended,
            outcome: AttemptEnd::Done,
            error: None,
            stderr_tail: None,
        };
        Some(Self {
            state: Some(FinalState::Done),
            attempt: 1,
            due: Some(due),
            ended: Some(ended),
            result,
            attempts: vec![attempt],
            ..Self::default()
        })
    }

    fn encode_short(&self, token: Token) -> Option<String> {
        // Everything is named, so that what is added later is thought of here.
        let Self { state, attempt: 1, failures: 0, crashes: 0, killed: 0, snoozed: 0, .. } = self else {
            return None;
        };
        let Self { due: Some(due), ended: Some(ended), result, error: None, attempts, .. } = self else {
            return None;
        };
        let [
            Attempt {
                attempt: 1,
                token: of,
                worker,
                host,
                started: Some(started),
                ended: at,
                outcome,
                error,
                stderr_tail,
            },
        ] = attempts.as_slice()
        else {
            return None;
        };
        let plain = *state == Some(FinalState::Done)
            && *outcome == AttemptEnd::Done
            && (*of, *at) == (token, *ended)
            && error.is_none()
            && stderr_tail.is_none()
            && [worker, host].iter().all(|name| !name.is_empty() && !name.contains(' '));
        if !plain {
            return None;
        }
        let mut out = format!("{token} done {ended} {due} {started} {worker} {host}");
        if let Some(result) = result {
            out.push(' ');
            out.push_str(result.get());
        }
        Some(out)
    }

    /// What is left of it when somebody wants the job tried again: the history, but no strikes.
    #[must_use]
    pub fn forgiven(&self) -> Self {
        Self { attempt: self.attempt, attempts: self.attempts.clone(), ..Self::default() }
    }

    /// Adds an attempt; the first and the newest ones are kept.
    pub fn push(&mut self, attempt: Attempt) {
        if self.attempts.len() >= MAX_ATTEMPTS_KEPT {
            self.attempts.remove(1);
        }
        self.attempts.push(attempt);
    }
}

/// Cuts a text to at most `max` bytes at a character's border, keeping its end, where errors say what happened.
#[must_use]
pub fn tail(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut from = text.len() - max;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    format!("…{}", &text[from..])
}

/// `POOL/N` and host of the worker, for an [`Attempt`].
#[must_use]
pub fn place(worker: &WorkerId) -> (String, String) {
    (worker.label(), worker.host().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(n: u32) -> Attempt {
        Attempt {
            attempt: n,
            token: i64::from(n),
            worker: "default/1".into(),
            host: "box".into(),
            started: Some(1),
            ended: 2,
            outcome: AttemptEnd::Retry,
            error: Some("no".into()),
            stderr_tail: None,
        }
    }

    #[test]
    fn the_first_and_the_newest_attempts_are_kept() {
        let mut progress = Progress::default();
        for n in 1..=50 {
            progress.push(attempt(n));
        }
        assert_eq!(progress.attempts.len(), MAX_ATTEMPTS_KEPT);
        assert_eq!((progress.attempts[0].attempt, progress.attempts[1].attempt), (1, 32));
    }

    #[test]
    fn there_and_back() {
        let mut progress = Progress { attempt: 3, failures: 2, ..Progress::default() };
        progress.push(attempt(3));
        let (token, back) = Progress::decode(&progress.encode(77)).unwrap();
        assert_eq!((token, back), (77, progress));
    }

    #[test]
    fn what_is_done_at_once_is_short() {
        let done = |result: Option<&str>| Progress {
            state: Some(FinalState::Done),
            attempt: 1,
            due: Some(1),
            ended: Some(2),
            result: result.map(|json| RawValue::from_string(json.to_owned()).unwrap()),
            attempts: vec![Attempt { error: None, outcome: AttemptEnd::Done, ..attempt(1) }],
            ..Progress::default()
        };
        assert_eq!(done(None).encode(1), "1 done 2 1 1 default/1 box");
        assert_eq!(done(Some(r#"{"a b":1.0}"#)).encode(1), r#"1 done 2 1 1 default/1 box {"a b":1.0}"#);
        for progress in [done(None), done(Some("[1, 2]"))] {
            assert_eq!(Progress::decode(&progress.encode(1)).unwrap(), (1, progress));
        }
        let with_error = Progress { error: Some("no".into()), ..done(None) };
        let again = Progress { attempt: 2, ..done(None) };
        let another = Progress { ended: Some(3), ..done(None) };
        for progress in [with_error, again, another] {
            assert!(progress.encode(1).starts_with("1 {"), "{progress:?}");
            assert_eq!(Progress::decode(&progress.encode(1)).unwrap(), (1, progress));
        }
        // Of another delivery's attempt only the long form can tell.
        assert!(done(None).encode(7).starts_with("7 {"));
        assert!(Progress::decode("1 done 2 1 x default/1 box").is_none());
        assert!(Progress::decode("1 done 2 1 1 default/1 box nonsense").is_none());
    }

    #[test]
    fn progress_of_released_versions_stays_readable() {
        let text = r#"5 {"attempt":1,"attempts":[{"attempt":1,"token":5,"worker":"d/1","host":"h","ended":9,"outcome":"done"}],"newer":1}"#;
        let (_, progress) = Progress::decode(text).unwrap();
        assert_eq!(progress.attempts[0].outcome, AttemptEnd::Done);
    }

    #[test]
    fn tails_keep_the_end_and_whole_characters() {
        assert_eq!(tail("abc", 3), "abc");
        assert_eq!(tail("aé", 1), "…");
        assert_eq!(tail("xxend", 3), "…end");
    }
}
