//! How many workers a foreign pool is to have: of its queue only the length is known, and of its workers only that they
//! run. Pure.
//!
//! - How long things wait follows from when the queue was last seen empty, which bounds it, or from what a worker is known
//!   to get done ([`slopes`]).
//! - They wait too long, and that does not pass by itself: more workers, as many as the slopes tell; while they tell
//!   nothing, up to twice as many. Then time to see what they do.
//! - They do not: one worker fewer (or, with many, a few) on trial, the sooner the more seldom anything waits: a queue that is
//!   always empty has workers to spare, one that is short but seldom empty has as many as it needs. If the queue grows then,
//!   those that were there come back at once, and the number that was too small is left alone, each time for longer.
//! - Unread, the number stays as it is.

mod slopes;
#[cfg(test)]
mod tests;

use std::time::Duration;

use roundsman_shared::clock::Mono;

use self::slopes::Slopes;

/// How much waits, or why that is not known.
pub(crate) type Reading = Result<u64, String>;

/// A reading that is older says nothing.
const STALE: Duration = Duration::from_secs(10);
/// Before fewer are tried where nothing waits; longer in the measure in which something does.
const HOLD: Duration = Duration::from_secs(10);
const HOLD_A_SHARE: f64 = 20.0;
const JOBS: f64 = 4.0;
const HOLD_MOST: f64 = 300.0;
/// Seconds in which the share of readings that are not empty forgets.
const MEMORY: f64 = 20.0;
/// Chance makes a queue of some length now and then: too long so often in a row, more are needed.
const IN_A_ROW: u32 = 2;
/// Longer than this many times what it may, it is no chance.
const SURELY: f64 = 3.0;
/// In so large a share of the last minute, more are needed though each time it passed by itself.
const OFTEN: f64 = 0.12;
const OFTEN_MEMORY: f64 = 60.0;
/// So many times as many at most, while nothing is known of what a worker gets done, and when it is.
const STEP: u32 = 2;
const KNOWN_STEP: u32 = 4;
/// What arrives comes by chance, and is known roughly.
const MARGIN: f64 = 1.2;
/// A queue that grows is too long at this share of that.
const GROWING: f64 = 0.5;
/// What waits too long is to be gone in this time, or in `target_wait` where that is longer.
const CATCH_UP: f64 = 5.0;
/// Where that is of no use to tell them apart, a queue that was empty so lately is short.
const SHORTEST: f64 = 2.0;
/// A number that was too small is left alone for so long at first, and at most.
const AVOID: Duration = Duration::from_secs(120);
const AVOID_MOST: Duration = Duration::from_secs(960);
/// Nothing waits for so long, and a number that was too small once is so no more.
const EMPTY: Duration = Duration::from_secs(60);
/// More are needed for so long than there may be, and it is told.
const SATURATED: Duration = Duration::from_secs(60);

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Law {
    level: Option<u32>,
    slopes: Slopes,
    /// When the queue was last read.
    read: Option<Mono>,
    /// Seconds between the last two readings.
    passed: f64,
    /// When it was last empty, and since when it always was.
    empty: Option<Mono>,
    always_empty: Option<Mono>,
    /// The share of readings with something in them, of late.
    taken: f64,
    /// Readings in a row of things that wait too long.
    late: u32,
    /// The share of readings of that, of late.
    often: f64,
    /// Since when nothing waits too long with so many workers.
    calm: Option<Mono>,
    /// The number from which fewer were tried last.
    tried: Option<u32>,
    step: u32,
    /// What was found last.
    needed: u32,
    /// Since when that is more than there may be.
    beyond: Option<Mono>,
    too_few: Option<TooFew>,
}

#[derive(Debug, Clone, Copy)]
struct TooFew {
    workers: u32,
    until: Mono,
    pause: Duration,
}

/// What a pool may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub min: u32,
    pub max: u32,
    pub target_wait: Duration,
}

/// What it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hands {
    /// That are to stay, or to come back.
    pub there: u32,
    pub ready: u32,
}

/// What a number rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Needed,
    /// Fewer are tried, or will be.
    Trying,
    Blind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub target: u32,
    /// Without the limits.
    pub needed: u32,
    pub mood: Mood,
    /// More have been needed for long than there may be.
    pub saturated: bool,
    /// In words, with the numbers it rests on.
    pub why: String,
}

impl Law {
    /// An earlier master had so many: as long as nothing else is known, they are needed.
    pub(crate) fn adopt(&mut self, workers: u32) {
        let level = self.level.unwrap_or(0).max(workers);
        (self.level, self.needed) = (Some(level), level);
    }

