//! The verbs, one file each. A verb gets its arguments and a [`Context`], prints its data, and answers with an exit
//! code or a [`Failure`]; it neither prints errors nor leaves the process.

pub mod about;
pub mod bench;
pub mod bulk;
pub mod config;
pub mod dead;
pub mod doctor;
pub mod enqueue;
pub mod explain;
pub mod find;
pub mod job;
pub mod list;
pub mod operate;
pub mod queue;
pub mod service;
pub mod show;
pub mod simulate;
pub mod status;
pub mod wait;

use std::future::Future;

use roundsman_shared::exit;
use roundsman_shared::telemetry::{self, Level};

use crate::cli::{Cli, Globals, UpArgs, Verb};
use crate::connect::{self, Context};
use crate::errors::Failure;
use crate::print::{self, Screen};
use crate::roles;

/// Runs a verb, prints its failure if it fails, and answers with the exit code.
pub fn run(cli: Cli) -> u8 {
    let code = dispatch(cli.globals, cli.verb).unwrap_or_else(|failure| {
        print::failure(&failure);
        failure.code()
    });
    print::flushed(code)
}

fn dispatch(globals: Globals, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Up(args) => Ok(roles::up(UpArgs { globals, ..args })),
        Verb::Completions(args) => about::completions(&args),
        Verb::Man(args) => about::man(&args),
        Verb::Version => about::version(&globals),
        Verb::Config(verb) => config::run(&context(&globals)?, &verb),
        Verb::Enqueue(args) => {
            let context = context(&globals)?;
            on_runtime(enqueue::run(&context, *args))
        }
        Verb::Job(verb) => {
            let context = context(&globals)?;
            on_runtime(job::run(&context, verb))
        }
        Verb::Queue(verb) => {
            let context = context(&globals)?;
            on_runtime(queue::run(&context, verb))
        }
        Verb::Dead(verb) => {
            let context = context(&globals)?;
            on_runtime(dead::run(&context, verb))
        }
        Verb::Status => {
            let context = context(&globals)?;
            on_runtime(status::run(&context))
        }
        Verb::Stop(args) => {
            let context = context(&globals)?;
            on_runtime(operate::stop(&context, args))
        }
        Verb::Reload(args) => {
            let context = context(&globals)?;
            on_runtime(operate::reload(&context, args))
        }
        Verb::Scale(args) => {
            let context = context(&globals)?;
            on_runtime(operate::scale(&context, args))
        }
        Verb::Worker(verb) => {
            let context = context(&globals)?;
            on_runtime(operate::worker(&context, verb))
        }
        Verb::Deploy(args) => {
            let context = context(&globals)?;
            on_runtime(operate::deploy(&context, args))
        }
        Verb::Bench(args) => {
            let context = context(&globals)?;
            on_runtime(bench::run(&context, args))
        }
        Verb::Simulate(args) => simulate::run(&context(&globals)?, &args),
        Verb::Service(verb) => on_runtime(service::run(&globals, verb)),
        Verb::Doctor => {
            let context = context(&globals)?;
            on_runtime(doctor::run(&context))
        }
    }
}

/// Log and settings.
fn context(globals: &Globals) -> Result<Context, Failure> {
    let input = connect::load_input(globals)?;
    let level = match (globals.quiet, globals.verbose) {
        (true, _) => Level::Error,
        (false, 0) => Level::Warn,
        (false, 1) => Level::Info,
        (false, 2) => Level::Debug,
        (false, _) => Level::Trace,
    };
    if let Some(wrong) = telemetry::start(&input.environment, level) {
        Screen::new(globals, &input.environment).warn(&wrong);
    }
    Context::load(input, globals)
}

/// Runs a verb that speaks to the store, until it ends or is interrupted.
fn on_runtime(verb: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        tokio::select! {
            // The signal first, so that it is listened for before anything else happens.
            biased;
            Ok(()) = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
            ended = verb => ended,
        }
    });
    // A read of standard input may never end; nobody waits for it.
    runtime.shutdown_background();
    ended
}

/// The code of a verb that did what it was asked.
const DONE: Result<u8, Failure> = Ok(exit::OK);
