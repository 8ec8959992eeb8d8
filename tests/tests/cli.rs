//! The command line from outside: the built binary on a Redis server of each test's own. Exit codes, the shape of JSON
//! and the words of refusals are promises to users.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its fixtures")]

#[path = "cli/access.rs"]
mod access;
#[path = "cli/bad_input.rs"]
mod bad_input;
#[path = "cli/dead.rs"]
mod dead;
#[path = "cli/enqueue.rs"]
mod enqueue;
#[path = "cli/explain.rs"]
mod explain;
#[path = "cli/jobs.rs"]
mod jobs;
#[path = "cli/machine.rs"]
mod machine;
#[path = "cli/queues.rs"]
mod queues;
#[path = "cli/rig.rs"]
mod rig;
#[path = "cli/simulate.rs"]
mod simulate;
