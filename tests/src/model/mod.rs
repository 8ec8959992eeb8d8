//! The store as it is meant to be: in memory, single-threaded, with plain maps and no index that could be wrong.
//! The real stores are compared with it. Nothing of theirs is used here but the words of the contract; every step
//! that a job takes is checked against the lifecycle table.
//!
//! Every verb is given the moment at which it happens, on the store's clock. Each answers at once, and never fails.
//!
//! ```text
//! intake   enqueue
//! lease    pull, renew, settle, unacked, pulse
//! change   cancel, reschedule, retry, delete, purge, trim
//! read     look, list, overview, outbox, live settings
//! ```

mod change;
mod intake;
mod lease;
mod read;
#[cfg(test)]
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::lifecycle::{self, Event};
use roundsman_shared::job::progress::{Progress, Token};
use roundsman_shared::job::record::Record;
use roundsman_shared::job::view::{Found, Place, Unacked};
use roundsman_shared::job::{FinalState, State};
use roundsman_shared::names::{JobId, QueueName, WorkerId};
use roundsman_shared::store::{Outgoing, Retention};

/// A gap between two pulses above this means that nobody could renew.
const SILENCE: Duration = Duration::from_secs(3);

/// A whole store.
#[derive(Debug, Clone, Default)]
pub struct Model {
    queues: BTreeMap<QueueName, Queue>,
}

#[derive(Debug, Clone, Default)]
struct Queue {
    jobs: BTreeMap<JobId, Job>,
    remembered: BTreeMap<JobId, Memory>,
    /// Until when each worker that holds something may go unheard.
    leases: BTreeMap<WorkerId, StoreTime>,
    /// Workers whose jobs were taken from them.
    lost: BTreeSet<WorkerId>,
    outbox: Vec<Outgoing>,
    /// Numbers the outbox.
    tickets: u64,
    live: BTreeMap<String, String>,
    live_version: u64,
    paused: bool,
    last_token: Token,
    last_pulse: StoreTime,
    /// No lease lapses before this.
    held_back: StoreTime,
    enqueued: u64,
    ended: u64,
}

#[derive(Debug, Clone)]
struct Job {
    record: Record,
    priority: i16,
    /// `TOKEN {json}`, or nothing while the job was never delivered.
    progress: Option<String>,
    place: Kept,
}

/// Where a job is. It is in one place.
#[derive(Debug, Clone)]
enum Kept {
    Waiting {
        score: StoreTime,
    },
    Running {
        held: Unacked,
        cancel: bool,
    },
    /// `order` tells apart what ended in one call.
    Ended {
        state: FinalState,
        at: StoreTime,
        order: u64,
    },
}

/// An id that is known after its job has ended.
#[derive(Debug, Clone)]
struct Memory {
    digest: String,
    at: StoreTime,
}

impl Job {
    fn state(&self, now: StoreTime) -> State {
        match &self.place {
            Kept::Waiting { score } if *score <= now => State::Ready,
            Kept::Waiting { .. } => State::Scheduled,
            Kept::Running { .. } => State::Running,
            Kept::Ended { state, .. } => state.state(),
        }
    }

    /// Moves the job, if the table has that step.
    fn step(&mut self, event: Event, to: Kept, now: StoreTime) {
        let from = self.state(now);
        self.place = to;
        let (table, to) = (lifecycle::next(from, event), self.state(now));
        // Which of the two waiting states it is, the clock alone says: a retry after 0 s is ready at once.
        let waits = |state| matches!(state, State::Scheduled | State::Ready);
        let legal = table.is_some_and(|table| table == to || (waits(table) && waits(to)));
        assert!(legal, "{from} -- {event:?} --> {to} is no step of the table, which has {table:?}");
    }

    /// The token of the delivery whose outcome was written last.
    fn settled_by(&self) -> Option<Token> {
        self.decoded().map(|(token, _)| token)
    }

    fn decoded(&self) -> Option<(Token, Progress)> {
        Progress::decode(self.progress.as_deref()?)
    }

    fn held(&self) -> Option<&Unacked> {
        match &self.place {
            Kept::Running { held, .. } => Some(held),
            Kept::Waiting { .. } | Kept::Ended { .. } => None,
        }
    }

    fn found(&self, queue: &QueueName, id: &JobId, now: StoreTime) -> Found {
        Found {
            queue: queue.clone(),
            id: id.clone(),
            record: self.record.clone(),
            progress: self.decoded().map(|(_, progress)| progress).unwrap_or_default(),
            place: match &self.place {
                Kept::Waiting { score } => Place::Waiting { due: *score },
                Kept::Running { held, .. } => Place::Running(held.clone()),
                Kept::Ended { .. } => Place::Ended,
            },
            now,
        }
    }
}

impl Queue {
    /// The waiting jobs in the order in which they are to run.
    fn line(&self) -> Vec<(JobId, StoreTime)> {
        let mut line: Vec<_> = self
            .jobs
            .iter()
            .filter_map(|(id, job)| match job.place {
                Kept::Waiting { score } => Some((-job.priority, score, id.clone())),
                Kept::Running { .. } | Kept::Ended { .. } => None,
            })
            .collect();
        line.sort();
        line.into_iter().map(|(_, score, id)| (id, score)).collect()
    }

    fn waiting(&self) -> u64 {
        self.line().len() as u64
    }

    /// What ended in this state, from the oldest.
    fn ended_in(&self, wanted: FinalState) -> Vec<(StoreTime, u64, JobId)> {
        let mut ended: Vec<_> = self
            .jobs
            .iter()
            .filter_map(|(id, job)| match job.place {
                Kept::Ended { state, at, order } if state == wanted => Some((at, order, id.clone())),
                Kept::Ended { .. } | Kept::Waiting { .. } | Kept::Running { .. } => None,
            })
            .collect();
        ended.sort();
        ended
    }

    /// What a worker holds, from its oldest delivery.
    fn holds(&self, worker: &WorkerId) -> Vec<JobId> {
        let mut held: Vec<_> = self
            .jobs
            .iter()
            .filter_map(|(id, job)| {
                job.held().filter(|held| held.worker == *worker).map(|held| (held.token, id))
            })
            .collect();
        held.sort();
        held.into_iter().map(|(_, id)| id.clone()).collect()
    }

    fn count(&self, state: State, now: StoreTime) -> u64 {
        self.jobs.values().filter(|job| job.state(now) == state).count() as u64
    }

    fn remember(&mut self, id: &JobId, digest: String, at: StoreTime) {
        self.remembered.insert(id.clone(), Memory { digest, at });
    }

    /// The numbers of what is kept; the ages are looked at by `trim`.
    fn keep_at_most(&mut self, retention: &Retention) {
        for state in FinalState::ALL {
            let most = match state {
                FinalState::Dead => retention.keep_dead_max,
                FinalState::Done | FinalState::Cancelled | FinalState::Expired => retention.keep_done_max,
            };
            let ended = self.ended_in(state);
            let surplus = ended.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
            for (_, _, id) in &ended[..surplus] {
                self.jobs.remove(id);
            }
        }
        let mut remembered: Vec<_> =
            self.remembered.iter().map(|(id, memory)| (memory.at, id.clone())).collect();
        remembered.sort();
        let most = usize::try_from(retention.remember_ids_max).unwrap_or(usize::MAX);
        for (_, id) in &remembered[..remembered.len().saturating_sub(most)] {
            self.remembered.remove(id);
        }
    }
}
