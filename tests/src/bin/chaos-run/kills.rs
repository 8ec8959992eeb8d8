//! kill -9 of workers (70 %), masters (20 %) and supervisors (10 %, started again) under a mixed load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use roundsman_shared::store::Store;
use roundsman_tests::history::{Fault, HistoryWriter, Role};
use roundsman_tests::time;
use roundsman_tests::wait::wait_for;

use crate::Failure;
use crate::audit::{audit, drained};
use crate::load::{self, Order};
use crate::nemesis::{Tree, Watcher, strike};
use crate::options::{Options, Random};
use crate::report::{Report, spread};
use crate::stand::{Plan, QUEUE, Stand, queue};

const JOBS: u64 = 3_000;
const KILLS: u64 = 30;
const EVERY: Duration = Duration::from_millis(300);
const BATCH: u64 = 50;
/// How far enqueues and kills may run ahead of each other, in kills: kills are to hit a loaded fleet.
const AHEAD: u64 = 2;
const DRAIN: Duration = Duration::from_secs(120);
/// For something to kill, or for a new master.
const TARGET: Duration = Duration::from_secs(30);

/// How far each side has come; a side that failed is as far as can be, so that the other one ends too.
#[derive(Debug, Default)]
struct Pace {
    jobs: AtomicU64,
    kills: AtomicU64,
}

struct Finished<'p>(&'p AtomicU64);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.store(u64::MAX / 2, Ordering::Relaxed);
    }
}

pub(crate) fn run(options: &Options) -> Result<Report, Failure> {
    let (jobs, kills) = (options.jobs.unwrap_or(JOBS), options.kills.unwrap_or(KILLS).max(1));
    let every = options.every.unwrap_or(EVERY);
    let mut stand = Stand::new(options, &Plan { slots: 4, keep: jobs * 2, ..Plan::default() })?;
    let store = stand.store()?;
    let producer = HistoryWriter::create(&stand.history, "producer")?;
    stand.up()?;
    let watcher = Watcher::start(stand.history.clone())?;
    let pace = Pace::default();
    let runtime = stand.runtime.clone();
    let mut struck = std::thread::scope(|scope| {
        let produce = || {
            let _finished = Finished(&pace.jobs);
            let load = produce(&store, &producer, &pace, (jobs, kills), options.seed);
            runtime.block_on(load).map_err(|error| error.to_string())
        };
        let produced = scope.spawn(produce);
        let struck = {
            let _finished = Finished(&pace.kills);
            destroy(&mut stand, &pace, (jobs, kills), every, options.seed)
        };
        match produced.join() {
            Ok(Ok(())) => struck,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err("the producer panicked".into()),
        }
    })?;
    // What the slots need for all of it, since kills may be over long before.
    let deadline = DRAIN + Duration::from_millis(jobs * 3);
    let drained = stand.runtime.block_on(drained(&store, deadline))?;

    let mut report = Report::new("kills");
    report.demand(drained, || format!("not drained {deadline:?} after the last kill"));
    // First: of a store in motion an audit shows nothing.
    stand.stop(&mut report)?;
    let counted = audit(&stand, &store, drained, |_| Ok(()))?;
    stand.demand_taken_for_stuck(0, &mut report);
    watcher.end()?;
    if struck.workers > 0 {
        stand.demand_logged("signal SIGKILL", &mut report);
    }
    report.figure("seed", options.seed);
    struck.tell(&mut report);
    counted.tell(&mut report);
    counted.demand_all_done(&mut report);
    stand.judge(&mut report)?;
    report.print();
    Ok(report)
}

async fn produce(
    store: &Store,
    history: &HistoryWriter,
    pace: &Pace,
    (jobs, kills): (u64, u64),
    seed: u64,
) -> Result<(), Failure> {
    let mut random = Random::new(seed ^ 0x6a6f_6273);
    let queue = queue(QUEUE)?;
    let mut made = 0;
    while made < jobs {
        while made * kills / jobs > pace.kills.load(Ordering::Relaxed).saturating_add(AHEAD) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let until = (made + BATCH).min(jobs);
        let orders: Vec<Order> = (made..until).map(|n| Order::mixed(n, &mut random)).collect();
        load::enqueue(store, &queue, &orders, history).await?;
        made = until;
        pace.jobs.store(made, Ordering::Relaxed);
    }
    Ok(())
}

/// What was killed, and how long it took until somebody had taken its place.
#[derive(Debug, Default)]
struct Struck {
    workers: u64,
    masters: Vec<Duration>,
    supervisors: Vec<Duration>,
}

impl Struck {
    fn tell(&mut self, report: &mut Report) {
        let kills = self.workers + self.masters.len() as u64 + self.supervisors.len() as u64;
        report.figure("kills", kills);
        report.figure("of workers", self.workers);
        report.figure("of masters, next one after", spread(&mut self.masters));
        report.figure("of supervisors, serving after", spread(&mut self.supervisors));
    }
}

fn destroy(
    stand: &mut Stand,
    pace: &Pace,
    (jobs, kills): (u64, u64),
    every: Duration,
    seed: u64,
) -> Result<Struck, Failure> {
    let mut random = Random::new(seed);
    let mut struck = Struck::default();
    let mut made = 0;
    while made < kills {
        std::thread::sleep(random.exponential(every));
        let ready = || {
            let enqueued = pace.jobs.load(Ordering::Relaxed).min(jobs);
            if made <= enqueued * kills / jobs + AHEAD { Ok(()) } else { Err(format!("{enqueued} enqueued")) }
        };
        wait_for("enqueues to keep up with kills", Duration::from_secs(60), ready)?;
        let supervisor = stand.fleet()?.supervisor();
        let since = time::mono();
        let hit = match random.below(10) {
            0..7 => {
                let tree = Tree::of(supervisor);
                let Some(target) = random.pick(&tree.workers) else { continue };
                let hit = strike(&stand.writer, *target, Role::Worker, Fault::Kill)?;
                struck.workers += u64::from(hit);
                hit
            }
            7..9 => {
                let Some(master) = Tree::of(supervisor).master else { continue };
                let hit = strike(&stand.writer, master, Role::Master, Fault::Kill)?;
                if hit {
                    wait_for("another master", TARGET, || match Tree::of(supervisor).master {
                        Some(next) if next != master => Ok(()),
                        other => Err(format!("{other:?}")),
                    })?;
                    struck.masters.push(time::mono() - since);
                }
                hit
            }
            _ => {
                let hit = strike(&stand.writer, supervisor, Role::Supervisor, Fault::Kill)?;
                if hit {
                    stand.up()?;
                    struck.supervisors.push(time::mono() - since);
                }
                hit
            }
        };
        made += u64::from(hit);
        pace.kills.store(made, Ordering::Relaxed);
    }
    Ok(struck)
}
