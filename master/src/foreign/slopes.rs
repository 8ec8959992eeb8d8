//! What the length of a queue tells by its change: what a worker gets done, and what arrives.
//!
//! While something waits all the time, every worker is busy, and the slope is what arrives less what they do. One slope
//! tells neither; two with different numbers of workers tell both.

use std::collections::VecDeque;
use std::time::Duration;

use roundsman_shared::clock::Mono;

/// A slope is one of at least so many readings and so long.
const READINGS: usize = 3;
const SPAN: Duration = Duration::from_secs(2);
const MOST_READINGS: usize = 8;
/// Weight of the newest estimate of what a worker gets done.
const NEWEST: f64 = 0.5;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Slopes {
    /// Readings since the number of workers changed, the newest last.
    readings: VecDeque<(Mono, u64)>,
    /// With so many workers.
    workers: u32,
    /// The slope with another number of workers, while something waited.
    before: Option<(u32, f64)>,
    /// What one worker gets done in a second.
    pub rate: Option<f64>,
    /// What arrives in a second, as it was found last.
    pub arrive: Option<f64>,
}

impl Slopes {
    /// Nobody knows what happened meanwhile.
    pub(super) fn interrupt(&mut self) {
        self.readings.clear();
        self.before = None;
    }

    pub(super) fn note(&mut self, at: Mono, length: u64, workers: u32) {
        if self.workers != workers {
            if let Some(slope) = self.now() {
                self.before = Some((self.workers, slope));
            }
            self.readings.clear();
            self.workers = workers;
        }
        self.readings.push_back((at, length));
        if self.readings.len() > MOST_READINGS {
            self.readings.pop_front();
        }
        if let Some(slope) = self.now() {
            self.learn(slope);
        } else if length == 0 {
            // It was emptied meanwhile: what is known of a slope before is of another time.
            self.before = None;
        }
    }

    /// By how much the length changes in a second, while something waits all the time.
    pub(super) fn now(&self) -> Option<f64> {
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
}
