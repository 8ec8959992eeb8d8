//! Everything at once, for as long as wanted: every few seconds one to three faults, drawn by the seed, which last some
//! seconds. In the first quarter of the time, and in the last twelfth, whoever starts others is hit too; between them
//! supervisor, master and one worker live on, so that what they hold can be seen to stay.
//!
//! A store at its limit is a run of its own: it forgets jobs that ended well to make room, and the audit could not tell.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use roundsman_shared::job::State;
use roundsman_shared::store::Store;
use roundsman_tests::history::{Event, Fault, HistoryWriter, Role};
use roundsman_tests::proc::Process;
use roundsman_tests::redis_server::{Fsync, RedisOptions};
use roundsman_tests::time;
use rustix::process::Signal;

use crate::Failure;
use crate::audit::{Waits, audit, drained};
use crate::load::{self, Order};
use crate::nemesis::{Crowd, Tree, Watcher, strike};
use crate::options::{Options, Random, StoreKind};
use crate::report::Report;
use crate::stand::{HARM, Plan, QUEUE, Stand, queue};
use crate::vitals::Vitals;

const SPAN: Duration = Duration::from_secs(3600);
/// Between two batches of jobs.
const PACE: Duration = Duration::from_millis(100);
const BATCH: u64 = 4;
/// A freeze of this length has a worker replaced.
const FREEZE_S: u64 = 20;
const DRAIN: Duration = Duration::from_secs(240);
/// What kills a worker is followed by what does not: of different jobs in a row their pool would be at fault.
const HARMS: [&str; 6] = ["spin", "flood", "abort", "bloat", "exit", "leave"];

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    WorkerKilled,
    WorkerStopped,
    WorkerFrozen,
    WorkerTold,
    MasterKilled,
    MasterStopped,
    MasterFrozen,
    SupervisorKilled,
    SupervisorStopped,
    StoreKilled,
    StoreStopped,
    StoreCut,
    StoreFlaps,
    StoreForgetsScripts,
    StoreBusy,
    Harmed,
    Reloaded,
    SettingsChanged,
    Rolled,
    OneMore,
    OneFewer,
    Crowded,
}

use Row::{
    Crowded, Harmed, MasterFrozen, MasterKilled, MasterStopped, OneFewer, OneMore, Reloaded, Rolled,
    SettingsChanged, StoreBusy, StoreCut, StoreFlaps, StoreForgetsScripts, StoreKilled, StoreStopped,
    SupervisorKilled, SupervisorStopped, WorkerFrozen, WorkerKilled, WorkerStopped, WorkerTold,
};

/// With weights; the rows of the middle of the run.
const ROWS: [(Row, u64); 15] = [
    (WorkerKilled, 6),
    (WorkerStopped, 4),
    (WorkerFrozen, 1),
    (WorkerTold, 2),
    (MasterStopped, 2),
    (SupervisorStopped, 2),
    (StoreKilled, 2),
    (StoreStopped, 3),
    (StoreCut, 3),
    (StoreFlaps, 2),
    (StoreForgetsScripts, 2),
    (StoreBusy, 2),
    (Harmed, 3),
    (Reloaded, 1),
    (Crowded, 2),
];
/// Those beside them at the beginning and at the end.
const EDGES: [(Row, u64); 7] = [
    (MasterKilled, 4),
    (MasterFrozen, 1),
    (SupervisorKilled, 3),
    (SettingsChanged, 2),
    (Rolled, 3),
    (OneMore, 2),
    (OneFewer, 2),
];

impl Row {
    const fn needs_a_server(self) -> bool {
        matches!(self, StoreKilled | StoreStopped | StoreCut | StoreFlaps | StoreForgetsScripts | StoreBusy)
    }
}

/// What lasts until it is undone.
#[derive(Debug)]
enum Lasting {
    Stopped(Process, Role),
    StoreDown,
    StoreStopped,
    Cut,
    Crowd(Crowd),
    NoSupervisor,
    /// A pool of one has none then.
    Fewer,
}

