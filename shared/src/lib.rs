//! The nouns and the doors of Roundsman: the job model, the store, the pipe protocol, settings and
//! the client that enqueues. Nothing here knows of workers, masters or supervisors.
//!
//! ```text
//! names, clock            words and times that everything else is made of
//! job/                    the job, its lifecycle table and the arithmetic of outcomes (pure)
//! board, assignment, exit what a worker shows its master, and is told by it; exit codes
//! callback, reach         jobs that name their own destination, and which addresses may be one (pure)
//! protocol                the lines that travel over a worker's stdin and stdout (pure)
//! settings/               what the operator wrote, checked
//! store/                  the verbs, on Redis and on SQLite
//! ```

#[cfg(feature = "store")]
pub mod assignment;
pub mod board;
#[cfg(feature = "store")]
pub mod callback;
pub mod clock;
pub mod control;
pub mod exit;
pub mod figures;
#[cfg(feature = "store")]
pub mod foreign;
#[cfg(feature = "store")]
pub mod job;
pub mod launch;
pub mod names;
pub mod outlook;
#[cfg(feature = "store")]
pub mod pipe;
pub mod protocol;
pub mod reach;
pub mod settings;
#[cfg(feature = "store")]
pub mod store;
pub mod telemetry;
