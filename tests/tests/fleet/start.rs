//! The first minutes with the product: what README says under "Start".

use std::process::Stdio;
use std::time::Duration;

use roundsman_tests::proc::Process;
use roundsman_tests::wait::wait_for;
use roundsman_tests::{spawn, time};
use rustix::process::Signal;
use serde_json::json;

use crate::rig::{Rig, SOON, Store, figure, log, on_both, wait_gone};

fn a_first_job_is_printed_when_it_is_due(store: Store) {
    let rig = Rig::new(store, "");
    let up = rig.up(0);
    let before = time::wall_ms();
    let asked = time::mono_us();
    let id = rig.ok(&["enqueue", "default", r#"{"hello":  "world"}"#, "--in", "2s"]);
    let line = wait_for("the payload on the output of up", SOON, || {
        let text = up.stdout();
        if text.is_empty() { Err(format!("{}\n{}", rig.job(&id), log(&up))) } else { Ok(text) }
    });
    let shown = time::mono_us();
    assert_eq!(line.unwrap(), "{\"hello\":\"world\"}\n");
    assert!(shown - asked >= 2_000_000, "shown after {} µs", shown - asked);

    let job = rig.wait_state(&up, &id, "done");
    let due = job["due"].as_i64().unwrap();
    let attempt = &job["attempts"][0];
    let started = attempt["started"].as_i64().unwrap();
    assert!(due >= before + 2_000 && started >= due, "{job}");
    assert!(attempt["ended"].as_i64().unwrap() >= started, "{job}");
    assert_eq!(
        (&job["attempt"], &job["crashes"], &job["payload"]),
        (&json!(1), &json!(0), &json!({"hello": "world"}))
    );
    assert_eq!((&attempt["outcome"], &attempt["worker"]), (&json!("done"), &json!("default/1")));
    figure(&format!("first job from an empty fleet: {} ms after it was due", started - due));

    up.signal(Signal::INT).unwrap();
    assert_eq!(up.wait_exit(SOON).unwrap().code(), Some(0), "{}", log(&up));
    wait_gone(&up, Duration::from_secs(1));
}

fn a_second_fleet_on_the_same_host_is_refused(store: Store) {
    let rig = Rig::new(store, "");
    let up = rig.up(0);
    let second = rig.run(&["up"]);
    assert_eq!(second.code, Some(4), "{second:?}");
    assert!(second.stderr.contains("--host-id"), "{second:?}");
    let other = rig.up_with(0, &["--host-id", "other"]);
    let both = wait_for("both hosts", SOON, || {
        let hosts = up.status().map_err(|error| error.to_string())?.hosts;
        if hosts.len() == 2 { Ok(()) } else { Err(format!("{hosts:?}")) }
    });
    both.unwrap_or_else(|late| panic!("{late}\n{}", log(&other)));
    other.signal(Signal::TERM).unwrap();
    assert_eq!(other.wait_exit(SOON).unwrap().code(), Some(0), "{}", log(&other));
    wait_gone(&other, SOON);
}

/// What nobody can have read is not done, and no attempt is charged for it.
fn a_job_waits_while_nothing_can_be_printed(store: Store) {
    let rig = Rig::new(store, "");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = rig.site.command(&["up"]);
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::null());
    let mut up = spawn::start(command).unwrap();
    rig.ok(&["enqueue", "default", "1", "--id", "a"]);
    let held = wait_for("the job to be put off", SOON, || {
        let job = rig.job("a");
        if job["error"].is_string() { Ok(job) } else { Err(job.to_string()) }
    });
    let job = held.unwrap();
    assert!(job["error"].as_str().unwrap().contains("standard output of `up`"), "{job}");
    assert_eq!(
        (&job["state"], &job["attempt"], &job["attempts"]),
        (&json!("scheduled"), &json!(0), &json!([]))
    );
    Process::of(up.id()).unwrap().signal(Signal::TERM).unwrap();
    assert_eq!(up.wait().unwrap().code(), Some(0));
}

on_both!(
    a_job_waits_while_nothing_can_be_printed,
    a_first_job_is_printed_when_it_is_due,
    a_second_fleet_on_the_same_host_is_refused
);
