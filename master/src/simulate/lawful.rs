//! The law that runs in the fleet, as it is, behind the engine's view.

use std::time::Duration;

use roundsman_shared::clock::Mono;

use super::engine::{Controller, Style, View};
use crate::pool::IDLE_HOLD;
use crate::scale::{Bound, Elsewhere, Inputs, Law, Limits, UNKNOWN_BOOT, ahead};

/// Between two looks, as the fleet takes them.
const LOOK: f64 = 1.0;
const LOOK_BUSY: f64 = 0.25;
/// The store says nothing of a job behind so many that are due.
const TOLD_UP_TO: usize = 128;

/// [`Law`] with what it is told of a simulated fleet.
#[derive(Debug, Default)]
pub struct Lawful {
    law: Law,
    finished: u64,
    is_burst: bool,
}

impl Controller for Lawful {
    fn style(&self) -> Style {
        Style {
            idle_for: Some(IDLE_HOLD.as_secs_f64()),
            thins_at_looks: false,
            surges: true,
            told_up_to: Some(TOLD_UP_TO),
            last_first: true,
        }
    }

    fn pause(&self, ready: usize) -> f64 {
        if ready > 0 { LOOK_BUSY } else { LOOK }
    }

    fn bursts(&self) -> bool {
        self.is_burst
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        let setting = view.setting;
        let new = usize::try_from(view.finished - self.finished).unwrap_or(usize::MAX);
        self.finished = view.finished;
        let took: Vec<f64> = view.lately.iter().rev().take(new).rev().copied().collect();
        let boot = if view.has_booted { Duration::from_secs_f64(setting.boot) } else { UNKNOWN_BOOT };
        let ahead = ahead(boot);
        let inputs = Inputs {
            ready: view.ready as u64,
            oldest: Duration::from_secs_f64(view.oldest.max(0.0)),
            soon: view.soon(ahead.as_secs_f64()) as u64,
            ahead,
            arrived: view.arrived.cast_signed(),
            took: &took,
            running: &view.running,
            workers: view.workers + view.booting,
            boot,
            failures: view.failures,
            blind: false,
            elsewhere: Elsewhere::default(),
        };
        let limits = Limits {
            min: setting.min_workers,
            max: setting.max_workers,
            bound: Bound::Host,
            slots: setting.slots,
            target_wait: Duration::from_secs_f64(setting.target_wait),
        };
        let now = Mono::from_nanos((view.now * 1e9) as u64);
        let decision = self.law.decide(now, &inputs, &limits);
        self.is_burst = decision.is_flood();
        decision.target
    }
}
