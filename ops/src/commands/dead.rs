//! `dead …`: dead letters, by themselves or by the cause that they share.

use clap::{Args, Subcommand, ValueEnum};
use roundsman_shared::job::State;
use roundsman_shared::job::letter::is_no_job;
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::store::{Changed, MAX_BATCH, Store};
use serde_json::json;

use super::find::find;
use super::list::{Wanted, list};
use super::queue::purge_states;
use super::{DONE, show};
use crate::causes::{Causes, FURTHEST};
use crate::connect::Context;
use crate::errors::Failure;
use crate::print::many;
use crate::time;
use crate::walk::{Filter, Section, Walk};

const LETTER: &str = "dead letter";
/// Changes on their way to the store at once.
const AT_ONCE: usize = 32;

#[derive(Debug, Subcommand)]
pub enum DeadVerb {
    /// List dead letters from the newest, or grouped by cause.
    List(ListArgs),
    /// Print a dead letter with all its attempts.
    Show(Named),
    /// Make dead letters run again: one, those that match, or all.
    Retry(BulkArgs),
    /// Remove dead letters: one, those that match, or all.
    Purge(BulkArgs),
}

#[derive(Debug, Args)]
pub struct Named {
    /// QUEUE/ID, or an id that is looked up in every queue.
    #[arg(value_name = "ID")]
    job: String,
}

#[derive(Debug, Clone, Args)]
pub struct FilterArgs {
    /// Only of this queue.
    #[arg(long)]
    queue: Option<String>,
    /// Only of this kind.
    #[arg(long)]
    kind: Option<String>,
    /// Only with this in their error; or a group's cause, in which # stands for any number.
    #[arg(long, value_name = "PART")]
    error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Grouping {
    Error,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Group by cause.
    #[arg(long, conflicts_with_all = ["limit", "cursor", "jsonl"])]
    by: Option<Grouping>,
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
pub struct BulkArgs {
    /// QUEUE/ID, or an id that is looked up in every queue.
    #[arg(value_name = "ID", conflicts_with_all = ["queue", "kind", "error"])]
    job: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Retry,
    Purge,
}

impl Change {
    const fn done(self) -> &'static str {
        match self {
            Self::Retry => "retried",
            Self::Purge => "purged",
        }
    }

    async fn apply(self, store: &Store, queue: &QueueName, id: &JobId) -> Result<Changed, Failure> {
        Ok(match self {
            Self::Retry => store.retry(queue, id).await?,
            Self::Purge => store.delete(queue, id).await?,
        })
    }
}

pub async fn run(context: &Context, verb: DeadVerb) -> Result<u8, Failure> {
    let store = context.store().await?;
    match verb {
        DeadVerb::Show(named) => {
            let found = find(&store, &named.job).await?;
            if found.state() != State::Dead {
                return Err(no_dead_letter(&found.queue, &found.id, found.state()));
            }
            show::show(context, found)?;
        }
        DeadVerb::List(args) => {
            let sections = args.filter.sections(context, &store).await?;
            if args.by == Some(Grouping::Error) {
                groups(context, &store, &sections, &args.filter.filter()).await?;
            } else {
                let wanted = Wanted {
                    sections: &sections,
                    filter: &args.filter.filter(),
                    cursor: args.cursor.as_deref(),
                    limit: args.limit.and_then(|limit| usize::try_from(limit).ok()),
                    stream: args.jsonl,
                };
                list(context, &store, &wanted).await?;
            }
        }
        DeadVerb::Retry(args) => change(context, &store, &args, Change::Retry).await?,
        DeadVerb::Purge(args) => change(context, &store, &args, Change::Purge).await?,
    }
    DONE
}

fn no_dead_letter(queue: &QueueName, id: &JobId, state: State) -> Failure {
    Failure::not_found(format!("{queue}/{id} is no dead letter: it is {state}"))
}

impl FilterArgs {
    fn filter(&self) -> Filter {
        Filter { kind: self.kind.clone(), error: self.error.clone() }
    }

