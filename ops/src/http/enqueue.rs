//! `POST /api/v1/queues/{queue}/jobs`: one job, an array of them, or a line each.
#![expect(unused_qualifications, reason = "utoipa's macro writes them")]

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use roundsman_shared::clock::Wall;
use roundsman_shared::job::spec::{self, Limits};
use roundsman_shared::job::{JobView, NewJob, Policy, reply};
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::store::{Enqueued, MAX_BATCH};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::answer::{Refusal, Result, answer};
use super::body::{self, Pieces};
use super::extract::{InQueue, Params};
use super::openapi::{Broken, Fail, JobDocument, NewJobDocument, Success};
use super::wait::{patience, until_ended};
use super::{Api, Shared};

/// The id of a job that names none.
const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Beside the payload.
pub(super) const REST: usize = 64 * 1024;
/// Of an array, which is held as a whole.
const ARRAY_BYTES: usize = 8 * 1024 * 1024;
/// Of lines, which are never held together.
const LINES_BYTES: usize = 1024 * 1024 * 1024;
/// Jobs of one call: what became of each is held until the last is stored.
const MOST: usize = 1_000_000;
/// Jobs of one call that waits for them, since they are held as a whole.
const MOST_WAITED_FOR: usize = 1000;
/// Results that go into one piece of an answer.
const PIECE: usize = 512;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EnqueueQuery {
    /// Answer when the job has ended, or after so long (`1200ms`, at most `5m`) with what there is by then.
    wait: Option<String>,
}

/// What became of one of many.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ItemResult {
    /// Its place among the jobs of the call, from 0.
    index: usize,
    /// As a call for it alone would have been answered: 201, 200, 400, 409, 413, 503, …
    #[serde(rename = "status")]
    code: u16,
    #[schema(value_type = Option<String>)]
    id: Option<JobId>,
    /// `created`, `existing` or `refused`.
    result: &'static str,
    /// Reasons by field.
    #[schema(value_type = Option<Object>)]
    error: Option<Box<Value>>,
    /// With `wait`: the job as it is by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<JobDocument>)]
    job: Option<Box<JobView>>,
}

/// Results in the order of the jobs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ItemResults {
    results: Vec<ItemResult>,
}

/// Enqueue one job, or many.
///
/// A JSON object is one job. A JSON array, or `application/x-ndjson` with an object a line, are many: each is answered
/// for itself, and a bad one stops no other. Repeated with the same id and content it is answered the same.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/jobs", tag = "jobs",
    params(("queue" = String, Path, description = "1 to 64 characters of A-Z a-z 0-9 . _ -"), EnqueueQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The id of the job, for one that names none")),
    request_body(content = NewJobDocument, description = "A job, or an array of jobs"),
    responses(
        (status = 201, description = "It was stored", body = Success<JobDocument>),
        (status = 200, description = "It was there already", body = Success<JobDocument>),
        (status = 207, description = "Of many, what became of each", body = Success<ItemResults>),
        (status = 400, description = "Something is wrong with it", body = Fail),
        (status = 409, description = "The id is taken by other content", body = Fail),
        (status = 413, description = "It is too long", body = Fail),
        (status = 503, description = "The queue is full or the store away", body = Broken),
        (status = 507, description = "The store is nearly full", body = Broken),
    )
)]
pub(super) async fn enqueue(
    State(api): Shared,
    InQueue(queue): InQueue,
    Params(query): Params<EnqueueQuery>,
    request: Request,
) -> Result {
    if reply::is_own(&queue) {
        return Err(Refusal::bad("queue", reply::OWN));
    }
    let wait = patience(query.wait.as_deref())?;
    let policy = api.policy(&queue).await?;
    let (head, body) = request.into_parts();
    let one_most = max_payload(&policy).saturating_add(REST);
    let one_only = || {
        if head.headers.contains_key(KEY) {
            return Err(Refusal::bad("Idempotency-Key", "names one job: give each of many its own \"id\""));
        }
        Ok(())
    };
    if is_lines(&head.headers) {
        one_only()?;
        let mut many = Many::new(&api, &queue, &policy, wait);
        lines(&mut many, Pieces::new(body, LINES_BYTES)).await?;
        return many.answer().await;
    }
    let _room = api.room_for(&head.headers).await?;
    let text = body::text(body, ARRAY_BYTES.max(one_most)).await?;
    if text.trim_start().starts_with('[') {
        one_only()?;
        let items: Vec<&RawValue> = serde_json::from_str(&text)
            .map_err(|error| Refusal::bad("body", format!("is no JSON: {error}")))?;
        let mut many = Many::new(&api, &queue, &policy, wait);
        for item in items {
            many.take(item.get()).await?;
        }
        return many.answer().await;
    }
    if text.len() > one_most {
        let reason = format!("is longer than any job of this queue: {one_most} bytes (max_payload)");
        return Err(Refusal::fail(StatusCode::PAYLOAD_TOO_LARGE, "payload", reason));
    }
    let job = parse(&text, &head.headers, &policy)?;
    one(&api, &queue, &policy, job, wait).await
}

