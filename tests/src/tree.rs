//! The real binary, run from outside: its verbs ([`Site::cli`]) and a whole fleet ([`Up`]).
//!
//! ```text
//! Site     a folder with roundsman.toml, its own HOME and XDG folders, a clean environment
//!  └─ Up   `roundsman up` in that folder: supervisor → master → workers, known by `status --json`
//! ```
//!
//! An `Up` that is dropped leaves no process behind: it asks the supervisor to stop, then kills whatever it has
//! ever seen below it, each by pid and start time. Nothing is found or signalled by name.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::proc::Process;
use crate::spawn;
use crate::wait::{TimedOut, wait_for};

/// For one verb of the command line; the verbs that wait have deadlines of their own.
const VERB: Duration = Duration::from_secs(60);
/// For a fleet to serve; the figure to reach is far below it.
const SERVING: Duration = Duration::from_secs(30);
/// For a dropped fleet to stop before it is killed.
const STOP: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error(
        "no `roundsman` in {searched}: build it first with \
         `cargo build --workspace --bins --examples` and the same `--profile` (ops/test does)"
    )]
    NotBuilt { searched: String },
    #[error("starting {program}")]
    Spawn { program: PathBuf, source: io::Error },
    #[error("the site's folder")]
    Io(#[from] io::Error),
    #[error(
        "`roundsman {arguments}` ended with {code:?} and printed no JSON: {source}\nstdout: {stdout}\nstderr: {stderr}"
    )]
    NoJson { arguments: String, code: Option<i32>, stdout: String, stderr: String, source: serde_json::Error },
    #[error("`roundsman up` left with {status} before it served\n{logs}")]
    Left { status: ExitStatus, logs: String },
    #[error("{late}\n{logs}")]
    TimedOut { late: TimedOut, logs: String },
    #[error("the process is gone")]
    Gone(#[from] rustix::io::Errno),
}

/// A program of the workspace, built in the profile of the running test: `target/PROFILE/NAME`, or
/// `target/PROFILE/examples/NAME`.
///
/// # Errors
/// When it was not built; the message says how to.
pub fn built(name: &str) -> Result<PathBuf, TreeError> {
    let own = std::env::current_exe()?;
    // …/target/PROFILE/{deps,examples}/test-HASH, or …/target/PROFILE/program.
    let folders: Vec<&Path> = own.ancestors().skip(1).take(2).collect();
    folders
        .iter()
        .flat_map(|folder| [folder.join(name), folder.join("examples").join(name)])
        .find(|file| file.is_file())
        .ok_or_else(|| TreeError::NotBuilt {
            searched: folders.iter().map(|it| it.display().to_string()).collect::<Vec<_>>().join(", "),
        })
}

/// What a verb did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// A folder to run the binary in, with nothing of the machine's or the developer's settings.
#[derive(Debug, Clone)]
pub struct Site {
    binary: PathBuf,
    /// Removed with the last clone.
    folder: Arc<TempDir>,
}

impl Site {
    /// A site for the binary under test, with this `roundsman.toml`.
    ///
    /// HTTP is off unless the file turns it on: its default port would be the same in every test.
    ///
    /// # Errors
    /// When the binary is not built or the folder cannot be made.
    pub fn new(settings: &str) -> Result<Self, TreeError> {
        Self::with_binary(built("roundsman")?, settings)
    }

