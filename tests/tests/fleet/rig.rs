//! A site on a store of its own, the fleet in it, and what its handlers wrote.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use roundsman_tests::history::{Event, HistoryReader, Record};
use roundsman_tests::proc::Process;
use roundsman_tests::redis_server::{RedisOptions, RedisServer};
use roundsman_tests::tree::{Output, Site, Up, UpOptions, built};
use roundsman_tests::wait::wait_for;
use serde_json::Value;

/// For what takes moments on a machine with nothing else to do.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// For what waits for time-outs of the product.
pub(crate) const LATE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Redis,
    Sqlite,
}

/// Runs each of these functions once on each store, as `redis::NAME` and `sqlite::NAME`.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod redis {
            $(#[test] fn $name() { super::$name(super::Store::Redis); })+
        }
        mod sqlite {
            $(#[test] fn $name() { super::$name(super::Store::Sqlite); })+
        }
    };
}
pub(crate) use on_both;

pub(crate) struct Rig {
    pub(crate) server: Option<RedisServer>,
    pub(crate) site: Site,
}

impl Rig {
    /// With further settings than the store's.
    pub(crate) fn new(store: Store, settings: &str) -> Self {
        let server = (store == Store::Redis).then(|| RedisServer::start(RedisOptions::default()).unwrap());
        let site = Site::new("").unwrap();
        let rig = Self { server, site };
        rig.configure(settings);
        rig
    }

    /// With `fixture-handler` in the default pool; `pool` is more about the pool.
    pub(crate) fn with_fixture(store: Store, pool: &str, settings: &str) -> Self {
        let rig = Self::new(store, "");
        rig.configure(&format!("{}{pool}\n{settings}", rig.fixture_pool("default")));
        rig
    }

    /// A pool of this name, and for the queue of this name, that runs `fixture-handler`.
    pub(crate) fn fixture_pool(&self, name: &str) -> String {
        let program = built("fixture-handler").unwrap();
        let (program, folder) = (program.display(), self.folder().display().to_string());
        format!("[pools.{name}]\nqueues = [\"{name}\"]\ncommand = [\"{program}\", \"{folder}\"]\n")
    }

    pub(crate) fn configure(&self, settings: &str) {
        let url = self.server.as_ref().map_or_else(|| "sqlite:jobs.db".to_owned(), RedisServer::url);
        self.site.configure(&format!("[store]\nurl = \"{url}\"\n{settings}")).unwrap();
    }

    #[track_caller]
    pub(crate) fn redis(&self) -> &RedisServer {
        self.server.as_ref().unwrap()
    }

    /// Where `fixture-handler` writes.
    pub(crate) fn folder(&self) -> PathBuf {
        self.site.work().join("history")
    }

