//! The store's clock: the host's time of day, watched against its boot-time clock, so that a jump of the time of day
//! starts no job early.
//!
//! The file keeps a *line*: how far the clock had got at some moment of the boot-time clock. A reading that is
//! more than [`SKEW_GUARD`] ahead of where the line has got since is a jump; it is taken out by lowering `shift`.
//! A jump back is followed (it delays by its size), but the line stays, so that the way forward again is no jump.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::fault::Fault;
use crate::clock::{Mono, SKEW_GUARD, StoreTime, wall_micros};

/// The line is written again after so long.
const REFRESH_NS: i64 = 1_000_000_000;

/// One reading of this host's clocks.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) boot: String,
    /// ns since boot.
    pub(super) mono: i64,
    /// µs since the epoch.
    pub(super) wall: i64,
}

/// This host's clocks. Tests move them.
#[derive(Debug, Clone)]
pub(super) struct Clocks {
    boot: String,
    #[cfg(test)]
    pub(super) test: std::sync::Arc<TestShift>,
}

/// What tests add to the clocks, in µs.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct TestShift {
    /// Time that passes: both clocks move.
    pub(super) both: std::sync::atomic::AtomicI64,
    /// Somebody sets the clock.
    pub(super) wall: std::sync::atomic::AtomicI64,
}

impl Clocks {
    pub(super) fn new() -> Self {
        // Elsewhere than on Linux a boot is told by the boot-time clock starting again.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            boot: boot.trim().to_owned(),
            #[cfg(test)]
            test: std::sync::Arc::default(),
        }
    }

    pub(super) fn read(&self) -> Reading {
        let mono = i64::try_from(Mono::now().as_nanos()).unwrap_or(i64::MAX);
        let wall = wall_micros();
        #[cfg(test)]
        let (mono, wall) = {
            use std::sync::atomic::Ordering::SeqCst;
            let both = self.test.both.load(SeqCst);
            (mono + both * 1000, wall + both + self.test.wall.load(SeqCst))
        };
        Reading { boot: self.boot.clone(), mono, wall }
    }
}

/// The row of `clock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    boot: String,
    mono: i64,
    line: i64,
    shift: i64,
}

/// The line after a reading, the store's time, and by how many µs the time of day had jumped ahead.
pub(super) fn advance(before: Option<&Line>, now: &Reading) -> (Line, StoreTime, Option<i64>) {
    let fresh = |store: i64, shift: i64| Line { boot: now.boot.clone(), mono: now.mono, line: store, shift };
    let Some(before) = before.filter(|line| line.boot == now.boot && line.mono <= now.mono) else {
        return (fresh(now.wall, 0), StoreTime::from_micros(now.wall), None);
    };
    let guard = i64::try_from(SKEW_GUARD.as_micros()).unwrap_or(i64::MAX);
    let expected = before.line.saturating_add((now.mono - before.mono) / 1000);
    let mut shift = before.shift;
    let mut store = now.wall.saturating_add(shift);
    let mut jump = None;
    if store > expected + guard {
        let ahead = store - expected;
        shift -= ahead;
        store = expected;
        jump = Some(ahead);
    } else if store < expected - guard && shift < 0 {
        // The jump that was taken out has been taken back.
        let back = (expected - store).min(-shift);
        shift += back;
        store += back;
    }
    let line = if store < expected - guard { expected } else { store };
    (fresh(line, shift), StoreTime::from_micros(store), jump)
}

pub(super) fn load(conn: &Connection) -> Result<Option<Line>, Fault> {
    let mut read = conn.prepare_cached("SELECT boot, mono, line, shift FROM clock")?;
    let line = read
        .query_row([], |row| {
            Ok(Line { boot: row.get(0)?, mono: row.get(1)?, line: row.get(2)?, shift: row.get(3)? })
        })
        .optional()?;
    Ok(line)
}

/// Writes the line if it is old or the clock was set.
pub(super) fn save(conn: &Connection, before: Option<&Line>, after: &Line) -> Result<(), Fault> {
    let fresh = before.is_some_and(|before| {
        before.boot == after.boot
            && before.shift == after.shift
            && (0..REFRESH_NS).contains(&(after.mono - before.mono))
    });
    if fresh {
        return Ok(());
    }
    conn.prepare_cached("REPLACE INTO clock (one, boot, mono, line, shift) VALUES (1, ?1, ?2, ?3, ?4)")?
        .execute(params![after.boot, after.mono, after.line, after.shift])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    /// A reading so many seconds after boot, with a time of day that is off by `off` seconds.
    fn at(second: i64, off: i64) -> Reading {
        Reading { boot: "b".into(), mono: second * 1_000_000_000, wall: (1_000_000 + second + off) * SECOND }
    }

    fn seconds(time: StoreTime) -> i64 {
        time.as_micros() / SECOND - 1_000_000
    }

    #[test]
    fn a_jump_ahead_is_taken_out_and_given_back() {
        let (line, now, _) = advance(None, &at(10, 0));
        assert_eq!(seconds(now), 10);
        let (line, now, jump) = advance(Some(&line), &at(20, 3600));
        assert_eq!((seconds(now), jump), (20, Some(3600 * SECOND)));
        let (line, now, jump) = advance(Some(&line), &at(30, 3600));
        assert_eq!((seconds(now), jump), (30, None));
        let (line, now, jump) = advance(Some(&line), &at(40, 0));
        assert_eq!((seconds(now), jump, line.shift), (40, None, 0));
    }

    #[test]
    fn a_jump_back_delays_by_its_size_and_forward_again_is_no_jump() {
        let (line, ..) = advance(None, &at(10, 0));
        let (line, now, _) = advance(Some(&line), &at(20, -3600));
        assert_eq!(seconds(now), 20 - 3600);
        let (_, now, jump) = advance(Some(&line), &at(30, 0));
        assert_eq!((seconds(now), jump), (30, None));
    }

    #[test]
    fn small_steps_and_reboots_are_followed() {
        let (line, ..) = advance(None, &at(10, 0));
        let (line, now, jump) =
            advance(Some(&line), &Reading { wall: at(20, 0).wall + SECOND / 2, ..at(20, 0) });
        assert_eq!((now.as_micros(), jump), (at(20, 0).wall + SECOND / 2, None));
        let (line, now, jump) = advance(Some(&line), &Reading { boot: "c".into(), ..at(5, 7200) });
        assert_eq!((seconds(now), jump), (7205, None));
        let (_, now, jump) = advance(Some(&line), &Reading { boot: "c".into(), ..at(1, 9000) });
        assert_eq!((seconds(now), jump), (9001, None), "a boot-time clock that went back has booted");
    }
}
