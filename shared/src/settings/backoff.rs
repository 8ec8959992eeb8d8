//! `backoff`: how long a failed job waits before its next attempt.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::section::Section;
use super::tree::{Node, Value};
use super::units::{duration_ms, durations_ms};
use super::value::Setting;

/// No attempt waits longer than this.
const LONGEST: Duration = Duration::from_secs(365 * 86400);

/// The rule that gives the wait after the n-th failed attempt, n from 1.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Backoff {
    /// n⁴ + 15 s with jitter: about 20 days over 25 attempts.
    #[default]
    Polynomial,
    /// `base` × `factor`ⁿ⁻¹, at most `cap`.
    Exponential {
        /// Default 1 s.
        #[serde(rename = "base_ms", with = "duration_ms")]
        base: Duration,
        /// Default 2.
        factor: u32,
        /// Default 1 h.
        #[serde(rename = "cap_ms", with = "duration_ms")]
        cap: Duration,
    },
    /// The same after each.
    Fixed {
        /// May be zero.
        #[serde(rename = "delay_ms", with = "duration_ms")]
        delay: Duration,
    },
    /// One for each; the last goes on.
    List {
        /// Never empty.
        #[serde(rename = "delays_ms", with = "durations_ms")]
        delays: Vec<Duration>,
    },
}

/// The durations of `delays`, as a type that a key can have.
struct Delays(Vec<Duration>);

impl Setting for Delays {
    fn read(value: &Value) -> Result<Self, String> {
        let Value::List(items) = value else {
            return Err(format!("expected a list like [\"1s\", \"1m\"], found {}", value.kind()));
        };
        let delay = |item: &Node| Duration::read(&item.value);
        items.iter().map(delay).collect::<Result<_, _>>().map(Self)
    }

    fn show(&self) -> serde_json::Value {
        self.0.iter().map(Setting::show).collect()
    }
}

impl Backoff {
    fn kind(&self) -> &'static str {
        match self {
            Self::Polynomial => "polynomial",
            Self::Exponential { .. } => "exponential",
            Self::Fixed { .. } => "fixed",
            Self::List { .. } => "list",
        }
    }

    pub(super) fn read(parent: &mut Section<'_>, default: &Self) -> Self {
        if !parent.has("backoff") {
            // Marks the key as known; a default other than polynomial comes from a layer with a row of its own.
            let _ = parent.tagged("backoff", default.kind());
            return default.clone();
        }
        let Some((kind, mut section)) = parent.tagged("backoff", "exponential") else {
            return default.clone();
        };
        let no_longer = |delay: &Duration| {
            if *delay <= LONGEST { Ok(()) } else { Err("must be at most 365d".into()) }
        };
        let backoff = match kind.as_str() {
            "polynomial" => Some(Self::Polynomial),
            "exponential" => {
                let base = section.within("base", Duration::from_secs(1), Duration::from_millis(1)..=LONGEST);
                let factor = section.within("factor", 2, 1..=100);
                let cap =
                    section.within("cap", Duration::from_secs(3600), Duration::from_millis(1)..=LONGEST);
                section.demand(base <= cap, "cap", "must not be less than base");
                Some(Self::Exponential { base, factor, cap })
            }
            "fixed" => {
                let delay = section.required("delay", "\"10s\"", no_longer);
                delay.map(|delay| Self::Fixed { delay })
            }
            "list" => {
                let delays = section.required("delays", "[\"1s\", \"1m\"]", |Delays(delays)| {
                    if delays.is_empty() {
                        return Err("is empty: write at least one delay".into());
                    }
                    delays.iter().try_for_each(no_longer)
                });
                delays.map(|Delays(delays)| Self::List { delays })
            }
            other => {
                let message =
                    format!("\"{other}\" is none of \"polynomial\", \"exponential\", \"fixed\", \"list\"");
                section.refuse("type", message);
                return default.clone();
            }
        };
        section.finish();
        backoff.unwrap_or_else(|| default.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::load::tests::{problems, settings};

    fn queue(backoff: &str) -> String {
        format!("[queues.a]\nbackoff = {backoff}")
    }

    #[test]
    fn all_kinds_are_read_and_sent() {
        let seconds = Duration::from_secs;
        for (text, backoff, json) in [
            ("{ type = \"polynomial\" }", Backoff::Polynomial, "{\"type\":\"polynomial\"}"),
            ("\"polynomial\"", Backoff::Polynomial, "{\"type\":\"polynomial\"}"),
            (
                "{ type = \"exponential\", base = \"5s\" }",
                Backoff::Exponential { base: seconds(5), factor: 2, cap: seconds(3600) },
                "{\"type\":\"exponential\",\"base_ms\":5000,\"factor\":2,\"cap_ms\":3600000}",
            ),
            (
                "{ type = \"fixed\", delay = \"10s\" }",
                Backoff::Fixed { delay: seconds(10) },
                "{\"type\":\"fixed\",\"delay_ms\":10000}",
            ),
            (
                "{ type = \"list\", delays = [\"1s\", \"1m\"] }",
                Backoff::List { delays: vec![seconds(1), seconds(60)] },
                "{\"type\":\"list\",\"delays_ms\":[1000,60000]}",
            ),
        ] {
            assert_eq!(settings(&queue(text)).queue("a").backoff, backoff);
            assert_eq!(serde_json::to_string(&backoff).unwrap(), json);
            assert_eq!(serde_json::from_str::<Backoff>(json).unwrap(), backoff);
        }
    }

    #[test]
    fn bad_values_are_refused() {
        for (text, message) in [
            (
                "{ type = \"cubic\" }",
                ".type: \"cubic\" is none of \"polynomial\", \"exponential\", \"fixed\", \"list\"",
            ),
            ("\"fixed\"", ".delay: is missing: write one like \"10s\""),
            ("{ delay = \"1s\" }", ".type: is missing: write one like type = \"exponential\""),
            ("5", ": expected a table, found an integer"),
            ("{ type = \"list\", delays = [] }", ".delays: is empty: write at least one delay"),
            (
                "{ type = \"list\", delays = \"1s\" }",
                ".delays: expected a list like [\"1s\", \"1m\"], found a string",
            ),
            ("{ type = \"exponential\", base = \"2h\" }", ".cap: must not be less than base"),
            ("{ type = \"exponential\", bass = \"1s\" }", ".bass: unknown key; did you mean \"base\"?"),
            ("{ type = \"fixed\", delay = \"400d\" }", ".delay: must be at most 365d"),
        ] {
            assert_eq!(problems(&queue(text)), [format!("/etc/r/r.toml:2: queues.a.backoff{message}")]);
        }
    }
}
