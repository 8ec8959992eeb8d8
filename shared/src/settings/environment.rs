//! The environment, read once: the only place that reads it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::origin::{Origin, Problem};
use super::tree::{self, Table};

/// Every setting's variable begins so: `ROUNDSMAN_STORE__URL` is `store.url`.
const PREFIX: &str = "ROUNDSMAN_";
/// Names the file that `--config` names.
pub(super) const CONFIG: &str = "ROUNDSMAN_CONFIG";
/// What follows the prefix in variables that are between our own processes or for a job, and no settings.
const NOT_SETTINGS: [&str; 2] = ["JOB_", "INTERNAL_"];

/// The environment as it was at one moment. `Debug` shows no values, since some are secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// Names, as far as they can be read, of variables that are not UTF-8.
    unreadable: Vec<String>,
}

impl Environment {
    /// Reads this process's environment.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn capture() -> Self {
        let mut environment = Self::default();
        for (name, value) in std::env::vars_os() {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => {
                    environment.variables.insert(name, value);
                }
                (Ok(name), Err(_)) => environment.unreadable.push(name),
                (Err(name), _) => environment.unreadable.push(name.to_string_lossy().into_owned()),
            }
        }
        environment
    }

    /// The variable's value, if it is set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The variable's value, if it is set and not empty.
    #[must_use]
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// The names of all variables, as far as they can be read.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().chain(&self.unreadable).map(String::as_str)
    }

    /// The absolute path that the variable names; the XDG specification has a relative one ignored.
    #[must_use]
    pub fn directory(&self, name: &str) -> Option<PathBuf> {
        self.filled(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// The user's `roundsman.toml`, whether or not there is one.
    #[must_use]
    pub fn user_config_file(&self) -> Option<PathBuf> {
        let config = self
            .directory("XDG_CONFIG_HOME")
            .or_else(|| self.directory("HOME").map(|home| home.join(".config")))?;
        Some(config.join("roundsman/roundsman.toml"))
    }

    /// Where state is kept: systemd's `$STATE_DIRECTORY`, else `roundsman` in the user's state directory.
    #[must_use]
    pub fn state_dir(&self) -> Option<PathBuf> {
        // With several directories systemd joins them by colons; the first is the unit's main one.
        let by_systemd = self.filled("STATE_DIRECTORY").and_then(|dirs| dirs.split(':').next());
        if let Some(dir) = by_systemd.map(PathBuf::from).filter(|dir| dir.is_absolute()) {
            return Some(dir);
        }
        let state = self
            .directory("XDG_STATE_HOME")
            .or_else(|| self.directory("HOME").map(|home| home.join(".local/state")))?;
        Some(state.join("roundsman"))
    }

    /// All variables that name a setting, as a tree.
    pub(super) fn settings(&self) -> (Table, Vec<Problem>) {
        let mut table = Table::new();
        let mut problems = Vec::new();
        for name in &self.unreadable {
            if setting_path(name).is_some() || name == "REDIS_URL" || name == "AMQP_URL" {
                problems.push(problem(name, "the value is not UTF-8"));
            }
        }
        for (name, value) in &self.variables {
            let Some(path) = setting_path(name) else { continue };
            if path.iter().any(String::is_empty) {
                problems
                    .push(problem(name, "unknown variable; settings are named like ROUNDSMAN_STORE__URL"));
                continue;
            }
            let node = tree::parse_text(value, &Origin::Variable(name.clone()));
            if let Err(message) = tree::insert(&mut table, &path, node) {
                problems.push(problem(name, &message));
            }
        }
        (table, problems)
    }

    /// Variables that no one reads, but that differ from a setting's by a single underscore for a double one.
    pub(super) fn near_misses<'k>(&self, keys: impl IntoIterator<Item = &'k str>) -> Vec<String> {
        let mut misses = Vec::new();
        for key in keys {
            let right = format!("{PREFIX}{}", key.replace('.', "__").to_uppercase());
            let wrong = right.replace("__", "_");
            if wrong != right && self.variables.contains_key(&wrong) {
                misses.push(format!("{wrong} is not read; did you mean {right}?"));
            }
        }
        misses
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.variables.keys()).finish()
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, unreadable: Vec::new() }
    }
}

