//! From a raw value to a checked one, and back to what `config show` prints.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;

use super::tree::{Node, Value};
use super::units::{self, Rate};

/// A type that a key can have.
pub(super) trait Setting: Sized {
    /// The message of an error says what would be right, without the key.
    fn read(value: &Value) -> Result<Self, String>;
    /// As it could stand in a file.
    fn show(&self) -> Json;
}

fn wanted<T>(what: &str, found: &Value) -> Result<T, String> {
    match found {
        Value::Text(text) => Err(format!("expected {what}, found \"{text}\"")),
        Value::String(_)
        | Value::Integer(_)
        | Value::Float(_)
        | Value::Bool(_)
        | Value::Datetime(_)
        | Value::List(_)
        | Value::Table(_) => Err(format!("expected {what}, found {}", found.kind())),
    }
}

impl Setting for String {
    fn read(value: &Value) -> Result<Self, String> {
        match value.text() {
            Some(text) if text.contains('\0') => Err("has a NUL character in it".into()),
            Some(text) => Ok(text.to_owned()),
            None => wanted("a string", value),
        }
    }

    fn show(&self) -> Json {
        self.as_str().into()
    }
}

impl Setting for bool {
    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(flag) => Ok(*flag),
            Value::Text(text) if text == "true" => Ok(true),
            Value::Text(text) if text == "false" => Ok(false),
            _ => wanted("true or false", value),
        }
    }

    fn show(&self) -> Json {
        (*self).into()
    }
}

macro_rules! whole_number {
    ($($number:ty),*) => {$(
        impl Setting for $number {
            fn read(value: &Value) -> Result<Self, String> {
                let number = match value {
                    Value::Integer(number) => *number,
                    Value::Text(text) => match text.trim().replace('_', "").parse() {
                        Ok(number) => number,
                        Err(_) => return wanted("a whole number", value),
                    },
                    _ => return wanted("a whole number", value),
                };
                Self::try_from(number).map_err(|_| format!("must be between 0 and {}", Self::MAX))
            }

            fn show(&self) -> Json {
                (*self).into()
            }
        }
    )*};
}
whole_number!(u8, u16, u32, u64);

impl Setting for Duration {
    fn read(value: &Value) -> Result<Self, String> {
        let read = |text: &str| units::parse_duration(text).map_err(|error| error.to_string());
        match value {
            Value::String(text) | Value::Text(text) => read(text),
            Value::Integer(number) => read(&number.to_string()),
            _ => wanted("a duration like \"5s\"", value),
        }
    }

