//! The slots: run jobs on a thread of their own, so that no handler, however it blocks, can hold up leases, beats or
//! acknowledgements.
//!
//! ```text
//!   session ──Desk──▶ slots thread ──Report──▶ session
//!               │            │
//!               └── Gauge ◀──┘   which job each slot runs
//! ```
//! Desk and gauge can be used while the thread is stuck in a job: what waits can be taken back, nothing is refused, and
//! nothing piles up.
//!
//! Jobs are polled where they stand: one that ends at its first poll costs no task, no timer and no wake-up. What has
//! ended is reported in batches.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{FutureExt as _, LocalBoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use roundsman_shared::board::Board;
use roundsman_shared::clock::Mono;
use roundsman_shared::exit;
use roundsman_shared::job::settle::Outcome;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::api::{Context, Ended, Handlers, NO_PROGRESS, Patience, panicked};
use crate::session::{Finished, Running, Seq, StopJob, Task};

/// Reports that may wait for the session; a full channel holds the slots up, which is right.
const REPORTS: usize = 16;
/// Finished jobs that are reported together.
const REPORT_AT: usize = 64;
/// A finished job is reported within this time of its end.
const REPORT_WITHIN: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) enum Report {
    Finished(Vec<Finished>),
    /// The handler cannot work at all, or a slot is lost: the worker is to leave.
    Unfit {
        code: u8,
        why: String,
    },
}

/// What the slots run, for whoever asks while their thread is busy.
#[derive(Debug)]
pub(crate) struct Gauge {
    cells: Vec<Cell>,
    tick: AtomicU64,
}

#[derive(Debug)]
struct Cell {
    /// 0 for none.
    seq: AtomicU64,
    started: AtomicU64,
    progress: Arc<AtomicU8>,
}

impl Gauge {
    pub(crate) fn new(slots: usize) -> Self {
        let cell = |_| Cell {
            seq: AtomicU64::new(0),
            started: AtomicU64::new(0),
            progress: Arc::new(AtomicU8::new(NO_PROGRESS)),
        };
        Self { cells: (0..slots).map(cell).collect(), tick: AtomicU64::new(0) }
    }

    pub(crate) fn tick(&self) -> u64 {
        self.tick.load(Ordering::Relaxed)
    }

    pub(crate) fn running(&self) -> Vec<Running> {
        let running = |cell: &Cell| {
            let seq = cell.seq.load(Ordering::Acquire);
            let started = Mono::from_nanos(cell.started.load(Ordering::Acquire));
            (seq != 0).then_some(Running { seq, started })
        };
        self.cells.iter().filter_map(running).collect()
    }

    pub(crate) fn progress(&self, seq: Seq) -> Option<u8> {
        let cell = self.cells.iter().find(|cell| cell.seq.load(Ordering::Acquire) == seq)?;
        Some(cell.progress.load(Ordering::Relaxed)).filter(|percent| *percent != NO_PROGRESS)
    }
}

/// What the session wants of the slots.
#[derive(Debug, Default)]
struct Desk {
    orders: Mutex<Orders>,
    /// Wakes the thread. However often it is used while the thread is busy, it is one call.
    bell: Notify,
}

#[derive(Debug, Default)]
struct Orders {
    queue: VecDeque<Task>,
    /// At most one for each job that is held.
    stops: HashMap<Seq, StopJob>,
    closed: bool,
}

impl Desk {
    /// Nothing in here is left half-done by a panic.
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session's side.
#[derive(Debug)]
pub(crate) struct Slots {
    desk: Arc<Desk>,
    pub(crate) reports: mpsc::Receiver<Report>,
    pub(crate) gauge: Arc<Gauge>,
}

impl Slots {
    pub(crate) fn run(&self, tasks: Vec<Task>) {
        self.desk.orders().queue.extend(tasks);
        self.desk.bell.notify_one();
    }

    /// Takes back what has not been started.
    pub(crate) fn take_back(&self) -> Vec<Seq> {
        self.desk.orders().queue.drain(..).map(|task| task.seq).collect()
    }

    /// Stops a job, whether it runs or waits. The first reason counts.
    pub(crate) fn stop(&self, seq: Seq, why: StopJob) {
        self.desk.orders().stops.entry(seq).or_insert(why);
        self.desk.bell.notify_one();
    }