    /// As [`Self::new`] with another binary, for two builds side by side.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn with_binary(binary: PathBuf, settings: &str) -> Result<Self, TreeError> {
        let folder = tempfile::Builder::new().prefix("roundsman-site-").tempdir()?;
        let site = Self { binary, folder: Arc::new(folder) };
        for name in ["work", "home", "config/roundsman", "state", "data", "cache", "runtime", "tmp"] {
            fs::create_dir_all(site.path(name))?;
        }
        // The user's file is weaker than ./roundsman.toml, so that a test's own [http] wins.
        fs::write(site.path("config/roundsman/roundsman.toml"), "[http]\nlisten = \"\"\n")?;
        site.configure(settings)?;
        Ok(site)
    }

    /// The same folder, with another binary for what is run from here.
    #[must_use]
    pub fn with(&self, binary: PathBuf) -> Self {
        Self { binary, folder: self.folder.clone() }
    }

    /// Replaces `roundsman.toml`; a running fleet sees it at its next reload.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, settings: &str) -> Result<(), TreeError> {
        Ok(fs::write(self.work().join("roundsman.toml"), settings)?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The working directory of every command, where `roundsman.toml` lies.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.path("work")
    }

    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The binary with these arguments, in this site: `PATH` is all it inherits.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = spawn::bound_command(&self.binary);
        command.args(arguments).current_dir(self.work()).env_clear();
        if let Some(path) = spawn::variable("PATH") {
            command.env("PATH", path);
        }
        command
            .env("HOME", self.path("home"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_DATA_HOME", self.path("data"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_RUNTIME_DIR", self.path("runtime"))
            .env("TMPDIR", self.path("tmp"))
            .env("LANG", "C.UTF-8")
            .env("NO_COLOR", "1");
        command
    }

    /// Runs a verb to its end.
    ///
    /// # Errors
    /// When it cannot be started, or does not end within a minute (it is killed then).
    pub fn cli(&self, arguments: &[&str]) -> Result<Output, TreeError> {
        self.cli_with_input(arguments, "")
    }

    /// As [`Self::cli`], with text on its standard input.
    ///
    /// # Errors
    /// As [`Self::cli`].
    pub fn cli_with_input(&self, arguments: &[&str], input: &str) -> Result<Output, TreeError> {
        let (stdin, stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?, tempfile::tempfile()?);
        write_and_rewind(&stdin, input)?;
        let mut command = self.command(arguments);
        command.stdin(stdin).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        let mut child = self.start(command)?;
        let what = format!("`roundsman {}` to end", arguments.join(" "));
        let ended = wait_for(&what, VERB, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        match ended {
            Ok(status) => {
                Ok(Output { code: status.code(), stdout: read_all(stdout)?, stderr: read_all(stderr)? })
            }
            Err(late) => {
                child.kill()?;
                child.wait()?;
                Err(TreeError::TimedOut { late, logs: read_all(stderr)? })
            }
        }
    }

    /// The one JSON document that a verb prints; `--json` is added.
    ///
    /// # Errors
    /// When it prints something else, whatever its exit code.
    pub fn cli_json(&self, arguments: &[&str]) -> Result<Value, TreeError> {
        let arguments = [arguments, &["--json"]].concat();
        let Output { code, stdout, stderr } = self.cli(&arguments)?;
        serde_json::from_str(&stdout).map_err(|source| TreeError::NoJson {
            arguments: arguments.join(" "),
            code,
            stdout,
            stderr,
            source,
        })
    }

    /// `status --json`, as far as tests need its shape.
    ///
    /// # Errors
    /// As [`Self::cli_json`], also when the document has another shape.
    pub fn status(&self) -> Result<Status, TreeError> {
        let document = self.cli_json(&["status"])?;
        Status::deserialize(&document).map_err(|source| TreeError::NoJson {
            arguments: "status --json".to_owned(),
            code: Some(0),
            stdout: document.to_string(),
            stderr: String::new(),
            source,
        })
    }

    fn start(&self, command: Command) -> Result<Child, TreeError> {
        spawn::start(command).map_err(|source| TreeError::Spawn { program: self.binary.clone(), source })
    }

    /// Starts `roundsman up` and waits until it serves.
    ///
    /// # Errors
    /// When it leaves, or does not serve in time; the message holds its output.
    pub fn up(&self, options: &UpOptions) -> Result<Up, TreeError> {
        let fleet = self.launch(options)?;
        fleet.wait_for_workers(options.workers, SERVING)?;
        Ok(fleet)
    }

    /// Starts `roundsman up` and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&self, options: &UpOptions) -> Result<Up, TreeError> {
        use std::os::unix::process::CommandExt as _;
        let number = fs::read_dir(self.folder.path())?
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().ends_with(".stdout"))
            .count();
        let stdout = self.path(&format!("up-{number}.stdout"));
        let stderr = self.path(&format!("up-{number}.stderr"));
        let mut arguments = vec!["up"];
        arguments.extend(options.arguments.iter().map(|it| &**it));
        let mut command = self.command(&arguments);
        command
            .envs(options.environment.iter().map(|(key, value)| (key, value)))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?);
        let child = self.start(command)?;
        let pid = child.id();
        let supervisor = Process::of(pid).ok_or(rustix::io::Errno::SRCH)?;
        Ok(Up {
            site: self.clone(),
            child: Mutex::new(child),
            supervisor,
            seen: Mutex::new(BTreeSet::from([supervisor])),
            stdout,
            stderr,
        })
    }
}

