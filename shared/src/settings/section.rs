//! Reading one table of the raw tree, key by key.
//!
//! One call a key names its type, default and limits; from these calls follow the checked value, the row of
//! `config show`, and the list of known keys, so that no second list can disagree. Nothing stops at the first
//! problem: a bad value is noted and its default stands in until the whole load is refused.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::load::Effective;
use super::origin::{Origin, Problem, dotted, nearest};
use super::secret::Secret;
use super::tree::{Node, Table, Value};
use super::value::{Setting, check_name};

/// What reading has found so far.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) current_dir: PathBuf,
    pub(super) problems: RefCell<Vec<Problem>>,
    pub(super) rows: RefCell<Vec<Row>>,
}

/// A value as it counts, and the key's name with `*` for each name that the user chose.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) effective: Effective,
    pub(super) pattern: String,
}

impl Report {
    pub(super) fn new(current_dir: &Path) -> Self {
        Self {
            current_dir: current_dir.to_path_buf(),
            problems: RefCell::default(),
            rows: RefCell::default(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Section<'a> {
    report: &'a Report,
    table: Option<&'a Table>,
    path: String,
    pattern: String,
    origin: Origin,
    known: Vec<&'static str>,
    /// Whether all values were right so far: what depends on several is checked only then.
    sound: bool,
}

impl<'a> Section<'a> {
    pub(super) fn root(report: &'a Report, table: &'a Table) -> Self {
        Self {
            report,
            table: Some(table),
            path: String::new(),
            pattern: String::new(),
            origin: Origin::Default,
            known: Vec::new(),
            sound: true,
        }
    }

    /// What stands at `node`, which must be a table if it is there.
    fn nested(&self, node: Option<&'a Node>, path: String, pattern: String) -> Self {
        let origin = node.map_or(Origin::Default, |node| node.origin.clone());
        let table = match node.map(|node| &node.value) {
            Some(Value::Table(table)) => Some(table),
            Some(other) => {
                self.note(&origin, &path, format!("expected a table, found {}", other.kind()));
                None
            }
            None => None,
        };
        Self { report: self.report, table, path, pattern, origin, known: Vec::new(), sound: true }
    }

    /// The table `key`, read as empty if it is not there.
    pub(super) fn table(&mut self, key: &'static str) -> Self {
        let node = self.node(key);
        self.nested(node, dotted(&self.path, key), dotted(&self.pattern, key))
    }

    /// The tables in the table `key`, each under a name that the user chose.
    pub(super) fn named(&mut self, key: &'static str) -> Vec<(String, Self)> {
        let group = self.table(key);
        let entries = group.table.into_iter().flatten();
        let named = entries.filter_map(|(name, node)| {
            if let Err(message) = check_name(name) {
                group.note(&node.origin, &group.path, message);
                return None;
            }
            let section = group.nested(Some(node), dotted(&group.path, name), format!("{}.*", group.pattern));
            Some((name.clone(), section))
        });
        named.collect()
    }

    /// An empty table `key.name`, for something that exists though nothing names it.
    pub(super) fn unnamed(&mut self, key: &'static str, name: &str) -> Self {
        let group = dotted(&self.path, key);
        self.nested(None, dotted(&group, name), format!("{}.*", dotted(&self.pattern, key)))
    }

    /// The tables in the list `key`.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<Self> {
        let (path, pattern) = (dotted(&self.path, key), dotted(&self.pattern, key));
        let Some(node) = self.node(key) else {
            self.row(key, Json::Array(Vec::new()), Origin::Default);
            return Vec::new();
        };
        let Value::List(items) = &node.value else {
            self.note(&node.origin, &path, format!("expected a list of tables, found {}", node.value.kind()));
            return Vec::new();
        };
        let items = items.iter().enumerate();
        items
            .map(|(index, item)| self.nested(Some(item), format!("{path}[{index}]"), format!("{pattern}.*")))
            .collect()
    }

    /// The raw value of `key`, which thereby is a known one.
    pub(super) fn node(&mut self, key: &'static str) -> Option<&'a Node> {
        self.known.push(key);
        self.table?.get(key)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    pub(super) fn get<T: Setting>(&mut self, key: &'static str, default: T) -> T {
        self.checked(key, default, |_| Ok(()))
    }

    /// A value within limits.
    pub(super) fn within<T>(&mut self, key: &'static str, default: T, limits: RangeInclusive<T>) -> T
    where
        T: Setting + PartialOrd,
    {
        self.checked(key, default, |value| {
            if limits.contains(value) {
                return Ok(());
            }
            let (least, most) = (plain(&limits.start().show()), plain(&limits.end().show()));
            Err(format!("must be between {least} and {most}, not {}", plain(&value.show())))
        })
    }

    /// A value with a rule of its own.
    pub(super) fn checked<T: Setting>(
        &mut self,
        key: &'static str,
        default: T,
        rule: impl FnOnce(&T) -> Result<(), String>,
    ) -> T {
        let Some(node) = self.node(key) else {
            self.row(key, default.show(), Origin::Default);
            return default;
        };
        match T::read(&node.value).and_then(|value| rule(&value).map(|()| value)) {
            Ok(value) => {
                self.row(key, value.show(), node.origin.clone());
                value
            }
            Err(message) => {
                self.refuse(key, message);
                default
            }
        }
    }

    /// A value without which the section makes no sense.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        rule: impl FnOnce(&T) -> Result<(), String>,
    ) -> Option<T>
    where
        T: Setting,
    {
        let Some(node) = self.node(key) else {
            self.refuse(key, format!("is missing: write one like {example}"));
            return None;
        };
        match T::read(&node.value).and_then(|value| rule(&value).map(|()| value)) {
            Ok(value) => {
                self.row(key, value.show(), node.origin.clone());
                Some(value)
            }
            Err(message) => {
                self.refuse(key, message);
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        default: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let find = |word: &str| choices.iter().find(|(name, _)| *name == word).map(|(_, choice)| *choice);
        let words = || choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        let word = self.checked(key, default.to_owned(), |word| {
            find(word).map(drop).ok_or_else(|| format!("\"{word}\" is none of {}", words()))
        });
        find(&word)
    }

    /// The table `key` with a `type`, and the type. A bare string is a table with that type alone.
    /// Without the table the type is `default`; a table without a type is refused.
    pub(super) fn tagged(&mut self, key: &'static str, default: &str) -> Option<(String, Self)> {
        if let Some(Node { value: Value::String(kind) | Value::Text(kind), origin }) = self.node(key) {
            let mut section = self.nested(None, dotted(&self.path, key), dotted(&self.pattern, key));
            section.origin = origin.clone();
            section.row("type", kind.as_str().into(), origin.clone());
            return Some((kind.clone(), section));
        }
        let mut section = self.table(key);
        if section.table.is_none() && self.has(key) {
            return None;
        }
        if section.table.is_some() && !section.has("type") {
            section.refuse("type", format!("is missing: write one like type = \"{default}\""));
            return None;
        }
        let kind = section.get("type", default.to_owned());
        Some((kind, section))
    }

    /// A secret under `key`, or in the file that `file_key` names; with the origin of whichever it is.
    pub(super) fn secret(&mut self, key: &'static str, file_key: &'static str) -> Option<(Secret, Origin)> {
        let (direct, file) = (self.node(key), self.node(file_key));
        if let (Some(direct), Some(_)) = (direct, file) {
            let origin = direct.origin.clone();
            self.note(
                &origin,
                &dotted(&self.path, key),
                format!("contradicts {file_key}: write one of them"),
            );
            self.sound = false;
            return None;
        }
        if let Some(node) = direct {
            return match String::read(&node.value) {
                Ok(text) => Some((Secret::new(text), node.origin.clone())),
                Err(message) => {
                    self.refuse(key, message);
                    None
                }
            };
        }
        let path = self.path(file_key)?;
        let origin = file?.origin.clone();
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => {
                self.refuse(file_key, format!("{} is empty", path.display()));
                None
            }
            Ok(text) => Some((Secret::new(text.trim().to_owned()), origin)),
            Err(error) => {
                self.refuse(file_key, format!("cannot read {}: {error}", path.display()));
                None
            }
        }
    }

    /// A path, resolved from where it is written.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let node = self.node(key)?;
        match String::read(&node.value) {
            Ok(text) if text.is_empty() => {
                self.refuse(key, "names no file".into());
                None
            }
            Ok(text) => {
                let path = self.resolve(&node.origin, &text);
                self.row(key, path.to_string_lossy().into(), node.origin.clone());
                Some(path)
            }
            Err(message) => {
                self.refuse(key, message);
                None
            }
        }
    }

    pub(super) fn resolve(&self, origin: &Origin, path: &str) -> PathBuf {
        let base = origin.base(&self.report.current_dir);
        // `join` keeps `./`, which only clutters what people read.
        base.join(path.strip_prefix("./").unwrap_or(path))
    }

    /// An argv; a program named by a relative path with a slash is resolved from where it is written.
    pub(super) fn command(&mut self, key: &'static str) -> Option<Vec<String>> {
        let Some(node) = self.node(key) else {
            self.refuse(key, "is missing: write one like [\"./thumb.sh\", \"--fast\"]".into());
            return None;
        };
        let read = match node.value.text() {
            Some(_) => {
                Err("is a list, since no shell reads it: write one like [\"./thumb.sh\", \"--fast\"]".into())
            }
            None => Vec::<String>::read(&node.value),
        };
        let mut command = match read {
            Ok(command) => command,
            Err(message) => {
                self.refuse(key, message);
                return None;
            }
        };
        match command.first_mut() {
            Some(program) if !program.is_empty() => {
                if program.contains('/') {
                    *program = self.resolve(&node.origin, program).to_string_lossy().into_owned();
                }
            }
            Some(_) | None => {
                self.refuse(key, "names no program: write one like [\"./thumb.sh\", \"--fast\"]".into());
                return None;
            }
        }
        self.row(key, command.show(), node.origin.clone());
        Some(command)
    }

    /// Notes what counts for `key`, for `config show`.
    pub(super) fn row(&self, key: &str, value: Json, origin: Origin) {
        let effective = Effective { key: dotted(&self.path, key), value, origin };
        self.report.rows.borrow_mut().push(Row { effective, pattern: dotted(&self.pattern, key) });
    }

    /// Refuses what `key` says, or that it is missing.
    pub(super) fn refuse(&mut self, key: &str, message: String) {
        self.sound = false;
        let node = self.table.and_then(|table| table.get(key));
        let origin = node.map_or_else(|| self.origin.clone(), |node| node.origin.clone());
        self.note(&origin, &dotted(&self.path, key), message);
    }

    /// Refuses a combination, unless one of its parts is refused already.
    pub(super) fn demand(&mut self, holds: bool, key: &str, message: impl fmt::Display) {
        if !holds && self.sound {
            self.refuse(key, message.to_string());
        }
    }

    pub(super) fn is_sound(&self) -> bool {
        self.sound
    }

    fn note(&self, origin: &Origin, key: &str, message: String) {
        let problem = Problem { origin: origin.clone(), key: key.to_owned(), message };
        self.report.problems.borrow_mut().push(problem);
    }

    /// Refuses every key that nothing has asked for.
    pub(super) fn finish(mut self) {
        let Some(table) = self.table else { return };
        self.known.sort_unstable();
        self.known.dedup();
        for (key, node) in table {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            let message = match nearest(key, self.known.iter().copied()) {
                Some(name) => format!("unknown key; did you mean \"{name}\"?"),
                None if self.known.is_empty() => "unknown key".into(),
                None => format!("unknown key; known here: {}", self.known.join(", ")),
            };
            self.note(&node.origin, &dotted(&self.path, key), message);
        }
    }
}

/// A value in a sentence.
fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
