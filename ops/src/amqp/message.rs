//! From a message of the broker to a job, or why it is none. Pure.
//!
//! | message | job |
//! |---|---|
//! | `message-id` | `id`; a message without one gets an id of ours |
//! | header `x-delay`, in ms | due so long after it is stored |
//! | `expiration`, in ms | expires so long after it is stored |
//! | `priority` | `priority` |
//! | `type` | `kind` |
//! | `correlation-id` | the header of that name |
//! | `reply-to` | `reply_to`: the result goes to that queue of the same broker |
//! | other headers | headers, where they are plain values |
//! | body | the payload if it is JSON, else `{"text"}` or `{"base64"}` with its `content_type` |

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use roundsman_shared::callback;
use roundsman_shared::job::NewJob;
use roundsman_shared::job::spec::{self, Fields, Limits};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

/// Of a queue in the broker's plugin for delayed messages; taken as our own.
const DELAY: &str = "x-delay";
/// What brokers note in a message on its way: it changes from one delivery to the next, and would make them differ.
const BROKERS_OWN: [&str; 4] = ["x-death", "x-delivery-count", "x-acquired-count", "x-stream-offset"];
const BROKERS_OWN_BEGIN: [&str; 3] = ["x-first-death-", "x-last-death-", "x-opt-"];

/// Makes a job of a message.
///
/// # Errors
/// Why it cannot become one, naming the property.
pub(super) fn read(properties: &BasicProperties, body: &[u8], limits: &Limits) -> Result<NewJob, String> {
    let (mut headers, delay) = match properties.headers() {
        Some(table) => (kept(table), delay(table)?),
        None => (BTreeMap::new(), None),
    };
    if let Some(id) = text(properties.correlation_id()) {
        headers.insert("correlation-id".to_owned(), id);
    }
    let expires_in = match text(properties.expiration()) {
        None => None,
        Some(text) => {
            let millis = text
                .parse()
                .map_err(|_not_a_number| format!("expiration: {text:?} is no number of milliseconds"))?;
            Some(Duration::from_millis(millis))
        }
    };
    let fields = Fields {
        id: text(properties.message_id()),
        kind: text(properties.kind()),
        r#in: delay,
        priority: properties.priority().map_or(0, i64::from),
        expires_in,
        headers,
        reply_to: text(properties.reply_to()).map(|queue| callback::own_broker(&queue)),
        ..Fields::default()
    };
    let payload = payload(properties, body, limits)?;
    spec::check(fields, payload, limits).map_err(|error| error.to_string())
}

/// Whether the producer chose the job's id.
pub(super) fn is_chosen(job: &NewJob) -> bool {
    job.content.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
}

