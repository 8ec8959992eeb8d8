//! What goes into the store's verbs and what comes out. No driver's type appears here.
//!
//! Every verb is one atomic step. Every verb that takes many items answers each of them, in order, and one bad item
//! never spoils the others. A verb that failed with [`StoreError::Unavailable`] may or may not have happened; all of
//! them can be repeated with the same arguments and then give the answer that the first call would have given.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::StoreTime;
use crate::job::lifecycle::State;
use crate::job::progress::Token;
use crate::job::settle::{Delivery, FollowUp, Settlement};
use crate::job::spec::NewJob;
use crate::job::view::Found;
use crate::names::{JobId, QueueName, WorkerId};

/// The most items that one call carries; longer lists are cut into several calls by the caller.
pub const MAX_BATCH: usize = 256;

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Not reached, or no answer in time: whether the call took effect is unknown.
    #[error("the store is not reachable: {0}")]
    Unavailable(String),
    /// Its memory or disk is nearly used up; nothing was stored.
    #[error("the store is nearly full: {0}")]
    NearLimit(String),
    /// It cannot be used as it is set up.
    #[error("the store cannot be used: {0}")]
    Unfit(String),
    /// It holds something that this version cannot read.
    #[error("the store holds something unreadable: {0}")]
    Corrupt(String),
}

/// What became of one enqueued job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enqueued {
    Created {
        due: StoreTime,
    },
    /// The same id with the same content is there already, or ended so lately that it is remembered.
    Existing,
    /// The same id with other content; the stored job is untouched.
    Conflict,
    /// The queue holds as many waiting jobs as it may.
    Full {
        waiting: u64,
    },
    /// Its expiry had already passed.
    Expired,
}

/// A worker asks for work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    pub queue: QueueName,
    pub worker: WorkerId,
    /// At most [`MAX_BATCH`].
    pub max: usize,
    /// From now on the worker must renew within this time.
    pub lease: Duration,
    /// The latest that the store's clock can plausibly stand at, if the worker can tell; a clock that stands later
    /// has jumped, and nothing is delivered.
    pub latest: Option<StoreTime>,
}

/// The answer to a [`PullRequest`].
#[derive(Debug, Clone, PartialEq)]
pub struct Pulled {
    pub now: StoreTime,
    /// In the order in which they are to run.
    pub deliveries: Vec<Delivery>,
    /// When the next job of the queue falls due; any moment up to now if more are ready. `None` if nothing waits.
    pub next_due: Option<StoreTime>,
    pub paused: bool,
    /// The store's clock stood later than `latest`: nothing was delivered.
    pub skewed: bool,
    /// Rises whenever the queue's live settings change.
    pub live_version: u64,
}

/// What became of one acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Ok,
    /// The delivery is not the current one; nothing changed.
    Stale,
    /// There is no such job any more.
    Gone,
}

/// How much of what has ended is kept. A part of the queue's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    pub keep_done: Duration,
    pub keep_done_max: u64,
    pub keep_dead: Duration,
    pub keep_dead_max: u64,
    pub remember_ids: Duration,
    pub remember_ids_max: u64,
}

impl From<&crate::job::Policy> for Retention {
    fn from(policy: &crate::job::Policy) -> Self {
        Self {
            keep_done: policy.keep_done,
            keep_done_max: policy.keep_done_max,
            keep_dead: policy.keep_dead,
            keep_dead_max: policy.keep_dead_max,
            remember_ids: policy.remember_ids,
            remember_ids_max: policy.remember_ids_max,
        }
    }
}

/// Acknowledgements of one worker in one queue.
#[derive(Debug, Clone, PartialEq)]
pub struct SettleRequest {
    pub queue: QueueName,
    pub worker: WorkerId,
    /// At most [`MAX_BATCH`]; they take effect in this order. Cheapest where those of one pull are neighbours, in the
    /// order of the pull.
    pub settlements: Vec<Settlement>,
    pub retention: Retention,
    /// Only if the worker's lease has lapsed by the store's clock; else every answer is [`Answer::Stale`].
    pub only_if_lapsed: bool,
}

/// A job of the worker has begun to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub id: JobId,
    pub token: Token,
    /// Unix ms of the store's clock.
    pub started: i64,
    /// When its timeout is over, on the same clock.
    pub deadline: i64,
}

/// A worker proves that it lives, and notes what it has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewRequest {
    pub queue: QueueName,
    pub worker: WorkerId,
    pub lease: Duration,
    pub marks: Vec<Mark>,
}

/// The answer to a [`RenewRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    pub now: StoreTime,
    /// The lease had lapsed and its jobs were given to others: the worker must stop them at once.
    pub lost: bool,
    /// Jobs of this worker that somebody wants cancelled.
    pub cancel: Vec<JobId>,
}

