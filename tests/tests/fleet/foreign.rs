//! Workers that know nothing of Roundsman, on queues of their own: stock programs, as they would run under any other
//! supervisor.

#[path = "foreign/rq.rs"]
mod rq;

use std::collections::BTreeSet;
use std::time::Duration;

use lapin::BasicProperties;
use roundsman_tests::amqp_client::Client;
use roundsman_tests::proc::{Process, State};
use roundsman_tests::rabbit_server::RabbitServer;
use roundsman_tests::receiver::{Receiver, Reply};
use roundsman_tests::redis_server::{RedisOptions, RedisServer};
use roundsman_tests::spawn;
use roundsman_tests::time;
use roundsman_tests::tree::Up;
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;

use crate::rig::{LATE, Rig, SOON, Store, figure, log, wait_gone};

/// What anybody would write: a loop around `BLPOP`, a line an element, and an orderly end.
const WORKER: &str = r#"import os, signal, sys, time
import redis

server = redis.Redis(port=int(sys.argv[1]))
leaving = False
def leave(number, frame):
    global leaving
    leaving = True
signal.signal(getattr(signal, "SIG" + (sys.argv[2] if len(sys.argv) > 2 else "TERM")), leave)
while not leaving:
    got = server.blpop("mail", timeout=1)
    if got is None:
        continue
    server.hset("hands", os.getpid(), got[1])
    time.sleep(0.1)
    server.rpush("done", got[1])
    server.hdel("hands", os.getpid())
    print("done", got[1].decode(), flush=True)
print("left in order", flush=True)
"#;

/// A python with a client of Redis, which Debian's own is.
fn python() -> &'static str {
    let knows = |program: &&str| {
        let mut command = spawn::command(program);
        command.args(["-c", "import redis"]);
        spawn::output(command).is_ok_and(|done| done.status.success())
    };
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(knows)
        .expect("a python with redis (ops/test installs it)")
}

fn redis() -> RedisServer {
    RedisServer::start(RedisOptions::default()).unwrap()
}

fn push(queue: &RedisServer, from: u32, to: u32) {
    let values: Vec<String> = (from..to).map(|n| n.to_string()).collect();
    let mut arguments = vec!["RPUSH", "mail"];
    arguments.extend(values.iter().map(|it| &**it));
    let _ = queue.cli(&arguments);
}

/// A pool `mail`; `more` is more about it.
fn pool(command: &str, demand: &str, more: &str) -> String {
    format!("[pools.mail]\ncommand = [{command}]\ndemand = {{ {demand} }}\n{more}\n[http]\nlisten = \"\"\n")
}

fn list(queue: &RedisServer) -> String {
    format!("type = \"redis-list\", url = \"{}\", key = \"mail\"", queue.url())
}

/// The keepers with the workers that they keep.
fn kept(up: &Up) -> Vec<(Process, Process)> {
    let keepers = up.workers().unwrap().into_iter().filter(|(name, _)| name.starts_with("mail/"));
    keepers.filter_map(|(_, keeper)| Some((keeper, *keeper.children().first()?))).collect()
}

