use std::process::Stdio;
use std::time::Duration;

use roundsman_shared::job::Outcome;
use roundsman_tests::spawn;
use roundsman_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::rig::{Rig, assert_failed};

#[test]
fn prints_the_id_or_the_job() {
    let rig = Rig::new();
    let id = rig.ok(&["enqueue", "mail", "{\"a\": 1}"]);
    assert_eq!(id.len(), 36, "{id}");
    let job = rig.json(&["job", "show", &id]);
    assert_eq!((&job["payload"], &job["state"]), (&json!({"a": 1}), &json!("ready")));

    let job = rig.json(&["enqueue", "mail", "--id", "x:1", "--kind", "k", "--priority", "-3", "--key", "t"]);
    let fields: Vec<&str> = job.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "id",
        "queue",
        "kind",
        "state",
        "payload",
        "priority",
        "due",
        "created",
        "attempt",
        "crashes",
        "max_attempts",
        "key",
        "headers",
        "result",
        "error",
        "attempts",
    ];
    expected.sort_unstable();
    assert_eq!(fields, expected);
    assert_eq!((&job["payload"], &job["priority"], &job["id"]), (&Value::Null, &json!(-3), &json!("x:1")));
    assert_eq!((&job["attempt"], &job["attempts"], &job["key"]), (&json!(0), &json!([]), &json!("t")));
}

#[test]
fn flags_become_fields() {
    let rig = Rig::new();
    let due = rig.now().as_millis() + 3_600_000;
    let at = due.to_string();
    let arguments = ["enqueue", "q", "-1", "--at", &at, "--header", "x-a=b=c", "--max-attempts", "5"];
    let job = rig.json(&arguments);
    assert_eq!((&job["due"], &job["payload"], &job["max_attempts"]), (&json!(due), &json!(-1), &json!(5)));
    assert_eq!((&job["headers"], &job["state"]), (&json!({"x-a": "b=c"}), &json!("scheduled")));
    let job = rig.json(&["enqueue", "q", "--in", "2h 30m"]);
    let ahead = job["due"].as_i64().unwrap() - job["created"].as_i64().unwrap();
    assert!((9_000_000..9_001_000).contains(&ahead), "{job}");
    let past = rig.json(&["enqueue", "q", "--at", "2020-01-01T00:00:00Z"]);
    assert_eq!((&past["state"], &past["due"]), (&json!("ready"), &json!(1_577_836_800_000_i64)));
    assert_eq!(rig.json(&["enqueue", "q", "--expires-in", "1h"])["state"], "ready");
}

#[test]
fn a_repeat_is_answered_the_same_and_other_content_is_refused() {
    let rig = Rig::new();
    for _ in 0..2 {
        assert_eq!(rig.ok(&["enqueue", "q", "{\"n\":1}", "--id", "a", "--in", "1h"]), "a");
    }
    rig.fails(&["enqueue", "q", "{\"n\":2}", "--id", "a"], 4, &["q/a is there already with other content"]);
    assert_eq!(rig.json(&["job", "show", "q/a"])["payload"], json!({"n": 1}));
    assert_eq!(rig.json(&["queue", "show", "q"])["scheduled"], 1);
}

#[test]
fn a_payload_is_read_from_standard_input() {
    let rig = Rig::new();
    let done = rig.feed(&["enqueue", "q", "-", "--json", "-q"], " {\"a\":\n [1] }\n");
    let job: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((job["payload"].clone(), done.code), (json!({"a": [1]}), Some(0)));
    assert_failed(&["-"], &rig.feed(&["enqueue", "q", "-"], "\n"), 1, &["standard input is empty"]);
}

