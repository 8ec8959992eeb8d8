//! Settings that change while jobs run, and pools that cannot work.

use std::time::Duration;

use roundsman_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::json;

use crate::rig::{LATE, Rig, SOON, Store, log, on_both, outcomes};

fn reload(rig: &Rig, up: &roundsman_tests::tree::Up, settings: &str) {
    let before = up.stderr().matches("the settings were read again").count();
    rig.configure(settings);
    up.signal(Signal::HUP).unwrap();
    wait_for("the reload", SOON, || {
        if up.stderr().matches("the settings were read again").count() > before {
            Ok(())
        } else {
            Err(log(up))
        }
    })
    .unwrap();
}

fn a_change_of_settings_cuts_no_job_off(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 1\nmax_workers = 1\n", "");
    let up = rig.up(1);
    rig.wait_idle(&up, 1);
    // The second begins so soon after the first that no beat has told of it when the settings change.
    rig.enqueue("short", "echo", "1");
    rig.enqueue("long", "sleep", r#"{"ms":8000}"#);
    rig.wait_start(&up, "long", 1, SOON);
    reload(&rig, &up, &format!("{}max_workers = 1\nmax_jobs = 1000\n", rig.fixture_pool("default")));
    let job = rig.wait_job(&up, "long", LATE, |job| job["state"] == "done");
    assert_eq!(outcomes(&job), ["done"], "{job}\n{}", log(&up));
}

/// A file that was refused is not what a later master begins with.
fn refused_settings_are_not_served_by_the_next_master(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 1\n", "");
    let up = rig.up(1);
    let first = up.master().unwrap().unwrap();
    rig.configure("[pools.default]\nhandle = 1\n");
    up.signal(Signal::HUP).unwrap();
    let said =
        |text: &str, times: usize| {
            wait_for(text, SOON, || {
                if up.stderr().matches(text).count() >= times { Ok(()) } else { Err(log(&up)) }
            })
            .unwrap();
        };
    said("the old ones stay", 1);
    first.signal(Signal::KILL).unwrap();
    said("is ready", 2);
    // For the command line; the fleet is not told.
    rig.configure("");
    rig.enqueue("after", "echo", "1");
    rig.wait_state(&up, "after", "done");
    assert!(up.master().unwrap().is_some_and(|master| master != first), "{}", log(&up));
}

fn a_pool_that_is_taken_out_and_put_back_serves_on(store: Store) {
    let rig = Rig::new(store, "");
    let both = format!("{}{}", rig.fixture_pool("default"), rig.fixture_pool("other"));
    rig.configure(&both);
    let up = rig.up(0);
    rig.ok(&["enqueue", "other", r#"{"ms":3000}"#, "--id", "long", "--kind", "sleep"]);
    rig.wait_start(&up, "long", 1, SOON);
    reload(&rig, &up, &rig.fixture_pool("default"));
    reload(&rig, &up, &both);
    rig.ok(&["enqueue", "other", "1", "--id", "next", "--kind", "echo"]);
    for id in ["long", "next"] {
        let job = rig.wait_job(&up, id, SOON, |job| job["state"] == "done");
        assert_eq!(outcomes(&job), ["done"], "{job}\n{}", log(&up));
    }
}

/// Whoever holds a job of a queue that nobody serves any more is watched all the same.
fn a_worker_from_before_a_change_is_not_forgotten(store: Store) {
    let rig = Rig::new(store, "");
    let pool = |queues: &str| rig.fixture_pool("default").replace("[\"default\"]", queues);
    rig.configure(&pool("[\"default\", \"old\"]"));
    let up = rig.up(0);
    rig.ok(&["enqueue", "old", r#"{"ms":60000}"#, "--id", "held", "--kind", "sleep"]);
    let held = rig.wait_start(&up, "held", 1, SOON);
    reload(&rig, &up, &pool("[\"default\"]"));
    let told = |line: &str| line.contains("default/1") && line.contains("new settings");
    wait_for("it to be told to leave", SOON, || {
        if up.stderr().lines().any(told) { Ok(()) } else { Err(log(&up)) }
    })
    .unwrap();
    held.process.signal(Signal::KILL).unwrap();
    let job = rig.wait_job(&up, "held", SOON, |job| job["state"] == "ready");
    assert_eq!(job["attempt"], 0, "it was to leave, so nothing is charged: {job}\n{}", log(&up));
}

fn fewer_workers_than_run_leave_one_by_one(store: Store) {
    let pool = |rig: &Rig, max: u32| format!("{}max_workers = {max}\n", rig.fixture_pool("default"));
    let rig = Rig::new(store, "");
    rig.configure(&pool(&rig, 4));
    let lines: String = (0..400)
        .map(|n| format!("{{\"id\":\"j{n}\",\"kind\":\"sleep\",\"payload\":{{\"ms\":100}}}}\n"))
        .collect();
    assert_eq!(rig.site.cli_with_input(&["enqueue", "default", "--ndjson"], &lines).unwrap().code, Some(0));
    let up = rig.up(4);
    reload(&rig, &up, &pool(&rig, 1));
    wait_for("one worker to be left", SOON, || {
        let workers = up.workers().map_err(|error| error.to_string())?;
        if workers.len() == 1 { Ok(()) } else { Err(format!("{workers:?}")) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    let status = rig.json(&["queue", "show", "default"]);
    assert!(status["ready"].as_u64() > Some(50), "the backlog was over too soon: {status}");
    for n in 0..30 {
        let job = rig.job(&format!("j{n}"));
        assert!(outcomes(&job).iter().all(|it| ["done", "gave_back", "none"].contains(it)), "{job}");
    }
}

/// Every job crashes its worker: the program is bad, not the jobs.
fn a_backlog_survives_a_bad_deploy(store: Store) {
    let rig = Rig::with_fixture(store, "max_workers = 2\n", "");
    let lines: String =
        (0..8).map(|n| format!("{{\"id\":\"j{n}\",\"kind\":\"abort\",\"payload\":null}}\n")).collect();
    assert_eq!(rig.site.cli_with_input(&["enqueue", "default", "--ndjson"], &lines).unwrap().code, Some(0));
    let up = rig.up(0);
    for round in 1..=4 {
        wait_for("the quarantine", LATE, || {
            let quarantines = up.stderr().matches("the pool is quarantined").count();
            let idle = up.workers().map_err(|error| error.to_string())?.is_empty();
            if quarantines >= round && idle { Ok(()) } else { Err(log(&up)) }
        })
        .unwrap();
        up.signal(Signal::HUP).unwrap();
    }
    for n in 0..8 {
        let job = rig.job(&format!("j{n}"));
        assert!(
            ["ready", "scheduled", "running"].contains(&job["state"].as_str().unwrap()),
            "{job}\n{}",
            log(&up)
        );
        assert!(job["crashes"].as_u64() <= Some(2), "{job}\n{}", log(&up));
    }
}

/// A queue that was empty gets its share of workers that are never idle.
fn a_queue_that_wakes_gets_its_share_of_busy_workers(store: Store) {
    let rig = Rig::new(store, "");
    let pool = rig.fixture_pool("default").replace("[\"default\"]", "{ critical = 6, bulk = 1 }");
    rig.configure(&format!("{pool}max_workers = 2\n"));
    let lines: String = (0..400).map(|_| "{\"kind\":\"sleep\",\"payload\":{\"ms\":50}}\n").collect();
    assert_eq!(rig.site.cli_with_input(&["enqueue", "bulk", "--ndjson"], &lines).unwrap().code, Some(0));
    let up = rig.up(2);
    wait_for("both to be at work", SOON, || {
        let status = up.status().map_err(|error| error.to_string())?;
        let workers = status.hosts.iter().flat_map(|host| &host.pools).flat_map(|pool| &pool.workers);
        let busy = workers.filter(|worker| !worker.jobs.is_empty()).count();
        if busy == 2 { Ok(()) } else { Err(format!("{:?}", status.hosts)) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    rig.ok(&["enqueue", "critical", "1", "--id", "urgent", "--kind", "echo"]);
    let job = rig.wait_job(&up, "urgent", Duration::from_secs(3), |job| job["state"] == "done");
    assert_eq!(job["attempt"], json!(1));
    assert!(
        rig.json(&["queue", "show", "bulk"])["ready"].as_u64() > Some(100),
        "the backlog was over too soon"
    );
}

on_both!(
    a_change_of_settings_cuts_no_job_off,
    refused_settings_are_not_served_by_the_next_master,
    a_pool_that_is_taken_out_and_put_back_serves_on,
    a_worker_from_before_a_change_is_not_forgotten,
    fewer_workers_than_run_leave_one_by_one,
    a_backlog_survives_a_bad_deploy,
    a_queue_that_wakes_gets_its_share_of_busy_workers
);

/// What the intake takes in is judged by the settings of now.
#[test]
fn an_inbox_follows_a_change_of_settings() {
    let rig = Rig::with_fixture(Store::Redis, "", "[queues.default]\nmax_payload = \"10B\"\n");
    let up = rig.up(0);
    let push = |id: &str| {
        let entry = format!(r#"{{"id":"{id}","kind":"echo","payload":"{}"}}"#, "x".repeat(50));
        assert!(!rig.redis().cli(&["LPUSH", "roundsman:{default}:inbox", &entry]).is_empty());
    };
    push("early");
    wait_for("a dead letter", SOON, || {
        let dead = rig.json(&["dead", "list"]);
        if dead["jobs"].as_array().is_some_and(|jobs| jobs.len() == 1) {
            Ok(())
        } else {
            Err(dead.to_string())
        }
    })
    .unwrap();
    reload(&rig, &up, &format!("{}[queues.default]\nmax_payload = \"1KiB\"\n", rig.fixture_pool("default")));
    wait_for("the intake to be replaced", SOON, || {
        if up.stderr().contains("new settings") { Ok(()) } else { Err(log(&up)) }
    })
    .unwrap();
    wait_for("an entry to be taken in", SOON, || {
        push("late");
        let shown = rig.run(&["job", "show", "late"]);
        if shown.code == Some(0) { Ok(()) } else { Err(shown.stderr) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
}

/// Nothing is started on a store that cannot be used, and the reason is told by the exit code at once.
#[test]
fn a_fleet_does_not_start_on_a_store_that_is_unfit() {
    let rig = Rig::new(Store::Redis, "");
    let url = rig.redis().url();
    for (settings, tune, phrase) in [
        ("durability = \"fsync\"", ("appendonly", "no"), "store.durability demands fsync"),
        ("", ("maxmemory-policy", "allkeys-lru"), "maxmemory-policy"),
    ] {
        assert_eq!(rig.redis().cli(&["CONFIG", "SET", "maxmemory", "100000000"]), "OK");
        assert_eq!(rig.redis().cli(&["CONFIG", "SET", tune.0, tune.1]), "OK");
        rig.site.configure(&format!("[store]\nurl = \"{url}\"\n{settings}\n")).unwrap();
        let done = rig.run(&["up"]);
        assert_eq!(done.code, Some(78), "{done:?}");
        assert!(done.stderr.contains(phrase), "{done:?}");
    }
}
