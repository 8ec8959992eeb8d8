//! `up -- COMMAND`: one process a job.

use std::collections::BTreeSet;
use std::time::Duration;

use roundsman_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::rig::{LATE, Rig, SOON, Store, log, on_both, outcomes};

const FIXED: &str = "[queues.default]\nbackoff = { type = \"fixed\", delay = \"50ms\" }\n";

fn a_script_finds_the_job_and_nothing_else(store: Store) {
    let rig = Rig::new(store, "");
    rig.script("script.sh", "#!/bin/sh\ncat > seen.payload\ntr '\\0' '\\n' < /proc/$$/environ > seen.env\necho '{\"answer\": 42}'\n");
    let up = rig.up_with(0, &["--", "./script.sh"]);
    rig.ok(&[
        "enqueue",
        "default",
        r#"{ "text": "grüß dich", "list": [1, 2] }"#,
        "--id",
        "a",
        "--kind",
        "k",
        "--timeout",
        "30s",
        "--header",
        "traceparent=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ]);
    let job = rig.wait_state(&up, "a", "done");
    assert_eq!(job["result"], json!({"answer": 42}));
    let read = |name: &str| std::fs::read_to_string(rig.site.work().join(name)).unwrap();
    assert_eq!(read("seen.payload").trim_end_matches('\n'), r#"{"text":"grüß dich","list":[1,2]}"#);

    let environment = read("seen.env");
    let get = |name: &str| {
        let line = environment.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("no {name} in {environment}")).to_owned()
    };
    let attempt = &job["attempts"][0];
    assert_eq!(
        (get("ROUNDSMAN_JOB_ID"), get("ROUNDSMAN_QUEUE"), get("ROUNDSMAN_KIND")),
        ("a".into(), "default".into(), "k".into())
    );
    assert_eq!(
        (get("ROUNDSMAN_ATTEMPT"), get("ROUNDSMAN_TOKEN")),
        ("1".into(), attempt["token"].to_string())
    );
    assert_eq!(get("TRACEPARENT"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let (deadline, started) =
        (get("ROUNDSMAN_DEADLINE").parse::<i64>().unwrap(), attempt["started"].as_i64().unwrap());
    assert!((deadline - started - 30_000).abs() < 2_000, "{deadline} for {started}");
    let names: BTreeSet<&str> =
        environment.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    let known = [
        "PATH",
        "HOME",
        "LANG",
        "TZ",
        "TRACEPARENT",
        "ROUNDSMAN_JOB_ID",
        "ROUNDSMAN_QUEUE",
        "ROUNDSMAN_KIND",
        "ROUNDSMAN_ATTEMPT",
        "ROUNDSMAN_TOKEN",
        "ROUNDSMAN_DEADLINE",
    ];
    let strangers: Vec<_> = names.iter().filter(|name| !known.contains(name)).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

fn an_exit_code_is_the_verdict(store: Store) {
    let rig = Rig::new(store, FIXED);
    // The payload is the exit code; the second attempt always succeeds.
    rig.script(
        "script.sh",
        "#!/bin/sh\nread -r code\necho \"code $code at $ROUNDSMAN_ATTEMPT\" >&2\n\
         if [ -e \"ran-$ROUNDSMAN_JOB_ID\" ]; then echo '\"again\"'; exit 0; fi\n: > \"ran-$ROUNDSMAN_JOB_ID\"\n\
         case $code in kill) kill -TERM $$ ;; esac\nexit \"$code\"\n",
    );
    let up = rig.up_with(0, &["--", "./script.sh"]);
    for (id, payload) in [("zero", "0"), ("later", "75"), ("never", "65"), ("three", "3")] {
        rig.ok(&["enqueue", "default", payload, "--id", id]);
    }
    let tail = |job: &Value| job["attempts"][0]["stderr_tail"].as_str().unwrap_or_default().to_owned();

    let zero = rig.wait_state(&up, "zero", "done");
    assert_eq!((outcomes(&zero), &zero["attempt"]), (vec!["done"], &json!(1)));

    let never = rig.wait_state(&up, "never", "dead");
    assert_eq!((outcomes(&never), tail(&never)), (vec!["dead"], "code 65 at 1".to_owned()), "{never}");
    assert!(never["error"].as_str().unwrap().contains("65"), "{never}");

    let three = rig.wait_state(&up, "three", "done");
    assert_eq!((outcomes(&three), &three["result"]), (vec!["retry", "done"], &json!("again")), "{three}");
    assert_eq!((tail(&three), &three["attempt"]), ("code 3 at 1".to_owned(), &json!(2)), "{three}");
    assert!(three["attempts"][0]["error"].as_str().unwrap().contains("exit code 3"), "{three}");

    // Called later, and the attempt is not charged.
    let later = rig.wait_job(&up, "later", SOON, |job| job["state"] == "scheduled");
    assert_eq!(later["attempt"], json!(0), "{later}");
    assert!(!outcomes(&later).contains(&"retry"), "{later}");
}

/// What a reader sees of a result that is too long is neither whole nor JSON.
fn a_result_that_is_too_long_is_cut_and_says_so(store: Store) {
    let rig = Rig::new(store, "");
    rig.script(
        "script.sh",
        "#!/bin/sh\nread -r n\nprintf '\"'\nhead -c $((n - 2)) /dev/zero | tr '\\0' 1\nprintf '\"'\n",
    );
    let up = rig.up_with(0, &["--", "./script.sh"]);
    rig.ok(&["enqueue", "default", "65536", "--id", "whole"]);
    rig.ok(&["enqueue", "default", "65537", "--id", "cut"]);
    let whole = rig.wait_state(&up, "whole", "done");
    assert_eq!(whole["result"].as_str().unwrap(), "1".repeat(65_534));
    assert!(whole["attempts"][0]["error"].is_null(), "{whole}");
    let cut = rig.wait_state(&up, "cut", "done");
    assert_eq!(cut["result"].as_str().unwrap(), format!("\"{}", "1".repeat(65_535)));
    assert!(cut["attempts"][0]["error"].as_str().unwrap().contains("more than the 65536 bytes"), "{cut}");
    assert_eq!((&cut["error"], &cut["attempts"][0]["outcome"]), (&Value::Null, &json!("done")));
    assert!(rig.ok(&["job", "show", "cut"]).contains("the result is cut"));
}

/// A thousand jobs wait while their handler cannot work at all; then it can.
fn backlog_survives(store: Store, command: &str, broken: &str, repair: impl FnOnce(&Rig)) {
    let rig = Rig::new(store, "");
    rig.script("broken.sh", broken);
    let lines: String = (0..1_000).map(|n| format!("{{\"id\":\"j{n}\",\"payload\":{n}}}\n")).collect();
    let sent = rig.site.cli_with_input(&["enqueue", "default", "--ndjson"], &lines).unwrap();
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let up = rig.up_with(0, &["--", command]);
    let quarantined = wait_for("the quarantine", SOON, || {
        let status = rig.json(&["status"]);
        let pool = &status["hosts"][0]["pools"][0];
        if pool["quarantined"].is_string() { Ok(status) } else { Err(status.to_string()) }
    });
    let status = quarantined.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    let queue = |status: &Value| {
        status["queues"].as_array().unwrap().iter().find(|it| it["queue"] == "default").cloned().unwrap()
    };
    let counts = wait_for("every job to wait again", SOON, || {
        let counts = queue(&rig.json(&["status"]));
        if counts["ready"] == 1_000 { Ok(counts) } else { Err(counts.to_string()) }
    });
    let counts = counts.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    assert_eq!(
        (&counts["running"], &counts["dead"], &counts["scheduled"]),
        (&json!(0), &json!(0), &json!(0))
    );
    for id in ["j0", "j1", "j999"] {
        let job = rig.job(id);
        assert_eq!(
            (&job["state"], &job["attempt"], &job["crashes"]),
            (&json!("ready"), &json!(0), &json!(0)),
            "{job}"
        );
    }
    let text = rig.ok(&["status"]);
    assert!(text.contains("quarantine"), "{status}\n{text}");
    assert!(up.stderr().contains("the pool is quarantined"), "{}", log(&up));
    drop(up);

    repair(&rig);
    let up = rig.up_with(0, &["--", "./broken.sh"]);
    let done = wait_for("every job to be done", LATE, || {
        let counts = queue(&rig.json(&["status"]));
        if counts["ready"] == 0 && counts["running"] == 0 { Ok(counts) } else { Err(counts.to_string()) }
    });
    let counts = done.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    assert_eq!(counts["dead"], json!(0), "{counts}");
    assert_eq!(
        rig.wait_job(&up, "j999", Duration::from_secs(1), |job| job["state"] == "done")["attempt"],
        json!(1)
    );
}

const WORKS: &str = "#!/bin/sh\nexit 0\n";

fn a_command_that_exits_with_127_costs_the_backlog_nothing(store: Store) {
    backlog_survives(store, "./broken.sh", "#!/bin/sh\nno-such-program-at-all\n", |rig| {
        rig.script("broken.sh", WORKS)
    });
}

fn a_command_that_exits_with_126_costs_the_backlog_nothing(store: Store) {
    backlog_survives(store, "./broken.sh", "#!/bin/sh\nexit 126\n", |rig| rig.script("broken.sh", WORKS));
}

fn a_missing_command_costs_the_backlog_nothing(store: Store) {
    backlog_survives(store, "./not-there.sh", WORKS, |_| ());
}

on_both!(
    a_script_finds_the_job_and_nothing_else,
    a_result_that_is_too_long_is_cut_and_says_so,
    an_exit_code_is_the_verdict,
    a_command_that_exits_with_127_costs_the_backlog_nothing,
    a_command_that_exits_with_126_costs_the_backlog_nothing,
    a_missing_command_costs_the_backlog_nothing
);
