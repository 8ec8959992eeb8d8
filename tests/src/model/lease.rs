use std::time::Duration;

use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::FinalState;
use roundsman_shared::job::lifecycle::Event;
use roundsman_shared::job::progress::Token;
use roundsman_shared::job::settle::{Again, Delivery, Settlement, Write};
use roundsman_shared::job::view::Unacked;
use roundsman_shared::names::{JobId, QueueName, WorkerId};
use roundsman_shared::store::{
    Answer, Held, MAX_BATCH, Outgoing, PullRequest, Pulled, Pulse, RenewRequest, Renewed, SettleRequest,
};

use super::{Job, Kept, Model, Queue, SILENCE};

impl Model {
    pub fn pull(&mut self, request: &PullRequest, now: StoreTime) -> Pulled {
        let queue = self.queues.entry(request.queue.clone()).or_default();
        let skewed = request.latest.is_some_and(|latest| now > latest);
        let max = if skewed || queue.paused { 0 } else { request.max };
        let due: Vec<_> = queue.line().into_iter().filter(|(_, score)| *score <= now).take(max).collect();
        let mut deliveries = Vec::new();
        if !due.is_empty() {
            queue.last_token = now.as_micros().max(queue.last_token + 1);
        }
        let token = queue.last_token;
        for (id, score) in due {
            let job = queue.jobs.get_mut(&id).expect("what stands in line is a job");
            let progress = job.decoded().map(|(_, progress)| progress).unwrap_or_default();
            // Where it was put back to the front, its score says nothing of when it was due.
            let due = progress.due.map_or(score, StoreTime::from_millis);
            let held = Unacked { worker: request.worker.clone(), token, due, started: None, deadline: None };
            job.step(Event::Deliver, Kept::Running { held, cancel: false }, now);
            let record = job.record.clone();
            deliveries.push(Delivery { queue: request.queue.clone(), id, token, due, record, progress });
        }
        if !queue.holds(&request.worker).is_empty() {
            queue.leases.insert(request.worker.clone(), now + request.lease);
        }
        Pulled {
            now,
            deliveries,
            next_due: queue.line().into_iter().map(|(_, score)| score).min(),
            paused: queue.paused,
            skewed,
            live_version: queue.live_version,
        }
    }

    pub fn renew(&mut self, request: &RenewRequest, now: StoreTime) -> Renewed {
        let queue = self.queues.entry(request.queue.clone()).or_default();
        if queue.lost.contains(&request.worker) {
            return Renewed { now, lost: true, cancel: Vec::new() };
        }
        if let Some(until) = queue.leases.get_mut(&request.worker) {
            *until = now + request.lease;
        }
        let mut pending = Vec::new();
        for (id, job) in &mut queue.jobs {
            let Kept::Running { held, cancel } = &mut job.place else { continue };
            if held.worker != request.worker {
                continue;
            }
            for mark in request.marks.iter().filter(|mark| mark.id == *id && mark.token == held.token) {
                (held.started, held.deadline) = (Some(mark.started), Some(mark.deadline));
            }
            if *cancel {
                pending.push(id.clone());
            }
        }
        Renewed { now, lost: false, cancel: pending }
    }

    pub fn settle(&mut self, request: &SettleRequest, now: StoreTime) -> Vec<Answer> {
        let queue = self.queues.entry(request.queue.clone()).or_default();
        let allowed = !request.only_if_lapsed || queue.has_lapsed(&request.worker, now);
        if !allowed && !queue.lost.contains(&request.worker) {
            return vec![Answer::Stale; request.settlements.len()];
        }
        // A worker that was swept before: the answers of then once more, and nothing is taken.
        let before = queue.holds(&request.worker).len();
        let mut fronts = Vec::new();
        let answer = |one| queue.settle(&request.worker, one, allowed, now, &mut fronts);
        let answers = request.settlements.iter().map(answer).collect();
        // From the last to the first, each before the others: they keep their order.
        while let Some(id) = fronts.pop() {
            queue.put_before(&id, &fronts);
        }
        let after = queue.holds(&request.worker).len();
        if after == 0 {
            queue.leases.remove(&request.worker);
        }
        if request.only_if_lapsed && after < before {
            queue.lost.insert(request.worker.clone());
        }
        queue.keep_at_most(&request.retention);
        answers
    }

