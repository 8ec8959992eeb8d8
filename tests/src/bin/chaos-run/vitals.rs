//! What the processes of a fleet hold over time: memory, descriptors, threads, and children that nobody waited for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use roundsman_tests::proc::{Process, State};
use roundsman_tests::time;

use crate::report::Report;

const EVERY: Duration = Duration::from_secs(5);
/// A zombie in so many looks in a row is forgotten by its parent; one that is stopped may be so for less.
const FORGOTTEN: u32 = 5;
/// A slope over less than this is noise.
const LEAST: Duration = Duration::from_secs(20 * 60);
/// Bytes an hour that a process may grow by.
const GROWTH: f64 = 1024.0 * 1024.0;
/// Descriptors and threads come and go with connections.
const SLACK: f64 = 3.0;

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    bytes: u64,
    files: usize,
    threads: usize,
}

#[derive(Debug, Default)]
struct Seen {
    processes: BTreeMap<Process, (String, Vec<Sample>)>,
    /// In how many looks in a row each was a zombie.
    zombies: BTreeMap<Process, u32>,
    forgotten: Vec<String>,
}

impl Seen {
    fn look(&mut self, supervisor: Process) {
        let at = time::mono();
        let mut zombies = BTreeMap::new();
        let family = std::iter::once(supervisor).chain(supervisor.descendants());
        for process in family {
            if process.state() == Some(State::Zombie) {
                let looks = self.zombies.get(&process).copied().unwrap_or(0) + 1;
                if looks == FORGOTTEN {
                    self.forgotten.push(process.to_string());
                }
                zombies.insert(process, looks);
                continue;
            }
            let (Some(bytes), Some(files), Some(threads)) =
                (process.anonymous(), process.open_files(), process.threads())
            else {
                continue;
            };
            let sample = Sample { at, bytes, files, threads };
            let line = || process.command_line().unwrap_or_default();
            self.processes.entry(process).or_insert_with(|| (line(), Vec::new())).1.push(sample);
        }
        self.zombies = zombies;
    }
}

/// Looks every 5 s at whoever is the supervisor.
#[derive(Debug)]
pub(crate) struct Vitals {
    supervisor: Arc<Mutex<Process>>,
    seen: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Vitals {
    pub(crate) fn start(supervisor: Process) -> Self {
        let supervisor = Arc::new(Mutex::new(supervisor));
        let (seen, over): (Arc<Mutex<Seen>>, Arc<AtomicBool>) = Default::default();
        let thread = std::thread::spawn({
            let (supervisor, seen, over) = (supervisor.clone(), seen.clone(), over.clone());
            move || {
                while !over.load(Ordering::Relaxed) {
                    let now = *supervisor.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.lock().unwrap_or_else(PoisonError::into_inner).look(now);
                    std::thread::park_timeout(EVERY);
                }
            }
        });
        Self { supervisor, seen, over, thread: Some(thread) }
    }

    /// Another one serves now.
    pub(crate) fn follow(&self, supervisor: Process) {
        *self.supervisor.lock().unwrap_or_else(PoisonError::into_inner) = supervisor;
    }

    /// What was held between two moments by those that lived through most of the time; where that is long enough, flat.
    pub(crate) fn tell(mut self, from: Duration, until: Duration, report: &mut Report) {
        self.end();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let span = until.saturating_sub(from);
        for (process, (line, samples)) in &seen.processes {
            let samples: Vec<Sample> =
                samples.iter().copied().filter(|sample| (from..until).contains(&sample.at)).collect();
            let (Some(first), Some(last)) = (samples.first(), samples.last()) else { continue };
            if last.at.saturating_sub(first.at) < span.mul_f64(0.8) {
                continue;
            }
            let of = |what: fn(&Sample) -> f64| samples.iter().map(move |it| (it.at.as_secs_f64(), what(it)));
            let growth = slope(of(|it| it.bytes as f64)) * 3600.0;
            let all = |what: fn(&Sample) -> f64| thirds(&samples.iter().map(what).collect::<Vec<_>>());
            let files = all(|it| it.files as f64);
            let threads = all(|it| it.threads as f64);
            let name = name(line);
            report.figure(
                &format!("{name} ({})", process.pid),
                format!(
                    "{:.1} → {:.1} MiB ({:+.2} MiB/h), descriptors {} → {}, threads {} → {}",
                    first.bytes as f64 / GROWTH,
                    last.bytes as f64 / GROWTH,
                    growth / GROWTH,
                    files.0,
                    files.1,
                    threads.0,
                    threads.1
                ),
            );
            let long = span >= LEAST;
            report.demand(!long || growth <= GROWTH, || format!("{name} grows by {growth:.0} bytes an hour"));
            for (what, (before, after)) in [("descriptors", files), ("threads", threads)] {
                report.demand(!long || after <= before + SLACK, || {
                    format!("{name}: {what} {before} → {after}")
                });
            }
        }
        report.figure("processes seen", seen.processes.len());
        report
            .demand(seen.forgotten.is_empty(), || format!("nobody waited for {}", seen.forgotten.join("; ")));
    }

    fn end(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for Vitals {
    fn drop(&mut self) {
        self.end();
    }
}

/// What it is, by its command line.
fn name(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let program = words.first().and_then(|word| word.rsplit('/').next()).unwrap_or_default();
    let role = words.get(1).filter(|word| word.chars().all(char::is_alphanumeric));
    role.map_or_else(|| program.to_owned(), |role| format!("{program} {role}"))
}

/// By least squares.
fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = points.clone().count().max(1) as f64;
    let (x, y) = points.clone().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    let (x, y) = (x / count, y / count);
    let (above, below) = points.fold((0.0, 0.0), |(above, below), point| {
        (above + (point.0 - x) * (point.1 - y), below + (point.0 - x).powi(2))
    });
    if below > 0.0 { above / below } else { 0.0 }
}

/// The medians of the first and of the last third.
fn thirds(values: &[f64]) -> (f64, f64) {
    let median = |part: &[f64]| {
        let mut part = part.to_vec();
        part.sort_unstable_by(f64::total_cmp);
        part.get(part.len() / 2).copied().unwrap_or(0.0)
    };
    let third = values.len().div_ceil(3);
    let (first, last) = (values.get(..third), values.get(values.len() - third..));
    (median(first.unwrap_or_default()), median(last.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told_from_noise() {
        let noisy = (0..100).map(|n| (f64::from(n), 5.0 + f64::from(n % 2)));
        assert!(slope(noisy.clone()).abs() < 0.01, "{}", slope(noisy));
        let grows = (0..100).map(|n| (f64::from(n), 5.0 + f64::from(n % 2) + f64::from(n) * 2.0));
        assert!((slope(grows.clone()) - 2.0).abs() < 0.01, "{}", slope(grows));
        assert_eq!(thirds(&[1.0, 9.0, 1.0, 5.0, 5.0, 5.0, 4.0, 4.0, 0.0]), (1.0, 4.0));
    }
}
