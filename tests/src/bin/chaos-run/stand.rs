//! What every run stands on: a store, a site for the binary, a fleet in it, and a folder of histories.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use roundsman_shared::names::{Namespace, QueueName};
use roundsman_shared::store::{Store, StoreConfig, StoreError, StorePlace};
use roundsman_tests::cable::Cable;
use roundsman_tests::checker::{Tolerances, check_folder};
use roundsman_tests::history::HistoryWriter;
use roundsman_tests::redis_server::{RedisOptions, RedisServer};
use roundsman_tests::time;
use roundsman_tests::tree::{Site, TreeError, Up, UpOptions, built};
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::Failure;
use crate::nemesis::Tree;
use crate::options::{Options, StoreKind};
use crate::report::Report;

pub(crate) const LEASE: Duration = Duration::from_secs(15);
/// The queue that runs enqueue to, and that of follow-ups.
pub(crate) const QUEUE: &str = "chaos";
pub(crate) const NEXT: &str = "next";
/// Of jobs that do harm to their workers.
pub(crate) const HARM: &str = "harm";
/// Of a job in it.
pub(crate) const HARM_ATTEMPTS: u32 = 2;
pub(crate) const QUEUES: [&str; 3] = [QUEUE, NEXT, HARM];
const STOP: Duration = Duration::from_secs(20);
/// A second supervisor is refused until the first one's tree has let go of the host.
const UP_AGAIN: Duration = Duration::from_secs(60);

pub(crate) struct Stand {
    /// The last is the present one; those before were killed. Dropped first.
    fleets: Vec<Up>,
    pub(crate) server: Option<RedisServer>,
    /// Between the fleet and the server, where that is wanted.
    pub(crate) cable: Option<Cable>,
    pub(crate) site: Site,
    pub(crate) config: StoreConfig,
    pub(crate) history: PathBuf,
    /// Of the runner itself.
    pub(crate) writer: HistoryWriter,
    /// Driven by whoever blocks on it, from any thread.
    pub(crate) runtime: Arc<tokio::runtime::Runtime>,
    pub(crate) since: Duration,
    /// Removed at the end, unless the histories are to be kept elsewhere.
    _folder: TempDir,
}

/// What differs between stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) redis: RedisOptions,
    /// Where SQLite's file lies, in place of the site's folder.
    pub(crate) sqlite: Option<PathBuf>,
    /// Of the pool, in place of the chaos worker.
    pub(crate) command: Option<Vec<String>>,
    pub(crate) slots: u32,
    pub(crate) keep: u64,
    /// Of jobs, in place of the default.
    pub(crate) timeout: Option<Duration>,
    /// A copy of the binary, which may be replaced.
    pub(crate) binary: Option<PathBuf>,
    /// The fleet reaches the server by a cable; this run does without.
    pub(crate) cable: bool,
    /// A pool for [`HARM`].
    pub(crate) harm: bool,
    /// Further settings.
    pub(crate) settings: String,
}

