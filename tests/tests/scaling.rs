//! The scaling law on simulated loads, beside the rules of other systems, and beside real processes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its fixtures")]
#![expect(clippy::print_stdout, reason = "the table is what is asked for")]

#[path = "scaling/margins.rs"]
mod margins;
#[path = "scaling/rivals.rs"]
mod rivals;
#[path = "scaling/table.rs"]
mod table;
#[path = "scaling/twin.rs"]
mod twin;
