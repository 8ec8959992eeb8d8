//! What can be seen: pages, numbers, live settings, the outbox, hosts, hints.

use std::collections::BTreeMap;
use std::time::Duration;

use roundsman_shared::job::settle::FollowUp;
use roundsman_shared::job::{Due, NewJob, Outcome, State};
use roundsman_shared::store::{Answer, Hint, HostBeat, Point, QueueView};

use crate::stores::{
    Bed, HOUR, done, due_at, id, new_job, on_each_store, queue, settled, with_priority, worker,
};

on_each_store![
    pages_show_each_job_once_while_others_come,
    pages_of_ended_jobs_begin_with_the_newest,
    a_strange_cursor_does_no_harm,
    an_overview_counts,
    an_unknown_queue_is_empty,
    live_settings_have_a_version,
    follow_ups_come_with_the_acknowledgement,
    a_stale_acknowledgement_has_no_follow_ups,
    hosts_are_forgotten,
    points_are_kept_once_and_not_for_ever,
    hints_are_given,
    the_clock_goes_on,
];

/// Walks through the pages of a state; `between` runs after each page.
async fn walk(bed: &Bed, state: State, limit: usize, mut between: impl AsyncFnMut(usize)) -> Vec<String> {
    let (mut seen, mut cursor) = (Vec::new(), None);
    for n in 0..200 {
        let page = bed.store.list(&bed.queue, state, cursor.as_deref(), limit).await.unwrap();
        assert!(page.found.len() <= limit, "{} on a page of {limit}", page.found.len());
        assert!(page.found.iter().all(|found| found.state() == state));
        seen.extend(page.found.into_iter().map(|found| found.id.to_string()));
        cursor = page.next;
        if cursor.is_none() {
            return seen;
        }
        between(n).await;
    }
    panic!("the pages of {state} have no end: {seen:?}");
}

/// Those that were there all the time stand once, whatever came in between.
fn each_once(seen: &[String], expected: &[String]) {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for name in seen {
        *count.entry(name).or_default() += 1;
    }
    assert!(count.values().all(|n| *n == 1), "twice: {count:?}");
    for name in expected {
        assert!(count.contains_key(name.as_str()), "{name} is missing: {seen:?}");
    }
}

async fn pages_show_each_job_once_while_others_come(bed: Bed) {
    let later = |name: &str, n: u64| due_at(name, Due::In(HOUR + Duration::from_secs(n)));
    let names: Vec<_> = (0..23).map(|n| format!("j{n:02}")).collect();
    for (n, name) in (0_u8..).zip(&names) {
        bed.enqueue(&[with_priority(name, i16::from(n % 3)), later(&format!("s{name}"), u64::from(n % 5))])
            .await;
    }
    let scheduled: Vec<_> = names.iter().map(|name| format!("s{name}")).collect();
    for limit in [1, 4, 100] {
        let come = async |n: usize| {
            let name = format!("new{limit}.{n}");
            bed.enqueue(&[with_priority(&name, 2), with_priority(&format!("{name}b"), -1)]).await;
            bed.enqueue(&[later(&format!("s{name}"), 0), later(&format!("s{name}b"), 9)]).await;
        };
        // Not for ever: some pages are smaller than what comes between two of them.
        let few = async |n: usize| {
            if n < 20 {
                come(n).await
            }
        };
        each_once(&walk(&bed, State::Ready, limit, few).await, &names);
        each_once(&walk(&bed, State::Scheduled, limit, few).await, &scheduled);
    }
    let held: Vec<_> = bed.pull(256).await.iter().map(|delivery| delivery.id.to_string()).collect();
    each_once(&walk(&bed, State::Running, 7, async |_| ()).await, &held);
}

