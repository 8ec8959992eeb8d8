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
//! Simulated is the mean of sixteen courses that begin at different moments between two looks of the fleet.
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
    let verdicts = play_all(&loads, &options);
    match (verdicts.contains(&Verdict::Failed), verdicts.contains(&Verdict::Differ)) {
        (true, _) => ExitCode::from(2),
        (false, true) => ExitCode::FAILURE,
        (false, false) => ExitCode::SUCCESS,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Agree,
    Differ,
    /// It could not be played.
    Failed,
}

fn refuse(error: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "scaling-twin: {error}\n{USAGE}");
    ExitCode::from(2)
}

/// Several at the same time, each told of when it is over.
fn play_all(loads: &[&str], options: &Options) -> Vec<Verdict> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.parallel.min(loads.len()) {
            scope.spawn(|| {
                while let Some(load) = loads.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let course = play::play(load, options);
                    let mut verdicts = verdicts.lock().unwrap_or_else(PoisonError::into_inner);
                    verdicts.push(tell(load, course, options));
                }
            });
        }
    });
    verdicts.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn tell(load: &str, course: Result<Course, Failure>, options: &Options) -> Verdict {
    match course {
        Ok(course) => {
            let _ = write!(std::io::stdout(), "{}", course.table(options.rough));
            if course.differences(options.rough).is_empty() { Verdict::Agree } else { Verdict::Differ }
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "scaling-twin {load}: {error}");
            Verdict::Failed
        }
    }
}
