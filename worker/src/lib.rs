//! One process that pulls, runs and acknowledges jobs, and the handler API that users link.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use roundsman_worker::{Failure, Job, Worker};
//!
//! #[derive(serde::Deserialize)]
//! struct Thumbnail { path: String }
//!
//! fn main() -> ExitCode {
//!     Worker::new()
//!         .handle("thumbnail", async |job: Job<Thumbnail>| {
//!             if job.payload.path.is_empty() {
//!                 return Err(Failure::dead("no path"));
//!             }
//!             Ok(format!("{}.png", job.payload.path))
//!         })
//!         .run()
//! }
//! ```
//! Under `[pools.x] command = ["./my-worker"]` a master starts it, tells it by its pipe what to pull, and watches it.
//! Started by hand it reads the same configuration and polls gently.
//!
//! ```text
//! api        handlers, jobs, failures: what users see
//! session    what to pull, acknowledge, renew and give back, and when to leave (pure)
//! slots      runs jobs, on a thread of its own, so that no handler can hold up the session
//! run        the one loop: pipe, store and slots on one side, the session on the other
//! builtin/   exec, stream, stdout and the transports
//! ```

mod api;
mod builtin;
mod run;
mod session;
mod slots;
mod spawn;

pub use api::{Context, Failure, FollowUp, Job, Output, Worker};
pub use run::serve;

/// For the parts of Roundsman that take in what brokers hold.
#[doc(hidden)]
pub use builtin::transport::{broker, document};
/// For what keeps programs that are not of Roundsman.
#[doc(hidden)]
pub use spawn::{adopt_orphans, children, sweep};

/// The pure part of a worker, for the simulation in this repository's tests.
#[doc(hidden)]
pub mod core {
    pub use crate::api::Request;
    pub use crate::session::{Action, Counts, Event, Finished, Running, Seq, Session, StopJob, Task};
}
