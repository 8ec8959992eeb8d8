//! Figures of a whole fleet: `up` of this same binary, with a worker whose handler notes when it started.

use std::time::Duration;

use roundsman_shared::clock::{Mono, StoreTime, wall_micros};
use roundsman_shared::job::{Due, State};
use roundsman_shared::names::JobId;
use roundsman_shared::store::{Enqueued, StorePlace};
use roundsman_worker::{Failure as HandlerFailure, Job, Worker};

use super::loops::job;
use super::{Bench, Row, per_second, quantiles, rate};
use crate::errors::Failure;

/// How long a fleet may take to serve, and a figure to be measured.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The role of a worker in the bench: its result is the moment at which it started, in microseconds.
pub fn worker() -> std::process::ExitCode {
    Worker::new().handle_any(async |_: Job<serde_json::Value>| Ok::<_, HandlerFailure>(wall_micros())).run()
}

/// A running fleet, ended when dropped.
pub(super) struct Fleet {
    up: std::process::Child,
    folder: std::path::PathBuf,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.up.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.up.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Bench<'_> {
    /// Starts a fleet of so many workers that ask for jobs with these slots, and waits until all are ready.
    async fn fleet(&self, workers: u32, slots: u32) -> Result<Fleet, Failure> {
        let program = std::env::current_exe()?.display().to_string();
        let pool = format!(
            "[pools.default]\nqueues = [\"bench\"]\ncommand = [{program:?}, \"bench-worker\"]\n\
             min_workers = {workers}\nmax_workers = {workers}\nslots = {slots}\n"
        );
        self.fleet_of(workers, "", &pool).await
    }

