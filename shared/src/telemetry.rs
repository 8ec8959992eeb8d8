//! The log: to standard error, as lines for people on a terminal and as JSON, one object a line, elsewhere.
//!
//! What is logged names jobs, queues, workers and times; payloads and secrets never. `ROUNDSMAN_LOG` sets the level,
//! also by module: `debug`, or `info,roundsman_shared::store=trace`.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::settings::Environment;

/// The variable that sets the level.
pub const VARIABLE: &str = "ROUNDSMAN_LOG";

/// What is logged when [`VARIABLE`] says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Error,
    /// For a verb of the command line.
    Warn,
    /// For the fleet's processes.
    Info,
    Debug,
    Trace,
}

impl Level {
    const fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// Starts the log of this process; a second call changes nothing. Answers what is wrong with [`VARIABLE`], which does
/// not count then.
pub fn start(environment: &Environment, level: Level) -> Option<String> {
    let (filter, wrong) = filter(environment.filled(VARIABLE), level);
    let terminal = io::stderr().is_terminal();
    let colour = terminal && environment.filled("NO_COLOR").is_none();
    // Its own errors would go to standard error by a macro that panics when nobody reads it.
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    let _ = if terminal {
        log.with_ansi(colour).with_target(false).finish().try_init()
    } else {
        log.json().flatten_event(true).with_span_list(false).finish().try_init()
    };
    wrong
}

fn filter(text: Option<&str>, level: Level) -> (EnvFilter, Option<String>) {
    let builder = || EnvFilter::builder().with_default_directive(level.filter().into());
    // What is said of one module leaves the others at the default; what is said of all stands later, and counts.
    let (default, text) = (level.filter(), text.unwrap_or_default());
    match builder().parse(format!("{default},{text}")) {
        Ok(filter) => (filter, None),
        Err(error) => {
            let wrong = format!("{VARIABLE}: {error}; write a level like \"info\", or \"info,module=debug\"");
            (builder().parse_lossy(""), Some(wrong))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_stronger_than_the_default() {
        let shown = |text, level| filter(text, level).0.to_string();
        assert_eq!(shown(None, Level::Warn), "warn");
        assert_eq!(shown(Some("debug"), Level::Warn), "debug");
        assert_eq!(shown(Some("x=debug"), Level::Info), "x=debug,info");
    }

    #[test]
    fn what_is_wrong_is_told() {
        let (filter, wrong) = filter(Some("x=loud"), Level::Info);
        assert_eq!(filter.to_string(), "info");
        assert!(wrong.is_some_and(|text| text.starts_with("ROUNDSMAN_LOG: ")));
    }
}
