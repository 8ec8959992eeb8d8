//! Loads: when jobs fall due, how long they run, and what goes wrong meanwhile. All are made of a seed.

use std::time::Duration;

use super::random::Random;

/// A job of a trace. Times in seconds from its beginning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    pub due: f64,
    pub service: f64,
    /// It was enqueued long before it is due: the fleet can know of it.
    pub is_timer: bool,
}

/// A job fails so often at most, and comes back after so many seconds, doubled with each failure.
const FAILURES: u32 = 4;
const BACK: f64 = 5.0;

/// Between two moments, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    pub from: f64,
    pub to: f64,
}

impl Span {
    #[must_use]
    pub fn holds(&self, at: f64) -> bool {
        (self.from..self.to).contains(&at)
    }
}

/// What else happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// This share of jobs fails and comes back after 5 s, doubled with each failure, four times at most.
    Failing { span: Span, share: f64 },
    /// This share of starts fails, and a worker dies after so many busy seconds in the mean.
    Crashing { span: Span, boots: f64, lives: f64 },
    /// Jobs take so many times as long.
    Slow { span: Span, times: f64 },
    /// A dependency serves so many jobs at once; more take longer in proportion.
    Saturated { at_once: u32 },
    /// Every worker is replaced by one of a new build.
    Deploy { at: f64 },
}

/// A load.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    pub name: &'static str,
    pub seed: u64,
    pub jobs: Vec<Arrival>,
    pub faults: Vec<Fault>,
    /// Seconds.
    pub lasts: f64,
}

/// A kind of load.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub what: &'static str,
    make: fn(&mut Maker),
}

const fn kind(name: &'static str, what: &'static str, make: fn(&mut Maker)) -> Kind {
    Kind { name, what, make }
}

/// Those that the law is held against. Lengths are seconds at scale 1.
pub const KINDS: [Kind; 13] = [
    kind("step", "5/s, then 50/s, then 5/s of 0.4 s", step),
    kind("ramp", "2/s to 80/s and back of 0.3 s", ramp),
    kind("diurnal", "a sinus from 0.3/s to 27.7/s of 0.5 s", diurnal),
    kind("spikes", "2/s, and 400 jobs at once every two minutes, of 0.25 s", spikes),
    kind("heavy", "8/s, of which 3 % take 15 s and the others 0.2 s", heavy),
    kind("retry", "20/s of 0.3 s, of which 90 % fail for three minutes", retry),
    kind("crashloop", "20/s of 0.3 s while nine of ten starts fail for four minutes", crashloop),
    kind("slowdep", "12/s of 0.4 s that take five times as long for five minutes", slowdep),
    kind("satdep", "a dependency that serves eight at once, and too much to do", satdep),
    kind("hourly", "3/s of 0.4 s, and 600 timers of the same moment every ten minutes", hourly),
    kind("deploy", "15/s, then 50/s of 0.4 s, and a new build in the middle of it", deploy),
    kind("sparse", "a job of 2 s every minute and a half", sparse),
    kind("longjobs", "0.1/s to 1/s of 20 s", longjobs),
];

impl Trace {
    /// The trace of this name, made with a seed; a tenth of its length with `scale` 0.1. `None` for an unknown name.
    #[must_use]
    pub fn named(name: &str, seed: u64, scale: f64) -> Option<Self> {
        let Kind { name, make, .. } = KINDS.into_iter().find(|kind| kind.name == name)?;
        let mut maker =
            Maker { random: Random::new(seed), scale, jobs: Vec::new(), faults: Vec::new(), lasts: 0.0 };
        make(&mut maker);
        let Maker { mut jobs, faults, lasts, .. } = maker;
        jobs.retain(|job| job.due < lasts);
        jobs.sort_by(|a, b| a.due.total_cmp(&b.due));
        Some(Self { name, seed, jobs, faults, lasts })
    }

    /// The same, so many seconds later.
    #[must_use]
    pub fn later(mut self, by: f64) -> Self {
        for job in &mut self.jobs {
            job.due += by;
        }
        for fault in &mut self.faults {
            match fault {
                Fault::Failing { span, .. } | Fault::Crashing { span, .. } | Fault::Slow { span, .. } => {
                    *span = Span { from: span.from + by, to: span.to + by };
                }
                Fault::Deploy { at } => *at += by,
                Fault::Saturated { .. } => {}
            }
        }
        self.lasts += by;
        self
    }

