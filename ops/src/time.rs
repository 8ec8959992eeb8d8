//! Moments and spans as people read them. For programs they are Unix milliseconds.

use std::time::Duration;

use roundsman_shared::settings::units;

/// `4m 58s`: the two greatest units, nothing finer than milliseconds.
pub fn span(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    // What is long needs no small change.
    let kept = match millis {
        0..10_000 => millis,
        10_000..3_600_000 => millis / 1000 * 1000,
        3_600_000..172_800_000 => millis / 60_000 * 60_000,
        _ => millis / 3_600_000 * 3_600_000,
    };
    units::format_duration(Duration::from_millis(kept))
}

/// `in 4m 58s`, `3s ago` or `now`; both in Unix milliseconds.
pub fn relative(at: i64, now: i64) -> String {
    let distance = span(Duration::from_millis(at.abs_diff(now)));
    match at.cmp(&now) {
        std::cmp::Ordering::Equal => "now".to_owned(),
        std::cmp::Ordering::Greater => format!("in {distance}"),
        std::cmp::Ordering::Less => format!("{distance} ago"),
    }
}

/// `2026-01-01T00:00:00.000Z`.
pub fn stamp(at: i64) -> String {
    jiff::Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |moment| format!("{moment:.3}"))
}

/// `2026-01-01T00:00:00.000Z (3s ago)`.
pub fn moment(at: i64, now: i64) -> String {
    format!("{} ({})", stamp(at), relative(at, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_moments() {
        assert_eq!(span(Duration::from_millis(1234)), "1s 234ms");
        assert_eq!(span(Duration::from_millis(298_765)), "4m 58s");
        assert_eq!(span(Duration::from_secs(90_061)), "1d 1h 1m");
        assert_eq!(span(Duration::from_secs(20 * 86_400 + 3_700)), "20d 1h");
        assert_eq!(relative(5000, 2000), "in 3s");
        assert_eq!(relative(2000, 5000), "3s ago");
        assert_eq!(moment(0, 0), "1970-01-01T00:00:00.000Z (now)");
    }
}