    /// An executable file in the working directory.
    pub(crate) fn script(&self, name: &str, text: &str) {
        let path = self.site.work().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn up(&self, workers: usize) -> Up {
        self.up_with(workers, &[])
    }

    /// With arguments after `up`.
    pub(crate) fn up_with(&self, workers: usize, arguments: &[&str]) -> Up {
        let arguments = arguments.iter().map(|it| (*it).to_owned()).collect();
        self.site.up(&UpOptions { arguments, workers, ..UpOptions::default() }).unwrap()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.site.cli(arguments).unwrap()
    }

    /// Standard output of a verb that must succeed, without the last newline.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}");
        done.stdout.trim_end_matches('\n').to_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// A job of a kind on the default queue.
    #[track_caller]
    pub(crate) fn enqueue(&self, id: &str, kind: &str, payload: &str) {
        self.ok(&["enqueue", "default", payload, "--id", id, "--kind", kind]);
    }

    #[track_caller]
    pub(crate) fn job(&self, id: &str) -> Value {
        self.json(&["job", "show", id])
    }

    /// Waits until the job is as wished; answers it.
    #[track_caller]
    pub(crate) fn wait_job(
        &self,
        up: &Up,
        id: &str,
        deadline: Duration,
        wish: impl Fn(&Value) -> bool,
    ) -> Value {
        let found = wait_for(&format!("job {id}"), deadline, || {
            let shown = self.run(&["job", "show", id, "--json"]);
            // Not there yet, as one that is still in an inbox.
            if shown.code == Some(3) {
                return Err(shown.stderr);
            }
            let job: Value =
                serde_json::from_str(&shown.stdout).unwrap_or_else(|error| panic!("{error}: {shown:?}"));
            if wish(&job) { Ok(job) } else { Err(job.to_string()) }
        });
        found.unwrap_or_else(|late| panic!("{late}\n{}", log(up)))
    }

    /// Waits until the job has this state; answers it.
    #[track_caller]
    pub(crate) fn wait_state(&self, up: &Up, id: &str, state: &str) -> Value {
        self.wait_job(up, id, LATE, |job| job["state"] == state)
    }

    pub(crate) fn history(&self) -> Vec<Record> {
        let reader = HistoryReader::open(&self.folder()).ok();
        reader.map(|reader| reader.merged().unwrap()).unwrap_or_default()
    }

    /// Every start of the job, in order.
    pub(crate) fn starts(&self, job: &str) -> Vec<Start> {
        let starts = self.history().into_iter().filter_map(|record| {
            let process = Process { pid: record.pid, start: record.start };
            match record.event {
                Event::Start { id, attempt, token, .. } if id == job => {
                    Some(Start { process, mono_us: record.mono_us, wall_us: record.wall_us, attempt, token })
                }
                _ => None,
            }
        });
        starts.collect()
    }

    pub(crate) fn ends(&self, job: &str) -> usize {
        let ended = |record: &&Record| matches!(&record.event, Event::End { id, .. } if id == job);
        self.history().iter().filter(ended).count()
    }

    /// Waits for the `number`th start of the job.
    #[track_caller]
    pub(crate) fn wait_start(&self, up: &Up, id: &str, number: usize, deadline: Duration) -> Start {
        let found = wait_for(&format!("start {number} of {id}"), deadline, || {
            let starts = self.starts(id);
            starts.get(number - 1).cloned().ok_or_else(|| format!("{starts:?}"))
        });
        found.unwrap_or_else(|late| panic!("{late}\n{}\n{}", self.job(id), log(up)))
    }

    /// Waits until so many workers are there and run nothing.
    #[track_caller]
    pub(crate) fn wait_idle(&self, up: &Up, workers: usize) {
        let found = wait_for(&format!("{workers} idle workers"), SOON, || {
            let status = up.status().map_err(|error| error.to_string())?;
            let pools = status.hosts.iter().flat_map(|host| &host.pools);
            let idle =
                pools.flat_map(|pool| &pool.workers).filter(|it| it.state == "idle" && it.jobs.is_empty());
            if idle.count() >= workers { Ok(()) } else { Err(format!("{:?}", status.hosts)) }
        });
        found.unwrap_or_else(|late| panic!("{late}\n{}", log(up)));
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) process: Process,
    pub(crate) mono_us: u64,
    pub(crate) wall_us: u64,
    pub(crate) attempt: u32,
    pub(crate) token: u64,
}

/// The end of `up`'s log, for the message of a failure.
pub(crate) fn log(up: &Up) -> String {
    let text = up.stderr();
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines.len().saturating_sub(60);
    format!("log of up:\n{}", lines.get(shown..).unwrap_or_default().join("\n"))
}

/// Waits until nothing that the fleet ever started is alive.
#[track_caller]
pub(crate) fn wait_gone(up: &Up, deadline: Duration) {
    wait_for("every process to be gone", deadline, || {
        let alive: Vec<String> = up.alive().iter().map(ToString::to_string).collect();
        if alive.is_empty() { Ok(()) } else { Err(alive.join("; ")) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(up)));
}

/// The outcomes of a job's attempts.
pub(crate) fn outcomes(job: &Value) -> Vec<&str> {
    let attempts = job["attempts"].as_array().unwrap();
    attempts.iter().map(|attempt| attempt["outcome"].as_str().unwrap_or("none")).collect()
}

/// A figure that a run found, for the reader of its output.
#[expect(clippy::print_stdout, reason = "figures are what these tests are read for")]
pub(crate) fn figure(text: &str) {
    println!("figure: {text}");
}

/// Of some durations in µs: p50, p99 and the longest, in ms.
pub(crate) fn spread(mut micros: Vec<u64>) -> (f64, f64, f64) {
    micros.sort_unstable();
    let at = |share: usize| {
        let index = (micros.len() * share).div_ceil(100).saturating_sub(1);
        micros.get(index).copied().unwrap_or(0) as f64 / 1_000.0
    };
    (at(50), at(99), at(100))
}
