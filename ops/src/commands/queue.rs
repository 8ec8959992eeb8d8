//! `queue …`: look at queues, stop and resume them, empty them, and change their live settings.

use clap::{Args, Subcommand};
use roundsman_shared::job::State;
use roundsman_shared::names::QueueName;
use roundsman_shared::settings::{Override, OverrideValue, Settings};
use roundsman_shared::store::{QueueView, Store};
use serde_json::{Value, json};

use super::DONE;
use crate::connect::Context;
use crate::errors::Failure;
use crate::fleet::{Fleet, Served};
use crate::overview::views;
use crate::print::many;
use crate::time;

#[derive(Debug, Subcommand)]
pub enum QueueVerb {
    /// List all queues in numbers.
    List,
    /// Print a queue in numbers, with its settings.
    Show(Named),
    /// Let no further job of the queue start; running ones go on.
    Pause(Named),
    /// Let jobs of the queue start again.
    Resume(Named),
    /// Remove all jobs that wait, or those of the states named; running ones go on.
    Purge(PurgeArgs),
    /// Change a setting for the whole fleet at once; it is kept in the store and stronger than files.
    Set(SetArgs),
}

#[derive(Debug, Args)]
pub struct Named {
    queue: String,
}

#[derive(Debug, Args)]
pub struct PurgeArgs {
    queue: String,
    /// scheduled, ready, done, dead, cancelled or expired; may be repeated. What waits, if it is left out.
    #[arg(long)]
    state: Vec<State>,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
pub struct SetArgs {
    queue: String,
    /// A key as under [queues.NAME] in a file, such as timeout or max_attempts.
    key: String,
    /// Its value as in a file, without quotes.
    #[arg(required_unless_present = "unset", conflicts_with = "unset", allow_negative_numbers = true)]
    value: Option<String>,
    /// Let the files' value count again.
    #[arg(long)]
    unset: bool,
}

pub async fn run(context: &Context, verb: QueueVerb) -> Result<u8, Failure> {
    let store = context.store().await?;
    match verb {
        QueueVerb::List => {
            let views = views(&store, &context.queues(&store).await?).await?;
            if context.screen.json {
                context.screen.document(&json!({"queues": views}))?;
            } else {
                table(context, &views)?;
            }
        }
        QueueVerb::Show(named) => show(context, &store, &named.queue).await?,
        QueueVerb::Pause(named) => pause(context, &store, &named.queue, true).await?,
        QueueVerb::Resume(named) => pause(context, &store, &named.queue, false).await?,
        QueueVerb::Purge(args) => purge(context, &store, &args).await?,
        QueueVerb::Set(args) => set(context, &store, &args).await?,
    }
    DONE
}

pub fn table(context: &Context, views: &[QueueView]) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = views
        .iter()
        .map(|view| {
            let oldest = view.oldest_due_ms.and_then(|ms| u64::try_from(ms).ok());
            let oldest = oldest.map(|ms| time::span(std::time::Duration::from_millis(ms)));
            vec![
                view.queue.clone(),
                if view.paused { "paused" } else { "open" }.to_owned(),
                view.scheduled.to_string(),
                view.ready.to_string(),
                view.running.to_string(),
                view.done.to_string(),
                view.dead.to_string(),
                view.inbox.to_string(),
                oldest.unwrap_or_default(),
            ]
        })
        .collect();
    let headings = ["QUEUE", "STATE", "SCHEDULED", "READY", "RUNNING", "DONE", "DEAD", "INBOX", "OLDEST DUE"];
    context.screen.table(&headings, &rows)
}

async fn show(context: &Context, store: &Store, name: &str) -> Result<(), Failure> {
    let queue = context.known_queue(store, name).await?;
    let (view, live) = (store.overview(&queue).await?, store.live(&queue).await?);
    let policy = context.policy(store, &queue).await?;
    let fleet = Fleet::read(store).await?;
    let mut document = serde_json::to_value(&view)?;
    let more = json!({"live": live, "settings": policy});
    if let (Value::Object(document), Value::Object(more)) = (&mut document, more) {
        document.extend(more);
    }
    if context.screen.json {
        return context.screen.document(&document);
    }
    for (key, value) in document.as_object().into_iter().flatten() {
        let settings = value.as_object().filter(|_| key == "settings");
        for (key, value) in settings.into_iter().flatten() {
            context.screen.line(&format!("settings.{key:<20} {value}"))?;
        }
        if settings.is_none() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            context.screen.line(&format!("{key:<29} {value}"))?;
        }
    }
    let pools: Vec<String> =
        fleet.pools_of(queue.as_str()).map(|(host, pool)| format!("{} on {host}", pool.pool)).collect();
    if !pools.is_empty() {
        context.screen.line(&format!("{:<29} {}", "served_by", pools.join(", ")))?;
    } else if fleet.serves(queue.as_str()) == Served::No {
        context.screen.warn(&fleet.neglect(queue.as_str()).unwrap_or_default());
    }
    Ok(())
}

