//! The API from outside: a real fleet, and real HTTP clients, of which some mean no good.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its fixtures")]

#[path = "http/access.rs"]
mod access;
#[path = "http/bad_input.rs"]
mod bad_input;
#[path = "http/figures.rs"]
mod figures;
#[path = "http/hostile.rs"]
mod hostile;
#[path = "http/jobs.rs"]
mod jobs;
#[path = "http/life.rs"]
mod life;
#[path = "http/many.rs"]
mod many;
#[path = "http/rig.rs"]
mod rig;
#[path = "http/timers.rs"]
mod timers;
