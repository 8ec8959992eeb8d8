//! One queue of the broker, taken in for ever.
//!
//! ```text
//!            ┌──────────── lost, for whatever reason: wait a little, with jitter ◀───────────┐
//!            ▼                                                                               │
//!   store has room? ─▶ connect ─▶ queue is there ─▶ consume ─▶ held ─▶ store ─▶ ack ─────────┤
//!                                                     ▲          │ full, or the store away   │
//!                                                     └──────────┴── stays held, tried again ┘
//! ```
//! At most `prefetch` messages are held. While one batch is stored the next arrives; a batch is whatever has, up to half of
//! the prefetch. The broker is told only after the store has answered, with one ack for all of a batch. Tags are the
//! channel's own: what is held goes with it, and the broker delivers it again. While the store takes nothing, what is held
//! stays held, and no new channel is opened: each delivery counts against the limit that a quorum queue may have.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer};
use roundsman_shared::assignment::AmqpIn;
use roundsman_shared::clock::{Mono, Wall};
use roundsman_shared::job::letter::{self, Letter, NO_AMQP_JOB};
use roundsman_shared::job::record;
use roundsman_shared::job::spec::Limits;
use roundsman_shared::job::{NewJob, Policy};
use roundsman_shared::names::JobId;
use roundsman_shared::store::{Enqueued, Store, StoreError};
use roundsman_worker::broker;
use tokio::sync::watch;

use super::held::{Held, Item, Refusal, Unsure, acks};
use super::message;
use super::tally::Tally;
use super::topology;

/// Of a dead peer, in seconds.
const HEARTBEAT: u16 = 10;
/// Connecting, declaring, and everything else that the broker answers.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Between tries to reach the broker: the first, and the most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// Between tries while the store takes nothing.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// One that has lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(10);

/// See the module's text.
pub(super) struct Intake {
    pub(super) url: String,
    pub(super) of: AmqpIn,
    pub(super) store: Store,
    pub(super) policy: Policy,
    pub(super) tally: Arc<Tally>,
    pub(super) stop: watch::Receiver<bool>,
}

/// A batch on its way to the store, and back.
type Flight = BoxFuture<'static, (Vec<Held>, Result<Vec<Verdict>, StoreError>)>;

/// What became of a message.
#[derive(Debug)]
enum Verdict {
    /// There is a job of it, a new one or the one that it made before.
    Taken { new: bool },
    /// It is a dead letter of ours.
    Buried,
    /// The broker is to dead-letter it.
    Reject { why: String },
    /// There is no room for it.
    Full { waiting: u64 },
}

