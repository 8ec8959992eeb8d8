use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::Record;
use roundsman_shared::job::lifecycle::Event;
use roundsman_shared::job::progress::Progress;
use roundsman_shared::job::{Due, FinalState, State};
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::store::{Cancelled, Changed, MAX_BATCH, Retention};

use super::{Job, Kept, Model, Queue};

impl Model {
    pub fn cancel(&mut self, queue: &QueueName, id: &JobId, now: StoreTime) -> Cancelled {
        let Some(queue) = self.queues.get_mut(queue) else { return Cancelled::NotFound };
        let Some(job) = queue.jobs.get_mut(id) else { return Cancelled::NotFound };
        match &mut job.place {
            Kept::Running { held, cancel } => {
                *cancel = true;
                Cancelled::Told(held.worker.clone())
            }
            Kept::Ended { state, .. } => Cancelled::AlreadyEnded(state.state()),
            Kept::Waiting { score } => {
                let score = *score;
                queue.finish(id, score, (Event::Cancel, FinalState::Cancelled), now);
                Cancelled::Now
            }
        }
    }

    pub fn expire(&mut self, queue: &QueueName, ids: &[JobId], now: StoreTime) -> u64 {
        let Some(queue) = self.queues.get_mut(queue) else { return 0 };
        let mut ended = 0;
        for id in ids {
            let Some(job) = queue.jobs.get(id) else { continue };
            let Kept::Waiting { score } = job.place else { continue };
            let spec = job.record.decode().expect("what was given is read");
            if spec.expiry(job.record.created_at()).is_some_and(|expiry| expiry <= now) {
                queue.finish(id, score, (Event::Expire, FinalState::Expired), now);
                ended += 1;
            }
        }
        ended
    }

    pub fn reschedule(&mut self, queue: &QueueName, id: &JobId, due: Due, now: StoreTime) -> Changed {
        let Some(queue) = self.queues.get_mut(queue) else { return Changed::NotFound };
        let Some(job) = queue.jobs.get_mut(id) else { return Changed::NotFound };
        let Kept::Waiting { .. } = job.place else { return Changed::Refused(job.state(now)) };
        let score = match due {
            Due::Now => now,
            Due::In(span) => now + span,
            Due::At(due) => due,
        };
        let event = if score > now { Event::Postpone } else { Event::Hasten };
        job.step(event, Kept::Waiting { score }, now);
        job.forget_due();
        Changed::Ok
    }

    pub fn replace(
        &mut self,
        queue: &QueueName,
        id: &JobId,
        content: &str,
        due: Option<Due>,
        now: StoreTime,
    ) -> Changed {
        let found = self.queues.get_mut(queue).and_then(|queue| queue.jobs.get_mut(id));
        let Some(job) = found else { return Changed::NotFound };
        let Kept::Waiting { .. } = job.place else { return Changed::Refused(job.state(now)) };
        job.record = Record::stamp(job.record.created_at(), content);
        due.map_or(Changed::Ok, |due| self.reschedule(queue, id, due, now))
    }

    pub fn retry(&mut self, queue: &QueueName, id: &JobId, now: StoreTime) -> Changed {
        let Some(queue) = self.queues.get_mut(queue) else { return Changed::NotFound };
        let Some(job) = queue.jobs.get_mut(id) else { return Changed::NotFound };
        match job.state(now) {
            state @ (State::Ready | State::Running | State::Done) => return Changed::Refused(state),
            State::Scheduled => job.forget_due(),
            State::Dead | State::Cancelled | State::Expired => {
                let (token, progress) = job.decoded().expect("what has ended has progress");
                job.progress = Some(forgiven(progress).encode(token));
                queue.remembered.remove(id);
            }
        }
        job.step(Event::Retry, Kept::Waiting { score: now }, now);
        Changed::Ok
    }

    pub fn delete(&mut self, queue: &QueueName, id: &JobId) -> Changed {
        let Some(queue) = self.queues.get_mut(queue) else { return Changed::NotFound };
        match queue.jobs.get(id).map(|job| job.held().is_some()) {
            None => return Changed::NotFound,
            Some(true) => return Changed::Refused(State::Running),
            Some(false) => {}
        }
        queue.jobs.remove(id);
        queue.remembered.remove(id);
        Changed::Ok
    }

    pub fn purge(&mut self, queue: &QueueName, state: State, now: StoreTime) -> u64 {
        let Some(queue) = self.queues.get_mut(queue) else { return 0 };
        let of_state = queue.jobs.iter().filter(|(_, job)| job.state(now) == state && job.held().is_none());
        let gone: Vec<JobId> = of_state.map(|(id, _)| id.clone()).take(MAX_BATCH).collect();
        for id in &gone {
            queue.jobs.remove(id);
        }
        gone.len() as u64
    }

    /// All at once: there is never more.
    pub fn trim(&mut self, queue: &QueueName, retention: &Retention, now: StoreTime) {
        let Some(queue) = self.queues.get_mut(queue) else { return };
        queue.forget_old(retention, now);
        queue.keep_at_most(retention);
    }
}

impl Queue {
    fn forget_old(&mut self, retention: &Retention, now: StoreTime) {
        for state in FinalState::ALL {
            let keep = match state {
                FinalState::Dead => retention.keep_dead,
                FinalState::Done | FinalState::Cancelled | FinalState::Expired => retention.keep_done,
            };
            for (_, _, id) in self.ended_in(state).into_iter().filter(|(at, _, _)| *at + keep <= now) {
                self.jobs.remove(&id);
            }
        }
        self.remembered.retain(|_, memory| memory.at + retention.remember_ids > now);
    }
}

impl Job {
    /// The due time that it had before is void once somebody has given it another.
    fn forget_due(&mut self) {
        if let Some((token, progress)) = self.decoded() {
            self.progress = Some(Progress { due: None, ..progress }.encode(token));
        }
    }
}

/// As it goes on after a retry: with its attempts, but nothing held against it.
fn forgiven(progress: Progress) -> Progress {
    Progress { attempt: progress.attempt, attempts: progress.attempts, ..Progress::default() }
}

impl Queue {
    /// A job that waits ends.
    fn finish(&mut self, id: &JobId, score: StoreTime, (event, state): (Event, FinalState), now: StoreTime) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let (_, mut progress) =
            Progress::decode(job.progress.as_deref().unwrap_or_default()).unwrap_or_default();
        progress.due = progress.due.or(Some(score.as_millis()));
        progress.state = Some(state);
        // No error ended it; what went wrong before stands with the attempts.
        progress.error = None;
        progress.ended = Some(now.as_millis());
        job.progress = Some(progress.encode(0));
        job.step(event, Kept::Ended { state, at: now, order: 0 }, now);
        let digest = job.record.chosen().then(|| job.record.digest());
        self.ended += 1;
        if let Some(digest) = digest {
            self.remember(id, digest, now);
        }
    }
}
