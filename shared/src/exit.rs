//! Exit codes, in one table. The command line's are those of `sysexits.h` where it has one.

/// All is well.
pub const OK: u8 = 0;
/// It failed.
pub const FAILED: u8 = 1;
/// The command line was wrong.
pub const USAGE: u8 = 2;
/// There is no such thing.
pub const NOT_FOUND: u8 = 3;
/// Refused, because of what is there already.
pub const CONFLICT: u8 = 4;
/// Data that a job brought is wrong: `exec` handlers say so to make a dead letter at once (`EX_DATAERR`).
pub const DATA: u8 = 65;
/// The store or the broker is not reachable (`EX_UNAVAILABLE`).
pub const UNAVAILABLE: u8 = 69;
/// Try again later (`EX_TEMPFAIL`); a worker leaves with it when it could not renew its lease.
pub const TRY_AGAIN: u8 = 75;
/// The configuration is wrong (`EX_CONFIG`); a worker leaves with it when it can never work as it is set up.
pub const CONFIG: u8 = 78;
/// It took too long.
pub const TIMED_OUT: u8 = 124;
/// The program is there but cannot be run.
pub const NOT_EXECUTABLE: u8 = 126;
/// There is no such program.
pub const NO_PROGRAM: u8 = 127;
/// Interrupted a second time.
pub const INTERRUPTED: u8 = 130;
