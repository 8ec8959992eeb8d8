use roundsman_shared::job::Outcome;

use crate::rig::Rig;

fn explains(rig: &Rig, id: &str, phrases: &[&str]) {
    let text = rig.ok(&["job", "explain", id]);
    for phrase in phrases {
        assert!(text.contains(phrase), "no {phrase:?} in {text}");
    }
}

#[test]
fn a_job_that_waits() {
    let rig = Rig::new();
    rig.ok(&["enqueue", "q", "--id", "a", "--in", "1h"]);
    explains(&rig, "a", &["q/a is scheduled.", "it is not due yet", "(in 59m"]);
    for id in ["b", "c", "d"] {
        rig.ok(&["enqueue", "q", "--id", id, "--kind", "k"]);
    }
    explains(&rig, "d", &["q/d is ready.", "no fleet runs on this store", "it waits behind 2 other jobs"]);
    explains(&rig, "b", &["no other job of the queue goes before it"]);
    rig.ok(&["queue", "pause", "q"]);
    explains(&rig, "b", &["the queue q is paused", "roundsman queue resume q"]);
    explains(&rig, "a", &["the queue q is paused"]);
    rig.beat("box", r#"{"host":"box","pools":[{"pool":"p","queues":["mail"]}]}"#);
    explains(&rig, "b", &["no running pool serves the queue q"]);
    rig.beat("box", r#"{"host":"box","pools":[{"pool":"p","queues":["q"],"kinds":["x"],"desired":2,"why":"at its maximum"}]}"#);
    explains(&rig, "b", &["no running pool knows its kind \"k\"", "pool p on box", "at its maximum"]);
    let document = rig.json(&["job", "explain", "b"]);
    assert_eq!((&document["id"], &document["state"]), (&"b".into(), &"ready".into()));
    assert!(document["reasons"].as_array().is_some_and(|reasons| reasons.len() > 2), "{document}");
}

#[test]
fn a_job_that_runs_has_failed_or_crashed() {
    let rig = Rig::new();
    rig.ok(&["enqueue", "q", "--id", "a"]);
    let delivery = rig.begin("q");
    explains(
        &rig,
        "a",
        &["it runs on worker default/1 of box since", "its timeout is over in", "is not heard any more"],
    );
    rig.beat("box", r#"{"host":"box","pools":[]}"#);
    assert!(!rig.ok(&["job", "explain", "a"]).contains("not heard"));
    rig.end(&delivery, Outcome::Retry { error: "no route".into(), after: None });
    explains(
        &rig,
        "a",
        &["it failed 1 of 25 times", "backoff", "no route", "attempt 1 on default/1 of box failed"],
    );
    rig.ok(&["job", "retry", "a"]);
    rig.work("q", Outcome::Crashed { cause: "signal 11".into() });
    explains(
        &rig,
        "a",
        &["q/a is ready.", "attempt 1", "attempt 2", "default/1 of box crashed", "signal 11"],
    );
    rig.work("q", Outcome::Dead { error: "gone for good".into() });
    explains(
        &rig,
        "a",
        &["it was given up", "gone for good", "another attempt is of no use", "roundsman job retry q/a"],
    );
    rig.ok(&["job", "retry", "a"]);
    rig.work("q", Outcome::Done { result: None, follow_ups: Vec::new(), note: None });
    explains(&rig, "a", &["it ended well", "attempt 4"]);
}
