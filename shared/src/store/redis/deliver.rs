//! Deliveries: pull, acknowledge, renew, release, pulse.

use std::time::Duration;

use redis::Cmd;
use serde::{Deserialize, Serialize};

use super::RedisStore;
use super::reply::Parts;
use crate::clock::{SKEW_GUARD, StoreClock, StoreTime};
use crate::job::settle::{Again, Delivery, FollowUp, Settlement, Write};
use crate::job::{Due, FinalState, NewJob, Progress, Record};
use crate::names::{JobId, QueueName, WorkerId};
use crate::store::{
    Answer, Held, Outgoing, PullRequest, Pulled, Pulse, RenewRequest, Renewed, Retention, SettleRequest,
    StoreError,
};

/// A silence of pulses longer than this means that nobody could renew.
const PULSE_GAP: Duration = Duration::from_secs(3);

pub(super) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// A follow-up as it stands in the outbox.
#[derive(Serialize, Deserialize)]
struct Entry {
    queue: QueueName,
    id: JobId,
    due: Due,
    priority: i16,
    expires: Option<StoreTime>,
    content: String,
}

fn entry(follow_up: &FollowUp) -> String {
    let job = &follow_up.job;
    serde_json::to_string(&Entry {
        queue: follow_up.queue.clone(),
        id: job.id.clone(),
        due: job.due,
        priority: job.priority,
        expires: job.expires,
        content: job.content.clone(),
    })
    .expect("plain data serialises")
}

impl RedisStore {
    /// See [`crate::store::Store::exchange`].
    pub async fn exchange(
        &self,
        settle: Option<&SettleRequest>,
        pull: Option<&PullRequest>,
    ) -> Result<(Vec<Answer>, Option<Pulled>), StoreError> {
        let settle = settle.filter(|request| !request.settlements.is_empty());
        let mut calls = Vec::with_capacity(2);
        if let Some(request) = settle {
            calls.push(self.settle_call(request));
        }
        if let Some(request) = pull {
            calls.push(self.pull_call(request));
        }
        if calls.is_empty() {
            return Ok((Vec::new(), None));
        }
        let mut answers = self.link.run(&calls).await?.into_iter();
        let mut next =
            || answers.next().ok_or_else(|| StoreError::Corrupt("an answer is missing".to_owned()));
        let mut settled = Vec::new();
        if let Some(settle) = settle {
            settled = answers_in_order(settle, Parts::new(next()?)?)?;
        }
        let pulled = match pull {
            Some(request) => Some(pulled(request, Parts::new(next()?)?)?),
            None => None,
        };
        Ok((settled, pulled))
    }

    fn pull_call(&self, request: &PullRequest) -> Cmd {
        let mut call = self.link.scripts.pull.call(&self.keys.base(&request.queue));
        call.arg(request.worker.as_str()).arg(request.max).arg(micros(request.lease));
        match request.latest {
            Some(latest) => call.arg(latest.as_micros()),
            None => call.arg(""),
        };
        call
    }

    fn settle_call(&self, request: &SettleRequest) -> Cmd {
        let Retention { keep_done_max, keep_dead_max, remember_ids_max, .. } = request.retention;
        let mut call = self.link.scripts.settle.call(&self.keys.base(&request.queue));
        call.arg(request.worker.as_str()).arg(u8::from(request.only_if_lapsed));
        call.arg(keep_done_max).arg(keep_dead_max).arg(remember_ids_max);
        let (plain, rest) = by_kind(&request.settlements);
        call.arg(plain.len()).arg(request.settlements.len());
        for at in plain {
            let item = &request.settlements[at];
            call.arg(item.id.as_str()).arg(&item.progress);
        }
        for at in rest {
            let item = &request.settlements[at];
            let (code, after, follow_ups): (_, _, &[FollowUp]) = match &item.write {
                Write::Finish { state, follow_ups } => (state.as_str(), 0, follow_ups),
                Write::Return { again: Again::Front } => ("front", 0, &[]),
                Write::Return { again: Again::After(span) } => ("after", micros(*span), &[]),
            };
            call.arg(item.id.as_str())
                .arg(&item.progress)
                .arg(item.token)
                .arg(code)
                .arg(after)
                .arg(item.priority);
            call.arg(item.remember.as_deref().unwrap_or("")).arg(follow_ups.len());
            for follow_up in follow_ups {
                call.arg(entry(follow_up));
            }
        }
        call
    }

