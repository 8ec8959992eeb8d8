//! One job: look at it, change it, cancel it, run it again.
#![expect(unused_qualifications, reason = "utoipa's macro writes them")]

use axum::extract::{Request, State};
use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::record::encode;
use roundsman_shared::job::spec::{MAX_AHEAD, compact};
use roundsman_shared::job::view::Found;
use roundsman_shared::job::{Due, Policy, SpecError};
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::settings::units::{parse_duration, parse_time_ms};
use roundsman_shared::store::{Cancelled, Changed, Store};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::answer::{Refusal, Result, success};
use super::body;
use super::enqueue::{REST, max_payload};
use super::extract::{OneJob, Params};
use super::openapi::{ExplainDocument, Fail, JobDocument, Success};
use super::wait::{patience, until_ended};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// Answer when the job has ended, or after so long (`1200ms`, at most `5m`) with what there is by then.
    wait: Option<String>,
}

/// Look at a job, or wait for its end.
#[utoipa::path(
    get, path = "/api/v1/queues/{queue}/jobs/{id}", tag = "jobs",
    params(("queue" = String, Path), ("id" = String, Path), WaitQuery),
    responses((status = 200, body = Success<JobDocument>), (status = 404, body = Fail))
)]
pub(super) async fn show(State(api): Shared, job: OneJob, Params(query): Params<WaitQuery>) -> Result {
    let OneJob { queue, id } = job;
    let found = match patience(query.wait.as_deref())? {
        Some(wait) => until_ended(&api, &queue, std::slice::from_ref(&id), wait).await?.pop().flatten(),
        None => look(api.store()?, &queue, &id).await?,
    };
    Ok(success(found.ok_or_else(|| Refusal::no_job(&queue, &id))?.view()?))
}

/// Why a job is not running, why it ran more than once, and when it will run: in words, as `job explain` says it.
#[utoipa::path(
    get, path = "/api/v1/queues/{queue}/jobs/{id}/explain", tag = "jobs",
    params(("queue" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = Success<ExplainDocument>), (status = 404, body = Fail))
)]
pub(super) async fn explain(State(api): Shared, job: OneJob) -> Result {
    let OneJob { queue, id } = job;
    let (store, policy) = (api.store()?, api.policy(&queue).await?);
    let found = look(store, &queue, &id).await?.ok_or_else(|| Refusal::no_job(&queue, &id))?;
    let (job, reasons) = crate::explain::explain(store, found, &policy, api.lease).await?;
    Ok(success(json!({"id": job.id, "queue": job.queue, "state": job.state, "reasons": reasons})))
}

pub(super) async fn look(store: &Store, queue: &QueueName, id: &JobId) -> Result<Option<Found>> {
    Ok(store.look(queue, std::slice::from_ref(id)).await?.into_iter().next().flatten())
}

/// The job as it is after a change.
async fn after(store: &Store, queue: &QueueName, id: &JobId) -> Result {
    match look(store, queue, id).await? {
        Some(found) => Ok(success(found.view()?)),
        // It was not kept.
        None => Ok(success(json!({"id": id, "queue": queue, "state": null}))),
    }
}

/// What a waiting job is changed to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with \"in\" or \"due\", \"payload\", or both")]
pub(super) struct Change {
    /// Due so long from now, as `5s`.
    #[serde(default)]
    r#in: Option<String>,
    /// Due at this moment: Unix milliseconds, or RFC 3339.
    #[serde(default)]
    #[schema(value_type = Option<i64>)]
    due: Option<Moment>,
    /// Any JSON value, `null` too.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Object>)]
    payload: Option<Box<RawValue>>,
}

fn given<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a time: Unix milliseconds or RFC 3339")]
pub(super) enum Moment {
    Millis(i64),
    Text(String),
}

