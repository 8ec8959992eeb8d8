//! Webhooks: what receivers are sent, what their answers mean, and receivers as bad as they come.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use roundsman_tests::ports::free_port;
use roundsman_tests::receiver::{Receiver, Reply, Seen};
use roundsman_tests::spawn;
use roundsman_tests::tree::Up;
use roundsman_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::rig::{LATE, Rig, SOON, Store, figure, log, on_both, outcomes, spread};

/// Receivers of tests are on this host, which a webhook may not reach by itself.
const ALLOW: &str = "[transports.http]\nallow = [\"127.0.0.0/8\"]\ntimeout = \"1s\"\n\
                     [queues.default]\nbackoff = { type = \"fixed\", delay = \"100ms\" }\n";

/// A pool whose jobs go to this URL; `more` is more of its handler.
fn webhook(store: Store, url: &str, more: &str) -> Rig {
    let handler = format!("{{ type = \"http\", url = \"{url}\"{more} }}");
    Rig::new(store, &format!("[pools.default]\nhandler = {handler}\nmax_workers = 1\n{ALLOW}"))
}

/// A pool whose jobs say where they go.
fn callbacks(store: Store, more: &str) -> Rig {
    let pool = "[pools.default]\nhandler = \"callback\"\nmax_workers = 1\n";
    Rig::new(store, &format!("{pool}{more}{ALLOW}"))
}

fn callback(method: &str, url: &str, data: &Value) -> String {
    json!({"transport": "http", "method": method, "uri": url, "data": data}).to_string()
}

/// Signs as another implementation does.
fn python_signature(secret_base64: &str, seen: &Seen) -> String {
    let program = "import base64, hashlib, hmac, sys\n\
        key, message = base64.b64decode(sys.argv[1]), sys.argv[2].encode()\n\
        print('v1,' + base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode())";
    let message = format!("{}.{}.{}", seen.header("webhook-id"), seen.header("webhook-timestamp"), seen.body);
    let mut command = spawn::command("python3");
    command.args(["-c", program, secret_base64, &message]);
    let done = spawn::output(command).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

#[track_caller]
fn wait_seen(up: &Up, receiver: &Receiver, count: usize) -> Vec<Seen> {
    let found = wait_for(&format!("{count} requests"), LATE, || {
        let seen = receiver.seen();
        if seen.len() >= count { Ok(seen) } else { Err(format!("{}: {:?}", seen.len(), seen.last())) }
    });
    found.unwrap_or_else(|late| panic!("{late}\n{}", log(up)))
}

fn a_receiver_is_told_what_it_needs(store: Store) {
    let receiver = Receiver::start(|_, number| match number {
        0 => Reply::Answer(500, String::new(), "not yet".to_owned()),
        _ => Reply::Answer(200, String::new(), "{\"took\": [1, 2]}".to_owned()),
    });
    let receiver = receiver.unwrap();
    let (old, new) = ("b2xkLXNlY3JldC1vZi0yNC1ieXRlcw==", "bmV3LXNlY3JldC1vZi0yNC1ieXRlcw==");
    let rig = webhook(store, &receiver.url("hook?x=1"), &format!(", secret = \"whsec_{new} whsec_{old}\""));
    let up = rig.up(0);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let header = format!("traceparent={trace}");
    rig.ok(&["enqueue", "default", r#"{"é": 1.0}"#, "--id", "a.b", "--header", &header]);
    let job = rig.wait_state(&up, "a.b", "done");
    assert_eq!((&job["result"], outcomes(&job)), (&json!({"took": [1, 2]}), vec!["retry", "done"]), "{job}");
    assert_eq!(job["attempts"][0]["error"], "500 Internal Server Error: not yet", "{job}");
    let seen = receiver.seen();
    assert_eq!(seen.len(), 2);
    for (request, attempt) in seen.iter().zip(["1", "2"]) {
        let header = |name| request.header(name);
        assert_eq!((&*request.method, &*request.path, &*request.body), ("POST", "/hook?x=1", r#"{"é":1.0}"#));
        assert_eq!((header("webhook-id"), header("roundsman-attempt")), ("a.b", attempt));
        assert_eq!((header("traceparent"), header("content-type")), (trace, "application/json"));
        assert!(header("user-agent").starts_with("roundsman/"));
        let signatures: Vec<&str> = header("webhook-signature").split(' ').collect();
        assert_eq!(signatures, [python_signature(new, request), python_signature(old, request)]);
        let seconds: u64 = header("webhook-timestamp").parse().unwrap();
        assert!(request.at_us / 1_000_000 - seconds <= 2);
    }
    let token = |at: usize| seen[at].header("roundsman-token").parse::<u64>().unwrap();
    assert!(token(1) > token(0));
}

fn answers_decide(store: Store) {
    let receiver = Receiver::start(|seen, number| match (&*seen.body, number) {
        ("\"gone\"", _) => Reply::Answer(410, String::new(), "no such hook".to_owned()),
        ("\"moved\"", _) => Reply::Answer(302, "location: /elsewhere\r\n".to_owned(), String::new()),
        ("\"text\"", _) => Reply::Answer(200, String::new(), "thank you".to_owned()),
        ("\"empty\"", _) => Reply::status(204),
        (_, n) if n % 2 == 0 => Reply::Answer(429, "retry-after: 2\r\n".to_owned(), String::new()),
        _ => Reply::status(200),
    });
    let receiver = receiver.unwrap();
    let rig = webhook(store, &receiver.url(""), "");
    let up = rig.up(0);
    for name in ["text", "empty"] {
        rig.ok(&["enqueue", "default", &format!("\"{name}\""), "--id", name]);
    }
    assert_eq!(rig.wait_state(&up, "text", "done")["result"], "thank you");
    assert_eq!(rig.wait_state(&up, "empty", "done")["result"], Value::Null);
    rig.ok(&["enqueue", "default", "\"busy\"", "--id", "busy"]);
    let job = rig.wait_state(&up, "busy", "done");
    assert_eq!(outcomes(&job), ["retry", "done"], "{job}");
    let busy: Vec<u64> =
        receiver.seen().iter().filter(|it| it.body == "\"busy\"").map(|it| it.at_us).collect();
    assert!(busy[1] - busy[0] >= 2_000_000, "{busy:?}");
    rig.ok(&["enqueue", "default", "\"gone\"", "--id", "gone"]);
    let job = rig.wait_state(&up, "gone", "dead");
    assert_eq!((&job["error"], outcomes(&job)), (&json!("410 Gone: no such hook"), vec!["dead"]), "{job}");
    rig.ok(&["enqueue", "default", "\"moved\"", "--id", "moved", "--max-attempts", "2"]);
    let job = rig.wait_state(&up, "moved", "dead");
    assert!(job["error"].as_str().unwrap().starts_with("302 Found (redirects are not followed)"), "{job}");
    assert!(receiver.seen().iter().all(|seen| seen.path == "/"));
}

/// The address of a server that closes each connection when it has heard something.
fn breaks_off() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 16]);
        }
    });
    address
}

