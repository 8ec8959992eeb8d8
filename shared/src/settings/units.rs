//! Durations, sizes, rates and times as people write them, in settings and on the command line.
//!
//! Every parser refuses a number whose unit would have to be guessed, and its error says what would be right.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a text is no duration, size, rate or time; says what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

const NANOS_A_SECOND: u128 = 1_000_000_000;
const MINUTE: u128 = 60 * NANOS_A_SECOND;
const HOUR: u128 = 60 * MINUTE;
const DAY: u128 = 24 * HOUR;

/// The units that `format_duration` writes, greatest first: a parsed text has them in this order too.
const WRITTEN: [(&str, u128); 7] = [
    ("d", DAY),
    ("h", HOUR),
    ("m", MINUTE),
    ("s", NANOS_A_SECOND),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

fn duration_unit(name: &str) -> Option<u128> {
    let nanos = match name {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" | "msec" | "msecs" | "millis" => 1_000_000,
        "s" | "sec" | "secs" | "second" | "seconds" => NANOS_A_SECOND,
        "m" | "min" | "mins" | "minute" | "minutes" => MINUTE,
        "h" | "hr" | "hrs" | "hour" | "hours" => HOUR,
        "d" | "day" | "days" => DAY,
        "w" | "wk" | "week" | "weeks" => 7 * DAY,
        _ => return None,
    };
    Some(nanos)
}

/// Reads `250ms`, `5s`, `2h 30m`, `1.5h`, `3d`, or a bare `0`.
///
/// Units are `ns`, `us`, `ms`, `s`, `m`, `h`, `d` (24 hours) and `w`, each at most once and the greater first.
/// Months and years are refused, since their length depends on the calendar.
///
/// ```
/// use roundsman_shared::settings::units::parse_duration;
/// assert_eq!(parse_duration("2h 30m").unwrap().as_secs(), 9000);
/// assert!(parse_duration("90").is_err());
/// ```
///
/// # Errors
/// A text of another form, a negative or an unbounded duration.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    if trimmed.is_empty() {
        return Err(UnitError("an empty text is no duration: write one like \"5s\" or \"2h 30m\"".into()));
    }
    if trimmed.starts_with('-') {
        return Err(UnitError(format!("\"{trimmed}\" is negative: a duration is 0 or more, like \"5s\"")));
    }
    let mut rest = trimmed;
    let mut total: u128 = 0;
    let mut last_unit = u128::MAX;
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(|| {
            UnitError(format!("\"{trimmed}\" is no duration: write one like \"5s\" or \"2h 30m\""))
        })?;
        let (unit, after) = split_word(after);
        if unit.is_empty() {
            return Err(UnitError(format!(
                "\"{trimmed}\" has no unit: write \"{number}s\" or \"{number}ms\""
            )));
        }
        let nanos_a_unit = duration_unit(unit).ok_or_else(|| unknown_unit(trimmed, unit))?;
        if nanos_a_unit >= last_unit {
            return Err(UnitError(format!(
                "\"{trimmed}\" is out of order: each unit at most once and the greater first, like \"2h 30m\""
            )));
        }
        last_unit = nanos_a_unit;
        total = scaled(number, nanos_a_unit)
            .and_then(|nanos| total.checked_add(nanos))
            .ok_or_else(|| UnitError(format!("\"{trimmed}\" is too long a duration")))?;
        rest = after;
    }
    let seconds = u64::try_from(total / NANOS_A_SECOND);
    let nanos = u32::try_from(total % NANOS_A_SECOND);
    match (seconds, nanos) {
        (Ok(seconds), Ok(nanos)) => Ok(Duration::new(seconds, nanos)),
        _ => Err(UnitError(format!("\"{trimmed}\" is too long a duration"))),
    }
}

fn unknown_unit(text: &str, unit: &str) -> UnitError {
    let calendar = matches!(unit, "M" | "mo" | "mon" | "month" | "months" | "y" | "yr" | "year" | "years");
    if calendar {
        return UnitError(format!("\"{text}\" counts in calendar months or years: write days, like \"30d\""));
    }
    UnitError(format!("\"{text}\" has the unknown unit \"{unit}\": the units are ms, s, m, h, d"))
}

/// Writes a duration so that [`parse_duration`] reads back the same: `2h 30m`, `250ms`, `0s`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut parts = Vec::new();
    for (unit, nanos) in WRITTEN {
        if rest >= nanos {
            parts.push(format!("{}{unit}", rest / nanos));
            rest %= nanos;
        }
    }
    if parts.is_empty() { "0s".into() } else { parts.join(" ") }
}

const KIB: u64 = 1024;
/// Greatest first, so that a size is written with the greatest unit that leaves no remainder.
const BINARY: [(&str, u64); 4] =
    [("TiB", KIB * KIB * KIB * KIB), ("GiB", KIB * KIB * KIB), ("MiB", KIB * KIB), ("KiB", KIB)];
