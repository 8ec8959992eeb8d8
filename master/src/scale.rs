//! How many workers a pool needs: a pure function of what is known of its queues and workers, and a short memory.
//!
//! Work arrives at `rate` and takes `service` a job; what waits is to be worked off within 0.8 × `target_wait`. Jobs
//! that run for long hold their workers, which then are no capacity for others. Going down waits until the need has
//! been lower for a while; who is let go, and that it was idle, is the pool's business.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use roundsman_shared::clock::Mono;

/// The share of `target_wait` within which a backlog is to be worked off.
const DRAIN_SHARE: f64 = 0.8;
/// What a job is taken to need before any has been seen.
const UNKNOWN_SERVICE_MS: f64 = 100.0;
/// The target goes down to what was needed at most within so long.
const HOLD: Duration = Duration::from_secs(10);
/// Half-life of what is remembered of rates and service times.
const MEMORY: Duration = Duration::from_secs(10);
/// At its maximum for so long with more needed, the pool is saturated.
const SATURATED: Duration = Duration::from_secs(60);
/// A job that runs for more than so many mean service times holds its worker.
const LONG_JOB: f64 = 6.0;
const LONG_JOB_LEAST_MS: f64 = 50.0;

/// What is known at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Inputs {
    /// Jobs that are due and wait.
    pub ready: u64,
    /// Jobs ever enqueued in the pool's queues.
    pub enqueued: u64,
    /// Jobs ever finished by its workers, and how long they ran in all.
    pub finished: u64,
    pub busy_ms: u64,
    /// Workers whose jobs have run for longer than [`Law::long_job`].
    pub held: u32,
    /// Workers that run something.
    pub busy: u32,
    /// The store is not reached: nothing of the above is fresh.
    pub blind: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub min: u32,
    pub max: u32,
    pub slots: u16,
    pub target_wait: Duration,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub target: u32,
    /// Without the limits.
    pub needed: u32,
    /// In words, with the numbers it rests on.
    pub why: String,
    pub reason: Reason,
    pub saturated: bool,
}

/// What a decision rests on in the end, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// As many as are needed.
    Load,
    /// More were needed a moment ago.
    Hold,
    MinWorkers,
    MaxWorkers,
    /// Somebody asked for more or fewer.
    ByHand,
    /// The store is not reached: as many as before.
    Blind,
}

impl Reason {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Hold => "hold",
            Self::MinWorkers => "min_workers",
            Self::MaxWorkers => "max_workers",
            Self::ByHand => "by_hand",
            Self::Blind => "blind",
        }
    }

    fn of(needed: u32, held_need: u32, limits: &Limits) -> Self {
        if needed > limits.max {
            Self::MaxWorkers
        } else if held_need.max(needed) < limits.min {
            Self::MinWorkers
        } else if held_need > needed {
            Self::Hold
        } else {
            Self::Load
        }
    }
}

impl Decision {
    /// So many workers more or fewer, as somebody asked for by hand.
    pub fn shift(&mut self, offset: i32, max: u32) {
        if offset == 0 {
            return;
        }
        let target = i64::from(self.target) + i64::from(offset);
        self.target = u32::try_from(target.clamp(0, i64::from(max))).unwrap_or(max);
        let (count, way, signal) =
            if offset > 0 { (offset, "more", "SIGTTIN") } else { (-offset, "fewer", "SIGTTOU") };
        self.reason = Reason::ByHand;
        self.why = format!("{}; {count} {way} than that by {signal}", self.why);
    }
}

/// What is remembered from one decision to the next.
#[derive(Debug, Clone)]
pub struct Law {
    last: Option<(Mono, Inputs)>,
    /// Jobs a second, and mean service time in ms.
    rate: f64,
    service: Option<f64>,
    /// Finished jobs that the mean rests on, decaying.
    weight: f64,
    needs: VecDeque<(Mono, u32)>,
    target: u32,
    why: String,
    full_since: Option<Mono>,
}

impl Default for Law {
    fn default() -> Self {
        Self {
            last: None,
            rate: 0.0,
            service: None,
            weight: 0.0,
            needs: VecDeque::new(),
            target: 0,
            why: "nothing is known yet".to_owned(),
            full_since: None,
        }
    }
}

impl Law {
    /// Beyond this a running job counts as holding its worker.
    #[must_use]
    pub fn long_job(&self, target_wait: Duration) -> Duration {
        let long = (self.service.unwrap_or(UNKNOWN_SERVICE_MS) * LONG_JOB).max(LONG_JOB_LEAST_MS);
        Duration::from_secs_f64(long / 1000.0).min(target_wait)
    }

