//! Orders over the control socket, and rolling onto another program.

use roundsman_tests::tree::{Output, Up, built};
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;

use crate::rig::{LATE, Rig, SOON, Store, log, on_both, outcomes, wait_gone};

fn said(output: &Output, code: i32, text: &str) {
    assert_eq!(output.code, Some(code), "{output:?}");
    assert!(format!("{}{}", output.stdout, output.stderr).contains(text), "{text}: {output:?}");
}

/// Enqueues so many jobs that each run for a while.
fn load(rig: &Rig, from: usize, count: usize, ms: u64) {
    let lines: String = (from..from + count)
        .map(|n| format!("{{\"id\":\"j{n}\",\"kind\":\"sleep\",\"payload\":{{\"ms\":{ms}}}}}\n"))
        .collect();
    let output = rig.site.cli_with_input(&["enqueue", "default", "--ndjson"], &lines).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
}

/// Each job ended at its first attempt and started once.
fn all_done_once(rig: &Rig, up: &Up, count: usize) {
    for n in 0..count {
        let id = format!("j{n}");
        let job = rig.wait_job(up, &id, LATE, |job| job["state"] == "done");
        assert_eq!(outcomes(&job), ["done"], "{job}\n{}", log(up));
        assert_eq!(rig.starts(&id).len(), 1, "{id}\n{}", log(up));
    }
}

fn deploys_under_load_lose_and_repeat_nothing(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 4\nmax_workers = 4\n", "");
    let up = rig.up(4);
    let mut master = up.master().unwrap().unwrap();
    load(&rig, 0, 200, 40);
    for round in 0..3 {
        if round == 0 {
            // The same by a signal, which nobody waits for.
            up.signal(Signal::USR2).unwrap();
        } else {
            said(&rig.run(&["deploy", "--watch", "100ms", "--batch", "1"]), 0, "serves");
        }
        let next = wait_for("another master", SOON, || match up.master() {
            Ok(Some(now)) if now != master => Ok(now),
            other => Err(format!("{other:?}\n{}", log(&up))),
        });
        master = next.unwrap();
        if round == 0 {
            // Until it has proved itself, it is the only one that is rolled out.
            said(&rig.run(&["deploy"]), 4, "already");
            wait_for("the first roll to end", SOON, || {
                let over = up.stderr().contains("rolled: master");
                if over { Ok(()) } else { Err(log(&up)) }
            })
            .unwrap();
        }
        load(&rig, 200 + round * 50, 50, 40);
    }
    all_done_once(&rig, &up, 350);
    said(&rig.run(&["stop"]), 0, "the fleet has stopped");
    wait_gone(&up, SOON);
}

fn a_program_whose_workers_do_not_start_is_rolled_back(store: Store) {
    let rig = Rig::new(store, "");
    let worker = built("fixture-handler").unwrap();
    let good = format!("#!/bin/sh\nexec {} {}\n", worker.display(), rig.folder().display());
    rig.script("worker.sh", &good);
    let pool = rig.fixture_pool("default");
    let command = pool.lines().find(|line| line.starts_with("command")).unwrap().to_owned();
    rig.configure(&pool.replace(&command, "command = [\"./worker.sh\"]\nmin_workers = 2\nmax_workers = 2\n"));
    let up = rig.up(2);
    let master = up.master().unwrap().unwrap();
    load(&rig, 0, 40, 50);
    rig.script("worker.sh", "#!/bin/sh\nexit 1\n");
    said(&rig.run(&["deploy", "--watch", "100ms"]), 1, "not deployed, the old program serves");
    assert_eq!(up.master().unwrap(), Some(master), "{}", log(&up));
    load(&rig, 40, 10, 50);
    all_done_once(&rig, &up, 50);
    rig.script("worker.sh", &good);
    said(&rig.run(&["deploy", "--watch", "100ms"]), 0, "serves");
    assert_ne!(up.master().unwrap(), Some(master), "{}", log(&up));
}

fn orders_reach_the_fleet_and_nonsense_is_refused(store: Store) {
    let rig = Rig::with_fixture(store, "min_workers = 1\nmax_workers = 3\n", "");
    said(&rig.run(&["scale", "default", "1"]), 3, "no fleet");
    let up = rig.up(1);
    let has = |count: usize| {
        wait_for("another number of workers", SOON, || {
            let workers = up.workers().map_err(|error| error.to_string())?;
            if workers.len() == count { Ok(()) } else { Err(format!("{workers:?}\n{}", log(&up))) }
        })
        .unwrap();
    };
    said(&rig.run(&["scale", "default", "3"]), 0, "3 workers");
    has(3);
    let why = rig.ok(&["status"]);
    assert!(why.contains("told to have 3 by `scale`"), "{why}");
    // It is the supervisor who knows.
    up.master().unwrap().unwrap().signal(Signal::KILL).unwrap();
    wait_for("the next master", SOON, || {
        if up.stderr().matches("is ready").count() >= 2 { Ok(()) } else { Err(log(&up)) }
    })
    .unwrap();
    has(3);
    said(&rig.run(&["scale", "default", "0"]), 0, "0 workers");
    has(0);
    said(&rig.run(&["scale", "default", "auto"]), 0, "as many workers as it needs");
    has(1);
    said(&rig.run(&["scale", "default", "4"]), 4, "max_workers");
    said(&rig.run(&["scale", "defalt", "1"]), 3, "there are: default");
    said(&rig.run(&["scale", "default", "many"]), 2, "auto");
    said(&rig.run(&["worker", "stop", "default/77"]), 3, "no worker default/77");
    said(&rig.run(&["worker", "dump", "nonsense"]), 3, "no worker");
    rig.enqueue("long", "sleep", r#"{"ms":1500}"#);
    let started = rig.wait_start(&up, "long", 1, SOON);
    let list = rig.json(&["worker", "list"]);
    let worker = list["workers"].as_array().unwrap().iter().find(|it| it["pool"] == "default").unwrap();
    let name = worker["worker"].as_str().unwrap().to_owned();
    said(&rig.run(&["worker", "dump", &name]), 0, "thread");
    said(&rig.run(&["worker", "stop", &name]), 0, "leaves after its job");
    let job = rig.wait_job(&up, "long", SOON, |job| job["state"] == "done");
    assert_eq!(outcomes(&job), ["done"], "{job}");
    wait_for("it to leave", SOON, || if started.process.is_alive() { Err(log(&up)) } else { Ok(()) })
        .unwrap();
    said(&rig.run(&["reload"]), 0, "read again");
    rig.ok(&["stop", "--now"]);
    wait_gone(&up, SOON);
}

on_both!(
    deploys_under_load_lose_and_repeat_nothing,
    a_program_whose_workers_do_not_start_is_rolled_back,
    orders_reach_the_fleet_and_nonsense_is_refused,
);
