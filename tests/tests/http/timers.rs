//! Skyring's API: its own 24 cases, with the numbers they have there, and where we must differ.

use std::time::Duration;

use roundsman_tests::receiver::{Receiver, Reply, Seen};
use roundsman_tests::tree::{Site, Up, UpOptions};
use roundsman_tests::wait::wait_for;
use roundsman_tests::{ports, time};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::rig::{Answer, Client, LATE, NOBODY, Rig, SOON, Store, on_both};

on_both!(
    pings_and_unknown_routes,
    timers_are_delivered,
    bad_timers_are_refused,
    timers_are_cancelled,
    timers_are_set_anew,
    clients_choose_ids_and_beginnings,
    a_failed_delivery_is_tried_again,
    a_failed_delivery_drops_the_timer_if_told_so,
    a_restart_loses_no_timer,
    other_transports_by_name,
    what_crashes_there_is_refused_here,
    a_slow_client_and_a_long_body,
    one_call_of_many_clients_is_stored_with_others,
);

const ALLOW: &str =
    "[transports.http]\nallow = [\"127.0.0.0/8\"]\n[transports.tcp]\nallow = [\"127.0.0.0/8\"]\n";
const NONE: &str = "0a0a0a0a-0b0b-4c0c-8d0d-0e0e0e0e0e0e";

fn set_up(store: Store, more: &str) -> (Rig, Up) {
    let rig = Rig::new(store, &format!("{NOBODY}{ALLOW}{more}"));
    let up = rig.up();
    (rig, up)
}

fn receiver() -> Receiver {
    Receiver::start(|_, _| Reply::status(200)).unwrap()
}

fn timer(url: &str, timeout: impl Into<Value>, data: impl Into<Value>) -> Value {
    json!({"timeout": timeout.into(), "data": data.into(),
        "callback": {"transport": "http", "method": "post", "uri": url}})
}

#[track_caller]
fn post(client: &Client, timer: &Value) -> Answer {
    client.post("/timer", &timer.to_string())
}

/// Sets a timer; answers its path.
#[track_caller]
fn set(client: &Client, timer: &Value) -> String {
    let answer = post(client, timer);
    assert_eq!((answer.status, answer.body.as_str()), (201, ""), "{answer:?}");
    let location = answer.header("location");
    assert!(location.starts_with("/timer/"), "{answer:?}");
    location.to_owned()
}

#[track_caller]
fn refused(answer: &Answer, status: u16) -> String {
    assert_eq!((answer.status, answer.body.as_str()), (status, ""), "{answer:?}");
    assert!(answer.header("location").starts_with("/timer/"), "{answer:?}");
    let reason = answer.header("x-skyring-reason");
    assert_ne!(reason, "", "{answer:?}");
    reason.to_owned()
}

#[track_caller]
fn wait_seen(up: &Up, receiver: &Receiver, count: usize) -> Vec<Seen> {
    let found = wait_for(&format!("{count} callbacks"), LATE, || {
        let seen = receiver.seen();
        if seen.len() >= count { Ok(seen) } else { Err(format!("{seen:?}")) }
    });
    found.unwrap_or_else(|late| panic!("{late}\n{}", up.stderr()))
}

/// 1 and 20.
fn pings_and_unknown_routes(store: Store) {
    let (rig, _up) = set_up(store, "");
    for path in ["/ping", "/ping/"] {
        let ping = rig.client.get(path);
        assert_eq!((ping.status, ping.body.as_str()), (200, ""));
    }
    let unknown = rig.client.get("/unknown");
    assert_eq!((unknown.status, unknown.header("x-skyring-reason")), (404, "Not Found"));
    assert_eq!(unknown.json()["status"], "fail");
    let path = set(&rig.client, &timer("http://127.0.0.1:9/", 60_000, json!("x")));
    let job = rig.client.get(&path).data(200);
    assert_eq!((&job["queue"], &job["state"]), (&json!("timers"), &json!("scheduled")), "{job}");
    assert_eq!(job["payload"]["data"], "x");
    rig.client.get(&format!("/timer/{NONE}")).fails(404, "id");
}

