//! What people do to jobs and queues.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Cmd;

use super::RedisStore;
use super::deliver::{Kept, millis};
use super::enqueue::due_args;
use super::link::MEMORY_AGE;
use crate::clock::{Mono, StoreTime};
use crate::job::progress::Progress;
use crate::job::view::{Found, Place};
use crate::job::{Due, FinalState, Policy, State};
use crate::names::{JobId, QueueName};
use crate::store::{Cancelled, Changed, Durability, HostBeat, StoreError};

/// How often a change is tried again when the job moved between being looked at and being changed.
const TRIES: usize = 16;

/// Where memory is short, kept jobs are forgotten but for those that ended so lately: whoever waits for one must see it.
const READABLE: Duration = Duration::from_secs(2);
/// How long that may take, before an enqueue is answered.
const GIVE_WAY_WITHIN: Duration = Duration::from_millis(100);
/// Queues that are asked in one round trip to let kept jobs go.
const GIVE_WAY_AT_ONCE: usize = 16;

fn busy() -> StoreError {
    StoreError::Unavailable("the job keeps changing; try again".to_owned())
}

impl RedisStore {
    async fn look_one(&self, queue: &QueueName, id: &JobId) -> Result<Option<Seen>, StoreError> {
        Ok(self.look_raw(queue, std::slice::from_ref(id)).await?.into_iter().next().flatten())
    }

    fn revise_call(&self, queue: &QueueName, id: &JobId, seen: &Seen, verb: &str) -> Cmd {
        let place = if seen.found.place == Place::Ended { "ended" } else { "waiting" };
        let mut call = self.link.scripts.revise.call(&self.keys.base(queue));
        call.arg(id.as_str()).arg(place).arg(&seen.progress).arg(verb);
        call
    }

    async fn done(&self, call: Cmd) -> Result<bool, StoreError> {
        Ok(self.link.run_one(call).await? == redis::Value::Int(1))
    }

    /// See [`crate::store::Store::cancel`].
    pub async fn cancel(&self, queue: &QueueName, id: &JobId) -> Result<Cancelled, StoreError> {
        for _ in 0..TRIES {
            let Some(seen) = self.look_one(queue, id).await? else { return Ok(Cancelled::NotFound) };
            match &seen.found.place {
                Place::Ended => return Ok(Cancelled::AlreadyEnded(seen.found.state())),
                Place::Running(unacked) => {
                    let mut call = self.link.scripts.tell.call(&self.keys.base(queue));
                    call.arg(id.as_str()).arg(unacked.worker.as_str());
                    if self.done(call).await? {
                        return Ok(Cancelled::Told(unacked.worker.clone()));
                    }
                }
                Place::Waiting { due } => {
                    let call = self.finish_call(queue, &seen, *due, FinalState::Cancelled);
                    if self.done(call).await? {
                        return Ok(Cancelled::Now);
                    }
                }
            }
        }
        Err(busy())
    }

    /// Ends a job that waits, as cancelled or expired.
    fn finish_call(&self, queue: &QueueName, seen: &Seen, due: StoreTime, state: FinalState) -> Cmd {
        let found = &seen.found;
        let progress = Progress {
            state: Some(state),
            // No error ended it; what went wrong before stands with the attempts.
            error: None,
            due: found.progress.due.or(Some(due.as_millis())),
            ended: Some(found.now.as_millis()),
            ..found.progress.clone()
        };
        let digest = if found.record.chosen() { found.record.digest() } else { String::new() };
        let mut call = self.revise_call(queue, &found.id, seen, "finish");
        call.arg(progress.encode(0)).arg(digest).arg(Policy::default().keep_done_max).arg(state.as_str());
        call
    }

    /// See [`crate::store::Store::expire`].
    pub async fn expire(&self, queue: &QueueName, ids: &[JobId]) -> Result<u64, StoreError> {
        let seen = self.look_raw(queue, ids).await?;
        let mut calls = Vec::new();
        for seen in seen.iter().flatten().filter(|seen| seen.found.is_over()) {
            if let Place::Waiting { due } = seen.found.place {
                calls.push(self.finish_call(queue, seen, due, FinalState::Expired));
            }
        }
        if calls.is_empty() {
            return Ok(0);
        }
        // One that was pulled or changed meanwhile is left alone.
        let answers = self.link.run(&calls).await?;
        Ok(answers.iter().filter(|answer| **answer == redis::Value::Int(1)).count() as u64)
    }

