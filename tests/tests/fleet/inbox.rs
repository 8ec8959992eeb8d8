//! The Redis inbox: any client enqueues with one LPUSH.

use std::time::Duration;

use roundsman_tests::proc::Process;
use roundsman_tests::time;
use roundsman_tests::tree::Up;
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::Value;

use crate::rig::{LATE, Rig, SOON, Store, figure, log};

const INBOX: &str = "roundsman:{default}:inbox";

fn intake(up: &Up) -> Process {
    let found = wait_for("the intake", SOON, || {
        let below = up.supervisor().descendants();
        let found = below.iter().find(|it| it.command_line().is_some_and(|line| line.contains("intake")));
        found.copied().ok_or_else(|| below.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    });
    found.unwrap_or_else(|late| panic!("{late}\n{}", log(up)))
}

#[test]
fn a_push_runs_at_once() {
    let rig = Rig::with_fixture(Store::Redis, "min_workers = 1\n", "");
    let up = rig.up(1);
    intake(&up);
    rig.wait_idle(&up, 1);
    // The first shows that the intake listens.
    assert_eq!(rig.redis().cli(&["LPUSH", INBOX, r#"{"id":"warm","kind":"echo","payload":1}"#]), "1");
    rig.wait_start(&up, "warm", 1, SOON);
    let pushed = time::mono_us();
    assert_eq!(
        rig.redis().cli(&["LPUSH", INBOX, r#"{"id":"a","kind":"echo","payload":{"to":"a@b.c"}}"#]),
        "1"
    );
    let start = rig.wait_start(&up, "a", 1, SOON);
    let micros = start.mono_us.saturating_sub(pushed);
    figure(&format!("LPUSH → start, redis-cli's own start included: {:.1} ms", micros as f64 / 1_000.0));
    assert!(micros < 2_000_000, "{micros} µs");
    assert_eq!(rig.wait_state(&up, "a", "done")["result"]["to"], "a@b.c");
}

#[test]
fn a_malformed_entry_is_a_dead_letter_and_blocks_nobody() {
    let rig = Rig::with_fixture(Store::Redis, "", "");
    let up = rig.up(0);
    let bad = r#"{"payload":1,"colour":"red"}"#;
    let pushed = rig.redis().cli(&[
        "LPUSH",
        INBOX,
        r#"{"id":"one","kind":"echo","payload":1}"#,
        bad,
        "not json at all",
        r#"{"id":"two","kind":"echo","payload":2}"#,
    ]);
    assert_eq!(pushed, "4");
    rig.wait_state(&up, "one", "done");
    rig.wait_state(&up, "two", "done");
    let dead = wait_for("two dead letters", SOON, || {
        let jobs = rig.json(&["dead", "list"]);
        if jobs["jobs"].as_array().is_some_and(|jobs| jobs.len() == 2) {
            Ok(jobs)
        } else {
            Err(jobs.to_string())
        }
    });
    let dead = dead.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    let shown: Vec<Value> =
        dead["jobs"].as_array().unwrap().iter().map(|job| rig.job(job["id"].as_str().unwrap())).collect();
    let has = |raw: &str, reason: &str| {
        shown.iter().any(|job| {
            let payload = job["payload"].as_str().map_or_else(|| job["payload"].to_string(), str::to_owned);
            payload.contains(raw) && job["error"].as_str().is_some_and(|error| error.contains(reason))
        })
    };
    assert!(has(bad, "colour") && has("not json at all", ""), "{shown:?}");
}

/// Every way for a pushed job to be wrong; each is a dead letter with what was pushed and why.
#[test]
fn every_bad_entry_is_a_dead_letter_with_its_reason() {
    let rig = Rig::with_fixture(Store::Redis, "", "[queues.default]\nmax_payload = \"200B\"\n");
    let up = rig.up(0);
    let deep = format!(r#"{{"payload":{}{}}}"#, "[".repeat(65), "]".repeat(65));
    let long = format!(r#"{{"payload":"{}"}}"#, "x".repeat(200));
    let bad = [
        (long.as_str(), "payload: 202 bytes are over the limit of 200"),
        (deep.as_str(), "payload: nests deeper than 64"),
        (r#"{"payload":"#, "not a job"),
        (r"[1,2]", "not a job"),
        (r#"{"id":"x"}"#, "missing field `payload`"),
        (r#"{"payload":1,"colour":2}"#, "unknown field `colour`"),
        (r#"{"payload":1,"id":"a/b"}"#, "id: a job id is made of"),
        (r#"{"payload":1,"id":""}"#, "id: "),
        (r#"{"payload":1,"in":"5s","due":1767225600000}"#, "not both"),
        (r#"{"payload":1,"in":"4000d"}"#, "in: lies more than 10 years ahead"),
        (r#"{"payload":1,"due":"2199-01-01T00:00:00Z"}"#, "due: lies more than 10 years ahead"),
        (r#"{"payload":1,"due":"tomorrow"}"#, "RFC 3339"),
        (r#"{"payload":1,"in":5}"#, "not a job"),
        (r#"{"payload":1,"priority":256}"#, "priority: must lie between -255 and 255"),
        (r#"{"payload":1,"max_attempts":0}"#, "max_attempts: "),
        (r#"{"payload":1,"timeout":"soon"}"#, "timeout: "),
        (r#"{"payload":1,"expires":1}"#, "expires: lies in the past"),
        (r#"{"payload":1,"headers":{"a b":"c"}}"#, "headers: \"a b\" is no header name"),
        (r#"{"payload":1,"unique":"u"}"#, "unique: "),
        (r#"{"payload":2,"kind":"echo","id":"twice"}"#, "a job of this id with other content"),
    ];
    let mut command = vec!["LPUSH", INBOX, r#"{"payload":1,"kind":"echo","id":"twice"}"#];
    command.extend(bad.iter().map(|(entry, _)| *entry));
    command.extend([
        r#"{"payload":1,"kind":"echo","id":"past","due":"2020-01-01T00:00:00Z"}"#,
        r#"{"payload":3,"kind":"echo","id":"last"}"#,
    ]);
    assert_eq!(rig.redis().cli(&command), (bad.len() + 3).to_string());
    for id in ["twice", "past", "last"] {
        assert_eq!(rig.wait_state(&up, id, "done")["attempt"], 1);
    }
    let dead = rig.json(&["dead", "list"]);
    let shown: Vec<Value> =
        dead["jobs"].as_array().unwrap().iter().map(|job| rig.job(job["id"].as_str().unwrap())).collect();
    assert_eq!(shown.len(), bad.len(), "{shown:?}");
    for (entry, reason) in bad {
        let found = shown.iter().find(|job| job["payload"] == entry);
        let error =
            found.and_then(|job| job["error"].as_str()).unwrap_or_else(|| panic!("no {entry} in {shown:?}"));
        assert!(error.contains(reason), "{entry}: no {reason:?} in {error:?}");
    }
    // None of them is run by retrying all.
    let retried = rig.json(&["dead", "retry", "--yes"]);
    assert_eq!(retried["retried"], 0, "{retried}");
    // Not text at all.
    let push = "return redis.call('LPUSH', KEYS[1], '\\255\\254')";
    assert!(!rig.redis().cli(&["EVAL", push, "1", INBOX]).is_empty());
    let dead = wait_for("the bytes to be a dead letter", SOON, || {
        let jobs = rig.json(&["job", "list", "--state", "dead", "--queue", "default"]);
        let jobs = jobs["jobs"].as_array().unwrap().clone();
        jobs.iter()
            .find(|job| rig.job(job["id"].as_str().unwrap())["payload"]["base64"] == "//4=")
            .cloned()
            .ok_or_else(|| format!("{jobs:?}"))
    });
    let dead = dead.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    assert!(rig.job(dead["id"].as_str().unwrap())["error"].as_str().unwrap().contains("not UTF-8"), "{dead}");
}

#[test]
fn an_intake_that_is_killed_loses_nothing_and_takes_nothing_twice() {
    const ROUNDS: usize = 5;
    const PUSHED: usize = 200;
    let rig = Rig::with_fixture(Store::Redis, "min_workers = 1\n", "");
    let up = rig.up(1);
    for round in 0..ROUNDS {
        let target = intake(&up);
        let entries: Vec<String> =
            (0..PUSHED).map(|n| format!(r#"{{"id":"j{round}-{n}","kind":"echo","payload":{n}}}"#)).collect();
        let mut command = vec!["LPUSH", INBOX];
        command.extend(entries.iter().map(|it| &**it));
        assert!(!rig.redis().cli(&command).is_empty());
        target.signal(Signal::KILL).unwrap();
        wait_for("the intake to die", Duration::from_secs(5), || {
            if target.is_alive() { Err(target.to_string()) } else { Ok(()) }
        })
        .unwrap();
    }
    let all = ROUNDS * PUSHED;
    let done = wait_for("every job to be done", LATE, || {
        let ends = rig
            .history()
            .iter()
            .filter(|it| matches!(it.event, roundsman_tests::history::Event::End { .. }))
            .count();
        if ends >= all { Ok(ends) } else { Err(format!("{ends} of {all}; {}", rig.json(&["queue", "list"]))) }
    });
    assert_eq!(done.unwrap_or_else(|late| panic!("{late}\n{}", log(&up))), all);
    wait_for("the inbox to be empty", SOON, || {
        let queues = rig.json(&["queue", "list"]);
        let queue = &queues["queues"][0];
        if queue["inbox"] == 0 && queue["dead"] == 0 && queue["ready"] == 0 {
            Ok(())
        } else {
            Err(queues.to_string())
        }
    })
    .unwrap();
    for round in 0..ROUNDS {
        assert_eq!(rig.starts(&format!("j{round}-0")).len(), 1);
    }
}