/// Clients send empty properties where they mean none.
fn text(property: &Option<ShortString>) -> Option<String> {
    property.as_ref().map(ShortString::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn payload(properties: &BasicProperties, body: &[u8], limits: &Limits) -> Result<String, String> {
    // Before anything is made of it.
    if body.len() > limits.max_payload {
        let limit = limits.max_payload;
        return Err(format!(
            "the body: {} bytes are over the limit of {limit} of this queue (max_payload)",
            body.len()
        ));
    }
    let content_type = text(properties.content_type());
    let json = match std::str::from_utf8(body) {
        Ok(text) => serde_json::from_str::<IgnoredAny>(text).map(|_| text).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let error = match json {
        Ok(text) => return spec::compact(text).map_err(|error| error.to_string()),
        Err(error) => error,
    };
    if content_type.as_deref().is_some_and(is_json) {
        return Err(format!(
            "the body: is said to be {}, and is not: {error}",
            content_type.unwrap_or_default()
        ));
    }
    let mut kept = Map::new();
    match std::str::from_utf8(body) {
        Ok(text) => kept.insert("text".to_owned(), Value::from(text)),
        Err(_) => {
            let text = base64::engine::general_purpose::STANDARD.encode(body);
            kept.insert("base64".to_owned(), Value::from(text))
        }
    };
    kept.extend(content_type.map(|kind| ("content_type".to_owned(), Value::from(kind))));
    let encoding = text(properties.content_encoding());
    kept.extend(encoding.map(|kind| ("content_encoding".to_owned(), Value::from(kind))));
    Ok(Value::Object(kept).to_string())
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

fn delay(table: &FieldTable) -> Result<Option<Duration>, String> {
    let Some(value) = table.inner().get(DELAY) else { return Ok(None) };
    let millis = whole(value).ok_or_else(|| format!("{DELAY}: is no whole number of milliseconds"))?;
    // The plugin for delayed messages turns the sign once the delay is over.
    Ok(u64::try_from(millis).ok().map(Duration::from_millis))
}

fn whole(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(n) => Some(i64::from(*n)),
        AMQPValue::ShortShortUInt(n) => Some(i64::from(*n)),
        AMQPValue::ShortInt(n) => Some(i64::from(*n)),
        AMQPValue::ShortUInt(n) => Some(i64::from(*n)),
        AMQPValue::LongInt(n) => Some(i64::from(*n)),
        AMQPValue::LongUInt(n) => Some(i64::from(*n)),
        AMQPValue::LongLongInt(n) => Some(*n),
        AMQPValue::ShortString(text) => text.as_str().trim().parse().ok(),
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?.trim().parse().ok(),
        AMQPValue::Boolean(_)
        | AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::Timestamp(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::Void => None,
    }
}

/// The headers that a job can have.
fn kept(table: &FieldTable) -> BTreeMap<String, String> {
    let plain = |(name, value): (&ShortString, &AMQPValue)| {
        let name = name.as_str();
        let own = name == DELAY
            || BROKERS_OWN.contains(&name)
            || BROKERS_OWN_BEGIN.iter().any(|begin| name.starts_with(begin));
        let value = Some(value).filter(|_| !own && spec::is_header_name(name)).and_then(shown)?;
        (!value.chars().any(char::is_control)).then(|| (name.to_owned(), value))
    };
    table.inner().iter().filter_map(plain).collect()
}

fn shown(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        AMQPValue::Boolean(flag) => Some(flag.to_string()),
        AMQPValue::Float(n) => Some(n.to_string()),
        AMQPValue::Double(n) => Some(n.to_string()),
        AMQPValue::Timestamp(seconds) => Some(seconds.to_string()),
        number => whole(number).map(|n| n.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldArray;
    use roundsman_shared::clock::StoreTime;
    use roundsman_shared::job::record::{Record, Spec};
    use roundsman_shared::job::spec::{Due, ReplyTo};
    use serde_json::json;

    use super::*;

    fn limits() -> Limits {
        Limits { max_payload: 1000, now: serde_json::from_str("1700000000000").unwrap() }
    }

    fn spec(properties: &BasicProperties, body: &[u8]) -> (NewJob, Spec) {
        let job = read(properties, body, &limits()).unwrap();
        let spec = Record::stamp(StoreTime::from_millis(1), &job.content).decode().unwrap();
        (job, spec)
    }

    fn headers(of: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in of {
            table.insert((*name).into(), value.clone());
        }
        BasicProperties::default().with_headers(table)
    }

    #[test]
    fn every_property_has_its_place() {
        let properties = headers(&[
            (DELAY, AMQPValue::LongInt(1500)),
            ("traceparent", AMQPValue::LongString("00-a-b-01".into())),
            ("tenant", AMQPValue::LongInt(7)),
            ("x-delivery-count", AMQPValue::LongLongInt(3)),
            ("x-death", AMQPValue::FieldArray(FieldArray::default())),
        ])
        .with_message_id("m-1".into())
        .with_expiration("60000".into())
        .with_priority(9)
        .with_type("mail".into())
        .with_correlation_id("c-1".into())
        .with_reply_to("answers".into());
        let (job, spec) = spec(&properties, br#" {"a": 1.0} "#);
        assert_eq!(
            (job.id.as_str(), job.due, job.priority),
            ("m-1", Due::In(Duration::from_millis(1500)), 9)
        );
        assert!(is_chosen(&job));
        assert_eq!(spec.payload, r#"{"a":1.0}"#);
        assert_eq!((spec.kind.as_deref(), spec.expires_in), (Some("mail"), Some(Duration::from_secs(60))));
        let kept: Vec<_> = spec.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(kept, [("correlation-id", "c-1"), ("tenant", "7"), ("traceparent", "00-a-b-01")]);
        let uri = "amqp:///?routing_key=answers".to_owned();
        assert_eq!(spec.reply_to, Some(ReplyTo { transport: "amqp".into(), uri }));
    }

    #[test]
    fn a_redelivered_message_is_the_same_job() {
        let first = headers(&[("a", AMQPValue::Boolean(true))])
            .with_message_id("m".into())
            .with_expiration("9".into());
        let mut again = first.headers().clone().unwrap();
        again.insert("x-delivery-count".into(), AMQPValue::LongLongInt(1));
        again.insert("traceparent".into(), AMQPValue::LongString("00-a-b-01".into()));
        let again = first.clone().with_headers(again);
        let later = Limits { now: serde_json::from_str("1700000009999").unwrap(), ..limits() };
        let (one, two) = (read(&first, b"1", &limits()).unwrap(), read(&again, b"1", &later).unwrap());
        assert_eq!((one.id, &one.content[..]), (two.id, two.content.split('\n').next().unwrap()));
    }

    #[test]
    fn empty_properties_are_none() {
        let empty = || ShortString::from("");
        let properties = BasicProperties::default()
            .with_message_id(empty())
            .with_type(empty())
            .with_reply_to(empty())
            .with_correlation_id(empty())
            .with_expiration(empty());
        let (job, spec) = spec(&properties, b"null");
        assert!(!is_chosen(&job));
        assert_eq!(spec, Spec::bare(false, "null".into()));
    }

    #[test]
    fn a_body_that_is_no_json_is_kept() {
        let typed = |kind: &str| BasicProperties::default().with_content_type(kind.into());
        let payload = |properties: &BasicProperties, body: &[u8]| {
            serde_json::from_str::<Value>(&spec(properties, body).1.payload).unwrap()
        };
        assert_eq!(
            payload(&typed("text/plain"), "grüß".as_bytes()),
            json!({"text":"grüß","content_type":"text/plain"})
        );
        assert_eq!(
            payload(&typed("image/png").with_content_encoding("gzip".into()), b"\xff\x00"),
            json!({"base64":"/wA=","content_type":"image/png","content_encoding":"gzip"})
        );
        assert_eq!(payload(&BasicProperties::default(), b""), json!({"text":""}));
        assert_eq!(payload(&typed("text/plain"), b"[1]"), json!([1]));
    }

    #[test]
    fn delays_come_in_many_types() {
        let due = |value| read(&headers(&[(DELAY, value)]), b"1", &limits()).map(|job| job.due);
        for value in [
            AMQPValue::LongLongInt(5000),
            AMQPValue::ShortUInt(5000),
            AMQPValue::LongUInt(5000),
            AMQPValue::LongString("5000".into()),
        ] {
            assert_eq!(due(value), Ok(Due::In(Duration::from_secs(5))));
        }
        assert_eq!(due(AMQPValue::LongInt(-5000)), Ok(Due::Now), "the plugin has delayed it");
        assert_eq!(due(AMQPValue::LongInt(0)), Ok(Due::Now));
        assert!(due(AMQPValue::LongString("soon".into())).unwrap_err().starts_with("x-delay: "));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let plain = BasicProperties::default;
        for (properties, body, error) in [
            (plain().with_message_id("a b".into()), &b"1"[..], "id: "),
            (plain().with_expiration("soon".into()), b"1", "expiration: "),
            (plain().with_expiration("0".into()), b"1", "expires: "),
            (
                plain().with_content_type("application/json; charset=utf-8".into()),
                b"{oops",
                "the body: is said to be",
            ),
            (plain(), &[b'x'; 1001][..], "the body: 1001 bytes are over the limit of 1000"),
            (plain(), &[b'\xff'; 900][..], "payload: 12"),
            (plain().with_type("a\nb".into()), b"1", "kind: "),
            (headers(&[(DELAY, AMQPValue::LongLongInt(1 << 50))]), b"1", "in: lies more than 10 years ahead"),
        ] {
            let refused = read(&properties, body, &limits()).unwrap_err();
            assert!(refused.starts_with(error), "{error}: {refused}");
        }
        let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
        assert_eq!(read(&plain(), deep.as_bytes(), &limits()).unwrap_err(), "payload: nests deeper than 64");
        let deeper = "[".repeat(500);
        assert_eq!(
            spec(&plain(), deeper.as_bytes()).1.payload,
            format!("{{\"text\":\"{deeper}\"}}"),
            "no JSON at all"
        );
    }

    #[test]
    fn headers_that_a_job_cannot_have_are_left_out() {
        let properties = headers(&[
            ("a b", AMQPValue::LongInt(1)),
            ("table", AMQPValue::FieldTable(FieldTable::default())),
            ("lines", AMQPValue::LongString("a\nb".into())),
            ("bytes", AMQPValue::LongString(lapin::types::LongString::from(vec![0xff]))),
            ("ok", AMQPValue::Double(1.5)),
        ]);
        let (_, spec) = spec(&properties, b"1");
        assert_eq!(spec.headers, [("ok".to_owned(), "1.5".to_owned())].into());
    }
}