    /// See [`crate::store::Store::reschedule`].
    pub async fn reschedule(&self, queue: &QueueName, id: &JobId, due: Due) -> Result<Changed, StoreError> {
        self.redo(queue, id, Some(due), "").await
    }

    /// See [`crate::store::Store::replace`].
    pub async fn replace(
        &self,
        queue: &QueueName,
        id: &JobId,
        content: &str,
        due: Option<Due>,
    ) -> Result<Changed, StoreError> {
        self.redo(queue, id, due, content).await
    }

    async fn redo(
        &self,
        queue: &QueueName,
        id: &JobId,
        due: Option<Due>,
        content: &str,
    ) -> Result<Changed, StoreError> {
        for _ in 0..TRIES {
            let Some(seen) = self.look_one(queue, id).await? else { return Ok(Changed::NotFound) };
            if !matches!(seen.found.place, Place::Waiting { .. }) {
                return Ok(Changed::Refused(seen.found.state()));
            }
            let (mode, micros) = due.map_or(("keep", 0), due_args);
            let progress = if due.is_some() { put_off(&seen) } else { kept(&seen) };
            let mut call = self.revise_call(queue, id, &seen, "due");
            call.arg(mode).arg(micros).arg(progress).arg(content);
            if self.done(call).await? {
                return Ok(Changed::Ok);
            }
        }
        Err(busy())
    }

    /// See [`crate::store::Store::retry`].
    pub async fn retry(&self, queue: &QueueName, id: &JobId) -> Result<Changed, StoreError> {
        for _ in 0..TRIES {
            let Some(seen) = self.look_one(queue, id).await? else { return Ok(Changed::NotFound) };
            let state = seen.found.state();
            let call = match state {
                State::Scheduled => {
                    let mut call = self.revise_call(queue, id, &seen, "due");
                    call.arg("now").arg(0).arg(put_off(&seen)).arg("");
                    call
                }
                State::Dead | State::Cancelled | State::Expired => {
                    let spec =
                        seen.found.record.decode().map_err(|error| StoreError::Corrupt(error.to_string()))?;
                    let Kept { token, progress, .. } = Kept::read(&seen.progress);
                    let mut call = self.revise_call(queue, id, &seen, "revive");
                    call.arg(progress.forgiven().encode(token)).arg(spec.priority);
                    call
                }
                State::Ready | State::Running | State::Done => return Ok(Changed::Refused(state)),
            };
            if self.done(call).await? {
                return Ok(Changed::Ok);
            }
        }
        Err(busy())
    }

    /// See [`crate::store::Store::delete`].
    pub async fn delete(&self, queue: &QueueName, id: &JobId) -> Result<Changed, StoreError> {
        for _ in 0..TRIES {
            let Some(seen) = self.look_one(queue, id).await? else { return Ok(Changed::NotFound) };
            if matches!(seen.found.place, Place::Running(_)) {
                return Ok(Changed::Refused(State::Running));
            }
            if self.done(self.revise_call(queue, id, &seen, "delete")).await? {
                return Ok(Changed::Ok);
            }
        }
        Err(busy())
    }

    /// See [`crate::store::Store::purge`].
    pub async fn purge(&self, queue: &QueueName, state: State) -> Result<u64, StoreError> {
        if state == State::Running {
            return Ok(0);
        }
        let mut call = self.link.scripts.purge.call(&self.keys.base(queue));
        call.arg(state.as_str());
        match self.link.run_one(call).await? {
            redis::Value::Int(count) => Ok(u64::try_from(count).unwrap_or(0)),
            _ => Err(StoreError::Corrupt("purge gave no number".to_owned())),
        }
    }

    /// See [`crate::store::Store::pause`].
    pub async fn pause(&self, queue: &QueueName, paused: bool) -> Result<(), StoreError> {
        self.enter(queue).await?;
        let mut call = self.link.scripts.adjust.call(&self.keys.base(queue));
        call.arg("paused").arg(u8::from(paused));
        self.link.run_one(call).await.map(|_| ())
    }

    /// See [`crate::store::Store::live`].
    pub async fn live(&self, queue: &QueueName) -> Result<BTreeMap<String, String>, StoreError> {
        self.link.query(redis::cmd("HGETALL").arg(self.keys.of(queue, "live"))).await
    }

