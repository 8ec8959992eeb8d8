//! The master role as a program of its own, for tests that play its supervisor. Started as `intake`, as a master starts
//! its own build, it is an idle child.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("intake") {
        return roundsman_tests::pipe_child::idle();
    }
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    ExitCode::from(roundsman_master::serve())
}
