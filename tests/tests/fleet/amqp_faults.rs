//! A broker, a store and a part that fail while messages are taken in.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::BasicProperties;
use roundsman_tests::amqp_client::Client;
use roundsman_tests::amqp_proxy::AmqpProxy;
use roundsman_tests::proc::Process;
use roundsman_tests::rabbit_server::RabbitServer;
use roundsman_tests::redis_server::{Fsync, RedisOptions, RedisServer};
use roundsman_tests::tree::{Site, Up};
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;

use crate::amqp::{ECHO, named, taking, wait_taken};
use crate::rig::{LATE, Rig, SOON, Store, figure, log, on_both};

fn part(up: &Up) -> Process {
    let found = wait_for("the part", SOON, || {
        let below = up.supervisor().descendants();
        let is_part = |it: &&Process| {
            it.command_line().is_some_and(|line| line.split_whitespace().nth(1) == Some("amqp"))
        };
        below.iter().find(is_part).copied().ok_or_else(|| format!("{below:?}"))
    });
    found.unwrap_or_else(|late| panic!("{late}\n{}", log(up)))
}

fn stored(rig: &Rig) -> u64 {
    let queue = rig.json(&["queue", "show", "default"]);
    queue["enqueued_total"].as_u64().unwrap_or(0)
}

#[track_caller]
fn wait_stored(rig: &Rig, up: &Up, count: u64) {
    let found = wait_for(&format!("{count} jobs"), LATE, || {
        let found = stored(rig);
        if found >= count { Ok(found) } else { Err(found.to_string()) }
    });
    let found = found.unwrap_or_else(|late| panic!("{late}\n{}", log(up)));
    assert_eq!(found, count, "none twice");
}

#[track_caller]
pub(crate) fn wait_says(rig: &Rig, up: &Up, text: &str) {
    let found = wait_for(text, LATE, || {
        let status = rig.ok(&["status"]);
        if status.contains(text) { Ok(()) } else { Err(status) }
    });
    found.unwrap_or_else(|late| panic!("{late}\n{}", log(up)));
}

fn messages(from: u64, to: u64, named_too: bool) -> Vec<(Vec<u8>, BasicProperties)> {
    let properties = |n| if named_too { named(&format!("m{n}")) } else { BasicProperties::default() };
    (from..to).map(|n| (format!("{{\"n\":{n}}}").into_bytes(), properties(n))).collect()
}

fn a_broker_that_is_killed_is_found_again(store: Store) {
    let mut server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("jobs", &[]).unwrap();
    let rig = Rig::new(store, &format!("{ECHO}{}", taking(&server.url())));
    rig.ok(&["queue", "pause", "default"]);
    let up = rig.up(0);
    client.publish_all("jobs", messages(0, 2_000, true)).unwrap();
    server.kill().unwrap();
    wait_says(&rig, &up, "cannot connect to 127.0.0.1");
    let doctor = rig.run(&["doctor"]);
    assert!(doctor.stdout.contains("is not reachable") && doctor.code == Some(69), "{doctor:?}");
    server.restart().unwrap();
    // As a producer that wants to be sure: what is not confirmed is published again, under the same ids.
    let published = wait_for("the broker to confirm", LATE, || {
        let client = Client::connect(&server.url()).map_err(|error| error.to_string())?;
        client.publish_all("jobs", messages(1_000, 3_000, true)).map_err(|error| error.to_string())?;
        Ok(client)
    });
    let client = published.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    wait_stored(&rig, &up, 3_000);
    wait_taken(&client, "jobs", &up);
    wait_says(&rig, &up, "jobs → default: taking in, 3000 taken");
}

fn a_part_that_is_killed_loses_nothing_and_takes_nothing_twice(store: Store) {
    const ROUNDS: u64 = 5;
    const EACH: u64 = 2_000;
    let server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("jobs", &[]).unwrap();
    let rig = Rig::new(store, &format!("{ECHO}{}", taking(&server.url())));
    rig.ok(&["queue", "pause", "default"]);
    let up = rig.up(0);
    let mut caught = 0;
    for round in 0..ROUNDS {
        let target = part(&up);
        let before = stored(&rig);
        client.publish_all("jobs", messages(round * EACH, (round + 1) * EACH, true)).unwrap();
        target.signal(Signal::KILL).unwrap();
        wait_for(
            "the part to die",
            SOON,
            || if target.is_alive() { Err(target.to_string()) } else { Ok(()) },
        )
        .unwrap();
        caught += u64::from(stored(&rig) < before + EACH);
    }
    figure(&format!("{caught} of {ROUNDS} kills were in mid-batch"));
    wait_stored(&rig, &up, ROUNDS * EACH);
    wait_taken(&client, "jobs", &up);
    drop(up);
    assert_eq!(client.look("jobs").unwrap(), (0, 0), "nothing was left unacked");
    assert_eq!(stored(&rig), ROUNDS * EACH);
}

