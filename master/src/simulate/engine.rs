//! A pool and its workers under a load, event by event: no clock, no process, no store.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use super::figures::Figures;
use super::random::Random;
use super::trace::{Fault, Trace};

/// What the fleet is given. Times in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    pub target_wait: f64,
    pub min_workers: u32,
    pub max_workers: u32,
    pub slots: u16,
    /// From the start of a process to its first job.
    pub boot: f64,
    pub cores: u32,
}

/// How whoever decides has it carried out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Style {
    /// Let go only of workers that have been idle for so long, the longest idle first; else of any, which finish what they
    /// run.
    pub idle_for: Option<f64>,
    /// Lets go when it looks; else as soon as may be.
    pub thins_at_looks: bool,
    /// A new build starts before the old one stops, a quarter at a time; else all stop first.
    pub surges: bool,
    /// It is told of a job that finds nobody idle, and decides at once by what it saw last and how many it was told of since,
    /// unless more than so many wait already.
    pub told_up_to: Option<usize>,
    /// A job is handed to whoever became idle last, so that who is not needed stays idle; else to whoever did first, as a
    /// blocked pull does.
    pub last_first: bool,
}

/// What is known at one moment: what waits as it was seen last, with what was told of since.
#[derive(Debug)]
pub struct View<'v> {
    pub now: f64,
    seen: f64,
    pub setting: &'v Setting,
    /// Jobs that are due and wait, and for how long the first of them has.
    pub ready: usize,
    pub oldest: f64,
    /// Jobs that fell due so far.
    pub arrived: u64,
    /// Runs that ended so far, and how long each of the last ones took.
    pub finished: u64,
    pub lately: &'v VecDeque<f64>,
    /// How long each running job has run so far.
    pub running: Vec<f64>,
    pub busy: u32,
    pub workers: u32,
    pub booting: u32,
    /// Starts that failed and workers that died so far.
    pub failures: u64,
    /// A worker has become ready, so that it is known how long that takes.
    pub has_booted: bool,
    /// What was wanted last.
    pub target: u32,
    /// When the timers fall due that are known of.
    timers: &'v [f64],
}

impl View<'_> {
    /// Timers that fall due within so many seconds.
    #[must_use]
    pub fn soon(&self, within: f64) -> usize {
        let from = self.timers.partition_point(|due| *due <= self.seen);
        self.timers.partition_point(|due| *due <= self.seen + within) - from
    }
}

/// Decides how many workers there are to be.
pub trait Controller {
    fn style(&self) -> Style;
    /// Seconds to the next look.
    fn pause(&self, ready: usize) -> f64;
    fn decide(&mut self, view: &View<'_>) -> u32;
    /// Whether what it decided last was about a backlog that needs as many workers as there are, or more.
    fn bursts(&self) -> bool {
        false
    }
}

/// A moment of the course, for a plot: seconds, waiting jobs, workers, and how long the first in the row has waited.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub at: f64,
    pub ready: usize,
    pub workers: u32,
    pub oldest: f64,
}

/// Plays a trace through. The seed is for what goes wrong.
pub fn run(
    trace: &Trace,
    setting: &Setting,
    controller: &mut dyn Controller,
    seed: u64,
) -> (Figures, Vec<Sample>) {
    let mut engine = Engine::new(trace, setting, controller.style(), seed);
    engine.play(controller);
    (engine.figures(), engine.samples)
}

/// Starts a second at most, after what [`crate::pool`] allows itself; fewer while starts fail.
const STARTS_PER_S: f64 = 40.0;
const CAREFUL_STARTS_PER_S: f64 = 10.0;
const CAREFUL: f64 = 10.0;
const BURST: f64 = 16.0;
/// A load that is not worked off by then is not any more.
const PATIENCE: f64 = 3600.0;
/// Runs whose times are remembered.
const LATELY: usize = 300;
const SAMPLE: f64 = 1.0;

#[derive(Debug, Clone, Copy)]
enum What {
    Due(usize),
    Booted(u64),
    Ended(u64),
    Died(u64),
    Look,
    Told,
    Deploy,
}

