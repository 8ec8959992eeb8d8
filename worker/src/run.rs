//! The worker's one loop.
//!
//! ```text
//!            ToChild                          Desk
//!   master ───────────▶ ┌──────────────┐ ──────────────▶ slots (own thread)
//!          ◀─────────── │  this loop,  │ ◀──────────────
//!            FromChild  │  a Session   │     Report
//!                       └──────┬───────┘
//!                    exchange, renew, reconcile
//!                              ▼
//!                            store
//! ```
//! It builds events, steps the session, and carries out its actions; store calls are futures polled here, at most one of
//! each kind. Nothing in this loop can be held up by a handler.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use roundsman_shared::assignment::{Assignment, HandlerSpec};
use roundsman_shared::board::Board;
use roundsman_shared::clock::Mono;
use roundsman_shared::job::Policy;
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::pipe::{self, Incoming, Outgoing};
use roundsman_shared::protocol::{
    self, BEAT_MS, Beat, Doing, FromChild, JOBS_NAMED, RunningJob, StopMode, ToChild,
};
use roundsman_shared::settings::Environment;
use roundsman_shared::store::{Store, StoreError};
use roundsman_shared::{exit, launch, telemetry};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::api::Handlers;
use crate::session::{Action, Event, Seq, Session};
use crate::slots::{self, Report, Slots};
use crate::{builtin, spawn};

/// How long the master may take to say what to do.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
/// Between tries to open the store.
const REOPEN_AFTER: Duration = Duration::from_millis(500);
/// A beat that tells of a change of state may come so soon after the last one.
const BEAT_GAP: Duration = Duration::from_millis(100);
/// Figures told together; a master takes many lines at once for a flood.
const TOLD_AT_ONCE: usize = 64;
/// A worker that has been busy for so long says so; shorter is not worth a line.
const SAY_BUSY_AFTER: Duration = Duration::from_millis(5);
/// Without a master, a job that does not stop at its timeout is left behind, with its process, after this.
const OVERRUN: Duration = Duration::from_secs(5);

/// A worker that is not fit to run jobs leaves with those that have not stopped, after this.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

pub(crate) type Make = Box<dyn FnOnce() -> Handlers + Send>;

/// Runs a worker with the built-in handler that its master assigns; answers the exit code.
#[must_use]
pub fn serve() -> u8 {
    serve_with(None, None)
}

pub(crate) fn serve_with(make: Option<Make>, pool: Option<String>) -> u8 {
    let environment = Environment::capture();
    let parent = environment.get(launch::PARENT).and_then(|pid| pid.parse::<i32>().ok());
    let _ = telemetry::start(&environment, telemetry::Level::Info);
    spawn::adopt_orphans();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime could not be started");
            return exit::FAILED;
        }
    };
    let code = runtime.block_on(async {
        match parent {
            Some(parent) => under_master(&environment, parent, make).await,
            None => by_hand(make, pool).await,
        }
    });
    runtime.shutdown_background();
    if parent.is_some() {
        // As the master would, which may be dead or die now.
        spawn::sweep(&[], None);
    }
    code
}

