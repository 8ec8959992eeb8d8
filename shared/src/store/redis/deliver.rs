//! Deliveries: pull, acknowledge, renew, release, pulse.

use std::time::Duration;

use redis::Cmd;
use serde::{Deserialize, Serialize};

use super::RedisStore;
use super::reply::Parts;
use crate::clock::{SKEW_GUARD, StoreClock, StoreTime};
use crate::job::progress::Token;
use crate::job::settle::{Again, Delivery, FollowUp, Settlement, Write};
use crate::job::{Due, FinalState, NewJob, Progress, Record};
use crate::names::{JobId, QueueName, WorkerId};
use crate::store::{
    Answer, Glimpse, Held, MAX_BATCH, Outgoing, PullRequest, Pulled, Pulse, RenewRequest, Renewed, Retention,
    SettleRequest, StoreError,
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
        match (settle, pull) {
            (None, None) => Ok((Vec::new(), None)),
            // Both at once is one step, unless they concern two queues.
            (Some(one), Some(other)) if one.queue != other.queue || one.worker != other.worker => {
                let calls = [self.exchange_call(Some(one), None), self.exchange_call(None, Some(other))];
                let mut answers = self.link.run(&calls).await?.into_iter();
                let mut next = || Parts::new(answers.next().unwrap_or(redis::Value::Nil));
                let settled = answers_in_order(one, &next()?.text()?)?;
                let mut parts = next()?;
                parts.text()?;
                Ok((settled, Some(pulled(other, parts)?)))
            }
            (settle, pull) => {
                let mut parts = Parts::new(self.link.run_one(self.exchange_call(settle, pull)).await?)?;
                let answers = parts.text()?;
                let settled = settle.map_or(Ok(Vec::new()), |settle| answers_in_order(settle, &answers))?;
                Ok((settled, pull.map(|pull| pulled(pull, parts)).transpose()?))
            }
        }
    }

    fn exchange_call(&self, settle: Option<&SettleRequest>, pull: Option<&PullRequest>) -> Cmd {
        let (queue, worker) = match (settle, pull) {
            (Some(settle), _) => (&settle.queue, &settle.worker),
            (None, Some(pull)) => (&pull.queue, &pull.worker),
            (None, None) => unreachable!("the caller has one of the two"),
        };
        let mut call = self.link.scripts.exchange.call(&self.keys.base(queue));
        call.arg(worker.as_str());
        match pull {
            Some(pull) => call.arg(pull.max.min(MAX_BATCH)).arg(micros(pull.lease)),
            None => call.arg("").arg(0),
        };
        match pull.and_then(|pull| pull.latest) {
            Some(latest) => call.arg(latest.as_micros()),
            None => call.arg(""),
        };
        let Some(settle) = settle else {
            call.arg(0).arg(0).arg(0).arg(0).arg(0);
            return call;
        };
        let Retention { keep_done_max, keep_dead_max, remember_ids_max, .. } = settle.retention;
        call.arg(u8::from(settle.only_if_lapsed)).arg(keep_done_max).arg(keep_dead_max).arg(remember_ids_max);
        // Neighbours of one delivery are looked up together.
        let groups = || settle.settlements.chunk_by(|a, b| a.token == b.token);
        call.arg(groups().count());
        for group in groups() {
            let kinds: String = group.iter().map(|item| if is_plain(item) { 'p' } else { 'f' }).collect();
            call.arg(group[0].token).arg(kinds);
            for item in group {
                call.arg(item.id.as_str());
            }
            for item in group {
                item_args(&mut call, item);
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
    pub async fn unacked(
        &self,
        queue: &QueueName,
        worker: &WorkerId,
        newer_than: Option<Token>,
    ) -> Result<Vec<Held>, StoreError> {
        let mut call = self.link.scripts.unacked.call(&self.keys.base(queue));
        call.arg(worker.as_str());
        match newer_than {
            Some(token) => call.arg(token),
            None => call.arg(""),
        };
        let mut parts = Parts::new(self.link.read_one(call).await?)?;
        let mut all = Vec::with_capacity(parts.left() / 4);
        while !parts.is_empty() {
            let id = job_id(&parts.text()?)?;
            let held = held(&parts.text()?)?;
            let (record, kept) = (Record::new(parts.text()?), Kept::read(&parts.text()?));
            let (queue, token, due) = (queue.clone(), held.token, kept.due(&record));
            let delivery = Delivery { queue, id, token, due, record, progress: kept.progress };
            all.push(Held { delivery, started: held.started, deadline: held.deadline });
        }
        Ok(all)
    }

    /// See [`crate::store::Store::pulse`].
    pub async fn pulse(
        &self,
        queue: &QueueName,
        lease: Duration,
        ahead: Duration,
    ) -> Result<Pulse, StoreError> {
        let mut call = self.link.scripts.pulse.call(&self.keys.base(queue));
        call.arg(micros(lease)).arg(micros(PULSE_GAP)).arg(micros(ahead));
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
            soon: parts.number()?,
            lapsed: Vec::new(),
        };
        while !parts.is_empty() {
            let name = parts.text()?;
            pulse.lapsed.push(WorkerId::new(&name).map_err(|error| StoreError::Corrupt(error.to_string()))?);
        }
        Ok(pulse)
    }

    /// See [`crate::store::Store::glimpse`].
    pub async fn glimpse(&self, queue: &QueueName) -> Result<Glimpse, StoreError> {
        let mut call = redis::cmd("HMGET");
        call.arg(self.keys.of(queue, "meta"));
        for field in ["waiting", "running", "paused", "live", "enqueued", "ended"] {
            call.arg(field);
        }
        let fields: Vec<Option<u64>> = self.link.query(&call).await?;
        let at = |at: usize| fields.get(at).copied().flatten().unwrap_or(0);
        let (waiting, running, paused, live_version) = (at(0), at(1), at(2) == 1, at(3));
        Ok(Glimpse { waiting, running, paused, live_version, enqueued: at(4), ended: at(5) })
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

/// Done, and nothing else to do.
fn is_plain(item: &Settlement) -> bool {
    let done =
        matches!(&item.write, Write::Finish { state: FinalState::Done, follow_ups } if follow_ups.is_empty());
    done && item.remember.is_none()
}

fn item_args(call: &mut Cmd, item: &Settlement) {
    call.arg(&item.progress);
    if is_plain(item) {
        return;
    }
    let (code, number, remember) = match &item.write {
        Write::Finish { state, .. } => (state.as_str(), 0, &item.remember),
        Write::Return { again } => {
            let remember = item.if_cancelled.as_ref().map_or(&None, |ended| &ended.remember);
            match again {
                Again::Front => ("front", item.due.as_micros(), remember),
                Again::After(span) => ("after", micros(*span), remember),
            }
        }
    };
    call.arg(code).arg(number).arg(item.priority).arg(remember.as_deref().unwrap_or(""));
    match (&item.write, &item.if_cancelled) {
        (Write::Finish { follow_ups, .. }, _) => {
            call.arg(follow_ups.len());
            for follow_up in follow_ups {
                call.arg(entry(follow_up));
            }
        }
        (Write::Return { .. }, Some(ended)) => {
            call.arg(1).arg(&ended.progress);
        }
        (Write::Return { .. }, None) => {
            call.arg(0);
        }
    }
}

fn answers_in_order(request: &SettleRequest, digits: &str) -> Result<Vec<Answer>, StoreError> {
    if digits.len() != request.settlements.len() {
        return Err(StoreError::Corrupt(format!("{:?} answers {} items", digits, request.settlements.len())));
    }
    let answer = |digit| match digit {
        b'0' => Answer::Ok,
        b'1' => Answer::Stale,
        _ => Answer::Gone,
    };
    Ok(digits.bytes().map(answer).collect())
}

pub(super) fn millis(span: Duration) -> u64 {
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
        deliveries: Vec::new(),
    };
    let ids = parts.text()?;
    for id in ids.split_ascii_whitespace() {
        let (queue, id) = (request.queue.clone(), job_id(id)?);
        let (record, progress) = (Record::new(parts.text()?), Progress::default());
        pulled.deliveries.push(Delivery { queue, id, token, due: record.due(), record, progress });
    }
    if !parts.is_empty() {
        for delivery in &mut pulled.deliveries {
            let kept = Kept::read(&parts.text()?);
            delivery.due = kept.due(&delivery.record);
            delivery.progress = kept.progress;
        }
    }
    Ok(pulled)
}

pub(super) fn job_id(text: &str) -> Result<JobId, StoreError> {
    JobId::new(text).map_err(|error| StoreError::Corrupt(format!("{text:?} is no job id: {error}")))
}

/// What is stored of a job's progress: `TOKEN DUE {…}` while it waits or runs, `TOKEN …` once it has ended.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) token: Token,
    due: Option<StoreTime>,
    pub(super) progress: Progress,
}

impl Kept {
    /// Nothing where there is none, or where it cannot be read.
    pub(super) fn read(text: &str) -> Self {
        let (due, rest) = match text.split_once(' ').and_then(|(token, rest)| {
            let (due, rest) = rest.split_once(' ')?;
            Some((due.parse().ok()?, format!("{token} {rest}")))
        }) {
            Some((due, rest)) => (Some(StoreTime::from_micros(due)), rest),
            None => (None, text.to_owned()),
        };
        let (token, progress) = Progress::decode(&rest).unwrap_or_default();
        Self { token, due, progress }
    }

    /// When the job was due: as it was before it was put back to the front, as it was put off, or as it was given.
    pub(super) fn due(&self, record: &Record) -> StoreTime {
        self.progress.due.map(StoreTime::from_millis).or(self.due).unwrap_or_else(|| record.due())
    }
}

/// `TOKEN [STARTED DEADLINE]`
pub(super) struct HeldText {
    pub(super) token: Token,
    pub(super) started: Option<i64>,
    pub(super) deadline: Option<i64>,
}

pub(super) fn held(text: &str) -> Result<HeldText, StoreError> {
    let mut numbers = text.split(' ').map(str::parse::<i64>);
    let mut next = || numbers.next().and_then(Result::ok);
    let token = next().ok_or_else(|| StoreError::Corrupt(format!("{text:?} is no delivery")))?;
    Ok(HeldText { token, started: next(), deadline: next() })
}
