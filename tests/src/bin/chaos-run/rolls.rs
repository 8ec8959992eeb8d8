//! Deploys and reloads under load, one after the other: no job is lost, cut off or repeated, none waits longer than its
//! queue's objective, and the API answers all the time. A program that is no good is rolled back by itself.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use roundsman_shared::store::Store;
use roundsman_tests::history::{Event, HistoryWriter};
use roundsman_tests::ports::free_port;
use roundsman_tests::proc::Process;
use roundsman_tests::time;
use roundsman_tests::tree::built;
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;

use crate::Failure;
use crate::audit::{Waits, audit, drained};
use crate::load::{self, Order};
use crate::nemesis::{Tree, Watcher};
use crate::options::{Options, Random};
use crate::report::{Report, spread};
use crate::stand::{Plan, QUEUE, Stand, queue};

const ROLLS: u64 = 200;
/// One in so many deploys is of a program that is no good.
const BAD: u64 = 10;
/// How long a deployed program is watched.
const WATCH: &str = "500ms";
/// Between two batches of jobs.
const PACE: Duration = Duration::from_millis(50);
const BATCH: u64 = 3;
/// One in so many jobs lasts for seconds, so that each roll has some under way.
const LONG: u64 = 60;
/// Between two calls of the API.
const CALLS: Duration = Duration::from_millis(25);
const CALL: Duration = Duration::from_secs(5);
/// `target_wait` of the pool.
const OBJECTIVE_MS: i64 = 5_000;
const ROLL: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Rolled {
    deploys: Vec<Duration>,
    reloads: Vec<Duration>,
    undone: u64,
    wrong: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<Report, Failure> {
    let rolls = options.rolls.unwrap_or(ROLLS);
    let programs = tempfile::Builder::new().prefix("roundsman-programs-").tempdir()?;
    let binary = programs.path().join("roundsman");
    install(&built("roundsman")?, &binary)?;
    let port = free_port()?;
    let plan = Plan {
        slots: 4,
        keep: rolls * 2_000 + 10_000,
        binary: Some(binary.clone()),
        settings: format!("[http]\nlisten = \"127.0.0.1:{port}\"\n"),
        ..Plan::default()
    };
    let mut stand = Stand::new(options, &plan)?;
    let store = stand.store()?;
    let producer = HistoryWriter::create(&stand.history, "producer")?;
    let caller = HistoryWriter::create(&stand.history, "caller")?;
    stand.up()?;
    let watcher = Watcher::start(stand.history.clone())?;
    let over = AtomicBool::new(false);
    let runtime = stand.runtime.clone();
    let (mut rolled, calls) = std::thread::scope(|scope| -> Result<_, Failure> {
        let load = || {
            runtime
                .block_on(produce(&store, &producer, &over, options.seed))
                .map_err(|error| error.to_string())
        };
        let producing = scope.spawn(load);
        let calling = scope.spawn(|| call(port, &caller, &over).map_err(|error| error.to_string()));
        let rolled = (0..rolls).try_fold(Rolled::default(), |mut rolled, n| {
            roll(&stand, &binary, n, &mut rolled)?;
            Ok::<_, Failure>(rolled)
        });
        over.store(true, Ordering::Relaxed);
        producing.join().map_err(|_panic| "the producer panicked")??;
        let calls = calling.join().map_err(|_panic| "the caller panicked")??;
        Ok((rolled?, calls))
    })?;
    let drained = stand.runtime.block_on(drained(&store, DRAIN))?;

    let mut report = Report::new("rolls");
    report.demand(drained, || format!("not drained {DRAIN:?} after the last roll"));
    stand.stop(&mut report)?;
    let mut waits = Waits::default();
    let counted = audit(&stand, &store, drained, |job| {
        waits.note(job);
        Ok(())
    })?;
    stand.demand_taken_for_stuck(0, &mut report);
    watcher.end()?;
    report.figure("seed", options.seed);
    report.figure("deploys", spread(&mut rolled.deploys));
    report.figure("reloads with other settings", spread(&mut rolled.reloads));
    report.figure("bad programs rolled back", rolled.undone);
    waits.tell(&mut report);
    report.figure("calls of the API", format!("{}, {} not answered", calls.made, calls.lost.len()));
    counted.tell(&mut report);
    for what in rolled.wrong {
        report.broken(what);
    }
    report.demand(waits.most() <= OBJECTIVE_MS, || format!("a job waited {} ms", waits.most()));
    report.demand(calls.lost.is_empty(), || {
        let first: Vec<String> = calls.lost.iter().take(3).cloned().collect();
        format!("{} calls were not answered: {}", calls.lost.len(), first.join("; "))
    });
    counted.demand_all_done(&mut report);
    report.demand(counted.most == 1, || format!("a job had {} deliveries", counted.most));
    stand.judge(&mut report)?;
    report.print();
    Ok(report)
}

/// As a package manager does: another file takes the name.
fn install(program: &Path, at: &Path) -> std::io::Result<()> {
    let beside = at.with_extension("new");
    std::fs::copy(program, &beside)?;
    std::fs::rename(beside, at)
}

fn roll(stand: &Stand, binary: &Path, n: u64, rolled: &mut Rolled) -> Result<(), Failure> {
    let begun = time::mono();
    if n % 2 == 1 {
        reload(stand, n)?;
        rolled.reloads.push(time::mono() - begun);
    } else if (n / 2) % BAD == BAD - 1 {
        let before = master(stand)?;
        bad(binary, n / 2 / BAD)?;
        let said = stand.site.with(built("roundsman")?).cli(&["deploy", "--watch", WATCH])?;
        install(&built("roundsman")?, binary)?;
        let after = master(stand)?;
        if said.code == Some(1) && before == after {
            rolled.undone += 1;
        } else {
            rolled
                .wrong
                .push(format!("roll {n} of a bad program: {said:?}, master {before:?}, then {after:?}"));
        }
    } else {
        let before = master(stand)?;
        install(&built("roundsman")?, binary)?;
        if (n / 2) % 4 == 1 {
            by_signal(stand, before)?;
        } else {
            let said = stand.site.cli(&["deploy", "--watch", WATCH])?;
            if said.code != Some(0) {
                rolled.wrong.push(format!("roll {n}: {said:?}"));
            }
        }
        // The registry shows it a moment later.
        let other = wait_for("another master", ROLL, || match master(stand) {
            Ok(now) if now != before => Ok(()),
            other => Err(format!("{other:?}")),
        });
        if let Err(late) = other {
            rolled.wrong.push(format!("roll {n}: {late}"));
        }
        rolled.deploys.push(time::mono() - begun);
    }
    Ok(())
}

fn master(stand: &Stand) -> Result<Process, Failure> {
    Ok(stand.fleet()?.master()?.ok_or("no master")?)
}

/// Nobody answers to a signal; the log says when it is over.
fn by_signal(stand: &Stand, before: Process) -> Result<(), Failure> {
    let fleet = stand.fleet()?;
    let over = || fleet.stderr().matches("rolled: master").count();
    let rolls = over();
    fleet.signal(Signal::USR2)?;
    wait_for("the roll to end", ROLL, || {
        if over() > rolls && master(stand).is_ok_and(|master| master != before) {
            Ok(())
        } else {
            Err("it goes on".to_owned())
        }
    })?;
    Ok(())
}

/// Programs that are no good, in turn.
fn bad(binary: &Path, which: u64) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let text: &[u8] = match which % 3 {
        0 => b"#!/bin/sh\necho it does not work >&2\nexit 1\n",
        1 => b"\x7fELF and then nothing of the kind",
        _ => b"#!/bin/sh\nexec sleep 600\n",
    };
    let beside = binary.with_extension("new");
    std::fs::write(&beside, text)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(beside, binary)
}

