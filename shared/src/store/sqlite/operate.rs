//! What operators and producers change by hand, and the registry of hosts.

use rusqlite::params;

use super::deliver::progress;
use super::enqueue::{due_at, wait};
use super::fault::Fault;
use super::hints::Nudge;
use super::reads::{Row0, delivery_of, row};
use super::settle::Sheet;
use super::tx::{Tx, code, final_state, rows};
use crate::clock::StoreTime;
use crate::job::lifecycle::{Event, next};
use crate::job::record::CREATED_DIGITS;
use crate::job::view::Unacked;
use crate::job::{Due, FinalState, Progress, Record, State};
use crate::names::{JobId, QueueName};
use crate::store::{Cancelled, Changed, HostBeat, MAX_BATCH};

/// A job, and where it is.
struct Job {
    at: usize,
    no: i64,
    row: Row0,
    running: Option<Unacked>,
    state: State,
}

fn job(tx: &mut Tx<'_>, queue: &QueueName, id: &JobId) -> Result<Option<Job>, Fault> {
    let Some(at) = tx.find(queue)? else { return Ok(None) };
    let no = tx.queue(at).no;
    let Some(row) = row(&tx.view, no, id.as_str())? else { return Ok(None) };
    let (running, state) = match final_state(row.place) {
        Some(state) => (None, state.state()),
        None => match delivery_of(&tx.view, no, id.as_str())? {
            Some(unacked) => (Some(unacked), State::Running),
            None if row.at <= tx.now().as_micros() => (None, State::Ready),
            None => (None, State::Scheduled),
        },
    };
    Ok(Some(Job { at, no, row, running, state }))
}

impl Job {
    fn progress(&self, id: &JobId) -> Result<Progress, Fault> {
        progress(self.row.progress.as_deref()).map_err(|why| Fault::Unreadable(format!("{id}: {why}")))
    }

    /// Takes a waiting job out of the waiting.
    fn unwait(&self, tx: &mut Tx<'_>, id: &JobId) -> Result<(), Fault> {
        tx.sql("DELETE FROM waiting WHERE queue = ?1 AND rank = ?2 AND score = ?3 AND id = ?4")?
            .execute(params![self.no, self.row.rank, self.row.at, id.as_str()])?;
        let queue = tx.change(self.at);
        queue.waiting = queue.waiting.saturating_sub(1);
        Ok(())
    }

    /// Takes an ended job out of the ended.
    fn unend(&self, tx: &mut Tx<'_>) -> Result<(), Fault> {
        tx.sql("DELETE FROM ended WHERE queue = ?1 AND state = ?2 AND seq = ?3")?.execute([
            self.no,
            self.row.place,
            self.row.at,
        ])?;
        let kept = tx.change(self.at).kept(self.row.place);
        *kept = kept.saturating_sub(1);
        Ok(())
    }

    /// Its id is not remembered any more.
    fn forget(&self, tx: &mut Tx<'_>, id: &JobId) -> Result<(), Fault> {
        if tx.queue(self.at).remembered > 0 {
            let forgotten = tx
                .sql("DELETE FROM remembered WHERE queue = ?1 AND id = ?2")?
                .execute(params![self.no, id.as_str()])?;
            tx.change(self.at).remembered -= u64::try_from(forgotten).unwrap_or(0);
        }
        Ok(())
    }

    /// Puts it among the waiting at `due`. `progress` replaces what is there.
    fn rewait(
        &self,
        tx: &mut Tx<'_>,
        id: &JobId,
        due: StoreTime,
        progress: Option<&str>,
    ) -> Result<(), Fault> {
        tx.sql("UPDATE jobs SET place = 0, at = ?3, progress = ?4 WHERE queue = ?1 AND id = ?2")?
            .execute(params![self.no, id.as_str(), due.as_micros(), progress])?;
        wait(tx, self.no, self.row.rank, due, id.as_str())?;
        let queue = tx.change(self.at);
        queue.waiting += 1;
        let mut nudge = Nudge::work(&queue.name);
        nudge.add(due, tx.now());
        tx.nudge(nudge);
        Ok(())
    }
}