    /// See [`crate::store::Store::set_live`].
    pub async fn set_live(
        &self,
        queue: &QueueName,
        key: &str,
        value: Option<&str>,
    ) -> Result<(), StoreError> {
        self.enter(queue).await?;
        let mut call = self.link.scripts.adjust.call(&self.keys.base(queue));
        call.arg("live").arg(key).arg(value);
        self.link.run_one(call).await.map(|_| ())
    }

    /// See [`crate::store::Store::beat`].
    pub async fn beat(&self, beat: &HostBeat) -> Result<(), StoreError> {
        let mut call = self.link.scripts.beat.call(&self.keys.registry());
        call.arg(&beat.host).arg(&beat.record).arg(millis(beat.lease));
        self.link.run_one(call).await.map(|_| ())
    }

    /// See [`crate::store::Store::leave`].
    pub async fn leave(&self, host: &str) -> Result<(), StoreError> {
        self.link.query::<i64>(redis::cmd("HDEL").arg(self.keys.hosts()).arg(host)).await?;
        self.link.query::<i64>(redis::cmd("ZREM").arg(self.keys.host_leases()).arg(host)).await?;
        Ok(())
    }

    /// See [`crate::store::Store::hosts`].
    pub async fn hosts(&self) -> Result<Vec<String>, StoreError> {
        let now = self.clock().await?.reading.as_millis();
        let leases = self.keys.host_leases();
        let live: Vec<String> = self
            .link
            .query(redis::cmd("ZRANGEBYSCORE").arg(leases).arg(format!("({now}")).arg("+inf"))
            .await?;
        if live.is_empty() {
            return Ok(Vec::new());
        }
        let records: Vec<Option<String>> =
            self.link.query(redis::cmd("HMGET").arg(self.keys.hosts()).arg(&live)).await?;
        Ok(records.into_iter().flatten().collect())
    }

    /// See [`crate::store::Store::room`].
    pub async fn room(&self) -> Result<(), StoreError> {
        let mut memory = self.link.memory.lock().await;
        let now = Mono::now();
        if let Some((at, verdict)) = memory.as_ref()
            && now.since(*at) < MEMORY_AGE
        {
            return verdict.clone();
        }
        let mut verdict = self.link.judge_memory().await?;
        while matches!(verdict, Err(StoreError::NearLimit(_)))
            && Mono::now().since(now) < GIVE_WAY_WITHIN
            && self.give_way().await?
        {
            verdict = self.link.judge_memory().await?;
        }
        *memory = Some((now, verdict.clone()));
        verdict
    }

    /// Forgets some of what is kept only to be read. Answers whether there was any.
    async fn give_way(&self) -> Result<bool, StoreError> {
        let began = Mono::now();
        let mut queues = self.queues().await?;
        if !queues.is_empty() {
            let first = self.gave_way.fetch_add(GIVE_WAY_AT_ONCE, Ordering::Relaxed) % queues.len();
            queues.rotate_left(first);
        }
        for queues in queues.chunks(GIVE_WAY_AT_ONCE) {
            let calls: Vec<_> = queues
                .iter()
                .map(|queue| {
                    let mut call = self.link.scripts.give_way.call(&self.keys.base(queue));
                    call.arg(millis(READABLE));
                    call
                })
                .collect();
            let gone = self.link.run(&calls).await?;
            if gone.iter().any(|gone| *gone != redis::Value::Int(0)) {
                return Ok(true);
            }
            if Mono::now().since(began) > GIVE_WAY_WITHIN {
                break;
            }
        }
        Ok(false)
    }

    /// See [`crate::store::Store::durability`].
    pub async fn durability(&self) -> Result<Durability, StoreError> {
        self.link.durability().await
    }
}

/// The progress of a job whose due time is given anew.
fn put_off(seen: &Seen) -> String {
    let Kept { token, progress, .. } = Kept::read(&seen.progress);
    Progress { due: None, ..progress }.encode(token)
}

/// The progress of a job whose due time stays.
fn kept(seen: &Seen) -> String {
    let Kept { token, progress, .. } = Kept::read(&seen.progress);
    progress.encode(token)
}

/// A job together with the raw progress that a change of it is compared by.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) found: Found,
    pub(super) progress: String,
}