/// A worker that a master started.
async fn under_master(environment: &Environment, parent: i32, make: Option<Make>) -> u8 {
    #[cfg(target_os = "linux")]
    {
        // The master spawns from a thread that lives as long as it does, which this signal follows.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    }
    let (outgoing, mut incoming) = match pipe::open() {
        Ok(pipe) => pipe,
        Err(error) => {
            tracing::error!(%error, "the pipe to the master cannot be set up");
            return exit::FAILED;
        }
    };
    outgoing.send(FromChild::Hello {
        v: [protocol::VERSION, protocol::VERSION],
        pid: std::process::id(),
        nonce: environment.get(launch::NONCE).and_then(|nonce| nonce.parse().ok()).unwrap_or(0),
        build: concat!("roundsman-worker ", env!("CARGO_PKG_VERSION")).to_owned(),
    });
    let welcome = tokio::time::timeout(WELCOME_WITHIN, async {
        loop {
            match incoming.recv().await {
                Some(Incoming::Message(ToChild::Welcome { v, work })) if v == protocol::VERSION => {
                    return serde_json::from_value::<Assignment>(work).map_err(|error| error.to_string());
                }
                Some(Incoming::Message(ToChild::Welcome { v, .. })) => {
                    return Err(format!("the master speaks version {v} of the protocol"));
                }
                Some(Incoming::Message(ToChild::Stop { .. }) | Incoming::Closed) | None => {
                    return Err("the master is gone".to_owned());
                }
                Some(_) => {}
            }
        }
    });
    let assignment = match welcome.await {
        Ok(Ok(assignment)) => assignment,
        Ok(Err(why)) => return bye(outgoing, exit::CONFIG, why),
        Err(_) => return bye(outgoing, exit::TRY_AGAIN, "the master gave no assignment".to_owned()),
    };
    let board = environment.get(launch::BOARD).and_then(|path| Board::open(path).ok());
    let link = Link { outgoing: Some(outgoing), incoming: Some(incoming), parent: Some(parent) };
    work(assignment, make, board, link).await
}

fn bye(outgoing: Outgoing, code: u8, why: String) -> u8 {
    tracing::debug!(code, %why, "worker leaves");
    outgoing.close(FromChild::Bye { why, code: i32::from(code) });
    code
}

/// A worker that somebody started in a terminal.
async fn by_hand(make: Option<Make>, pool: Option<String>) -> u8 {
    let assignment = match Assignment::by_hand(pool.as_deref().unwrap_or("default")) {
        Ok(assignment) => assignment,
        Err(error) => {
            tracing::error!("{error}");
            return exit::CONFIG;
        }
    };
    work(assignment, make, None, Link { outgoing: None, incoming: None, parent: None }).await
}

/// The pipe, where there is one.
struct Link {
    outgoing: Option<Outgoing>,
    incoming: Option<mpsc::Receiver<Incoming>>,
    parent: Option<i32>,
}

impl Link {
    fn send(&self, message: FromChild) {
        if let Some(outgoing) = &self.outgoing {
            outgoing.send(message);
        }
    }

    fn leave(self, code: u8, why: String) -> u8 {
        match self.outgoing {
            Some(outgoing) => bye(outgoing, code, why),
            None => {
                tracing::info!(code, %why, "worker leaves");
                code
            }
        }
    }
}

/// What ends the wait for the store.
enum Opened {
    Store(Store),
    Leave(u8, String),
}

/// Opens the store, for as long as it takes, beating meanwhile; unless the worker is told to leave.
async fn open_store(assignment: &Assignment, link: &mut Link, signals: &mut Signals) -> Opened {
    let Link { outgoing, incoming, .. } = link;
    let told = async {
        let Some(incoming) = incoming else { return std::future::pending().await };
        loop {
            match incoming.recv().await {
                Some(Incoming::Message(ToChild::Stop { why, .. })) => return why,
                Some(Incoming::Closed) | None => return "the master is gone".to_owned(),
                Some(_) => {}
            }
        }
    };
    tokio::select! {
        biased;
        why = told => Opened::Leave(exit::OK, why),
        _ = signals.next() => Opened::Leave(exit::OK, "it was told to by a signal".to_owned()),
        opened = wait_for_store(assignment, outgoing.as_ref()) => opened,
    }
}

async fn wait_for_store(assignment: &Assignment, outgoing: Option<&Outgoing>) -> Opened {
    let config = assignment.store_config();
    let mut said = false;
    loop {
        match Store::open(&config).await {
            Ok(store) => return Opened::Store(store),
            Err(StoreError::Unfit(why)) => {
                return Opened::Leave(exit::CONFIG, format!("the store cannot be used: {why}"));
            }
            Err(error) if !said => {
                tracing::warn!(%error, "waiting for the store");
                said = true;
            }
            Err(_) => {}
        }
        if let Some(outgoing) = outgoing {
            let beat = Beat { doing: Doing::Starting, store_ok: false, ..Beat::default() };
            outgoing.send(FromChild::Hb(beat));
        }
        tokio::time::sleep(REOPEN_AFTER).await;
    }
}

async fn work(assignment: Assignment, make: Option<Make>, board: Option<Board>, mut link: Link) -> u8 {
    let mut signals = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => {
            Signals { terminate, interrupt, by_hand: link.parent.is_none(), told: 0 }
        }
        _ => return link.leave(exit::FAILED, "signals cannot be received".to_owned()),
    };
    let store = match open_store(&assignment, &mut link, &mut signals).await {
        Opened::Store(store) => store,
        Opened::Leave(code, why) => return link.leave(code, why),
    };
    let make = match (make, assignment.handler.clone()) {
        (Some(make), _) => make,
        (None, Some(handler)) => built_in(handler, assignment.slots),
        (None, None) => return link.leave(exit::CONFIG, "the pool names no handler".to_owned()),
    };
    let slots = match slots::start(assignment.slots, board, make) {
        Ok(slots) => slots,
        Err(error) => return link.leave(exit::FAILED, format!("the slots could not be started: {error}")),
    };
    let now = Mono::now();
    let seed = now.as_nanos() ^ (u64::from(std::process::id()) << 32);
    let mut serving = Loop {
        session: Session::new(now, assignment, link.parent.is_some(), seed),
        store,
        slots,
        calls: FuturesUnordered::new(),
        returned: Vec::new(),
        beat_at: now,
        beaten: (Doing::Starting, now),
        told: 0,
        tell_at: now,
        busy_since: None,
        unfit: None,
        leave_by: None,
        link,
    };
    serving.link.send(FromChild::Ready);
    let (code, why) = serving.turn(&mut signals).await;
    serving.beat(Mono::now());
    serving.tell_figures();
    serving.link.leave(code, why)
}

