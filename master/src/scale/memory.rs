//! What was needed lately, and what was done about it: when the number of workers may rise, and when it may fall. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use roundsman_shared::clock::Mono;

use super::{Inputs, Terms};

/// The need must have been lower for so long before workers are let go; it grows up to the second where that was soon
/// regretted, and comes back in between.
const HOLD: Duration = Duration::from_secs(20);
const HOLD_MOST: Duration = Duration::from_secs(40);
const BOOTS_A_HOLD: u32 = 6;
const REGRET: f64 = 1.5;
const RELIEF: f64 = 0.9;
/// Of what the flow needed in that time, so much is kept: what was needed more rarely is not worth waiting workers.
const PERCENTILE: f64 = 0.35;
/// A backlog needs what it needed at most in so long.
const DRAIN_FOR: Duration = Duration::from_secs(1);
/// More must have been needed for so long, where nothing is urgent.
const PERSISTS: Duration = Duration::from_secs(10);
/// Between going up and going down, or the other way, in calm.
const TURN: Duration = Duration::from_secs(10);
/// While workers fail, so many times what the flow needs is kept of those that are there.
const RESERVE: f64 = 1.1;
/// What came at once is gathered for so long after a rise, unless it needs twice as many.
const GATHER: Duration = Duration::from_millis(250);
/// Between two rises in calm: in times of the objective, a boot at least and so long at most.
const AGAIN: f64 = 1.4;
const AGAIN_MOST: Duration = Duration::from_secs(7);
/// Between two falls after a flood.
const AFTER: Duration = Duration::from_secs(8);
/// Between any two falls, in times that a job runs: workers do not become idle any faster. `HOLD_MOST` at most.
const RUNS: f64 = 1.25;
/// A fall of a smaller share is put off until nothing has changed for so long.
const STEP: f64 = 0.15;
const STEP_AFTER: Duration = Duration::from_secs(60);
/// How many long jobs run varies by chance, by about the root of how many run on average: a fall of fewer workers than so
/// many roots is put off as well. The average is one over about so long.
const ROOTS: f64 = 1.55;
const HELD_OVER: Duration = Duration::from_secs(60);
/// Without work for so long, or so many boots, a pool needs nobody; for longer where going down is regretted.
const LINGER: Duration = Duration::from_secs(10);
const BOOTS_TO_LINGER: u32 = 10;
/// So many failures within so long, and workers fail.
const FAILURES: usize = 4;
const FAILING: Duration = Duration::from_secs(10);

/// See the module's text.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    /// What the flow needed, the most of each second.
    flows: VecDeque<(Mono, f64)>,
    drains: VecDeque<(Mono, f64)>,
    /// Workers that long jobs hold, on average, as of the last look.
    held: f64,
    looked: Option<Mono>,
    hold: Duration,
    again: Duration,
    /// Since when more has been needed than there are.
    more_since: Option<Mono>,
    /// The last rise, and whether it was one in calm; and the last fall.
    rose: Option<(Mono, bool)>,
    fell: Option<(Mono, bool)>,
    busy: Option<Mono>,
    failures: u64,
    failed: VecDeque<Mono>,
    is_flooded: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            flows: VecDeque::new(),
            drains: VecDeque::new(),
            held: 0.0,
            looked: None,
            hold: HOLD,
            again: AGAIN_MOST,
            more_since: None,
            rose: None,
            fell: None,
            busy: None,
            failures: 0,
            failed: VecDeque::new(),
            is_flooded: false,
        }
    }
}

/// What is not to be let go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub workers: u32,
    pub is_failing: bool,
}

impl Memory {
    pub(super) fn adopt(&mut self, now: Mono, workers: f64) {
        for ago in (0..self.hold.as_secs()).rev() {
            let at = now.as_nanos().saturating_sub(ago * 1_000_000_000);
            self.flows.push_back((Mono::from_nanos(at), workers));
        }
        self.busy = Some(now);
    }

    pub(super) const fn hold(&self) -> Duration {
        self.hold
    }

