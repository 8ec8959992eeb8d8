//! What a producer says of a job, as JSON, on every way in: checked here once, refused with the field named.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::clock::{StoreTime, Wall};
use crate::job::record;
use crate::names::JobId;
use crate::settings::units;

/// Payloads nest at most so deep.
pub const MAX_DEPTH: usize = 64;
/// A due time further ahead than this is taken for a mistake.
pub const MAX_AHEAD: Duration = Duration::from_secs(10 * 366 * 86_400);
pub const MAX_PRIORITY: i16 = 255;
const MAX_LABEL: usize = 256;
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// When a job falls due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Due {
    /// As soon as it is stored.
    Now,
    /// So long after it is stored, by the store's clock.
    In(Duration),
    /// At this moment of the store's clock.
    At(StoreTime),
}

/// A job that may be stored: every limit has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    pub id: JobId,
    pub due: Due,
    pub priority: i16,
    /// Refused by the store when it has already passed.
    pub expires: Option<StoreTime>,
    /// The job as given, in the form that the store keeps; see [`record`].
    pub content: String,
}

/// Where the result of a job is to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplyTo {
    pub transport: String,
    pub uri: String,
}

/// A moment as producers write it: Unix milliseconds or RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct When(i64);

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = When;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a time: Unix milliseconds or RFC 3339")
            }
            fn visit_i64<E>(self, millis: i64) -> Result<When, E> {
                Ok(When(millis))
            }
            fn visit_u64<E: serde::de::Error>(self, millis: u64) -> Result<When, E> {
                i64::try_from(millis).map(When).map_err(E::custom)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<When, E> {
                units::parse_time_ms(text).map(When).map_err(E::custom)
            }
        }
        from.deserialize_any(Visitor)
    }
}

/// The job as it arrives. Unknown fields are refused, not ignored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a job: an object with at least \"payload\"")]
struct RawJob {
    id: Option<String>,
    kind: Option<String>,
    payload: Box<RawValue>,
    r#in: Option<String>,
    due: Option<When>,
    priority: Option<i64>,
    key: Option<String>,
    unique: Option<String>,
    timeout: Option<String>,
    max_attempts: Option<i64>,
    expires: Option<When>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    reply_to: Option<ReplyTo>,
}

/// Why a job was refused. `field` names the culprit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("not a job: {0}")]
    Json(String),
    #[error("{field}: {reason}")]
    Field { field: &'static str, reason: String },
    #[error("payload: {size} bytes are over the limit of {limit} of this queue (max_payload)")]
    PayloadTooLong { size: usize, limit: usize },
}

impl SpecError {
    fn field(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Field { field, reason: reason.into() }
    }
}

/// What a way in knows beside the job's own text.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_payload: usize,
    /// To tell an absurd due time; the producer's clock does.
    pub now: Wall,
}

/// Parses one job from its JSON text.
///
/// # Errors
/// When the text is no JSON object of a job, or a field is out of bounds.
pub fn parse(text: &str, limits: &Limits) -> Result<NewJob, SpecError> {
    parse_named(text, None, limits)
}

/// As [`parse`], with the id that the way in was told beside the text.
///
/// # Errors
/// As [`parse`]; and when the text names another id.
pub fn parse_named(text: &str, id: Option<&JobId>, limits: &Limits) -> Result<NewJob, SpecError> {
    let mut raw: RawJob = serde_json::from_str(text).map_err(|error| SpecError::Json(error.to_string()))?;
    if let Some(id) = id {
        let named = raw.id.get_or_insert_with(|| id.to_string());
        if named != id.as_str() {
            return Err(SpecError::field(
                "id",
                format!("is {named:?}, but the call names {:?}", id.as_str()),
            ));
        }
    }
    let payload = compact(raw.payload.get())?;
    let fields = Fields {
        id: raw.id,
        kind: raw.kind,
        r#in: raw
            .r#in
            .as_deref()
            .map(units::parse_duration)
            .transpose()
            .map_err(|e| SpecError::field("in", e.to_string()))?,
        due: raw.due.map(|when| when.0),
        priority: raw.priority.unwrap_or(0),
        key: raw.key,
        unique: raw.unique,
        timeout: raw
            .timeout
            .as_deref()
            .map(units::parse_duration)
            .transpose()
            .map_err(|e| SpecError::field("timeout", e.to_string()))?,
        max_attempts: raw.max_attempts,
        expires: raw.expires.map(|when| when.0),
        headers: raw.headers,
        reply_to: raw.reply_to,
    };
    check(fields, payload, limits)
}

/// A job's fields beside its payload, before they are checked. [`check`] makes a [`NewJob`] of them.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    pub id: Option<String>,
    pub kind: Option<String>,
    pub r#in: Option<Duration>,
    /// Unix milliseconds.
    pub due: Option<i64>,
    pub priority: i64,
    pub key: Option<String>,
    pub unique: Option<String>,
    pub timeout: Option<Duration>,
    pub max_attempts: Option<i64>,
    /// Unix milliseconds.
    pub expires: Option<i64>,
    pub headers: BTreeMap<String, String>,
    pub reply_to: Option<ReplyTo>,
}

