//! `job …`: look at jobs and change them, one at a time.

use std::time::Duration;

use clap::{Args, Subcommand};
use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::spec::MAX_AHEAD;
use roundsman_shared::job::view::Found;
use roundsman_shared::job::{Due, State};
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::settings::units::{parse_duration, parse_time_ms};
use roundsman_shared::store::{Cancelled, Changed, Store};
use serde_json::json;

use super::find::{find, look};
use super::list::{Wanted, list};
use super::{DONE, explain, show, wait};
use crate::connect::Context;
use crate::errors::Failure;
use crate::walk::{Filter, Section};

#[derive(Debug, Subcommand)]
pub enum JobVerb {
    /// Print a job with all its attempts.
    Show(Named),
    /// List jobs, a page at a time.
    List(ListArgs),
    /// Wait until a job has ended and print its result.
    Wait(WaitArgs),
    /// Cancel a job; a running one is told to stop.
    Cancel(Named),
    /// Make a job run again, or a scheduled one run now.
    Retry(Named),
    /// Move a waiting job's due time.
    Reschedule(RescheduleArgs),
    /// Forget a job that does not run.
    Delete(Named),
    /// Say in words why a job is not running, ran twice, or when it will run.
    Explain(Named),
}

#[derive(Debug, Args)]
pub struct Named {
    /// QUEUE/ID, or an id that is looked up in every queue.
    #[arg(value_name = "ID")]
    pub job: String,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only of this queue.
    #[arg(long)]
    queue: Option<String>,
    /// scheduled, ready, running, done, dead, cancelled or expired; may be repeated.
    #[arg(long)]
    state: Vec<State>,
    /// Only of this kind; looks at a bounded number of jobs and says how many.
    #[arg(long)]
    kind: Option<String>,
    /// Only with this in their error; looks at a bounded number of jobs and says how many.
    #[arg(long, value_name = "PART")]
    error: Option<String>,
    /// At most so many; 50 if it is left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: Option<u32>,
    /// Where the last page ended.
    #[arg(long)]
    cursor: Option<String>,
    /// One job a line; all of them unless --limit says otherwise.
    #[arg(long, conflicts_with = "json")]
    jsonl: bool,
}

#[derive(Debug, Args)]
pub struct WaitArgs {
    #[command(flatten)]
    named: Named,
    /// Give up after so long (exit code 124).
    #[arg(long, value_name = "DUR", value_parser = wait::patience, default_value = wait::FOREVER)]
    timeout: wait::Patience,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false, args = ["in", "at"])]
pub struct RescheduleArgs {
    #[command(flatten)]
    named: Named,
    /// Due so long from now.
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    r#in: Option<Duration>,
    /// Due at this moment.
    #[arg(long, value_name = "TIME", value_parser = parse_time_ms)]
    at: Option<i64>,
}

pub async fn run(context: &Context, verb: JobVerb) -> Result<u8, Failure> {
    let store = context.store().await?;
    match verb {
        JobVerb::Show(named) => show::show(context, find(&store, &named.job).await?)?,
        JobVerb::List(args) => list_jobs(context, &store, &args).await?,
        JobVerb::Wait(args) => {
            let found = find(&store, &args.named.job).await?;
            return wait::answer(context, &store, &found.queue, &found.id, args.timeout, true).await;
        }
        JobVerb::Cancel(named) => {
            let Found { queue, id, .. } = find(&store, &named.job).await?;
            match store.cancel(&queue, &id).await? {
                Cancelled::Now => after(context, &store, &queue, &id, "is cancelled").await?,
                Cancelled::Told(worker) => {
                    let told = format!("runs; {} on {} is told to stop it", worker.label(), worker.host());
                    after(context, &store, &queue, &id, &told).await?;
                }
                Cancelled::AlreadyEnded(state) => {
                    return Err(Failure::refused(format!("{queue}/{id} has ended already: it is {state}")));
                }
                Cancelled::NotFound => return Err(gone(&queue, &id)),
            }
        }
        JobVerb::Retry(named) => {
            let Found { queue, id, .. } = find(&store, &named.job).await?;
            match store.retry(&queue, &id).await? {
                Changed::Ok => after(context, &store, &queue, &id, "is ready to run").await?,
                Changed::Refused(state) => {
                    return Err(Failure::refused(format!("{queue}/{id} is not retried: it is {state}")));
                }
                Changed::NotFound => return Err(gone(&queue, &id)),
            }
        }
        JobVerb::Reschedule(args) => reschedule(context, &store, &args).await?,
        JobVerb::Delete(named) => {
            let Found { queue, id, .. } = find(&store, &named.job).await?;
            match store.delete(&queue, &id).await? {
                Changed::Ok if context.screen.json => {
                    context.screen.document(&json!({"id": id, "queue": queue, "deleted": true}))?;
                }
                Changed::Ok => context.screen.line(&format!("{queue}/{id} is forgotten"))?,
                Changed::Refused(state) => {
                    return Err(Failure::refused(format!("{queue}/{id} is not deleted: it is {state}"))
                        .advise(format!("`roundsman job cancel {queue}/{id}` stops it")));
                }
                Changed::NotFound => return Err(gone(&queue, &id)),
            }
        }
        JobVerb::Explain(named) => {
            let found = find(&store, &named.job).await?;
            explain::run(context, &store, found).await?;
        }
    }
    DONE
}

