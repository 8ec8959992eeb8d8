//! What the kernel tells about a process, without the process's help. Linux only: elsewhere there is no `/proc`,
//! and every process looks gone.
//!
//! A pid alone names nobody for long; a [`Process`] is a pid with its start time, and a signal goes through a
//! pidfd that was compared with that start time, so that it can never reach a later owner of the pid.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// Clock ticks a second of `/proc/*/stat`; fixed at 100 in the kernel's interface to user space.
const TICKS_PER_SECOND: u64 = 100;

/// One process, told from a later one with the same pid by its start time (clock ticks since boot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub start: u64,
}

/// The letter of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running,
    Sleeping,
    /// Waits in the kernel and cannot be interrupted.
    Disk,
    Stopped,
    Zombie,
    /// Traced, idle, dead: the letter itself.
    Other(char),
}

impl Process {
    /// The present owner of the pid.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, start: Stat::read(pid)?.start })
    }

    /// This process.
    ///
    /// # Panics
    /// Where `/proc` is not mounted.
    #[must_use]
    pub fn own() -> Self {
        Self::of(std::process::id()).expect("/proc/self/stat is readable")
    }

    fn stat(self) -> Option<Stat> {
        Stat::read(self.pid).filter(|stat| stat.start == self.start)
    }

    /// Neither ended nor a zombie. A stopped process is alive.
    #[must_use]
    pub fn is_alive(self) -> bool {
        self.state().is_some_and(|state| !matches!(state, State::Zombie | State::Other('X' | 'x')))
    }

    #[must_use]
    pub fn state(self) -> Option<State> {
        Some(self.stat()?.state)
    }

    #[must_use]
    pub fn parent(self) -> Option<u32> {
        Some(self.stat()?.parent)
    }

    /// Processor time used so far, user and system, without children.
    #[must_use]
    pub fn cpu_time(self) -> Option<Duration> {
        Some(Duration::from_millis(self.stat()?.cpu_ticks * 1_000 / TICKS_PER_SECOND))
    }

    /// Proportional set size in bytes: memory, with shared pages divided among their users.
    #[must_use]
    pub fn pss(self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        self.stat()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
    }

    /// Memory in bytes that holds what it made itself, not a program's text: nobody else's coming and going changes it.
    #[must_use]
    pub fn anonymous(self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        self.stat()?;
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1_024)
    }

    /// The command line, arguments joined by blanks; empty for a zombie.
    #[must_use]
    pub fn command_line(self) -> Option<String> {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).ok()?;
        self.stat()?;
        Some(String::from_utf8_lossy(&bytes).trim_end_matches('\0').replace('\0', " "))
    }

    /// Open file descriptors.
    #[must_use]
    pub fn open_files(self) -> Option<usize> {
        Some(fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?.count())
    }

    #[must_use]
    pub fn threads(self) -> Option<usize> {
        Some(fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?.count())
    }

    #[must_use]
    pub fn children(self) -> Vec<Self> {
        if self.stat().is_none() {
            return Vec::new();
        }
        all().into_iter().filter(|(_, parent)| *parent == self.pid).map(|(child, _)| child).collect()
    }

    /// Every process below this one, by parent pid, the nearest first. Orphans that were adopted by another
    /// process are not found: remember them while their parents live.
    #[must_use]
    pub fn descendants(self) -> Vec<Self> {
        if self.stat().is_none() {
            return Vec::new();
        }
        let everyone = all();
        let mut known = BTreeSet::from([self.pid]);
        let mut found = Vec::new();
        loop {
            let before = found.len();
            for (process, parent) in &everyone {
                if known.contains(parent) && known.insert(process.pid) {
                    found.push(*process);
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }

    /// Sends a signal to this very process.
    ///
    /// # Errors
    /// `SRCH` when it has ended, also when its pid has another owner by now.
    pub fn signal(self, signal: Signal) -> rustix::io::Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        #[cfg(target_os = "linux")]
        let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        // The handle holds whoever owned the pid when it was opened: compare after opening, then send.
        self.stat().ok_or(Errno::SRCH)?;
        #[cfg(target_os = "linux")]
        return rustix::process::pidfd_send_signal(handle, signal);
        #[cfg(not(target_os = "linux"))]
        return rustix::process::kill_process(pid, signal);
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state().map_or_else(|| "gone".to_owned(), |state| format!("{state:?}"));
        write!(f, "{} {state} {}", self.pid, self.command_line().unwrap_or_default())
    }
}

struct Stat {
    state: State,
    parent: u32,
    cpu_ticks: u64,
    start: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// proc_pid_stat(5). The name, field 2, is in parentheses and may itself hold blanks and parentheses.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            state: match fields.first()?.chars().next()? {
                'R' => State::Running,
                'S' => State::Sleeping,
                'D' => State::Disk,
                'T' => State::Stopped,
                'Z' => State::Zombie,
                other => State::Other(other),
            },
            parent: u32::try_from(number(4)?).ok()?,
            cpu_ticks: number(14)? + number(15)?,
            start: number(22)?,
        })
    }
}

/// Every process of the machine with its parent's pid.
fn all() -> Vec<(Process, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Stat::read(pid).map(|stat| (Process { pid, start: stat.start }, stat.parent)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn;
    use crate::wait::wait_for;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_name_with_blanks_and_parentheses_is_read() {
        let line = "7 (a) b (c)) T 3 7 7 0 -1 0 0 0 0 0 5 6 0 0 20 0 1 0 4242 0 0";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.state, stat.parent, stat.cpu_ticks, stat.start), (State::Stopped, 3, 11, 4242));
    }

    #[test]
    fn knows_this_process() {
        let own = Process::own();
        assert!(own.is_alive());
        assert!(own.pss().unwrap() > 100_000 && own.anonymous().unwrap() > 10_000);
        assert!(own.open_files().unwrap() >= 3);
        assert!(own.cpu_time().is_some());
        assert!(!Process { start: own.start + 1, ..own }.is_alive());
        let other = Process { start: own.start + 1, ..own };
        assert_eq!(other.signal(Signal::KILL), Err(Errno::SRCH));
    }

    #[test]
    fn follows_a_family_through_stop_and_death() {
        let mut command = spawn::bound_command("sh");
        command.args(["-c", "sleep 600 & wait"]);
        let mut child = spawn::start(command).unwrap();
        let shell = Process::of(child.id()).unwrap();
        let sleeper = wait_for("the shell's child", SOON, || {
            shell.children().first().copied().ok_or_else(|| shell.to_string())
        })
        .unwrap();
        assert!(Process::own().descendants().contains(&sleeper));

        sleeper.signal(Signal::STOP).unwrap();
        wait_for("the stop", SOON, || match sleeper.state() {
            Some(State::Stopped) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .unwrap();
        assert!(sleeper.is_alive());

        sleeper.signal(Signal::KILL).unwrap();
        shell.signal(Signal::KILL).unwrap();
        wait_for("the zombie", SOON, || match shell.state() {
            Some(State::Zombie) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .unwrap();
        assert!(!shell.is_alive());
        child.wait().unwrap();
        assert_eq!(shell.state(), None);
    }
}
