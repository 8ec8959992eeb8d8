//! Pages of jobs: of one queue, and of the dead letters of all.
#![expect(unused_qualifications, reason = "utoipa's macro writes them")]

use axum::Extension;
use axum::extract::State;
use roundsman_shared::job::State as JobState;
use roundsman_shared::job::view::Found;
use roundsman_shared::names::{JobId, QueueName};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use super::access::Caller;
use super::answer::{Refusal, Result, success};
use super::extract::{InQueue, Params, number};
use super::jobs::look;
use super::openapi::{Fail, JobsPage, Success};
use super::{Api, Shared};
use crate::causes::{Causes, FURTHEST, LOOK};
use crate::walk::{Filter, Listing, PAGE, Section};

/// The most jobs of one page.
const MOST: usize = 1000;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct JobsQuery {
    /// `scheduled`, `ready`, `running`, `done`, `dead`, `cancelled` or `expired`; may be repeated, or hold several with
    /// commas between them.
    state: Vec<String>,
    /// Only of this kind; looks at a bounded number of jobs.
    kind: Option<String>,
    /// Only with this in their error; looks at a bounded number of jobs.
    error: Option<String>,
    /// `next` of the last page.
    cursor: Option<String>,
    /// At most so many, 1 to 1000; 50 if it is left out.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
}

/// List the jobs of a queue, a page at a time.
#[utoipa::path(
    get, path = "/api/v1/queues/{queue}/jobs", tag = "jobs",
    params(("queue" = String, Path), JobsQuery),
    responses((status = 200, body = Success<JobsPage>), (status = 400, body = Fail), (status = 404, body = Fail))
)]
pub(super) async fn jobs(
    State(api): Shared,
    InQueue(queue): InQueue,
    Params(query): Params<JobsQuery>,
) -> Result {
    let states = states(&query.state)?;
    let limit = number("limit", query.limit.as_deref(), PAGE, MOST)?;
    api.demand_queue(&queue).await?;
    let sections: Vec<Section> = states.into_iter().map(|state| (queue.clone(), state)).collect();
    let filter = Filter { kind: query.kind, error: query.error };
    let page = Listing::read(api.store()?, &sections, &filter, query.cursor.as_deref(), limit).await;
    Ok(success(page.map_err(|failure| of_cursor(failure, query.cursor.as_deref()))?))
}

/// The states that a query names; all where it names none.
fn states(words: &[String]) -> Result<Vec<JobState>> {
    let mut states = Vec::new();
    for word in words.iter().flat_map(|words| words.split(',')).filter(|word| !word.is_empty()) {
        let state: JobState = word.parse().map_err(|_unknown| {
            let all: Vec<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
            Refusal::bad("state", format!("{word:?} is none of {}", all.join(", ")))
        })?;
        states.push(state);
    }
    Ok(JobState::ALL.into_iter().filter(|state| states.is_empty() || states.contains(state)).collect())
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AllQuery {
    /// Only of this queue.
    queue: Option<String>,
    /// Only with this id, in whichever queue; or one job, as `QUEUE/ID`.
    id: Option<String>,
    /// `scheduled`, `ready`, `running`, `done`, `dead`, `cancelled` or `expired`; may be repeated, or hold several with
    /// commas between them.
    state: Vec<String>,
    /// Only of this kind; looks at a bounded number of jobs.
    kind: Option<String>,
    /// Only with this in their error; looks at a bounded number of jobs.
    error: Option<String>,
    /// `next` of the last page.
    cursor: Option<String>,
    /// At most so many, 1 to 1000; 50 if it is left out.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
}

/// List the jobs of all queues, a page at a time.
#[utoipa::path(
    get, path = "/api/v1/jobs", tag = "jobs", params(AllQuery),
    responses((status = 200, body = Success<JobsPage>), (status = 400, body = Fail), (status = 404, body = Fail))
)]
pub(super) async fn all(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Params(query): Params<AllQuery>,
) -> Result {
    let states = states(&query.state)?;
    let limit = number("limit", query.limit.as_deref(), PAGE, MOST)?;
    let (named, id) = match query.id.as_deref().map(|id| id.split_once('/').ok_or(id)) {
        Some(Ok((queue, id))) => (Some(queue), Some(id)),
        Some(Err(id)) => (None, Some(id)),
        None => (None, None),
    };
    let queues = queues_of(&api, &caller, query.queue.as_deref().or(named)).await?;
    let filter = Filter { kind: query.kind, error: query.error };
    if let Some(id) = id {
        let id = JobId::new(id).map_err(|error| Refusal::bad("id", error.to_string()))?;
        let mut jobs = Vec::new();
        for queue in &queues {
            let found = look(api.store()?, queue, &id).await?;
            let found = found.filter(|found| states.contains(&found.state()) && filter.matches(found));
            jobs.extend(found.map(Found::view).transpose()?);
        }
        return Ok(success(Listing { jobs, next: None }));
    }
    let each = |queue: QueueName| states.iter().map(move |state| (queue.clone(), *state));
    let sections: Vec<Section> = queues.into_iter().flat_map(each).collect();
    let page = Listing::read(api.store()?, &sections, &filter, query.cursor.as_deref(), limit).await;
    Ok(success(page.map_err(|failure| of_cursor(failure, query.cursor.as_deref()))?))
}

