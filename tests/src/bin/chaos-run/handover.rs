//! How soon the job of a killed worker is started by another one: workers killed in mid-job, one after the other, each
//! with free workers present.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use roundsman_shared::store::Store;
use roundsman_tests::history::{Event, Fault, HistoryReader, Record, Role};
use roundsman_tests::proc::Process;
use roundsman_tests::time;
use roundsman_tests::wait::wait_for;

use crate::Failure;
use crate::audit::{audit, drained};
use crate::load::{self, Order};
use crate::nemesis::strike;
use crate::options::{Options, Random};
use crate::report::Report;
use crate::stand::{Plan, QUEUE, Stand, queue};

const KILLS: u64 = 200;
/// How long a job runs, and until when in it its worker is killed at the latest.
const JOB_MS: u64 = 400;
const KILL_MS: u64 = 200;
/// Who could take the job over at once, and another one to run it in the first place.
const IDLE: usize = 2;
const SOON: Duration = Duration::from_secs(30);
const DRAIN: Duration = Duration::from_secs(60);
/// The figures to reach are 10 and 50 ms, on a machine with nothing else to do. These say that something is broken.
const P50_MS: f64 = 50.0;
const P99_MS: f64 = 500.0;

pub(crate) fn run(options: &Options) -> Result<Report, Failure> {
    let kills = options.kills.unwrap_or(KILLS).max(1);
    let mut stand = Stand::new(options, &Plan { keep: kills, ..Plan::default() })?;
    let store = stand.store()?;
    stand.up()?;
    let mut random = Random::new(options.seed);
    let mut starts = Starts::of(stand.history.clone());
    let mut waits = Vec::new();
    for round in 0..kills {
        waits.push(hand_over(&stand, &store, &mut starts, round, &mut random)?);
    }
    let drained = stand.runtime.block_on(drained(&store, DRAIN))?;

    let mut report = Report::new("handover");
    report.demand(drained, || format!("not drained {DRAIN:?} after the last kill"));
    let counted = audit(&stand, &store, drained, |_| Ok(()))?;
    stand.stop(&mut report)?;
    stand.demand_taken_for_stuck(0, &mut report);
    stand.demand_logged("signal SIGKILL", &mut report);
    report.figure("seed", options.seed);
    report.figure("workers killed in mid-job", kills);
    waits.sort_unstable();
    let (p50, p99, most) = (share(&waits, 50), share(&waits, 99), share(&waits, 100));
    report.figure("kill → started elsewhere", format!("p50 {p50:.1} ms, p99 {p99:.1} ms, max {most:.1} ms"));
    report.demand(p50 <= P50_MS && p99 <= P99_MS, || {
        format!("slower than p50 {P50_MS} ms, p99 {P99_MS} ms: {waits:?} µs")
    });
    counted.tell(&mut report);
    let done = counted.states.get("done").copied().unwrap_or(0);
    report.demand(done == kills, || format!("{done} of {kills} jobs are done"));
    report.demand(counted.of("killed") == kills && counted.most == 2, || {
        format!("{} deliveries were killed in {kills} kills", counted.of("killed"))
    });
    stand.judge(&mut report)?;
    report.print();
    Ok(report)
}

/// One job whose worker is killed; answers the time from there until another worker starts it, in µs.
fn hand_over(
    stand: &Stand,
    store: &Store,
    starts: &mut Starts,
    round: u64,
    random: &mut Random,
) -> Result<u64, Failure> {
    wait_for("free workers", SOON, || {
        let status = stand.fleet().and_then(|up| Ok(up.status()?)).map_err(|error| error.to_string())?;
        let workers = status.hosts.iter().flat_map(|host| &host.pools).flat_map(|pool| &pool.workers);
        let idle = workers.filter(|it| it.state == "idle" && it.jobs.is_empty()).count();
        if idle >= IDLE { Ok(()) } else { Err(format!("{:?}", status.hosts)) }
    })?;
    let id = format!("job-{round}");
    let payload = serde_json::json!({"n": round, "ms": JOB_MS}).to_string();
    let order = Order { id: id.clone(), payload, delay: None };
    stand.runtime.block_on(load::enqueue(store, &queue(QUEUE)?, &[order], &stand.writer))?;
    let first = starts.wait(&id, 1)?;
    // Not to let it come up: any moment of the job is as good as any other.
    std::thread::sleep(Duration::from_millis(random.below(KILL_MS)));
    let killed = time::mono_us();
    if !strike(&stand.writer, first.process, Role::Worker, Fault::Kill)? {
        return Err(format!("{} was gone before it was killed", first.process).into());
    }
    let second = starts.wait(&id, 2)?;
    if second.process == first.process || second.mono_us < killed {
        return Err(
            format!("{id} was started again before its worker was killed: {first:?} {second:?}").into()
        );
    }
    Ok(second.mono_us - killed)
}

/// Of sorted durations in µs the one that so many per cent do not exceed, in ms.
fn share(sorted: &[u64], per_cent: usize) -> f64 {
    let index = (sorted.len() * per_cent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or(0) as f64 / 1_000.0
}

#[derive(Debug, Clone)]
struct Start {
    process: Process,
    mono_us: u64,
}

/// Starts in the histories of workers. What was read is not read again, so that looking costs the fleet little.
struct Starts {
    folder: PathBuf,
    /// How far each file was read.
    read: BTreeMap<PathBuf, u64>,
    found: BTreeMap<String, Vec<Start>>,
}

impl Starts {
    const fn of(folder: PathBuf) -> Self {
        Self { folder, read: BTreeMap::new(), found: BTreeMap::new() }
    }

    fn wait(&mut self, id: &str, number: usize) -> Result<Start, Failure> {
        Ok(wait_for(&format!("start {number} of {id}"), SOON, || {
            self.look().map_err(|error| error.to_string())?;
            let starts = self.found.get(id).map_or(&[][..], Vec::as_slice);
            starts.get(number - 1).cloned().ok_or_else(|| format!("{starts:?}"))
        })?)
    }

    fn look(&mut self) -> std::io::Result<()> {
        for path in HistoryReader::open(&self.folder)?.files() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !name.starts_with("worker-") {
                continue;
            }
            let from = self.read.entry(path.clone()).or_default();
            if std::fs::metadata(path)?.len() == *from {
                continue;
            }
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(*from))?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            // A line that is being written is for the next look.
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            *from += u64::try_from(whole).unwrap_or(0);
            for line in text.get(..whole).unwrap_or_default().lines() {
                let record: Record = serde_json::from_str(line)?;
                if let Event::Start { id, .. } = record.event {
                    let process = Process { pid: record.pid, start: record.start };
                    self.found.entry(id).or_default().push(Start { process, mono_us: record.mono_us });
                }
            }
        }
        Ok(())
    }
}
