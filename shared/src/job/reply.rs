//! The reply to a job that names where its result is to go (`reply_to`): a job of its own in [`QUEUE`], recorded in the
//! same step as the end that it tells of. So it outlives whoever ran the job, is tried again while nobody takes it, and
//! comes to exist once.
//!
//! ```text
//! {"transport":"amqp","uri":"amqp:///?routing_key=answers","data":{"width":80}}
//! ```
//! Over `amqp` the data is the result, and the properties say the rest; a job that ended otherwise than done has
//! `{"state":…,"error":…}` instead. Elsewhere the data is `{"id","queue","kind","state","result","error"}`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::job::lifecycle::FinalState;
use crate::job::progress::{Progress, Token};
use crate::job::record::{self, Spec};
use crate::job::settle::FollowUp;
use crate::job::spec::{Due, NewJob};
use crate::names::{JobId, QueueName};

/// Where replies wait until they are delivered.
pub const QUEUE: &str = "roundsman.replies";
/// Why nobody else may enqueue there.
pub const OWN: &str = "is Roundsman's own: a job that names reply_to fills it";
/// Handed on with a reply, since they make it one.
const KEPT_HEADERS: [&str; 4] = ["correlation-id", "traceparent", "tracestate", "baggage"];

/// Whether it is where replies wait: what is said there is sent with the fleet's own rights.
#[must_use]
pub fn is_own(queue: &QueueName) -> bool {
    queue.as_str() == QUEUE
}

/// The payload of a reply.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    pub transport: String,
    pub uri: String,
    pub data: Box<RawValue>,
}

/// What is sent where there are no properties to say it.
#[derive(Serialize)]
struct Told<'a> {
    id: &'a JobId,
    queue: &'a QueueName,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    state: &'a str,
    result: Option<&'a RawValue>,
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Failed<'a> {
    state: &'a str,
    error: Option<&'a str>,
}

/// The reply to a job that has ended; `None` where none was asked for. `progress` is what is kept of its end.
#[must_use]
pub fn of(
    queue: &QueueName,
    id: &JobId,
    token: Token,
    spec: &Spec,
    state: FinalState,
    progress: &Progress,
) -> Option<FollowUp> {
    let to = spec.reply_to.as_ref()?;
    let (name, error) = (state.as_str(), progress.error.as_deref());
    let result = progress.result.as_deref().filter(|_| state == FinalState::Done);
    let data = match (to.transport.as_str(), state) {
        ("amqp", FinalState::Done) => result.map_or_else(|| "null".to_owned(), |raw| raw.get().to_owned()),
        ("amqp", _) => json(&Failed { state: name, error }),
        _ => json(&Told { id, queue, kind: spec.kind.as_deref(), state: name, result, error }),
    };
    let reply = Reply {
        transport: to.transport.clone(),
        uri: to.uri.clone(),
        data: RawValue::from_string(data).expect("JSON was put together of JSON"),
    };
    let kept = spec.headers.iter().filter(|(header, _)| KEPT_HEADERS.contains(&header.as_str()));
    let mut headers: BTreeMap<_, _> = kept.map(|(header, value)| (header.clone(), value.clone())).collect();
    headers.insert("roundsman-job".to_owned(), format!("{queue}/{id}"));
    headers.insert("roundsman-state".to_owned(), name.to_owned());
    let told = Spec { kind: spec.kind.clone(), headers, ..Spec::bare(false, json(&reply)) };
    // Made of the delivery that ended the job: a repeated acknowledgement makes no second reply.
    let seed = format!("{queue}/{id}/{token}");
    let id = JobId::new(&format!("{}-reply", record::digest(&seed))).expect("hexadecimal digits and a word");
    let job = NewJob { id, due: Due::Now, priority: 0, expires: None, content: record::encode(&told) };
    Some(FollowUp { queue: QueueName::new(QUEUE).expect("the name is one"), job })
}

fn json(data: &impl Serialize) -> String {
    serde_json::to_string(data).expect("plain data serialises")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::StoreTime;
    use crate::job::record::Record;
    use crate::job::spec::ReplyTo;

    fn reply(transport: &str, state: FinalState, progress: &Progress) -> (NewJob, Spec) {
        let headers = [("correlation-id", "c1"), ("x-other", "1")];
        let spec = Spec {
            kind: Some("scale".into()),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            reply_to: Some(ReplyTo { transport: transport.into(), uri: "x".into() }),
            ..Spec::bare(true, "1".into())
        };
        let (queue, id) = (QueueName::new("q").unwrap(), JobId::new("a").unwrap());
        let told = of(&queue, &id, 7, &spec, state, progress).unwrap();
        assert_eq!(told.queue.as_str(), QUEUE);
        let spec = Record::stamp(StoreTime::from_millis(1), &told.job.content).decode().unwrap();
        (told.job, spec)
    }

    fn progress(result: &str, error: Option<&str>) -> Progress {
        Progress {
            result: (!result.is_empty()).then(|| RawValue::from_string(result.to_owned()).unwrap()),
            error: error.map(str::to_owned),
            ..Progress::default()
        }
    }

    #[test]
    fn the_result_is_sent_where_the_properties_say_the_rest() {
        let (job, spec) = reply("amqp", FinalState::Done, &progress(r#"{"n":1.0}"#, None));
        assert_eq!(spec.payload, r#"{"transport":"amqp","uri":"x","data":{"n":1.0}}"#);
        assert_eq!(spec.kind.as_deref(), Some("scale"));
        let headers: Vec<_> =
            spec.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [("correlation-id", "c1"), ("roundsman-job", "q/a"), ("roundsman-state", "done")];
        assert_eq!(headers, expected);
        let (again, _) = reply("amqp", FinalState::Done, &progress("2", None));
        assert_eq!(again.id, job.id, "one end, one reply");
        let (_, spec) = reply("amqp", FinalState::Done, &progress("", None));
        assert!(spec.payload.ends_with(r#""data":null}"#));
        let (_, spec) = reply("amqp", FinalState::Dead, &progress("", Some("no path")));
        assert!(spec.payload.ends_with(r#""data":{"state":"dead","error":"no path"}}"#), "{}", spec.payload);
    }

    #[test]
    fn elsewhere_the_whole_story_is() {
        let (_, spec) = reply("http", FinalState::Done, &progress("[]", None));
        assert!(spec.payload.ends_with(
            r#""data":{"id":"a","queue":"q","kind":"scale","state":"done","result":[],"error":null}}"#
        ));
    }

    #[test]
    fn who_asks_for_none_gets_none() {
        let (queue, id) = (QueueName::new("q").unwrap(), JobId::new("a").unwrap());
        let spec = Spec::bare(true, "1".into());
        assert_eq!(of(&queue, &id, 7, &spec, FinalState::Done, &Progress::default()), None);
    }
}