async fn pages_of_ended_jobs_begin_with_the_newest(bed: Bed) {
    let outcomes = [
        (State::Done, done()),
        (State::Dead, Outcome::Dead { error: "no".to_owned() }),
        (State::Cancelled, Outcome::Cancelled),
        (State::Expired, Outcome::Expired),
    ];
    for (state, outcome) in outcomes {
        let end = async |name: &str| {
            bed.run(new_job(name), outcome.clone()).await;
            bed.until(bed.now().await + Duration::from_millis(2)).await;
        };
        let mut names: Vec<_> = (0..9).map(|n| format!("{state}{n}")).collect();
        for name in &names {
            end(name).await;
        }
        names.reverse();
        assert_eq!(walk(&bed, state, 100, async |_| ()).await, names);
        for limit in [1, 4] {
            let come = async |n: usize| {
                if n < 5 {
                    end(&format!("new{state}{limit}.{n}")).await
                }
            };
            let mut seen = walk(&bed, state, limit, come).await;
            each_once(&seen, &names);
            seen.retain(|name| names.contains(name));
            assert_eq!(seen, names);
        }
    }
}

async fn a_strange_cursor_does_no_harm(bed: Bed) {
    bed.enqueue(&[new_job("a")]).await;
    for state in State::ALL {
        for cursor in ["", " ", "x", "-1", "1 2", "0 0 a", "99999999999999999999", "0:0:\u{0}", "é'\"{}"] {
            // An error or a page, but an answer.
            if let Ok(page) = bed.store.list(&bed.queue, state, Some(cursor), 5).await {
                assert!(page.found.len() <= 1, "{cursor:?}: {page:?}");
            }
        }
    }
    for limit in [0, 1, usize::MAX] {
        let page = bed.store.list(&bed.queue, State::Ready, None, limit).await.unwrap();
        assert!(page.found.len() <= 1);
    }
    assert_eq!(bed.pulled_ids(1).await, ["a"]);
}

async fn an_overview_counts(bed: Bed) {
    for (n, outcome) in
        [done(), done(), Outcome::Dead { error: "no".to_owned() }, Outcome::Expired].into_iter().enumerate()
    {
        bed.run(new_job(&format!("e{n}")), outcome).await;
    }
    bed.enqueue(&[new_job("running")]).await;
    bed.pull(1).await;
    bed.enqueue(&[
        new_job("cancelled"),
        new_job("ready"),
        due_at("s1", Due::In(HOUR)),
        due_at("s2", Due::In(HOUR)),
    ])
    .await;
    bed.store.cancel(&bed.queue, &id("cancelled")).await.unwrap();
    bed.until(bed.now().await + Duration::from_millis(5)).await;
    let mut overview = bed.store.overview(&bed.queue).await.unwrap();
    assert!(overview.oldest_due_ms.take().is_some_and(|age| (5..60_000).contains(&age)));
    let expected = QueueView {
        queue: "q".to_owned(),
        scheduled: 2,
        ready: 1,
        running: 1,
        done: 2,
        dead: 1,
        cancelled: 1,
        expired: 1,
        enqueued_total: 9,
        ended_total: 5,
        ..QueueView::default()
    };
    assert_eq!(overview, expected);
    let pulse = bed.store.pulse(&bed.queue, HOUR, Duration::ZERO).await.unwrap();
    assert_eq!((pulse.ready, pulse.waiting, pulse.running, pulse.enqueued, pulse.ended), (1, 3, 1, 9, 5));
    assert_eq!(pulse.soon, 0);
    let pulse = bed.store.pulse(&bed.queue, HOUR, 2 * HOUR).await.unwrap();
    assert_eq!(pulse.soon, 2, "those that fall due within two hours");
    assert!(
        pulse.next_due.is_some_and(|due| due > pulse.now)
            && pulse.oldest_due.is_some_and(|due| due <= pulse.now)
    );
}

async fn an_unknown_queue_is_empty(bed: Bed) {
    let (store, name) = (&bed.store, &bed.queue);
    assert!(store.queues().await.unwrap().is_empty());
    assert_eq!(
        store.overview(name).await.unwrap(),
        QueueView { queue: "q".to_owned(), ..QueueView::default() }
    );
    let pulse = store.pulse(name, HOUR, Duration::ZERO).await.unwrap();
    assert_eq!((pulse.waiting, pulse.running, pulse.lapsed.len(), pulse.oldest_due), (0, 0, 0, None));
    for state in State::ALL {
        assert!(store.list(name, state, None, 10).await.unwrap().found.is_empty());
        assert_eq!(store.purge(name, state).await.unwrap(), 0);
    }
    assert!(bed.pull(1).await.is_empty());
    assert!(store.unacked(name, &worker(1), None).await.unwrap().is_empty());
    assert!(store.outbox(name).await.unwrap().is_empty());
    assert!(store.live(name).await.unwrap().is_empty());
    assert!(!bed.renew(1, HOUR, vec![]).await.lost);
    assert_eq!(store.look(name, &[]).await.unwrap(), []);
    store.outbox_moved(name, &["nothing".to_owned()]).await.unwrap();
}

