//! The scaling of a pool whose workers have a queue of their own.

use roundsman_shared::clock::Mono;
use roundsman_shared::figures::Figures;

use super::{Crew, Known};
use crate::foreign::{self, Hands, Limits, Mood, Reading};
use crate::plan::PoolPlan;
use crate::scale::{Decision, Reason, Terms};
use crate::share::{Place, shares};

impl Crew {
    /// What was read of its queue; answers whether anything waits there, as far as that is known.
    pub(crate) fn read(&mut self, now: Mono, reading: Reading) -> Option<bool> {
        let waiting = reading.as_ref().ok().map(|length| *length > 0);
        self.reading = Some((now, reading));
        waiting
    }

    pub(super) fn decide_foreign(&mut self, name: &str, now: Mono, known: &Known<'_>, figures: &mut Figures) {
        let limits = self.foreign_limits(name, known);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let hands = Hands { there: count(self.pool.filled()), ready: self.pool.ready() };
        let foreign::Verdict { target, needed, mood, saturated, why } =
            self.foreign.decide(now, self.reading.as_ref(), hands, &limits);
        let before = self.decision.target;
        let reason = match mood {
            Mood::Blind => Reason::Blind,
            Mood::Trying => Reason::Hold,
            Mood::Needed if needed > limits.max => Reason::MaxWorkers,
            Mood::Needed if needed < limits.min => Reason::MinWorkers,
            Mood::Needed => Reason::Load,
        };
        self.decision = Decision { target, needed, why, reason, saturated, terms: Terms::default() };
        self.told = self.load_of(&[], 0);
        self.settle(name, before, now, figures);
    }

    /// Each host finds for itself how many are needed; what all may have together is dealt out among them.
    fn foreign_limits(&self, name: &str, known: &Known<'_>) -> Limits {
        let PoolPlan { min, max, total, target_wait, .. } = self.plan;
        let most = total.map_or(max, |total| {
            let places = known.others.places(name, Place { host: known.host.to_owned(), min, max });
            shares(total, &places).first().copied().unwrap_or(total).min(max)
        });
        Limits { min: min.min(most), max: most, target_wait }
    }
}