/// The token that a stored progress begins with.
fn token(progress: Option<&str>) -> i64 {
    progress.and_then(Progress::decode).map_or(0, |(token, _)| token)
}

pub(super) fn cancel(tx: &mut Tx<'_>, queue: &QueueName, id: &JobId) -> Result<Cancelled, Fault> {
    let Some(job) = job(tx, queue, id)? else { return Ok(Cancelled::NotFound) };
    if job.state.is_final() {
        return Ok(Cancelled::AlreadyEnded(job.state));
    }
    if let Some(unacked) = job.running {
        let asked = tx
            .sql(
                "INSERT INTO cancels (lease, id) SELECT lease, id FROM unacked WHERE queue = ?1 AND id = ?2
                 ON CONFLICT DO NOTHING",
            )?
            .execute(params![job.no, id.as_str()])?;
        if asked > 0 {
            tx.sql("UPDATE leases SET cancels = cancels + 1 WHERE queue = ?1 AND worker = ?2")?
                .execute(params![job.no, unacked.worker.as_str()])?;
        }
        tx.nudge(Nudge::Cancel { queue: queue.clone(), worker: unacked.worker.clone(), id: id.clone() });
        return Ok(Cancelled::Told(unacked.worker));
    }
    finish(tx, job, id, FinalState::Cancelled)?;
    Ok(Cancelled::Now)
}

/// Ends a job that waits.
fn finish(tx: &mut Tx<'_>, job: Job, id: &JobId, state: FinalState) -> Result<(), Fault> {
    let mut progress = job.progress(id)?;
    progress.state = Some(state);
    progress.ended = Some(tx.now().as_millis());
    progress.due.get_or_insert_with(|| StoreTime::from_micros(job.row.at).as_millis());
    progress.error = None;
    job.unwait(tx, id)?;
    let record = Record::new(job.row.record);
    let remember = record.chosen().then(|| record.digest());
    let mut sheet = Sheet::new(tx, job.at, None)?;
    sheet.enter(tx, id.as_str(), state, &progress.encode(0), remember.as_deref())?;
    Ok(())
}

pub(super) fn expire(tx: &mut Tx<'_>, queue: &QueueName, ids: &[JobId]) -> Result<u64, Fault> {
    let mut ended = 0;
    for id in &ids[..ids.len().min(MAX_BATCH)] {
        let Some(job) = job(tx, queue, id)? else { continue };
        if job.state.is_final() || job.running.is_some() {
            continue;
        }
        let record = Record::new(job.row.record.clone());
        let expiry = record.decode().ok().and_then(|spec| spec.expiry(record.created_at()));
        if expiry.is_some_and(|expiry| expiry <= tx.now()) {
            finish(tx, job, id, FinalState::Expired)?;
            ended += 1;
        }
    }
    Ok(ended)
}

pub(super) fn reschedule(tx: &mut Tx<'_>, queue: &QueueName, id: &JobId, due: Due) -> Result<Changed, Fault> {
    let Some(job) = job(tx, queue, id)? else { return Ok(Changed::NotFound) };
    let due = due_at(due, tx.now());
    let event = if due > tx.now() { Event::Postpone } else { Event::Hasten };
    if next(job.state, event).is_none() {
        return Ok(Changed::Refused(job.state));
    }
    // The due time from before it was put to the front does not count any more.
    let mut text = job.row.progress.clone();
    if text.is_some() {
        let mut progress = job.progress(id)?;
        progress.due = None;
        text = Some(progress.encode(token(text.as_deref())));
    }
    job.unwait(tx, id)?;
    job.rewait(tx, id, due, text.as_deref())?;
    Ok(Changed::Ok)
}

