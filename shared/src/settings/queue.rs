//! `[queues.NAME]`: the policy of a queue's jobs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backoff::Backoff;
use super::origin::{Origin, Problem, SettingsError};
use super::section::{Report, Section};
use super::tree::{self, Table};
use super::units::{Rate, duration_ms};
use super::value::Size;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86400);
/// No job lies further ahead either.
const TEN_YEARS: Duration = Duration::from_secs(3650 * 86400);
/// A job travels in one message to its worker.
const LARGEST_PAYLOAD: u64 = 64 * 1024 * 1024;

/// The policy of a queue. Sent to workers as JSON, durations in milliseconds; a field that the sender does not
/// know has its default, and one that the receiver does not know is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueSettings {
    /// A job over it is stopped, then its worker killed; default 5 min.
    #[serde(rename = "timeout_ms", with = "duration_ms")]
    pub timeout: Duration,
    /// After so many failed attempts a job is dead; default 25.
    pub max_attempts: u32,
    /// How long a failed job waits.
    pub backoff: Backoff,
    /// After so many deaths of its worker a job is dead; default 3.
    pub max_crashes: u32,
    /// The same for deaths by a SIGKILL that Roundsman did not send; default 10.
    pub max_killed: u32,
    /// How long a job may snooze in all; default 24 h.
    #[serde(rename = "max_snooze_ms", with = "duration_ms")]
    pub max_snooze: Duration,
    /// Enqueues beyond so many scheduled and ready jobs are refused; default 10,000,000.
    pub max_waiting: u64,
    /// Jobs started at most.
    pub rate_limit: Option<Rate>,
    /// Jobs running at once over the whole fleet.
    pub max_running: Option<u32>,
    /// Jobs running at once that share a key.
    pub max_running_per_key: Option<u32>,
    /// Done jobs stay readable so long; default 1 h.
    #[serde(rename = "keep_done_ms", with = "duration_ms")]
    pub keep_done: Duration,
    /// At most so many of them; default 10,000.
    pub keep_done_max: u64,
    /// Dead letters stay so long; default 30 d.
    #[serde(rename = "keep_dead_ms", with = "duration_ms")]
    pub keep_dead: Duration,
    /// At most so many of them; default 100,000.
    pub keep_dead_max: u64,
    /// Ids that producers chose are remembered so long after their job ended; default 1 h.
    #[serde(rename = "remember_ids_ms", with = "duration_ms")]
    pub remember_ids: Duration,
    /// At most so many of them; default 1,000,000.
    pub remember_ids_max: u64,
    /// In bytes; default 256 KiB.
    pub max_payload: u64,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl QueueSettings {
    /// The policy of a queue that nothing describes.
    pub const DEFAULT: Self = Self {
        timeout: Duration::from_secs(300),
        max_attempts: 25,
        backoff: Backoff::Polynomial,
        max_crashes: 3,
        max_killed: 10,
        max_snooze: DAY,
        max_waiting: 10_000_000,
        rate_limit: None,
        max_running: None,
        max_running_per_key: None,
        keep_done: HOUR,
        keep_done_max: 10_000,
        keep_dead: Duration::from_secs(30 * 86400),
        keep_dead_max: 100_000,
        remember_ids: HOUR,
        remember_ids_max: 1_000_000,
        max_payload: 256 * 1024,
    };

    /// Reads what the section says; what it does not say is as in `base`.
    pub(super) fn read(mut section: Section<'_>, base: &Self) -> Self {
        let settings = Self {
            timeout: section.within("timeout", base.timeout, Duration::from_millis(1)..=365 * DAY),
            max_attempts: section.within("max_attempts", base.max_attempts, 1..=1_000_000),
            backoff: Backoff::read(&mut section, &base.backoff),
            max_crashes: section.within("max_crashes", base.max_crashes, 1..=1_000_000),
            max_killed: section.within("max_killed", base.max_killed, 1..=1_000_000),
            max_snooze: section.within("max_snooze", base.max_snooze, SECOND..=TEN_YEARS),
            max_waiting: section.within("max_waiting", base.max_waiting, 1..=1_000_000_000_000),
            rate_limit: section.get("rate_limit", base.rate_limit),
            max_running: section.get("max_running", base.max_running),
            max_running_per_key: section.get("max_running_per_key", base.max_running_per_key),
            keep_done: section.within("keep_done", base.keep_done, Duration::ZERO..=TEN_YEARS),
            keep_done_max: section.within("keep_done_max", base.keep_done_max, 0..=1_000_000_000),
            keep_dead: section.within("keep_dead", base.keep_dead, Duration::ZERO..=TEN_YEARS),
            keep_dead_max: section.within("keep_dead_max", base.keep_dead_max, 0..=1_000_000_000),
            remember_ids: section.within("remember_ids", base.remember_ids, Duration::ZERO..=TEN_YEARS),
            remember_ids_max: section.within("remember_ids_max", base.remember_ids_max, 0..=1_000_000_000),
            max_payload: section
                .within("max_payload", Size(base.max_payload), Size(1)..=Size(LARGEST_PAYLOAD))
                .0,
        };
        let narrower = match (settings.max_running_per_key, settings.max_running) {
            (Some(per_key), Some(all)) => per_key <= all,
            _ => true,
        };
        section.demand(narrower, "max_running_per_key", "must not be more than max_running");
        section.finish();
        settings
    }

    /// Sets one key as a file would, as `queue set` does for the whole fleet.
    ///
    /// ```
    /// use roundsman_shared::settings::QueueSettings;
    /// let mut queue = QueueSettings::default();
    /// queue.set("backoff", "{ type = \"fixed\", delay = \"10s\" }").unwrap();
    /// assert!(queue.set("timeout", "5").is_err());
    /// ```
    ///
    /// # Errors
    /// What a file with this key and value would be refused for; nothing is changed then.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), SettingsError> {
        let table = Table::from([(key.to_owned(), tree::parse_text(value, &Origin::QueueSet))]);
        // No key of a queue is a path, so that no directory counts.
        let report = Report::new(Path::new(""));
        let settings = Self::read(Section::root(&report, &table), self);
        let problems = report.problems.into_inner();
        if !problems.is_empty() {
            return Err(SettingsError { problems });
        }
        *self = settings;
        Ok(())
    }

    /// Sets all live settings that are right, and tells which are not: another version of Roundsman may know more.
    pub fn apply_live(&mut self, live: &BTreeMap<String, String>) -> Vec<Problem> {
        let errors = live.iter().filter_map(|(key, value)| self.set(key, value).err());
        errors.flat_map(|error| error.problems).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::load::tests::{problems, settings};

    #[test]
    fn a_queue_has_what_its_section_says_and_defaults() {
        let settings =
            settings("[queues.mail]\ntimeout = \"30s\"\nrate_limit = \"5/m\"\nmax_payload = \"1MiB\"");
        let mail = settings.queue("mail");
        assert_eq!(mail.timeout, Duration::from_secs(30));
        assert_eq!(mail.rate_limit.map(|rate| rate.to_string()), Some("5/m".into()));
        assert_eq!(mail.max_payload, 1024 * 1024);
        assert_eq!(mail.keep_dead, 30 * DAY);
        assert_eq!(settings.queue("other"), &QueueSettings::DEFAULT);
    }

    #[test]
    fn bad_values_are_refused() {
        for (line, message) in [
            ("timeout = \"0s\"", "timeout: must be between 1ms and 365d, not 0s"),
            (
                "timeout = \"1mo\"",
                "timeout: \"1mo\" counts in calendar months or years: write days, like \"30d\"",
            ),
            ("max_attempts = 0", "max_attempts: must be between 1 and 1000000, not 0"),
            ("max_attempts = \"25\"", "max_attempts: expected a whole number, found a string"),
            ("max_waiting = -1", "max_waiting: must be between 0 and 18446744073709551615"),
            ("rate_limit = \"fast\"", "rate_limit: \"fast\" is no rate: write one like \"100/s\" or \"5/m\""),
            ("keep_done = 3600", "keep_done: \"3600\" has no unit: write \"3600s\" or \"3600ms\""),
            ("max_payload = \"1GiB\"", "max_payload: must be between 1B and 64MiB, not 1GiB"),
            (
                "max_payload = \"1M\"",
                "max_payload: \"1M\" may mean either: write \"1MiB\" (powers of 1024) or \"1MB\"",
            ),
            (
                "max_running_per_key = 5\nmax_running = 4",
                "max_running_per_key: must not be more than max_running",
            ),
            ("max_atempts = 5", "max_atempts: unknown key; did you mean \"max_attempts\"?"),
        ] {
            let expected = format!("/etc/r/r.toml:2: queues.a.{message}");
            assert_eq!(problems(&format!("[queues.a]\n{line}")), [expected]);
        }
        let name =
            "/etc/r/r.toml:1: queues: \"a b\" is no right name: 1 to 64 characters of A-Z a-z 0-9 . _ -";
        assert_eq!(problems("[queues.\"a b\"]"), [name]);
    }

    #[test]
    fn live_settings_are_checked_like_a_file() {
        let mut queue = QueueSettings::default();
        for (key, value, message) in [
            ("timeout", "5", "queue set: timeout: \"5\" has no unit: write \"5s\" or \"5ms\""),
            ("max_attempts", "many", "queue set: max_attempts: expected a whole number, found \"many\""),
            ("timeot", "5s", "queue set: timeot: unknown key; did you mean \"timeout\"?"),
            ("backoff", "fixed", "queue set: backoff.delay: is missing: write one like \"10s\""),
        ] {
            assert_eq!(queue.set(key, value).unwrap_err().to_string(), message);
        }
        assert_eq!(queue, QueueSettings::DEFAULT);

        let live =
            [("timeout", "9s"), ("max_running", "3"), ("backoff", "{ type = \"fixed\", delay = \"1s\" }")];
        let mut live: BTreeMap<_, _> = live.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        live.insert("of_the_next_version".into(), "1".into());
        assert_eq!(queue.apply_live(&live).len(), 1);
        assert_eq!(queue.timeout, Duration::from_secs(9));
        assert_eq!(queue.max_running, Some(3));
        assert_eq!(queue.backoff, Backoff::Fixed { delay: SECOND });
        queue.set("max_attempts", "7").unwrap();
        assert_eq!(queue.backoff, Backoff::Fixed { delay: SECOND }, "other keys stay");
        queue.set("max_running", "0").unwrap();
        assert_eq!(queue.max_running, None);
    }

    #[test]
    fn it_travels_as_json_between_versions() {
        let queue = settings("[queues.a]\ntimeout = \"1500ms\"\nrate_limit = \"5/m\"").queue("a").clone();
        let json = serde_json::to_value(&queue).unwrap();
        assert_eq!(json["timeout_ms"], 1500);
        assert_eq!(json["rate_limit"], serde_json::json!({"count": 5, "per_ms": 60000}));
        assert_eq!(serde_json::from_value::<QueueSettings>(json).unwrap(), queue);
        let older: QueueSettings =
            serde_json::from_str("{\"timeout_ms\":1,\"of_the_next_version\":2}").unwrap();
        assert_eq!(older, QueueSettings { timeout: Duration::from_millis(1), ..QueueSettings::DEFAULT });
    }
}
