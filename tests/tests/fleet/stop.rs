//! Orderly ends.

use std::time::Duration;

use roundsman_tests::time;
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::json;

use crate::rig::{LATE, Rig, SOON, Store, figure, log, on_both, wait_gone};

fn what_ends_within_the_grace_ends_and_the_rest_goes_back_uncharged(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 3\nmax_workers = 3\ngrace = \"3s\"\n", "");
    let up = rig.up(3);
    rig.wait_idle(&up, 3);
    rig.enqueue("short", "sleep", r#"{"ms":1500}"#);
    rig.enqueue("long", "sleep", r#"{"ms":60000}"#);
    rig.enqueue("stubborn", "stubborn", r#"{"ms":60000}"#);
    for id in ["short", "long", "stubborn"] {
        rig.wait_start(&up, id, 1, SOON);
    }
    let asked = time::mono_us();
    up.signal(Signal::TERM).unwrap();
    rig.enqueue("late", "echo", "null");
    assert_eq!(up.wait_exit(LATE).unwrap().code(), Some(0), "{}", log(&up));
    let took = time::mono_us() - asked;
    figure(&format!("SIGTERM with grace 3 s and a job that does not stop → exit: {} ms", took / 1_000));
    wait_gone(&up, Duration::from_secs(1));
    assert!((3_000_000..25_000_000).contains(&took), "{took} µs");

    let short = rig.job("short");
    assert_eq!((&short["state"], &short["attempt"]), (&json!("done"), &json!(1)), "{short}");
    for id in ["long", "stubborn"] {
        let job = rig.job(id);
        assert_eq!(
            (&job["state"], &job["attempt"], &job["crashes"]),
            (&json!("ready"), &json!(0), &json!(0)),
            "{job}\n{}",
            log(&up)
        );
    }
    let late = rig.job("late");
    assert_eq!((&late["state"], rig.starts("late").len()), (&json!("ready"), 0), "{late}");
}

fn a_second_signal_ends_it_at_once(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 1\nmax_workers = 1\n", "");
    let up = rig.up(1);
    rig.wait_idle(&up, 1);
    rig.enqueue("long", "sleep", r#"{"ms":60000}"#);
    rig.wait_start(&up, "long", 1, SOON);
    up.signal(Signal::TERM).unwrap();
    wait_for("the worker to drain", SOON, || {
        let status = up.status().map_err(|error| error.to_string())?;
        let mut workers = status.hosts.iter().flat_map(|host| &host.pools).flat_map(|pool| &pool.workers);
        if workers.any(|it| it.state == "draining") { Ok(()) } else { Err(format!("{:?}", status.hosts)) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    let asked = time::mono_us();
    up.signal(Signal::TERM).unwrap();
    assert_eq!(up.wait_exit(SOON).unwrap().code(), Some(130), "{}", log(&up));
    let took = time::mono_us() - asked;
    figure(&format!("second SIGTERM → exit 130: {} ms", took / 1_000));
    wait_gone(&up, Duration::from_secs(2));
    assert!(took < 10_000_000, "{took} µs");
    let job = rig.job("long");
    assert_eq!((&job["state"], &job["attempt"]), (&json!("ready"), &json!(0)), "{job}\n{}", log(&up));
}

on_both!(what_ends_within_the_grace_ends_and_the_rest_goes_back_uncharged, a_second_signal_ends_it_at_once);