fn is_lines(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"]
        .contains(&kind.as_str())
}

pub(super) fn max_payload(policy: &Policy) -> usize {
    usize::try_from(policy.max_payload).unwrap_or(usize::MAX)
}

pub(super) fn limits(policy: &Policy) -> Limits {
    Limits { max_payload: max_payload(policy), now: Wall::now() }
}

/// One job, with the id that a header gives it.
fn parse(text: &str, headers: &HeaderMap, policy: &Policy) -> Result<NewJob> {
    let Some(key) = headers.get(KEY) else { return Ok(spec::parse(text, &limits(policy))?) };
    let key = key.to_str().unwrap_or_default();
    // The draft writes it as a quoted string.
    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    let id = JobId::new(key).map_err(|error| Refusal::bad("Idempotency-Key", error.to_string()))?;
    Ok(spec::parse_named(text, Some(&id), &limits(policy))?)
}

async fn one(
    api: &Arc<Api>,
    queue: &QueueName,
    policy: &Policy,
    job: NewJob,
    wait: Option<Duration>,
) -> Result {
    let id = job.id.clone();
    let (_, funnel) = api.opened()?;
    let status = match funnel.enqueue(queue, job, policy.max_waiting).await? {
        Enqueued::Created { .. } => StatusCode::CREATED,
        Enqueued::Existing => StatusCode::OK,
        refusal => return Err(Refusal::not_stored(queue, &id, &refusal)),
    };
    let ids = [id];
    let found = match wait {
        Some(wait) => until_ended(api, queue, &ids, wait).await?,
        None => api.store()?.look(queue, &ids).await?,
    };
    match found.into_iter().next().flatten() {
        Some(found) => Ok(answer(status, found.view()?)),
        // It has ended and is not kept.
        None => Ok(answer(status, serde_json::json!({"id": ids[0], "queue": queue, "state": null}))),
    }
}

/// Many jobs on their way into the store.
struct Many<'m> {
    api: &'m Arc<Api>,
    queue: &'m QueueName,
    policy: &'m Policy,
    limits: Limits,
    wait: Option<Duration>,
    most: usize,
    batch: Vec<(usize, NewJob)>,
    results: Vec<ItemResult>,
    /// There were more jobs than a call may have.
    is_over: bool,
}

impl<'m> Many<'m> {
    fn new(api: &'m Arc<Api>, queue: &'m QueueName, policy: &'m Policy, wait: Option<Duration>) -> Self {
        let most = if wait.is_some() { MOST_WAITED_FOR } else { MOST };
        let (limits, batch, results) = (limits(policy), Vec::new(), Vec::new());
        Self { api, queue, policy, limits, wait, most, batch, results, is_over: false }
    }

    /// Takes one; what is wrong with it is its own result.
    async fn take(&mut self, text: &str) -> Result<()> {
        if self.is_over {
            return Ok(());
        }
        let index = self.results.len();
        if index == self.most {
            self.is_over = true;
            let reason = format!("a call takes {} jobs; none from this one on was stored", self.most);
            self.refused(None, &Refusal::fail(StatusCode::PAYLOAD_TOO_LARGE, "body", reason));
            return Ok(());
        }
        match spec::parse(text, &self.limits) {
            Err(error) => self.refused(None, &error.into()),
            Ok(job) => {
                let id = Some(job.id.clone());
                self.results.push(ItemResult {
                    index,
                    code: 201,
                    id,
                    result: "created",
                    error: None,
                    job: None,
                });
                self.batch.push((index, job));
            }
        }
        if self.batch.len() == MAX_BATCH { self.store().await } else { Ok(()) }
    }

    /// One that is refused before it has a place in a batch.
    fn refused(&mut self, id: Option<JobId>, refusal: &Refusal) {
        let index = self.results.len();
        self.results.push(ItemResult { index, code: 0, id, result: "", error: None, job: None });
        self.refuse(index, refusal);
    }

