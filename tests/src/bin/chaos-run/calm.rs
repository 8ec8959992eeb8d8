//! Nothing is wrong, though it may look so: workers that are idle all the time, a job that takes nine tenths of its
//! timeout, processors taken by others, and a wall clock that is stepped by an hour either way. Nobody may be taken for
//! stuck, nobody may die, and every job runs once.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use roundsman_shared::store::Store;
use roundsman_tests::history::{Event, Fault, HistoryWriter};
use roundsman_tests::spawn;
use roundsman_tests::tree::UpOptions;
use rustix::process::Signal;

use crate::Failure;
use crate::audit::{Waits, audit, drained};
use crate::load::{self, Order};
use crate::nemesis::{Crowd, Tree, Watcher};
use crate::options::{Options, StoreKind};
use crate::report::Report;
use crate::stand::{Plan, QUEUE, Stand, queue};

const SPAN: Duration = Duration::from_secs(600);
/// Between two short jobs, which the same worker runs: the others stay idle.
const PACE: Duration = Duration::from_secs(1);
const HOUR_S: i64 = 3_600;
const DRAIN: Duration = Duration::from_secs(60);

/// Answers the wall clock with an offset from a file, and every other clock as it is. The server of the store keeps its
/// own, as another machine would.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static volatile int64_t *offset;
static int (*real)(clockid_t, struct timespec *);
__attribute__((constructor)) static void begin(void) {
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("WALL_CLOCK_OFFSET");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *map = fd >= 0 ? mmap(0, 8, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (map != MAP_FAILED) offset = map;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) begin();
    int done = real(clock, now);
    if (done == 0 && clock == CLOCK_REALTIME && offset) now->tv_sec += *offset;
    return done;
}
"#;

/// The wall clock of a fleet.
struct WallClock {
    library: PathBuf,
    offset: PathBuf,
}

impl WallClock {
    fn new(folder: &Path) -> Result<Self, Failure> {
        let (source, library) = (folder.join("wall.c"), folder.join("wall.so"));
        let clock = Self { library, offset: folder.join("wall.offset") };
        std::fs::write(&source, SHIM)?;
        clock.step(0)?;
        let mut compiler = spawn::command("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&clock.library).arg(&source).arg("-ldl");
        let done = spawn::output(compiler)?;
        if !done.status.success() {
            return Err(format!("cc: {}", String::from_utf8_lossy(&done.stderr)).into());
        }
        Ok(clock)
    }

    /// In place, since it is mapped.
    fn step(&self, seconds: i64) -> std::io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&self.offset)?;
        file.write_all_at(&seconds.to_ne_bytes(), 0)
    }

    fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            ("WALL_CLOCK_OFFSET".to_owned(), text(&self.offset)),
        ]
    }
}

pub(crate) fn run(options: &Options) -> Result<Report, Failure> {
    let span = options.pause.unwrap_or(SPAN);
    let keep = span.as_secs() + 10;
    let mut stand = Stand::new(options, &Plan { keep, timeout: Some(span), ..Plan::default() })?;
    let store = stand.store()?;
    let producer = HistoryWriter::create(&stand.history, "producer")?;
    // On SQLite the clock of the store is that of whoever asks, also of this runner: it is not stepped there.
    let clock = match options.store {
        StoreKind::Redis => Some(WallClock::new(&stand.site.work())?),
        StoreKind::Sqlite => None,
    };
    let environment = clock.as_ref().map(WallClock::environment).unwrap_or_default();
    stand.up_with(&UpOptions { workers: 4, environment, ..UpOptions::default() })?;
    let supervisor = stand.fleet()?.supervisor();
    let before = Tree::of(supervisor);
    let watcher = Watcher::start(stand.history.clone())?;
    let crowd = Crowd::start()?;
    let over = AtomicBool::new(false);
    let runtime = stand.runtime.clone();
    std::thread::scope(|scope| -> Result<(), Failure> {
        let load = || {
            runtime
                .block_on(produce(&store, &producer, &over, span.mul_f64(0.9)))
                .map_err(|error| error.to_string())
        };
        let producing = scope.spawn(load);
        let walked = walk(&stand, clock.as_ref(), span);
        over.store(true, Ordering::Relaxed);
        producing.join().map_err(|_panic| "the producer panicked")??;
        walked
    })?;
    drop(crowd);
    let drained = stand.runtime.block_on(drained(&store, DRAIN))?;
    let after = Tree::of(supervisor);

    let mut report = Report::new(&format!("calm ({} s)", span.as_secs()));
    report.demand(drained, || format!("not drained {DRAIN:?} after the load"));
    report.demand(before.master.is_some() && before.master == after.master, || {
        format!("the master was {:?}, and is {:?}", before.master, after.master)
    });
    report.demand(before.workers.len() >= 4 && before.workers == after.workers, || {
        format!("workers and parts were {:?}, and are {:?}", before.workers, after.workers)
    });
    let mut waits = Waits::default();
    let counted = audit(&stand, &store, drained, |job| {
        waits.note(job);
        Ok(())
    })?;
    let stepped = clock.is_some();
    let hours = hours_in(&stand.fleet()?.stderr());
    report.demand(!stepped || hours >= 2, || {
        format!("the fleet's log spans {hours} h: its clock was not stepped")
    });
    stand.stop(&mut report)?;
    stand.demand_taken_for_stuck(0, &mut report);
    watcher.end()?;
    waits.tell(&mut report);
    counted.tell(&mut report);
    counted.demand_all_done(&mut report);
    report.demand(counted.most == 1, || format!("a job had {} deliveries", counted.most));
    stand.judge(&mut report)?;
    report.print();
    Ok(report)
}

/// The long job, and then one a second.
async fn produce(
    store: &Store,
    history: &HistoryWriter,
    over: &AtomicBool,
    long: Duration,
) -> Result<(), Failure> {
    let queue = queue(QUEUE)?;
    let order = |n: u64, ms: u128| Order {
        id: format!("job-{n}"),
        payload: format!("{{\"n\":{n},\"ms\":{ms}}}"),
        delay: None,
    };
    load::enqueue(store, &queue, &[order(0, long.as_millis())], history).await?;
    for n in 1.. {
        tokio::time::sleep(PACE).await;
        if over.load(Ordering::Relaxed) {
            break;
        }
        load::enqueue(store, &queue, &[order(n, 5)], history).await?;
    }
    Ok(())
}

/// Lets the time pass, and steps the wall clock at each quarter of it.
fn walk(stand: &Stand, clock: Option<&WallClock>, span: Duration) -> Result<(), Failure> {
    for seconds in [HOUR_S, -HOUR_S, 0] {
        std::thread::sleep(span / 4);
        if let Some(clock) = clock {
            let fault = Fault::ClockStep;
            stand.writer.record(Event::Fault { fault, target_pid: None, target_start: None, role: None })?;
            clock.step(seconds)?;
            // It says so with the time, which is looked for in the end.
            stand.fleet()?.signal(Signal::HUP)?;
        }
    }
    std::thread::sleep(span / 4);
    Ok(())
}

/// How far the times of the log's lines lie apart, in whole hours: the fleet really saw another clock.
fn hours_in(log: &str) -> i64 {
    let hour = |line: &str| {
        let (_, line) = line.split_once("\"timestamp\":\"")?;
        let (day, time) = (line.get(8..10)?, line.get(11..13)?);
        Some(day.parse::<i64>().ok()? * 24 + time.parse::<i64>().ok()?)
    };
    let hours: Vec<i64> = log.lines().filter_map(hour).collect();
    hours.iter().max().zip(hours.iter().min()).map_or(0, |(most, least)| most - least)
}
