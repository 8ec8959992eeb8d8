//! Writing down how deliveries ended.

use rusqlite::{CachedStatement, OptionalExtension as _, params};

use super::deliver::{Lease, lease};
use super::enqueue::{front, wait};
use super::fault::Fault;
use super::hints::Nudge;
use super::tx::{Raw, Tx, code};
use crate::clock::StoreTime;
use crate::job::settle::{Again, FollowUp, Settlement, Write};
use crate::job::{Attempt, Due, FinalState, Progress};
use crate::store::{Answer, Retention, SettleRequest};

/// While the disk is nearly full, so many of a queue's jobs that ended well are kept in each state, for whoever waits for
/// one of them, and only those whose record and progress are no longer than this: in bytes.
const TIGHT_KEPT: u64 = 64;
const TIGHT_RECORD: i64 = 4096;
const TIGHT_PROGRESS: usize = 1024;
/// So many more ended jobs than the call added are removed at once, where a limit was lowered.
const EXTRA_REMOVALS: u64 = 256;

pub(super) fn settle(tx: &mut Tx<'_>, request: &SettleRequest) -> Result<Vec<Answer>, Fault> {
    let Some(at) = tx.find(&request.queue)? else { return Ok(vec![Answer::Gone; request.settlements.len()]) };
    let (no, held_back) = {
        let queue = tx.queue(at);
        (queue.no, queue.hold_until > tx.now())
    };
    let mut lease = lease(&tx.view, no, &request.worker)?;
    if request.only_if_lapsed {
        let swept = is_lost(tx, no, request)?;
        let lapsed = lease.is_some_and(|lease| lease.until <= tx.now()) && !held_back;
        if !lapsed && !swept {
            return Ok(vec![Answer::Stale; request.settlements.len()]);
        }
        if !lapsed {
            // A sweep that was done before: repeat its answers, take nothing.
            lease = None;
        }
    }
    let mut sheet = Sheet::new(tx, at, Some(&request.retention))?;
    let mut taker = Taker::new(tx, no)?;
    let mut answers = Vec::with_capacity(request.settlements.len());
    let mut nudge = Nudge::work(&request.queue);
    let (mut released, mut fronts) = (0, Vec::new());
    for item in &request.settlements {
        let taken = match lease {
            Some(lease) => taker.take_back(tx, lease, item)?,
            None => None,
        };
        let Some(taken) = taken else {
            answers.push(written_before(tx, no, item)?);
            continue;
        };
        released += 1;
        let known = match (&item.write, &item.if_cancelled) {
            (Write::Finish { state, follow_ups }, _) => finish(tx, &mut sheet, item, *state, follow_ups)?,
            // Whoever cancelled it was promised that it does not start again, however its worker fared.
            (Write::Return { .. }, Some(ended)) if taken.cancelled => {
                let (id, state) = (item.id.as_str(), FinalState::Cancelled);
                sheet.enter(tx, id, state, &ended.progress, ended.remember.as_deref())?
            }
            (Write::Return { again }, _) => {
                let known = put_back(tx, at, no, item, *again, &mut nudge)?;
                if known && *again == Again::Front {
                    fronts.push((item, taken.due));
                }
                known
            }
        };
        answers.push(if known { Answer::Ok } else { Answer::Gone });
    }
    // From the last to the first, each before the others: they keep their order.
    for (item, due) in fronts.into_iter().rev() {
        let rank = -i64::from(item.priority);
        let score = front(tx, no, rank, due)?;
        place(tx, no, item, score)?;
        nudge.add(score, tx.now());
    }
    let queue = tx.change(at);
    queue.running = queue.running.saturating_sub(u64::try_from(released).unwrap_or(0));
    if let (Some(lease), 1..) = (lease, released) {
        let_go(tx, lease, released)?;
        if request.only_if_lapsed {
            tx.sql("REPLACE INTO lost (queue, worker, at) VALUES (?1, ?2, ?3)")?.execute(params![
                no,
                request.worker.as_str(),
                tx.now().as_micros()
            ])?;
        }
    }
    sheet.shorten(tx)?;
    // Whoever moves follow-ups looks at the queue when it is told of a change.
    let sent =
        |item: &Settlement| matches!(&item.write, Write::Finish { follow_ups, .. } if !follow_ups.is_empty());
    if request.settlements.iter().any(sent) {
        tx.nudge(Nudge::Changed { queue: request.queue.clone() });
    }
    if !nudge.is_empty() {
        tx.nudge(nudge);
    }
    Ok(answers)
}