impl Stand {
    pub(crate) fn new(options: &Options, plan: &Plan) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("roundsman-chaos-").tempdir()?;
        let history = options.keep.clone().unwrap_or_else(|| folder.path().join("history"));
        // The checker would judge two runs as one.
        if fs::read_dir(&history).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(format!(
                "{}: not empty, and a run is judged by all that is there",
                history.display()
            )
            .into());
        }
        let writer = HistoryWriter::create(&history, "runner")?;
        // SQLite's file lies in the site's own folder, which is known only when the site is.
        let site = match &plan.binary {
            Some(binary) => Site::with_binary(binary.clone(), "")?,
            None => Site::new("")?,
        };
        let mut cable = None;
        let (server, place, url) = match options.store {
            StoreKind::Redis => {
                let server = RedisServer::start(plan.redis.clone())?;
                let (direct, mut url) = (server.url(), server.url());
                if plan.cable {
                    let made = Cable::start(server.port())?;
                    url = url.replace(&server.port().to_string(), &made.port().to_string());
                    cable = Some(made);
                }
                (Some(server), StorePlace::Redis(direct), url)
            }
            StoreKind::Sqlite => {
                let folder = plan.sqlite.clone().unwrap_or_else(|| site.work());
                let file = folder.join("jobs.db");
                let url = format!("sqlite:{}", file.display());
                (None, StorePlace::Sqlite(file), url)
            }
        };
        let command = match &plan.command {
            Some(command) => command.clone(),
            None => vec![built("chaos-worker")?.display().to_string(), history.display().to_string()],
        };
        let (slots, keep) = (plan.slots.max(1), plan.keep + 1_000);
        let mut settings = format!(
            "[store]\nurl = {url:?}\nlease = \"15s\"\n[pools.default]\nqueues = [{QUEUE:?}, {NEXT:?}]\n\
             min_workers = 4\nmax_workers = 4\nslots = {slots}\ngrace = \"5s\"\ncommand = {command:?}\n"
        );
        if plan.harm {
            writeln!(
                settings,
                "[pools.harm]\nqueues = [{HARM:?}]\nmin_workers = 1\nmax_workers = 1\ngrace = \"5s\"\n\
                 command = {command:?}"
            )?;
        }
        for queue in QUEUES {
            writeln!(
                settings,
                "[queues.{queue}]\nkeep_done = \"24h\"\nkeep_done_max = {keep}\nkeep_dead_max = {keep}\n\
                 backoff = {{ type = \"fixed\", delay = \"50ms\" }}"
            )?;
            if queue == HARM {
                // One that does not stop is ended by this, and not tried for long.
                writeln!(settings, "timeout = \"5s\"\nmax_attempts = {HARM_ATTEMPTS}")?;
            } else if let Some(timeout) = plan.timeout {
                writeln!(settings, "timeout = \"{}ms\"", timeout.as_millis())?;
            }
        }
        settings.push_str(&plan.settings);
        site.configure(&settings)?;
        let config = StoreConfig { place, namespace: Namespace::new("roundsman")?, lease: LEASE };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self {
            fleets: Vec::new(),
            server,
            cable,
            site,
            config,
            history,
            writer,
            runtime: Arc::new(runtime),
            since: time::mono(),
            _folder: folder,
        })
    }

    pub(crate) fn store(&self) -> Result<Store, StoreError> {
        self.runtime.block_on(Store::open(&self.config))
    }

    /// Starts a fleet; after the end of another one as soon as it is let.
    pub(crate) fn up(&mut self) -> Result<(), Failure> {
        self.up_with(&UpOptions { workers: 1, ..UpOptions::default() })
    }

    pub(crate) fn up_with(&mut self, options: &UpOptions) -> Result<(), Failure> {
        let site = &self.site;
        let up =
            wait_for("a supervisor that is let start", UP_AGAIN, || match Self::up_once(site, options) {
                Ok(up) => Ok(Ok(up)),
                Err(error @ TreeError::Left { .. }) => Err(error.to_string()),
                Err(error) => Ok(Err(error)),
            })??;
        self.fleets.push(up);
        Ok(())
    }

    fn up_once(site: &Site, options: &UpOptions) -> Result<Up, TreeError> {
        let up = site.up(options)?;
        // `status` may still show the workers of the tree before.
        up.wait_for(UP_AGAIN, || match Tree::of(up.supervisor()) {
            Tree { workers, .. } if !workers.is_empty() => Ok(()),
            tree => Err(format!("{tree:?}")),
        })?;
        Ok(up)
    }

    /// Other settings of the pool, such that each worker is replaced by one that has them when they are read again.
    pub(crate) fn change_settings(&self) -> Result<(), Failure> {
        let file = self.site.work().join("roundsman.toml");
        let settings = fs::read_to_string(&file)?;
        let (old, new) = if settings.contains("slots = 4") { (4, 5) } else { (5, 4) };
        let changed = settings.replace(&format!("slots = {old}"), &format!("slots = {new}"));
        if changed == settings {
            return Err("the pool has neither 4 slots nor 5".into());
        }
        Ok(fs::write(&file, changed)?)
    }

    pub(crate) fn fleet(&self) -> Result<&Up, Failure> {
        self.fleets.last().ok_or_else(|| "no fleet was started".into())
    }

    /// An operator finds each death in the log of `up`.
    pub(crate) fn demand_logged(&self, what: &str, report: &mut Report) {
        let logged = self.fleets.iter().any(|up| up.stderr().contains(what));
        report.demand(logged, || format!("no log of `up` says {what:?}"));
    }

    /// So many workers, and no other, were taken for stuck by their master.
    pub(crate) fn demand_taken_for_stuck(&self, expected: usize, report: &mut Report) {
        let found: usize = self.fleets.iter().map(|up| up.stderr().matches("it is killed: ").count()).sum();
        report.demand(found == expected, || {
            format!("{found} workers were killed by their master for being stuck, and {expected} were")
        });
    }

    /// Stops the fleet as an operator does: it leaves with 0, and nothing that any fleet started is left.
    pub(crate) fn stop(&self, report: &mut Report) -> Result<(), Failure> {
        let fleet = self.fleet()?;
        fleet.signal(Signal::TERM)?;
        let status = fleet.wait_exit(STOP)?;
        report.demand(status.success(), || format!("`up` left with {status}"));
        let gone = wait_for("every process to be gone", STOP, || {
            let left: Vec<String> = self.fleets.iter().flat_map(Up::alive).map(|it| it.to_string()).collect();
            if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
        });
        if let Err(late) = gone {
            report.broken(late.to_string());
        }
        Ok(())
    }

    /// The verdict of the checker, and the time that the run took.
    pub(crate) fn judge(&self, report: &mut Report) -> Result<(), Failure> {
        // The machine is loaded: a death is seen late, and an ack may wait for a slow disk's sync.
        let tolerances = Tolerances { late_death_us: 100_000, ack_us: 1_000_000, ..Tolerances::default() };
        let verdict = check_folder(&self.history, &tolerances)?;
        let seen = verdict.seen;
        report.figure("jobs / acknowledged", format!("{} / {}", seen.jobs, seen.acked));
        report.figure("starts in the history", seen.starts);
        report.figure("faults / audits", format!("{} / {}", seen.faults, seen.audits));
        report.figure("wall time", format!("{:.1} s", (time::mono() - self.since).as_secs_f64()));
        report.figure("violations", verdict.violations.len());
        report.demand(seen.acked > 0, || "no acknowledged job: this history proves nothing".to_owned());
        if !verdict.violations.is_empty() {
            report.broken(verdict.report());
        }
        Ok(())
    }

    /// The log of all fleets so far, where something is to be looked for.
    pub(crate) fn keep_logs(&self, folder: &Path) -> std::io::Result<()> {
        for (number, up) in self.fleets.iter().enumerate() {
            fs::write(folder.join(format!("up-{number}.log")), up.stderr())?;
        }
        Ok(())
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // Beside the histories, which go with their folder unless they are kept.
        let _ = self.keep_logs(&self.history);
        // The latest first: the orderly stop of the tree that serves, then what is left of earlier ones.
        while self.fleets.pop().is_some() {}
    }
}

pub(crate) fn queue(name: &str) -> Result<QueueName, Failure> {
    Ok(QueueName::new(name)?)
}
