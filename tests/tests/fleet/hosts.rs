//! Two hosts on one store: one that dies with all it has, one that is cut off, and one that was only away for a moment.
//! A host is a tree of its own with an id of its own; its network is a cable to the store.

use std::time::Duration;

use roundsman_tests::cable::Cable;
use roundsman_tests::proc::Process;
use roundsman_tests::time;
use roundsman_tests::tree::Up;
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::json;

use crate::rig::{Rig, SOON, Store, figure, log, outcomes};

const WORKERS: usize = 4;
/// Beyond the lease: what the other host may take to notice and to start.
const GENEROUS: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(3);

struct Hosts {
    rig: Rig,
    /// From the first host to the store.
    cable: Cable,
}

impl Hosts {
    fn new() -> Self {
        let rig = Rig::new(Store::Redis, "");
        let pool = rig.fixture_pool("default");
        rig.configure(&format!(
            "lease = \"{}s\"\n{pool}min_workers = {WORKERS}\nmax_workers = {WORKERS}\n",
            LEASE.as_secs()
        ));
        let cable = Cable::start(rig.redis().port()).unwrap();
        Self { rig, cable }
    }

    /// Two hosts, of which the first runs these jobs, each in a worker of its own and until there is its file.
    fn start(&self, jobs: &[Job]) -> (Up, Up, Vec<Process>) {
        let url = format!("redis://127.0.0.1:{}", self.cable.port());
        let first = self.rig.up_with(WORKERS, &["--host-id", "first", "--store", &url]);
        self.rig.wait_idle(&first, WORKERS);
        for (id, file) in jobs {
            self.rig.enqueue(id, "until", &json!({"file": file}).to_string());
        }
        let started = jobs.iter().map(|(id, _)| self.rig.wait_start(&first, id, 1, SOON).process).collect();
        let second = self.rig.up_with(2 * WORKERS, &["--host-id", "second"]);
        self.rig.wait_idle(&second, WORKERS);
        (first, second, started)
    }

    /// Ends the jobs that wait for this file.
    fn end(&self, file: &str) {
        std::fs::write(self.rig.folder().join(file), "").unwrap();
    }

    /// The jobs' second starts, which the second host makes.
    fn wait_second_starts(&self, second: &Up, jobs: &[Job]) -> Vec<u64> {
        let workers: Vec<Process> =
            second.workers().unwrap().into_iter().map(|(_, process)| process).collect();
        let starts = jobs.iter().map(|(id, _)| {
            let start = self.rig.wait_start(second, id, 2, SOON);
            assert!(workers.contains(&start.process), "{start:?} is not of the second host: {workers:?}");
            start.mono_us
        });
        starts.collect()
    }
}