    /// The same with these settings beside the store's, and the API at an address.
    pub(super) async fn fleet_of(
        &self,
        workers: u32,
        listen: &str,
        settings: &str,
    ) -> Result<Fleet, Failure> {
        let folder = std::env::temp_dir().join(format!("roundsman-{}", self.config.namespace));
        std::fs::create_dir_all(&folder)?;
        let program = std::env::current_exe()?;
        let url = match &self.config.place {
            StorePlace::Redis(url) => url.clone(),
            StorePlace::Sqlite(path) => format!("sqlite:{}", path.display()),
        };
        let settings = format!(
            "[store]\nurl = {url:?}\nnamespace = {:?}\n[http]\nlisten = {listen:?}\n{settings}",
            self.config.namespace.as_str(),
        );
        let file = folder.join("roundsman.toml");
        std::fs::write(&file, settings)?;
        let log = std::fs::File::create(folder.join("log"))?;
        #[expect(clippy::disallowed_methods, reason = "the bench starts a fleet as a user would")]
        let up = std::process::Command::new(&program)
            .args(["up", "--host-id", "bench", "--config"])
            .arg(&file)
            .current_dir(&folder)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(log)
            .spawn()?;
        let fleet = Fleet { up, folder };
        let start = Mono::now();
        loop {
            let hosts = self.store.hosts().await?;
            let ready = hosts
                .iter()
                .filter_map(|host| serde_json::from_str::<serde_json::Value>(host).ok())
                .map(|host| ready(&host));
            if ready.sum::<usize>() >= workers as usize {
                return Ok(fleet);
            }
            if Mono::now().since(start) > PATIENCE {
                let log = std::fs::read_to_string(fleet.folder.join("log")).unwrap_or_default();
                return Err(Failure::failed(format!("the fleet of the bench does not start: {log}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Jobs that have ended since the queue exists; a cleaned queue may go on counting.
    async fn ended(&self) -> Result<u64, Failure> {
        Ok(self.store.overview(&self.queue).await?.ended_total)
    }

    async fn wait_ended(&self, jobs: u64) -> Result<(), Failure> {
        let start = Mono::now();
        while self.ended().await? < jobs {
            if Mono::now().since(start) > PATIENCE {
                return Err(Failure::timed_out(format!("{} of {jobs} jobs have ended", self.ended().await?)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// From a tenth of the jobs done to all: the start of the processes is left out.
    pub(super) async fn drain(&self) -> Result<Vec<Row>, Failure> {
        let jobs = self.args.jobs;
        let bare = self.bare_drain().await?;
        let before_these = self.ended().await?;
        self.store.pause(&self.queue, true).await?;
        self.fill(jobs, Due::Now).await?;
        let fleet = self.fleet(self.args.workers, 1).await?;
        let before = self.server().await?;
        self.store.pause(&self.queue, false).await?;
        let tenth = jobs as u64 / 10;
        self.wait_ended(before_these + tenth).await?;
        let (from, start) = (self.ended().await? - before_these, Mono::now());
        self.wait_ended(before_these + jobs as u64).await?;
        let took = Mono::now().since(start);
        let cost = self.cost_since(before, jobs).await?;
        let memory = fleet.memory();
        drop(fleet);
        let drained = rate(jobs - usize::try_from(from).unwrap_or(0), took);
        Ok(vec![
            Row {
                figure: "drain",
                value: per_second(drained),
                ratio: bare.map(|bare| drained / bare),
                note: format!("{} workers, no-op handler, leased and acknowledged{cost}", self.args.workers),
            },
            Row { figure: "  memory", value: memory, ratio: None, note: "PSS after the drain".to_owned() },
        ])
    }

    /// Due → start on an idle fleet: 100 jobs a second.
    pub(super) async fn latency(&self) -> Result<Vec<Row>, Failure> {
        let _fleet = self.fleet(4, 1).await?;
        let before_these = self.ended().await?;
        let mut due = Vec::new();
        for _ in 0..1000 {
            let one = job(Due::Now);
            if let [Enqueued::Created { due: at }] =
                self.store.enqueue(&self.queue, std::slice::from_ref(&one), 1_000_000).await?[..]
            {
                due.push((one.id, at));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.wait_ended(before_these + due.len() as u64).await?;
        let mut late = self.lateness(&due).await?;
        Ok(vec![Row {
            figure: "due → start, 100 jobs/s",
            value: quantiles(&mut late),
            ratio: None,
            note: format!("{} jobs, 4 idle workers", late.len()),
        }])
    }

    pub(super) async fn timers(&self) -> Result<Vec<Row>, Failure> {
        const TIMERS: i64 = 10_000;
        let _fleet = self.fleet(4, 1).await?;
        let before_these = self.ended().await?;
        let base = self.store.clock().await?.reading + Duration::from_secs(3);
        let mut due = Vec::new();
        for batch in (0..TIMERS).collect::<Vec<_>>().chunks(self.args.batch) {
            let jobs: Vec<_> = batch
                .iter()
                .map(|number| {
                    let at = StoreTime::from_millis(base.as_millis() + number);
                    let one = job(Due::At(at));
                    due.push((one.id.clone(), at));
                    one
                })
                .collect();
            self.store.enqueue(&self.queue, &jobs, 1_000_000).await?;
        }
        self.wait_ended(before_these + due.len() as u64).await?;
        let mut late = self.lateness(&due).await?;
        let early = late.iter().filter(|micros| **micros < 0).count();
        Ok(vec![Row {
            figure: "10,000 timers over 10 s",
            value: quantiles(&mut late),
            ratio: None,
            note: format!("{} ran, {early} of them early", late.len()),
        }])
    }

    /// How long after its due time each job started, in microseconds.
    async fn lateness(&self, due: &[(JobId, StoreTime)]) -> Result<Vec<i64>, Failure> {
        let mut late = Vec::with_capacity(due.len());
        for batch in due.chunks(roundsman_shared::store::MAX_BATCH) {
            let ids: Vec<JobId> = batch.iter().map(|(id, _)| id.clone()).collect();
            for (found, (_, due)) in self.store.look(&self.queue, &ids).await?.into_iter().zip(batch) {
                let Some(found) = found.filter(|found| found.state() == State::Done) else { continue };
                let started = found.progress.result.as_ref().and_then(|raw| raw.get().parse::<i64>().ok());
                late.extend(started.map(|started| started - due.as_micros()));
            }
        }
        Ok(late)
    }

    /// What an idle fleet asks of the store and of the processor.
    pub(super) async fn idle(&self) -> Result<Vec<Row>, Failure> {
        let mut rows = Vec::new();
        for (figure, workers) in [("idle, 10 workers", 10), ("idle, 100 workers", 100)] {
            let fleet = self.fleet(workers, 1).await?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            let (before, spent) = (self.server().await?, fleet.processor_time());
            let window = Duration::from_secs(10);
            tokio::time::sleep(window).await;
            let (after, spent_now) = (self.server().await?, fleet.processor_time());
            let commands = match (before, after) {
                // The look itself is one command.
                (Some(before), Some(after)) => {
                    format!(
                        "{:.1} commands/s",
                        rate(usize::try_from(after.0 - before.0 - 1).unwrap_or(0), window)
                    )
                }
                _ => "no commands: a file".to_owned(),
            };
            let share = (spent_now - spent) / window.as_secs_f64() * 100.0;
            rows.push(Row {
                figure,
                value: commands,
                ratio: None,
                note: format!("{share:.2} % of one core; {}", fleet.memory()),
            });
        }
        Ok(rows)
    }
}

fn ready(host: &serde_json::Value) -> usize {
    let pools = host.get("pools").and_then(|pools| pools.as_array()).cloned().unwrap_or_default();
    let workers = pools.iter().filter_map(|pool| pool.get("workers")?.as_array()).flatten();
    workers
        .filter(|worker| matches!(worker.get("state").and_then(|s| s.as_str()), Some("idle" | "busy")))
        .count()
}

impl Fleet {
    /// Supervisor, master, workers and the rest, by pid.
    fn processes(&self) -> Vec<(u32, String)> {
        let mut all = vec![(self.up.id(), "supervisor".to_owned())];
        let mut at = 0;
        while let Some((pid, _)) = all.get(at).cloned() {
            for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
                for child in list.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                    let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
                    let text = String::from_utf8_lossy(&line).replace('\0', " ");
                    let role = if text.contains(" master") {
                        "master"
                    } else if text.contains("worker") {
                        "worker"
                    } else {
                        "other"
                    };
                    all.push((child, role.to_owned()));
                }
            }
            at += 1;
        }
        all
    }

    fn memory(&self) -> String {
        let pss = |pid: u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0)
        };
        let of = |role: &str| {
            let all: Vec<u64> =
                self.processes().into_iter().filter(|(_, r)| r == role).map(|(pid, _)| pss(pid)).collect();
            all.into_iter().max().unwrap_or(0)
        };
        #[expect(clippy::cast_precision_loss, reason = "kilobytes")]
        let mib = |kb: u64| kb as f64 / 1024.0;
        format!(
            "supervisor {:.1}, master {:.1}, worker {:.1} MiB",
            mib(of("supervisor")),
            mib(of("master")),
            mib(of("worker"))
        )
    }

    /// Seconds of processor time of the whole tree.
    fn processor_time(&self) -> f64 {
        let ticks = |pid: u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<u64> = text
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split(' ')
                .filter_map(|field| field.parse().ok())
                .collect();
            // utime and stime are the 14th and 15th fields; the state before them is no number.
            fields.get(10).copied().unwrap_or(0) + fields.get(11).copied().unwrap_or(0)
        };
        #[expect(clippy::cast_precision_loss, reason = "clock ticks")]
        let seconds = self.processes().into_iter().map(|(pid, _)| ticks(pid)).sum::<u64>() as f64
            / rustix::param::clock_ticks_per_second() as f64;
        seconds
    }
}