    fn refuse(&mut self, index: usize, refusal: &Refusal) {
        if let Some(result) = self.results.get_mut(index) {
            result.code = refusal.status.as_u16();
            result.result = "refused";
            result.error = Some(Box::new(refusal.reason()));
        }
    }

    async fn store(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let (indexes, jobs): (Vec<usize>, Vec<NewJob>) = self.batch.drain(..).unzip();
        let answers = match self.api.store()?.enqueue(self.queue, &jobs, self.policy.max_waiting).await {
            Ok(answers) => answers,
            Err(error) => {
                let refusal = Refusal::from(error);
                indexes.into_iter().for_each(|index| self.refuse(index, &refusal));
                return Ok(());
            }
        };
        for ((index, job), answer) in indexes.into_iter().zip(&jobs).zip(answers) {
            match answer {
                Enqueued::Created { .. } => {}
                Enqueued::Existing => {
                    if let Some(result) = self.results.get_mut(index) {
                        (result.code, result.result) = (200, "existing");
                    }
                }
                refusal => self.refuse(index, &Refusal::not_stored(self.queue, &job.id, &refusal)),
            }
        }
        Ok(())
    }

    async fn answer(mut self) -> Result {
        self.store().await?;
        if let Some(wait) = self.wait {
            let stored: Vec<(usize, JobId)> = self
                .results
                .iter()
                .filter(|result| result.code < 300)
                .filter_map(|result| Some((result.index, result.id.clone()?)))
                .collect();
            let ids: Vec<JobId> = stored.iter().map(|(_, id)| id.clone()).collect();
            let found = until_ended(self.api, self.queue, &ids, wait).await?;
            for ((index, _), found) in stored.into_iter().zip(found) {
                if let (Some(result), Some(found)) = (self.results.get_mut(index), found) {
                    result.job = Some(Box::new(found.view()?));
                }
            }
        }
        Ok(stream(self.results))
    }
}

/// Writes results piece by piece, so that they are never there twice.
fn stream(results: Vec<ItemResult>) -> Response {
    let mut results = results.into_iter().peekable();
    let mut first = true;
    let pieces = std::iter::from_fn(move || {
        if results.peek().is_none() && !first {
            return None;
        }
        let mut piece = Vec::new();
        if std::mem::take(&mut first) {
            piece.extend_from_slice(br#"{"status":"success","data":{"results":["#);
        }
        for result in results.by_ref().take(PIECE) {
            // Nothing in it fails to be written.
            let _ = serde_json::to_writer(&mut piece, &result);
            piece.push(b',');
        }
        if results.peek().is_none() {
            if piece.last() == Some(&b',') {
                piece.pop();
            }
            piece.extend_from_slice(b"]}}");
        }
        Some(Ok::<_, std::convert::Infallible>(Bytes::from(piece)))
    });
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::MULTI_STATUS, kind, Body::from_stream(futures_util::stream::iter(pieces))).into_response()
}

/// Cuts a body into lines, of which none is held that is longer than a job may be.
async fn lines(many: &mut Many<'_>, mut pieces: Pieces) -> Result<()> {
    let longest = many.limits.max_payload.saturating_add(REST);
    let (mut line, mut length) = (Vec::new(), 0_usize);
    while let Some(piece) = pieces.next().await? {
        let mut rest = &piece[..];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (part, after) = rest.split_at(end);
            length += part.len();
            if length <= longest {
                line.extend_from_slice(part);
            }
            take_line(many, &line, length).await?;
            line.clear();
            (length, rest) = (0, &after[1..]);
        }
        length += rest.len();
        if length <= longest {
            line.extend_from_slice(rest);
        }
    }
    take_line(many, &line, length).await
}

async fn take_line(many: &mut Many<'_>, line: &[u8], length: usize) -> Result<()> {
    if length > line.len() {
        let refusal =
            Refusal::fail(StatusCode::PAYLOAD_TOO_LARGE, "payload", format!("the line has {length} bytes"));
        many.refused(None, &refusal);
        return Ok(());
    }
    match std::str::from_utf8(line) {
        Ok(text) if text.trim().is_empty() => Ok(()),
        Ok(text) => many.take(text).await,
        Err(error) => {
            many.refused(None, &Refusal::bad("body", format!("is no UTF-8: {error}")));
            Ok(())
        }
    }
}
