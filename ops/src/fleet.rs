//! What the hosts' records in the store say of the running fleet. Read leniently: another version may have written
//! them, and a field that is not there is unknown, never wrong.

use std::collections::BTreeMap;

use roundsman_shared::store::Store;
use serde::Deserialize;
use serde_json::Value;

use crate::errors::Failure;

/// The running fleet, as far as its hosts are heard.
#[derive(Debug, Default)]
pub struct Fleet {
    /// As they stand in the store, for `status --json`.
    pub records: Vec<Value>,
    pub hosts: Vec<HostRecord>,
}

#[derive(Debug, Default, Deserialize)]
pub struct HostRecord {
    #[serde(default)]
    pub host: String,
    #[serde(default)]
    pub supervisor: Option<ProcessRecord>,
    #[serde(default)]
    pub master: Option<ProcessRecord>,
    /// It was told to take no jobs (USR1).
    #[serde(default)]
    pub quiet: bool,
    /// The store's file was replaced by another while it ran.
    #[serde(default)]
    pub store_replaced: bool,
    #[serde(default)]
    pub pools: Vec<PoolRecord>,
    /// Processes that run no jobs.
    #[serde(default)]
    pub parts: Vec<PartRecord>,
}

#[derive(Debug, Default, Deserialize)]
pub struct PartRecord {
    #[serde(default)]
    pub part: String,
    #[serde(default)]
    pub state: String,
    /// How it stands with what it serves.
    #[serde(default)]
    pub says: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub struct ProcessRecord {
    #[serde(default)]
    pub pid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
pub struct PoolRecord {
    #[serde(default)]
    pub pool: String,
    #[serde(default)]
    pub queues: Option<Queues>,
    #[serde(default)]
    pub kinds: Option<Vec<String>>,
    #[serde(default)]
    pub desired: u64,
    #[serde(default)]
    pub why: Value,
    /// Why nothing is started any more.
    #[serde(default)]
    pub quarantined: Option<String>,
    /// It is at its maximum and needs more.
    #[serde(default)]
    pub saturated: bool,
    #[serde(default)]
    pub workers: Vec<WorkerRecord>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Queues {
    Names(Vec<String>),
    Shares(BTreeMap<String, Value>),
}

#[derive(Debug, Default, Deserialize)]
pub struct WorkerRecord {
    #[serde(default)]
    pub worker: String,
    #[serde(default)]
    pub pid: Option<u32>,
    #[serde(default)]
    pub state: String,
    /// In bytes.
    #[serde(default)]
    pub rss: u64,
    #[serde(default)]
    pub jobs: Vec<Value>,
}

/// Whether a running pool serves a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    Yes,
    No,
    /// A pool does not say what it serves.
    Unknown,
}

impl PoolRecord {
    fn serves(&self, queue: &str) -> Served {
        let named = match &self.queues {
            None => return Served::Unknown,
            Some(Queues::Names(names)) => names.iter().any(|name| name == queue),
            Some(Queues::Shares(shares)) => shares.contains_key(queue),
        };
        if named { Served::Yes } else { Served::No }
    }

    /// The last decision of its scaling, in words.
    pub fn why(&self) -> String {
        let why = match &self.why {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match &self.quarantined {
            Some(cause) => format!("quarantined: {cause}; {why}"),
            None if self.saturated => format!("saturated: {why}"),
            None => why,
        }
    }

    pub fn running(&self) -> usize {
        self.workers.iter().map(|worker| worker.jobs.len()).sum()
    }
}

impl Fleet {
    pub async fn read(store: &Store) -> Result<Self, Failure> {
        Ok(Self::parse(&store.hosts().await?))
    }

    fn parse(records: &[String]) -> Self {
        let mut fleet = Self::default();
        for text in records {
            let Ok(record) = serde_json::from_str::<Value>(text) else { continue };
            fleet.hosts.push(HostRecord::deserialize(&record).unwrap_or_else(|_unknown| HostRecord {
                host: record.get("host").and_then(Value::as_str).unwrap_or("?").to_owned(),
                pools: vec![PoolRecord::default()],
                ..HostRecord::default()
            }));
            fleet.records.push(record);
        }
        fleet
    }

    pub fn is_heard(&self, host: &str) -> bool {
        self.hosts.iter().any(|record| record.host == host)
    }

    pub fn serves(&self, queue: &str) -> Served {
        let mut answer = Served::No;
        for pool in self.hosts.iter().flat_map(|host| &host.pools) {
            match pool.serves(queue) {
                Served::Yes => return Served::Yes,
                Served::Unknown => answer = Served::Unknown,
                Served::No => {}
            }
        }
        answer
    }

    /// The pools that serve a queue, with their hosts.
    pub fn pools_of<'f>(&'f self, queue: &'f str) -> impl Iterator<Item = (&'f str, &'f PoolRecord)> {
        self.hosts
            .iter()
            .flat_map(|host| host.pools.iter().map(|pool| (host.host.as_str(), pool)))
            .filter(move |(_, pool)| pool.serves(queue) == Served::Yes)
    }

    /// Whether no pool that serves the queue knows the kind. A pool that names no kinds takes all.
    pub fn is_stranger(&self, queue: &str, kind: &str) -> bool {
        let mut pools = self.pools_of(queue).peekable();
        pools.peek().is_some()
            && pools.all(|(_, pool)| {
                pool.kinds.as_ref().is_some_and(|kinds| !kinds.iter().any(|known| known == kind))
            })
    }

    /// The hosts that take no jobs since they were told so, if all that serve the queue do.
    pub fn hushed(&self, queue: &str) -> Option<String> {
        let serving =
            self.hosts.iter().filter(|host| host.pools.iter().any(|pool| pool.serves(queue) != Served::No));
        let (quiet, others): (Vec<&HostRecord>, Vec<&HostRecord>) = serving.partition(|host| host.quiet);
        if quiet.is_empty() || !others.is_empty() {
            return None;
        }
        let names: Vec<&str> = quiet.iter().map(|host| host.host.as_str()).collect();
        Some(format!(
            "{} is quiet (it was sent USR1) and takes no jobs until it is restarted",
            names.join(", ")
        ))
    }

    /// What to say of a queue that nobody serves, if that is so.
    pub fn neglect(&self, queue: &str) -> Option<String> {
        match self.serves(queue) {
            Served::Yes | Served::Unknown => None,
            Served::No if self.hosts.is_empty() => Some(format!(
                "no fleet runs on this store: jobs of {queue} wait until `roundsman up` is started"
            )),
            Served::No => Some(format!(
                "no running pool serves the queue {queue}: its jobs wait until a pool names it in queues = […]"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(records: &[&str]) -> Fleet {
        Fleet::parse(&records.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn pools_are_asked_for_queues_and_kinds() {
        let fleet = fleet(&[
            r#"{"host":"a","pools":[{"pool":"p","queues":["mail"],"kinds":["x"],"desired":2,"why":"busy","workers":[{"jobs":[1]}]}]}"#,
            r#"{"host":"b","pools":[{"pool":"s","queues":{"share":2}}]}"#,
        ]);
        assert_eq!(fleet.serves("mail"), Served::Yes);
        assert_eq!(fleet.serves("share"), Served::Yes);
        assert_eq!(fleet.serves("other"), Served::No);
        assert!(fleet.is_stranger("mail", "y") && !fleet.is_stranger("mail", "x"));
        assert!(!fleet.is_stranger("share", "y") && !fleet.is_stranger("other", "y"));
        let (host, pool) = fleet.pools_of("mail").next().unwrap();
        assert_eq!((host, pool.why().as_str(), pool.running()), ("a", "busy", 1));
        assert!(fleet.neglect("other").is_some_and(|text| text.contains("no running pool serves")));
        let sick =
            PoolRecord { quarantined: Some("exit 127".into()), why: "x".into(), ..PoolRecord::default() };
        assert_eq!(sick.why(), "quarantined: exit 127; x");
    }

    #[test]
    fn a_quiet_host_is_told_of_where_no_other_serves() {
        let quiet = r#"{"host":"a","quiet":true,"pools":[{"pool":"p","queues":["mail"]}]}"#;
        assert!(fleet(&[quiet]).hushed("mail").is_some_and(|text| text.starts_with("a is quiet")));
        assert_eq!(fleet(&[quiet]).hushed("other"), None);
        let loud = r#"{"host":"b","pools":[{"pool":"p","queues":["mail"]}]}"#;
        assert_eq!(fleet(&[quiet, loud]).hushed("mail"), None);
    }

    #[test]
    fn what_is_not_said_is_unknown() {
        assert_eq!(fleet(&[r#"{"host":"a","pools":[{"pool":"p"}]}"#]).serves("q"), Served::Unknown);
        assert_eq!(fleet(&[r#"{"host":"a","pools":5}"#]).serves("q"), Served::Unknown);
        assert!(fleet(&[]).neglect("q").is_some_and(|text| text.contains("no fleet runs")));
    }
}
