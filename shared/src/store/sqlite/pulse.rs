//! What a master looks at and tidies once a second.

use std::time::Duration;

use rusqlite::{OptionalExtension as _, params};

use super::deliver::next_rank;
use super::fault::Fault;
use super::settle::{forget_oldest, remove_ended, remove_oldest};
use super::tx::{Tx, View, code, rows};
use crate::clock::StoreTime;
use crate::job::FinalState;
use crate::names::{QueueName, WorkerId};
use crate::store::{Glimpse, MAX_BATCH, Pulse, Retention};

/// A gap in the pulses of more than this means that nobody could renew either.
const GAP: Duration = Duration::from_secs(3);
const MAX_LAPSED: usize = 16;
/// Ready jobs are counted so far.
const COUNTED: u64 = MAX_BATCH as u64 * 16;
/// Rows that one trim removes of each kind.
const PIECE: u64 = 512;
/// A worker that was swept is told so for this long.
const LOST_FOR: Duration = Duration::from_secs(3600);

pub(super) fn pulse(
    tx: &mut Tx<'_>,
    name: &QueueName,
    lease: Duration,
    ahead: Duration,
) -> Result<Pulse, Fault> {
    let now = tx.now();
    let Some(at) = tx.find(name)? else { return Ok(Pulse { now, ..Pulse::default() }) };
    let no = tx.queue(at).no;
    let silent = now.since(tx.queue(at).last_pulse) > GAP;
    let mut first = tx.sql("SELECT 1 FROM leases WHERE queue = ?1")?;
    let held_back = silent && first.exists([no])?;
    let queue = tx.change(at);
    queue.last_pulse = now;
    if held_back {
        queue.hold_until = now + lease;
    }
    // After the clock went back, nothing is held back for longer than a lease.
    queue.hold_until = queue.hold_until.min(now + lease);
    let queue = queue.clone();
    let mut lapsed = Vec::new();
    if now >= queue.hold_until {
        let mut read =
            tx.sql("SELECT worker FROM leases WHERE queue = ?1 AND until <= ?2 ORDER BY until LIMIT ?3")?;
        let workers =
            read.query_map(params![no, now.as_micros(), rows(MAX_LAPSED)], |row| row.get::<_, String>(0))?;
        for worker in workers {
            lapsed.extend(WorkerId::new(&worker?).ok());
        }
    }
    let depth = Depth::of(&tx.view, no, queue.waiting, COUNTED)?;
    let soon = depth.next_due.is_some_and(|due| due <= now + ahead);
    let soon = if soon { Depth::within(&tx.view, no, now + ahead, COUNTED)? } else { 0 };
    Ok(Pulse {
        now,
        paused: queue.paused,
        ready: depth.ready.min(COUNTED),
        waiting: queue.waiting,
        running: queue.running,
        oldest_due: depth.oldest_due,
        next_due: depth.next_due,
        soon,
        lapsed,
        outbox: queue.outbox,
        inbox: 0,
        live_version: queue.live_version,
        enqueued: queue.enqueued,
        ended: queue.ended,
    })
}

pub(super) fn glimpse(view: &View<'_>, name: &QueueName) -> Result<Glimpse, Fault> {
    let Some(queue) = view.queue(name)? else { return Ok(Glimpse::default()) };
    Ok(Glimpse {
        waiting: queue.waiting,
        running: queue.running,
        paused: queue.paused,
        live_version: queue.live_version,
        enqueued: queue.enqueued,
        ended: queue.ended,
    })
}

/// The waiting jobs of a queue, seen by the clock.
#[derive(Debug, Default)]
pub(super) struct Depth {
    pub(super) ready: u64,
    /// The due time of the job that has been due longest.
    pub(super) oldest_due: Option<StoreTime>,
    /// The first due time after now.
    pub(super) next_due: Option<StoreTime>,
}

impl Depth {
    /// Counts at most `limit` ready jobs.
    pub(super) fn of(view: &View<'_>, queue: i64, waiting: u64, limit: u64) -> Result<Self, Fault> {
        let mut depth = Self::default();
        if waiting == 0 {
            return Ok(depth);
        }
        let now = view.now.as_micros();
        let mut count = view.sql(
            "SELECT count(*) FROM
                (SELECT 1 FROM waiting WHERE queue = ?1 AND rank = ?2 AND score <= ?3 LIMIT ?4)",
        )?;
        let mut after = view.sql(
            "SELECT score FROM waiting WHERE queue = ?1 AND rank = ?2 AND score > ?3 ORDER BY score LIMIT 1",
        )?;
        let earlier = |a: Option<StoreTime>, b: i64| {
            let b = StoreTime::from_micros(b);
            Some(a.map_or(b, |a| a.min(b)))
        };
        let mut rank = i64::MIN;
        while let Some((next, score)) = next_rank(view, queue, rank)? {
            rank = next;
            if score > now {
                depth.next_due = earlier(depth.next_due, score);
                continue;
            }
            depth.oldest_due = earlier(depth.oldest_due, score);
            let left = i64::try_from(limit.saturating_sub(depth.ready)).unwrap_or(0);
            if left > 0 {
                let ready: i64 = count.query_row([queue, rank, now, left], |row| row.get(0))?;
                depth.ready += u64::try_from(ready).unwrap_or(0);
            }
            if let Some(score) = after.query_row([queue, rank, now], |row| row.get(0)).optional()? {
                depth.next_due = earlier(depth.next_due, score);
            }
        }
        Ok(depth)
    }

