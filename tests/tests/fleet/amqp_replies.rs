//! Results that go back to whoever asked for them.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::BasicGetMessage;
use lapin::types::AMQPValue;
use roundsman_tests::amqp_client::Client;
use roundsman_tests::proc::Process;
use roundsman_tests::rabbit_server::RabbitServer;
use roundsman_tests::receiver::{Receiver, Reply};
use roundsman_tests::tree::Up;
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::amqp::{named, taking, wait_letters};
use crate::rig::{LATE, Rig, SOON, Store, log, on_both};

const SCRIPT: &str = "#!/bin/sh\nread -r line\n[ \"$line\" = '\"bad\"' ] && { echo no >&2; exit 65; }\necho \"{\\\"got\\\":$line}\"\n";
const POOL: &str =
    "[pools.default]\nhandler = { type = \"exec\", command = [\"./run.sh\"] }\nmax_workers = 1\n";

fn rig(store: Store, settings: &str) -> Rig {
    let rig = Rig::new(store, settings);
    rig.script("run.sh", SCRIPT);
    rig
}

fn asking(id: &str) -> BasicProperties {
    named(id)
        .with_reply_to("answers".into())
        .with_correlation_id(format!("c-{id}").into())
        .with_type("scale".into())
}

#[track_caller]
fn wait_answer(client: &Client, up: &Up) -> BasicGetMessage {
    let found = wait_for("an answer", LATE, || match client.take("answers") {
        Ok(Some(message)) => Ok(message),
        other => Err(format!("{other:?}")),
    });
    found.unwrap_or_else(|late| panic!("{late}\n{}", log(up)))
}

fn header(message: &BasicGetMessage, name: &str) -> Option<String> {
    match message.delivery.properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        other => Some(format!("{other:?}")),
    }
}

fn body(message: &BasicGetMessage) -> Value {
    serde_json::from_slice(&message.delivery.data).unwrap()
}

fn the_result_goes_back(store: Store) {
    let server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("answers", &[]).unwrap();
    client.declare("jobs", &[]).unwrap();
    let rig = rig(store, &format!("{POOL}{}", taking(&server.url())));
    let up = rig.up(0);
    client.publish("jobs", b"{\"n\":1}", asking("a")).unwrap();
    let answer = wait_answer(&client, &up);
    let properties = &answer.delivery.properties;
    assert_eq!(body(&answer), json!({"got": {"n": 1}}));
    assert_eq!(properties.correlation_id().as_ref().map(ToString::to_string).as_deref(), Some("c-a"));
    assert_eq!(properties.kind().as_ref().map(ToString::to_string).as_deref(), Some("scale"));
    assert_eq!(
        properties.content_type().as_ref().map(ToString::to_string).as_deref(),
        Some("application/json")
    );
    assert_eq!(header(&answer, "roundsman-job").as_deref(), Some("default/a"));
    assert_eq!(header(&answer, "roundsman-state").as_deref(), Some("done"));
    // Failed for good is an answer too.
    client.publish("jobs", b"\"bad\"", asking("b")).unwrap();
    let answer = wait_answer(&client, &up);
    assert_eq!(header(&answer, "roundsman-state").as_deref(), Some("dead"));
    assert_eq!(body(&answer)["state"], "dead");
    assert!(body(&answer)["error"].as_str().unwrap().contains("65"), "{}", body(&answer));
    // Who is gone is not asked for days, and is no harm to others.
    client.publish("jobs", b"1", named("lost").with_reply_to("nobody".into())).unwrap();
    client.publish("jobs", b"2", asking("c")).unwrap();
    assert_eq!(body(&wait_answer(&client, &up)), json!({"got": 2}));
    // No secret of the broker stands with a job.
    let job = rig.wait_state(&up, "a", "done");
    assert!(!job.to_string().contains("guest"), "{job}");
    rig.wait_state(&up, "lost", "done");
}