impl Intake {
    /// Ends only when told to stop.
    pub(super) async fn serve(mut self) {
        let mut unsure = Unsure::new(4 * usize::from(self.of.prefetch));
        let mut pause = FIRST_PAUSE;
        let mut seed = Mono::now().as_nanos();
        loop {
            if !self.room().await {
                return;
            }
            let began = Mono::now();
            let Err(why) = self.take_in(&mut unsure).await else { return };
            if self.stopping() {
                return;
            }
            if self.tally.set(&format!("{why}; trying again")) {
                tracing::warn!(from = self.of.from, queue = %self.of.queue, "{why}; trying again");
            }
            if Mono::now().since(began) >= GOOD {
                pause = FIRST_PAUSE;
            }
            seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            let jittered = pause.mul_f64(
                0.5 + f64::from(u32::try_from(seed >> 33).unwrap_or(0)) / f64::from(1_u32 << 31) / 2.0,
            );
            if self.stopped_within(jittered).await {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    async fn stopped_within(&mut self, wait: Duration) -> bool {
        tokio::time::timeout(wait, self.stop.wait_for(|stop| *stop)).await.is_ok()
    }

    /// Waits until the store takes jobs of this queue. `false` when told to stop meanwhile.
    async fn room(&mut self) -> bool {
        loop {
            let why = match self.store.room().await {
                Ok(()) => match self.store.overview(&self.of.queue).await {
                    Ok(view) if view.scheduled + view.ready >= self.policy.max_waiting => {
                        full(view.scheduled + view.ready)
                    }
                    Ok(_) => return !self.stopping(),
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            self.wait_for_store(&why);
            if self.stopped_within(STORE_PAUSE).await {
                return false;
            }
        }
    }

    fn wait_for_store(&self, why: &str) {
        self.tally.store_ok.store(false, Ordering::Relaxed);
        if self.tally.set(&format!("{why}; its messages stay with the broker")) {
            tracing::warn!(from = self.of.from, queue = %self.of.queue, "{why}; its messages stay with the broker");
        }
    }

    /// Takes in until told to stop.
    ///
    /// # Errors
    /// Why that ended otherwise.
    async fn take_in(&mut self, unsure: &mut Unsure) -> Result<(), String> {
        let short = ShortString::try_new(self.of.from.as_str()).map_err(|error| error.to_string())?;
        let connection = in_time("connecting", broker::connect(&self.url, HEARTBEAT)).await?;
        let opened = in_time("opening the queue", self.open(&connection, &short)).await;
        let (channel, consumer, rejects) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                close(&connection).await;
                return Err(why);
            }
        };
        if self.tally.set("taking in") {
            tracing::info!(from = self.of.from, queue = %self.of.queue, "taking in");
        }
        let mut line =
            Line { intake: self, channel, rejects, waiting: VecDeque::new(), flight: None, retry: None };
        let ended = line.run(consumer, unsure).await;
        // What is under way is stored in any case, and counted now: its ids are needed when it comes again.
        if let Some(flight) = line.flight.take() {
            let (batch, verdicts) = flight.await;
            let new = |verdict: &&Verdict| matches!(verdict, Verdict::Taken { new: true });
            line.intake.tally.add(verdicts.iter().flatten().filter(new).count(), 0);
            unsure.remember(batch);
        }
        unsure.remember(std::mem::take(&mut line.waiting));
        close(&connection).await;
        ended
    }

    async fn open(
        &self,
        connection: &Connection,
        from: &ShortString,
    ) -> Result<(Channel, Consumer, bool), String> {
        let rejects = topology::prepare(connection, from, self.of.dead_letters).await?;
        let said = |error: lapin::Error| error.to_string();
        let channel = connection.create_channel().await.map_err(said)?;
        channel.basic_qos(self.of.prefetch, BasicQosOptions::default()).await.map_err(said)?;
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(from.clone(), ShortString::default(), options, FieldTable::default());
        let consumer = consumer.await.map_err(said)?;
        Ok((channel, consumer, rejects))
    }
}

fn full(waiting: u64) -> String {
    format!("the queue is full ({waiting} jobs wait, max_waiting)")
}

async fn in_time<T>(what: &str, step: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWER_WITHIN, step).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("{what}: the broker did not answer within {ANSWER_WITHIN:?}")),
    }
}

/// With it goes whatever was still on its way to the broker.
async fn close(connection: &Connection) {
    let _ = tokio::time::timeout(Duration::from_secs(1), connection.close(200, ShortString::default())).await;
}

/// One channel's life.
struct Line<'a> {
    intake: &'a mut Intake,
    channel: Channel,
    /// What cannot become a job is the broker's to dead-letter.
    rejects: bool,
    /// By rising tag.
    waiting: VecDeque<Held>,
    flight: Option<Flight>,
    /// When to try the store again.
    retry: Option<Mono>,
}