#[derive(Debug, Clone, Copy)]
struct Event {
    at: f64,
    number: u64,
    what: What,
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.total_cmp(&self.at).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

#[derive(Debug, Clone, Copy)]
struct Job {
    /// Its place in the trace, also when it has come back.
    number: usize,
    due: f64,
    service: f64,
    failures: u32,
    has_started: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Booting,
    Serving,
    /// It takes nothing more, and goes when it is idle.
    Leaving,
}

#[derive(Debug)]
struct Worker {
    stage: Stage,
    born: f64,
    idle_since: f64,
    running: u16,
    build: u32,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    worker: u64,
    job: usize,
    since: f64,
}

/// The number wanted changed.
#[derive(Debug, Clone, Copy)]
struct Turn {
    at: f64,
    rose: bool,
    bursts: bool,
}

/// What waits, at the last look.
#[derive(Debug, Default)]
struct Seen {
    at: f64,
    ready: usize,
    oldest_due: Option<f64>,
    arrived: u64,
    /// Jobs that were told of since.
    told: usize,
}

struct Engine<'e> {
    trace: &'e Trace,
    setting: &'e Setting,
    style: Style,
    random: Random,
    now: f64,
    events: BinaryHeap<Event>,
    number: u64,
    jobs: Vec<Job>,
    timers: Vec<f64>,
    ready: VecDeque<usize>,
    seen: Seen,
    workers: BTreeMap<u64, Worker>,
    runs: BTreeMap<u64, Run>,
    build: u32,
    target: u32,
    tokens: f64,
    filled: f64,
    failed: Option<f64>,
    failures: u64,
    has_booted: bool,
    arrived: u64,
    finished: u64,
    lately: VecDeque<f64>,
    open: usize,
    waits: Vec<f64>,
    work: f64,
    worker_seconds: f64,
    starts: usize,
    most: u32,
    /// When the number wanted changed.
    turns: Vec<Turn>,
    samples: Vec<Sample>,
}

impl<'e> Engine<'e> {
    fn new(trace: &'e Trace, setting: &'e Setting, style: Style, seed: u64) -> Self {
        let job = |(number, arrival): (usize, &super::trace::Arrival)| Job {
            number,
            due: arrival.due,
            service: arrival.service,
            failures: 0,
            has_started: false,
        };
        let mut engine = Self {
            trace,
            setting,
            style,
            random: Random::new(seed),
            now: 0.0,
            events: BinaryHeap::new(),
            number: 0,
            jobs: trace.jobs.iter().enumerate().map(job).collect(),
            timers: trace.jobs.iter().filter(|job| job.is_timer).map(|job| job.due).collect(),
            ready: VecDeque::new(),
            seen: Seen::default(),
            workers: BTreeMap::new(),
            runs: BTreeMap::new(),
            build: 0,
            target: setting.min_workers,
            tokens: BURST,
            filled: 0.0,
            failed: None,
            failures: 0,
            has_booted: false,
            arrived: 0,
            finished: 0,
            lately: VecDeque::new(),
            open: trace.jobs.len(),
            waits: Vec::with_capacity(trace.jobs.len()),
            work: 0.0,
            worker_seconds: 0.0,
            starts: 0,
            most: 0,
            turns: Vec::new(),
            samples: Vec::new(),
        };
        for (index, job) in trace.jobs.iter().enumerate() {
            engine.at(job.due, What::Due(index));
        }
        for fault in &trace.faults {
            if let Fault::Deploy { at } = fault {
                engine.at(*at, What::Deploy);
            }
        }
        engine.at(0.0, What::Look);
        engine
    }

    fn at(&mut self, at: f64, what: What) {
        self.number += 1;
        self.events.push(Event { at, number: self.number, what });
    }

