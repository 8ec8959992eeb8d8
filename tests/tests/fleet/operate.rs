//! Operating a running fleet: cancel, pause, priorities, live settings.

use roundsman_tests::history::Event;
use roundsman_tests::time;
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::json;

use crate::rig::{Rig, SOON, Store, figure, log, on_both, outcomes};

fn a_running_job_is_cancelled_within_a_second(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 1\nmax_workers = 1\n", "");
    let up = rig.up(1);
    rig.wait_idle(&up, 1);
    let mut took = Vec::new();
    for round in 0..5 {
        let id = format!("j{round}");
        rig.enqueue(&id, "sleep", r#"{"ms":60000}"#);
        rig.wait_start(&up, &id, 1, SOON);
        rig.ok(&["job", "cancel", &id]);
        let told = time::mono_us();
        let job = rig.wait_job(&up, &id, SOON, |job| job["state"] == "cancelled");
        took.push(time::mono_us() - told);
        assert_eq!(outcomes(&job), ["cancelled"], "{job}");
        assert_eq!(rig.ends(&id), 0);
    }
    let longest = took.iter().max().copied().unwrap();
    figure(&format!("cancel → stopped, the look at it included: longest of 5 {} ms", longest / 1_000));
    // Without a word to its worker, the next renewal would tell: after up to 5 s.
    assert!(longest < 3_000_000, "{took:?}");
    // The worker itself goes on.
    rig.enqueue("next", "echo", "null");
    rig.wait_state(&up, "next", "done");
}

fn a_cancelled_command_is_ended_with_what_it_started(store: Store) {
    let rig = Rig::new(store, "");
    rig.script("script.sh", "#!/bin/sh\nsleep 600 &\necho $! > child\nwait\n");
    let up = rig.up_with(0, &["--", "./script.sh"]);
    rig.ok(&["enqueue", "default", "--id", "a"]);
    let file = rig.site.work().join("child");
    let child = wait_for("the script's child", SOON, || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let pid = text.trim().parse().ok().and_then(roundsman_tests::proc::Process::of);
        pid.ok_or(text)
    });
    let child = child.unwrap();
    rig.ok(&["job", "cancel", "a"]);
    rig.wait_job(&up, "a", SOON, |job| job["state"] == "cancelled");
    wait_for("the script's child to end", SOON, || {
        if child.is_alive() { Err(child.to_string()) } else { Ok(()) }
    })
    .unwrap();
}

