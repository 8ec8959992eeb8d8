//! The operator's signals, as a descriptor to poll.
//!
//! Handlers and a socket pair (signal-hook), not signalfd: that needs the signals to be blocked, and a blocked signal
//! stays blocked in every program that is started from here on.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::signal;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// What a signal means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caught {
    /// A child ended.
    Child,
    Stop(&'static str),
    Hangup,
    Dump,
    Quiet,
    /// One worker more or fewer in every pool.
    Resize(i32),
    /// Onto the program that is on disk now.
    Roll,
}

const CAUGHT: [(i32, Caught); 9] = [
    (signal::SIGCHLD, Caught::Child),
    (signal::SIGTERM, Caught::Stop("SIGTERM")),
    (signal::SIGINT, Caught::Stop("SIGINT")),
    (signal::SIGHUP, Caught::Hangup),
    (signal::SIGQUIT, Caught::Dump),
    (signal::SIGUSR1, Caught::Quiet),
    (signal::SIGUSR2, Caught::Roll),
    (signal::SIGTTIN, Caught::Resize(1)),
    (signal::SIGTTOU, Caught::Resize(-1)),
];

/// Signals since the last look. SIGPIPE is ignored already: Rust's runtime does so, and undoes it in children.
#[derive(Debug)]
pub(crate) struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
}

impl Signals {
    /// Catches all signals that mean something here, from now on.
    ///
    /// # Errors
    /// When the system has no descriptors left.
    pub(crate) fn catch() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let numbers = CAUGHT.iter().map(|(number, _)| *number);
        Ok(Self { delivery: SignalDelivery::with_pipe(read, write, SignalOnly, numbers)? })
    }

    /// What came since, each once.
    pub(crate) fn pending(&mut self) -> impl Iterator<Item = Caught> + use<> {
        let known = |number| CAUGHT.iter().find(|(it, _)| *it == number).map(|(_, meaning)| *meaning);
        self.delivery.pending().filter_map(known)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}

/// The terminal that this process was started from, if any.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    was_there: bool,
}

impl Terminal {
    #[must_use]
    pub(crate) fn look() -> Self {
        Self { was_there: io::stdin().is_terminal() }
    }

    /// Whether it was closed meanwhile, which is what its SIGHUP says; else that is an operator's.
    #[must_use]
    pub(crate) fn is_closed(self) -> bool {
        self.was_there && !io::stdin().is_terminal()
    }
}
