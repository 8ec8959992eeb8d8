//! The layers, weakest first, and how one is laid over another.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::environment;
use super::load::LoadInput;
use super::origin::{Origin, Problem};
use super::tree::{self, Node, Table, Value};

/// What a flag says about one key. It travels to the master, which loads the same settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// As people know it: `--store`.
    pub flag: String,
    /// The key, a part each.
    pub path: Vec<String>,
    /// What it is set to.
    pub value: OverrideValue,
}

/// The value of an [`Override`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverrideValue {
    /// As on the command line: it becomes the type that the key wants.
    Text(String),
    /// A list of strings, such as an argv.
    List(Vec<String>),
    /// A table, which takes the place of a weaker one if it has a `type`.
    Table(Vec<(String, Self)>),
}

impl Override {
    /// Sets the dotted `key` (whose parts have no dots of their own) by `flag`.
    pub fn text(flag: &str, key: &str, value: impl Into<String>) -> Self {
        let path = key.split('.').map(str::to_owned).collect();
        Self { flag: flag.into(), path, value: OverrideValue::Text(value.into()) }
    }

    /// What `up -- CMD ARGS…` says: the handler of the default pool is that command.
    #[must_use]
    pub fn handler_command(command: Vec<String>) -> Self {
        let handler = vec![
            ("type".to_owned(), OverrideValue::Text("exec".into())),
            ("command".to_owned(), OverrideValue::List(command)),
        ];
        let path = ["pools", "default", "handler"].map(str::to_owned).to_vec();
        Self { flag: "-- CMD".into(), path, value: OverrideValue::Table(handler) }
    }

    fn node(&self) -> Node {
        let origin = Origin::Flag(self.flag.clone());
        match &self.value {
            // Only here may a text be a list or table as TOML writes it.
            OverrideValue::Text(text) => tree::parse_text(text, &origin),
            value => value.node(&origin),
        }
    }
}

impl OverrideValue {
    fn node(&self, origin: &Origin) -> Node {
        let text = |text: &String| Node { value: Value::Text(text.clone()), origin: origin.clone() };
        let value = match self {
            Self::Text(value) => return text(value),
            Self::List(items) => Value::List(items.iter().map(text).collect()),
            Self::Table(entries) => {
                Value::Table(entries.iter().map(|(key, value)| (key.clone(), value.node(origin))).collect())
            }
        };
        Node { value, origin: origin.clone() }
    }
}

/// The longest settings file; all of them travel in one line to the master.
const MAX_FILE: usize = 128 * 1024;

/// The settings files as they were at one moment, weakest first. They travel to the master, so that one that is started
/// later serves what is in force, whatever the files say by then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files(Vec<(PathBuf, String)>);

impl Files {
    /// Those that there are; with what is wrong with the others.
    pub(super) fn read(input: &LoadInput) -> (Self, Vec<Problem>) {
        let mut files = Self::default();
        let mut problems = Vec::new();
        let asked = asked_file(input);
        let local = PathBuf::from("roundsman.toml");
        let usual = [Some(input.system_file.clone()), input.environment.user_config_file(), Some(local)];
        let usual = usual.into_iter().flatten().filter(|path| {
            // A usual file that is also asked for counts as that, and is read once.
            !input.alone && !asked.as_ref().is_some_and(|(asked, _)| is_same_file(input, asked, path))
        });
        let asked = asked.iter().map(|(path, origin)| (path.clone(), Some(origin)));
        for (path, origin) in usual.map(|path| (path, None)).chain(asked) {
            match read_file(input, &path, origin) {
                Ok(text) => files.0.extend(text.map(|text| (path, text))),
                Err(problem) => problems.push(problem),
            }
        }
        (files, problems)
    }
}

/// All layers in one tree. A layer that cannot be read is a problem and counts as empty.
pub(super) fn collect(input: &LoadInput) -> (Table, Vec<Problem>) {
    let mut merged = Table::new();
    let (files, mut problems) =
        input.files.clone().map_or_else(|| Files::read(input), |files| (files, Vec::new()));
    let mut lay = |read: Result<Table, Problem>| match read {
        Ok(layer) => merge(&mut merged, layer, &mut Vec::new()),
        Err(problem) => problems.push(problem),
    };
    for (path, text) in &files.0 {
        lay(tree::parse_file(path, text));
    }

    let (variables, wrong) = if input.alone { Default::default() } else { input.environment.settings() };
    lay(Ok(variables));
    let mut flags = Table::new();
    let mut wrong_flags = Vec::new();
    for flag in &input.overrides {
        // The command line's order decides between two flags for one key.
        let mut one = Table::new();
        match tree::insert(&mut one, &flag.path, flag.node()) {
            Ok(()) => merge(&mut flags, one, &mut Vec::new()),
            Err(message) => wrong_flags.push(Problem {
                origin: Origin::Flag(flag.flag.clone()),
                key: flag.path.join("."),
                message,
            }),
        }
    }
    lay(Ok(flags));
    problems.extend(wrong);
    problems.extend(wrong_flags);

    for (variable, section) in [("REDIS_URL", "store"), ("AMQP_URL", "amqp")] {
        if let Some(url) = input.environment.filled(variable)
            && !input.alone
        {
            fill_url(&mut merged, section, variable, url);
        }
    }
    (merged, problems)
}

/// The file that `--config` or its variable names; the flag is stronger.
fn asked_file(input: &LoadInput) -> Option<(PathBuf, Origin)> {
    let by_flag = input.config.clone().map(|path| (path, Origin::Flag("--config".into())));
    by_flag.or_else(|| {
        let path = input.environment.filled(environment::CONFIG)?;
        Some((path.into(), Origin::Variable(environment::CONFIG.into())))
    })
}

