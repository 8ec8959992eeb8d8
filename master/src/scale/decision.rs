//! What is decided, with all that it rests on.

use super::words;
use crate::guard::Held;

/// The numbers that a decision is the sum of.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Terms {
    pub ready: u64,
    /// Timers that fall due before a worker that is started now is ready, beyond what the flow brings in that time.
    pub soon: u64,
    /// Jobs a second that fall due.
    pub rate: f64,
    /// Seconds that a job takes, long ones aside.
    pub service: f64,
    pub is_service_known: bool,
    /// Workers that long jobs hold.
    pub held: f64,
    /// Workers that the flow needs, with what varies of it; those that long jobs hold are in it.
    pub base: f64,
    /// Workers to work off what waits.
    pub drain: f64,
    /// What waits has waited for long: it is worked off as fast as can be.
    pub is_burst: bool,
    /// So has it, and long jobs hold all who are there or start.
    pub is_stuck: bool,
    /// Seconds for which the need must have been lower before workers are let go.
    pub hold: f64,
    /// Fewer are needed, but by so little that it is put off.
    pub is_small: bool,
    /// Of this host alone: jobs that have run for long, runs that are remembered, and the seconds that one takes.
    pub own_held: u32,
    pub own_runs: u32,
    pub own_service: f64,
}

impl Terms {
    pub(super) fn is_flood(&self) -> bool {
        self.is_burst || self.drain > self.base.max(4.0)
    }
}

/// What comes of one look.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub target: u32,
    /// Without the limits.
    pub needed: u32,
    /// In words, with the numbers it rests on.
    pub why: String,
    pub reason: Reason,
    pub saturated: bool,
    pub terms: Terms,
}

/// What a decision rests on in the end, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// As many as are needed.
    Load,
    /// More were needed a while ago, or more have been needed for a moment only.
    Hold,
    /// Workers do not start or crash: none is let go.
    Failing,
    MinWorkers,
    MaxWorkers,
    /// The machine has no room for more.
    Machine,
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
            Self::Failing => "failing",
            Self::MinWorkers => "min_workers",
            Self::MaxWorkers => "max_workers",
            Self::Machine => "machine",
            Self::ByHand => "by_hand",
            Self::Blind => "blind",
        }
    }
}

impl Decision {
    /// What waits, or is about to, needs as many workers again as the flow does, or has waited long.
    #[must_use]
    pub fn is_flood(&self) -> bool {
        self.terms.is_flood()
    }

    /// Before anything is known.
    #[must_use]
    pub fn first(target: u32) -> Self {
        Self {
            target,
            needed: 0,
            why: "nothing is known yet".to_owned(),
            reason: Reason::MinWorkers,
            saturated: false,
            terms: Terms::default(),
        }
    }

    /// This host has a part only of what is needed.
    pub fn share(&mut self, here: u32, hosts: usize) {
        self.why = words::shared(&self.why, self.target, here, hosts);
        self.target = here;
    }

    /// No more than the machine has room for; answers whether that is fewer.
    pub fn hold(&mut self, held: &Held) -> bool {
        if self.target <= held.at {
            return false;
        }
        self.target = held.at;
        self.reason = Reason::Machine;
        self.why = words::held(&self.why, held);
        true
    }

    /// So many workers more or fewer, as somebody asked for by hand.
    pub fn shift(&mut self, offset: i32, max: u32) {
        if offset == 0 {
            return;
        }
        let target = i64::from(self.target) + i64::from(offset);
        self.target = u32::try_from(target.clamp(0, i64::from(max))).unwrap_or(max);
        self.reason = Reason::ByHand;
        self.why = words::shifted(&self.why, offset);
    }
}