async fn live_settings_have_a_version(bed: Bed) {
    let version = async || bed.pull_as(1, 1, HOUR).await.live_version;
    let first = version().await;
    bed.store.set_live(&bed.queue, "max_waiting", Some("5")).await.unwrap();
    let second = version().await;
    assert!(second > first);
    assert_eq!(version().await, second);
    assert_eq!(bed.store.pulse(&bed.queue, HOUR, Duration::ZERO).await.unwrap().live_version, second);
    bed.store.set_live(&bed.queue, "timeout", Some("é 1")).await.unwrap();
    let live = bed.store.live(&bed.queue).await.unwrap();
    assert_eq!(live, BTreeMap::from([("max_waiting".into(), "5".into()), ("timeout".into(), "é 1".into())]));
    bed.store.set_live(&bed.queue, "max_waiting", None).await.unwrap();
    assert!(version().await > second + 1);
    assert_eq!(bed.store.live(&bed.queue).await.unwrap().len(), 1);
    assert!(bed.store.live(&queue("other")).await.unwrap().is_empty());
}

fn follow_ups(jobs: &[NewJob]) -> Vec<FollowUp> {
    jobs.iter().map(|job| FollowUp { queue: queue("next"), job: job.clone() }).collect()
}

async fn outbox(bed: &Bed) -> Vec<FollowUp> {
    bed.store.outbox(&bed.queue).await.unwrap().into_iter().map(|outgoing| outgoing.follow_up).collect()
}

async fn follow_ups_come_with_the_acknowledgement(bed: Bed) {
    let jobs = [new_job("f1"), due_at("f2", Due::In(HOUR)), with_priority("f3", 7)];
    let expected = follow_ups(&jobs);
    let outcome = Outcome::Done { result: None, follow_ups: expected.clone(), note: None };
    let settlement = bed.run(new_job("a"), outcome).await;
    assert_eq!(outbox(&bed).await, expected);
    assert_eq!(bed.settle(vec![settlement]).await, [Answer::Ok]);
    assert_eq!(outbox(&bed).await, expected, "a repeated acknowledgement brought them again");
    assert_eq!(bed.store.overview(&bed.queue).await.unwrap().outbox, 3);
    assert_eq!(bed.store.pulse(&bed.queue, HOUR, Duration::ZERO).await.unwrap().outbox, 3);

    let tickets: Vec<_> =
        bed.store.outbox(&bed.queue).await.unwrap().into_iter().map(|one| one.ticket).collect();
    for _ in 0..2 {
        bed.store.outbox_moved(&bed.queue, &tickets[1..2]).await.unwrap();
        assert_eq!(outbox(&bed).await, [expected[0].clone(), expected[2].clone()]);
    }
    bed.store.outbox_moved(&bed.queue, &tickets).await.unwrap();
    assert!(outbox(&bed).await.is_empty());
}

async fn a_stale_acknowledgement_has_no_follow_ups(bed: Bed) {
    bed.enqueue(&[new_job("a")]).await;
    let mut delivery = bed.pull(1).await.remove(0);
    let outcome = Outcome::Done { result: None, follow_ups: follow_ups(&[new_job("f")]), note: None };
    delivery.token -= 1;
    assert_eq!(bed.settle(vec![settled(&delivery, 1, outcome)]).await, [Answer::Stale]);
    assert!(outbox(&bed).await.is_empty());
}

