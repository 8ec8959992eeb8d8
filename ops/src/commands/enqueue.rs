//! `enqueue`: one job from the command line. Many from standard input are in `bulk`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use roundsman_shared::clock::Wall;
use roundsman_shared::exit;
use roundsman_shared::job::spec::{self, Fields, Limits};
use roundsman_shared::job::{NewJob, reply};
use roundsman_shared::names::QueueName;
use roundsman_shared::settings::QueueSettings;
use roundsman_shared::settings::units::{parse_duration, parse_time_ms};
use roundsman_shared::store::{Enqueued, Store};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::io::AsyncReadExt as _;

use super::{DONE, bulk, find, wait};
use crate::connect::Context;
use crate::errors::Failure;
use crate::fleet::Fleet;
use crate::print::many;

const AFTER_HELP: &str =
    "Repeated with the same --id and content it answers the same; with other content it is \
refused (exit code 4). Bad data is refused with 1, a full queue or store with 75: try again later.

  roundsman enqueue mail '{\"to\":\"a@example.com\"}' --in 5m
  roundsman enqueue thumbnails - --id photo:17 --wait 30s < photo.json";

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct EnqueueArgs {
    /// The queue; it exists as soon as it is named.
    pub queue: String,
    /// Any JSON value, or - to read it from standard input; null if it is left out.
    #[arg(allow_negative_numbers = true)]
    payload: Option<String>,
    /// Due so long from now.
    #[arg(long, value_name = "DUR", value_parser = parse_duration, conflicts_with = "at")]
    r#in: Option<Duration>,
    /// Due at this moment.
    #[arg(long, value_name = "TIME", value_parser = parse_time_ms)]
    at: Option<i64>,
    /// The job's id, by which a repeat is told: 1 to 128 characters of A-Z a-z 0-9 . _ : -
    #[arg(long)]
    id: Option<String>,
    /// What sort of job it is; a program's handlers are chosen by it.
    #[arg(long)]
    kind: Option<String>,
    /// From -255 to 255; of jobs that are due the greater goes first.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i64>,
    /// Whose job it is, for limits by key.
    #[arg(long)]
    key: Option<String>,
    /// Refused while another job of the queue has the same. Not served yet: give an --id instead.
    #[arg(long, value_name = "KEY")]
    unique: Option<String>,
    /// How long one attempt may take.
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// After so many failures it is dead.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_attempts: Option<i64>,
    /// Not started any more after this time.
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    expires_in: Option<Duration>,
    /// A header that goes with the job; may be repeated.
    #[arg(long = "header", value_name = "K=V", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Wait until the job has ended, at most so long, and print its result: exit code 0 when it is done, 1 when it
    /// ended badly, 124 when it has not ended in time.
    #[arg(long, value_name = "DUR", num_args = 0..=1, default_missing_value = wait::FOREVER, value_parser = wait::patience)]
    wait: Option<wait::Patience>,
    /// Read jobs from standard input, one JSON object a line:
    /// {"payload":…,"id":…,"kind":…,"in":…,"due":…,"priority":…,"key":…,"timeout":…,"max_attempts":…,"expires":…,"headers":{…}}
    #[arg(long, conflicts_with_all = ["payload", "in", "at", "id", "kind", "priority", "key", "unique", "timeout", "max_attempts", "expires_in", "headers", "wait"])]
    ndjson: bool,
    /// With --ndjson, print what became of each line as JSON.
    #[arg(long, requires = "ndjson", conflicts_with = "json")]
    pub jsonl: bool,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub async fn run(context: &Context, args: EnqueueArgs) -> Result<u8, Failure> {
    let queue = QueueName::new(&args.queue).map_err(|error| Failure::failed(format!("queue: {error}")))?;
    if reply::is_own(&queue) {
        return Err(Failure::failed(format!("queue: {queue} {}", reply::OWN)));
    }
    if args.ndjson {
        return bulk::run(context, &queue, args.jsonl).await;
    }
    // Before anything else: bad input costs no round trip.
    let payload = payload(args.payload.as_deref()).await?;
    let store = context.store().await?;
    context.demand_durability(&store).await?;
    let policy = context.policy(&store, &queue).await?;
    let patience = args.wait;
    let job = spec::check(args.fields(), payload, &limits(&policy))?;
    let answers = store.enqueue(&queue, std::slice::from_ref(&job), policy.max_waiting).await?;
    let created = matches!(answers.first(), Some(Enqueued::Created { .. }));
    match answers.first() {
        Some(Enqueued::Created { .. }) => warn_of_neglect(context, &store, &queue).await?,
        Some(Enqueued::Existing) => {}
        Some(refusal) => return Err(refused(&queue, &job, refusal)),
        None => return Err(Failure::failed("the store gave no answer")),
    }
    if let Some(patience) = patience {
        return wait::answer(context, &store, &queue, &job.id, patience, created).await;
    }
    if context.screen.json {
        print_stored(context, &store, &queue, &job).await?;
    } else {
        context.screen.line(job.id.as_str())?;
    }
    DONE
}

/// What the settings let through.
pub fn limits(policy: &QueueSettings) -> Limits {
    Limits { max_payload: usize::try_from(policy.max_payload).unwrap_or(usize::MAX), now: Wall::now() }
}

/// Says so when nobody is going to run what was stored.
pub async fn warn_of_neglect(context: &Context, store: &Store, queue: &QueueName) -> Result<(), Failure> {
    if let Some(neglect) = Fleet::read(store).await?.neglect(queue.as_str()) {
        context.screen.warn(&neglect);
    }
    Ok(())
}

/// Why a job was not stored.
pub fn refused(queue: &QueueName, job: &NewJob, answer: &Enqueued) -> Failure {
    let id = &job.id;
    match answer {
        Enqueued::Conflict => {
            Failure::refused(format!("{queue}/{id} is there already with other content; it is untouched"))
        }
        Enqueued::Full { waiting } => Failure::try_again(format!(
            "the queue {queue} is full: {} waiting (max_waiting); nothing was stored",
            many(*waiting, "job")
        )),
        Enqueued::Expired => Failure::failed("expires: has passed already; nothing was stored"),
        Enqueued::Created { .. } | Enqueued::Existing => Failure::said(exit::OK),
    }
}

/// Prints the job as the store has it. An id that is only remembered is shown without a state.
async fn print_stored(
    context: &Context,
    store: &Store,
    queue: &QueueName,
    job: &NewJob,
) -> Result<(), Failure> {
    match find::look(store, queue, &job.id).await? {
        Some(found) => context.screen.document(&found.view()?),
        None => {
            context.screen.warn(&format!("{queue}/{} has ended already and is not kept", job.id));
            context.screen.document(&json!({"id": job.id, "queue": queue, "state": null}))
        }
    }
}

/// The payload as compact JSON.
async fn payload(given: Option<&str>) -> Result<String, Failure> {
    let mut read = String::new();
    let text = match given {
        None => "null",
        Some("-") => {
            tokio::io::stdin().read_to_string(&mut read).await.map_err(|error| {
                Failure::failed(format!("payload: standard input cannot be read: {error}"))
            })?;
            if read.trim().is_empty() {
                return Err(Failure::failed("payload: standard input is empty")
                    .advise("write a JSON value to it, such as null"));
            }
            read.as_str()
        }
        Some(text) => text,
    };
    let checked: Result<Box<RawValue>, _> = serde_json::from_str(text);
    match checked {
        Ok(json) => Ok(spec::compact(json.get())?),
        Err(error) => {
            let refusal = Failure::failed(format!("payload: is no JSON: {error}"));
            Err(if is_bare_word(text) {
                refusal.advise(format!(
                    "a string needs its own quotes inside the shell's: '\"{}\"'",
                    text.trim()
                ))
            } else {
                refusal
            })
        }
    }
}

fn is_bare_word(text: &str) -> bool {
    let text = text.trim();
    !text.starts_with(['{', '[', '"']) && text.len() <= 100 && !text.contains(['\'', '"', '\n', '\\'])
}

impl EnqueueArgs {
    fn fields(self) -> Fields {
        Fields {
            id: self.id,
            kind: self.kind,
            r#in: self.r#in,
            due: self.at,
            priority: self.priority.unwrap_or(0),
            key: self.key,
            unique: self.unique,
            timeout: self.timeout,
            max_attempts: self.max_attempts,
            expires: None,
            expires_in: self.expires_in,
            headers: self.headers.into_iter().collect::<BTreeMap<_, _>>(),
            reply_to: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(text: &str) -> String {
        payload(Some(text)).await.unwrap_err().lines().collect::<Vec<_>>().join(" / ")
    }

    #[tokio::test]
    async fn payloads_are_json() {
        assert_eq!(payload(None).await.unwrap(), "null");
        assert_eq!(payload(Some("{ \"a\" : [ 1 ] }")).await.unwrap(), "{\"a\":[1]}");
        assert_eq!(payload(Some("-1")).await.unwrap(), "-1");
        assert!(
            refusal("hello").await.ends_with("inside the shell's: '\"hello\"'"),
            "{}",
            refusal("hello").await
        );
        assert!(refusal("{\"a\":}").await.starts_with("payload: is no JSON: "));
        assert!(!refusal("{\"a\":}").await.contains("quotes"));
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        assert_eq!(refusal(&deep).await, "payload: nests deeper than 64");
    }

    #[test]
    fn headers_have_a_name() {
        assert_eq!(header("a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert!(header("a").is_err());
    }
}
