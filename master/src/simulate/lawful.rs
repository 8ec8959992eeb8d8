//! The law that runs in the fleet, as it is, behind the engine's view.

use std::time::Duration;

use roundsman_shared::clock::Mono;

use super::engine::{Controller, Style, View};
use crate::pool::IDLE_HOLD;
use crate::scale::{Inputs, Law, Limits};

/// Between two looks, as the fleet takes them.
const LOOK: f64 = 1.0;
const LOOK_BUSY: f64 = 0.25;

/// [`Law`] with what it is told of a simulated fleet.
#[derive(Debug, Default)]
pub struct Lawful {
    law: Law,
    /// What the jobs that have ended ran for, in milliseconds.
    busy_ms: f64,
    finished: u64,
}

impl Controller for Lawful {
    fn style(&self) -> Style {
        Style { idle_for: Some(IDLE_HOLD.as_secs_f64()), surges: true, is_woken: true }
    }

    fn pause(&self, ready: usize) -> f64 {
        if ready > 0 { LOOK_BUSY } else { LOOK }
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        let setting = view.setting;
        let target_wait = Duration::from_secs_f64(setting.target_wait);
        let new = usize::try_from(view.finished - self.finished).unwrap_or(usize::MAX);
        self.finished = view.finished;
        self.busy_ms += view.lately.iter().rev().take(new).sum::<f64>() * 1000.0;
        let long = self.law.long_job(target_wait).as_secs_f64();
        let held = view.running.iter().filter(|ran| **ran > long).count() / usize::from(setting.slots.max(1));
        let inputs = Inputs {
            ready: view.ready as u64,
            enqueued: view.arrived,
            finished: view.finished,
            busy_ms: self.busy_ms as u64,
            held: u32::try_from(held).unwrap_or(u32::MAX),
            busy: view.busy,
            blind: false,
        };
        let limits =
            Limits { min: setting.min_workers, max: setting.max_workers, slots: setting.slots, target_wait };
        let now = Mono::from_nanos((view.now * 1e9) as u64);
        self.law.decide(now, &inputs, &limits).target
    }
}