    /// What was recorded: when each job fell due, from the beginning, and how long it ran.
    #[must_use]
    pub fn recorded(name: &'static str, jobs: Vec<(Duration, Duration)>) -> Self {
        let mut jobs: Vec<Arrival> = jobs
            .into_iter()
            .map(|(due, service)| Arrival {
                due: due.as_secs_f64(),
                service: service.as_secs_f64(),
                is_timer: false,
            })
            .collect();
        jobs.sort_by(|a, b| a.due.total_cmp(&b.due));
        let lasts = jobs.last().map_or(0.0, |job| job.due);
        Self { name, seed: 0, jobs, faults: Vec::new(), lasts }
    }

    /// Seconds that a job takes that starts at a moment, as one of so many that run at once.
    #[must_use]
    pub fn takes(&self, service: f64, at: f64, at_once: usize) -> f64 {
        self.faults.iter().fold(service, |takes, fault| match fault {
            Fault::Slow { span, times } if span.holds(at) => takes * times,
            Fault::Saturated { at_once: most } => takes * (at_once as f64 / f64::from(*most)).max(1.0),
            Fault::Slow { .. } | Fault::Crashing { .. } | Fault::Failing { .. } | Fault::Deploy { .. } => {
                takes
            }
        })
    }

    /// Whether a run of a job fails that ends at a moment, after so many that did; and after how many seconds the job comes
    /// back then. It is made of the seed, the job and its failures alone, so that it is the same wherever it is played.
    #[must_use]
    pub fn comes_back(&self, job: usize, failures: u32, at: f64) -> Option<f64> {
        let share = self.faults.iter().find_map(|fault| match fault {
            Fault::Failing { span, share } if span.holds(at) && failures < FAILURES => Some(*share),
            Fault::Failing { .. }
            | Fault::Crashing { .. }
            | Fault::Slow { .. }
            | Fault::Saturated { .. }
            | Fault::Deploy { .. } => None,
        })?;
        let run = (job as u64) * u64::from(FAILURES) + u64::from(failures);
        let mut random = Random::of(self.seed, run);
        let fails = random.chance(share);
        fails.then(|| BACK * f64::from(1_u32 << failures) * (0.75 + 0.5 * random.fraction()))
    }

    /// Seconds of work in it.
    #[must_use]
    pub fn work(&self) -> f64 {
        self.jobs.iter().map(|job| job.service).sum()
    }
}

/// A trace in the making.
struct Maker {
    random: Random,
    scale: f64,
    jobs: Vec<Arrival>,
    faults: Vec<Fault>,
    lasts: f64,
}

impl Maker {
    fn span(&self, from: f64, to: f64) -> Span {
        Span { from: from * self.scale, to: to * self.scale }
    }

    /// A Poisson process whose rate depends on the time, from the end of what there is for so long.
    fn flow(
        &mut self,
        seconds: f64,
        most: f64,
        rate: impl Fn(f64) -> f64,
        mut service: impl FnMut(&mut Random) -> f64,
    ) {
        let (begin, length) = (self.lasts, seconds * self.scale);
        let mut at = 0.0;
        loop {
            // Thinning, after Lewis and Shedler (1979).
            at += self.random.exponential(1.0 / most);
            if at >= length {
                break;
            }
            if self.random.chance(rate(at / self.scale) / most) {
                let service = service(&mut self.random);
                self.jobs.push(Arrival { due: begin + at, service, is_timer: false });
            }
        }
        self.lasts = begin + length;
    }

    fn steady(&mut self, seconds: f64, rate: f64, mean: f64, scv: f64) {
        self.flow(seconds, rate, |_| rate, |random| random.lognormal(mean, scv));
    }

    /// Many jobs within a moment, every so often.
    fn bursts(&mut self, every: f64, count: usize, within: f64, mean: f64, is_timer: bool) {
        let mut at = every * self.scale / 2.0;
        while at < self.lasts {
            for _ in 0..count {
                let due = at + within * self.random.fraction();
                let service = self.random.lognormal(mean, 1.0);
                self.jobs.push(Arrival { due, service, is_timer });
            }
            at += every * self.scale;
        }
    }
}

fn step(maker: &mut Maker) {
    maker.steady(300.0, 5.0, 0.4, 1.0);
    maker.steady(600.0, 50.0, 0.4, 1.0);
    maker.steady(600.0, 5.0, 0.4, 1.0);
}

fn ramp(maker: &mut Maker) {
    let rate = |at: f64| 2.0 + 78.0 * (1.0 - (at / 900.0 - 1.0).abs());
    maker.flow(1800.0, 80.0, rate, |random| random.lognormal(0.3, 1.0));
}