/// 2, 3 and 4.
fn timers_are_delivered(store: Store) {
    let (rig, up) = set_up(store, "");
    let receiver = receiver();
    let begun = time::wall_us();
    set(&rig.client, &timer(&receiver.url("a"), 1000, json!("hello")));
    let seen = wait_seen(&up, &receiver, 1);
    assert_eq!((&*seen[0].method, &*seen[0].path, &*seen[0].body), ("POST", "/a", "hello"));
    assert!(seen[0].at_us >= begun + 1_000_000, "{} µs early", begun + 1_000_000 - seen[0].at_us);
    assert_ne!(seen[0].header("webhook-id"), "", "a receiver can drop repeats");
    let mut bare = timer(&receiver.url("b"), "1.5", Value::Null);
    bare.as_object_mut().unwrap().remove("data");
    let slash = rig.client.post("/timer/", &bare.to_string());
    assert_eq!(slash.status, 201, "{slash:?}");
    assert_eq!(wait_seen(&up, &receiver, 2)[1].body, "");
    set(&rig.client, &timer(&receiver.url("c"), 1, json!({"a": null, "b": [1.0]})));
    assert_eq!(wait_seen(&up, &receiver, 3)[2].body, r#"{"a":null,"b":[1.0]}"#);
}

/// 5, 6, 8, 9, 10 and 11.
fn bad_timers_are_refused(store: Store) {
    let (rig, _up) = set_up(store, "");
    let good = timer("http://127.0.0.1:9/", 60_000, json!("x"));
    let with = |field: &str, value: Value| {
        let mut timer = good.clone();
        timer[field] = value;
        timer
    };
    for timeout in [json!(0), json!(0.5), json!(-1), json!(null), json!("x"), json!(2_147_483_648_u64)] {
        refused(&post(&rig.client, &with("timeout", timeout)), 400);
    }
    let mut none = good.clone();
    none.as_object_mut().unwrap().remove("timeout");
    assert!(refused(&post(&rig.client, &none), 400).contains("timeout: is required"));
    for data in [json!(5), json!([1]), json!(false)] {
        assert!(refused(&post(&rig.client, &with("data", data)), 400).contains("data"));
    }
    for callback in [json!(null), json!("x"), json!([])] {
        let reason = refused(&post(&rig.client, &with("callback", callback)), 400);
        assert!(reason.contains("callback is required"), "{reason}");
    }
    for field in ["uri", "transport", "method"] {
        let mut callback = good["callback"].clone();
        callback.as_object_mut().unwrap().remove(field);
        let reason = refused(&post(&rig.client, &with("callback", callback)), 400);
        assert!(reason.contains(&format!("callback.{field}")), "{reason}");
    }
    for body in ["{", "", "[]", "5"] {
        refused(&rig.client.post("/timer", body), 400);
    }
    assert_eq!(rig.client.get("/api/v1/queues/timers").data(200)["scheduled"], 0);
}

/// 7, 12, 13 and 14.
fn timers_are_cancelled(store: Store) {
    let (rig, up) = set_up(store, "");
    let receiver = receiver();
    let delete = |path: &str| rig.client.send("DELETE", path, &[], "");
    let longest = set(&rig.client, &timer(&receiver.url("never"), 2_147_483_647, json!("x")));
    assert_eq!(delete(&longest).status, 202);
    let path = set(&rig.client, &timer(&receiver.url("never"), 800, json!("x")));
    let cancelled = delete(&format!("{path}/"));
    assert_eq!((cancelled.status, cancelled.body.as_str(), cancelled.header("location")), (202, "", &*path));
    refused(&delete(&path), 404);
    refused(&delete(&format!("/timer/{NONE}")), 404);
    let kept = set(&rig.client, &timer(&receiver.url("kept"), 1500, json!("x")));
    let junk = format!(
        "DELETE {kept} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 4\r\n\r\njunk"
    );
    assert!(rig.client.raw(junk.as_bytes()).starts_with("HTTP/1.1 400"));
    // The later one is seen, the earlier one never is.
    let seen = wait_seen(&up, &receiver, 1);
    assert_eq!(seen.iter().map(|seen| &*seen.path).collect::<Vec<_>>(), ["/kept"]);
    // 13 once more: it is over.
    wait_for("the timer to be over", SOON, || match delete(&kept).status {
        404 => Ok(()),
        other => Err(other.to_string()),
    })
    .unwrap();
}

/// 15 and 16.
fn timers_are_set_anew(store: Store) {
    let (rig, up) = set_up(store, "");
    let receiver = receiver();
    let put = |path: &str, body: &str| rig.client.send("PUT", path, &[], body);
    let path = set(&rig.client, &timer(&receiver.url("a"), 60_000, json!("old")));
    let before = rig.client.get(&path).data(200);
    for body in ["{", "null", r#"{"timeout":5}"#] {
        refused(&put(&path, body), 400);
    }
    assert_eq!(rig.client.get(&path).data(200), before);
    let begun = time::wall_us();
    let anew = put(&path, &timer(&receiver.url("b"), 250, json!({"new": 1})).to_string());
    assert_eq!((anew.status, anew.body.as_str(), anew.header("location")), (200, "", &*path), "{anew:?}");
    let seen = wait_seen(&up, &receiver, 1);
    assert_eq!((&*seen[0].path, &*seen[0].body), ("/b", r#"{"new":1}"#));
    assert!(seen[0].at_us >= begun + 250_000);
    let good = timer(&receiver.url("c"), 1, json!("x")).to_string();
    refused(&put(&format!("/timer/{NONE}"), &good), 404);
    wait_for("the timer to be over", SOON, || match put(&path, &good).status {
        404 => Ok(()),
        other => Err(other.to_string()),
    })
    .unwrap();
    assert_eq!(receiver.seen().len(), 1);
}

/// 17 and 18.
fn clients_choose_ids_and_beginnings(store: Store) {
    let (rig, up) = set_up(store, "");
    let receiver = receiver();
    let send = |id: &str, timer: &Value| {
        rig.client.send("POST", "/timer", &[("x-timer-id", id)], &timer.to_string())
    };
    let named = send("my.timer", &timer(&receiver.url("a"), 1, json!("x")));
    assert_eq!((named.status, named.header("location")), (201, "/timer/my.timer"));
    wait_seen(&up, &receiver, 1);
    // Once it is over, its id is free again.
    wait_for("the id to be free", SOON, || {
        match send("my.timer", &timer(&receiver.url("again"), 1, json!("x"))).status {
            201 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .unwrap();
    assert_eq!(wait_seen(&up, &receiver, 2)[1].path, "/again");
    refused(&send("a b", &timer(&receiver.url("a"), 1, json!("x"))), 400);
    let now = || i64::try_from(time::wall_us() / 1000).unwrap();
    let mut stale = timer(&receiver.url("stale"), 1000, json!("x"));
    stale["created"] = json!(now() - 5000);
    let begun = time::wall_us();
    set(&rig.client, &stale);
    let seen = wait_seen(&up, &receiver, 3);
    assert!(seen[2].at_us < begun + 900_000, "it waited");
    let mut moved = timer(&receiver.url("moved"), 1000, json!("x"));
    let created = now() - 600;
    moved["created"] = json!(created);
    set(&rig.client, &moved);
    let seen = wait_seen(&up, &receiver, 4);
    let after = i64::try_from(seen[3].at_us / 1000).unwrap() - created;
    assert!(after >= 999, "it came {after} ms after it was created");
}

/// 19: where Skyring drops the timer, it is tried again.
fn a_failed_delivery_is_tried_again(store: Store) {
    let backoff = "[queues.timers]\nbackoff = { type = \"fixed\", delay = \"100ms\" }\n";
    let (rig, up) = set_up(store, backoff);
    let receiver = Receiver::start(|_, number| Reply::status(if number == 0 { 500 } else { 204 })).unwrap();
    let path = set(&rig.client, &timer(&receiver.url("a"), 1, json!("x")));
    let seen = wait_seen(&up, &receiver, 2);
    assert_eq!(seen[0].header("webhook-id"), seen[1].header("webhook-id"));
    assert_eq!((seen[0].header("roundsman-attempt"), seen[1].header("roundsman-attempt")), ("1", "2"));
    let id = path.trim_start_matches("/timer/");
    let ended = rig.client.get(&format!("/api/v1/queues/timers/jobs/{id}?wait=20s")).data(200);
    assert_eq!(ended["state"], "done", "{ended}");
}

fn a_failed_delivery_drops_the_timer_if_told_so(store: Store) {
    let (rig, up) = set_up(store, "[queues.timers]\nmax_attempts = 1\n");
    let receiver = Receiver::start(|_, _| Reply::status(500)).unwrap();
    let path = set(&rig.client, &timer(&receiver.url("a"), 1, json!("x")));
    wait_seen(&up, &receiver, 1);
    let id = path.trim_start_matches("/timer/");
    let ended = rig.client.get(&format!("/api/v1/queues/timers/jobs/{id}?wait=20s")).data(200);
    assert_eq!(ended["state"], "dead", "{ended}");
    refused(&rig.client.send("DELETE", &path, &[], ""), 404);
    assert_eq!(receiver.seen().len(), 1);
}

/// 23.
fn a_restart_loses_no_timer(store: Store) {
    let (rig, up) = set_up(store, "");
    let receiver = receiver();
    let begun = time::wall_us();
    set(&rig.client, &timer(&receiver.url("soon"), 1000, json!({"a": [1]})));
    set(&rig.client, &timer(&receiver.url("later"), 8000, json!("x")));
    up.signal(Signal::TERM).unwrap();
    assert!(up.wait_exit(LATE).unwrap().success());
    let up = rig.up();
    let seen = wait_seen(&up, &receiver, 2);
    assert_eq!((&*seen[0].path, &*seen[0].body), ("/soon", r#"{"a":[1]}"#));
    assert_eq!(seen[1].path, "/later");
    assert!(seen[1].at_us >= begun + 8_000_000);
    assert_eq!(receiver.seen().len(), 2);
}

/// 24.
fn other_transports_by_name(store: Store) {
    let (rig, up) = set_up(store, "");
    let stdout = json!({"timeout": 1, "data": {"n": 1},
        "callback": {"transport": "stdout", "method": "", "uri": ""}});
    set(&rig.client, &stdout);
    wait_for("the line", SOON, || {
        let out = up.stdout();
        if out.contains(r#""data":{"n":1}"#) || out.contains(r#"{"n":1}"#) { Ok(()) } else { Err(out) }
    })
    .unwrap();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let uri = format!("tcp://{}", listener.local_addr().unwrap());
    let tcp =
        json!({"timeout": 1, "data": {"n": 2}, "callback": {"transport": "tcp", "method": "x", "uri": uri}});
    set(&rig.client, &tcp);
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stream), &mut line).unwrap();
    assert!(line.contains(r#"{"n":2}"#), "{line}");
}

/// The four where Skyring crashes or loses the timer.
fn what_crashes_there_is_refused_here(store: Store) {
    let (rig, up) = set_up(store, "");
    let receiver = receiver();
    let process = crate::rig::http_process(&up);
    let send = |timer: &Value| rig.client.send("POST", "/timer", &[("x-timer-id", "a")], &timer.to_string());
    let first = timer(&receiver.url("first"), 2000, json!("x"));
    assert_eq!(send(&first).status, 201);
    let before = rig.client.get("/timer/a").data(200);
    // A duplicate id, with other content or the same.
    refused(&send(&timer(&receiver.url("other"), 1, json!("x"))), 409);
    refused(&send(&first), 409);
    // An unknown or forbidden transport.
    let to = |transport: &str, uri: &str| json!({"timeout": 1, "callback": {"transport": transport, "method": "post", "uri": uri}});
    let bad =
        [to("smtp", "smtp://a"), to("http", "http://10.0.0.1/"), to("redis", "redis://127.0.0.1/?key=a")];
    for timer in &bad {
        refused(&post(&rig.client, timer), 400);
        refused(&rig.client.send("PUT", "/timer/a", &[], &timer.to_string()), 400);
    }
    refused(&rig.client.post("/timer", "null"), 400);
    assert_eq!(rig.client.get("/timer/a").data(200), before, "the timer is untouched");
    assert_eq!(wait_seen(&up, &receiver, 1)[0].path, "/first");
    assert_eq!(crate::rig::http_process(&up), process);
}

fn a_slow_client_and_a_long_body(store: Store) {
    let (rig, _up) = set_up(store, "");
    let long = timer("http://127.0.0.1:9/", 60_000, json!("x".repeat(200_000)));
    set(&rig.client, &long);
    let longer = timer("http://127.0.0.1:9/", 60_000, json!("x".repeat(2_000_000)));
    refused(&post(&rig.client, &longer), 413);
}

fn one_call_of_many_clients_is_stored_with_others(store: Store) {
    let (rig, _up) = set_up(store, "");
    let text = timer("http://127.0.0.1:9/", 3_600_000, json!("x")).to_string();
    set(&rig.client, &timer("http://127.0.0.1:9/", 3_600_000, json!("x")));
    // An enqueue is one script, for however many jobs.
    let commands = || {
        let server = rig.server.as_ref()?;
        let stats = server.info("commandstats");
        stats.get("cmdstat_evalsha")?.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok()
    };
    let before = commands();
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let (client, text) = (Client::new(rig.client.port), text.clone());
            std::thread::spawn(move || (0..20).all(|_| client.post("/timer", &text).status == 201))
        })
        .collect();
    assert!(clients.into_iter().all(|client| client.join().unwrap()));
    if let (Some(before), Some(after)) = (before, commands()) {
        assert!(after - before < 500, "{} calls for 1000 timers", after - before);
    }
    assert_eq!(rig.client.get("/api/v1/queues/timers").data(200)["scheduled"], 1001);
}

/// Another host of the same fleet, with its own address.
fn host(rig: &Rig, id: &str) -> (Site, Client, Up) {
    let client = Client::new(ports::free_port().unwrap());
    let settings = std::fs::read_to_string(rig.site.work().join("roundsman.toml")).unwrap();
    let site = Site::new("").unwrap();
    site.configure(&settings.replace(&rig.client.port.to_string(), &client.port.to_string())).unwrap();
    let arguments = vec!["--host-id".to_owned(), id.to_owned()];
    let up = site.up(&UpOptions { arguments, workers: 0, ..UpOptions::default() }).unwrap();
    client.wait_ready(&up);
    (site, client, up)
}

/// 21 and 22: hosts share the timers, wherever they were set, and one that is gone takes none with it.
#[test]
fn hosts_share_their_timers() {
    let rig = Rig::new(Store::Redis, &format!("{NOBODY}{ALLOW}"));
    let first = rig.up();
    let (_second_site, other, second) = host(&rig, "second");
    let (_third_site, _, third) = host(&rig, "third");
    let receiver = receiver();
    let never = set(&rig.client, &timer(&receiver.url("never"), 1500, json!("x")));
    let anew = set(&other, &timer(&receiver.url("old"), 60_000, json!("x")));
    assert_eq!(other.send("DELETE", &never, &[], "").status, 202);
    let body = timer(&receiver.url("anew"), 200, json!("x")).to_string();
    assert_eq!(rig.client.send("PUT", &anew, &[], &body).status, 200);
    assert_eq!(wait_seen(&first, &receiver, 1)[0].path, "/anew");
    for number in 0..10 {
        let client = if number % 2 == 0 { &rig.client } else { &other };
        set(client, &timer(&receiver.url(&format!("t{number}")), 3000, json!("x")));
    }
    // One joins, and two leave.
    let (_fourth_site, _, _fourth) = host(&rig, "fourth");
    for up in [&first, &third] {
        up.signal(Signal::TERM).unwrap();
    }
    for up in [&first, &third] {
        assert!(up.wait_exit(LATE).unwrap().success());
    }
    let seen = wait_seen(&second, &receiver, 11);
    let mut paths: Vec<&str> = seen[1..].iter().map(|seen| &*seen.path).collect();
    paths.sort_unstable();
    assert_eq!(paths, (0..10).map(|number| format!("/t{number}")).collect::<Vec<_>>());
    // Nothing comes twice, nor what was cancelled.
    let quiet = Duration::from_millis(500);
    let settled = time::wall_us();
    wait_for("the last job to be over", SOON, || {
        let queue = other.get("/api/v1/queues/timers").data(200);
        let open = [&queue["scheduled"], &queue["ready"], &queue["running"]].iter().all(|count| **count == 0);
        if open && time::wall_us() > settled + u64::try_from(quiet.as_micros()).unwrap() {
            Ok(())
        } else {
            Err(queue.to_string())
        }
    })
    .unwrap();
    assert_eq!(receiver.seen().len(), 11);
}