    /// Asks for proof that the thread still turns: see [`Gauge::tick`].
    pub(crate) fn nudge(&self) {
        self.desk.bell.notify_one();
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        self.desk.orders().closed = true;
        self.desk.bell.notify_one();
    }
}

/// Starts the thread. `make` builds the handlers on it.
pub(crate) fn start(
    slots: usize,
    board: Option<Board>,
    make: Box<dyn FnOnce() -> Handlers + Send>,
) -> std::io::Result<Slots> {
    let desk = Arc::new(Desk::default());
    let (report_sender, reports) = mpsc::channel(REPORTS);
    let gauge = Arc::new(Gauge::new(slots));
    let (shared, orders) = (gauge.clone(), desk.clone());
    std::thread::Builder::new().name("slots".to_owned()).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "the handlers' runtime could not be started");
                return;
            }
        };
        // Handlers' futures stay on this thread, and so need not be sendable.
        let local = tokio::task::LocalSet::new();
        let turning = local.run_until(async move {
            let mut bench = Bench {
                handlers: make(),
                board,
                gauge: shared,
                desk: orders,
                live: FuturesUnordered::new(),
                stops: HashMap::new(),
                free: (0..slots).rev().collect(),
                slots,
                alone: false,
                finished: Vec::new(),
                finished_since: None,
                reports: report_sender,
            };
            bench.turn().await;
        });
        runtime.block_on(turning);
        // Threads of blocking handlers may never end.
        runtime.shutdown_background();
    })?;
    Ok(Slots { desk, reports, gauge })
}

struct Done {
    seq: Seq,
    slot: usize,
    started: Mono,
    ended: Ended,
}

struct Bench {
    handlers: Handlers,
    board: Option<Board>,
    gauge: Arc<Gauge>,
    desk: Arc<Desk>,
    live: FuturesUnordered<LocalBoxFuture<'static, Done>>,
    stops: HashMap<Seq, oneshot::Sender<StopJob>>,
    free: Vec<usize>,
    slots: usize,
    /// The running job shares the worker with no other.
    alone: bool,
    finished: Vec<Finished>,
    finished_since: Option<Mono>,
    reports: mpsc::Sender<Report>,
}

impl Bench {
    async fn turn(&mut self) {
        loop {
            self.gauge.tick.fetch_add(1, Ordering::Relaxed);
            if !self.obey() {
                return;
            }
            let started = self.start_next().await;
            let overdue = self.finished_since.is_some_and(|since| Mono::now().since(since) >= REPORT_WITHIN);
            if self.finished.len() >= REPORT_AT || overdue || (!started && !self.finished.is_empty()) {
                self.report().await;
            }
            if started {
                continue;
            }
            tokio::select! {
                biased;
                () = self.desk.bell.notified() => {}
                Some(done) = self.live.next(), if !self.live.is_empty() => self.done(done).await,
            }
        }
    }

    /// Stops what is to be stopped. Answers false once nobody wants anything any more.
    fn obey(&mut self) -> bool {
        let mut orders = self.desk.orders();
        if orders.closed {
            return false;
        }
        for (seq, why) in std::mem::take(&mut orders.stops) {
            if let Some(stop) = self.stops.remove(&seq) {
                let _ = stop.send(why);
            } else if let Some(at) = orders.queue.iter().position(|task| task.seq == seq) {
                orders.queue.remove(at);
                let outcome = if why == StopJob::Cancelled { Outcome::Cancelled } else { Outcome::GiveBack };
                let now = Mono::now();
                self.finished_since.get_or_insert(now);
                self.finished.push(Finished {
                    seq,
                    outcome,
                    started: now,
                    ended: now,
                    stderr_tail: None,
                    request: None,
                });
            }
        }
        true
    }

    /// The next job, where it may start.
    fn next_task(&self) -> Option<Task> {
        let mut orders = self.desk.orders();
        let alone = orders.queue.front()?.alone;
        if self.alone || self.free.is_empty() || (alone && self.free.len() < self.slots) {
            return None;
        }
        orders.queue.pop_front()
    }

