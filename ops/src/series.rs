//! What charts show: the recent past of queues and pools, in steps of equal length. Pure: moments and looks come in, points
//! that are worth keeping beyond this process come out.
//!
//! | step | kept | where |
//! |---|---|---|
//! | 1 s | 10 min | here |
//! | 10 s | 1 h | here |
//! | 1 min | 24 h | here and in the store |
//! | 10 min | 30 d | here and in the store |

use std::collections::{BTreeMap, VecDeque};

use roundsman_shared::figures::{Figures, Metric, Spread, Value};
use roundsman_shared::outlook::Outlook;
use serde::{Deserialize, Serialize};

/// Seconds of a step, how many are kept, and whether they are kept in the store.
const STEPS: [(u32, u32, bool); 4] = [(1, 600, false), (10, 360, false), (60, 1440, true), (600, 4320, true)];
/// Of a moment, so many queues and pools are kept: those in which most happens.
const MOST_QUEUES: usize = 100;
const MOST_KEPT: usize = 20;
/// A gap between two looks after which nothing is known of what happened meanwhile, in ms.
const GAP: i64 = 3_000;

/// What is shown of a queue at a moment; what is not known is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct QueueSample {
    /// Scheduled and ready jobs.
    pub waiting: Option<f64>,
    pub running: Option<f64>,
    pub enqueued_per_s: Option<f64>,
    pub ended_per_s: Option<f64>,
    pub oldest_due_ms: Option<f64>,
    /// From due to start on this host, of the jobs that started in this step.
    pub wait_p50_ms: Option<f64>,
    pub wait_p99_ms: Option<f64>,
}

/// What is shown of a pool of this host.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct PoolSample {
    pub workers: Option<f64>,
    pub busy: Option<f64>,
    pub desired: Option<f64>,
}

/// All that is shown of a moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sample {
    pub queues: BTreeMap<String, QueueSample>,
    pub pools: BTreeMap<String, PoolSample>,
}

/// How several values become one in a longer step.
#[derive(Clone, Copy)]
enum Fold {
    Mean,
    Most,
}

impl QueueSample {
    const FOLDS: [Fold; 7] =
        [Fold::Mean, Fold::Mean, Fold::Mean, Fold::Mean, Fold::Most, Fold::Mean, Fold::Most];

    const fn values(&self) -> [Option<f64>; 7] {
        [
            self.waiting,
            self.running,
            self.enqueued_per_s,
            self.ended_per_s,
            self.oldest_due_ms,
            self.wait_p50_ms,
            self.wait_p99_ms,
        ]
    }

    const fn of(values: [Option<f64>; 7]) -> Self {
        let [waiting, running, enqueued_per_s, ended_per_s, oldest_due_ms, wait_p50_ms, wait_p99_ms] = values;
        Self { waiting, running, enqueued_per_s, ended_per_s, oldest_due_ms, wait_p50_ms, wait_p99_ms }
    }

    /// How much happens in it.
    fn weight(&self) -> f64 {
        [self.waiting, self.running, self.enqueued_per_s, self.ended_per_s].iter().flatten().sum()
    }
}

impl PoolSample {
    const FOLDS: [Fold; 3] = [Fold::Mean; 3];

    const fn values(&self) -> [Option<f64>; 3] {
        [self.workers, self.busy, self.desired]
    }

    const fn of([workers, busy, desired]: [Option<f64>; 3]) -> Self {
        Self { workers, busy, desired }
    }
}

/// Sums of what is known, to be divided.
#[derive(Debug, Clone)]
struct Pile<const N: usize> {
    sums: [f64; N],
    counts: [u32; N],
}

impl<const N: usize> Pile<N> {
    const fn new() -> Self {
        Self { sums: [0.0; N], counts: [0; N] }
    }

    fn add(&mut self, values: [Option<f64>; N], folds: &[Fold; N]) {
        for (at, value) in values.into_iter().enumerate() {
            let Some(value) = value else { continue };
            match folds[at] {
                Fold::Mean => self.sums[at] += value,
                Fold::Most => self.sums[at] = self.sums[at].max(value),
            }
            self.counts[at] += 1;
        }
    }

