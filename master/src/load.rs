//! What a pool's queues and workers tell of its load, kept for the law between two looks. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::protocol::{Beat, RunningJob};
use roundsman_shared::store::Pulse;

use crate::scale::UNKNOWN_BOOT;

/// Starts whose time is remembered, and the share of them that took no longer than what is reckoned with.
const BOOTS: usize = 20;
const BOOT_SHARE: f64 = 0.95;
/// Runs kept until the next look, and running jobs that are looked at.
const RUNS: usize = 512;
const RUNNING: usize = 4096;

/// What is known of a queue between two pulses.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Demand {
    pub ready: u64,
    /// Jobs that fell due since this master first looked, less those that were put off: a job that failed and is to come
    /// back does not count twice.
    pub arrived: i64,
    /// Since when the first of the ready ones has waited.
    pub waits_since: Option<Mono>,
    /// Timers that fall due in a moment.
    pub soon: u64,
    /// Jobs that fell due since the last pulse and found nobody idle.
    pub unmet: u64,
    /// Jobs ever enqueued, less those that are not due yet; none before the first pulse.
    due: Option<u64>,
}

impl Demand {
    /// After another look at the queue.
    pub(crate) fn after(self, pulse: &Pulse, now: Mono) -> Self {
        let due = pulse.enqueued.saturating_sub(pulse.waiting.saturating_sub(pulse.ready));
        let new = due.cast_signed() - self.due.unwrap_or(due).cast_signed();
        let age = |due| pulse.now.since(due);
        let waits = pulse.oldest_due.filter(|_| !pulse.paused && pulse.ready > 0);
        Self {
            ready: if pulse.paused { 0 } else { pulse.ready },
            arrived: self.arrived + new,
            waits_since: waits.map(|due| earlier(now, age(due))),
            soon: if pulse.paused { 0 } else { pulse.soon },
            unmet: 0,
            due: Some(due),
        }
    }

    /// So many jobs fell due that found nobody idle. Answers whether nothing was known to wait before.
    pub(crate) fn unmet(&mut self, count: u64) -> bool {
        let is_news = self.ready + self.unmet == 0;
        self.unmet += count;
        is_news
    }

    /// A worker found more than it took: how much, it does not say, so that it only counts where nothing is known to wait.
    pub(crate) const fn beyond(&self) -> u64 {
        if self.ready + self.unmet == 0 { 1 } else { 0 }
    }

    pub(crate) fn waited(&self, now: Mono) -> Duration {
        self.waits_since.map_or(Duration::ZERO, |since| now.since(since))
    }
}

fn earlier(now: Mono, by: Duration) -> Mono {
    Mono::from_nanos(now.as_nanos().saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
}

/// What the workers of a pool have told.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Of each worker, by slot and incarnation: runs that ended, and milliseconds that they took.
    told: BTreeMap<u32, (u64, u64, u64)>,
    /// Seconds that runs took since the last look.
    took: VecDeque<f64>,
    boots: VecDeque<Duration>,
    /// Workers that ever failed to start or crashed; runs that ever failed, which mostly fall due again.
    pub(crate) failures: u64,
    failed: u64,
}

impl Load {
    /// A beat of the worker in a slot. Beats may be lost: what more runs ended than it tells of is left out.
    pub(crate) fn beat(&mut self, number: u32, incarnation: u64, beat: &Beat) {
        let ended = beat.done + beat.failed;
        let (before, busy) = match self.told.get(&number) {
            Some((of, ended, busy)) if *of == incarnation => (*ended, *busy),
            _ => (0, 0),
        };
        self.told.insert(number, (incarnation, ended, beat.busy_ms));
        let new = ended.saturating_sub(before);
        let count = usize::try_from(new).unwrap_or(usize::MAX).min(RUNS);
        if beat.took.is_empty() {
            // One that does not say how long each took says so of all of them.
            let mean = beat.busy_ms.saturating_sub(busy) as f64 / 1000.0 / new.max(1) as f64;
            self.took.extend(std::iter::repeat_n(mean, count.min(RUNS / 16)));
        } else {
            let told = beat.took.iter().rev().take(count).rev();
            self.took.extend(told.map(|micros| f64::from(*micros) / 1e6));
        }
        while self.took.len() > RUNS {
            self.took.pop_front();
        }
    }

    pub(crate) fn started(&mut self, took: Duration) {
        self.boots.push_back(took);
        while self.boots.len() > BOOTS {
            self.boots.pop_front();
        }
    }

    /// What the start of a worker takes, nearly always.
    pub(crate) fn boot(&self) -> Duration {
        let mut all: Vec<Duration> = self.boots.iter().copied().collect();
        all.sort_unstable();
        let place = ((all.len() as f64 * BOOT_SHARE).ceil() as usize).saturating_sub(1);
        all.get(place).copied().unwrap_or(UNKNOWN_BOOT)
    }

    /// What was told since the last time.
    pub(crate) fn take_runs(&mut self) -> Vec<f64> {
        self.took.drain(..).collect()
    }

