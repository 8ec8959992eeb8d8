//! Figures of the store, beside a bare loop over the same tables:
//! `cargo test --release -p roundsman-shared sqlite::bench -- --ignored --nocapture --test-threads 1`
#![expect(clippy::print_stdout, reason = "a benchmark reports")]

use std::time::Duration;

use rusqlite::params;

use super::testing::*;
use crate::clock::Mono;
use crate::job::NewJob;
use crate::job::Spec;
use crate::job::record::encode;
use crate::names::QueueName;
use crate::store::Answer;

const ROUNDS: usize = 3;
const JOBS: usize = 100_000;

/// Jobs with a payload of 100 bytes and generated ids.
fn jobs(count: usize) -> Vec<NewJob> {
    let payload = format!("\"{}\"", "x".repeat(98));
    let content = encode(&Spec::bare(false, payload));
    let new = || id(&uuid::Uuid::now_v7().to_string());
    (0..count).map(|_| NewJob { id: new(), content: content.clone(), ..job("x", "1") }).collect()
}

/// Time by the clock, and time that this process had a processor. On a busy machine only the second says much.
struct Stopwatch(Mono, Duration);

fn used() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(used.tv_sec).unwrap(), u32::try_from(used.tv_nsec).unwrap())
}

impl Stopwatch {
    fn start() -> Self {
        Self(Mono::now(), used())
    }

    fn read(&self, what: &str, count: usize) -> f64 {
        let (took, used) = (Mono::now().since(self.0), used() - self.1);
        let rate = rate(count, took);
        println!(
            "{what:42} {rate:9.0}/s, {:6.2} us of processor each",
            1e6 / crate::store::sqlite::bench::rate(count, used)
        );
        rate
    }
}

fn rate(count: usize, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let count = count as f64;
    count / took.as_secs_f64()
}

async fn enqueue(store: &super::SqliteStore, q: &QueueName, jobs: &[NewJob], batch: usize) {
    for chunk in jobs.chunks(batch) {
        store.enqueue(q, chunk, 10_000_000).await.unwrap();
    }
}

/// As a worker does it: settle the last batch and pull the next in one call.
async fn drain(store: &super::SqliteStore, q: &QueueName, name: &str, batch: usize) -> usize {
    let worker = named(name);
    let (mut ended, mut held) = (0, Vec::new());
    loop {
        let request = settle_request(q, &worker, std::mem::take(&mut held));
        let settle = (!request.settlements.is_empty()).then_some(&request);
        let pull = pull_request(q, &worker, batch);
        let (answers, pulled) = store.exchange(settle, Some(&pull)).await.unwrap();
        assert!(answers.iter().all(|answer| *answer == Answer::Ok));
        ended += answers.len();
        let pulled = pulled.unwrap();
        if pulled.deliveries.is_empty() {
            return ended;
        }
        held = pulled.deliveries.iter().map(|d| settlement(d, &worker, done(), pulled.now)).collect();
    }
}

