//! Roundsman as a service of the machine: from a small [`Description`] to the text of a unit or a property list, and back
//! from what is installed to what it was made of.
//!
//! ```text
//! mod        what a service is, and what it must not be
//! systemd    its unit           launchd   its property list
//! stamp      the lines by which we know again what we wrote
//! place      where it lies, and writing it
//! control    systemctl and launchctl
//! ```
//!
//! Rendering is pure. The description is kept in what is written, so that `status` can say what would be written today.

pub mod control;
mod launchd;
pub mod place;
pub mod stamp;
mod systemd;

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The user that a system's service runs as, unless told otherwise.
pub const USER: &str = "roundsman";
/// What a stop may take beyond the longest grace: 10 s for the supervisor, and 10 s for the kernel to end the rest. The
/// same that the supervisor asks of systemd when it is stopped.
const OVER_GRACE: Duration = Duration::from_secs(20);
/// Open files that a process may have: enough for every worker and every connection of a large fleet.
const FILES: u32 = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    Systemd,
    Launchd,
}

impl Manager {
    /// The one of this operating system.
    pub const fn here() -> Self {
        if cfg!(target_os = "macos") { Self::Launchd } else { Self::Systemd }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Launchd => "launchd",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Of the machine: started at boot, as a user of its own.
    System,
    /// Of the user who installs it.
    User,
}

/// All that the text of a service depends on. It is written into that text for everybody to read, so nothing here is a
/// secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    pub manager: Manager,
    pub scope: Scope,
    pub name: String,
    /// The program, by an absolute path.
    pub binary: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<String>,
    /// The handler of the default pool: what follows `up --`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Whom a service of the system runs as; none for a user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as: Option<String>,
    /// Where it runs, and looks for `./roundsman.toml`; the user's home if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Where state is kept; the user's own place if none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// systemd only: variables to be read at each start. With none named, `roundsman/NAME.env` beside the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_file: Option<String>,
    /// launchd only: where the log goes; systemd has a journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// How long an orderly stop may take, in seconds, before everything is killed.
    pub stop_seconds: u64,
}

impl Description {
    /// The text to install.
    pub fn render(&self) -> String {
        let body = match self.manager {
            Manager::Systemd => systemd::body(self),
            Manager::Launchd => launchd::body(self),
        };
        stamp::put(self, &body)
    }

    /// What the service manager calls it.
    pub fn label(&self) -> String {
        label(self.manager, &self.name)
    }

    /// The arguments of the program.
    fn arguments(&self) -> Vec<&str> {
        let mut words = vec!["up"];
        let flags = [
            ("--config", &self.config),
            ("--store", &self.store),
            ("--namespace", &self.namespace),
            ("--host-id", &self.host_id),
        ];
        for (flag, value) in flags {
            words.extend(value.iter().flat_map(|value| [flag, value]));
        }
        if !self.command.is_empty() {
            words.push("--");
            words.extend(self.command.iter().map(String::as_str));
        }
        words
    }

    /// Refuses what a unit or a property list cannot say, or what would be read as something else there.
    ///
    /// # Errors
    /// Which flag is wrong, and why.
    pub fn check(&self) -> Result<(), String> {
        name("--name", &self.name)?;
        if let Some(user) = &self.run_as {
            name("--run-as", user)?;
        }
        let paths = [
            ("--binary", Some(&self.binary)),
            ("--working-directory", self.directory.as_ref()),
            ("--environment-file", self.environment_file.as_ref()),
            ("the state directory", self.state.as_ref()),
            ("the log", self.log.as_ref()),
        ];
        for (flag, path) in paths {
            if let Some(path) = path {
                bare_path(flag, path)?;
            }
        }
        // systemd refuses a unit whose program is called so, whatever escapes are used.
        if self.binary.contains(['"', '\'']) {
            return Err("--binary: the path must not contain quotes".to_owned());
        }
        // systemd reads every file that the pattern matches.
        if self.environment_file.as_ref().is_some_and(|path| path.contains(['*', '?', '['])) {
            return Err("--environment-file: the path must not contain * ? or [".to_owned());
        }
        for word in self.arguments() {
            // Line ends and tabs can be escaped; nothing else that is unprintable has a place in a property list.
            if let Some(c) = word.chars().find(|c| !is_text(*c)) {
                return Err(format!(
                    "{word:?} contains the character {c:?}, which a service's file cannot hold"
                ));
            }
        }
        Ok(())
    }
}

/// What a service manager calls the service of this name.
pub fn label(manager: Manager, name: &str) -> String {
    match manager {
        Manager::Systemd => format!("{name}.service"),
        Manager::Launchd => format!("dev.roundsman.{name}"),
    }
}

/// How long a stop may take with this grace, the longest of all pools, in seconds.
pub fn stop_seconds(grace: Duration) -> u64 {
    let whole = grace + OVER_GRACE;
    whole.as_secs() + u64::from(whole.subsec_nanos() > 0)
}

/// A name that is a file's, a unit's and a user's without any escape.
fn name(flag: &str, name: &str) -> Result<(), String> {
    let right = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if begins && name.len() <= 64 && name.chars().all(right) {
        return Ok(());
    }
    Err(format!("{flag}: {name:?} is no right name: a letter, then at most 63 of A-Z a-z 0-9 . _ -"))
}

/// A path that stands in a unit as it is, without quotes: there is no way to write some characters there.
fn bare_path(flag: &str, path: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{flag}: {path:?} {why}"));
    if !path.starts_with('/') {
        return wrong("is not absolute");
    }
    if path.chars().any(char::is_control) {
        return wrong("contains a control character");
    }
    if path.contains('\\') {
        return wrong("contains a backslash");
    }
    if path.ends_with(char::is_whitespace) {
        return wrong("ends with a space");
    }
    Ok(())
}

/// What XML 1.0 can hold, without the controls that Unicode added.
fn is_text(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r') || !(c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
}

#[cfg(test)]
mod tests;
