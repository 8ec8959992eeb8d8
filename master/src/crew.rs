//! One pool with its processes and its scaling: what [`crate::fleet`] has several of.

use std::collections::BTreeMap;

use roundsman_shared::board::Board;
use roundsman_shared::clock::Mono;
use roundsman_shared::names::{QueueName, WorkerId};
use roundsman_shared::protocol::RunningJob;

use crate::child::Child;
use crate::event::Key;
use crate::plan::{PoolPlan, Work};
use crate::pool::Pool;
use crate::registry::{JobRecord, PartRecord, PoolRecord, WorkerRecord};
use crate::scale::{Decision, Inputs, Law, Limits};
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
    pub(crate) decision: Decision,
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
}

impl Crew {
    pub(crate) fn new(plan: PoolPlan) -> Self {
        let decision = Decision {
            target: plan.min,
            needed: 0,
            why: "nothing is known yet".to_owned(),
            saturated: false,
        };
        let pool = Pool::new(plan.shape());
        Self {
            plan,
            pool,
            law: Law::default(),
            decision,
            hands: BTreeMap::new(),
            past: (0, 0),
            leaving: false,
        }
    }

    pub(crate) fn lives(&self) -> impl Iterator<Item = &Life> {
        self.pool.slots.values().filter_map(Slot::life)
    }

    pub(crate) fn decide(&mut self, now: Mono, demand: &BTreeMap<QueueName, Demand>, blind: bool) {
        if self.plan.is_part() {
            return;
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
        if self.decision.target != before {
            tracing::debug!(
                target = self.decision.target,
                why = self.decision.why,
                "another number of workers"
            );
        }
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
