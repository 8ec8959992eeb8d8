//! What people do to jobs: cancel, reschedule, retry, delete, purge.

use std::time::Duration;

use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::record::encode;
use roundsman_shared::job::view::Place;
use roundsman_shared::job::{Due, Outcome, Progress, Spec, State};
use roundsman_shared::store::{Answer, Cancelled, Changed, Enqueued};

use crate::stores::{Bed, HOUR, done, due_at, from_spec, id, new_job, on_each_store, settled, worker};

on_each_store![
    a_cancelled_job_never_runs,
    a_running_job_is_cancelled_by_its_worker,
    what_was_cancelled_does_not_start_again,
    what_was_cancelled_and_done_is_done,
    a_cancellation_concerns_one_delivery,
    what_has_ended_or_is_unknown_is_not_cancelled,
    what_waits_beyond_its_expiry_is_ended,
    a_waiting_job_is_moved_in_time,
    only_a_waiting_job_is_moved_in_time,
    a_scheduled_job_is_hastened,
    a_waiting_job_is_given_other_content,
    only_a_waiting_job_is_given_other_content,
    an_ended_job_is_retried,
    a_retry_begins_anew,
    a_retried_job_is_not_remembered,
    what_runs_or_is_done_is_not_retried,
    a_deleted_job_leaves_nothing,
    a_purge_takes_one_state,
    ids_are_known_after_a_purge,
    a_purge_goes_on_until_none_is_left,
];

fn dead() -> Outcome {
    Outcome::Dead { error: "no".to_owned() }
}

async fn cancel(bed: &Bed, name: &str) -> Cancelled {
    bed.store.cancel(&bed.queue, &id(name)).await.unwrap()
}

async fn retry(bed: &Bed, name: &str) -> Changed {
    bed.store.retry(&bed.queue, &id(name)).await.unwrap()
}

async fn reschedule(bed: &Bed, name: &str, due: Due) -> Changed {
    bed.store.reschedule(&bed.queue, &id(name), due).await.unwrap()
}

async fn due_of(bed: &Bed, name: &str) -> StoreTime {
    match bed.look(name).await.map(|found| found.place) {
        Some(Place::Waiting { due }) => due,
        other => panic!("{name} does not wait: {other:?}"),
    }
}

async fn a_cancelled_job_never_runs(bed: Bed) {
    let later = due_at("later", Due::In(HOUR));
    bed.enqueue(&[new_job("a"), new_job("b"), later]).await;
    assert_eq!(cancel(&bed, "a").await, Cancelled::Now);
    assert_eq!(cancel(&bed, "later").await, Cancelled::Now);
    assert_eq!(bed.pulled_ids(9).await, ["b"]);
    let found = bed.look("a").await.unwrap();
    assert_eq!((found.state(), found.progress.error), (State::Cancelled, None));
    assert!(found.progress.ended.is_some() && found.progress.due.is_some());
    let overview = bed.store.overview(&bed.queue).await.unwrap();
    assert_eq!((overview.cancelled, overview.scheduled, overview.ended_total), (2, 0, 2));
}

async fn a_running_job_is_cancelled_by_its_worker(bed: Bed) {
    bed.enqueue(&[new_job("a"), new_job("b")]).await;
    let held = bed.pull(2).await;
    assert_eq!(cancel(&bed, "a").await, Cancelled::Told(worker(1)));
    assert_eq!(bed.state("a").await, Some(State::Running));
    // Told again and again, until it acknowledges.
    for _ in 0..2 {
        assert_eq!(bed.renew(1, HOUR, vec![]).await.cancel, [id("a")]);
    }
    assert!(bed.renew(2, HOUR, vec![]).await.cancel.is_empty());
    assert_eq!(bed.settle(vec![settled(&held[0], 1, Outcome::Cancelled)]).await, [Answer::Ok]);
    assert_eq!(bed.state("a").await, Some(State::Cancelled));
    assert!(bed.renew(1, HOUR, vec![]).await.cancel.is_empty());
}

