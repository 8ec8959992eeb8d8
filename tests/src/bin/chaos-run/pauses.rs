//! Processes that stop and go on: a worker, the master, the store, the whole tree.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use roundsman_shared::store::Store;
use roundsman_tests::history::{Event, Fault, HistoryWriter, Role};
use roundsman_tests::proc::Process;
use roundsman_tests::time;

use crate::Failure;
use crate::audit::{audit, drained};
use crate::load::{self, Order};
use crate::nemesis::{Tree, Watcher, strike};
use crate::options::{Options, Random, StoreKind};
use crate::report::Report;
use crate::stand::{Plan, QUEUE, Stand, queue};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Worker,
    Master,
    Store,
    Tree,
}

/// Name, what stops, for how long (s).
const ROWS: [(&str, Target, u64); 6] = [
    ("worker-6", Target::Worker, 6),
    ("worker-40", Target::Worker, 40),
    ("master-30", Target::Master, 30),
    ("store-10", Target::Store, 10),
    ("store-40", Target::Store, 40),
    ("tree-60", Target::Tree, 60),
];
const SLOTS: u32 = 4;
const WORKERS: u64 = 4;
/// Load before the pause, and after it.
const BEFORE: Duration = Duration::from_secs(4);
const AFTER: Duration = Duration::from_secs(8);
/// Jobs that run all through the pause.
const LONG: u64 = 8;
/// Between two jobs.
const PACE: Duration = Duration::from_millis(15);
const DRAIN: Duration = Duration::from_secs(120);

pub(crate) fn run(options: &Options) -> Result<Vec<Report>, Failure> {
    let wanted = |name: &str| options.row.as_ref().is_none_or(|row| name.starts_with(row.as_str()));
    let mut reports = Vec::new();
    for (name, target, seconds) in ROWS {
        if !wanted(name) || (target == Target::Store && options.store == StoreKind::Sqlite) {
            continue;
        }
        let pause = options.pause.unwrap_or_else(|| Duration::from_secs(seconds));
        reports.push(row(options, name, target, pause)?);
        if options.pause.is_some() {
            break;
        }
    }
    if reports.is_empty() {
        return Err(format!("no row {:?}", options.row).into());
    }
    Ok(reports)
}

fn row(options: &Options, name: &str, target: Target, pause: Duration) -> Result<Report, Failure> {
    let mut stand = Stand::new(options, &Plan { slots: SLOTS, keep: 100_000, ..Plan::default() })?;
    let store = stand.store()?;
    let producer = HistoryWriter::create(&stand.history, "producer")?;
    stand.up()?;
    stand.fleet()?.wait_for_workers(4, Duration::from_secs(30))?;
    let first_master = Tree::of(stand.fleet()?.supervisor()).master;
    let watcher = Watcher::start(stand.history.clone())?;
    let over = AtomicBool::new(false);
    let runtime = stand.runtime.clone();
    let (lost, went_on) = std::thread::scope(|scope| -> Result<_, Failure> {
        let load = || {
            runtime
                .block_on(produce(&store, &producer, &over, pause, options.seed))
                .map_err(|error| error.to_string())
        };
        let producing = scope.spawn(load);
        std::thread::sleep(BEFORE);
        let paused = stop_and_continue(&stand, target, pause);
        let went_on = time::mono();
        std::thread::sleep(AFTER);
        over.store(true, Ordering::Relaxed);
        let lost = producing.join().map_err(|_panic| "the producer panicked")??;
        paused?;
        Ok((lost, went_on))
    })?;
    let drained = stand.runtime.block_on(drained(&store, DRAIN))?;
    let after = time::mono() - went_on;

    let mut report = Report::new(&format!("pauses {name} ({target:?} stopped {} s)", pause.as_secs()));
    report.demand(drained, || format!("not drained {DRAIN:?} after the load"));
    let counted = audit(&stand, &store, drained, |_| Ok(()))?;
    let replaced = Tree::of(stand.fleet()?.supervisor()).master != first_master;
    stand.stop(&mut report)?;
    watcher.end()?;
    let expected = target == Target::Master && pause >= Duration::from_secs(20);
    report.demand(replaced == expected, || format!("the master was replaced: {replaced}"));
    let dies = target == Target::Worker && pause >= Duration::from_secs(20);
    if dies {
        stand.demand_logged("it has died", &mut report);
    }
    stand.demand_taken_for_stuck(usize::from(dies), &mut report);
    report.figure("enqueues without an answer", lost);
    report.figure(
        "drained after going on",
        format!("{:.1} s (load went on for {} s)", after.as_secs_f64(), AFTER.as_secs()),
    );
    counted.tell(&mut report);
    let workers = match target {
        Target::Worker => 1,
        // They finish what they run, whoever watches them.
        Target::Master => 0,
        Target::Store | Target::Tree => WORKERS,
    };
    let slots = u64::from(SLOTS) * workers;
    report.demand(counted.reruns() <= slots, || {
        format!("{} runs were made again, and {slots} slots were hit", counted.reruns())
    });
    counted.demand_all_done(&mut report);
    stand.judge(&mut report)?;
    report.print();
    Ok(report)
}