impl Change {
    fn due(&self, now: StoreTime) -> Result<Option<Due>> {
        match (&self.r#in, &self.due) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Refusal::bad("in", "give \"in\" or \"due\", not both")),
            (Some(text), None) => {
                let span = parse_duration(text).map_err(|error| Refusal::bad("in", error.to_string()))?;
                if span > MAX_AHEAD {
                    return Err(Refusal::bad("in", "lies more than 10 years ahead"));
                }
                Ok(Some(if span.is_zero() { Due::Now } else { Due::In(span) }))
            }
            (None, Some(moment)) => {
                let millis = match moment {
                    Moment::Millis(millis) => *millis,
                    Moment::Text(text) => {
                        parse_time_ms(text).map_err(|error| Refusal::bad("due", error.to_string()))?
                    }
                };
                if millis < 0 {
                    return Err(Refusal::bad("due", "must not be negative"));
                }
                let due = StoreTime::from_millis(millis);
                if due > now + MAX_AHEAD {
                    return Err(Refusal::bad(
                        "due",
                        "lies more than 10 years ahead (Unix milliseconds are expected)",
                    ));
                }
                Ok(Some(Due::At(due)))
            }
        }
    }

    fn payload(&self, policy: &Policy) -> Result<Option<String>> {
        let Some(payload) = &self.payload else { return Ok(None) };
        let (payload, limit) = (compact(payload.get())?, max_payload(policy));
        if payload.len() > limit {
            return Err(SpecError::PayloadTooLong { size: payload.len(), limit }.into());
        }
        Ok(Some(payload))
    }
}

/// Move a job in time, or give it another payload, while it waits.
#[utoipa::path(
    patch, path = "/api/v1/queues/{queue}/jobs/{id}", tag = "jobs",
    params(("queue" = String, Path), ("id" = String, Path)),
    request_body = Change,
    responses((status = 200, body = Success<JobDocument>), (status = 400, body = Fail), (status = 404, body = Fail),
        (status = 409, description = "It does not wait any more", body = Fail))
)]
pub(super) async fn change(State(api): Shared, job: OneJob, request: Request) -> Result {
    let OneJob { queue, id } = job;
    let policy = api.policy(&queue).await?;
    let text = body::text(request.into_body(), max_payload(&policy).saturating_add(REST)).await?;
    let change: Change = serde_json::from_str(&text).map_err(|error| SpecError::Json(error.to_string()))?;
    let store = api.store()?;
    let payload = change.payload(&policy)?;
    let found = look(store, &queue, &id).await?.ok_or_else(|| Refusal::no_job(&queue, &id))?;
    let due = change.due(found.now)?;
    let changed = match (payload, due) {
        (None, None) => {
            return Err(Refusal::bad("body", "changes nothing: give \"in\", \"due\" or \"payload\""));
        }
        (None, Some(due)) => store.reschedule(&queue, &id, due).await?,
        (Some(payload), due) => {
            let mut spec = found.record.decode()?;
            spec.payload = payload;
            store.replace(&queue, &id, &encode(&spec), due).await?
        }
    };
    match changed {
        Changed::Ok => after(store, &queue, &id).await,
        Changed::Refused(state) => Err(Refusal::in_state(&queue, &id, state)),
        Changed::NotFound => Err(Refusal::no_job(&queue, &id)),
    }
}

/// Cancel a job. A running one is told to stop.
#[utoipa::path(
    delete, path = "/api/v1/queues/{queue}/jobs/{id}", tag = "jobs",
    params(("queue" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = Success<JobDocument>), (status = 404, body = Fail),
        (status = 409, description = "It has ended already", body = Fail))
)]
pub(super) async fn cancel(State(api): Shared, OneJob { queue, id }: OneJob) -> Result {
    let store = api.store()?;
    match store.cancel(&queue, &id).await? {
        Cancelled::Now | Cancelled::Told(_) => after(store, &queue, &id).await,
        Cancelled::AlreadyEnded(state) => Err(Refusal::in_state(&queue, &id, state)),
        Cancelled::NotFound => Err(Refusal::no_job(&queue, &id)),
    }
}

/// Run an ended job again, or a scheduled one now.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/jobs/{id}/retry", tag = "jobs",
    params(("queue" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = Success<JobDocument>), (status = 404, body = Fail),
        (status = 409, description = "Its state does not allow it", body = Fail))
)]
pub(super) async fn retry(State(api): Shared, OneJob { queue, id }: OneJob) -> Result {
    let store = api.store()?;
    match store.retry(&queue, &id).await? {
        Changed::Ok => after(store, &queue, &id).await,
        Changed::Refused(state) => Err(Refusal::in_state(&queue, &id, state)),
        Changed::NotFound => Err(Refusal::no_job(&queue, &id)),
    }
}
