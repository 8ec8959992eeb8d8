//! One load on a store and a fleet of its own, and then in the simulator, with the time that starts took here.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use roundsman_master::simulate::{Arrival, Fault, Figures, Lawful, Setting, Trace, run};
use roundsman_shared::clock::Wall;
use roundsman_shared::job::spec::{self, Limits};
use roundsman_shared::names::{Namespace, QueueName};
use roundsman_shared::store::{Enqueued, Store, StoreConfig, StorePlace};
use roundsman_tests::redis_server::{RedisOptions, RedisServer};
use roundsman_tests::time;
use roundsman_tests::tree::{Site, UpOptions, built};
use roundsman_tests::twin::{self, DEPENDENCY, Order, Run, Which};
use serde::Deserialize;
use tempfile::TempDir;

use crate::Failure;
use crate::compare::Course;
use crate::dependency;
use crate::lives::Lives;
use crate::options::Options;

const QUEUE: &str = "twin";
const TARGET_WAIT_S: u32 = 5;
const MIN_WORKERS: u32 = 0;
const MAX_WORKERS: u32 = 64;
const LEASE: Duration = Duration::from_secs(15);
/// Before the trace begins: timers are stored, and the fleet has looked at its queue.
const LEAD: Duration = Duration::from_secs(3);
/// Jobs that are stored with one command, and how many may wait.
const BATCH: usize = 256;
const WAITING_MAX: u64 = 1_000_000;
/// After the end of the trace, for what is left of it.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(100);
/// Workers that ended are seen to have.
const SETTLE: Duration = Duration::from_millis(500);
/// The fleet looks at its queue once a second, and how a course goes hangs on where in the second the trace begins: so many
/// beginnings are simulated.
const BEGINNINGS: u32 = 16;
/// What the master is to say of its own accord: starts and decisions.
const LOG: &str = "info,roundsman_master::fleet=debug,roundsman_master::crew=debug";

/// Where a trace is played.
struct Stage<'s> {
    trace: &'s Trace,
    store: Store,
    queue: QueueName,
    site: &'s Site,
    /// By the monotonic clock.
    began_us: u64,
}

pub(crate) fn play(load: &str, options: &Options) -> Result<Course, Failure> {
    let which = Which { name: load, seed: options.seed, scale: options.scale };
    let trace = which.trace().ok_or_else(|| format!("no load {load:?}"))?;
    let folder = tempfile::Builder::new().prefix("roundsman-twin-").tempdir()?;
    let server = RedisServer::start(RedisOptions::default())?;
    let site = Site::new(&settings(&which, &server, &folder)?)?;
    let fleet = site.up(&UpOptions {
        environment: vec![("ROUNDSMAN_LOG".to_owned(), LOG.to_owned())],
        ..UpOptions::default()
    })?;
    let place = StorePlace::Redis(server.url());
    let config = StoreConfig { place, namespace: Namespace::new("roundsman")?, lease: LEASE };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    let mut lives = Lives::default();
    let (late, stage) = local.block_on(&runtime, async {
        let store = Store::open(&config).await?;
        let began_us = time::mono_us() + micros(LEAD);
        let stage = Stage { trace: &trace, store, queue: QueueName::new(QUEUE)?, site: &site, began_us };
        let dependency = folder.path().join(DEPENDENCY);
        let late = tokio::select! {
            late = stage.perform() => late?,
            error = lives.watch(folder.path()) => return Err(Failure::from(error)),
            error = dependency::serve(&dependency) => return Err(Failure::from(error)),
        };
        Ok((late, stage))
    })?;
    let runs = twin::runs(folder.path())?;
    let log = Log::of(&fleet.stderr());
    if let Some(keep) = &options.keep {
        keep_all(&keep.join(load), folder.path(), &fleet.stderr())?;
    }
    drop(fleet);

    let live = stage.figures(&runs, &lives, &log);
    let boot = log.boot();
    let setting = Setting {
        target_wait: f64::from(TARGET_WAIT_S),
        min_workers: MIN_WORKERS,
        max_workers: MAX_WORKERS,
        slots: 1,
        boot: boot.as_secs_f64(),
        cores: std::thread::available_parallelism()
            .map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1)),
    };
    let courses: Vec<Figures> = (0..BEGINNINGS)
        .map(|place| {
            let trace = trace.clone().later(f64::from(place) / f64::from(BEGINNINGS));
            run(&trace, &setting, &mut Lawful::default(), options.seed).0
        })
        .collect();
    let most = |best: fn(u32, u32) -> u32| courses.iter().map(|it| it.most).reduce(best).unwrap_or_default();
    let most = most(u32::min)..=most(u32::max);
    let simulated = Figures::mean(&courses);
    Ok(Course { load: load.to_owned(), simulated, most, live, boot, boot_p95: log.boot_p95(), late })
}

