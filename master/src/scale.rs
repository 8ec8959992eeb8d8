//! How many workers a pool needs: a pure function of what is known of its queues and workers, and a short memory.
//!
//! ```text
//! target = held + flow (+ what varies of it) + backlog over the time that the objective leaves for it
//! ```
//! Up at once where a backlog says so, and after a moment where only the flow does; down when the need has been lower
//! for a while, which grows where going down was soon regretted. Jobs that run for long hold their workers, which then
//! are no capacity for others. Workers that still start count as capacity. Who is let go, and that it was idle, is the
//! pool's business.

mod decision;
mod learned;
mod memory;
#[cfg(test)]
mod tests;
mod words;

use std::time::Duration;

use roundsman_shared::clock::Mono;

pub use decision::{Decision, Reason, Terms};
use learned::{Learned, Service};
use memory::Memory;

/// Between two looks, about.
const LOOK: f64 = 0.25;
/// The times of what the objective leaves after a start within which what is counted of a backlog is to be worked off: of
/// one that came evenly, times the share that is left, since less may be put off the longer a start takes; of one that came
/// at once; and the least share of the objective that is taken for it.
const DRAIN: f64 = 2.0;
const DRAIN_AT_ONCE: f64 = 0.65;
const DRAIN_LEAST: f64 = 0.2;
/// A backlog that those who are there work off in this share of the objective needs nobody else.
const CALM: f64 = 0.65;
/// Beyond this share of the objective, what waits has waited long, and is worked off in so much of it.
const LATE: f64 = 0.55;
const LATE_DRAIN: f64 = 0.25;
/// More than so many times what the flow brings in that time came at once.
const AT_ONCE: f64 = 2.0;
/// A backlog worth so much of a worker is acted on at once.
const URGENT: f64 = 1.2;
/// What is more than a whole number by less than this, or than this share of all, starts no further worker; and keeps none.
/// One that is let go though the flow needs it soon comes back.
const SPARE: Spare = Spare { most: 0.45, share: 0.15 };
const SPARE_TO_KEEP: Spare = Spare { most: 0.4, share: 0.04 };
/// How many of the variations of the flow are to be staffed for; what goes beyond becomes a backlog, which is worked off
/// in time.
const TAIL: f64 = 2.0;
const VARIES_LEAST: f64 = 0.2;
/// At its maximum for so long with more needed, the pool is saturated.
pub(crate) const SATURATED: Duration = Duration::from_secs(60);

/// What is known at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Inputs<'i> {
    /// Jobs that are due and wait, and for how long the first of them has.
    pub ready: u64,
    pub oldest: Duration,
    /// Timers that fall due within so long; see [`ahead`].
    pub soon: u64,
    pub ahead: Duration,
    /// Jobs that ever fell due, from any beginning. It falls while it is not yet told that a job is to come back.
    pub arrived: i64,
    /// Seconds that each of the runs took that ended since the last look, or of a sample of them.
    pub took: &'i [f64],
    /// Seconds that each running job has run so far.
    pub running: &'i [f64],
    /// Workers that are there or start.
    pub workers: u32,
    /// From the start of a process to its being ready, for nearly all of them.
    pub boot: Duration,
    /// Workers that ever failed to start or crashed.
    pub failures: u64,
    /// The store is not reached: nothing of the above is fresh.
    pub blind: bool,
    /// On the other hosts that serve the same.
    pub elsewhere: Elsewhere,
}

/// What the other hosts tell.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Elsewhere {
    pub workers: u32,
    /// Jobs that run, and those among them that have run for long.
    pub running: u32,
    pub held: u32,
    /// Runs that they remember, and the seconds that one takes, long ones aside.
    pub runs: u32,
    pub service: f64,
}

impl Inputs<'_> {
    fn is_busy(&self) -> bool {
        self.ready > 0 || self.soon > 0 || !self.running.is_empty() || self.elsewhere.running > 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub min: u32,
    pub max: u32,
    pub bound: Bound,
    pub slots: u16,
    pub target_wait: Duration,
}

/// Where the most comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Bound {
    /// `max_workers` of the one host.
    #[default]
    Host,
    /// The same of so many hosts together.
    Hosts(usize),
    /// `max_workers_total`.
    Total,
}

/// What the first start is taken to need before one has been seen.
pub const UNKNOWN_BOOT: Duration = Duration::from_secs(1);

/// However slowly workers start, timers beyond this need nobody yet.
const AHEAD_MOST: Duration = Duration::from_secs(60);

/// How far ahead timers count: a worker that is started now is ready by then, though there is nothing to hear until the
/// next look or the one after it. To the second above, so that not every start makes it another.
#[must_use]
pub fn ahead(boot: Duration) -> Duration {
    let ahead = boot + Duration::from_secs(2);
    Duration::from_secs(ahead.as_secs() + u64::from(ahead.subsec_nanos() > 0)).min(AHEAD_MOST)
}

/// What is remembered from one decision to the next.
#[derive(Debug, Clone, Default)]
pub struct Law {
    learned: Learned,
    memory: Memory,
    target: u32,
    full_since: Option<Mono>,
}

impl Law {
    /// There are so many workers already, of an earlier master or another: as long as nothing else is known, they were
    /// needed.
    pub fn adopt(&mut self, now: Mono, workers: u32) {
        self.target = self.target.max(workers);
        self.memory.adopt(now, f64::from(workers));
    }

