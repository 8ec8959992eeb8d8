//! What goes into a session and what comes out of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use roundsman_shared::clock::{Mono, StoreTime};
use roundsman_shared::job::progress::Token;
use roundsman_shared::job::settle::Outcome;
use roundsman_shared::job::{Policy, Spec};
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::protocol::StopMode;
use roundsman_shared::store::{
    Answer, Held, PullRequest, Pulled, RenewRequest, Renewed, SettleRequest, StoreError,
};

use crate::api::Request;

/// A number for each delivery that this process has taken.
pub type Seq = u64;

/// A job on its way to a slot.
#[derive(Debug, Clone)]
pub struct Task {
    pub seq: Seq,
    pub queue: QueueName,
    pub id: JobId,
    pub token: i64,
    pub attempt: u32,
    pub spec: Arc<Spec>,
    pub timeout: Duration,
    /// It must share its worker with no other job.
    pub alone: bool,
}

/// Why a running job is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopJob {
    Cancelled,
    Released,
}

/// A job that a slot is done with.
#[derive(Debug)]
pub struct Finished {
    pub seq: Seq,
    pub outcome: Outcome,
    pub started: Mono,
    pub ended: Mono,
    pub stderr_tail: Option<String>,
    /// What a transport did for it.
    pub request: Option<Request>,
}

/// A job that a slot runs now.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    pub seq: Seq,
    pub started: Mono,
}

#[derive(Debug)]
pub enum Event {
    Wake(QueueName),
    /// There may be work in a queue, to be looked at with the next pull.
    Look(QueueName),
    Exchanged {
        sent: Mono,
        result: Result<(Vec<Answer>, Option<Pulled>), StoreError>,
    },
    Renewed {
        sent: Mono,
        queue: QueueName,
        result: Result<Renewed, StoreError>,
    },
    /// What the store says this worker holds, after an answer was lost: a page of it, see [`Action::Reconcile`].
    Reconciled {
        queue: QueueName,
        result: Result<Vec<Held>, StoreError>,
    },
    Finished(Vec<Finished>),
    /// Tasks that had not been started, taken back from the slots.
    Returned(Vec<Seq>),
    /// What runs now, looked up by the loop when [`Session::next_deadline`] came.
    Tick(Vec<Running>),
    Cancel {
        queue: QueueName,
        id: JobId,
    },
    Policies(BTreeMap<QueueName, Policy>),
    Pause(bool),
    Stop {
        mode: StopMode,
        within: Duration,
        why: String,
    },
}

#[derive(Debug)]
pub enum Action {
    Exchange {
        settle: Option<SettleRequest>,
        pull: Option<PullRequest>,
    },
    Renew(RenewRequest),
    /// Ask what this worker holds in a queue, of what was delivered after this token: a pull's deliveries have a token
    /// above all that came before, so those of a lost answer are among them.
    Reconcile(QueueName, Option<Token>),
    /// The store's clock has jumped: it should show this.
    Steer(QueueName, StoreTime),
    Run(Vec<Task>),
    /// Take back what has not been started.
    TakeBack,
    StopJob(Seq, StopJob),
    /// A wake-up came in vain: all slots are taken.
    Full(QueueName),
    Leave {
        code: u8,
        why: String,
    },
}
