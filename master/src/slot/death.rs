//! How a process ended, why, and who is to blame.

/// Why a process was ended by us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Not needed any more: nobody is at fault.
    Retired,
    /// These jobs (queue, id) ran on after their timeout.
    TimedOut { jobs: Vec<(String, String)> },
    /// It showed no life.
    Stalled { why: String },
    /// It never became ready.
    Unready { why: String },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// The kernel killed it for want of memory, or it was refused memory and aborted.
    OutOfMemory {
        signal: i32,
    },
}

/// What a death means for the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// A clean exit, an end that we wanted, or a SIGKILL that was not ours.
    Nobody,
    /// It failed before it had finished a job.
    Worker { ready: bool },
    /// It can never work as it is set up.
    SetUp,
    /// It failed after having worked.
    Job,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    pub exit: Exit,
    pub fate: Option<Fate>,
    pub blame: Blame,
    /// The most memory with which it was seen, in KiB.
    pub peak_kb: u64,
}

impl Death {
    /// Why it ended, in one word, as metrics count it.
    #[must_use]
    pub const fn cause(&self) -> &'static str {
        match (&self.fate, self.exit) {
            (Some(Fate::Retired), _) => "retired",
            (Some(Fate::TimedOut { .. }), _) => "timed_out",
            (Some(Fate::Stalled { .. }), _) => "stalled",
            (Some(Fate::Unready { .. }), _) => "unready",
            (None, Exit::Code(0)) => "clean",
            (None, Exit::Code(_)) => "failed",
            (None, Exit::OutOfMemory { .. }) => "out_of_memory",
            (None, Exit::Signal(9)) => "killed",
            (None, Exit::Signal(_)) => "crashed",
        }
    }
}

impl Exit {
    /// Whether the job that ran then is to answer for it: not where the exit says that the set-up or the lease was at
    /// fault, nor where a SIGKILL was not ours. An exit with 0 in mid-job is no clean one.
    #[must_use]
    pub const fn is_crash(self) -> bool {
        !matches!(
            self,
            Self::Code(64 | 75 | 78 | 126 | 127) | Self::Signal(9) | Self::OutOfMemory { signal: 9 }
        )
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "signal {name}"),
                None => write!(f, "signal {signal}"),
            },
            Self::OutOfMemory { signal } => write!(f, "out of memory ({})", Self::Signal(*signal)),
        }
    }
}

/// The names of the signals that end processes, where all our systems agree on the number.
const fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return None,
    })
}
