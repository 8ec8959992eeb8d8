//! Jobs and workers that are to end, and what stands in their way.

use std::fmt::Write as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use roundsman_tests::proc::Process;
use roundsman_tests::redis_server::RedisServer;
use roundsman_tests::spawn;
use roundsman_tests::time;
use roundsman_tests::tree::built;
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::json;

use crate::rig::{Rig, SOON, Store, figure, log, on_both, outcomes};

/// Answers each job after the payload's `ms`, by a thread a job.
const PROGRAM: &str = r#"#!/usr/bin/env python3
import json, sys, threading, time

def answer(line):
    job = json.loads(line)
    time.sleep(job["payload"]["ms"] / 1000)
    print(json.dumps({"id": job["id"], "ok": True, "result": job["attempt"]}), flush=True)

for line in sys.stdin:
    threading.Thread(target=answer, args=(line,), daemon=True).start()
"#;

/// A program with four jobs of which one is over its timeout, again and again, and more jobs for the slots that become
/// free when it is killed for it.
fn the_neighbours_of_a_job_over_its_timeout_are_not_charged(store: Store) {
    let settings = "[pools.default]\nhandler = { type = \"stream\", command = [\"./app.py\"] }\nslots = 4\nmax_workers = 1\n\
                    [queues.default]\nbackoff = { type = \"fixed\", delay = \"100ms\" }\n";
    let rig = Rig::new(store, settings);
    rig.script("app.py", PROGRAM);
    let up = rig.up(0);
    let mut lines =
        String::from("{\"id\":\"over\",\"payload\":{\"ms\":60000},\"timeout\":\"1s\",\"max_attempts\":3}\n");
    let others: Vec<String> = (0..12).map(|n| format!("j{n}")).collect();
    for id in &others {
        let _ = writeln!(lines, r#"{{"id":"{id}","payload":{{"ms":700}}}}"#);
    }
    let sent = rig.site.cli_with_input(&["enqueue", "default", "--ndjson"], &lines).unwrap();
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let over = rig.wait_state(&up, "over", "dead");
    assert_eq!(outcomes(&over), ["timed_out"; 3], "{over}");
    for id in &others {
        let job = rig.wait_state(&up, id, "done");
        assert_eq!((&job["crashes"], &job["attempt"]), (&json!(0), &json!(1)), "{job}\n{}", log(&up));
    }
}

fn a_cancelled_job_that_does_not_listen_stays_cancelled(store: Store) {
    let settings = "[queues.default]\nbackoff = { type = \"fixed\", delay = \"100ms\" }\n";
    let rig = Rig::with_fixture(store, "min_workers = 1\nmax_workers = 1\n", settings);
    let up = rig.up(1);
    rig.wait_idle(&up, 1);
    rig.ok(&["enqueue", "default", r#"{"ms":60000}"#, "--id", "a", "--kind", "stubborn", "--timeout", "3s"]);
    let worker = rig.wait_start(&up, "a", 1, SOON).process;
    rig.ok(&["job", "cancel", "a"]);
    let job = rig.wait_job(&up, "a", SOON, |job| job["state"] != "running");
    assert_eq!(
        (&job["state"], outcomes(&job)),
        (&json!("cancelled"), vec!["cancelled"]),
        "{job}\n{}",
        log(&up)
    );
    wait_for("its process to be gone", SOON, || {
        if worker.is_alive() { Err(worker.to_string()) } else { Ok(()) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    // Another one takes its place.
    rig.enqueue("next", "echo", "null");
    assert_eq!(outcomes(&rig.wait_state(&up, "next", "done")), ["done"]);
    assert_eq!((rig.job("a")["state"].as_str(), rig.starts("a").len()), (Some("cancelled"), 1));
}

on_both!(
    the_neighbours_of_a_job_over_its_timeout_are_not_charged,
    a_cancelled_job_that_does_not_listen_stays_cancelled
);

/// A worker that somebody started in a terminal.
fn by_hand(rig: &Rig) -> (Child, Process) {
    let mut command = spawn::bound_command(built("fixture-handler").unwrap());
    command.arg(rig.folder()).current_dir(rig.site.work()).stdin(Stdio::null());
    command.env_clear().env("HOME", rig.site.work());
    let worker = spawn::start(command).unwrap();
    let process = Process::of(worker.id()).unwrap();
    (worker, process)
}

/// Waits for its end, which must be soon and clean.
#[track_caller]
fn leaves(mut worker: Child) {
    let asked = time::mono_us();
    let gone = wait_for("the worker to leave", Duration::from_secs(3), || {
        worker.try_wait().unwrap().ok_or_else(|| worker.id().to_string())
    });
    if gone.is_err() {
        let _ = worker.kill();
        let _ = worker.wait();
    }
    assert_eq!(gone.unwrap().code(), Some(0));
    figure(&format!("signal to a worker without its store → exit: {} ms", (time::mono_us() - asked) / 1_000));
}

fn kill_store(rig: &mut Rig) {
    rig.server.as_mut().map(RedisServer::kill).transpose().unwrap();
}

#[test]
fn a_worker_started_by_hand_can_be_stopped_while_it_waits_for_the_store() {
    let mut rig = Rig::with_fixture(Store::Redis, "", "");
    kill_store(&mut rig);
    for signal in [Signal::TERM, Signal::INT] {
        let (worker, process) = by_hand(&rig);
        wait_for("the worker to heed signals", SOON, || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap();
            let bit = 1_u64 << (signal.as_raw() - 1);
            if u64::from_str_radix(caught, 16).unwrap() & bit == 0 { Err(caught.to_owned()) } else { Ok(()) }
        })
        .unwrap();
        process.signal(signal).unwrap();
        leaves(worker);
    }
}

#[test]
fn a_worker_that_runs_nothing_leaves_though_its_last_pull_was_lost() {
    let mut rig = Rig::with_fixture(Store::Redis, "", "");
    rig.enqueue("a", "echo", "null");
    // It polls: the next pull after the store's end is lost.
    let (worker, process) = by_hand(&rig);
    wait_for("the job to be done", SOON, || {
        let job = rig.job("a");
        if job["state"] == "done" { Ok(()) } else { Err(job.to_string()) }
    })
    .unwrap();
    kill_store(&mut rig);
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(process.is_alive());
    process.signal(Signal::TERM).unwrap();
    leaves(worker);
}
