//! The tiny process at the top: it keeps a master alive, takes the operator's signals, and sees to it that nothing below
//! it is left behind.
//!
//! ```text
//! unit      the rules: pure, one master and what is wanted of it
//! note      what it says to people
//! run       the one loop
//! spawn     starting the master          signals   what the operator asks
//! reaper    all that is below            lock      one supervisor for a store and a host
//! notify    talk to systemd              control   orders over a socket
//! ```
//!
//! Absent on purpose: tokio, a second thread, the store and every job.

mod control;
mod lock;
mod note;
mod notify;
mod reaper;
mod run;
mod signals;
mod spawn;
mod unit;

pub use self::lock::{Fleet, Holder, LockError, fleets};
pub use self::run::{Launch, run};

/// The rules by which a master is kept alive, for the simulation in this repository's tests.
#[doc(hidden)]
pub mod core {
    pub use crate::note::Note;
    pub use crate::unit::{Action, Asker, Event, Exit, News, Request, Unit};
}

use roundsman_shared::exit;

/// Why a supervisor did not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("cannot {what}: {source}")]
    Prepare { what: &'static str, source: std::io::Error },
}

impl Error {
    /// The code to leave with.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Lock(LockError::Held { .. }) => exit::CONFLICT,
            Self::Lock(LockError::Io { .. }) | Self::Prepare { .. } => exit::FAILED,
        }
    }
}