fn label(field: &'static str, text: Option<String>) -> Result<Option<String>, SpecError> {
    match text {
        Some(text) if text.is_empty() => Err(SpecError::field(field, "must not be empty")),
        Some(text) if text.len() > MAX_LABEL => {
            Err(SpecError::field(field, format!("has {} bytes, at most {MAX_LABEL} are allowed", text.len())))
        }
        Some(text) if text.chars().any(char::is_control) => {
            Err(SpecError::field(field, "must not hold control characters"))
        }
        other => Ok(other),
    }
}

/// Checks every field against its bounds. `payload` is compact JSON, as [`compact`] makes it.
///
/// # Errors
/// When a field is out of bounds; the error names it.
pub fn check(fields: Fields, payload: String, limits: &Limits) -> Result<NewJob, SpecError> {
    if payload.len() > limits.max_payload {
        return Err(SpecError::PayloadTooLong { size: payload.len(), limit: limits.max_payload });
    }
    let chosen = fields.id.is_some();
    let id = match fields.id {
        Some(id) => JobId::new(&id).map_err(|error| SpecError::field("id", error.to_string()))?,
        None => generate_id(),
    };
    let latest = StoreTime::from_millis(limits.now.as_millis()) + MAX_AHEAD;
    let due = match (fields.r#in, fields.due) {
        (Some(_), Some(_)) => return Err(SpecError::field("in", "give \"in\" or \"due\", not both")),
        (Some(span), None) if span > MAX_AHEAD => {
            return Err(SpecError::field("in", "lies more than 10 years ahead"));
        }
        (Some(span), None) if span.is_zero() => Due::Now,
        (Some(span), None) => Due::In(span),
        (None, Some(millis)) if StoreTime::from_millis(millis) > latest => {
            return Err(SpecError::field(
                "due",
                "lies more than 10 years ahead (Unix milliseconds are expected)",
            ));
        }
        (None, Some(millis)) if millis < 0 => return Err(SpecError::field("due", "must not be negative")),
        (None, Some(millis)) => Due::At(StoreTime::from_millis(millis)),
        (None, None) => Due::Now,
    };
    let priority = i16::try_from(fields.priority)
        .ok()
        .filter(|p| (-MAX_PRIORITY..=MAX_PRIORITY).contains(p))
        .ok_or_else(|| {
            SpecError::field("priority", format!("must lie between -{MAX_PRIORITY} and {MAX_PRIORITY}"))
        })?;
    if fields.timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Err(SpecError::field("timeout", "must be longer than 0"));
    }
    let max_attempts = match fields.max_attempts {
        None => None,
        Some(n) => Some(
            u32::try_from(n)
                .ok()
                .filter(|n| (1..=1_000_000).contains(n))
                .ok_or_else(|| SpecError::field("max_attempts", "must lie between 1 and 1000000"))?,
        ),
    };
    if let Some(expires) = fields.expires {
        if expires <= limits.now.as_millis() {
            return Err(SpecError::field("expires", "lies in the past"));
        }
        if let Due::At(due) = due
            && expires <= due.as_millis()
        {
            return Err(SpecError::field("expires", "is not after \"due\": the job could never run"));
        }
        if let Due::In(span) = due
            && StoreTime::from_millis(expires) <= StoreTime::from_millis(limits.now.as_millis()) + span
        {
            return Err(SpecError::field("expires", "is not after \"in\": the job could never run"));
        }
    }
    let bytes: usize = fields.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if fields.headers.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
        return Err(SpecError::field(
            "headers",
            format!("at most {MAX_HEADERS} headers and {MAX_HEADER_BYTES} bytes"),
        ));
    }
    if let Some(name) = fields.headers.keys().find(|name| {
        name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
    }) {
        return Err(SpecError::field("headers", format!("{name:?} is no header name")));
    }
    if let Some((name, _)) = fields.headers.iter().find(|(_, value)| value.chars().any(char::is_control)) {
        return Err(SpecError::field(
            "headers",
            format!("{name}: the value must not hold control characters"),
        ));
    }
    if fields.unique.is_some() {
        return Err(SpecError::field(
            "unique",
            "unique jobs are not served yet; give the job an \"id\" instead",
        ));
    }
    let spec = record::Spec {
        chosen,
        kind: label("kind", fields.kind)?,
        due,
        priority,
        key: label("key", fields.key)?,
        unique: fields.unique,
        timeout: fields.timeout,
        max_attempts,
        expires: fields.expires.map(StoreTime::from_millis),
        headers: fields.headers,
        reply_to: fields.reply_to,
        payload,
    };
    Ok(NewJob { id, due, priority, expires: spec.expires, content: record::encode(&spec) })
}

