//! `roundsman`: one binary that holds every role. This file parses, dispatches and picks an exit code.
//!
//! ```text
//! cli        what can be said on the command line, checked by clap
//! roles      up, master, worker, intake: the fleet's processes
//! commands   one file a verb
//! connect    settings and store, as a verb needs them
//! errors     from any failure to one exit code and one message
//! explain    why a job is where it is, in words
//! part       a process of the fleet that runs no jobs
//! intake     a part: raw jobs out of the Redis inboxes;  amqp: a part: out of a broker;  http: a part: the API
//! keep       a keeper of a worker that knows nothing of Roundsman;  demand: a part: how much waits for such workers
//! dashboard  the pages, as files of this binary
//! exposition metrics as text;  series: the recent past in steps
//! walk       pages of jobs;  causes: dead letters by cause;  overview: store, fleet and queues at a glance
//! demo       up --demo: a store and a load of its own
//! service    what a systemd unit or a launchd property list says
//! print      the only writer to standard output and standard error
//! ```
//!
//! A role is told by the first argument alone and starts before anything else is set up: no parser, no settings, no
//! log and no runtime that it does not want.
#![expect(unreachable_pub, reason = "a program exports nothing; `pub` says that another file uses it")]

mod amqp;
mod causes;
mod cli;
mod commands;
mod connect;
mod dashboard;
mod demand;
mod demo;
mod errors;
mod explain;
mod exposition;
mod fleet;
mod http;
mod intake;
mod keep;
mod overview;
mod part;
mod print;
mod roles;
mod series;
mod service;
mod time;
mod walk;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|word| word == "bench-worker") {
        return commands::bench::worker();
    }
    if arguments.get(1).is_some_and(|word| word == demo::ROLE) {
        return demo::worker();
    }
    if arguments.get(1).is_some_and(|word| word == keep::SHIM) {
        return ExitCode::from(keep::become_worker(&arguments));
    }
    if let Some(role) = role(&arguments) {
        return ExitCode::from(role());
    }
    ExitCode::from(match cli::Cli::try_parse_from(arguments) {
        Ok(cli) => commands::run(cli),
        Err(refusal) => cli::refuse(&refusal),
    })
}

/// What a process of the fleet is started as. A worker is told its label, `POOL/N`.
fn role(arguments: &[OsString]) -> Option<fn() -> u8> {
    let word = |at: usize| arguments.get(at).and_then(|word| word.to_str());
    match (word(1)?, word(2)) {
        ("master", _) => Some(roles::master),
        ("intake", _) => Some(roles::intake),
        ("amqp", _) => Some(roles::amqp),
        ("http", _) => Some(roles::http),
        ("demand", None) => Some(roles::demand),
        ("keep", Some(label)) if label.contains('/') => Some(roles::keep),
        ("worker", Some(label)) if label.contains('/') => Some(roles::worker),
        _ => None,
    }
}
