//! Waiting for a condition, with the last state seen in the error.
//!
//! Tests never sleep to let something happen; they name what they wait for here. A probe answers `Ok` with what
//! was waited for, or `Err` with the state it saw instead, so that a time-out says how far things had come.

use std::fmt;
use std::time::Duration;

use crate::time;

/// Between two probes. Short beside every deadline, long beside a probe that reads `/proc` or a socket.
const POLL: Duration = Duration::from_millis(5);

/// Nothing came of it in time.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("waited {deadline:?} for {what}; last state: {last}")]
pub struct TimedOut {
    pub what: String,
    pub deadline: Duration,
    pub last: String,
}

/// As the message, because a failing test prints its error by `Debug`.
impl fmt::Debug for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Probes until `Ok`, at least once, and once more after the deadline.
///
/// # Errors
/// The last state, when the deadline passes.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<T, String>,
) -> Result<T, TimedOut> {
    let end = time::mono() + deadline;
    loop {
        let late = time::mono() >= end;
        match probe() {
            Ok(found) => return Ok(found),
            Err(last) if late => return Err(TimedOut { what: what.to_owned(), deadline, last }),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// As [`wait_for`], with an asynchronous probe. A probe that never answers is cut off at the deadline.
///
/// # Errors
/// The last state, when the deadline passes.
pub async fn wait_for_async<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, TimedOut> {
    let end = time::mono() + deadline;
    let mut last = "no probe has answered".to_owned();
    loop {
        let left = end.saturating_sub(time::mono()).max(POLL);
        let late = time::mono() >= end;
        match tokio::time::timeout(left, probe()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(state)) => last = state,
            Err(_) if last.ends_with(HUNG) => {}
            Err(_) => last.push_str(HUNG),
        }
        if late {
            return Err(TimedOut { what: what.to_owned(), deadline, last });
        }
        tokio::time::sleep(POLL).await;
    }
}

const HUNG: &str = " (the last probe did not answer)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_what_was_found() {
        let mut left = 3;
        let found = wait_for("the count", Duration::from_secs(5), || {
            left -= 1;
            if left == 0 { Ok("down") } else { Err(format!("{left} left")) }
        });
        assert_eq!(found, Ok("down"));
    }

    #[test]
    fn a_timeout_names_the_last_state() {
        let mut probes = 0;
        let error = wait_for::<()>("a miracle", Duration::from_millis(20), || {
            probes += 1;
            Err(format!("probe {probes}"))
        })
        .unwrap_err();
        assert!(probes >= 2, "{probes} probes");
        assert_eq!(format!("{error:?}"), format!("waited 20ms for a miracle; last state: probe {probes}"));
    }

    #[tokio::test]
    async fn an_asynchronous_probe_that_hangs_is_cut_off() {
        let mut probes = 0;
        let error = wait_for_async::<()>("an answer", Duration::from_millis(30), async || {
            probes += 1;
            if probes > 1 {
                std::future::pending::<()>().await;
            }
            Err("asked".to_owned())
        })
        .await
        .unwrap_err();
        assert_eq!(error.last, "asked (the last probe did not answer)");
    }

    #[tokio::test]
    async fn an_asynchronous_probe_succeeds() {
        let mut left = 2;
        let found = wait_for_async("the count", Duration::from_secs(5), async || {
            left -= 1;
            if left == 0 { Ok(7) } else { Err("not yet".to_owned()) }
        })
        .await;
        assert_eq!(found, Ok(7));
    }
}
