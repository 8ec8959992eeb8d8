//! One pool with its processes and its scaling: what [`crate::fleet`] has several of.

use std::collections::BTreeMap;

use roundsman_shared::board::Board;
use roundsman_shared::clock::Mono;
use roundsman_shared::figures::{Figures, Metric, Said};
use roundsman_shared::names::{QueueName, WorkerId};
use roundsman_shared::outlook::Outlook;
use roundsman_shared::protocol::{Beat, RunningJob, ToChild};

use crate::child::Child;
use crate::event::Key;
use crate::foreign;
use crate::plan::{PoolPlan, Work};
use crate::pool::Pool;
use crate::registry::{JobRecord, PartRecord, PoolRecord, WorkerRecord};
use crate::scale::{Decision, Inputs, Law, Limits, Reason};
use crate::slot::{Life, Slot};

/// What is known of a queue between two pulses.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Demand {
    pub ready: u64,
    pub enqueued: u64,
    /// Jobs that fell due since the last pulse and found nobody idle.
    pub unmet: u64,
}

/// A pool, its processes and its scaling.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) plan: PoolPlan,
    pub(crate) pool: Pool,
    pub(crate) law: Law,
    /// Of a foreign pool instead.
    foreign: foreign::Law,
    /// How much waits for its workers, as it was read last, and when.
    reading: Option<(Mono, foreign::Reading)>,
    /// With what was asked for by hand.
    pub(crate) decision: Decision,
    /// Workers that were asked for by hand beyond (or below) what the law finds.
    offset: i32,
    /// As many as somebody chose, whatever the law finds.
    pub(crate) fixed: Option<u32>,
    /// What the law found.
    lawful: u32,
    pub(crate) hands: BTreeMap<u32, Hand>,
    /// Jobs finished and milliseconds run by workers that are gone.
    pub(crate) past: (u64, u64),
    /// It is no more in the settings: it goes when its last worker has gone.
    pub(crate) leaving: bool,
}

/// One process of a crew.
#[derive(Debug)]
pub(crate) struct Hand {
    pub(crate) key: Key,
    pub(crate) id: WorkerId,
    pub(crate) nonce: u64,
    /// What it was started to pull from, whatever the pool serves by now.
    pub(crate) queues: Vec<QueueName>,
    pub(crate) board: Board,
    pub(crate) child: Option<Child>,
    pub(crate) pid: u32,
    pub(crate) started: u64,
    /// What it has counted so far.
    pub(crate) said: Said,
    /// Of a part that watches: up to which version it was shown the figures, and the outlook as it knows it.
    pub(crate) told: (u64, Outlook),
}

/// Figures in one line of a pipe.
const FIGURES_A_LINE: usize = 256;

impl Hand {
    /// Tells what has changed since it was told last.
    pub(crate) fn show(&mut self, figures: &Figures, outlook: &Outlook) {
        let Some(child) = &self.child else { return };
        let changed = figures.changed_since(self.told.0);
        for some in changed.chunks(FIGURES_A_LINE) {
            let figures = some.iter().map(|(_, figure)| (*figure).clone()).collect();
            // A pipe that is full takes the rest a second later.
            if !child.send(&ToChild::Figures { figures }) {
                return;
            }
            self.told.0 = some.last().map_or(self.told.0, |(version, _)| *version);
        }
        if self.told.1 != *outlook && child.send(&ToChild::Outlook(outlook.clone())) {
            self.told.1 = outlook.clone();
        }
    }
}

impl Crew {
    pub(crate) fn new(plan: PoolPlan) -> Self {
        let decision = Decision {
            target: plan.min,
            needed: 0,
            why: "nothing is known yet".to_owned(),
            reason: Reason::MinWorkers,
            saturated: false,
        };
        let pool = Pool::new(plan.shape());
        Self {
            lawful: plan.min,
            plan,
            pool,
            law: Law::default(),
            foreign: foreign::Law::default(),
            reading: None,
            decision,
            offset: 0,
            fixed: None,
            hands: BTreeMap::new(),
            past: (0, 0),
            leaving: false,
        }
    }