const DECIMAL: [(&str, u64); 4] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];

/// Reads `512MiB`, `256KiB`, `1GB`, `1.5GiB`, `100B`; a bare number counts bytes.
///
/// # Errors
/// A text of another form, one letter as a unit (`K`, `M`, `G` mean either thing), or more bytes than 2^64.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let trimmed = text.trim();
    let no_size = || UnitError(format!("\"{trimmed}\" is no size: write one like \"512MiB\" or \"1GB\""));
    let (number, rest) = split_number(trimmed).ok_or_else(no_size)?;
    let (unit, rest) = split_word(rest);
    if !rest.is_empty() {
        return Err(no_size());
    }
    let units = BINARY.iter().chain(DECIMAL.iter());
    let bytes_a_unit = match units.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) {
        Some((_, bytes)) => *bytes,
        None if unit.is_empty() || unit.eq_ignore_ascii_case("b") => 1,
        None if unit.len() == 1 && "kmgtKMGT".contains(unit) => {
            let letter = unit.to_ascii_uppercase();
            return Err(UnitError(format!(
                "\"{trimmed}\" may mean either: write \"{number}{letter}iB\" (powers of 1024) or \"{number}{letter}B\""
            )));
        }
        None => {
            return Err(UnitError(format!(
                "\"{trimmed}\" has the unknown unit \"{unit}\": the units are B, KiB, MiB, GiB, kB, MB, GB"
            )));
        }
    };
    scaled(number, u128::from(bytes_a_unit))
        .and_then(|bytes| u64::try_from(bytes).ok())
        .ok_or_else(|| UnitError(format!("\"{trimmed}\" is too large a size")))
}

/// Writes a size so that [`parse_size`] reads back the same: `512MiB`, `1GB`, `1234B`.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let exact =
        BINARY.iter().chain(DECIMAL.iter()).find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    match exact {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// Reads a moment as Unix milliseconds: `2026-01-01T00:00:00Z`, `2026-01-01T01:00:00+01:00`, or `1767225600000`.
///
/// # Errors
/// A text of another form; a time without an offset from UTC, whose moment would have to be guessed.
pub fn parse_time_ms(text: &str) -> Result<i64, UnitError> {
    let trimmed = text.trim();
    let digits = trimmed.strip_prefix('-').unwrap_or(trimmed);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let too_far = |_| UnitError(format!("\"{trimmed}\" is too far away for Unix milliseconds"));
        return trimmed.parse().map_err(too_far);
    }
    if let Ok(moment) = trimmed.parse::<jiff::Timestamp>() {
        return Ok(moment.as_millisecond());
    }
    if trimmed.parse::<jiff::civil::DateTime>().is_ok() {
        return Err(UnitError(format!(
            "\"{trimmed}\" has no offset from UTC: write one like \"2026-01-01T00:00:00Z\" or \"…+01:00\""
        )));
    }
    Err(UnitError(format!(
        "\"{trimmed}\" is no time: write RFC 3339 like \"2026-01-01T00:00:00Z\", or Unix milliseconds"
    )))
}

/// So many in each period: `100/s`, `5/m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// One second, minute, hour or day.
    #[serde(rename = "per_ms", with = "duration_ms")]
    pub per: Duration,
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let trimmed = text.trim();
        let no_rate = || UnitError(format!("\"{trimmed}\" is no rate: write one like \"100/s\" or \"5/m\""));
        let (count, unit) = trimmed.split_once('/').ok_or_else(no_rate)?;
        let count = count.trim().parse().ok().filter(|count| *count >= 1).ok_or_else(no_rate)?;
        let seconds = match unit.trim() {
            "s" | "sec" | "second" => 1,
            "m" | "min" | "minute" => 60,
            "h" | "hour" => 3600,
            "d" | "day" => 86400,
            _ => return Err(no_rate()),
        };
        Ok(Self { count, per: Duration::from_secs(seconds) })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s".to_owned(),
            60 => "m".to_owned(),
            3600 => "h".to_owned(),
            86400 => "d".to_owned(),
            _ => format_duration(self.per),
        };
        write!(formatter, "{}/{unit}", self.count)
    }
}

/// Durations as whole milliseconds, for `#[serde(with = "…")]`.
pub mod duration_ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes whole milliseconds.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    /// Reads whole milliseconds.
    ///
    /// # Errors
    /// Anything but an unsigned integer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// Lists of durations as whole milliseconds, for `#[serde(with = "…")]`.
pub mod durations_ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes whole milliseconds.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(durations: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            durations.iter().map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// Reads whole milliseconds.
    ///
    /// # Errors
    /// Anything but a list of unsigned integers.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<u64>::deserialize(deserializer)?.into_iter().map(Duration::from_millis).collect())
    }
}

/// The leading `12` or `1.5`, and what follows it without the space between.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    Some((number, rest.trim_start()))
}

/// The leading letters, and what follows them without the space between.
fn split_word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_alphabetic()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start())
}