/// Other settings of the pool, by order and by signal in turn; over when no worker from before is left that takes jobs.
fn reload(stand: &Stand, n: u64) -> Result<(), Failure> {
    stand.change_settings()?;
    let fleet = stand.fleet()?;
    let workers = || -> Result<Vec<Process>, Failure> {
        let all = Tree::of(fleet.supervisor()).workers;
        let is_worker = |it: &Process| it.command_line().is_some_and(|line| line.contains("chaos-worker"));
        Ok(all.into_iter().filter(is_worker).collect())
    };
    let before = workers()?;
    if n % 4 == 1 {
        let said = stand.site.cli(&["reload"])?;
        if said.code != Some(0) {
            return Err(format!("reload: {said:?}").into());
        }
    } else {
        fleet.signal(Signal::HUP)?;
    }
    wait_for("other workers", ROLL, || {
        let now = workers().map_err(|error| error.to_string())?;
        let left = now.iter().filter(|worker| before.contains(worker)).count();
        if left == 0 && !now.is_empty() { Ok(()) } else { Err(format!("{left} from before")) }
    })?;
    Ok(())
}

async fn produce(
    store: &Store,
    history: &HistoryWriter,
    over: &AtomicBool,
    seed: u64,
) -> Result<(), Failure> {
    let mut random = Random::new(seed ^ 0x6a6f_6273);
    let queue = queue(QUEUE)?;
    let mut n = 0;
    while !over.load(Ordering::Relaxed) {
        let order = |n: u64| {
            let ms = if n.is_multiple_of(LONG) { 1_000 + random.below(2_000) } else { 1 + random.below(50) };
            let delay = (random.below(10) == 0).then(|| Duration::from_millis(random.below(2_000)));
            Order { id: format!("job-{n}"), payload: format!("{{\"n\":{n},\"ms\":{ms}}}"), delay }
        };
        let orders: Vec<Order> = (n..n + BATCH).map(order).collect();
        load::enqueue(store, &queue, &orders, history).await?;
        n += BATCH;
        tokio::time::sleep(PACE).await;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Calls {
    made: u64,
    lost: Vec<String>,
}

/// Enqueues over the API, each job on a connection of its own, and never twice.
fn call(port: u16, history: &HistoryWriter, over: &AtomicBool) -> Result<Calls, Failure> {
    let mut calls = Calls::default();
    let queue = queue(QUEUE)?;
    while !over.load(Ordering::Relaxed) {
        let n = calls.made;
        let order =
            Order { id: format!("call-{n}"), payload: format!("{{\"n\":{n},\"ms\":5}}"), delay: None };
        let enqueue = order.named(&queue, None);
        history.record(Event::EnqInvoke(enqueue.clone()))?;
        calls.made += 1;
        match post(port, &order.line()) {
            Ok(answer) if answer.starts_with("HTTP/1.1 201") => history.record(Event::EnqOk(enqueue))?,
            other => {
                history.record(Event::EnqUnknown(enqueue))?;
                calls.lost.push(format!("{other:?}"));
            }
        }
        std::thread::sleep(CALLS);
    }
    Ok(calls)
}

fn post(port: u16, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(CALL))?;
    let path = format!("/api/v1/queues/{QUEUE}/jobs");
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