async fn what_was_cancelled_does_not_start_again(bed: Bed) {
    let error = || "no".to_owned();
    let outcomes = [
        Outcome::Retry { error: error(), after: Some(Duration::ZERO) },
        Outcome::TimedOut { error: error() },
        Outcome::Snooze(HOUR),
        Outcome::UnknownKind { kind: "k".to_owned() },
        Outcome::GiveBack,
        Outcome::Crashed { cause: error() },
        Outcome::Killed { cause: error() },
        Outcome::Lapsed,
    ];
    bed.store.pulse(&bed.queue, Duration::ZERO, Duration::ZERO).await.unwrap();
    let names: Vec<_> = (0..outcomes.len()).map(|n| format!("j{n}")).collect();
    bed.enqueue(&names.iter().map(|name| new_job(name)).collect::<Vec<_>>()).await;
    for (name, outcome) in names.iter().zip(outcomes.clone()) {
        let held = bed.pull_as(1, 1, Duration::ZERO).await.deliveries;
        assert_eq!(held[0].id.as_str(), name);
        assert_eq!(cancel(&bed, name).await, Cancelled::Told(worker(1)));
        let charged =
            !matches!(outcome, Outcome::GiveBack | Outcome::Snooze(_) | Outcome::UnknownKind { .. });
        let settlement = settled(&held[0], 1, outcome.clone());
        let answers = if matches!(outcome, Outcome::Lapsed) {
            bed.sweep(1, &held).await
        } else {
            bed.settle(vec![settlement.clone()]).await
        };
        assert_eq!(answers, [Answer::Ok], "{outcome:?}");
        let found = bed.look(name).await.unwrap();
        assert_eq!((found.state(), found.progress.error.as_deref()), (State::Cancelled, None), "{outcome:?}");
        assert_eq!(found.progress.attempts.len(), 1, "what was tried is known: {outcome:?}");
        assert_eq!(found.progress.attempt, u32::from(charged), "{outcome:?}");
        assert!(found.progress.ended.is_some() && found.progress.due.is_some(), "{outcome:?}");
        // Its last word can be said again, and its id is known as that of any job that has ended.
        assert_eq!(bed.settle(vec![settlement]).await, [Answer::Ok], "{outcome:?}");
        assert_eq!(bed.enqueue(&[new_job(name)]).await, [Enqueued::Existing]);
        bed.store.delete(&bed.queue, &id(name)).await.unwrap();
    }
    let overview = bed.store.overview(&bed.queue).await.unwrap();
    let waiting = (overview.ready, overview.scheduled, overview.running);
    assert_eq!((waiting, overview.ended_total), ((0, 0, 0), outcomes.len() as u64));
    assert_eq!(bed.store.pulse(&bed.queue, HOUR, Duration::ZERO).await.unwrap().outbox, 0);
    assert!(bed.pull(9).await.is_empty());
}

async fn what_was_cancelled_and_done_is_done(bed: Bed) {
    bed.enqueue(&[new_job("a"), new_job("b")]).await;
    let held = bed.pull(2).await;
    cancel(&bed, "a").await;
    cancel(&bed, "b").await;
    bed.settle(vec![settled(&held[0], 1, done()), settled(&held[1], 1, dead())]).await;
    assert_eq!((bed.state("a").await, bed.state("b").await), (Some(State::Done), Some(State::Dead)));
}

