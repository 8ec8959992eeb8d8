//! The arithmetic of retries: how long a failed job waits.

use std::time::Duration;

use crate::settings::Backoff;

/// The delay after the `failure`-th failure (from 1). `jitter`, from 0 to 1, spreads jobs that failed together: it
/// adds up to a tenth and, for the polynomial, up to 10 s a failure.
#[must_use]
pub fn delay(backoff: &Backoff, failure: u32, jitter: f64) -> Duration {
    let n = failure.max(1);
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
    match backoff {
        // The shape that Sidekiq uses: `n^4 + 15 s` and 10 s of spread a failure.
        Backoff::Polynomial => {
            let base = u64::from(n).saturating_pow(4).saturating_add(15);
            let spread = 10.0 * f64::from(n) * jitter;
            Duration::from_secs(base).saturating_add(Duration::from_secs_f64(spread))
        }
        Backoff::Exponential { base, factor, cap } => {
            spread(base.saturating_mul(factor.saturating_pow(n - 1)).min(*cap), jitter)
        }
        Backoff::Fixed { delay } => spread(*delay, jitter),
        Backoff::List { delays } => {
            let at = usize::try_from(n - 1).unwrap_or(usize::MAX);
            let delay = delays.get(at).or_else(|| delays.last()).copied().unwrap_or_default();
            spread(delay, jitter)
        }
    }
}

fn spread(delay: Duration, jitter: f64) -> Duration {
    delay.saturating_add(delay.mul_f64(jitter / 10.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DAY: Duration = Duration::from_secs(86_400);

    fn seconds(backoff: &Backoff, failures: u32) -> Vec<u64> {
        (1..=failures).map(|n| delay(backoff, n, 0.0).as_secs()).collect()
    }

    #[test]
    fn the_polynomial_lasts_about_twenty_days() {
        let total: Duration = (1..25).map(|n| delay(&Backoff::Polynomial, n, 0.5)).sum();
        let days = total.as_secs_f64() / 86_400.0;
        assert!((19.0..21.5).contains(&days), "{days}");
        assert!(delay(&Backoff::Polynomial, u32::MAX, 1.0) > 1000 * DAY);
    }

    #[test]
    fn each_kind() {
        let exponential = Backoff::Exponential { base: SECOND, factor: 2, cap: 10 * SECOND };
        assert_eq!(seconds(&exponential, 6), [1, 2, 4, 8, 10, 10]);
        assert_eq!(delay(&exponential, u32::MAX, 1.0), 11 * SECOND);
        assert_eq!(seconds(&Backoff::List { delays: vec![SECOND, 5 * SECOND] }, 3), [1, 5, 5]);
        assert_eq!(delay(&Backoff::Fixed { delay: SECOND }, 7, f64::NAN), SECOND);
    }
}