async fn hosts_are_forgotten(bed: Bed) {
    let beat = |host: &str, lease| HostBeat {
        host: host.to_owned(),
        record: format!("{{\"host\":\"{host}\"}}"),
        lease,
    };
    bed.store.beat(&beat("a", HOUR)).await.unwrap();
    bed.store.beat(&beat("b", HOUR)).await.unwrap();
    bed.store.beat(&beat("c", Duration::from_millis(20))).await.unwrap();
    bed.store.beat(&HostBeat { record: "{}".to_owned(), ..beat("b", HOUR) }).await.unwrap();
    bed.until(bed.now().await + Duration::from_millis(40)).await;
    let mut hosts = bed.store.hosts().await.unwrap();
    hosts.sort();
    assert_eq!(hosts, [r#"{"host":"a"}"#, "{}"]);
    bed.store.leave("a").await.unwrap();
    bed.store.leave("a").await.unwrap();
    assert_eq!(bed.store.hosts().await.unwrap(), ["{}"]);
}

async fn points_are_kept_once_and_not_for_ever(bed: Bed) {
    let point = |step, at, text: &str| Point { step, at, text: text.to_owned() };
    for (kept, step, at, text) in [
        (true, 60, 600, "a"),
        (false, 60, 600, "another host's"),
        (true, 60, 720, r#"{"b": [1, null]}"#),
        (true, 10, 600, "finer"),
        (true, 60, 660, "late"),
    ] {
        assert_eq!(bed.store.plot(&point(step, at, text), 3).await.unwrap(), kept, "{text}");
    }
    let minutes = [point(60, 600, "a"), point(60, 660, "late"), point(60, 720, r#"{"b": [1, null]}"#)];
    assert_eq!(bed.store.plotted(60, 0, 721).await.unwrap(), minutes);
    assert_eq!(bed.store.plotted(60, 601, 720).await.unwrap(), minutes[1..2]);
    assert_eq!(bed.store.plotted(7, 0, 721).await.unwrap(), []);
    bed.store.plot(&point(60, 780, "z"), 3).await.unwrap();
    assert_eq!(bed.store.plotted(60, 0, 781).await.unwrap().len(), 3);
    assert_eq!(bed.store.plotted(10, 0, 781).await.unwrap().len(), 1);
}

/// The next hint of the kind that is waited for.
async fn next(hints: &mut tokio::sync::mpsc::Receiver<Hint>, wanted: fn(&Hint) -> bool) -> Hint {
    let search = async {
        loop {
            let hint = hints.recv().await.expect("the listener goes on");
            if wanted(&hint) {
                return hint;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), search).await.expect("no such hint came")
}

async fn hints_are_given(bed: Bed) {
    let mut hints = bed.store.listen(std::slice::from_ref(&bed.queue), "host").await.unwrap();
    // A hint that came before the listener listened is lost.
    let mut heard = None;
    for n in 0..200 {
        bed.enqueue(&[new_job(&format!("a{n}"))]).await;
        heard = tokio::time::timeout(Duration::from_millis(100), hints.recv()).await.ok().flatten();
        if heard.is_some() {
            break;
        }
    }
    assert!(matches!(heard, Some(Hint::Work { due: 1.., .. } | Hint::Lost)), "{heard:?}");
    let delivery = bed.pull(1).await.remove(0);
    bed.store.cancel(&bed.queue, &delivery.id).await.unwrap();
    assert_eq!(
        next(&mut hints, |hint| matches!(hint, Hint::Cancel { .. })).await,
        Hint::Cancel { worker: worker(1), id: delivery.id }
    );
    bed.store.pause(&bed.queue, true).await.unwrap();
    next(&mut hints, |hint| matches!(hint, Hint::Changed { .. })).await;
}

async fn the_clock_goes_on(bed: Bed) {
    let (mut last, first) = (bed.store.clock().await.unwrap(), bed.now().await);
    for _ in 0..100 {
        let clock = bed.store.clock().await.unwrap();
        assert!(clock.reading >= last.reading && clock.sent >= last.received && clock.received >= clock.sent);
        last = clock;
    }
    bed.enqueue(&[new_job("a")]).await;
    let pulled = bed.pull_as(1, 1, HOUR).await;
    assert!(pulled.now >= first && pulled.now <= bed.now().await);
    assert!(["memory", "fsync"].contains(&bed.store.durability().await.unwrap().level.as_str()));
}
