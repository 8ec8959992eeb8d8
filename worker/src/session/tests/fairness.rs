//! Which queue is looked at, and when.

use super::*;

/// Answers the exchange that is under way with one job or none, of the queue that was asked; more is due in `more`.
fn answer_with(bench: &mut Bench, exchange: &Action, id: Option<&str>, more: bool) -> Option<Seq> {
    let Action::Exchange { settle, pull } = exchange else { panic!("no exchange but {exchange:?}") };
    let answers = settle.as_ref().map_or_else(Vec::new, |settle| vec![Answer::Ok; settle.settlements.len()]);
    bench.token += 1;
    let now = bench.store_now();
    let asked = pull.as_ref().map(|pull| pull.queue.clone());
    let delivery = id.zip(asked).map(|(id, queue)| Delivery { queue, ..bench.delivery(id, 0) });
    let pulled = pull.as_ref().map(|_| Pulled {
        now,
        deliveries: delivery.into_iter().collect(),
        next_due: more.then_some(now),
        paused: false,
        skewed: false,
        live_version: 0,
    });
    let sent = bench.now;
    bench.step(Event::Exchanged { sent, result: Ok((answers, pulled)) });
    id.map(|_| bench.session.next_seq - 1)
}

fn exchange(bench: &mut Bench) -> Action {
    let mut all = bench.take();
    let at = all.iter().position(|action| matches!(action, Action::Exchange { .. }));
    all.remove(at.unwrap_or_else(|| panic!("no exchange in {all:?}")))
}

/// A worker that finds `critical` empty once and then runs jobs of 100 ms from `bulk` for so long. Answers how often it
/// looked at `critical` meanwhile.
fn busy_with_bulk(bench: &mut Bench, span: Duration) -> usize {
    let until = bench.now + span;
    let mut looks = 0;
    while bench.now < until {
        let call = exchange(bench);
        if pull_of(&call).queue == queue("critical") {
            looks += 1;
            answer_with(bench, &call, None, false);
        } else {
            let id = format!("b{}", bench.token);
            let seq = answer_with(bench, &call, Some(&id), true).unwrap();
            bench.take();
            bench.finish(seq, Duration::from_millis(100));
        }
    }
    looks
}

#[test]
fn a_busy_worker_looks_at_an_empty_queue_once_a_second() {
    let mut bench = Bench::new(assignment(1, &[("critical", 6), ("bulk", 1)]));
    let looks = busy_with_bulk(&mut bench, Duration::from_secs(10));
    assert!((9..=11).contains(&looks), "{looks} looks in 10 s");
    // And then there is something in it.
    bench.pass(Duration::from_secs(1));
    assert_eq!(pull_of(&exchange(&mut bench)).queue, queue("critical"));
}

#[test]
fn a_busy_worker_with_a_free_slot_wakes_up_to_look() {
    let mut bench = Bench::new(assignment(2, &[("q", 1)]));
    bench.pull(&["a"]);
    let due = bench.session.next_deadline(bench.now);
    bench.step(Event::Tick(vec![]));
    assert!(bench.take().is_empty());
    let mut waited = Duration::ZERO;
    while bench.take().is_empty() {
        let due = bench.session.next_deadline(bench.now);
        waited += due.since(bench.now);
        bench.now = due;
        bench.step(Event::Tick(vec![]));
        assert!(waited <= Duration::from_millis(1_100), "{due:?}");
    }
    assert!(waited >= Duration::from_millis(900), "{waited:?}, {due:?}");
}

#[test]
fn an_idle_worker_waits_to_be_called() {
    let mut bench = Bench::new(assignment(1, &[("q", 1)]));
    let call = bench.only();
    bench.answer(call, &[]);
    let due = bench.session.next_deadline(bench.now);
    assert!(due.since(bench.now) >= LOOK_AGAIN, "{due:?}");
}

#[test]
fn a_hint_is_kept_over_the_answer_of_a_pull_that_was_sent_before() {
    for hint in [Event::Look(queue("critical")), Event::Wake(queue("critical"))] {
        let mut bench = Bench::new(assignment(1, &[("critical", 6), ("bulk", 1)]));
        let call = bench.only();
        assert_eq!(pull_of(&call).queue, queue("critical"));
        bench.step(hint);
        answer_with(&mut bench, &call, None, false);
        let call = bench.only();
        assert_eq!(pull_of(&call).queue, queue("critical"), "it may hold something by now");
        answer_with(&mut bench, &call, None, false);
        assert_eq!(pull_of(&bench.only()).queue, queue("bulk"), "the hint counts once");
    }
}
