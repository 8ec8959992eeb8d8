//! What a run found: figures in the order in which they came, then what was broken.

use std::fmt::{self, Display};
use std::io::Write as _;
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Report {
    name: String,
    figures: Vec<(String, String)>,
    broken: Vec<String>,
}

impl Report {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub(crate) fn figure(&mut self, name: &str, value: impl Display) {
        self.figures.push((name.to_owned(), value.to_string()));
    }

    pub(crate) fn broken(&mut self, what: impl Into<String>) {
        self.broken.push(what.into());
    }

    pub(crate) fn demand(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(what());
        }
    }

    pub(crate) const fn is_clean(&self) -> bool {
        self.broken.is_empty()
    }

    pub(crate) fn print(&self) {
        let _ = write!(std::io::stdout(), "{self}");
    }
}

/// How often, and how long it took.
pub(crate) fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    match (times.get(times.len() / 2), times.last()) {
        (Some(median), Some(most)) => {
            format!("{} (median {} ms, most {} ms)", times.len(), median.as_millis(), most.as_millis())
        }
        _ => "0".to_owned(),
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.name)?;
        for (name, value) in &self.figures {
            writeln!(f, "  {name:<28} {value}")?;
        }
        let verdict = if self.is_clean() { "kept" } else { "BROKEN" };
        writeln!(f, "  {:<28} {verdict}", "promises")?;
        for what in &self.broken {
            writeln!(f, "  {}", what.trim_end().replace('\n', "\n  "))?;
        }
        Ok(())
    }
}