pub(crate) fn run(options: &Options) -> Result<Report, Failure> {
    let span = options.pause.unwrap_or(SPAN);
    let plan = Plan {
        redis: RedisOptions {
            appendonly: Some(Fsync::Always),
            settings: vec![("enable-debug-command".to_owned(), "yes".to_owned())],
            ..RedisOptions::default()
        },
        slots: 4,
        keep: span.as_secs() * 100,
        cable: true,
        harm: true,
        ..Plan::default()
    };
    let mut stand = Stand::new(options, &plan)?;
    let store = stand.store()?;
    let producer = HistoryWriter::create(&stand.history, "producer")?;
    stand.up()?;
    let watcher = Watcher::start(stand.history.clone())?;
    let vitals = Vitals::start(stand.fleet()?.supervisor());
    let over = AtomicBool::new(false);
    let runtime = stand.runtime.clone();
    let from = time::mono();
    let (lost, made) = std::thread::scope(|scope| -> Result<_, Failure> {
        let load = || {
            runtime
                .block_on(produce(&store, &producer, &over, options.seed))
                .map_err(|error| error.to_string())
        };
        let producing = scope.spawn(load);
        let mut nemesis = Nemesis::new(&mut stand, &vitals, &watcher, options, span)?;
        let walked = nemesis.walk();
        let (made, mended) = (std::mem::take(&mut nemesis.made), nemesis.mend());
        over.store(true, Ordering::Relaxed);
        let lost = producing.join().map_err(|_panic| "the producer panicked")??;
        walked.and(mended)?;
        Ok((lost, made))
    })?;
    let drained = stand.runtime.block_on(drained(&store, DRAIN))?;

    let mut report = Report::new(&format!("soak ({} s)", span.as_secs()));
    report.demand(drained, || format!("not drained {DRAIN:?} after the load"));
    vitals.tell(from + span / 4, from + span * 11 / 12, &mut report);
    stand.stop(&mut report)?;
    let (mut waits, mut harmed, mut undone) = (Waits::default(), 0, 0);
    let counted = audit(&stand, &store, drained, |job| {
        if job.queue.as_str() == HARM {
            harmed += 1;
        } else {
            undone += u64::from(job.state != State::Done);
            waits.note(job);
        }
        Ok(())
    })?;
    watcher.end()?;
    waits.tell(&mut report);
    report.figure("seed", options.seed);
    let rows: Vec<String> = made.iter().map(|(row, count)| format!("{count} {row:?}")).collect();
    report.figure("faults", rows.join(", "));
    report.figure("jobs that did harm", harmed);
    report.figure("enqueues without an answer", lost);
    counted.tell(&mut report);
    report.demand(undone == 0, || format!("{undone} jobs that did no harm are not done"));
    stand.judge(&mut report)?;
    report.print();
    Ok(report)
}

async fn produce(
    store: &Store,
    history: &HistoryWriter,
    over: &AtomicBool,
    seed: u64,
) -> Result<u64, Failure> {
    let mut random = Random::new(seed ^ 0x6a6f_6273);
    let queue = queue(QUEUE)?;
    let (mut n, mut lost) = (0, 0);
    while !over.load(Ordering::Relaxed) {
        let orders: Vec<Order> = (n..n + BATCH).map(|n| Order::mixed(n, &mut random)).collect();
        lost += load::enqueue(store, &queue, &orders, history).await?;
        n += BATCH;
        tokio::time::sleep(PACE).await;
    }
    Ok(lost)
}

struct Nemesis<'s> {
    stand: &'s mut Stand,
    vitals: &'s Vitals,
    watcher: &'s Watcher,
    random: Random,
    span: Duration,
    rows: Vec<(Row, u64)>,
    edges: Vec<(Row, u64)>,
    lasting: Vec<Lasting>,
    made: BTreeMap<Row, u64>,
    /// Not hit in the middle of the run.
    spared: Vec<Process>,
    harm: HistoryWriter,
    harmed: u64,
    frozen_until: Option<Duration>,
}

impl<'s> Nemesis<'s> {
    fn new(
        stand: &'s mut Stand,
        vitals: &'s Vitals,
        watcher: &'s Watcher,
        options: &Options,
        span: Duration,
    ) -> Result<Self, Failure> {
        let served = |rows: &[(Row, u64)]| {
            let has_server = options.store == StoreKind::Redis;
            rows.iter().copied().filter(|(row, _)| has_server || !row.needs_a_server()).collect::<Vec<_>>()
        };
        let harm = HistoryWriter::create(&stand.history, "harm")?;
        Ok(Self {
            stand,
            vitals,
            watcher,
            random: Random::new(options.seed),
            span,
            rows: served(&ROWS),
            edges: served(&[&ROWS[..], &EDGES[..]].concat()),
            lasting: Vec::new(),
            made: BTreeMap::new(),
            spared: Vec::new(),
            harm,
            harmed: 0,
            frozen_until: None,
        })
    }

