//! The scaling code under a load that only exists in memory: what waits and costs a setting would give.
//!
//! ```text
//! Trace (seeded, or recorded) ──▶ engine: jobs, workers, boots, faults ──▶ Figures, samples
//!                                    │ View        ▲ number of workers
//!                                    ▼             │
//!                                  Controller: the law of crate::scale, or a rival
//! ```
//! It is a model: every job takes as long as the trace says, whatever else runs on the host; a pull takes no time.

mod engine;
mod figures;
mod lawful;
mod random;
mod trace;

pub use engine::{Controller, Sample, Setting, Style, View, run};
pub use figures::Figures;
pub use lawful::Lawful;
pub use random::Random;
pub use trace::{Arrival, Fault, KINDS, Kind, Span, Trace};
