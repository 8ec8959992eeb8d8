//! One pool with its processes and its scaling: what [`crate::fleet`] has several of.

mod foreign_pool;
mod guarded;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use roundsman_shared::board::Board;
use roundsman_shared::clock::Mono;
use roundsman_shared::figures::{Figures, Metric, Said};
use roundsman_shared::names::{QueueName, WorkerId};
use roundsman_shared::outlook::Outlook;
use roundsman_shared::protocol::{Beat, RunningJob, ToChild};

use crate::child::Child;
use crate::event::Key;
use crate::foreign;
use crate::guard::Held;
pub(crate) use crate::load::Demand;
use crate::load::Load;
use crate::others::{Others, PoolLoad};
use crate::plan::{PoolPlan, Work};
use crate::pool::Pool;
use crate::registry::{JobRecord, PartRecord, PoolRecord, WorkerRecord};
use crate::scale::{Bound, Decision, Inputs, Law, Limits, Reason, Terms};
use crate::share::{Place, shares};
use crate::slot::{Life, Slot};

/// What is known beside what a crew itself has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known<'k> {
    pub(crate) host: &'k str,
    pub(crate) demand: &'k BTreeMap<QueueName, Demand>,
    pub(crate) others: &'k Others,
    /// Within how long the timers fall due that are told of.
    pub(crate) ahead: Duration,
    pub(crate) blind: bool,
}

/// A pool, its processes and its scaling.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) plan: PoolPlan,
    pub(crate) pool: Pool,
    pub(crate) law: Law,
    /// Of a foreign pool instead.
    pub(crate) foreign: foreign::Law,
    /// How much waits for its workers, as it was read last, and when.
    reading: Option<(Mono, foreign::Reading)>,
    /// With what was asked for by hand.
    pub(crate) decision: Decision,
    /// Workers that were asked for by hand beyond (or below) what the law finds.
    offset: i32,
    /// As many as somebody chose, whatever the law finds.
    pub(crate) fixed: Option<u32>,
    /// What the law found, as far as the machine has room for it.
    lawful: u32,
    /// How many the machine has room for, where that is known, and since when they are fewer than the law finds.
    pub(crate) held: Option<Held>,
    held_since: Option<Mono>,
    weight: guarded::Weight,
    pub(crate) hands: BTreeMap<u32, Hand>,
    /// What its workers have told of it.
    pub(crate) load: Load,
    /// What the other hosts are told of that.
    told: PoolLoad,
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
    /// Where the kernel counts whom it has killed of its cgroup, once it is ready.
    pub(crate) kills: Option<PathBuf>,
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
        let decision = Decision::first(plan.min);
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
            held: None,
            held_since: None,
            weight: guarded::Weight::default(),
            hands: BTreeMap::new(),
            load: Load::default(),
            told: PoolLoad::default(),
            leaving: false,
        }
    }

    pub(crate) fn lives(&self) -> impl Iterator<Item = &Life> {
        self.pool.slots.values().filter_map(Slot::life)
    }

    /// Whoever is too much in it is let go between two looks, too. Which worker of a foreign pool is idle nobody knows.
    pub(crate) fn thins(&self) -> bool {
        !self.leaving && !self.plan.is_part() && !self.plan.is_foreign()
    }

    pub(crate) fn decide(&mut self, name: &str, now: Mono, known: &Known<'_>, figures: &mut Figures) {
        let Known { host, demand, others, ahead, blind } = *known;
        if self.plan.is_part() {
            return;
        }
        if self.plan.is_foreign() {
            return self.decide_foreign(name, now, known, figures);
        }
        let queues = || self.pool.shape.queues.iter().filter_map(|queue| demand.get(queue));
        let took = self.load.take_runs();
        let running = Load::running(now, self.lives().map(|life| (&life.beat, life.heard)));
        let failed = self.load.failed(self.lives().map(|life| &life.beat));
        let elsewhere = others.elsewhere(name);
        let staying = self.lives().filter(|life| life.stays()).count();
        let inputs = Inputs {
            ready: queues().map(|demand| demand.ready + demand.unmet).sum(),
            oldest: queues().map(|demand| demand.waited(now)).max().unwrap_or_default(),
            soon: queues().map(|demand| demand.soon).sum(),
            ahead,
            arrived: queues().map(|demand| demand.arrived).sum::<i64>()
                + (failed + others.failed(name)).cast_signed(),
            took: &took,
            running: &running,
            workers: u32::try_from(staying).unwrap_or(u32::MAX),
            boot: self.load.boot(),
            failures: self.load.failures,
            blind,
            elsewhere,
        };
        let PoolPlan { min, max, total, slots, target_wait, .. } = self.plan;
        let before = self.decision.target;
        let places = others.places(name, Place { host: host.to_owned(), min, max });
        let sum = |of: fn(&Place) -> u32| places.iter().map(of).fold(0, u32::saturating_add);
        let (least, most) = (sum(|place| place.min), sum(|place| place.max));
        let (most, bound) = match (total, places.len()) {
            (Some(total), _) if total <= most => (total, Bound::Total),
            (_, 1) => (most, Bound::Host),
            (_, hosts) => (most, Bound::Hosts(hosts)),
        };
        let limits = Limits { min: least.min(most), max: most, bound, slots, target_wait };
        self.decision = self.law.decide(now, &inputs, &limits);
        self.told = self.load_of(&running, failed);
        if let (2.., Some(here)) = (places.len(), shares(self.decision.target, &places).first()) {
            // Whose share it is may have died a moment ago.
            let is_left = inputs.oldest > target_wait && total.is_none() && self.decision.target > 0;
            self.decision.share((*here).max(u32::from(is_left)).min(max), places.len());
        }
        self.settle(name, before, now, figures);
    }

    /// What was decided becomes what is to be, as far as the machine has room, and with what people have asked for.
    fn settle(&mut self, name: &str, before: u32, now: Mono, figures: &mut Figures) {
        let PoolPlan { max, .. } = self.plan;
        self.keep_to_the_machine(now);
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
                pool = name,
                target = self.decision.target,
                why = self.decision.why,
                "another number of workers"
            );
        }
    }

    /// What the other hosts are told of it.
    fn load_of(&self, running: &[f64], failed: u64) -> PoolLoad {
        let Terms { own_held, own_runs, own_service, .. } = self.decision.terms;
        let staying = self.lives().filter(|life| life.stays()).count();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        PoolLoad {
            min: self.plan.min,
            max: self.plan.max,
            workers: count(staying),
            running: count(running.len()),
            held: own_held,
            runs: own_runs,
            service_us: (own_service * 1e6) as u64,
            failed,
        }
    }

    /// What the start of one of its workers takes.
    pub(crate) fn boot(&self) -> Duration {
        self.load.boot()
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

    pub(crate) fn record(&self, name: &str, takes_part: bool) -> PoolRecord {
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
            load: takes_part.then(|| self.told.clone()),
        }
    }
}
