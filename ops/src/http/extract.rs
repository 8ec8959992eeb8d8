//! What a call names in its path and its query, checked before anything is done; a slip is refused by its name.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use roundsman_shared::names::{JobId, QueueName};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::answer::{Refusal, Result, culprit};

/// A query may name these more than once.
const REPEATED: [&str; 1] = ["state"];

/// The queue of the path.
#[derive(Debug)]
pub(super) struct InQueue(pub(super) QueueName);

/// The job of the path.
#[derive(Debug)]
pub(super) struct OneJob {
    pub(super) queue: QueueName,
    pub(super) id: JobId,
}

/// The query. Of a parameter that may be repeated the values come as an array.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

async fn part<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String> {
    let raw = RawPathParams::from_request_parts(parts, state).await;
    let raw = raw.map_err(|error| Refusal::bad("path", error.to_string()))?;
    let found = raw.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    found.ok_or_else(|| Refusal::bad(name, "is not named"))
}

impl<S: Send + Sync> FromRequestParts<S> for InQueue {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        Ok(Self(QueueName::new(&part(parts, state, "queue").await?)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OneJob {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let InQueue(queue) = InQueue::from_request_parts(parts, state).await?;
        let id = part(parts, state, "id").await?;
        let id = JobId::new(&id).map_err(|error| Refusal::bad("id", error.to_string()))?;
        Ok(Self { queue, id })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self> {
        read(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn read<T: DeserializeOwned>(query: &str) -> Result<T> {
    let mut fields = Map::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let value = Value::String(value.into_owned());
        if REPEATED.contains(&&*name) {
            let all = fields.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(all) = all {
                all.push(value);
            }
        } else if fields.insert(name.to_string(), value).is_some() {
            return Err(Refusal::bad(&name, "is given twice"));
        }
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| {
        let text = error.to_string();
        let reason = text.replacen("unknown field", "unknown parameter", 1);
        Refusal::bad(culprit(&text).unwrap_or("query"), reason)
    })
}

/// A number of the query, within bounds.
pub(super) fn number(name: &str, text: Option<&str>, default: usize, most: usize) -> Result<usize> {
    let Some(text) = text else { return Ok(default) };
    let right = text.parse().ok().filter(|number| (1..=most).contains(number));
    right.ok_or_else(|| Refusal::bad(name, format!("{text:?} is no number from 1 to {most}")))
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Eq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Wanted {
        state: Vec<String>,
        kind: Option<String>,
    }

    #[test]
    fn a_query_is_read_or_refused_by_name() {
        let wanted = read::<Wanted>("state=done&kind=a%20b&state=dead").unwrap();
        assert_eq!(wanted.state, ["done", "dead"]);
        assert_eq!(wanted.kind.as_deref(), Some("a b"));
        assert_eq!(read::<Wanted>("").unwrap(), Wanted::default());
        for (query, line) in [
            ("colour=red", "colour: unknown parameter `colour`, expected `state` or `kind`"),
            ("kind=a&kind=b", "kind: is given twice"),
        ] {
            let refusal = read::<Wanted>(query).unwrap_err();
            assert_eq!((refusal.status, refusal.line().as_str()), (StatusCode::BAD_REQUEST, line));
        }
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(number("limit", None, 50, 1000).unwrap(), 50);
        assert_eq!(number("limit", Some("7"), 50, 1000).unwrap(), 7);
        for text in ["0", "1001", "-1", "x", ""] {
            assert!(number("limit", Some(text), 50, 1000).is_err(), "{text}");
        }
    }
}