    fn play(&mut self, controller: &mut dyn Controller) {
        let mut look = 0.0;
        while let Some(event) = self.events.pop() {
            let is_over = self.open == 0 && self.now >= self.trace.lasts;
            if is_over || event.at > self.trace.lasts + PATIENCE {
                break;
            }
            self.now = event.at;
            match event.what {
                What::Due(job) => {
                    let before = self.ready.len();
                    self.arrived += 1;
                    self.ready.push_back(job);
                    if self.style.told_up_to.is_some_and(|most| before <= most) && self.idle() <= before {
                        self.seen.told += 1;
                        self.at(self.now, What::Told);
                        let soon = self.now.max(self.seen.at + controller.pause(self.seen.told));
                        if soon < look {
                            look = soon;
                            self.at(look, What::Look);
                        }
                    }
                }
                What::Booted(worker) => self.booted(worker),
                What::Ended(run) => self.ended(run),
                What::Died(run) => self.died(run),
                What::Deploy => {
                    self.build += 1;
                    if !self.style.surges {
                        self.workers.values_mut().for_each(|worker| worker.stage = Stage::Leaving);
                        self.let_leave();
                    }
                }
                What::Told => {
                    if self.seen.told > 0 {
                        self.decide(controller);
                    }
                }
                What::Look => {
                    // A look that was brought forward by others is one too many.
                    if event.at >= look {
                        self.look();
                        self.decide(controller);
                        if self.style.thins_at_looks {
                            self.serve();
                            self.thin();
                        }
                        look = self.now + controller.pause(self.ready.len());
                        self.at(look, What::Look);
                    }
                }
            }
            self.serve();
            self.fill();
            if !self.style.thins_at_looks {
                self.thin();
            }
            self.sample();
        }
        for (_, worker) in std::mem::take(&mut self.workers) {
            self.worker_seconds += self.now - worker.born;
        }
    }

    fn count(&self, stage: Stage) -> u32 {
        let count = self.workers.values().filter(|worker| worker.stage == stage).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn look(&mut self) {
        let first = self.ready.front().and_then(|job| self.jobs.get(*job));
        self.seen = Seen {
            at: self.now,
            ready: self.ready.len(),
            oldest_due: first.map(|job| job.due),
            arrived: self.arrived,
            told: 0,
        };
    }

    fn decide(&mut self, controller: &mut dyn Controller) {
        let view = View {
            now: self.now,
            seen: self.seen.at,
            setting: self.setting,
            ready: self.seen.ready + self.seen.told,
            oldest: self.seen.oldest_due.map_or(0.0, |due| self.now - due),
            arrived: self.seen.arrived,
            finished: self.finished,
            lately: &self.lately,
            running: self.runs.values().map(|run| self.now - run.since).collect(),
            busy: u32::try_from(self.workers.values().filter(|worker| worker.running > 0).count())
                .unwrap_or(u32::MAX),
            workers: self.count(Stage::Serving),
            booting: self.count(Stage::Booting),
            failures: self.failures,
            has_booted: self.has_booted,
            target: self.target,
            timers: &self.timers,
        };
        let target = controller.decide(&view).clamp(self.setting.min_workers, self.setting.max_workers);
        if target != self.target {
            let rose = target > self.target;
            self.turns.push(Turn { at: self.now, rose, bursts: controller.bursts() || self.target == 0 });
        }
        self.target = target;
    }

    /// Jobs that could be started now.
    fn idle(&self) -> usize {
        let serving = self.workers.values().filter(|worker| worker.stage == Stage::Serving);
        serving.map(|worker| usize::from(self.setting.slots.saturating_sub(worker.running))).sum()
    }

    fn oldest(&self) -> f64 {
        let due = self.ready.front().and_then(|job| self.jobs.get(*job));
        due.map_or(0.0, |job| self.now - job.due)
    }

    /// Hands what waits to who is free.
    fn serve(&mut self) {
        while let Some(job) = self.ready.front().copied() {
            let (slots, last_first) = (self.setting.slots, self.style.last_first);
            let free = self
                .workers
                .iter_mut()
                .filter(|(_, worker)| worker.stage == Stage::Serving && worker.running < slots)
                .min_by(|(_, a), (_, b)| {
                    let order = a.idle_since.total_cmp(&b.idle_since);
                    if last_first { order.reverse() } else { order }
                });
            let Some((id, worker)) = free else { return };
            self.ready.pop_front();
            worker.running += 1;
            let id = *id;
            self.start(id, job);
        }
    }

    fn start(&mut self, worker: u64, index: usize) {
        let Some(job) = self.jobs.get_mut(index) else { return };
        if !job.has_started {
            job.has_started = true;
            self.waits.push(self.now - job.due);
        }
        let service = self.trace.takes(job.service, self.now, self.runs.len() + 1);
        let lives = self.trace.faults.iter().find_map(|fault| match fault {
            Fault::Crashing { span, lives, .. } if span.holds(self.now) => Some(*lives),
            _ => None,
        });
        let dies = lives.map(|mean| self.random.exponential(mean)).filter(|after| *after < service);
        let (after, is_death) = dies.map_or((service, false), |after| (after, true));
        self.number += 1;
        let run = self.number;
        self.runs.insert(run, Run { worker, job: index, since: self.now });
        self.at(self.now + after, if is_death { What::Died(run) } else { What::Ended(run) });
    }

    fn ended(&mut self, run: u64) {
        let Some(Run { worker, job, since }) = self.runs.remove(&run) else { return };
        let took = self.now - since;
        self.work += took;
        self.finished += 1;
        self.lately.push_back(took);
        if self.lately.len() > LATELY {
            self.lately.pop_front();
        }
        self.open -= 1;
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.running -= 1;
            worker.idle_since = self.now;
        }
        self.let_leave();
        let Some(job) = self.jobs.get(job).copied() else { return };
        if let Some(pause) = self.trace.comes_back(job.number, job.failures, self.now) {
            let again = Job { due: self.now + pause, failures: job.failures + 1, has_started: false, ..job };
            self.jobs.push(again);
            self.open += 1;
            let place = self.timers.partition_point(|due| *due <= again.due);
            self.timers.insert(place, again.due);
            self.at(again.due, What::Due(self.jobs.len() - 1));
        }
    }