fn settings(which: &Which<'_>, server: &RedisServer, folder: &TempDir) -> Result<String, Failure> {
    let Which { name, seed, scale } = which;
    let command = [
        built("twin-worker")?.display().to_string(),
        folder.path().display().to_string(),
        (*name).to_owned(),
        seed.to_string(),
        scale.to_string(),
    ];
    let url = server.url();
    Ok(format!(
        "[store]\nurl = {url:?}\nlease = \"{}s\"\n[pools.default]\nqueues = [{QUEUE:?}]\ncommand = {command:?}\n\
         min_workers = {MIN_WORKERS}\nmax_workers = {MAX_WORKERS}\nslots = 1\ntarget_wait = \"{TARGET_WAIT_S}s\"\n\
         [queues.{QUEUE}]\ntimeout = \"1h\"\n",
        LEASE.as_secs()
    ))
}

fn keep_all(to: &Path, runs: &Path, log: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    std::fs::write(to.join("up.log"), log)?;
    for entry in std::fs::read_dir(runs)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

impl Stage<'_> {
    /// The whole trace, until all is done and over. Answers how late the producer was at most.
    async fn perform(&self) -> Result<Duration, Failure> {
        self.set_timers().await?;
        let (late, ()) = tokio::try_join!(self.produce(), self.deploy())?;
        let end = self.trace.lasts + PATIENCE.as_secs_f64();
        loop {
            let view = self.store.overview(&self.queue).await?;
            let left = view.scheduled + view.ready + view.running;
            if left == 0 && self.now() >= self.trace.lasts {
                break;
            }
            if self.now() > end {
                return Err(format!("{left} jobs are left {PATIENCE:?} after the end of the trace").into());
            }
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(SETTLE).await;
        Ok(late)
    }

    /// Seconds since the trace began; less than nothing before.
    fn now(&self) -> f64 {
        self.seconds(time::mono_us())
    }

    fn seconds(&self, at_us: u64) -> f64 {
        (at_us as f64 - self.began_us as f64) / 1e6
    }

    async fn until(&self, at: f64) {
        tokio::time::sleep(Duration::from_secs_f64((at - self.now()).max(0.0))).await;
    }

    /// What is known long before.
    async fn set_timers(&self) -> Result<(), Failure> {
        let wall_us = time::wall_us() as f64 + (self.began_us as f64 - time::mono_us() as f64);
        let timers: Vec<(usize, Option<i64>)> = self
            .jobs(true)
            .map(|(number, job)| (number, Some(((wall_us + job.due * 1e6) / 1000.0).ceil() as i64)))
            .collect();
        for some in timers.chunks(BATCH) {
            self.enqueue(some).await?;
        }
        Ok(())
    }

    /// Each job at its moment; those of one moment together.
    async fn produce(&self) -> Result<Duration, Failure> {
        let jobs: Vec<(usize, Arrival)> = self.jobs(false).collect();
        let mut left = jobs.as_slice();
        let mut late = 0.0_f64;
        while let Some((_, first)) = left.first() {
            self.until(first.due).await;
            let now = self.now();
            let due = left.iter().take_while(|(_, job)| job.due <= now).count().clamp(1, BATCH);
            let (some, rest) = left.split_at(due);
            let orders: Vec<(usize, Option<i64>)> = some.iter().map(|(number, _)| (*number, None)).collect();
            self.enqueue(&orders).await?;
            late = late.max(self.now() - first.due);
            left = rest;
        }
        Ok(Duration::from_secs_f64(late))
    }

    fn jobs(&self, are_timers: bool) -> impl Iterator<Item = (usize, Arrival)> {
        self.trace.jobs.iter().copied().enumerate().filter(move |(_, job)| job.is_timer == are_timers)
    }

    async fn enqueue(&self, orders: &[(usize, Option<i64>)]) -> Result<(), Failure> {
        let limits = Limits { max_payload: 4096, now: Wall::now() };
        let began_us = self.began_us;
        let job = |(job, due): &(usize, Option<i64>)| {
            let payload = serde_json::to_value(Order { job: *job, began_us })?;
            let mut line = serde_json::json!({"id": format!("job-{job}"), "payload": payload});
            if let Some(due) = due {
                line["due"] = (*due).into();
            }
            Ok::<_, Failure>(spec::parse(&line.to_string(), &limits)?)
        };
        let jobs = orders.iter().map(job).collect::<Result<Vec<_>, _>>()?;
        let answers = self.store.enqueue(&self.queue, &jobs, WAITING_MAX).await?;
        match answers.iter().find(|answer| !matches!(answer, Enqueued::Created { .. })) {
            Some(answer) => Err(format!("a job was not stored: {answer:?}").into()),
            None => Ok(()),
        }
    }

    /// Rolls master and workers at the trace's moment, onto the same program.
    async fn deploy(&self) -> Result<(), Failure> {
        for fault in &self.trace.faults {
            if let Fault::Deploy { at } = fault {
                self.until(*at).await;
                let site = self.site.clone();
                let output =
                    tokio::task::spawn_blocking(move || site.cli(&["deploy", "--watch", "5s"])).await??;
                if output.code != Some(0) {
                    return Err(format!("`deploy` said {output:?}").into());
                }
            }
        }
        Ok(())
    }

    fn figures(&self, runs: &[Run], lives: &Lives, log: &Log) -> Figures {
        let last_us = runs.iter().map(|run| run.ended_us).max().unwrap_or(self.began_us);
        let lasted = self.seconds(last_us).max(self.trace.lasts);
        let end_us = self.began_us + (lasted * 1e6) as u64;
        let (worker_seconds, starts, most) = lives.between(self.began_us, end_us);
        let work: f64 =
            runs.iter().map(|run| self.seconds(run.ended_us) - self.seconds(run.started_us)).sum();
        Figures {
            cost: worker_seconds / work.max(1e-9),
            worker_seconds,
            starts,
            most,
            decisions: log.decisions,
            lasted,
            ..Figures::of_waits(self.waits(runs, lasted), f64::from(TARGET_WAIT_S))
        }
    }

    /// From the moment of each job to its start, and of each that failed from the moment that it was to come back.
    fn waits(&self, runs: &[Run], end: f64) -> Vec<f64> {
        let jobs = self.trace.jobs.iter().enumerate();
        let mut due: BTreeMap<(usize, u32), f64> = jobs.map(|(number, job)| ((number, 0), job.due)).collect();
        let mut started = BTreeMap::new();
        for run in runs {
            started.entry((run.job, run.failures)).or_insert_with(|| self.seconds(run.started_us));
            if let Some(again_us) = run.again_us {
                due.insert((run.job, run.failures + 1), self.seconds(again_us));
            }
        }
        due.into_iter().map(|(run, due)| (started.get(&run).copied().unwrap_or(end) - due).max(0.0)).collect()
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// What the master wrote down.
#[derive(Debug, Default)]
struct Log {
    decisions: usize,
    /// Milliseconds that each start took, in ascending order.
    boots: Vec<f64>,
}

/// A line of it.
#[derive(Debug, Deserialize)]
struct Line {
    message: String,
    #[serde(default)]
    pool: Option<String>,
    #[serde(default)]
    worker: Option<String>,
    #[serde(default)]
    took_ms: Option<f64>,
}

impl Log {
    fn of(text: &str) -> Self {
        let mut log = Self::default();
        // What workers say is in it as well.
        for line in text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
            match (line.message.as_str(), line.took_ms) {
                ("another number of workers", _) if line.pool.as_deref() == Some("default") => {
                    log.decisions += 1;
                }
                ("it is ready", Some(ms)) if line.worker.is_some_and(|it| it.starts_with("default/")) => {
                    log.boots.push(ms);
                }
                _ => {}
            }
        }
        log.boots.sort_by(f64::total_cmp);
        log
    }

    fn boot(&self) -> Duration {
        millis(self.boots.iter().sum::<f64>() / self.boots.len().max(1) as f64)
    }

    fn boot_p95(&self) -> Duration {
        let place = (self.boots.len() * 95).div_ceil(100).saturating_sub(1);
        millis(self.boots.get(place).copied().unwrap_or_default())
    }
}

fn millis(ms: f64) -> Duration {
    Duration::from_secs_f64(ms / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_starts_and_decisions() {
        let text = r#"{"level":"DEBUG","message":"it is ready","worker":"default/1","took_ms":40.0}
            {"level":"DEBUG","message":"it is ready","worker":"(http)/1","took_ms":90.0}
            {"level":"DEBUG","message":"another number of workers","pool":"default","target":2,"why":"2 ready"}
            anything else
            {"level":"DEBUG","message":"it is ready","worker":"default/2","took_ms":20.0}"#;
        let log = Log::of(text);
        assert_eq!((log.decisions, log.boot(), log.boot_p95()), (1, millis(30.0), millis(40.0)));
    }
}
