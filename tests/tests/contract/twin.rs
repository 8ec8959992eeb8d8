//! A real store and the model, led through the same operations.
//!
//! The real store reads a clock of its own; the model is told the moment. Where an answer carries it, that is exact;
//! where a due time was made of it, it is worked out from there, since scores decide the order of jobs; for the rest
//! it is enough that it lies between two readings of the clock.

use std::collections::BTreeMap;
use std::time::Duration;

use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::settle::{Again, Delivery, FollowUp, Settlement, Write};
use roundsman_shared::job::view::Place;
use roundsman_shared::job::{self, Due, FinalState, NewJob, Outcome, Run, Spec};
use roundsman_shared::names::{JobId, QueueName, WorkerId};
use roundsman_shared::store::{Enqueued, PullRequest, SettleRequest, Store, StoreError};
use roundsman_tests::model::Model;

use crate::args::{lease, new_job, policy, retention};
use crate::op::{AckArg, ClockArg, Op, OutcomeArg, PullArg, SettleArg, WORKERS};
use crate::stores::{HOUR, from_spec, queue, worker};

/// A job beside those of the operations.
pub(crate) const FIRST: &str = "first";

pub(crate) type Checked<T = ()> = Result<T, String>;

pub(crate) struct Twin<'s> {
    pub(crate) store: &'s Store,
    pub(crate) model: Model,
    pub(crate) queues: [QueueName; 2],
    /// The latest reading of the store's clock.
    pub(crate) known: StoreTime,
    /// Between which readings each job came to exist, in Unix ms.
    pub(crate) born: BTreeMap<(QueueName, JobId), (i64, i64)>,
    /// Each queue's deliveries so far, and to whom they went.
    pub(crate) given: [Vec<(u8, Delivery)>; 2],
    /// When something ended last: what ends later must do so in a later millisecond, since that is how fine the
    /// order of what has ended is kept.
    pub(crate) ended: StoreTime,
    pub(crate) live_versions: [u64; 2],
    pub(crate) pulsed: [StoreTime; 2],
    pub(crate) page: usize,
}

