//! Starts every process of this host's fleet, and knows which children are ours: one thread that lives as long as the
//! master, since parent-death signals follow the thread that forked.
//!
//! The master is a subreaper: what a job leaves behind when its worker dies becomes the master's child. The same thread
//! ends these, since it alone can tell them from a worker that it has just started.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::launch;
use roundsman_shared::settings::Environment;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::sync::oneshot;

/// Orders that may wait; the budget of starts keeps them far fewer.
const ORDERS: usize = 1024;
/// Generations of orphans that one sweep ends.
const SWEEPS: usize = 64;
/// By so much more than this process a worker is to be chosen when the machine is out of memory: a lost worker costs its
/// jobs an attempt, a lost master costs every worker.
#[cfg(target_os = "linux")]
const SOONER_KILLED: i32 = 200;
/// How long an orphan may take to die before the sweep goes on without it.
const ORPHAN_DEATH: Duration = Duration::from_millis(200);

/// What is to be started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub program: Program,
    pub nonce: u64,
    /// The path of its board.
    pub board: String,
}

#[derive(Debug, Clone)]
pub(crate) enum Program {
    /// This very build, in another role.
    Own { arguments: Vec<String> },
    /// Program and arguments; never empty.
    Command(Vec<String>),
}

/// A process that has just begun, and our ends of its pipes.
#[derive(Debug)]
pub(crate) struct Started {
    pub pid: Pid,
    #[cfg(target_os = "linux")]
    pub pidfd: OwnedFd,
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

enum Order {
    Start(Launch, oneshot::Sender<io::Result<Started>>),
    /// A child was reaped: end what it left behind.
    Sweep {
        gone: Pid,
        reply: oneshot::Sender<usize>,
    },
    /// Take in orphans that have ended by themselves.
    Reap,
}

/// The door to the thread.
#[derive(Debug, Clone)]
pub(crate) struct Spawner(SyncSender<Order>);

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no room for one.
    pub(crate) fn start(environment: &Environment) -> io::Result<Self> {
        let (orders, inbox) = sync_channel(ORDERS);
        let foreign =
            environment.names().filter(|name| is_not_for_children(name)).map(str::to_owned).collect();
        let stdout = environment.filled(launch::STDOUT).map(str::to_owned);
        let mut family = Family { removed: foreign, stdout, known: HashMap::new() };
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || family.serve(&inbox))?;
        Ok(Self(orders))
    }

    /// Starts a process.
    #[must_use]
    pub(crate) fn launch(&self, launch: Launch) -> oneshot::Receiver<io::Result<Started>> {
        let (reply, answer) = oneshot::channel();
        // A refused order drops its reply, which its waiter sees.
        let _ = self.0.try_send(Order::Start(launch, reply));
        answer
    }

    /// Ends what a child that was reaped has left behind; answers how many.
    #[must_use]
    pub(crate) fn sweep(&self, gone: Pid) -> oneshot::Receiver<usize> {
        let (reply, answer) = oneshot::channel();
        let _ = self.0.try_send(Order::Sweep { gone, reply });
        answer
    }

    pub(crate) fn reap(&self) {
        let _ = self.0.try_send(Order::Reap);
    }
}

/// Variables that speak to us, not to our children.
fn is_not_for_children(name: &str) -> bool {
    name == "NOTIFY_SOCKET"
        || ["ROUNDSMAN_", "WATCHDOG_", "LISTEN_"].iter().any(|prefix| name.starts_with(prefix))
}

/// The thread's own: its children.
struct Family {
    removed: Vec<String>,
    stdout: Option<String>,
    /// Pid and nonce of those that are not reaped yet.
    known: HashMap<i32, u64>,
}