    /// A worker died in mid-run: all that it ran is due again, before the others.
    fn died(&mut self, run: u64) {
        let Some(Run { worker, .. }) = self.runs.get(&run).copied() else { return };
        let (lost, kept) =
            std::mem::take(&mut self.runs).into_iter().partition(|(_, run)| run.worker == worker);
        self.runs = kept;
        let lost: BTreeMap<u64, Run> = lost;
        for run in lost.into_values() {
            self.ready.push_front(run.job);
        }
        self.bury(worker);
        self.failed = Some(self.now);
        self.failures += 1;
    }

    fn bury(&mut self, worker: u64) {
        if let Some(worker) = self.workers.remove(&worker) {
            self.worker_seconds += self.now - worker.born;
        }
    }

    fn booted(&mut self, id: u64) {
        let fails = self.trace.faults.iter().find_map(|fault| match fault {
            Fault::Crashing { span, boots, .. } if span.holds(self.now) => Some(*boots),
            _ => None,
        });
        if fails.is_some_and(|share| self.random.chance(share)) {
            self.bury(id);
            self.failed = Some(self.now);
            self.failures += 1;
            return;
        }
        if let Some(worker) = self.workers.get_mut(&id)
            && worker.stage == Stage::Booting
        {
            worker.stage = Stage::Serving;
            worker.idle_since = self.now;
            self.has_booted = true;
        }
        let old = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.build < self.build && worker.stage == Stage::Serving);
        // One of the new build is there for one of the old.
        let relieved = old.min_by(|(_, a), (_, b)| a.running.cmp(&b.running)).map(|(id, _)| *id);
        if let Some(worker) = relieved.and_then(|id| self.workers.get_mut(&id)) {
            worker.stage = Stage::Leaving;
            self.let_leave();
        }
    }

    /// Who leaves and runs nothing, is gone.
    fn let_leave(&mut self) {
        let gone: Vec<u64> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.stage == Stage::Leaving && worker.running == 0)
            .map(|(id, _)| *id)
            .collect();
        gone.into_iter().for_each(|id| self.bury(id));
    }

    /// Workers of the new build that are to be there beside those of the old.
    fn surge(&self) -> u32 {
        let old = self
            .workers
            .values()
            .filter(|worker| worker.build < self.build && worker.stage != Stage::Leaving);
        let old = u32::try_from(old.count()).unwrap_or(u32::MAX);
        if old > 0 { self.target.div_ceil(4).min(old) } else { 0 }
    }

    /// Starts what is missing, as far as that is allowed.
    fn fill(&mut self) {
        let surge = self.surge();
        // Those of the last build, as another master has the others. Who leaves has a place as long as it is there.
        let mut own = self.workers.values().filter(|worker| worker.build == self.build).count();
        loop {
            let (booting, serving) = (self.count(Stage::Booting), self.count(Stage::Serving));
            let is_full = own >= usize::try_from(self.setting.max_workers).unwrap_or(usize::MAX);
            if booting + serving >= self.target + surge || is_full || !self.may_start(booting) {
                break;
            }
            own += 1;
            self.number += 1;
            let id = self.number;
            let worker = Worker {
                stage: Stage::Booting,
                born: self.now,
                idle_since: self.now,
                running: 0,
                build: self.build,
            };
            self.workers.insert(id, worker);
            self.starts += 1;
            self.at(self.now + self.setting.boot, What::Booted(id));
        }
        self.most = self.most.max(u32::try_from(self.workers.len()).unwrap_or(u32::MAX));
    }

    /// Lets go what is more than is wanted, as far as it may be.
    fn thin(&mut self) {
        let alive = self.count(Stage::Booting) + self.count(Stage::Serving);
        let spare = usize::try_from(alive.saturating_sub(self.target + self.surge())).unwrap_or(0);
        let mut spare_ones: Vec<(u64, f64)> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.stage == Stage::Serving)
            .filter(|(_, worker)| {
                let idle = worker.running == 0;
                self.style.idle_for.is_none_or(|least| idle && self.now - worker.idle_since >= least)
            })
            .map(|(id, worker)| {
                (*id, if self.style.idle_for.is_some() { worker.idle_since } else { worker.born })
            })
            .collect();
        spare_ones.sort_by(|(_, a), (_, b)| a.total_cmp(b));
        for (id, _) in spare_ones.into_iter().take(spare) {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.stage = Stage::Leaving;
            }
        }
        self.let_leave();
    }

    fn may_start(&mut self, booting: u32) -> bool {
        let is_careful = self.failed.is_some_and(|at| self.now - at < CAREFUL);
        let rate = if is_careful { CAREFUL_STARTS_PER_S } else { STARTS_PER_S };
        self.tokens = (self.tokens + (self.now - self.filled) * rate).min(BURST);
        self.filled = self.now;
        if booting >= self.setting.cores.max(self.target.div_ceil(4)) || self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    fn sample(&mut self) {
        if self.samples.last().is_some_and(|sample| self.now - sample.at < SAMPLE) {
            return;
        }
        self.samples.push(Sample {
            at: self.now,
            ready: self.ready.len(),
            workers: u32::try_from(self.workers.len()).unwrap_or(u32::MAX),
            oldest: self.oldest(),
        });
    }

    fn figures(&mut self) -> Figures {
        // What never started has waited until the end.
        for job in self.ready.drain(..) {
            if let Some(job) = self.jobs.get(job).filter(|job| !job.has_started) {
                self.waits.push(self.now - job.due);
            }
        }
        let back = |pair: &&[Turn]| match pair {
            [first, then] => {
                first.rose != then.rose && then.at - first.at < 10.0 - 1e-6 && !first.bursts && !then.bursts
            }
            _ => false,
        };
        Figures {
            cost: self.worker_seconds * f64::from(self.setting.slots.max(1)) / self.work.max(1e-9),
            worker_seconds: self.worker_seconds,
            starts: self.starts,
            decisions: self.turns.len(),
            reversals: self.turns.windows(2).filter(back).count(),
            most: self.most,
            lasted: self.now,
            ..Figures::of_waits(std::mem::take(&mut self.waits), self.setting.target_wait)
        }
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