    /// See [`crate::store::Store::renew`].
    pub async fn renew(&self, request: &RenewRequest) -> Result<Renewed, StoreError> {
        let mut call = self.link.scripts.renew.call(&self.keys.base(&request.queue));
        call.arg(request.worker.as_str()).arg(micros(request.lease)).arg(request.marks.len());
        for mark in &request.marks {
            call.arg(mark.id.as_str()).arg(mark.token).arg(mark.started).arg(mark.deadline);
        }
        let mut parts = Parts::new(self.link.run_one(call).await?)?;
        let mut renewed = Renewed { now: parts.time()?, lost: parts.flag()?, cancel: Vec::new() };
        while !parts.is_empty() {
            renewed.cancel.push(job_id(&parts.text()?)?);
        }
        Ok(renewed)
    }

    /// See [`crate::store::Store::unacked`].
    pub async fn unacked(&self, queue: &QueueName, worker: &WorkerId) -> Result<Vec<Held>, StoreError> {
        let mut call = self.link.scripts.unacked.call(&self.keys.base(queue));
        call.arg(worker.as_str());
        let mut parts = Parts::new(self.link.run_one(call).await?)?;
        let mut all = Vec::with_capacity(parts.left() / 4);
        while !parts.is_empty() {
            let id = job_id(&parts.text()?)?;
            let held = held(&parts.text()?)?;
            let delivery = Delivery {
                queue: queue.clone(),
                id,
                token: held.token,
                due: held.due,
                record: Record::new(parts.text()?),
                progress: progress(&parts.text()?),
            };
            all.push(Held { delivery, started: held.started, deadline: held.deadline });
        }
        Ok(all)
    }

    /// See [`crate::store::Store::pulse`].
    pub async fn pulse(&self, queue: &QueueName, lease: Duration) -> Result<Pulse, StoreError> {
        let mut call = self.link.scripts.pulse.call(&self.keys.base(queue));
        call.arg(micros(lease)).arg(micros(PULSE_GAP));
        let mut parts = Parts::new(self.link.run_one(call).await?)?;
        let mut pulse = Pulse {
            now: parts.time()?,
            paused: parts.flag()?,
            ready: parts.number()?,
            waiting: parts.number()?,
            running: parts.number()?,
            oldest_due: parts.maybe_time()?,
            next_due: parts.maybe_time()?,
            outbox: parts.number()?,
            inbox: parts.number()?,
            live_version: parts.number()?,
            enqueued: parts.number()?,
            ended: parts.number()?,
            lapsed: Vec::new(),
        };
        while !parts.is_empty() {
            let name = parts.text()?;
            pulse.lapsed.push(WorkerId::new(&name).map_err(|error| StoreError::Corrupt(error.to_string()))?);
        }
        Ok(pulse)
    }

    /// See [`crate::store::Store::trim`].
    pub async fn trim(&self, queue: &QueueName, retention: &Retention) -> Result<bool, StoreError> {
        let mut call = self.link.scripts.trim.call(&self.keys.base(queue));
        call.arg(retention.keep_done_max).arg(millis(retention.keep_done));
        call.arg(retention.keep_dead_max).arg(millis(retention.keep_dead));
        call.arg(retention.remember_ids_max).arg(millis(retention.remember_ids));
        Ok(self.link.run_one(call).await? == redis::Value::Int(1))
    }

    /// See [`crate::store::Store::outbox`].
    pub async fn outbox(&self, queue: &QueueName) -> Result<Vec<Outgoing>, StoreError> {
        let raw: Vec<String> =
            self.link.query(redis::cmd("LRANGE").arg(self.keys.of(queue, "outbox")).arg(0).arg(255)).await?;
        raw.into_iter()
            .map(|ticket| {
                let entry: Entry =
                    serde_json::from_str(&ticket).map_err(|error| StoreError::Corrupt(error.to_string()))?;
                let job = NewJob {
                    id: entry.id,
                    due: entry.due,
                    priority: entry.priority,
                    expires: entry.expires,
                    content: entry.content,
                };
                Ok(Outgoing { ticket, follow_up: FollowUp { queue: entry.queue, job } })
            })
            .collect()
    }