fn built_in(handler: HandlerSpec, slots: usize) -> Make {
    Box::new(move || builtin::make(handler, slots))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Ctrl-C reaches a worker only when it was started by hand.
    by_hand: bool,
    told: u32,
}

impl Signals {
    /// The first asks to drain, the second to leave now. A master says on its pipe when it is time to leave now: that it
    /// died may come as several signals, one for each of its threads.
    async fn next(&mut self) -> StopMode {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => if self.by_hand { break },
            }
        }
        self.told += 1;
        if self.told > 1 && self.by_hand { StopMode::Release } else { StopMode::Drain }
    }
}

struct Loop {
    session: Session,
    store: Store,
    slots: Slots,
    calls: FuturesUnordered<LocalBoxFuture<'static, Event>>,
    /// Jobs taken back from the slots, of which the session is to be told.
    returned: Vec<Seq>,
    link: Link,
    beat_at: Mono,
    /// What the last beat said, and when.
    beaten: (Doing, Mono),
    /// Up to which version figures were told, and when they may be told next.
    told: u64,
    tell_at: Mono,
    busy_since: Option<Mono>,
    unfit: Option<(u8, String)>,
    /// An unfit worker waits no longer for its jobs.
    leave_by: Option<Mono>,
}

/// One thing that happened to the loop.
enum Happened {
    Event(Event),
    Reports(Report),
    Message(Incoming),
    Signal(StopMode),
    Deadline,
    SlotsGone,
}

impl Loop {
    /// Turns until the session leaves; answers the exit code and why.
    async fn turn(&mut self, signals: &mut Signals) -> (u8, String) {
        let mut actions = Vec::new();
        let start = Event::Tick(Vec::new());
        self.session.step(Mono::now(), start, &mut actions);
        loop {
            if let Some(leave) = self.carry_out(&mut actions) {
                return self.unfit.take().unwrap_or(leave);
            }
            if !self.returned.is_empty() {
                let returned = Event::Returned(std::mem::take(&mut self.returned));
                self.session.step(Mono::now(), returned, &mut actions);
                continue;
            }
            let now = Mono::now();
            self.consider_beat(now);
            let wake_at = self.session.next_deadline(now).min(self.beat_at);
            let happened = self.next(signals, wake_at.since(now)).await;
            let now = Mono::now();
            match happened {
                Happened::Event(event) => self.session.step(now, event, &mut actions),
                Happened::Reports(report) => self.report(now, report, &mut actions),
                Happened::Message(message) => self.message(now, message, &mut actions),
                Happened::Signal(mode) => self.stop(now, mode, "it was told to by a signal", &mut actions),
                Happened::Deadline => self.deadline(now, &mut actions),
                Happened::SlotsGone => return (exit::FAILED, "the thread of the slots is gone".to_owned()),
            }
        }
    }

