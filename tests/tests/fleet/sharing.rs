//! Several hosts on one store find the same number of workers to be needed, and share it without a leader.

use std::collections::BTreeMap;
use std::time::Duration;

use roundsman_tests::tree::Up;
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;

use crate::rig::{LATE, Rig, SOON, Store, log, on_both};

on_both!(
    hosts_share_what_is_needed,
    no_host_has_more_than_all_may_have,
    the_part_of_a_host_that_died_is_dealt_out_anew,
);

/// What is found at first may be one too many, and so small a fall is put off for a minute.
const SETTLED: Duration = Duration::from_secs(100);

/// Workers that each host wants in the default pool, and why.
fn wanted(rig: &Rig) -> BTreeMap<String, (u64, String)> {
    let status = rig.json(&["status"]);
    let hosts = status["hosts"].as_array().unwrap().iter();
    hosts
        .map(|host| {
            let pools = host["pools"].as_array().unwrap().iter();
            let pool = pools.clone().find(|pool| pool["pool"] == "default").unwrap();
            let why = pool["why"].as_str().unwrap_or_default().to_owned();
            (host["host"].as_str().unwrap().to_owned(), (pool["desired"].as_u64().unwrap(), why))
        })
        .collect()
}

fn wait_wanted(rig: &Rig, up: &Up, what: &str, deadline: Duration, wish: impl Fn(&[u64], &str) -> bool) {
    wait_for(what, deadline, || {
        let all = wanted(rig);
        let counts: Vec<u64> = all.values().map(|(count, _)| *count).collect();
        let why = all.values().map(|(_, why)| why.clone()).collect::<Vec<_>>().join("\n");
        if wish(&counts, &why) { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(up)));
}

fn long_jobs(rig: &Rig, count: usize) {
    for n in 0..count {
        rig.enqueue(&format!("long-{n}"), "sleep", r#"{"ms":200000}"#);
    }
}

fn hosts_share_what_is_needed(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 0\nmax_workers = 4\n", "");
    let first = rig.up_with(0, &["--host-id", "alpha"]);
    let second = rig.up_with(0, &["--host-id", "beta"]);
    wait_wanted(&rig, &first, "both hosts", SOON, |counts, _| counts.len() == 2);
    // Six that run for long need six workers, whoever has them.
    long_jobs(&rig, 6);
    wait_wanted(&rig, &first, "three workers on each", SETTLED, |counts, why| {
        counts == [3, 3] && why.contains("on 2 hosts 3 here")
    });
    // What was the share of one that is gone is dealt out anew.
    second.signal(Signal::TERM).unwrap();
    second.signal(Signal::TERM).unwrap();
    wait_wanted(&rig, &first, "four on the one that is left", LATE, |counts, _| counts == [4]);
}

fn no_host_has_more_than_all_may_have(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 0\nmax_workers = 4\nmax_workers_total = 3\n", "");
    let first = rig.up_with(0, &["--host-id", "alpha"]);
    let _second = rig.up_with(0, &["--host-id", "beta"]);
    wait_wanted(&rig, &first, "both hosts", SOON, |counts, _| counts.len() == 2);
    long_jobs(&rig, 8);
    wait_wanted(&rig, &first, "three workers in all", LATE, |counts, why| {
        counts == [2, 1] && why.contains("bounded by max_workers_total 3")
    });
}

fn the_part_of_a_host_that_died_is_dealt_out_anew(store: Store) {
    let rig = Rig::new(store, "");
    let pool = rig.fixture_pool("default");
    rig.configure(&format!("lease = \"3s\"\n{pool}min_workers = 0\nmax_workers = 6\n"));
    let first = rig.up_with(0, &["--host-id", "alpha"]);
    let second = rig.up_with(0, &["--host-id", "beta"]);
    wait_wanted(&rig, &first, "both hosts", SOON, |counts, _| counts.len() == 2);
    long_jobs(&rig, 6);
    wait_wanted(&rig, &first, "three workers on each", SETTLED, |counts, _| counts == [3, 3]);
    let tree = second.alive();
    // All of it at once: who is stopped sees nobody die.
    for signal in [Signal::STOP, Signal::KILL] {
        for process in &tree {
            process.signal(signal).unwrap();
        }
    }
    // Its jobs come back with its leases, and all six are the other's.
    wait_wanted(&rig, &first, "six on the one that is left", LATE, |counts, _| counts == [6]);
    for n in 0..6 {
        rig.wait_job(&first, &format!("long-{n}"), LATE, |job| job["state"] == "running");
    }
}