    /// Of the workers that are there: how long each job has run. A beat names some of them only, the longest running
    /// first; the others are taken to have run for as long as the last that is named.
    pub(crate) fn running<'b>(now: Mono, lives: impl Iterator<Item = (&'b Beat, Mono)>) -> Vec<f64> {
        let mut all = Vec::new();
        for (beat, heard) in lives {
            let since = now.since(heard).as_secs_f64();
            let ran = |job: &RunningJob| job.ran as f64 / 1000.0 + since;
            all.extend(beat.jobs.iter().map(ran));
            let last = beat.jobs.last().map_or(since, ran);
            let unnamed = usize::try_from(beat.running).unwrap_or(usize::MAX).saturating_sub(beat.jobs.len());
            all.extend(std::iter::repeat_n(last, unnamed.min(RUNNING)));
            if all.len() >= RUNNING {
                all.truncate(RUNNING);
                break;
            }
        }
        all
    }

    /// Runs that ever failed, by the workers that are there and those that are gone.
    pub(crate) fn failed<'b>(&self, lives: impl Iterator<Item = &'b Beat>) -> u64 {
        self.failed + lives.map(|beat| beat.failed).sum::<u64>()
    }

    /// A worker is gone; this is what it said last.
    pub(crate) fn gone(&mut self, number: u32, last: &Beat) {
        self.told.remove(&number);
        self.failed += last.failed;
    }
}

#[cfg(test)]
mod tests {
    use roundsman_shared::clock::StoreTime;

    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn jobs_arrive_when_they_fall_due() {
        let pulse = |enqueued, waiting, ready| Pulse { enqueued, waiting, ready, ..Pulse::default() };
        let demand = Demand::default().after(&pulse(1000, 900, 0), at(0));
        assert_eq!(demand.arrived, 0, "what was before the first look came at an unknown time");
        let demand = demand.after(&pulse(1010, 905, 5), at(1000));
        assert_eq!(demand.arrived, 10 - 5 + 5);
        let demand = demand.after(&pulse(1010, 905, 300), at(2000));
        assert_eq!(demand.arrived, 10 + 295, "timers that fell due");
        let demand = demand.after(&pulse(1010, 925, 300), at(3000));
        assert_eq!(demand.arrived, 10 + 275, "some failed, and are to come back");
        let demand = demand.after(&pulse(1010, 925, 320), at(4000));
        assert_eq!(demand.arrived, 10 + 295, "and did");
    }

    #[test]
    fn what_workers_leave_is_counted_once() {
        let mut demand = Demand::default();
        assert_eq!(demand.beyond(), 1);
        assert!(demand.unmet(2));
        assert_eq!(demand.beyond(), 0, "they may be what it left");
        assert!(!demand.unmet(3));
        assert_eq!(demand.unmet, 5);
        let demand = demand.after(&Pulse { ready: 4, ..Pulse::default() }, at(0));
        assert_eq!((demand.unmet, demand.beyond()), (0, 0));
    }

    #[test]
    fn what_waits_is_as_old_as_the_store_says() {
        let micros = StoreTime::from_micros;
        let pulse = Pulse {
            now: micros(9_000_000),
            oldest_due: Some(micros(7_000_000)),
            ready: 1,
            ..Pulse::default()
        };
        let demand = Demand::default().after(&pulse, at(60_000));
        assert_eq!(demand.waited(at(60_500)), Duration::from_millis(2500));
        let demand = demand.after(&Pulse { paused: true, ..pulse }, at(61_000));
        assert_eq!((demand.waited(at(61_500)), demand.ready), (Duration::ZERO, 0));
    }

    #[test]
    fn each_run_is_taken_once() {
        let mut load = Load::default();
        let beat = |done, took: &[u32]| Beat { done, took: took.to_vec(), ..Beat::default() };
        load.beat(1, 1, &beat(2, &[100_000, 200_000]));
        load.beat(1, 1, &beat(2, &[100_000, 200_000]));
        load.beat(1, 1, &beat(3, &[100_000, 200_000, 300_000]));
        load.beat(1, 2, &beat(1, &[400_000]));
        assert_eq!(load.take_runs(), [0.1, 0.2, 0.3, 0.4]);
        load.beat(2, 1, &Beat { done: 2, busy_ms: 500, ..Beat::default() });
        assert_eq!(load.take_runs(), [0.25, 0.25], "of a worker that tells no more");
        assert!(load.take_runs().is_empty());
        for done in 1..1000 {
            load.beat(3, 1, &beat(done * 100, &[1000; 16]));
        }
        assert_eq!(load.take_runs().len(), RUNS);
    }

    #[test]
    fn what_a_start_takes_is_measured() {
        let mut load = Load::default();
        assert_eq!(load.boot(), UNKNOWN_BOOT);
        for ms in 1..=40 {
            load.started(Duration::from_millis(ms));
        }
        assert_eq!(load.boot(), Duration::from_millis(39));
    }

    #[test]
    fn running_jobs_that_are_not_named_ran_like_the_last_that_is() {
        let job =
            |ran| RunningJob { queue: "q".into(), id: "i".into(), attempt: 1, ran, left: 0, progress: None };
        let beat = Beat { running: 4, jobs: vec![job(3000), job(1000)], ..Beat::default() };
        let ran = Load::running(at(1500), [(&beat, at(1000))].into_iter());
        assert_eq!(ran, [3.5, 1.5, 1.5, 1.5]);
    }
}
