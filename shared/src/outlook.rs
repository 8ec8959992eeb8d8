//! How things stand on a host at one moment, as its master sees it: what charts and metrics show without asking the store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outlook {
    /// The queues that this host serves. At most [`MOST_QUEUES`].
    pub queues: BTreeMap<String, QueueOutlook>,
    pub pools: BTreeMap<String, PoolOutlook>,
    /// Whether the store is reached; if not, the queues are shown as they stood last.
    pub store_ok: bool,
}

/// The rest is not shown: a line of the pipe has an end.
pub const MOST_QUEUES: usize = 4096;

/// A queue, for all hosts: every master reads the same store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueOutlook {
    /// Scheduled and ready jobs.
    pub waiting: u64,
    pub running: u64,
    /// How long the job that has been due longest has been so.
    pub oldest_due_ms: Option<u64>,
    pub paused: bool,
    /// Since the queue exists.
    pub enqueued: u64,
    pub ended: u64,
}

/// A pool, on this host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PoolOutlook {
    pub desired: u32,
    /// State → how many.
    pub workers: BTreeMap<String, u32>,
    /// Workers that run something.
    pub busy: u32,
}
