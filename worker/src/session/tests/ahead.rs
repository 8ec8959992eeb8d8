//! What waits behind long jobs, and jobs that must run alone.

use super::*;

fn running(tasks: &[&Task], started: Mono) -> Event {
    Event::Tick(tasks.iter().map(|task| Running { seq: task.seq, started }).collect())
}

fn takes_back(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::TakeBack))
}

/// A worker that has learnt that jobs take 1 ms, with these ones pulled.
fn fast(slots: usize, ids: &[&str]) -> (Bench, Vec<Task>) {
    let mut bench = Bench::new(assignment(slots, &[("q", 0)]));
    let tasks = bench.pull(&["warm"]);
    bench.finish(tasks[0].seq, Duration::from_millis(1));
    let settle = bench.only();
    bench.answer(settle, &[]);
    bench.step(Event::Wake(queue("q")));
    let tasks = bench.pull(ids);
    (bench, tasks)
}

#[test]
fn what_waits_behind_a_long_job_is_given_back_and_not_taken_again() {
    let (mut bench, tasks) = fast(1, &["long", "a", "b", "c"]);
    let started = bench.now;
    bench.pass(Duration::from_millis(40));
    bench.step(running(&[&tasks[0]], started));
    assert!(!takes_back(&bench.take()), "50 ms are allowed");
    bench.pass(Duration::from_millis(15));
    bench.step(running(&[&tasks[0]], started));
    assert!(takes_back(&bench.take()));
    bench.step(Event::Returned(tasks[1..].iter().map(|task| task.seq).collect()));
    bench.step(Event::Wake(queue("q")));
    assert!(bench.take().iter().any(|action| matches!(action, Action::Full(_))));
    bench.pass(ACK_WITHIN);
    bench.step(running(&[&tasks[0]], started));
    let back = bench.only();
    assert_eq!(settled_by(&back), ["a", "b", "c"]);
    let Action::Exchange { pull: None, settle: Some(settle) } = &back else { panic!("{back:?}") };
    assert!(settle.settlements.iter().all(|it| it.event == lifecycle::Event::GiveBack));
    bench.answer(back, &[]);
    for _ in 0..100 {
        bench.pass(MARK_AFTER);
        bench.step(running(&[&tasks[0]], started));
        assert!(
            !bench.take().iter().any(|action| matches!(action, Action::Exchange { .. } | Action::TakeBack))
        );
        if bench.session.under_way.renew {
            let (sent, now) = (bench.now, bench.store_now());
            let result = Ok(Renewed { now, lost: false, cancel: vec![] });
            bench.step(Event::Renewed { sent, queue: queue("q"), result });
        }
    }
    bench.finish(tasks[0].seq, Duration::from_millis(1));
    assert!(pull_of(&bench.only()).max > 0, "it goes on once the job has ended");
}

#[test]
fn jobs_that_go_on_starting_are_left_in_the_queue() {
    let (mut bench, tasks) = fast(2, &["long", "a", "b", "c"]);
    let long = bench.now;
    bench.pass(Duration::from_millis(200));
    let recent = Mono::from_nanos(bench.now.as_nanos() - 10_000_000);
    let seen = [(tasks[0].seq, long), (tasks[1].seq, recent)];
    bench.step(Event::Tick(seen.map(|(seq, started)| Running { seq, started }).into()));
    assert!(!takes_back(&bench.take()));
}

#[test]
fn a_stuck_slots_thread_holds_nothing_but_its_job() {
    // Four slots, but the one job that runs holds the thread that would start others.
    let (mut bench, tasks) = fast(4, &["long", "a", "b"]);
    let started = bench.now;
    bench.pass(Duration::from_millis(60));
    bench.step(running(&[&tasks[0]], started));
    assert!(takes_back(&bench.take()));
    bench.step(Event::Returned(tasks[1..].iter().map(|task| task.seq).collect()));
    bench.step(Event::Wake(queue("q")));
    bench.pass(ACK_WITHIN);
    bench.step(running(&[&tasks[0]], started));
    let calls = bench.take();
    let pulls = calls.iter().filter(|action| matches!(action, Action::Exchange { pull: Some(_), .. }));
    assert_eq!(pulls.count(), 0, "{calls:?}");
}

