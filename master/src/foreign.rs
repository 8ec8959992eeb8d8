//! How many workers a foreign pool is to have: of its queue only the length is known, and of its workers only that they
//! run. Pure.
//!
//! What arrives and what a worker gets done cannot be told apart while nothing changes: both are in the slope of the
//! length. They come apart when the number of workers changes while something waits, since one of the two slopes is then
//! known with one number, the other with another. So:
//!
//! - Nothing waits for longer than `target_wait`: as many as there are, for [`HOLD`]; then one fewer (or, with many, a few)
//!   on trial. What goes well is tried further down. If the queue grows, those that were there come back at once, and the
//!   number that was too small is not tried again for a while, each time a longer one.
//! - More waits, and does not go away in time: more workers, as many as the slopes tell; while they tell nothing, twice
//!   as many. Then time to see what they do.
//! - Unread, the number stays as it is.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use roundsman_shared::clock::Mono;

/// How much waits, or why that is not known.
pub(crate) type Reading = Result<u64, String>;

/// A reading that is older says nothing.
const STALE: Duration = Duration::from_secs(10);
/// Before fewer are tried.
const HOLD: Duration = Duration::from_secs(10);
/// A slope is one of at least so many readings and so long.
const READINGS: usize = 3;
const SPAN: Duration = Duration::from_secs(2);
const MOST_READINGS: usize = 8;
/// What waits too long is to be gone in this time, or in `target_wait` where that is longer.
const CATCH_UP: f64 = 5.0;
/// A number that was too small is left alone for so long at first, and at most.
const AVOID: Duration = Duration::from_secs(60);
const AVOID_MOST: Duration = Duration::from_secs(960);
/// Weight of the newest estimate of what a worker gets done.
const NEWEST: f64 = 0.5;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Law {
    level: Option<u32>,
    /// Readings since the number of workers changed, the newest last.
    readings: VecDeque<(Mono, u64)>,
    /// With so many workers.
    workers: u32,
    /// The slope with another number of workers, while something waited.
    before: Option<(u32, f64)>,
    /// What one worker gets done in a second.
    rate: Option<f64>,
    /// What arrives in a second, as it was found last.
    arrive: Option<f64>,
    /// Since when nothing waits too long.
    calm: Option<Mono>,
    /// The number from which fewer were tried last.
    tried: Option<u32>,
    step: u32,
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
    /// In words, with the numbers it rests on.
    pub why: String,
}

impl Law {
    pub(crate) fn decide(
        &mut self,
        now: Mono,
        reading: Option<&(Mono, Reading)>,
        hands: Hands,
        limits: &Limits,
    ) -> Verdict {
        // A master that takes over goes on with what it finds.
        let level = self.level.unwrap_or(hands.there).clamp(limits.min, limits.max);
        self.level = Some(level);
        let length = match reading {
            Some((at, Ok(length))) if now.since(*at) < STALE => *length,
            Some((_, Err(why))) => return self.blind(level, why),
            Some(_) => return self.blind(level, "nobody has read it for 10 s"),
            None => return self.blind(level, "it was not read yet"),
        };
        let at = reading.map_or(now, |(at, _)| *at);
        if self.readings.back().is_none_or(|(last, _)| *last < at) || self.workers != hands.ready {
            self.note(at, length, hands.ready);
        }
        let needed = self.needed(now, length, level, hands, limits);
        let target = needed.clamp(limits.min, limits.max);
        self.level = Some(target);
        let mood = if target < level || (target == level && self.calm.is_some() && target > limits.min) {
            Mood::Trying
        } else {
            Mood::Needed
        };
        Verdict { target, needed, mood, why: self.words(length, level, needed, limits) }
    }

    fn blind(&mut self, level: u32, why: &str) -> Verdict {
        self.readings.clear();
        self.before = None;
        self.calm = None;
        let why = format!("its queue cannot be read: {why}; as many as before");
        Verdict { target: level, needed: level, mood: Mood::Blind, why }
    }

    fn note(&mut self, at: Mono, length: u64, workers: u32) {
        if self.workers != workers {
            if let Some(slope) = self.slope() {
                self.before = Some((self.workers, slope));
            }
            self.readings.clear();
            self.workers = workers;
        }
        self.readings.push_back((at, length));
        if self.readings.len() > MOST_READINGS {
            self.readings.pop_front();
        }
        if let Some(slope) = self.slope() {
            self.learn(slope);
        } else if length == 0 {
            // It was emptied meanwhile: what is known of a slope before is of another time.
            self.before = None;
        }
    }

    /// By how much the length changes in a second, while something waits all the time.
    fn slope(&self) -> Option<f64> {
        let ((from, first), (to, last)) = (*self.readings.front()?, *self.readings.back()?);
        let span = to.since(from);
        let waits = self.readings.iter().all(|(_, length)| *length > 0);
        let known = waits && self.readings.len() >= READINGS && span >= SPAN;
        known.then(|| (last as f64 - first as f64) / span.as_secs_f64())
    }