    pub(crate) fn decide(
        &mut self,
        now: Mono,
        reading: Option<&(Mono, Reading)>,
        hands: Hands,
        limits: &Limits,
    ) -> Verdict {
        let level = self.level.unwrap_or(hands.there).clamp(limits.min, limits.max);
        self.level = Some(level);
        let (at, length) = match reading {
            Some((at, Ok(length))) if now.since(*at) < STALE => (*at, *length),
            Some((_, Err(why))) => return self.blind(level, why),
            Some(_) => return self.blind(level, "nobody has read it for 10 s"),
            None => return self.blind(level, "it was not read yet"),
        };
        // Between two readings there is nothing new.
        if self.read.is_none_or(|read| read < at) {
            self.note(at, length, hands.ready);
            self.needed = self.find(at, length, level, hands, limits);
        }
        let needed = self.needed;
        if needed > limits.max {
            self.beyond.get_or_insert(now);
        } else {
            self.beyond = None;
        }
        let saturated = self.beyond.is_some_and(|since| now.since(since) >= SATURATED);
        let target = needed.clamp(limits.min, limits.max);
        self.level = Some(target);
        let resting = self.calm.is_some() && target > limits.min;
        let mood = if target < level || (target == level && resting) { Mood::Trying } else { Mood::Needed };
        Verdict { target, needed, mood, saturated, why: self.words(length, level, needed, limits) }
    }

    fn blind(&mut self, level: u32, why: &str) -> Verdict {
        self.slopes.interrupt();
        (self.empty, self.always_empty, self.calm, self.late) = (None, None, None, 0);
        self.needed = level;
        let why = format!("its queue cannot be read: {why}; as many as before");
        self.beyond = None;
        Verdict { target: level, needed: level, mood: Mood::Blind, saturated: false, why }
    }

    fn note(&mut self, at: Mono, length: u64, ready: u32) {
        self.slopes.note(at, length, ready);
        self.passed = self.read.map_or(1.0, |read| at.since(read).as_secs_f64());
        let weight = 1.0 - (-self.passed / MEMORY).exp();
        self.taken += weight * (f64::from(u8::from(length > 0)) - self.taken);
        self.read = Some(at);
        if length == 0 {
            self.empty = Some(at);
            self.always_empty.get_or_insert(at);
        } else {
            self.empty.get_or_insert(at);
            self.always_empty = None;
        }
    }

    /// How many times longer than it may something waits; at most, as far as that is known.
    fn excess(&self, now: Mono, length: u64, ready: u32, limits: &Limits) -> f64 {
        if length == 0 {
            return 0.0;
        }
        let objective = limits.target_wait.as_secs_f64();
        let since_empty = self.empty.map_or(0.0, |empty| now.since(empty).as_secs_f64());
        let oldest = if ready > 0 && since_empty <= SHORTEST { 0.0 } else { since_empty / objective };
        let done = self.slopes.rate.map_or(0.0, |rate| rate * f64::from(ready));
        if done > 0.0 { oldest.min(length as f64 / done / objective) } else { oldest }
    }

    fn find(&mut self, now: Mono, length: u64, level: u32, hands: Hands, limits: &Limits) -> u32 {
        let excess = self.excess(now, length, hands.ready, limits);
        let weight = 1.0 - (-self.passed / OFTEN_MEMORY).exp();
        self.often += weight * (f64::from(u8::from(excess > 1.0)) - self.often);
        if level == 0 {
            return if length == 0 { 0 } else { self.begin(now) };
        }
        let grows = self.slopes.now().is_some_and(|slope| slope > 0.0);
        if excess <= if grows { GROWING } else { 1.0 } {
            self.late = 0;
            return self.at_rest(now, length, level, limits);
        }
        self.late += 1;
        self.calm = None;
        let objective = limits.target_wait.as_secs_f64();
        // With all that there may be, what was found to be needed is needed until nothing waits too long.
        let as_before = if level == limits.max { self.needed.max(level) } else { level };
        // Those that were decided on are not all there yet: what they do is not seen yet.
        if hands.ready < level || (self.late < IN_A_ROW && excess < SURELY) {
            return as_before;
        }
        let horizon = objective.max(CATCH_UP);
        let slope = self.slopes.now();
        if slope.is_some_and(|slope| slope < 0.0 && length as f64 / -slope <= horizon) {
            if self.often <= OFTEN || level >= limits.max {
                return level;
            }
            self.avoid(now, level);
            (self.often, self.late, self.tried) = (0.0, 0, None);
            return level + (level / 16).max(1);
        }
        // It grew after fewer were tried: they come back without waiting for more to be known.
        if let Some(before) = self.tried.take().filter(|before| *before > level) {
            self.avoid(now, level);
            return before;
        }
        let Some(slope) = slope else { return as_before };
        if slope > 0.0 && level < limits.max {
            self.avoid(now, level);
        }
        self.more(length, level, slope, horizon)
    }

