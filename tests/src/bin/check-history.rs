//! Judges the histories of a folder, as `check-history FOLDER`: prints the violations and exits 1 if there are.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use roundsman_tests::checker::{CHECKS, Seen, Tolerances, check_folder};

fn main() -> ExitCode {
    let mut out = std::io::stdout().lock();
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        let _ = writeln!(std::io::stderr(), "usage: check-history FOLDER");
        return ExitCode::from(2);
    };
    let verdict = match check_folder(Path::new(&folder), &Tolerances::default()) {
        Ok(verdict) => verdict,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "check-history: {}: {error}", folder.display());
            return ExitCode::from(2);
        }
    };
    let Seen { jobs, acked, starts, ended, faults, audits } = verdict.seen;
    let _ = write!(out, "{}", verdict.report());
    let _ = writeln!(
        out,
        "{} violations by {} checks over {jobs} jobs ({acked} acknowledged, {starts} starts, {ended} ended), \
         {faults} faults, {audits} audits",
        verdict.violations.len(),
        CHECKS.len(),
    );
    if acked == 0 {
        // Nothing to judge is no proof.
        let _ = writeln!(out, "no acknowledged job: this history proves nothing");
        return ExitCode::FAILURE;
    }
    if verdict.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
