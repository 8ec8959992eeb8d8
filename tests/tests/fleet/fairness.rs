//! Several queues and several workers: none of them starves beside the others.

use std::fmt::Write as _;
use std::time::Duration;

use roundsman_tests::time;
use roundsman_tests::wait::wait_for;

use crate::rig::{Rig, SOON, Store, figure, log, on_both};

/// Jobs of one kind, named `prefix0` and on.
fn lines(prefix: &str, count: usize, kind: &str, payload: &str) -> String {
    let mut text = String::new();
    for n in 0..count {
        let _ = writeln!(text, r#"{{"id":"{prefix}{n}","kind":"{kind}","payload":{payload}}}"#);
    }
    text
}

fn enqueue(rig: &Rig, queue: &str, lines: &str) {
    let sent = rig.site.cli_with_input(&["enqueue", queue, "--ndjson"], lines).unwrap();
    assert_eq!(sent.code, Some(0), "{sent:?}");
}

fn a_queue_that_was_empty_has_its_share_beside_a_backlog(store: Store) {
    let rig = Rig::new(store, "");
    let pool = rig.fixture_pool("default");
    let pool = pool.replace("queues = [\"default\"]", "queues = { critical = 6, bulk = 1 }");
    rig.configure(&format!("{pool}min_workers = 1\nmax_workers = 1\n"));
    let up = rig.up(1);
    rig.wait_idle(&up, 1);
    enqueue(&rig, "bulk", &lines("bulk", 400, "sleep", r#"{"ms":100}"#));
    rig.wait_start(&up, "bulk3", 1, SOON);
    for round in 0..3 {
        let id = format!("critical{round}");
        let told = time::mono_us();
        rig.ok(&["enqueue", "critical", "null", "--id", &id, "--kind", "echo"]);
        let start = rig.wait_start(&up, &id, 1, SOON);
        let took = start.mono_us.saturating_sub(told) / 1_000;
        figure(&format!("a critical job beside a backlog of bulk: started after {took} ms"));
        assert!(took < 4_000, "{took} ms\n{}", log(&up));
    }
    assert!(rig.ends("bulk399") == 0, "the backlog lasted all the time");
}

fn short_jobs_do_not_wait_behind_a_long_one_while_others_idle(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 2\nmax_workers = 2\n", "");
    let up = rig.up(2);
    rig.wait_idle(&up, 2);
    // Both learn that jobs take no time.
    enqueue(&rig, "default", &lines("warm", 2_000, "echo", "null"));
    rig.wait_state(&up, "warm1999", "done");
    rig.wait_idle(&up, 2);
    for (round, kind) in ["sleep", "stubborn", "block"].into_iter().enumerate() {
        let (long, prefix) = (format!("long{round}"), format!("short{round}-"));
        let first = format!(r#"{{"id":"{long}","kind":"{kind}","payload":{{"ms":8000}}}}"#);
        enqueue(&rig, "default", &format!("{first}\n{}", lines(&prefix, 60, "echo", "null")));
        rig.wait_start(&up, &long, 1, SOON);
        let told = time::mono_us();
        let all = wait_for("the short jobs", Duration::from_secs(6), || {
            let open: Vec<_> = (0..60).filter(|n| rig.ends(&format!("{prefix}{n}")) == 0).collect();
            if open.is_empty() { Ok(()) } else { Err(format!("{open:?}")) }
        });
        let took = (time::mono_us() - told) / 1_000;
        all.unwrap_or_else(|late| panic!("{kind}: {late}\n{}", log(&up)));
        figure(&format!("60 short jobs behind one of 8 s ({kind}), two workers: {took} ms"));
        assert_eq!(rig.ends(&long), 0, "the long one still runs");
        rig.wait_state(&up, &long, "done");
        rig.wait_idle(&up, 2);
    }
}

on_both!(
    a_queue_that_was_empty_has_its_share_beside_a_backlog,
    short_jobs_do_not_wait_behind_a_long_one_while_others_idle
);
