//! What an enqueue answers, and what it leaves behind.

use std::time::Duration;

use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::letter::{self, Letter};
use roundsman_shared::job::{NewJob, Outcome, Policy, Spec, State};
use roundsman_shared::store::{Answer, Enqueued, Retention};

use crate::stores::{Bed, done, from_spec, id, new_job, on_each_store, settled};

on_each_store![
    the_same_again_is_existing,
    other_content_is_a_conflict,
    an_ended_job_is_known_while_it_is_kept,
    a_chosen_id_is_known_after_its_job_was_forgotten,
    a_generated_id_is_forgotten_with_its_job,
    only_so_many_ids_are_remembered,
    trace_headers_are_no_content,
    a_full_queue_refuses,
    running_jobs_take_no_room,
    an_expired_job_is_refused,
    one_bad_job_spoils_no_other,
    what_is_no_job_is_buried_once,
    a_job_may_stand_twice_in_one_call,
    the_record_comes_back_as_it_was_given,
    queues_do_not_mix,
];

fn with_payload(name: &str, payload: &str) -> NewJob {
    from_spec(name, &Spec::bare(true, payload.to_owned()))
}

fn is_created(answer: &Enqueued) -> bool {
    matches!(answer, Enqueued::Created { .. })
}

/// Removes all that has ended, and the ids if so wanted.
async fn forget(bed: &Bed, ids: bool) {
    let keep = Retention::from(&Policy::default());
    let remember_ids = if ids { Duration::ZERO } else { keep.remember_ids };
    let none = Retention { keep_done: Duration::ZERO, keep_dead: Duration::ZERO, remember_ids, ..keep };
    // What ended in this millisecond is not yet older than nothing.
    bed.until(bed.now().await + Duration::from_millis(2)).await;
    while bed.store.trim(&bed.queue, &none).await.unwrap() {}
}

async fn the_same_again_is_existing(bed: Bed) {
    assert!(is_created(&bed.enqueue(&[new_job("a")]).await[0]));
    assert_eq!(bed.enqueue(&[new_job("a")]).await, [Enqueued::Existing]);
    let delivery = bed.pull(1).await.remove(0);
    assert_eq!(bed.enqueue(&[new_job("a")]).await, [Enqueued::Existing]);
    bed.settle(vec![settled(&delivery, 1, Outcome::GiveBack)]).await;
    assert_eq!(bed.enqueue(&[new_job("a")]).await, [Enqueued::Existing]);
    assert_eq!(bed.pulled_ids(9).await, ["a"]);
}

async fn other_content_is_a_conflict(bed: Bed) {
    bed.enqueue(&[with_payload("a", "1")]).await;
    assert_eq!(bed.enqueue(&[with_payload("a", "2")]).await, [Enqueued::Conflict]);
    let other_priority = from_spec("a", &Spec { priority: 1, ..Spec::bare(true, "1".to_owned()) });
    assert_eq!(bed.enqueue(&[other_priority]).await, [Enqueued::Conflict]);
    let delivery = bed.pull(9).await.remove(0);
    assert_eq!(delivery.record.decode().unwrap(), Spec::bare(true, "1".to_owned()));
    assert_eq!(bed.enqueue(&[with_payload("a", "2")]).await, [Enqueued::Conflict]);
}

async fn an_ended_job_is_known_while_it_is_kept(bed: Bed) {
    let outcomes = [("a", done()), ("b", Outcome::Dead { error: "no".to_owned() }), ("c", Outcome::Expired)];
    for (name, outcome) in outcomes {
        for chosen in [true, false] {
            let name = format!("{name}{chosen}");
            let job = from_spec(&name, &Spec::bare(chosen, "1".to_owned()));
            bed.run(job.clone(), outcome.clone()).await;
            assert_eq!(bed.enqueue(&[job]).await, [Enqueued::Existing], "{name}");
            assert_eq!(bed.enqueue(&[with_payload(&name, "2")]).await, [Enqueued::Conflict], "{name}");
        }
    }
    assert!(bed.pull(9).await.is_empty());
}

async fn a_chosen_id_is_known_after_its_job_was_forgotten(bed: Bed) {
    bed.run(new_job("done"), done()).await;
    bed.run(new_job("dead"), Outcome::Dead { error: "no".to_owned() }).await;
    bed.enqueue(&[new_job("cancelled")]).await;
    bed.store.cancel(&bed.queue, &id("cancelled")).await.unwrap();
    forget(&bed, false).await;
    for name in ["done", "dead", "cancelled"] {
        assert_eq!(bed.look(name).await, None, "{name}");
        assert_eq!(bed.enqueue(&[new_job(name)]).await, [Enqueued::Existing], "{name}");
        assert_eq!(bed.enqueue(&[with_payload(name, "2")]).await, [Enqueued::Conflict], "{name}");
    }
    forget(&bed, true).await;
    for name in ["done", "dead", "cancelled"] {
        assert!(is_created(&bed.enqueue(&[with_payload(name, "2")]).await[0]), "{name}");
    }
}

