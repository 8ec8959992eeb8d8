//! The engine held against queueing theory, and against faults whose outcome is known.

use super::*;
use crate::simulate::{Arrival, Span};

/// So many workers, always.
struct Fixed(u32);

impl Controller for Fixed {
    fn style(&self) -> Style {
        Style {
            idle_for: Some(0.0),
            thins_at_looks: false,
            surges: true,
            told_up_to: Some(usize::MAX),
            last_first: false,
        }
    }

    fn pause(&self, _: usize) -> f64 {
        10.0
    }

    fn decide(&mut self, _: &View<'_>) -> u32 {
        self.0
    }
}

const SETTING: Setting =
    Setting { target_wait: 5.0, min_workers: 0, max_workers: 64, slots: 1, boot: 1.0, cores: 8 };

fn trace(jobs: impl IntoIterator<Item = (f64, f64)>, faults: Vec<Fault>) -> Trace {
    let arrival = |(due, service)| Arrival { due, service, is_timer: false };
    let jobs: Vec<Arrival> = jobs.into_iter().map(arrival).collect();
    let lasts = jobs.last().map_or(0.0, |job| job.due);
    Trace { name: "test", seed: 1, jobs, faults, lasts }
}

/// The waits in an M/M/1 queue of load 0.8 are known: P(W > t) = 0.8 e^(-0.2 t), in units of the service time.
#[test]
fn waits_are_those_of_queueing_theory() {
    let mut random = Random::new(11);
    let mut at = 0.0;
    let jobs: Vec<(f64, f64)> = (0..400_000)
        .map(|_| {
            at += random.exponential(1.25);
            (at, random.exponential(1.0))
        })
        .collect();
    let (figures, _) = run(&trace(jobs, vec![]), &SETTING, &mut Fixed(1), 1);
    assert_eq!(figures.jobs, 400_000);
    for (seen, known) in [(figures.wait_p50, 1.6_f64.ln() / 0.2), (figures.wait_p99, 80.0_f64.ln() / 0.2)] {
        assert!((seen / known - 1.0).abs() < 0.06, "{seen} instead of {known}");
    }
    assert!((figures.cost - 1.25).abs() < 0.02, "{}", figures.cost);
}

#[test]
fn what_fails_comes_back_and_what_dies_runs_again() {
    let all = Span { from: 0.0, to: 1e9 };
    let jobs = || (0..200).map(|n| (f64::from(n), 0.5));
    let failing = trace(jobs(), vec![Fault::Failing { span: all, share: 1.0 }]);
    let (figures, _) = run(&failing, &SETTING, &mut Fixed(8), 1);
    assert_eq!(figures.jobs, 200 * 5, "each once, and four times again");
    let crashing = trace(jobs(), vec![Fault::Crashing { span: all, boots: 0.3, lives: 2.0 }]);
    let (figures, _) = run(&crashing, &SETTING, &mut Fixed(8), 1);
    assert_eq!(figures.jobs, 200, "a job that runs again has waited once");
    assert!(figures.starts > 30, "{figures:?}");
}

#[test]
fn a_new_build_takes_over_with_nobody_waiting() {
    let jobs = (0..2000).map(|n| (f64::from(n) * 0.1, 0.5));
    let (figures, samples) = run(&trace(jobs, vec![Fault::Deploy { at: 100.0 }]), &SETTING, &mut Fixed(8), 1);
    assert_eq!(figures.starts, 16, "each of eight is replaced");
    assert!(figures.most <= 12, "a quarter more, and those who finish what they run: {}", figures.most);
    let late =
        samples.iter().filter(|sample| sample.at > 10.0).map(|sample| sample.oldest).fold(0.0, f64::max);
    assert!(late < 0.1, "{late}");
}
