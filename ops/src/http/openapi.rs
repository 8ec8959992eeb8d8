//! The routes, and their description made of them: what is not registered here does not exist.
//!
//! The types of this file describe objects that others write; a test compares them with what is really sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse as _;
use axum::routing::get;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::dashboard;

use super::{Api, enqueue, fleet, health, jobs, listing, live, queues, timers};

/// A job as it is given.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NewJobDocument {
    /// 1 to 128 characters of `A-Z a-z 0-9 . _ : -`, unique in its queue; a UUIDv7 if it is left out.
    id: Option<String>,
    kind: Option<String>,
    /// Any JSON value, nesting at most 64 deep.
    payload: Value,
    /// Due so long from now, as `5s` or `2h 30m`; not with `due`.
    r#in: Option<String>,
    /// Due at this moment: Unix milliseconds or RFC 3339.
    due: Option<i64>,
    /// -255 to 255; the higher runs first.
    priority: Option<i16>,
    /// What jobs are limited and shared by, such as a tenant.
    key: Option<String>,
    timeout: Option<String>,
    max_attempts: Option<u32>,
    /// Unix milliseconds; not begun by then, it expires.
    expires: Option<i64>,
    headers: Option<BTreeMap<String, String>>,
    reply_to: Option<ReplyDocument>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReplyDocument {
    transport: String,
    uri: String,
}

/// A job as it is. Times are Unix milliseconds.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobDocument {
    id: String,
    queue: String,
    kind: Option<String>,
    /// `scheduled`, `ready`, `running`, `done`, `dead`, `cancelled` or `expired`.
    state: String,
    payload: Value,
    priority: i16,
    due: i64,
    created: i64,
    /// Deliveries so far; the first is 1.
    attempt: u32,
    crashes: u32,
    max_attempts: Option<u32>,
    key: Option<String>,
    headers: BTreeMap<String, String>,
    result: Option<Value>,
    error: Option<String>,
    attempts: Vec<AttemptDocument>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AttemptDocument {
    attempt: u32,
    /// Rises with each delivery of the job.
    token: u64,
    worker: String,
    host: String,
    started: Option<i64>,
    ended: Option<i64>,
    outcome: Option<String>,
    error: Option<String>,
    stderr_tail: Option<String>,
}

/// A queue in numbers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueueDocument {
    queue: String,
    paused: bool,
    scheduled: u64,
    ready: u64,
    running: u64,
    done: u64,
    dead: u64,
    cancelled: u64,
    expired: u64,
    oldest_due_ms: Option<i64>,
    inbox: u64,
    outbox: u64,
    enqueued_total: u64,
    ended_total: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobsPage {
    jobs: Vec<JobDocument>,
    /// The cursor of the next page; `null` at the end.
    next: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExplainDocument {
    id: String,
    queue: String,
    state: String,
    /// Each a sentence.
    reasons: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueuesDocument {
    queues: Vec<QueueDocument>,
}

/// JSend's envelope of a success.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Success<T: ToSchema> {
    /// `success`
    status: String,
    data: T,
}

/// The object of `status --json`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FleetDocument {
    store: BTreeMap<String, String>,
    hosts: Vec<Value>,
    queues: Vec<QueueDocument>,
}

/// What each pool on each host wants, and why.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ScalingDocument {
    pools: Vec<Value>,
}

/// The recent past in equal steps: name → line → a value a step, `null` where nothing is known.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SeriesDocument {
    /// Unix milliseconds.
    from: i64,
    to: i64,
    /// Milliseconds.
    step: i64,
    t: Vec<i64>,
    queues: BTreeMap<String, BTreeMap<String, Vec<Option<f64>>>>,
    pools: BTreeMap<String, BTreeMap<String, Vec<Option<f64>>>>,
}

/// Something is wrong with the call: reasons by field.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Fail {
    /// `fail`
    status: String,
    data: BTreeMap<String, String>,
}

/// Nothing is wrong with the call.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Broken {
    /// `error`
    status: String,
    message: String,
    code: u16,
}

#[derive(Debug, OpenApi)]
#[openapi(
    info(title = "Roundsman", description = "Background jobs and timers. Answers are JSend envelopes."),
    components(schemas(Broken)),
    tags((name = "jobs"), (name = "queues"), (name = "fleet"), (name = "timers", description = "Skyring's API"),
        (name = "machines"))
)]
struct Description;

/// What whoever is asked for a token may be answered, whatever the call is.
const ALWAYS: [(&str, &str, &str); 6] = [
    ("400", "Something is wrong with it", "Fail"),
    ("401", "A token is needed, or this one is not known", "Fail"),
    ("403", "The token may not do this", "Fail"),
    ("421", "The Host header names another server", "Fail"),
    ("429", "The token has had its calls for now", "Fail"),
    ("503", "The store is away", "Broken"),
];

/// Says once what is true of every call: those answers, and what names look like.
fn complete(description: &mut Value) {
    let paths = description.get_mut("paths").and_then(Value::as_object_mut);
    for (path, calls) in paths.into_iter().flatten() {
        if ["/livez", "/readyz", "/ping"].contains(&path.as_str()) {
            continue;
        }
        for call in calls.as_object_mut().into_iter().flat_map(serde_json::Map::values_mut) {
            if let Some(responses) = call.get_mut("responses").and_then(Value::as_object_mut) {
                for (status, why, schema) in ALWAYS {
                    let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
                    let said =
                        json!({"description": why, "content": {"application/json": {"schema": schema}}});
                    responses.entry(status).or_insert(said);
                }
            }
            let parameters = call.get_mut("parameters").and_then(Value::as_array_mut);
            for parameter in parameters.into_iter().flatten() {
                if parameter["in"] == "path" && path.starts_with("/api/") {
                    let pattern = if parameter["name"] == "queue" {
                        "^[A-Za-z0-9._-]{1,64}$"
                    } else {
                        "^[A-Za-z0-9._:-]{1,128}$"
                    };
                    parameter["schema"]["pattern"] = pattern.into();
                }
            }
        }
    }
}

/// All routes.
pub(super) fn router() -> Router<Arc<Api>> {
    let (router, mut description) = OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(enqueue::enqueue, listing::jobs))
        .routes(routes!(jobs::show, jobs::change, jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(jobs::explain))
        .routes(routes!(listing::all))
        .routes(routes!(queues::list))
        .routes(routes!(queues::show))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(listing::dead))
        .routes(routes!(fleet::fleet))
        .routes(routes!(fleet::scaling))
        .routes(routes!(live::series))
        .routes(routes!(live::events))
        .routes(routes!(live::metrics))
        .routes(routes!(timers::create))
        .routes(routes!(timers::show, timers::replace, timers::cancel))
        .routes(routes!(timers::ping))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .split_for_parts();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    description.components.get_or_insert_default().add_security_scheme("token", bearer);
    let mut description = serde_json::to_value(description).unwrap_or_default();
    complete(&mut description);
    let text: Arc<str> = description.to_string().into();
    let answer = move || {
        let text = text.to_string();
        async move { ([(header::CONTENT_TYPE, "application/json")], text).into_response() }
    };
    // Skyring takes a slash at the end.
    router
        .merge(dashboard::router())
        .route("/timer/", axum::routing::post(timers::create))
        .route("/timer/{id}/", get(timers::show).put(timers::replace).delete(timers::cancel))
        .route("/ping/", get(timers::ping))
        .route("/openapi.json", get(answer))
        .fallback(super::nowhere)
        .method_not_allowed_fallback(super::no_method)
}
