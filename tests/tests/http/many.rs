//! Many jobs in one call.

use serde_json::{Value, json};

use crate::rig::{ECHO, NOBODY, Rig, Store, on_both};

on_both!(
    an_array_is_answered_item_by_item,
    lines_are_taken_as_they_come,
    many_more_than_a_batch_are_stored,
    a_call_waits_for_what_has_ended,
    too_many_are_refused_from_there_on,
);

const LINES: [(&str, &str); 1] = [("content-type", "application/x-ndjson")];
const JOBS: &str = "/api/v1/queues/q/jobs";

fn column<'v>(results: &'v Value, name: &str) -> Vec<&'v Value> {
    results["results"].as_array().unwrap().iter().map(|result| &result[name]).collect()
}

fn an_array_is_answered_item_by_item(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    rig.client.enqueue("q", &json!({"id": "old", "payload": 1})).data(201);
    let jobs = json!([
        {"id": "a", "payload": 1},
        {"id": "old", "payload": 1},
        {"id": "old", "payload": 2},
        {"payload": 1, "dealy": 5},
        5,
        {"payload": "x".repeat(300_000)},
        {"payload": null},
    ]);
    let results = rig.client.post(JOBS, &jobs.to_string()).data(207);
    assert_eq!(column(&results, "index"), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(column(&results, "status"), [201, 200, 409, 400, 400, 413, 201]);
    let refused = "refused";
    assert_eq!(
        column(&results, "result"),
        ["created", "existing", refused, refused, refused, refused, "created"]
    );
    assert_eq!(results["results"][0]["id"], "a");
    assert!(results["results"][3]["error"]["dealy"].as_str().unwrap().contains("unknown field"));
    assert!(results["results"][5]["error"]["payload"].is_string());
    assert_eq!(results["results"][0]["error"], Value::Null);
    assert_eq!(rig.client.get("/api/v1/queues/q").data(200)["ready"], 3);
    assert_eq!(rig.client.post(JOBS, "[]").data(207), json!({"results": []}));
    rig.client.post(JOBS, "[{\"payload\":1},").fails(400, "body");
    assert_eq!(rig.client.get("/api/v1/queues/q").data(200)["ready"], 3);
}

fn lines_are_taken_as_they_come(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    let long = format!("{{\"payload\":\"{}\"}}", "x".repeat(2_000_000));
    let text =
        format!("{{\"id\":\"a\",\"payload\":1}}\r\n\nnonsense\n{long}\n{{\"id\":\"b\",\"payload\":2}}");
    let results = rig.client.send("POST", JOBS, &LINES, &text).data(207);
    assert_eq!(column(&results, "status"), [201, 400, 413, 201]);
    assert_eq!(rig.client.job("q", "b")["payload"], 2);
}

fn many_more_than_a_batch_are_stored(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    let text: String = (0..5000).map(|n| format!("{{\"payload\":{n}}}\n")).collect();
    let results = rig.client.send("POST", JOBS, &LINES, &text).data(207);
    assert!(column(&results, "status").iter().all(|status| **status == 201));
    assert_eq!(results["results"].as_array().unwrap().len(), 5000);
    assert_eq!(rig.client.get("/api/v1/queues/q").data(200)["ready"], 5000);
}

fn a_call_waits_for_what_has_ended(store: Store) {
    let rig = Rig::new(store, ECHO);
    let _up = rig.up();
    let jobs = json!([{"payload": 1}, {"payload": 2, "in": "1h"}, {"payload": 3, "x": 1}]);
    let path = "/api/v1/queues/default/jobs?wait=3s";
    let results = rig.client.post(path, &jobs.to_string()).data(207);
    let states: Vec<&Value> =
        results["results"].as_array().unwrap().iter().map(|result| &result["job"]["state"]).collect();
    assert_eq!(states, [&json!("done"), &json!("scheduled"), &Value::Null], "{results}");
    assert_eq!(results["results"][0]["job"]["result"], 1);
}

fn too_many_are_refused_from_there_on(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    let jobs = Value::Array(vec![json!({"payload": 1}); 1005]);
    let results = rig.client.post(&format!("{JOBS}?wait=1ms"), &jobs.to_string()).data(207);
    let statuses = column(&results, "status");
    assert_eq!((statuses.len(), statuses[999], statuses[1000]), (1001, &json!(201), &json!(413)));
    assert_eq!(rig.client.get("/api/v1/queues/q").data(200)["ready"], 1000);
}
