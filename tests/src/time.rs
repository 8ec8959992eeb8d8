//! The clocks of this crate; nothing else here reads one.
//!
//! Three clocks, as in the product: monotonic (order and durations within one boot), boot time (monotonic that
//! also runs while the machine sleeps) and wall (what the store compares due times with on one host).

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

fn micros(at: Timespec) -> u64 {
    u64::try_from(at.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(at.tv_nsec).unwrap_or(0) / 1_000
}

/// Monotonic time in µs since an arbitrary start, the same for every process of one boot.
#[must_use]
pub fn mono_us() -> u64 {
    micros(clock_gettime(ClockId::Monotonic))
}

/// As [`mono_us`], and also running while the machine is suspended.
#[must_use]
pub fn boot_us() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    micros(clock_gettime(clock))
}

/// Unix time in µs.
#[must_use]
pub fn wall_us() -> u64 {
    micros(clock_gettime(ClockId::Realtime))
}

/// Unix time in ms, the unit of due times.
#[must_use]
pub fn wall_ms() -> i64 {
    i64::try_from(wall_us() / 1_000).unwrap_or(i64::MAX)
}

/// Monotonic time as a duration, for differences.
#[must_use]
pub fn mono() -> Duration {
    Duration::from_micros(mono_us())
}
