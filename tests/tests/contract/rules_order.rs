//! When a job is delivered, and in which order.

use std::time::Duration;

use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::{Due, Outcome, State};
use roundsman_shared::store::{Answer, MAX_BATCH};

use crate::stores::{Bed, HOUR, done, due_at, new_job, on_each_store, settled, with_priority, worker};

on_each_store![
    never_before_it_is_due,
    the_next_due_time_is_told,
    first_in_first_out,
    higher_priority_goes_first,
    earlier_due_goes_first,
    a_recovered_job_goes_before_all_others,
    a_recovered_job_keeps_its_due_time,
    the_front_is_that_of_its_own_priority,
    the_last_recovered_is_the_first,
    those_recovered_at_once_keep_their_order,
    a_snoozed_job_waits,
    a_long_line_keeps_its_order,
];

/// In 2001.
const LONG_AGO: StoreTime = StoreTime::from_millis(1_000_000_000_000);

async fn never_before_it_is_due(bed: Bed) {
    let start = bed.now().await;
    // One a millisecond, from the last to the first; the half milliseconds must not be rounded away.
    let due = |n: i64| StoreTime::from_micros(start.as_micros() + 40_500 + n * 1000);
    let jobs: Vec<_> = (0..20).rev().map(|n| due_at(&format!("j{n}"), Due::At(due(n)))).collect();
    bed.enqueue(&jobs).await;
    bed.enqueue(&[due_at("in", Due::In(Duration::from_millis(30)))]).await;
    let mut seen = Vec::new();
    while seen.len() < 21 {
        // One that is due must not bring those along that are not.
        let pulled = bed.pull_as(1, 1 + seen.len() % 3, HOUR).await;
        for delivery in pulled.deliveries {
            assert!(delivery.due <= pulled.now, "{delivery:?} came at {:?}", pulled.now);
            if let Some(n) = delivery.id.as_str().strip_prefix('j') {
                assert_eq!(delivery.due, due(n.parse().unwrap()));
            } else {
                assert!(pulled.now >= start + Duration::from_millis(30));
            }
            seen.push(delivery.due);
        }
        assert!(pulled.now < start + Duration::from_secs(60), "only {} came in time", seen.len());
    }
    assert!(seen.is_sorted(), "{seen:?}");
}

async fn the_next_due_time_is_told(bed: Bed) {
    assert_eq!(bed.pull_as(1, 1, HOUR).await.next_due, None);
    let later = bed.now().await + HOUR;
    bed.enqueue(&[due_at("later", Due::At(later)), new_job("a"), new_job("b")]).await;
    let pulled = bed.pull_as(1, 1, HOUR).await;
    assert!(pulled.next_due.is_some_and(|due| due <= pulled.now), "{pulled:?}");
    let pulled = bed.pull_as(1, 9, HOUR).await;
    assert_eq!((pulled.deliveries.len(), pulled.next_due), (1, Some(later)));
}

async fn first_in_first_out(bed: Bed) {
    bed.enqueue(&[new_job("z"), new_job("m"), new_job("a")]).await;
    bed.enqueue(&[new_job("k")]).await;
    bed.enqueue(&[new_job("c"), new_job("b")]).await;
    assert_eq!(bed.pulled_ids(4).await, ["z", "m", "a", "k"]);
    assert_eq!(bed.pulled_ids(4).await, ["c", "b"]);
    assert!(bed.pulled_ids(4).await.is_empty());
}

async fn higher_priority_goes_first(bed: Bed) {
    let jobs = [("low", -255), ("zero", 0), ("less", -1), ("top", 255), ("ten", 10), ("nine", 9)];
    for (name, priority) in jobs {
        bed.enqueue(&[with_priority(name, priority)]).await;
    }
    assert_eq!(bed.pulled_ids(9).await, ["top", "ten", "nine", "zero", "less", "low"]);
}

async fn earlier_due_goes_first(bed: Bed) {
    let job = |name, millis| due_at(name, Due::At(LONG_AGO + Duration::from_millis(millis)));
    bed.enqueue(&[new_job("now"), job("c", 2), job("b", 1), job("a", 1), job("first", 0)]).await;
    assert_eq!(bed.pulled_ids(9).await, ["first", "a", "b", "c", "now"]);
}

