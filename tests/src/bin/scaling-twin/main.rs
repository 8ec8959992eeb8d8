//! The live twin of the scaling simulator: the same shortened traces on real processes and a real Redis, and in memory.
//!
//! ```text
//! scaling-twin [LOAD…] [--scale 0.1] [--seed 1] [--parallel 2] [--rough] [--keep FOLDER]
//!
//!            ┌─▶ producer ─▶ redis-server ─▶ fleet of `up`, workers that sleep ─▶ waits, lives, boots ─┐
//! Trace ─────┤                                                                       │ boot time      ├─▶ agree?
//!            └───────────────────────────────────────────▶ simulate::run ◀───────────┘            ────┘
//! ```
//!
//! One pool, a job a worker at a time, no worker or 64 of them, `target_wait` 5 s. Each load has a store and a fleet of its
//! own. Prints what came of both and whether they agree; exits with 1 where they do not. `--rough` asks for less, as a
//! loaded machine can keep it.
//!
//! `crashloop` is left out: real fleets put a pool into quarantine of which four starts in a row fail, and the simulator
//! has none. `ops/twin` builds what this needs and runs it.

mod compare;
mod dependency;
mod lives;
mod options;
mod play;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use roundsman_master::simulate::KINDS;

use crate::compare::Course;
use crate::options::Options;

/// Whatever keeps a load from being played; that the two disagree is no error but what is asked for.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Nothing like it happens in real fleets.
const LEFT_OUT: &str = "crashloop";
const USAGE: &str =
    "usage: scaling-twin [LOAD…] [--scale 0.1] [--seed 1] [--parallel 2] [--rough] [--keep FOLDER]";

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => return refuse(&error),
    };
    let known = || KINDS.iter().map(|kind| kind.name).filter(|name| *name != LEFT_OUT);
    if let Some(other) = options.loads.iter().find(|load| known().all(|name| name != load.as_str())) {
        return refuse(&format!("{other:?} is none of {}", known().collect::<Vec<_>>().join(", ")));
    }
    let loads: Vec<&str> = known()
        .filter(|name| options.loads.is_empty() || options.loads.iter().any(|it| it == name))
        .collect();
    let courses = play_all(&loads, &options);
    let mut all_agree = true;
    let mut failed = false;
    for (load, course) in courses {
        match course {
            Ok(course) => {
                all_agree &= course.differences(options.rough).is_empty();
                let _ = write!(std::io::stdout(), "{}", course.table(options.rough));
            }
            Err(error) => {
                failed = true;
                let _ = writeln!(std::io::stderr(), "scaling-twin {load}: {error}");
            }
        }
    }
    match (failed, all_agree) {
        (true, _) => ExitCode::from(2),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    }
}

fn refuse(error: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "scaling-twin: {error}\n{USAGE}");
    ExitCode::from(2)
}

/// Several at the same time; answers in the order of the loads.
fn play_all<'l>(loads: &[&'l str], options: &Options) -> Vec<(&'l str, Result<Course, Failure>)> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.parallel.min(loads.len()) {
            scope.spawn(|| {
                while let Some(load) = loads.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let course = play::play(load, options);
                    let _ = writeln!(std::io::stderr(), "scaling-twin: {load} is over");
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((*load, course));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(load, _)| loads.iter().position(|it| it == load));
    done
}