fn a_full_queue_leaves_messages_with_the_broker(store: Store) {
    let server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("jobs", &[]).unwrap();
    let settings =
        format!("{ECHO}[queues.default]\nmax_waiting = 100\n{}prefetch = 50\n", taking(&server.url()));
    let rig = Rig::new(store, &settings);
    rig.ok(&["queue", "pause", "default"]);
    let up = rig.up(0);
    client.publish_all("jobs", messages(0, 1_000, true)).unwrap();
    wait_says(&rig, &up, "the queue is full (100 jobs wait, max_waiting); its messages stay with the broker");
    let (waiting, _) = client.look("jobs").unwrap();
    assert!((850..=900).contains(&waiting), "{waiting} wait with the broker, and at most 50 with us");
    assert_eq!(stored(&rig), 100);
    // It does not take the part for dead, and goes on as there is room.
    let target = part(&up);
    rig.ok(&["queue", "resume", "default"]);
    wait_stored(&rig, &up, 1_000);
    wait_taken(&client, "jobs", &up);
    wait_says(&rig, &up, "taking in, 1000 taken");
    assert!(target.is_alive(), "{}", log(&up));
}

on_both!(
    a_broker_that_is_killed_is_found_again,
    a_part_that_is_killed_loses_nothing_and_takes_nothing_twice,
    a_full_queue_leaves_messages_with_the_broker,
);

