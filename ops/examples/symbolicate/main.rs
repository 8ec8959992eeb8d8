//! Makes crash reports readable: raw addresses in, functions with files and lines out.
//!
//! ```text
//! symbolicate --symbols DIR < report.json > trace.json
//! symbolicate --symbols DIR --ndjson < reports.ndjson > traces.ndjson
//! ```

mod code;
mod report;
mod streams;
mod symbols;
mod symtab;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use symbols::Symbols;

/// Make crash reports readable.
#[derive(Debug, Parser)]
struct Arguments {
    /// The directory of programs with debug information, or of their separate debug files.
    #[arg(long, value_name = "DIR")]
    symbols: PathBuf,
    /// Many reports, one a line, each answered by one line.
    #[arg(long)]
    ndjson: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let symbols = match Symbols::open(&arguments.symbols) {
        Ok(symbols) => symbols,
        Err(error) => return streams::complain(&error),
    };
    match if arguments.ndjson { streams::answer_lines(&symbols) } else { streams::answer_one(&symbols) } {
        Ok(code) => code,
        Err(error) => streams::complain(&error),
    }
}
