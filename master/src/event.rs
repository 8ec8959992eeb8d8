//! Everything that can happen to a master: one closed list, read by the one loop.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use roundsman_shared::clock::StoreClock;
use roundsman_shared::figures::Figures;
use roundsman_shared::names::{JobId, QueueName, WorkerId};
use roundsman_shared::protocol::ToChild;
use roundsman_shared::store::{Pulse, Store, StoreError};

use crate::beside::Before;
use crate::slot::{self, Exit};
use crate::spawn::Started;

/// One life of one child: what comes of an earlier life is told from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub pool: Arc<str>,
    pub number: u32,
    pub incarnation: u64,
}

impl Key {
    /// What people see: `POOL/NUMBER`.
    #[must_use]
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", self.pool, self.number)
    }
}

#[derive(Debug)]
pub(crate) enum Event {
    /// For a slot.
    Slot { key: Key, event: slot::Event },
    /// A process was started, or could not be.
    Started { key: Key, started: io::Result<Started> },
    /// A child is gone with all that it left behind.
    Reaped { key: Key, exit: Exit, tail: Option<String> },
    /// The jobs of a dead worker were given back: so many may run again at once. `figures`: what there is to count of that.
    Released { worker: WorkerId, returned: BTreeMap<QueueName, u64>, figures: Figures },
    /// The store was reached for the first time.
    Opened(Store),
    /// The store cannot be used as it is set up.
    Unfit(String),
    /// Another machine serves it under this host's id.
    Namesake,
    /// There are jobs to run.
    WorkDue { queue: QueueName, count: u64 },
    /// A look at a queue; `clock` is what it tells of the store's clock.
    Pulse { queue: QueueName, pulse: Pulse, clock: StoreClock },
    /// Whether the store is reached, when that changes.
    Blind(bool),
    /// A running job is to be cancelled.
    Cancel { worker: WorkerId, id: JobId },
    /// The live settings of a queue, at this version.
    Live { queue: QueueName, version: u64, live: BTreeMap<String, String> },
    /// Something of the upkeep of a queue is done, or has failed.
    Kept { queue: QueueName, work: crate::upkeep::Work },
    /// The registry was written, or not.
    Registered(Result<(), StoreError>),
    /// All entries of the registry, if they could be read.
    Hosts(Option<Vec<String>>),
    /// From the supervisor.
    Parent(ToChild),
    /// The supervisor is gone.
    Orphaned,
    /// A TERM reached this process.
    Terminated,
    /// What the registry knew of an earlier master's workers was read: how many it wanted in each pool.
    Adopted(BTreeMap<String, u32>),
    /// What the registry knew of the master that this one takes over from.
    Found(Before),
    /// A worker of an earlier master has ended, or had before.
    OrphanGone { worker: WorkerId, queues: Vec<QueueName> },
}

impl Event {
    #[must_use]
    pub(crate) fn of(key: &Key, event: slot::Event) -> Self {
        Self::Slot { key: key.clone(), event }
    }
}