#[test]
fn a_queue_that_nobody_serves_is_warned_about() {
    let rig = Rig::new();
    let stderr = |rig: &Rig, queue: &str| rig.run(&["enqueue", queue]).stderr;
    assert!(stderr(&rig, "q").contains("no fleet runs on this store"));
    rig.beat("box", r#"{"host":"box","pools":[{"pool":"default","queues":["q"]}]}"#);
    assert_eq!(stderr(&rig, "q"), "");
    assert!(stderr(&rig, "other").contains("no running pool serves the queue other"));
    assert_eq!(rig.run(&["enqueue", "other", "-q"]).stderr, "");
}

#[test]
fn many_are_read_a_line_each() {
    let rig = Rig::new();
    let input = "{\"payload\":1,\"id\":\"a\"}\n\n{\"payload\":1,\"colour\":2}\nnonsense\n{\"payload\":2,\"id\":\"b\",\"in\":\"1h\"}\n{\"payload\":3,\"id\":\"a\"}";
    let done = rig.feed(&["enqueue", "q", "--ndjson", "-q"], input);
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), "a\nb\n"));
    let lines: Vec<&str> = done.stderr.lines().collect();
    for (line, phrase) in lines.iter().zip([
        "line 3: not a job: unknown field `colour`",
        "line 4: not a job: ",
        "line 6: q/a is there already with other content",
        "stored 2 jobs, refused 3 lines",
    ]) {
        assert!(line.contains(phrase), "{lines:?}");
    }
    assert_eq!(lines.len(), 4, "{lines:?}");

    let done = rig.feed(&["enqueue", "q", "--ndjson", "-q"], &input.replace("\"b\"", "\"c\""));
    let last = done.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("stored 1 job, found 1 there already, refused 3 lines"), "{last}");

    let done = rig.feed(&["enqueue", "q", "--ndjson", "--jsonl", "-q"], &input[..24]);
    let row: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(row, json!({"line": 1, "id": "a", "result": "existing", "error": null}));
    let done = rig.feed(&["enqueue", "q", "--ndjson", "--json", "-q"], input);
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    let results: Vec<&str> = document["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["result"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(
        (results, done.code),
        (vec!["refused", "refused", "existing", "existing", "refused"], Some(1))
    );
}

#[test]
fn many_are_stored_in_order_over_several_batches() {
    let rig = Rig::new();
    let input: String = (0..1000).map(|n| format!("{{\"payload\":{n},\"id\":\"j{n:04}\"}}\n")).collect();
    let done = rig.feed(&["enqueue", "q", "--ndjson", "-q"], &input);
    let expected: String = (0..1000).map(|n| format!("j{n:04}\n")).collect();
    assert_eq!((done.code, done.stdout), (Some(0), expected));
    assert_eq!(rig.json(&["queue", "show", "q"])["ready"], 1000);
}

#[test]
fn a_full_queue_or_store_answers_try_again() {
    let rig = Rig::with("[queues.q]\nmax_waiting = 1");
    rig.ok(&["enqueue", "q", "1"]);
    rig.fails(&["enqueue", "q", "2"], 75, &["the queue q is full: 1 job waiting (max_waiting)"]);
    rig.ok(&["queue", "set", "q", "max_waiting", "2"]);
    rig.ok(&["enqueue", "q", "2"]);
    rig.tune("maxmemory", "1000000");
    rig.fails(&["enqueue", "other"], 75, &["the store is nearly full", "nothing was stored"]);
    let doctor = rig.run(&["doctor"]);
    assert!(doctor.code == Some(1) && doctor.stdout.contains("it takes no jobs"), "{doctor:?}");
    assert_eq!(rig.json(&["queue", "show", "q"])["ready"], 2);
}

#[test]
fn a_demanded_durability_that_the_store_lacks_is_refused() {
    let rig = Rig::with("durability = \"fsync\"");
    rig.fails(&["enqueue", "q", "1"], 78, &["store.durability demands fsync", "gives memory"]);
    assert_eq!(rig.json(&["status"])["store"]["durability"], "memory");
    rig.tune("appendonly", "yes");
    rig.tune("appendfsync", "always");
    rig.ok(&["enqueue", "q", "1"]);
}

#[test]
fn waiting_ends_with_the_job() {
    let rig = Rig::new();
    rig.fails(
        &["enqueue", "q", "--id", "a", "--wait", "50ms"],
        124,
        &["q/a has not ended within 50ms: it is ready"],
    );
    let result = serde_json::value::RawValue::from_string("{\"n\":1}".into()).unwrap();
    rig.work("q", Outcome::Done { result: Some(result), follow_ups: Vec::new(), note: None });
    assert_eq!(rig.ok(&["enqueue", "q", "--id", "a", "--wait"]), "{\"n\":1}");
    assert_eq!(rig.json(&["job", "wait", "a"])["state"], "done");
    rig.bury("q", "b", "no such user");
    rig.fails(&["job", "wait", "b", "--timeout", "5s"], 1, &["q/b is dead: no such user"]);
    rig.fails(&["job", "wait", "c"], 3, &["there is no job c"]);
}

/// As when the disk is too full to keep it, or `keep_done` is short.
#[test]
fn whoever_waits_for_a_job_that_goes_is_told_so() {
    let rig = Rig::new();
    let mut waiting = rig.site.command(&["enqueue", "q", "--id", "a", "--wait", "1m"]);
    waiting.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let waiting = spawn::start(waiting).unwrap();
    wait_for("the job", Duration::from_secs(20), || match rig.run(&["job", "show", "a"]) {
        shown if shown.code == Some(0) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    rig.ok(&["job", "delete", "a"]);
    let done = waiting.wait_with_output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("q/a was there a moment ago and is not any more: it has ended"), "{said}");
}
