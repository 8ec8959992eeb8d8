//! Figures of the store alone: enqueue in bulk and one at a time, pull and acknowledge one at a time, a million timers.

use std::time::Duration;

use roundsman_shared::clock::{Mono, Wall};
use roundsman_shared::job::settle::{Outcome, Run, settle};
use roundsman_shared::job::spec::{self, Fields, Limits};
use roundsman_shared::job::{Due, NewJob, Policy, Spec};
use roundsman_shared::names::WorkerId;
use roundsman_shared::store::redis::BareBatch;
use roundsman_shared::store::{PullRequest, SettleRequest, Store};

use super::{Bench, Row, per_second, quantiles, rate};
use crate::errors::Failure;

/// Jobs of the figures that make one round trip a job.
const SINGLES: usize = 20_000;
/// Pullers of the one-at-a-time figure.
const PULLERS: usize = 4;
/// A payload of 100 bytes, quotes included.
const PAYLOAD: &str =
    "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"";
/// What a done job leaves behind, about.
const PROGRESS: &str =
    "1700000000000000 done 1700000000000 1700000000000 1700000000000 default/1 bench 1700000000000000";
const MANY: u64 = 1_000_000_000;

pub(super) fn job(due: Due) -> NewJob {
    let limits = Limits { max_payload: 1000, now: Wall::now() };
    let fields = match due {
        Due::Now => Fields::default(),
        Due::In(span) => Fields { r#in: Some(span), ..Fields::default() },
        Due::At(at) => Fields { due: Some(at.as_millis()), ..Fields::default() },
    };
    spec::check(fields, PAYLOAD.to_owned(), &limits).expect("a job of the bench is right")
}

impl Bench<'_> {
    pub(super) async fn fill(&self, jobs: usize, due: Due) -> Result<Duration, Failure> {
        let bar = self.context.screen.progress(jobs as u64, "jobs stored");
        let mut took = Duration::ZERO;
        let mut stored = 0;
        while stored < jobs {
            let batch: Vec<NewJob> = (0..self.args.batch.min(jobs - stored)).map(|_| job(due)).collect();
            let start = Mono::now();
            self.store.enqueue(&self.queue, &batch, MANY).await?;
            took += Mono::now().since(start);
            stored += batch.len();
            bar.set_position(stored as u64);
        }
        bar.finish_and_clear();
        Ok(took)
    }

    async fn bare_fill(&self, jobs: usize, batch: usize) -> Result<Option<f64>, Failure> {
        let Store::Redis(store) = &self.store else { return Ok(None) };
        let (mut took, mut stored) = (Duration::ZERO, 0);
        while stored < jobs {
            let batch: Vec<(String, String)> =
                (0..batch).map(|_| (spec::generate_id().to_string(), format!("P{PAYLOAD}"))).collect();
            let start = Mono::now();
            store.bare_enqueue(&self.queue, &batch).await?;
            took += Mono::now().since(start);
            stored += batch.len();
        }
        Ok(Some(rate(stored, took)))
    }

    pub(super) async fn enqueue(&self) -> Result<Vec<Row>, Failure> {
        let jobs = self.args.jobs;
        let before = self.server().await?;
        let bulk = rate(jobs, self.fill(jobs, Due::Now).await?);
        let cost = self.cost_since(before, jobs).await?;
        self.clean().await?;
        let bare = self.bare_fill(jobs, self.args.batch).await?;
        self.clean().await?;
        let singles = if matches!(self.store, Store::Redis(_)) { SINGLES } else { SINGLES / 10 };
        let (mut one, mut bare_one) = (Vec::new(), Vec::new());
        // Interleaved: a loop of round trips runs at one of several speeds of the machine.
        for _ in 0..5 {
            let start = Mono::now();
            for _ in 0..singles / 5 {
                self.store.enqueue(&self.queue, &[job(Due::Now)], MANY).await?;
            }
            one.push(rate(singles / 5, Mono::now().since(start)));
            bare_one.extend(self.bare_fill(singles / 5, 1).await?);
        }
        let (one, bare_one) = (median(&mut one), median(&mut bare_one));
        Ok(vec![
            Row {
                figure: "enqueue, bulk",
                value: per_second(bulk),
                ratio: bare.map(|bare| bulk / bare),
                note: format!("batches of {}{cost}", self.args.batch),
            },
            Row {
                figure: "enqueue, one at a time",
                value: per_second(one),
                ratio: (bare_one > 0.0).then(|| one / bare_one),
                note: "one connection".to_owned(),
            },
        ])
    }

    /// Pull and acknowledge, one job a round trip, no prefetch.
    pub(super) async fn single(&self) -> Result<Vec<Row>, Failure> {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            self.fill(SINGLES, Due::Now).await?;
            let start = Mono::now();
            let pullers = (0..PULLERS).map(|number| self.puller(number));
            let done = futures_util::future::try_join_all(pullers).await?;
            ours.push(rate(done.iter().sum(), Mono::now().since(start)));
            self.clean().await?;
            if let Store::Redis(store) = &self.store {
                self.bare_fill(SINGLES, self.args.batch).await?;
                let start = Mono::now();
                let pullers = (0..PULLERS).map(|number| async move {
                    let (mut last, mut count) = (BareBatch::default(), 0);
                    loop {
                        let next =
                            store.bare_drain(&self.queue, &format!("w{number}"), 1, &last, PROGRESS).await?;
                        count += last.ids.len();
                        if next.ids.is_empty() {
                            return Ok::<_, Failure>(count);
                        }
                        last = next;
                    }
                });
                let done: Vec<usize> = futures_util::future::try_join_all(pullers).await?;
                bare.push(rate(done.iter().sum(), Mono::now().since(start)));
                self.clean().await?;
            }
        }
        let (ours, bare) = (median(&mut ours), median(&mut bare));
        Ok(vec![Row {
            figure: "drain, one at a time",
            value: per_second(ours),
            ratio: (bare > 0.0).then(|| ours / bare),
            note: format!("{PULLERS} pullers, acknowledgement and next pull in one round trip"),
        }])
    }

    async fn puller(&self, number: usize) -> Result<usize, Failure> {
        let worker = WorkerId::new(&format!("bench:single:{number}:x"))?;
        let policy = Policy::DEFAULT;
        let pull = PullRequest {
            queue: self.queue.clone(),
            worker: worker.clone(),
            max: 1,
            lease: self.config.lease,
            latest: None,
        };
        let (mut done, mut last): (usize, Option<SettleRequest>) = (0, None);
        loop {
            let (answers, pulled) = self.store.exchange(last.as_ref(), Some(&pull)).await?;
            done += answers.len();
            let Some(pulled) = pulled.filter(|pulled| !pulled.deliveries.is_empty()) else { return Ok(done) };
            let millis = pulled.now.as_millis();
            let run = Run { worker: worker.clone(), started: Some(millis), ended: millis, stderr_tail: None };
            let settlements = pulled.deliveries.iter().map(|delivery| {
                let spec = delivery.record.decode().unwrap_or_else(|_| Spec::bare(false, "null".to_owned()));
                settle(
                    delivery,
                    &spec,
                    Outcome::Done { result: None, follow_ups: Vec::new(), note: None },
                    &run,
                    &policy,
                    0.5,
                )
            });
            last = Some(SettleRequest {
                queue: self.queue.clone(),
                worker: worker.clone(),
                settlements: settlements.collect(),
                retention: (&policy).into(),
                only_if_lapsed: false,
            });
        }
    }

    /// The drain that bare scripts make, in jobs a second: two pullers, whole batches.
    pub(super) async fn bare_drain(&self) -> Result<Option<f64>, Failure> {
        let Store::Redis(store) = &self.store else { return Ok(None) };
        self.bare_fill(self.args.jobs, self.args.batch).await?;
        let start = Mono::now();
        let pullers = (0..2).map(|number| async move {
            let (mut last, mut count) = (BareBatch::default(), 0);
            loop {
                let worker = format!("w{number}");
                let next = store.bare_drain(&self.queue, &worker, self.args.batch, &last, PROGRESS).await?;
                count += last.ids.len();
                if next.ids.is_empty() {
                    return Ok::<_, Failure>(count);
                }
                last = next;
            }
        });
        let done: Vec<usize> = futures_util::future::try_join_all(pullers).await?;
        let took = Mono::now().since(start);
        self.clean().await?;
        Ok(Some(rate(done.iter().sum(), took)))
    }

    /// A million timers that are not due: what they cost, and whether the verbs still answer at once.
    pub(super) async fn million(&self) -> Result<Vec<Row>, Failure> {
        const TIMERS: usize = 1_000_000;
        let before = self.server().await?;
        let hour = Duration::from_secs(3600);
        let took = self.fill(TIMERS, Due::In(hour)).await?;
        let after = self.server().await?;
        let mut cancels = Vec::new();
        for _ in 0..200 {
            let one = job(Due::In(hour));
            self.store.enqueue(&self.queue, std::slice::from_ref(&one), MANY).await?;
            let start = Mono::now();
            self.store.cancel(&self.queue, &one.id).await?;
            cancels.push(i64::try_from(Mono::now().since(start).as_micros()).unwrap_or(i64::MAX));
        }
        let mut pages = Vec::new();
        let mut cursor = None;
        for _ in 0..100 {
            let start = Mono::now();
            let state = roundsman_shared::job::State::Scheduled;
            let page = self.store.list(&self.queue, state, cursor.as_deref(), 100).await?;
            pages.push(i64::try_from(Mono::now().since(start).as_micros()).unwrap_or(i64::MAX));
            cursor = page.next;
        }
        let start = Mono::now();
        Store::open(&self.config).await?;
        let opened = Mono::now().since(start);
        let bytes = match (before, after) {
            (Some(before), Some(after)) => {
                format!("{} bytes each", (after.2.saturating_sub(before.2)) / TIMERS as u64)
            }
            _ => format!("{} stored", per_second(rate(TIMERS, took))),
        };
        Ok(vec![
            Row {
                figure: "1,000,000 timers",
                value: bytes,
                ratio: None,
                note: format!("opening the store: {opened:?}"),
            },
            Row { figure: "  cancel one", value: quantiles(&mut cancels), ratio: None, note: String::new() },
            Row { figure: "  page of 100", value: quantiles(&mut pages), ratio: None, note: String::new() },
        ])
    }

    pub(super) async fn server(&self) -> Result<Option<(u64, f64, u64)>, Failure> {
        match &self.store {
            Store::Redis(store) => Ok(Some(store.server_figures().await?)),
            Store::Sqlite(_) => Ok(None),
        }
    }

    /// `, Redis 1.23 µs a job`
    pub(super) async fn cost_since(
        &self,
        before: Option<(u64, f64, u64)>,
        jobs: usize,
    ) -> Result<String, Failure> {
        let (Some(before), Some(after)) = (before, self.server().await?) else { return Ok(String::new()) };
        #[expect(clippy::cast_precision_loss, reason = "counts of jobs are far below 2^53")]
        let micros = (after.1 - before.1) * 1e6 / jobs as f64;
        Ok(format!(", Redis {micros:.2} µs a job"))
    }
}

pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
