//! `stream`: the Python program that README shows, as it stands there.

use std::time::Duration;

use roundsman_tests::proc::Process;
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;
use serde_json::json;

use crate::rig::{LATE, Rig, SOON, Store, log, on_both, outcomes};

const README: &str = include_str!("../../../README.md");

/// The first block of this language.
fn block(language: &str) -> &'static str {
    let (_, rest) = README.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

fn rig(store: Store, program: &str) -> Rig {
    let settings = block("toml");
    assert!(settings.contains("app.py") && settings.contains("slots = 4"), "{settings}");
    let rig = Rig::new(store, settings);
    rig.script("app.py", program);
    rig
}

fn the_program_in_the_readme_answers_jobs(store: Store) {
    let rig = rig(store, block("python"));
    let up = rig.up(0);
    let lines: String =
        (0..200).map(|n| format!("{{\"id\":\"j{n}\",\"payload\":{{\"n\":{n}}}}}\n")).collect();
    let sent = rig.site.cli_with_input(&["enqueue", "default", "--ndjson"], &lines).unwrap();
    assert_eq!(sent.code, Some(0), "{sent:?}");
    rig.ok(&["enqueue", "default", r#"{"m":1}"#, "--id", "bad"]);
    rig.ok(&["enqueue", "default", "[]", "--id", "worse"]);
    for n in [0, 100, 199] {
        let job = rig.wait_state(&up, &format!("j{n}"), "done");
        assert_eq!((&job["result"], &job["attempt"]), (&json!(2 * n), &json!(1)), "{job}");
    }
    let bad = rig.wait_state(&up, "bad", "dead");
    assert!(bad["error"].as_str().unwrap().contains("KeyError"), "{bad}");
    assert!(rig.wait_state(&up, "worse", "dead")["error"].as_str().unwrap().contains("TypeError"));
    let counts = wait_for("the queue to be empty", SOON, || {
        let status = up.status().map_err(|error| error.to_string())?;
        let queue = status.queues.iter().find(|it| it.queue == "default").cloned();
        queue.filter(|it| it.ready + it.running == 0).ok_or_else(|| format!("{:?}", status.queues))
    });
    assert_eq!(counts.unwrap_or_else(|late| panic!("{late}\n{}", log(&up))).dead, 2);
}

/// The program of README, made to take its time by a thread a job, so that its jobs can be seen at once.
fn slow() -> String {
    let program = block("python");
    let loop_body = program.split_once("for line in sys.stdin:\n").unwrap().1;
    format!(
        "import json, os, sys, threading, time\n\n\
         def answer_one(line):\n    open(\"pids\", \"a\").write(f\"{{os.getpid()}}\\n\")\n    time.sleep(1.5)\n{loop_body}\n\
         for line in sys.stdin:\n    threading.Thread(target=answer_one, args=(line,)).start()\n"
    )
}

fn a_program_has_several_jobs_and_its_death_costs_none_of_them(store: Store) {
    let rig = rig(store, &slow());
    let up = rig.up(0);
    let ids: Vec<String> = (0..4).map(|n| format!("j{n}")).collect();
    let lines: String =
        ids.iter().map(|id| format!("{{\"id\":\"{id}\",\"payload\":{{\"n\":21}}}}\n")).collect();
    let sent = rig.site.cli_with_input(&["enqueue", "default", "--ndjson"], &lines).unwrap();
    assert_eq!(sent.code, Some(0), "{sent:?}");
    let pids = || -> Vec<u32> {
        let text = std::fs::read_to_string(rig.site.work().join("pids")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    let first = wait_for("four jobs to run", SOON, || {
        if pids().len() >= 4 { Ok(pids()) } else { Err(format!("{:?}", pids())) }
    });
    let first = first.unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
    let most = first.iter().map(|pid| first.iter().filter(|other| *other == pid).count()).max();
    assert!(most > Some(1), "no program had two jobs at once: {first:?}");
    let program = Process::of(first[0]).unwrap();
    program.signal(Signal::KILL).unwrap();
    for id in &ids {
        let job = rig.wait_job(&up, id, LATE, |job| job["state"] == "done");
        assert_eq!(job["result"], json!(42), "{job}");
        let lost = outcomes(&job).len() - 1;
        assert!(lost <= 1, "{job}");
    }
    let lost = ids.iter().filter(|id| outcomes(&rig.job(id)).len() == 2).count();
    assert_eq!(Some(lost), Some(first.iter().filter(|pid| **pid == first[0]).count()), "{}", log(&up));
    wait_for("the program to be gone", Duration::from_secs(5), || {
        if program.is_alive() { Err(program.to_string()) } else { Ok(()) }
    })
    .unwrap();
}

/// Its exit code says that all is well; the jobs that it had been given say otherwise.
fn a_program_that_exits_with_0_owes_its_answers(store: Store) {
    let rig = rig(store, "import sys\nsys.stdin.readline()\nprint('tired', file=sys.stderr)\n");
    let up = rig.up(0);
    rig.ok(&["enqueue", "default", "{}", "--id", "a", "--max-attempts", "2"]);
    let job = rig.wait_state(&up, "a", "dead");
    assert_eq!(outcomes(&job), ["retry", "retry"], "{job}");
    let error = job["error"].as_str().unwrap();
    assert!(error.contains("exited with 0") && error.contains("without an answer"), "{job}");
    assert_eq!(job["attempts"][0]["stderr_tail"].as_str().map(str::trim_end), Some("tired"), "{job}");
}

/// What the program wrote about a job that it has answered says nothing of the job that it dies with.
fn words_about_another_job_are_not_the_last_ones(store: Store) {
    let rig = Rig::new(
        store,
        "[pools.default]\nhandler = { type = \"stream\", command = [\"python3\", \"app.py\"] }\nmax_workers = 1\n",
    );
    rig.script(
        "app.py",
        "import json, os, sys\nfor line in sys.stdin:\n    job = json.loads(line)\n    if job['payload'] == 'die':\n        os.abort()\n\
         \x20   print('words about', job['id'], file=sys.stderr, flush=True)\n    if job['payload'] == 'die loudly':\n        os.abort()\n\
         \x20   print(json.dumps({'id': job['id'], 'ok': True}), flush=True)\n",
    );
    let up = rig.up(0);
    for (id, payload, words) in [("b", "die", None), ("c", "die loudly", Some("words about c\n"))] {
        let before = format!("before-{id}");
        rig.ok(&["enqueue", "default", "1", "--id", &before]);
        rig.wait_state(&up, &before, "done");
        rig.ok(&["enqueue", "default", &format!("\"{payload}\""), "--id", id]);
        let job = rig.wait_job(&up, id, SOON, |job| !job["attempts"][0]["ended"].is_null());
        let attempt = &job["attempts"][0];
        assert_eq!(
            (&attempt["outcome"], attempt["stderr_tail"].as_str()),
            (&json!("crashed"), words),
            "{job}"
        );
        let error = attempt["error"].as_str().unwrap();
        assert!(error.contains("SIGABRT") && !error.contains("before"), "{job}");
        rig.ok(&["job", "cancel", id]);
    }
}

on_both!(
    words_about_another_job_are_not_the_last_ones,
    a_program_that_exits_with_0_owes_its_answers,
    the_program_in_the_readme_answers_jobs,
    a_program_has_several_jobs_and_its_death_costs_none_of_them
);