async fn a_generated_id_is_forgotten_with_its_job(bed: Bed) {
    let job = from_spec("generated", &Spec::bare(false, "1".to_owned()));
    bed.run(job.clone(), done()).await;
    forget(&bed, false).await;
    assert!(is_created(&bed.enqueue(&[job]).await[0]));
}

async fn only_so_many_ids_are_remembered(bed: Bed) {
    let few = Retention { keep_done_max: 2, remember_ids_max: 3, ..Retention::from(&Policy::default()) };
    for n in 0..5 {
        bed.enqueue(&[new_job(&format!("j{n}"))]).await;
        let delivery = bed.pull(1).await.remove(0);
        let mut request = bed.request(1, vec![settled(&delivery, 1, done())]);
        request.retention = few.clone();
        // The oldest goes, and age is told in milliseconds.
        bed.until(bed.now().await + Duration::from_millis(2)).await;
        assert_eq!(bed.store.settle(&request).await.unwrap(), [Answer::Ok]);
    }
    let mut kept = Vec::new();
    for n in 0..5 {
        kept.push((
            bed.look(&format!("j{n}")).await.is_some(),
            bed.enqueue(&[new_job(&format!("j{n}"))]).await,
        ));
    }
    let (known, lost) = ([Enqueued::Existing], false);
    assert!(kept[..2].iter().all(|(kept, answer)| *kept == lost && is_created(&answer[0])), "{kept:?}");
    assert_eq!(kept[2..], [(lost, known.to_vec()), (true, known.to_vec()), (true, known.to_vec())]);
}

async fn trace_headers_are_no_content(bed: Bed) {
    let traced = |trace: &str| {
        let mut spec = Spec::bare(true, "1".to_owned());
        spec.headers.insert("traceparent".to_owned(), trace.to_owned());
        from_spec("a", &spec)
    };
    bed.enqueue(&[traced("00-1")]).await;
    assert_eq!(bed.enqueue(&[traced("00-2"), new_job("a")]).await, [Enqueued::Existing, Enqueued::Existing]);
    let delivery = bed.pull(1).await.remove(0);
    assert_eq!(delivery.record.decode().unwrap().headers["traceparent"], "00-1");
    bed.settle(vec![settled(&delivery, 1, done())]).await;
    forget(&bed, false).await;
    assert_eq!(bed.enqueue(&[traced("00-3")]).await, [Enqueued::Existing]);
}

async fn a_full_queue_refuses(bed: Bed) {
    let jobs = [new_job("a"), new_job("b"), new_job("c"), new_job("a")];
    let answers = bed.store.enqueue(&bed.queue, &jobs, 2).await.unwrap();
    assert!(is_created(&answers[0]) && is_created(&answers[1]), "{answers:?}");
    assert_eq!(answers[2..], [Enqueued::Full { waiting: 2 }, Enqueued::Existing]);
    assert_eq!(bed.state("c").await, None);
    let answers = bed.store.enqueue(&bed.queue, &jobs[2..3], 2).await.unwrap();
    assert_eq!(answers, [Enqueued::Full { waiting: 2 }]);
    assert_eq!(bed.store.overview(&bed.queue).await.unwrap().enqueued_total, 2);
}

async fn running_jobs_take_no_room(bed: Bed) {
    bed.store.enqueue(&bed.queue, &[new_job("a")], 1).await.unwrap();
    let delivery = bed.pull(1).await.remove(0);
    assert!(is_created(&bed.store.enqueue(&bed.queue, &[new_job("b")], 1).await.unwrap()[0]));
    // What was accepted once goes back in any case.
    assert_eq!(bed.settle(vec![settled(&delivery, 1, Outcome::GiveBack)]).await, [Answer::Ok]);
    let answers = bed.store.enqueue(&bed.queue, &[new_job("c")], 1).await.unwrap();
    assert_eq!(answers, [Enqueued::Full { waiting: 2 }]);
}

async fn an_expired_job_is_refused(bed: Bed) {
    let expires = |name, at| from_spec(name, &Spec { expires: Some(at), ..Spec::bare(true, "1".to_owned()) });
    let (before, after) = (bed.now().await, bed.now().await + Duration::from_secs(60));
    let answers = bed.enqueue(&[expires("old", before), expires("new", after)]).await;
    assert_eq!(answers[0], Enqueued::Expired);
    assert!(is_created(&answers[1]));
    assert_eq!(bed.look("old").await, None);
    // An id that was refused is free.
    assert!(is_created(&bed.enqueue(&[new_job("old")]).await[0]));
}