fn is_lost(tx: &Tx<'_>, no: i64, request: &SettleRequest) -> Result<bool, Fault> {
    let mut lost = tx.sql("SELECT 1 FROM lost WHERE queue = ?1 AND worker = ?2")?;
    Ok(lost.exists(params![no, request.worker.as_str()])?)
}

/// What was taken out of the unacked.
struct Taken {
    due: StoreTime,
    /// Its worker had been told to cancel it.
    cancelled: bool,
}

/// Takes deliveries out of the unacked.
struct Taker<'c> {
    no: i64,
    remove: CachedStatement<'c>,
}

impl<'c> Taker<'c> {
    fn new(tx: &Tx<'c>, no: i64) -> Result<Self, Fault> {
        let remove =
            tx.sql("DELETE FROM unacked WHERE queue = ?1 AND id = ?2 AND token = ?3 AND lease = ?4")?;
        Ok(Self { no, remove })
    }

    /// Takes one out if it is the current one.
    fn take_back(&mut self, tx: &Tx<'_>, lease: Lease, item: &Settlement) -> Result<Option<Taken>, Fault> {
        let key = params![self.no, item.id.as_str(), item.token, lease.no];
        // Only what goes to the front needs its due time again.
        let due = if matches!(item.write, Write::Return { again: Again::Front }) {
            tx.sql("SELECT due FROM unacked WHERE queue = ?1 AND id = ?2 AND token = ?3 AND lease = ?4")?
                .query_row(key, |row| row.get(0))
                .optional()?
        } else {
            Some(0)
        };
        let Some(due) = due else { return Ok(None) };
        if self.remove.execute(key)? == 0 {
            return Ok(None);
        }
        let mut cancelled = false;
        if lease.cancels > 0 {
            let cleared = tx
                .sql("DELETE FROM cancels WHERE lease = ?1 AND id = ?2")?
                .execute(params![lease.no, item.id.as_str()])?;
            cancelled = cleared > 0;
            if cancelled {
                tx.sql("UPDATE leases SET cancels = cancels - 1 WHERE no = ?1")?.execute([lease.no])?;
            }
        }
        Ok(Some(Taken { due: StoreTime::from_micros(due), cancelled }))
    }
}

/// What a delivery that is not the current one is answered: a repeated call gets its first answer again.
fn written_before(tx: &Tx<'_>, no: i64, item: &Settlement) -> Result<Answer, Fault> {
    let stored: Option<Option<String>> = tx
        .sql(
            "SELECT substr(coalesce(e.progress, j.progress), 1, 24)
             FROM jobs j LEFT JOIN ended e ON e.queue = j.queue AND e.state = j.place AND e.seq = j.at
             WHERE j.queue = ?1 AND j.id = ?2",
        )?
        .query_row(params![no, item.id.as_str()], |row| row.get(0))
        .optional()?;
    Ok(match stored {
        None => Answer::Gone,
        Some(progress) => {
            let token = progress
                .as_deref()
                .and_then(|text| text.split_once(' '))
                .and_then(|(token, _)| token.parse().ok());
            if token == Some(item.token) { Answer::Ok } else { Answer::Stale }
        }
    })
}

/// A worker that holds nothing more has no lease.
fn let_go(tx: &Tx<'_>, lease: Lease, released: i64) -> Result<(), Fault> {
    if lease.held > released {
        tx.sql("UPDATE leases SET held = held - ?2 WHERE no = ?1")?.execute([lease.no, released])?;
    } else {
        tx.sql("DELETE FROM leases WHERE no = ?1")?.execute([lease.no])?;
        if lease.cancels > 0 {
            tx.sql("DELETE FROM cancels WHERE lease = ?1")?.execute([lease.no])?;
        }
    }
    Ok(())
}