/// `status --json`: the part that names processes. Unknown fields are left alone.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Status {
    #[serde(default)]
    pub hosts: Vec<HostStatus>,
    #[serde(default)]
    pub queues: Vec<QueueStatus>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct HostStatus {
    pub host: String,
    #[serde(default)]
    pub supervisor: Option<PidStatus>,
    #[serde(default)]
    pub master: Option<PidStatus>,
    #[serde(default)]
    pub pools: Vec<PoolStatus>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct PidStatus {
    #[serde(default)]
    pub pid: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct PoolStatus {
    pub pool: String,
    #[serde(default)]
    pub desired: u32,
    #[serde(default)]
    pub workers: Vec<WorkerStatus>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct WorkerStatus {
    pub worker: String,
    pub pid: Option<u32>,
    pub state: String,
    #[serde(default)]
    pub jobs: Vec<Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct QueueStatus {
    pub queue: String,
    #[serde(default)]
    pub scheduled: u64,
    #[serde(default)]
    pub ready: u64,
    #[serde(default)]
    pub running: u64,
    #[serde(default)]
    pub dead: u64,
}

impl Status {
    fn workers(&self) -> impl Iterator<Item = &WorkerStatus> {
        self.hosts.iter().flat_map(|host| &host.pools).flat_map(|pool| &pool.workers)
    }
}

/// How to start a fleet.
#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// After `up`.
    pub arguments: Vec<String>,
    /// Wait until so many workers, of all pools, have a pid.
    pub workers: usize,
    /// Beside the clean environment.
    pub environment: Vec<(String, String)>,
}

/// A running fleet.
#[derive(Debug)]
pub struct Up {
    site: Site,
    child: Mutex<Child>,
    supervisor: Process,
    /// Every process ever seen below the supervisor, so that those whose parents died are found again.
    seen: Mutex<BTreeSet<Process>>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Up {
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The process that the test started.
    #[must_use]
    pub fn supervisor(&self) -> Process {
        self.supervisor
    }

    /// The present master, by `status`.
    ///
    /// # Errors
    /// When `status` fails.
    pub fn master(&self) -> Result<Option<Process>, TreeError> {
        let status = self.status()?;
        let host = status.hosts.iter().find(|host| self.is_ours(host));
        Ok(host.and_then(|host| host.master.as_ref()?.pid).and_then(Process::of))
    }

    /// The present workers of this host, by `status`: name and process.
    ///
    /// # Errors
    /// When `status` fails.
    pub fn workers(&self) -> Result<Vec<(String, Process)>, TreeError> {
        let status = self.status()?;
        Ok(status
            .hosts
            .iter()
            .filter(|host| self.is_ours(host))
            .flat_map(|host| &host.pools)
            .flat_map(|pool| &pool.workers)
            .filter_map(|worker| Some((worker.worker.clone(), Process::of(worker.pid?)?)))
            .collect())
    }

    fn is_ours(&self, host: &HostStatus) -> bool {
        host.supervisor.as_ref().and_then(|it| it.pid) == Some(self.supervisor.pid)
    }

    /// `status --json`; what runs below the supervisor now is remembered for the end.
    ///
    /// # Errors
    /// When the verb fails.
    pub fn status(&self) -> Result<Status, TreeError> {
        let status = self.site.status();
        self.remember();
        status
    }

    /// Waits until a master and this many workers have pids.
    ///
    /// # Errors
    /// When the fleet leaves or the deadline passes; the message holds its output.
    pub fn wait_for_workers(&self, workers: usize, deadline: Duration) -> Result<Status, TreeError> {
        self.wait_for(deadline, || {
            let status = self.status().map_err(|error| error.to_string())?;
            let master = status.hosts.iter().any(|it| it.master.as_ref().is_some_and(|it| it.pid.is_some()));
            let ready = status.workers().filter(|worker| worker.pid.is_some()).count();
            let wanted = || format!("not a master and {workers} workers yet: {:?}", status.hosts);
            if master && ready >= workers { Ok(status) } else { Err(wanted()) }
        })
    }

    /// Waits until the fleet is as it should be; `Err` says how it is instead.
    ///
    /// # Errors
    /// When the deadline passes, or the supervisor leaves before; the message holds its output.
    pub fn wait_for<T>(
        &self,
        deadline: Duration,
        mut look: impl FnMut() -> Result<T, String>,
    ) -> Result<T, TreeError> {
        let found = wait_for("the fleet", deadline, || match self.try_wait() {
            Some(status) => Ok(Err(status)),
            None => look().map(Ok),
        });
        match found {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(status)) => Err(TreeError::Left { status, logs: self.logs() }),
            Err(late) => Err(TreeError::TimedOut { late, logs: self.logs() }),
        }
    }

    /// Sends a signal to the supervisor, as an operator does.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), TreeError> {
        self.remember();
        Ok(self.supervisor.signal(signal)?)
    }

    /// Waits for the supervisor's end.
    ///
    /// # Errors
    /// When the deadline passes; the message holds its output.
    pub fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus, TreeError> {
        wait_for("the supervisor to end", deadline, || {
            self.remember();
            self.try_wait().ok_or_else(|| {
                let alive: Vec<String> = self.alive().iter().map(ToString::to_string).collect();
                format!("alive: {}", alive.join("; "))
            })
        })
        .map_err(|late| TreeError::TimedOut { late, logs: self.logs() })
    }

    /// What this fleet started and is still alive, the supervisor first if it is.
    #[must_use]
    pub fn alive(&self) -> Vec<Process> {
        self.remember();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().copied().filter(|process| process.is_alive()).collect()
    }

    /// `up`'s standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// `up`'s log so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    fn logs(&self) -> String {
        let age = self.site.stale().map_or_else(String::new, |file| {
            format!("note: {} is newer than the binary; build it again\n", file.display())
        });
        format!("{age}stdout: {}\nstderr: {}", last_part(&self.stdout()), last_part(&self.stderr()))
    }

    fn try_wait(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().ok().flatten()
    }

    fn remember(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found: Vec<Process> = seen.iter().flat_map(|process| process.descendants()).collect();
        seen.extend(found);
    }
}

impl Drop for Up {
    /// An orderly stop, then SIGKILL for the supervisor and for all that was ever seen below it.
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            let _ = self.signal(Signal::TERM);
            let _ = self.wait_exit(STOP);
        }
        // Killing a parent first keeps it from starting another child; twice for what it started meanwhile.
        let gone = wait_for("the fleet to be gone", STOP, || {
            let alive = self.alive();
            for process in &alive {
                let _ = process.signal(Signal::KILL);
            }
            let _ = self.try_wait();
            if alive.is_empty() { Ok(()) } else { Err(format!("{alive:?}")) }
        });
        debug_assert!(gone.is_ok() || std::thread::panicking(), "{gone:?}");
    }
}

impl Site {
    /// A source file of the binary, by cargo's own list beside it, that is newer than the binary.
    fn stale(&self) -> Option<PathBuf> {
        let list = fs::read_to_string(self.binary.with_extension("d")).ok()?;
        let built = self.binary.metadata().ok()?.modified().ok()?;
        let (_, sources) = list.lines().next()?.split_once(": ")?;
        sources.split(' ').map(PathBuf::from).find(|file| {
            file.metadata().and_then(|meta| meta.modified()).is_ok_and(|changed| changed > built)
        })
    }
}

/// Enough of a log to see why; a chaos run's log can be very long.
fn last_part(text: &str) -> &str {
    const LIMIT: usize = 8_000;
    let from = text.len().saturating_sub(LIMIT);
    text.get(from..).unwrap_or_else(|| text.get(text.ceil_char_boundary(from)..).unwrap_or_default())
}

fn write_and_rewind(mut file: &File, text: &str) -> io::Result<()> {
    use std::io::Seek as _;
    file.write_all(text.as_bytes())?;
    file.rewind()
}

fn read_all(mut file: File) -> io::Result<String> {
    use std::io::{Read as _, Seek as _};
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
