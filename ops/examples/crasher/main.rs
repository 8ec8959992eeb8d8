//! A program that crashes for real: one argument, a seed, picks the way down and the signal it dies of.
//!
//! Its signal handler writes one crash report (the `symbolicate` example's format) to standard output, and
//! then the same signal kills the process. The same seed takes the same calls; addresses move with ASLR.
//!
//! ```text
//! crasher SEED [SIGSEGV|SIGABRT|SIGILL|SIGFPE] [DEPTH]
//! ```

mod crash;
mod handler;
mod itself;
mod route;

use std::process::ExitCode;

use crash::Signal;
use route::Route;

fn main() -> ExitCode {
    let Some(route) = asked(std::env::args().skip(1)) else {
        return failed("usage: crasher SEED [SIGSEGV|SIGABRT|SIGILL|SIGFPE] [DEPTH]");
    };
    match itself::Itself::read() {
        Ok(program) => handler::install(program.report_head(route.seed())),
        Err(error) => return failed(&format!("cannot read the program's own module: {error}")),
    }
    std::panic::set_hook(Box::new(|_| std::process::abort()));
    let sum = route.run();
    failed(&format!("survived with {sum}"))
}

/// The route asked for, or nothing if an argument is wrong.
fn asked(mut arguments: impl Iterator<Item = String>) -> Option<Route> {
    let seed = arguments.next()?.parse().ok()?;
    let signal = arguments.next().map(|name| Signal::named(&name).ok_or(())).transpose().ok()?;
    let depth = arguments.next().map(|depth| depth.parse()).transpose().ok()?;
    arguments.next().is_none().then(|| Route::new(seed, signal, depth))
}

fn failed(message: &str) -> ExitCode {
    use std::io::Write as _;
    // Nowhere is left to report a failed write to.
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> Option<Route> {
        asked(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for line in ["", "x", "1 SIGHUP", "1 SIGILL deep", "1 SIGILL 3 more"] {
            assert!(ask(line).is_none(), "{line:?}");
        }
        assert!(ask("7 SIGFPE 3").is_some());
    }
}