fn gone(queue: &QueueName, id: &JobId) -> Failure {
    Failure::not_found(format!("there is no job {queue}/{id} any more"))
}

/// Tells what was done, or prints the job as it is now.
async fn after(
    context: &Context,
    store: &Store,
    queue: &QueueName,
    id: &JobId,
    what: &str,
) -> Result<(), Failure> {
    if !context.screen.json {
        return context.screen.line(&format!("{queue}/{id} {what}"));
    }
    match look(store, queue, id).await? {
        Some(found) => context.screen.document(&found.view()?),
        None => context.screen.document(&json!({"id": id, "queue": queue, "state": null})),
    }
}

async fn reschedule(context: &Context, store: &Store, args: &RescheduleArgs) -> Result<(), Failure> {
    let Found { queue, id, now, .. } = find(store, &args.named.job).await?;
    let due = match (args.r#in, args.at) {
        (Some(span), _) if span > MAX_AHEAD => {
            return Err(Failure::failed("in: lies more than 10 years ahead"));
        }
        (Some(span), _) if span.is_zero() => Due::Now,
        (Some(span), _) => Due::In(span),
        (None, Some(at)) if at < 0 => return Err(Failure::failed("due: must not be negative")),
        (None, Some(at)) if StoreTime::from_millis(at) > now + MAX_AHEAD => {
            return Err(Failure::failed(
                "due: lies more than 10 years ahead (Unix milliseconds are expected)",
            ));
        }
        (None, Some(at)) => Due::At(StoreTime::from_millis(at)),
        (None, None) => Due::Now,
    };
    match store.reschedule(&queue, &id, due).await? {
        Changed::Ok => {
            let found = look(store, &queue, &id).await?;
            let due = found.and_then(|found| {
                let now = found.now.as_millis();
                found.view().ok().map(|view| crate::time::moment(view.due, now))
            });
            let what = due.map_or_else(|| "is moved".to_owned(), |due| format!("is due {due}"));
            after(context, store, &queue, &id, &what).await
        }
        Changed::Refused(state) => {
            Err(Failure::refused(format!("{queue}/{id} does not wait any more: it is {state}")))
        }
        Changed::NotFound => Err(gone(&queue, &id)),
    }
}

async fn list_jobs(context: &Context, store: &Store, args: &ListArgs) -> Result<(), Failure> {
    let queues = match &args.queue {
        Some(name) => vec![context.known_queue(store, name).await?],
        None => store.queues().await?,
    };
    let states = |state: &State| args.state.is_empty() || args.state.contains(state);
    let sections: Vec<Section> = queues
        .iter()
        .flat_map(|queue| State::ALL.into_iter().filter(states).map(|state| (queue.clone(), state)))
        .collect();
    let wanted = Wanted {
        sections: &sections,
        filter: &Filter { kind: args.kind.clone(), error: args.error.clone() },
        cursor: args.cursor.as_deref(),
        limit: args.limit.and_then(|limit| usize::try_from(limit).ok()),
        stream: args.jsonl,
    };
    list(context, store, &wanted).await
}