/// A new id: UUIDv7, so that ids sort by the time they were made.
#[must_use]
pub fn generate_id() -> JobId {
    JobId::new(&uuid::Uuid::now_v7().hyphenated().to_string()).expect("a UUID is a valid id")
}

/// Takes the white space out of JSON text and checks its depth. The text must be valid JSON already.
///
/// # Errors
/// When it nests deeper than [`MAX_DEPTH`].
pub fn compact(json: &str) -> Result<String, SpecError> {
    let mut out = String::with_capacity(json.len());
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut run = 0;
    for (at, byte) in json.bytes().enumerate() {
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => quoted = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(SpecError::field("payload", format!("nests deeper than {MAX_DEPTH}")));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b' ' | b'\t' | b'\n' | b'\r' => {
                out.push_str(&json[run..at]);
                run = at + 1;
            }
            _ => {}
        }
    }
    out.push_str(&json[run..]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { max_payload: 1000, now: serde_json::from_str("1700000000000").unwrap() }
    }

    fn refused(text: &str) -> String {
        parse(text, &limits()).unwrap_err().to_string()
    }

    #[test]
    fn only_a_payload_is_needed() {
        let job = parse(r#" { "payload" : { "a" : [ 1.0 , "x y" ] } } "#, &limits()).unwrap();
        assert_eq!(job.due, Due::Now);
        assert!(job.content.ends_with(r#"{"a":[1.0,"x y"]}"#), "{}", job.content);
        assert_eq!(job.id.as_str().len(), 36);
    }

    #[test]
    fn bad_input_names_the_field() {
        assert!(refused("{").starts_with("not a job: EOF"));
        assert!(refused(r#"{"payload":1,"dealy":1}"#).contains("unknown field `dealy`"));
        assert!(refused(r#"{"id":"x"}"#).contains("missing field `payload`"));
        assert!(refused("[1]").starts_with("not a job"));
        assert_eq!(refused(r#"{"payload":1,"in":"5s","due":1}"#), r#"in: give "in" or "due", not both"#);
        assert!(refused(r#"{"payload":1,"in":"soon"}"#).starts_with("in: "));
        assert!(refused(r#"{"payload":1,"id":"a b"}"#).starts_with("id: a job id is made of"));
        assert!(refused(r#"{"payload":1,"due":99999999999999}"#).starts_with("due: lies more than 10 years"));
        assert!(refused(r#"{"payload":1,"priority":256}"#).starts_with("priority: must lie"));
        assert!(refused(r#"{"payload":1,"expires":5}"#).starts_with("expires: lies in the past"));
        let never = r#"{"payload":1,"in":"10s","expires":1700000009000}"#;
        assert_eq!(refused(never), "expires: is not after \"in\": the job could never run");
        assert!(parse(&never.replace("9000", "9001").replace("10s", "9s"), &limits()).is_ok());
        assert!(refused(r#"{"payload":1,"max_attempts":0}"#).starts_with("max_attempts: "));
        assert!(refused(r#"{"payload":1,"headers":{"a b":"c"}}"#).starts_with("headers: "));
        let deep = format!(r#"{{"payload":{}1{}}}"#, "[".repeat(65), "]".repeat(65));
        assert_eq!(refused(&deep), "payload: nests deeper than 64");
        let long = format!(r#"{{"payload":"{}"}}"#, "x".repeat(1000));
        assert_eq!(
            refused(&long),
            "payload: 1002 bytes are over the limit of 1000 of this queue (max_payload)"
        );
        let deep_enough = format!(r#"{{"payload":{}1{}}}"#, "[".repeat(64), "]".repeat(64));
        assert!(parse(&deep_enough, &limits()).is_ok());
    }

    #[test]
    fn an_id_beside_the_text_is_the_id() {
        let id = JobId::new("a").unwrap();
        for text in [r#"{"payload":1}"#, r#"{"payload":1,"id":"a"}"#] {
            assert_eq!(parse_named(text, Some(&id), &limits()).unwrap().id, id);
        }
        let other = parse_named(r#"{"payload":1,"id":"b"}"#, Some(&id), &limits()).unwrap_err();
        assert_eq!(other.to_string(), r#"id: is "b", but the call names "a""#);
    }

    #[test]
    fn a_past_due_time_is_taken() {
        let job = parse(r#"{"payload":null,"due":1000}"#, &limits()).unwrap();
        assert_eq!(job.due, Due::At(StoreTime::from_millis(1000)));
    }

    #[test]
    fn strings_keep_their_white_space_when_compacted() {
        assert_eq!(compact(r#"{ "a \" b" : "c  \\" , "d" : [ ] }"#).unwrap(), r#"{"a \" b":"c  \\","d":[]}"#);
    }
}