async fn one_bad_job_spoils_no_other(bed: Bed) {
    bed.enqueue(&[with_payload("taken", "1")]).await;
    let expired = Spec { expires: Some(StoreTime::from_millis(1)), ..Spec::bare(true, "1".to_owned()) };
    let jobs =
        [new_job("a"), with_payload("taken", "2"), new_job("b"), from_spec("old", &expired), new_job("c")];
    let answers = bed.enqueue(&jobs).await;
    assert_eq!((&answers[1], &answers[3]), (&Enqueued::Conflict, &Enqueued::Expired));
    assert!([0, 2, 4].iter().all(|at| is_created(&answers[*at])), "{answers:?}");
    assert_eq!(bed.pulled_ids(9).await, ["taken", "a", "b", "c"]);
}

async fn what_is_no_job_is_buried_once(bed: Bed) {
    let error = format!("{}: why", letter::NO_AMQP_JOB);
    let buried = Letter::new(&letter::raw(b"oops"), error.clone(), bed.now().await);
    let bury = async |name| bed.store.bury(&bed.queue, &id(name), &buried).await;
    assert!(bury("a").await.unwrap());
    assert!(!bury("a").await.unwrap(), "the call may be repeated");
    bed.enqueue(&[new_job("b")]).await;
    assert!(!bury("b").await.unwrap(), "no job is overwritten");
    let found = bed.look("a").await.unwrap();
    assert_eq!(found.record.decode().unwrap().payload, "\"oops\"");
    assert_eq!(found.progress.error, Some(error));
    let overview = bed.store.overview(&bed.queue).await.unwrap();
    assert_eq!((overview.dead, overview.ready, overview.enqueued_total, overview.ended_total), (1, 1, 2, 1));
    assert_eq!(bed.pulled_ids(9).await, ["b"]);
    assert!(
        is_created(&bed.store.enqueue(&bed.queue, &[new_job("c")], 1).await.unwrap()[0]),
        "it takes no room"
    );
}

async fn a_job_may_stand_twice_in_one_call(bed: Bed) {
    let answers = bed.enqueue(&[new_job("a"), new_job("a"), with_payload("a", "2"), new_job("b")]).await;
    assert_eq!(answers[1..3], [Enqueued::Existing, Enqueued::Conflict]);
    assert_eq!(bed.pulled_ids(9).await, ["a", "b"]);
    let overview = bed.store.overview(&bed.queue).await.unwrap();
    assert_eq!((overview.enqueued_total, overview.running, overview.ready), (2, 2, 0));
}

async fn the_record_comes_back_as_it_was_given(bed: Bed) {
    let payloads = [
        r#"{"n":1.0,"big":12345678901234567890,"empty":[],"none":{}}"#.to_owned(),
        r#""\u0000 \n é 😀 \\ \" %s {} KEYS[1]""#.to_owned(),
        "\"é😀\u{7f}\u{2028}'--; DROP TABLE job\"".to_owned(),
        format!("\"{}\"", "x".repeat(250 * 1024)),
    ];
    for (n, payload) in payloads.into_iter().enumerate() {
        let name = format!("a:b.c_d-{n}");
        let mut spec = Spec::bare(true, payload);
        spec.kind = Some("kind \u{1F41D}".to_owned());
        let (before, job) = (bed.now().await, from_spec(&name, &spec));
        bed.enqueue(std::slice::from_ref(&job)).await;
        let after = bed.now().await;
        let delivery = bed.pull(1).await.remove(0);
        assert_eq!(delivery.id.as_str(), name);
        assert_eq!(delivery.record.content(), job.content);
        assert!((before.as_millis()..=after.as_millis()).contains(&delivery.record.created()));
        let result = serde_json::value::RawValue::from_string(spec.payload.clone()).unwrap();
        let outcome = Outcome::Done { result: Some(result), follow_ups: Vec::new(), note: None };
        assert_eq!(bed.settle(vec![settled(&delivery, 1, outcome)]).await, [Answer::Ok]);
        let found = bed.look(&name).await.unwrap();
        assert_eq!(found.record.decode().unwrap(), spec);
        assert_eq!(found.progress.result.unwrap().get(), spec.payload);
    }
}

async fn queues_do_not_mix(bed: Bed) {
    // Names that would meet if keys were joined carelessly.
    let others = ["q2", "Q", "q.q", "q-", "_q"].map(crate::stores::queue);
    for other in &others {
        let answers = bed.store.enqueue(other, &[with_payload("a", "2")], 9).await.unwrap();
        assert!(is_created(&answers[0]));
    }
    assert!(is_created(&bed.enqueue(&[new_job("a")]).await[0]));
    assert_eq!(bed.pulled_ids(9).await, ["a"]);
    for other in &others {
        let found = bed.store.look(other, &[id("a")]).await.unwrap().remove(0).unwrap();
        assert_eq!((found.state(), found.record.content()), (State::Ready, "p2"));
    }
    let queues: Vec<_> = bed.store.queues().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(queues, ["Q", "_q", "q", "q-", "q.q", "q2"]);
}
