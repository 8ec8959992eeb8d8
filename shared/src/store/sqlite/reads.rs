//! The side that only looks.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension as _, Row, params};

use super::deliver::{next_rank, progress};
use super::fault::Fault;
use super::pulse::Depth;
use super::tx::{Queue, View, code, final_state, rows};
use crate::clock::StoreTime;
use crate::job::settle::FollowUp;
use crate::job::view::{Found, Place, Unacked};
use crate::job::{Due, FinalState, NewJob, Record, State};
use crate::names::{JobId, QueueName, WorkerId};
use crate::store::{MAX_BATCH, Outgoing, Page, QueueView};

/// The most jobs on a page.
const MAX_PAGE: usize = 1000;
/// Ready and scheduled jobs are told apart exactly where fewer than this many are on one of the sides.
const COUNTED: [u64; 3] = [4096, 16_384, 65_536];

/// A row of `jobs`.
pub(super) struct Row0 {
    pub(super) place: i64,
    pub(super) at: i64,
    pub(super) rank: i64,
    pub(super) progress: Option<String>,
    pub(super) record: String,
}

pub(super) fn row(view: &View<'_>, queue: i64, id: &str) -> Result<Option<Row0>, Fault> {
    let row = view
        .sql(
            "SELECT j.place, j.at, j.rank, coalesce(e.progress, j.progress), j.record
             FROM jobs j LEFT JOIN ended e ON e.queue = j.queue AND e.state = j.place AND e.seq = j.at
             WHERE j.queue = ?1 AND j.id = ?2",
        )?
        .query_row(params![queue, id], |row| {
            Ok(Row0 {
                place: row.get(0)?,
                at: row.get(1)?,
                rank: row.get(2)?,
                progress: row.get(3)?,
                record: row.get(4)?,
            })
        })
        .optional()?;
    Ok(row)
}