/// Lets a job wait again. What goes to the front is placed by the caller, when it knows all that does.
fn put_back(
    tx: &mut Tx<'_>,
    at: usize,
    no: i64,
    item: &Settlement,
    again: Again,
    nudge: &mut Nudge,
) -> Result<bool, Fault> {
    let rank = -i64::from(item.priority);
    let known = tx
        .sql("UPDATE jobs SET place = 0, rank = ?3, progress = ?4 WHERE queue = ?1 AND id = ?2")?
        .execute(params![no, item.id.as_str(), rank, item.progress])?;
    if known == 0 {
        return Ok(false);
    }
    if let Again::After(span) = again {
        let now = tx.now();
        place(tx, no, item, now + span)?;
        nudge.add(now + span, now);
    }
    tx.change(at).waiting += 1;
    Ok(true)
}

/// Enters a job among the waiting ones.
fn place(tx: &Tx<'_>, no: i64, item: &Settlement, score: StoreTime) -> Result<(), Fault> {
    let id = item.id.as_str();
    tx.sql("UPDATE jobs SET at = ?3 WHERE queue = ?1 AND id = ?2")?.execute(params![
        no,
        id,
        score.as_micros()
    ])?;
    wait(tx, no, -i64::from(item.priority), score, id)
}

fn finish(
    tx: &mut Tx<'_>,
    sheet: &mut Sheet<'_, '_>,
    item: &Settlement,
    state: FinalState,
    follow_ups: &[FollowUp],
) -> Result<bool, Fault> {
    let known = sheet.enter(tx, item.id.as_str(), state, &item.progress, item.remember.as_deref())?;
    if known {
        for follow_up in follow_ups {
            send(tx, sheet.at, sheet.no, follow_up)?;
        }
    }
    Ok(known)
}

/// Enters jobs under their final states, and removes the oldest beyond the limits.
pub(super) struct Sheet<'c, 'r> {
    at: usize,
    no: i64,
    write: CachedStatement<'c>,
    enter: CachedStatement<'c>,
    /// Where no limits are known, [`super::pulse::trim`] applies them later.
    retention: Option<&'r Retention>,
    added: [u64; 4],
    remembered: u64,
}