    pub(crate) fn lives(&self) -> impl Iterator<Item = &Life> {
        self.pool.slots.values().filter_map(Slot::life)
    }

    pub(crate) fn decide(
        &mut self,
        name: &str,
        now: Mono,
        demand: &BTreeMap<QueueName, Demand>,
        blind: bool,
        figures: &mut Figures,
    ) {
        if self.plan.is_part() {
            return;
        }
        if self.plan.is_foreign() {
            return self.decide_foreign(name, now, figures);
        }
        let long = self.law.long_job(self.plan.target_wait);
        let long_ms = u64::try_from(long.as_millis()).unwrap_or(u64::MAX);
        let ran = |life: &Life, job: &RunningJob| {
            job.ran.saturating_add(u64::try_from(now.since(life.heard).as_millis()).unwrap_or(0))
        };
        let is_held = |life: &&Life| {
            let jobs = &life.beat.jobs;
            jobs.len() >= usize::from(self.plan.slots) && jobs.iter().all(|job| ran(life, job) > long_ms)
        };
        let held = u32::try_from(self.lives().filter(is_held).count()).unwrap_or(u32::MAX);
        let busy =
            u32::try_from(self.lives().filter(|life| life.beat.running > 0).count()).unwrap_or(u32::MAX);
        let queues = || self.pool.shape.queues.iter().filter_map(|queue| demand.get(queue));
        let inputs = Inputs {
            ready: queues().map(|demand| demand.ready + demand.unmet).sum(),
            enqueued: queues().map(|demand| demand.enqueued).sum(),
            finished: self.past.0 + self.lives().map(|life| life.beat.done + life.beat.failed).sum::<u64>(),
            busy_ms: self.past.1 + self.lives().map(|life| life.beat.busy_ms).sum::<u64>(),
            held,
            busy,
            blind,
        };
        let PoolPlan { min, max, slots, target_wait, .. } = self.plan;
        let before = self.decision.target;
        self.decision = self.law.decide(now, &inputs, &Limits { min, max, slots, target_wait });
        self.settle(name, before, figures);
    }

    /// What was read of the queue of a foreign pool; answers whether anything waits there, as far as that is known.
    pub(crate) fn read(&mut self, now: Mono, reading: foreign::Reading) -> Option<bool> {
        let waiting = reading.as_ref().ok().map(|length| *length > 0);
        self.reading = Some((now, reading));
        waiting
    }

    fn decide_foreign(&mut self, name: &str, now: Mono, figures: &mut Figures) {
        let PoolPlan { min, max, target_wait, .. } = self.plan;
        let limits = foreign::Limits { min, max, target_wait };
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let crew = foreign::Hands { there: count(self.pool.filled()), ready: self.pool.ready() };
        let verdict = self.foreign.decide(now, self.reading.as_ref(), crew, &limits);
        let before = self.decision.target;
        self.decision.target = verdict.target;
        self.decision.needed = verdict.needed;
        self.decision.saturated = verdict.needed > max;
        self.decision.reason = match verdict.mood {
            foreign::Mood::Blind => Reason::Blind,
            foreign::Mood::Trying => Reason::Hold,
            foreign::Mood::Needed if verdict.needed > max => Reason::MaxWorkers,
            foreign::Mood::Needed if verdict.needed < min => Reason::MinWorkers,
            foreign::Mood::Needed => Reason::Load,
        };
        self.decision.why = verdict.why;
        self.settle(name, before, figures);
    }

    /// What was decided becomes what is to be, with what people have asked for.
    fn settle(&mut self, name: &str, before: u32, figures: &mut Figures) {
        let PoolPlan { max, .. } = self.plan;
        self.lawful = self.decision.target;
        self.decision.shift(self.offset, max);
        if let Some(fixed) = self.fixed {
            let target = fixed.min(max);
            let why = format!(
                "told to have {target} by `scale`, until `scale {name} auto`; else {}: {}",
                self.lawful, self.decision.why
            );
            self.decision = Decision { target, why, reason: Reason::ByHand, ..self.decision.clone() };
        }
        if self.decision.target != before {
            let direction = if self.decision.target > before { "up" } else { "down" };
            let labels = [name, direction, self.decision.reason.as_str()];
            figures.count(Metric::ScaleDecisions, &labels, 1);
            tracing::debug!(
                target = self.decision.target,
                why = self.decision.why,
                "another number of workers"
            );
        }
    }