fn is_same_file(input: &LoadInput, one: &Path, other: &Path) -> bool {
    let resolved = |path: &Path| {
        let path = input.current_dir.join(path);
        path.canonicalize().unwrap_or(path)
    };
    resolved(one) == resolved(other)
}

/// A file's text; `None` when there is no such file and nobody asked for it.
fn read_file(input: &LoadInput, path: &Path, asked: Option<&Origin>) -> Result<Option<String>, Problem> {
    let place = Origin::File { path: path.to_path_buf(), line: 1 };
    let problem = |origin: Origin, message: String| Problem { origin, key: String::new(), message };
    let bytes = match std::fs::read(input.current_dir.join(path)) {
        Ok(bytes) => bytes,
        Err(error) => {
            let absent = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
            return match asked {
                Some(origin) => {
                    Err(problem(origin.clone(), format!("cannot read {}: {error}", path.display())))
                }
                None if absent => Ok(None),
                None => Err(problem(place, format!("cannot read this file: {error}"))),
            };
        }
    };
    if bytes.len() > MAX_FILE {
        return Err(problem(place, format!("is {} bytes long; {MAX_FILE} are allowed", bytes.len())));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(error) => Err(problem(place, format!("is not UTF-8: {}", error.utf8_error()))),
    }
}

/// Sets a section's URL by a bare variable if nothing else names one.
fn fill_url(merged: &mut Table, section: &str, variable: &str, url: &str) {
    if let Some(Node { value: Value::Table(table), .. }) = merged.get(section)
        && table.keys().any(|key| key == "url" || key == "url_file")
    {
        return;
    }
    let node = Node { value: Value::Text(url.to_owned()), origin: Origin::Variable(variable.to_owned()) };
    // A section that is no table is refused anyway when it is read.
    let _ = tree::insert(merged, &[section.to_owned(), "url".to_owned()], node);
}

/// Lays `over` onto `base`: tables key by key, anything else in place of what was there.
fn merge(base: &mut Table, over: Table, path: &mut Vec<String>) {
    for (key, node) in over {
        for rival in rivals(path, &key) {
            base.remove(&rival);
        }
        path.push(key.clone());
        match (base.get_mut(&key), node) {
            (Some(Node { value: Value::Table(under), .. }), Node { value: Value::Table(over), .. })
                if !is_whole(path, &over) =>
            {
                merge(under, over, path);
            }
            (_, node) => {
                base.insert(key, node);
            }
        }
        path.pop();
    }
}

/// Whether a table replaces a weaker one as a whole, since a mixture of both would be neither.
fn is_whole(path: &[String], over: &Table) -> bool {
    match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["pools", _, "queues"] => true,
        ["pools", _, "handler" | "demand"] | ["queues", _, "backoff"] => over.contains_key("type"),
        _ => false,
    }
}

/// The weaker keys that `key` displaces: it says the same in another way.
fn rivals(path: &[String], key: &str) -> Vec<String> {
    match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // Names that users choose.
        ["pools" | "queues"] | ["pools", _, "queues"] | ["pools", _, "handler", "env"] => Vec::new(),
        ["pools", _] if key == "handler" => vec!["command".into()],
        ["pools", _] if key == "command" => vec!["handler".into()],
        ["pools", _, "handler"] if key == "list" => vec!["stream".into()],
        ["pools", _, "handler"] if key == "stream" => vec!["list".into()],
        _ => vec![key.strip_suffix("_file").map_or_else(|| format!("{key}_file"), str::to_owned)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(layers: &[&str]) -> serde_json::Value {
        let mut base = Table::new();
        for layer in layers {
            let over = tree::parse_file(Path::new("a.toml"), layer).unwrap();
            merge(&mut base, over, &mut Vec::new());
        }
        Value::Table(base).to_json()
    }

    #[test]
    fn stronger_layers_win_key_by_key() {
        let exec = "handler = { type = \"exec\", command = [\"a\"] }";
        let cases: [(&[&str], serde_json::Value); 8] = [
            (
                &["[store]\nlease = \"5s\"\nnamespace = \"a\"", "[store]\nlease = \"9s\""],
                serde_json::json!({"store": {"lease": "9s", "namespace": "a"}}),
            ),
            (
                &["[store]\nurl = \"redis://a\"", "[store]\nurl_file = \"f\""],
                serde_json::json!({"store": {"url_file": "f"}}),
            ),
            (
                &["[store]\nurl_file = \"f\"", "[store]\nurl = \"redis://a\""],
                serde_json::json!({"store": {"url": "redis://a"}}),
            ),
            (
                &["[pools.a.queues]\nx = 1", "[pools.a.queues]\ny = 2"],
                serde_json::json!({"pools": {"a": {"queues": {"y": 2}}}}),
            ),
            (
                &["[queues.a]\nmax_crashes = 1", "[queues.b]\nmax_crashes = 2"],
                serde_json::json!({"queues": {"a": {"max_crashes": 1}, "b": {"max_crashes": 2}}}),
            ),
            (
                &[&format!("[pools.a]\n{exec}"), "[pools.a.handler]\ntype = \"stdout\""],
                serde_json::json!({"pools": {"a": {"handler": {"type": "stdout"}}}}),
            ),
            (
                &[&format!("[pools.a]\n{exec}"), "[pools.a.handler]\ncommand = [\"b\"]"],
                serde_json::json!({"pools": {"a": {"handler": {"type": "exec", "command": ["b"]}}}}),
            ),
            (
                &["[pools.a]\ncommand = [\"w\"]", "[pools.a.handler]\ntype = \"stdout\""],
                serde_json::json!({"pools": {"a": {"handler": {"type": "stdout"}}}}),
            ),
        ];
        for (layers, expected) in cases {
            assert_eq!(merged(layers), expected, "{layers:?}");
        }
    }
}