/// The answer is stored with the job's end: no crash of ours, and no absence of the broker, loses it.
fn an_answer_outlives_crashes(store: Store) {
    let mut server = RabbitServer::start().unwrap();
    let client = Client::connect(&server.url()).unwrap();
    client.declare("answers", &[]).unwrap();
    client.declare("jobs", &[]).unwrap();
    let rig = rig(store, &format!("{POOL}[transports.amqp]\ntimeout = \"3s\"\n{}", taking(&server.url())));
    rig.ok(&["queue", "pause", "default"]);
    let up = rig.up(0);
    for id in ["a", "b", "c"] {
        client.publish("jobs", id_body(id).as_bytes(), asking(id)).unwrap();
        rig.wait_state(&up, id, "ready");
    }
    drop(client);
    server.kill().unwrap();
    rig.ok(&["queue", "resume", "default"]);
    for id in ["a", "b", "c"] {
        rig.wait_state(&up, id, "done");
    }
    let waiting = || {
        // Not there yet, before the first reply.
        let shown = rig.run(&["queue", "show", "roundsman.replies", "--json"]);
        let queue: Value =
            serde_json::from_str(&shown.stdout).map_err(|error| format!("{error}: {shown:?}"))?;
        let count = |state: &str| queue[state].as_u64().unwrap_or(0);
        let all = count("ready") + count("scheduled") + count("running");
        if all == 3 { Ok(()) } else { Err(queue.to_string()) }
    };
    wait_for("answers that wait", SOON, waiting).unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    // The whole tree, at once.
    for process in up.alive() {
        let _ = process.signal(Signal::KILL);
    }
    wait_for("the tree to be gone", SOON, || {
        let left: Vec<Process> = up.alive();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .unwrap();
    drop(up);
    server.restart().unwrap();
    let up = rig.up(0);
    let client = Client::connect(&server.url()).unwrap();
    let mut got: Vec<String> = (0..3).map(|_| body(&wait_answer(&client, &up))["got"].to_string()).collect();
    got.sort();
    assert_eq!(got, ["\"A\"", "\"B\"", "\"C\""]);
    wait_for("no second answer", Duration::from_secs(2), || match client.take("answers") {
        Ok(Some(message)) => Ok(message),
        other => Err(format!("{other:?}")),
    })
    .unwrap_err();
}

fn id_body(id: &str) -> String {
    format!("\"{}\"", id.to_uppercase())
}

on_both!(the_result_goes_back, an_answer_outlives_crashes);

/// `reply_to` of a job that came another way.
#[test]
fn any_job_can_ask_for_its_result() {
    let receiver = Receiver::start(|_, _| Reply::status(200)).unwrap();
    let settings = format!("{POOL}[transports.http]\nallow = [\"127.0.0.1\"]\n");
    let rig = rig(Store::Redis, &settings);
    let up = rig.up(0);
    let uri = receiver.url("done");
    let job = json!({"id": "h", "payload": 5, "reply_to": {"transport": "http", "uri": uri}});
    assert_eq!(rig.redis().cli(&["LPUSH", "roundsman:{default}:inbox", &job.to_string()]), "1");
    let request = wait_for("the request", SOON, || receiver.seen().pop().ok_or_else(|| "none".to_owned()));
    let request = request.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    let told: Value = serde_json::from_str(&request.body).unwrap();
    let expected =
        json!({"id": "h", "queue": "default", "state": "done", "result": {"got": 5}, "error": null});
    assert_eq!(told, expected);
    // Only messages of the broker itself may ask for an answer over it, and no address is taken that is none.
    for (to, why) in [
        (json!({"transport": "amqp", "uri": "amqp:///?routing_key=a"}), "reply_to: uri: names no host"),
        (json!({"transport": "smtp", "uri": "smtp://a"}), "reply_to: transport: \"smtp\" is none of"),
    ] {
        let job = json!({"payload": 1, "reply_to": to});
        assert!(!rig.redis().cli(&["LPUSH", "roundsman:{default}:inbox", &job.to_string()]).is_empty());
        let letters = wait_for("the dead letter", SOON, || {
            let letters = crate::amqp::letters(&rig);
            let found = letters.iter().any(|letter| letter["error"].as_str().unwrap_or("").contains(why));
            if found { Ok(()) } else { Err(format!("{letters:?}")) }
        });
        letters.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    }
    wait_letters(&rig, &up, 2);
}
