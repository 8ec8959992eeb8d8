//! What is learned of a pool's load from one look to the next: how often jobs fall due, and how long they run. Pure, and
//! bounded whatever comes.

use std::collections::VecDeque;
use std::time::Duration;

use roundsman_shared::clock::Mono;

use super::{Elsewhere, Inputs};

/// What a job is taken to need, in seconds, before any has been seen.
const UNKNOWN_SERVICE: f64 = 0.1;
/// Runs that are remembered: the last ones, of the last minute, but so many in any case.
const SAMPLES: usize = 300;
const FEW_SAMPLES: usize = 20;
const SAMPLES_FOR: Duration = Duration::from_secs(60);
/// A run is long beyond so many medians, and is never called long below this.
const LONG: f64 = 6.0;
const LONG_LEAST: f64 = 0.05;
/// Seconds over which the rate is taken: as many as have brought so many jobs, within limits. Of a few jobs chance would make
/// twice as many or half.
const BUCKETS_LEAST: usize = 15;
const BUCKETS_MOST: usize = 60;
const ARRIVALS: f64 = 25.0;
/// What of them is left out: a burst is a backlog, not a rate.
const HIGHEST_OUT: usize = 2;
const LOWEST_OUT: usize = 1;
/// What was run in so long tells that jobs take longer now, when so many say so, by so much, and by so many standard errors
/// of what they make.
const LATELY: Duration = Duration::from_secs(4);
const JUMP: f64 = 1.4;
const JUMP_SAMPLES: usize = 6;
const JUMP_ERRORS: f64 = 4.0;

/// See the module's text.
#[derive(Debug, Clone, Default)]
pub(super) struct Learned {
    /// When a run ended, and how many seconds it took.
    runs: VecDeque<(Mono, f64)>,
    median: Option<f64>,
    /// Jobs that fell due in each of the last seconds, the oldest first; the last is not over.
    seconds: VecDeque<f64>,
    second: Option<Mono>,
    arrived: i64,
}

/// How long jobs run, as far as they are not long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Service {
    pub mean: f64,
    /// The squared coefficient of variation.
    pub scv: f64,
    /// Those that it rests on.
    pub runs: u32,
}

impl Service {
    /// With what others have seen; and whether anybody has seen any.
    pub(super) fn beside(&self, elsewhere: &Elsewhere) -> (f64, bool) {
        let (own, other) = (f64::from(self.runs), f64::from(elsewhere.runs));
        if elsewhere.runs == 0 {
            return (self.mean, self.runs > 0);
        }
        ((self.mean * own + elsewhere.service * other) / (own + other), true)
    }
}

impl Learned {
    pub(super) fn look(&mut self, now: Mono, inputs: &Inputs<'_>) {
        self.note_runs(now, inputs.took);
        self.note_arrivals(now, inputs.arrived);
    }

    fn note_runs(&mut self, now: Mono, took: &[f64]) {
        let before = self.runs.len();
        self.runs.extend(took.iter().rev().take(SAMPLES).rev().map(|took| (now, took.max(0.0))));
        while self.runs.len() > SAMPLES
            || (self.runs.len() > FEW_SAMPLES
                && self.runs.front().is_some_and(|(at, _)| now.since(*at) > SAMPLES_FOR))
        {
            self.runs.pop_front();
        }
        if !took.is_empty() || self.runs.len() != before {
            let mut all: Vec<f64> = self.runs.iter().map(|(_, took)| *took).collect();
            let middle = all.len() / 2;
            let median = (middle < all.len()).then(|| *all.select_nth_unstable_by(middle, f64::total_cmp).1);
            self.median = median;
        }
    }

    fn note_arrivals(&mut self, now: Mono, arrived: i64) {
        let Some(second) = self.second else {
            self.second = Some(now);
            self.arrived = arrived;
            self.seconds.push_back(0.0);
            return;
        };
        // Less than none, where jobs were put off.
        let new = (arrived - self.arrived) as f64;
        self.arrived = arrived;
        let passed = now.since(second).as_secs();
        if passed == 0 {
            self.seconds.back_mut().into_iter().for_each(|last| *last += new);
            return;
        }
        // What came while nobody looked came evenly.
        let share = new / passed as f64;
        if let Some(last) = self.seconds.back_mut() {
            *last += share;
        }
        for _ in 1..passed.min(BUCKETS_MOST as u64) {
            self.seconds.push_back(share);
        }
        self.seconds.push_back(0.0);
        while self.seconds.len() > BUCKETS_MOST + 1 {
            self.seconds.pop_front();
        }
        self.second = Some(second + Duration::from_secs(passed));
    }

