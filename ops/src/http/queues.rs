//! Queues in numbers, and whether their jobs may start.

use axum::Extension;
use axum::extract::State;
use roundsman_shared::names::QueueName;
use serde_json::{Value, json};

use super::access::Caller;
use super::answer::{Refusal, Result, success};
use super::extract::InQueue;
use super::openapi::{Fail, QueueDocument, QueuesDocument, Success};
use super::{Api, Shared};
use crate::overview::views;

impl Api {
    /// The queues that exist and that the caller may see: named in the store or in the settings. Sorted.
    pub(super) async fn queues(&self, caller: &Caller) -> Result<Vec<QueueName>> {
        let mut queues = self.store()?.queues().await?;
        queues.extend(self.configured());
        queues.retain(|queue| caller.sees(queue.as_str()));
        queues.sort_unstable();
        queues.dedup();
        Ok(queues)
    }

    /// Refuses a queue that does not exist.
    pub(super) async fn demand_queue(&self, queue: &QueueName) -> Result<()> {
        if self.configured().contains(queue) || self.store()?.queues().await?.contains(queue) {
            return Ok(());
        }
        Err(Refusal::no_queue(queue))
    }
}

/// List the queues in numbers.
#[utoipa::path(get, path = "/api/v1/queues", tag = "queues", responses((status = 200, body = Success<QueuesDocument>)))]
pub(super) async fn list(State(api): Shared, Extension(caller): Extension<Caller>) -> Result {
    let queues = api.queues(&caller).await?;
    Ok(success(json!({"queues": views(api.store()?, &queues).await?})))
}

/// A queue in numbers, with its settings.
#[utoipa::path(
    get, path = "/api/v1/queues/{queue}", tag = "queues", params(("queue" = String, Path)),
    responses((status = 200, body = Success<QueueDocument>), (status = 404, body = Fail))
)]
pub(super) async fn show(State(api): Shared, InQueue(queue): InQueue) -> Result {
    api.demand_queue(&queue).await?;
    let store = api.store()?;
    let (view, live) = (store.overview(&queue).await?, store.live(&queue).await?);
    let policy = api.policy(&queue).await?;
    let unreadable = |error: serde_json::Error| {
        Refusal::error(axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    };
    let mut document = serde_json::to_value(&view).map_err(unreadable)?;
    if let (Value::Object(document), Value::Object(more)) =
        (&mut document, json!({"live": live, "settings": &*policy}))
    {
        document.extend(more);
    }
    Ok(success(document))
}

/// Let no further job of the queue start; running ones go on.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/pause", tag = "queues", params(("queue" = String, Path)),
    responses((status = 200, body = Success<QueueDocument>), (status = 404, body = Fail))
)]
pub(super) async fn pause(State(api): Shared, InQueue(queue): InQueue) -> Result {
    set_paused(&api, &queue, true).await
}

/// Let jobs of the queue start again.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/resume", tag = "queues", params(("queue" = String, Path)),
    responses((status = 200, body = Success<QueueDocument>), (status = 404, body = Fail))
)]
pub(super) async fn resume(State(api): Shared, InQueue(queue): InQueue) -> Result {
    set_paused(&api, &queue, false).await
}

async fn set_paused(api: &Api, queue: &QueueName, paused: bool) -> Result {
    api.demand_queue(queue).await?;
    let store = api.store()?;
    store.pause(queue, paused).await?;
    Ok(success(store.overview(queue).await?))
}
