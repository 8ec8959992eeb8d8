//! Taking jobs in, and putting jobs among the waiting.

use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension as _, params};

use super::fault::Fault;
use super::hints::Nudge;
use super::settle::Sheet;
use super::tx::Tx;
use crate::clock::StoreTime;
use crate::job::letter::Letter;
use crate::job::record::{CREATED_DIGITS, Record, digest};
use crate::job::{Due, FinalState, NewJob};
use crate::names::{JobId, QueueName};
use crate::store::Enqueued;

/// What a repeated enqueue is compared by: a record without `created` and trace headers.
fn content(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == b'\n').next().unwrap_or_default()
}

pub(super) fn due_at(due: Due, now: StoreTime) -> StoreTime {
    match due {
        Due::Now => now,
        Due::In(span) => now + span,
        Due::At(at) => at,
    }
}

pub(super) fn enqueue(
    tx: &mut Tx<'_>,
    queue: &QueueName,
    jobs: &[NewJob],
    max_waiting: u64,
) -> Result<Vec<Enqueued>, Fault> {
    let at = tx.make(queue)?;
    let now = tx.now();
    let (no, mut waiting, remembered) = {
        let queue = tx.queue(at);
        (queue.no, queue.waiting, queue.remembered > 0)
    };
    let mut insert = tx.sql(
        "INSERT INTO jobs (queue, id, place, at, rank, record) VALUES (?1, ?2, 0, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
    )?;
    let mut wait = tx.sql("INSERT INTO waiting (queue, rank, score, id) VALUES (?1, ?2, ?3, ?4)")?;
    let mut stored = tx.sql("SELECT record FROM jobs WHERE queue = ?1 AND id = ?2")?;
    let mut answers = Vec::with_capacity(jobs.len());
    let mut nudge = Nudge::work(queue);
    let mut created = 0;
    // Jobs without a due time of their own keep their order within the call.
    let first_score = now.as_micros() - i64::try_from(jobs.len()).unwrap_or(0);
    for (next_score, job) in (first_score..).zip(jobs) {
        let (id, rank) = (job.id.as_str(), -i64::from(job.priority));
        let due = due_at(job.due, now);
        let score = if job.due == Due::Now { next_score } else { due.as_micros() };
        let expired = job.expires.is_some_and(|expires| expires <= now);
        let record = Record::stamp(now, &job.content);
        // Most jobs are new: then one search does. Otherwise what is stored goes before what is refused.
        let plain = !remembered && !expired && waiting < max_waiting;
        if !plain || insert.execute(params![no, id, score, rank, record.as_str()])? == 0 {
            let same = stored
                .query_row(params![no, id], |row| {
                    let record = match row.get_ref(0)? {
                        ValueRef::Text(text) => text,
                        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Blob(_) => b"",
                    };
                    let stored = content(record.get(CREATED_DIGITS..).unwrap_or_default());
                    Ok(stored == content(job.content.as_bytes()))
                })
                .optional()?;
            let same = match same {
                None if remembered => remembered_as(tx, no, job)?,
                other => other,
            };
            let refusal = match same {
                Some(true) => Some(Enqueued::Existing),
                Some(false) => Some(Enqueued::Conflict),
                None if expired => Some(Enqueued::Expired),
                None if waiting >= max_waiting => Some(Enqueued::Full { waiting }),
                None => None,
            };
            if let Some(refusal) = refusal {
                answers.push(refusal);
                continue;
            }
            insert.execute(params![no, id, score, rank, record.as_str()])?;
        }
        wait.execute(params![no, rank, score, id])?;
        waiting += 1;
        created += 1;
        nudge.add(due, now);
        answers.push(Enqueued::Created { due });
    }
    if created > 0 {
        let queue = tx.change(at);
        queue.waiting = waiting;
        queue.enqueued += created;
        tx.nudge(nudge);
    }
    Ok(answers)
}

/// Writes down a dead letter that never was a job.
pub(super) fn bury(tx: &mut Tx<'_>, queue: &QueueName, id: &JobId, letter: &Letter) -> Result<bool, Fault> {
    let at = tx.make(queue)?;
    let (no, now) = (tx.queue(at).no, tx.now());
    let record = Record::stamp(now, &letter.content);
    let new = tx
        .sql("INSERT INTO jobs (queue, id, place, at, rank, record) VALUES (?1, ?2, 0, 0, 0, ?3) ON CONFLICT DO NOTHING")?
        .execute(params![no, id.as_str(), record.as_str()])?;
    if new == 0 {
        return Ok(false);
    }
    let mut sheet = Sheet::new(tx, at, None)?;
    sheet.enter(tx, id.as_str(), FinalState::Dead, &letter.progress, None)?;
    sheet.shorten(tx)?;
    tx.change(at).enqueued += 1;
    Ok(true)
}

