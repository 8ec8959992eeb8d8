//! Masters and supervisors that die.

use std::time::Duration;

use roundsman_tests::proc::Process;
use roundsman_tests::redis_server::RedisServer;
use roundsman_tests::time;
use roundsman_tests::tree::Up;
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::json;

use crate::rig::{Rig, SOON, Store, figure, log, on_both, outcomes, wait_gone};

/// The master as the process tree shows it.
fn master_process(up: &Up) -> Option<Process> {
    let is_master =
        |it: &&Process| it.is_alive() && it.command_line().is_some_and(|line| line.contains(" master"));
    up.supervisor().children().iter().find(is_master).copied()
}

/// Waits until the store knows that the job has started: that is what a master goes by that did not see a worker's end.
fn wait_marked(rig: &Rig, up: &Up, id: &str) {
    rig.wait_job(up, id, SOON, |job| job["attempts"][0]["started"].is_i64());
}

fn a_killed_master_is_replaced_and_nothing_is_lost(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 2\nmax_workers = 4\n", "");
    let up = rig.up(2);
    rig.wait_idle(&up, 2);
    let mut appeared = Vec::new();
    let mut served = Vec::new();
    for round in 0..10 {
        let (running, waiting) = (format!("running{round}"), format!("waiting{round}"));
        rig.enqueue(&running, "sleep", r#"{"ms":1000}"#);
        let start = rig.wait_start(&up, &running, 1, SOON);
        let orphans: Vec<Process> = up.workers().unwrap().into_iter().map(|(_, process)| process).collect();
        assert!(orphans.contains(&start.process), "{orphans:?}");
        let old = master_process(&up).unwrap();
        let killed = time::mono_us();
        old.signal(Signal::KILL).unwrap();
        wait_for("another master", SOON, || match master_process(&up) {
            Some(new) if new != old => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
        appeared.push(time::mono_us() - killed);
        rig.enqueue(&waiting, "echo", "null");
        served.push(rig.wait_start(&up, &waiting, 1, SOON).mono_us - killed);

        // The orphan finishes what it runs, once, and leaves; the others leave at once.
        let job = rig.wait_state(&up, &running, "done");
        assert_eq!(
            (outcomes(&job), rig.starts(&running).len(), rig.ends(&running)),
            (vec!["done"], 1, 1),
            "{job}"
        );
        wait_for("the orphans to leave", SOON, || {
            let alive: Vec<String> =
                orphans.iter().filter(|it| it.is_alive()).map(ToString::to_string).collect();
            if alive.is_empty() { Ok(()) } else { Err(alive.join("; ")) }
        })
        .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
        rig.wait_state(&up, &waiting, "done");
        rig.wait_idle(&up, 2);
    }
    let ms = |micros: &[u64]| micros.iter().map(|it| (it / 1_000).to_string()).collect::<Vec<_>>().join(", ");
    figure(&format!(
        "master killed → another master: {} ms; → a new job runs (enqueue included): {} ms",
        ms(&appeared),
        ms(&served)
    ));
    assert!(appeared.iter().all(|it| *it < 3_000_000), "{appeared:?}");
    assert!(served.iter().all(|it| *it < 10_000_000), "{served:?}");
}

/// What a job leaves in its worker's group goes with the worker, whoever is left to see to it.
fn what_an_orphan_leaves_behind_is_ended(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 1\nmax_workers = 1\n", "");
    let up = rig.up(1);
    let litter = |id: &str| {
        rig.wait_idle(&up, 1);
        rig.enqueue(id, "litter", "{}");
        let job = rig.wait_state(&up, id, "done");
        let left = u32::try_from(job["result"].as_u64().unwrap()).unwrap();
        (rig.starts(id)[0].process, Process::of(left).unwrap())
    };
    let end_master = || master_process(&up).unwrap().signal(Signal::KILL).unwrap();
    let gone = |what: &str, left: Process| {
        wait_for(what, SOON, || if left.is_alive() { Err(left.to_string()) } else { Ok(()) })
            .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    };
    // The worker leaves in order.
    let (_, left) = litter("first");
    end_master();
    gone("what the first left", left);
    // It is killed, and its supervisor takes it in.
    let (worker, left) = litter("second");
    worker.signal(Signal::STOP).unwrap();
    end_master();
    worker.signal(Signal::KILL).unwrap();
    gone("what the second left", left);
    // There is no supervisor either.
    let (_, left) = litter("third");
    up.supervisor().signal(Signal::STOP).unwrap();
    end_master();
    up.supervisor().signal(Signal::KILL).unwrap();
    gone("what the third left", left);
}

fn a_worker_that_dies_with_its_master_gives_its_job_back(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 1\nmax_workers = 2\n", "");
    let up = rig.up(1);
    rig.wait_idle(&up, 1);
    rig.enqueue("a", "sleep", r#"{"ms":3000}"#);
    let first = rig.wait_start(&up, "a", 1, SOON);
    wait_marked(&rig, &up, "a");
    let killed = time::mono_us();
    master_process(&up).unwrap().signal(Signal::KILL).unwrap();
    first.process.signal(Signal::KILL).unwrap();
    let second = rig.wait_start(&up, "a", 2, SOON);
    figure(&format!(
        "worker and master killed together → the job runs again: {} ms",
        (second.mono_us - killed) / 1_000
    ));
    let job = rig.wait_state(&up, "a", "done");
    assert_eq!(outcomes(&job), ["killed", "done"], "{job}");
}

/// The command that such a worker had started is not its child any more, nor anybody's who would end it.
fn a_command_whose_worker_died_with_the_master_is_ended_first(store: Store) {
    let rig = Rig::new(store, "");
    rig.script("script.sh", "#!/bin/sh\necho $$ >> pids\nsleep 60\n");
    let up = rig.up_with(0, &["--", "./script.sh"]);
    rig.ok(&["enqueue", "default", "--id", "a"]);
    let pids = || -> Vec<u32> {
        let text = std::fs::read_to_string(rig.site.work().join("pids")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    let first =
        wait_for("the command", SOON, || pids().first().copied().ok_or_else(|| "none".to_owned())).unwrap();
    let first = Process::of(first).unwrap();
    wait_marked(&rig, &up, "a");
    let workers = wait_for("the worker in the registry", SOON, || {
        let workers = up.workers().map_err(|error| error.to_string())?;
        if workers.is_empty() { Err(log(&up)) } else { Ok(workers) }
    });
    let (master, workers) = (master_process(&up).unwrap(), workers.unwrap());
    master.signal(Signal::KILL).unwrap();
    for (_, worker) in &workers {
        worker.signal(Signal::KILL).unwrap();
    }
    let begun = wait_for("the command to run again", SOON, || {
        if pids().len() > 1 { Ok(first.is_alive()) } else { Err(rig.job("a").to_string()) }
    });
    assert!(!begun.unwrap_or_else(|late| panic!("{late}\n{}", log(&up))), "both ran at once\n{}", log(&up));
}

fn nothing_outlives_a_killed_supervisor_by_more_than_its_jobs(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 2\nmax_workers = 3\n", "");
    let up = rig.up(2);
    rig.wait_idle(&up, 2);
    rig.enqueue("running", "sleep", r#"{"ms":1500}"#);
    rig.wait_start(&up, "running", 1, SOON);
    rig.enqueue("scheduled", "echo", "null");
    rig.wait_state(&up, "scheduled", "done");
    assert!(up.alive().len() >= 4, "{:?}", up.alive());
    let killed = time::mono_us();
    up.supervisor().signal(Signal::KILL).unwrap();
    wait_gone(&up, SOON);
    figure(&format!(
        "supervisor killed with a job of 1.5 s → nobody left: {} ms",
        (time::mono_us() - killed) / 1_000
    ));
    let job = rig.job("running");
    assert_eq!(
        (job["state"].as_str(), rig.starts("running").len()),
        (Some("done"), 1),
        "{job}\n{}",
        log(&up)
    );

    rig.enqueue("next", "echo", "null");
    let again = rig.up(1);
    rig.wait_state(&again, "next", "done");
    again.signal(Signal::TERM).unwrap();
    assert_eq!(again.wait_exit(SOON).unwrap().code(), Some(0), "{}", log(&again));
    wait_gone(&again, Duration::from_secs(1));
}

fn a_whole_tree_that_is_killed_at_once_is_taken_up_by_the_next(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 2\nmax_workers = 3\n", "");
    let up = rig.up(2);
    rig.wait_idle(&up, 2);
    rig.enqueue("running", "sleep", r#"{"ms":4000}"#);
    rig.wait_start(&up, "running", 1, SOON);
    wait_marked(&rig, &up, "running");
    rig.enqueue("timer", "echo", "null");
    up.supervisor().signal(Signal::KILL).unwrap();
    for process in up.alive() {
        // Some leave by themselves between the look and the signal.
        let _ = process.signal(Signal::KILL);
    }
    wait_gone(&up, SOON);
    let again = rig.up(1);
    let job = rig.wait_state(&again, "running", "done");
    assert_eq!(outcomes(&job), ["killed", "done"], "{job}");
    rig.wait_state(&again, "timer", "done");
}

/// As the jobs of its workers are: a short lease is short for all of it.
fn a_host_that_died_is_not_shown_longer_than_its_lease(store: Store) {
    let rig = Rig::new(store, "");
    let url = rig.server.as_ref().map_or_else(|| "sqlite:jobs.db".to_owned(), RedisServer::url);
    rig.site.configure(&format!("[store]\nurl = \"{url}\"\nlease = \"3s\"\n")).unwrap();
    let up = rig.up(0);
    // Renewed in time while it lives.
    let until = time::mono_us() + 5_000_000;
    while time::mono_us() < until {
        assert_eq!(rig.json(&["status"])["hosts"].as_array().unwrap().len(), 1, "{}", log(&up));
    }
    for process in up.alive() {
        let _ = process.signal(Signal::KILL);
    }
    wait_for("the host to be forgotten", Duration::from_secs(7), || {
        let status = rig.json(&["status"]);
        if status["hosts"] == json!([]) { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap();
}

on_both!(
    a_host_that_died_is_not_shown_longer_than_its_lease,
    a_killed_master_is_replaced_and_nothing_is_lost,
    what_an_orphan_leaves_behind_is_ended,
    a_worker_that_dies_with_its_master_gives_its_job_back,
    a_command_whose_worker_died_with_the_master_is_ended_first,
    nothing_outlives_a_killed_supervisor_by_more_than_its_jobs,
    a_whole_tree_that_is_killed_at_once_is_taken_up_by_the_next
);
