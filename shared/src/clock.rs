//! The three clocks, as types that do not mix, and the only place where a clock is read.
//!
//! - [`StoreTime`]: the store's clock. Due times, leases and tokens live on it, so that the clocks of producers
//!   and workers do not matter.
//! - [`Mono`]: this host's boot-time clock. It never steps and counts suspended time; durations and liveness are
//!   measured on it. All processes of a host share it, so a reading may be handed from one to another.
//! - [`Wall`]: the time of day, only to show to people (and SQLite's store clock).
#![expect(clippy::disallowed_methods, reason = "this is the one place that reads clocks")]

use std::ops::{Add, Sub};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment on the store's clock, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreTime(i64);

impl StoreTime {
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Saturates at the ends of the range.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1000))
    }

    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Unix milliseconds, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// How much later this is than `earlier`; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

impl Add<Duration> for StoreTime {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(micros(span)))
    }
}

impl Sub<Duration> for StoreTime {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(micros(span)))
    }
}

/// A moment on this host's boot-time clock, in nanoseconds since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(u64);

impl Mono {
    /// Reads the clock.
    #[must_use]
    pub fn now() -> Self {
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::Boottime;
        // macOS: CLOCK_MONOTONIC goes on during sleep.
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Monotonic;
        let now = rustix::time::clock_gettime(clock);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        Self(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0))
    }

    /// Microseconds of CLOCK_MONOTONIC, which stands still while the machine sleeps: what systemd measures by.
    #[must_use]
    pub fn systemd_micros() -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let part = |part: i64| u64::try_from(part).unwrap_or(0);
        part(now.tv_sec) * 1_000_000 + part(now.tv_nsec) / 1000
    }

    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How much later this is than `earlier`; zero if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The time of day, in Unix milliseconds. To show, never to decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wall(i64);

impl Wall {
    /// Reads the clock.
    #[must_use]
    pub fn now() -> Self {
        Self(wall_micros().div_euclid(1000))
    }

    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }
}

/// The time of day in microseconds: the clock of a SQLite store.
#[must_use]
pub fn wall_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros)
}

/// What a process knows of the store's clock: one reading, and when it was taken here.
///
/// The reading was made at some moment between `sent` and `received`. So at a later moment `m` the store's clock
/// stands at least at `reading + (m - received)` and at most at `reading + (m - sent)`, if neither clock stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreClock {
    pub reading: StoreTime,
    pub sent: Mono,
    pub received: Mono,
}

/// A reading of the store's clock may run ahead of what this host expects by this much before it is doubted.
pub const SKEW_GUARD: Duration = Duration::from_secs(1);

/// Two clocks that are being set right part by at most one in so many: 500 ppm, the most that NTP slews at (RFC 5905, the
/// clock discipline's maximum frequency tolerance).
const DRIFT: u32 = 2_000;

impl StoreClock {
    /// The earliest that the store's clock can stand at `now`: what falls due by then is surely due.
    #[must_use]
    pub fn at_least(&self, now: Mono) -> StoreTime {
        self.reading + now.since(self.received)
    }

    /// The latest that the store's clock can stand at `now`.
    #[must_use]
    pub fn at_most(&self, now: Mono) -> StoreTime {
        self.reading + now.since(self.sent)
    }

    /// What this and a newer reading tell together: an answer that was long on its way makes nothing less certain that an
    /// earlier one told. Where the two cannot both be true a clock has stepped, and the newer one counts. `sent` of what comes
    /// of it is no moment of a call, but what keeps the interval.
    #[must_use]
    pub fn narrowed(self, newer: Self) -> Self {
        let now = newer.received;
        let drift = now.since(self.received) / DRIFT;
        let least = (self.at_least(now) - drift).max(newer.at_least(now));
        let most = (self.at_most(now) + drift).min(newer.at_most(now));
        if least > most {
            return newer;
        }
        let width = u64::try_from(most.since(least).as_nanos()).unwrap_or(u64::MAX);
        Self { reading: least, sent: Mono(now.0.saturating_sub(width)), received: now }
    }

    /// The moment on this host's clock at which `due` has surely come on the store's.
    #[must_use]
    pub fn when(&self, due: StoreTime) -> Mono {
        self.received + due.since(self.reading)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert, proptest};

    use super::*;

    #[test]
    fn the_interval_of_the_store_clock_holds() {
        let clock = StoreClock {
            reading: StoreTime::from_millis(10_000),
            sent: Mono::from_nanos(5_000_000),
            received: Mono::from_nanos(7_000_000),
        };
        let now = Mono::from_nanos(17_000_000);
        assert_eq!(clock.at_least(now), StoreTime::from_millis(10_010));
        assert_eq!(clock.at_most(now), StoreTime::from_millis(10_012));
        assert_eq!(
            clock.at_least(clock.when(StoreTime::from_millis(10_050))),
            StoreTime::from_millis(10_050)
        );
        assert_eq!(clock.when(StoreTime::from_millis(1)), clock.received);
    }

    /// A reading of a store whose clock stands at the host's plus an offset, asked at `sent` and `back` later here.
    fn asked(offset_ms: i64, sent: u64, there: u64, back: u64) -> StoreClock {
        const MS: u64 = 1_000_000;
        let at = i64::try_from(sent + there).unwrap();
        StoreClock {
            reading: StoreTime::from_millis(at + offset_ms),
            sent: Mono::from_nanos(sent * MS),
            received: Mono::from_nanos((sent + there + back) * MS),
        }
    }

    #[test]
    fn a_slow_answer_takes_nothing_back() {
        let quick = asked(1_000, 100, 1, 1);
        let slow = asked(1_000, 200, 10, 40);
        let now = slow.received;
        assert_eq!(now.since(Mono::from_nanos(0)), Duration::from_millis(250));
        let truth = StoreTime::from_millis(1_250);
        assert_eq!(slow.at_least(now), truth - Duration::from_millis(40));

        let both = quick.narrowed(slow);
        // A millisecond of the quick one's way, and what the clocks may have parted by in 148.
        let drift = Duration::from_micros(74);
        assert_eq!(both.at_least(now), truth - Duration::from_millis(1) - drift);
        assert_eq!(both.at_most(now), truth + Duration::from_millis(1) + drift);
        assert_eq!(
            slow.narrowed(asked(1_000, 300, 1, 1)).at_least(now + Duration::from_millis(52)),
            StoreTime::from_millis(1_301)
        );
    }

    #[test]
    fn a_clock_that_stepped_is_believed() {
        for offset in [-500, 500, 1_100] {
            let newer = asked(1_000 + offset, 200, 3, 3);
            assert_eq!(asked(1_000, 100, 3, 3).narrowed(newer), newer, "{offset}");
        }
    }

    proptest! {
        #[test]
        fn the_truth_stays_within(calls in proptest::collection::vec((0_u64..5_000, 0_u64..50, 0_u64..50), 1..20)) {
            let (mut clock, mut at) = (None::<StoreClock>, 0);
            for (pause, there, back) in calls {
                let newer = asked(7, at + pause, there, back);
                at += pause + there + back;
                let kept = clock.map_or(newer, |known| known.narrowed(newer));
                let (now, truth) = (newer.received, StoreTime::from_millis(i64::try_from(at).unwrap() + 7));
                prop_assert!(newer.at_least(now) <= kept.at_least(now) && kept.at_least(now) <= truth);
                prop_assert!(truth <= kept.at_most(now) && kept.at_most(now) <= newer.at_most(now));
                clock = Some(kept);
            }
        }
    }

    #[test]
    fn boot_time_moves_on() {
        let before = Mono::now();
        assert!(Mono::now() >= before);
    }
}
