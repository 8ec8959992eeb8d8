//! What is bad gets a code and a reason, and nothing is stored.

use std::time::{Duration, Instant};

use roundsman_tests::tree::Site;

use crate::rig::{Rig, assert_failed};

#[test]
fn bad_jobs_are_refused_with_the_field() {
    let rig = Rig::with("[queues.small]\nmax_payload = \"10B\"");
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    for (arguments, phrases) in [
        (
            &["small", "\"0123456789\""][..],
            &["payload: 12 bytes are over the limit of 10", "max_payload"][..],
        ),
        (&["q", "hello"], &["payload: is no JSON", "'\"hello\"'"]),
        (&["q", "{\"a\":"], &["payload: is no JSON"]),
        (&["q", &deep], &["payload: nests deeper than 64"]),
        (&["a b"], &["a queue name is made of A-Z a-z 0-9 . _ -"]),
        (&["roundsman.replies"], &["roundsman.replies is Roundsman's own"]),
        (&["q", "--id", "a/b"], &["id: a job id is made of"]),
        (&["q", "--at", "2099-01-01T00:00:00Z"], &["due: lies more than 10 years ahead"]),
        (&["q", "--in", "4000d"], &["in: lies more than 10 years ahead"]),
        (&["q", "--priority", "256"], &["priority: must lie between -255 and 255"]),
        (&["q", "--max-attempts", "0"], &["max_attempts: must lie between 1 and"]),
        (&["q", "--header", "a b=c"], &["headers: \"a b\" is no header name"]),
        (&["q", "--unique", "u"], &["unique: ", "not served yet"]),
    ] {
        rig.fails(&[&["enqueue"], arguments].concat(), 1, phrases);
    }
    for (arguments, phrase) in [
        (&["q", "--in", "5s", "--at", "1"][..], "cannot be used with"),
        (&["q", "--in", "5"], "\"5\" has no unit: write \"5s\" or \"5ms\""),
        (&["q", "--at", "tomorrow"], "write RFC 3339"),
        (&["q", "--header", "a"], "NAME=VALUE"),
        (&["q", "1", "--ndjson"], "cannot be used with"),
        (&["q", "--jsonl"], "--ndjson"),
        (&[], "QUEUE"),
    ] {
        rig.fails(&[&["enqueue"], arguments].concat(), 2, &[phrase]);
    }
    for (line, phrase) in [
        (r#"{"payload":1,"in":"5s","due":1767225600000}"#, "not both"),
        (r#"{"payload":1,"colour":2}"#, "unknown field `colour`"),
        (r#"{"payload":1,"id":"a/b"}"#, "id: a job id is made of"),
        (&format!(r#"{{"payload":{deep}}}"#), "payload: nests deeper than 64"),
        (r#"{"payload":1,"due":"2199-01-01T00:00:00Z"}"#, "due: lies more than 10 years ahead"),
    ] {
        let done = rig.feed(&["enqueue", "q", "--ndjson", "-q"], line);
        assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{line}: {done:?}");
        assert!(done.stderr.contains("line 1: ") && done.stderr.contains(phrase), "{line}: {done:?}");
    }
    assert_eq!(rig.json(&["job", "list"])["jobs"], serde_json::json!([]));
}

#[test]
fn unknown_words_are_usage() {
    let rig = Rig::new();
    for arguments in [
        &["bogus"][..],
        &["job"],
        &["job", "list", "--state", "odd"],
        &["up", "--demo", "--", "cat"],
        &["--bogus"],
    ] {
        rig.fails(arguments, 2, &[]);
    }
    rig.fails(&["job", "show", "a b/c"], 2, &["a queue name is made of"]);
    rig.fails(&["job", "list", "--cursor", "x"], 2, &["is no cursor of this listing"]);
    assert!(rig.ok(&["--help"]).contains("Exit codes:"));
}

#[test]
fn a_store_that_is_not_there_answers_69_soon() {
    let site = Site::new("").unwrap();
    let verbs: [&[&str]; 6] = [
        &["enqueue", "q"],
        &["job", "list"],
        &["queue", "list"],
        &["dead", "list"],
        &["status", "--json"],
        &["job", "show", "a"],
    ];
    for verb in verbs {
        let arguments = [verb, &["--store", "redis://:hunter2@127.0.0.1:1/"]].concat();
        let done = site.cli(&arguments).unwrap();
        let phrases = ["the store redis://:***@127.0.0.1:1/ is not reachable: Connection refused", "--store"];
        assert_failed(&arguments, &done, 69, &phrases);
        assert!(!done.stderr.contains("hunter2"), "{done:?}");
    }
    let done = site.cli(&["doctor", "--store", "redis://127.0.0.1:1/"]).unwrap();
    assert_eq!(done.code, Some(69));
    assert!(done.stdout.contains("is not reachable"), "{done:?}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "what a user would see on the watch")]
fn a_store_that_hangs_answers_69_within_five_seconds() {
    let rig = Rig::new();
    rig.server.stop_process().unwrap();
    let begun = Instant::now();
    rig.fails(&["enqueue", "q"], 69, &["is not reachable"]);
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    rig.server.continue_process().unwrap();
    rig.ok(&["enqueue", "q"]);
}

#[test]
fn a_store_that_would_lose_jobs_is_refused() {
    let rig = Rig::new();
    rig.tune("maxmemory", "100000000");
    rig.tune("maxmemory-policy", "allkeys-lru");
    rig.fails(&["enqueue", "q"], 78, &["maxmemory-policy allkeys-lru", "set maxmemory-policy noeviction"]);
    let done = rig.run(&["doctor"]);
    assert_eq!(done.code, Some(78));
    assert!(done.stdout.contains("maxmemory-policy"), "{done:?}");
}

#[test]
fn a_wrong_configuration_answers_78_with_file_line_and_key() {
    let site = Site::new("[store]\nleese = \"5s\"\n\n[pools.default]\nmax_workers = \"many\"\n").unwrap();
    let phrases = [
        "roundsman: roundsman.toml:2: store.leese: unknown key; did you mean \"lease\"?",
        "roundsman: roundsman.toml:5: pools.default.max_workers: expected a whole number",
    ];
    for arguments in [
        &["status"][..],
        &["config", "check"],
        &["config", "show", "--json"],
        &["doctor"],
        &["up"],
        &["bench"],
    ] {
        assert_failed(arguments, &site.cli(arguments).unwrap(), 78, &phrases);
    }
    site.configure("").unwrap();
    for (arguments, phrase) in [
        (&["--store", "http://a"][..], "--store: store.url: http:// is no store"),
        (&["--namespace", "a b"], "--namespace: store.namespace: \"a b\" is no right name"),
        (&["--config", "none.toml"], "--config: cannot read none.toml"),
    ] {
        let arguments = [&["config", "check"], arguments].concat();
        assert_failed(&arguments, &site.cli(&arguments).unwrap(), 78, &[phrase]);
    }
}
