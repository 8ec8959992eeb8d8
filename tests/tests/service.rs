//! Roundsman under a service manager: what is installed, with programs that stand in for `systemctl`, and what a fleet
//! tells the manager that started it.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its fixtures")]

#[path = "service/install.rs"]
mod install;
#[path = "service/notify.rs"]
mod notify;
#[path = "service/print.rs"]
mod print;
