//! `[amqp]`: the broker, and which of its queues are taken in.

use serde::{Deserialize, Serialize};

use super::address;
use super::secret::SecretUrl;
use super::section::Section;
use super::tree::Value;
use super::value::{Setting, check_name};

pub(super) const SCHEMES: [&str; 2] = ["amqp", "amqps"];

/// The broker and what is taken in from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpSettings {
    /// `amqp://` or `amqps://`; `None` turns it off.
    pub url: Option<SecretUrl>,
    /// `[[amqp.in]]`
    pub intakes: Vec<AmqpIntake>,
}

/// A queue of the broker whose messages become jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpIntake {
    /// The broker's queue.
    pub from: String,
    /// Ours.
    pub queue: String,
    /// Messages taken before they are stored, at most; default 1000.
    pub prefetch: u16,
    /// Where a message goes that cannot become a job.
    pub dead_letters: DeadLetters,
}

/// Where messages go that cannot become jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeadLetters {
    /// To the queue's dead letter exchange, if the queue itself names one; else as [`Self::Queue`]. One that a policy of
    /// the broker names cannot be seen from outside.
    #[default]
    Auto,
    /// They are rejected, for the broker to dead-letter. It drops them where it has no dead letter exchange for them.
    Broker,
    /// They become dead letters of our queue.
    Queue,
}

impl Setting for DeadLetters {
    fn read(value: &Value) -> Result<Self, String> {
        match String::read(value)?.as_str() {
            "auto" => Ok(Self::Auto),
            "broker" => Ok(Self::Broker),
            "queue" => Ok(Self::Queue),
            other => Err(format!("must be \"auto\", \"broker\" or \"queue\", not {other:?}")),
        }
    }

    fn show(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

impl AmqpSettings {
    pub(super) fn read(mut section: Section<'_>) -> Self {
        let url = address::url(&mut section, &SCHEMES);
        let mut intakes = Vec::new();
        for mut item in section.list("in") {
            // AMQP carries names as short strings.
            let fits = |name: &String| match name.len() {
                1..=255 => Ok(()),
                _ => Err("must have 1 to 255 bytes".to_owned()),
            };
            let from = item.required("from", "\"jobs\"", fits);
            let queue = item.checked("queue", "default".to_owned(), |name| check_name(name));
            let prefetch = item.within("prefetch", 1000, 1..=u16::MAX);
            let dead_letters = item.get("dead_letters", DeadLetters::Auto);
            intakes.extend(from.map(|from| AmqpIntake { from, queue, prefetch, dead_letters }));
            item.finish();
        }
        section.demand(url.is_some() || intakes.is_empty(), "in", "needs amqp.url: the broker to take from");
        section.finish();
        Self { url, intakes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::load::tests::{problems, settings};

    #[test]
    fn intakes_are_read() {
        let amqp =
            settings("[amqp]\nurl = \"amqp://u:p@a/%2f\"\n[[amqp.in]]\nfrom = \"jobs\"\nqueue = \"mail\"")
                .amqp;
        assert_eq!(amqp.url.unwrap().to_string(), "amqp://u:***@a/%2f");
        assert_eq!((amqp.intakes[0].from.as_str(), amqp.intakes[0].queue.as_str()), ("jobs", "mail"));
        assert_eq!((amqp.intakes[0].prefetch, amqp.intakes[0].dead_letters), (1000, DeadLetters::Auto));
        assert_eq!(settings("[amqp]\nurl = \"\"").amqp.url, None);
    }

    #[test]
    fn bad_values_are_refused() {
        let url = "[amqp]\nurl = \"amqp://a\"\n";
        for (text, message) in [
            (
                "[amqp]\nurl = \"http://a\"".to_owned(),
                "2: amqp.url: has the unknown scheme \"http\": it begins with amqp://, amqps://",
            ),
            ("[[amqp.in]]\nfrom = \"jobs\"".into(), "1: amqp.in: needs amqp.url: the broker to take from"),
            (format!("{url}[[amqp.in]]"), "3: amqp.in[0].from: is missing: write one like \"jobs\""),
            (
                format!("{url}[[amqp.in]]\nfrom = \"a\"\nprefetch = 0"),
                "5: amqp.in[0].prefetch: must be between 1 and 65535, not 0",
            ),
            (
                format!("{url}[[amqp.in]]\nfrom = \"a\"\ndead_letters = \"drop\""),
                "5: amqp.in[0].dead_letters: must be \"auto\", \"broker\" or \"queue\", not \"drop\"",
            ),
            (format!("{url}in = 5"), "3: amqp.in: expected a list of tables, found an integer"),
        ] {
            assert_eq!(problems(&text), [format!("/etc/r/r.toml:{message}")]);
        }
    }
}
