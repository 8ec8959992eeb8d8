//! Who holds a job, who may say how it ended, and when it is taken from him.

use std::time::Duration;

use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::settle::Delivery;
use roundsman_shared::job::{Outcome, State};
use roundsman_shared::store::{Answer, MAX_BATCH, Mark, PullRequest};

use crate::stores::{Bed, HOUR, done, new_job, on_each_store, settled, worker};

on_each_store![
    the_same_acknowledgement_again_is_fine,
    an_old_token_is_stale,
    another_worker_is_stale,
    an_unknown_job_is_gone,
    one_stale_item_spoils_no_other,
    an_item_may_stand_twice_in_one_call,
    tokens_rise,
    tokens_rise_though_the_clock_went_back,
    a_lease_lapses_when_it_was_not_renewed,
    a_renewal_prolongs,
    a_pull_prolongs,
    after_a_silence_nobody_lapses_for_one_lease,
    whoever_was_swept_is_lost,
    a_sweep_can_be_repeated,
    whoever_gave_back_is_not_lost,
    marks_are_kept_with_the_delivery,
    all_that_is_held_is_found_page_by_page,
    a_clock_that_jumped_delivers_nothing,
    a_paused_queue_delivers_nothing,
    an_exchange_does_both,
];

const SHORT: Duration = Duration::from_millis(60);

/// One job, delivered to worker 1.
async fn delivered(bed: &Bed, lease: Duration) -> Delivery {
    bed.store.pulse(&bed.queue, lease, Duration::ZERO).await.unwrap();
    bed.enqueue(&[new_job("a")]).await;
    bed.pull_as(1, 1, lease).await.deliveries.remove(0)
}

async fn lapsed(bed: &Bed) -> Vec<String> {
    let pulse = bed.store.pulse(&bed.queue, SHORT, Duration::ZERO).await.unwrap();
    pulse.lapsed.iter().map(ToString::to_string).collect()
}

