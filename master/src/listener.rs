//! The host's ear at the store: one for all queues that are served here. It tells the loop when there is work, and
//! looks at every queue once a second in case a hint was lost.
//!
//! ```text
//! hints of the store ──┐
//! alarm: next due time ├─→ WorkDue, Cancel ─→ loop ─→ wake-ups
//! pulse, once a second ┘─→ Pulse ───────────→ loop ─→ scaling, upkeep
//! ```
//!
//! While due jobs wait in a queue, it is looked at four times a second; the loop tells of jobs that found nobody idle, and
//! so have come to wait since the last look.
//!
//! A queue in which nothing waits or runs is only glanced at, for one command, until that shows any change: once a
//! second, or in every other second where there are several queues, since a hint that is lost is rare.
//!
//! A pulse is also what is learned from an alarm that rang: the next due time of the queue. Pulses run beside the
//! listening, one at a time a queue, so that a slow store delays no hint.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use roundsman_shared::clock::{Mono, SKEW_GUARD, StoreClock, StoreTime};
use roundsman_shared::job::reply;
use roundsman_shared::names::QueueName;
use roundsman_shared::settings::Durability;
use roundsman_shared::store::{Glimpse, Hint, Pulse, Store, StoreConfig, StoreError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::alarm::Alarm;
use crate::event::Event;
use crate::machine;
use crate::scale::{self, UNKNOWN_BOOT};

/// Between two looks at everything.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at a queue in which due jobs wait: the law is as good as what it sees.
const LOOK_BUSY: Duration = Duration::from_millis(250);
/// Between two whole looks at a queue in which nothing happens.
const LOOK_ASLEEP: Duration = Duration::from_secs(20);
/// Between two tries to open the store.
const REOPEN: Duration = Duration::from_millis(500);
/// Readings of the store's clock that are compared: the tightest counts.
const READINGS: usize = 8;
/// Orders that may wait.
const ORDERS: usize = 64;

/// What the loop asks of the listener.
#[derive(Debug)]
pub(crate) enum Order {
    /// Serve these queues from now on.
    Queues(Vec<QueueName>),
    /// Count timers that fall due within so long.
    Ahead(Duration),
    /// Due jobs wait in this queue: no hint tells of what comes behind a backlog.
    Waits(QueueName),
}

/// Starts listening; the store is opened first, however long that takes.
#[must_use]
pub(crate) fn start(
    config: StoreConfig,
    durability: Option<Durability>,
    host: String,
    queues: Vec<QueueName>,
    events: mpsc::Sender<Event>,
) -> mpsc::Sender<Order> {
    let (orders, inbox) = mpsc::channel(ORDERS);
    tokio::spawn(async move {
        let Some(store) = open(&config, durability, &events).await else { return };
        let Ok(alarm) = Alarm::new() else { return };
        if let Err(machine::Taken) = machine::claim(&store, &host).await {
            let _ = events.send(Event::Namesake).await;
            return;
        }
        let _ = events.send(Event::Opened(store.clone())).await;
        let listener = Listener {
            store,
            lease: config.lease,
            ahead: scale::ahead(UNKNOWN_BOOT),
            host,
            queues,
            events,
            alarm,
            due: BTreeMap::new(),
            readings: VecDeque::new(),
            pulses: JoinSet::new(),
            pulsing: BTreeSet::new(),
            again: BTreeSet::new(),
            asleep: BTreeMap::new(),
            busy: BTreeSet::new(),
            odd: false,
            blind: false,
        };
        listener.serve(inbox).await;
    });
    orders
}

/// Opens the store, and refuses one whose acknowledgements are worth less than what is demanded.
async fn open_fit(config: &StoreConfig, demanded: Option<Durability>) -> Result<Store, StoreError> {
    let store = Store::open(config).await?;
    let Some(demanded) = demanded else { return Ok(store) };
    let given = store.durability().await?;
    if given.level.parse::<Durability>().is_ok_and(|level| level >= demanded) {
        return Ok(store);
    }
    let (level, why) = (given.level, given.why);
    Err(StoreError::Unfit(format!("store.durability demands {demanded}, and it gives {level} ({why})")))
}

async fn open(
    config: &StoreConfig,
    durability: Option<Durability>,
    events: &mpsc::Sender<Event>,
) -> Option<Store> {
    let mut told = false;
    loop {
        match open_fit(config, durability).await {
            Ok(store) => {
                if told {
                    let _ = events.send(Event::Blind(false)).await;
                }
                return Some(store);
            }
            Err(error @ (StoreError::Unavailable(_) | StoreError::NearLimit(_))) => {
                if !told {
                    tracing::warn!(%error, "waiting for the store");
                    let _ = events.send(Event::Blind(true)).await;
                    told = true;
                }
                tokio::time::sleep(REOPEN).await;
                if events.is_closed() {
                    return None;
                }
            }
            Err(error) => {
                let _ = events.send(Event::Unfit(error.to_string())).await;
                return None;
            }
        }
    }
}

struct Listener {
    store: Store,
    lease: Duration,
    ahead: Duration,
    host: String,
    queues: Vec<QueueName>,
    events: mpsc::Sender<Event>,
    alarm: Alarm,
    /// When the next job of a queue falls due.
    due: BTreeMap<QueueName, StoreTime>,
    readings: VecDeque<StoreClock>,
    pulses: JoinSet<(QueueName, Looked)>,
    pulsing: BTreeSet<QueueName>,
    /// Queues to look at again once the present look is over.
    again: BTreeSet<QueueName>,
    /// Queues in which nothing waited or ran when they were looked at last: what was seen, and when.
    asleep: BTreeMap<QueueName, (Glimpse, Mono)>,
    /// Queues in which due jobs waited when they were looked at last, or have come to wait since.
    busy: BTreeSet<QueueName>,
    /// Whose turn it is of the queues that are glanced at: those at even or at odd places.
    odd: bool,
    blind: bool,
}

/// What a look brought.
enum Looked {
    /// Sent and received.
    Pulse(Mono, Mono, Result<Pulse, StoreError>),
    Glimpse(Result<Glimpse, StoreError>),
}

impl Listener {
    async fn serve(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut hints = None;
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut busy = tokio::time::interval(LOOK_BUSY);
        busy.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.alarm.rings() => self.rang().await,
                hint = hear(&mut hints) => match hint {
                    Some(hint) => self.hint(hint).await,
                    None => hints = None,
                },
                Some(Ok((queue, looked))) = self.pulses.join_next(), if !self.pulses.is_empty() => {
                    self.pulsing.remove(&queue);
                    match looked {
                        _ if !self.queues.contains(&queue) => {}
                        Looked::Pulse(sent, received, answer) => self.looked(queue, sent, received, answer).await,
                        Looked::Glimpse(answer) => self.glanced(queue, answer).await,
                    }
                }
                order = orders.recv() => match order {
                    None => return,
                    Some(Order::Ahead(ahead)) => self.ahead = ahead,
                    Some(Order::Waits(queue)) if self.queues.contains(&queue) => {
                        self.busy.insert(queue);
                    }
                    Some(Order::Waits(_)) => {}
                    Some(Order::Queues(queues)) => {
                        self.due.retain(|queue, _| queues.contains(queue));
                        self.busy.retain(|queue| queues.contains(queue));
                        self.queues = queues;
                        hints = None;
                        self.look_at_all();
                    }
                },
                _ = busy.tick(), if !self.busy.is_empty() => {
                    for queue in std::mem::take(&mut self.busy) {
                        if !self.pulsing.contains(&queue) {
                            self.look(queue);
                        }
                    }
                }
                _ = tick.tick() => {
                    if hints.is_none() && !self.blind && !self.queues.is_empty() {
                        hints = self.store.listen(&self.queues, &self.host).await.ok();
                    }
                    self.watch();
                }
            }
            self.set_alarm();
        }
    }

    fn look_at_all(&mut self) {
        for queue in self.queues.clone() {
            self.look(queue);
        }
    }

    /// Once a second.
    fn watch(&mut self) {
        let now = Mono::now();
        self.odd = !self.odd;
        let several = self.queues.len() > 1;
        for (place, queue) in self.queues.clone().into_iter().enumerate() {
            let sleeps = self.asleep.get(&queue).is_some_and(|(_, at)| now.since(*at) < LOOK_ASLEEP);
            if !sleeps {
                self.look(queue);
            } else if reply::is_own(&queue) {
                // Mostly empty, and its jobs are announced by the step that makes them: it costs nothing in between.
            } else if several && (place % 2 == 1) != self.odd {
                // It is not its turn.
            } else if self.pulsing.insert(queue.clone()) {
                let store = self.store.clone();
                self.pulses.spawn(async move {
                    let answer = store.glimpse(&queue).await;
                    (queue, Looked::Glimpse(answer))
                });
            }
        }
    }

    fn look(&mut self, queue: QueueName) {
        self.asleep.remove(&queue);
        if !self.pulsing.insert(queue.clone()) {
            self.again.insert(queue);
            return;
        }
        let (store, lease, ahead) = (self.store.clone(), self.lease, self.ahead);
        self.pulses.spawn(async move {
            let sent = Mono::now();
            let answer = store.pulse(&queue, lease, ahead).await;
            (queue, Looked::Pulse(sent, Mono::now(), answer))
        });
    }

    async fn looked(
        &mut self,
        queue: QueueName,
        sent: Mono,
        received: Mono,
        answer: Result<Pulse, StoreError>,
    ) {
        match answer {
            Ok(pulse) => {
                self.see(false).await;
                let clock = StoreClock { reading: pulse.now, sent, received };
                if self.jumped(&queue, clock).await {
                    self.look(queue);
                    return;
                }
                if pulse.ready > 0 && !pulse.paused {
                    self.busy.insert(queue.clone());
                }
                self.readings.push_back(clock);
                if self.readings.len() > READINGS {
                    self.readings.pop_front();
                }
                let next_due = pulse.next_due.filter(|_| !pulse.paused);
                if self.again.remove(&queue) {
                    // What hints said since may be news to it.
                    if let Some(due) = next_due {
                        let known = self.due.entry(queue.clone()).or_insert(due);
                        *known = due.min(*known);
                    }
                    self.look(queue.clone());
                } else {
                    match next_due {
                        Some(due) => self.due.insert(queue.clone(), due),
                        None => self.due.remove(&queue),
                    };
                }
                if pulse.waiting + pulse.running + pulse.outbox + pulse.inbox == 0
                    && !self.pulsing.contains(&queue)
                {
                    self.asleep.insert(queue.clone(), (pulse.glimpse(), received));
                }
                let _ = self.events.send(Event::Pulse { queue, pulse, clock }).await;
            }
            Err(error) => self.failed(&queue, &error).await,
        }
    }

    async fn glanced(&mut self, queue: QueueName, answer: Result<Glimpse, StoreError>) {
        match answer {
            Ok(glimpse) => {
                self.see(false).await;
                let same = self.asleep.get(&queue).is_some_and(|(seen, _)| *seen == glimpse);
                if self.again.remove(&queue) || !same {
                    self.look(queue);
                }
            }
            Err(error) => self.failed(&queue, &error).await,
        }
    }

    async fn failed(&mut self, queue: &QueueName, error: &StoreError) {
        self.again.remove(queue);
        self.asleep.remove(queue);
        tracing::debug!(%queue, %error, "a look failed");
        self.see(!matches!(error, StoreError::NearLimit(_) | StoreError::Corrupt(_))).await;
    }

    /// Whether the store's clock has jumped since the last reading; if so the queue's is corrected, and nothing that
    /// this reading says is true.
    async fn jumped(&self, queue: &QueueName, clock: StoreClock) -> bool {
        let Some(last) = self.readings.back() else { return false };
        let (latest, earliest) = (last.at_most(clock.received), last.at_least(clock.sent));
        let expected = if clock.reading > latest + SKEW_GUARD {
            latest
        } else if clock.reading + SKEW_GUARD < earliest {
            earliest
        } else {
            return false;
        };
        match self.store.steer(queue, expected).await {
            // A jump back that undoes no earlier one is what it is, and delays by its own size.
            Ok(moved) => moved || clock.reading > expected,
            Err(error) => {
                tracing::warn!(%queue, %error, "the store's clock has jumped, and the queue's could not be corrected yet");
                clock.reading > expected
            }
        }
    }

    async fn see(&mut self, blind: bool) {
        if self.blind != blind {
            self.blind = blind;
            let _ = self.events.send(Event::Blind(blind)).await;
        }
    }

    async fn hint(&mut self, hint: Hint) {
        match hint {
            Hint::Work { queue, due, next_due } => {
                self.asleep.remove(&queue);
                // A look that is under way may have been answered before this job came.
                if self.pulsing.contains(&queue) {
                    self.again.insert(queue.clone());
                }
                if let Some(next) = next_due {
                    let known = self.due.entry(queue.clone()).or_insert(next);
                    *known = next.min(*known);
                    if self.readings.is_empty() {
                        self.look(queue.clone());
                    }
                }
                if due > 0 {
                    let _ = self.events.send(Event::WorkDue { queue, count: u64::from(due) }).await;
                }
            }
            Hint::Cancel { worker, id } => {
                let _ = self.events.send(Event::Cancel { worker, id }).await;
            }
            Hint::Changed { queue } => self.look(queue),
            Hint::Lost => self.look_at_all(),
        }
    }

    /// When a moment of the store's clock has surely come, by the tightest of the latest readings.
    fn when(&self, due: StoreTime) -> Option<Mono> {
        self.readings.iter().map(|reading| reading.when(due)).min()
    }

    fn set_alarm(&mut self) {
        let first = self.due.values().min().copied();
        let at = first.and_then(|due| self.when(due));
        self.alarm.set(at);
    }

    async fn rang(&mut self) {
        let now = Mono::now();
        let due: Vec<QueueName> = self
            .due
            .iter()
            .filter(|(_, due)| self.when(**due).is_some_and(|at| at <= now))
            .map(|(queue, _)| queue.clone())
            .collect();
        for queue in due {
            self.due.remove(&queue);
            let _ = self.events.send(Event::WorkDue { queue: queue.clone(), count: 1 }).await;
            self.look(queue);
        }
    }
}

