//! Workers that only look ill, and are left alone.

use rustix::process::Signal;

use crate::rig::{LATE, Rig, SOON, Store, log, on_both, outcomes};

/// Both keep their executor still for longer than a frozen one is given.
fn a_worker_at_rest_and_one_that_blocks_inside_its_time_stay(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 2\nmax_workers = 2\nfrozen = \"3s\"\n", "");
    let up = rig.up(2);
    rig.wait_idle(&up, 2);
    let before = up.workers().unwrap();
    rig.enqueue("long", "block", r#"{"ms":9000}"#);
    rig.wait_start(&up, "long", 1, SOON);
    let job = rig.wait_job(&up, "long", LATE, |job| job["state"] == "done");
    assert_eq!(outcomes(&job), ["done"], "{job}\n{}", log(&up));
    assert_eq!(up.workers().unwrap(), before, "{}", log(&up));
    assert!(!up.stderr().contains("killed"), "{}", log(&up));
    up.signal(Signal::TERM).unwrap();
    assert_eq!(up.wait_exit(SOON).unwrap().code(), Some(0), "{}", log(&up));
}

on_both!(a_worker_at_rest_and_one_that_blocks_inside_its_time_stay);