/// Answers a pull with jobs of which those whose id begins with `!` have crashed twice.
fn answer_mixed(bench: &mut Bench, call: Action, ids: &[&str]) {
    let Action::Exchange { settle, pull } = call else { panic!("no exchange but {call:?}") };
    let answers = settle.map_or_else(Vec::new, |settle| vec![Answer::Ok; settle.settlements.len()]);
    bench.token += 1;
    let now = bench.store_now();
    let deliveries = ids
        .iter()
        .map(|id| bench.delivery(id.trim_start_matches('!'), if id.starts_with('!') { 2 } else { 0 }));
    let deliveries: Vec<_> = deliveries.collect();
    let pulled =
        Pulled { now, deliveries, next_due: Some(now), paused: false, skewed: false, live_version: 0 };
    let sent = bench.now;
    bench.step(Event::Exchanged { sent, result: Ok((answers, pull.map(|_| pulled))) });
}

fn run_in(actions: &[Action]) -> Vec<&Task> {
    let tasks = actions.iter().filter_map(|action| match action {
        Action::Run(tasks) => Some(tasks),
        _ => None,
    });
    tasks.flatten().collect()
}

#[test]
fn others_overtake_a_job_that_must_run_alone_and_it_starts_in_the_end() {
    let mut bench = Bench::new(assignment(3, &[("q", 0)]));
    let call = bench.only();
    answer_mixed(&mut bench, call, &["a", "!alone", "b"]);
    let mut live: Vec<(Seq, Mono)> = Vec::new();
    let mut started = BTreeMap::new();
    let begin = bench.now;
    // Others without end, of 3 s each, in two or three slots.
    for round in 0..4_000 {
        let actions = bench.take();
        for task in run_in(&actions) {
            assert!(!task.alone || live.is_empty(), "it shares its worker with {live:?}");
            started.insert(task.id.to_string(), bench.now);
            live.push((task.seq, bench.now));
        }
        if started.contains_key("alone") {
            break;
        }
        for action in actions {
            match action {
                Action::Exchange { pull: Some(pull), settle } => {
                    let ids: Vec<String> = (0..pull.max).map(|n| format!("o{round}-{n}")).collect();
                    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                    answer_mixed(&mut bench, Action::Exchange { settle, pull: Some(pull) }, &ids);
                }
                call @ Action::Exchange { .. } => answer_mixed(&mut bench, call, &[]),
                Action::Renew(request) => {
                    let (sent, now) = (bench.now, bench.store_now());
                    let result = Ok(Renewed { now, lost: false, cancel: vec![] });
                    bench.step(Event::Renewed { sent, queue: request.queue, result });
                }
                Action::Run(_) => {}
                other => panic!("{other:?}"),
            }
        }
        bench.pass(Duration::from_millis(20));
        let over = live.iter().position(|(_, at)| bench.now.since(*at) >= Duration::from_secs(3));
        match over {
            Some(at) => {
                let (seq, at) = live.remove(at);
                let ended = bench.now;
                let outcome = Outcome::Done { result: None, follow_ups: vec![], note: None };
                let job = Finished { seq, outcome, started: at, ended, stderr_tail: None, request: None };
                bench.step(Event::Finished(vec![job]));
            }
            None => {
                let seen = live.iter().map(|(seq, started)| Running { seq: *seq, started: *started });
                bench.step(Event::Tick(seen.collect()));
            }
        }
    }
    assert!(started.len() > 6, "others went on: {started:?}");
    let waited = started.get("alone").map(|at| at.since(begin));
    assert!(waited.is_some_and(|waited| waited < Duration::from_secs(20)), "{waited:?}");
}

#[test]
fn a_job_that_stands_aside_is_cancelled_and_given_back_like_any() {
    for (event, expected) in [
        (
            Event::Cancel { queue: queue("q"), id: JobId::new("alone").unwrap() },
            lifecycle::Event::AckCancelled,
        ),
        (Event::Pause(true), lifecycle::Event::GiveBack),
        (
            Event::Stop { mode: StopMode::Drain, within: Duration::from_secs(9), why: "end".into() },
            lifecycle::Event::GiveBack,
        ),
    ] {
        let mut bench = Bench::new(assignment(2, &[("q", 0)]));
        let call = bench.only();
        answer_mixed(&mut bench, call, &["a", "!alone"]);
        bench.step(event);
        let pending = &bench.session.lines[0].pending;
        let settled = pending.iter().chain(bench.session.under_way.settle.iter().flat_map(|(_, all)| all));
        let settled: Vec<_> = settled.map(|it| (it.id.as_str(), it.event)).collect();
        assert_eq!(settled, [("alone", expected)]);
    }
}