    /// So many workers more or fewer than the law finds; within what the pool may have. Answers whether that changes
    /// anything: what cannot be had now is not remembered.
    pub(crate) fn resize(&mut self, by: i32) -> bool {
        let target = i64::from(self.lawful) + i64::from(self.offset) + i64::from(by);
        let possible = (0..=i64::from(self.plan.max)).contains(&target);
        if possible {
            self.offset += by;
        }
        possible
    }

    /// The pool in one line.
    pub(crate) fn describe(&self, name: &str) -> String {
        let Decision { target, why, .. } = &self.decision;
        let (max, alive) = (self.plan.max, self.pool.alive());
        let queues: Vec<&str> = self.pool.shape.queues.iter().map(QueueName::as_str).collect();
        let quarantine = self.pool.quarantine.as_ref();
        let quarantine = quarantine.map(|it| format!("; quarantined: {}", it.why)).unwrap_or_default();
        format!(
            "pool {name}: {alive} workers, {target} wanted of at most {max} ({why}); queues {}{quarantine}",
            queues.join(", ")
        )
    }

    /// Each of its workers in one line.
    pub(crate) fn describe_workers(&self, now: Mono) -> impl Iterator<Item = String> {
        self.hands.iter().filter_map(move |(number, hand)| {
            let life = self.pool.slots.get(number)?.life()?;
            let Beat { running, done, failed, rss_kb, jobs, .. } = &life.beat;
            let named: Vec<String> = jobs
                .iter()
                .map(|job| format!("{}/{} (attempt {}, {} ms)", job.queue, job.id, job.attempt, job.ran))
                .collect();
            let runs = if named.is_empty() { String::new() } else { format!(": {}", named.join(", ")) };
            Some(format!(
                "worker {}: pid {}, {}, runs {running}{runs}; {done} done, {failed} failed, {} MiB, last heard {} ms ago",
                hand.key.label(),
                hand.pid,
                life.state(),
                rss_kb / 1024,
                now.since(life.heard).as_millis()
            ))
        })
    }

    /// A process that runs no jobs, as `status` shows it.
    pub(crate) fn part(&self) -> Option<PartRecord> {
        let Work::Part(part) = &self.plan.work else { return None };
        let running = self
            .hands
            .iter()
            .find_map(|(number, hand)| Some((hand.pid, self.pool.slots.get(number)?.life()?)));
        Some(PartRecord {
            part: part.name().to_owned(),
            pid: running.as_ref().map_or(0, |(pid, _)| *pid),
            state: running.as_ref().map_or("down", |(_, life)| life.state()).to_owned(),
            says: running.and_then(|(_, life)| life.beat.says.clone()),
        })
    }

    pub(crate) fn record(&self, name: &str) -> PoolRecord {
        let workers = self.hands.iter().filter_map(|(number, hand)| {
            let life = self.pool.slots.get(number)?.life()?;
            let job = |job: &RunningJob| JobRecord {
                queue: job.queue.clone(),
                id: job.id.clone(),
                attempt: job.attempt,
            };
            Some(WorkerRecord {
                worker: hand.key.label(),
                id: hand.id.clone(),
                pid: hand.pid,
                started: hand.started,
                state: life.state().to_owned(),
                queues: hand.queues.iter().map(ToString::to_string).collect(),
                jobs: life.beat.jobs.iter().map(job).collect(),
                rss: life.beat.rss_kb * 1024,
            })
        });
        PoolRecord {
            pool: name.to_owned(),
            desired: self.decision.target,
            why: self.decision.why.clone(),
            quarantined: self.pool.quarantine.as_ref().map(|quarantine| quarantine.why.clone()),
            saturated: self.decision.saturated,
            queues: self.pool.shape.queues.iter().map(ToString::to_string).collect(),
            workers: workers.filter(|worker| worker.pid != 0).collect(),
        }
    }
}
