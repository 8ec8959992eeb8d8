//! Real work under fire: crash reports made readable while workers are killed, each trace held against binutils.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::job::spec;
use roundsman_tests::history::{Event, Fault, Role};
use roundsman_tests::spawn;
use roundsman_tests::tree::built;

use crate::Failure;
use crate::audit::{audit, drained};
use crate::load::Order;
use crate::nemesis::{Tree, strike};
use crate::options::{Options, Random};
use crate::report::Report;
use crate::stand::{Plan, QUEUE, Stand, queue};

const JOBS: u64 = 500;
const EVERY: Duration = Duration::from_millis(200);
const DRAIN: Duration = Duration::from_secs(120);
/// What one call of the command line enqueues.
const BATCH: usize = 250;
/// Reports come in so fast, not all at once: workers are killed all the while.
const PACE: Duration = Duration::from_micros(1_500);

pub(crate) fn run(options: &Options) -> Result<Report, Failure> {
    let jobs = options.jobs.unwrap_or(JOBS);
    let work = tempfile::Builder::new().prefix("roundsman-symbolicate-").tempdir()?;
    let symbols = work.path().join("symbols");
    std::fs::create_dir(&symbols)?;
    std::fs::copy(built("crasher")?, symbols.join("crasher"))?;
    let orders = reports(work.path(), jobs, options.seed)?;

    let command = vec![
        built("symbolicate")?.display().to_string(),
        "--symbols".to_owned(),
        symbols.display().to_string(),
        "--worker".to_owned(),
    ];
    let plan = Plan { command: Some(command), keep: jobs, ..Plan::default() };
    let mut stand = Stand::new(options, &plan)?;
    let store = stand.store()?;
    stand.up()?;
    let over = AtomicBool::new(false);
    let start = Mono::now();
    let (kills, drained) = std::thread::scope(|scope| -> Result<_, Failure> {
        let stand = &stand;
        let killer = scope.spawn(|| kill_workers(stand, &over, options).map_err(|error| error.to_string()));
        let ended = feed(stand, &orders).and_then(|()| {
            stand.runtime.block_on(drained(&store, DRAIN + Duration::from_millis(jobs * 100)))
        });
        over.store(true, Ordering::Relaxed);
        let kills = killer.join().map_err(|_panic| "the killer panicked")??;
        Ok((kills, ended?))
    })?;
    let took = Mono::now().since(start);

    let mut report = Report::new("symbolicate");
    report.demand(drained, || "not all reports were answered in time".to_owned());
    let pairs = work.path().join("pairs.ndjson");
    let mut out = BufWriter::new(File::create(&pairs)?);
    let counted = audit(&stand, &store, drained, |view| {
        let result = view.result.as_deref().map_or("{}", |result| result.get());
        if view.result.is_some()
            && let Some(token) = view.attempts.last().and_then(|it| u64::try_from(it.token).ok())
        {
            stand.writer.record(Event::Effect {
                queue: view.queue.to_string(),
                id: view.id.to_string(),
                attempt: view.attempt,
                token,
                sink: "result".to_owned(),
            })?;
        }
        Ok(writeln!(out, "{{\"report\":{},\"trace\":{result}}}", view.payload.get())?)
    })?;
    out.flush()?;
    stand.stop(&mut report)?;
    stand.demand_taken_for_stuck(0, &mut report);
    report.figure("seed", options.seed);
    let between = took.as_millis() / u128::from(kills.max(1));
    report
        .figure("workers killed", format!("{kills} in {:.1} s, one every {between} ms", took.as_secs_f64()));
    counted.tell(&mut report);
    let done = counted.states.get("done").copied().unwrap_or(0);
    report.demand(done == jobs, || format!("{done} of {jobs} jobs are done"));
    report.demand(counted.of("done") == jobs, || {
        format!("{} final outcomes of {jobs} jobs", counted.of("done"))
    });
    report.demand(kills > 0, || "nothing was killed: nothing is proved".to_owned());
    compare(&symbols, &pairs, &mut report)?;
    stand.judge(&mut report)?;
    report.print();
    Ok(report)
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/examples/symbolicate").join(name)
}