impl Family {
    fn serve(&mut self, inbox: &Receiver<Order>) {
        for order in inbox {
            match order {
                Order::Start(launch, reply) => {
                    let started = self.spawn(&launch);
                    // Nobody waits for it any more: dropping the pipes' ends tells it that it is an orphan.
                    let _ = reply.send(started);
                }
                Order::Sweep { gone, reply } => {
                    self.known.remove(&gone.as_raw_nonzero().get());
                    let _ = reply.send(self.sweep(true));
                }
                Order::Reap => {
                    self.sweep(false);
                }
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that starts processes")]
    fn spawn(&mut self, launch: &Launch) -> io::Result<Started> {
        let mut command = match &launch.program {
            Program::Own { arguments } => {
                let mut command = Command::new("/proc/self/exe");
                command.arg0("roundsman").args(arguments);
                command
            }
            Program::Command(words) => {
                let (program, arguments) =
                    words.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
        };
        for name in &self.removed {
            command.env_remove(name);
        }
        if let Some(stdout) = &self.stdout {
            command.env(launch::STDOUT, stdout);
        }
        command
            .env(launch::PARENT, std::process::id().to_string())
            .env(launch::NONCE, launch.nonce.to_string())
            .env(launch::BOARD, &launch.board)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Dropping std's handle neither ends the process nor reaps it.
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        self.known.insert(pid.as_raw_nonzero().get(), launch.nonce);
        #[cfg(target_os = "linux")]
        offer_to_oom_killer(pid);
        let closed = || io::Error::other("a pipe is missing");
        Ok(Started {
            pid,
            #[cfg(target_os = "linux")]
            pidfd: rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?,
            stdin: child.stdin.take().ok_or_else(closed)?.into(),
            stdout: child.stdout.take().ok_or_else(closed)?.into(),
            stderr: child.stderr.take().ok_or_else(closed)?.into(),
        })
    }

    /// Reaps adopted children that have ended and, with `end`, ends the others but those of living workers.
    fn sweep(&self, end: bool) -> usize {
        let mut ended = 0;
        for _ in 0..SWEEPS {
            let mut found = false;
            for pid in children().into_iter().filter(|pid| !self.known.contains_key(pid)) {
                let Some(orphan) = Pid::from_raw(pid) else { continue };
                if reap(orphan) {
                    found = true;
                } else if end && !self.is_of_a_living_worker(pid) {
                    found = true;
                    ended += 1;
                    let _ = rustix::process::kill_process(orphan, Signal::KILL);
                    let begun = Mono::now();
                    while !reap(orphan) && Mono::now().since(begun) < ORPHAN_DEATH {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
            }
            // The children of those that ended are ours now.
            if !found {
                break;
            }
        }
        ended
    }

    /// By its process group, or by the nonce that it inherited in its environment.
    fn is_of_a_living_worker(&self, pid: i32) -> bool {
        let group = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|line| {
            let (_, rest) = line.rsplit_once(')')?;
            rest.split_whitespace().nth(2)?.parse::<i32>().ok()
        });
        if group.is_some_and(|group| self.known.contains_key(&group)) {
            return true;
        }
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let prefix = format!("{}=", launch::NONCE);
        environment.split(|byte| *byte == 0).any(|entry| {
            let nonce = std::str::from_utf8(entry).ok().and_then(|entry| entry.strip_prefix(&prefix));
            nonce
                .and_then(|nonce| nonce.parse::<u64>().ok())
                .is_some_and(|nonce| self.known.values().any(|known| *known == nonce))
        })
    }
}

/// Its children inherit it. A system that has no such file kills by its own rules.
#[cfg(target_os = "linux")]
fn offer_to_oom_killer(pid: Pid) {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj");
    let Some(own) = own.ok().and_then(|text| text.trim().parse::<i32>().ok()) else { return };
    let score = (own + SOONER_KILLED).min(1000);
    let file = format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero());
    if let Err(error) = std::fs::write(&file, score.to_string()) {
        tracing::debug!("{file}: {error}");
    }
}

/// Reaps a child if it has ended; also true when it is gone already.
fn reap(pid: Pid) -> bool {
    match rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(status) => status.is_some(),
        Err(_) => true,
    }
}

/// Our children by the kernel's list; empty where it keeps none.
fn children() -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .collect()
}