impl Line<'_> {
    async fn run(&mut self, mut consumer: Consumer, unsure: &mut Unsure) -> Result<(), String> {
        let mut open = true;
        loop {
            while let Some(Some(next)) = consumer.next().now_or_never().filter(|_| open) {
                self.arrived(next, unsure)?;
            }
            self.launch();
            if !open && self.flight.is_none() {
                // What a full queue has no room for goes back to the broker.
                return Ok(());
            }
            let retry = self.retry;
            let mut stop = self.intake.stop.clone();
            tokio::select! {
                biased;
                landed = land(&mut self.flight) => self.landed(landed.0, landed.1).await?,
                () = at(retry) => self.retry = None,
                () = told(&mut stop), if open => {
                    let cancel = self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
                    cancel.await.map_err(|error| error.to_string())?;
                    while let Some(next) = consumer.next().await {
                        self.arrived(next, unsure)?;
                    }
                    open = false;
                }
                next = consumer.next(), if open => match next {
                    Some(next) => self.arrived(next, unsure)?,
                    None => return Err("the broker has cancelled the consumer (the queue was deleted, or moved)".to_owned()),
                },
            }
        }
    }

    fn arrived(
        &mut self,
        next: lapin::Result<lapin::message::Delivery>,
        unsure: &mut Unsure,
    ) -> Result<(), String> {
        let delivery = next.map_err(|error| format!("the broker is lost: {error}"))?;
        let max_payload = usize::try_from(self.intake.policy.max_payload).unwrap_or(usize::MAX);
        let limits = Limits { max_payload, now: Wall::now() };
        let item = match message::read(&delivery.properties, &delivery.data, &limits) {
            Ok(mut job) => {
                if delivery.redelivered {
                    unsure.recall(&mut job);
                }
                Item::Job(job)
            }
            Err(why) => {
                let seed = format!("{}\n{:?}\n", self.intake.of.from, delivery.properties.message_id());
                Item::Refused(Box::new(refusal(&seed, &delivery.data, max_payload, why)))
            }
        };
        self.waiting.push_back(Held { tag: delivery.delivery_tag, item });
        Ok(())
    }

    /// Sends what waits to the store, unless some is on its way, or it was told to wait.
    fn launch(&mut self) {
        if self.flight.is_some() || self.retry.is_some() || self.waiting.is_empty() {
            return;
        }
        // Half of what may be held, so that the rest arrives meanwhile.
        let most = usize::from(self.intake.of.prefetch).div_ceil(2).min(self.waiting.len());
        let batch: Vec<Held> = self.waiting.drain(..most).collect();
        let (store, queue) = (self.intake.store.clone(), self.intake.of.queue.clone());
        let (max_waiting, rejects) = (self.intake.policy.max_waiting, self.rejects);
        self.flight = Some(Box::pin(async move {
            let keeper = Keeper { store, queue, max_waiting, rejects };
            let verdicts = keeper.keep(&batch).await;
            (batch, verdicts)
        }));
    }

    async fn landed(
        &mut self,
        batch: Vec<Held>,
        verdicts: Result<Vec<Verdict>, StoreError>,
    ) -> Result<(), String> {
        self.flight = None;
        let verdicts = match verdicts {
            Ok(verdicts) => verdicts,
            Err(error) => {
                self.keep(batch, &error.to_string());
                return Ok(());
            }
        };
        let (mut kept, mut done, mut why_full) = (Vec::new(), Vec::with_capacity(batch.len()), None);
        let (mut taken, mut refused) = (0, 0);
        let mut rejected = Vec::new();
        for (held, verdict) in batch.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Taken { new } => {
                    taken += usize::from(new);
                    done.push(held.tag);
                }
                Verdict::Buried => {
                    refused += 1;
                    done.push(held.tag);
                }
                Verdict::Reject { why } => {
                    refused += 1;
                    tracing::warn!(from = self.intake.of.from, %why, "a message is no job: it is rejected, for the broker to dead-letter");
                    rejected.push(held.tag);
                }
                Verdict::Full { waiting } => {
                    why_full = Some(full(waiting));
                    kept.push(held);
                }
            }
        }
        self.intake.tally.add(taken, refused);
        let said = |error: lapin::Error| format!("the broker is lost: {error}");
        for tag in rejected {
            self.channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await.map_err(said)?;
        }
        for ack in acks(&done, kept.first().map(|held| held.tag)) {
            let options = BasicAckOptions { multiple: ack.multiple };
            self.channel.basic_ack(ack.tag, options).await.map_err(said)?;
        }
        match why_full {
            Some(why) => self.keep(kept, &why),
            None => {
                self.intake.tally.store_ok.store(true, Ordering::Relaxed);
                self.intake.tally.set("taking in");
            }
        }
        Ok(())
    }

    /// These stay, before what has arrived since, until the store is asked again.
    fn keep(&mut self, batch: Vec<Held>, why: &str) {
        self.intake.wait_for_store(why);
        for held in batch.into_iter().rev() {
            self.waiting.push_front(held);
        }
        self.retry = Some(Mono::now() + STORE_PAUSE);
    }
}