async fn a_recovered_job_goes_before_all_others(bed: Bed) {
    bed.enqueue(&[new_job("recovered")]).await;
    let delivery = bed.pull(1).await.remove(0);
    bed.enqueue(&[due_at("old", Due::At(LONG_AGO)), new_job("new")]).await;
    let crashed = settled(&delivery, 1, Outcome::Crashed { cause: "SIGSEGV".to_owned() });
    assert_eq!(bed.settle(vec![crashed]).await, [Answer::Ok]);
    // The time for which it was really due is still told.
    let found = bed.look("recovered").await.unwrap();
    assert_eq!(found.progress.due, Some(delivery.due.as_millis()));
    assert_eq!(bed.pulled_ids(9).await, ["recovered", "old", "new"]);
}

async fn a_recovered_job_keeps_its_due_time(bed: Bed) {
    bed.enqueue(&[new_job("recovered")]).await;
    let first = bed.pull(1).await.remove(0);
    bed.enqueue(&[due_at("old", Due::At(LONG_AGO))]).await;
    let mut last = first.clone();
    for _ in 0..3 {
        bed.settle(vec![settled(&last, 1, Outcome::GiveBack)]).await;
        last = bed.pull(1).await.remove(0);
        assert_eq!((last.id.as_str(), last.due.as_millis()), ("recovered", first.due.as_millis()));
        assert_eq!(bed.store.unacked(&bed.queue, &worker(1), None).await.unwrap()[0].delivery, last);
    }
    bed.settle(vec![settled(&last, 1, done())]).await;
    assert_eq!(bed.look("recovered").await.unwrap().progress.due, Some(first.due.as_millis()));
}

async fn the_front_is_that_of_its_own_priority(bed: Bed) {
    bed.enqueue(&[with_priority("recovered", -1)]).await;
    let delivery = bed.pull(1).await.remove(0);
    bed.enqueue(&[with_priority("higher", 0), with_priority("equal", -1)]).await;
    bed.settle(vec![settled(&delivery, 1, Outcome::GiveBack)]).await;
    assert_eq!(bed.pulled_ids(9).await, ["higher", "recovered", "equal"]);
}

async fn the_last_recovered_is_the_first(bed: Bed) {
    bed.enqueue(&[new_job("a"), new_job("b"), new_job("c"), new_job("d")]).await;
    let held = bed.pull(3).await;
    for at in [1, 0, 2] {
        bed.settle(vec![settled(&held[at], 1, Outcome::GiveBack)]).await;
    }
    assert_eq!(bed.pulled_ids(9).await, ["c", "a", "b", "d"]);
}

async fn those_recovered_at_once_keep_their_order(bed: Bed) {
    let jobs = ["a", "b", "c", "d", "e"].map(new_job);
    bed.enqueue(&jobs).await;
    bed.enqueue(&[with_priority("low", -1), with_priority("lower", -1)]).await;
    let held = bed.pull(9).await;
    // Another is at the front already.
    bed.settle(vec![settled(&held[4], 1, Outcome::GiveBack)]).await;
    let at_once = [0, 1, 2, 3, 5, 6].map(|at| {
        let outcome =
            if at == 2 { Outcome::Retry { error: "e".into(), after: Some(HOUR) } } else { Outcome::GiveBack };
        settled(&held[at], 1, outcome)
    });
    bed.settle(at_once.into()).await;
    assert_eq!(bed.pulled_ids(9).await, ["a", "b", "d", "e", "low", "lower"]);
}

async fn a_snoozed_job_waits(bed: Bed) {
    bed.enqueue(&[new_job("a")]).await;
    let delivery = bed.pull(1).await.remove(0);
    let before = bed.now().await;
    bed.settle(vec![settled(&delivery, 1, Outcome::Snooze(Duration::from_millis(40)))]).await;
    assert_eq!(bed.state("a").await, Some(State::Scheduled));
    loop {
        let pulled = bed.pull_as(1, 1, HOUR).await;
        if !pulled.deliveries.is_empty() {
            assert!(pulled.now >= before + Duration::from_millis(40));
            break;
        }
        assert!(pulled.now < before + Duration::from_secs(60));
    }
}

async fn a_long_line_keeps_its_order(bed: Bed) {
    let names: Vec<_> = (0..600).map(|n| format!("j{}", (n * 7) % 600)).collect();
    let jobs: Vec<_> = names.iter().map(|name| new_job(name)).collect();
    for jobs in jobs.chunks(MAX_BATCH) {
        bed.enqueue(jobs).await;
    }
    let mut seen = Vec::new();
    while seen.len() < names.len() {
        let ids = bed.pulled_ids(MAX_BATCH).await;
        assert!(!ids.is_empty(), "only {} came", seen.len());
        seen.extend(ids);
    }
    assert_eq!(seen, names);
}