pub(super) fn replace(
    tx: &mut Tx<'_>,
    queue: &QueueName,
    id: &JobId,
    content: &str,
    due: Option<Due>,
) -> Result<Changed, Fault> {
    let Some(job) = job(tx, queue, id)? else { return Ok(Changed::NotFound) };
    if job.running.is_some() || job.state.is_final() {
        return Ok(Changed::Refused(job.state));
    }
    let created = job.row.record.get(..CREATED_DIGITS).unwrap_or_default();
    tx.sql("UPDATE jobs SET record = ?3 WHERE queue = ?1 AND id = ?2")?.execute(params![
        job.no,
        id.as_str(),
        format!("{created}{content}")
    ])?;
    match due {
        Some(due) => reschedule(tx, queue, id, due),
        None => Ok(Changed::Ok),
    }
}

pub(super) fn retry(tx: &mut Tx<'_>, queue: &QueueName, id: &JobId) -> Result<Changed, Fault> {
    let Some(job) = job(tx, queue, id)? else { return Ok(Changed::NotFound) };
    if next(job.state, Event::Retry).is_none() {
        return Ok(Changed::Refused(job.state));
    }
    let mut progress = job.progress(id)?;
    progress.due = None;
    if job.state.is_final() {
        progress = progress.forgiven();
        job.forget(tx, id)?;
        job.unend(tx)?;
    } else {
        job.unwait(tx, id)?;
    }
    let text = job.row.progress.as_deref().map(|text| progress.encode(token(Some(text))));
    let now = tx.now();
    job.rewait(tx, id, now, text.as_deref())?;
    Ok(Changed::Ok)
}

pub(super) fn delete(tx: &mut Tx<'_>, queue: &QueueName, id: &JobId) -> Result<Changed, Fault> {
    let Some(job) = job(tx, queue, id)? else { return Ok(Changed::NotFound) };
    match job.state {
        State::Running => return Ok(Changed::Refused(State::Running)),
        State::Scheduled | State::Ready => job.unwait(tx, id)?,
        State::Done | State::Dead | State::Cancelled | State::Expired => job.unend(tx)?,
    }
    tx.sql("DELETE FROM jobs WHERE queue = ?1 AND id = ?2")?.execute(params![job.no, id.as_str()])?;
    job.forget(tx, id)?;
    Ok(Changed::Ok)
}

pub(super) fn purge(tx: &mut Tx<'_>, queue: &QueueName, state: State) -> Result<u64, Fault> {
    let Some(at) = tx.find(queue)? else { return Ok(0) };
    let ended = match state {
        State::Running => return Ok(0),
        State::Scheduled | State::Ready => return purge_waiting(tx, at, state),
        State::Done => FinalState::Done,
        State::Dead => FinalState::Dead,
        State::Cancelled => FinalState::Cancelled,
        State::Expired => FinalState::Expired,
    };
    if tx.queue(at).kept[usize::try_from(code(ended) - 1).unwrap_or(0)] == 0 {
        return Ok(0);
    }
    super::settle::remove_oldest(tx, at, ended, MAX_BATCH as u64)
}