/// The same writes with no rules, no clock, no counters: the least that this layout costs.
fn bare(batch: usize) -> (f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bare.db");
    std::fs::write(&file, "").unwrap();
    let conn = super::open::connect(&file, 4096, &super::open::Patience::default()).unwrap();
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 2048;",
    )
    .unwrap();
    conn.execute_batch(include_str!("schema.sql")).unwrap();
    let jobs = jobs(JOBS);
    let progress = format!("1767225600000000 {{{}}}", "y".repeat(230));
    let mut n = 0_i64;
    let began = Stopwatch::start();
    for chunk in jobs.chunks(batch) {
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        let sql = "INSERT INTO jobs (queue, id, place, at, rank, record) VALUES (1, ?1, 0, ?2, 0, ?3)";
        let mut insert = conn.prepare_cached(sql).unwrap();
        let mut wait = conn.prepare_cached("INSERT INTO waiting VALUES (1, 0, ?1, ?2)").unwrap();
        for job in chunk {
            n += 1;
            insert.execute(params![job.id.as_str(), n, job.content]).unwrap();
            wait.execute(params![n, job.id.as_str()]).unwrap();
        }
        conn.execute_batch("COMMIT").unwrap();
    }
    let enqueued = began.read("bare enqueue", JOBS);
    conn.execute_batch("PRAGMA synchronous = NORMAL").unwrap();
    let began = Stopwatch::start();
    let (mut held, mut seq, mut ended) = (Vec::<String>::new(), 0, 0);
    loop {
        conn.execute_batch("BEGIN IMMEDIATE").unwrap();
        let sql = |sql| conn.prepare_cached(sql).unwrap();
        let mut ack = sql("DELETE FROM unacked WHERE queue = 1 AND id = ?1");
        let mut write = sql("UPDATE jobs SET place = 1, at = ?2 WHERE queue = 1 AND id = ?1");
        let mut enter = sql("INSERT INTO ended VALUES (1, 1, ?1, ?2, 0, ?3)");
        ended += held.len();
        for id in held.drain(..) {
            ack.execute([&id]).unwrap();
            write.execute(params![id, seq]).unwrap();
            enter.execute(params![seq, id, progress]).unwrap();
            seq += 1;
        }
        if seq > 10_000 {
            let mut old = sql("SELECT id FROM ended WHERE queue = 1 AND state = 1 AND seq < ?1");
            let mut rows = old.query([seq - 10_000]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let id: String = row.get(0).unwrap();
                sql("DELETE FROM jobs WHERE queue = 1 AND id = ?1").execute([id]).unwrap();
            }
            drop(rows);
            sql("DELETE FROM ended WHERE queue = 1 AND state = 1 AND seq < ?1")
                .execute([seq - 10_000])
                .unwrap();
        }
        let mut read = sql(
            "SELECT w.score, w.id, j.record FROM waiting w JOIN jobs j ON j.queue = w.queue AND j.id = w.id
             WHERE w.queue = 1 ORDER BY w.rank, w.score, w.id LIMIT ?1",
        );
        let rows = read
            .query_map([i64::try_from(batch).unwrap()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap();
        let rows: Vec<(i64, String, String)> = rows.map(Result::unwrap).collect();
        let mut lease = sql("INSERT INTO unacked (queue, id, lease, token, due) VALUES (1, ?1, 1, 1, ?2)");
        for (score, id, _) in &rows {
            lease.execute(params![id, score]).unwrap();
        }
        if let Some((score, id, _)) = rows.last() {
            sql("DELETE FROM waiting WHERE queue = 1 AND rank = 0 AND (score, id) <= (?1, ?2)")
                .execute(params![score, id])
                .unwrap();
        }
        held.extend(rows.into_iter().map(|(_, id, _)| id));
        conn.execute_batch("COMMIT").unwrap();
        if held.is_empty() {
            break;
        }
    }
    assert_eq!(ended, JOBS);
    (enqueued, began.read("bare drain", JOBS))
}

#[tokio::test]
#[ignore = "a benchmark"]
async fn figures() {
    for round in 0..ROUNDS {
        println!("round {round}");
        let (bare_in, bare_out) = bare(256);
        let (store, dir) = fresh().await;
        let (q, many) = (queue("q"), jobs(JOBS));
        let began = Stopwatch::start();
        enqueue(&store, &q, &many, 256).await;
        let bulk = began.read("enqueue by 256", JOBS);
        let began = Stopwatch::start();
        assert_eq!(drain(&store, &q, "1", 256).await, JOBS);
        let out = began.read("drain by 256", JOBS);
        println!("of bare: enqueue {:.2}, drain {:.2}", bulk / bare_in, out / bare_out);
        let few = jobs(5000);
        let began = Stopwatch::start();
        enqueue(&store, &q, &few, 1).await;
        began.read("enqueue one at a time", few.len());
        let began = Stopwatch::start();
        assert_eq!(drain(&store, &q, "1", 1).await, few.len());
        began.read("drain one at a time", few.len());
        let mut tasks = Vec::new();
        let began = Stopwatch::start();
        for _ in 0..50 {
            let (store, q, jobs) = (store.clone(), q.clone(), jobs(200));
            tasks.push(tokio::spawn(async move { enqueue(&store, &q, &jobs, 1).await }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        began.read("50 tasks enqueue one at a time", 10_000);
        drain(&store, &q, "1", 256).await;
        enqueue(&store, &q, &jobs(JOBS), 256).await;
        let others = [open(dir.path()).await, open(dir.path()).await];
        let began = Stopwatch::start();
        let tasks: Vec<_> = others
            .into_iter()
            .enumerate()
            .map(|(n, store)| {
                let q = q.clone();
                tokio::spawn(async move { drain(&store, &q, &n.to_string(), 256).await })
            })
            .collect();
        let mut ended = 0;
        for task in tasks {
            ended += task.await.unwrap();
        }
        assert_eq!(ended, JOBS);
        began.read("two handles drain by 256", JOBS);
    }
}

/// Only the drain, for a profiler.
#[tokio::test]
#[ignore = "a benchmark"]
async fn drain_alone() {
    let (store, _dir) = fresh().await;
    let q = queue("q");
    enqueue(&store, &q, &jobs(4 * JOBS), 256).await;
    let began = Stopwatch::start();
    assert_eq!(drain(&store, &q, "1", 256).await, 4 * JOBS);
    began.read("drain by 256", 4 * JOBS);
    enqueue(&store, &q, &jobs(20_000), 256).await;
    let began = Stopwatch::start();
    assert_eq!(drain(&store, &q, "1", 1).await, 20_000);
    began.read("drain one at a time", 20_000);
}
