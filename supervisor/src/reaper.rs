//! Every process below the supervisor: it is the parent of the master and, where the system has subreapers (Linux),
//! of every process whose own parent died. So this is the one place where waiting for any child is right.
//!
//! A process that this one inherited (`sleep 9 & exec roundsman up` in a shell) is below it too, and no concern of ours.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::Duration;

#[cfg(target_os = "linux")]
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use roundsman_shared::clock::Mono;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::unit::Exit;

/// How long the end waits for what it killed; longer only hangs in the kernel.
const GONE: Duration = Duration::from_secs(5);
/// Between two looks at what is still alive.
const LOOK: Duration = Duration::from_millis(10);

/// A pid with its start time (clock ticks since boot), so that a later owner of the pid is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pid: u32,
    start: u64,
}

/// Which children ended since the last look.
#[derive(Debug, Default)]
pub(crate) struct Reaped {
    pub(crate) exits: Vec<(u32, Exit)>,
    /// None is left, but for strangers.
    pub(crate) childless: bool,
}

#[derive(Debug)]
pub(crate) struct Reaper {
    strangers: BTreeSet<Process>,
}

impl Reaper {
    /// Makes this process the parent of all orphans below it.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn adopt() -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(Self { strangers: below(&BTreeSet::new()).into_iter().collect() })
    }

    /// Takes in what ended, without waiting. Whoever led a group leaves nobody in it: the worker of a dead master has
    /// nobody else who would see to that.
    #[must_use]
    pub(crate) fn collect(&self) -> Reaped {
        let mut reaped = Reaped::default();
        loop {
            #[cfg(target_os = "linux")]
            self.end_group_of_next();
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let signal = status.terminating_signal().map(Exit::Signal);
                    let Some(exit) = status.exit_status().map(Exit::Code).or(signal) else { continue };
                    reaped.exits.push((pid.as_raw_nonzero().get().unsigned_abs(), exit));
                }
                Ok(None) => {
                    reaped.childless = !self.strangers.is_empty() && below(&self.strangers).is_empty();
                    return reaped;
                }
                Err(Errno::INTR) => {}
                Err(_) => {
                    reaped.childless = true;
                    return reaped;
                }
            }
        }
    }

    /// Before it is reaped, so that the group is still its own.
    #[cfg(target_os = "linux")]
    fn end_group_of_next(&self) {
        let ended = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let Some(pid) = waitid(Id::All, ended).ok().and_then(|next| next.pid()) else { return };
        let pid = pid.as_raw().unsigned_abs();
        if !self.strangers.iter().any(|stranger| stranger.pid == pid) {
            kill_group(pid);
        }
    }

    /// Kills all that is left below, and waits until it is gone. `masters` are those not yet reaped: where there is
    /// no `/proc`, their groups are all that is known.
    pub(crate) fn sweep(&self, masters: impl Iterator<Item = u32>) {
        let end = Mono::now() + GONE;
        let mut killed = 0;
        masters.for_each(kill_group);
        let mut known = BTreeSet::new();
        loop {
            if self.collect().childless {
                break;
            }
            let left = below(&self.strangers);
            for process in &left {
                if known.insert(*process) && kill(*process) {
                    killed += 1;
                }
            }
            if Mono::now() >= end {
                let pids: Vec<String> = left.iter().map(|it| it.pid.to_string()).collect();
                tracing::error!("left behind, since SIGKILL does not end them: {}", pids.join(" "));
                break;
            }
            std::thread::sleep(LOOK);
        }
        if killed > 0 {
            tracing::warn!("killed what was left below: {killed} processes");
        }
    }
}

/// SIGABRT to the master, which is our child and was not reaped.
pub(crate) fn abort(pid: u32) {
    if let Some(pid) = pid_of(pid) {
        let _ = rustix::process::kill_process(pid, Signal::ABORT);
    }
}

/// SIGKILL to the group of a child that was not reaped, so that neither its pid nor its group can be another's.
pub(crate) fn kill_group(pid: u32) {
    if let Some(pid) = pid_of(pid) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// SIGKILL to this very process.
#[cfg(target_os = "linux")]
fn kill(process: Process) -> bool {
    use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
    let Some(pid) = pid_of(process.pid) else { return false };
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
    // The handle is of whoever had the pid when it was opened: compare after that.
    stat(process.pid).is_some_and(|(found, _)| found == process)
        && pidfd_send_signal(handle, Signal::KILL).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn kill(_process: Process) -> bool {
    false
}

/// Every process below this one but for `strangers` and what is below them, by `/proc`; zombies left out. Nothing where
/// there is no `/proc`.
fn below(strangers: &BTreeSet<Process>) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all: Vec<(Process, u32)> = pids.filter_map(stat).collect();
    let mut parents = BTreeSet::from([std::process::id()]);
    let mut found = Vec::new();
    loop {
        let before = found.len();
        for (process, parent) in &all {
            if parents.contains(parent) && !strangers.contains(process) && parents.insert(process.pid) {
                found.push(*process);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// The process with this pid and its parent's; `None` for a zombie. proc_pid_stat(5): the name, field 2, is in
/// parentheses and may itself hold blanks and parentheses.
fn stat(pid: u32) -> Option<(Process, u32)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    let start = fields.get(22 - 3)?.parse().ok()?;
    Some((Process { pid, start }, fields.get(4 - 3)?.parse().ok()?))
}
