//! The one loop of a master: waits for what happens, steps the cores, carries out what they decide.
//!
//! ```text
//! supervisor ⇄ parent ─┐                       ┌─→ child (pipes, signals) ⇄ worker
//! store → listener ────┼─→ events → THE LOOP ──┼─→ spawn (one thread)
//! child: lines, exits ─┘                       └─→ release, upkeep, registry → store
//! ```
//!
//! Whatever may take time runs beside the loop and comes back as an event, so that a slow store or a child that does
//! not read its pipe never delays the watching of the others. When the loop itself was late, by overload or because the
//! whole process was stopped, every deadline moves by as much: nobody is judged for a time in which nobody looked.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use roundsman_shared::clock::{Mono, StoreTime, Wall};
use roundsman_shared::exit;
use roundsman_shared::figures::{Figures, Said};
use roundsman_shared::launch::MasterStart;
use roundsman_shared::names::{QueueName, WorkerId};
use roundsman_shared::outlook::QueueOutlook;
use roundsman_shared::protocol::{Beat, Doing, FromChild, Question, StopMode, ToChild};
use roundsman_shared::settings::{LoadInput, Settings};
use roundsman_shared::store::{HostBeat, Pulse, Retention, Store};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::answer::{self, Answer};
use crate::beside::Beside;
use crate::child::Surroundings;
use crate::crew::Demand;
use crate::event::{Event, Key};
use crate::fleet::Fleet;
use crate::listener::{self, Order};
use crate::machine::Machine;
use crate::orphans;
use crate::parent::Parent;
use crate::plan::Plan;
use crate::registry::{self, HostRecord, MasterRecord, PidRecord, Schedule};
use crate::release::{Ending, Release};
use crate::shortage::Shortage;
use crate::slot;
use crate::spawn::Spawner;
use crate::stderr::Sink;
use crate::upkeep::{self, Upkeep};

/// Events that may wait; their senders wait then, which slows down who floods us.
const EVENTS: usize = 1024;
/// Between two beats to the supervisor, and two looks at everything.
const TICK: Duration = Duration::from_secs(1);
/// The loop is late when it looks so much later than it meant to.
const LATE: Duration = Duration::from_millis(100);
/// Ticks between two looks at what the kernel has killed.
const KILLS_COUNTED: u64 = 4;
/// Ticks between two looks at the other hosts while there is nothing to share.
const HOSTS_ASLEEP: u64 = 6;
/// After the last worker has gone, what is still to be given back is waited for so long.
const LAST_RELEASES: Duration = Duration::from_secs(5);
/// To take this host out of the registry.
const LEAVE: Duration = Duration::from_secs(1);
/// Orphans let their jobs end by their own timeouts; nothing has a longer one.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// By the settings that are in force: those of the files as they were read, or as they are now.
///
/// # Errors
/// In words, when they are wrong.
pub(crate) fn plan(start: &MasterStart) -> Result<Plan, String> {
    let mut input = LoadInput::capture().map_err(|error| error.to_string())?;
    input.config.clone_from(&start.config);
    input.alone = start.alone;
    input.files.clone_from(&start.files);
    input.overrides.clone_from(&start.overrides);
    let loaded = Settings::load(&input).map_err(|error| error.to_string())?;
    let mut plan = Plan::of(&loaded.settings).map_err(|error| error.to_string())?;
    plan.hand_over(start.handover.as_deref(), start.heir.is_some());
    Ok(plan)
}

/// Runs the fleet until it is told to stop; answers the exit code.
pub(crate) async fn serve(
    start: MasterStart,
    plan: Plan,
    parent: Parent,
    input: &LoadInput,
) -> io::Result<u8> {
    let (events, inbox) = mpsc::channel(EVENTS);
    let spawner = Spawner::start(&input.environment)?;
    let around = Surroundings { events: events.clone(), spawner, sink: Sink::start()? };
    let queues = plan.queues();
    let orders = listener::start(
        plan.store.clone(),
        plan.durability,
        start.host.clone(),
        queues.clone(),
        events.clone(),
    );
    let now = Mono::now();
    let registry = Schedule::new(plan.store.lease);
    let beside = Beside::new(start.heir);
    let mut fleet = Fleet::new(start.host.clone(), &plan, around.clone(), beside, now);
    for (pool, to) in &start.scaled {
        fleet.fix(pool, Some(*to), now);
    }
    let master = Master {
        entered: registry::name(&start.host, start.heir.is_none()),
        fleet,
        start,
        plan,
        parent,
        around,
        orders,
        listening: queues,
        ahead: Duration::ZERO,
        store: None,
        waiting: Vec::new(),
        releasing: BTreeSet::new(),
        upkeep: Upkeep::default(),
        live: BTreeMap::new(),
        registry,
        adopted: false,
        machine: Machine::here(),
        since: Wall::now(),
        ticks: 0,
        asking: false,
        stopping: None,
    };
    master.run(inbox).await
}

