//! Every row of what bad input gets.

use roundsman_tests::wait::wait_for;
use serde_json::json;

use crate::rig::{NOBODY, Rig, SOON, Store, on_both};

on_both!(
    a_job_that_is_none_is_refused_by_field,
    the_past_is_now,
    a_full_queue_says_when_to_come_again,
    live_settings_count,
    paths_and_methods_that_are_none,
);

const JOBS: &str = "/api/v1/queues/q/jobs";

fn a_job_that_is_none_is_refused_by_field(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    let deep = |depth: usize| format!(r#"{{"payload":{}1{}}}"#, "[".repeat(depth), "]".repeat(depth));
    for (body, field) in [
        ("", "body"),
        ("{", "body"),
        ("null", "body"),
        ("5", "body"),
        (r#"{"payload":1}x"#, "body"),
        (r#"{"id":"a"}"#, "payload"),
        (r#"{"payload":1,"colour":2}"#, "colour"),
        (r#"{"payload":1,"payload":2}"#, "payload"),
        (r#"{"payload":1,"id":"a b"}"#, "id"),
        (r#"{"payload":1,"id":""}"#, "id"),
        (r#"{"payload":1,"in":"5s","due":5}"#, "in"),
        (r#"{"payload":1,"in":"soon"}"#, "in"),
        (r#"{"payload":1,"due":99999999999999}"#, "due"),
        (r#"{"payload":1,"priority":999}"#, "priority"),
        (r#"{"payload":1,"max_attempts":0}"#, "max_attempts"),
        (r#"{"payload":1,"expires":5}"#, "expires"),
        (r#"{"payload":1,"headers":{"a b":"c"}}"#, "headers"),
        (&deep(65), "payload"),
        ("{\"payload\":\"\u{0}\"}", "body"),
    ] {
        let reason = rig.client.post(JOBS, body).fails(400, field);
        assert!(!reason.is_empty(), "{body}");
    }
    rig.client.post(JOBS, &deep(64)).data(201);
    let long = format!(r#"{{"payload":"{}"}}"#, "x".repeat(256 * 1024));
    assert!(rig.client.post(JOBS, &long).fails(413, "payload").contains("max_payload"));
    let longer = format!(r#"{{"payload":"{}"}}"#, "x".repeat(9 * 1024 * 1024));
    assert_eq!(rig.client.post(JOBS, &longer).status, 413);
    assert!(
        rig.client.post("/api/v1/queues/a%20b/jobs", r#"{"payload":1}"#).fails(400, "queue").contains("A-Z")
    );
    rig.client
        .post(&format!("/api/v1/queues/{}/jobs", "q".repeat(65)), r#"{"payload":1}"#)
        .fails(400, "queue");
    rig.client.post("/api/v1/queues/q/jobs?wiat=5s", r#"{"payload":1}"#).fails(400, "wiat");
    rig.client.get("/api/v1/queues/q/jobs/a%20b").fails(400, "id");
    // Nothing of all this was stored.
    assert_eq!(rig.client.get("/api/v1/queues/q").data(200)["ready"], 1);
}

fn the_past_is_now(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    let job = rig.client.enqueue("q", &json!({"payload": 1, "due": 1000})).data(201);
    assert_eq!(job["state"], "ready", "{job}");
}

fn a_full_queue_says_when_to_come_again(store: Store) {
    let rig = Rig::new(store, &format!("{NOBODY}[queues.q]\nmax_waiting = 2\n"));
    let _up = rig.up();
    for _ in 0..2 {
        rig.client.enqueue("q", &json!({"payload": 1})).data(201);
    }
    let full = rig.client.enqueue("q", &json!({"payload": 1}));
    assert_eq!((full.status, full.json()["status"].as_str()), (503, Some("error")), "{full:?}");
    assert!(full.json()["message"].as_str().unwrap().contains("max_waiting"), "{full:?}");
    assert!(full.header("retry-after").parse::<u64>().unwrap() >= 1);
    let results = rig.client.post(JOBS, r#"[{"payload":1}]"#).data(207);
    assert_eq!(results["results"][0]["status"], 503, "{results}");
    assert_eq!(rig.client.get("/api/v1/queues/q").data(200)["ready"], 2);
}

fn live_settings_count(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    rig.client.enqueue("q", &json!({"payload": "12345"})).data(201);
    assert_eq!(rig.site.cli(&["queue", "set", "q", "max_payload", "4B"]).unwrap().code, Some(0));
    let refused = wait_for("the live setting to count", SOON, || {
        match rig.client.enqueue("q", &json!({"payload": "12345"})).status {
            413 => Ok(()),
            other => Err(other.to_string()),
        }
    });
    refused.unwrap();
}

fn paths_and_methods_that_are_none(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    rig.client.get("/none").fails(404, "path");
    rig.client.get("/api/v2/queues").fails(404, "path");
    rig.client.get("//api/v1/queues").fails(404, "path");
    rig.client.send("PUT", "/api/v1/queues/q/jobs", &[], "{}").fails(405, "method");
    rig.client.send("BREW", "/ping", &[], "").fails(405, "method");
    assert_eq!(rig.client.send("HEAD", "/livez", &[], "").status, 200);
}
