//! Many handles on one file, and what must be true afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;

use super::SqliteStore;
use super::testing::*;
use crate::job::settle::Write;
use crate::job::{NewJob, Outcome, State};
use crate::names::QueueName;
use crate::store::{Answer, Enqueued};

const HANDLES: usize = 4;
const EACH: usize = 1500;

/// Counts the rows beside the counters.
fn audit(dir: &TempDir) {
    let conn = rusqlite::Connection::open(dir.path().join("jobs.db")).unwrap();
    let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
    let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    for (counter, rows) in [
        ("waiting", "SELECT count(*) FROM waiting"),
        ("running", "SELECT count(*) FROM unacked"),
        ("running", "SELECT coalesce(sum(held), 0) FROM leases"),
        ("done", "SELECT count(*) FROM ended WHERE state = 1"),
        ("dead", "SELECT count(*) FROM ended WHERE state = 2"),
        ("cancelled", "SELECT count(*) FROM ended WHERE state = 3"),
        ("remembered", "SELECT count(*) FROM remembered"),
        ("waiting + running + done + dead + cancelled + expired", "SELECT count(*) FROM jobs"),
    ] {
        let counter = format!("SELECT sum({counter}) FROM queues");
        assert_eq!(count(&counter), count(rows), "{counter} / {rows}");
    }
}

async fn produce(store: SqliteStore, q: QueueName, n: usize) {
    for from in (0..EACH).step_by(25) {
        // Every job is sent twice, and each by two producers.
        let jobs: Vec<NewJob> = (from..from + 25)
            .map(|i| NewJob { priority: (i % 3).try_into().unwrap(), ..job(&format!("{}-{i}", n / 2), "1") })
            .collect();
        for _ in 0..2 {
            let answers = store.enqueue(&q, &jobs, 1_000_000).await.unwrap();
            assert!(
                answers.iter().all(|answer| matches!(answer, Enqueued::Created { .. } | Enqueued::Existing))
            );
        }
    }
}

/// Works until nothing is left; every tenth delivery fails, every seventh is given back.
async fn work(store: SqliteStore, q: QueueName, n: usize) -> BTreeMap<String, u32> {
    let (worker, mut ended, mut turn, mut idle) = (named(&n.to_string()), BTreeMap::new(), 0, 0);
    while idle < 20 {
        let (_, pulled) = store.exchange(None, Some(&pull_request(&q, &worker, 40))).await.unwrap();
        let pulled = pulled.unwrap();
        if pulled.deliveries.is_empty() {
            idle += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        idle = 0;
        let settlements: Vec<_> = pulled
            .deliveries
            .iter()
            .map(|delivery| {
                turn += 1;
                let outcome = match turn {
                    _ if turn % 10 == 0 => Outcome::Retry { error: "no".into(), after: Some(Duration::ZERO) },
                    _ if turn % 7 == 0 => Outcome::GiveBack,
                    _ => {
                        *ended.entry(delivery.id.to_string()).or_default() += 1;
                        done()
                    }
                };
                settlement(delivery, &worker, outcome, pulled.now)
            })
            .collect();
        let request = settle_request(&q, &worker, settlements);
        let (answers, _) = store.exchange(Some(&request), None).await.unwrap();
        assert!(answers.iter().all(|answer| *answer == Answer::Ok), "{answers:?}");
        // Said again: the same answers, but where others have run since what was put back.
        let (answers, _) = store.exchange(Some(&request), None).await.unwrap();
        for (answer, item) in answers.iter().zip(&request.settlements) {
            let put_back = matches!(item.write, Write::Return { .. });
            assert!(*answer == Answer::Ok || (put_back && *answer == Answer::Stale), "{answers:?}");
        }
    }
    ended
}

#[tokio::test]
async fn many_handles_lose_and_double_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let q = queue("q");
    // All open a new file at once.
    let opening: Vec<_> = (0..2 * HANDLES)
        .map(|_| {
            let path = dir.path().join("jobs.db");
            tokio::spawn(async move { try_open(&path).await.unwrap() })
        })
        .collect();
    let mut stores = Vec::new();
    for store in opening {
        stores.push(store.await.unwrap());
    }
    let mut producers = Vec::new();
    let mut workers = Vec::new();
    for n in 0..HANDLES {
        producers.push(tokio::spawn(produce(stores[n].clone(), q.clone(), n)));
        workers.push(tokio::spawn(work(stores[HANDLES + n].clone(), q.clone(), n)));
    }
    for producer in producers {
        producer.await.unwrap();
    }
    let mut ended: BTreeMap<String, u32> = BTreeMap::new();
    for worker in workers {
        for (id, times) in worker.await.unwrap() {
            *ended.entry(id).or_default() += times;
        }
    }
    assert_eq!(ended.len(), HANDLES / 2 * EACH);
    assert!(ended.values().all(|times| *times == 1), "a job ended twice");
    let view = stores[0].overview(&q).await.unwrap();
    assert_eq!((view.done, view.ready, view.scheduled, view.running), (3000, 0, 0, 0));
    assert_eq!((view.enqueued_total, view.ended_total), (3000, 3000));
    assert_eq!(stores[0].list(&q, State::Done, None, 1000).await.unwrap().found.len(), 1000);
    drop(stores);
    audit(&dir);
}

#[tokio::test]
async fn counters_follow_every_verb() {
    let (store, dir) = fresh().await;
    let q = queue("q");
    let jobs: Vec<_> = (0..60)
        .map(|n| job(&format!("j{n}"), "1"))
        .chain((0..20).map(|n| timer(&format!("t{n}"), 60)))
        .collect();
    store.enqueue(&q, &jobs, 1000).await.unwrap();
    pull(&store, &q, 20).await;
    settle_held(&store, &q).await;
    let failed = pull(&store, &q, 10).await.deliveries;
    end(&store, &q, &failed, || Outcome::Dead { error: "no".into() }).await;
    pull(&store, &q, 5).await;
    for n in 0..40 {
        let _ = store.cancel(&q, &id(&format!("j{n}"))).await.unwrap();
        let _ = store.retry(&q, &id(&format!("j{}", n + 1))).await.unwrap();
        let _ = store.delete(&q, &id(&format!("j{}", n + 20))).await.unwrap();
        let _ = store.retry(&q, &id(&format!("t{}", n / 3))).await.unwrap();
        let _ = store.cancel(&q, &id(&format!("t{}", n / 2))).await.unwrap();
    }
    store.purge(&q, State::Dead).await.unwrap();
    store.purge(&q, State::Ready).await.unwrap();
    store.trim(&q, &retention()).await.unwrap();
    drop(store);
    audit(&dir);
}
