//! What settings may say already though nothing serves it yet.

use std::fmt;

use serde_json::Value as Json;

use super::origin::Origin;
use super::section::Row;

/// Keys, `*` for a name or place in a list, with the one value that is meant if there is one.
/// A key leaves this list in the change that serves it.
const UNSERVED: [(&str, Option<&str>); 17] = [
    ("pools.*.handler.type", Some("http")),
    ("pools.*.handler.type", Some("amqp")),
    ("pools.*.handler.type", Some("redis")),
    ("pools.*.handler.type", Some("tcp")),
    ("pools.*.demand.type", None),
    ("pools.*.liveness", None),
    ("pools.*.stall_after", None),
    ("pools.*.stop_signal", None),
    ("queues.*.rate_limit", None),
    ("queues.*.max_running", None),
    ("queues.*.max_running_per_key", None),
    ("http.listen", None),
    ("http.tokens.*.name", None),
    ("amqp.url", None),
    ("schedules.*.name", None),
    ("notify.*.on", None),
    ("transports.*", None),
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
    let unserved = set.filter(|row| {
        UNSERVED.iter().any(|(pattern, value)| {
            matches(pattern, &row.pattern) && value.is_none_or(|value| row.effective.value == value)
        })
    });
    unserved
        .map(|row| Later { key: row.effective.key.clone(), origin: row.effective.origin.clone() })
        .collect()
}

/// Whether a key has this pattern, or lies under a pattern that ends in `*`.
fn matches(pattern: &str, key: &str) -> bool {
    key == pattern || pattern.strip_suffix('*').is_some_and(|prefix| key.starts_with(prefix))
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
                "/etc/r/r.toml:4: pools.default.handler.type: is not served yet",
                "/etc/r/r.toml:2: queues.a.rate_limit: is not served yet",
                "/etc/r/r.toml:7: notify[0].on: is not served yet",
                "/etc/r/r.toml:9: transports.tcp.allow: is not served yet",
            ]
        );
    }
}