    async fn next(&mut self, signals: &mut Signals, wait: Duration) -> Happened {
        let incoming = async {
            match &mut self.link.incoming {
                Some(incoming) => incoming.recv().await.unwrap_or(Incoming::Closed),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            report = self.slots.reports.recv() => report.map_or(Happened::SlotsGone, Happened::Reports),
            Some(event) = self.calls.next(), if !self.calls.is_empty() => Happened::Event(event),
            message = incoming => Happened::Message(message),
            mode = signals.next() => Happened::Signal(mode),
            () = tokio::time::sleep(wait) => Happened::Deadline,
        }
    }

    fn stop(&mut self, now: Mono, mode: StopMode, why: &str, actions: &mut Vec<Action>) {
        // An orphan's jobs end by their own timeouts.
        let within = Duration::from_secs(100 * 365 * 86_400);
        self.session.step(now, Event::Stop { mode, within, why: why.to_owned() }, actions);
    }

    fn report(&mut self, now: Mono, report: Report, actions: &mut Vec<Action>) {
        match report {
            Report::Finished(finished) => self.session.step(now, Event::Finished(finished), actions),
            Report::Unfit { code, why } => {
                tracing::error!(code, "this worker cannot go on: {why}");
                self.unfit.get_or_insert_with(|| (code, why.clone()));
                self.leave_by.get_or_insert(now + LEAVE_WITHIN);
                self.stop(now, StopMode::Release, &why, actions);
            }
        }
    }

    fn message(&mut self, now: Mono, message: Incoming, actions: &mut Vec<Action>) {
        let event = match message {
            Incoming::Message(ToChild::Wake { queue }) => QueueName::new(&queue).ok().map(Event::Wake),
            Incoming::Message(ToChild::Look { queue }) => QueueName::new(&queue).ok().map(Event::Look),
            Incoming::Message(ToChild::Cancel { queue, id }) => {
                match (QueueName::new(&queue), JobId::new(&id)) {
                    (Ok(queue), Ok(id)) => Some(Event::Cancel { queue, id }),
                    _ => None,
                }
            }
            Incoming::Message(ToChild::Stop { mode, by_ms, why }) => {
                Some(Event::Stop { mode, within: Duration::from_millis(by_ms), why })
            }
            Incoming::Message(ToChild::Pause) => Some(Event::Pause(true)),
            Incoming::Message(ToChild::Resume) => Some(Event::Pause(false)),
            Incoming::Message(ToChild::Policies { queues }) => Some(Event::Policies(policies(queues))),
            Incoming::Message(ToChild::Ping) => {
                self.beat(now);
                None
            }
            Incoming::Message(
                ToChild::Welcome { .. }
                | ToChild::Reload
                | ToChild::Resize { .. }
                | ToChild::Scale { .. }
                | ToChild::Share { .. }
                | ToChild::Lead { .. }
                | ToChild::Follow
                | ToChild::Ask { .. }
                | ToChild::Dump
                | ToChild::Figures { .. }
                | ToChild::Outlook(_)
                | ToChild::Demand { .. },
            ) => None,
            Incoming::Malformed(why) => {
                self.link.send(FromChild::Warn { code: "malformed".to_owned(), message: why });
                None
            }
            Incoming::Closed => {
                self.link.incoming = None;
                return self.stop(now, StopMode::Drain, "its master is gone", actions);
            }
        };
        if let Some(event) = event {
            self.session.step(now, event, actions);
        }
    }

    fn deadline(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let running = self.slots.gauge.running();
        self.session.step(now, Event::Tick(running.clone()), actions);
        if now < self.beat_at {
            return;
        }
        let orphaned = self.link.parent.is_some_and(|parent| {
            rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent)
        });
        if orphaned && self.link.incoming.is_some() {
            self.link.incoming = None;
            self.stop(now, StopMode::Drain, "its master is gone", actions);
        }
        if self.link.parent.is_none() || self.link.incoming.is_none() {
            let stuck = running.iter().find(|job| {
                self.session
                    .describe(job.seq)
                    .is_some_and(|(_, timeout)| now.since(job.started) > timeout + OVERRUN)
            });
            if let Some(job) = stuck {
                let id = self
                    .session
                    .describe(job.seq)
                    .map(|(delivery, _)| delivery.id.to_string())
                    .unwrap_or_default();
                let why = format!("job {id} does not stop at its timeout");
                actions.push(Action::Leave { code: exit::TIMED_OUT, why });
            }
        }
        if self.leave_by.is_some_and(|by| now >= by) {
            actions.push(Action::Leave { code: exit::OK, why: "its jobs do not stop".to_owned() });
        }
        // Also while nothing runs: an executor at rest is told from a stuck one by this alone.
        self.slots.nudge();
        self.beat(now);
    }

    /// A beat when the state has changed, but not for jobs that come and go within milliseconds.
    fn consider_beat(&mut self, now: Mono) {
        let doing = self.session.doing();
        let (said, at) = self.beaten;
        self.busy_since = if doing == Doing::Busy { self.busy_since.or(Some(now)) } else { None };
        if doing == said {
            return;
        }
        if let Some(since) = self.busy_since
            && now.since(since) < SAY_BUSY_AFTER
        {
            self.beat_at = self.beat_at.min(since + SAY_BUSY_AFTER);
            return;
        }
        if now.since(at) >= BEAT_GAP || doing == Doing::Draining {
            self.beat(now);
        } else {
            self.beat_at = self.beat_at.min(at + BEAT_GAP);
        }
    }