/// The key that a variable sets. A name without `__` sets none: other tools make such names too
/// (Kubernetes makes `ROUNDSMAN_PORT` for a service called so).
fn setting_path(name: &str) -> Option<Vec<String>> {
    let rest = name.strip_prefix(PREFIX)?;
    if !rest.contains("__") || NOT_SETTINGS.iter().any(|prefix| rest.starts_with(prefix)) {
        return None;
    }
    Some(rest.split("__").map(str::to_lowercase).collect())
}

fn problem(name: &str, message: &str) -> Problem {
    Problem { origin: Origin::Variable(name.to_owned()), key: String::new(), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tree::Value;

    #[test]
    fn only_names_with_a_double_underscore_are_settings() {
        for name in [
            "ROUNDSMAN_JOB_ID",
            "ROUNDSMAN_QUEUE",
            "ROUNDSMAN_KIND",
            "ROUNDSMAN_ATTEMPT",
            "ROUNDSMAN_TOKEN",
            "ROUNDSMAN_DEADLINE",
            "ROUNDSMAN_CONFIG",
            "ROUNDSMAN_INTERNAL__ROLE",
            "ROUNDSMAN_SERVICE_HOST",
            "HOME__X",
        ] {
            assert_eq!(setting_path(name), None, "{name}");
        }
        let path = setting_path("ROUNDSMAN_POOLS__Default__MAX_WORKERS").unwrap();
        assert_eq!(path, ["pools", "default", "max_workers"]);
    }

    #[test]
    fn variables_become_a_tree() {
        let environment = Environment::from_iter([
            ("ROUNDSMAN_STORE__URL", "redis://one"),
            ("ROUNDSMAN_STORE__LEASE", "5s"),
            ("ROUNDSMAN___LEASE", "5s"),
            ("ROUNDSMAN_Store__Url", "redis://two"),
        ]);
        let (table, problems) = environment.settings();
        let Value::Table(store) = &table["store"].value else { panic!("no table") };
        assert_eq!(store["lease"].value, Value::Text("5s".into()));
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "ROUNDSMAN_Store__Url: contradicts ROUNDSMAN_STORE__URL, which says the same key",
                "ROUNDSMAN___LEASE: unknown variable; settings are named like ROUNDSMAN_STORE__URL",
            ]
        );
    }

    #[test]
    fn directories_follow_systemd_then_xdg_then_home() {
        let state = |variables: &[(&str, &str)]| Environment::from_iter(variables.to_vec()).state_dir();
        let home = ("HOME", "/home/a");
        assert_eq!(state(&[home]), Some("/home/a/.local/state/roundsman".into()));
        assert_eq!(state(&[home, ("XDG_STATE_HOME", "/s")]), Some("/s/roundsman".into()));
        assert_eq!(state(&[home, ("XDG_STATE_HOME", "s")]), Some("/home/a/.local/state/roundsman".into()));
        assert_eq!(state(&[home, ("STATE_DIRECTORY", "/var/lib/r:/b")]), Some("/var/lib/r".into()));
        assert_eq!(state(&[]), None);
        let config = Environment::from_iter([home]).user_config_file();
        assert_eq!(config, Some("/home/a/.config/roundsman/roundsman.toml".into()));
    }

    #[test]
    fn a_single_underscore_is_noticed() {
        let environment =
            Environment::from_iter([("ROUNDSMAN_STORE_URL", "x"), ("ROUNDSMAN_STORE_PORT", "y")]);
        let misses = environment.near_misses(["store.url", "store.lease"]);
        assert_eq!(misses, ["ROUNDSMAN_STORE_URL is not read; did you mean ROUNDSMAN_STORE__URL?"]);
    }

    #[test]
    fn debug_shows_no_values() {
        let environment = Environment::from_iter([("REDIS_URL", "redis://:secret@host")]);
        assert_eq!(format!("{environment:?}"), "[\"REDIS_URL\"]");
    }
}