/// However bad the receiver, the job ends within the deadline with a reason.
fn bad_receivers_cost_one_deadline(store: Store) {
    let receiver = Receiver::start(|seen, _| match &*seen.path {
        "/hang" => Reply::Hang,
        "/trickle" => Reply::Trickle,
        "/endless" => Reply::Endless,
        _ => Reply::Close,
    });
    let receiver = receiver.unwrap();
    let closed = free_port().unwrap();
    let rig = callbacks(store, "");
    let up = rig.up(0);
    let secure = format!("https://{}/", breaks_off());
    let nobody = format!("http://127.0.0.1:{closed}/");
    for (id, url, state, error) in [
        ("hang", receiver.url("hang"), "dead", "did not answer within 1s"),
        ("trickle", receiver.url("trickle"), "dead", "did not answer within 1s"),
        ("endless", receiver.url("endless"), "done", ""),
        ("close", receiver.url("close"), "dead", "connection closed before message completed"),
        ("secure", secure, "dead", "no secure connection to https://127.0.0.1:"),
        ("nobody", nobody, "dead", "Connection refused"),
    ] {
        let payload = callback("post", &url, &json!({}));
        rig.ok(&["enqueue", "default", &payload, "--id", id, "--max-attempts", "1"]);
        let job = rig.wait_state(&up, id, state);
        assert!(job["error"].as_str().unwrap_or_default().contains(error), "{job}");
        let attempt = &job["attempts"][0];
        let took = attempt["ended"].as_i64().unwrap() - attempt["started"].as_i64().unwrap();
        assert!(took < 5_000, "{id} took {took} ms: {job}");
        if id == "endless" {
            assert_eq!(job["result"].as_str().unwrap().len(), 64 * 1024);
        }
    }
    // The job's own timeout is shorter.
    let payload = callback("post", &receiver.url("hang"), &json!({}));
    rig.ok(&["enqueue", "default", &payload, "--id", "short", "--max-attempts", "1", "--timeout", "300ms"]);
    let job = rig.wait_state(&up, "short", "dead");
    assert_eq!(outcomes(&job), ["timed_out"], "{job}");
}