pub(super) fn delivery_of(view: &View<'_>, queue: i64, id: &str) -> Result<Option<Unacked>, Fault> {
    let mut read = view.sql(
        "SELECT l.worker, u.token, u.due, u.started_ms, u.deadline_ms
         FROM unacked u JOIN leases l ON l.no = u.lease WHERE u.queue = ?1 AND u.id = ?2",
    )?;
    let mut rows = read.query(params![queue, id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let worker: String = row.get(0)?;
    Ok(Some(Unacked {
        worker: WorkerId::new(&worker).map_err(|error| Fault::Unreadable(error.to_string()))?,
        token: row.get(1)?,
        due: StoreTime::from_micros(row.get(2)?),
        started: row.get(3)?,
        deadline: row.get(4)?,
    }))
}

fn find(view: &View<'_>, queue: &Queue, id: &JobId) -> Result<Option<Found>, Fault> {
    let Some(row) = row(view, queue.no, id.as_str())? else { return Ok(None) };
    let mut progress = progress(row.progress.as_deref())
        .map_err(|why| Fault::Unreadable(format!("{}/{id}: {why}", queue.name)))?;
    let place = match final_state(row.place) {
        Some(state) => {
            progress.state = Some(state);
            Place::Ended
        }
        None => match delivery_of(view, queue.no, id.as_str())? {
            Some(unacked) => Place::Running(unacked),
            None => Place::Waiting { due: StoreTime::from_micros(row.at) },
        },
    };
    let record = Record::new(row.record);
    Ok(Some(Found { queue: queue.name.clone(), id: id.clone(), record, progress, place, now: view.now }))
}

pub(super) fn look(view: &View<'_>, name: &QueueName, ids: &[JobId]) -> Result<Vec<Option<Found>>, Fault> {
    let ids = &ids[..ids.len().min(MAX_BATCH)];
    let Some(queue) = view.queue(name)? else { return Ok(vec![None; ids.len()]) };
    ids.iter().map(|id| find(view, &queue, id)).collect()
}

/// Where a page of waiting jobs begins: after this rank, score and id.
struct From {
    rank: i64,
    score: i64,
    id: String,
}

pub(super) fn list(
    view: &View<'_>,
    name: &QueueName,
    state: State,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Page, Fault> {
    let Some(queue) = view.queue(name)? else { return Ok(Page::default()) };
    let limit = limit.clamp(1, MAX_PAGE);
    let (ids, next) = match state {
        State::Scheduled | State::Ready => waiting(view, &queue, state == State::Ready, cursor, limit)?,
        State::Running => running(view, &queue, cursor, limit)?,
        State::Done => ended(view, &queue, FinalState::Done, cursor, limit)?,
        State::Dead => ended(view, &queue, FinalState::Dead, cursor, limit)?,
        State::Cancelled => ended(view, &queue, FinalState::Cancelled, cursor, limit)?,
        State::Expired => ended(view, &queue, FinalState::Expired, cursor, limit)?,
    };
    let mut page = Page { found: Vec::with_capacity(ids.len()), next };
    for id in &ids {
        let id = JobId::new(id).map_err(|error| Fault::Unreadable(error.to_string()))?;
        page.found.extend(find(view, &queue, &id)?);
    }
    Ok(page)
}

type Ids = (Vec<String>, Option<String>);

/// `RANK:SCORE:ID`
fn waiting(
    view: &View<'_>,
    queue: &Queue,
    ready: bool,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Ids, Fault> {
    let now = view.now.as_micros();
    let mut from = cursor.and_then(|cursor| {
        let mut parts = cursor.splitn(3, ':');
        let (rank, score) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(From { rank, score, id: parts.next()?.to_owned() })
    });
    let mut read = view.sql(
        "SELECT score, id FROM waiting
         WHERE queue = ?1 AND rank = ?2 AND score > ?3 AND score <= ?4 AND (score, id) > (?5, ?6)
         ORDER BY score, id LIMIT ?7",
    )?;
    // Readiness ends at `now`, being scheduled begins after it.
    let (low, high) = if ready { (i64::MIN, now) } else { (now, i64::MAX) };
    let mut rank = from.as_ref().map_or(i64::MIN, |from| from.rank.saturating_sub(1));
    let (mut ids, mut last) = (Vec::new(), None);
    while ids.len() < limit {
        let Some((next, _)) = next_rank(view, queue.no, rank)? else { break };
        rank = next;
        let after = from.take().filter(|from| from.rank == rank);
        let after = after.unwrap_or_else(|| From { rank, score: i64::MIN, id: String::new() });
        let room = rows(limit - ids.len());
        let mut found = read.query(params![queue.no, rank, low, high, after.score, after.id, room])?;
        while let Some(row) = found.next()? {
            let id: String = row.get(1)?;
            last = Some(format!("{rank}:{}:{id}", row.get::<_, i64>(0)?));
            ids.push(id);
        }
    }
    let next = last.filter(|_| ids.len() == limit);
    Ok((ids, next))
}

/// The id itself.
fn running(view: &View<'_>, queue: &Queue, cursor: Option<&str>, limit: usize) -> Result<Ids, Fault> {
    let mut read = view.sql("SELECT id FROM unacked WHERE queue = ?1 AND id > ?2 ORDER BY id LIMIT ?3")?;
    let ids: Vec<String> = read
        .query_map(params![queue.no, cursor.unwrap_or_default(), rows(limit)], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let next = ids.last().filter(|_| ids.len() == limit).cloned();
    Ok((ids, next))
}

/// The seq.
fn ended(
    view: &View<'_>,
    queue: &Queue,
    state: FinalState,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Ids, Fault> {
    let before: i64 = cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or(i64::MAX);
    let mut read = view.sql(
        "SELECT seq, id FROM ended WHERE queue = ?1 AND state = ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4",
    )?;
    let found: Vec<(i64, String)> = read
        .query_map(params![queue.no, code(state), before, rows(limit)], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let next = found.last().filter(|_| found.len() == limit).map(|(seq, _)| seq.to_string());
    Ok((found.into_iter().map(|(_, id)| id).collect(), next))
}

pub(super) fn queues(view: &View<'_>) -> Result<Vec<QueueName>, Fault> {
    let mut read = view.sql("SELECT name FROM queues WHERE namespace = ?1 ORDER BY name")?;
    let names = read.query_map([view.namespace.as_str()], |row| row.get::<_, String>(0))?;
    let mut queues = Vec::new();
    for name in names {
        queues.extend(QueueName::new(&name?).ok());
    }
    Ok(queues)
}

pub(super) fn overview(view: &View<'_>, name: &QueueName) -> Result<QueueView, Fault> {
    let Some(queue) = view.queue(name)? else {
        return Ok(QueueView { queue: name.to_string(), ..QueueView::default() });
    };
    let mut ready = 0;
    let mut oldest = None;
    for limit in COUNTED {
        let depth = Depth::of(view, queue.no, queue.waiting, limit)?;
        (ready, oldest) = (depth.ready, depth.oldest_due);
        if ready < limit {
            break;
        }
        let scheduled = Depth::scheduled(view, queue.no, limit)?;
        if scheduled < limit {
            ready = queue.waiting.saturating_sub(scheduled);
            break;
        }
    }
    let [done, dead, cancelled, expired] = queue.kept;
    Ok(QueueView {
        queue: name.to_string(),
        paused: queue.paused,
        scheduled: queue.waiting.saturating_sub(ready),
        ready,
        running: queue.running,
        done,
        dead,
        cancelled,
        expired,
        oldest_due_ms: oldest.map(|due| i64::try_from(view.now.since(due).as_millis()).unwrap_or(i64::MAX)),
        inbox: 0,
        outbox: queue.outbox,
        enqueued_total: queue.enqueued,
        ended_total: queue.ended,
    })
}

pub(super) fn live(view: &View<'_>, name: &QueueName) -> Result<BTreeMap<String, String>, Fault> {
    let Some(queue) = view.queue(name)? else { return Ok(BTreeMap::new()) };
    let mut read = view.sql("SELECT key, value FROM live WHERE queue = ?1")?;
    let settings =
        read.query_map([queue.no], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    Ok(settings)
}

pub(super) fn outbox(view: &View<'_>, name: &QueueName) -> Result<Vec<Outgoing>, Fault> {
    let Some(queue) = view.queue(name)? else { return Ok(Vec::new()) };
    let mut read = view.sql(
        "SELECT seq, target, id, due_kind, due, priority, expires, content
         FROM outbox WHERE queue = ?1 ORDER BY seq LIMIT ?2",
    )?;
    let mut found = read.query(params![queue.no, rows(MAX_BATCH)])?;
    let mut waiting = Vec::new();
    while let Some(row) = found.next()? {
        waiting.push(outgoing(row)?);
    }
    Ok(waiting)
}

fn outgoing(row: &Row<'_>) -> Result<Outgoing, Fault> {
    let unreadable = |error: crate::names::NameError| Fault::Unreadable(format!("a follow-up: {error}"));
    let due: i64 = row.get(4)?;
    Ok(Outgoing {
        ticket: row.get::<_, i64>(0)?.to_string(),
        follow_up: FollowUp {
            queue: QueueName::new(&row.get::<_, String>(1)?).map_err(unreadable)?,
            job: NewJob {
                id: JobId::new(&row.get::<_, String>(2)?).map_err(unreadable)?,
                due: match row.get::<_, i64>(3)? {
                    0 => Due::Now,
                    1 => Due::In(std::time::Duration::from_micros(u64::try_from(due).unwrap_or(0))),
                    _ => Due::At(StoreTime::from_micros(due)),
                },
                priority: row.get(5)?,
                expires: row.get::<_, Option<i64>>(6)?.map(StoreTime::from_micros),
                content: row.get(7)?,
            },
        },
    })
}

pub(super) fn hosts(view: &View<'_>) -> Result<Vec<String>, Fault> {
    let mut read = view.sql("SELECT record FROM hosts WHERE namespace = ?1 AND until > ?2 ORDER BY host")?;
    let hosts = read
        .query_map(params![view.namespace.as_str(), view.now.as_micros()], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use crate::job::State;
    use crate::job::view::Place;
    use crate::store::sqlite::testing::*;

    #[tokio::test]
    async fn pages_follow_each_other() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        let mut jobs: Vec<_> = (0..25).map(|n| job(&format!("n{n:02}"), "1")).collect();
        jobs[20].priority = 5;
        jobs[21].priority = -5;
        jobs.extend((0..5).map(|n| timer(&format!("t{n}"), 100 - n)));
        store.enqueue(&q, &jobs, 100).await.unwrap();
        let all = |state| {
            let (store, q) = (store.clone(), q.clone());
            async move {
                let (mut ids, mut cursor) = (Vec::new(), None);
                loop {
                    let page = store.list(&q, state, cursor.as_deref(), 4).await.unwrap();
                    assert!(page.found.iter().all(|found| found.state() == state));
                    ids.extend(page.found.into_iter().map(|found| found.id.to_string()));
                    cursor = page.next;
                    if cursor.is_none() {
                        return ids;
                    }
                }
            }
        };
        let ready = all(State::Ready).await;
        assert_eq!(
            (ready.len(), ready[0].as_str(), ready[1].as_str(), ready[24].as_str()),
            (25, "n20", "n00", "n21")
        );
        assert_eq!(all(State::Scheduled).await, ["t4", "t3", "t2", "t1", "t0"]);
        pull(&store, &q, 6).await;
        assert_eq!(all(State::Running).await, ["n00", "n01", "n02", "n03", "n04", "n20"]);
        settle_held(&store, &q).await;
        assert_eq!(all(State::Done).await.len(), 6);
        let view = store.overview(&q).await.unwrap();
        assert_eq!((view.scheduled, view.ready, view.running, view.done), (5, 19, 0, 6));
        let found = store.look(&q, &[id("n22"), id("no"), id("n00")]).await.unwrap();
        assert!(matches!(found[0].as_ref().unwrap().place, Place::Waiting { .. }));
        assert!(found[1].is_none());
        assert_eq!(found[2].as_ref().unwrap().state(), State::Done);
    }
}