    fn fold(&self, folds: &[Fold; N]) -> [Option<f64>; N] {
        std::array::from_fn(|at| match (self.counts[at], folds[at]) {
            (0, _) => None,
            (count, Fold::Mean) => Some(round(self.sums[at] / f64::from(count))),
            (_, Fold::Most) => Some(round(self.sums[at])),
        })
    }
}

/// A thousandth is more than any chart shows.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A step that is not over yet.
#[derive(Debug, Default)]
struct Open {
    at: i64,
    queues: BTreeMap<String, Pile<7>>,
    pools: BTreeMap<String, Pile<3>>,
}

impl Open {
    fn add(&mut self, sample: &Sample) {
        for (name, queue) in &sample.queues {
            let pile = self.queues.entry(name.clone()).or_insert_with(Pile::new);
            pile.add(queue.values(), &QueueSample::FOLDS);
        }
        for (name, pool) in &sample.pools {
            let pile = self.pools.entry(name.clone()).or_insert_with(Pile::new);
            pile.add(pool.values(), &PoolSample::FOLDS);
        }
    }

    fn close(&self) -> Sample {
        let queue = |(name, pile): (&String, &Pile<7>)| {
            (name.clone(), QueueSample::of(pile.fold(&QueueSample::FOLDS)))
        };
        let pool =
            |(name, pile): (&String, &Pile<3>)| (name.clone(), PoolSample::of(pile.fold(&PoolSample::FOLDS)));
        Sample {
            queues: self.queues.iter().map(queue).collect(),
            pools: self.pools.iter().map(pool).collect(),
        }
    }
}

impl Sample {
    /// Leaves the queues in which most happens, and the first pools.
    fn limit(&mut self, most: usize) {
        if self.queues.len() > most {
            let mut by_weight: Vec<_> = std::mem::take(&mut self.queues).into_iter().collect();
            by_weight.sort_by(|a, b| b.1.weight().total_cmp(&a.1.weight()));
            by_weight.truncate(most);
            self.queues = by_weight.into_iter().collect();
        }
        while self.pools.len() > most {
            self.pools.pop_last();
        }
    }
}

#[derive(Debug)]
struct Ring {
    /// In seconds.
    step: u32,
    keep: u32,
    /// By the start of the step in Unix seconds.
    points: VecDeque<(i64, Sample)>,
    open: Option<Open>,
    is_kept: bool,
}

/// A point that is to outlive this process.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub step: u32,
    /// Unix seconds.
    pub at: i64,
    pub text: String,
    /// Older ones of this step go.
    pub keep: u32,
}

/// See the module's text.
#[derive(Debug)]
pub struct Series {
    rings: Vec<Ring>,
}

impl Default for Series {
    fn default() -> Self {
        let ring = |(step, keep, is_kept)| Ring { step, keep, is_kept, points: VecDeque::new(), open: None };
        Self { rings: STEPS.map(ring).into() }
    }
}

/// A piece of the past, in steps of one length.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chart {
    /// Unix ms; the end is not part of it.
    pub from: i64,
    pub to: i64,
    /// In ms.
    pub step: i64,
    pub t: Vec<i64>,
    pub queues: BTreeMap<String, BTreeMap<&'static str, Vec<Option<f64>>>>,
    pub pools: BTreeMap<String, BTreeMap<&'static str, Vec<Option<f64>>>>,
}

const QUEUE_NAMES: [&str; 7] =
    ["waiting", "running", "enqueued_per_s", "ended_per_s", "oldest_due_ms", "wait_p50_ms", "wait_p99_ms"];
const POOL_NAMES: [&str; 3] = ["workers", "busy", "desired"];

impl Series {
    /// Takes in what a moment (Unix ms) looks like; answers what is to be kept in the store.
    pub fn push(&mut self, at_ms: i64, mut sample: Sample) -> Vec<Kept> {
        sample.limit(MOST_QUEUES);
        let at = at_ms.div_euclid(1000);
        let mut kept = Vec::new();
        for ring in &mut self.rings {
            let start = at - at.rem_euclid(i64::from(ring.step));
            if let Some(open) = ring.open.take_if(|open| open.at != start) {
                let mut closed = open.close();
                if ring.is_kept {
                    closed.limit(MOST_KEPT);
                    if let Ok(text) = serde_json::to_string(&closed) {
                        kept.push(Kept { step: ring.step, at: open.at, text, keep: ring.keep });
                    }
                }
                ring.insert(open.at, closed);
            }
            ring.open.get_or_insert_with(|| Open { at: start, ..Open::default() }).add(&sample);
        }
        kept
    }