    /// Something waits, and nobody is there.
    fn begin(&mut self, now: Mono) -> u32 {
        // It was wanted again so soon that it had better stayed.
        if self.tried.take().is_some() && self.calm.take().is_some_and(|calm| now.since(calm) < AVOID) {
            self.avoid(now, 0);
        }
        self.calm = None;
        self.avoided(now).max(1)
    }

    fn more(&mut self, length: u64, level: u32, slope: f64, horizon: f64) -> u32 {
        let there = f64::from(level);
        let wanted = match (self.slopes.rate, self.slopes.arrive) {
            (Some(rate), Some(arrive)) => (arrive + length as f64 / horizon) / rate,
            _ if slope < 0.0 => there * length as f64 / horizon / -slope,
            _ => 2.0 * there,
        };
        self.tried = None;
        self.step = 0;
        // More of them are to be seen at work before the next step.
        self.late = 0;
        let most = if self.slopes.rate.is_some() { KNOWN_STEP } else { STEP };
        (wanted.ceil() as u32).clamp(level + 1, level.saturating_mul(most))
    }

    /// Nothing waits too long.
    fn at_rest(&mut self, now: Mono, length: u64, level: u32, limits: &Limits) -> u32 {
        let calm = *self.calm.get_or_insert(now);
        // What fewer come to shows after a few jobs.
        let jobs = self.slopes.rate.map_or(0.0, |rate| JOBS / rate).min(HOLD_MOST);
        let hold = HOLD.mul_f64(1.0 + HOLD_A_SHARE * self.taken).max(Duration::from_secs_f64(jobs));
        if level <= limits.min || now.since(calm) < hold || (level == 1 && length > 0) {
            return level;
        }
        let floor = self.avoided(now);
        let next = if self.tried.is_some() { self.step.saturating_mul(2).max(1) } else { 1 };
        let step = next.min((level / 4).max(1));
        let known = match (self.slopes.rate, self.slopes.arrive) {
            // After a backlog much is known at once; a half is left to chance.
            (Some(rate), Some(arrive)) if self.tried.is_none() => {
                ((MARGIN * arrive / rate).ceil() as u32).max(level / 2)
            }
            _ => level,
        };
        let fewer = known.min(level - step).max(floor).max(u32::from(length > 0)).min(level);
        if fewer < level {
            self.tried = Some(level);
            self.step = step;
            self.calm = Some(now);
        }
        fewer
    }

    fn avoid(&mut self, now: Mono, workers: u32) {
        let alike =
            |few: &TooFew| few.workers.abs_diff(workers) <= workers / 8 && now < few.until + few.pause;
        // Tried again after its time, and too small again.
        let pause = self
            .too_few
            .filter(alike)
            .map_or(AVOID, |few| if now < few.until { few.pause } else { (few.pause * 2).min(AVOID_MOST) });
        self.step = 0;
        self.too_few = Some(TooFew { workers, until: now + pause, pause });
    }

    /// The fewest that may be tried now.
    fn avoided(&self, now: Mono) -> u32 {
        // What one worker does at once shows as an empty queue, too.
        let is_over = |few: &TooFew| {
            few.workers > 0 && self.always_empty.is_some_and(|since| now.since(since) >= EMPTY)
        };
        self.too_few.filter(|few| now < few.until && !is_over(few)).map_or(0, |few| few.workers + 1)
    }

    fn words(&self, length: u64, level: u32, needed: u32, limits: &Limits) -> String {
        let does = match (self.slopes.rate, self.slopes.arrive) {
            (Some(rate), Some(arrive)) => {
                format!(", about {arrive:.1} come and a worker does {rate:.1} a second")
            }
            (Some(rate), None) => format!(", a worker does about {rate:.1} a second"),
            (None, _) => String::new(),
        };
        let then = match needed {
            needed if needed > limits.max => format!("{needed} would be needed"),
            needed if needed > level => format!("{needed} are needed"),
            needed if needed < level => format!("{needed} are tried"),
            _ if self.calm.is_some() && level > limits.min => "fewer are tried when that lasts".to_owned(),
            _ => format!("{level} are needed"),
        };
        format!("{length} wait in its queue{does}: {then}")
    }
}