impl<'c, 'r> Sheet<'c, 'r> {
    pub(super) fn new(tx: &Tx<'c>, at: usize, retention: Option<&'r Retention>) -> Result<Self, Fault> {
        let write =
            tx.sql("UPDATE jobs SET place = ?3, at = ?4, progress = NULL WHERE queue = ?1 AND id = ?2")?;
        let enter = tx
            .sql("INSERT INTO ended (queue, state, seq, id, at, progress) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        Ok(Self { at, no: tx.queue(at).no, write, enter, retention, added: [0; 4], remembered: 0 })
    }

    /// The job has ended. `false` if it has no row.
    pub(super) fn enter(
        &mut self,
        tx: &mut Tx<'_>,
        id: &str,
        state: FinalState,
        progress: &str,
        remember: Option<&str>,
    ) -> Result<bool, Fault> {
        let (now, state_code) = (tx.now().as_micros(), code(state));
        let brief;
        let mut progress = progress;
        if tx.tight && state != FinalState::Dead {
            // The disk is nearly full: room for acknowledgements is worth more than history.
            let gone = tx
                .sql("DELETE FROM jobs WHERE queue = ?1 AND id = ?2 AND length(record) > ?3")?
                .execute(params![self.no, id, TIGHT_RECORD])?;
            if gone > 0 {
                return self.count(tx, id, remember);
            }
            brief = shortened(progress);
            progress = &brief;
        }
        let seq = tx.change(self.at).next_seq();
        if self.write.execute(params![self.no, id, state_code, seq])? == 0 {
            return Ok(false);
        }
        self.enter.execute(params![self.no, state_code, seq, id, now, progress])?;
        *tx.change(self.at).kept(state_code) += 1;
        self.added[usize::try_from(state_code - 1).unwrap_or(0)] += 1;
        self.count(tx, id, remember)
    }

    /// A job has ended, whether it is kept or not.
    fn count(&mut self, tx: &mut Tx<'_>, id: &str, remember: Option<&str>) -> Result<bool, Fault> {
        let now = tx.now().as_micros();
        tx.change(self.at).ended += 1;
        if let Some(digest) = remember {
            let new = tx
                .sql("INSERT INTO remembered (queue, id, digest, at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?
                .execute(params![self.no, id, digest, now])?;
            if new == 0 {
                tx.sql("UPDATE remembered SET digest = ?3, at = ?4 WHERE queue = ?1 AND id = ?2")?
                    .execute(params![self.no, id, digest, now])?;
            } else {
                tx.change(self.at).remembered += 1;
                self.remembered += 1;
            }
        }
        Ok(true)
    }

    /// Keeps to the limits by count. Costs no more than was added, but for a little where a limit was lowered.
    pub(super) fn shorten(&self, tx: &mut Tx<'_>) -> Result<(), Fault> {
        let Some(retention) = self.retention else { return Ok(()) };
        for state in FinalState::ALL {
            let added = self.added[usize::try_from(code(state) - 1).unwrap_or(0)];
            let max = match state {
                FinalState::Dead => retention.keep_dead_max,
                FinalState::Done | FinalState::Cancelled | FinalState::Expired if tx.tight => {
                    retention.keep_done_max.min(TIGHT_KEPT)
                }
                FinalState::Done | FinalState::Cancelled | FinalState::Expired => retention.keep_done_max,
            };
            let kept = *tx.change(self.at).kept(code(state));
            if (added > 0 || tx.tight) && kept > max {
                remove_oldest(tx, self.at, state, (kept - max).min(added + EXTRA_REMOVALS))?;
            }
        }
        let remembered = tx.queue(self.at).remembered;
        if self.remembered > 0 && remembered > retention.remember_ids_max {
            let over = (remembered - retention.remember_ids_max).min(self.remembered + EXTRA_REMOVALS);
            forget_oldest(tx, self.at, over, i64::MAX)?;
        }
        Ok(())
    }
}

/// A progress of bounded length: where its result is too long, it says that it is gone.
fn shortened(progress: &str) -> String {
    let read = (progress.len() > TIGHT_PROGRESS).then(|| Progress::decode(progress)).flatten();
    let Some((token, mut read)) = read else { return progress.to_owned() };
    if read.result.take().is_some() {
        read.error = Some("its result could not be kept: the disk is full".to_owned());
    }
    let last = read.attempts.pop().map(|last| Attempt { stderr_tail: None, error: None, ..last });
    read.attempts = last.into_iter().collect();
    read.encode(token)
}

/// Removes the oldest jobs of a final state with all that is known of them.
pub(super) fn remove_oldest(tx: &mut Tx<'_>, at: usize, state: FinalState, count: u64) -> Result<u64, Fault> {
    remove_ended(tx, at, state, count, i64::MAX)
}

/// The same, but only of those that had ended by `until`.
pub(super) fn remove_ended(
    tx: &mut Tx<'_>,
    at: usize,
    state: FinalState,
    count: u64,
    until: i64,
) -> Result<u64, Fault> {
    let (no, state) = (tx.queue(at).no, code(state));
    let mut oldest =
        tx.sql("SELECT seq, id, at FROM ended WHERE queue = ?1 AND state = ?2 ORDER BY seq LIMIT ?3")?;
    let mut remove = tx.sql("DELETE FROM jobs WHERE queue = ?1 AND id = ?2")?;
    let (mut last, mut removed) = (None, 0);
    {
        let mut rows = oldest.query(params![no, state, i64::try_from(count).unwrap_or(i64::MAX)])?;
        while let Some(row) = rows.next()? {
            if row.get::<_, i64>(2)? > until {
                break;
            }
            remove.execute(params![no, Raw(row.get_ref(1)?.as_bytes().unwrap_or_default())])?;
            last = Some(row.get::<_, i64>(0)?);
            removed += 1;
        }
    }
    if let Some(seq) = last {
        tx.sql("DELETE FROM ended WHERE queue = ?1 AND state = ?2 AND seq <= ?3")?
            .execute([no, state, seq])?;
        let kept = tx.change(at).kept(state);
        *kept = kept.saturating_sub(removed);
    }
    Ok(removed)
}

/// Forgets the chosen ids that have been remembered longest, if they ended by `until`.
pub(super) fn forget_oldest(tx: &mut Tx<'_>, at: usize, count: u64, until: i64) -> Result<u64, Fault> {
    let no = tx.queue(at).no;
    let forgotten = tx
        .sql(
            "DELETE FROM remembered WHERE queue = ?1 AND id IN
                (SELECT id FROM remembered WHERE queue = ?1 AND at <= ?3 ORDER BY at LIMIT ?2)",
        )?
        .execute(params![no, i64::try_from(count).unwrap_or(i64::MAX), until])?;
    let forgotten = u64::try_from(forgotten).unwrap_or(0);
    let queue = tx.change(at);
    queue.remembered = queue.remembered.saturating_sub(forgotten);
    Ok(forgotten)
}

/// Puts a follow-up into the outbox.
fn send(tx: &mut Tx<'_>, at: usize, no: i64, follow_up: &FollowUp) -> Result<(), Fault> {
    let job = &follow_up.job;
    let (kind, due) = match job.due {
        Due::Now => (0, 0),
        Due::In(span) => (1, i64::try_from(span.as_micros()).unwrap_or(i64::MAX)),
        Due::At(due) => (2, due.as_micros()),
    };
    let queue = tx.change(at);
    queue.outbox += 1;
    let seq = queue.next_seq();
    tx.sql(
        "INSERT INTO outbox (queue, seq, target, id, due_kind, due, priority, expires, content)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        no,
        seq,
        follow_up.queue.as_str(),
        job.id.as_str(),
        kind,
        due,
        job.priority,
        job.expires.map(StoreTime::as_micros),
        job.content,
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::job::settle::FollowUp;
    use crate::job::{Due, Outcome, State};
    use crate::store::sqlite::testing::*;
    use crate::store::{Answer, RenewRequest};

    #[tokio::test]
    async fn only_the_current_delivery_is_settled_and_repeats_get_the_same_answer() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        store.enqueue(&q, &[job("a", "1"), job("b", "1")], 100).await.unwrap();
        let first = pull(&store, &q, 2).await.deliveries;
        assert_eq!(end(&store, &q, &first[..1], || Outcome::GiveBack).await, [Answer::Ok]);
        assert_eq!(
            end(&store, &q, &first[..1], || Outcome::GiveBack).await,
            [Answer::Ok],
            "repeated while it waits"
        );
        let second = pull(&store, &q, 2).await.deliveries;
        assert_eq!(second[0].id, id("a"));
        assert_eq!(second[0].due.as_millis(), first[0].due.as_millis(), "the front changes no due time");
        assert_eq!(end(&store, &q, &first[..1], done).await, [Answer::Ok], "repeated while it runs again");
        assert_eq!(end(&store, &q, &second, done).await, [Answer::Ok]);
        assert_eq!(end(&store, &q, &second, done).await, [Answer::Ok]);
        assert_eq!(end(&store, &q, &first[..1], done).await, [Answer::Stale]);
        let mut stranger = first[1].clone();
        stranger.token += 1;
        assert_eq!(end(&store, &q, &[stranger.clone()], done).await, [Answer::Stale]);
        stranger.id = id("nobody");
        assert_eq!(end(&store, &q, &[stranger, first[1].clone()], done).await, [Answer::Gone, Answer::Ok]);
        assert_eq!(store.overview(&q).await.unwrap().ended_total, 2);
    }

    #[tokio::test]
    async fn retries_wait_and_the_front_is_first() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        store.enqueue(&q, &[job("a", "1"), job("b", "1"), job("c", "1")], 100).await.unwrap();
        let held = pull(&store, &q, 2).await.deliveries;
        let again = || Outcome::Retry { error: "no".into(), after: Some(Duration::from_secs(30)) };
        end(&store, &q, &held[..1], again).await;
        end(&store, &q, &held[1..], || Outcome::GiveBack).await;
        let pulled = pull(&store, &q, 9).await;
        let ids: Vec<_> = pulled.deliveries.iter().map(|delivery| delivery.id.as_str()).collect();
        assert_eq!(ids, ["b", "c"]);
        assert!(pulled.next_due.unwrap() > pulled.now + Duration::from_secs(25));
        store.pass(Duration::from_secs(31));
        let retried = pull(&store, &q, 9).await.deliveries.remove(0);
        assert_eq!((retried.attempt(), retried.progress.failures), (2, 1));
        assert_eq!(retried.due, pulled.next_due.unwrap());
    }

    #[tokio::test]
    async fn only_lapsed_leases_are_swept_and_the_worker_learns_of_it() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        store.enqueue(&q, &[job("a", "1")], 100).await.unwrap();
        let pulled = pull(&store, &q, 1).await;
        let lapse = settlement(&pulled.deliveries[0], &worker(), Outcome::Lapsed, pulled.now);
        let mut sweep = settle_request(&q, &worker(), vec![lapse]);
        sweep.only_if_lapsed = true;
        assert_eq!(store.exchange(Some(&sweep), None).await.unwrap().0, [Answer::Stale]);
        store.pulse(&q, LEASE, Duration::ZERO).await.unwrap();
        store.pass(LEASE + Duration::from_secs(1));
        assert!(store.pulse(&q, LEASE, Duration::ZERO).await.unwrap().lapsed.is_empty());
        assert_eq!(store.exchange(Some(&sweep), None).await.unwrap().0, [Answer::Stale], "held back");
        for _ in 0..9 {
            store.pass(Duration::from_secs(2));
            store.pulse(&q, LEASE, Duration::ZERO).await.unwrap();
        }
        assert_eq!(store.exchange(Some(&sweep), None).await.unwrap().0, [Answer::Ok]);
        assert_eq!(store.exchange(Some(&sweep), None).await.unwrap().0, [Answer::Ok], "repeated");
        let renewal = RenewRequest { queue: q.clone(), worker: worker(), lease: LEASE, marks: Vec::new() };
        assert!(store.renew(&renewal).await.unwrap().lost);
        let next = store.exchange(None, Some(&pull_request(&q, &named("2"), 1))).await.unwrap().1.unwrap();
        assert_eq!(next.deliveries[0].progress.killed, 1);
    }

