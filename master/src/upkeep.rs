//! What every queue needs now and then: ended jobs trimmed, follow-ups moved to their queues, live settings read, and
//! expired jobs ended where the queue is paused, so that nobody pulls them.
//! Driven by the pulses, so that a queue without news costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::job::State;
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::store::{Outgoing, Pulse, Retention, Store, StoreError};
use tokio::sync::mpsc;

use crate::event::Event;

/// A queue in which nothing ends is trimmed so often, for what grows old.
const TRIM_IDLE: Duration = Duration::from_secs(60);
/// Pieces of one queue's trimming before others have their turn.
const TRIMS: usize = 8;
/// Batches of follow-ups that are moved before others have their turn.
const MOVES: usize = 8;

/// A paused queue is gone through for expired jobs in pages of so many, so far apart.
const EXPIRE_PAGE: usize = 64;
const EXPIRE_PACE: Duration = Duration::from_millis(50);
/// It is gone through again after this, and after a multiple of the time that it took.
const EXPIRE_AGAIN: Duration = Duration::from_secs(5);
const EXPIRE_REST: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Work {
    Trim,
    Expire,
    Outbox,
    Live { version: u64 },
}

impl Work {
    /// One of a kind at a time.
    const fn kind(self) -> u8 {
        match self {
            Self::Trim => 0,
            Self::Outbox => 1,
            Self::Live { .. } => 2,
            Self::Expire => 3,
        }
    }
}

/// What was done for each queue.
#[derive(Debug, Default)]
pub(crate) struct Upkeep(BTreeMap<QueueName, Kept>);

#[derive(Debug, Default)]
struct Kept {
    trimmed: Option<(Mono, u64)>,
    live: u64,
    /// When it was last gone through for expired jobs, and when it is to be again.
    swept: Option<(Mono, Mono)>,
    going: BTreeSet<u8>,
}

impl Upkeep {
    /// What a pulse asks for; each is reported by [`Upkeep::done`].
    pub(crate) fn look(&mut self, now: Mono, queue: &QueueName, pulse: &Pulse) -> Vec<Work> {
        let kept = self.0.entry(queue.clone()).or_default();
        let mut works = Vec::new();
        let trim = kept.trimmed.is_none_or(|(at, ended)| ended != pulse.ended || now.since(at) >= TRIM_IDLE);
        if trim && !kept.going.contains(&Work::Trim.kind()) {
            kept.trimmed = Some((now, pulse.ended));
            works.push(Work::Trim);
        }
        if pulse.outbox > 0 {
            works.push(Work::Outbox);
        }
        if pulse.live_version != kept.live {
            works.push(Work::Live { version: pulse.live_version });
        }
        let swept = kept.swept.is_some_and(|(_, again)| now < again);
        if pulse.paused && pulse.ready > 0 && !swept && !kept.going.contains(&Work::Expire.kind()) {
            kept.swept = Some((now, now));
            works.push(Work::Expire);
        }
        works.retain(|work| kept.going.insert(work.kind()));
        works
    }

    /// A work ended, well or not: what failed is asked for again by the next pulse.
    pub(crate) fn done(&mut self, now: Mono, queue: &QueueName, work: Work) {
        if let Some(kept) = self.0.get_mut(queue) {
            kept.going.remove(&work.kind());
            if let (Work::Expire, Some((began, again))) = (work, &mut kept.swept) {
                *again = now + EXPIRE_AGAIN.max(now.since(*began) * EXPIRE_REST);
            }
        }
    }

    /// The live settings of this version are in force.
    pub(crate) fn lives(&mut self, queue: &QueueName, version: u64) {
        self.0.entry(queue.clone()).or_default().live = version;
    }
}

/// Does it, and tells the loop.
pub(crate) async fn carry_out(
    store: Store,
    queue: QueueName,
    work: Work,
    retention: Retention,
    events: mpsc::Sender<Event>,
) {
    let done = match work {
        Work::Trim => trim(&store, &queue, &retention).await,
        Work::Expire => expire(&store, &queue).await,
        Work::Outbox => deliver(&store, &queue).await,
        Work::Live { version } => match store.live(&queue).await {
            Ok(live) => {
                let _ = events.send(Event::Live { queue: queue.clone(), version, live }).await;
                Ok(())
            }
            Err(error) => Err(error),
        },
    };
    if let Err(error) = done {
        tracing::debug!(%queue, ?work, %error, "upkeep failed; the next look tries again");
    }
    let _ = events.send(Event::Kept { queue, work }).await;
}

