use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::record::{Record, digest};
use roundsman_shared::job::{Due, NewJob};
use roundsman_shared::names::QueueName;
use roundsman_shared::store::Enqueued;

use super::{Job, Kept, Model, Queue};

impl Model {
    /// Stores jobs one after the other.
    pub fn enqueue(
        &mut self,
        queue: &QueueName,
        jobs: &[NewJob],
        max_waiting: u64,
        now: StoreTime,
    ) -> Vec<Enqueued> {
        let queue = self.queues.entry(queue.clone()).or_default();
        let count = i64::try_from(jobs.len()).unwrap_or(i64::MAX);
        let places = (0..count).map(|at| StoreTime::from_micros(now.as_micros() - count + at));
        jobs.iter().zip(places).map(|(job, place)| queue.enqueue(job, place, max_waiting, now)).collect()
    }
}

impl Queue {
    /// `place` is where the job stands among those that are due now: behind all that came before it.
    fn enqueue(&mut self, job: &NewJob, place: StoreTime, max_waiting: u64, now: StoreTime) -> Enqueued {
        let record = Record::stamp(now, &job.content);
        if let Some(there) = self.jobs.get(&job.id) {
            return if there.record.content() == record.content() {
                Enqueued::Existing
            } else {
                Enqueued::Conflict
            };
        }
        if let Some(memory) = self.remembered.get(&job.id) {
            return if memory.digest == digest(record.content()) {
                Enqueued::Existing
            } else {
                Enqueued::Conflict
            };
        }
        if job.expires.is_some_and(|expires| expires <= now) {
            return Enqueued::Expired;
        }
        let waiting = self.waiting();
        if waiting >= max_waiting {
            return Enqueued::Full { waiting };
        }
        let score = match job.due {
            Due::Now => place,
            Due::In(span) => now + span,
            Due::At(due) => due,
        };
        let place = Kept::Waiting { score };
        self.jobs.insert(job.id.clone(), Job { record, priority: job.priority, progress: None, place });
        self.enqueued += 1;
        Enqueued::Created { due: if job.due == Due::Now { now } else { score } }
    }
}