    async fn sections(&self, context: &Context, store: &Store) -> Result<Vec<Section>, Failure> {
        let queues = match &self.queue {
            Some(name) => vec![context.known_queue(store, name).await?],
            None => store.queues().await?,
        };
        Ok(queues.into_iter().map(|queue| (queue, State::Dead)).collect())
    }
}

async fn groups(
    context: &Context,
    store: &Store,
    sections: &[Section],
    filter: &Filter,
) -> Result<(), Failure> {
    let Causes { groups, looked, more, now } = Causes::read(store, sections, filter, FURTHEST).await?;
    if more {
        context.screen.note(&format!("looked at the newest {}; there are more", many(looked, LETTER)));
    }
    if context.screen.json {
        return context.screen.document(&json!({"groups": groups}));
    }
    if groups.is_empty() {
        context.screen.note("no dead letters");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = groups
        .into_iter()
        .map(|group| {
            vec![
                group.count.to_string(),
                group.error,
                group.queues.into_keys().collect::<Vec<_>>().join(", "),
                group.newest.map(|at| time::relative(at, now)).unwrap_or_default(),
                group.example,
            ]
        })
        .collect();
    context.screen.table(&["COUNT", "CAUSE", "QUEUES", "NEWEST", "EXAMPLE"], &rows)
}

async fn change(context: &Context, store: &Store, args: &BulkArgs, change: Change) -> Result<(), Failure> {
    let done = change.done();
    if let Some(name) = &args.job {
        let found = find(store, name).await?;
        if found.state() != State::Dead {
            return Err(no_dead_letter(&found.queue, &found.id, found.state()));
        }
        change.apply(store, &found.queue, &found.id).await?;
        return report(context, change, 1, 0);
    }
    let (sections, filter) = (args.filter.sections(context, store).await?, args.filter.filter());
    if change == Change::Purge && filter.is_any() {
        return purge_all(context, store, &sections, args.yes).await;
    }
    let (jobs, more, strange) = matching(store, &sections, &filter, change).await?;
    if strange > 0 {
        context.screen.note(&format!(
            "left out {}: inbox entries that are no jobs; `dead show` tells what is wrong, `dead retry ID` runs one as it is",
            many(strange, LETTER)
        ));
    }
    if more {
        context
            .screen
            .note(&format!("looked at {}; there are more: repeat it for them", many(FURTHEST, LETTER)));
    }
    if jobs.is_empty() {
        return report(context, change, 0, 0);
    }
    let verb = if change == Change::Retry { "retry" } else { "remove" };
    let what = format!("{verb} {}{}", many(jobs.len(), LETTER), filter.in_words());
    context.screen.confirm(&what, args.yes).await?;
    let bar = context.screen.progress(u64::try_from(jobs.len()).unwrap_or(0), done);
    let (mut changed, mut skipped) = (0, 0);
    let mut under_way = tokio::task::JoinSet::new();
    let mut jobs = jobs.into_iter();
    loop {
        while under_way.len() < AT_ONCE
            && let Some((queue, id)) = jobs.next()
        {
            let store = store.clone();
            under_way.spawn(async move { change.apply(&store, &queue, &id).await });
        }
        let Some(ended) = under_way.join_next().await else { break };
        match ended.map_err(|error| Failure::failed(error.to_string()))?? {
            Changed::Ok => changed += 1,
            // Somebody else was faster.
            Changed::Refused(_) | Changed::NotFound => skipped += 1,
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    report(context, change, changed, skipped)
}

fn report(context: &Context, change: Change, changed: u64, skipped: u64) -> Result<(), Failure> {
    let done = change.done();
    if context.screen.json {
        return context.screen.document(&json!({done: changed, "skipped": skipped}));
    }
    if skipped > 0 {
        context.screen.note(&format!("{skipped} were changed by somebody else meanwhile"));
    }
    context.screen.line(&format!("{done} {}", many(changed, LETTER)))
}

type Names = Vec<(QueueName, JobId)>;

/// The dead letters that match, whether there are more than may be looked at, and how many were left out since running
/// them makes no sense.
async fn matching(
    store: &Store,
    sections: &[Section],
    filter: &Filter,
    change: Change,
) -> Result<(Names, bool, usize), Failure> {
    let mut walk = Walk::new(store, sections, None)?;
    let (mut jobs, mut strange) = (Vec::new(), 0);
    while walk.looked < FURTHEST {
        let Some(page) = walk.step(MAX_BATCH).await? else { break };
        for found in page.into_iter().filter(|found| filter.matches(found)) {
            let error = found.progress.error.as_deref().unwrap_or_default();
            if change == Change::Retry && is_no_job(error) {
                strange += 1;
            } else {
                jobs.push((found.queue, found.id));
            }
        }
    }
    Ok((jobs, walk.cursor().is_some(), strange))
}

async fn purge_all(context: &Context, store: &Store, sections: &[Section], yes: bool) -> Result<(), Failure> {
    let mut counts = Vec::new();
    for (queue, _) in sections {
        counts.push((queue, store.overview(queue).await?.dead));
    }
    let count: u64 = counts.iter().map(|(_, dead)| dead).sum();
    let mut purged = 0;
    if count > 0 {
        context.screen.confirm(&format!("remove {}", many(count, LETTER)), yes).await?;
        for (queue, dead) in counts {
            purged += purge_states(context, store, queue, &[State::Dead], dead).await?;
        }
    }
    report(context, Change::Purge, purged, 0)
}
