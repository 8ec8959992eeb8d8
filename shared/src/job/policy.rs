//! What a queue grants its jobs, and the arithmetic of retries. A job's own fields go before its queue's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long to wait before a failed job is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Backoff {
    /// `n^4 + 15 s` for the n-th failure, as Sidekiq does: about 20 days over 25 attempts.
    Polynomial,
    /// `base * 2^(n-1)`, at most `cap`.
    Exponential { base: Duration, cap: Duration },
    /// The same delay each time.
    Fixed { delay: Duration },
    /// One delay a failure; the last one again and again.
    List { delays: Vec<Duration> },
}

impl Backoff {
    /// The delay after the `failure`-th failure (from 1). `jitter`, from 0 to 1, spreads jobs that failed together:
    /// it adds up to a tenth and, for the polynomial, up to 10 s a failure.
    #[must_use]
    pub fn delay(&self, failure: u32, jitter: f64) -> Duration {
        let n = failure.max(1);
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
        match self {
            Self::Polynomial => {
                let base = u64::from(n).saturating_pow(4).saturating_add(15);
                let spread = 10.0 * f64::from(n) * jitter;
                Duration::from_secs(base).saturating_add(Duration::from_secs_f64(spread))
            }
            Self::Exponential { base, cap } => {
                let factor = 2_u32.saturating_pow(n - 1);
                spread(base.saturating_mul(factor).min(*cap), jitter)
            }
            Self::Fixed { delay } => spread(*delay, jitter),
            Self::List { delays } => {
                let at = usize::try_from(n - 1).unwrap_or(usize::MAX);
                let delay = delays.get(at).or_else(|| delays.last()).copied().unwrap_or_default();
                spread(delay, jitter)
            }
        }
    }
}

fn spread(delay: Duration, jitter: f64) -> Duration {
    delay.saturating_add(delay.mul_f64(jitter / 10.0))
}

/// What a queue grants each of its jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// A job over it is stopped, then its worker killed.
    pub timeout: Duration,
    /// Deliveries that end in failure before the job becomes a dead letter.
    pub max_attempts: u32,
    pub backoff: Backoff,
    /// Worker deaths that a job may be part of before it becomes a dead letter.
    pub max_crashes: u32,
    /// The same for kills from outside (an operator, the host out of memory).
    pub max_killed: u32,
    /// How long a job may snooze in all.
    pub max_snooze: Duration,
    /// Scheduled and ready jobs that the queue holds; beyond, enqueues are refused.
    pub max_waiting: u64,
    pub keep_done: Duration,
    pub keep_done_max: u64,
    pub keep_dead: Duration,
    pub keep_dead_max: u64,
    pub remember_ids: Duration,
    pub remember_ids_max: u64,
    /// Bytes.
    pub max_payload: usize,
}

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);

impl Default for Policy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(300),
            max_attempts: 25,
            backoff: Backoff::Polynomial,
            max_crashes: 3,
            max_killed: 10,
            max_snooze: DAY,
            max_waiting: 10_000_000,
            keep_done: HOUR,
            keep_done_max: 10_000,
            keep_dead: 30 * DAY,
            keep_dead_max: 100_000,
            remember_ids: HOUR,
            remember_ids_max: 1_000_000,
            max_payload: 256 * 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_polynomial_lasts_about_twenty_days() {
        let total: Duration = (1..25).map(|n| Backoff::Polynomial.delay(n, 0.5)).sum();
        let days = total.as_secs_f64() / 86_400.0;
        assert!((19.0..21.5).contains(&days), "{days}");
    }

    #[test]
    fn each_kind() {
        let second = Duration::from_secs(1);
        let exponential = Backoff::Exponential { base: second, cap: 10 * second };
        assert_eq!((1..=6).map(|n| exponential.delay(n, 0.0).as_secs()).collect::<Vec<_>>(), [1, 2, 4, 8, 10, 10]);
        assert_eq!(exponential.delay(u32::MAX, 1.0), 11 * second);
        let list = Backoff::List { delays: vec![second, 5 * second] };
        assert_eq!((1..=3).map(|n| list.delay(n, 0.0).as_secs()).collect::<Vec<_>>(), [1, 5, 5]);
        assert_eq!(Backoff::Fixed { delay: second }.delay(7, f64::NAN), second);
        assert!(Backoff::Polynomial.delay(u32::MAX, 1.0) > 1000 * DAY);
    }
}
