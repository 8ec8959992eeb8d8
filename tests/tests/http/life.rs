//! The process of the API: killed, stopped, without its port, without its store.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::json;

use crate::rig::{Client, ECHO, LATE, NOBODY, Rig, SOON, Store, http_process, on_both};

on_both!(
    a_killed_one_is_replaced_and_nothing_is_lost,
    a_stop_answers_who_waits,
    a_taken_port_is_waited_for,
    settings_move_it,
    its_socket_outlives_a_deploy,
);

/// Connections wait in the socket, not in a process: with another one, those of the old one were cut off.
fn its_socket_outlives_a_deploy(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let up = rig.up();
    let (before, sockets) = (http_process(&up), listening(rig.client.port));
    assert_eq!(sockets.len(), 1, "{sockets:?}");
    let deployed = rig.site.cli(&["deploy", "--watch", "100ms"]).unwrap();
    assert_eq!(deployed.code, Some(0), "{deployed:?}");
    wait_for("the old process to leave", SOON, || {
        if before.is_alive() { Err(before.to_string()) } else { Ok(()) }
    })
    .unwrap();
    assert_eq!(listening(rig.client.port), sockets, "{}", up.stderr());
    assert_eq!(rig.client.get("/livez").status, 200);
}

/// The inodes of the sockets that listen on a port of this machine, by proc_net(5).
fn listening(port: u16) -> BTreeSet<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields
        .filter(|fields| fields.get(1).is_some_and(|it| it.ends_with(&local)) && fields.get(3) == Some(&"0A"))
        .filter_map(|fields| fields.get(9).map(ToString::to_string))
        .collect()
}

fn a_killed_one_is_replaced_and_nothing_is_lost(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let up = rig.up();
    let over = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let producers: Vec<_> = (0..4)
        .map(|producer| {
            let (client, over, acknowledged) = (rig.client.clone(), over.clone(), acknowledged.clone());
            std::thread::spawn(move || {
                let mut number = 0;
                while !over.load(Ordering::Relaxed) {
                    let id = format!("p{producer}-{number}");
                    let job = json!({"id": id, "payload": number}).to_string();
                    // One that was cut off is sent again, under the same id.
                    if let Ok(answer) = client.try_send("POST", "/api/v1/queues/q/jobs", &[], &job)
                        && answer.status < 300
                    {
                        acknowledged.lock().unwrap().insert(id);
                        number += 1;
                    }
                }
            })
        })
        .collect();
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        let before = acknowledged.lock().unwrap().len();
        wait_for("producers to go on", SOON, || {
            let now = acknowledged.lock().unwrap().len();
            if now > before + 50 { Ok(()) } else { Err(format!("{before} {now}")) }
        })
        .unwrap();
        let process = http_process(&up);
        process.signal(Signal::KILL).unwrap();
        let begun = Mono::now();
        wait_for("another to serve", SOON, || match rig.client.try_send("GET", "/readyz", &[], "") {
            Ok(answer) if answer.status == 200 && !process.is_alive() => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .unwrap_or_else(|late| panic!("{late}\n{}", up.stderr()));
        longest = longest.max(Mono::now().since(begun));
    }
    over.store(true, Ordering::Relaxed);
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    let acknowledged = acknowledged.lock().unwrap();
    let ready = rig.client.get("/api/v1/queues/q").data(200)["ready"].as_u64().unwrap();
    assert!(ready >= u64::try_from(acknowledged.len()).unwrap(), "{ready} of {}", acknowledged.len());
    for id in acknowledged.iter() {
        rig.client.job("q", id);
    }
    assert!(longest < Duration::from_secs(10), "{longest:?}");
}

fn a_stop_answers_who_waits(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let up = rig.up();
    let job = r#"{"id":"a","payload":1,"in":"1h"}"#;
    rig.client.post("/api/v1/queues/q/jobs", job).data(201);
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let client = rig.client.clone();
            std::thread::spawn(move || client.get("/api/v1/queues/q/jobs/a?wait=5m"))
        })
        .collect();
    // They are there when a later call has been answered on a connection of its own.
    wait_for("the waiters to be connected", SOON, || {
        let count = connections(rig.client.port);
        if count >= 3 { Ok(()) } else { Err(format!("{count} connections")) }
    })
    .unwrap();
    up.signal(Signal::TERM).unwrap();
    let begun = Mono::now();
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap().data(200)["state"], "scheduled");
    }
    assert!(Mono::now().since(begun) < SOON);
    assert!(up.wait_exit(LATE).unwrap().success());
}

