//! Jobs that are handed on to Redis, to an AMQP broker and over TCP, with real servers that come and go.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use roundsman_tests::rabbit_server::RabbitServer;
use roundsman_tests::redis_server::{RedisOptions, RedisServer};
use roundsman_tests::time;
use roundsman_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::rig::{Rig, SOON, Store, figure, log, on_both, outcomes};

/// A broker may take its time until it is back.
const SHORT: &str =
    "[queues.default]\nmax_attempts = 1000\nbackoff = { type = \"fixed\", delay = \"200ms\" }\n";

fn rig(store: Store, handler: &str, more: &str) -> Rig {
    Rig::new(store, &format!("[pools.default]\nhandler = {handler}\nmax_workers = 1\n{more}{SHORT}"))
}

fn lists_and_streams_take_jobs(store: Store) {
    let mut server = RedisServer::start(RedisOptions::default()).unwrap();
    let url = server.url();
    let rig = rig(
        store,
        &format!("{{ type = \"redis\", url = \"{url}2\", list = \"out\" }}"),
        &format!(
            "[pools.stream]\nqueues = [\"stream\"]\n\
             handler = {{ type = \"redis\", url = \"{url}\", stream = \"events\" }}\n"
        ),
    );
    let up = rig.up(0);
    for n in 0..3 {
        rig.ok(&["enqueue", "default", &format!("{{\"n\": {n}}}"), "--id", &format!("l{n}")]);
        rig.wait_state(&up, &format!("l{n}"), "done");
    }
    assert_eq!(server.cli(&["-n", "2", "LRANGE", "out", "0", "-1"]), "{\"n\":2}\n{\"n\":1}\n{\"n\":0}");
    rig.ok(&["enqueue", "stream", "\"x\"", "--id", "s", "--kind", "k", "--header", "traceparent=00-a-b-01"]);
    let job = rig.wait_state(&up, "s", "done");
    let entry = server.cli(&["XRANGE", "events", "-", "+"]);
    let fields: Vec<&str> = entry.lines().collect();
    assert_eq!(job["result"], fields[0], "{job}");
    let field: BTreeMap<&str, &str> = fields[1..].chunks(2).map(|pair| (pair[0], pair[1])).collect();
    for (name, value) in
        [("payload", "\"x\""), ("id", "s"), ("attempt", "1"), ("kind", "k"), ("traceparent", "00-a-b-01")]
    {
        assert_eq!(field[name], value, "{entry}");
    }
    assert_eq!(field["token"], job["attempts"][0]["token"].to_string());
    // A key of another type is the job's affair; a server that goes is waited for.
    assert_eq!(server.cli(&["-n", "2", "DEL", "out"]), "1");
    assert_eq!(server.cli(&["-n", "2", "SET", "out", "text"]), "OK");
    rig.ok(&["enqueue", "default", "1", "--id", "wrong", "--max-attempts", "2"]);
    let job = rig.wait_state(&up, "wrong", "dead");
    assert!(job["error"].as_str().unwrap().contains("wrong kind of value"), "{job}");
    server.kill().unwrap();
    rig.ok(&["enqueue", "default", "{\"late\":1}", "--id", "late"]);
    rig.wait_job(&up, "late", SOON, |job| job["error"].is_string());
    server.restart().unwrap();
    rig.wait_state(&up, "late", "done");
    assert_eq!(server.cli(&["-n", "2", "LRANGE", "out", "0", "-1"]), "{\"late\":1}");
}

fn callbacks_reach_what_is_allowed(store: Store) {
    let server = RedisServer::start(RedisOptions::default()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (lines, heard) = mpsc::sync_channel(16);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        }
    });
    let allow =
        "[transports.redis]\nallow = [\"127.0.0.1\"]\n[transports.tcp]\nallow = [\"tcp://localhost\"]\n";
    let rig = rig(store, "\"callback\"", allow);
    let up = rig.up(0);
    let port = server.port();
    for (id, transport, method, uri, data) in [
        ("list", "redis", "list", format!("redis://127.0.0.1:{port}/1?key=a%20b"), json!("plain text")),
        ("stream", "redis", "stream", format!("redis://127.0.0.1:{port}?key=s"), json!({"a": 1})),
        ("tcp", "tcp", "", format!("tcp://localhost:{}", address.port()), json!("two\nlines")),
        ("tcp2", "tcp", "", format!("tcp://localhost:{}", address.port()), json!({"b": []})),
    ] {
        let payload = json!({"transport": transport, "method": method, "uri": uri, "data": data});
        rig.ok(&["enqueue", "default", &payload.to_string(), "--id", id]);
        rig.wait_state(&up, id, "done");
    }
    assert_eq!(server.cli(&["-n", "1", "LRANGE", "a b", "0", "-1"]), "plain text");
    assert!(server.cli(&["XRANGE", "s", "-", "+"]).contains("payload\n{\"a\":1}\nid\nstream"));
    let next = || heard.recv_timeout(SOON).unwrap();
    assert_eq!([next(), next()], ["\"two\\nlines\"", "{\"b\":[]}"]);
}

