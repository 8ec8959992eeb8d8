//! Handing jobs to workers, and keeping their leases.

use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension as _, Row, params};

use super::fault::Fault;
use super::tx::{Raw, Tx, View, code, rows};
use crate::clock::StoreTime;
use crate::job::progress::Token;
use crate::job::settle::Delivery;
use crate::job::{FinalState, Progress, Record};
use crate::names::{JobId, QueueName, WorkerId};
use crate::store::{Held, MAX_BATCH, PullRequest, Pulled, RenewRequest, Renewed};

/// A row of `leases`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) no: i64,
    pub(super) until: StoreTime,
    pub(super) held: i64,
    pub(super) cancels: i64,
}

pub(super) fn lease(view: &View<'_>, queue: i64, worker: &WorkerId) -> Result<Option<Lease>, Fault> {
    let lease = view
        .sql("SELECT no, until, held, cancels FROM leases WHERE queue = ?1 AND worker = ?2")?
        .query_row(params![queue, worker.as_str()], |row| {
            Ok(Lease {
                no: row.get(0)?,
                until: StoreTime::from_micros(row.get(1)?),
                held: row.get(2)?,
                cancels: row.get(3)?,
            })
        })
        .optional()?;
    Ok(lease)
}

/// The first waiting job of the first rank after `rank`.
pub(super) fn next_rank(view: &View<'_>, queue: i64, rank: i64) -> Result<Option<(i64, i64)>, Fault> {
    let next = view
        .sql("SELECT rank, score FROM waiting WHERE queue = ?1 AND rank > ?2 ORDER BY rank, score LIMIT 1")?
        .query_row([queue, rank], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(next)
}

/// The lowest score of all ranks.
pub(super) fn first_score(view: &View<'_>, queue: i64) -> Result<Option<StoreTime>, Fault> {
    let (mut rank, mut first) = (i64::MIN, None);
    while let Some((next, score)) = next_rank(view, queue, rank)? {
        rank = next;
        first = Some(first.map_or(score, |first: i64| first.min(score)));
    }
    Ok(first.map(StoreTime::from_micros))
}

pub(super) fn pull(tx: &mut Tx<'_>, request: &PullRequest) -> Result<Pulled, Fault> {
    let now = tx.now();
    let skewed = request.latest.is_some_and(|latest| now > latest);
    let mut pulled =
        Pulled { now, deliveries: Vec::new(), next_due: None, paused: false, skewed, live_version: 0 };
    let Some(at) = tx.find(&request.queue)? else { return Ok(pulled) };
    let queue = tx.queue(at);
    let no = queue.no;
    (pulled.paused, pulled.live_version) = (queue.paused, queue.live_version);
    let idle = queue.waiting == 0 && queue.running == 0;
    if idle {
        return Ok(pulled);
    }
    let lease = lease(&tx.view, no, &request.worker)?;
    let mut lease = lease.map(|lease| lease.no);
    if !pulled.paused && !skewed && tx.queue(at).waiting > 0 {
        pulled.deliveries = take(tx, at, request, &mut lease)?;
    }
    if let Some(lease) = lease {
        let until = (now + request.lease).as_micros();
        let taken = rows(pulled.deliveries.len());
        tx.sql("UPDATE leases SET until = ?2, held = held + ?3 WHERE no = ?1")?
            .execute([lease, until, taken])?;
        // Only if all that was due could not be read.
        tx.sql("DELETE FROM leases WHERE no = ?1 AND held = 0")?.execute([lease])?;
    }
    if tx.queue(at).waiting > 0 {
        pulled.next_due = first_score(&tx.view, no)?;
    }
    Ok(pulled)
}

/// A job that cannot be read.
struct Unreadable {
    id: Vec<u8>,
    score: i64,
    why: String,
}

/// Moves due jobs from the waiting to the unacked, in order. Makes the lease if there is none and one is needed.
fn take(
    tx: &mut Tx<'_>,
    at: usize,
    request: &PullRequest,
    lease: &mut Option<i64>,
) -> Result<Vec<Delivery>, Fault> {
    let (no, now) = (tx.queue(at).no, tx.now());
    let token = (tx.queue(at).last_token + 1).max(now.as_micros());
    let max = request.max.min(MAX_BATCH);
    let mut due = tx.sql(
        "SELECT w.id, w.score, j.progress, j.record
         FROM waiting w LEFT JOIN jobs j ON j.queue = w.queue AND j.id = w.id
         WHERE w.queue = ?1 AND w.rank = ?2 AND w.score <= ?3 ORDER BY w.score, w.id LIMIT ?4",
    )?;
    let (mut out, mut buried, mut gone) = (Vec::new(), Vec::new(), 0);
    let mut rank = i64::MIN;
    while let (true, Some((next, first))) = (out.len() < max, next_rank(&tx.view, no, rank)?) {
        if first > now.as_micros() {
            rank = next;
            continue;
        }
        let room = max - out.len();
        let mut found = due.query([no, next, now.as_micros(), rows(room)])?;
        let (mut last, mut count) = (None, 0);
        while let Some(row) = found.next()? {
            count += 1;
            match delivery(row, &request.queue, token) {
                Ok(delivery) => out.push(delivery),
                Err(why) => buried.push(Unreadable { id: raw(row, 0), score: row.get(1)?, why }),
            }
            if count == room {
                last = Some((row.get::<_, i64>(1)?, raw(row, 0)));
            }
        }
        drop(found);
        gone += count;
        // In one transaction, what stands up to the last one is what was read.
        let (score, id) = last.unwrap_or_else(|| (now.as_micros(), vec![0xff]));
        let lease = match lease {
            Some(lease) => *lease,
            None => *lease.insert(
                tx.sql("INSERT INTO leases (queue, worker, until, held) VALUES (?1, ?2, 0, 0)")?
                    .insert(params![no, request.worker.as_str()])?,
            ),
        };
        tx.sql(
            "REPLACE INTO unacked (queue, id, lease, token, due)
             SELECT ?1, id, ?5, ?6, score FROM waiting WHERE queue = ?1 AND rank = ?2 AND (score, id) <= (?3, ?4)",
        )?
        .execute(params![no, next, score, Raw(&id), lease, token])?;
        tx.sql("DELETE FROM waiting WHERE queue = ?1 AND rank = ?2 AND (score, id) <= (?3, ?4)")?
            .execute(params![no, next, score, Raw(&id)])?;
        // Where the room went to unreadable ones, the same rank is looked at again.
        if count < room {
            rank = next;
        }
    }
    if gone > 0 {
        let queue = tx.change(at);
        queue.last_token = token;
        queue.waiting = queue.waiting.saturating_sub(u64::try_from(gone).unwrap_or(0));
        queue.running += u64::try_from(out.len()).unwrap_or(0);
    }
    // Those that were put back to the front keep the due time that they had before.
    for delivery in out.iter().filter(|delivery| delivery.progress.due.is_some()) {
        tx.sql("UPDATE unacked SET due = ?3 WHERE queue = ?1 AND id = ?2")?.execute(params![
            no,
            delivery.id.as_str(),
            delivery.due.as_micros()
        ])?;
    }
    for unreadable in buried {
        tx.sql("DELETE FROM unacked WHERE queue = ?1 AND id = ?2")?
            .execute(params![no, Raw(&unreadable.id)])?;
        bury(tx, at, &unreadable, token)?;
    }
    Ok(out)
}

/// The bytes of a column, whatever it holds.
fn raw(row: &Row<'_>, column: usize) -> Vec<u8> {
    match row.get_ref(column) {
        Ok(ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => bytes.to_vec(),
        _ => Vec::new(),
    }
}

fn text<'r>(row: &'r Row<'_>, column: usize, what: &str) -> Result<Option<&'r str>, String> {
    match row.get_ref(column) {
        Ok(ValueRef::Null) => Ok(None),
        Ok(ValueRef::Text(bytes)) => {
            std::str::from_utf8(bytes).map(Some).map_err(|error| format!("its {what} is no text: {error}"))
        }
        Ok(_) => Err(format!("its {what} is no text")),
        Err(error) => Err(error.to_string()),
    }
}

/// A progress as it was stored; none where nothing has happened yet.
pub(super) fn progress(text: Option<&str>) -> Result<Progress, String> {
    let Some(text) = text else { return Ok(Progress::default()) };
    let (_, progress) = Progress::decode(text).ok_or("its progress cannot be read")?;
    Ok(progress)
}

/// Reads id, score, progress, record.
fn delivery(row: &Row<'_>, queue: &QueueName, token: Token) -> Result<Delivery, String> {
    let id = text(row, 0, "id")?.unwrap_or_default();
    let id = JobId::new(id).map_err(|error| error.to_string())?;
    let progress = progress(text(row, 2, "progress")?)?;
    let record = text(row, 3, "record")?.ok_or("its record is missing")?;
    let score: i64 = row.get(1).map_err(|error| error.to_string())?;
    let due = progress.due.map_or_else(|| StoreTime::from_micros(score), StoreTime::from_millis);
    Ok(Delivery { queue: queue.clone(), id, token, due, record: Record::new(record.to_owned()), progress })
}

/// Makes a job that cannot be read a dead letter, so that it is seen and holds nobody up.
fn bury(tx: &mut Tx<'_>, at: usize, unreadable: &Unreadable, token: Token) -> Result<(), Fault> {
    let (now, Unreadable { id, score, why }) = (tx.now(), unreadable);
    let shown = String::from_utf8_lossy(id).into_owned();
    tracing::error!(queue = %tx.queue(at).name, id = shown, why, "a stored job cannot be read: it is a dead letter now");
    let progress = Progress {
        state: Some(FinalState::Dead),
        due: Some(StoreTime::from_micros(*score).as_millis()),
        ended: Some(now.as_millis()),
        error: Some(format!("the store could not read it back: {why}")),
        ..Progress::default()
    };
    let state = code(FinalState::Dead);
    let (no, seq) = {
        let queue = tx.change(at);
        (queue.no, queue.next_seq())
    };
    let changed = tx
        .sql("UPDATE jobs SET place = ?3, at = ?4, progress = NULL WHERE queue = ?1 AND id = ?2")?
        .execute(params![no, Raw(id), state, seq])?;
    if changed > 0 {
        tx.sql("INSERT INTO ended (queue, state, seq, id, at, progress) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![no, state, seq, Raw(id), now.as_micros(), progress.encode(token)])?;
        let queue = tx.change(at);
        *queue.kept(state) += 1;
        queue.ended += 1;
    }
    Ok(())
}

pub(super) fn renew(tx: &mut Tx<'_>, request: &RenewRequest) -> Result<Renewed, Fault> {
    let now = tx.now();
    let mut renewed = Renewed { now, lost: false, cancel: Vec::new() };
    let Some(at) = tx.find(&request.queue)? else { return Ok(renewed) };
    let no = tx.queue(at).no;
    renewed.lost = tx
        .sql("SELECT 1 FROM lost WHERE queue = ?1 AND worker = ?2")?
        .exists(params![no, request.worker.as_str()])?;
    // What is left of a lost worker's lease is on its way to others.
    let lease = if renewed.lost { None } else { lease(&tx.view, no, &request.worker)? };
    let Some(lease) = lease else { return Ok(renewed) };
    tx.sql("UPDATE leases SET until = ?2 WHERE no = ?1")?
        .execute([lease.no, (now + request.lease).as_micros()])?;
    let mut mark = tx.sql(
        "UPDATE unacked SET started_ms = ?5, deadline_ms = ?6
         WHERE queue = ?1 AND id = ?2 AND token = ?3 AND lease = ?4",
    )?;
    for m in &request.marks {
        mark.execute(params![no, m.id.as_str(), m.token, lease.no, m.started, m.deadline])?;
    }
    if lease.cancels > 0 {
        let mut asked = tx.sql("SELECT id FROM cancels WHERE lease = ?1 LIMIT ?2")?;
        let ids = asked.query_map(params![lease.no, rows(MAX_BATCH)], |row| row.get::<_, String>(0))?;
        for id in ids {
            renewed.cancel.extend(JobId::new(&id?).ok());
        }
    }
    Ok(renewed)
}

/// What a worker holds. Reads all that is under lease in the queue, which is bounded by the workers and their prefetch.
pub(super) fn unacked(
    view: &View<'_>,
    name: &QueueName,
    worker: &WorkerId,
    newer_than: Option<Token>,
) -> Result<Vec<Held>, Fault> {
    let Some(queue) = view.queue(name)? else { return Ok(Vec::new()) };
    let Some(lease) = lease(view, queue.no, worker)? else { return Ok(Vec::new()) };
    let mut read = view.sql(
        "SELECT u.id, u.due, j.progress, j.record, u.token, u.started_ms, u.deadline_ms
         FROM unacked u JOIN jobs j ON j.queue = u.queue AND j.id = u.id
         WHERE u.queue = ?1 AND u.lease = ?2 AND u.token > ?3 ORDER BY u.token, u.id LIMIT ?4",
    )?;
    // One more than wanted tells whether the last pull is whole.
    let newer_than = newer_than.unwrap_or(Token::MIN);
    let mut found = read.query(params![queue.no, lease.no, newer_than, rows(MAX_BATCH + 1)])?;
    let mut held = Vec::new();
    while let Some(row) = found.next()? {
        let mut delivery = delivery(row, name, row.get(4)?).map_err(Fault::Unreadable)?;
        delivery.due = StoreTime::from_micros(row.get(1)?);
        held.push(Held { delivery, started: row.get(5)?, deadline: row.get(6)? });
    }
    if held.len() > MAX_BATCH {
        let cut = held[MAX_BATCH].delivery.token;
        held.retain(|held: &Held| held.delivery.token < cut);
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::job::{FinalState, State};
    use crate::store::sqlite::testing::*;
    use crate::store::{Cancelled, Mark, RenewRequest};

    fn renewal(marks: Vec<Mark>) -> RenewRequest {
        RenewRequest { queue: queue("q"), worker: worker(), lease: LEASE, marks }
    }

    #[tokio::test]
    async fn priority_then_due_time_then_order_of_the_call() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        let mut jobs: Vec<_> =
            ["c", "b", "a", "high", "low", "early"].iter().map(|name| job(name, "1")).collect();
        jobs[3].priority = 9;
        jobs[4].priority = -9;
        jobs[5].due = crate::job::Due::At(crate::clock::StoreTime::from_millis(1));
        jobs.push(timer("later", 60));
        store.enqueue(&q, &jobs, 100).await.unwrap();
        let first = pull(&store, &q, 4).await;
        let ids: Vec<_> = first.deliveries.iter().map(|delivery| delivery.id.as_str()).collect();
        assert_eq!(ids, ["high", "early", "c", "b"]);
        assert!(first.next_due.unwrap() <= first.now, "more are due");
        let second = pull(&store, &q, 4).await;
        let ids: Vec<_> = second.deliveries.iter().map(|delivery| delivery.id.as_str()).collect();
        assert_eq!(ids, ["a", "low"]);
        assert!(second.next_due.unwrap() > second.now, "one is scheduled");
        assert!(second.deliveries[0].token > first.deliveries[0].token);
        assert!(first.deliveries.iter().all(|delivery| delivery.token == first.deliveries[0].token));
    }

    #[tokio::test]
    async fn nothing_while_paused_or_when_the_clock_is_doubted() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        assert_eq!(pull(&store, &q, 1).await.next_due, None);
        store.enqueue(&q, &[job("a", "1")], 100).await.unwrap();
        store.pause(&q, true).await.unwrap();
        let pulled = pull(&store, &q, 1).await;
        assert!(pulled.paused && pulled.deliveries.is_empty() && pulled.next_due.is_some());
        store.pause(&q, false).await.unwrap();
        let mut request = pull_request(&q, &worker(), 1);
        request.latest = Some(pulled.now - Duration::from_secs(1));
        let (_, pulled) = store.exchange(None, Some(&request)).await.unwrap();
        let pulled = pulled.unwrap();
        assert!(pulled.skewed && pulled.deliveries.is_empty());
        assert_eq!(pull(&store, &q, 1).await.deliveries.len(), 1);
    }

    #[tokio::test]
    async fn a_jump_of_the_time_of_day_starts_nothing_early() {
        let (store, dir) = fresh().await;
        let q = queue("q");
        store.enqueue(&q, &[timer("a", 600)], 100).await.unwrap();
        store.jump(3600);
        assert!(pull(&store, &q, 1).await.deliveries.is_empty());
        store.pass(Duration::from_secs(601));
        assert_eq!(pull(&store, &q, 1).await.deliveries.len(), 1);
        drop(store);
        let other = open(dir.path()).await;
        other.jump(3600);
        other.pass(Duration::from_secs(601));
        let (before, after) = (other.clock().await.unwrap().reading, pull(&other, &q, 1).await.now);
        assert!(after >= before && after < before + Duration::from_secs(5), "the file keeps the shift");
    }

    #[tokio::test]
    async fn leases_are_marked_and_cancellations_told() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        store.enqueue(&q, &[job("a", "1"), job("b", "1")], 100).await.unwrap();
        let deliveries = pull(&store, &q, 2).await.deliveries;
        let mark = |n: usize, token| Mark { id: deliveries[n].id.clone(), token, started: 7, deadline: 8 };
        let token = deliveries[0].token;
        assert_eq!(store.cancel(&q, &id("a")).await.unwrap(), Cancelled::Told(worker()));
        assert_eq!(store.cancel(&q, &id("a")).await.unwrap(), Cancelled::Told(worker()));
        let renewed = store.renew(&renewal(vec![mark(0, token), mark(1, token - 1)])).await.unwrap();
        assert_eq!((renewed.lost, renewed.cancel), (false, vec![id("a")]));
        let held = store.unacked(&q, &worker(), None).await.unwrap();
        assert_eq!((held[0].started, held[0].deadline, held[1].started), (Some(7), Some(8), None));
        assert_eq!(held[0].delivery, deliveries[0]);
        end(&store, &q, &deliveries[..1], || crate::job::Outcome::Cancelled).await;
        assert!(store.renew(&renewal(vec![])).await.unwrap().cancel.is_empty());
        end(&store, &q, &deliveries[1..], done).await;
        assert!(!store.renew(&renewal(vec![])).await.unwrap().lost, "who holds nothing has lost nothing");
    }

    #[tokio::test]
    async fn an_unreadable_row_holds_nobody_up() {
        let (store, dir) = fresh().await;
        let q = queue("q");
        let jobs: Vec<_> = (0..6).map(|n| job(&format!("j{n}"), "1")).collect();
        store.enqueue(&q, &jobs, 100).await.unwrap();
        let conn = rusqlite::Connection::open(dir.path().join("jobs.db")).unwrap();
        conn.execute_batch(
            "UPDATE jobs SET progress = 'nonsense' WHERE id = 'j0';
             UPDATE jobs SET record = CAST(x'ff00' AS TEXT) WHERE id = 'j1';
             DELETE FROM jobs WHERE id = 'j2'",
        )
        .unwrap();
        let pulled = pull(&store, &q, 2).await;
        let ids: Vec<_> = pulled.deliveries.iter().map(|delivery| delivery.id.as_str()).collect();
        assert_eq!(ids, ["j3", "j4"]);
        let view = store.overview(&q).await.unwrap();
        assert_eq!((view.ready, view.running, view.dead), (1, 2, 2));
        let found = store.look(&q, &[id("j0")]).await.unwrap().remove(0).unwrap();
        assert_eq!((found.state(), found.progress.state), (State::Dead, Some(FinalState::Dead)));
        assert!(found.progress.error.unwrap().contains("could not read"));
    }
}