/// Established connections to this port, as the kernel lists them.
fn connections(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{port:04X}");
    let is_open = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(&*local) && words.nth(1) == Some("01")
    };
    table.lines().filter(is_open).count()
}

fn a_taken_port_is_waited_for(store: Store) {
    let rig = Rig::new(store, ECHO);
    let taken = TcpListener::bind(("127.0.0.1", rig.client.port)).unwrap();
    let up = rig.site.up(&roundsman_tests::tree::UpOptions { workers: 1, ..Default::default() }).unwrap();
    wait_for("a warning", SOON, || {
        let log = up.stderr();
        if log.contains("cannot be listened on") { Ok(()) } else { Err(log) }
    })
    .unwrap();
    // Jobs run all the same.
    assert_eq!(rig.site.cli(&["enqueue", "default", "1", "--wait", "30s"]).unwrap().code, Some(0));
    let process = http_process(&up);
    drop(taken);
    rig.client.wait_ready(&up);
    assert_eq!(http_process(&up), process, "it waits, and is not started again and again");
}

fn settings_move_it(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let up = rig.up();
    let other = Client::new(roundsman_tests::ports::free_port().unwrap());
    let settings = std::fs::read_to_string(rig.site.work().join("roundsman.toml")).unwrap();
    let moved = settings.replace(&rig.client.port.to_string(), &other.port.to_string());
    rig.site.configure(&moved).unwrap();
    up.signal(Signal::HUP).unwrap();
    other.wait_ready(&up);
    wait_for("the old address to be left", SOON, || match rig.client.try_send("GET", "/livez", &[], "") {
        Err(_) => Ok(()),
        Ok(answer) => Err(format!("{answer:?}")),
    })
    .unwrap();
    // Settings of queues count without a new process.
    let process = http_process(&up);
    rig.site.configure(&format!("{moved}[queues.timers]\nmax_waiting = 1\n")).unwrap();
    up.signal(Signal::HUP).unwrap();
    let timers = "/api/v1/queues/timers/jobs";
    other.post(timers, r#"{"payload":1,"in":"1h"}"#).data(201);
    wait_for("the limit to count", SOON, || match other.post(timers, r#"{"payload":1,"in":"1h"}"#).status {
        503 => Ok(()),
        other => Err(other.to_string()),
    })
    .unwrap();
    assert_eq!(http_process(&up), process);
    rig.site.configure(&settings.replace("listen = \"127", "listen = \"\" # \"127")).unwrap();
    up.signal(Signal::HUP).unwrap();
    wait_for("it to be turned off", SOON, || {
        if process.is_alive() { Err("it lives".to_owned()) } else { Ok(()) }
    })
    .unwrap();
}

#[test]
fn a_store_that_is_away_is_said() {
    let mut rig = Rig::new(Store::Redis, NOBODY);
    let up = rig.up();
    rig.client.enqueue("q", &json!({"id": "a", "payload": 1})).data(201);
    rig.server.as_mut().unwrap().kill().unwrap();
    wait_for("the API to be unready", SOON, || match rig.client.get("/readyz").status {
        503 => Ok(()),
        other => Err(other.to_string()),
    })
    .unwrap();
    assert_eq!(rig.client.get("/livez").status, 200);
    let away = rig.client.enqueue("q", &json!({"id": "b", "payload": 1}));
    assert_eq!((away.status, away.json()["status"].as_str()), (503, Some("error")), "{away:?}");
    assert_ne!(away.header("retry-after"), "");
    rig.server.as_mut().unwrap().restart().unwrap();
    rig.client.wait_ready(&up);
    rig.client.enqueue("q", &json!({"id": "b", "payload": 1})).data(201);
}