#[test]
fn a_store_that_is_killed_is_waited_for() {
    let server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("jobs", &[]).unwrap();
    let options = RedisOptions { appendonly: Some(Fsync::Always), ..RedisOptions::default() };
    let redis = RedisServer::start(options).unwrap();
    let mut rig = Rig { server: Some(redis), site: Site::new("").unwrap() };
    rig.configure(&format!("{ECHO}{}", taking(&server.url())));
    rig.ok(&["queue", "pause", "default"]);
    let up = rig.up(0);
    client.publish_all("jobs", messages(0, 1_000, true)).unwrap();
    wait_stored(&rig, &up, 1_000);
    rig.server.as_mut().unwrap().kill().unwrap();
    client.publish_all("jobs", messages(1_000, 4_000, true)).unwrap();
    wait_for("the messages to be held", SOON, || {
        let (waiting, consumers) = client.look("jobs").map_err(|error| error.to_string())?;
        // One batch of the prefetch at most.
        if consumers == 1 && (2_000..=3_000).contains(&waiting) {
            Ok(())
        } else {
            Err(format!("{waiting} {consumers}"))
        }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    rig.server.as_mut().unwrap().restart().unwrap();
    wait_stored(&rig, &up, 4_000);
    wait_taken(&client, "jobs", &up);
}

/// The broker itself closes channels while acks are under way, and connections are cut.
#[test]
fn channels_and_connections_that_are_killed_cost_nothing() {
    const EACH: u64 = 2_000;
    let server = RabbitServer::start().unwrap();
    let proxy = AmqpProxy::start(server.port()).unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("jobs", &[]).unwrap();
    let rig = Rig::new(Store::Redis, &format!("{ECHO}{}", taking(&proxy.url())));
    rig.ok(&["queue", "pause", "default"]);
    let up = rig.up(0);
    wait_taken(&client, "jobs", &up);
    let mut killed = 0;
    for round in 0..10 {
        client.publish_all("jobs", messages(round * EACH, (round + 1) * EACH, true)).unwrap();
        if round % 2 == 0 {
            // One that was cut is there again within moments.
            killed += wait_for("a channel to kill", SOON, || match proxy.kill_channels() {
                Ok(0) => Err("none".to_owned()),
                other => other.map_err(|error| error.to_string()),
            })
            .unwrap();
        } else {
            proxy.cut();
        }
        wait_stored(&rig, &up, (round + 1) * EACH);
    }
    assert!(killed >= 5, "{killed} channels were killed");
    wait_taken(&client, "jobs", &up);
    figure(&format!(
        "{} deliveries of {} messages; the longest without an ack: {:?}",
        proxy.delivered(),
        10 * EACH,
        proxy.longest_unacked()
    ));
    wait_for("every ack", SOON, || match proxy.unacked() {
        0 => Ok(()),
        left => Err(left.to_string()),
    })
    .unwrap();
    assert!(proxy.longest_unacked() < Duration::from_secs(5), "{:?}", proxy.longest_unacked());
    assert!(up.stderr().contains("PRECONDITION_FAILED"), "{}", log(&up));
}

/// Without an id a message is known again by its content, as long as the part that took it lives and its ack was not sent.
#[test]
fn messages_without_an_id_are_never_lost() {
    const EACH: u64 = 2_000;
    let server = RabbitServer::start().unwrap();
    let proxy = AmqpProxy::start(server.port()).unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("jobs", &[]).unwrap();
    let rig = Rig::new(Store::Sqlite, &format!("{ECHO}{}", taking(&proxy.url())));
    rig.ok(&["queue", "pause", "default"]);
    let up = rig.up(0);
    wait_taken(&client, "jobs", &up);
    for round in 0..5 {
        client.publish_all("jobs", messages(round * EACH, (round + 1) * EACH, false)).unwrap();
        proxy.cut();
    }
    // Those that are alike are as many jobs as messages.
    client.publish_all("jobs", vec![(b"\"alike\"".to_vec(), BasicProperties::default()); 100]).unwrap();
    let found = wait_for("every message to be taken in", LATE, || {
        let (waiting, consumers) = client.look("jobs").map_err(|error| error.to_string())?;
        if waiting == 0 && consumers == 1 && proxy.unacked() == 0 {
            Ok(())
        } else {
            Err(format!("{waiting} {consumers}"))
        }
    });
    found.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let mut arguments = vec!["job", "list", "--queue", "default", "--state", "ready", "--limit", "1000"];
        if !cursor.is_empty() {
            arguments.extend(["--cursor", &cursor]);
        }
        let page = rig.json(&arguments);
        for job in page["jobs"].as_array().unwrap() {
            *counts.entry(job["payload"].to_string()).or_default() += 1;
        }
        match page["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(counts.remove("\"alike\""), Some(100));
    assert_eq!(counts.len() as u64, 5 * EACH, "every message is a job");
    let twice: u64 = counts.values().map(|count| count - 1).sum();
    figure(&format!("{twice} of {} messages without an id became two jobs over 5 cuts", 5 * EACH));
}

#[test]
fn a_consumer_that_is_cancelled_comes_back() {
    let server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("jobs", &[]).unwrap();
    let rig = Rig::new(Store::Sqlite, &format!("{ECHO}{}", taking(&server.url())));
    let up = rig.up(0);
    client.publish("jobs", b"1", named("one")).unwrap();
    rig.wait_state(&up, "one", "done");
    // The broker cancels the consumer of a queue that is deleted.
    client.delete("jobs").unwrap();
    wait_for("the reason", SOON, || {
        if up.stderr().contains("the broker has cancelled the consumer") { Ok(()) } else { Err(log(&up)) }
    })
    .unwrap();
    client.declare("jobs", &[]).unwrap();
    client.publish("jobs", b"2", named("two")).unwrap();
    rig.wait_state(&up, "two", "done");
    wait_taken(&client, "jobs", &up);
}

/// A broker that is stopped keeps its connections: only missing heartbeats tell.
#[test]
fn a_broker_that_says_nothing_is_left_and_found_again() {
    let server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("jobs", &[]).unwrap();
    let rig = Rig::new(Store::Sqlite, &format!("{ECHO}{}", taking(&server.url())));
    let up = rig.up(0);
    client.publish("jobs", b"1", named("one")).unwrap();
    rig.wait_state(&up, "one", "done");
    let target = part(&up);
    server.stop_process().unwrap();
    wait_says(&rig, &up, "trying again");
    server.continue_process().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.publish("jobs", b"2", named("two")).unwrap();
    rig.wait_state(&up, "two", "done");
    assert!(target.is_alive(), "the part lives, whatever the broker does\n{}", log(&up));
}
