//! Ends of a session, and what it does not know.

use super::*;

fn cut() -> StoreError {
    StoreError::Unavailable("cut".into())
}

fn stop(mode: StopMode) -> Event {
    Event::Stop { mode, within: Duration::from_secs(30), why: "test".into() }
}

fn leaves(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Leave { code: exit::OK, .. }))
}

#[test]
fn a_worker_that_holds_nothing_leaves_also_while_the_store_is_away() {
    // With the pull lost, with the question after it under way, and with that lost too.
    for failures in 0..3 {
        let mut bench = Bench::new(assignment(1, &[("q", 0)]));
        bench.take();
        let sent = bench.now;
        bench.step(Event::Exchanged { sent, result: Err(cut()) });
        if failures > 0 {
            bench.pass(RETRY);
            bench.step(Event::Tick(vec![]));
            assert!(matches!(bench.only(), Action::Reconcile(..)));
        }
        if failures > 1 {
            bench.step(Event::Reconciled { queue: queue("q"), result: Err(cut()) });
        }
        bench.take();
        bench.step(stop(StopMode::Drain));
        assert!(leaves(&bench.take()), "after {failures}");
    }
}

#[test]
fn a_worker_that_is_told_to_stop_still_waits_for_the_answer_of_its_pull() {
    let mut bench = Bench::new(assignment(1, &[("q", 0)]));
    let call = bench.only();
    bench.step(stop(StopMode::Drain));
    assert!(!leaves(&bench.take()));
    bench.answer(call, &["a"]);
    let back = bench.take().pop().unwrap();
    assert_eq!(settled_by(&back), ["a"]);
    bench.answer(back, &[]);
    assert!(leaves(&bench.take()));
}

#[test]
fn an_acknowledgement_is_not_given_up_for_a_stop() {
    let mut bench = Bench::new(assignment(1, &[("q", 0)]));
    let tasks = bench.pull(&["a"]);
    bench.step(stop(StopMode::Drain));
    bench.finish(tasks[0].seq, Duration::from_millis(10));
    bench.take();
    let sent = bench.now;
    bench.step(Event::Exchanged { sent, result: Err(cut()) });
    assert!(!leaves(&bench.take()));
    bench.pass(RETRY);
    bench.step(Event::Tick(vec![]));
    assert_eq!(settled_by(&bench.only()), ["a"]);
}

#[test]
fn a_worker_that_has_run_its_number_of_jobs_heeds_a_release() {
    let mut bench = Bench::new(Assignment { max_jobs: 1, ..assignment(1, &[("q", 0)]) });
    let tasks = bench.pull(&["a"]);
    bench.step(Event::Tick(vec![]));
    assert_eq!(bench.session.doing(), Doing::Draining);
    bench.take();
    bench.step(stop(StopMode::Release));
    assert!(gives_back(&bench.take(), tasks[0].seq));
}

#[test]
fn the_earliest_of_several_stops_counts() {
    let mut bench = Bench::new(assignment(1, &[("q", 0)]));
    bench.pull(&["a"]);
    for (within, expected) in [(30, 30), (5, 5), (60, 5)] {
        let within = Duration::from_secs(within);
        bench.step(Event::Stop { mode: StopMode::Drain, within, why: "test".into() });
        let release_at = bench.session.stopping.as_ref().and_then(|stopping| stopping.release_at);
        assert_eq!(release_at, Some(bench.now + Duration::from_secs(expected)));
    }
}

/// As many of a lost pull as a page holds, and then the rest.
#[test]
fn all_of_a_lost_pull_is_given_back_beside_what_is_known() {
    let mut bench = Bench::new(assignment(1, &[("q", 0)]));
    let tasks = bench.pull(&["known"]);
    let known = bench.token;
    bench.step(Event::Wake(queue("q")));
    bench.take();
    bench.finish(tasks[0].seq, Duration::from_millis(1));
    bench.take();
    let sent = bench.now;
    bench.step(Event::Exchanged { sent, result: Err(cut()) });
    let mut pages = vec![vec![], (0..MAX_BATCH).map(|n| format!("lost{n}")).collect::<Vec<_>>()];
    let (mut back, mut newest) = (BTreeSet::new(), Some(known));
    for _ in 0..20 {
        bench.pass(RETRY);
        bench.step(Event::Tick(vec![]));
        for action in bench.take() {
            match action {
                Action::Reconcile(_, newer_than) => {
                    assert!(newer_than >= newest, "{newer_than:?}");
                    newest = newer_than;
                    bench.token = known + 1;
                    let ids = pages.pop().unwrap_or_default();
                    let held = ids.iter().map(|id| Held {
                        delivery: bench.delivery(id, 0),
                        started: None,
                        deadline: None,
                    });
                    let result = Ok(held.collect());
                    bench.step(Event::Reconciled { queue: queue("q"), result });
                }
                call @ Action::Exchange { .. } => {
                    if let Action::Exchange { settle: Some(settle), .. } = &call {
                        back.extend(settle.settlements.iter().map(|it| it.id.to_string()));
                    }
                    bench.answer(call, &[]);
                }
                _ => {}
            }
        }
    }
    assert!(pages.is_empty(), "it asks again after a full page");
    assert_eq!(back.len(), MAX_BATCH + 1, "all that was lost, and the one that was known");
    assert!(!bench.session.lines[0].doubtful);
}
