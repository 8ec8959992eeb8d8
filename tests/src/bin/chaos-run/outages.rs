//! kill -9 of a Redis server that syncs each write before it answers: what it acknowledged is there when it is back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use roundsman_shared::store::Store;
use roundsman_tests::history::{Event, Fault, HistoryWriter, Role};
use roundsman_tests::redis_server::{Fsync, RedisOptions};

use crate::Failure;
use crate::audit::{audit, drained};
use crate::load::{self, Order};
use crate::nemesis::Watcher;
use crate::options::{Options, Random, StoreKind};
use crate::report::Report;
use crate::stand::{Plan, QUEUE, Stand, queue};

const JOBS: u64 = 5_000;
const KILLS: u64 = 5;
const EVERY: Duration = Duration::from_secs(2);
/// Down before it is started again.
const DOWN: Duration = Duration::from_secs(1);
const DRAIN: Duration = Duration::from_secs(120);
/// More than are enqueued from one kill to the next, so that none is forgotten before the audit.
const JOBS_A_KILL: u64 = 5_000;

pub(crate) fn run(options: &Options) -> Result<Report, Failure> {
    if options.store == StoreKind::Sqlite {
        return Err("a file has no server to kill".into());
    }
    let jobs = options.jobs.unwrap_or(JOBS);
    let redis = RedisOptions { appendonly: Some(Fsync::Always), ..RedisOptions::default() };
    let keep = jobs * 2 + options.kills.unwrap_or(KILLS) * JOBS_A_KILL;
    let mut stand = Stand::new(options, &Plan { redis, slots: 4, keep, ..Plan::default() })?;
    let store = stand.store()?;
    let producer = HistoryWriter::create(&stand.history, "producer")?;
    stand.up()?;
    let watcher = Watcher::start(stand.history.clone())?;
    let over = AtomicBool::new(false);
    let runtime = stand.runtime.clone();
    let (lost, enqueued, kills) = std::thread::scope(|scope| -> Result<_, Failure> {
        let load = || {
            runtime
                .block_on(produce(&store, &producer, &over, jobs, options.seed))
                .map_err(|error| error.to_string())
        };
        let producing = scope.spawn(load);
        let killed = kill_the_store(&mut stand, options);
        over.store(true, Ordering::Relaxed);
        let (lost, enqueued) = producing.join().map_err(|_panic| "the producer panicked")??;
        Ok((lost, enqueued, killed?))
    })?;
    let drained = stand.runtime.block_on(drained(&store, DRAIN))?;

    let mut report = Report::new("outages");
    report.demand(drained, || format!("not drained {DRAIN:?} after the load"));
    // First: of a store in motion an audit shows nothing.
    stand.stop(&mut report)?;
    let counted = audit(&stand, &store, drained, |_| Ok(()))?;
    watcher.end()?;
    report.figure("kills of the store", kills);
    report.figure("enqueued", enqueued);
    report.figure("enqueues without an answer", lost);
    counted.tell(&mut report);
    counted.demand_all_done(&mut report);
    stand.judge(&mut report)?;
    report.print();
    Ok(report)
}

/// As many jobs as wanted, and more as long as the store is killed.
async fn produce(
    store: &Store,
    history: &HistoryWriter,
    over: &AtomicBool,
    jobs: u64,
    seed: u64,
) -> Result<(u64, u64), Failure> {
    const BATCH: u64 = 10;
    let mut random = Random::new(seed ^ 0x6a6f_6273);
    let queue = queue(QUEUE)?;
    let (mut n, mut lost) = (0, 0);
    while n < jobs || !over.load(Ordering::Relaxed) {
        let orders: Vec<Order> = (n..n + BATCH).map(|n| Order::mixed(n, &mut random)).collect();
        lost += load::enqueue(store, &queue, &orders, history).await?;
        n += BATCH;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok((lost, n))
}

fn kill_the_store(stand: &mut Stand, options: &Options) -> Result<u64, Failure> {
    let mut random = Random::new(options.seed);
    let kills = options.kills.unwrap_or(KILLS);
    for _ in 0..kills {
        std::thread::sleep(random.exponential(options.every.unwrap_or(EVERY)));
        let server = stand.server.as_mut().ok_or("no server")?;
        let fault = |fault| Event::Fault {
            fault,
            target_pid: Some(server.pid()),
            target_start: None,
            role: Some(Role::Store),
        };
        stand.writer.record(fault(Fault::StoreKill))?;
        server.kill()?;
        std::thread::sleep(DOWN);
        server.restart()?;
    }
    Ok(kills)
}
