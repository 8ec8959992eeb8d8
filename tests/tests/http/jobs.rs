//! One job and one queue at a time, as a producer and an operator would.

use std::time::Duration;

use roundsman_shared::clock::Mono;
use serde_json::{Value, json};

use crate::rig::{ECHO, NOBODY, Rig, Store, on_both};

on_both!(
    a_job_is_enqueued_and_found,
    the_same_job_again_is_answered_the_same,
    a_header_names_the_id,
    a_call_waits_for_the_end,
    a_waiting_job_is_changed,
    a_job_is_cancelled,
    a_dead_job_is_found_and_retried,
    jobs_are_listed_by_pages,
    queues_are_shown_and_paused,
    the_fleet_is_shown,
    the_description_is_of_what_there_is,
);

fn a_job_is_enqueued_and_found(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    let given = json!({"id": "a", "kind": "mail", "payload": {"é": [1.0, null]}, "in": "1h", "priority": 3,
        "key": "k", "timeout": "5s", "max_attempts": 7, "headers": {"traceparent": "t"}});
    let answer = rig.client.enqueue("q", &given);
    assert_eq!(answer.header("content-type"), "application/json");
    let job = answer.data(201);
    for (field, value) in [
        ("id", json!("a")),
        ("queue", json!("q")),
        ("kind", json!("mail")),
        ("state", json!("scheduled")),
        ("payload", json!({"é": [1.0, null]})),
        ("priority", json!(3)),
        ("attempt", json!(0)),
        ("crashes", json!(0)),
        ("max_attempts", json!(7)),
        ("key", json!("k")),
        ("headers", json!({"traceparent": "t"})),
        ("result", Value::Null),
        ("error", Value::Null),
        ("attempts", json!([])),
    ] {
        assert_eq!(job[field], value, "{field}: {job}");
    }
    assert_eq!(job["due"].as_i64().unwrap() - job["created"].as_i64().unwrap(), 3_600_000, "{job}");
    assert_eq!(rig.client.job("q", "a"), job);
    // The command line prints the same object.
    assert_eq!(rig.site.cli_json(&["job", "show", "q/a"]).unwrap(), job);
    let bare = rig.client.enqueue("q", &json!({"payload": null})).data(201);
    assert_eq!((bare["id"].as_str().unwrap().len(), &bare["state"]), (36, &json!("ready")));
    let gone = rig.client.get("/api/v1/queues/q/jobs/none");
    assert_eq!(gone.fails(404, "id"), "there is no job q/none");
    // Whoever could fill this one would send with the fleet's rights.
    let own = rig.client.post("/api/v1/queues/roundsman.replies/jobs", r#"{"payload":1}"#);
    assert!(own.fails(400, "queue").contains("Roundsman's own"));
}

fn the_same_job_again_is_answered_the_same(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    let job = json!({"id": "a", "payload": 1, "in": "1h"});
    let first = rig.client.enqueue("q", &job).data(201);
    assert_eq!(rig.client.enqueue("q", &job).data(200), first);
    let other = rig.client.enqueue("q", &json!({"id": "a", "payload": 2}));
    assert!(other.fails(409, "id").contains("q/a is there already with other content"));
    assert_eq!(rig.client.job("q", "a"), first);
}

fn a_header_names_the_id(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    let send = |key: &str, job: &str| {
        rig.client.send("POST", "/api/v1/queues/q/jobs", &[("idempotency-key", key)], job)
    };
    assert_eq!(send("a", r#"{"payload":1}"#).data(201)["id"], "a");
    assert_eq!(send("\"a\"", r#"{"payload":1}"#).data(200)["id"], "a");
    assert_eq!(send("a", r#"{"payload":1,"id":"a"}"#).data(200)["id"], "a");
    send("a", r#"{"payload":2}"#).fails(409, "id");
    send("a", r#"{"payload":1,"id":"b"}"#).fails(400, "id");
    send("a b", r#"{"payload":1}"#).fails(400, "Idempotency-Key");
    send("a", r#"[{"payload":1}]"#).fails(400, "Idempotency-Key");
}

fn a_call_waits_for_the_end(store: Store) {
    let rig = Rig::new(store, ECHO);
    let _up = rig.up();
    let quick = rig.client.post("/api/v1/queues/default/jobs?wait=20s", r#"{"payload":{"a":1}}"#).data(201);
    assert_eq!((&quick["state"], &quick["result"]), (&json!("done"), &json!({"a": 1})), "{quick}");
    let begun = Mono::now();
    let late = r#"{"payload":1,"id":"late","in":"1h"}"#;
    let late = rig.client.post("/api/v1/queues/default/jobs?wait=300ms", late).data(201);
    let took = Mono::now().since(begun);
    assert_eq!(late["state"], "scheduled");
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(5), "{took:?}");
    // It ends while somebody waits.
    let waiting = rig.client.clone();
    let waiter = std::thread::spawn(move || waiting.get("/api/v1/queues/default/jobs/late?wait=20s"));
    rig.client.post("/api/v1/queues/default/jobs/late/retry", "").data(200);
    let ended = waiter.join().unwrap().data(200);
    assert_eq!(ended["state"], "done", "{ended}");
    for wait in ["soon", "-1s", "6m", "5"] {
        rig.client.get(&format!("/api/v1/queues/default/jobs/late?wait={wait}")).fails(400, "wait");
    }
}

fn a_waiting_job_is_changed(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    let path = "/api/v1/queues/q/jobs/a";
    let patch = |body: &str| rig.client.send("PATCH", path, &[], body);
    patch(r#"{"in":"5s"}"#).fails(404, "id");
    let first = rig.client.enqueue("q", &json!({"id": "a", "payload": 1, "kind": "k", "in": "1h"})).data(201);
    let moved = patch(r#"{"due":4000000000000}"#);
    assert!(moved.fails(400, "due").contains("10 years"));
    let due = first["due"].as_i64().unwrap() + 5000;
    assert_eq!(patch(&format!(r#"{{"due":{due}}}"#)).data(200)["due"], due);
    let other = patch(r#"{"payload":{"b":[2]}}"#).data(200);
    assert_eq!(
        (&other["payload"], &other["due"], &other["kind"]),
        (&json!({"b": [2]}), &json!(due), &json!("k"))
    );
    let both = patch(r#"{"payload":null,"in":"0s"}"#).data(200);
    assert_eq!((&both["payload"], &both["state"]), (&Value::Null, &json!("ready")));
    assert_eq!(both["created"], first["created"]);
    for (body, field) in [
        ("{}", "body"),
        (r#"{"in":"5s","due":1}"#, "in"),
        (r#"{"in":"soon"}"#, "in"),
        (r#"{"due":-1}"#, "due"),
        (r#"{"priority":1}"#, "priority"),
        ("[]", "body"),
        ("{", "body"),
    ] {
        patch(body).fails(400, field);
    }
    let deep = format!(r#"{{"payload":{}1{}}}"#, "[".repeat(65), "]".repeat(65));
    assert_eq!(patch(&deep).fails(400, "payload"), "nests deeper than 64");
    let long = format!(r#"{{"payload":"{}"}}"#, "x".repeat(256 * 1024));
    patch(&long).fails(413, "payload");
    assert_eq!(rig.client.job("q", "a"), both);
    rig.client.send("DELETE", path, &[], "").data(200);
    assert_eq!(patch(r#"{"in":"5s"}"#).fails(409, "state"), "q/a is cancelled");
}

fn a_job_is_cancelled(store: Store) {
    let rig =
        Rig::new(store, "[pools.default]\nhandler = { type = \"exec\", command = [\"sleep\", \"600\"] }\n");
    let _up = rig.up();
    let delete = |id: &str| rig.client.send("DELETE", &format!("/api/v1/queues/default/jobs/{id}"), &[], "");
    rig.client.enqueue("default", &json!({"id": "a", "payload": 1, "in": "1h"})).data(201);
    assert_eq!(delete("a").data(200)["state"], "cancelled");
    assert_eq!(delete("a").fails(409, "state"), "default/a is cancelled");
    delete("none").fails(404, "id");
    rig.client.enqueue("default", &json!({"id": "b", "payload": 1})).data(201);
    let running = roundsman_tests::wait::wait_for("b to run", crate::rig::SOON, || {
        let job = rig.client.job("default", "b");
        if job["attempts"][0]["started"].is_i64() { Ok(()) } else { Err(job.to_string()) }
    });
    running.unwrap();
    rig.client.send("PATCH", "/api/v1/queues/default/jobs/b", &[], r#"{"payload":2}"#).fails(409, "state");
    delete("b").data(200);
    let ended = rig.client.get("/api/v1/queues/default/jobs/b?wait=30s").data(200);
    assert_eq!(ended["state"], "cancelled", "{ended}");
}

fn a_dead_job_is_found_and_retried(store: Store) {
    let rig = Rig::new(
        store,
        "[pools.default]\nhandler = { type = \"exec\", command = [\"sh\", \"-c\", \"echo bad 17 >&2; exit 65\"] }\n",
    );
    let _up = rig.up();
    for id in ["a", "b"] {
        let job = json!({"id": id, "payload": 1, "kind": id});
        let path = "/api/v1/queues/default/jobs?wait=30s";
        assert_eq!(rig.client.post(path, &job.to_string()).data(201)["state"], "dead");
    }
    let ids = |path: &str| {
        let data = rig.client.get(path).data(200);
        let jobs = data["jobs"].as_array().unwrap().clone();
        jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("/api/v1/dead"), ["b", "a"]);
    assert_eq!(ids("/api/v1/dead?queue=default&kind=a"), ["a"]);
    assert_eq!(ids("/api/v1/dead?error=nothing"), [""; 0]);
    assert_eq!(ids("/api/v1/dead?limit=1"), ["b"]);
    let groups = rig.client.get("/api/v1/dead?by=error").data(200);
    assert_eq!((&groups["groups"][0]["count"], &groups["more"]), (&json!(2), &json!(false)), "{groups}");
    let groups = rig.client.get("/api/v1/dead?by=error&look=1").data(200);
    assert_eq!((&groups["groups"][0]["count"], &groups["more"]), (&json!(1), &json!(true)), "{groups}");
    assert_eq!(groups["groups"][0]["example"], "default/b", "the newest");
    for (query, field) in [
        ("by=kind", "by"),
        ("look=5", "look"),
        ("by=error&look=0", "look"),
        ("by=error&limit=3", "by"),
        ("limit=0", "limit"),
        ("cursor=x", "cursor"),
        ("color=x", "color"),
        ("queue=a%20b", "queue"),
    ] {
        rig.client.get(&format!("/api/v1/dead?{query}")).fails(400, field);
    }
    rig.client.get("/api/v1/dead?queue=none").fails(404, "queue");
    let retried = rig.client.post("/api/v1/queues/default/jobs/a/retry", "").data(200);
    assert_ne!(retried["id"], "b");
    let again = rig.client.get("/api/v1/queues/default/jobs/a?wait=30s").data(200);
    assert_eq!(again["state"], "dead");
    rig.client.post("/api/v1/queues/default/jobs/none/retry", "").fails(404, "id");
}

fn jobs_are_listed_by_pages(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    for number in 0..7 {
        let kind = if number % 2 == 0 { "even" } else { "odd" };
        let job = json!({"id": format!("j{number}"), "payload": 1, "kind": kind, "in": format!("{}s", 1000 + number)});
        rig.client.enqueue("q", &job).data(201);
    }
    rig.client.enqueue("q", &json!({"id": "now", "payload": 1})).data(201);
    let (mut seen, mut next) = (Vec::new(), String::new());
    let mut pages = 0;
    loop {
        let page = rig.client.get(&format!("/api/v1/queues/q/jobs?limit=3{next}")).data(200);
        let jobs = page["jobs"].as_array().unwrap();
        assert!(jobs.len() <= 3);
        seen.extend(jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        pages += 1;
        let Some(cursor) = page["next"].as_str() else { break };
        next = format!("&cursor={}", cursor.replace('%', "%25").replace('+', "%2B"));
        assert!(pages < 20, "{seen:?}");
    }
    seen.sort_unstable();
    assert_eq!(seen, ["j0", "j1", "j2", "j3", "j4", "j5", "j6", "now"]);
    let count = |query: &str| {
        let page = rig.client.get(&format!("/api/v1/queues/q/jobs?{query}")).data(200);
        page["jobs"].as_array().unwrap().len()
    };
    assert_eq!(count("state=ready"), 1);
    assert_eq!(count("state=ready,done"), 1);
    assert_eq!(count("state=ready&state=scheduled"), 8);
    assert_eq!(count("kind=odd"), 3);
    for (query, field) in
        [("state=asleep", "state"), ("limit=1001", "limit"), ("cursor=x", "cursor"), ("kinds=x", "kinds")]
    {
        rig.client.get(&format!("/api/v1/queues/q/jobs?{query}")).fails(400, field);
    }
    rig.client.get("/api/v1/queues/none/jobs").fails(404, "queue");
}

fn queues_are_shown_and_paused(store: Store) {
    let rig = Rig::new(store, &format!("{ECHO}[queues.named]\ntimeout = \"7s\"\n"));
    let _up = rig.up();
    let names = || {
        let data = rig.client.get("/api/v1/queues").data(200);
        let queues = data["queues"].as_array().unwrap().clone();
        queues.iter().map(|queue| queue["queue"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["default", "named", "timers"]);
    rig.client.enqueue("new", &json!({"payload": 1})).data(201);
    assert_eq!(names(), ["default", "named", "new", "timers"]);
    let new = rig.client.get("/api/v1/queues/new").data(200);
    assert_eq!((&new["ready"], &new["paused"]), (&json!(1), &json!(false)), "{new}");
    let named = rig.client.get("/api/v1/queues/named").data(200);
    assert_eq!(
        named["settings"]["timeout"],
        rig.site.cli_json(&["queue", "show", "named"]).unwrap()["settings"]["timeout"]
    );
    rig.client.get("/api/v1/queues/none").fails(404, "queue");
    rig.client.post("/api/v1/queues/none/pause", "").fails(404, "queue");
    assert_eq!(rig.client.post("/api/v1/queues/default/pause", "").data(200)["paused"], true);
    let held =
        rig.client.post("/api/v1/queues/default/jobs?wait=500ms", r#"{"id":"h","payload":1}"#).data(201);
    assert_eq!(held["state"], "ready");
    assert_eq!(rig.client.post("/api/v1/queues/default/resume", "").data(200)["paused"], false);
    assert_eq!(rig.client.get("/api/v1/queues/default/jobs/h?wait=20s").data(200)["state"], "done");
}

fn the_fleet_is_shown(store: Store) {
    let rig = Rig::new(store, ECHO);
    let up = rig.up();
    up.wait_for_workers(1, crate::rig::SOON).unwrap();
    let told = rig.site.cli_json(&["status"]).unwrap();
    let fleet = rig.client.get("/api/v1/fleet").data(200);
    assert_eq!(fleet["store"], told["store"]);
    assert_eq!(fleet["hosts"][0]["host"], told["hosts"][0]["host"]);
    let pools = fleet["hosts"][0]["pools"].as_array().unwrap();
    let names: Vec<&str> = pools.iter().map(|pool| pool["pool"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "timers"], "a part is no pool");
    let scaling = rig.client.get("/api/v1/scaling").data(200);
    assert_eq!(scaling["pools"][0]["pool"], "default");
    assert!(scaling["pools"][0]["desired"].is_u64(), "{scaling}");
}

fn the_description_is_of_what_there_is(store: Store) {
    let rig = Rig::new(store, ECHO);
    let _up = rig.up();
    let answer = rig.client.get("/openapi.json");
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let description = answer.json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3."));
    let paths: Vec<&str> = description["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    for path in [
        "/api/v1/queues/{queue}/jobs",
        "/api/v1/queues/{queue}/jobs/{id}",
        "/api/v1/queues/{queue}/jobs/{id}/retry",
        "/api/v1/queues",
        "/api/v1/queues/{queue}",
        "/api/v1/queues/{queue}/pause",
        "/api/v1/queues/{queue}/resume",
        "/api/v1/dead",
        "/api/v1/fleet",
        "/timer",
        "/timer/{id}",
        "/ping",
        "/livez",
        "/readyz",
    ] {
        assert!(paths.contains(&path), "{path} is not in {paths:?}");
    }
    let show = &description["paths"]["/api/v1/queues/{queue}"]["get"];
    assert_eq!(show["parameters"][0]["schema"]["pattern"], "^[A-Za-z0-9._-]{1,64}$", "{show}");
    for status in ["200", "400", "401", "403", "404", "429", "503"] {
        assert!(show["responses"].get(status).is_some(), "{status}: {show}");
    }
    // Every field of what is really sent is described, and no other.
    let job = rig.client.post("/api/v1/queues/default/jobs?wait=20s", r#"{"payload":1}"#).data(201);
    let keys = |value: &Value| {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort_unstable();
        keys
    };
    let schemas = &description["components"]["schemas"];
    assert_eq!(keys(&schemas["JobDocument"]["properties"]), keys(&job));
    assert_eq!(keys(&schemas["AttemptDocument"]["properties"]), keys(&job["attempts"][0]));
    let queue = &rig.client.get("/api/v1/queues").data(200)["queues"][0];
    assert_eq!(keys(&schemas["QueueDocument"]["properties"]), keys(queue));
}
