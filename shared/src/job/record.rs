//! What a store keeps of a job as it was given: one string, written once at enqueue and never changed by what
//! happens to the job afterwards.
//!
//! ```text
//! 1767225600000000 P {"hello":"world"}                     only a payload, id generated
//! 1767225600000000 j {"kind":"mail","payload":{...}}       other fields too, id chosen by the producer
//! 1767225600000000 J {...}<newline>{"traceparent":"..."}   trace headers, which do not count as content
//! ^created (µs)     ^form
//! ```
//! (without the blanks around the form letter). Text, so that it can be read with any client; short, because a
//! million timers each carry one. The stores compare the part between `created` and the newline to tell whether
//! a repeated enqueue has the same content, and read nothing else of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::Digest as _;

use crate::clock::StoreTime;
use crate::job::spec::{Due, ReplyTo};

/// Digits of `created` in front of a record. Enough until the year 2286.
pub const CREATED_DIGITS: usize = 16;

/// Headers that are kept and handed on, but do not make two jobs different.
const TRACE_HEADERS: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// The job as its producer gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Whether the producer chose the id; such ids are remembered after the job has ended.
    pub chosen: bool,
    pub kind: Option<String>,
    pub due: Due,
    pub priority: i16,
    pub key: Option<String>,
    pub unique: Option<String>,
    pub timeout: Option<Duration>,
    pub max_attempts: Option<u32>,
    pub expires: Option<StoreTime>,
    /// So long after its enqueue, where its producer said it so; a repeated enqueue is the same content then.
    pub expires_in: Option<Duration>,
    pub headers: BTreeMap<String, String>,
    pub reply_to: Option<ReplyTo>,
    /// Compact JSON.
    pub payload: String,
}

impl Spec {
    /// A job of nothing but a payload.
    #[must_use]
    pub fn bare(chosen: bool, payload: String) -> Self {
        Self {
            chosen,
            kind: None,
            due: Due::Now,
            priority: 0,
            key: None,
            unique: None,
            timeout: None,
            max_attempts: None,
            expires: None,
            expires_in: None,
            headers: BTreeMap::new(),
            reply_to: None,
            payload,
        }
    }

    /// When it is not to be started any more; `created` is the moment of its enqueue.
    #[must_use]
    pub fn expiry(&self, created: StoreTime) -> Option<StoreTime> {
        self.expires.or_else(|| self.expires_in.map(|span| created + span))
    }

    fn is_bare(&self) -> bool {
        self.kind.is_none()
            && self.due == Due::Now
            && self.priority == 0
            && self.key.is_none()
            && self.unique.is_none()
            && self.timeout.is_none()
            && self.max_attempts.is_none()
            && self.expires.is_none()
            && self.expires_in.is_none()
            && self.reply_to.is_none()
            && self.headers.keys().all(|name| TRACE_HEADERS.contains(&name.as_str()))
    }
}

/// The fields that are not at their default, in this order; unknown ones of a newer version are skipped.
#[derive(Serialize, Deserialize)]
struct Content {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// Microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    r#in: Option<u64>,
    /// Unix microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<i64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    priority: i16,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique: Option<String>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<i64>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<ReplyTo>,
    payload: Box<RawValue>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(n: &i16) -> bool {
    *n == 0
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The record without its `created`, which the store puts in front.
#[must_use]
pub fn encode(spec: &Spec) -> String {
    let mut out;
    if spec.is_bare() {
        out = String::with_capacity(spec.payload.len() + 1);
        out.push(if spec.chosen { 'p' } else { 'P' });
        out.push_str(&spec.payload);
    } else {
        let content = Content {
            kind: spec.kind.clone(),
            r#in: match spec.due {
                Due::In(span) => Some(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)),
                Due::Now | Due::At(_) => None,
            },
            due: match spec.due {
                Due::At(due) => Some(due.as_micros()),
                Due::Now | Due::In(_) => None,
            },
            priority: spec.priority,
            key: spec.key.clone(),
            unique: spec.unique.clone(),
            timeout: spec.timeout.map(millis),
            max_attempts: spec.max_attempts,
            expires: spec.expires.map(StoreTime::as_millis),
            expires_in: spec.expires_in.map(millis),
            headers: spec
                .headers
                .iter()
                .filter(|(n, _)| !is_trace(n))
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect(),
            reply_to: spec.reply_to.clone(),
            payload: RawValue::from_string(spec.payload.clone()).expect("the payload was checked to be JSON"),
        };
        out = String::from(if spec.chosen { "j" } else { "J" });
        out.push_str(&serde_json::to_string(&content).expect("plain data serialises"));
    }
    let trace: BTreeMap<_, _> = spec.headers.iter().filter(|(name, _)| is_trace(name)).collect();
    if !trace.is_empty() {
        out.push('\n');
        out.push_str(&serde_json::to_string(&trace).expect("plain data serialises"));
    }
    out
}

