//! Messages of a real broker that become jobs, and those that cannot.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use roundsman_tests::amqp_client::Client;
use roundsman_tests::rabbit_server::RabbitServer;
use roundsman_tests::tree::Up;
use roundsman_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::amqp_faults::wait_says;
use crate::rig::{Rig, SOON, Store, log, on_both};

/// Takes `jobs` of the broker in as jobs of the queue `default`.
pub(crate) fn taking(url: &str) -> String {
    format!("[amqp]\nurl = \"{url}\"\n[[amqp.in]]\nfrom = \"jobs\"\nqueue = \"default\"\n")
}

/// Echoes payloads.
pub(crate) const ECHO: &str =
    "[pools.default]\nhandler = { type = \"exec\", command = [\"cat\"] }\nmax_workers = 1\n";

pub(crate) fn named(id: &str) -> BasicProperties {
    BasicProperties::default().with_message_id(id.into())
}

pub(crate) fn with_headers(properties: BasicProperties, headers: &[(&str, AMQPValue)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert((*name).into(), value.clone());
    }
    properties.with_headers(table)
}

/// Waits until the broker has no message left in a queue, and a consumer for it.
#[track_caller]
pub(crate) fn wait_taken(client: &Client, queue: &str, up: &Up) {
    let found = wait_for(&format!("{queue} to be taken in"), SOON, || match client.look(queue) {
        Ok((0, 1..)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    found.unwrap_or_else(|late| panic!("{late}\n{}", log(up)));
}

/// The dead letters, each with payload and error.
pub(crate) fn letters(rig: &Rig) -> Vec<Value> {
    let dead = rig.json(&["dead", "list"]);
    dead["jobs"].as_array().unwrap().iter().map(|job| rig.job(job["id"].as_str().unwrap())).collect()
}

#[track_caller]
pub(crate) fn wait_letters(rig: &Rig, up: &Up, count: usize) -> Vec<Value> {
    let found = wait_for(&format!("{count} dead letters"), SOON, || {
        let letters = letters(rig);
        if letters.len() == count { Ok(letters) } else { Err(format!("{letters:?}")) }
    });
    found.unwrap_or_else(|late| panic!("{late}\n{}", log(up)))
}

fn every_property_reaches_its_job(store: Store) {
    let server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("jobs", &[("x-max-priority", AMQPValue::LongInt(10))]).unwrap();
    let rig = Rig::new(store, &format!("{ECHO}{}", taking(&server.url())));
    rig.ok(&["queue", "pause", "default"]);
    let up = rig.up(0);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let full = with_headers(
        named("full").with_priority(7).with_type("mail".into()).with_correlation_id("c-1".into()),
        &[
            ("traceparent", AMQPValue::LongString(trace.into())),
            ("x-delay", AMQPValue::LongInt(3_600_000)),
            ("tenant", AMQPValue::LongString("seven".into())),
        ],
    );
    client.publish("jobs", br#"{ "n": 1.0 }"#, full).unwrap();
    client.publish("jobs", b"1", named("short").with_expiration("1500".into())).unwrap();
    client.publish("jobs", "grüß".as_bytes(), named("text").with_content_type("text/plain".into())).unwrap();
    client.publish("jobs", &[0xff, 0], named("bytes").with_content_type("image/png".into())).unwrap();
    client.publish("jobs", b"[\"no id\"]", BasicProperties::default()).unwrap();
    wait_taken(&client, "jobs", &up);
    let job = rig.wait_job(&up, "full", SOON, |job| job["state"] == "scheduled");
    let found = json!({
        "payload": job["payload"], "kind": job["kind"], "priority": job["priority"], "headers": job["headers"],
    });
    let headers = json!({"correlation-id": "c-1", "tenant": "seven", "traceparent": trace});
    assert_eq!(found, json!({"payload": {"n": 1.0}, "kind": "mail", "priority": 7, "headers": headers}));
    let ahead = job["due"].as_i64().unwrap() - job["created"].as_i64().unwrap();
    assert_eq!(ahead, 3_600_000);
    assert_eq!(rig.job("text")["payload"], json!({"text": "grüß", "content_type": "text/plain"}));
    assert_eq!(rig.job("bytes")["payload"], json!({"base64": "/wA=", "content_type": "image/png"}));
    let ready = rig.json(&["job", "list", "--queue", "default", "--state", "ready"]);
    let ids: Vec<&str> =
        ready["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    assert!(ids.iter().any(|id| id.len() == 36), "a message without an id gets one: {ids:?}");
    // By the store's clock, from the moment it was stored.
    let created = rig.job("short")["created"].as_i64().unwrap();
    wait_for("its expiry", SOON, || {
        let now = roundsman_shared::clock::Wall::now().as_millis();
        if now > created + 1_600 { Ok(()) } else { Err(now.to_string()) }
    })
    .unwrap();
    rig.ok(&["queue", "resume", "default"]);
    rig.wait_state(&up, "short", "expired");
    rig.wait_state(&up, "text", "done");
    // It is said how it stands.
    wait_says(&rig, &up, "jobs → default: taking in, 5 taken");
    let doctor = rig.run(&["doctor"]).stdout;
    assert!(
        doctor.contains("jobs is taken in as jobs of default: 0 messages waiting, 1 consumer"),
        "{doctor}"
    );
    assert!(!doctor.contains("not served yet") && !doctor.contains("guest:guest"), "{doctor}");
}

fn a_message_that_comes_again_is_one_job(store: Store) {
    let server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    let rig = Rig::new(store, &format!("{ECHO}{}", taking(&server.url())));
    let up = rig.up(0);
    // The queue was not there: it is declared, durable.
    wait_for("the queue", SOON, || {
        let mut client = Client::connect(&server.url()).map_err(|error| error.to_string())?;
        client.reopen().and_then(|()| client.look("jobs")).map_err(|error| error.to_string())
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    client.declare("jobs", &[]).unwrap();
    for trace in ["a", "b", "c"] {
        let again = with_headers(
            named("same").with_expiration("3600000".into()),
            &[("traceparent", AMQPValue::LongString(trace.into()))],
        );
        client.publish("jobs", b"{\"n\":1}", again).unwrap();
    }
    client.publish("jobs", b"{\"n\":2}", named("same")).unwrap();
    client.publish("jobs", b"{\"n\":3}", named("last")).unwrap();
    rig.wait_state(&up, "last", "done");
    assert_eq!(rig.wait_state(&up, "same", "done")["result"], json!({"n": 1}));
    // Other content is refused, with the reason, and what was there is untouched.
    let letters = wait_letters(&rig, &up, 1);
    let (error, payload) = (letters[0]["error"].as_str().unwrap(), &letters[0]["payload"]);
    assert!(error.contains("there is a job of the id same with other content"), "{error}");
    assert_eq!(payload, "{\"n\":2}");
    let queues = rig.json(&["queue", "show", "default"]);
    assert_eq!(queues["done"], 2, "{queues}");
    // It stays so after the job has ended.
    client.publish("jobs", b"{\"n\":1}", named("same").with_expiration("3600000".into())).unwrap();
    wait_taken(&client, "jobs", &up);
    wait_says(&rig, &up, "2 taken, 1 refused");
}

/// What cannot become a job, and the reason that is given.
fn bad() -> Vec<(Vec<u8>, BasicProperties, &'static str)> {
    let plain = BasicProperties::default;
    let json = || plain().with_content_type("application/json".into());
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)).into_bytes();
    vec![
        (b"{oops".to_vec(), json(), "the body: is said to be application/json, and is not"),
        (vec![0xff, 0xfe], json(), "the body: is said to be application/json, and is not"),
        (deep, plain(), "payload: nests deeper than 64"),
        (vec![b'x'; 300_000], plain(), "300000 bytes are over the limit of 262144"),
        (vec![b'y'; 10_000_000], plain(), "10000000 bytes are over the limit of 262144"),
        (b"1".to_vec(), named("a b"), "id: a job id is made of"),
        (
            b"2".to_vec(),
            with_headers(plain(), &[("x-delay", AMQPValue::LongString("soon".into()))]),
            "x-delay: ",
        ),
        (
            b"3".to_vec(),
            with_headers(plain(), &[("x-delay", AMQPValue::LongLongInt(1 << 50))]),
            "10 years ahead",
        ),
        (b"4".to_vec(), plain().with_type("a\nb".into()), "kind: must not hold control characters"),
    ]
}

fn what_is_no_job_is_a_dead_letter_where_the_broker_has_no_place_for_it(store: Store) {
    let server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("jobs", &[]).unwrap();
    let rig = Rig::new(store, &format!("{ECHO}{}", taking(&server.url())));
    let up = rig.up(0);
    for (body, properties, _) in bad() {
        client.publish("jobs", &body, properties).unwrap();
    }
    client.publish("jobs", b"1", named("good")).unwrap();
    rig.wait_state(&up, "good", "done");
    let letters = wait_letters(&rig, &up, bad().len());
    for (body, _, reason) in bad() {
        let found = letters.iter().find(|letter| letter["error"].as_str().unwrap().contains(reason));
        let letter = found.unwrap_or_else(|| panic!("no {reason:?}: {letters:?}"));
        if body.len() > 262_144 {
            assert_eq!(letter["payload"].as_str().unwrap().len(), 262_144);
            assert!(
                letter["error"].as_str().unwrap().contains("only 262144 bytes of it are kept"),
                "{letter}"
            );
        }
    }
    assert!(letters.iter().any(|letter| letter["payload"] == "{oops"), "{letters:?}");
    assert!(letters.iter().any(|letter| letter["payload"]["base64"] == "//4="), "{letters:?}");
    // None of them is in the broker any more, and none of them is run by retrying all.
    wait_taken(&client, "jobs", &up);
    let retried = rig.json(&["dead", "retry", "--yes"]);
    assert_eq!(retried["retried"], 0, "{retried}");
}

fn what_is_no_job_goes_where_the_broker_has_a_place_for_it(store: Store) {
    let server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("dead", &[]).unwrap();
    // Several arguments: the broker names one at a time.
    client
        .declare(
            "jobs",
            &[
                ("x-dead-letter-exchange", AMQPValue::LongString("".into())),
                ("x-dead-letter-routing-key", AMQPValue::LongString("dead".into())),
                ("x-max-length", AMQPValue::LongInt(100_000)),
                ("x-max-priority", AMQPValue::LongInt(5)),
                ("x-message-ttl", AMQPValue::LongLongInt(86_400_000)),
                ("x-queue-mode", AMQPValue::LongString("lazy".into())),
            ],
        )
        .unwrap();
    let rig = Rig::new(store, &format!("{ECHO}{}", taking(&server.url())));
    let up = rig.up(0);
    client.publish("jobs", b"{\"n\":1}", named("same")).unwrap();
    client.publish("jobs", b"{\"n\":2}", named("same")).unwrap();
    for (body, properties, _) in bad() {
        client.publish("jobs", &body, properties).unwrap();
    }
    client.publish("jobs", b"1", named("good")).unwrap();
    rig.wait_state(&up, "good", "done");
    rig.wait_state(&up, "same", "done");
    let mut bodies = Vec::new();
    wait_for("the dead letter queue", SOON, || {
        while let Some(message) = client.take("dead").map_err(|error| error.to_string())? {
            bodies.push(message.delivery.data);
        }
        if bodies.len() == bad().len() + 1 { Ok(()) } else { Err(bodies.len().to_string()) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    let mut expected: Vec<Vec<u8>> = bad().into_iter().map(|(body, ..)| body).collect();
    expected.push(b"{\"n\":2}".to_vec());
    bodies.sort();
    expected.sort();
    assert!(bodies == expected, "whole, and each once");
    assert!(letters(&rig).is_empty());
    let reason = "a message is no job: it is rejected, for the broker to dead-letter";
    assert_eq!(up.stderr().matches(reason).count(), bodies.len(), "{}", log(&up));
    assert!(up.stderr().contains("there is a job of the id same with other content"), "{}", log(&up));
}

on_both!(
    every_property_reaches_its_job,
    a_message_that_comes_again_is_one_job,
    what_is_no_job_is_a_dead_letter_where_the_broker_has_no_place_for_it,
    what_is_no_job_goes_where_the_broker_has_a_place_for_it,
);

/// A quorum queue, several queues over one broker, and a name that the broker does not let us have.
#[test]
fn each_queue_is_for_itself() {
    let server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    let quorum = ("x-queue-type", AMQPValue::LongString("quorum".into()));
    let gone = ("x-dead-letter-exchange", AMQPValue::LongString("nowhere".into()));
    client.declare("quorum", &[quorum, gone]).unwrap();
    let more = "[[amqp.in]]\nfrom = \"quorum\"\nqueue = \"second\"\n[[amqp.in]]\nfrom = \"amq.reserved\"\n\
                [pools.second]\nqueues = [\"second\"]\nhandler = { type = \"stdout\" }\n";
    let rig = Rig::new(Store::Sqlite, &format!("{ECHO}{}{more}", taking(&server.url())));
    let up = rig.up(0);
    client.publish("quorum", b"1", named("q")).unwrap();
    client.publish("quorum", b"{", named("bad").with_content_type("application/json".into())).unwrap();
    rig.wait_state(&up, "q", "done");
    // It names an exchange that does not exist: the broker would drop what is rejected.
    let letters = wait_letters(&rig, &up, 1);
    assert_eq!((&letters[0]["queue"], &letters[0]["payload"]), (&json!("second"), &json!("{")));
    client.declare("jobs", &[]).unwrap();
    client.publish("jobs", b"1", named("j")).unwrap();
    rig.wait_state(&up, "j", "done");
    let found = wait_for("the reason", SOON, || {
        let status = rig.ok(&["status"]);
        if status.contains("ACCESS_REFUSED") { Ok(()) } else { Err(status) }
    });
    found.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    wait_says(&rig, &up, "quorum → second: taking in, 1 taken, 1 refused");
}

/// Nothing stands in the way of an orderly end: what has been taken is stored, the rest stays with the broker.
#[test]
fn a_fleet_that_stops_leaves_nothing_half_done() {
    let server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("jobs", &[]).unwrap();
    let rig = Rig::new(Store::Redis, &format!("{ECHO}{}", taking(&server.url())));
    rig.ok(&["queue", "pause", "default"]);
    let many = (0..5_000).map(|n| (format!("{n}").into_bytes(), BasicProperties::default())).collect();
    let up = rig.up(0);
    client.publish_all("jobs", many).unwrap();
    up.signal(rustix::process::Signal::TERM).unwrap();
    assert!(up.wait_exit(Duration::from_secs(30)).unwrap().success(), "{}", log(&up));
    let (left, consumers) = client.look("jobs").unwrap();
    let queue = rig.json(&["queue", "show", "default"]);
    assert_eq!(consumers, 0);
    assert_eq!(u64::from(left) + queue["ready"].as_u64().unwrap(), 5_000, "{queue}\n{}", log(&up));
}
