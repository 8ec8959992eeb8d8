//! How long the workers of a fleet existed, as the kernel tells it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use roundsman_tests::proc::Process;
use roundsman_tests::{time, twin};

/// Between two looks; an end is known to half of it.
const LOOK: Duration = Duration::from_millis(200);
/// Of a process' start time.
const TICK_US: u64 = 10_000;

/// Every worker that was ever seen. Times in µs of the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    seen: BTreeMap<Process, Life>,
    looked_us: u64,
}

#[derive(Debug, Clone, Copy)]
struct Life {
    born_us: u64,
    gone_us: Option<u64>,
}

impl Lives {
    /// Looks until it is dropped.
    pub(crate) async fn watch(&mut self, folder: &Path) -> std::io::Error {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Err(error) = self.look(folder) {
                return error;
            }
        }
    }

    fn look(&mut self, folder: &Path) -> std::io::Result<()> {
        // Start times are told by the clock that runs on while the machine sleeps.
        let slept_us = time::boot_us().saturating_sub(time::mono_us());
        for process in twin::workers(folder)? {
            let born_us = (process.start * TICK_US).saturating_sub(slept_us);
            self.seen.entry(process).or_insert(Life { born_us, gone_us: None });
        }
        let now_us = time::mono_us();
        let before_us = self.looked_us.max(now_us.saturating_sub(micros(LOOK)));
        for (process, life) in self.seen.iter_mut().filter(|(_, life)| life.gone_us.is_none()) {
            if !process.is_alive() {
                // Somewhere between the two looks.
                life.gone_us = Some(u64::midpoint(before_us, now_us).max(life.born_us));
            }
        }
        self.looked_us = now_us;
        Ok(())
    }

    /// Seconds that they existed between two moments, how many were born, and how many there were at most.
    pub(crate) fn between(&self, from_us: u64, to_us: u64) -> (f64, usize, u32) {
        let mut seconds = 0.0;
        let mut turns: Vec<(u64, i32)> = Vec::new();
        for life in self.seen.values() {
            let (born, gone) = (life.born_us.max(from_us), life.gone_us.unwrap_or(to_us).min(to_us));
            if born < gone {
                seconds += (gone - born) as f64 / 1e6;
                turns.extend([(born, 1), (gone, -1)]);
            }
        }
        turns.sort_unstable();
        let mut count = 0_i32;
        let most = turns.iter().map(|(_, turn)| {
            count += turn;
            count
        });
        let most = most.max().and_then(|most| u32::try_from(most).ok()).unwrap_or(0);
        (seconds, turns.len() / 2, most)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_counted_within_the_span() {
        let life = |born_us, gone_us| Life { born_us, gone_us };
        let lives = [life(0, Some(2_000_000)), life(1_000_000, None), life(2_000_000, Some(3_000_000))];
        let seen = (1..).zip(lives).map(|(pid, life)| (Process { pid, start: 1 }, life)).collect();
        let lives = Lives { seen, looked_us: 0 };
        assert_eq!(lives.between(1_000_000, 4_000_000), (5.0, 3, 2));
        assert_eq!(lives.between(3_500_000, 4_000_000), (0.5, 1, 1));
    }
}