/// An id, and the file that ends it.
type Job = (String, &'static str);

fn jobs(file: &'static str) -> Vec<Job> {
    (0..WORKERS).map(|n| (format!("job{n}"), file)).collect()
}

/// Lets so much time pass: it is what is tried, and nothing is waited for.
fn pass(span: Duration) {
    let over = time::mono() + span;
    wait_for(
        "the time to pass",
        SOON,
        || if time::mono() >= over { Ok(()) } else { Err("not yet".to_owned()) },
    )
    .unwrap();
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1_000.0
}

#[test]
fn a_killed_hosts_jobs_run_on_the_other_when_its_lease_lapses() {
    let hosts = Hosts::new();
    let jobs = jobs("over");
    let (first, second, _) = hosts.start(&jobs);
    let tree = first.alive();
    // All of it at once, as by a plug that is pulled: who is stopped sees nobody die.
    for process in &tree {
        process.signal(Signal::STOP).unwrap();
    }
    let killed = time::mono_us();
    for process in &tree {
        process.signal(Signal::KILL).unwrap();
    }
    let starts = hosts.wait_second_starts(&second, &jobs);
    let longest = starts.iter().map(|start| start - killed).max().unwrap();
    hosts.end("over");
    figure(&format!("host killed → its {WORKERS} jobs run on the other: {:.0} ms at most", ms(longest)));
    for (id, _) in &jobs {
        let job = hosts.rig.wait_state(&second, id, "done");
        assert_eq!((outcomes(&job), &job["crashes"]), (vec!["lapsed", "done"], &json!(0)), "{job}");
        assert_eq!((hosts.rig.starts(id).len(), hosts.rig.ends(id)), (2, 1), "{job}");
    }
    assert!(Duration::from_micros(longest) < LEASE + GENEROUS, "{longest} µs");
    wait_for("status to know one host", SOON, || {
        let hosts = second.status().map_err(|error| error.to_string())?.hosts;
        if hosts.len() == 1 && hosts[0].host == "second" { Ok(()) } else { Err(format!("{hosts:?}")) }
    })
    .unwrap();
}

#[test]
fn a_host_that_is_cut_off_stops_its_jobs_before_another_starts_them() {
    let hosts = Hosts::new();
    // The last one ends while nobody can be told; it was not told, so it runs again.
    let jobs: Vec<Job> =
        jobs("over").into_iter().take(WORKERS - 1).chain([("short".to_owned(), "cut")]).collect();
    let (first, second, holders) = hosts.start(&jobs);
    hosts.cable.cut();
    let cut = time::mono_us();
    hosts.end("cut");
    // When each of them was seen to be gone, while the other host takes over.
    let (gone, starts) = std::thread::scope(|scope| {
        let watched = scope.spawn(|| {
            let mut gone = vec![None; holders.len()];
            let all = wait_for("the cut-off workers to leave", SOON, || {
                for (holder, at) in holders.iter().zip(&mut gone) {
                    if at.is_none() && !holder.is_alive() {
                        *at = Some(time::mono_us());
                    }
                }
                if gone.iter().all(Option::is_some) { Ok(()) } else { Err(format!("{gone:?}")) }
            });
            all.unwrap_or_else(|late| panic!("{late}\n{}", log(&first)));
            gone
        });
        let starts = hosts.wait_second_starts(&second, &jobs);
        (watched.join().unwrap(), starts)
    });
    for (((id, _), start), gone) in jobs.iter().zip(&starts).zip(&gone) {
        let gone = gone.unwrap();
        assert!(
            gone <= *start,
            "{id} ran twice at once: gone {gone}, started again {start}\n{}",
            log(&first)
        );
    }
    let longest = starts.iter().map(|start| start - cut).max().unwrap();
    let left = gone.iter().flatten().map(|at| at - cut).max().unwrap();
    figure(&format!(
        "host cut off → its last worker has left: {:.0} ms; its {WORKERS} jobs run on the other: {:.0} ms at most",
        ms(left),
        ms(longest)
    ));
    assert!(Duration::from_micros(longest) < LEASE + GENEROUS, "{longest} µs");
    hosts.end("over");
    hosts.cable.mend();
    for (id, _) in &jobs {
        let job = hosts.rig.wait_state(&second, id, "done");
        assert_eq!((outcomes(&job), &job["crashes"]), (vec!["lapsed", "done"], &json!(0)), "{job}");
    }
    // It serves again by itself.
    hosts.rig.wait_idle(&first, 2 * WORKERS);
    assert!(first.supervisor().is_alive());
}

#[test]
fn a_host_that_is_paused_for_two_seconds_keeps_its_jobs() {
    let hosts = Hosts::new();
    let jobs = jobs("over");
    let (first, second, _) = hosts.start(&jobs);
    let tree = first.alive();
    for process in &tree {
        process.signal(Signal::STOP).unwrap();
    }
    pass(Duration::from_secs(2));
    for process in &tree {
        process.signal(Signal::CONT).unwrap();
    }
    // A lease that was not renewed again would lapse meanwhile.
    pass(LEASE + Duration::from_secs(1));
    hosts.end("over");
    for (id, _) in &jobs {
        let job = hosts.rig.wait_state(&second, id, "done");
        assert_eq!((outcomes(&job), hosts.rig.starts(id).len()), (vec!["done"], 1), "{job}\n{}", log(&first));
    }
    assert_eq!(second.status().unwrap().hosts.len(), 2);
}