    /// Takes one look. Looks may come at any time, and at once one after the other.
    pub fn decide(&mut self, now: Mono, inputs: &Inputs, limits: &Limits) -> Decision {
        if inputs.blind {
            let target = self.target.clamp(limits.min, limits.max);
            let why = format!("the store is not reachable: {target} as before");
            return Decision { target, needed: target, why, reason: Reason::Blind, saturated: false };
        }
        self.learn(now, inputs);
        let service = self.service.unwrap_or(UNKNOWN_SERVICE_MS) / 1000.0;
        let slots = f64::from(limits.slots.max(1));
        let drain = limits.target_wait.as_secs_f64() * DRAIN_SHARE;
        let ready = inputs.ready as f64;
        let load = self.rate * service / slots + ready * service / (slots * drain);
        // Ten percent of a worker is noise, not a need.
        let mut needed = inputs.held.saturating_add((load - 0.1).max(0.0).ceil() as u32);
        if inputs.ready > 0 {
            needed = needed.max(inputs.held + 1);
        }
        needed = needed.max(u32::from(inputs.busy > 0));
        while self.needs.front().is_some_and(|(at, _)| now.since(*at) >= HOLD) {
            self.needs.pop_front();
        }
        // Of moments close to each other only the highest need counts.
        match self.needs.back_mut() {
            Some((at, last)) if now.since(*at) < Duration::from_millis(250) => *last = needed.max(*last),
            _ => self.needs.push_back((now, needed)),
        }
        let held_need = self.needs.iter().map(|(_, need)| *need).max().unwrap_or(needed);
        self.target = held_need.clamp(limits.min, limits.max);
        self.note_saturation(now, needed, limits);
        self.why = self.words(inputs, service, needed, held_need, limits);
        let saturated = self.full_since.is_some_and(|since| now.since(since) >= SATURATED);
        let reason = Reason::of(needed, held_need, limits);
        Decision { target: self.target, needed, why: self.why.clone(), reason, saturated }
    }

    fn note_saturation(&mut self, now: Mono, needed: u32, limits: &Limits) {
        if needed > limits.max {
            self.full_since.get_or_insert(now);
        } else {
            self.full_since = None;
        }
    }

    fn learn(&mut self, now: Mono, inputs: &Inputs) {
        let Some((at, last)) = &self.last else {
            self.last = Some((now, *inputs));
            return;
        };
        let span = now.since(*at).as_secs_f64();
        if span < 0.2 {
            return;
        }
        let keep = 0.5_f64.powf(span / MEMORY.as_secs_f64());
        let arrived = inputs.enqueued.saturating_sub(last.enqueued) as f64 / span;
        self.rate = self.rate * keep + arrived * (1.0 - keep);
        if self.rate < 0.01 {
            self.rate = 0.0;
        }
        let finished = inputs.finished.saturating_sub(last.finished) as f64;
        self.weight *= keep;
        if finished > 0.0 {
            let mean = inputs.busy_ms.saturating_sub(last.busy_ms) as f64 / finished;
            let before = self.service.unwrap_or(mean);
            self.service = Some((before * self.weight + mean * finished) / (self.weight + finished));
            self.weight += finished;
        }
        self.last = Some((now, *inputs));
    }

    fn words(&self, inputs: &Inputs, service: f64, needed: u32, held_need: u32, limits: &Limits) -> String {
        let mut parts = Vec::new();
        if inputs.ready > 0 {
            parts.push(format!("{} ready", inputs.ready));
        }
        if self.rate > 0.0 {
            parts.push(format!("{:.1}/s arriving", self.rate));
        }
        let each = if self.service.is_some() {
            format!("{} each", span(service))
        } else {
            format!("{} each (a guess)", span(service))
        };
        let plural = |n: u32| if n == 1 { "1 worker".to_owned() } else { format!("{n} workers") };
        let mut text = if parts.is_empty() && inputs.held == 0 {
            format!("nothing to do needs {}", plural(needed))
        } else {
            let mut text =
                if parts.is_empty() { String::new() } else { format!("{} at {each}", parts.join(" and ")) };
            if inputs.held > 0 {
                let and = if text.is_empty() { "" } else { ", and " };
                let _ = write!(text, "{and}{} held by long jobs", plural(inputs.held));
            }
            format!("{text} need {}", plural(needed))
        };
        if needed > limits.max {
            let _ = write!(text, "; bounded by max_workers {}", limits.max);
        } else if held_need.max(needed) < limits.min {
            let _ = write!(text, "; min_workers is {}", limits.min);
        } else if held_need > needed {
            let shown = held_need.min(limits.max);
            let _ = write!(text, "; {shown} until the need has been lower for {} s", HOLD.as_secs());
        }
        text
    }
}