/// The queue that a query names, or all that the caller may see.
async fn queues_of(api: &Api, caller: &Caller, name: Option<&str>) -> Result<Vec<QueueName>> {
    let Some(name) = name else { return api.queues(caller).await };
    let queue = QueueName::new(name)?;
    caller.demand(queue.as_str())?;
    api.demand_queue(&queue).await?;
    Ok(vec![queue])
}

/// A cursor is all of a query that the walk refuses.
fn of_cursor(failure: crate::errors::Failure, cursor: Option<&str>) -> Refusal {
    match cursor {
        Some(cursor) if failure.code() == roundsman_shared::exit::USAGE => Refusal::bad(
            "cursor",
            format!("{cursor:?} is no cursor of this listing: take it from \"next\" of the same listing"),
        ),
        _ => failure.into(),
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeadQuery {
    /// Only of this queue.
    queue: Option<String>,
    /// Only of this kind.
    kind: Option<String>,
    /// Only with this in their error; or a group's cause, in which # stands for any number.
    error: Option<String>,
    /// `error`: answer `{"groups","looked","more"}` by cause, the largest first, instead of jobs.
    by: Option<String>,
    /// With `by`: look at so many, the newest of each queue, 1 to 100000; 4000 if it is left out. `more` says whether there
    /// are others.
    #[param(value_type = Option<u32>)]
    look: Option<String>,
    /// `next` of the last page.
    cursor: Option<String>,
    /// At most so many, 1 to 1000; 50 if it is left out.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
}

/// List dead letters from the newest, or by the cause that they share.
#[utoipa::path(
    get, path = "/api/v1/dead", tag = "jobs", params(DeadQuery),
    responses((status = 200, body = Success<JobsPage>), (status = 400, body = Fail), (status = 404, body = Fail))
)]
pub(super) async fn dead(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Params(query): Params<DeadQuery>,
) -> Result {
    let queues = queues_of(&api, &caller, query.queue.as_deref()).await?;
    let sections: Vec<Section> = queues.into_iter().map(|queue| (queue, JobState::Dead)).collect();
    let filter = Filter { kind: query.kind, error: query.error };
    match query.by.as_deref() {
        None if query.look.is_some() => Err(Refusal::bad("look", "goes with by=error alone")),
        None => {
            let limit = number("limit", query.limit.as_deref(), PAGE, MOST)?;
            let page = Listing::read(api.store()?, &sections, &filter, query.cursor.as_deref(), limit).await;
            Ok(success(page.map_err(|failure| of_cursor(failure, query.cursor.as_deref()))?))
        }
        Some("error") => {
            if query.cursor.is_some() || query.limit.is_some() {
                return Err(Refusal::bad("by", "groups have no pages: leave cursor and limit out"));
            }
            let look = number("look", query.look.as_deref(), LOOK, FURTHEST)?;
            let causes = Causes::read(api.store()?, &sections, &filter, look).await?;
            Ok(success(json!({"groups": causes.groups, "looked": causes.looked, "more": causes.more})))
        }
        Some(other) => Err(Refusal::bad("by", format!("{other:?} is none of error"))),
    }
}
