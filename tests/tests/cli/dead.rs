use serde_json::{Value, json};

use crate::rig::Rig;

fn rig() -> Rig {
    let rig = Rig::new();
    rig.bury("mail", "a", "exit 12 after 3 s");
    rig.bury("mail", "b", "exit 12 after 44 s");
    rig.bury("other", "c", "no such user");
    rig
}

fn dead(rig: &Rig) -> Vec<String> {
    let listing = rig.json(&["dead", "list"]);
    assert_eq!(listing["next"], Value::Null);
    listing["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn dead_letters_are_listed_and_grouped() {
    let rig = rig();
    assert_eq!(dead(&rig), ["b", "a", "c"]);
    let one = rig.json(&["dead", "list", "--queue", "other"]);
    assert_eq!(
        (&one["jobs"][0]["error"], &one["jobs"][0]["state"]),
        (&json!("no such user"), &json!("dead"))
    );
    assert_eq!(rig.json(&["dead", "list", "--error", "after 44"])["jobs"][0]["id"], "b");
    let groups = rig.json(&["dead", "list", "--by", "error"]);
    let groups = groups["groups"].as_array().unwrap();
    assert_eq!((&groups[0]["error"], &groups[0]["count"]), (&json!("exit # after # s"), &json!(2)));
    assert_eq!((&groups[0]["queues"], &groups[0]["example"]), (&json!({"mail": 2}), &json!("mail/b")));
    assert!(rig.ok(&["dead", "list", "--by", "error"]).contains("exit # after # s"));
    assert_eq!(rig.json(&["dead", "show", "c"])["id"], "c");
    rig.ok(&["enqueue", "mail", "--id", "alive"]);
    rig.fails(&["dead", "show", "alive"], 3, &["mail/alive is no dead letter: it is ready"]);
    rig.fails(&["dead", "retry", "alive"], 3, &["is no dead letter"]);
    rig.fails(&["dead", "list", "--queue", "none"], 3, &["there is no queue none"]);
}

#[test]
fn dead_letters_are_retried_one_or_by_cause() {
    let rig = rig();
    assert_eq!(rig.json(&["dead", "retry", "c"]), json!({"retried": 1, "skipped": 0}));
    assert_eq!(rig.json(&["job", "show", "c"])["state"], "ready");
    let by_cause = ["dead", "retry", "--error", "exit # after # s"];
    rig.fails(&by_cause, 2, &["this would retry 2 dead letters with \"exit # after # s\"", "--yes"]);
    assert_eq!(rig.json(&[&by_cause[..], &["--yes"]].concat()), json!({"retried": 2, "skipped": 0}));
    assert_eq!(dead(&rig), [""; 0]);
    assert_eq!(rig.ok(&["dead", "retry"]), "retried 0 dead letters");
}

#[test]
fn dead_letters_are_purged_by_filter_or_all() {
    let rig = rig();
    rig.fails(&["dead", "purge"], 2, &["this would remove 3 dead letters"]);
    rig.fails(&["dead", "purge", "a", "--queue", "mail"], 2, &["cannot be used"]);
    assert_eq!(rig.json(&["dead", "purge", "--error", "user", "--yes"]), json!({"purged": 1, "skipped": 0}));
    assert_eq!(rig.json(&["dead", "purge", "mail/a"])["purged"], 1);
    assert_eq!(rig.ok(&["dead", "purge", "--queue", "mail", "--yes"]), "purged 1 dead letter");
    assert_eq!(dead(&rig), [""; 0]);
}