/// Whether a remembered id had the same content; `None` if it is not remembered.
fn remembered_as(tx: &Tx<'_>, no: i64, job: &NewJob) -> Result<Option<bool>, Fault> {
    let known: Option<String> = tx
        .sql("SELECT digest FROM remembered WHERE queue = ?1 AND id = ?2")?
        .query_row(params![no, job.id.as_str()], |row| row.get(0))
        .optional()?;
    Ok(known.map(|known| known == digest(job.content.split('\n').next().unwrap_or_default())))
}

/// Puts a job that has a row in `jobs` among the waiting. The caller writes `place` and `at`, and counts.
pub(super) fn wait(tx: &Tx<'_>, no: i64, rank: i64, score: StoreTime, id: &str) -> Result<(), Fault> {
    tx.sql("INSERT INTO waiting (queue, rank, score, id) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        no,
        rank,
        score.as_micros(),
        id
    ])?;
    Ok(())
}

/// The score that comes before all others of its rank, and not after `due`.
pub(super) fn front(tx: &Tx<'_>, no: i64, rank: i64, due: StoreTime) -> Result<StoreTime, Fault> {
    let first: Option<i64> = tx
        .sql("SELECT score FROM waiting WHERE queue = ?1 AND rank = ?2 ORDER BY score LIMIT 1")?
        .query_row([no, rank], |row| row.get(0))
        .optional()?;
    Ok(first.map_or(due, |first| due.min(StoreTime::from_micros(first - 1))))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::clock::StoreTime;
    use crate::job::Due;
    use crate::store::Enqueued;
    use crate::store::sqlite::testing::*;

    #[tokio::test]
    async fn ids_are_taken_once() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        let first = store.enqueue(&q, &[job("a", "1"), job("a", "1"), job("a", "2")], 100).await.unwrap();
        assert!(
            matches!(first[..], [Enqueued::Created { .. }, Enqueued::Existing, Enqueued::Conflict]),
            "{first:?}"
        );
        assert_eq!(
            store.enqueue(&q, &[job("a", "1")], 0).await.unwrap(),
            [Enqueued::Existing],
            "also in a full queue"
        );
        let other = store.enqueue(&queue("r"), &[job("a", "2")], 100).await.unwrap();
        assert!(matches!(other[..], [Enqueued::Created { .. }]), "an id is one of its queue");
        assert_eq!(store.overview(&q).await.unwrap().enqueued_total, 1);
    }

    #[tokio::test]
    async fn full_and_expired() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        let mut old = job("old", "1");
        old.expires = Some(StoreTime::from_millis(5));
        let answers =
            store.enqueue(&q, &[old, job("a", "1"), job("b", "1"), job("c", "1")], 2).await.unwrap();
        assert!(
            matches!(
                answers[..],
                [
                    Enqueued::Expired,
                    Enqueued::Created { .. },
                    Enqueued::Created { .. },
                    Enqueued::Full { waiting: 2 }
                ]
            ),
            "{answers:?}"
        );
    }

    #[tokio::test]
    async fn ended_ids_are_remembered_by_their_content() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        store.enqueue(&q, &[job("a", "1")], 100).await.unwrap();
        let mut keep_nothing = retention();
        keep_nothing.keep_done_max = 0;
        finish_all(&store, &q, &keep_nothing).await;
        assert!(store.look(&q, &[id("a")]).await.unwrap()[0].is_none());
        let again = store.enqueue(&q, &[job("a", "1"), job("a", "2")], 100).await.unwrap();
        assert_eq!(again, [Enqueued::Existing, Enqueued::Conflict]);
        keep_nothing.remember_ids = Duration::ZERO;
        while store.trim(&q, &keep_nothing).await.unwrap() {}
        let again = store.enqueue(&q, &[job("a", "2")], 100).await.unwrap();
        assert!(matches!(again[..], [Enqueued::Created { .. }]), "{again:?}");
    }

    #[tokio::test]
    async fn due_times_are_the_stores() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        let mut later = job("later", "1");
        later.due = Due::In(Duration::from_secs(60));
        let before = store.clock().await.unwrap().reading;
        let answers = store.enqueue(&q, &[later], 100).await.unwrap();
        let [Enqueued::Created { due }] = answers[..] else { panic!("{answers:?}") };
        assert!(due >= before + Duration::from_secs(60) && due < before + Duration::from_secs(70));
        assert!(pull(&store, &q, 10).await.deliveries.is_empty());
        store.pass(Duration::from_secs(71));
        assert_eq!(pull(&store, &q, 10).await.deliveries[0].due, due);
    }
}