    #[tokio::test]
    async fn follow_ups_come_with_the_ack() {
        let (store, _dir) = fresh().await;
        let q = queue("q");
        store.enqueue(&q, &[job("a", "1")], 100).await.unwrap();
        let held = pull(&store, &q, 1).await.deliveries;
        let mut later = timer("x.1", 5);
        later.priority = 3;
        let sent = [
            FollowUp { queue: queue("r"), job: job("x.0", "2") },
            FollowUp { queue: queue("r"), job: later },
        ];
        let outcome = || Outcome::Done { result: None, follow_ups: sent.to_vec(), note: None };
        assert_eq!(end(&store, &q, &held, outcome).await, [Answer::Ok]);
        assert_eq!(end(&store, &q, &held, outcome).await, [Answer::Ok]);
        let out = store.outbox(&q).await.unwrap();
        assert_eq!(out.iter().map(|o| o.follow_up.clone()).collect::<Vec<_>>(), sent);
        assert_eq!(store.pulse(&q, LEASE, Duration::ZERO).await.unwrap().outbox, 2);
        store.outbox_moved(&q, &[out[0].ticket.clone()]).await.unwrap();
        store.outbox_moved(&q, &[out[0].ticket.clone()]).await.unwrap();
        assert_eq!(store.outbox(&q).await.unwrap(), out[1..]);
        assert_eq!(store.overview(&q).await.unwrap().outbox, 1);
        assert_eq!(out[1].follow_up.job.due, Due::In(Duration::from_secs(5)));
        assert_eq!(store.list(&q, State::Done, None, 9).await.unwrap().found.len(), 1);
    }
}