    /// Beyond this a running job only holds its place, in seconds.
    pub(super) fn long(&self, target_wait: f64) -> f64 {
        (self.median.unwrap_or(UNKNOWN_SERVICE) * LONG).max(LONG_LEAST).min(target_wait)
    }

    /// Seconds that a run takes, also a long one.
    pub(super) fn run(&self) -> f64 {
        self.runs.iter().map(|(_, took)| *took).sum::<f64>() / self.runs.len().max(1) as f64
    }

    /// Jobs that fall due in a second, without the seconds that stand out.
    pub(super) fn rate(&self) -> f64 {
        let (mut whole, mut brought) = (Vec::with_capacity(BUCKETS_MOST), 0.0);
        for new in self.seconds.iter().rev().skip(1) {
            if whole.len() >= BUCKETS_LEAST && brought >= ARRIVALS {
                break;
            }
            whole.push(*new);
            brought += new;
        }
        whole.sort_unstable_by(f64::total_cmp);
        let few = whole.len() < BUCKETS_LEAST / 2;
        let (low, high) = if few { (0, 0) } else { (LOWEST_OUT, HIGHEST_OUT) };
        let kept = whole.get(low..whole.len().saturating_sub(high)).unwrap_or_default();
        (kept.iter().sum::<f64>() / kept.len().max(1) as f64).max(0.0)
    }