    fn show(&self) -> Json {
        units::format_duration(*self).into()
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(pub(super) u64);

impl Setting for Size {
    fn read(value: &Value) -> Result<Self, String> {
        let read = |text: &str| units::parse_size(text).map(Size).map_err(|error| error.to_string());
        match value {
            Value::String(text) | Value::Text(text) => read(text),
            Value::Integer(number) => read(&number.to_string()),
            _ => wanted("a size like \"512MiB\"", value),
        }
    }

    fn show(&self) -> Json {
        units::format_size(self.0).into()
    }
}

impl Setting for Rate {
    fn read(value: &Value) -> Result<Self, String> {
        match value.text() {
            Some(text) => text.parse().map_err(|error: units::UnitError| error.to_string()),
            None => wanted("a rate like \"100/s\"", value),
        }
    }

    fn show(&self) -> Json {
        self.to_string().into()
    }
}

impl Setting for Vec<String> {
    fn read(value: &Value) -> Result<Self, String> {
        let Value::List(items) = value else {
            return wanted("a list like [\"one\", \"two\"]", value);
        };
        items.iter().map(|item| String::read(&item.value)).collect()
    }

    fn show(&self) -> Json {
        self.clone().into()
    }
}

/// A table of variables; numbers and booleans are taken as they are written.
impl Setting for BTreeMap<String, String> {
    fn read(value: &Value) -> Result<Self, String> {
        let Value::Table(table) = value else {
            return wanted("a table like { NAME = \"value\" }", value);
        };
        let entry = |(name, node): (&String, &Node)| {
            let text = match &node.value {
                Value::Integer(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                other => String::read(other).map_err(|message| format!("{name}: {message}"))?,
            };
            Ok((name.clone(), text))
        };
        table.iter().map(entry).collect()
    }

    fn show(&self) -> Json {
        self.iter().map(|(name, value)| (name.clone(), Json::from(value.as_str()))).collect()
    }
}

/// A limit that its zero turns off: `0`, or `""` for what is written as text.
impl<T: Setting + Zero> Setting for Option<T> {
    fn read(value: &Value) -> Result<Self, String> {
        if T::ZERO.is_empty() && value.text() == Some("") {
            return Ok(None);
        }
        let read = T::read(value)?;
        Ok(if read.is_zero() { None } else { Some(read) })
    }

    fn show(&self) -> Json {
        match self {
            Some(value) => value.show(),
            None if T::ZERO.is_empty() => "".into(),
            None => 0.into(),
        }
    }
}

pub(super) trait Zero {
    /// How "no limit" is written: `0`, or empty for the empty string.
    const ZERO: &'static str;
    fn is_zero(&self) -> bool;
}

macro_rules! zero {
    ($($type:ty: $zero:literal, $test:expr;)*) => {$(
        impl Zero for $type {
            const ZERO: &'static str = $zero;
            fn is_zero(&self) -> bool {
                let test: fn(&Self) -> bool = $test;
                test(self)
            }
        }
    )*};
}
zero! {
    u32: "0", |number| *number == 0;
    u64: "0", |number| *number == 0;
    Size: "0", |size| size.0 == 0;
    Rate: "", |_| false;
}

/// What names of queues, pools, namespaces and schedules are made of.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let right = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(right) {
        return Ok(());
    }
    Err(format!("{name:?} is no right name: 1 to 64 characters of A-Z a-z 0-9 . _ -"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    fn string(text: &str) -> Value {
        Value::String(text.into())
    }

    #[test]
    fn text_becomes_what_the_key_wants() {
        assert_eq!(u32::read(&text("10_000")), Ok(10_000));
        assert_eq!(bool::read(&text("true")), Ok(true));
        assert_eq!(Duration::read(&text("5s")), Ok(Duration::from_secs(5)));
        assert_eq!(Size::read(&text("1KiB")), Ok(Size(1024)));
        assert_eq!(Option::<u32>::read(&text("0")), Ok(None));
        assert_eq!(Option::<Rate>::read(&text("")), Ok(None));
        assert_eq!(String::read(&text("5")), Ok("5".into()));
    }

    #[test]
    fn the_wrong_type_is_refused() {
        for (found, message) in [
            (u32::read(&string("4")).map(|_| ()), "expected a whole number, found a string"),
            (u32::read(&text("four")).map(|_| ()), "expected a whole number, found \"four\""),
            (u8::read(&Value::Integer(256)).map(|_| ()), "must be between 0 and 255"),
            (u32::read(&Value::Integer(-1)).map(|_| ()), "must be between 0 and 4294967295"),
            (bool::read(&Value::Integer(1)).map(|_| ()), "expected true or false, found an integer"),
            (String::read(&Value::Bool(true)).map(|_| ()), "expected a string, found a boolean"),
            (Duration::read(&Value::Integer(5)).map(|_| ()), "\"5\" has no unit: write \"5s\" or \"5ms\""),
            (
                Duration::read(&Value::Float(1.5)).map(|_| ()),
                "expected a duration like \"5s\", found a decimal number",
            ),
            (Size::read(&Value::Bool(true)).map(|_| ()), "expected a size like \"512MiB\", found a boolean"),
            (Rate::read(&Value::Integer(5)).map(|_| ()), "expected a rate like \"100/s\", found an integer"),
            (
                Vec::<String>::read(&text("a")).map(|_| ()),
                "expected a list like [\"one\", \"two\"], found \"a\"",
            ),
        ] {
            assert_eq!(found, Err(message.to_owned()));
        }
    }

    #[test]
    fn names_have_an_alphabet() {
        assert_eq!(check_name("A.b_c-9"), Ok(()));
        for name in ["", "a b", "é", "a/b", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