fn output(command: Command) -> Result<(bool, String), Failure> {
    let done = spawn::output(command)?;
    let text = [done.stdout, done.stderr].concat();
    Ok((done.status.success(), String::from_utf8_lossy(&text).trim_end().to_owned()))
}

/// Reports of processes that really crashed.
fn reports(folder: &Path, count: u64, seed: u64) -> Result<Vec<Order>, Failure> {
    let file = folder.join("reports.ndjson");
    let mut make = spawn::command("python3");
    make.arg(script("make-reports")).arg("--crasher").arg(built("crasher")?);
    make.args(["--count", &count.to_string(), "--first-seed", &(seed * 1_000_000).to_string(), "--out"]);
    make.arg(&file);
    let (made, said) = output(make)?;
    if !made {
        return Err(format!("make-reports failed: {said}").into());
    }
    let text = std::fs::read_to_string(&file)?;
    let order = |(n, line): (usize, &str)| -> Result<Order, Failure> {
        Ok(Order { id: format!("report-{n}"), payload: spec::compact(line)?, delay: None })
    };
    text.lines().enumerate().map(order).collect()
}

/// One batch after the other, at the pace at which reports come in.
fn feed(stand: &Stand, orders: &[Order]) -> Result<(), Failure> {
    let start = Mono::now();
    let mut next = start;
    for batch in orders.chunks(BATCH) {
        std::thread::sleep(next.since(Mono::now()));
        enqueue(stand, batch)?;
        next = next + PACE * u32::try_from(batch.len())?;
    }
    Ok(())
}

/// By the command line, as a user would.
fn enqueue(stand: &Stand, orders: &[Order]) -> Result<(), Failure> {
    let queue = queue(QUEUE)?;
    let mut lines = String::new();
    for order in orders {
        stand.writer.record(Event::EnqInvoke(order.named(&queue, None)))?;
        lines.push_str(&order.line());
        lines.push('\n');
    }
    let done = stand.site.cli_with_input(&["enqueue", QUEUE, "--ndjson"], &lines)?;
    if done.code != Some(0) || done.stdout.lines().count() != orders.len() {
        return Err(format!("enqueue --ndjson: {:?}: {}", done.code, done.stderr).into());
    }
    for (order, id) in orders.iter().zip(done.stdout.lines()) {
        if order.id != id {
            return Err(format!("enqueue --ndjson answered {id:?} for {:?}", order.id).into());
        }
        stand.writer.record(Event::EnqOk(order.named(&queue, None)))?;
    }
    Ok(())
}

fn kill_workers(stand: &Stand, over: &AtomicBool, options: &Options) -> Result<u64, Failure> {
    let every = options.every.unwrap_or(EVERY);
    let mut random = Random::new(options.seed);
    let supervisor = stand.fleet()?.supervisor();
    let mut kills = 0;
    loop {
        std::thread::sleep(random.exponential(every));
        if over.load(Ordering::Relaxed) {
            return Ok(kills);
        }
        let mut workers = Tree::of(supervisor).workers;
        workers.retain(|it| it.command_line().is_some_and(|line| line.contains("--symbols")));
        if let Some(target) = random.pick(&workers) {
            kills += u64::from(strike(&stand.writer, *target, Role::Worker, Fault::Kill)?);
        }
    }
}

/// Linkage name, file and line of every frame against binutils.
fn compare(symbols: &Path, pairs: &Path, report: &mut Report) -> Result<(), Failure> {
    let mut check = spawn::command("python3");
    check.arg(script("check")).arg("--symbols").arg(symbols).arg(pairs);
    let (equal, said) = output(check)?;
    report.figure("against addr2line", said.lines().last().unwrap_or_default());
    report.demand(equal, || {
        format!("traces differ from addr2line:\n{}", said.lines().take(20).collect::<Vec<_>>().join("\n"))
    });
    Ok(())
}