async fn a_cancellation_concerns_one_delivery(bed: Bed) {
    bed.enqueue(&[new_job("a"), new_job("b")]).await;
    let held = bed.pull(2).await;
    cancel(&bed, "a").await;
    let back = |at: usize| settled(&held[at], 1, Outcome::GiveBack);
    bed.settle(vec![back(0), back(1)]).await;
    assert!(bed.renew(1, HOUR, vec![]).await.cancel.is_empty());
    // Once it was retried, it runs and is put back as any other.
    assert_eq!(retry(&bed, "a").await, Changed::Ok);
    for _ in 0..2 {
        let mut held = bed.pull(9).await;
        held.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(held.iter().map(|delivery| delivery.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(bed.renew(1, HOUR, vec![]).await.cancel.is_empty());
        bed.settle(held.iter().map(|delivery| settled(delivery, 1, Outcome::GiveBack)).collect()).await;
    }
}

async fn what_has_ended_or_is_unknown_is_not_cancelled(bed: Bed) {
    assert_eq!(cancel(&bed, "a").await, Cancelled::NotFound);
    bed.run(new_job("a"), done()).await;
    assert_eq!(cancel(&bed, "a").await, Cancelled::AlreadyEnded(State::Done));
    bed.run(new_job("b"), dead()).await;
    assert_eq!(cancel(&bed, "b").await, Cancelled::AlreadyEnded(State::Dead));
    bed.enqueue(&[new_job("c")]).await;
    cancel(&bed, "c").await;
    assert_eq!(cancel(&bed, "c").await, Cancelled::AlreadyEnded(State::Cancelled));
    assert_eq!(bed.store.overview(&bed.queue).await.unwrap().ended_total, 3);
}

async fn what_waits_beyond_its_expiry_is_ended(bed: Bed) {
    let now = bed.now().await;
    let expires = |name, at| from_spec(name, &Spec { expires: Some(at), ..Spec::bare(true, "1".to_owned()) });
    let soon = now + Duration::from_millis(200);
    bed.enqueue(&[expires("runs", soon)]).await;
    let held = bed.pull(1).await.remove(0);
    bed.enqueue(&[expires("soon", soon), expires("late", now + HOUR), new_job("never")]).await;
    bed.store.pause(&bed.queue, true).await.unwrap();
    let all = ["runs", "soon", "late", "never", "unknown"].map(id);
    let expire = async || bed.store.expire(&bed.queue, &all).await.unwrap();
    while bed.now().await < soon {}
    assert_eq!((expire().await, expire().await), (1, 0));
    assert_eq!(bed.state("soon").await, Some(State::Expired));
    let found = bed.look("soon").await.unwrap();
    assert_eq!((found.progress.attempts.len(), found.progress.error), (0, None));
    let view = bed.store.overview(&bed.queue).await.unwrap();
    assert_eq!((view.ready, view.running, view.ended_total), (2, 1, 1));
    // Whoever runs it ends it.
    assert_eq!(bed.settle(vec![settled(&held, 1, done())]).await, [Answer::Ok]);
}

async fn a_waiting_job_is_moved_in_time(bed: Bed) {
    bed.enqueue(&[new_job("a"), new_job("b")]).await;
    let later = bed.now().await + HOUR;
    assert_eq!(reschedule(&bed, "a", Due::At(later)).await, Changed::Ok);
    assert_eq!((bed.state("a").await, due_of(&bed, "a").await), (Some(State::Scheduled), later));
    assert_eq!(bed.pulled_ids(9).await, ["b"]);
    let before = bed.now().await;
    assert_eq!(reschedule(&bed, "a", Due::In(HOUR)).await, Changed::Ok);
    assert!((before + HOUR..=bed.now().await + HOUR).contains(&due_of(&bed, "a").await));
    assert_eq!(reschedule(&bed, "a", Due::Now).await, Changed::Ok);
    assert_eq!(bed.pulled_ids(9).await, ["a"]);
}

async fn replace(bed: &Bed, name: &str, payload: &str, due: Option<Due>) -> Changed {
    let spec = Spec { key: Some("k".to_owned()), ..Spec::bare(true, payload.to_owned()) };
    bed.store.replace(&bed.queue, &id(name), &encode(&spec), due).await.unwrap()
}

async fn a_waiting_job_is_given_other_content(bed: Bed) {
    let first = due_at("a", Due::In(HOUR));
    bed.enqueue(std::slice::from_ref(&first)).await;
    let before = bed.look("a").await.unwrap();
    let due = due_of(&bed, "a").await;
    assert_eq!(replace(&bed, "a", "2", None).await, Changed::Ok);
    assert_eq!(due_of(&bed, "a").await, due);
    assert_eq!(replace(&bed, "a", "3", Some(Due::Now)).await, Changed::Ok);
    let ready = bed.look("a").await.unwrap();
    assert_eq!((ready.state(), ready.record.created()), (State::Ready, before.record.created()));
    // What it was enqueued as is not its content any more.
    assert_eq!(bed.enqueue(&[first]).await, [Enqueued::Conflict]);
    let delivery = bed.pull(1).await.remove(0);
    let spec = delivery.record.decode().unwrap();
    assert_eq!((spec.payload.as_str(), spec.key.as_deref()), ("3", Some("k")));
    let view = bed.look("a").await.unwrap().view().unwrap();
    assert_eq!((view.payload.get(), view.attempt), ("3", 1));
}

async fn only_a_waiting_job_is_given_other_content(bed: Bed) {
    assert_eq!(replace(&bed, "a", "2", None).await, Changed::NotFound);
    bed.enqueue(&[new_job("a")]).await;
    let delivery = bed.pull(1).await.remove(0);
    assert_eq!(replace(&bed, "a", "2", Some(Due::Now)).await, Changed::Refused(State::Running));
    bed.settle(vec![settled(&delivery, 1, dead())]).await;
    assert_eq!(replace(&bed, "a", "2", None).await, Changed::Refused(State::Dead));
    assert_ne!(bed.look("a").await.unwrap().view().unwrap().payload.get(), "2");
}

async fn only_a_waiting_job_is_moved_in_time(bed: Bed) {
    assert_eq!(reschedule(&bed, "a", Due::Now).await, Changed::NotFound);
    bed.enqueue(&[new_job("a")]).await;
    let delivery = bed.pull(1).await.remove(0);
    assert_eq!(reschedule(&bed, "a", Due::In(HOUR)).await, Changed::Refused(State::Running));
    bed.settle(vec![settled(&delivery, 1, dead())]).await;
    assert_eq!(reschedule(&bed, "a", Due::In(HOUR)).await, Changed::Refused(State::Dead));
    assert_eq!(bed.state("a").await, Some(State::Dead));
}

async fn a_scheduled_job_is_hastened(bed: Bed) {
    bed.enqueue(&[due_at("a", Due::In(HOUR)), new_job("b")]).await;
    assert_eq!(retry(&bed, "a").await, Changed::Ok);
    assert_eq!(retry(&bed, "b").await, Changed::Refused(State::Ready));
    assert!(due_of(&bed, "a").await <= bed.now().await);
    assert_eq!(bed.pulled_ids(9).await, ["b", "a"]);
}

async fn an_ended_job_is_retried(bed: Bed) {
    for (name, outcome) in
        [("dead", dead()), ("expired", Outcome::Expired), ("cancelled", Outcome::Cancelled)]
    {
        bed.run(new_job(name), outcome).await;
        assert_eq!(retry(&bed, name).await, Changed::Ok, "{name}");
        let overview = bed.store.overview(&bed.queue).await.unwrap();
        assert_eq!(
            (overview.dead, overview.expired, overview.cancelled, overview.ready),
            (0, 0, 0, 1),
            "{name}"
        );
        let delivery = bed.pull(9).await.remove(0);
        assert_eq!(bed.settle(vec![settled(&delivery, 1, done())]).await, [Answer::Ok]);
        assert_eq!(bed.state(name).await, Some(State::Done));
    }
    // One that was cancelled before it ever ran.
    bed.enqueue(&[new_job("waiting")]).await;
    cancel(&bed, "waiting").await;
    assert_eq!(retry(&bed, "waiting").await, Changed::Ok);
    assert_eq!(bed.pulled_ids(9).await, ["waiting"]);
}

async fn a_retry_begins_anew(bed: Bed) {
    bed.enqueue(&[new_job("a")]).await;
    let retry_now = Outcome::Retry { error: "no".to_owned(), after: Some(Duration::ZERO) };
    let crash = Outcome::Crashed { cause: "SIGSEGV".to_owned() };
    let kill = Outcome::Killed { cause: "SIGKILL".to_owned() };
    let mut last = Vec::new();
    for outcome in [retry_now, crash, kill, Outcome::Snooze(Duration::from_millis(1)), dead()] {
        bed.until(bed.now().await + Duration::from_millis(2)).await;
        let delivery = bed.pull(1).await.remove(0);
        last = vec![settled(&delivery, 1, outcome)];
        bed.settle(last.clone()).await;
    }
    let before = bed.look("a").await.unwrap().progress;
    assert_eq!((before.failures, before.crashes, before.killed, before.snoozed), (1, 1, 1, 1));
    let ended = bed.store.overview(&bed.queue).await.unwrap().ended_total;
    assert_eq!(retry(&bed, "a").await, Changed::Ok);
    assert_eq!(bed.store.overview(&bed.queue).await.unwrap().ended_total, ended, "a total never falls");
    let after = bed.look("a").await.unwrap().progress;
    // The history stays, the strikes do not.
    let expected = Progress { attempt: before.attempt, attempts: before.attempts, ..Progress::default() };
    assert_eq!(after, expected);
    // The last word of the worker is still known, should it come once more.
    assert_eq!(bed.settle(last).await, [Answer::Ok]);
    let delivery = bed.pull(1).await.remove(0);
    assert_eq!((delivery.attempt(), delivery.progress), (expected.attempt + 1, expected));
}

async fn a_retried_job_is_not_remembered(bed: Bed) {
    bed.run(new_job("a"), dead()).await;
    assert_eq!(retry(&bed, "a").await, Changed::Ok);
    // It has not ended, and it is gone: its producer may send it again.
    assert_eq!(bed.store.purge(&bed.queue, State::Ready).await.unwrap(), 1);
    assert!(matches!(bed.enqueue(&[new_job("a")]).await[0], Enqueued::Created { .. }));
}

async fn what_runs_or_is_done_is_not_retried(bed: Bed) {
    assert_eq!(retry(&bed, "a").await, Changed::NotFound);
    bed.enqueue(&[new_job("a")]).await;
    let delivery = bed.pull(1).await.remove(0);
    assert_eq!(retry(&bed, "a").await, Changed::Refused(State::Running));
    bed.settle(vec![settled(&delivery, 1, done())]).await;
    assert_eq!(retry(&bed, "a").await, Changed::Refused(State::Done));
    assert!(bed.pull(1).await.is_empty());
}

async fn a_deleted_job_leaves_nothing(bed: Bed) {
    let delete = async |name: &str| bed.store.delete(&bed.queue, &id(name)).await.unwrap();
    assert_eq!(delete("a").await, Changed::NotFound);
    bed.enqueue(&[new_job("a")]).await;
    assert_eq!(delete("a").await, Changed::Ok);
    assert!(bed.pull(1).await.is_empty());
    for outcome in [done(), dead(), Outcome::Cancelled, Outcome::Expired] {
        // Each time the id is free again: nothing is remembered of it.
        let settlement = bed.run(new_job("a"), outcome).await;
        assert_eq!(delete("a").await, Changed::Ok);
        assert_eq!(bed.look("a").await, None);
        assert_eq!(bed.settle(vec![settlement]).await, [Answer::Gone]);
    }
    bed.enqueue(&[new_job("a")]).await;
    let delivery = bed.pull(1).await.remove(0);
    assert_eq!(delete("a").await, Changed::Refused(State::Running));
    assert_eq!(bed.settle(vec![settled(&delivery, 1, done())]).await, [Answer::Ok]);
    let overview = bed.store.overview(&bed.queue).await.unwrap();
    assert_eq!((overview.ready, overview.done, overview.dead), (0, 1, 0));
}

async fn a_purge_takes_one_state(bed: Bed) {
    bed.run(new_job("done"), done()).await;
    bed.run(new_job("dead"), dead()).await;
    bed.run(new_job("expired"), Outcome::Expired).await;
    bed.run(new_job("cancelled"), Outcome::Cancelled).await;
    bed.enqueue(&[new_job("running")]).await;
    bed.pull(1).await;
    bed.enqueue(&[new_job("ready"), due_at("scheduled", Due::In(HOUR))]).await;
    let mut left: Vec<_> = State::ALL.to_vec();
    for state in State::ALL {
        let gone = bed.store.purge(&bed.queue, state).await.unwrap();
        assert_eq!(gone, u64::from(state != State::Running), "{state}");
        left.retain(|one| *one == State::Running || *one != state);
        for one in State::ALL {
            assert_eq!(
                bed.look(one.as_str()).await.is_some(),
                left.contains(&one),
                "{one} after the purge of {state}"
            );
        }
    }
    let overview = bed.store.overview(&bed.queue).await.unwrap();
    assert_eq!((overview.ready + overview.scheduled, overview.running), (0, 1));
}

async fn ids_are_known_after_a_purge(bed: Bed) {
    bed.run(new_job("done"), done()).await;
    bed.run(new_job("dead"), dead()).await;
    for state in [State::Done, State::Dead] {
        assert_eq!(bed.store.purge(&bed.queue, state).await.unwrap(), 1);
        // Room was to be made, but a producer that repeats itself must not be served twice.
        assert_eq!(bed.enqueue(&[new_job(state.as_str())]).await, [Enqueued::Existing]);
    }
    bed.enqueue(&[new_job("waiting")]).await;
    bed.store.purge(&bed.queue, State::Ready).await.unwrap();
    assert!(matches!(bed.enqueue(&[new_job("waiting")]).await[0], Enqueued::Created { .. }));
}

async fn a_purge_goes_on_until_none_is_left(bed: Bed) {
    for batch in 0..3 {
        let jobs: Vec<_> = (0..200).map(|n| new_job(&format!("{batch}.{n}"))).collect();
        bed.enqueue(&jobs).await;
    }
    let mut purged = Vec::new();
    loop {
        match bed.store.purge(&bed.queue, State::Ready).await.unwrap() {
            0 => break,
            count => purged.push(count),
        }
    }
    assert_eq!(purged.iter().sum::<u64>(), 600);
    assert!(purged.len() > 1, "{purged:?}: a call is bounded");
    assert!(bed.pull(1).await.is_empty());
}
