//! `Retry-After`: a number of seconds, or a date (RFC 9110, 10.2.3).

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;

/// More is not believed.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Less would be a spin.
const SHORTEST: Duration = Duration::from_secs(1);

/// How long to wait, from `now` in Unix ms; `None` when the text says nothing.
pub(super) fn parse(text: &str, now: i64) -> Option<Duration> {
    let text = text.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().map_or(LONGEST, Duration::from_secs)
    } else {
        let until = date(text)?.as_millisecond();
        Duration::from_millis(u64::try_from(until.saturating_sub(now)).unwrap_or(0))
    };
    Some(wait.clamp(SHORTEST, LONGEST))
}

/// The form that is sent today; the two older ones of RFC 850 and of asctime are not met with here.
fn date(text: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates() {
        // Wed, 21 Oct 2015 07:28:00 GMT
        let now = 1_445_412_480_000;
        for (text, seconds) in [
            ("0", Some(1)),
            ("1", Some(1)),
            (" 120 ", Some(120)),
            ("86401", Some(86_400)),
            ("99999999999999999999999", Some(86_400)),
            ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(1)),
            ("Thu, 31 Dec 9998 23:59:59 GMT", Some(86_400)),
            ("", None),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(parse(text, now), seconds.map(Duration::from_secs), "{text:?}");
        }
    }
}
