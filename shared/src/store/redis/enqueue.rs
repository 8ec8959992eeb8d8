//! Storing jobs.

use redis::Cmd;

use super::RedisStore;
use super::reply::Parts;
use crate::job::record;
use crate::job::{Due, NewJob};
use crate::names::QueueName;
use crate::store::{Enqueued, MAX_BATCH, StoreError};

impl RedisStore {
    /// See [`crate::store::Store::enqueue`].
    pub async fn enqueue(
        &self,
        queue: &QueueName,
        jobs: &[NewJob],
        max_waiting: u64,
    ) -> Result<Vec<Enqueued>, StoreError> {
        self.room().await?;
        self.register(queue).await?;
        let mut answers = Vec::with_capacity(jobs.len());
        for batch in jobs.chunks(MAX_BATCH) {
            let mut parts =
                Parts::new(self.link.run_one(self.enqueue_call(queue, batch, max_waiting)).await?)?;
            let now = parts.time()?;
            if parts.is_empty() {
                answers.extend(batch.iter().map(|_| Enqueued::Created { due: now }));
                continue;
            }
            for _ in batch {
                answers.push(enqueued(&mut parts)?.unwrap_or(Enqueued::Existing));
            }
            self.register_again(queue, &parts).await?;
        }
        Ok(answers)
    }

    pub(super) fn enqueue_call(&self, queue: &QueueName, jobs: &[NewJob], max_waiting: u64) -> Cmd {
        let mut call = self.link.scripts.enqueue.call(&self.keys.base(queue));
        let plain = jobs.iter().all(is_plain);
        call.arg(max_waiting).arg(jobs.len()).arg(if plain { 2 } else { 7 });
        for job in jobs {
            call.arg(job.id.as_str()).arg(&job.content);
            if plain {
                continue;
            }
            let (mode, micros) = due_args(job.due);
            call.arg(job.priority).arg(mode).arg(micros);
            match job.expires {
                Some(expires) => call.arg(expires.as_micros()),
                None => call.arg(""),
            };
            if is_chosen(job) {
                let content = job.content.split('\n').next().unwrap_or_default();
                call.arg(record::digest(content));
            } else {
                call.arg("");
            }
        }
        call
    }

    /// Enters a queue in the registry, once a process: before its first job, so that none is overlooked.
    pub(super) async fn register(&self, queue: &QueueName) -> Result<(), StoreError> {
        if self.known.lock().is_ok_and(|known| known.contains(queue)) {
            return Ok(());
        }
        self.enter(queue).await
    }

    /// The same where an enqueue's answer has a part left: the queue was new to the store, which may have been emptied
    /// since it was entered.
    pub(super) async fn register_again(&self, queue: &QueueName, rest: &Parts) -> Result<(), StoreError> {
        if rest.is_empty() {
            return Ok(());
        }
        // Until it is entered the next call must try.
        if let Ok(mut known) = self.known.lock() {
            known.remove(queue);
        }
        self.enter(queue).await
    }

    /// Enters a queue in the registry.
    pub(super) async fn enter(&self, queue: &QueueName) -> Result<(), StoreError> {
        let mut call = self.link.scripts.enter.call(self.keys.namespace());
        call.arg("queues").arg(queue.as_str());
        self.link.run_one(call).await?;
        if let Ok(mut known) = self.known.lock() {
            known.insert(queue.clone());
        }
        Ok(())
    }
}

/// Whether the producer chose the id.
fn is_chosen(job: &NewJob) -> bool {
    job.content.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
}

/// Whether there is nothing to say of a job but its record.
fn is_plain(job: &NewJob) -> bool {
    job.due == Due::Now && job.priority == 0 && job.expires.is_none() && !is_chosen(job)
}

/// How a due time is told to a script.
pub(super) fn due_args(due: Due) -> (&'static str, i64) {
    match due {
        Due::Now => ("now", 0),
        Due::In(span) => ("in", i64::try_from(span.as_micros()).unwrap_or(i64::MAX)),
        Due::At(due) => ("at", due.as_micros()),
    }
}

/// One item's answer; `None` where its inbox entry had been taken by another.
pub(super) fn enqueued(parts: &mut Parts) -> Result<Option<Enqueued>, StoreError> {
    let code: u8 = parts.number()?;
    let detail = parts.text()?;
    let number = || detail.parse::<i64>().unwrap_or(0);
    Ok(Some(match code {
        0 => Enqueued::Created { due: crate::clock::StoreTime::from_micros(number()) },
        1 => Enqueued::Existing,
        2 => Enqueued::Conflict,
        3 => Enqueued::Full { waiting: u64::try_from(number()).unwrap_or(0) },
        4 => Enqueued::Expired,
        5 => return Ok(None),
        other => return Err(StoreError::Corrupt(format!("enqueue answered {other}"))),
    }))
}
