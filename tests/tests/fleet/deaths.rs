//! Workers that die: by a stranger's SIGKILL, or by what their job does.

use roundsman_tests::time;
use rustix::process::Signal;
use serde_json::json;

use crate::rig::{LATE, Rig, SOON, Store, figure, log, on_both, outcomes, spread};

fn the_job_of_a_killed_worker_is_started_by_another_at_once(store: Store) {
    const ROUNDS: usize = 60;
    let rig = Rig::with_fixture(store, "min_workers = 3\nmax_workers = 4\n", "");
    let up = rig.up(3);
    let mut waits = Vec::new();
    for round in 0..ROUNDS {
        rig.wait_idle(&up, 2);
        let id = format!("j{round}");
        rig.enqueue(&id, "sleep", r#"{"ms":300}"#);
        let first = rig.wait_start(&up, &id, 1, SOON);
        let killed = time::mono_us();
        first.process.signal(Signal::KILL).unwrap();
        let second = rig.wait_start(&up, &id, 2, SOON);
        assert_ne!(first.process, second.process);
        assert!(second.token > first.token && second.attempt == 2, "{first:?} {second:?}");
        waits.push(second.mono_us.saturating_sub(killed));
    }
    for round in [0, ROUNDS / 2, ROUNDS - 1] {
        let job = rig.wait_state(&up, &format!("j{round}"), "done");
        assert_eq!((outcomes(&job), &job["crashes"]), (vec!["killed", "done"], &json!(0)), "{job}");
    }
    let (p50, p99, longest) = spread(waits);
    figure(&format!(
        "worker killed → job started elsewhere, {ROUNDS} times: p50 {p50:.1} ms, p99 {p99:.1} ms, longest {longest:.1} ms"
    ));
    assert!(p99 <= 500.0, "p50 {p50} p99 {p99} longest {longest}");
}

fn a_job_that_aborts_its_worker_three_times_is_a_dead_letter(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 2\nmax_workers = 4\n", "");
    let up = rig.up(2);
    rig.wait_idle(&up, 2);
    rig.enqueue("neighbour", "sleep", r#"{"ms":14000}"#);
    let neighbour = rig.wait_start(&up, "neighbour", 1, SOON);
    rig.enqueue("bad", "abort", "null");
    let dead = rig.wait_state(&up, "bad", "dead");
    let starts = rig.starts("bad");
    assert_eq!((starts.len(), outcomes(&dead)), (3, vec!["crashed"; 3]), "{dead}");
    assert_eq!((&dead["crashes"], starts[2].attempt), (&json!(3), 3), "{dead}");
    assert!(dead["error"].as_str().unwrap().contains("SIGABRT"), "{dead}");
    let tail = dead["attempts"][0]["stderr_tail"].as_str().unwrap_or_default();
    assert!(tail.contains("about to abort"), "{dead}");
    let gaps = [starts[1].mono_us - starts[0].mono_us, starts[2].mono_us - starts[1].mono_us];
    assert!(gaps[0] < 5_000_000 && gaps[1] >= 10_000_000, "{gaps:?}");
    figure(&format!(
        "re-runs of a job that aborts: after {} ms, after {} ms",
        gaps[0] / 1_000,
        gaps[1] / 1_000
    ));

    // It ran alone in its worker each time, and its neighbour never knew.
    let job = rig.wait_state(&up, "neighbour", "done");
    assert_eq!((outcomes(&job), rig.starts("neighbour").len()), (vec!["done"], 1), "{job}");
    assert!(starts.iter().all(|start| start.process != neighbour.process));
}

/// Three innocents run in the same worker, and run again with the one that ends it.
fn one_bad_job_among_many_slots_is_found_and_its_pool_is_not_at_fault(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 1\nmax_workers = 1\nslots = 4\n", "");
    let up = rig.up(1);
    rig.wait_idle(&up, 1);
    let innocents = ["one", "two", "three"];
    for id in innocents {
        rig.enqueue(id, "sleep", r#"{"ms":2000}"#);
        rig.wait_start(&up, id, 1, SOON);
    }
    rig.enqueue("bad", "abort", "null");
    let dead = rig.wait_state(&up, "bad", "dead");
    assert_eq!(outcomes(&dead), ["crashed"; 3], "{dead}\n{}", log(&up));
    for id in innocents {
        let job = rig.wait_state(&up, id, "done");
        let crashes = job["crashes"].as_u64().unwrap();
        assert!(crashes < 3 && outcomes(&job).last() == Some(&"done"), "{job}");
    }
    assert!(!log(&up).contains("quarantine"), "{}", log(&up));
}

fn other_ends_are_named_for_what_they_are(store: Store) {
    let settings = "[queues.default]\nmax_crashes = 1\nmax_attempts = 1\n";
    let rig = Rig::with_fixture(store, "min_workers = 2\nmax_workers = 4\n", settings);
    let up = rig.up(2);
    for (number, (kind, payload, outcome, named)) in [
        ("segv", "null", "crashed", "SIGSEGV"),
        ("exit", r#"{"code":3}"#, "crashed", "3"),
        ("exit", r#"{"code":0}"#, "crashed", "exit code 0"),
        ("panic", "null", "retry", "on purpose"),
        ("dead", "null", "dead", "it is of no use"),
        ("echo-of-nobody", "null", "", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("{kind}-{number}");
        // A worker that has never finished a job would be at fault itself.
        rig.enqueue(&format!("good-{number}"), "echo", "null");
        rig.wait_state(&up, &format!("good-{number}"), "done");
        rig.enqueue(&id, kind, payload);
        if outcome.is_empty() {
            let job = rig.wait_job(&up, &id, SOON, |job| job["state"] == "scheduled");
            assert_eq!(job["attempt"], json!(0), "{job}");
            continue;
        }
        let job = rig.wait_state(&up, &id, "dead");
        assert_eq!(outcomes(&job), [outcome], "{job}");
        assert!(job["error"].as_str().unwrap().contains(named), "{job}");
    }
}

fn a_handler_gives_more_than_a_result(store: Store) {
    let rig = Rig::new(store, "");
    rig.configure(&format!("{}{}", rig.fixture_pool("default"), rig.fixture_pool("next")));
    let up = rig.up(0);
    rig.enqueue("parent", "follow", r#"{"queue":"next","payload":{"n":7}}"#);
    rig.enqueue("later", "snooze", r#"{"ms":700}"#);
    rig.enqueue("told", "progress", r#"{"percent":40,"ms":1500}"#);
    rig.wait_start(&up, "told", 1, SOON);

    assert_eq!(rig.wait_state(&up, "parent", "done")["result"], json!({"followed": true}));
    let next = roundsman_tests::wait::wait_for("the follow-up to be done", SOON, || {
        let jobs = rig.json(&["job", "list", "--queue", "next", "--state", "done"]);
        if jobs["jobs"].as_array().is_some_and(|jobs| jobs.len() == 1) {
            Ok(jobs)
        } else {
            Err(jobs.to_string())
        }
    })
    .unwrap();
    let id = next["jobs"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(rig.job(&id)["payload"], json!({"n": 7}));

    let later = rig.wait_state(&up, "later", "done");
    assert_eq!((&later["attempt"], &later["result"]), (&json!(1), &json!(1)), "{later}");
    let starts = rig.starts("later");
    assert!(starts.len() == 2 && starts[1].wall_us - starts[0].wall_us >= 700_000, "{starts:?}");
    rig.wait_job(&up, "told", LATE, |job| job["state"] == "done");
}

on_both!(
    the_job_of_a_killed_worker_is_started_by_another_at_once,
    a_job_that_aborts_its_worker_three_times_is_a_dead_letter,
    one_bad_job_among_many_slots_is_found_and_its_pool_is_not_at_fault,
    other_ends_are_named_for_what_they_are,
    a_handler_gives_more_than_a_result
);
