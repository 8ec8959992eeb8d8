//! What belongs to no job: doctor, settings, the program itself, signals and pipes.

use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::Duration;

use roundsman_tests::spawn;
use roundsman_tests::tree::Site;
use roundsman_tests::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::rig::Rig;

#[test]
fn doctor_says_what_to_do() {
    let rig = Rig::with("[queues.q]\nrate_limit = \"5/s\"");
    rig.ok(&["enqueue", "q"]);
    let document = rig.json(&["doctor"]);
    let findings = document["findings"].as_array().unwrap();
    assert_eq!(document["ok"], true);
    for finding in findings {
        assert!(
            finding["level"] == "ok" || finding["do"].as_str().is_some_and(|todo| !todo.is_empty()),
            "{finding}"
        );
    }
    let text = rig.ok(&["doctor"]);
    for phrase in [
        "survives: memory",
        "appendfsync always",
        "queues.q.rate_limit: is not served yet",
        "1 job of q waiting, and no running pool serves it",
        "open files",
        "clock agrees",
    ] {
        assert!(text.contains(phrase), "no {phrase:?} in {text}");
    }
    rig.begin("q");
    assert!(rig.ok(&["doctor"]).contains("jobs of q are held by box, which is not heard"));
    rig.beat("box", r#"{"host":"box","pools":[{"pool":"p","queues":["q"],"kinds":["x"]}]}"#);
    rig.ok(&["enqueue", "q", "--kind", "odd"]);
    let text = rig.ok(&["doctor"]);
    assert!(text.contains("kind \"odd\"") && !text.contains("not heard"), "{text}");
}

#[test]
fn doctor_fails_on_an_error() {
    let rig = Rig::with("durability = \"fsync\"");
    let done = rig.run(&["doctor", "--json"]);
    let document: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((done.code, &document["ok"]), (Some(1), &json!(false)));
    assert_eq!(done.stderr, "");
}

#[test]
fn doctor_tells_of_pools_that_cannot_work() {
    let rig = Rig::new();
    rig.beat("box", r#"{"host":"box","pools":[{"pool":"p","queues":[],"quarantined":"exit 127","why":"x"},{"pool":"s","queues":[],"saturated":true,"why":"9 needed"}]}"#);
    let done = rig.run(&["doctor"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    for phrase in [
        "pool p on box is quarantined and starts no worker: exit 127",
        "pool s on box is at its maximum",
        "9 needed",
    ] {
        assert!(done.stdout.contains(phrase), "no {phrase:?} in {}", done.stdout);
    }
    assert!(rig.ok(&["status"]).contains("quarantined: exit 127"));
}

#[test]
fn settings_are_shown_with_their_origin_and_without_secrets() {
    let site = Site::new("[store]\nurl = \"redis://:hunter2@localhost\"\nlease = \"9s\"").unwrap();
    let done = site.cli(&["config", "show", "--origin", "--namespace", "n1"]).unwrap();
    assert_eq!(done.code, Some(0), "{done:?}");
    let line = |key: &str| done.stdout.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(
        line("store.lease").starts_with("store.lease = \"9s\"")
            && line("store.lease").ends_with("# roundsman.toml:3")
    );
    assert!(line("store.namespace").ends_with("# --namespace"));
    assert!(line("queues.default.timeout").ends_with("# default"));
    assert!(line("store.url").contains("redis://:***@localhost") && !done.stdout.contains("hunter2"));
    let document = site.cli_json(&["config", "show"]).unwrap();
    let rows = document["settings"].as_array().unwrap();
    assert!(rows.contains(&json!({"key": "store.lease", "value": "9s", "origin": "roundsman.toml:3"})));
    assert!(site.cli(&["config", "check"]).unwrap().stdout.contains("the configuration is right"));
}

#[test]
fn the_program_tells_of_itself() {
    let site = Site::new("").unwrap();
    let text = |arguments: &[&str]| {
        let done = site.cli(arguments).unwrap();
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        done.stdout
    };
    assert!(text(&["version"]).starts_with("roundsman 0."));
    assert_eq!(text(&["version"]), text(&["--version"]));
    assert!(site.cli_json(&["version"]).unwrap()["version"].is_string());
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&["completions", shell]).contains("roundsman"), "{shell}");
    }
    assert!(text(&["man"]).contains(".TH roundsman 1") && text(&["man"]).contains("Exit codes"));
    assert!(text(&["help"]).contains("enqueue"));
    for hidden in ["master", "http", "intake"] {
        assert!(!text(&["--help"]).contains(&format!("\n  {hidden}")), "{hidden}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let rig = Rig::new();
    let input: String = (0..3000).map(|n| format!("{{\"payload\":{n}}}\n")).collect();
    assert_eq!(rig.feed(&["enqueue", "q", "--ndjson", "-q"], &input).code, Some(0));
    for arguments in [&["job", "list", "--jsonl"][..], &["completions", "bash"], &["man"], &["--help"]] {
        let mut command = rig.site.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn::start(command).unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = child.wait().unwrap();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{arguments:?} {:?}", status.signal());
    }
}

#[test]
fn a_reader_that_goes_away_stops_no_storing() {
    let rig = Rig::new();
    let mut command = rig.site.command(&["enqueue", "q", "--ndjson", "-q"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn::start(command).unwrap();
    drop(child.stdout.take());
    let input: String = (0..3000).map(|n| format!("{{\"payload\":{n}}}\n")).collect();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(rig.json(&["queue", "show", "q"])["ready"], 3000);
}

#[test]
fn an_interrupt_leaves_with_130() {
    let rig = Rig::new();
    rig.ok(&["enqueue", "q", "--id", "a"]);
    let waits: [&[&str]; 2] = [&["job", "wait", "a"], &["enqueue", "q", "--ndjson", "-q"]];
    for arguments in waits {
        let mut command = rig.site.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn::start(command).unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let status = wait_for("the verb to leave", Duration::from_secs(10), || {
            // Before its handler stands, the signal ends it by itself: then this test would see no code.
            if rig.server.info("clients")["connected_clients"].parse::<u32>().unwrap() >= 2 {
                kill_process(pid, Signal::INT).unwrap();
            }
            child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())
        })
        .unwrap();
        assert_eq!(status.code(), Some(130), "{arguments:?} {status:?}");
    }
}