/// `number` (already known to be digits with at most one point) times `unit`, cut to a whole.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    /// No unit here has more than this many digits, so that digits after them add less than a whole.
    const FRACTION_DIGITS: usize = 15;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let fraction = fraction.get(..FRACTION_DIGITS).unwrap_or(fraction);
    let places = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let whole = whole.parse::<u128>().ok()?.checked_mul(unit)?;
    let part = fraction.parse::<u128>().ok()?.checked_mul(unit)? / places;
    whole.checked_add(part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("250ms", 250),
            ("5s", 5_000),
            (" 2h 30m ", 9_000_000),
            ("2h30m", 9_000_000),
            ("1.5h", 5_400_000),
            ("3d", 259_200_000),
            ("1w 1d", 691_200_000),
            ("5 minutes", 300_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn bad_durations_say_what_is_right() {
        for (text, message) in [
            ("", "an empty text is no duration: write one like \"5s\" or \"2h 30m\""),
            ("5", "\"5\" has no unit: write \"5s\" or \"5ms\""),
            ("1h 30", "\"1h 30\" has no unit: write \"30s\" or \"30ms\""),
            ("-5s", "\"-5s\" is negative: a duration is 0 or more, like \"5s\""),
            ("soon", "\"soon\" is no duration: write one like \"5s\" or \"2h 30m\""),
            ("1.s", "\"1.s\" is no duration: write one like \"5s\" or \"2h 30m\""),
            ("5 parsecs", "\"5 parsecs\" has the unknown unit \"parsecs\": the units are ms, s, m, h, d"),
            ("2months", "\"2months\" counts in calendar months or years: write days, like \"30d\""),
            ("1y", "\"1y\" counts in calendar months or years: write days, like \"30d\""),
            (
                "30m 2h",
                "\"30m 2h\" is out of order: each unit at most once and the greater first, like \"2h 30m\"",
            ),
            ("99999999999999999999999d", "\"99999999999999999999999d\" is too long a duration"),
        ] {
            assert_eq!(parse_duration(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("100B", 100),
            ("512MiB", 536_870_912),
            ("256 KiB", 262_144),
            ("1GB", 1_000_000_000),
            ("1.5gib", 1_610_612_736),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn bad_sizes_say_what_is_right() {
        for (text, message) in [
            ("", "\"\" is no size: write one like \"512MiB\" or \"1GB\""),
            ("-1", "\"-1\" is no size: write one like \"512MiB\" or \"1GB\""),
            ("1MiB 2KiB", "\"1MiB 2KiB\" is no size: write one like \"512MiB\" or \"1GB\""),
            ("512M", "\"512M\" may mean either: write \"512MiB\" (powers of 1024) or \"512MB\""),
            (
                "5potatoes",
                "\"5potatoes\" has the unknown unit \"potatoes\": the units are B, KiB, MiB, GiB, kB, MB, GB",
            ),
            ("99999999999TiB", "\"99999999999TiB\" is too large a size"),
        ] {
            assert_eq!(parse_size(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn times_are_read() {
        for (text, ms) in [
            ("1767225600000", 1_767_225_600_000),
            ("2026-01-01T00:00:00Z", 1_767_225_600_000),
            ("2026-01-01T01:00:00+01:00", 1_767_225_600_000),
            ("2026-01-01T00:00:00.5Z", 1_767_225_600_500),
        ] {
            assert_eq!(parse_time_ms(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn bad_times_say_what_is_right() {
        for (text, message) in [
            (
                "tomorrow",
                "\"tomorrow\" is no time: write RFC 3339 like \"2026-01-01T00:00:00Z\", or Unix milliseconds",
            ),
            (
                "2026-01-01T00:00:00",
                "\"2026-01-01T00:00:00\" has no offset from UTC: write one like \"2026-01-01T00:00:00Z\" or \"…+01:00\"",
            ),
            ("99999999999999999999", "\"99999999999999999999\" is too far away for Unix milliseconds"),
        ] {
            assert_eq!(parse_time_ms(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn rates_are_read() {
        assert_eq!("100/s".parse(), Ok(Rate { count: 100, per: Duration::from_secs(1) }));
        assert_eq!("5 / min".parse::<Rate>().unwrap().to_string(), "5/m");
        for text in ["", "5", "0/s", "-1/s", "5/fortnight", "1.5/s"] {
            let message = format!("\"{text}\" is no rate: write one like \"100/s\" or \"5/m\"");
            assert_eq!(text.parse::<Rate>().unwrap_err().to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn a_written_duration_reads_back(seconds: u64, nanos in 0u32..1_000_000_000) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn a_written_size_reads_back(bytes: u64) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}", number in "[0-9.]{0,40}", unit in "(ms|s|d|KiB|GB|µ|/s)?") {
            for text in [text, format!("{number}{unit}")] {
                let _ = (parse_duration(&text), parse_size(&text), parse_time_ms(&text), text.parse::<Rate>());
            }
        }
    }
}
