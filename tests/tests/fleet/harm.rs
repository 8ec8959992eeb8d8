//! Handlers that harm their worker, and what keeps the harm there.

use std::time::Duration;

use roundsman_tests::proc::{Process, State};
use roundsman_tests::spawn;
use roundsman_tests::tree::Up;
use roundsman_tests::wait::wait_for;
use serde_json::json;

use crate::rig::{LATE, Rig, SOON, Store, figure, log, on_both, outcomes};

const MIB: u64 = 1 << 20;

/// What is printed in all; `FLOOD_MIB` says otherwise.
fn flood_mib() -> u64 {
    let wanted = spawn::variable("FLOOD_MIB").map(|text| text.parse().unwrap());
    wanted.unwrap_or(1_024)
}

/// Resident memory.
fn rss(process: Process) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}

/// A short job is done while the harm is under way.
fn others_go_on(rig: &Rig, up: &Up, id: &str) {
    rig.enqueue(id, "echo", r#"{"fine":true}"#);
    let job = rig.wait_job(up, id, SOON, |job| job["state"] == "done");
    assert_eq!(outcomes(&job), ["done"], "{job}");
}

fn rig(store: Store) -> (Rig, Up) {
    let settings = "[queues.default]\nbackoff = { type = \"fixed\", delay = \"100ms\" }\n";
    let rig = Rig::with_fixture(store, "min_workers = 2\nmax_workers = 3\n", settings);
    let up = rig.up(2);
    rig.wait_idle(&up, 2);
    (rig, up)
}

fn floods_and_forged_lines_stay_with_their_worker(store: Store) {
    let (rig, up) = rig(store);
    let master = up.master().unwrap().unwrap();
    let before = rss(master);
    // Half of it to each of standard output and standard error.
    let each = flood_mib() / 2;
    rig.enqueue("flood", "flood", &json!({"mib": each}).to_string());
    let flooding = rig.wait_start(&up, "flood", 1, SOON);
    for n in 0..5 {
        others_go_on(&rig, &up, &format!("other{n}"));
    }
    let flood = rig.wait_job(&up, "flood", 5 * LATE, |job| job["state"] == "done");
    assert_eq!((outcomes(&flood), &flood["result"]), (vec!["done"], &json!(each)), "{flood}");
    let grown = rss(master).saturating_sub(before);
    let text = up.stderr();
    let written = text.len() as u64;
    let attempt = &flood["attempts"][0];
    let ms = (attempt["ended"].as_i64().unwrap() - attempt["started"].as_i64().unwrap()).unsigned_abs();
    figure(&format!(
        "{each} MiB to each of stdout and stderr: master's RSS {:.1} + {:.1} MiB, log of up {:.1} MiB, {ms} ms",
        before as f64 / MIB as f64,
        grown as f64 / MIB as f64,
        written as f64 / MIB as f64,
    ));
    assert!(grown <= 16 * MIB, "{grown} bytes");
    // What a worker may say at once, and then each second.
    assert!(written < MIB + ms * 128, "{written} bytes of log in {ms} ms");
    assert!(text.contains("bytes dropped)"), "{}", log(&up));
    // Were it held back to what may be logged of it, it would take hours.
    assert!(ms < 120_000, "{ms} ms");
    assert!(flooding.process.is_alive(), "who prints much is not killed for it");

    rig.enqueue("forge", "forge", "null");
    let forge = rig.wait_state(&up, "forge", "done");
    assert_eq!((outcomes(&forge), &forge["result"]), (vec!["done"], &json!("forged")), "{forge}");
    let forger = rig.starts("forge")[0].process;
    others_go_on(&rig, &up, "after");
    assert!(forger.is_alive(), "{}", log(&up));
    assert_eq!(up.master().unwrap(), Some(master));
    assert!(!up.stdout().contains("forged"), "the output of up is for results");
}

fn a_daemon_is_gone_before_its_job_is_given_to_another(store: Store) {
    let (rig, up) = rig(store);
    rig.enqueue("daemon", "daemon", "null");
    let job = rig.wait_state(&up, "daemon", "done");
    assert_eq!(outcomes(&job), ["crashed", "done"], "{job}\n{}", log(&up));
    assert_eq!(rig.starts("daemon").len(), 2);
    let stat = &job["result"]["stat"];
    assert!(
        stat.is_null() || stat.as_str().is_some_and(|stat| stat.contains(") Z ")),
        "the daemon saw the second delivery: {job}"
    );
    let pid: u32 = job["result"]["daemon"].as_str().unwrap().parse().unwrap();
    let daemon =
        Process::of(pid).filter(|it| it.command_line().is_some_and(|line| line.contains("sleep 600")));
    assert!(daemon.is_none_or(|it| it.state() == Some(State::Zombie)), "{daemon:?}");
    others_go_on(&rig, &up, "other");
}

/// A job of this kind that takes 60 s and may take 1 s.
fn over_its_timeout(store: Store, kind: &str) {
    let (rig, up) = rig(store);
    rig.ok(&[
        "enqueue",
        "default",
        r#"{"ms":60000}"#,
        "--id",
        "over",
        "--kind",
        kind,
        "--timeout",
        "1s",
        "--max-attempts",
        "2",
    ]);
    let first = rig.wait_start(&up, "over", 1, SOON);
    others_go_on(&rig, &up, "other");
    let second = rig.wait_start(&up, "over", 2, LATE);
    let took = second.mono_us - first.mono_us;
    figure(&format!("{kind} over its timeout of 1 s → started again: {} ms", took / 1_000));
    assert!((1_000_000..20_000_000).contains(&took), "{took} µs");
    let dead = rig.wait_state(&up, "over", "dead");
    assert_eq!(
        (outcomes(&dead), &dead["crashes"]),
        (vec!["timed_out", "timed_out"], &json!(0)),
        "{dead}\n{}",
        log(&up)
    );
    others_go_on(&rig, &up, "after");
    let status = up.status().unwrap();
    assert_eq!(status.queues.iter().map(|queue| queue.running).sum::<u64>(), 0, "{status:?}");
}

fn a_job_that_awaits_for_too_long_is_stopped(store: Store) {
    over_its_timeout(store, "sleep");
}

fn a_job_that_blocks_the_runtime_is_stopped_with_its_worker(store: Store) {
    over_its_timeout(store, "block");
}

fn a_job_that_does_not_listen_is_stopped_with_its_worker(store: Store) {
    over_its_timeout(store, "stubborn");
}

fn an_endless_loop_is_stopped_with_its_worker(store: Store) {
    over_its_timeout(store, "spin");
}

fn a_deadlock_is_stopped_with_its_worker(store: Store) {
    over_its_timeout(store, "deadlock");
}

/// Each of them starts two more, of which one in a session of its own, down to a depth; none heeds TERM.
const BOMB: &str = r#"#!/bin/sh
trap '' TERM
echo $$ >> pids
n=${1:-6}
if [ "$n" -gt 0 ]; then
    setsid "$0" $((n - 1)) &
    "$0" $((n - 1)) &
fi
while :; do sleep 1; done
"#;
const BOMBS: usize = (1 << 7) - 1;

fn a_fork_bomb_is_gone_before_its_job_is_given_to_another(store: Store) {
    let rig = Rig::new(store, "[pools.default]\nhandler = { type = \"exec\", command = [\"./bomb.sh\"] }\n");
    rig.script("bomb.sh", BOMB);
    let up = rig.up(0);
    let master = up.master().unwrap().unwrap();
    rig.ok(&["enqueue", "default", "--id", "bomb", "--timeout", "4s", "--max-attempts", "1"]);
    let pids = || -> Vec<u32> {
        let text = std::fs::read_to_string(rig.site.work().join("pids")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    let all = wait_for("the whole bomb", SOON, || {
        let pids = pids();
        if pids.len() == BOMBS { Ok(pids) } else { Err(format!("{} of {BOMBS}", pids.len())) }
    });
    let all: Vec<Process> = all.unwrap().into_iter().filter_map(Process::of).collect();
    assert!(all.len() > BOMBS / 2, "they are there: {}", all.len());
    let dead = rig.wait_state(&up, "bomb", "dead");
    assert_eq!(outcomes(&dead), ["timed_out"], "{dead}\n{}", log(&up));
    let alive: Vec<String> = all.iter().filter(|it| it.is_alive()).map(ToString::to_string).collect();
    figure(&format!("{} processes of a fork bomb, alive when its job has ended: {}", all.len(), alive.len()));
    assert!(alive.is_empty(), "{alive:?}\n{}", log(&up));
    assert_eq!((pids().len(), up.master().unwrap()), (BOMBS, Some(master)));
}

fn a_command_that_ignores_term_is_killed(store: Store) {
    let rig = Rig::new(store, "");
    rig.script(
        "script.sh",
        "#!/bin/sh\ntrap '' TERM\necho $$ >> pids\necho \"still here\" >&2\nwhile :; do sleep 1; done\n",
    );
    let up = rig.up_with(0, &["--", "./script.sh"]);
    rig.ok(&["enqueue", "default", "--id", "over", "--timeout", "1s", "--max-attempts", "1"]);
    let dead = rig.wait_state(&up, "over", "dead");
    assert_eq!(outcomes(&dead), ["timed_out"], "{dead}");
    let tail = dead["attempts"][0]["stderr_tail"].as_str().unwrap_or_default();
    assert_eq!(tail.trim_end(), "still here", "{dead}");
    let pid = std::fs::read_to_string(rig.site.work().join("pids")).unwrap().trim().parse().unwrap();
    let gone = wait_for("the script to be gone", Duration::from_secs(5), || match Process::of(pid) {
        Some(process) if process.is_alive() => Err(process.to_string()),
        _ => Ok(()),
    });
    gone.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
}

fn a_frozen_worker_is_replaced_and_its_job_runs_again(store: Store) {
    let (rig, up) = rig(store);
    rig.enqueue("frozen", "sleep", r#"{"ms":3000}"#);
    let first = rig.wait_start(&up, "frozen", 1, SOON);
    first.process.signal(rustix::process::Signal::STOP).unwrap();
    let second = rig.wait_start(&up, "frozen", 2, LATE);
    figure(&format!(
        "worker stopped → its job started elsewhere: {} ms",
        (second.mono_us - first.mono_us) / 1_000
    ));
    let job = rig.wait_state(&up, "frozen", "done");
    assert_eq!((outcomes(&job), rig.ends("frozen")), (vec!["crashed", "done"], 1), "{job}");
    assert!(!first.process.is_alive());
}

fn a_worker_that_leaks_is_replaced_between_its_jobs(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 1\nmax_workers = 1\nmax_memory = \"128MiB\"\n", "");
    let up = rig.up(1);
    rig.wait_idle(&up, 1);
    rig.enqueue("leak", "leak", r#"{"mib":200}"#);
    let leaked = rig.wait_start(&up, "leak", 1, SOON).process;
    assert_eq!(outcomes(&rig.wait_state(&up, "leak", "done")), ["done"]);
    wait_for("the worker to be replaced", SOON, || {
        if leaked.is_alive() { Err(leaked.to_string()) } else { Ok(()) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    others_go_on(&rig, &up, "after");
}

on_both!(
    floods_and_forged_lines_stay_with_their_worker,
    a_daemon_is_gone_before_its_job_is_given_to_another,
    a_job_that_awaits_for_too_long_is_stopped,
    a_job_that_blocks_the_runtime_is_stopped_with_its_worker,
    a_job_that_does_not_listen_is_stopped_with_its_worker,
    an_endless_loop_is_stopped_with_its_worker,
    a_deadlock_is_stopped_with_its_worker,
    a_fork_bomb_is_gone_before_its_job_is_given_to_another,
    a_command_that_ignores_term_is_killed,
    a_frozen_worker_is_replaced_and_its_job_runs_again,
    a_worker_that_leaks_is_replaced_between_its_jobs
);
