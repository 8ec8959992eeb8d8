//! When workers that the budget refused are tried again. Pure.

use std::time::Duration;

use roundsman_shared::clock::Mono;

/// From a refusal to the next try.
const RETRY: Duration = Duration::from_millis(100);

/// Whether workers are missing, and the moment of the next try if so.
#[derive(Debug, Default)]
pub(crate) struct Shortage {
    retry: Option<Mono>,
}

impl Shortage {
    /// When to try next. It stays the same however often the loop comes by meanwhile: a fleet whose workers say much
    /// starts no slower than one whose workers are silent.
    pub(crate) fn look(&mut self, is_short: bool, now: Mono) -> Option<Mono> {
        self.retry = is_short.then(|| self.retry.unwrap_or(now + RETRY));
        self.retry
    }

    /// Whether the moment has come; the next one is reckoned from the next look.
    pub(crate) fn rings(&mut self, now: Mono) -> bool {
        self.retry.take_if(|at| now >= *at).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn events_do_not_put_a_retry_off() {
        let mut shortage = Shortage::default();
        assert_eq!(shortage.look(true, at(0)), Some(at(100)));
        for ms in (10..100).step_by(10) {
            assert_eq!(shortage.look(true, at(ms)), Some(at(100)));
            assert!(!shortage.rings(at(ms)));
        }
        assert!(shortage.rings(at(100)));
        assert_eq!(shortage.look(true, at(105)), Some(at(205)));
    }

    #[test]
    fn who_lacks_nobody_retries_nothing() {
        let mut shortage = Shortage::default();
        shortage.look(true, at(0));
        assert_eq!(shortage.look(false, at(50)), None);
        assert!(!shortage.rings(at(200)));
        assert_eq!(shortage.look(true, at(250)), Some(at(350)));
    }
}
