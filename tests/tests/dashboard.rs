//! The dashboard in a real browser, before a real fleet on each store: what it shows is what the command line tells,
//! what it does is done, and nothing that a job holds gets out of its text.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "dashboard/access.rs"]
mod access;
#[path = "dashboard/actions.rs"]
mod actions;
#[path = "dashboard/hostile.rs"]
mod hostile;
#[path = "dashboard/keys.rs"]
mod keys;
#[path = "dashboard/pages.rs"]
mod pages;
#[path = "dashboard/rig.rs"]
mod rig;
#[path = "dashboard/token.rs"]
mod token;