async fn trim(store: &Store, queue: &QueueName, retention: &Retention) -> Result<(), StoreError> {
    for _ in 0..TRIMS {
        if !store.trim(queue, retention).await? {
            break;
        }
    }
    Ok(())
}

/// Ends the expired ones of the jobs that are due.
async fn expire(store: &Store, queue: &QueueName) -> Result<(), StoreError> {
    let (mut cursor, mut ended) = (None, 0);
    loop {
        let page = store.list(queue, State::Ready, cursor.as_deref(), EXPIRE_PAGE).await?;
        let over = page.found.iter().filter(|found| found.is_over()).map(|found| found.id.clone());
        let over: Vec<JobId> = over.collect();
        if !over.is_empty() {
            ended += store.expire(queue, &over).await?;
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
        tokio::time::sleep(EXPIRE_PACE).await;
    }
    if ended > 0 {
        tracing::info!(%queue, ended, "jobs of a paused queue have expired");
    }
    Ok(())
}

/// Moves follow-ups. Their ids are fixed, so that one that was moved before its ticket was taken is no second job.
async fn deliver(store: &Store, queue: &QueueName) -> Result<(), StoreError> {
    for _ in 0..MOVES {
        let outgoing = store.outbox(queue).await?;
        if outgoing.is_empty() {
            return Ok(());
        }
        let mut targets: BTreeMap<QueueName, Vec<Outgoing>> = BTreeMap::new();
        for follow_up in outgoing {
            targets.entry(follow_up.follow_up.queue.clone()).or_default().push(follow_up);
        }
        for (target, moving) in targets {
            let (tickets, jobs): (Vec<_>, Vec<_>) =
                moving.into_iter().map(|outgoing| (outgoing.ticket, outgoing.follow_up.job)).unzip();
            // They are accepted already: no bound of the queue turns them away.
            store.enqueue(&target, &jobs, u64::MAX).await?;
            store.outbox_moved(queue, &tickets).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Mono {
        Mono::from_nanos(s * 1_000_000_000)
    }

    #[test]
    fn only_news_cost_anything() {
        let queue = QueueName::new("q").unwrap();
        let mut upkeep = Upkeep::default();
        let quiet = Pulse::default();
        assert_eq!(upkeep.look(at(1), &queue, &quiet), [Work::Trim]);
        assert_eq!(upkeep.look(at(2), &queue, &Pulse { ended: 1, ..quiet.clone() }), [], "one at a time");
        upkeep.done(at(5), &queue, Work::Trim);
        assert_eq!(upkeep.look(at(3), &queue, &quiet), []);
        assert_eq!(upkeep.look(at(4), &queue, &Pulse { ended: 1, ..quiet.clone() }), [Work::Trim]);
        upkeep.done(at(5), &queue, Work::Trim);
        let news = Pulse { outbox: 3, live_version: 2, ended: 1, ..quiet };
        assert_eq!(upkeep.look(at(5), &queue, &news), [Work::Outbox, Work::Live { version: 2 }]);
        upkeep.lives(&queue, 2);
        upkeep.done(at(5), &queue, Work::Live { version: 2 });
        upkeep.done(at(5), &queue, Work::Outbox);
        assert_eq!(upkeep.look(at(6), &queue, &news), [Work::Outbox]);
        assert_eq!(upkeep.look(at(304), &queue, &news), [Work::Trim]);
    }

    #[test]
    fn a_paused_queue_is_gone_through_now_and_then() {
        let queue = QueueName::new("q").unwrap();
        let mut upkeep = Upkeep::default();
        let paused = Pulse { paused: true, ready: 3, ..Pulse::default() };
        assert_eq!(upkeep.look(at(1), &queue, &paused), [Work::Trim, Work::Expire]);
        assert_eq!(upkeep.look(at(2), &queue, &paused), [], "one at a time");
        upkeep.done(at(2), &queue, Work::Expire);
        assert_eq!(upkeep.look(at(11), &queue, &paused), [], "it took a second, and rests for ten");
        assert_eq!(upkeep.look(at(12), &queue, &Pulse { paused: false, ..paused.clone() }), []);
        assert_eq!(upkeep.look(at(12), &queue, &paused), [Work::Expire]);
    }
}
