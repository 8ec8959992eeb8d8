//! What is looked for while a course is played, and at its end.

use std::collections::{BTreeMap, BTreeSet};

use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::progress::Token;
use roundsman_shared::job::{AttemptEnd, State};
use roundsman_shared::names::{JobId, QueueName};

use super::world::Work;
use crate::model::Model;

/// What was promised of a job.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    pub(super) due: StoreTime,
    /// It ends its worker each time, or fails each time: it may end as a dead letter.
    pub(super) may_die: bool,
    /// Enqueued when all had healed: by then it must have started.
    pub(super) start_by: Option<StoreTime>,
}

/// What came of a course.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub seed: u64,
    /// Each begins with the name of what was broken.
    pub broken: Vec<String>,
    pub jobs: usize,
    pub starts: usize,
    pub faults: usize,
    /// In milliseconds of the played clock.
    pub lasted_ms: u64,
    /// Of all that happened, in order.
    pub trace: u64,
}

/// Remembers what it was shown.
#[derive(Debug, Default)]
pub(super) struct Judge {
    pub(super) verdict: Verdict,
    pub(super) promises: BTreeMap<JobId, Promise>,
    started: BTreeMap<JobId, StoreTime>,
    /// Deliveries that a slot began.
    deliveries: BTreeSet<(JobId, Token)>,
}

/// So many are told of; the first is what matters.
const TOLD: usize = 20;

impl Judge {
    pub(super) fn broken(&mut self, what: String) {
        if self.verdict.broken.len() < TOLD {
            self.verdict.broken.push(what);
        }
    }

    /// Mixes something that happened into the trace.
    pub(super) fn note(&mut self, at: u64, what: u64) {
        for part in [at, what] {
            self.verdict.trace = (self.verdict.trace ^ part).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        }
    }

    /// A slot begins a job.
    pub(super) fn starts(&mut self, id: &JobId, token: Token, now: StoreTime) {
        self.verdict.starts += 1;
        self.deliveries.insert((id.clone(), token));
        self.started.entry(id.clone()).or_insert(now);
        match self.promises.get(id) {
            None => self.broken(format!("phantom: {id} starts and was never enqueued")),
            Some(promise) if now < promise.due => {
                let early = promise.due.since(now);
                self.broken(format!("early: {id} starts {early:?} before it is due"));
            }
            Some(_) => {}
        }
    }

    /// Whether every job has ended.
    pub(super) fn all_ended(&self, model: &Model, queue: &QueueName, now: StoreTime) -> bool {
        let view = model.overview(queue, now);
        view.scheduled + view.ready + view.running == 0
    }

    /// All is over: what the store shows is what was promised.
    pub(super) fn audit(
        &mut self,
        model: &Model,
        queue: &QueueName,
        now: StoreTime,
        works: &BTreeMap<JobId, Work>,
    ) {
        let ids: Vec<JobId> = self.promises.keys().cloned().collect();
        self.verdict.jobs = ids.len();
        for (id, found) in ids.iter().zip(model.look(queue, &ids, now)) {
            let Some(promise) = self.promises.get(id).copied() else { continue };
            let Some(found) = found else {
                self.broken(format!("lost: {id} was acknowledged and is not there"));
                continue;
            };
            let state = found.state();
            let progress = &found.progress;
            match state {
                State::Done if works.get(id).is_some_and(|work| work.has_effect) => {}
                State::Done => {
                    self.broken(format!("no effect: {id} is done, and no run of it came to its end"))
                }
                State::Dead if promise.may_die => {}
                State::Scheduled | State::Ready | State::Running => {
                    self.broken(format!("stuck: {id} is {state} when all has been quiet for long"));
                }
                other => self.broken(format!("wrong end: {id} is {other}: {progress:?}")),
            }
            let finals = [AttemptEnd::Done, AttemptEnd::Dead, AttemptEnd::Cancelled, AttemptEnd::Expired];
            let ended = progress.attempts.iter().filter(|attempt| finals.contains(&attempt.outcome)).count();
            if ended > 1 {
                self.broken(format!("ended twice: {id}: {progress:?}"));
            }
            let tokens: Vec<_> = progress.attempts.iter().map(|attempt| attempt.token).collect();
            if !tokens.is_sorted_by(|a, b| a < b) {
                self.broken(format!("tokens: those of {id} do not rise: {tokens:?}"));
            }
            // Whoever was only handed over was not tried; but of a lost host nobody knows.
            let untried = progress.attempts.iter().find(|attempt| {
                let tried = self.deliveries.contains(&(id.clone(), attempt.token));
                !tried && attempt.outcome != AttemptEnd::Lapsed
            });
            if let Some(attempt) = untried {
                self.broken(format!("charged: {id} was never begun in {attempt:?}"));
            }
            if let Some(by) = promise.start_by
                && self.started.get(id).is_none_or(|started| *started > by)
            {
                let started = self.started.get(id);
                self.broken(format!(
                    "late: {id} was due {:?}, to start by {by:?}, and did {started:?}",
                    promise.due
                ));
            }
        }
    }
}