fn callbacks_are_sent_as_they_are_written(store: Store) {
    let receiver = Receiver::start(|_, _| Reply::status(200)).unwrap();
    let rig = callbacks(store, "");
    let up = rig.up(0);
    for (id, method, data, body, kind) in [
        ("text", "post", json!("hello \"you\"\n"), "hello \"you\"\n", "text/plain; charset=utf-8"),
        ("object", "PUT", json!({"a": [1, null]}), "{\"a\":[1,null]}", "application/json"),
        ("nothing", "delete", Value::Null, "", ""),
    ] {
        let payload = callback(method, &receiver.url(id), &data);
        rig.ok(&["enqueue", "default", &payload, "--id", id]);
        rig.wait_state(&up, id, "done");
        let seen = receiver.seen().into_iter().find(|seen| seen.path == format!("/{id}")).unwrap();
        assert_eq!((seen.method.to_lowercase(), &*seen.body), (method.to_lowercase(), body));
        assert_eq!((seen.header("content-type"), seen.header("webhook-id")), (kind, id));
    }
    rig.ok(&["enqueue", "default", r#"{"transport":"smtp","method":"a","uri":"b"}"#, "--id", "mail"]);
    let job = rig.wait_state(&up, "mail", "dead");
    assert!(job["error"].as_str().unwrap().contains("\"smtp\" is none of http, amqp"), "{job}");
    let printed = r#"{"transport":"stdout","data":{"printed": true}}"#;
    rig.ok(&["enqueue", "default", printed, "--id", "printed"]);
    rig.wait_state(&up, "printed", "done");
    assert!(up.stdout().contains("{\"printed\":true}\n"), "{:?}", up.stdout());
}

fn closed_addresses_are_refused(store: Store) {
    let receiver = Receiver::start(|_, _| Reply::status(200)).unwrap();
    let port = receiver.port();
    // What a literal address is, is known at once.
    let rig = Rig::new(store, "");
    let handler = |url: &str| format!("[pools.default]\nhandler = {{ type = \"http\", url = \"{url}\" }}\n");
    rig.configure(&handler(&format!("http://127.1:{port}/")));
    let refused = rig.run(&["config", "check"]);
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.stderr.contains("permit it with allow = [\"127.0.0.1\"]"), "{refused:?}");
    // What a name is, when it is used.
    rig.configure(&format!(
        "[pools.named]\nqueues = [\"named\"]\nhandler = {{ type = \"http\", url = \"http://localhost:{port}/\" }}\n\
         [pools.default]\nhandler = \"callback\"\n"
    ));
    let up = rig.up(0);
    rig.ok(&["enqueue", "named", "{}", "--id", "named", "--max-attempts", "1"]);
    for (id, uri) in [
        ("v4", format!("http://127.0.0.1:{port}/")),
        ("odd", format!("http://0x7f000001:{port}/")),
        ("mapped", format!("http://[::ffff:127.0.0.1]:{port}/")),
        ("metadata", "http://169.254.169.254/latest".to_owned()),
    ] {
        rig.ok(&[
            "enqueue",
            "default",
            &callback("get", &uri, &Value::Null),
            "--id",
            id,
            "--max-attempts",
            "1",
        ]);
    }
    for (id, transport, method, uri) in [
        ("redis", "redis", "list", format!("redis://127.0.0.1:{port}/0?key=a")),
        ("amqp", "amqp", "key", format!("amqp://localhost:{port}/")),
        ("tcp", "tcp", "", format!("tcp://127.1:{port}")),
    ] {
        let payload = json!({"transport": transport, "method": method, "uri": uri}).to_string();
        rig.ok(&["enqueue", "default", &payload, "--id", id, "--max-attempts", "1"]);
    }
    for id in ["named", "v4", "odd", "mapped", "metadata", "redis", "amqp", "tcp"] {
        let job = rig.wait_state(&up, id, "dead");
        assert!(job["error"].as_str().unwrap().contains("no rule allows it"), "{job}");
    }
    assert_eq!(receiver.seen(), []);
}

fn has_port(url: &str) -> bool {
    let port = url.rsplit_once(':').map(|(_, port)| port);
    port.is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// However an address that is not global is spelt, a callback to it goes nowhere.
fn no_spelling_reaches_a_closed_address(store: Store) {
    let receiver = Receiver::start(|_, _| Reply::status(200)).unwrap();
    let rig = Rig::new(store, "[pools.default]\nhandler = \"callback\"\nmax_workers = 1\n");
    let up = rig.up(0);
    let vectors: Vec<&str> = include_str!("../../../shared/src/reach/forbidden.txt").lines().collect();
    let mut lines = String::new();
    for (number, url) in vectors.iter().enumerate() {
        // Most stand for a host alone: they name the receiver's port then, which loopback would answer at.
        let host = url.strip_suffix('/').filter(|host| !has_port(host));
        let url = host.map_or_else(|| (*url).to_owned(), |host| format!("{host}:{}/", receiver.port()));
        let payload = json!({"transport": "http", "method": "get", "uri": url});
        let job = json!({"id": format!("v{number}"), "payload": payload, "max_attempts": 1});
        lines.extend([job.to_string(), "\n".to_owned()]);
    }
    let sent = rig.site.cli_with_input(&["enqueue", "default", "--ndjson", "-q"], &lines).unwrap();
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let all = wait_for("every job to be given up", LATE, || {
        let limit = vectors.len().to_string();
        let dead = rig.json(&["dead", "list", "--limit", &limit])["jobs"].as_array().unwrap().clone();
        if dead.len() == vectors.len() { Ok(dead) } else { Err(dead.len().to_string()) }
    });
    for job in all.unwrap_or_else(|late| panic!("{late}\n{}", log(&up))) {
        let error = job["error"].as_str().unwrap();
        assert!(error.contains("no rule allows it") || error.contains("is refused"), "{job}");
    }
    assert_eq!(receiver.seen(), []);
}

/// One receiver is gone, one hangs, one is well; their jobs come mixed.
fn the_dead_and_the_hanging_delay_nobody(store: Store) {
    const JOBS: usize = 150;
    let good = Receiver::start(|_, _| Reply::status(200)).unwrap();
    let hanging = Receiver::start(|_, _| Reply::Hang).unwrap();
    let dead = free_port().unwrap();
    let rig = callbacks(store, "slots = 16\n");
    let up = rig.up(0);
    let destinations =
        [("good", good.url("")), ("hang", hanging.url("")), ("dead", format!("http://127.0.0.1:{dead}/"))];
    for batch in 0..JOBS / 10 {
        let mut lines = String::new();
        for number in batch * 10..batch * 10 + 10 {
            for (name, url) in &destinations {
                let payload: Value =
                    serde_json::from_str(&callback("post", url, &json!({"n": number}))).unwrap();
                let line = json!({"id": format!("{name}{number}"), "payload": payload});
                lines.push_str(&line.to_string());
                lines.push('\n');
            }
        }
        let sent = rig.site.cli_with_input(&["enqueue", "default", "--ndjson"], &lines).unwrap();
        assert_eq!(sent.code, Some(0), "{sent:?}");
    }
    let seen = wait_seen(&up, &good, JOBS);
    let mut waits = Vec::new();
    for request in &seen {
        let job = rig.job(request.header("webhook-id"));
        waits
            .push(request.at_us.saturating_sub(u64::try_from(job["due"].as_i64().unwrap()).unwrap() * 1_000));
    }
    let (middle, late, most) = spread(waits);
    figure(&format!(
        "waits beside a dead and a hanging receiver: p50 {middle:.1} ms, p99 {late:.1} ms, max {most:.1} ms"
    ));
    assert!(late < 2_000.0, "p99 {late} ms");
    // The dead one's jobs wait for it, nearly all without having lost an attempt, and are not asked for all the time.
    let jobs: Vec<Value> = (0..JOBS).map(|n| rig.job(&format!("dead{n}"))).collect();
    let charged: u64 = jobs.iter().map(|job| job["attempt"].as_u64().unwrap_or(0)).sum();
    figure(&format!("attempts charged to {JOBS} jobs of a dead receiver: {charged}"));
    assert!(charged <= 40, "{charged} attempts were charged\n{}", log(&up));
    let held = jobs.iter().find(|job| job["attempt"] == 0).unwrap();
    assert!(held["error"].as_str().unwrap().contains("is left alone for a while"), "{held}");
    let why = rig.ok(&["job", "explain", held["id"].as_str().unwrap()]);
    assert!(why.contains("put it off untried") && why.contains("is left alone for a while"), "{why}");
    // It comes back.
    let back = Receiver::start_on(dead, |_, _| Reply::status(200)).unwrap();
    wait_seen(&up, &back, JOBS);
    for number in 0..JOBS {
        rig.wait_state(&up, &format!("dead{number}"), "done");
    }
}

/// Waits of so many jobs for a good receiver, a hundred a second, in ms: p50, p99 and the longest.
fn good_waits(rig: &Rig, up: &Up, good: &Receiver, name: &str, count: usize) -> (f64, f64, f64) {
    let before = good.seen().len();
    for batch in 0..count / 10 {
        let line = |n| {
            let payload: Value =
                serde_json::from_str(&callback("post", &good.url(""), &json!({"n": n}))).unwrap();
            json!({"id": format!("{name}{n}"), "payload": payload}).to_string() + "\n"
        };
        let lines: String = (batch * 10..batch * 10 + 10).map(line).collect();
        let sent = rig.site.cli_with_input(&["enqueue", "default", "--ndjson", "-q"], &lines).unwrap();
        assert_eq!(sent.code, Some(0), "{sent:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let seen = wait_seen(up, good, before + count);
    let wait = |request: &Seen| {
        let job = rig.job(request.header("webhook-id"));
        request.at_us.saturating_sub(u64::try_from(job["due"].as_i64().unwrap()).unwrap() * 1_000)
    };
    spread(seen[before..].iter().map(wait).collect())
}

/// So many jobs of a receiver that is gone, beside which others are served.
fn a_dead_backlog_delays_nobody(store: Store, backlog: usize) {
    let good = Receiver::start(|_, _| Reply::status(200)).unwrap();
    let dead = free_port().unwrap();
    let rig = callbacks(store, "slots = 16\nmin_workers = 1\n");
    let up = rig.up(1);
    let alone = good_waits(&rig, &up, &good, "alone", 1000);
    let payload = callback("post", &format!("http://127.0.0.1:{dead}/"), &json!(1));
    let line = format!("{{\"payload\":{payload}}}\n");
    for _ in 0..backlog.div_ceil(10_000) {
        let lines = line.repeat(10_000);
        let sent = rig.site.cli_with_input(&["enqueue", "default", "--ndjson", "-q"], &lines).unwrap();
        assert_eq!(sent.code, Some(0), "{sent:?}");
    }
    let first = good_waits(&rig, &up, &good, "first", 1000);
    wait_for("the jobs of the dead one to be put off", LATE, || {
        let queue = rig.json(&["queue", "show", "default"]);
        let put_off = queue["scheduled"].as_u64().is_some_and(|count| count as usize > backlog / 10 * 9);
        if put_off { Ok(()) } else { Err(queue.to_string()) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    let beside = good_waits(&rig, &up, &good, "beside", 1000);
    figure(&format!(
        "waits in ms (p50, p99, max) of one receiver: alone {alone:.1?}; as {backlog} jobs for a dead one come {first:.1?}; beside them {beside:.1?}"
    ));
}

#[test]
#[ignore = "takes minutes"]
fn redis_100_000_jobs_of_a_dead_receiver() {
    a_dead_backlog_delays_nobody(Store::Redis, 100_000);
}

#[test]
#[ignore = "takes minutes"]
fn sqlite_100_000_jobs_of_a_dead_receiver() {
    a_dead_backlog_delays_nobody(Store::Sqlite, 100_000);
}

/// A pool with one destination waits for it too, and nothing spins meanwhile.
fn jobs_of_a_dead_receiver_wait_quietly(store: Store) {
    let port = free_port().unwrap();
    let rig = webhook(store, &format!("http://127.0.0.1:{port}/"), "");
    let up = rig.up(0);
    let lines: String = (0..500).map(|n| format!("{{\"id\":\"j{n}\",\"payload\":{n}}}\n")).collect();
    let sent = rig.site.cli_with_input(&["enqueue", "default", "--ndjson"], &lines).unwrap();
    assert_eq!(sent.code, Some(0), "{sent:?}");
    wait_for("the circuit to open", SOON, || {
        let held = (0..500).filter(|n| n % 50 == 0).map(|n| rig.job(&format!("j{n}")));
        let held =
            held.filter(|job| job["error"].as_str().is_some_and(|it| it.contains("left alone"))).count();
        if held >= 5 { Ok(()) } else { Err(format!("{held} of 10 looked at are held")) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    if let Some(server) = &rig.server {
        let calls = || server.info("stats")["total_commands_processed"].parse::<u64>().unwrap();
        let before = calls();
        std::thread::sleep(Duration::from_secs(3));
        let rate = (calls() - before) / 3;
        figure(&format!("store commands a second while 500 jobs wait for a dead receiver: {rate}"));
        assert!(rate < 1_500, "{rate} commands a second");
    }
    let back = Receiver::start_on(port, |_, _| Reply::status(200)).unwrap();
    wait_seen(&up, &back, 500);
}

on_both!(
    a_receiver_is_told_what_it_needs,
    answers_decide,
    bad_receivers_cost_one_deadline,
    callbacks_are_sent_as_they_are_written,
    closed_addresses_are_refused,
    no_spelling_reaches_a_closed_address,
    the_dead_and_the_hanging_delay_nobody,
    jobs_of_a_dead_receiver_wait_quietly,
);