#[track_caller]
fn wait_kept(up: &Up, wish: &str, wished: impl Fn(&[(Process, Process)]) -> bool) -> Vec<(Process, Process)> {
    wait_for(wish, SOON, || {
        let found = kept(up);
        // A shim has not become its worker yet.
        let begun =
            found.iter().all(|(_, it)| it.command_line().is_some_and(|line| !line.contains("kept-worker")));
        if begun && wished(&found) { Ok(found) } else { Err(format!("{found:?}")) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(up)))
}

#[track_caller]
fn wait_log(up: &Up, text: &str) {
    wait_for(text, SOON, || if up.stderr().contains(text) { Ok(()) } else { Err(log(up)) })
        .unwrap_or_else(|late| panic!("{late}"));
}

#[track_caller]
fn wait_dead(processes: &[Process]) {
    wait_for("their end", SOON, || {
        let alive: Vec<String> =
            processes.iter().filter(|it| it.is_alive()).map(ToString::to_string).collect();
        if alive.is_empty() { Ok(()) } else { Err(alive.join("; ")) }
    })
    .unwrap();
}

fn why(rig: &Rig) -> String {
    let status = rig.json(&["status"]);
    let hosts = status["hosts"].as_array().cloned().unwrap_or_default();
    let pools = hosts.iter().flat_map(|host| host["pools"].as_array().cloned().unwrap_or_default());
    let ours = pools.filter(|pool| pool["pool"] == "mail");
    ours.map(|pool| format!("{} {} {}", pool["desired"], pool["why"], pool["quarantined"])).collect()
}

#[track_caller]
fn wait_why(rig: &Rig, up: &Up, text: &str) -> String {
    wait_for(text, SOON, || {
        let found = why(rig);
        if found.contains(text) { Ok(found) } else { Err(found) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(up)))
}

#[test]
fn a_stock_worker_is_replaced_and_scaled() {
    let queue = redis();
    let rig = Rig::new(Store::Sqlite, "");
    rig.script("worker.py", WORKER);
    let command = format!("\"{}\", \"worker.py\", \"{}\"", python(), queue.port());
    let more =
        "liveness = \"stdout\"\nstall_after = \"2s\"\nmin_workers = 1\nmax_workers = 6\ngrace = \"3s\"";
    rig.configure(&pool(&command, &list(&queue), more));
    let up = rig.up(1);
    let (_, first) = *wait_kept(&up, "a worker", |it| it.len() == 1).first().unwrap();
    push(&queue, 0, 5);
    wait_for("the first five", SOON, || match &*queue.cli(&["LLEN", "done"]) {
        "5" => Ok(()),
        other => Err(other.to_owned()),
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));

    let killed = time::mono_us();
    first.signal(Signal::KILL).unwrap();
    let (_, second) = wait_kept(&up, "another worker", |it| it.len() == 1 && it[0].1 != first)[0];
    figure(&format!("foreign worker killed → another: {} ms", (time::mono_us() - killed) / 1_000));

    // While nothing waits it may be silent for as long as it likes; then it is missed.
    second.signal(Signal::STOP).unwrap();
    wait_for("the stop", SOON, || {
        if second.state() == Some(State::Stopped) { Ok(()) } else { Err(second.to_string()) }
    })
    .unwrap();
    let stopped = time::mono_us();
    // Its server gives it the first of them, whether it takes it or not.
    push(&queue, 5, 9);
    wait_kept(&up, "another worker", |it| it.iter().any(|(_, it)| *it != second) && !second.is_alive());
    figure(&format!("foreign worker stopped → another: {} ms", (time::mono_us() - stopped) / 1_000));
    wait_log(&up, "not a line in 2s");

    // 10 a second each: 300 need more than one to be gone in time.
    push(&queue, 9, 309);
    let begun = time::mono_us();
    wait_kept(&up, "at least three workers", |it| it.len() >= 3);
    wait_for("the queue to be empty", LATE, || match &*queue.cli(&["LLEN", "mail"]) {
        "0" => Ok(()),
        other => Err(other.to_owned()),
    })
    .unwrap_or_else(|late| panic!("{late}\n{}\n{}", why(&rig), log(&up)));
    figure(&format!("300 elements at 10/s a worker: {} ms", (time::mono_us() - begun) / 1_000));
    wait_for("the hands to be empty", SOON, || {
        let alive: BTreeSet<String> = kept(&up).iter().map(|(_, it)| it.pid.to_string()).collect();
        let busy: Vec<String> = queue
            .cli(&["HKEYS", "hands"])
            .lines()
            .map(str::to_owned)
            .filter(|pid| alive.contains(pid))
            .collect();
        if busy.is_empty() { Ok(()) } else { Err(format!("{busy:?}")) }
    })
    .unwrap();
    let done: BTreeSet<String> =
        queue.cli(&["LRANGE", "done", "0", "-1"]).lines().map(str::to_owned).collect();
    let hands: BTreeSet<String> = queue.cli(&["HVALS", "hands"]).lines().map(str::to_owned).collect();
    for n in 0..309 {
        let n = n.to_string();
        assert!(done.contains(&n) || hands.contains(&n), "{n} is lost\n{}", log(&up));
    }
    assert!(hands.len() <= 2, "more than the killed had in hand: {hands:?}\n{}", log(&up));
    up.signal(Signal::TERM).unwrap();
    assert_eq!(up.wait_exit(LATE).unwrap().code(), Some(0), "{}", log(&up));
    assert!(up.stderr().contains("left in order"), "{}", log(&up));
    wait_gone(&up, Duration::from_secs(1));
}

/// A program that leaves when it is told to, in its way.
const SHELL: &str = "#!/bin/sh\ntrap 'echo \"told by $1\"; exit 0' \"$1\"\nsleep 600 & sleep 600 & echo up\nwhile :; do wait; done\n";
/// One that does not.
const DEAF: &str = "#!/bin/sh\ntrap '' TERM\necho up\nwhile :; do sleep 0.1; done\n";

fn shell(rig: &Rig, more: &str, length: &str) {
    rig.script("worker.sh", SHELL);
    std::fs::write(rig.site.work().join("length"), length).unwrap();
    let demand = "type = \"command\", command = [\"cat\", \"length\"]";
    rig.configure(&pool("\"./worker.sh\", \"USR1\"", demand, &format!("stop_signal = \"USR1\"\n{more}")));
}

#[test]
fn a_shell_worker_is_scaled_by_what_a_command_says_and_stopped_by_its_signal() {
    let rig = Rig::new(Store::Sqlite, "");
    shell(&rig, "max_workers = 3\ngrace = \"5s\"", "0");
    let up = rig.up(0);
    wait_why(&rig, &up, "0 wait in its queue");
    assert_eq!(kept(&up), [], "{}", log(&up));
    std::fs::write(rig.site.work().join("length"), "40").unwrap();
    let found = wait_kept(&up, "three workers", |it| it.len() == 3);
    wait_why(&rig, &up, "would be needed");
    let trees: Vec<Process> = found.iter().flat_map(|(keeper, _)| keeper.descendants()).collect();
    assert!(trees.len() >= 6, "{trees:?}");

    // What cannot be read changes nothing, and is told.
    std::fs::write(rig.site.work().join("length"), "many").unwrap();
    let told = wait_why(&rig, &up, "cannot be read");
    assert!(told.starts_with("3 ") && told.contains("printed no number"), "{told}");
    assert_eq!(kept(&up).len(), 3);
    std::fs::write(rig.site.work().join("length"), "0").unwrap();
    wait_why(&rig, &up, "fewer are tried");

    up.signal(Signal::TERM).unwrap();
    assert_eq!(up.wait_exit(LATE).unwrap().code(), Some(0), "{}", log(&up));
    assert_eq!(up.stderr().matches("told by USR1").count(), 3, "{}", log(&up));
    wait_gone(&up, Duration::from_secs(1));
    wait_dead(&trees);
}

#[test]
fn who_ignores_its_signal_is_killed_after_its_grace() {
    let rig = Rig::new(Store::Sqlite, "");
    rig.script("worker.sh", DEAF);
    let demand = "type = \"command\", command = [\"echo\", \"1\"]";
    rig.configure(&pool("\"./worker.sh\"", demand, "min_workers = 1\nmax_workers = 1\ngrace = \"2s\""));
    let up = rig.up(1);
    let (_, worker) = wait_kept(&up, "a worker", |it| it.len() == 1)[0];
    wait_log(&up, "up");
    let asked = time::mono_us();
    rig.ok(&["worker", "stop", "mail/1"]);
    wait_dead(&[worker]);
    let took = time::mono_us() - asked;
    figure(&format!("a foreign worker that ignores its signal, grace 2 s → gone: {} ms", took / 1_000));
    assert!(took < 8_000_000, "{took}\n{}", log(&up));
    wait_kept(&up, "another worker", |it| it.len() == 1 && it[0].1 != worker);
}

/// It speaks the pipe protocol, but heeds nothing that it is told.
const BEATS: &str = r#"import json, os, sys, time

def say(**words):
    print(json.dumps(words), flush=True)

say(t="hello", v=[1, 1], pid=os.getpid(), nonce=int(os.environ["ROUNDSMAN_INTERNAL_NONCE"]), build="beats 1")
say(t="ready")
while True:
    say(t="hb", doing="busy", running=1)
    time.sleep(0.5)
"#;

#[test]
fn who_beats_has_no_keeper_and_its_grace_too() {
    let rig = Rig::new(Store::Sqlite, "");
    rig.script("worker.py", BEATS);
    let demand = "type = \"command\", command = [\"echo\", \"1\"]";
    let more = "liveness = \"beats\"\nmin_workers = 1\nmax_workers = 1\ngrace = \"2s\"";
    rig.configure(&pool(&format!("\"{}\", \"worker.py\"", python()), demand, more));
    let up = rig.up(1);
    let workers = up.workers().unwrap();
    let worker = workers.iter().find(|(name, _)| name.starts_with("mail/")).unwrap().1;
    assert!(worker.command_line().unwrap().contains("worker.py"), "{worker}");
    let asked = time::mono_us();
    rig.ok(&["worker", "stop", "mail/1"]);
    wait_dead(&[worker]);
    let took = time::mono_us() - asked;
    figure(&format!("a deaf worker that beats, grace 2 s → gone: {} ms", took / 1_000));
    assert!((1_900_000..8_000_000).contains(&took), "{took}\n{}", log(&up));
}

#[test]
fn a_keeper_that_is_told_to_end_has_its_worker_finish() {
    let rig = Rig::new(Store::Sqlite, "");
    shell(&rig, "min_workers = 1\nmax_workers = 1", "1");
    let up = rig.up(1);
    let (keeper, _) = wait_kept(&up, "a worker", |it| it.len() == 1)[0];
    wait_log(&up, "] up\n");
    keeper.signal(Signal::TERM).unwrap();
    wait_dead(&[keeper]);
    assert!(up.stderr().contains("told by USR1"), "{}", log(&up));
    wait_kept(&up, "another worker", |it| it.len() == 1 && it[0].0 != keeper);
}

#[test]
fn a_killed_keeper_leaves_nothing_behind() {
    let rig = Rig::new(Store::Sqlite, "");
    shell(&rig, "min_workers = 1\nmax_workers = 1", "1");
    let up = rig.up(1);
    let (keeper, _) =
        wait_kept(&up, "a worker with its children", |it| it.len() == 1 && it[0].0.descendants().len() >= 3)
            [0];
    let tree = keeper.descendants();
    keeper.signal(Signal::KILL).unwrap();
    wait_dead(&tree);
    wait_kept(&up, "another worker", |it| it.len() == 1 && it[0].0 != keeper);
}

#[test]
fn a_killed_master_leaves_no_foreign_worker_running() {
    let rig = Rig::new(Store::Sqlite, "");
    shell(&rig, "min_workers = 2\nmax_workers = 2\ngrace = \"5s\"", "1");
    let up = rig.up(2);
    let found = wait_kept(&up, "two workers", |it| it.len() == 2);
    wait_for("both to be up", SOON, || match up.stderr().matches("] up\n").count() {
        2 => Ok(()),
        other => Err(other.to_string()),
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    let old: Vec<Process> =
        found.iter().flat_map(|(keeper, _)| [vec![*keeper], keeper.descendants()].concat()).collect();
    up.master().unwrap().unwrap().signal(Signal::KILL).unwrap();
    wait_dead(&old);
    wait_kept(&up, "two others", |it| it.len() == 2 && it.iter().all(|(keeper, _)| !old.contains(keeper)));
}

#[test]
fn a_command_that_is_missing_or_fails_early_is_quarantined() {
    for (command, expected) in [
        ("\"./missing\"", "there is no such program"),
        ("\"sh\", \"-c\", \"sleep 1; echo last words >&2; exit 3\"", "failed soon after their start"),
    ] {
        let rig = Rig::new(Store::Sqlite, "");
        let demand = "type = \"command\", command = [\"echo\", \"1\"]";
        rig.configure(&pool(command, demand, "min_workers = 1\nmax_workers = 1"));
        let up = rig.up(0);
        wait_why(&rig, &up, expected);
        if command.contains("words") {
            assert_eq!(up.stderr().matches("] last words\n").count(), 4, "{}", log(&up));
        }
    }
}

#[test]
fn redis_lists_sets_and_streams_are_read() {
    let queue = redis();
    let _ = queue.cli(&["ZADD", "z", "1", "a", "2", "b"]);
    for n in 0..7 {
        let _ = queue.cli(&["XADD", "s", "*", "n", &n.to_string()]);
    }
    let _ = queue.cli(&["XGROUP", "CREATE", "s", "g", "0"]);
    let _ = queue.cli(&["XREADGROUP", "GROUP", "g", "c", "COUNT", "3", "STREAMS", "s", ">"]);
    for (demand, expected) in [
        ("type = \"redis-zset\", key = \"z\"", "2 wait"),
        ("type = \"redis-stream\", key = \"s\"", "7 wait"),
        ("type = \"redis-stream\", key = \"s\", group = \"g\"", "4 wait"),
        ("type = \"redis-stream\", key = \"s\", group = \"other\"", "no group"),
        ("type = \"redis-list\", key = \"z\"", "WRONGTYPE"),
    ] {
        let rig = Rig::new(Store::Sqlite, "");
        let demand = format!("{demand}, url = \"{}\"", queue.url());
        rig.configure(&pool("\"sleep\", \"600\"", &demand, "max_workers = 1"));
        let up = rig.up(0);
        wait_why(&rig, &up, expected);
    }
}

#[test]
fn a_broker_and_a_document_are_read() {
    let broker = RabbitServer::start().unwrap();
    let client = Client::connect(&broker.url()).unwrap();
    client.declare("mail", &[]).unwrap();
    for _ in 0..9 {
        client.publish("mail", b"x", BasicProperties::default()).unwrap();
    }
    let document = r#"{"queues":[{"messages":21}]}"#;
    let server = Receiver::start(move |_, _| Reply::Answer(200, String::new(), document.to_owned())).unwrap();
    let amqp = format!("type = \"amqp\", url = \"{}\", queue = \"mail\"", broker.url());
    let http = format!("type = \"http\", url = \"{}\", path = \"queues.0.messages\"", server.url("/all"));
    for (demand, expected) in [(amqp, "9 wait"), (http, "21 wait")] {
        let rig = Rig::new(Store::Sqlite, "");
        rig.configure(&pool("\"sleep\", \"600\"", &demand, "max_workers = 1"));
        let up = rig.up(0);
        wait_why(&rig, &up, expected);
    }
}
