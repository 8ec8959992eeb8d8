//! Whether the machine has room for more workers: what is left of its memory, and how much of the time programs on it
//! wait for memory or for a processor (pressure stall information). It only ever holds growth; that who is there becomes
//! fewer is for the law, except where hardly anything gets done for want of memory. Pure.
//!
//! What is not read says nothing, so that a system without these figures is not guarded.

use std::time::Duration;

use roundsman_shared::clock::Mono;

/// Between two readings while more workers may be needed, and while not.
const READ_AGAIN: Duration = Duration::from_secs(1);
const READ_AGAIN_IDLE: Duration = Duration::from_secs(5);
/// Of all memory so much is left to others, and so much at most.
const RESERVE_SHARE: u64 = 20;
const RESERVE_MOST: u64 = 256 << 20;
/// Percent of the last ten seconds in which some program waited for memory: above the first nobody is started, until it
/// is below the second.
const MEMORY_SOME: Band = Band { above: 10.0, below: 5.0 };
/// The same of a processor.
const CPU_SOME: Band = Band { above: 60.0, below: 40.0 };
/// The same of all programs at once waiting for memory, and for how long until workers go.
const MEMORY_FULL: Band = Band { above: 5.0, below: 2.0 };
const FULL_FOR: Duration = Duration::from_secs(10);
/// Between two workers that go for that: the pressure is a mean over ten seconds.
const RELIEF_GAP: Duration = Duration::from_secs(10);
/// Workers that want a processor for this share of their time are held up by others that do.
const WANTS_CPU: f64 = 0.5;

/// Percent.
#[derive(Debug, Clone, Copy)]
struct Band {
    above: f64,
    below: f64,
}

impl Band {
    /// Once above, it holds until it is below.
    fn holds(self, held: bool, percent: Option<f64>) -> bool {
        percent.is_some_and(|percent| percent > if held { self.below } else { self.above })
    }
}

/// What the machine tells, as far as it does: bytes, and percent of the last ten seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reading {
    /// Memory that can be had without harm to others, and all that there is, within the limits of our cgroup.
    pub available: Option<u64>,
    pub total: Option<u64>,
    pub memory_some: Option<f64>,
    pub memory_full: Option<f64>,
    pub cpu_some: Option<f64>,
}

/// A pool that may want more workers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Workers that it has, or that wait to be started again.
    pub there: u32,
    /// Those whose memory was in use when the machine was read.
    pub counted: u32,
    pub min: u32,
    /// Bytes that nearly all of its workers stay below; 0: unknown.
    pub each: u64,
    /// Bytes that were promised to other pools since the machine was read.
    pub promised: u64,
    /// The share of its time in which one of its workers runs or waits to run, where it is known.
    pub wants_cpu: Option<f64>,
}

/// So many workers and no more.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    pub at: u32,
    pub short: Short,
}

/// What there is too little of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Short {
    /// Bytes that are left for workers, of which each takes so many.
    Memory { left: u64, each: u64 },
    /// Percent of the time in which programs wait for memory.
    MemoryPressure { percent: f64 },
    /// Percent of the time in which they wait for a processor, of so many.
    Cpu { percent: f64, cores: u32 },
}

/// See the module's text.
#[derive(Debug)]
pub struct Guard {
    cores: u32,
    read: Option<Mono>,
    reading: Reading,
    memory_tight: bool,
    cpu_tight: bool,
    full: bool,
    full_since: Option<Mono>,
    relieved: Option<Mono>,
}

impl Guard {
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self {
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            read: None,
            reading: Reading::default(),
            memory_tight: false,
            cpu_tight: false,
            full: false,
            full_since: None,
            relieved: None,
        }
    }

    /// Whether the machine is to be read again.
    #[must_use]
    pub fn is_due(&self, now: Mono, more_may_be_needed: bool) -> bool {
        let again = if more_may_be_needed { READ_AGAIN } else { READ_AGAIN_IDLE };
        self.read.is_none_or(|read| now.since(read) >= again)
    }

    pub fn look(&mut self, now: Mono, reading: Reading) {
        self.read = Some(now);
        self.memory_tight = MEMORY_SOME.holds(self.memory_tight, reading.memory_some);
        self.cpu_tight = CPU_SOME.holds(self.cpu_tight, reading.cpu_some);
        self.full = MEMORY_FULL.holds(self.full, reading.memory_full);
        self.full_since = if self.full { self.full_since.or(Some(now)) } else { None };
        self.reading = reading;
    }

    /// Whether it is of use to know what processor time a pool's workers want.
    #[must_use]
    pub const fn asks_for_cpu(&self) -> bool {
        self.cpu_tight
    }

    /// How many workers a pool may have now; none where nothing holds it. Never fewer than there are, nor than one.
    #[must_use]
    pub fn held(&self, usage: &Usage) -> Option<Held> {
        let floor = usage.there.max(1);
        let held =
            [self.by_memory(usage), self.by_memory_pressure(), self.by_cpu(usage)].into_iter().flatten();
        held.map(|held| Held { at: held.at.max(floor), ..held }).min_by_key(|held| held.at)
    }

    fn by_memory(&self, usage: &Usage) -> Option<Held> {
        let Reading { available: Some(available), total, .. } = self.reading else { return None };
        if usage.each == 0 {
            return None;
        }
        let reserve = (total.unwrap_or(available) / RESERVE_SHARE).min(RESERVE_MOST);
        let left = available.saturating_sub(reserve);
        let more = left.saturating_sub(usage.promised) / usage.each;
        let at = usage.counted.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        Some(Held { at, short: Short::Memory { left, each: usage.each } })
    }

    fn by_memory_pressure(&self) -> Option<Held> {
        let percent = self.reading.memory_some.or(self.reading.memory_full).unwrap_or_default();
        (self.memory_tight || self.full).then_some(Held { at: 0, short: Short::MemoryPressure { percent } })
    }

    /// A machine whose processors are short needs no fewer workers than it has of these, nor is who waits for others
    /// made faster by waiting for them alone.
    fn by_cpu(&self, usage: &Usage) -> Option<Held> {
        let percent = self.reading.cpu_some.filter(|_| self.cpu_tight)?;
        usage.wants_cpu.filter(|share| *share >= WANTS_CPU)?;
        Some(Held { at: self.cores.max(usage.min), short: Short::Cpu { percent, cores: self.cores } })
    }

    /// Whether a worker that does nothing is to go, so that something gets done at all. Asked again, the answer is no for
    /// a while.
    pub fn takes_relief(&mut self, now: Mono) -> bool {
        let is_long = self.full_since.is_some_and(|since| now.since(since) >= FULL_FOR);
        let is_due = is_long && self.relieved.is_none_or(|relieved| now.since(relieved) >= RELIEF_GAP);
        if is_due {
            self.relieved = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests;
