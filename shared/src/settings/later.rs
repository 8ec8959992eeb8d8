//! What settings may say already though nothing serves it yet.

use std::fmt;

use serde_json::Value as Json;

use super::origin::Origin;
use super::section::Row;

/// Keys, `*` for a name or place in a list.
/// A key leaves this list in the change that serves it.
const UNSERVED: [&str; 7] = [
    "queues.*.rate_limit",
    "queues.*.max_running",
    "queues.*.max_running_per_key",
    "http.listen",
    "http.tokens.*.name",
    "schedules.*.name",
    "notify.*.on",
];

/// A key that is set and checked, but not served yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Later {
    /// Dotted.
    pub key: String,
    /// What set it.
    pub origin: Origin,
}

impl fmt::Display for Later {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}: is not served yet", self.origin, self.key)
    }
}

/// Those of the rows that someone set, to something else than "off", and that nothing serves yet.
pub(super) fn unserved(rows: &[Row]) -> Vec<Later> {
    let set =
        rows.iter().filter(|row| row.effective.origin != Origin::Default && !is_off(&row.effective.value));
    let unserved = set.filter(|row| UNSERVED.contains(&row.pattern.as_str()));
    unserved
        .map(|row| Later { key: row.effective.key.clone(), origin: row.effective.origin.clone() })
        .collect()
}

fn is_off(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Bool(flag) => !flag,
        Json::Number(number) => number.as_f64() == Some(0.0),
        Json::String(text) => text.is_empty(),
        Json::Array(items) => items.is_empty(),
        Json::Object(entries) => entries.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::load::tests::loaded;

    fn later(text: &str) -> Vec<String> {
        loaded(text).settings.later.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_is_set_counts() {
        assert!(later("").is_empty());
        assert!(later("[queues.a]\nrate_limit = \"\"\nmax_running = 0\n[amqp]\nurl = \"\"\n").is_empty());
        assert!(later("[pools.default]\nhandler = { type = \"exec\", command = [\"a\"] }").is_empty());
        let text = "[queues.a]\nrate_limit = \"5/s\"\n[pools.default]\nhandler = { type = \"tcp\", address = \"a:1\" }\n\
                    [[notify]]\ncommand = [\"a\"]\non = [\"host-lost\"]\n[transports.tcp]\nallow = [\"*\"]";
        assert_eq!(
            later(text),
            [
                "/etc/r/r.toml:2: queues.a.rate_limit: is not served yet",
                "/etc/r/r.toml:7: notify[0].on: is not served yet",
            ]
        );
    }
}