/// A job under lease, as whoever releases it needs to know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    pub delivery: Delivery,
    pub started: Option<i64>,
    pub deadline: Option<i64>,
}

/// What a master learns of a queue once a second.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pulse {
    pub now: StoreTime,
    pub paused: bool,
    /// Jobs that are due, counted up to [`MAX_BATCH`] x 16.
    pub ready: u64,
    /// Scheduled and ready jobs.
    pub waiting: u64,
    pub running: u64,
    /// The due time of the job that has been due longest.
    pub oldest_due: Option<StoreTime>,
    /// The first due time after now.
    pub next_due: Option<StoreTime>,
    /// Jobs that fall due within the time that was asked about, counted as the ready ones are.
    pub soon: u64,
    /// Workers whose lease has lapsed, at most 16; none for one full lease after nobody could renew.
    pub lapsed: Vec<WorkerId>,
    /// Follow-ups that wait to be moved to their queues.
    pub outbox: u64,
    /// Raw jobs that producers pushed and nobody has taken in yet (Redis only).
    pub inbox: u64,
    pub live_version: u64,
    /// Jobs enqueued and ended since the queue exists.
    pub enqueued: u64,
    pub ended: u64,
}

/// What of a queue moves whenever anything happens in it; the least that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Glimpse {
    /// Scheduled and ready jobs.
    pub waiting: u64,
    pub running: u64,
    pub paused: bool,
    pub live_version: u64,
    /// Jobs enqueued and ended since the queue exists.
    pub enqueued: u64,
    pub ended: u64,
}

impl Pulse {
    /// What a glimpse at the same moment would have shown.
    #[must_use]
    pub const fn glimpse(&self) -> Glimpse {
        let Self { waiting, running, paused, live_version, enqueued, ended, .. } = *self;
        Glimpse { waiting, running, paused, live_version, enqueued, ended }
    }
}

/// The answer to a cancellation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// It waited; it will never run.
    Now,
    /// It runs; its worker has been told.
    Told(WorkerId),
    AlreadyEnded(State),
    NotFound,
}

/// The answer to a change of a job that waits or has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    Ok,
    /// The lifecycle table does not allow it in this state.
    Refused(State),
    NotFound,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    pub found: Vec<Found>,
    /// Opaque; hands back the next page.
    pub next: Option<String>,
}

/// A queue in numbers. Kept at write time: nothing is counted for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueView {
    pub queue: String,
    pub paused: bool,
    pub scheduled: u64,
    pub ready: u64,
    pub running: u64,
    pub done: u64,
    pub dead: u64,
    pub cancelled: u64,
    pub expired: u64,
    /// How long the oldest ready job has been due, in ms.
    pub oldest_due_ms: Option<i64>,
    pub inbox: u64,
    pub outbox: u64,
    /// Since the queue exists.
    pub enqueued_total: u64,
    pub ended_total: u64,
}

/// A follow-up on its way to its queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// What names it in the outbox.
    pub ticket: String,
    pub follow_up: FollowUp,
}

/// An entry of an inbox after it was looked at.
#[derive(Debug, Clone, PartialEq)]
pub enum Admission {
    Job(NewJob),
    /// It could not be read: it becomes a dead letter at once. `content` is its record, `progress` says why.
    Malformed {
        id: JobId,
        content: String,
        progress: String,
    },
}

/// How strong an acknowledgement is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durability {
    /// `memory`, `fsync` or `replicated(N)`.
    pub level: String,
    /// What that rests on, in words.
    pub why: String,
}

/// A host's entry in the registry, as its master keeps it up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostBeat {
    pub host: String,
    /// One JSON object; only people and `status` read it.
    pub record: String,
    /// The entry is forgotten when it is not renewed for so long.
    pub lease: Duration,
}

/// The most points of a chart that one call answers.
pub const MAX_POINTS: u32 = 5000;

/// A moment of a chart. What it shows is the business of whoever draws it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Seconds from one point to the next.
    pub step: u32,
    /// Unix seconds, a multiple of the step.
    pub at: i64,
    pub text: String,
}

/// A hint that there is something to do. Hints can be lost; whoever waits for one looks again by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// Jobs were stored: so many are due, and the first of the others falls due at `next_due`.
    Work { queue: QueueName, due: u32, next_due: Option<StoreTime> },
    /// A running job is to be cancelled.
    Cancel { worker: WorkerId, id: JobId },
    /// Settings or the pause of a queue changed.
    Changed { queue: QueueName },
    /// Hints may have been lost (a reconnect): look at everything.
    Lost,
}