    /// Counts each run as `long` at most. `running`: seconds that jobs have run so far.
    pub(super) fn service(&self, now: Mono, long: f64, running: &[f64]) -> Service {
        let count = self.runs.len() as f64;
        let cut = |took: f64| took.min(long);
        // What those have run that are under way and not long, each counted for so many seconds at most: in all, of how
        // many, and the most of one.
        let under_way = |within: f64| {
            let short = running.iter().filter(|ran| **ran <= long).map(|ran| ran.min(within));
            short.fold((0.0, 0.0, 0.0_f64), |(sum, count, most), ran| (sum + ran, count + 1.0, most.max(ran)))
        };
        let ago = |at: Mono| now.since(at).as_secs_f64();
        let Some((first, _)) = self.runs.front() else {
            // As long as none has ended, they take as long as they have taken so far, at least.
            let (elapsed, count, _) = under_way(f64::INFINITY);
            let mean = UNKNOWN_SERVICE.max(if count > 0.0 { elapsed / count } else { 0.0 });
            return Service { mean: mean.min(long), scv: 1.0, runs: 0 };
        };
        let mut mean = self.runs.iter().map(|(_, took)| cut(*took)).sum::<f64>() / count;
        let square = self.runs.iter().map(|(_, took)| (cut(*took) - mean).powi(2)).sum::<f64>() / count;
        let scv = if mean > 0.0 { square / (mean * mean) } else { 0.0 };
        // All time that was spent in the last seconds over the runs that ended in them: what has not ended yet tells of a
        // slower dependency before the first slow job is over. One alone may be chance.
        let lately = LATELY.as_secs_f64().min(ago(*first));
        let late = self.runs.iter().rev().take_while(|(at, _)| ago(*at) <= lately);
        let (spent, ended) = late.fold((0.0, 0_usize), |(sum, count), (at, took)| {
            (sum + cut(*took).min(lately - ago(*at)), count + 1)
        });
        let (elapsed, running, longest) = under_way(lately);
        let seen = (spent + elapsed - longest) / ended.max(1) as f64;
        let error = (scv / ended.max(1) as f64).sqrt();
        if ended + running as usize > JUMP_SAMPLES && seen > mean * JUMP.max(1.0 + JUMP_ERRORS * error) {
            mean = seen.min(long);
        }
        Service { mean, scv, runs: u32::try_from(self.runs.len()).unwrap_or(u32::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn arrived(arrived: i64) -> Inputs<'static> {
        Inputs { arrived, ..Inputs::default() }
    }

    #[test]
    fn a_burst_is_no_rate() {
        let mut learned = Learned::default();
        learned.look(at(0), &arrived(0));
        for second in 1..=20 {
            let burst = if second >= 10 { 400 } else { 0 };
            learned.look(at(second * 1000), &arrived(second.cast_signed() * 3 + burst));
        }
        assert!((learned.rate() - 3.0).abs() < 1e-9, "{}", learned.rate());
        learned.look(at(26_000), &arrived(20 * 3 + 400 + 12));
        assert!(
            (learned.rate() - 2.5).abs() < 0.2,
            "evenly over the seconds that nobody looked: {}",
            learned.rate()
        );
        learned.look(at(200_000), &arrived(472));
        assert!(learned.rate() < 1e-9, "{}", learned.rate());
        assert!(learned.seconds.len() <= BUCKETS_MOST + 1);
    }

    #[test]
    fn what_comes_rarely_is_counted_for_longer() {
        let mut learned = Learned::default();
        learned.look(at(0), &arrived(0));
        // One every five seconds: of fifteen seconds two would be left out as the fullest.
        for second in 1..=120_i64 {
            learned.look(at(second.unsigned_abs() * 1000), &arrived(second / 5));
        }
        assert!((learned.rate() - 0.2).abs() < 0.04, "{}", learned.rate());
        // Many more: the last seconds say enough.
        for second in 121..=140_i64 {
            learned.look(at(second.unsigned_abs() * 1000), &arrived(24 + (second - 120) * 5));
        }
        assert!((learned.rate() - 5.0).abs() < 1e-9, "{}", learned.rate());
    }

    #[test]
    fn a_few_long_runs_are_chance_where_runs_differ_much() {
        let mut learned = Learned::default();
        // 0.4 s on average, half of them 0.1 and half 0.7.
        let runs: Vec<f64> = (0..100).map(|n| if n % 2 == 0 { 0.1 } else { 0.7 }).collect();
        learned.look(at(0), &Inputs { took: &runs, ..Inputs::default() });
        let late = |learned: &mut Learned, ms: u64, count: usize| {
            learned.look(at(ms), &Inputs { took: &vec![0.7; count], ..Inputs::default() });
            learned.service(at(ms), 5.0, &[]).mean
        };
        assert!(late(&mut learned, 10_000, 7) < 0.45, "seven times the longer one");
        assert!(late(&mut learned, 11_000, 30) > 0.65, "and thirty times more");
    }

    #[test]
    fn what_is_put_off_arrives_once() {
        let mut learned = Learned::default();
        for half in 0_i64..60 {
            // Jobs that failed are put off a moment before it is told that they failed.
            let put_off = if half % 2 == 1 { 7 } else { 0 };
            learned.look(at(half.unsigned_abs() * 500), &arrived(half / 2 * 10 - put_off));
        }
        assert!((learned.rate() - 10.0).abs() < 0.1, "{}", learned.rate());
    }

    #[test]
    fn a_slow_dependency_is_seen_before_the_first_slow_job_ends() {
        let mut learned = Learned::default();
        learned.look(at(0), &Inputs { took: &[0.1; 50], ..Inputs::default() });
        let long = learned.long(5.0);
        assert!((long - 0.6).abs() < 1e-9, "{long}");
        assert!((learned.service(at(100), long, &[]).mean - 0.1).abs() < 1e-9);
        assert!((learned.service(at(5000), long, &[0.5; 8]).mean - 0.6).abs() < 1e-9);
        assert!((learned.service(at(5000), long, &[0.5; 2]).mean - 0.1).abs() < 1e-9, "two may be chance");
    }

    #[test]
    fn jobs_that_run_for_longer_than_is_looked_at_are_no_slower_for_it() {
        let mut learned = Learned::default();
        // One a second of 20 s, so that twenty are under way.
        for second in 0..60 {
            learned.look(at(second * 1000), &Inputs { took: &[20.0], ..Inputs::default() });
        }
        let running: Vec<f64> = (0..20).map(|n| f64::from(n) + 0.9).collect();
        let mean = learned.service(at(59_900), 60.0, &running).mean;
        assert!((mean - 20.0).abs() < 1e-9, "{mean}");
        // Ten times as many that run for as long as they may tell of something.
        let mean = learned.service(at(59_900), 60.0, &[50.0; 200]).mean;
        assert!(mean > 59.0, "{mean}");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_grows_old() {
        let mut learned = Learned::default();
        for second in 0..100 {
            learned.look(at(second * 1000), &Inputs { took: &[0.2; 400], ..Inputs::default() });
        }
        assert_eq!(learned.runs.len(), SAMPLES);
        learned.look(at(200_000), &Inputs { took: &[0.4], ..Inputs::default() });
        assert_eq!(learned.runs.len(), FEW_SAMPLES);
        assert_eq!(learned.service(at(200_000), 5.0, &[]).runs, 20);
    }
}