    /// Takes in what an earlier process, or another host, kept in the store. What is known already counts.
    pub fn restore(&mut self, step: u32, at: i64, text: &str) {
        let Ok(sample) = serde_json::from_str::<Sample>(text) else { return };
        if let Some(ring) = self.rings.iter_mut().find(|ring| ring.step == step) {
            ring.insert(at, sample);
        }
    }

    /// The steps that are kept in the store, with how far back they reach, in seconds.
    pub fn kept_steps() -> impl Iterator<Item = (u32, i64)> {
        STEPS.iter().filter(|step| step.2).map(|(step, keep, _)| (*step, i64::from(*step) * i64::from(*keep)))
    }

    /// The shortest step, in seconds, of at least `step` that reaches back to `from` at `now` (Unix ms).
    #[must_use]
    pub fn step_for(from: i64, now: i64, step: i64) -> u32 {
        let age = (now - from) / 1000;
        let fits = |&&(length, keep, _): &&(u32, u32, bool)| {
            i64::from(length) * 1000 >= step && age <= i64::from(length) * i64::from(keep)
        };
        STEPS.iter().find(fits).map_or(STEPS[STEPS.len() - 1].0, |(length, ..)| *length)
    }

    /// Steps of this many seconds from one moment to before another (Unix ms).
    #[must_use]
    pub fn chart(&self, from: i64, to: i64, step: u32) -> Chart {
        let length = i64::from(step) * 1000;
        let from = from.div_euclid(length) * length;
        let to = (to + length - 1).div_euclid(length) * length;
        let steps = usize::try_from((to - from) / length).unwrap_or(0);
        let t: Vec<i64> = (from..to).step_by(usize::try_from(length).unwrap_or(1000)).collect();
        let mut chart = Chart { from, to, step: length, t, queues: BTreeMap::new(), pools: BTreeMap::new() };
        let Some(ring) = self.rings.iter().find(|ring| ring.step == step) else { return chart };
        let open = ring.open.as_ref().map(|open| (open.at, open.close()));
        for (at, sample) in ring.points.iter().chain(&open) {
            let Some(slot) = usize::try_from((at * 1000 - from) / length).ok().filter(|slot| *slot < steps)
            else {
                continue;
            };
            if at * 1000 < from {
                continue;
            }
            for (name, queue) in &sample.queues {
                fill(&mut chart.queues, name, QUEUE_NAMES, queue.values(), slot, steps);
            }
            for (name, pool) in &sample.pools {
                fill(&mut chart.pools, name, POOL_NAMES, pool.values(), slot, steps);
            }
        }
        chart
    }
}

