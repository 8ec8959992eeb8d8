//! Where a setting comes from, and what is wrong with it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value comes from. `Display` is what `config show --origin` and every error print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nothing names it.
    Default,
    /// A file, as it was looked up, and the line of the key in it.
    File {
        /// As found or given, so possibly relative to the current directory.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// An environment variable, such as `ROUNDSMAN_STORE__URL` or `REDIS_URL`.
    Variable(String),
    /// A flag, such as `--store`.
    Flag(String),
    /// A live setting kept in the store.
    QueueSet,
}

impl Origin {
    /// The directory that relative paths written there start from.
    pub(super) fn base(&self, current_dir: &Path) -> PathBuf {
        match self {
            Self::File { path, .. } => {
                let path = current_dir.join(path);
                path.parent().map_or_else(|| current_dir.to_path_buf(), Path::to_path_buf)
            }
            Self::Default | Self::Variable(_) | Self::Flag(_) | Self::QueueSet => current_dir.to_path_buf(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Self::Variable(name) | Self::Flag(name) => formatter.write_str(name),
            Self::QueueSet => formatter.write_str("queue set"),
        }
    }
}

/// One thing that is wrong with the settings, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What said it; `Default` when nothing did.
    pub origin: Origin,
    /// Dotted, as in `pools.default.max_workers`; empty when a whole file is at fault.
    pub key: String,
    /// Without origin and key; says what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(formatter, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        formatter.write_str(&self.message)
    }
}

/// The settings are refused: everything that was found wrong, one a line (exit code 78).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SettingsError {
    /// Never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{problem}")?;
        }
        Ok(())
    }
}

/// The dotted name of `key` under `path`, quoted as TOML would where the key has a dot or blank of its own.
pub(super) fn dotted(path: &str, key: &str) -> String {
    let bare =
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// The known name that a mistyped one most likely stands for.
pub(super) fn nearest<'n>(wrong: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    /// One slip in a short word, more in a longer one.
    fn tolerance(word: &str) -> usize {
        1 + word.chars().count() / 4
    }
    let wrong = wrong.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wrong, name), name))
        .filter(|(distance, name)| *distance <= tolerance(name))
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_origin_key_and_message() {
        let file = Origin::File { path: "roundsman.toml".into(), line: 12 };
        for (origin, key, expected) in [
            (file.clone(), "store.lease", "roundsman.toml:12: store.lease: wrong"),
            (file, "", "roundsman.toml:12: wrong"),
            (Origin::Variable("REDIS_URL".into()), "store.url", "REDIS_URL: store.url: wrong"),
            (Origin::Flag("--store".into()), "store.url", "--store: store.url: wrong"),
            (Origin::QueueSet, "timeout", "queue set: timeout: wrong"),
            (Origin::Default, "store.url", "store.url: wrong"),
        ] {
            assert_eq!(Problem { origin, key: key.into(), message: "wrong".into() }.to_string(), expected);
        }
    }

    #[test]
    fn paths_start_from_the_file_that_names_them() {
        let here = Path::new("/srv");
        let file = |path: &str| Origin::File { path: path.into(), line: 1 };
        assert_eq!(file("/etc/roundsman/roundsman.toml").base(here), Path::new("/etc/roundsman"));
        assert_eq!(file("conf/a.toml").base(here), Path::new("/srv/conf"));
        assert_eq!(file("roundsman.toml").base(here), here);
        assert_eq!(Origin::Flag("--store".into()).base(here), here);
    }

    #[test]
    fn keys_are_quoted_where_toml_would() {
        assert_eq!(dotted("", "store"), "store");
        assert_eq!(dotted("queues", "a-b_c"), "queues.a-b_c");
        assert_eq!(dotted("queues", "a.b"), "queues.\"a.b\"");
    }

    #[test]
    fn only_near_names_are_suggested() {
        let known = ["max_workers", "min_workers", "slots"];
        assert_eq!(nearest("max_wokers", known), Some("max_workers"));
        assert_eq!(nearest("Max-Workers", known), Some("max_workers"));
        assert_eq!(nearest("slot", known), Some("slots"));
        assert_eq!(nearest("colour", known), None);
    }
}