/// Some jobs that last longer than the pause, short ones, and some of seconds.
async fn produce(
    store: &Store,
    history: &HistoryWriter,
    over: &AtomicBool,
    pause: Duration,
    seed: u64,
) -> Result<u64, Failure> {
    let mut random = Random::new(seed ^ 0x6a6f_6273);
    let queue = queue(QUEUE)?;
    let through = BEFORE + pause + Duration::from_secs(1);
    let order = |n| {
        let payload =
            serde_json::json!({"n": n, "ms": u64::try_from(through.as_millis()).unwrap_or(u64::MAX)});
        Order { id: format!("long-{n}"), payload: payload.to_string(), delay: None }
    };
    let orders: Vec<Order> = (0..LONG).map(order).collect();
    let (mut n, mut lost) = (0, load::enqueue(store, &queue, &orders, history).await?);
    while !over.load(Ordering::Relaxed) {
        let mut order = Order::mixed(n, &mut random);
        if n % 40 == 0 {
            let ms = 2_000 + random.below(4_000);
            order.payload = serde_json::json!({"n": n, "ms": ms}).to_string();
        }
        lost += load::enqueue(store, &queue, &[order], history).await?;
        n += 1;
        tokio::time::sleep(PACE).await;
    }
    Ok(lost)
}

fn stop_and_continue(stand: &Stand, target: Target, pause: Duration) -> Result<(), Failure> {
    let supervisor = stand.fleet()?.supervisor();
    let tree = Tree::of(supervisor);
    let victims: Vec<(Process, Role)> = match target {
        Target::Worker => {
            let status = stand.fleet()?.status()?;
            let workers = status.hosts.iter().flat_map(|it| &it.pools).flat_map(|it| &it.workers);
            let busiest = workers.max_by_key(|it| it.jobs.len()).ok_or("no worker to stop")?;
            let busiest = busiest.pid.and_then(Process::of).ok_or("the worker is gone")?;
            vec![(busiest, Role::Worker)]
        }
        Target::Master => vec![(tree.master.ok_or("no master to stop")?, Role::Master)],
        // From the top, so that nobody sees the ones below stop.
        Target::Tree => [(supervisor, Role::Supervisor)]
            .into_iter()
            .chain(tree.master.map(|master| (master, Role::Master)))
            .chain(tree.workers.iter().map(|worker| (*worker, Role::Worker)))
            .collect(),
        Target::Store => {
            let server = stand.server.as_ref().ok_or("a file has no process to stop")?;
            let fault = |fault| Event::Fault {
                fault,
                target_pid: Some(server.pid()),
                target_start: None,
                role: Some(Role::Store),
            };
            stand.writer.record(fault(Fault::StoreStop))?;
            server.stop_process()?;
            std::thread::sleep(pause);
            stand.writer.record(fault(Fault::StoreContinue))?;
            return Ok(server.continue_process()?);
        }
    };
    for (victim, role) in &victims {
        if !strike(&stand.writer, *victim, *role, Fault::Stop)? {
            return Err(format!("{victim} was gone before it was stopped").into());
        }
    }
    std::thread::sleep(pause);
    for (victim, role) in victims.iter().rev() {
        strike(&stand.writer, *victim, *role, Fault::Continue)?;
    }
    Ok(())
}