    /// What a worker holds, from the oldest delivery; equally old ones by id. Whole deliveries, at most a batch.
    #[must_use]
    pub fn unacked(&self, name: &QueueName, worker: &WorkerId, newer_than: Option<Token>) -> Vec<Held> {
        let Some(queue) = self.queues.get(name) else { return Vec::new() };
        let held = |id| {
            let job: &Job = &queue.jobs[&id];
            let held = job.held().expect("what a worker holds is running").clone();
            let progress = job.decoded().map(|(_, progress)| progress).unwrap_or_default();
            let record = job.record.clone();
            let (token, due) = (held.token, held.due);
            let delivery = Delivery { queue: name.clone(), id, token, due, record, progress };
            Held { delivery, started: held.started, deadline: held.deadline }
        };
        let is_newer = |held: &Held| newer_than.is_none_or(|token| held.delivery.token > token);
        let all: Vec<_> = queue.holds(worker).into_iter().map(held).filter(is_newer).collect();
        let mut page = Vec::new();
        for pull in all.chunk_by(|a, b| a.delivery.token == b.delivery.token) {
            if page.len() + pull.len() > MAX_BATCH {
                break;
            }
            page.extend_from_slice(pull);
        }
        page
    }

    pub fn pulse(&mut self, queue: &QueueName, lease: Duration, ahead: Duration, now: StoreTime) -> Pulse {
        let queue = self.queues.entry(queue.clone()).or_default();
        if now.since(queue.last_pulse) > SILENCE {
            queue.held_back = now + lease;
        }
        queue.last_pulse = now;
        let scores: Vec<_> = queue.line().into_iter().map(|(_, score)| score).collect();
        let (due, later): (Vec<_>, Vec<_>) = scores.iter().copied().partition(|score| *score <= now);
        let lapsed =
            queue.leases.keys().filter(|worker| queue.has_lapsed(worker, now)).take(16).cloned().collect();
        Pulse {
            now,
            paused: queue.paused,
            ready: due.len() as u64,
            waiting: scores.len() as u64,
            running: queue.jobs.values().filter(|job| job.held().is_some()).count() as u64,
            oldest_due: due.into_iter().min(),
            soon: later.iter().filter(|score| **score <= now + ahead).count() as u64,
            next_due: later.into_iter().min(),
            lapsed,
            outbox: queue.outbox.len() as u64,
            inbox: 0,
            live_version: queue.live_version,
            enqueued: queue.enqueued,
            ended: queue.ended,
        }
    }
}

impl Queue {
    fn has_lapsed(&self, worker: &WorkerId, now: StoreTime) -> bool {
        now >= self.held_back && self.leases.get(worker).is_some_and(|until| *until <= now)
    }

    /// Writes only if it is `allowed`; whether it was written before can be told in any case.
    fn settle(
        &mut self,
        worker: &WorkerId,
        settlement: &Settlement,
        allowed: bool,
        now: StoreTime,
        fronts: &mut Vec<JobId>,
    ) -> Answer {
        let Some(job) = self.jobs.get_mut(&settlement.id) else { return Answer::Gone };
        let current =
            job.held().filter(|held| allowed && held.worker == *worker && held.token == settlement.token);
        let Some(due) = current.map(|held| held.due) else {
            return if job.settled_by() == Some(settlement.token) { Answer::Ok } else { Answer::Stale };
        };
        let cancelled = matches!(job.place, Kept::Running { cancel: true, .. });
        job.progress = Some(settlement.progress.clone());
        match &settlement.write {
            // What somebody cancelled does not start again.
            Write::Return { .. } if cancelled => {
                let ended = settlement.if_cancelled.as_ref().expect("what may start again may be cancelled");
                job.progress = Some(ended.progress.clone());
                let state = FinalState::Cancelled;
                job.step(Event::AckCancelled, Kept::Ended { state, at: now, order: self.ended }, now);
                self.ended += 1;
                if let Some(digest) = &ended.remember {
                    self.remember(&settlement.id, digest.clone(), now);
                }
            }
            Write::Return { again } => {
                let score = match again {
                    Again::After(span) => now + *span,
                    Again::Front => {
                        fronts.push(settlement.id.clone());
                        due
                    }
                };
                job.step(settlement.event, Kept::Waiting { score }, now);
            }
            Write::Finish { state, follow_ups } => {
                job.step(settlement.event, Kept::Ended { state: *state, at: now, order: self.ended }, now);
                self.ended += 1;
                if let Some(digest) = &settlement.remember {
                    self.remember(&settlement.id, digest.clone(), now);
                }
                for follow_up in follow_ups {
                    self.tickets += 1;
                    let ticket = self.tickets.to_string();
                    self.outbox.push(Outgoing { ticket, follow_up: follow_up.clone() });
                }
            }
        }
        Answer::Ok
    }

    /// Puts a waiting job before all others of its priority, but for those that are still to be put.
    fn put_before(&mut self, id: &JobId, rest: &[JobId]) {
        let priority = self.jobs[id].priority;
        let line = self.line();
        let mut others = line.iter().filter(|(other, _)| {
            *other != *id && !rest.contains(other) && self.jobs[other].priority == priority
        });
        let first = others.next().map(|(_, score)| StoreTime::from_micros(score.as_micros() - 1));
        let Some(job) = self.jobs.get_mut(id) else { return };
        if let (Kept::Waiting { score }, Some(first)) = (&mut job.place, first) {
            *score = first.min(*score);
        }
    }
}