/// One line a job, over few connections; a receiver that restarts is found again.
fn lines_go_over_kept_connections(store: Store) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (lines, heard) = mpsc::sync_channel(1024);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let lines = lines.clone();
            std::thread::spawn(move || {
                // The first connection hears ten lines and is closed.
                let most = if number == 0 { 10 } else { usize::MAX };
                for line in BufReader::new(stream).lines().map_while(Result::ok).take(most) {
                    let _ = lines.send((number, line));
                }
            });
        }
    });
    let rig = rig(store, &format!("{{ type = \"tcp\", address = \"{address}\" }}"), "slots = 1\n");
    let up = rig.up(0);
    let input: String = (0..10).map(|n| format!("{{\"id\":\"j{n}\",\"payload\":{{\"n\":{n}}}}}\n")).collect();
    assert_eq!(rig.site.cli_with_input(&["enqueue", "default", "--ndjson"], &input).unwrap().code, Some(0));
    for n in 0..10 {
        let (_, line) = heard.recv_timeout(SOON).unwrap_or_else(|_| panic!("line {n}\n{}", log(&up)));
        assert_eq!(line, format!("{{\"n\":{n}}}"));
    }
    for n in 0..5 {
        rig.ok(&["enqueue", "default", &format!("[{n}]"), "--id", &format!("k{n}")]);
        let (number, line) = heard.recv_timeout(SOON).unwrap_or_else(|_| panic!("later {n}\n{}", log(&up)));
        assert_eq!(line, format!("[{n}]"));
        assert!(number <= 2, "connection {number}");
    }
}

on_both!(lists_and_streams_take_jobs, callbacks_reach_what_is_allowed, lines_go_over_kept_connections);

/// What a test knows of the broker.
struct Consumer {
    runtime: tokio::runtime::Runtime,
    _connection: Connection,
    channel: Channel,
}

impl Consumer {
    fn connect(server: &RabbitServer) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (connection, channel) = runtime.block_on(async {
            let connection =
                Connection::connect(&server.url(), ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            (connection, channel)
        });
        Self { runtime, _connection: connection, channel }
    }

    fn declare(&self, queue: &str) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default());
        self.runtime.block_on(declared).unwrap();
    }

    fn bind(&self, exchange: &str, queue: &str, key: &str) {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        self.runtime.block_on(async {
            let table = FieldTable::default;
            self.channel
                .exchange_declare(exchange.into(), ExchangeKind::Topic, options, table())
                .await
                .unwrap();
            let bind = QueueBindOptions::default();
            self.channel.queue_bind(queue.into(), exchange.into(), key.into(), bind, table()).await.unwrap();
        });
    }

    /// So many messages, each acknowledged.
    fn take(&self, queue: &str, count: usize) -> Vec<Delivery> {
        self.runtime.block_on(async {
            let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            let mut consumer = self
                .channel
                .basic_consume(queue.into(), "".into(), options, FieldTable::default())
                .await
                .unwrap();
            let mut taken = Vec::new();
            while taken.len() < count {
                let next = tokio::time::timeout(SOON, consumer.next()).await;
                taken.push(next.expect("a message").expect("the consumer lives").unwrap());
            }
            let cancel =
                self.channel.basic_cancel(consumer.tag(), lapin::options::BasicCancelOptions::default());
            cancel.await.unwrap();
            taken
        })
    }
}

fn header<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a AMQPValue> {
    delivery.properties.headers().as_ref()?.inner().get(name)
}

