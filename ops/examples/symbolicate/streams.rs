//! Reports on standard input, traces on standard output: one of each, or one a line.

use std::fmt::Display;
use std::io::{self, BufRead, Read as _, Write};
use std::process::ExitCode;

use serde_json::json;

use crate::report::Report;
use crate::symbols::Symbols;
use crate::trace::{SymbolicateError, Trace, symbolicate};

/// The longest report taken: 1024 frames of text need 22 KiB, the rest is for fields of the reporter's own.
const REPORT_BYTES_MAX: u64 = 1024 * 1024;
/// The exit code of a run in which some report had no trace.
const EXIT_FAILED: u8 = 1;
/// The exit code of a run that could not work at all.
const EXIT_UNABLE: u8 = 2;

/// Answers the one report on standard input.
pub(crate) fn answer_one(symbols: &Symbols) -> io::Result<ExitCode> {
    let mut json = Vec::new();
    io::stdin().lock().take(REPORT_BYTES_MAX + 1).read_to_end(&mut json)?;
    match answer(symbols, &json) {
        Ok(trace) => {
            let mut output = io::stdout().lock();
            serde_json::to_writer_pretty(&mut output, &trace)?;
            writeln!(output)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            complain(&error);
            Ok(EXIT_FAILED.into())
        }
    }
}

/// Answers each line of standard input by a line: a trace, or `{"error": …, "permanent": …}`.
pub(crate) fn answer_lines(symbols: &Symbols) -> io::Result<ExitCode> {
    let failed = answer_each(symbols, io::stdin().lock(), io::BufWriter::new(io::stdout().lock()))?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { EXIT_FAILED.into() })
}

/// Answers each line, and returns how many had no trace.
fn answer_each(symbols: &Symbols, mut reports: impl BufRead, mut traces: impl Write) -> io::Result<u64> {
    let (mut line, mut failed) = (Vec::new(), 0);
    while reports.by_ref().take(REPORT_BYTES_MAX + 1).read_until(b'\n', &mut line)? > 0 {
        match answer(symbols, &line) {
            Ok(trace) => serde_json::to_writer(&mut traces, &trace)?,
            Err(error) => {
                failed += 1;
                let refusal = json!({ "error": error.to_string(), "permanent": error.is_permanent() });
                serde_json::to_writer(&mut traces, &refusal)?;
            }
        }
        writeln!(traces)?;
        if line.last() != Some(&b'\n') {
            // Too long, or the last: what is left of it is no report of its own.
            reports.skip_until(b'\n')?;
        }
        line.clear();
    }
    traces.flush()?;
    Ok(failed)
}

fn answer(symbols: &Symbols, json: &[u8]) -> Result<Trace, SymbolicateError> {
    if json.len() as u64 > REPORT_BYTES_MAX {
        let reason = format!("longer than {REPORT_BYTES_MAX} bytes");
        return Err(SymbolicateError::Malformed { reason });
    }
    symbolicate(symbols, &Report::parse(json)?)
}

/// Says on standard error why nothing can be done.
pub(crate) fn complain(error: &dyn Display) -> ExitCode {
    // Nowhere is left to report a failed write to.
    let _ = writeln!(io::stderr(), "symbolicate: {error}");
    EXIT_UNABLE.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(reports: &str) -> (Vec<serde_json::Value>, u64) {
        let directory = tempfile::tempdir().expect("a directory");
        let symbols = Symbols::open(directory.path()).expect("no symbols");
        let mut traces = Vec::new();
        let failed = answer_each(&symbols, reports.as_bytes(), &mut traces).expect("answers");
        let traces = String::from_utf8(traces).expect("text");
        (traces.lines().map(|line| serde_json::from_str(line).expect(line)).collect(), failed)
    }

    #[test]
    fn each_line_has_its_line_and_a_bad_one_does_not_end_the_run() {
        let unknown = r#"{"module":{"build_id":"ab01"},"load_address":0,"frames":[1]}"#;
        let too_long = " ".repeat(REPORT_BYTES_MAX as usize + 5);
        let (traces, failed) = answers(&format!("nonsense\n{too_long}\n{unknown}\n\n{unknown}"));
        assert_eq!((traces.len(), failed), (5, 5));
        let errors: Vec<_> = traces.iter().map(|trace| trace["error"].as_str().unwrap_or("")).collect();
        assert!(errors[0].starts_with("malformed report: expected"), "{errors:?}");
        assert!(errors[1].ends_with("longer than 1048576 bytes"), "{errors:?}");
        assert_eq!(errors[2], "unknown module: no debug information here for build id ab01");
        assert_eq!(errors[4], errors[2]);
        assert!(traces.iter().all(|trace| trace["permanent"] == true));
    }

    #[test]
    fn nothing_in_is_nothing_out() {
        assert_eq!(answers(""), (Vec::new(), 0));
    }
}
