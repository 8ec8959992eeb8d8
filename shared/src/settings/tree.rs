//! The raw settings: a tree of values, each of which knows where it was written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::origin::{Origin, Problem, dotted};

pub(super) type Table = BTreeMap<String, Node>;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A string that TOML says is one.
    String(String),
    /// What a variable, a flag or a command line says: it becomes the type that its key wants.
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    Datetime(String),
    List(Vec<Node>),
    Table(Table),
}

impl Value {
    /// With its article, for "expected …, found …".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::String(_) | Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a decimal number",
            Self::Bool(_) => "a boolean",
            Self::Datetime(_) => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::String(text) | Self::Text(text) => Some(text),
            Self::Integer(_)
            | Self::Float(_)
            | Self::Bool(_)
            | Self::Datetime(_)
            | Self::List(_)
            | Self::Table(_) => None,
        }
    }

    /// As JSON has it; a date becomes a string, a number that JSON lacks null.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::String(text) | Self::Text(text) | Self::Datetime(text) => text.clone().into(),
            Self::Integer(number) => (*number).into(),
            Self::Float(number) => (*number).into(),
            Self::Bool(flag) => (*flag).into(),
            Self::List(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Self::Table(table) => {
                let entries = table.iter().map(|(key, node)| (key.clone(), node.value.to_json()));
                serde_json::Value::Object(entries.collect())
            }
        }
    }
}

/// Reads a file's text; `path` is only its name. Of broken TOML the first fault is told.
pub(super) fn parse_file(path: &Path, text: &str) -> Result<Table, Problem> {
    let at = |span: &Range<usize>| {
        let before = text.as_bytes().get(..span.start).unwrap_or(text.as_bytes());
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Origin::File { path: path.to_path_buf(), line }
    };
    match DeTable::parse(text) {
        Ok(table) => convert_table(table.get_ref(), "", &at),
        Err(error) => {
            let origin = at(&error.span().unwrap_or(0..0));
            Err(Problem { origin, key: String::new(), message: error.message().to_owned() })
        }
    }
}

/// Reads what a variable or flag says: a list or inline table when it is one, and plain text otherwise.
pub(super) fn parse_text(text: &str, origin: &Origin) -> Node {
    let trimmed = text.trim();
    if trimmed.starts_with(['[', '{'])
        && let Ok(value) = DeValue::parse(trimmed)
        && let Ok(node) = convert(&value, origin.clone(), "", &|_| origin.clone())
    {
        return node;
    }
    Node { value: Value::Text(text.to_owned()), origin: origin.clone() }
}

type Locate<'a> = &'a dyn Fn(&Range<usize>) -> Origin;

fn convert_table(table: &DeTable<'_>, path: &str, at: Locate<'_>) -> Result<Table, Problem> {
    let mut nodes = Table::new();
    for (key, value) in table {
        let name: &str = key.get_ref();
        let node = convert(value, at(&key.span()), &dotted(path, name), at)?;
        nodes.insert(name.to_owned(), node);
    }
    Ok(nodes)
}

fn convert(
    value: &Spanned<DeValue<'_>>,
    origin: Origin,
    path: &str,
    at: Locate<'_>,
) -> Result<Node, Problem> {
    let refuse = |message: &str| {
        Err(Problem { origin: origin.clone(), key: path.to_owned(), message: message.to_owned() })
    };
    let value = match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => return refuse("the number is too large"),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => return refuse("the number is too large"),
        },
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Datetime(date) => Value::Datetime(date.to_string()),
        DeValue::Array(items) => {
            let items = items.iter().enumerate();
            let nodes =
                items.map(|(index, item)| convert(item, at(&item.span()), &format!("{path}[{index}]"), at));
            Value::List(nodes.collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => Value::Table(convert_table(table, path, at)?),
    };
    Ok(Node { value, origin })
}

/// Puts `node` at `path`, making the tables on the way.
///
/// A value where a table would have to be is a conflict; so is a second value for one key.
pub(super) fn insert(table: &mut Table, path: &[String], node: Node) -> Result<(), String> {
    let Some((key, rest)) = path.split_first() else {
        return Err("no key is named".into());
    };
    let Some(existing) = table.get_mut(key) else {
        let origin = node.origin.clone();
        let nested = rest.iter().rev().fold(node, |inner, key| Node {
            value: Value::Table(Table::from([(key.clone(), inner)])),
            origin: origin.clone(),
        });
        table.insert(key.clone(), nested);
        return Ok(());
    };
    match &mut existing.value {
        Value::Table(inner) if !rest.is_empty() => insert(inner, rest, node),
        Value::String(_)
        | Value::Text(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Bool(_)
        | Value::Datetime(_)
        | Value::List(_)
        | Value::Table(_) => Err(format!("contradicts {}, which says the same key", existing.origin)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Table, String> {
        parse_file(Path::new("a.toml"), text).map_err(|problem| problem.to_string())
    }

    #[test]
    fn each_value_knows_its_line() {
        let table =
            file("[store]\nlease = \"5s\"\n\n[[schedules]]\nname = \"n\"\npayload = [\n 1,\n 2]\n").unwrap();
        let Value::Table(store) = &table["store"].value else { panic!("no table") };
        assert_eq!(table["store"].origin.to_string(), "a.toml:1");
        assert_eq!(store["lease"].origin.to_string(), "a.toml:2");
        let Value::List(schedules) = &table["schedules"].value else { panic!("no list") };
        let Value::Table(schedule) = &schedules[0].value else { panic!("no table") };
        assert_eq!(schedule["payload"].origin.to_string(), "a.toml:6");
        let Value::List(items) = &schedule["payload"].value else { panic!("no list") };
        assert_eq!(items[1].origin.to_string(), "a.toml:8");
    }

    #[test]
    fn broken_toml_is_told_with_its_line() {
        for (text, message) in [
            ("[store]\nlease = \n", "a.toml:2: string values must be quoted, expected literal string"),
            ("[store\n", "a.toml:1: unclosed table, expected `]`"),
            ("\n[a]\nb = 1\nb = 2", "a.toml:4: duplicate key"),
            ("[a]\nb = 99999999999999999999", "a.toml:2: a.b: the number is too large"),
        ] {
            assert_eq!(file(text).unwrap_err(), message);
        }
    }

    #[test]
    fn text_becomes_a_list_or_table_only_when_it_is_one() {
        let origin = Origin::Variable("V".into());
        let value = |text: &str| parse_text(text, &origin).value;
        assert_eq!(value("[::1]:7070"), Value::Text("[::1]:7070".into()));
        assert_eq!(
            value("[1]"),
            Value::List(vec![Node { value: Value::Integer(1), origin: origin.clone() }])
        );
        assert!(matches!(value(" { a = \"b\" }"), Value::Table(_)));
        assert_eq!(value("5s"), Value::Text("5s".into()));
    }

    #[test]
    fn inserting_makes_tables_and_refuses_contradictions() {
        let node =
            |name: &str| Node { value: Value::Text("v".into()), origin: Origin::Variable(name.into()) };
        let path = |dotted: &str| dotted.split('.').map(str::to_owned).collect::<Vec<_>>();
        let mut table = Table::new();
        assert_eq!(insert(&mut table, &path("a.b.c"), node("ONE")), Ok(()));
        assert_eq!(insert(&mut table, &path("a.b.d"), node("TWO")), Ok(()));
        let same = Err("contradicts ONE, which says the same key".to_owned());
        assert_eq!(insert(&mut table, &path("a.b.c"), node("THREE")), same);
        assert_eq!(insert(&mut table, &path("a.b.c.e"), node("THREE")), same);
    }
}
