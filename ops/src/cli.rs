//! What can be said on the command line. Flags of one verb stand with that verb in `commands`.
//!
//! No flag has a default here where a setting has one: what is not said must not displace what a file says.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use roundsman_shared::exit;

use crate::commands::{about, bench, config, dead, enqueue, job, operate, queue, service, simulate};
use crate::print;

const EXIT_CODES: &str = "Exit codes:
  0    all is well
  1    failed: bad data, or the job that was waited for did not end well
  2    the command line is wrong
  3    there is no such job, queue or setting
  4    refused, because of what is there already
  69   the store is not reachable
  75   try again later: the queue or the store is full
  78   the configuration is wrong
  124  not ended in time
  130  interrupted

Durations are written 250ms, 5s, 2h 30m or 3d; times in RFC 3339 or Unix milliseconds.
Settings come from /etc/roundsman/roundsman.toml, the user's roundsman.toml, ./roundsman.toml, --config,
ROUNDSMAN_SECTION__KEY and flags, each stronger than those before; `roundsman config show --origin` tells.
Logs go to standard error; ROUNDSMAN_LOG sets their level.";

/// Background jobs and timers on your own machines, defended so that nobody is woken at night.
#[derive(Debug, Parser)]
#[command(name = "roundsman", version, after_long_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Globals {
    /// A settings file beside the usual ones, and stronger than they.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The store: sqlite:PATH, redis://, rediss:// or redis+unix://.
    #[arg(long, global = true, value_name = "URL")]
    pub store: Option<String>,
    /// What this installation's keys in the store begin with.
    #[arg(long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Print one JSON document.
    #[arg(long, global = true)]
    pub json: bool,
    /// No warnings, no progress.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Log more; twice for everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the fleet in the foreground: supervisor, master and workers.
    Up(UpArgs),
    /// Store one job, or many from standard input; prints the id.
    Enqueue(Box<enqueue::EnqueueArgs>),
    /// Look at jobs and change them. ID is QUEUE/ID, or an id that is looked up in every queue.
    #[command(subcommand)]
    Job(job::JobVerb),
    /// Look at queues, pause, resume, purge and set them.
    #[command(subcommand)]
    Queue(queue::QueueVerb),
    /// Look at dead letters, retry and purge them.
    #[command(subcommand)]
    Dead(dead::DeadVerb),
    /// Show store, fleet and queues.
    Status,
    /// Stop the fleet of this machine, after its running jobs.
    Stop(operate::StopArgs),
    /// Have the fleet of this machine read its settings again.
    Reload(operate::ReloadArgs),
    /// Have so many workers in a pool of this machine's fleet, or as many as it needs.
    Scale(operate::ScaleArgs),
    /// Look at workers, and stop one.
    #[command(subcommand)]
    Worker(operate::WorkerVerb),
    /// Roll the fleet of this machine onto the program that is now on disk. It goes on when this verb is interrupted.
    Deploy(operate::DeployArgs),
    /// Check store, durability, clocks, limits and permissions; every finding says what to do.
    Doctor,
    /// Show and check the settings.
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Run as a service of the machine or of a user: under systemd or launchd.
    #[command(subcommand)]
    Service(service::ServiceVerb),
    /// Play the scaling law through a synthetic or recorded load: what waits and what it costs.
    Simulate(simulate::SimulateArgs),
    /// Measure enqueue, pull and the whole way on this store.
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell.
    Completions(about::CompletionsArgs),
    /// Print the manual page.
    Man(about::ManArgs),
    /// Print the version.
    Version,
}

/// `roundsman up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    #[arg(skip)]
    pub globals: Globals,
    /// What this host is called in the store; two fleets on one machine need two names.
    #[arg(long, value_name = "NAME")]
    pub host_id: Option<String>,
    /// Show it: on a store of its own, with a load that bursts, crashes and hangs. No settings are read.
    #[arg(long, conflicts_with = "command")]
    pub demo: bool,
    /// The handler of the default pool: a command, run once a job.
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// Prints clap's refusal, or the help that was asked for.
pub fn refuse(refusal: &clap::Error) -> u8 {
    // A reader that has gone away needs no help.
    let _ = refusal.print();
    if refusal.use_stderr() { exit::USAGE } else { print::flushed(exit::OK) }
}