    /// Starts the next job if there is one and it may start. Answers whether it did.
    async fn start_next(&mut self) -> bool {
        let Some(task) = self.next_task() else { return false };
        let Some(slot) = self.free.pop() else { return false };
        self.alone = task.alone;
        let started = Mono::now();
        let cell = &self.gauge.cells[slot];
        cell.progress.store(NO_PROGRESS, Ordering::Relaxed);
        cell.started.store(started.as_nanos(), Ordering::Release);
        cell.seq.store(task.seq, Ordering::Release);
        if let Some(board) = &self.board
            && let Err(error) = board.post(slot, Some((&task.queue, &task.id, task.token)))
        {
            tracing::warn!(%error, "the board of running jobs cannot be written");
        }
        let seq = task.seq;
        let Some(handler) = self.handlers.find(task.spec.kind.as_deref()) else {
            let kind = task.spec.kind.clone().unwrap_or_default();
            self.done(Done { seq, slot, started, ended: Outcome::UnknownKind { kind }.into() }).await;
            return true;
        };
        let (stop_sender, stop_receiver) = watch::channel(false);
        let context = Context { progress: cell.progress.clone(), stop: stop_receiver };
        let patience = handler.patience();
        let made = std::panic::catch_unwind(AssertUnwindSafe(|| handler.start(&task, context)));
        let mut run = match made {
            Ok(run) => AssertUnwindSafe(run).catch_unwind(),
            Err(panic) => {
                self.done(Done { seq, slot, started, ended: panicked(panic.as_ref()) }).await;
                return true;
            }
        };
        let first = std::future::poll_fn(|context| std::task::Poll::Ready(run.poll_unpin(context))).await;
        if let std::task::Poll::Ready(ended) = first {
            let ended = ended.unwrap_or_else(|panic| panicked(panic.as_ref()));
            self.done(Done { seq, slot, started, ended }).await;
            return true;
        }
        let (stop, stopped) = oneshot::channel();
        self.stops.insert(seq, stop);
        let run = run.map(|ended| ended.unwrap_or_else(|panic| panicked(panic.as_ref()))).boxed_local();
        let guard = Guard { run, patience, timeout: task.timeout, stop: stop_sender, stopped };
        self.live.push(async move { Done { seq, slot, started, ended: guard.watch().await } }.boxed_local());
        true
    }

    async fn done(&mut self, done: Done) {
        let Done { seq, slot, started, ended } = done;
        self.gauge.cells[slot].seq.store(0, Ordering::Release);
        self.stops.remove(&seq);
        self.alone = false;
        // A worker that leaves starts nothing more here; a handler that does not return may still hold the slot.
        if ended.unfit.is_none() {
            self.free.push(slot);
        }
        // The next job's entry takes this one's place; only a slot that falls idle is cleared.
        if self.desk.orders().queue.is_empty()
            && let Some(board) = &self.board
        {
            let _ = board.post(slot, None);
        }
        let now = Mono::now();
        self.finished_since.get_or_insert(now);
        let Ended { outcome, stderr_tail, unfit, request } = ended;
        self.finished.push(Finished { seq, outcome, started, ended: now, stderr_tail, request });
        if let Some((code, why)) = unfit {
            self.report().await;
            self.send(Report::Unfit { code, why }).await;
        }
    }

    async fn report(&mut self) {
        self.finished_since = None;
        let finished = std::mem::take(&mut self.finished);
        if !finished.is_empty() {
            self.send(Report::Finished(finished)).await;
        }
    }

    async fn send(&self, report: Report) {
        // The session is gone only when the process is about to be.
        let _ = self.reports.send(report).await;
    }
}

/// Holds a running job to its timeout, and stops it when told.
struct Guard {
    run: LocalBoxFuture<'static, Ended>,
    patience: Patience,
    timeout: Duration,
    stop: watch::Sender<bool>,
    stopped: oneshot::Receiver<StopJob>,
}

impl Guard {
    async fn watch(self) -> Ended {
        let Self { mut run, patience, timeout, stop, mut stopped } = self;
        let begun = Mono::now();
        let why = tokio::select! {
            biased;
            ended = &mut run => return ended,
            Ok(why) = &mut stopped => Some(why),
            () = tokio::time::sleep(timeout) => None,
        };
        let _ = stop.send(true);
        let ended = match patience {
            Patience::Drop => None,
            Patience::Wait(limit) => tokio::time::timeout(limit, &mut run).await.ok(),
            Patience::Forever if why == Some(StopJob::Cancelled) => {
                // The job ends here as cancelled, whatever becomes of its thread; only the process's end stops that.
                let left = timeout.saturating_sub(Mono::now().since(begun));
                match tokio::time::timeout(left, &mut run).await {
                    Ok(ended) => Some(ended),
                    Err(_) => return stuck(timeout),
                }
            }
            Patience::Forever => Some(run.await),
        };
        // A job that is cancelled while it stops at its timeout is not tried again.
        let why = why.or_else(|| stopped.try_recv().ok().filter(|why| *why == StopJob::Cancelled));
        if let Some(done @ Ended { outcome: Outcome::Done { .. }, .. }) = ended {
            return done;
        }
        let outcome = match why {
            None => Outcome::TimedOut { error: format!("stopped at its timeout of {timeout:?}") },
            Some(StopJob::Cancelled) => Outcome::Cancelled,
            Some(StopJob::Released) => Outcome::GiveBack,
        };
        let stderr_tail = ended.and_then(|ended| ended.stderr_tail);
        Ended { stderr_tail, ..outcome.into() }
    }
}

/// The end of a cancelled job whose handler goes on.
fn stuck(timeout: Duration) -> Ended {
    let why = format!("a cancelled job has not stopped at its timeout of {timeout:?}");
    Ended { unfit: Some((exit::OK, why)), ..Outcome::Cancelled.into() }
}

#[cfg(test)]
mod tests;
