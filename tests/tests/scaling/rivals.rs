//! How others decide, after their sources: Horizon (`src/AutoScaler.php`), Kubernetes' HPA with KEDA's list scaler
//! (`pkg/controller/podautoscaler`), Knative's KPA (`pkg/autoscaler/scaling/autoscaler.go`), and the rule of thumb
//! "length and slope of the queue, looked at now and then". Each sees exact figures without delay, which flatters it.

use std::collections::VecDeque;

use roundsman_master::simulate::{Controller, Style, View};

/// Finishes what it runs, whoever is let go.
const DRAINS: Style =
    Style { idle_for: None, thins_at_looks: false, surges: false, told_up_to: None, last_first: false };
/// Chooses idle ones, as a courtesy.
const IDLE: Style =
    Style { idle_for: Some(0.0), thins_at_looks: false, surges: true, told_up_to: None, last_first: false };

fn whole(number: f64) -> u32 {
    number.clamp(0.0, 1e9) as u32
}

/// Length and slope every 30 s, over jobs a worker.
#[derive(Debug)]
pub(crate) struct Slope {
    pub(crate) jobs_a_worker: f64,
    pub(crate) before: f64,
}

impl Controller for Slope {
    fn style(&self) -> Style {
        DRAINS
    }

    fn pause(&self, _: usize) -> f64 {
        30.0
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        let ready = view.ready as f64;
        let slope = (ready - self.before).max(0.0);
        self.before = ready;
        whole(((ready + slope) / self.jobs_a_worker).ceil())
    }
}

/// Any work heads for all workers, none for the fewest, by so many at most every 3 s.
#[derive(Debug)]
pub(crate) struct Horizon {
    pub(crate) shift: u32,
}

impl Controller for Horizon {
    fn style(&self) -> Style {
        DRAINS
    }

    fn pause(&self, _: usize) -> f64 {
        3.0
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        let wanted = if view.ready > 0 { view.setting.max_workers } else { view.setting.min_workers.max(1) };
        if wanted > view.target {
            (view.target + self.shift).min(wanted)
        } else {
            view.target.saturating_sub(self.shift).max(wanted)
        }
    }
}

/// `ceil(length / goal)` every 15 s, up by four or double at most, down to the highest of the last five minutes.
#[derive(Debug, Default)]
pub(crate) struct Hpa {
    pub(crate) goal: f64,
    wanted: VecDeque<(f64, u32)>,
}

impl Hpa {
    pub(crate) fn new(goal: f64) -> Self {
        Self { goal, wanted: VecDeque::new() }
    }
}

impl Controller for Hpa {
    fn style(&self) -> Style {
        IDLE
    }

    fn pause(&self, _: usize) -> f64 {
        15.0
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        let ratio = view.ready as f64 / (self.goal * f64::from(view.target.max(1)));
        let wanted = if (ratio - 1.0).abs() <= 0.1 {
            view.target
        } else {
            whole((view.ready as f64 / self.goal).ceil())
        };
        let most = (view.target + 4).max(view.target * 2);
        self.wanted.push_back((view.now, wanted));
        while self.wanted.front().is_some_and(|(at, _)| view.now - at > 300.0) {
            self.wanted.pop_front();
        }
        let held = self.wanted.iter().map(|(_, wanted)| *wanted).max().unwrap_or(wanted);
        wanted.max(held.min(view.target)).min(most).max(1)
    }
}

/// Concurrency, queued and running, over a stable window, or over a tenth of it while that is twice what serves.
#[derive(Debug)]
pub(crate) struct Kpa {
    goal: f64,
    stable: f64,
    panic: f64,
    seen: VecDeque<(f64, f64)>,
    panics_since: Option<f64>,
    most: u32,
}

impl Kpa {
    pub(crate) fn new(goal: f64, stable: f64, panic: f64) -> Self {
        Self { goal, stable, panic, seen: VecDeque::new(), panics_since: None, most: 0 }
    }

    fn mean(&self, now: f64, over: f64) -> f64 {
        let some: Vec<f64> = self
            .seen
            .iter()
            .filter(|(at, _)| now - at <= over)
            .map(|(_, concurrency)| *concurrency)
            .collect();
        some.iter().sum::<f64>() / some.len().max(1) as f64
    }
}

impl Controller for Kpa {
    fn style(&self) -> Style {
        IDLE
    }

    fn pause(&self, _: usize) -> f64 {
        2.0
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        self.seen.push_back((view.now, view.ready as f64 + view.running.len() as f64));
        while self.seen.front().is_some_and(|(at, _)| view.now - at > self.stable) {
            self.seen.pop_front();
        }
        let ready = view.workers.max(1);
        let most = ready.saturating_mul(1000);
        let clip = |wanted: f64| whole(wanted.ceil()).clamp(ready / 2, most);
        let stable = clip(self.mean(view.now, self.stable) / self.goal);
        let hasty = clip(self.mean(view.now, self.panic) / self.goal);
        if f64::from(hasty) >= 2.0 * f64::from(ready) {
            self.panics_since = Some(view.now);
        }
        if self.panics_since.is_some_and(|since| view.now - since > self.stable) {
            self.panics_since = None;
            self.most = 0;
        }
        if self.panics_since.is_some() {
            self.most = self.most.max(hasty).max(stable);
            return self.most;
        }
        stable.max(1)
    }
}

/// As many as there may be, always.
#[derive(Debug)]
pub(crate) struct All;

impl Controller for All {
    fn style(&self) -> Style {
        IDLE
    }

    fn pause(&self, _: usize) -> f64 {
        60.0
    }

    fn decide(&mut self, view: &View<'_>) -> u32 {
        view.setting.max_workers
    }
}