async fn pause(context: &Context, store: &Store, name: &str, paused: bool) -> Result<(), Failure> {
    let queue = context.known_queue(store, name).await?;
    store.pause(&queue, paused).await?;
    if context.screen.json {
        return context.screen.document(&store.overview(&queue).await?);
    }
    let what = if paused { "is paused; running jobs go on" } else { "is open" };
    context.screen.line(&format!("{queue} {what}"))
}

const fn count_of(view: &QueueView, state: State) -> u64 {
    match state {
        State::Scheduled => view.scheduled,
        State::Ready => view.ready,
        State::Running => view.running,
        State::Done => view.done,
        State::Dead => view.dead,
        State::Cancelled => view.cancelled,
        State::Expired => view.expired,
    }
}

async fn purge(context: &Context, store: &Store, args: &PurgeArgs) -> Result<(), Failure> {
    if args.state.contains(&State::Running) {
        return Err(Failure::usage("running jobs are not purged").advise("`roundsman job cancel` stops one"));
    }
    let queue = context.known_queue(store, &args.queue).await?;
    let mut states =
        if args.state.is_empty() { vec![State::Ready, State::Scheduled] } else { args.state.clone() };
    states.sort_unstable();
    states.dedup();
    let view = store.overview(&queue).await?;
    let count: u64 = states.iter().map(|state| count_of(&view, *state)).sum();
    let names: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
    let mut purged = 0;
    if count > 0 {
        context
            .screen
            .confirm(&format!("remove {} of {queue} ({})", many(count, "job"), names.join(", ")), args.yes)
            .await?;
        purged = purge_states(context, store, &queue, &states, count).await?;
    }
    if context.screen.json {
        return context.screen.document(&json!({"queue": queue, "states": names, "purged": purged}));
    }
    context.screen.line(&format!("removed {} of {queue}", many(purged, "job")))
}

/// Removes batch by batch. What comes in meanwhile is not chased: as many go as were counted.
pub async fn purge_states(
    context: &Context,
    store: &Store,
    queue: &QueueName,
    states: &[State],
    count: u64,
) -> Result<u64, Failure> {
    let bar = context.screen.progress(count, "removed");
    let mut purged = 0;
    for state in states {
        while purged < count {
            let batch = store.purge(queue, *state).await?;
            purged += batch;
            bar.inc(batch);
            if batch == 0 {
                break;
            }
        }
    }
    bar.finish_and_clear();
    Ok(purged)
}

async fn set(context: &Context, store: &Store, args: &SetArgs) -> Result<(), Failure> {
    let queue = context.known_queue(store, &args.queue).await?;
    let live = store.live(&queue).await?;
    if let Some(value) = &args.value {
        // As the fleet will see it: over the files and what is set already.
        context.policy(store, &queue).await?.set(&args.key, value)?;
        if is_unserved(context, &queue, &args.key, value) {
            context.screen.warn(&format!("{} is kept, but nothing serves it yet", args.key));
        }
        store.set_live(&queue, &args.key, Some(value)).await?;
    } else {
        if !live.contains_key(&args.key) {
            let set: Vec<&str> = live.keys().map(String::as_str).collect();
            let set = if set.is_empty() { "nothing".to_owned() } else { set.join(", ") };
            return Err(Failure::not_found(format!("{} is not set for {queue}", args.key))
                .advise(format!("set for it: {set}")));
        }
        store.set_live(&queue, &args.key, None).await?;
    }
    if context.screen.json {
        return context.screen.document(&json!({"queue": queue, "live": store.live(&queue).await?}));
    }
    match &args.value {
        Some(value) => context.screen.line(&format!("{queue}: {} = {value}", args.key)),
        None => context.screen.line(&format!("{queue}: {} is as in the files again", args.key)),
    }
}

/// Whether the settings would call this key one for later.
fn is_unserved(context: &Context, queue: &QueueName, key: &str, value: &str) -> bool {
    let mut input = context.input.clone();
    let path = vec!["queues".to_owned(), queue.to_string(), key.to_owned()];
    input.overrides.push(Override {
        flag: "queue set".to_owned(),
        path,
        value: OverrideValue::Text(value.to_owned()),
    });
    Settings::load(&input)
        .is_ok_and(|loaded| loaded.settings.later.iter().any(|later| later.origin.to_string() == "queue set"))
}