fn diurnal(maker: &mut Maker) {
    let rate = |at: f64| 14.0 - 13.7 * (std::f64::consts::TAU * at / 3600.0).cos();
    maker.flow(3600.0, 27.7, rate, |random| random.lognormal(0.5, 1.0));
}

fn spikes(maker: &mut Maker) {
    maker.steady(1200.0, 2.0, 0.25, 1.0);
    maker.bursts(120.0, 400, 0.5, 0.25, false);
}

fn heavy(maker: &mut Maker) {
    maker.flow(
        1800.0,
        8.0,
        |_| 8.0,
        |random| {
            if random.chance(0.03) { random.lognormal(15.0, 2.0) } else { random.lognormal(0.2, 1.0) }
        },
    );
}

fn retry(maker: &mut Maker) {
    maker.steady(1200.0, 20.0, 0.3, 1.0);
    maker.faults.push(Fault::Failing { span: maker.span(300.0, 480.0), share: 0.9 });
}

fn crashloop(maker: &mut Maker) {
    maker.steady(1200.0, 20.0, 0.3, 1.0);
    maker.faults.push(Fault::Crashing { span: maker.span(300.0, 540.0), boots: 0.9, lives: 60.0 });
}

fn slowdep(maker: &mut Maker) {
    maker.steady(1500.0, 12.0, 0.4, 1.0);
    maker.faults.push(Fault::Slow { span: maker.span(400.0, 700.0), times: 5.0 });
}

fn satdep(maker: &mut Maker) {
    maker.steady(400.0, 15.0, 0.2, 1.0);
    maker.steady(180.0, 60.0, 0.2, 1.0);
    maker.steady(700.0, 15.0, 0.2, 1.0);
    maker.faults.push(Fault::Saturated { at_once: 8 });
}

fn hourly(maker: &mut Maker) {
    maker.steady(3600.0, 3.0, 0.4, 1.0);
    maker.bursts(600.0, 600, 0.0, 0.4, true);
}

fn deploy(maker: &mut Maker) {
    maker.steady(300.0, 15.0, 0.4, 1.0);
    maker.steady(400.0, 50.0, 0.4, 1.0);
    maker.steady(400.0, 15.0, 0.4, 1.0);
    maker.faults.push(Fault::Deploy { at: 350.0 * maker.scale });
}

fn sparse(maker: &mut Maker) {
    let mut at = 45.0;
    while at < 3600.0 {
        maker.jobs.push(Arrival { due: at * maker.scale, service: 2.0, is_timer: false });
        at += 90.0;
    }
    maker.lasts = 3600.0 * maker.scale;
}

fn longjobs(maker: &mut Maker) {
    let rate = |at: f64| 0.1 + 0.9 * (1.0 - (at / 1200.0 - 1.0).abs());
    maker.flow(2400.0, 1.0, rate, |random| random.lognormal(20.0, 0.5));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_depends_on_the_job_and_its_failures_alone() {
        let trace = Trace::named("retry", 3, 1.0).unwrap();
        let fails = |failures| -> Vec<Option<f64>> {
            (0..2000).map(|job| trace.comes_back(job, failures, 400.0)).collect()
        };
        let count = |failures| fails(failures).iter().flatten().count();
        assert!((count(0) as f64 / 2000.0 - 0.9).abs() < 0.03, "{}", count(0));
        assert_ne!(fails(0), fails(1));
        assert_eq!(fails(1), fails(1));
        assert_eq!(count(4), 0, "four times at most");
    }

    #[test]
    fn a_trace_that_begins_later_is_the_same() {
        let trace = Trace::named("retry", 3, 0.1).unwrap();
        let later = trace.clone().later(7.0);
        assert!((later.lasts - trace.lasts - 7.0).abs() < 1e-9);
        for (job, (then, now)) in trace.jobs.iter().zip(&later.jobs).enumerate() {
            assert!((now.due - then.due - 7.0).abs() < 1e-9);
            assert_eq!(later.comes_back(job, 0, now.due), trace.comes_back(job, 0, then.due));
        }
    }

    #[test]
    fn a_shortened_trace_keeps_its_rates() {
        let (whole, tenth) = (Trace::named("step", 1, 1.0).unwrap(), Trace::named("step", 1, 0.1).unwrap());
        let rate = |trace: &Trace| trace.jobs.len() as f64 / trace.lasts;
        assert!((tenth.lasts - whole.lasts / 10.0).abs() < 1e-6);
        assert!((rate(&tenth) / rate(&whole) - 1.0).abs() < 0.05, "{} and {}", rate(&tenth), rate(&whole));
    }
}