async fn hear(hints: &mut Option<mpsc::Receiver<Hint>>) -> Option<Hint> {
    match hints {
        Some(hints) => hints.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use roundsman_shared::names::Namespace;
    use roundsman_shared::store::StorePlace;

    use super::*;

    /// Less than between two whole looks at a queue that is asleep, and more than a busy machine needs for one.
    const SOON: Duration = Duration::from_secs(10);

    async fn pulse(events: &mut mpsc::Receiver<Event>) {
        while !matches!(events.recv().await.unwrap(), Event::Pulse { .. }) {}
    }

    #[tokio::test]
    async fn where_jobs_have_come_to_wait_it_looks_soon() {
        let folder = tempfile::tempdir().unwrap();
        let place = StorePlace::Sqlite(folder.path().join("store.db"));
        let config = StoreConfig { place, namespace: Namespace::new("test").unwrap(), lease: LOOK * 15 };
        let queue = QueueName::new("work").unwrap();
        let (sender, mut events) = mpsc::channel(64);
        let orders = start(config, None, "here".to_owned(), vec![queue.clone()], sender);
        pulse(&mut events).await;
        // Nothing is in it.
        let quiet = tokio::time::timeout(LOOK * 3, pulse(&mut events)).await;
        assert!(quiet.is_err(), "only glanced at from now on");
        orders.send(Order::Waits(queue)).await.unwrap();
        tokio::time::timeout(SOON, pulse(&mut events)).await.unwrap();
    }
}