    fn walk(&mut self) -> Result<(), Failure> {
        let begun = time::mono();
        loop {
            let now = time::mono().saturating_sub(begun);
            if now >= self.span {
                return Ok(());
            }
            let edge = now < self.span / 4 || now >= self.span * 11 / 12;
            if !edge && self.spared.is_empty() {
                let tree = Tree::of(self.stand.fleet()?.supervisor());
                let is_worker =
                    |it: &&Process| it.command_line().is_some_and(|it| it.contains("chaos-worker"));
                let oldest = tree.workers.iter().filter(is_worker).min_by_key(|it| it.start);
                let parts = tree.workers.iter().filter(|it| !is_worker(it));
                self.spared = oldest.into_iter().chain(parts).copied().collect();
            } else if edge {
                self.spared.clear();
            }
            for _ in 0..=self.random.below(3) {
                let row = self.draw(edge);
                if self.begin(row)? {
                    *self.made.entry(row).or_default() += 1;
                }
            }
            std::thread::sleep(Duration::from_millis(300 + self.random.below(4_700)));
            self.mend()?;
            std::thread::sleep(Duration::from_millis(1_000 + self.random.below(4_000)));
        }
    }

    fn draw(&mut self, edge: bool) -> Row {
        let rows = if edge { &self.edges } else { &self.rows };
        let all: u64 = rows.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.below(all);
        for (row, weight) in rows {
            if at < *weight {
                return *row;
            }
            at -= weight;
        }
        WorkerKilled
    }

    /// Answers whether there was anything to hit.
    fn begin(&mut self, row: Row) -> Result<bool, Failure> {
        match row {
            WorkerKilled => self.hit_worker(Fault::Kill),
            WorkerTold => self.hit_worker(Fault::Term),
            WorkerStopped => self.hit_worker(Fault::Stop),
            WorkerFrozen | MasterFrozen => {
                let until = || time::mono() + Duration::from_secs(FREEZE_S);
                self.frozen_until.get_or_insert_with(until);
                match row {
                    WorkerFrozen => self.hit_worker(Fault::Stop),
                    _ => self.hit_master(Fault::Stop),
                }
            }
            MasterKilled => self.hit_master(Fault::Kill),
            MasterStopped => self.hit_master(Fault::Stop),
            SupervisorStopped => {
                let supervisor = self.stand.fleet()?.supervisor();
                let hit = strike(&self.stand.writer, supervisor, Role::Supervisor, Fault::Stop)?;
                self.last(hit, Lasting::Stopped(supervisor, Role::Supervisor))
            }
            SupervisorKilled => {
                let supervisor = self.stand.fleet()?.supervisor();
                // A kill of the same moment may not have been seen to take effect yet.
                let is_gone = self.lasting.iter().any(|it| matches!(it, Lasting::NoSupervisor));
                let hit = !is_gone && strike(&self.stand.writer, supervisor, Role::Supervisor, Fault::Kill)?;
                self.last(hit, Lasting::NoSupervisor)
            }
            StoreKilled | StoreStopped | StoreCut | StoreFlaps | StoreForgetsScripts | StoreBusy => {
                self.hit_store(row)
            }
            Harmed => self.do_harm(),
            Reloaded => self.signal(Signal::HUP),
            SettingsChanged => {
                self.stand.change_settings()?;
                self.signal(Signal::HUP)
            }
            Rolled => self.signal(Signal::USR2),
            OneMore => self.signal(Signal::TTIN),
            OneFewer => {
                let told = self.signal(Signal::TTOU)?;
                self.last(told, Lasting::Fewer)
            }
            Crowded => {
                let crowd = Crowd::start()?;
                self.last(true, Lasting::Crowd(crowd))
            }
        }
    }

    fn last(&mut self, hit: bool, lasting: Lasting) -> Result<bool, Failure> {
        if hit {
            self.lasting.push(lasting);
        }
        Ok(hit)
    }

    fn hit_worker(&mut self, fault: Fault) -> Result<bool, Failure> {
        let mut workers = Tree::of(self.stand.fleet()?.supervisor()).workers;
        workers.retain(|worker| !self.spared.contains(worker));
        let Some(worker) = self.random.pick(&workers).copied() else { return Ok(false) };
        let hit = strike(&self.stand.writer, worker, Role::Worker, fault)?;
        if fault == Fault::Stop { self.last(hit, Lasting::Stopped(worker, Role::Worker)) } else { Ok(hit) }
    }

    fn hit_master(&mut self, fault: Fault) -> Result<bool, Failure> {
        let Some(master) = Tree::of(self.stand.fleet()?.supervisor()).master else { return Ok(false) };
        // A stop lasts until it goes on or is replaced.
        self.watcher.follow(master);
        let hit = strike(&self.stand.writer, master, Role::Master, fault)?;
        if fault == Fault::Stop { self.last(hit, Lasting::Stopped(master, Role::Master)) } else { Ok(hit) }
    }

    fn is_store_hit(&self) -> bool {
        let is_store = |it: &Lasting| matches!(it, Lasting::StoreDown | Lasting::StoreStopped | Lasting::Cut);
        self.lasting.iter().any(is_store)
    }