    /// See [`crate::store::Store::outbox_moved`].
    pub async fn outbox_moved(&self, queue: &QueueName, tickets: &[String]) -> Result<(), StoreError> {
        for ticket in tickets {
            self.link
                .query::<i64>(redis::cmd("LREM").arg(self.keys.of(queue, "outbox")).arg(1).arg(ticket))
                .await?;
        }
        Ok(())
    }

    /// See [`crate::store::Store::steer`].
    pub async fn steer(&self, queue: &QueueName, expected: StoreTime) -> Result<bool, StoreError> {
        let mut call = self.link.scripts.steer.call(&self.keys.base(queue));
        call.arg(expected.as_micros()).arg(micros(SKEW_GUARD));
        let moved = Parts::new(redis::Value::Array(vec![self.link.run_one(call).await?]))?.number::<i64>()?;
        if moved != 0 {
            tracing::error!(%queue, moved_ms = moved / 1000, "the clock of Redis has jumped; the queue's clock goes on as before");
        }
        Ok(moved != 0)
    }

    /// See [`crate::store::Store::clock`].
    pub async fn clock(&self) -> Result<StoreClock, StoreError> {
        let sent = crate::clock::Mono::now();
        let (seconds, micros): (i64, i64) = self.link.query(&redis::cmd("TIME")).await?;
        let reading = StoreTime::from_micros(seconds * 1_000_000 + micros);
        Ok(StoreClock { reading, sent, received: crate::clock::Mono::now() })
    }
}

/// Plain acknowledgements (done, and nothing else to do), and the rest: the script takes the former first.
fn by_kind(settlements: &[Settlement]) -> (Vec<usize>, Vec<usize>) {
    (0..settlements.len()).partition(|at| {
        let item = &settlements[*at];
        let done = matches!(&item.write, Write::Finish { state: FinalState::Done, follow_ups } if follow_ups.is_empty());
        done && item.remember.is_none()
    })
}

fn answers_in_order(request: &SettleRequest, mut parts: Parts) -> Result<Vec<Answer>, StoreError> {
    let (plain, rest) = by_kind(&request.settlements);
    let mut answers = vec![Answer::Gone; request.settlements.len()];
    for at in plain.into_iter().chain(rest) {
        answers[at] = match parts.number::<u8>()? {
            0 => Answer::Ok,
            1 => Answer::Stale,
            _ => Answer::Gone,
        };
    }
    Ok(answers)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn pulled(request: &PullRequest, mut parts: Parts) -> Result<Pulled, StoreError> {
    let now = parts.time()?;
    let token = parts.text()?.parse().unwrap_or(0);
    let mut pulled = Pulled {
        now,
        next_due: parts.maybe_time()?,
        paused: parts.flag()?,
        skewed: parts.flag()?,
        live_version: parts.number()?,
        deliveries: Vec::with_capacity(parts.left() / 4),
    };
    while !parts.is_empty() {
        pulled.deliveries.push(Delivery {
            queue: request.queue.clone(),
            id: job_id(&parts.text()?)?,
            token,
            due: parts.time()?,
            record: Record::new(parts.text()?),
            progress: progress(&parts.text()?),
        });
    }
    Ok(pulled)
}

pub(super) fn job_id(text: &str) -> Result<JobId, StoreError> {
    JobId::new(text).map_err(|error| StoreError::Corrupt(format!("{text:?} is no job id: {error}")))
}

/// What is stored of progress; none where there is none, or where it cannot be read.
pub(super) fn progress(text: &str) -> Progress {
    Progress::decode(text).map_or_else(Progress::default, |(_, progress)| progress)
}

/// `TOKEN DUE [STARTED DEADLINE]`
pub(super) struct HeldText {
    pub(super) token: i64,
    pub(super) due: StoreTime,
    pub(super) started: Option<i64>,
    pub(super) deadline: Option<i64>,
}

pub(super) fn held(text: &str) -> Result<HeldText, StoreError> {
    let mut numbers = text.split(' ').map(str::parse::<i64>);
    let mut next = || numbers.next().and_then(Result::ok);
    match (next(), next()) {
        (Some(token), Some(due)) => {
            Ok(HeldText { token, due: StoreTime::from_micros(due), started: next(), deadline: next() })
        }
        _ => Err(StoreError::Corrupt(format!("{text:?} is no delivery"))),
    }
}
