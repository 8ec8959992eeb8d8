//! All that a supervisor has to say to people: one named record for each happening.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::unit::{Exit, MOST_RESTARTS, WINDOW};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    Started {
        pid: u32,
    },
    StartFailed {
        error: String,
    },
    Ready {
        pid: u32,
    },
    /// The first line of the process we started was not the `hello` we expect.
    NotOurs {
        pid: u32,
    },
    Garbled {
        error: String,
    },
    Silent {
        pid: u32,
        since: Duration,
    },
    Stuck {
        pid: u32,
    },
    MasterEnded {
        pid: u32,
        exit: Exit,
        expected: bool,
    },
    OrphanEnded {
        pid: u32,
        exit: Exit,
    },
    GivenUp,
    Draining {
        pid: u32,
        why: String,
    },
    Bye {
        pid: u32,
        why: String,
        code: i32,
    },
    Warned {
        pid: u32,
        code: String,
        message: String,
    },
    Quiet,
    Stopping {
        why: &'static str,
        grace: Duration,
    },
    Leaving {
        why: &'static str,
    },
    Overdue {
        pid: Option<u32>,
    },
    Late {
        by: Duration,
    },
    State(String),
    NobodyToResize,
    /// Onto the program that is on disk now.
    Rolling,
    Rolled {
        from: u32,
        to: u32,
    },
    Undoing {
        why: String,
    },
    NotRolled {
        why: String,
    },
}

impl Note {
    /// Writes it to the log.
    pub(crate) fn log(&self) {
        match self {
            Self::Started { .. } | Self::Bye { .. } | Self::OrphanEnded { .. } => tracing::debug!("{self}"),
            Self::MasterEnded { expected: true, .. }
            | Self::Ready { .. }
            | Self::Draining { .. }
            | Self::Quiet
            | Self::Stopping { .. }
            | Self::Leaving { .. }
            | Self::NobodyToResize
            | Self::Rolling
            | Self::Rolled { .. }
            | Self::State(_) => tracing::info!("{self}"),
            Self::MasterEnded { .. } | Self::Garbled { .. } | Self::Warned { .. } | Self::Late { .. } => {
                tracing::warn!("{self}");
            }
            Self::StartFailed { .. }
            | Self::NotOurs { .. }
            | Self::Silent { .. }
            | Self::Stuck { .. }
            | Self::GivenUp
            | Self::Undoing { .. }
            | Self::NotRolled { .. }
            | Self::Overdue { .. } => tracing::error!("{self}"),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { pid } => write!(f, "master {pid} started"),
            Self::StartFailed { error } => write!(f, "cannot start a master: {error}"),
            Self::Ready { pid } => write!(f, "master {pid} is ready"),
            Self::NotOurs { pid } => {
                write!(f, "process {pid} does not speak as a master of ours, and is killed")
            }
            Self::Garbled { error } => write!(f, "the master said {error}"),
            Self::Silent { pid, since } => {
                write!(f, "master {pid} has been silent for {:.1} s, and is killed", since.as_secs_f64())
            }
            Self::Stuck { pid } => {
                write!(
                    f,
                    "master {pid} does not end even by SIGKILL: it waits in the kernel, and is left to itself"
                )
            }
            Self::MasterEnded { pid, exit, .. } => write!(f, "master {pid} ended {exit}"),
            Self::OrphanEnded { pid, exit } => write!(f, "orphaned process {pid} ended {exit}"),
            Self::GivenUp => write!(
                f,
                "giving up: the master failed more than {MOST_RESTARTS} times within {} s; its reasons are logged above",
                WINDOW.as_secs()
            ),
            Self::Draining { pid, why } => write!(f, "master {pid} takes no more jobs: {why}"),
            Self::Bye { pid, why, code } => write!(f, "master {pid} leaves with {code}: {why}"),
            Self::Warned { pid, code, message } => write!(f, "master {pid}: {code}: {message}"),
            Self::Quiet => write!(f, "quiet: no new jobs are taken until a restart"),
            Self::Stopping { why, grace } => write!(
                f,
                "stopping ({why}): running jobs may finish within {} s; once more to stop at once",
                grace.as_secs_f64()
            ),
            Self::Leaving { why } => write!(f, "stopping at once ({why})"),
            Self::Overdue { pid: Some(pid) } => write!(f, "master {pid} did not stop in time, and is killed"),
            Self::Overdue { pid: None } => write!(f, "the fleet did not stop in time, and is killed"),
            Self::Late { by } => write!(
                f,
                "this process was held up for {:.1} s; all deadlines are put off by that",
                by.as_secs_f64()
            ),
            Self::State(text) => write!(f, "state: {text}"),
            Self::Rolling => write!(f, "rolling onto the program that is on disk now"),
            Self::Rolled { from, to } => {
                write!(f, "rolled: master {to} serves, {from} leaves when the jobs of its workers have ended")
            }
            Self::Undoing { why } => {
                write!(f, "the new program is no good: {why}; going back to the old one")
            }
            Self::NotRolled { why } => write!(f, "not rolled, the old program serves: {why}"),
            Self::NobodyToResize => {
                write!(f, "there is no master to have more or fewer workers; send the signal again")
            }
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "with exit code {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "by {signal}"),
                Err(_) => write!(f, "by signal {number}"),
            },
        }
    }
}