pub(crate) fn same<T: PartialEq + std::fmt::Debug>(what: &str, store: &T, model: &T) -> Checked {
    if store == model { Ok(()) } else { Err(format!("{what}\n  store: {store:?}\n  model: {model:?}")) }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that map_err asks for")]
pub(crate) fn failed(error: StoreError) -> String {
    format!("the store failed: {error}")
}

impl<'s> Twin<'s> {
    /// On queues of the case's own. Begins with a pulse; without it a store cannot tell whether workers could renew.
    /// Where somebody held a lease before it, none lapses for an hour from then on.
    pub(crate) async fn begin(store: &'s Store, case: u64, held_back: bool) -> Checked<Self> {
        let queues = [queue(&format!("c{case}-a")), queue(&format!("c{case}-b"))];
        let known = store.clock().await.map_err(failed)?.reading;
        let mut twin = Self {
            store,
            model: Model::default(),
            queues,
            known,
            born: BTreeMap::new(),
            given: [Vec::new(), Vec::new()],
            ended: StoreTime::default(),
            live_versions: [0, 0],
            pulsed: [known, known],
            page: 1 + usize::try_from(case % 5).unwrap_or(0),
        };
        for (at, queue) in twin.queues.clone().into_iter().enumerate() {
            if held_back {
                let first = from_spec(FIRST, &Spec::bare(true, "0".to_owned()));
                twin.enqueue(&queue, &[first], 1).await?;
                let clock = ClockArg::Unknown;
                twin.exchange(at, None, Some(PullArg { worker: WORKERS, max: 1, lapses: true, clock }))
                    .await?;
                twin.pulse(at, HOUR).await?;
            } else {
                store.pause(&queue, false).await.map_err(failed)?;
                twin.model.pause(&queue, false);
                twin.pulse(at, Duration::ZERO).await?;
            }
        }
        Ok(twin)
    }

    /// Whether the machine was so slow that the stores may take it for a silence. What would be seen of that depends
    /// on the last microsecond, so the case ends here; silences have a test of their own.
    pub(crate) fn has_stalled(&self) -> bool {
        self.pulsed.iter().any(|pulsed| self.known.since(*pulsed) > Duration::from_secs(2))
    }

    pub(crate) async fn apply(&mut self, at: u8, op: &Op) -> Checked {
        let (at, name) = (usize::from(at), self.queues[usize::from(at)].clone());
        match op {
            Op::Enqueue { jobs, max_waiting } => {
                let jobs: Vec<_> = jobs.iter().map(new_job).collect();
                self.enqueue(&name, &jobs, *max_waiting).await
            }
            Op::Pull(pull) => self.exchange(at, None, Some(*pull)).await,
            Op::Settle(settle) => self.exchange(at, Some(settle), None).await,
            Op::Exchange(settle, pull) => self.exchange(at, Some(settle), Some(*pull)).await,
            Op::Renew { worker, lapses, marks } => self.renew(at, *worker, lease(*lapses), marks).await,
            Op::Pulse => self.pulse(at, HOUR).await.map(drop),
            Op::Sweep { all } => self.sweep(at, *all).await,
            Op::Release { worker } => self.release(at, *worker, Outcome::GiveBack, false).await,
            Op::Trim { old } => self.trim(&name, *old).await,
            Op::SetLive { key, value } => {
                let (key, value) = (format!("k{key}"), value.map(|value| value.to_string()));
                self.store.set_live(&name, &key, value.as_deref()).await.map_err(failed)?;
                self.model.set_live(&name, &key, value.as_deref());
                same("live settings", &self.store.live(&name).await.map_err(failed)?, &self.model.live(&name))
            }
            Op::Pause { paused } => {
                self.store.pause(&name, *paused).await.map_err(failed)?;
                self.model.pause(&name, *paused);
                Ok(())
            }
            Op::MoveOutbox { count } => self.move_outbox(&name, usize::from(*count)).await,
            Op::Cancel { .. }
            | Op::Reschedule { .. }
            | Op::Replace { .. }
            | Op::Retry { .. }
            | Op::Delete { .. }
            | Op::Purge { .. } => self.change(&name, op).await,
        }
    }

    /// Reads the clock; what happened since the last reading did so between the two.
    pub(crate) async fn tick(&mut self) -> Checked<StoreTime> {
        let now = self.store.clock().await.map_err(failed)?.reading;
        if now < self.known {
            return Err(format!("the store's clock went back from {:?} to {now:?}", self.known));
        }
        Ok(std::mem::replace(&mut self.known, now))
    }

    pub(crate) async fn a_later_millisecond(&mut self) -> Checked {
        while self.known.as_millis() <= self.ended.as_millis() {
            self.tick().await?;
        }
        Ok(())
    }

    /// The moment of an operation, from the score that it gave to a job `span` ahead of it.
    pub(crate) async fn moment(
        &self,
        queue: &QueueName,
        id: &JobId,
        span: Duration,
        from: StoreTime,
    ) -> Checked<StoreTime> {
        let found = self.store.look(queue, std::slice::from_ref(id)).await.map_err(failed)?.remove(0);
        let score = match found.map(|found| found.place) {
            Some(Place::Waiting { due }) => due,
            Some(Place::Running(unacked)) => unacked.due,
            Some(Place::Ended) | None => return Ok(self.known),
        };
        let moment = score - span;
        Ok(if (from..=self.known).contains(&moment) { moment } else { self.known })
    }

    pub(crate) async fn enqueue(&mut self, queue: &QueueName, jobs: &[NewJob], max_waiting: u64) -> Checked {
        let from = self.tick().await?;
        let answers = self.store.enqueue(queue, jobs, max_waiting).await.map_err(failed)?;
        self.tick().await?;
        let mut now = self.known;
        let mut created = jobs.iter().zip(&answers).enumerate();
        let made_of_now = created.find_map(|(at, (job, answer))| match (answer, job.due) {
            (Enqueued::Created { .. }, Due::Now) => Some((&job.id, jobs.len() - at, Duration::ZERO)),
            (Enqueued::Created { .. }, Due::In(span)) => Some((&job.id, 0, span)),
            _ => None,
        });
        if let Some((id, behind, span)) = made_of_now {
            let behind = Duration::from_micros(behind as u64);
            now = self.moment(queue, id, span, from - behind).await? + behind;
        }
        for (job, answer) in jobs.iter().zip(&answers) {
            if let Enqueued::Created { .. } = answer {
                let window = (from.as_millis(), self.known.as_millis());
                self.born.insert((queue.clone(), job.id.clone()), window);
            }
        }
        same("enqueue", &answers, &self.model.enqueue(queue, jobs, max_waiting, now))
    }

    pub(crate) fn outcome(
        arg: OutcomeArg,
        name: &QueueName,
        other: &QueueName,
        token: i64,
        at: usize,
    ) -> Outcome {
        let error = || "no".to_owned();
        match arg {
            OutcomeArg::Done => Outcome::Done { result: None, follow_ups: Vec::new(), note: None },
            OutcomeArg::DoneWith(count) => {
                let queues = [other, name].into_iter().cycle();
                let follow_up = |(n, queue): (u8, &QueueName)| {
                    let spec = Spec { priority: 1, ..Spec::bare(true, n.to_string()) };
                    FollowUp { queue: queue.clone(), job: from_spec(&format!("f{token}.{at}.{n}"), &spec) }
                };
                let follow_ups = (0..count).zip(queues).map(follow_up).collect();
                let result = serde_json::value::RawValue::from_string("{\"n\":1.0}".to_owned()).ok();
                Outcome::Done { result, follow_ups, note: None }
            }
            OutcomeArg::RetryNow => Outcome::Retry { error: error(), after: Some(Duration::ZERO) },
            OutcomeArg::RetryLater => Outcome::TimedOut { error: error() },
            OutcomeArg::Snooze => Outcome::Snooze(HOUR),
            OutcomeArg::Dead => Outcome::Dead { error: error() },
            OutcomeArg::Cancelled => Outcome::Cancelled,
            OutcomeArg::Expired => Outcome::Expired,
            OutcomeArg::GiveBack => Outcome::GiveBack,
            OutcomeArg::Crashed => Outcome::Crashed { cause: error() },
            OutcomeArg::Killed => Outcome::Killed { cause: error() },
            OutcomeArg::Lapsed => Outcome::Lapsed,
        }
    }

    pub(crate) fn settlement(
        &self,
        delivery: &Delivery,
        number: u8,
        started: bool,
        outcome: Outcome,
    ) -> Checked<Settlement> {
        let spec = delivery.record.decode().map_err(|error| error.to_string())?;
        let ended = self.known.as_millis();
        let run = Run { worker: worker(number), started: started.then_some(ended), ended, stderr_tail: None };
        Ok(job::settle(delivery, &spec, outcome, &run, &policy(), 0.0))
    }

    pub(crate) fn settle_request(&self, at: usize, arg: &SettleArg) -> Checked<Option<SettleRequest>> {
        let given = &self.given[at];
        let (name, other) = (&self.queues[at], &self.queues[1 - at]);
        let pick = |ack: &AckArg| given.iter().rev().nth(usize::from(ack.back));
        let Some((first, _)) = arg.acks.iter().find_map(pick) else { return Ok(None) };
        let mut settlements = Vec::new();
        for (at, ack) in arg.acks.iter().enumerate() {
            let Some((number, delivery)) = pick(ack) else { continue };
            let outcome = Self::outcome(ack.outcome, name, other, delivery.token, at);
            settlements.push(self.settlement(delivery, *number, ack.started, outcome)?);
        }
        let name = name.clone();
        let worker = worker(if arg.foreign { first + 1 } else { *first });
        Ok(Some(self.request(name, worker, settlements, arg.only_if_lapsed)))
    }

    pub(crate) fn request(
        &self,
        queue: QueueName,
        worker: WorkerId,
        all: Vec<Settlement>,
        only_if_lapsed: bool,
    ) -> SettleRequest {
        let mut settlements = all;
        // In which order the items of one call end is not promised, but it shows when the oldest have to go: so they
        // stand in an order that each way of doing it keeps.
        let is_plain = |one: &Settlement| {
            let done = matches!(&one.write, Write::Finish { state: FinalState::Done, follow_ups } if follow_ups.is_empty());
            done && one.remember.is_none()
        };
        settlements.sort_by(|a, b| (!is_plain(a), &a.id).cmp(&(!is_plain(b), &b.id)));
        SettleRequest { queue, worker, settlements, retention: retention(false), only_if_lapsed }
    }

    pub(crate) async fn exchange(
        &mut self,
        at: usize,
        settle: Option<&SettleArg>,
        pull: Option<PullArg>,
    ) -> Checked {
        self.a_later_millisecond().await?;
        let request = settle.map(|arg| self.settle_request(at, arg)).transpose()?.flatten();
        self.tick().await?;
        let pull = pull.map(|arg| PullRequest {
            queue: self.queues[at].clone(),
            worker: worker(arg.worker),
            max: usize::from(arg.max),
            lease: lease(arg.lapses),
            latest: match arg.clock {
                ClockArg::Unknown => None,
                ClockArg::Right => Some(self.known + HOUR),
                ClockArg::Jumped => Some(self.known - HOUR),
            },
        });
        self.exchange_both(at, request.as_ref(), pull.as_ref()).await
    }

    pub(crate) async fn exchange_both(
        &mut self,
        at: usize,
        settle: Option<&SettleRequest>,
        pull: Option<&PullRequest>,
    ) -> Checked {
        let from = self.known;
        let (answers, pulled) = self.store.exchange(settle, pull).await.map_err(failed)?;
        self.tick().await?;
        if let Some(request) = settle {
            let mut now = self.known;
            for settlement in &request.settlements {
                if let Write::Return { again: Again::After(span) } = settlement.write {
                    now = now.min(self.moment(&request.queue, &settlement.id, span, from).await?);
                }
            }
            // The two halves happen one after the other.
            let now = pulled.as_ref().map_or(now, |pulled| now.min(pulled.now));
            same("settle", &answers, &self.model.settle(request, now))?;
            self.ended = self.known;
        }
        let (Some(request), Some(mut pulled)) = (pull, pulled) else { return Ok(()) };
        if !(from..=self.known).contains(&pulled.now) {
            return Err(format!("the pull says that it happened at {:?}", pulled.now));
        }
        let number = (0..u8::MAX).find(|number| worker(*number) == request.worker).unwrap_or_default();
        self.given[at].extend(pulled.deliveries.iter().map(|delivery| (number, delivery.clone())));
        let mut expected = self.model.pull(request, pulled.now);
        // Where more is ready, a store may say so by any moment that is not in the future.
        for pulled in [&mut pulled, &mut expected] {
            pulled.next_due = pulled.next_due.map(|due| due.max(pulled.now));
        }
        if pulled.skewed {
            // Nothing was looked at.
            (expected.paused, expected.next_due) = (pulled.paused, pulled.next_due);
        }
        self.version(at, pulled.live_version, expected.live_version)?;
        expected.live_version = pulled.live_version;
        self.unstamp(&mut pulled.deliveries, &mut expected.deliveries)?;
        same("pull", &pulled, &expected)
    }

    /// Checks when the records came to exist, and makes them alike in that.
    pub(crate) fn unstamp(&self, store: &mut [Delivery], model: &mut [Delivery]) -> Checked {
        for (store, model) in store.iter_mut().zip(model) {
            if store.id == model.id {
                self.born_in_time(&store.queue, &store.id, store.record.created())?;
                model.record = crate::compare::stamped(&model.record, &store.record);
            }
        }
        Ok(())
    }

    /// A version rises with each change and at no other time.
    pub(crate) fn version(&mut self, at: usize, store: u64, model: u64) -> Checked {
        let last = std::mem::replace(&mut self.live_versions[at], store);
        if store < last || store < model {
            return Err(format!("the live version is {store} after {last} and {model} changes"));
        }
        Ok(())
    }
}
