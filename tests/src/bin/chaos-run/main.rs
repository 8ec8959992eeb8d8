//! Chaos runs: a real fleet on a real store, faults made on purpose, and the checker's verdict at the end.
//!
//! ```text
//! chaos-run symbolicate    crash reports made readable while workers are killed; every trace held against binutils
//! chaos-run handover       kill -9 of workers in mid-job: how soon each job is started by another worker
//! chaos-run kills          kill -9 of workers, masters and supervisors
//! chaos-run pauses         workers, the master, the store and the whole tree stopped and let go on
//! chaos-run calm           idle workers, a long job, a busy machine and a stepped clock: nobody may be killed
//! chaos-run full           the store at its memory limit, with a backlog to drain
//! chaos-run rolls          deploys and reloads under load, some of programs that are no good
//! chaos-run soak           all sorts of faults at once, for an hour; what the fleet holds stays
//! chaos-run outages        kill -9 of a store that had acknowledged
//! chaos-run amqp           channels closed by the broker and kill -9 of the broker, while messages are taken in
//! ```
//!
//! Each prints its figures and exits with 1 when a promise was broken. `ops/chaos` builds what this needs and runs it.

mod amqp;
mod audit;
mod calm;
mod full;
mod handover;
mod kills;
mod load;
mod nemesis;
mod options;
mod outages;
mod pauses;
mod report;
mod rolls;
mod soak;
mod stand;
mod symbolicate;
mod vitals;

use std::io::Write as _;
use std::process::ExitCode;

use crate::options::Options;
use crate::report::Report;

/// Whatever keeps a run from being made; a broken promise is no error but a part of the report.
pub(crate) type Failure = Box<dyn std::error::Error>;

const USAGE: &str = "usage: chaos-run symbolicate|handover|kills|pauses|calm|rolls|soak|full|outages|amqp [--jobs N] [--kills K] [--channel-kills K] [--broker-kills K] [--every MS] \
[--seed S] [--store redis|sqlite] [--row NAME] [--rolls N] [--seconds N | --minutes N] [--keep FOLDER]";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let run = arguments.next().unwrap_or_default();
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(error) => return refuse(&error),
    };
    let done = match run.as_str() {
        "symbolicate" => symbolicate::run(&options).map(|report| vec![report]),
        "handover" => handover::run(&options).map(|report| vec![report]),
        "kills" => kills::run(&options).map(|report| vec![report]),
        "pauses" => pauses::run(&options),
        "calm" => calm::run(&options).map(|report| vec![report]),
        "full" => full::run(&options).map(|report| vec![report]),
        "rolls" => rolls::run(&options).map(|report| vec![report]),
        "soak" => soak::run(&options).map(|report| vec![report]),
        "outages" => outages::run(&options).map(|report| vec![report]),
        "amqp" => amqp::run(&options).map(|report| vec![report]),
        other => return refuse(&format!("no run {other:?}")),
    };
    match done {
        Ok(reports) if reports.iter().all(Report::is_clean) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "chaos-run {run}: {error}");
            ExitCode::from(2)
        }
    }
}

fn refuse(error: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "chaos-run: {error}\n{USAGE}");
    ExitCode::from(2)
}