    fn learn(&mut self, slope: f64) {
        let workers = f64::from(self.workers);
        if let Some((other, steeper)) = self.before {
            let apart = workers - f64::from(other);
            // Of a small difference chance makes more than the workers do.
            if apart.abs() >= (workers / 4.0).max(1.0) {
                let rate = (steeper - slope) / apart;
                if rate > 0.0 {
                    self.rate = Some(self.rate.map_or(rate, |old| old + NEWEST * (rate - old)));
                }
            }
        }
        // So much they do at least: the rest of it made good what arrived.
        if slope < 0.0 && workers > 0.0 {
            let least = -slope / workers;
            self.rate = self.rate.map(|rate| rate.max(least));
        }
        self.arrive = match self.rate {
            Some(rate) => Some((slope + workers * rate).max(0.0)),
            None if self.workers == 0 => Some(slope.max(0.0)),
            None => None,
        };
    }

    /// How long what waits takes to be begun, in seconds, by what is known of the workers.
    fn wait(&self, length: u64, ready: u32) -> Option<f64> {
        let rate = self.rate? * f64::from(ready);
        (rate > 0.0).then(|| length as f64 / rate)
    }

    fn needed(&mut self, now: Mono, length: u64, level: u32, hands: Hands, limits: &Limits) -> u32 {
        let objective = limits.target_wait.as_secs_f64();
        let short = match self.wait(length, hands.ready) {
            Some(wait) => wait <= objective,
            // One for each worker that is about to be free.
            None => length <= u64::from(hands.ready),
        };
        if length == 0 || (short && hands.ready > 0) {
            return self.at_rest(now, length, level, limits);
        }
        let calm = self.calm.take();
        if level == 0 {
            // It was wanted again so soon that it had better stayed.
            if self.tried.take().is_some() && calm.is_some_and(|calm| now.since(calm) < AVOID) {
                self.avoid(now, 0);
            }
            return self.avoided(now).max(1);
        }
        let horizon = objective.max(CATCH_UP);
        let slope = self.slope();
        // It grew after fewer were tried: they come back without waiting for more to be known.
        if let Some(before) = self.tried.filter(|before| *before > level) {
            let sure = slope.is_some_and(|slope| slope >= 0.0) || length > u64::from(level);
            if sure && hands.ready <= level {
                self.tried = None;
                self.avoid(now, level);
                return before;
            }
        }
        // Those that were decided on are not all there yet: what they do is not seen yet.
        let Some(slope) = slope.filter(|_| hands.ready >= level) else { return level };
        let in_time = slope < 0.0 && length as f64 / -slope <= horizon;
        if in_time {
            return level;
        }
        let now_ready = f64::from(hands.ready);
        let wanted = match (self.rate, self.arrive) {
            (Some(rate), Some(arrive)) => (arrive + length as f64 / horizon) / rate,
            _ if slope < 0.0 => now_ready * length as f64 / horizon / -slope,
            _ => 2.0 * now_ready,
        };
        let most = level.saturating_mul(2).max(level + 1);
        let wanted = (wanted.ceil() as u32).clamp(level + 1, most);
        // More of them are to be seen at work before the next step.
        self.before = Some((hands.ready, slope));
        if slope > 0.0 {
            self.avoid(now, level);
        }
        self.tried = None;
        self.step = 0;
        wanted
    }

    /// Nothing waits too long.
    fn at_rest(&mut self, now: Mono, length: u64, level: u32, limits: &Limits) -> u32 {
        let calm = *self.calm.get_or_insert(now);
        if level <= limits.min || now.since(calm) < HOLD || (level == 1 && length > 0) {
            return level;
        }
        let floor = self.avoided(now);
        let next = if self.tried.is_some() { self.step.saturating_mul(2).max(1) } else { 1 };
        let step = next.min((level / 4).max(1));
        let known = match (self.rate, self.arrive) {
            // After a backlog much is known at once; a half is left to chance.
            (Some(rate), Some(arrive)) if self.tried.is_none() => {
                ((arrive / rate).ceil() as u32).max(level / 2)
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
        let again = self.too_few.filter(|few| few.workers == workers && now < few.until + few.pause);
        let pause = again.map_or(AVOID, |few| (few.pause * 2).min(AVOID_MOST));
        self.step = 0;
        self.too_few = Some(TooFew { workers, until: now + pause, pause });
    }

    /// The fewest that may be tried now.
    fn avoided(&self, now: Mono) -> u32 {
        self.too_few.filter(|few| now < few.until).map_or(0, |few| few.workers + 1)
    }

    fn words(&self, length: u64, level: u32, needed: u32, limits: &Limits) -> String {
        let does = match (self.rate, self.arrive) {
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