fn a_paused_queue_waits_and_priorities_count(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 1\nmax_workers = 1\n", "");
    let up = rig.up(1);
    rig.wait_idle(&up, 1);
    rig.ok(&["queue", "pause", "default"]);
    for (id, priority) in [("low", "-5"), ("first", "0"), ("second", "0"), ("high", "9")] {
        rig.ok(&["enqueue", "default", "--id", id, "--kind", "echo", "--priority", priority]);
    }
    // Another queue's job, in the same fleet, shows that time has passed.
    rig.wait_idle(&up, 1);
    assert!(rig.history().is_empty());
    for id in ["low", "first", "second", "high"] {
        assert_eq!(rig.job(id)["state"], "ready");
    }
    rig.ok(&["queue", "resume", "default"]);
    rig.wait_state(&up, "low", "done");
    let order: Vec<String> = rig
        .history()
        .into_iter()
        .filter_map(|record| match record.event {
            Event::Start { id, .. } => Some(id),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["high", "first", "second", "low"]);
}

fn live_settings_reach_workers_that_run(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 1\nmax_workers = 1\n", "");
    let up = rig.up(1);
    rig.wait_idle(&up, 1);
    let worker = up.workers().unwrap()[0].1;
    // By default this one would be tried 25 times.
    rig.enqueue("before", "panic", "null");
    let before = rig.wait_job(&up, "before", SOON, |job| job["attempt"] == 1 && job["state"] != "running");
    assert_eq!(before["state"], "scheduled", "{before}");
    rig.ok(&["queue", "set", "default", "max_attempts", "1"]);
    // The change travels by itself: an enqueue may be faster, a few are not.
    let seen = wait_for("the new max_attempts to count", SOON, || {
        let id = format!("after-{}", time::mono_us());
        rig.enqueue(&id, "panic", "null");
        let job = rig.wait_job(&up, &id, SOON, |job| job["attempt"] == 1 && job["state"] != "running");
        if job["state"] == "dead" { Ok(job) } else { Err(job.to_string()) }
    });
    assert_eq!(seen.unwrap()["attempts"][0]["outcome"], json!("retry"));

    rig.ok(&["queue", "set", "default", "timeout", "1s"]);
    let seen = wait_for("the new timeout to count", SOON, || {
        let id = format!("slow-{}", time::mono_us());
        rig.enqueue(&id, "sleep", r#"{"ms":2500}"#);
        let job = rig.wait_job(&up, &id, SOON, |job| job["state"] == "dead" || job["state"] == "done");
        if job["state"] == "dead" { Ok(job) } else { Err(job.to_string()) }
    });
    assert_eq!(seen.unwrap()["attempts"][0]["outcome"], json!("timed_out"));
    assert!(worker.is_alive(), "no worker was replaced for it");
}

/// TTIN and TTOU move every pool's number of workers by one, within what the pool may have.
fn workers_are_added_and_taken_by_signals(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 1\nmax_workers = 3\n", "");
    let up = rig.up(1);
    rig.wait_idle(&up, 1);
    let pool = || rig.json(&["status"])["hosts"][0]["pools"][0].clone();
    let wait = |workers: usize, words: &str| {
        let found = wait_for(&format!("{workers} workers"), SOON, || {
            let pool = pool();
            let right = pool["workers"].as_array().is_some_and(|all| all.len() == workers)
                && pool["desired"] == workers
                && pool["why"].as_str().is_some_and(|why| why.ends_with(words));
            if right { Ok(()) } else { Err(pool.to_string()) }
        });
        found.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    };
    up.signal(Signal::TTIN).unwrap();
    wait(2, "; 1 more than that by SIGTTIN");
    up.signal(Signal::TTIN).unwrap();
    wait(3, "; 2 more than that by SIGTTIN");
    // More than there may be is refused, and not remembered.
    up.signal(Signal::TTIN).unwrap();
    wait_for("the refusal", SOON, || {
        let text = up.stderr();
        let refused =
            text.lines().any(|line| line.contains("told to have more") && line.contains("\"changed\":false"));
        if refused { Ok(()) } else { Err(log(&up)) }
    })
    .unwrap();
    // A busy one is not taken, and what runs goes on.
    rig.enqueue("long", "sleep", r#"{"ms":2000}"#);
    rig.wait_start(&up, "long", 1, SOON);
    up.signal(Signal::TTOU).unwrap();
    wait(2, "; 1 more than that by SIGTTIN");
    let job = rig.wait_state(&up, "long", "done");
    assert_eq!(outcomes(&job), ["done"], "{job}");
    // It is the master's, and ends with it.
    let master = up.master().unwrap().unwrap();
    master.signal(Signal::KILL).unwrap();
    let words = || pool()["why"].as_str().unwrap_or_default().to_owned();
    wait_for("a new master", SOON, || {
        let anew = up.master().ok().flatten().is_some_and(|it| it != master);
        if anew && !words().contains("SIGTTIN") { Ok(()) } else { Err(words()) }
    })
    .unwrap();
}

/// QUIT tells of every pool and worker before the fleet stops.
fn the_state_is_written_down_on_quit(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 2\nmax_workers = 2\n", "");
    let up = rig.up(2);
    rig.wait_idle(&up, 2);
    rig.enqueue("long", "sleep", r#"{"ms":1500}"#);
    let start = rig.wait_start(&up, "long", 1, SOON);
    // As its beats say.
    wait_for("the job to be shown", SOON, || {
        let status = rig.json(&["status"]).to_string();
        if status.contains("\"long\"") { Ok(()) } else { Err(status) }
    })
    .unwrap();
    up.signal(Signal::QUIT).unwrap();
    assert_eq!(up.wait_exit(SOON).unwrap().code(), Some(0), "{}", log(&up));
    let text = up.stderr();
    let runs = format!("pid {}, busy, runs 1: default/long (attempt 1, ", start.process.pid);
    for phrase in [
        "state: serving; master ",
        "state of pool default: 2 workers, 2 wanted of at most 2 (",
        &runs,
        "idle, runs 0; ",
    ] {
        assert!(text.contains(phrase), "no {phrase:?} in {}", log(&up));
    }
    assert_eq!(text.matches("state of worker default/").count(), 2, "{}", log(&up));
}

/// Nobody pulls from a paused queue, and what has expired there makes room all the same.
fn jobs_of_a_paused_queue_expire(store: Store) {
    let rig = Rig::new(store, "[queues.default]\nmax_waiting = 2\n");
    let up = rig.up(0);
    rig.ok(&["queue", "pause", "default"]);
    rig.ok(&["enqueue", "default", "--id", "short", "--expires-in", "500ms"]);
    rig.ok(&["enqueue", "default", "--id", "long", "--expires-in", "1h"]);
    assert_eq!(rig.run(&["enqueue", "default", "--id", "next"]).code, Some(75));
    let job = rig.wait_state(&up, "short", "expired");
    assert_eq!((&job["attempts"], &job["error"]), (&json!([]), &json!(null)), "{job}");
    rig.ok(&["enqueue", "default", "--id", "next"]);
    assert_eq!(rig.job("long")["state"], "ready");
}

on_both!(
    jobs_of_a_paused_queue_expire,
    workers_are_added_and_taken_by_signals,
    the_state_is_written_down_on_quit,
    a_running_job_is_cancelled_within_a_second,
    a_cancelled_command_is_ended_with_what_it_started,
    a_paused_queue_waits_and_priorities_count,
    live_settings_reach_workers_that_run
);
