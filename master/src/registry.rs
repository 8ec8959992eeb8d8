//! This host's entry in the store's registry: what `status` shows of it, and what the next master needs to know of the
//! workers of this one.

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::names::WorkerId;
use roundsman_shared::store::StoreError;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::others::PoolLoad;

/// Written at least so often, and so many times a lease, even without news.
const RENEW: Duration = Duration::from_secs(6);
const RENEWS: f64 = 2.5;
/// Written at most so often with news.
const NEWS: Duration = Duration::from_millis(200);
/// The entry is forgotten when it is not renewed for the store's `lease`, and for so long at the latest: a host may be
/// forgiven a longer silence before its jobs are taken from it, and is not heard all the same.
pub(crate) const LEASE: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HostRecord {
    pub host: String,
    /// Where the pids below mean something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    pub supervisor: PidRecord,
    pub master: MasterRecord,
    /// It was told to let nobody take jobs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quiet: bool,
    /// The store's file was replaced by another while it ran.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub store_replaced: bool,
    pub pools: Vec<PoolRecord>,
    /// Processes that run no jobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartRecord {
    /// `intake`, `amqp`
    pub part: String,
    pub pid: u32,
    pub state: String,
    /// How it stands with what it serves, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PidRecord {
    pub pid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MasterRecord {
    pub pid: u32,
    /// Unix milliseconds.
    pub since: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolRecord {
    pub pool: String,
    pub desired: u32,
    pub why: String,
    /// Why nothing is started any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub saturated: bool,
    #[serde(default)]
    pub queues: Vec<String>,
    pub workers: Vec<WorkerRecord>,
    /// For the other hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<PoolLoad>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerRecord {
    /// `POOL/NUMBER`
    pub worker: String,
    pub id: WorkerId,
    pub pid: u32,
    /// The start time of the process in clock ticks since boot, which tells it from a later one with its pid.
    #[serde(default)]
    pub started: u64,
    pub state: String,
    /// So that a later master knows where its jobs lie.
    #[serde(default)]
    pub queues: Vec<String>,
    pub jobs: Vec<JobRecord>,
    /// In bytes.
    pub rss: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobRecord {
    pub queue: String,
    pub id: String,
    pub attempt: u32,
}

/// Under which name a master is entered: its host's, or, while another one speaks for that, one that no host has.
#[must_use]
pub(crate) fn name(host: &str, leads: bool) -> String {
    if leads { host.to_owned() } else { format!("{host}~{}", std::process::id()) }
}

/// Whether an entry of this name is of a master of the host.
#[must_use]
pub(crate) fn is_of(name: &str, host: &str) -> bool {
    name.strip_prefix(host).is_some_and(|rest| rest.is_empty() || rest.starts_with('~'))
}

/// The host whose master has entered itself under this name.
#[must_use]
pub(crate) fn host_of(name: &str) -> &str {
    name.split_once('~').map_or(name, |(host, _)| host)
}

/// When to write.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// How long an entry counts.
    pub(crate) lease: Duration,
    written: Option<(Mono, String)>,
    looked: Option<Mono>,
    going: bool,
    /// The store does not let us write, and that was said.
    refused: bool,
}

impl Schedule {
    /// With the store's `lease`.
    pub(crate) fn new(lease: Duration) -> Self {
        Self { lease: lease.min(LEASE), written: None, looked: None, going: false, refused: false }
    }

    /// What was written counts no more.
    pub(crate) fn forget(&mut self) {
        self.written = None;
        self.looked = None;
    }

    /// What is to be written now, if anything.
    pub(crate) fn due(&mut self, now: Mono, record: impl FnOnce() -> HostRecord) -> Option<String> {
        if self.going {
            return None;
        }
        if self.looked.is_some_and(|at| now.since(at) < NEWS) {
            return None;
        }
        self.looked = Some(now);
        let age = self.written.as_ref().map(|(at, _)| now.since(*at));
        let text = serde_json::to_string(&record()).ok()?;
        let news = self.written.as_ref().is_none_or(|(_, last)| without_rss(last) != without_rss(&text));
        if !news && age.is_some_and(|age| age < RENEW.min(self.lease.div_f64(RENEWS))) {
            return None;
        }
        self.going = true;
        self.written = Some((now, text.clone()));
        Some(text)
    }

    /// It was written, or not; a store that is only away is told of elsewhere.
    pub(crate) fn done(&mut self, result: Result<(), StoreError>) {
        self.going = false;
        match result {
            Ok(()) => self.refused = false,
            Err(error @ StoreError::Unfit(_)) if !self.refused => {
                self.refused = true;
                tracing::warn!(%error, "this host cannot be entered in the store: no `status` shows it");
            }
            Err(error) => tracing::debug!(%error, "the registry was not written"),
        }
    }
}

/// Memory changes all the time and is no news.
fn without_rss(record: &str) -> String {
    let mut pieces = record.split("\"rss\":");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| text + piece.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// The start time of a process, as [`WorkerRecord::started`] has it; zero when it is gone or a zombie, or where the
/// system does not tell.
#[must_use]
pub(crate) fn start_time(pid: u32) -> u64 {
    let Ok(line) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0 };
    // The name, in parentheses, may itself hold blanks and parentheses.
    let Some((_, rest)) = line.rsplit_once(')') else { return 0 };
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if matches!(fields.first(), Some(&("Z" | "X"))) {
        return 0;
    }
    fields.get(19).and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn record(state: &str, rss: u64) -> HostRecord {
        let worker = WorkerRecord {
            worker: "mail/1".into(),
            id: WorkerId::new("box:mail:1:ab").unwrap(),
            pid: 9,
            started: 5,
            queues: Vec::new(),
            state: state.into(),
            jobs: vec![JobRecord { queue: "q".into(), id: "a".into(), attempt: 1 }],
            rss,
        };
        HostRecord {
            host: "box".into(),
            machine: Some(Machine::here()),
            supervisor: PidRecord { pid: 7 },
            master: MasterRecord { pid: 8, since: 1 },
            quiet: false,
            store_replaced: false,
            pools: vec![PoolRecord {
                pool: "mail".into(),
                desired: 1,
                why: "w".into(),
                quarantined: None,
                saturated: false,
                queues: vec!["q".into()],
                workers: vec![worker],
                load: None,
            }],
            parts: Vec::new(),
        }
    }

    #[test]
    fn it_is_written_on_news_and_now_and_then() {
        let mut schedule = Schedule::new(Duration::from_secs(600));
        assert_eq!(schedule.lease, LEASE);
        assert!(schedule.due(at(0), || record("idle", 1)).is_some());
        assert!(schedule.due(at(300), || record("busy", 1)).is_none(), "one write at a time");
        schedule.done(Ok(()));
        assert!(schedule.due(at(150), || record("busy", 1)).is_none());
        assert!(schedule.due(at(201), || record("busy", 1)).is_some());
        schedule.done(Ok(()));
        assert!(schedule.due(at(3000), || record("busy", 2)).is_none(), "memory is no news");
        assert!(schedule.due(at(6202), || record("busy", 2)).is_some());

        let mut schedule = Schedule::new(Duration::from_secs(3));
        assert_eq!(schedule.lease, Duration::from_secs(3));
        assert!(schedule.due(at(0), || record("idle", 1)).is_some());
        schedule.done(Ok(()));
        assert!(schedule.due(at(1000), || record("idle", 1)).is_none());
        assert!(schedule.due(at(1201), || record("idle", 1)).is_some(), "in time for a short lease");
    }

    #[test]
    fn the_shape_is_the_one_of_status() {
        let json = serde_json::to_value(record("idle", 4096)).unwrap();
        assert_eq!(json["pools"][0]["workers"][0]["rss"], 4096);
        assert_eq!(json["pools"][0].get("quarantined"), None);
        assert_eq!(serde_json::from_value::<HostRecord>(json).unwrap(), record("idle", 4096));
    }

    #[test]
    fn the_masters_of_a_host_are_told_from_other_hosts() {
        for leads in [true, false] {
            assert!(is_of(&name("mill", leads), "mill"));
            assert!(!is_of(&name("mill-2", leads), "mill") && !is_of(&name("mill", leads), "mill-2"));
        }
        assert_ne!(name("mill", true), name("mill", false));
    }

    #[test]
    fn processes_are_told_apart_by_their_start() {
        let own = start_time(std::process::id());
        assert!(cfg!(not(target_os = "linux")) || own > 0);
        assert_eq!(start_time(u32::MAX), 0);
    }
}