fn purge_waiting(tx: &mut Tx<'_>, at: usize, state: State) -> Result<u64, Fault> {
    let (no, now) = (tx.queue(at).no, tx.now().as_micros());
    let (low, high) = if state == State::Ready { (i64::MIN, now) } else { (now, i64::MAX) };
    let mut read = tx.sql(
        "SELECT score, id FROM waiting WHERE queue = ?1 AND rank = ?2 AND score > ?3 AND score <= ?4 LIMIT ?5",
    )?;
    let (mut rank, mut removed) = (i64::MIN, 0);
    while removed < MAX_BATCH {
        let Some((next, _)) = super::deliver::next_rank(&tx.view, no, rank)? else { break };
        rank = next;
        let found: Vec<(i64, String)> = read
            .query_map(params![no, rank, low, high, rows(MAX_BATCH - removed)], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<Result<_, _>>()?;
        for (score, id) in &found {
            tx.sql("DELETE FROM waiting WHERE queue = ?1 AND rank = ?2 AND score = ?3 AND id = ?4")?
                .execute(params![no, rank, score, id])?;
            tx.sql("DELETE FROM jobs WHERE queue = ?1 AND id = ?2")?.execute(params![no, id])?;
        }
        removed += found.len();
    }
    let removed = u64::try_from(removed).unwrap_or(0);
    let queue = tx.change(at);
    queue.waiting = queue.waiting.saturating_sub(removed);
    Ok(removed)
}

pub(super) fn pause(tx: &mut Tx<'_>, queue: &QueueName, paused: bool) -> Result<(), Fault> {
    let at = tx.make(queue)?;
    tx.change(at).paused = paused;
    tx.nudge(Nudge::Changed { queue: queue.clone() });
    Ok(())
}

pub(super) fn set_live(
    tx: &mut Tx<'_>,
    queue: &QueueName,
    key: &str,
    value: Option<&str>,
) -> Result<(), Fault> {
    let at = tx.make(queue)?;
    let no = tx.queue(at).no;
    match value {
        Some(value) => tx
            .sql("REPLACE INTO live (queue, key, value) VALUES (?1, ?2, ?3)")?
            .execute(params![no, key, value])?,
        None => tx.sql("DELETE FROM live WHERE queue = ?1 AND key = ?2")?.execute(params![no, key])?,
    };
    tx.change(at).live_version += 1;
    tx.nudge(Nudge::Changed { queue: queue.clone() });
    Ok(())
}

pub(super) fn outbox_moved(tx: &mut Tx<'_>, queue: &QueueName, tickets: &[String]) -> Result<(), Fault> {
    let Some(at) = tx.find(queue)? else { return Ok(()) };
    let no = tx.queue(at).no;
    let mut moved = 0;
    for ticket in tickets {
        let Ok(seq) = ticket.parse::<i64>() else { continue };
        moved += tx.sql("DELETE FROM outbox WHERE queue = ?1 AND seq = ?2")?.execute([no, seq])?;
    }
    let queue = tx.change(at);
    queue.outbox = queue.outbox.saturating_sub(u64::try_from(moved).unwrap_or(0));
    Ok(())
}

pub(super) fn beat(tx: &Tx<'_>, beat: &HostBeat) -> Result<(), Fault> {
    let (namespace, now) = (tx.view.namespace.as_str(), tx.now());
    tx.sql("REPLACE INTO hosts (namespace, host, record, until) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![namespace, beat.host, beat.record, (now + beat.lease).as_micros()])?;
    tx.sql("DELETE FROM hosts WHERE until <= ?1")?.execute([now.as_micros()])?;
    Ok(())
}

pub(super) fn leave(tx: &Tx<'_>, host: &str) -> Result<(), Fault> {
    tx.sql("DELETE FROM hosts WHERE namespace = ?1 AND host = ?2")?
        .execute([tx.view.namespace.as_str(), host])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::job::{Due, FinalState, Outcome, State};
    use crate::store::sqlite::testing::*;
    use crate::store::{Cancelled, Changed, Enqueued, HostBeat};

    #[tokio::test]
    async fn cancel_retry_and_delete() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        assert_eq!(store.cancel(&q, &id("a")).await.unwrap(), Cancelled::NotFound);
        store.enqueue(&q, &[timer("a", 60), job("b", "1")], 100).await.unwrap();
        assert_eq!(store.cancel(&q, &id("a")).await.unwrap(), Cancelled::Now);
        assert_eq!(store.cancel(&q, &id("a")).await.unwrap(), Cancelled::AlreadyEnded(State::Cancelled));
        let found = store.look(&q, &[id("a")]).await.unwrap().remove(0).unwrap();
        assert_eq!((found.state(), found.progress.state), (State::Cancelled, Some(FinalState::Cancelled)));
        assert!(found.progress.ended.is_some() && found.progress.due.is_some());
        assert_eq!(store.retry(&q, &id("b")).await.unwrap(), Changed::Refused(State::Ready));
        let held = pull(&store, &q, 1).await.deliveries;
        assert_eq!(store.delete(&q, &id("b")).await.unwrap(), Changed::Refused(State::Running));
        end(&store, &q, &held, || Outcome::Dead { error: "no".into() }).await;
        assert_eq!(store.retry(&q, &id("b")).await.unwrap(), Changed::Ok);
        let held = pull(&store, &q, 1).await.deliveries;
        let progress = &held[0].progress;
        assert_eq!((progress.attempt, progress.attempts.len(), progress.error.as_ref()), (1, 1, None));
        assert_eq!(progress.state, None);
        end(&store, &q, &held, done).await;
        assert_eq!(store.retry(&q, &id("b")).await.unwrap(), Changed::Refused(State::Done));
        assert_eq!(store.delete(&q, &id("b")).await.unwrap(), Changed::Ok);
        assert_eq!(store.delete(&q, &id("b")).await.unwrap(), Changed::NotFound);
        let again = store.enqueue(&q, &[job("b", "other")], 100).await.unwrap();
        assert!(matches!(again[..], [Enqueued::Created { .. }]), "deleted with all that was known of it");
    }

    #[tokio::test]
    async fn reschedule() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        store.enqueue(&q, &[timer("a", 60)], 100).await.unwrap();
        assert_eq!(store.reschedule(&q, &id("a"), Due::Now).await.unwrap(), Changed::Ok);
        let later = Due::In(Duration::from_secs(5));
        assert_eq!(store.reschedule(&q, &id("a"), later).await.unwrap(), Changed::Ok);
        assert!(pull(&store, &q, 1).await.deliveries.is_empty());
        assert_eq!(store.retry(&q, &id("a")).await.unwrap(), Changed::Ok);
        assert_eq!(pull(&store, &q, 1).await.deliveries.len(), 1);
        assert_eq!(store.reschedule(&q, &id("a"), later).await.unwrap(), Changed::Refused(State::Running));
    }

    #[tokio::test]
    async fn purge_by_state() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        let jobs: Vec<_> = (0..300).map(|n| job(&n.to_string(), "1")).chain([timer("t", 60)]).collect();
        store.enqueue(&q, &jobs, 1000).await.unwrap();
        assert_eq!(store.purge(&q, State::Ready).await.unwrap(), 256);
        assert_eq!(store.purge(&q, State::Ready).await.unwrap(), 44);
        assert_eq!(store.purge(&q, State::Ready).await.unwrap(), 0);
        assert_eq!(store.purge(&q, State::Scheduled).await.unwrap(), 1);
        store.enqueue(&q, &[job("d", "1")], 1000).await.unwrap();
        finish_all(&store, &q, &retention()).await;
        assert_eq!(store.purge(&q, State::Running).await.unwrap(), 0);
        assert_eq!(store.purge(&q, State::Done).await.unwrap(), 1);
        assert_eq!(store.purge(&q, State::Done).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn live_settings_and_hosts() {
        let (store, dir) = fresh().await;
        let q = queue("q");
        store.set_live(&q, "limit", Some("3")).await.unwrap();
        store.set_live(&q, "gone", Some("1")).await.unwrap();
        store.set_live(&q, "gone", None).await.unwrap();
        assert_eq!(
            store.live(&q).await.unwrap().into_iter().collect::<Vec<_>>(),
            [("limit".into(), "3".into())]
        );
        assert_eq!(pull(&store, &q, 1).await.live_version, 3);
        assert_eq!(store.queues().await.unwrap(), [q]);
        let beat = |host: &str| HostBeat {
            host: host.into(),
            record: format!("{{\"host\":\"{host}\"}}"),
            lease: LEASE,
        };
        store.beat(&beat("b")).await.unwrap();
        store.beat(&beat("a")).await.unwrap();
        store.beat(&beat("c")).await.unwrap();
        store.leave("c").await.unwrap();
        assert_eq!(store.hosts().await.unwrap(), [r#"{"host":"a"}"#, r#"{"host":"b"}"#]);
        store.pass(LEASE);
        assert!(store.hosts().await.unwrap().is_empty());
        assert_eq!(open(dir.path()).await.hosts().await.unwrap().len(), 2, "by its own clock");
    }
}