    /// `target`: workers wanted so far.
    pub(super) fn look(
        &mut self,
        now: Mono,
        inputs: &Inputs<'_>,
        terms: &Terms,
        target: u32,
        target_wait: Duration,
    ) -> Kept {
        let least = inputs.boot * BOOTS_A_HOLD;
        self.hold = self.hold.clamp(least.max(HOLD), HOLD_MOST.max(least));
        self.again = target_wait.mul_f64(AGAIN).min(AGAIN_MOST).max(inputs.boot);
        note(&mut self.flows, now, terms.base - terms.held, Duration::from_secs(1), self.hold);
        self.average(now, terms.held);
        note(&mut self.drains, now, terms.drain, Duration::from_millis(250), DRAIN_FOR);
        for _ in 0..inputs.failures.saturating_sub(self.failures).min(FAILURES as u64) {
            self.failed.push_back(now);
        }
        self.failures = inputs.failures;
        while self.failed.len() > FAILURES {
            self.failed.pop_front();
        }
        let recent = self.failed.iter().filter(|at| now.since(**at) < FAILING).count();
        let is_failing = recent >= FAILURES;
        if inputs.is_busy() {
            self.busy = Some(now);
        }
        let linger =
            LINGER.max(inputs.boot * BOOTS_TO_LINGER).mul_f64(self.hold.div_duration_f64(HOLD).max(1.0));
        let lingers = self.busy.is_some_and(|at| now.since(at) < linger);
        let drain = if terms.ready > 0 || terms.soon > 0 {
            self.drains.iter().map(|(_, drain)| *drain).fold(0.0, f64::max)
        } else {
            0.0
        };
        let mut all: Vec<f64> = self.flows.iter().map(|(_, flow)| *flow).collect();
        let place = ((all.len() as f64 * PERCENTILE) as usize).min(all.len().saturating_sub(1));
        let flow = if all.is_empty() { 0.0 } else { *all.select_nth_unstable_by(place, f64::total_cmp).1 };
        let reserve =
            ((terms.base * RESERVE).ceil() as u32).min(inputs.workers + inputs.elsewhere.workers).min(target);
        let kept = super::SPARE_TO_KEEP.whole(terms.held + flow + drain);
        let is_slow = inputs.boot * 2 > target_wait;
        let kept = kept.max(u32::from(lingers || is_slow)).max(if is_failing { reserve } else { 0 });
        Kept { workers: kept, is_failing }
    }

    fn average(&mut self, now: Mono, held: f64) {
        let passed = self.looked.replace(now).map_or(Duration::ZERO, |at| now.since(at));
        let weight = 1.0 - (-passed.div_duration_f64(HELD_OVER)).exp();
        self.held += weight * (held - self.held);
    }

    pub(super) fn may_rise(
        &mut self,
        now: Mono,
        target: u32,
        needed: u32,
        is_urgent: bool,
        terms: &Terms,
    ) -> bool {
        let is_flood = terms.is_flood();
        let since = *self.more_since.get_or_insert(now);
        let turns = self.fell.is_some_and(|(at, _)| now.since(at) < TURN);
        let again = self.rose.is_some_and(|(at, _)| now.since(at) < self.again);
        self.is_flooded = is_flood;
        // Those who were started for it are not there yet: a little more is no news. Much more is, however few of them there
        // may be, and that none of them is left for it.
        let gathers = self.rose.is_some_and(|(at, _)| now.since(at) < GATHER);
        let much = 2.max(if gathers { target } else { target.div_ceil(4) });
        let more = !again || terms.is_stuck || needed.saturating_sub(target) >= much;
        // Where nobody is, nobody waits for anybody.
        target == 0 || (is_flood && more) || (!turns && !again && (is_urgent || now.since(since) >= PERSISTS))
    }

    pub(super) const fn calm(&mut self) {
        self.more_since = None;
    }

    pub(super) fn rose(&mut self, now: Mono) {
        if self.fell.is_some_and(|(at, calm)| calm && now.since(at) < self.hold) {
            self.hold = self.hold.mul_f64(REGRET).min(HOLD_MOST);
        }
        self.rose = Some((now, !self.is_flooded));
        self.more_since = None;
    }

    /// Whether a fall to so many is large enough, or is due since nothing has changed for long; that there is nothing to do
    /// is no chance. `slots`: jobs that a worker runs at once.
    pub(super) fn is_due(&self, now: Mono, target: u32, lower: u32, slots: u16) -> bool {
        let chance = ROOTS * (self.held / f64::from(slots.max(1))).sqrt();
        let is_step = f64::from(target.saturating_sub(lower)) >= chance.max(STEP * f64::from(target));
        let last = [self.rose, self.fell].into_iter().flatten().map(|(at, _)| at).max();
        lower == 0 || is_step || last.is_none_or(|at| now.since(at) > STEP_AFTER)
    }

    /// `run`: seconds that a job runs.
    pub(super) fn may_fall(&self, now: Mono, run: f64) -> bool {
        let runs = Duration::from_secs_f64((RUNS * run).min(HOLD_MOST.as_secs_f64()));
        let rests =
            self.fell.is_some_and(|(at, calm)| now.since(at) < runs.max(if calm { TURN } else { AFTER }));
        let turns = self.rose.is_some_and(|(at, calm)| calm && now.since(at) < TURN);
        !rests && !turns
    }

    pub(super) fn fell(&mut self, now: Mono) {
        if self.rose.is_none_or(|(at, _)| now.since(at) >= self.hold) {
            self.hold = self.hold.mul_f64(RELIEF).max(HOLD);
        }
        let after_flood = self.rose.is_some_and(|(_, calm)| !calm);
        self.fell = Some((now, !after_flood));
    }
}

/// Remembers the highest of each `step`.
fn note(seen: &mut VecDeque<(Mono, f64)>, now: Mono, value: f64, step: Duration, within: Duration) {
    match seen.back_mut() {
        Some((at, last)) if now.since(*at) < step => *last = last.max(value),
        _ => seen.push_back((now, value)),
    }
    while seen.front().is_some_and(|(at, _)| now.since(*at) > within) {
        seen.pop_front();
    }
}