#[test]
fn a_broker_confirms_before_a_job_is_done() {
    let mut server = RabbitServer::start().unwrap();
    let consumer = Consumer::connect(&server);
    consumer.declare("out");
    let url = server.url();
    let rig = rig(
        Store::Redis,
        &format!("{{ type = \"amqp\", routing_key = \"out\", url = \"{url}\" }}"),
        &format!(
            "[amqp]\nurl = \"{url}\"\n\
             [pools.lost]\nqueues = [\"lost\"]\nhandler = {{ type = \"amqp\", routing_key = \"nowhere\" }}\n\
             [pools.none]\nqueues = [\"none\"]\nhandler = {{ type = \"amqp\", exchange = \"none\" }}\n\
             [queues.lost]\nbackoff = {{ type = \"fixed\", delay = \"200ms\" }}\n\
             [queues.none]\nbackoff = {{ type = \"fixed\", delay = \"200ms\" }}\n"
        ),
    );
    let up = rig.up(0);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (trace_header, other) = (format!("traceparent={trace}"), "correlation-id=c-1");
    let headers = ["--header", &trace_header, "--header", other];
    rig.ok(&[&["enqueue", "default", r#"{"a": 1}"#, "--id", "m1", "--kind", "mail"][..], &headers].concat());
    let job = rig.wait_state(&up, "m1", "done");
    let message = consumer.take("out", 1).remove(0);
    assert_eq!(String::from_utf8_lossy(&message.data), r#"{"a":1}"#);
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
    let properties = &message.properties;
    assert_eq!(text(properties.message_id()).as_deref(), Some("m1"));
    assert_eq!(text(properties.kind()).as_deref(), Some("mail"));
    assert_eq!(text(properties.correlation_id()).as_deref(), Some("c-1"));
    assert_eq!(text(properties.content_type()).as_deref(), Some("application/json"));
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(header(&message, "roundsman-attempt"), Some(&AMQPValue::LongUInt(1)));
    let token = job["attempts"][0]["token"].as_i64().unwrap();
    assert_eq!(header(&message, "roundsman-token"), Some(&AMQPValue::LongLongInt(token)));
    assert_eq!(header(&message, "traceparent"), Some(&AMQPValue::LongString(trace.into())));
    // No queue is bound: it comes back, and is no success.
    rig.ok(&["enqueue", "lost", "1", "--id", "lost", "--max-attempts", "2"]);
    let job = rig.wait_state(&up, "lost", "dead");
    assert_eq!(outcomes(&job), ["retry", "retry"], "{job}");
    assert!(job["error"].as_str().unwrap().contains("returned the message: 312 NO_ROUTE"), "{job}");
    rig.ok(&["enqueue", "none", "1", "--id", "none", "--max-attempts", "2"]);
    let job = rig.wait_state(&up, "none", "dead");
    assert!(job["error"].as_str().unwrap().contains("no exchange 'none'"), "{job}");
    // The broker dies, and comes back.
    server.kill().unwrap();
    let lines: String = (0..50).map(|n| format!("{{\"id\":\"b{n}\",\"payload\":{n}}}\n")).collect();
    assert_eq!(rig.site.cli_with_input(&["enqueue", "default", "--ndjson"], &lines).unwrap().code, Some(0));
    rig.wait_job(&up, "b0", SOON, |job| job["error"].is_string());
    let away = time::mono();
    server.restart().unwrap();
    let back = time::mono();
    let consumer = Consumer::connect(&server);
    // As applications do: a broker that was killed may not have it any more.
    consumer.declare("out");
    for n in 0..50 {
        rig.wait_state(&up, &format!("b{n}"), "done");
    }
    figure(&format!(
        "a broker was away for {:.1} s more, and {:.1} s after its return 50 jobs were done",
        (back - away).as_secs_f64(),
        (time::mono() - back).as_secs_f64()
    ));
    let mut ids: Vec<String> = consumer
        .take("out", 50)
        .iter()
        .filter_map(|message| message.properties.message_id().as_ref().map(ToString::to_string))
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 50, "{ids:?}");
}

#[test]
fn callbacks_name_exchange_and_routing_key() {
    let server = RabbitServer::start().unwrap();
    let consumer = Consumer::connect(&server);
    consumer.declare("events");
    consumer.bind("all", "events", "mail.*");
    let rig = rig(Store::Sqlite, "\"callback\"", "[transports.amqp]\nallow = [\"127.0.0.1\"]\n");
    let up = rig.up(0);
    let uri = format!("{}?exchange=all", server.url());
    let send = |id: &str, method: &str, uri: &str, data: Value| {
        let payload = json!({"transport": "amqp", "method": method, "uri": uri, "data": data}).to_string();
        rig.ok(&["enqueue", "default", &payload, "--id", id, "--max-attempts", "1"]);
    };
    send("right", "mail.sent", &uri, json!("hello"));
    send("unbound", "news.sent", &uri, json!("hello"));
    send("missing", "x", &format!("{}?exchange=missing", server.url()), json!("hello"));
    rig.wait_state(&up, "right", "done");
    for (id, error) in [("unbound", "312 NO_ROUTE"), ("missing", "no exchange 'missing'")] {
        let job = rig.wait_state(&up, id, "dead");
        assert!(job["error"].as_str().unwrap().contains(error), "{job}");
    }
    let message = consumer.take("events", 1).remove(0);
    assert_eq!((&*message.data, message.routing_key.to_string()), (&b"hello"[..], "mail.sent".to_owned()));
}

/// The broker takes nothing more for a while: jobs wait, and none is done before its message is in the queue.
#[test]
fn a_silent_broker_costs_a_deadline_and_no_message() {
    let server = RabbitServer::start().unwrap();
    let consumer = Consumer::connect(&server);
    consumer.declare("out");
    let rig = rig(
        Store::Redis,
        &format!("{{ type = \"amqp\", routing_key = \"out\", url = \"{}\" }}", server.url()),
        "[transports.amqp]\ntimeout = \"1s\"\n",
    );
    let up = rig.up(0);
    rig.ok(&["enqueue", "default", "0", "--id", "first"]);
    rig.wait_state(&up, "first", "done");
    server.stop_process().unwrap();
    rig.ok(&["enqueue", "default", "1", "--id", "second"]);
    let job = rig.wait_job(&up, "second", SOON, |job| job["error"].is_string());
    assert!(job["error"].as_str().unwrap().contains("did not answer within 1s"), "{job}");
    server.continue_process().unwrap();
    rig.wait_state(&up, "second", "done");
    let taken = consumer.take("out", 2);
    figure(&format!("messages of two jobs over a silent broker: at least {}", taken.len()));
    wait_for("the fleet to be idle", Duration::from_secs(10), || {
        let job = rig.job("second");
        if job["state"] == "done" { Ok(()) } else { Err(job.to_string()) }
    })
    .unwrap();
}