fn is_trace(name: &str) -> bool {
    TRACE_HEADERS.contains(&name)
}

/// A record as it came out of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record(String);

/// A record that cannot be read: written by something else, or damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the stored record cannot be read: {0}")]
pub struct RecordError(String);

impl Record {
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// Puts `created` in front of what [`encode`] made.
    #[must_use]
    pub fn stamp(created: StoreTime, content: &str) -> Self {
        Self(format!("{:0width$}{content}", created.as_micros(), width = CREATED_DIGITS))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The moment of the enqueue; jobs of one call may be some microseconds apart, which keeps their order.
    #[must_use]
    pub fn created_at(&self) -> StoreTime {
        let digits = self.0.get(..CREATED_DIGITS).and_then(|digits| digits.parse().ok());
        StoreTime::from_micros(digits.unwrap_or(0))
    }

    /// The same in Unix milliseconds.
    #[must_use]
    pub fn created(&self) -> i64 {
        self.created_at().as_millis()
    }

    /// The due time that it was given; that of its enqueue if it was given none.
    #[must_use]
    pub fn due(&self) -> StoreTime {
        #[derive(Deserialize)]
        struct When {
            r#in: Option<u64>,
            due: Option<i64>,
        }
        let created = self.created_at();
        let Some(body) = self.0.get(CREATED_DIGITS..).and_then(|rest| rest.strip_prefix(['J', 'j'])) else {
            return created;
        };
        match serde_json::from_str(body.split('\n').next().unwrap_or_default()) {
            Ok(When { r#in: Some(micros), .. }) => created + Duration::from_micros(micros),
            Ok(When { due: Some(micros), .. }) => StoreTime::from_micros(micros),
            Ok(_) | Err(_) => created,
        }
    }

    /// What a repeated enqueue is compared by.
    #[must_use]
    pub fn content(&self) -> &str {
        let rest = self.0.get(CREATED_DIGITS..).unwrap_or_default();
        rest.split('\n').next().unwrap_or_default()
    }

    /// Whether the producer chose the id.
    #[must_use]
    pub fn chosen(&self) -> bool {
        self.0.as_bytes().get(CREATED_DIGITS).is_some_and(u8::is_ascii_lowercase)
    }

    /// A short digest of the content, remembered with a chosen id after the job has ended.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(self.content())
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When it is not of the form described above.
    pub fn decode(&self) -> Result<Spec, RecordError> {
        let fail = |why: &str| RecordError(why.to_owned());
        let rest = self.0.get(CREATED_DIGITS..).ok_or_else(|| fail("it is too short"))?;
        let (rest, trace) = rest.split_once('\n').map_or((rest, None), |(rest, trace)| (rest, Some(trace)));
        let form = rest.bytes().next().ok_or_else(|| fail("it is empty"))?;
        let body = rest.get(1..).unwrap_or_default();
        let mut spec = match form {
            b'P' | b'p' => Spec::bare(form == b'p', body.to_owned()),
            b'J' | b'j' => {
                let content: Content =
                    serde_json::from_str(body).map_err(|error| fail(&error.to_string()))?;
                Spec {
                    chosen: form == b'j',
                    kind: content.kind,
                    due: match (content.r#in, content.due) {
                        (Some(micros), _) => Due::In(Duration::from_micros(micros)),
                        (None, Some(micros)) => Due::At(StoreTime::from_micros(micros)),
                        (None, None) => Due::Now,
                    },
                    priority: content.priority,
                    key: content.key,
                    unique: content.unique,
                    timeout: content.timeout.map(Duration::from_millis),
                    max_attempts: content.max_attempts,
                    expires: content.expires.map(StoreTime::from_millis),
                    expires_in: content.expires_in.map(Duration::from_millis),
                    headers: content.headers,
                    reply_to: content.reply_to,
                    payload: Box::<str>::from(content.payload).into_string(),
                }
            }
            other => return Err(fail(&format!("its form is {:?}", char::from(other)))),
        };
        if let Some(trace) = trace {
            let trace: BTreeMap<String, String> =
                serde_json::from_str(trace).map_err(|error| fail(&error.to_string()))?;
            spec.headers.extend(trace);
        }
        Ok(spec)
    }
}

/// The digest of a content: the first 64 bits of its SHA-256, in hexadecimal.
#[must_use]
pub fn digest(content: &str) -> String {
    digest_bytes(content.as_bytes())
}

/// The same of any bytes.
#[must_use]
pub fn digest_bytes(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Spec {
        Spec {
            chosen: true,
            kind: Some("mail".into()),
            due: Due::In(Duration::from_millis(1500)),
            priority: -3,
            key: Some("tenant-7".into()),
            unique: None,
            timeout: Some(Duration::from_secs(30)),
            max_attempts: Some(5),
            expires: Some(StoreTime::from_millis(1_900_000_000_000)),
            expires_in: None,
            headers: [("x-a".to_owned(), "1".to_owned()), ("traceparent".to_owned(), "00-1".to_owned())]
                .into(),
            reply_to: Some(ReplyTo { transport: "http".into(), uri: "http://x/".into() }),
            payload: r#"{"n":1.0,"big":12345678901234567890}"#.into(),
        }
    }

    #[test]
    fn there_and_back() {
        for spec in [full(), Spec::bare(false, "[1,2]".into()), Spec::bare(true, "null".into())] {
            let record = Record::stamp(StoreTime::from_millis(1_700_000_000_123), &encode(&spec));
            assert_eq!(record.decode().unwrap(), spec);
            assert_eq!(record.created(), 1_700_000_000_123);
            assert_eq!(record.chosen(), spec.chosen);
            let due = record.created_at()
                + if spec.due == Due::Now { Duration::ZERO } else { Duration::from_millis(1500) };
            assert_eq!(record.due(), due);
        }
    }

    #[test]
    fn an_expiry_counts_from_the_enqueue() {
        let spec = Spec { expires_in: Some(Duration::from_secs(5)), ..Spec::bare(true, "1".into()) };
        assert!(encode(&spec).starts_with('j'));
        let record = Record::stamp(StoreTime::from_millis(1000), &encode(&spec));
        assert_eq!(record.decode().unwrap(), spec);
        assert_eq!(spec.expiry(record.created_at()), Some(StoreTime::from_millis(6000)));
        assert_eq!(full().expiry(record.created_at()), full().expires);
    }

    #[test]
    fn trace_headers_are_no_content() {
        let mut other = full();
        other.headers.insert("traceparent".into(), "00-2".into());
        let at = StoreTime::from_millis(5);
        assert_eq!(
            Record::stamp(at, &encode(&full())).content(),
            Record::stamp(at, &encode(&other)).content()
        );
        assert_ne!(encode(&full()), encode(&other));
    }

    #[test]
    fn records_of_released_versions_stay_readable() {
        for (text, payload) in [
            (r#"1700000000123456P{"a":1}"#, r#"{"a":1}"#),
            (r#"1700000000123456j{"kind":"k","in":5,"payload":null}"#, "null"),
            (r#"1700000000123456J{"newer":true,"kind":"k","payload":[]}"#, "[]"),
        ] {
            assert_eq!(Record::new(text.into()).decode().unwrap().payload, payload);
        }
        assert!(Record::new("17000000".into()).decode().is_err());
        assert!(Record::new("1700000000123456Z{}".into()).decode().is_err());
    }
}