fn span(seconds: f64) -> String {
    if seconds >= 1.0 {
        format!("{seconds:.1} s")
    } else if seconds >= 0.01 {
        format!("{:.0} ms", seconds * 1000.0)
    } else {
        format!("{:.1} ms", seconds * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { min: 0, max: 4, slots: 1, target_wait: Duration::from_secs(1) };

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn inputs(ready: u64) -> Inputs {
        Inputs { ready, ..Inputs::default() }
    }

    #[test]
    fn one_ready_job_needs_a_worker_at_once() {
        let mut law = Law::default();
        assert_eq!(law.decide(at(0), &inputs(0), &LIMITS).target, 0);
        let decision = law.decide(at(1), &inputs(1), &LIMITS);
        assert_eq!(decision.target, 1);
        assert_eq!(decision.why, "1 ready at 100 ms each (a guess) need 1 worker");
    }

    #[test]
    fn a_backlog_is_worked_off_in_the_target_wait() {
        let mut law = Law::default();
        let decision = law.decide(at(0), &inputs(12), &LIMITS);
        assert_eq!((decision.needed, decision.target), (2, 2));
        let decision = law.decide(at(1), &inputs(1000), &LIMITS);
        assert_eq!(decision.target, 4);
        assert!(decision.why.ends_with("need 125 workers; bounded by max_workers 4"), "{}", decision.why);
        assert!(!decision.saturated);
        assert!(law.decide(at(60_001), &inputs(1000), &LIMITS).saturated);
    }

    #[test]
    fn rates_and_service_times_are_learned() {
        let mut law = Law::default();
        let mut decision = law.decide(at(0), &Inputs::default(), &LIMITS);
        for second in 1..=60 {
            let look = Inputs {
                enqueued: second * 20,
                finished: second * 20,
                busy_ms: second * 20 * 90,
                ..inputs(1)
            };
            decision = law.decide(at(second * 1000), &look, &LIMITS);
        }
        assert!(
            decision.why.starts_with("1 ready and 19.7/s arriving at 90 ms each need 2 workers"),
            "{}",
            decision.why
        );
    }

    #[test]
    fn long_jobs_hold_their_workers() {
        let mut law = Law::default();
        let look = Inputs { held: 2, busy: 2, ..inputs(1) };
        assert_eq!(law.decide(at(0), &look, &LIMITS).target, 3);
        let look = Inputs { held: 2, busy: 2, ..inputs(0) };
        let why = law.decide(at(11_000), &look, &LIMITS).why;
        assert_eq!(why, "2 workers held by long jobs need 2 workers");
    }

    #[test]
    fn down_only_after_a_while_and_never_when_blind() {
        let mut law = Law::default();
        law.decide(at(0), &inputs(100), &LIMITS);
        assert_eq!(law.decide(at(9_000), &inputs(0), &LIMITS).target, 4);
        let blind = Inputs { blind: true, ..inputs(0) };
        assert_eq!(law.decide(at(90_000), &blind, &LIMITS).target, 4);
        let decision = law.decide(at(90_001), &inputs(0), &LIMITS);
        assert_eq!((decision.target, decision.why.as_str()), (0, "nothing to do needs 0 workers"));
    }

    proptest! {
        #[test]
        fn the_limits_hold_and_more_work_never_needs_less(
            looks in prop::collection::vec((0_u64..5000, 0_u64..100_000, 0_u32..20, any::<bool>(), 1_u64..5000), 1..40),
            min in 0_u32..4, more in 0_u32..10, slots in 1_u16..64,
        ) {
            let limits = Limits { min, max: min + more.max(1), slots, target_wait: Duration::from_secs(1) };
            let (mut law, mut now, mut enqueued) = (Law::default(), 0, 0);
            for (ready, arrived, held, blind, ms) in looks {
                now += ms;
                enqueued += arrived;
                let look = Inputs { ready, enqueued, held, busy: held, blind, finished: enqueued / 2, busy_ms: enqueued };
                let mut other = law.clone();
                let decision = law.decide(at(now), &look, &limits);
                prop_assert!((limits.min..=limits.max).contains(&decision.target));
                prop_assert!(ready == 0 || blind || decision.target >= 1);
                let busier = other.decide(at(now), &Inputs { ready: ready + 100, ..look }, &limits);
                prop_assert!(busier.target >= decision.target);
                prop_assert!(!decision.why.is_empty());
            }
        }
    }
}
