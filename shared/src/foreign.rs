//! What the processes of a foreign pool are told: where its queue's length is read, and how a worker is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::assignment::Confidential;
use crate::settings::{Demand, Foreign, Liveness, SecretUrl, StopSignal};

/// Pools, and where it is read how much waits for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemandSpec {
    pub pools: BTreeMap<String, Source>,
}

/// Where the length of a queue is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Source {
    RedisList {
        url: Confidential,
        key: String,
    },
    RedisZset {
        url: Confidential,
        key: String,
    },
    /// Without a group the stream's length.
    RedisStream {
        url: Confidential,
        key: String,
        group: String,
    },
    Amqp {
        url: Confidential,
        queue: String,
    },
    Http {
        url: Confidential,
        path: String,
    },
    Command {
        command: Vec<String>,
    },
}

impl Source {
    /// What the settings say.
    #[must_use]
    pub fn of(demand: &Demand) -> Self {
        let secret = |url: &SecretUrl| Confidential::from(url.expose());
        match demand.clone() {
            Demand::RedisList { url, key } => Self::RedisList { url: secret(&url), key },
            Demand::RedisZset { url, key } => Self::RedisZset { url: secret(&url), key },
            Demand::RedisStream { url, key, group } => Self::RedisStream { url: secret(&url), key, group },
            Demand::Amqp { url, queue } => Self::Amqp { url: secret(&url), queue },
            Demand::Http { url, path } => Self::Http { url: secret(&url), path },
            Demand::Command { command } => Self::Command { command },
        }
    }
}

/// A worker that knows nothing of Roundsman, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    pub stop_signal: StopSignal,
    /// Without a line for so long while anything waits, it is replaced.
    pub stall_after: Option<Duration>,
    /// From its signal to stop to its end.
    pub grace: Duration,
}

impl KeepSpec {
    #[must_use]
    pub fn of(foreign: &Foreign, command: Vec<String>, grace: Duration) -> Self {
        let watched = foreign.liveness == Liveness::Stdout;
        let stall_after = watched.then_some(foreign.stall_after);
        Self { command, stop_signal: foreign.stop_signal, stall_after, grace }
    }
}
