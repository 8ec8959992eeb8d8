//! Work that the fleet cannot do yet: a kind that no pool knows, a store that is away.

use roundsman_tests::tree::UpOptions;
use roundsman_tests::wait::wait_for;
use serde_json::json;

use crate::rig::{LATE, Rig, SOON, Store, log, on_both, outcomes};

fn a_job_of_an_unknown_kind_waits_for_a_pool_that_knows_it(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 1\n", "[queues.default]\nmax_attempts = 1\n");
    let up = rig.up(1);
    rig.enqueue("odd", "no-such-kind", "7");
    let waits = rig.wait_job(&up, "odd", SOON, |job| job["state"] == "scheduled");
    assert_eq!((&waits["attempt"], &waits["crashes"]), (&json!(0), &json!(0)), "{waits}");
    for verb in [&["job", "explain", "odd"][..], &["doctor"]] {
        let text = rig.run(verb).stdout;
        assert!(text.contains("no-such-kind"), "{verb:?}: {text}\n{}", log(&up));
    }
    // Nobody is held up by it.
    rig.enqueue("fine", "echo", "1");
    rig.wait_state(&up, "fine", "done");
    drop(up);

    rig.script("script.sh", "#!/bin/sh\nexec cat\n");
    rig.configure("");
    let up = rig.up_with(0, &["--", "./script.sh"]);
    let job = rig.wait_job(&up, "odd", LATE, |job| job["state"] == "done");
    assert_eq!((&job["result"], &job["attempt"]), (&json!(7), &json!(1)), "{job}");
    assert!(outcomes(&job).iter().all(|it| ["gave_back", "done"].contains(it)), "{job}");
}

on_both!(a_job_of_an_unknown_kind_waits_for_a_pool_that_knows_it);

/// The store is away when the fleet starts, and again later: both times the fleet waits, and then goes on.
#[test]
fn a_store_that_is_away_is_waited_for() {
    let mut rig = Rig::with_fixture(Store::Redis, "min_workers = 1\n", "");
    let server = rig.server.as_mut().unwrap();
    server.kill().unwrap();
    let up = rig.site.launch(&UpOptions::default()).unwrap();
    let says = |phrase: &str, times: usize| {
        wait_for(phrase, SOON, || {
            if up.stderr().matches(phrase).count() >= times { Ok(()) } else { Err(log(&up)) }
        })
        .unwrap();
    };
    says("the store is not reachable: Connection refused", 1);
    assert_eq!(rig.run(&["enqueue", "default"]).code, Some(69));
    for (round, id) in [(1, "first"), (2, "second")] {
        rig.server.as_mut().unwrap().restart().unwrap();
        rig.enqueue(id, "echo", "1");
        rig.wait_state(&up, id, "done");
        says("the store is reachable", round);
        rig.server.as_mut().unwrap().kill().unwrap();
        says("\"the store is not reachable\"", round + 1);
    }
}

/// Deleted under a running fleet, with all its jobs: the fleet goes on with a new one, and nobody can overlook it.
#[test]
fn a_file_that_was_replaced_is_served_and_told_of() {
    let rig = Rig::new(Store::Sqlite, "");
    let up = rig.up(0);
    rig.ok(&["enqueue", "default", "--id", "lost", "--in", "1h"]);
    for name in ["jobs.db", "jobs.db-wal", "jobs.db-shm"] {
        let _ = std::fs::remove_file(rig.site.work().join(name));
    }
    let said = |words: &str| {
        wait_for(words, SOON, || if up.stderr().contains(words) { Ok(()) } else { Err(log(&up)) }).unwrap();
    };
    said("the file was deleted or moved away, with its jobs");
    rig.ok(&["enqueue", "default", "--id", "new"]);
    rig.wait_state(&up, "new", "done");
    said("another file has taken its place");
    wait_for("the finding", SOON, || {
        let done = rig.run(&["doctor"]);
        let found = done.code == Some(1) && done.stdout.contains("deleted or replaced while the fleet on");
        if found { Ok(()) } else { Err(format!("{done:?}")) }
    })
    .unwrap();
    assert!(rig.ok(&["status"]).contains("its store was replaced"));
    assert_eq!(up.status().unwrap().hosts.len(), 1);
}
