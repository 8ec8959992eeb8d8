use roundsman_shared::job::Outcome;
use serde_json::{Value, json};

use crate::rig::Rig;

fn ids(listing: &Value) -> Vec<&str> {
    listing["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect()
}

#[test]
fn a_bare_id_is_looked_up_in_every_queue() {
    let rig = Rig::new();
    rig.ok(&["enqueue", "mail", "--id", "a"]);
    assert_eq!(rig.json(&["job", "show", "a"])["queue"], "mail");
    rig.ok(&["enqueue", "other", "--id", "a"]);
    for verb in ["show", "cancel", "retry", "delete", "explain", "wait"] {
        rig.fails(&["job", verb, "a"], 4, &["mail/a", "other/a"]);
        rig.fails(&["job", verb, "none"], 3, &["there is no job none"]);
        rig.fails(&["job", verb, "mail/none"], 3, &["there is no job mail/none"]);
    }
    assert_eq!(rig.json(&["job", "show", "other/a"])["queue"], "other");
}

#[test]
fn jobs_are_cancelled_retried_rescheduled_and_deleted() {
    let rig = Rig::new();
    rig.ok(&["enqueue", "q", "--id", "a", "--in", "1h"]);
    assert_eq!(rig.json(&["job", "cancel", "a"])["state"], "cancelled");
    rig.fails(&["job", "cancel", "a"], 4, &["q/a has ended already: it is cancelled"]);
    assert_eq!(rig.json(&["job", "retry", "a"])["state"], "ready");
    rig.fails(&["job", "retry", "a"], 4, &["it is ready"]);
    assert_eq!(rig.json(&["job", "reschedule", "a", "--in", "5m"])["state"], "scheduled");
    assert_eq!(rig.json(&["job", "reschedule", "a", "--at", "1000"])["state"], "ready");
    rig.fails(&["job", "reschedule", "a"], 2, &["--in"]);
    rig.fails(&["job", "reschedule", "a", "--in", "5m", "--at", "1"], 2, &["cannot be used"]);
    rig.fails(&["job", "reschedule", "a", "--in", "4000d"], 1, &["more than 10 years ahead"]);

    let delivery = rig.begin("q");
    rig.fails(&["job", "delete", "a"], 4, &["q/a is not deleted: it is running", "job cancel"]);
    rig.fails(&["job", "reschedule", "a", "--in", "1s"], 4, &["it is running"]);
    rig.fails(&["job", "retry", "a"], 4, &["it is running"]);
    assert!(rig.ok(&["job", "cancel", "a"]).contains("default/1 on box is told to stop it"));
    let running = rig.json(&["job", "show", "a"]);
    assert_eq!((&running["state"], &running["attempt"]), (&json!("running"), &json!(1)));
    let attempt = &running["attempts"][0];
    assert_eq!((&attempt["worker"], &attempt["host"]), (&json!("default/1"), &json!("box")));
    assert!(attempt["started"].is_i64() && attempt["ended"].is_null() && attempt["token"].is_i64());
    rig.end(&delivery, Outcome::Cancelled);
    assert_eq!(rig.json(&["job", "show", "a"])["attempts"][0]["outcome"], "cancelled");
    assert_eq!(rig.json(&["job", "delete", "a"]), json!({"id": "a", "queue": "q", "deleted": true}));
    rig.fails(&["job", "show", "a"], 3, &["there is no job a"]);
}

#[test]
fn lists_are_filtered_and_paged() {
    let rig = Rig::new();
    for n in 0..5 {
        rig.ok(&[
            "enqueue",
            "mail",
            "-q",
            "--id",
            &format!("m{n}"),
            "--kind",
            if n == 3 { "odd" } else { "even" },
        ]);
    }
    rig.ok(&["enqueue", "other", "-q", "--id", "o", "--in", "1h"]);
    rig.bury("other", "d", "exit 12 after 3 s");

    let all = rig.json(&["job", "list"]);
    assert_eq!((ids(&all), &all["next"]), (vec!["m0", "m1", "m2", "m3", "m4", "o", "d"], &Value::Null));
    assert_eq!(ids(&rig.json(&["job", "list", "--queue", "other", "--state", "scheduled"])), ["o"]);
    assert_eq!(ids(&rig.json(&["job", "list", "--state", "dead", "--state", "scheduled"])), ["o", "d"]);
    assert_eq!(rig.json(&["job", "list", "--state", "done"]), json!({"jobs": [], "next": null}));
    rig.fails(&["job", "list", "--queue", "none"], 3, &["there is no queue none"]);

    let (mut seen, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut arguments = vec!["job", "list", "--limit", "2"];
        arguments.extend(cursor.iter().flat_map(|cursor| ["--cursor", cursor.as_str()]));
        let page = rig.json(&arguments);
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        assert_ne!(cursor.as_deref(), Some(next));
        cursor = Some(next.to_owned());
    }
    assert_eq!(seen, ["m0", "m1", "m2", "m3", "m4", "o", "d"]);

    for (arguments, expected) in [
        (["--kind", "odd"], vec!["m3"]),
        (["--error", "exit 12"], vec!["d"]),
        (["--error", "exit # after"], vec!["d"]),
        (["--error", "exit 13"], vec![]),
    ] {
        assert_eq!(ids(&rig.json(&[&["job", "list"], &arguments[..]].concat())), expected, "{arguments:?}");
    }
    let stderr = rig.run(&["job", "list", "--kind", "odd"]).stderr;
    assert!(stderr.contains("looked at 7 jobs, 1 match"), "{stderr}");

    let lines = rig.ok(&["job", "list", "--jsonl"]);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["id"]), (7, &json!("m0")));
    let table = rig.ok(&["job", "list"]);
    assert!(table.starts_with("JOB") && table.contains("mail/m0") && !table.contains('\u{1b}'), "{table}");
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let rig = Rig::new();
    rig.bury("q", "a", "red \u{1b}[31m");
    for arguments in [
        &["job", "show", "a"][..],
        &["job", "list"],
        &["dead", "list", "--by", "error"],
        &["job", "explain", "a"],
    ] {
        let text = rig.ok(arguments);
        assert!(text.contains("red") && !text.contains('\u{1b}'), "{arguments:?}: {text}");
    }
}