    /// Counts scheduled jobs, at most `limit`.
    pub(super) fn scheduled(view: &View<'_>, queue: i64, limit: u64) -> Result<u64, Fault> {
        Self::within(view, queue, StoreTime::from_micros(i64::MAX), limit)
    }

    /// Counts jobs that fall due after now and until then, at most `limit`.
    fn within(view: &View<'_>, queue: i64, until: StoreTime, limit: u64) -> Result<u64, Fault> {
        let mut count = view.sql(
            "SELECT count(*) FROM
                (SELECT 1 FROM waiting WHERE queue = ?1 AND rank = ?2 AND score > ?3 AND score <= ?5 LIMIT ?4)",
        )?;
        let (mut rank, mut scheduled) = (i64::MIN, 0);
        while let Some((next, _)) = next_rank(view, queue, rank)? {
            rank = next;
            let left = i64::try_from(limit - scheduled).unwrap_or(0);
            if left == 0 {
                break;
            }
            let more: i64 = count
                .query_row([queue, rank, view.now.as_micros(), left, until.as_micros()], |row| row.get(0))?;
            scheduled += u64::try_from(more).unwrap_or(0);
        }
        Ok(scheduled)
    }
}

pub(super) fn trim(tx: &mut Tx<'_>, name: &QueueName, retention: &Retention) -> Result<bool, Fault> {
    let Some(at) = tx.find(name)? else { return Ok(false) };
    let now = tx.now();
    let mut more = false;
    for state in FinalState::ALL {
        let (keep, max) = match state {
            FinalState::Dead => (retention.keep_dead, retention.keep_dead_max),
            FinalState::Done | FinalState::Cancelled | FinalState::Expired => {
                (retention.keep_done, retention.keep_done_max)
            }
        };
        let kept = tx.queue(at).kept[usize::try_from(code(state) - 1).unwrap_or(0)];
        let mut removed = 0;
        if kept > max {
            removed += remove_oldest(tx, at, state, (kept - max).min(PIECE))?;
        }
        if kept > removed && removed < PIECE {
            removed += remove_ended(tx, at, state, PIECE - removed, (now - keep).as_micros())?;
        }
        more |= removed >= PIECE;
    }
    let remembered = tx.queue(at).remembered;
    if remembered > 0 {
        let mut forgotten = forget_oldest(tx, at, PIECE, (now - retention.remember_ids).as_micros())?;
        let left = tx.queue(at).remembered;
        if left > retention.remember_ids_max && forgotten < PIECE {
            let over = (left - retention.remember_ids_max).min(PIECE - forgotten);
            forgotten += forget_oldest(tx, at, over, i64::MAX)?;
        }
        more |= forgotten >= PIECE;
    }
    let no = tx.queue(at).no;
    tx.sql("DELETE FROM lost WHERE queue = ?1 AND at <= ?2")?.execute([no, (now - LOST_FOR).as_micros()])?;
    Ok(more)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::job::{Outcome, State};
    use crate::store::sqlite::testing::*;

    #[tokio::test]
    async fn leases_lapse_unless_nobody_could_renew() {
        let (store, _dir) = fresh().await;
        let (q, lease) = (queue("q"), Duration::from_secs(15));
        store.enqueue(&q, &[job("a", "1"), timer("b", 3600)], 100).await.unwrap();
        assert_eq!(pull(&store, &q, 10).await.deliveries.len(), 1);
        for _ in 0..8 {
            store.pass(Duration::from_secs(2));
            assert!(store.pulse(&q, lease, Duration::ZERO).await.unwrap().lapsed.is_empty());
        }
        // The first pulse of all, 2 s after the lease was taken, held lapsing back until 17 s.
        store.pass(Duration::from_secs(2));
        let pulse = store.pulse(&q, lease, Duration::ZERO).await.unwrap();
        assert_eq!(pulse.lapsed, [worker()]);
        assert_eq!((pulse.waiting, pulse.running, pulse.ready), (1, 1, 0));
        assert!(pulse.next_due.is_some() && pulse.oldest_due.is_none());
        store.pass(Duration::from_secs(30));
        assert!(
            store.pulse(&q, lease, Duration::ZERO).await.unwrap().lapsed.is_empty(),
            "nobody could renew for 30 s"
        );
    }

    #[tokio::test]
    async fn what_has_ended_goes_by_age_and_by_count() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        let mut limits = retention();
        limits.keep_done_max = 5;
        let jobs: Vec<_> = (0..20).map(|n| job(&format!("j{n:02}"), "1")).collect();
        store.enqueue(&q, &jobs, 100).await.unwrap();
        finish_all(&store, &q, &limits).await;
        let page = store.list(&q, State::Done, None, 100).await.unwrap();
        let ids: Vec<_> = page.found.iter().map(|found| found.id.as_str()).collect();
        assert_eq!(ids, ["j19", "j18", "j17", "j16", "j15"]);
        store.enqueue(&q, &[job("x", "1")], 100).await.unwrap();
        settle_all(&store, &q, &limits, || Outcome::Dead { error: "no".into() }).await;
        store.pass(limits.keep_done + Duration::from_secs(1));
        while store.trim(&q, &limits).await.unwrap() {}
        let view = store.overview(&q).await.unwrap();
        assert_eq!((view.done, view.dead, view.ended_total), (0, 1, 21));
    }
}
