//! Starting the programs of handlers: the one place in this crate where a process begins.
//!
//! Always called from the thread of the slots, which lives as long as the worker. Each program leads a process group of
//! its own, so that it and what it started can be ended together; what leaves the group is adopted by this process (it
//! is a subreaper) and ended by [`sweep`].

use std::collections::BTreeMap;
use std::io;
use std::process::Stdio;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

/// What a program inherits of this process's environment.
const PASSED_ON: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

/// A program that was started.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) child: Child,
    group: Option<Pid>,
}

/// Starts `command[0]` with the rest as arguments; never through a shell.
pub(crate) fn start(
    command: &[String],
    env: &BTreeMap<String, String>,
    extra: &[(&str, String)],
) -> io::Result<Program> {
    let (program, arguments) =
        command.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "an empty command"))?;
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    let mut start = Command::new(program);
    start.args(arguments).env_clear();
    for name in PASSED_ON {
        #[expect(clippy::disallowed_methods, reason = "handed on, not read")]
        if let Some(value) = std::env::var_os(name) {
            start.env(name, value);
        }
    }
    start.envs(env).envs(extra.iter().map(|(name, value)| (name, value)));
    start.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    start.process_group(0).kill_on_drop(true);
    let child = start.spawn()?;
    let group = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    Ok(Program { child, group })
}

impl Program {
    /// Signals the whole group. The leader is not reaped before this process waits for it, so the group is its own.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

impl Drop for Program {
    /// A program whose job is gone has no business left.
    fn drop(&mut self) {
        if self.child.id().is_some() {
            self.signal(Signal::KILL);
        }
    }
}

/// Makes this process the parent of orphans among its descendants.
pub fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        tracing::warn!(%error, "orphans of handlers cannot be adopted");
    }
}

/// Ends adopted orphans: children of this process that carry `token` in their environment (any, where there is one
/// slot only), and are not among `known`.
pub fn sweep(known: &[u32], token: Option<i64>) {
    // Killing one may bring its own children here.
    for _ in 0..64 {
        let orphans: Vec<u32> = children()
            .into_iter()
            .filter(|pid| !known.contains(pid) && token.is_none_or(|token| carries(*pid, token)))
            .collect();
        if orphans.is_empty() {
            return;
        }
        for pid in orphans {
            let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
    }
}

/// The children of this process, of all its threads.
#[must_use]
pub fn children() -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let lists = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split(' ').filter_map(|pid| pid.trim().parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn carries(pid: u32, token: i64) -> bool {
    let wanted = format!("ROUNDSMAN_TOKEN={token}");
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()))
}