fn fill<const N: usize>(
    into: &mut BTreeMap<String, BTreeMap<&'static str, Vec<Option<f64>>>>,
    name: &str,
    names: [&'static str; N],
    values: [Option<f64>; N],
    slot: usize,
    steps: usize,
) {
    let lines = into
        .entry(name.to_owned())
        .or_insert_with(|| names.iter().map(|name| (*name, vec![None; steps])).collect());
    for (name, value) in names.iter().zip(values) {
        if let Some(place) = lines.get_mut(name).and_then(|line| line.get_mut(slot)) {
            *place = value;
        }
    }
}

impl Ring {
    fn insert(&mut self, at: i64, sample: Sample) {
        let place = self.points.partition_point(|(other, _)| *other < at);
        if self.points.get(place).is_none_or(|(other, _)| *other != at) {
            self.points.insert(place, (at, sample));
        }
        let newest = self.points.back().map_or(at, |(at, _)| *at);
        let oldest = newest - i64::from(self.step) * i64::from(self.keep);
        while self.points.front().is_some_and(|(at, _)| *at <= oldest) {
            self.points.pop_front();
        }
    }
}

/// Turns counts into rates: what a look says beside the one before.
#[derive(Debug, Default)]
pub struct Watcher {
    last: Option<Look>,
}

#[derive(Debug)]
struct Look {
    at: i64,
    totals: BTreeMap<String, (u64, u64)>,
    waits: BTreeMap<String, Spread>,
}

impl Watcher {
    /// What a moment (Unix ms) looks like. Where the store is not reached, nothing is known of the queues.
    pub fn look(&mut self, at: i64, outlook: &Outlook, figures: &Figures) -> Sample {
        let waits: BTreeMap<String, Spread> = figures
            .iter()
            .filter(|figure| figure.metric == Metric::JobWait)
            .filter_map(|figure| match (&figure.value, figure.labels.first()) {
                (Value::Spread(spread), Some(queue)) => Some((queue.clone(), spread.clone())),
                _ => None,
            })
            .collect();
        let totals =
            outlook.queues.iter().map(|(name, it)| (name.clone(), (it.enqueued, it.ended))).collect();
        let look = Look { at, totals, waits };
        let last = self.last.take().filter(|last| at > last.at && at - last.at <= GAP);
        let mut sample = Sample::default();
        if outlook.store_ok {
            for (name, queue) in &outlook.queues {
                #[expect(clippy::cast_precision_loss, reason = "charts")]
                let number = |value: u64| Some(value as f64);
                let mut shown = QueueSample {
                    waiting: number(queue.waiting),
                    running: number(queue.running),
                    oldest_due_ms: number(queue.oldest_due_ms.unwrap_or(0)),
                    ..QueueSample::default()
                };
                if let Some(last) = &last {
                    shown.rates(last, &look, name);
                }
                sample.queues.insert(name.clone(), shown);
            }
        }
        for (name, pool) in &outlook.pools {
            let shown = PoolSample {
                workers: Some(f64::from(pool.workers.values().sum::<u32>())),
                busy: Some(f64::from(pool.busy)),
                desired: Some(f64::from(pool.desired)),
            };
            sample.pools.insert(name.clone(), shown);
        }
        self.last = Some(look);
        sample
    }
}

impl QueueSample {
    fn rates(&mut self, last: &Look, look: &Look, name: &str) {
        #[expect(clippy::cast_precision_loss, reason = "charts")]
        let rate = |now: u64, before: u64| {
            let seconds = (look.at - last.at) as f64 / 1000.0;
            now.checked_sub(before).map(|more| round(more as f64 / seconds))
        };
        if let (Some(now), Some(before)) = (look.totals.get(name), last.totals.get(name)) {
            self.enqueued_per_s = rate(now.0, before.0);
            self.ended_per_s = rate(now.1, before.1);
        }
        if let Some(now) = look.waits.get(name) {
            let before = last.waits.get(name).cloned().unwrap_or_default();
            let more = now.since(&before);
            let millis =
                |share| more.quantile(share).map(|seconds: f64| round(seconds.min(86_400.0) * 1000.0));
            (self.wait_p50_ms, self.wait_p99_ms) = (millis(0.5), millis(0.99));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use roundsman_shared::outlook::{PoolOutlook, QueueOutlook};

    use super::*;

    fn waiting(count: f64) -> Sample {
        let queue =
            QueueSample { waiting: Some(count), oldest_due_ms: Some(count), ..QueueSample::default() };
        Sample { queues: BTreeMap::from([("q".to_owned(), queue)]), pools: BTreeMap::new() }
    }

    #[test]
    fn longer_steps_hold_means_and_peaks_of_shorter_ones() {
        let mut series = Series::default();
        for second in 0..20 {
            assert_eq!(series.push(second * 1000, waiting(f64::from(u32::try_from(second).unwrap()))), []);
        }
        let chart = series.chart(0, 20_000, 10);
        assert_eq!(chart.t, [0, 10_000]);
        assert_eq!(chart.queues["q"]["waiting"], [Some(4.5), Some(14.5)]);
        assert_eq!(chart.queues["q"]["oldest_due_ms"], [Some(9.0), Some(19.0)]);
        assert_eq!(chart.queues["q"]["running"], [None, None]);
    }

    #[test]
    fn steps_are_equal_and_gaps_are_unknown() {
        let mut series = Series::default();
        for second in [1, 2, 5] {
            series.push(second * 1000 + 300, waiting(1.0));
        }
        let chart = series.chart(700, 6_100, 1);
        assert_eq!((chart.from, chart.to, chart.step), (0, 7000, 1000));
        assert_eq!(chart.t, [0, 1000, 2000, 3000, 4000, 5000, 6000]);
        let one = Some(1.0);
        assert_eq!(chart.queues["q"]["waiting"], [None, one, one, None, None, one, None]);
    }

    #[test]
    fn minutes_outlive_the_process_and_nothing_outgrows_its_ring() {
        let mut series = Series::default();
        let mut kept = Vec::new();
        for second in 0..1_300 {
            kept.extend(series.push(second * 1000, waiting(2.0)));
        }
        let steps: Vec<u32> = kept.iter().map(|kept| kept.step).collect();
        assert_eq!(steps.iter().filter(|step| **step == 60).count(), 21);
        assert_eq!(steps.iter().filter(|step| **step == 600).count(), 2);
        assert_eq!(series.rings[0].points.len(), 600);
        let mut next = Series::default();
        for kept in &kept {
            next.restore(kept.step, kept.at, &kept.text);
        }
        next.restore(60, 7, "no sample");
        assert_eq!(next.chart(0, 1_260_000, 60).queues, series.chart(0, 1_260_000, 60).queues);
    }

    #[test]
    fn the_step_reaches_as_far_as_is_asked() {
        let now = 100_000_000_000;
        for (ago_s, least_ms, step) in [
            (300, 1000, 1),
            (300, 5000, 10),
            (601, 1000, 10),
            (3601, 0, 60),
            (86_401, 0, 600),
            (90 * 86_400, 0, 600),
        ] {
            assert_eq!(Series::step_for(now - ago_s * 1000, now, least_ms), step, "{ago_s} {least_ms}");
        }
    }

    #[test]
    fn many_queues_leave_the_busiest() {
        let queue =
            |n: u32| (format!("q{n}"), QueueSample { waiting: Some(f64::from(n)), ..QueueSample::default() });
        let mut sample = Sample { queues: (0..500).map(queue).collect(), pools: BTreeMap::new() };
        sample.limit(3);
        assert_eq!(sample.queues.keys().collect::<Vec<_>>(), ["q497", "q498", "q499"]);
    }

    #[test]
    fn rates_and_waits_are_those_between_two_looks() {
        let queue = |enqueued, ended| QueueOutlook { waiting: 3, enqueued, ended, ..QueueOutlook::default() };
        let outlook = |queue| Outlook {
            queues: BTreeMap::from([("q".to_owned(), queue)]),
            pools: BTreeMap::from([("p".to_owned(), PoolOutlook { desired: 2, ..PoolOutlook::default() })]),
            store_ok: true,
        };
        let mut figures = Figures::default();
        let place = figures.place(Metric::JobWait, &["q"]);
        figures.observe_at(place, Duration::from_secs(50));
        let mut watcher = Watcher::default();
        let first = watcher.look(1_000, &outlook(queue(10, 5)), &figures).queues["q"];
        assert_eq!((first.waiting, first.enqueued_per_s, first.wait_p50_ms), (Some(3.0), None, None));
        figures.observe_at(place, Duration::from_micros(700));
        let second = watcher.look(3_000, &outlook(queue(110, 15)), &figures).queues["q"];
        assert_eq!((second.enqueued_per_s, second.ended_per_s), (Some(50.0), Some(5.0)));
        assert_eq!((second.wait_p50_ms, second.wait_p99_ms), (Some(1.0), Some(1.0)));
        // The queue's numbers began anew: no rate is known. Nothing has started since.
        let third = watcher.look(4_000, &outlook(queue(1, 0)), &figures).queues["q"];
        assert_eq!((third.enqueued_per_s, third.wait_p50_ms), (None, None));
        let late = watcher.look(60_000, &outlook(queue(100, 0)), &figures);
        assert_eq!(late.queues["q"].enqueued_per_s, None);
        assert_eq!(late.pools["p"].desired, Some(2.0));
        let blind = watcher.look(61_000, &Outlook { store_ok: false, ..outlook(queue(100, 0)) }, &figures);
        assert!(blind.queues.is_empty() && !blind.pools.is_empty());
    }
}
