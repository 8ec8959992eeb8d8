//! The job: what a producer says of it, how it is kept, which states it passes through and what each outcome of a
//! delivery does to it. Everything here is pure.
//!
//! ```text
//! spec        what a producer sends, checked                      (JSON -> NewJob)
//! record      what a store keeps of it, as one string             (NewJob <-> Record)
//! lifecycle   the one table of states and events
//! progress    what has happened to it so far: attempts, crashes   (one string beside the record)
//! retry       the arithmetic of retries
//! settle      outcome of a delivery -> what the store is to write
//! reply       what is sent to whoever asked for the result
//! letter      what could not become a job, as a dead letter
//! view        the job as people and programs see it
//! ```

pub mod letter;
pub mod lifecycle;

pub mod progress;
pub mod record;
pub mod reply;
pub mod retry;
pub mod settle;
pub mod spec;
pub mod view;

pub use lifecycle::{FinalState, State};

pub use progress::{Attempt, AttemptEnd, Progress};
pub use record::{Record, Spec};
pub use settle::{Outcome, Run, Settlement, settle};
pub use spec::{Due, NewJob, SpecError};
pub use view::JobView;

/// What a queue grants its jobs.
pub use crate::settings::QueueSettings as Policy;