async fn land(flight: &mut Option<Flight>) -> (Vec<Held>, Result<Vec<Verdict>, StoreError>) {
    match flight {
        Some(flight) => flight.await,
        None => std::future::pending().await,
    }
}

async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn at(moment: Option<Mono>) {
    match moment {
        Some(moment) => tokio::time::sleep(moment.since(Mono::now())).await,
        None => std::future::pending().await,
    }
}

fn refusal(seed: &str, body: &[u8], most: usize, why: String) -> Refusal {
    let id = letter_id(seed, body);
    let kept = &body[..body.len().min(most)];
    let why = if kept.len() < body.len() { format!("{why}; only {most} bytes of it are kept") } else { why };
    Refusal { id, payload: letter::raw(kept), why }
}

/// The same for the same message, so that one that comes again is no second dead letter.
fn letter_id(seed: &str, body: &[u8]) -> JobId {
    let (one, two) = (record::digest(seed), record::digest_bytes(body));
    JobId::new(&format!("amqp-{one}{two}")).expect("hexadecimal digits and a word")
}

/// Puts a batch into the store.
struct Keeper {
    store: Store,
    queue: roundsman_shared::names::QueueName,
    max_waiting: u64,
    rejects: bool,
}

impl Keeper {
    /// A verdict for each. After a failure all of it may be tried again.
    async fn keep(&self, batch: &[Held]) -> Result<Vec<Verdict>, StoreError> {
        let jobs: Vec<NewJob> = batch
            .iter()
            .filter_map(|held| match &held.item {
                Item::Job(job) => Some(job.clone()),
                Item::Refused(_) => None,
            })
            .collect();
        let answers = if jobs.is_empty() {
            Vec::new()
        } else {
            self.store.enqueue(&self.queue, &jobs, self.max_waiting).await?
        };
        let mut answers = answers.into_iter();
        let mut verdicts = Vec::with_capacity(batch.len());
        for Held { item, .. } in batch {
            verdicts.push(match item {
                Item::Refused(refusal) => {
                    self.refuse(&refusal.id, || refusal.payload.clone(), &refusal.why).await?
                }
                Item::Job(job) => match answers.next() {
                    Some(Enqueued::Created { .. }) => Verdict::Taken { new: true },
                    Some(Enqueued::Existing) => Verdict::Taken { new: false },
                    Some(Enqueued::Full { waiting }) => Verdict::Full { waiting },
                    Some(Enqueued::Conflict) => {
                        let why = format!("there is a job of the id {} with other content", job.id);
                        self.refuse_job(job, &why).await?
                    }
                    Some(Enqueued::Expired) => {
                        self.refuse_job(job, "it had expired before it was taken in").await?
                    }
                    None => return Err(StoreError::Corrupt("an enqueue was not answered".to_owned())),
                },
            });
        }
        Ok(verdicts)
    }

    async fn refuse_job(&self, job: &NewJob, why: &str) -> Result<Verdict, StoreError> {
        let payload = || {
            let record =
                record::Record::stamp(roundsman_shared::clock::StoreTime::from_millis(0), &job.content);
            let payload = record.decode().map(|spec| spec.payload).unwrap_or_default();
            letter::raw(payload.as_bytes())
        };
        self.refuse(&letter_id(job.id.as_str(), job.content.as_bytes()), payload, why).await
    }

    async fn refuse(
        &self,
        id: &JobId,
        payload: impl FnOnce() -> serde_json::Value,
        why: &str,
    ) -> Result<Verdict, StoreError> {
        if self.rejects {
            return Ok(Verdict::Reject { why: why.to_owned() });
        }
        let now = self.store.clock().await?.reading;
        let letter = Letter::new(&payload(), format!("{NO_AMQP_JOB}: {why}"), now);
        if self.store.bury(&self.queue, id, &letter).await? {
            tracing::warn!(queue = %self.queue, %id, %why, "a message is no job: it is a dead letter now");
        }
        Ok(Verdict::Buried)
    }
}