    /// Takes one look. Looks may come at any time, and at once one after the other.
    pub fn decide(&mut self, now: Mono, inputs: &Inputs<'_>, limits: &Limits) -> Decision {
        if inputs.blind {
            let target = self.target.clamp(limits.min, limits.max);
            let why = words::blind(target);
            let terms = Terms::default();
            return Decision { target, needed: target, why, reason: Reason::Blind, saturated: false, terms };
        }
        self.learned.look(now, inputs);
        let terms = self.terms(now, inputs, limits);
        let needed = needed(&terms, inputs);
        let most = limits.max.max(limits.min);
        let within = |count: u32| count.clamp(limits.min, most);
        let up = within(needed);
        let kept = self.memory.look(now, inputs, &terms, self.target, limits.target_wait);
        let keep = within(kept.workers);
        let mut is_small = false;
        if up > self.target {
            let is_urgent = terms.drain > URGENT;
            if self.memory.may_rise(now, self.target, needed, is_urgent, &terms) {
                self.target = up;
                self.memory.rose(now);
            }
        } else {
            self.memory.calm();
            let lower = keep.max(up);
            is_small = lower < self.target && !self.memory.is_due(now, self.target, lower, limits.slots);
            if lower < self.target
                && !is_small
                && inputs.ready == 0
                && self.memory.may_fall(now, self.learned.run())
            {
                self.target = lower;
                self.memory.fell(now);
            }
        }
        self.target = within(self.target);
        if needed > limits.max {
            self.full_since.get_or_insert(now);
        } else {
            self.full_since = None;
        }
        let saturated = self.full_since.is_some_and(|since| now.since(since) >= SATURATED);
        let reason = self.reason(needed, kept.is_failing, limits);
        let terms = Terms { hold: self.memory.hold().as_secs_f64(), is_small, ..terms };
        let why = words::of(&terms, needed, self.target, reason, limits);
        Decision { target: self.target, needed, why, reason, saturated, terms }
    }

    fn terms(&self, now: Mono, inputs: &Inputs<'_>, limits: &Limits) -> Terms {
        let slots = f64::from(limits.slots.max(1));
        let objective = limits.target_wait.as_secs_f64();
        let long = self.learned.long(objective);
        let own = self.learned.service(now, long, inputs.running);
        let Service { scv, .. } = own;
        let (service, is_known) = own.beside(&inputs.elsewhere);
        let own_held =
            u32::try_from(inputs.running.iter().filter(|ran| **ran > long).count()).unwrap_or(u32::MAX);
        let held = (f64::from(own_held) + f64::from(inputs.elsewhere.held)) / slots;
        let rate = self.learned.rate();
        let flow = rate * service;
        let left = (objective - inputs.boot.as_secs_f64() - LOOK).max(DRAIN_LEAST * objective);
        let varies = f64::midpoint(1.0, scv);
        let root = 2.0 * (varies * flow).sqrt();
        // Where there is time to wait, less than the square root is needed: the tail of the wait falls with it.
        let tail = varies * service * TAIL / left;
        let weight = (service / objective).clamp(VARIES_LEAST, 1.0);
        let base = held + (flow + weight * root.min(tail)) / slots;
        // Timers that come as evenly as all else are in the flow already.
        let soon = (inputs.soon as f64 - rate * inputs.ahead.as_secs_f64()).max(0.0);
        let waiting = inputs.ready as f64 + soon;
        let work = waiting * service / slots;
        let is_burst = inputs.ready > 0 && inputs.oldest.as_secs_f64() > LATE * objective;
        let free = (f64::from(inputs.workers) + f64::from(inputs.elsewhere.workers) - held).max(0.0);
        // What came evenly leaves as much time to its last as what came at once leaves to its first.
        let oldest = inputs.oldest.as_secs_f64();
        let came_at_once = waiting > AT_ONCE * rate * oldest || oldest > objective;
        let within = match came_at_once {
            true if is_burst => LATE_DRAIN * objective,
            true => DRAIN_AT_ONCE * left,
            false => DRAIN * left * (left / objective),
        };
        let within = within.max(DRAIN_LEAST * objective);
        let calm = CALM * objective * free;
        let calm = if is_burst || (came_at_once && work > calm) { 0.0 } else { calm };
        let drain = ((work - calm).max(0.0) / within).min(waiting / slots);
        // However short what waits is, where long jobs hold all who are there nobody comes to it.
        let is_stuck = is_burst && free < 1.0 / slots;
        let drain = if is_stuck { drain.max(1.0) } else { drain };
        Terms {
            ready: inputs.ready,
            soon: soon.round() as u64,
            rate,
            service,
            is_service_known: is_known,
            held,
            base,
            drain,
            is_burst,
            is_stuck,
            hold: 0.0,
            is_small: false,
            own_held,
            own_runs: own.runs,
            own_service: own.mean,
        }
    }

    fn reason(&self, needed: u32, is_failing: bool, limits: &Limits) -> Reason {
        if needed > limits.max {
            Reason::MaxWorkers
        } else if self.target > needed {
            match () {
                () if self.target == limits.min => Reason::MinWorkers,
                () if is_failing => Reason::Failing,
                () => Reason::Hold,
            }
        } else if self.target < needed {
            Reason::Hold
        } else {
            Reason::Load
        }
    }
}

/// What may be missing of a worker.
struct Spare {
    most: f64,
    share: f64,
}

impl Spare {
    fn whole(&self, workers: f64) -> u32 {
        (workers - self.most.min(self.share * workers)).max(0.0).ceil() as u32
    }
}

fn needed(terms: &Terms, inputs: &Inputs<'_>) -> u32 {
    let needed = SPARE.whole(terms.base + terms.drain);
    needed.max(u32::from(inputs.is_busy()))
}