struct Stopping {
    code: u8,
    /// Give up on what is still running.
    release: Option<Mono>,
    /// Since when nobody is left.
    empty: Option<Mono>,
}

struct Master {
    start: MasterStart,
    plan: Plan,
    fleet: Fleet,
    parent: Parent,
    around: Surroundings,
    orders: mpsc::Sender<Order>,
    /// What the listener listens for; sorted.
    listening: Vec<QueueName>,
    /// How far ahead it counts timers.
    ahead: Duration,
    store: Option<Store>,
    /// Releases that wait for the store to be opened.
    waiting: Vec<Release>,
    releasing: BTreeSet<WorkerId>,
    upkeep: Upkeep,
    live: BTreeMap<QueueName, BTreeMap<String, String>>,
    registry: Schedule,
    /// The name of its entry there.
    entered: String,
    /// The entry of an earlier master was read, so that it may be written over.
    adopted: bool,
    machine: Machine,
    since: Wall,
    ticks: u64,
    /// The other hosts are asked after.
    asking: bool,
    stopping: Option<Stopping>,
}

impl Master {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>) -> io::Result<u8> {
        let mut terminate = signal(SignalKind::terminate())?;
        // Ctrl-C reaches the whole foreground group; the supervisor decides what it means.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut children = signal(SignalKind::child())?;
        self.parent.say(&FromChild::Ready);
        self.fleet.scale(Mono::now());
        let mut tick_at = Mono::now();
        let mut shortage = Shortage::default();
        let mut parent_open = true;
        loop {
            let now = Mono::now();
            if now >= tick_at {
                self.tick(now);
                tick_at = now + TICK;
            }
            if self.is_over(now) {
                break;
            }
            let mut deadline = self.fleet.next_deadline().map_or(tick_at, |at| at.min(tick_at));
            if let Some(retry) = shortage.look(self.lacks_workers(now), now) {
                deadline = deadline.min(retry);
            }
            let thinning = self.fleet.next_thinning(now).filter(|_| self.stopping.is_none());
            if let Some(thinning) = thinning {
                deadline = deadline.min(thinning);
            }
            let planned = deadline.max(now);
            let event = tokio::select! {
                biased;
                event = inbox.recv() => event,
                line = self.parent.lines.recv(), if parent_open => {
                    parent_open = line.is_some();
                    Some(line.map_or(Event::Orphaned, Event::Parent))
                }
                _ = terminate.recv() => Some(Event::Terminated),
                _ = interrupt.recv() => None,
                _ = children.recv() => {
                    self.around.spawner.reap();
                    None
                }
                () = tokio::time::sleep(planned.since(now)) => None,
            };
            let now = Mono::now();
            let late = now.since(planned);
            if late > LATE {
                tracing::warn!(?late, "the master itself was late; every deadline moves by as much");
                self.fleet.shift(late);
            }
            if let Some(event) = event {
                self.handle(event, now);
            }
            if now >= planned {
                self.fleet.time(now);
            }
            if thinning.is_some_and(|at| now >= at) && self.stopping.is_none() {
                self.fleet.thin(now);
            }
            if shortage.rings(now) && self.lacks_workers(now) {
                self.fleet.scale(now);
            }
            if let Some(standing) = self.fleet.standing(now) {
                self.parent.say(&FromChild::Standing(standing));
            }
            self.register(now);
        }
        self.leave().await
    }

    /// Workers are wanted that the budget may have refused.
    fn lacks_workers(&self, now: Mono) -> bool {
        self.stopping.is_none() && self.fleet.is_short(now)
    }

    fn handle(&mut self, event: Event, now: Mono) {
        match event {
            Event::WorkDue { queue, count } => self.work_due(&queue, count, now),
            Event::Slot { key, event } => self.slot(&key, event, now),
            Event::Started { key, started } => self.fleet.started(&key, started, now),
            Event::Reaped { key, exit, tail } => {
                if let Some(release) = self.fleet.reaped(&key, exit, tail, now) {
                    self.release(release);
                }
                self.listen();
                self.rescale(now);
            }
            Event::Released { worker, returned, figures } => {
                for figure in figures.iter() {
                    self.fleet.figures.absorb(figure.clone(), &mut Said::default());
                }
                self.releasing.remove(&worker);
                for (queue, count) in returned {
                    self.work_due(&queue, count, now);
                }
            }
            Event::Opened(store) => self.opened(store),
            Event::Unfit(why) => {
                tracing::error!(why, "the store cannot be used");
                self.stop(StopMode::Release, None, exit::CONFIG, "the store cannot be used", now);
            }
            Event::Namesake => {
                let host = &self.start.host;
                tracing::error!(
                    "the store is served as host {host} already, by another machine or container: stop that one \
                     first, or give this one a name of its own with --host-id"
                );
                self.stop(
                    StopMode::Release,
                    None,
                    exit::CONFLICT,
                    "another machine serves as this host",
                    now,
                );
            }
            Event::Pulse { queue, pulse, clock } => {
                self.fleet.clock = Some(clock);
                self.pulse(&queue, &pulse, now);
            }
            Event::Blind(blind) => {
                if self.fleet.blind != blind {
                    let what = if blind { "the store is not reachable" } else { "the store is reachable" };
                    tracing::warn!("{what}");
                }
                self.fleet.blind = blind;
                self.rescale(now);
            }
            Event::Cancel { worker, id } => self.fleet.cancel(&worker, &id),
            Event::Live { queue, version, live } => {
                self.upkeep.lives(&queue, version);
                self.live.insert(queue.clone(), live);
                self.apply_live(Some(&queue));
            }
            Event::Kept { queue, work } => self.upkeep.done(now, &queue, work),
            Event::Hosts(records) => {
                self.asking = false;
                if let Some(records) = records {
                    self.fleet.hear(&records);
                    self.rescale(now);
                }
            }
            Event::Registered(result) => self.registry.done(result),
            Event::Adopted(desired) => {
                self.fleet.adopt(&desired, now);
                self.adopted = true;
                self.rescale(now);
            }
            Event::Found(before) => {
                self.fleet.inherit(&before.desired);
                self.fleet.beside.found(before);
                self.adopted = true;
                self.rescale(now);
            }
            Event::OrphanGone { worker, queues } => {
                let ending = Ending::Unseen;
                self.release(self.a_release(worker, queues, ending));
            }
            Event::Parent(message) => self.obey(message, now),
            Event::Orphaned => self.orphaned(now),
            Event::Terminated => {
                let grace = self.fleet.grace();
                self.stop(StopMode::Drain, Some(grace), exit::OK, "terminated", now);
            }
        }
    }

    fn slot(&mut self, key: &Key, event: slot::Event, now: Mono) {
        let full = match &event {
            slot::Event::Line(FromChild::Full { queue }) => QueueName::new(queue).ok(),
            slot::Event::Line(FromChild::Figure(figure)) => {
                self.fleet.count(key, figure.clone());
                None
            }
            slot::Event::Line(FromChild::Demand { pool, length, why }) => {
                let reading = length.ok_or_else(|| why.clone().unwrap_or_default());
                self.fleet.hear_demand(key, pool, reading, now);
                self.rescale(now);
                None
            }
            _ => None,
        };
        self.fleet.step(key, event, now);
        if let Some(queue) = full.filter(|_| self.stopping.is_none()) {
            let beyond = self.fleet.demand.get(&queue).map_or(1, Demand::beyond);
            if self.fleet.wake(&queue, 1, now) == 0 && beyond > 0 {
                self.unmet(&queue, beyond, now);
            }
        }
    }

    fn obey(&mut self, message: ToChild, now: Mono) {
        match message {
            ToChild::Stop { mode, by_ms, why } => {
                self.stop(mode, Some(Duration::from_millis(by_ms)), exit::OK, &why, now);
            }
            ToChild::Reload => self.reload(now),
            ToChild::Ping => self.beat(),
            ToChild::Dump => self.fleet.dump(now),
            ToChild::Resize { by } if self.stopping.is_none() => {
                self.fleet.resize(by, now);
                self.rescale(now);
            }
            ToChild::Scale { pool, to } => {
                self.fleet.fix(&pool, to, now);
                self.rescale(now);
            }
            ToChild::Share { percent } => {
                self.fleet.beside.share(percent);
                if self.stopping.is_none() {
                    self.fleet.scale(now);
                    self.fleet.yield_workers(now);
                }
            }
            ToChild::Lead { orphans } => self.lead(orphans, now),
            ToChild::Follow => {
                self.fleet.beside.follow();
                self.enter_as(false);
                self.rescale(now);
            }
            ToChild::Ask { ask, what } => self.answer(ask, &what, now),
            message @ (ToChild::Pause | ToChild::Resume) => {
                self.fleet.paused = matches!(message, ToChild::Pause);
                self.fleet.tell_all(&message);
            }
            ToChild::Welcome { .. }
            | ToChild::Policies { .. }
            | ToChild::Resize { .. }
            | ToChild::Wake { .. }
            | ToChild::Look { .. }
            | ToChild::Figures { .. }
            | ToChild::Outlook(_)
            | ToChild::Demand { .. }
            | ToChild::Cancel { .. } => {}
        }
    }

    fn tick(&mut self, now: Mono) {
        self.ticks += 1;
        if self.parent.is_gone() {
            self.orphaned(now);
        }
        if let Some(release) =
            self.stopping.as_mut().and_then(|stopping| stopping.release.take_if(|at| now >= *at))
        {
            tracing::warn!(late = ?now.since(release), "the time to finish is over: everything is given back");
            self.fleet.release(now);
        }
        self.fleet.watch_machine(now);
        if self.ticks.is_multiple_of(KILLS_COUNTED) {
            self.fleet.count_kills(now);
        }
        self.rescale(now);
        let ahead = self.fleet.ahead();
        if ahead != self.ahead && self.orders.try_send(Order::Ahead(ahead)).is_ok() {
            self.ahead = ahead;
        }
        self.ask_hosts();
        self.beat();
        self.fleet.tell_parts();
    }

    /// Reads what the other hosts have entered: with each tick where there is something to share, else now and then.
    fn ask_hosts(&mut self) {
        let due = self.fleet.is_active() || self.ticks % HOSTS_ASLEEP == 1;
        let Some(store) = self.store.clone().filter(|_| due && !self.asking && self.stopping.is_none())
        else {
            return;
        };
        self.asking = true;
        let events = self.around.events.clone();
        tokio::spawn(async move {
            let records = store.hosts().await.ok();
            let _ = events.send(Event::Hosts(records)).await;
        });
    }

    fn beat(&self) {
        let running = self.fleet.running();
        let doing = match (&self.stopping, running) {
            (Some(_), _) => Doing::Draining,
            (None, 0) => Doing::Idle,
            (None, _) => Doing::Busy,
        };
        let store_ok = self.store.is_some() && !self.fleet.blind;
        let beat = Beat { doing, running, tick: self.ticks, rss_kb: rss_kb(), store_ok, ..Beat::default() };
        self.parent.say(&FromChild::Hb(beat));
    }

    /// Jobs are due: the one hop from here is into the pipes of idle workers.
    fn work_due(&mut self, queue: &QueueName, count: u64, now: Mono) {
        if self.stopping.is_some() {
            return;
        }
        let unmet = count.saturating_sub(self.fleet.wake(queue, count, now));
        if unmet > 0 {
            self.unmet(queue, unmet, now);
        }
    }

    /// Due jobs found nobody idle.
    fn unmet(&mut self, queue: &QueueName, count: u64, now: Mono) {
        if self.fleet.demand.entry(queue.clone()).or_default().unmet(count) {
            // One that is lost is made up for by the next look, within a second.
            let _ = self.orders.try_send(Order::Waits(queue.clone()));
        }
        self.fleet.scale(now);
    }

    fn pulse(&mut self, queue: &QueueName, pulse: &Pulse, now: Mono) {
        self.fleet.seen.insert(queue.clone(), outlook(pulse));
        let demand = self.fleet.demand.entry(queue.clone()).or_default();
        *demand = demand.after(pulse, now);
        let sleeping = demand.ready.saturating_sub(self.fleet.woken(queue, now));
        if self.stopping.is_none() {
            self.fleet.wake(queue, sleeping, now);
            self.fleet.scale(now);
        }
        for worker in &pulse.lapsed {
            tracing::warn!(%worker, %queue, "its lease has lapsed: its jobs are given back");
            self.release(self.a_release(worker.clone(), vec![queue.clone()], Ending::Lapsed));
        }
        let Some(store) = &self.store else { return };
        for work in self.upkeep.look(now, queue, pulse) {
            let policy = self.fleet.policies.get(queue).cloned().unwrap_or_default();
            let (store, events) = (store.clone(), self.around.events.clone());
            tokio::spawn(upkeep::carry_out(store, queue.clone(), work, Retention::from(&policy), events));
        }
    }

    /// Listens for what is served, and for what a worker from before a change of settings may still hold.
    fn listen(&mut self) {
        let mut queues = self.plan.queues();
        queues.extend(self.fleet.held_queues().cloned());
        queues.sort_unstable();
        queues.dedup();
        if queues != self.listening && self.orders.try_send(Order::Queues(queues.clone())).is_ok() {
            self.listening = queues;
        }
    }

    fn rescale(&mut self, now: Mono) {
        if self.stopping.is_none() {
            self.fleet.scale(now);
        }
    }

    fn a_release(&self, worker: WorkerId, queues: Vec<QueueName>, ending: Ending) -> Release {
        let policies = self.fleet.policies.clone();
        Release { worker, queues, policies, ending, stderr_tail: None, clock: self.fleet.clock }
    }

    fn release(&mut self, release: Release) {
        let Some(store) = self.store.clone() else {
            self.waiting.push(release);
            return;
        };
        // A lapsed lease is seen by every pulse until its jobs are given back.
        if !self.releasing.insert(release.worker.clone()) && release.ending == Ending::Lapsed {
            return;
        }
        let events = self.around.events.clone();
        tokio::spawn(async move {
            let mut figures = Figures::default();
            let returned = release.run(&store, &mut figures).await;
            let _ = events.send(Event::Released { worker: release.worker, returned, figures }).await;
        });
    }

    fn opened(&mut self, store: Store) {
        self.store = Some(store.clone());
        for release in std::mem::take(&mut self.waiting) {
            self.release(release);
        }
        let (host, events) = (self.start.host.clone(), self.around.events.clone());
        if self.fleet.beside.is_heir() {
            tokio::spawn(orphans::inherit(store, host, events));
        } else {
            tokio::spawn(orphans::adopt(store, host, events));
        }
    }

    /// It speaks for the host from now on.
    fn lead(&mut self, orphans: bool, now: Mono) {
        self.fleet.beside.lead(now);
        self.enter_as(true);
        if let Some(store) = self.store.clone().filter(|_| orphans) {
            tokio::spawn(orphans::adopt(store, self.start.host.clone(), self.around.events.clone()));
        }
        self.rescale(now);
    }

    /// Changes the name of the entry in the registry.
    fn enter_as(&mut self, leader: bool) {
        let name = registry::name(&self.start.host, leader);
        let old = std::mem::replace(&mut self.entered, name);
        // The leader's entry is the next leader's to write over.
        if let Some(store) = self.store.clone().filter(|_| leader && old != self.entered) {
            tokio::spawn(async move { drop(tokio::time::timeout(LEAVE, store.leave(&old)).await) });
        }
        self.registry.forget();
    }

    fn answer(&mut self, ask: u64, what: &Question, now: Mono) {
        let Answer { code, lines, then } = answer::to(&self.fleet, what, now);
        if let Some((key, event)) = then {
            self.fleet.step(&key, event, now);
        }
        let mut lines = lines.into_iter().peekable();
        while let Some(says) = lines.next() {
            let code = lines.peek().is_none().then_some(code);
            self.parent.say(&FromChild::Answer { ask, code, says });
        }
    }

    fn apply_live(&mut self, changed: Option<&QueueName>) {
        let mut policies = self.plan.policies.clone();
        for (queue, live) in &self.live {
            for problem in policies.entry(queue.clone()).or_default().apply_live(live) {
                tracing::warn!(%queue, %problem, "a live setting is left out");
            }
        }
        if self.fleet.policies != policies {
            self.fleet.policies = policies;
            self.fleet.renew_intake();
        }
        self.fleet.tell_policies(changed);
    }

    fn reload(&mut self, now: Mono) {
        // The supervisor has found them right.
        self.start.files = None;
        let plan = match plan(&self.start) {
            Ok(plan) => plan,
            Err(error) => {
                tracing::error!(error, "the settings are wrong; those in force stay");
                let message = error.chars().take(200).collect();
                self.parent.say(&FromChild::Warn { code: "reload".to_owned(), message });
                return;
            }
        };
        if plan.store != self.plan.store {
            tracing::warn!("another store counts only after a restart");
        }
        let store = self.plan.store.clone();
        self.plan = Plan { store, ..plan };
        self.fleet.arrange(&self.plan, now);
        self.apply_live(None);
        self.listen();
        self.rescale(now);
        tracing::info!("the settings were read again");
    }

    fn orphaned(&mut self, now: Mono) {
        if self.stopping.is_none() {
            self.stop(StopMode::Drain, None, exit::OK, "its supervisor is gone", now);
        }
    }

    /// `by` bounds the time of running jobs; without it they end by their own timeouts.
    fn stop(&mut self, mode: StopMode, by: Option<Duration>, code: u8, why: &str, now: Mono) {
        if self.stopping.is_none() {
            tracing::info!(why, ?mode, "stopping");
            self.parent.say(&FromChild::Draining { why: why.to_owned() });
        }
        let code = self.stopping.as_ref().map_or(code, |stopping| stopping.code);
        match mode {
            StopMode::Drain => self.fleet.close(by, why, now),
            StopMode::Release => self.fleet.release(now),
        }
        let release = by.filter(|_| mode == StopMode::Drain).map(|by| now + by.min(FOREVER));
        self.stopping = Some(Stopping { code, release, empty: None });
    }

    fn is_over(&mut self, now: Mono) -> bool {
        let Some(stopping) = &mut self.stopping else { return false };
        if self.fleet.alive() > 0 {
            stopping.empty = None;
            return false;
        }
        let empty = *stopping.empty.get_or_insert(now);
        let given_back = self.releasing.is_empty() && self.waiting.is_empty();
        given_back || now.since(empty) >= LAST_RELEASES
    }

    async fn leave(self) -> io::Result<u8> {
        let code = self.stopping.as_ref().map_or(exit::OK, |stopping| stopping.code);
        // The entry of a namesake is not ours to remove.
        if let Some(store) = self.store.as_ref().filter(|_| self.adopted) {
            let _ = tokio::time::timeout(LEAVE, store.leave(&self.entered)).await;
        }
        self.parent.finish(&FromChild::Bye { why: "stopped".to_owned(), code: i32::from(code) });
        Ok(code)
    }

    fn register(&mut self, now: Mono) {
        let Some(store) = self.store.clone().filter(|_| self.adopted) else { return };
        let fleet = &self.fleet;
        let (start, since, machine, entered) = (&self.start, self.since, &self.machine, &self.entered);
        let record = || HostRecord {
            host: entered.clone(),
            machine: Some(machine.clone()),
            supervisor: PidRecord { pid: start.supervisor_pid },
            master: MasterRecord { pid: std::process::id(), since: since.as_millis() },
            quiet: fleet.paused,
            store_replaced: store.is_replaced(),
            pools: fleet.records(self.stopping.is_none()),
            parts: fleet.parts(),
        };
        let Some(record) = self.registry.due(now, record) else { return };
        let beat = HostBeat { host: self.entered.clone(), record, lease: self.registry.lease };
        let events = self.around.events.clone();
        tokio::spawn(async move {
            let result = store.beat(&beat).await;
            let _ = events.send(Event::Registered(result)).await;
        });
    }
}

/// What charts show of a queue.
fn outlook(pulse: &Pulse) -> QueueOutlook {
    let age = |due: StoreTime| u64::try_from(pulse.now.since(due).as_millis()).unwrap_or(u64::MAX);
    QueueOutlook {
        waiting: pulse.waiting,
        running: pulse.running,
        oldest_due_ms: pulse.oldest_due.map(age),
        paused: pulse.paused,
        enqueued: pulse.enqueued,
        ended: pulse.ended,
    }
}

/// The memory of this process in KiB; zero where the system does not tell.
fn rss_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