/// Pulses until the worker's lease lapses, and tells when that was.
async fn until_lapsed(bed: &Bed, lease: Duration) -> StoreTime {
    let start = bed.now().await;
    loop {
        let pulse = bed.store.pulse(&bed.queue, lease, Duration::ZERO).await.unwrap();
        if pulse.lapsed == [worker(1)] {
            return pulse.now;
        }
        assert!(pulse.now < start + Duration::from_secs(30), "the lease does not lapse: {pulse:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn the_same_acknowledgement_again_is_fine(bed: Bed) {
    let outcomes =
        [done(), Outcome::GiveBack, Outcome::Dead { error: "no".to_owned() }, Outcome::Snooze(HOUR)];
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let name = format!("j{n}");
        bed.enqueue(&[new_job(&name)]).await;
        let delivery = bed.pull(1).await.into_iter().find(|delivery| delivery.id.as_str() == name).unwrap();
        let settlement = settled(&delivery, 1, outcome);
        assert_eq!(bed.settle(vec![settlement.clone()]).await, [Answer::Ok]);
        let (state, overview) = (bed.look(&name).await, bed.store.overview(&bed.queue).await.unwrap());
        assert_eq!(bed.settle(vec![settlement]).await, [Answer::Ok]);
        let again = bed.look(&name).await;
        assert_eq!(
            again.map(|found| (found.place, found.progress)),
            state.map(|found| (found.place, found.progress))
        );
        assert_eq!(bed.store.overview(&bed.queue).await.unwrap().ended_total, overview.ended_total);
        bed.store.delete(&bed.queue, &delivery.id).await.unwrap();
    }
}

async fn an_old_token_is_stale(bed: Bed) {
    let first = delivered(&bed, HOUR).await;
    bed.settle(vec![settled(&first, 1, Outcome::GiveBack)]).await;
    let second = bed.pull(1).await.remove(0);
    assert_eq!(bed.settle(vec![settled(&second, 1, Outcome::GiveBack)]).await, [Answer::Ok]);
    // Waiting, running and ended: the first delivery has no say any more.
    assert_eq!(bed.settle(vec![settled(&first, 1, done())]).await, [Answer::Stale]);
    let third = bed.pull(1).await.remove(0);
    assert_eq!(bed.settle(vec![settled(&first, 1, done())]).await, [Answer::Stale]);
    assert_eq!(bed.state("a").await, Some(State::Running));
    bed.settle(vec![settled(&third, 1, Outcome::Dead { error: "no".to_owned() })]).await;
    assert_eq!(bed.settle(vec![settled(&first, 1, done())]).await, [Answer::Stale]);
    assert_eq!(bed.state("a").await, Some(State::Dead));
}

async fn another_worker_is_stale(bed: Bed) {
    let delivery = delivered(&bed, HOUR).await;
    let request = bed.request(2, vec![settled(&delivery, 2, done())]);
    assert_eq!(bed.store.settle(&request).await.unwrap(), [Answer::Stale]);
    assert_eq!(bed.state("a").await, Some(State::Running));
}

async fn an_unknown_job_is_gone(bed: Bed) {
    let delivery = delivered(&bed, HOUR).await;
    bed.settle(vec![settled(&delivery, 1, done())]).await;
    bed.store.delete(&bed.queue, &delivery.id).await.unwrap();
    assert_eq!(bed.settle(vec![settled(&delivery, 1, done())]).await, [Answer::Gone]);
    assert_eq!(bed.look("a").await, None);
}

async fn one_stale_item_spoils_no_other(bed: Bed) {
    bed.enqueue(&["a", "b", "c", "d"].map(new_job)).await;
    let mut held = bed.pull(4).await;
    held[1].token -= 1;
    held[2].id = crate::stores::id("unknown");
    let settlements = held.iter().map(|delivery| settled(delivery, 1, done())).collect();
    assert_eq!(bed.settle(settlements).await, [Answer::Ok, Answer::Stale, Answer::Gone, Answer::Ok]);
    let overview = bed.store.overview(&bed.queue).await.unwrap();
    assert_eq!((overview.running, overview.done, overview.ended_total), (2, 2, 2));
}

async fn an_item_may_stand_twice_in_one_call(bed: Bed) {
    bed.enqueue(&[new_job("a"), new_job("b")]).await;
    let held = bed.pull(2).await;
    let end = |at: usize| settled(&held[at], 1, done());
    let back = settled(&held[1], 1, Outcome::GiveBack);
    assert_eq!(bed.settle(vec![end(0), end(0), back, end(1)]).await, [Answer::Ok; 4]);
    let overview = bed.store.overview(&bed.queue).await.unwrap();
    assert_eq!((overview.done, overview.ready, overview.running, overview.ended_total), (1, 1, 0, 1));
}

async fn tokens_rise(bed: Bed) {
    bed.enqueue(&[new_job("a"), new_job("b")]).await;
    let mut last = 0;
    for _ in 0..50 {
        let held = bed.pull(2).await;
        assert!(held.iter().all(|delivery| delivery.token > last), "{last}: {held:?}");
        last = held[0].token;
        bed.settle(held.iter().map(|delivery| settled(delivery, 1, Outcome::GiveBack)).collect()).await;
    }
}

async fn tokens_rise_though_the_clock_went_back(bed: Bed) {
    bed.enqueue(&[new_job("a"), new_job("b")]).await;
    let later = (bed.now().await + HOUR).as_micros();
    bed.set_last_token(later).await;
    let (first, second) = (bed.pull(1).await, bed.pull(1).await);
    assert_eq!((first[0].token, second[0].token), (later + 1, later + 2));
}

async fn a_lease_lapses_when_it_was_not_renewed(bed: Bed) {
    let delivery = delivered(&bed, SHORT).await;
    let pulled = delivery.token / 1000;
    let early = bed.sweep(1, std::slice::from_ref(&delivery)).await;
    if bed.now().await.as_millis() < pulled + 60 {
        assert_eq!(early, [Answer::Stale], "taken before the lease was over");
    }
    let when = until_lapsed(&bed, SHORT).await;
    assert!(when.as_millis() >= pulled + 60, "lapsed at {when:?}, pulled at {pulled} ms");
    // It is still the worker's until somebody takes it, and until then it may acknowledge.
    assert_eq!(bed.state("a").await, Some(State::Running));
    assert_eq!(bed.sweep(1, &[delivery]).await, [Answer::Ok]);
    let found = bed.look("a").await.unwrap();
    assert_eq!((found.state(), found.progress.killed), (State::Ready, 1));
    assert!(lapsed(&bed).await.is_empty());
}

async fn a_renewal_prolongs(bed: Bed) {
    let delivery = delivered(&bed, SHORT).await;
    assert!(!bed.renew(1, HOUR, vec![]).await.lost);
    bed.until(bed.now().await + 3 * SHORT).await;
    assert!(lapsed(&bed).await.is_empty());
    assert_eq!(bed.sweep(1, std::slice::from_ref(&delivery)).await, [Answer::Stale]);
    // And shortens, where that is asked for.
    bed.renew(1, Duration::ZERO, vec![]).await;
    until_lapsed(&bed, SHORT).await;
    // A lapsed lease that nobody swept can still be renewed.
    assert!(!bed.renew(1, HOUR, vec![]).await.lost);
    assert!(lapsed(&bed).await.is_empty());
    assert_eq!(bed.settle(vec![settled(&delivery, 1, done())]).await, [Answer::Ok]);
}

async fn a_pull_prolongs(bed: Bed) {
    delivered(&bed, Duration::ZERO).await;
    until_lapsed(&bed, SHORT).await;
    assert!(bed.pull_as(1, 1, HOUR).await.deliveries.is_empty());
    assert!(lapsed(&bed).await.is_empty());
}

async fn after_a_silence_nobody_lapses_for_one_lease(bed: Bed) {
    let lease = Duration::from_millis(700);
    bed.enqueue(&[new_job("a")]).await;
    bed.store.pulse(&bed.queue, lease, Duration::ZERO).await.unwrap();
    let delivery = bed.pull_as(1, 1, Duration::ZERO).await.deliveries.remove(0);
    bed.until(bed.now().await + Duration::from_millis(3100)).await;
    let first = bed.store.pulse(&bed.queue, lease, Duration::ZERO).await.unwrap();
    assert!(first.lapsed.is_empty(), "{first:?}");
    assert_eq!(bed.sweep(1, std::slice::from_ref(&delivery)).await, [Answer::Stale]);
    let when = until_lapsed(&bed, lease).await;
    assert!(when >= first.now + lease, "held back from {:?} to {when:?}", first.now);
    assert_eq!(bed.sweep(1, &[delivery]).await, [Answer::Ok]);
}

async fn whoever_was_swept_is_lost(bed: Bed) {
    bed.store.pulse(&bed.queue, Duration::ZERO, Duration::ZERO).await.unwrap();
    bed.enqueue(&[new_job("a"), new_job("b")]).await;
    let held = bed.pull_as(1, 2, Duration::ZERO).await.deliveries;
    let other = bed.renew(2, HOUR, vec![]).await;
    assert!(!other.lost, "who holds nothing has nothing to lose");
    assert_eq!(bed.sweep(1, &held[..1]).await, [Answer::Ok]);
    // From the first job on that was taken, and it cannot keep the others by a renewal.
    assert!(bed.renew(1, HOUR, vec![]).await.lost);
    assert_eq!(bed.sweep(1, &held[1..]).await, [Answer::Ok]);
    assert!(bed.renew(1, HOUR, vec![]).await.lost);
    assert!(!bed.renew(2, HOUR, vec![]).await.lost);
    let taken = bed.pull_as(2, 2, HOUR).await.deliveries;
    assert_eq!(taken.len(), 2);
    assert_eq!(
        bed.settle(vec![settled(&held[0], 1, done())]).await,
        [Answer::Ok],
        "its last word was Lapsed"
    );
    assert_eq!(bed.state(held[0].id.as_str()).await, Some(State::Running));
}

async fn a_sweep_can_be_repeated(bed: Bed) {
    let delivery = delivered(&bed, Duration::ZERO).await;
    for _ in 0..2 {
        assert_eq!(bed.sweep(1, std::slice::from_ref(&delivery)).await, [Answer::Ok]);
    }
    assert_eq!(bed.look("a").await.unwrap().progress.killed, 1);
}

async fn whoever_gave_back_is_not_lost(bed: Bed) {
    let delivery = delivered(&bed, Duration::ZERO).await;
    bed.settle(vec![settled(&delivery, 1, Outcome::GiveBack)]).await;
    assert!(!bed.renew(1, HOUR, vec![]).await.lost);
    assert!(lapsed(&bed).await.is_empty());
    let found = bed.look("a").await.unwrap();
    assert_eq!((found.state(), found.progress.attempt), (State::Ready, 0));
}

async fn marks_are_kept_with_the_delivery(bed: Bed) {
    bed.enqueue(&[new_job("a"), new_job("b")]).await;
    let held = bed.pull(2).await;
    let mark =
        |at: usize, token| Mark { id: held[at].id.clone(), token, started: 1_700_000_000_123, deadline: -5 };
    bed.renew(1, HOUR, vec![mark(0, held[0].token), mark(1, held[1].token - 1)]).await;
    bed.renew(2, HOUR, vec![mark(1, held[1].token)]).await;
    let mut unacked = bed.store.unacked(&bed.queue, &worker(1), None).await.unwrap();
    unacked.sort_by(|x, y| x.delivery.id.cmp(&y.delivery.id));
    assert_eq!((unacked[0].started, unacked[0].deadline), (Some(1_700_000_000_123), Some(-5)));
    assert_eq!((unacked[1].started, unacked[1].deadline), (None, None));
    assert_eq!(
        [unacked[0].delivery.clone(), unacked[1].delivery.clone()],
        [held[0].clone(), held[1].clone()]
    );
    assert!(bed.store.unacked(&bed.queue, &worker(2), None).await.unwrap().is_empty());
}

async fn all_that_is_held_is_found_page_by_page(bed: Bed) {
    // Pulls of very different sizes, of which no few fill a page exactly.
    let sizes = [200, 100, 1, 256, 3, 255, 2];
    let mut given = Vec::new();
    for (n, size) in sizes.into_iter().enumerate() {
        let jobs: Vec<_> = (0..size).map(|at| new_job(&format!("j{n}.{at:03}"))).collect();
        bed.enqueue(&jobs).await;
        let pulled = bed.pull(size).await;
        assert_eq!(pulled.len(), size);
        given.push(pulled);
    }
    let page = async |newer_than| bed.store.unacked(&bed.queue, &worker(1), newer_than).await.unwrap();
    let (mut newer_than, mut found) = (None, Vec::new());
    loop {
        let held = page(newer_than).await;
        assert!(held.len() <= MAX_BATCH, "{}", held.len());
        let Some(last) = held.last() else { break };
        assert!(held.is_sorted_by_key(|held| held.delivery.token), "the oldest first");
        assert!(newer_than.is_none_or(|token| held[0].delivery.token > token));
        newer_than = Some(last.delivery.token);
        found.extend(held.into_iter().map(|held| held.delivery));
    }
    let sorted = |mut all: Vec<Delivery>| {
        all.sort_by(|a, b| (a.token, &a.id).cmp(&(b.token, &b.id)));
        all
    };
    assert_eq!(sorted(found), sorted(given.concat()));
    // What a worker asks that was given an answer up to some pull, and may have missed the ones after it.
    let lost = page(Some(given[4][0].token)).await;
    assert_eq!(lost.len(), 255, "the next would not be whole");
    assert!(lost.iter().all(|held| held.delivery.token == given[5][0].token));
}

async fn a_clock_that_jumped_delivers_nothing(bed: Bed) {
    bed.enqueue(&[new_job("a")]).await;
    let now = bed.now().await;
    let request = |latest| PullRequest {
        queue: bed.queue.clone(),
        worker: worker(1),
        max: 1,
        lease: HOUR,
        latest: Some(latest),
    };
    let pulled = bed.store.pull(&request(now - Duration::from_secs(1))).await.unwrap();
    assert!(pulled.skewed && pulled.deliveries.is_empty(), "{pulled:?}");
    assert_eq!(bed.state("a").await, Some(State::Ready));
    let pulled = bed.store.pull(&request(now + HOUR)).await.unwrap();
    assert!(!pulled.skewed && pulled.deliveries.len() == 1, "{pulled:?}");
}

async fn a_paused_queue_delivers_nothing(bed: Bed) {
    bed.enqueue(&[new_job("a"), new_job("b")]).await;
    let delivery = bed.pull(1).await.remove(0);
    bed.store.pause(&bed.queue, true).await.unwrap();
    let pulled = bed.pull_as(1, 9, HOUR).await;
    assert!(pulled.paused && pulled.deliveries.is_empty(), "{pulled:?}");
    assert!(bed.store.pulse(&bed.queue, HOUR, Duration::ZERO).await.unwrap().paused);
    // What came before goes on, and what comes now is taken.
    assert_eq!(bed.settle(vec![settled(&delivery, 1, done())]).await, [Answer::Ok]);
    bed.enqueue(&[new_job("c")]).await;
    bed.store.pause(&bed.queue, false).await.unwrap();
    let pulled = bed.pull_as(1, 9, HOUR).await;
    assert!(!pulled.paused && pulled.deliveries.len() == 2, "{pulled:?}");
}

async fn an_exchange_does_both(bed: Bed) {
    bed.enqueue(&[new_job("a"), new_job("b")]).await;
    let first = bed.pull(1).await.remove(0);
    let settle = bed.request(1, vec![settled(&first, 1, Outcome::GiveBack)]);
    let pull = PullRequest { queue: bed.queue.clone(), worker: worker(1), max: 9, lease: HOUR, latest: None };
    let (answers, pulled) = bed.store.exchange(Some(&settle), Some(&pull)).await.unwrap();
    let ids: Vec<_> = pulled.unwrap().deliveries.iter().map(|delivery| delivery.id.to_string()).collect();
    // The acknowledgement comes first: what it put back is delivered again.
    assert_eq!((answers, ids), (vec![Answer::Ok], vec!["a".to_owned(), "b".to_owned()]));
    let (answers, pulled) = bed.store.exchange(None, None).await.unwrap();
    assert!(answers.is_empty() && pulled.is_none());
}