    fn hit_store(&mut self, row: Row) -> Result<bool, Failure> {
        // One of these at a time: a server that is down cannot be asked anything.
        let is_hit = self.is_store_hit();
        let (Some(server), Some(cable)) = (&mut self.stand.server, &self.stand.cable) else {
            return Ok(false);
        };
        if is_hit {
            return Ok(false);
        }
        let pid = server.pid();
        let fault = |fault| Event::Fault {
            fault,
            target_pid: Some(pid),
            target_start: None,
            role: Some(Role::Store),
        };
        match row {
            StoreKilled => {
                self.stand.writer.record(fault(Fault::StoreKill))?;
                server.kill()?;
                self.lasting.push(Lasting::StoreDown);
            }
            StoreStopped => {
                self.stand.writer.record(fault(Fault::StoreStop))?;
                server.stop_process()?;
                self.lasting.push(Lasting::StoreStopped);
            }
            StoreCut => {
                self.stand.writer.record(fault(Fault::StoreStop))?;
                cable.cut();
                self.lasting.push(Lasting::Cut);
            }
            StoreFlaps => {
                for _ in 0..8 {
                    self.stand.writer.record(fault(Fault::StoreStop))?;
                    cable.cut();
                    std::thread::sleep(Duration::from_millis(200));
                    self.stand.writer.record(fault(Fault::StoreContinue))?;
                    cable.mend();
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
            StoreForgetsScripts => {
                let _ = server.cli(&["SCRIPT", "FLUSH"]);
                let _ = server.cli(&["FUNCTION", "FLUSH"]);
            }
            StoreBusy => {
                self.stand.writer.record(fault(Fault::StoreStop))?;
                let _ = server.cli(&["DEBUG", "SLEEP", "2"]);
                self.stand.writer.record(fault(Fault::StoreContinue))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn do_harm(&mut self) -> Result<bool, Failure> {
        // It would wait for a server that is away.
        if self.is_store_hit() {
            return Ok(false);
        }
        let kind = HARMS[usize::try_from(self.harmed)? % HARMS.len()];
        let order = Order {
            id: format!("harm-{}", self.harmed),
            payload: format!("{{\"n\":{},\"harm\":{kind:?}}}", self.harmed),
            delay: None,
        };
        self.harmed += 1;
        let line = order.line();
        let enqueue = order.named(&queue(HARM)?, None);
        self.harm.record(Event::EnqInvoke(enqueue.clone()))?;
        let said = self.stand.site.cli_with_input(&["enqueue", HARM, "--ndjson"], &line)?;
        let done = said.code == Some(0);
        self.harm.record(if done { Event::EnqOk(enqueue) } else { Event::EnqUnknown(enqueue) })?;
        Ok(done)
    }

    fn signal(&self, signal: Signal) -> Result<bool, Failure> {
        Ok(self.stand.fleet()?.supervisor().signal(signal).is_ok())
    }

    /// All is well again: first the store, then who was stopped, from below, then the supervisor.
    fn mend(&mut self) -> Result<(), Failure> {
        if let Some(until) = self.frozen_until.take() {
            std::thread::sleep(until.saturating_sub(time::mono()));
        }
        let mut lasting = std::mem::take(&mut self.lasting);
        lasting.sort_by_key(|it| match it {
            Lasting::StoreDown | Lasting::StoreStopped | Lasting::Cut => 0,
            Lasting::Crowd(_) => 1,
            Lasting::Stopped(_, Role::Worker) => 2,
            Lasting::Stopped(..) => 3,
            Lasting::NoSupervisor => 4,
            Lasting::Fewer => 5,
        });
        for one in lasting {
            let going_on = |pid| Event::Fault {
                fault: Fault::StoreContinue,
                target_pid: Some(pid),
                target_start: None,
                role: Some(Role::Store),
            };
            match (one, &mut self.stand.server) {
                (Lasting::StoreDown, Some(server)) => server.restart()?,
                (Lasting::StoreStopped, Some(server)) => {
                    self.stand.writer.record(going_on(server.pid()))?;
                    server.continue_process()?;
                }
                (Lasting::Cut, Some(server)) => {
                    self.stand.writer.record(going_on(server.pid()))?;
                    if let Some(cable) = &self.stand.cable {
                        cable.mend();
                    }
                }
                (Lasting::Crowd(crowd), _) => drop(crowd),
                (Lasting::Stopped(process, role), _) => {
                    strike(&self.stand.writer, process, role, Fault::Continue)?;
                }
                (Lasting::NoSupervisor, _) => {
                    self.stand.up()?;
                    self.vitals.follow(self.stand.fleet()?.supervisor());
                }
                (Lasting::Fewer, _) => {
                    self.signal(Signal::TTIN)?;
                }
                (_, None) => {}
            }
        }
        Ok(())
    }
}
