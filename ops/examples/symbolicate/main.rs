//! Makes crash reports readable: raw addresses in, functions with files and lines out.
//!
//! ```text
//! symbolicate --symbols DIR < report.json > trace.json
//! symbolicate --symbols DIR --ndjson < reports.ndjson > traces.ndjson
//! symbolicate --symbols DIR --worker                     started by a master: [pools.x] command = ["…", "--worker", …]
//! ```

mod code;
mod report;
mod streams;
mod symbols;
mod symtab;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use roundsman_worker::{Failure, Job, Worker};
use serde_json::value::RawValue;

use report::Report;
use symbols::Symbols;
use trace::{SymbolicateError, symbolicate};

/// Make crash reports readable.
#[derive(Debug, Parser)]
struct Arguments {
    /// The directory of programs with debug information, or of their separate debug files.
    #[arg(long, value_name = "DIR")]
    symbols: PathBuf,
    /// Many reports, one a line, each answered by one line.
    #[arg(long)]
    ndjson: bool,
    /// Take the reports as the payloads of jobs; the traces are the results.
    #[arg(long, conflicts_with = "ndjson")]
    worker: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let symbols = match Symbols::open(&arguments.symbols) {
        Ok(symbols) => symbols,
        Err(error) => return streams::complain(&error),
    };
    if arguments.worker {
        return serve(symbols);
    }
    match if arguments.ndjson { streams::answer_lines(&symbols) } else { streams::answer_one(&symbols) } {
        Ok(code) => code,
        Err(error) => streams::complain(&error),
    }
}

/// A report that can never be read is a dead letter at once; one whose symbols could not be read is tried again.
fn serve(symbols: Symbols) -> ExitCode {
    let symbols = Arc::new(symbols);
    Worker::new()
        .handle_any_blocking(move |job: Job<Box<RawValue>>| {
            let trace =
                Report::parse(job.payload.get().as_bytes()).and_then(|report| symbolicate(&symbols, &report));
            trace.map_err(
                |error: SymbolicateError| {
                    if error.is_permanent() { Failure::dead(error) } else { Failure::retry(error) }
                },
            )
        })
        .run()
}
