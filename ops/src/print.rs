//! The only writer to standard output (data) and standard error (everything else).
//!
//! A reader that has gone away is no error: writing answers with a failure that ends the verb quietly, and standard
//! error is written to as long as somebody reads it.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use roundsman_shared::settings::Environment;
use serde::Serialize;

use crate::cli::Globals;
use crate::errors::Failure;

/// How wide a cell of free text may become in a table.
const WIDEST_CELL: usize = 80;

/// A terminal narrower than this is not wrapped for.
const NARROWEST: u16 = 40;

/// How output is to look.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    pub json: bool,
    quiet: bool,
    colour: bool,
    /// Standard output is a terminal.
    people: bool,
}

impl Screen {
    pub fn new(globals: &Globals, environment: &Environment) -> Self {
        let people = io::stdout().is_terminal();
        let plain = environment.filled("NO_COLOR").is_some() || environment.get("TERM") == Some("dumb");
        Self { json: globals.json, quiet: globals.quiet, colour: people && !plain, people }
    }

    /// A line of data.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.write_all(b"\n")?)
    }

    /// The one document of `--json`, spread out for people and on one line for programs.
    pub fn document(&self, document: &impl Serialize) -> Result<(), Failure> {
        let text = if self.people {
            serde_json::to_string_pretty(document)
        } else {
            serde_json::to_string(document)
        };
        self.line(&text?)
    }

    /// One document of a stream.
    pub fn row(&self, document: &impl Serialize) -> Result<(), Failure> {
        self.line(&serde_json::to_string(document)?)
    }

    /// A table: aligned columns, bold headings where colours are wanted, no wrapping unless a terminal is narrow.
    pub fn table(&self, headings: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        // A terminal that does not know its width says zero.
        if self.people && table.width().is_some_and(|width| width >= NARROWEST) {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
        if !self.colour {
            table.force_no_tty();
        }
        table.set_header(headings.iter().map(|heading| {
            let cell = Cell::new(heading);
            if self.colour { cell.add_attribute(Attribute::Bold) } else { cell }
        }));
        for row in rows {
            table.add_row(row.iter().map(|cell| Cell::new(short(cell))));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.line(&table.trim_fmt())
    }

    /// Something that is likely a slip, or that the reader of the data should know.
    pub fn warn(&self, text: &str) {
        if !self.quiet {
            complain(&format!("warning: {text}"));
        }
    }

    /// Something beside the data that does no harm to miss.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            complain(text);
        }
    }

    /// A bar on standard error where that is a terminal; `total` of zero means that nobody knows.
    pub fn progress(&self, total: u64, what: &'static str) -> ProgressBar {
        if self.quiet || !io::stderr().is_terminal() {
            return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        }
        let (bar, shape) = if total == 0 {
            (ProgressBar::new_spinner(), "{spinner} {pos} {msg}, {per_sec}")
        } else {
            (ProgressBar::new(total), "{bar:30} {pos}/{len} {msg}, {eta} left")
        };
        bar.set_style(ProgressStyle::with_template(shape).expect("the template is right"));
        bar.with_message(what)
    }

    /// Asks before something that cannot be taken back. Where nobody can be asked, `--yes` must have been said.
    pub async fn confirm(&self, what: &str, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Err(Failure::usage(format!("this would {what}")).advise("say --yes to do it"));
        }
        write!(io::stderr().lock(), "This will {what}. Go on? [y/N] ")?;
        // Read aside, so that an interrupt is answered meanwhile.
        let read = || io::stdin().lines().next().transpose();
        let answer = tokio::task::spawn_blocking(read).await.map_err(io::Error::from)??.unwrap_or_default();
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::failed("nothing was changed")),
        }
    }
}

/// One message on standard error.
pub fn complain(text: &str) {
    // Nobody to tell if that fails.
    let _ = writeln!(io::stderr().lock(), "roundsman: {text}");
}

/// The failure's message, once.
pub fn failure(failure: &Failure) {
    failure.lines().for_each(complain);
}

/// Hands on what is still in standard output's buffer; a reader that has gone away changes nothing.
pub fn flushed(code: u8) -> u8 {
    let _ = io::stdout().lock().flush();
    code
}

/// Text of strangers on one line, with nothing in it that a terminal would obey.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `1 job`, `2 jobs`.
pub fn many(count: impl TryInto<u64>, noun: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

fn short(text: &str) -> String {
    let text = clean(text);
    if text.chars().count() <= WIDEST_CELL {
        return text;
    }
    text.chars().take(WIDEST_CELL - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_told_nothing_by_strangers() {
        assert_eq!(clean("a\u{1b}[31mb\nc"), "a [31mb c");
        assert_eq!(short(&"x".repeat(200)).chars().count(), WIDEST_CELL);
    }
}
