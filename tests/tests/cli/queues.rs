use serde_json::{Value, json};

use crate::rig::Rig;

#[test]
fn queues_are_listed_in_numbers() {
    let rig = Rig::new();
    rig.ok(&["enqueue", "mail", "1"]);
    rig.ok(&["enqueue", "mail", "1", "--in", "1h"]);
    let list = rig.json(&["queue", "list"]);
    let mail = list["queues"].as_array().unwrap().iter().find(|queue| queue["queue"] == "mail").unwrap();
    assert_eq!(
        ["paused", "scheduled", "ready", "running", "dead"].map(|key| mail[key].clone()),
        [json!(false), json!(1), json!(1), json!(0), json!(0)]
    );
    assert!(mail["oldest_due_ms"].as_i64().is_some_and(|ms| (0..60_000).contains(&ms)), "{mail}");
    assert!(rig.ok(&["queue", "list"]).contains("mail"));
    // Named by the settings: its default pool serves it.
    assert_eq!(rig.json(&["queue", "show", "default"])["ready"], 0);
    for verb in ["show", "pause", "resume", "purge"] {
        rig.fails(&["queue", verb, "none"], 3, &["there is no queue none", "default, mail"]);
    }
}

#[test]
fn queues_are_paused_and_resumed() {
    let rig = Rig::new();
    rig.ok(&["enqueue", "q"]);
    assert_eq!(rig.json(&["queue", "pause", "q"])["paused"], true);
    assert_eq!(rig.json(&["queue", "show", "q"])["paused"], true);
    assert_eq!(rig.ok(&["queue", "resume", "q"]), "q is open");
    assert_eq!(rig.json(&["queue", "show", "q"])["paused"], false);
}

#[test]
fn a_purge_counts_first_and_wants_a_yes() {
    let rig = Rig::new();
    rig.ok(&["enqueue", "q", "1"]);
    rig.ok(&["enqueue", "q", "1", "--in", "1h"]);
    rig.bury("q", "d", "no");
    // The first enqueued job was buried instead: one is ready.
    rig.fails(&["queue", "purge", "q"], 2, &["this would remove 2 jobs of q", "--yes"]);
    rig.fails(&["queue", "purge", "q", "--state", "running"], 2, &["running jobs are not purged"]);
    let purged = rig.json(&["queue", "purge", "q", "--state", "ready", "--yes"]);
    assert_eq!(purged, json!({"queue": "q", "states": ["ready"], "purged": 1}));
    assert_eq!(rig.ok(&["queue", "purge", "q", "--yes"]), "removed 1 job of q");
    assert_eq!(rig.ok(&["queue", "purge", "q"]), "removed 0 jobs of q");
    let left = rig.json(&["queue", "show", "q"]);
    assert_eq!((&left["scheduled"], &left["ready"], &left["dead"]), (&json!(0), &json!(0), &json!(1)));
}

#[test]
fn live_settings_are_checked_and_kept() {
    let rig = Rig::with("[queues.q]\ntimeout = \"30s\"");
    assert_eq!(rig.ok(&["queue", "set", "q", "timeout", "9s"]), "q: timeout = 9s");
    let shown = rig.json(&["queue", "show", "q"]);
    assert_eq!((&shown["live"], &shown["settings"]["timeout_ms"]), (&json!({"timeout": "9s"}), &json!(9000)));
    for (key, value, phrase) in [
        ("timeot", "9s", "timeot: unknown key; did you mean \"timeout\"?"),
        ("timeout", "9", "\"9\" has no unit"),
        ("max_attempts", "-1", "max_attempts"),
    ] {
        rig.fails(&["queue", "set", "q", key, value], 78, &[phrase]);
    }
    rig.fails(&["queue", "set", "none", "timeout", "9s"], 3, &["there is no queue none"]);
    rig.fails(&["queue", "set", "q", "timeout"], 2, &["VALUE"]);
    rig.fails(&["queue", "set", "q", "timeout", "9s", "--unset"], 2, &["cannot be used"]);
    rig.fails(
        &["queue", "set", "q", "max_attempts", "--unset"],
        3,
        &["max_attempts is not set for q", "timeout"],
    );
    assert_eq!(rig.json(&["queue", "set", "q", "timeout", "--unset"])["live"], json!({}));
    assert_eq!(rig.json(&["queue", "show", "q"])["settings"]["timeout_ms"], 30_000);
    let later = rig.run(&["queue", "set", "q", "rate_limit", "5/s"]);
    assert!(later.code == Some(0) && later.stderr.contains("nothing serves it yet"), "{later:?}");
    rig.ok(&["queue", "set", "q", "max_payload", "5B"]);
    rig.fails(&["enqueue", "q", "123456"], 1, &["over the limit of 5"]);
}

#[test]
fn status_shows_store_hosts_and_queues() {
    let rig = Rig::new();
    rig.ok(&["enqueue", "q"]);
    let record = r#"{"host":"box","supervisor":{"pid":7},"master":{"pid":8,"since":1},"pools":[{"pool":"default","queues":["q"],"desired":2,"why":"4 jobs wait","workers":[{"worker":"default/1","pid":9,"state":"idle","jobs":[],"rss":1}]}]}"#;
    rig.beat("box", record);
    let status = rig.json(&["status"]);
    assert_eq!(
        (&status["store"]["kind"], &status["store"]["durability"]),
        (&json!("redis"), &json!("memory"))
    );
    assert_eq!(status["store"]["url"], rig.server.url());
    assert_eq!(status["hosts"], json!([serde_json::from_str::<Value>(record).unwrap()]));
    assert!(status["queues"].as_array().unwrap().iter().any(|queue| queue["ready"] == 1));
    assert_eq!(rig.site.status().unwrap().hosts[0].pools[0].workers[0].pid, Some(9));
    let text = rig.ok(&["status"]);
    for phrase in ["supervisor 7, master 8", "4 jobs wait", "1/2", "survives: memory"] {
        assert!(text.contains(phrase), "no {phrase:?} in {text}");
    }
}