    fn beat(&mut self, now: Mono) {
        let doing = self.session.doing();
        self.beaten = (doing, now);
        self.beat_at = now + Duration::from_millis(BEAT_MS);
        let mut running = self.slots.gauge.running();
        running.sort_by_key(|job| job.started);
        let jobs = running.iter().take(JOBS_NAMED).filter_map(|job| {
            let (delivery, timeout) = self.session.describe(job.seq)?;
            let ran = now.since(job.started);
            let whole = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
            Some(RunningJob {
                queue: delivery.queue.to_string(),
                id: delivery.id.to_string(),
                attempt: delivery.attempt(),
                ran: u64::try_from(ran.as_millis()).unwrap_or(u64::MAX),
                left: whole(timeout) - whole(ran),
                progress: self.slots.gauge.progress(job.seq),
            })
        });
        let counts = self.session.counts;
        let (rss_kb, peak_kb) = memory_kb();
        self.link.send(FromChild::Hb(Beat {
            doing,
            claimed: counts.claimed,
            done: counts.done,
            failed: counts.failed,
            busy_ms: u64::try_from(counts.busy.as_millis()).unwrap_or(u64::MAX),
            took: self.session.lately.told(),
            jobs: jobs.collect(),
            running: u32::try_from(running.len()).unwrap_or(u32::MAX),
            tick: self.slots.gauge.tick(),
            rss_kb,
            peak_kb,
            store_ok: counts.store_ok,
            says: None,
        }));
        if now >= self.tell_at {
            self.tell_at = now + Duration::from_millis(BEAT_MS);
            self.tell_figures();
        }
    }

    /// What has been counted since it was told last, or the beginning of it.
    fn tell_figures(&mut self) {
        for (version, figure) in
            self.session.tally.figures.changed_since(self.told).into_iter().take(TOLD_AT_ONCE)
        {
            self.link.send(FromChild::Figure(figure.clone()));
            self.told = version;
        }
    }

    /// Carries out actions; answers the exit code and why, once the session leaves.
    fn carry_out(&mut self, actions: &mut Vec<Action>) -> Option<(u8, String)> {
        for action in actions.drain(..) {
            match action {
                Action::Exchange { settle, pull } => {
                    let (store, sent) = (self.store.clone(), Mono::now());
                    self.calls.push(Box::pin(async move {
                        let result = store.exchange(settle.as_ref(), pull.as_ref()).await;
                        Event::Exchanged { sent, result }
                    }));
                }
                Action::Renew(request) => {
                    let (store, sent) = (self.store.clone(), Mono::now());
                    self.calls.push(Box::pin(async move {
                        let result = store.renew(&request).await;
                        Event::Renewed { sent, queue: request.queue, result }
                    }));
                }
                Action::Reconcile(queue, newer_than) => {
                    let (store, worker) = (self.store.clone(), self.session.worker().clone());
                    self.calls.push(Box::pin(async move {
                        let result = store.unacked(&queue, &worker, newer_than).await;
                        Event::Reconciled { queue, result }
                    }));
                }
                Action::Steer(queue, expected) => {
                    let store = self.store.clone();
                    self.calls.push(Box::pin(async move {
                        if let Err(error) = store.steer(&queue, expected).await {
                            tracing::warn!(%queue, %error, "the queue's clock could not be corrected yet");
                        }
                        Event::Tick(Vec::new())
                    }));
                }
                Action::Run(tasks) => self.slots.run(tasks),
                Action::TakeBack => self.returned.extend(self.slots.take_back()),
                Action::StopJob(seq, why) => self.slots.stop(seq, why),
                Action::Full(queue) => self.link.send(FromChild::Full { queue: queue.to_string() }),
                Action::Leave { code, why } => return Some((code, why)),
            }
        }
        None
    }
}

fn policies(queues: BTreeMap<String, serde_json::Value>) -> BTreeMap<QueueName, Policy> {
    queues
        .into_iter()
        .filter_map(|(name, policy)| {
            Some((QueueName::new(&name).ok()?, serde_json::from_value(policy).ok()?))
        })
        .collect()
}

/// Resident memory of this process in KiB, and the most that it ever was; zero where the system does not tell.
fn memory_kb() -> (u64, u64) {
    let Ok(text) = std::fs::read_to_string("/proc/self/status") else { return (0, 0) };
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    (of("VmRSS:"), of("VmHWM:"))
}
