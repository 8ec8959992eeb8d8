//! Skyring's own API, so that its clients run unchanged: answers without bodies, reasons in a header, `location` on every
//! answer, unknown fields ignored. Where Skyring crashes or loses a timer, it is 400 or 409 here and the timer is kept.
//!
//! A timer is a job of the queue `timers`, whose handler is `callback`. A delivery that fails is tried again as that
//! queue's settings say; with `max_attempts = 1` under `[queues.timers]` it is not, as in Skyring.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use roundsman_shared::assignment::Reaches;
use roundsman_shared::callback::{QUEUE, Target};
use roundsman_shared::clock::Wall;
use roundsman_shared::job::spec::{self, Fields};
use roundsman_shared::job::{NewJob, Policy};
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::reach::Asked;
use roundsman_shared::store::{Cancelled, Changed, Enqueued};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;
use utoipa::ToSchema;

use super::answer::{Refusal, Result, success};
use super::enqueue::{REST, limits, max_payload};
use super::jobs::look;
use super::openapi::{Fail, JobDocument, Success};
use super::{Api, Shared, body};

/// Why a call was refused.
pub(super) const REASON: HeaderName = HeaderName::from_static("x-skyring-reason");
/// The id that a client wants for its timer.
const ID: HeaderName = HeaderName::from_static("x-timer-id");
/// Milliseconds; what JavaScript's own timers take.
const LONGEST_MS: f64 = 2_147_483_647.0;

/// A timer as Skyring's clients set it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TimerDocument {
    /// Milliseconds from now, 1 to 2147483647.
    timeout: f64,
    /// A string or an object, sent to the callback.
    data: Option<Value>,
    /// When its clock began, in Unix milliseconds; now, if it is left out.
    created: Option<i64>,
    callback: CallbackDocument,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CallbackDocument {
    /// `http`, `amqp`, `redis`, `tcp` or `stdout`.
    transport: String,
    method: String,
    uri: String,
}

/// The id of the path; taken apart by hand, since what is wrong with it is told in a header.
#[derive(Debug)]
pub(super) struct TimerId(String);

impl<S: Send + Sync> FromRequestParts<S> for TimerId {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let raw = RawPathParams::from_request_parts(parts, state).await;
        let raw = raw.map_err(|error| Refusal::bad("id", error.to_string()))?;
        Ok(Self(raw.iter().next().map(|(_, id)| id.to_owned()).unwrap_or_default()))
    }
}

/// Set a timer.
#[utoipa::path(
    post, path = "/timer", tag = "timers",
    params(("x-timer-id" = Option<String>, Header, description = "The timer's id; a UUID if it is left out")),
    request_body = TimerDocument,
    responses(
        (status = 201, description = "It is set, under the id in `location`"),
        (status = 400, description = "`x-skyring-reason` says what is wrong"),
        (status = 409, description = "A timer with this id is set already; it is untouched"),
        (status = 503, description = "The queue is full or the store away"),
    )
)]
pub(super) async fn create(State(api): Shared, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let (id, result) = match wanted_id(&head.headers) {
        Err(refusal) => (minted(), Err(refusal)),
        Ok(id) => {
            let result = set(&api, &id, &head.headers, body).await;
            (id, result)
        }
    };
    empty(StatusCode::CREATED, id.as_str(), result)
}

fn minted() -> JobId {
    JobId::new(&uuid::Uuid::new_v4().hyphenated().to_string()).unwrap_or_else(|_never| spec::generate_id())
}

fn wanted_id(headers: &HeaderMap) -> Result<JobId> {
    let Some(id) = headers.get(ID) else { return Ok(minted()) };
    JobId::new(id.to_str().unwrap_or_default()).map_err(|error| Refusal::bad("x-timer-id", error.to_string()))
}

async fn set(api: &Api, id: &JobId, headers: &HeaderMap, body: Body) -> Result<()> {
    let queue = queue()?;
    let policy = api.policy(&queue).await?;
    let job = read(api, id, headers, body, &policy).await?;
    let (store, funnel) = api.opened()?;
    match funnel.enqueue(&queue, job.clone(), policy.max_waiting).await? {
        Enqueued::Created { .. } => return Ok(()),
        Enqueued::Existing | Enqueued::Conflict => {}
        refusal => return Err(Refusal::not_stored(&queue, id, &refusal)),
    }
    // The id of a timer that is over is free again.
    let over = look(store, &queue, id).await?.is_none_or(|found| found.state().is_final());
    if over {
        store.delete(&queue, id).await?;
        if let Enqueued::Created { .. } = funnel.enqueue(&queue, job, policy.max_waiting).await? {
            return Ok(());
        }
    }
    Err(Refusal::fail(StatusCode::CONFLICT, "id", format!("a timer {id} is set already; it is untouched")))
}

/// Set a timer anew: its clock starts again.
#[utoipa::path(
    put, path = "/timer/{id}", tag = "timers", params(("id" = String, Path)),
    request_body = TimerDocument,
    responses(
        (status = 200, description = "It is set anew"),
        (status = 400, description = "`x-skyring-reason` says what is wrong; the timer is untouched"),
        (status = 404, description = "There is no such timer, or it is over"),
        (status = 409, description = "It is being delivered"),
    )
)]
pub(super) async fn replace(State(api): Shared, TimerId(id): TimerId, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let result = set_anew(&api, &id, &head.headers, body).await;
    empty(StatusCode::OK, &id, result)
}

async fn set_anew(api: &Api, id: &str, headers: &HeaderMap, body: Body) -> Result<()> {
    let (queue, id) = (queue()?, JobId::new(id).map_err(|_wrong| unknown(id))?);
    let policy = api.policy(&queue).await?;
    let job = read(api, &id, headers, body, &policy).await?;
    match api.store()?.replace(&queue, &id, &job.content, Some(job.due)).await? {
        Changed::Ok => Ok(()),
        Changed::Refused(state) if !state.is_final() => {
            Err(Refusal::fail(StatusCode::CONFLICT, "id", "the timer is being delivered"))
        }
        Changed::Refused(_) | Changed::NotFound => Err(unknown(id.as_str())),
    }
}

/// Cancel a timer.
#[utoipa::path(
    delete, path = "/timer/{id}", tag = "timers", params(("id" = String, Path)),
    responses(
        (status = 202, description = "It is cancelled"),
        (status = 404, description = "There is no such timer, or it is over"),
    )
)]
pub(super) async fn cancel(State(api): Shared, TimerId(id): TimerId, request: Request) -> Response {
    let result = cancelled(&api, &id, request.into_body()).await;
    empty(StatusCode::ACCEPTED, &id, result)
}

async fn cancelled(api: &Api, id: &str, body: Body) -> Result<()> {
    let text = body::text(body, REST).await?;
    if !text.trim().is_empty() {
        serde_json::from_str::<&RawValue>(&text)
            .map_err(|error| Refusal::bad("body", format!("is no JSON: {error}")))?;
    }
    let (queue, id) = (queue()?, JobId::new(id).map_err(|_wrong| unknown(id))?);
    match api.store()?.cancel(&queue, &id).await? {
        Cancelled::Now | Cancelled::Told(_) => Ok(()),
        Cancelled::AlreadyEnded(_) | Cancelled::NotFound => Err(unknown(id.as_str())),
    }
}

/// Look at a timer: the job that it is.
#[utoipa::path(
    get, path = "/timer/{id}", tag = "timers", params(("id" = String, Path)),
    responses((status = 200, body = Success<JobDocument>), (status = 404, body = Fail))
)]
pub(super) async fn show(State(api): Shared, TimerId(id): TimerId) -> Result {
    let (queue, id) = (queue()?, JobId::new(&id).map_err(|_wrong| unknown(&id))?);
    let found = look(api.store()?, &queue, &id).await?.ok_or_else(|| unknown(id.as_str()))?;
    Ok(success(found.view()?))
}

/// This process serves.
#[utoipa::path(get, path = "/ping", tag = "timers", responses((status = 200, description = "Nothing more")))]
pub(super) async fn ping() -> StatusCode {
    StatusCode::OK
}

fn queue() -> Result<QueueName> {
    Ok(QueueName::new(QUEUE)?)
}

fn unknown(id: &str) -> Refusal {
    Refusal::fail(StatusCode::NOT_FOUND, "id", format!("there is no timer {id:?}"))
}

/// An answer without a body.
fn empty(status: StatusCode, id: &str, result: Result<()>) -> Response {
    let mut response = match result {
        Ok(()) => status.into_response(),
        Err(refusal) => {
            let reason = printable(&refusal.line());
            let refused = refusal.into_response();
            let mut response = refused.status().into_response();
            for name in [header::RETRY_AFTER, header::CONNECTION] {
                if let Some(value) = refused.headers().get(&name) {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            if let Ok(reason) = HeaderValue::from_str(&reason) {
                response.headers_mut().insert(REASON, reason);
            }
            response
        }
    };
    if let Ok(location) = HeaderValue::from_str(&format!("/timer/{}", printable(id))) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Headers carry ASCII.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// As it comes: what is not named here is ignored.
#[derive(Debug, Deserialize)]
struct Written {
    #[serde(default)]
    timeout: Value,
    #[serde(default)]
    created: Option<Value>,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    callback: Value,
}

/// The payload of the job.
#[derive(Debug, Serialize)]
struct Payload<'p> {
    transport: &'p str,
    method: &'p str,
    uri: &'p str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'p RawValue>,
}

async fn read(api: &Api, id: &JobId, headers: &HeaderMap, body: Body, policy: &Policy) -> Result<NewJob> {
    let _room = api.room_for(headers).await?;
    let text = body::text(body, max_payload(policy).saturating_add(REST)).await?;
    job(&text, id, policy, &api.reaches, Wall::now())
}

fn job(text: &str, id: &JobId, policy: &Policy, reaches: &Reaches, now: Wall) -> Result<NewJob> {
    if !text.trim_start().starts_with('{') {
        return Err(Refusal::bad("body", "must be a JSON object"));
    }
    let written: Written =
        serde_json::from_str(text).map_err(|error| Refusal::bad("body", format!("is no timer: {error}")))?;
    let wait = wait(&written, now)?;
    let data = written.data.as_deref().filter(|data| data.get() != "null");
    if let Some(data) = data
        && !data.get().starts_with(['"', '{'])
    {
        return Err(Refusal::bad("data", "must be a string or an object"));
    }
    let Value::Object(callback) = &written.callback else {
        return Err(Refusal::bad("callback", "callback is required and must be an object"));
    };
    let field = |name: &str| {
        let text = callback.get(name).and_then(Value::as_str);
        text.ok_or_else(|| {
            Refusal::bad("callback", format!("callback.{name} is required and must be a string"))
        })
    };
    let (transport, uri, method) = (field("transport")?, field("uri")?, field("method")?);
    let wrong = |why: String| Refusal::bad("callback", format!("callback.{why}"));
    let target = Target::parse(transport, method, uri).map_err(wrong)?;
    permit(&target, reaches).map_err(wrong)?;
    let payload = serde_json::to_string(&Payload { transport, method, uri, data });
    let payload = payload.map_err(|error| Refusal::bad("body", error.to_string()))?;
    let fields = Fields { r#in: Some(wait), ..Fields::default() };
    // The id is not said to be chosen: once the timer is over, it is free again.
    let job = spec::check(fields, spec::compact(&payload)?, &limits(policy))?;
    Ok(NewJob { id: id.clone(), ..job })
}

/// How long it is to wait from now on.
fn wait(written: &Written, now: Wall) -> Result<Duration> {
    let millis = match &written.timeout {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let millis = millis.filter(|millis| *millis >= 1.0);
    let millis =
        millis.ok_or_else(|| Refusal::bad("timeout", "is required and must be a positive number"))?;
    if millis > LONGEST_MS {
        let reason = "must be less than or equal to 2147483647 milliseconds; POST /api/v1/queues/timers/jobs takes more";
        return Err(Refusal::bad("timeout", reason));
    }
    let elapsed = match &written.created {
        None | Some(Value::Null) => 0.0,
        Some(created) => {
            let created = created.as_f64().filter(|created| created.is_finite());
            let created = created.ok_or_else(|| Refusal::bad("created", "must be Unix milliseconds"))?;
            (now.as_millis() as f64 - created).max(0.0)
        }
    };
    Ok(Duration::from_secs_f64((millis - elapsed).max(0.0) / 1000.0))
}

/// Refuses an address that is known now to be closed. Names are looked up, and judged again, at delivery.
fn permit(target: &Target, reaches: &Reaches) -> std::result::Result<(), String> {
    let (reach, scheme, host, port) = match target {
        Target::Stdout => return Ok(()),
        Target::Http { url, .. } => (&reaches.http, url.scheme(), host_of(url), url.port_or_known_default()),
        Target::Amqp { server, .. } => {
            let usual = if server.scheme() == "amqps" { 5671 } else { 5672 };
            (&reaches.amqp, server.scheme(), host_of(server), server.port().or(Some(usual)))
        }
        Target::Redis { server, .. } => {
            (&reaches.redis, server.scheme(), host_of(server), server.port().or(Some(6379)))
        }
        Target::Tcp { host, port } => (&reaches.tcp, "tcp", host.clone(), Some(*port)),
    };
    let bare = host.trim_matches(['[', ']']);
    let local = ["localhost", "localhost."].contains(&bare) || bare.ends_with(".localhost");
    let address = if local { Some(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { bare.parse().ok() };
    let Some(address) = address else { return Ok(()) };
    let asked = Asked { scheme, host: bare, port: port.unwrap_or_default() };
    let name = target.transport();
    reach.check(asked, address).map_err(|refused| format!("uri: {refused} (allow under [transports.{name}])"))
}

fn host_of(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use roundsman_shared::job::Due;
    use roundsman_shared::reach::Reach;

    use super::*;

    fn read(text: &str) -> std::result::Result<NewJob, String> {
        let reaches =
            Reaches { http: Reach::global_and(&["127.0.0.0/8".parse().unwrap()]), ..Reaches::default() };
        let now: Wall = serde_json::from_str("1700000000000").unwrap();
        job(text, &JobId::new("a").unwrap(), &Policy::default(), &reaches, now)
            .map_err(|refusal| refusal.line())
    }

    fn timer(more: &str) -> String {
        format!(r#"{{"callback":{{"transport":"http","method":"post","uri":"http://127.0.0.1/x"}}{more}}}"#)
    }

    #[test]
    fn timeouts_are_as_in_skyring() {
        for (text, due) in [
            ("200", Due::In(Duration::from_millis(200))),
            ("1.5", Due::In(Duration::from_micros(1500))),
            ("\"200\"", Due::In(Duration::from_millis(200))),
            ("2147483647", Due::In(Duration::from_millis(2_147_483_647))),
            ("1000,\"created\":1699999995000", Due::Now),
            ("1000,\"created\":1699999999400", Due::In(Duration::from_millis(400))),
            ("1000,\"created\":1700000005000", Due::In(Duration::from_secs(1))),
        ] {
            let job = read(&timer(&format!(r#","timeout":{text}"#))).unwrap();
            assert_eq!((job.due, job.id.as_str()), (due, "a"), "{text}");
        }
        for text in ["0", "0.5", "-1", "null", "\"x\"", "\"\"", "[1]", "2147483648"] {
            let error = read(&timer(&format!(r#","timeout":{text}"#))).unwrap_err();
            assert!(error.starts_with("timeout: "), "{text}: {error}");
        }
        assert!(read(&timer("")).unwrap_err().contains("timeout: is required and must be a positive number"));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (data, right) in [
            ("\"x\"", true),
            ("{\"a\":1.0}", true),
            ("null", true),
            ("5", false),
            ("[1]", false),
            ("false", false),
        ] {
            let read = read(&timer(&format!(r#","timeout":5,"data":{data}"#)));
            assert_eq!(read.is_ok(), right, "{data}");
        }
        for (text, reason) in [
            ("null", "body: must be a JSON object"),
            ("", "body: must be a JSON object"),
            ("{", "body: is no timer: EOF"),
            (r#"{"timeout":5}"#, "callback: callback is required and must be an object"),
            (r#"{"timeout":5,"callback":"x"}"#, "callback: callback is required and must be an object"),
            (
                r#"{"timeout":5,"callback":{"method":"post","uri":"http://a"}}"#,
                "callback: callback.transport is required",
            ),
            (
                r#"{"timeout":5,"callback":{"transport":"http","method":"post"}}"#,
                "callback: callback.uri is required",
            ),
            (
                r#"{"timeout":5,"callback":{"transport":"http","uri":"http://a"}}"#,
                "callback: callback.method is required",
            ),
            (
                r#"{"timeout":5,"callback":{"transport":"smtp","method":"post","uri":"http://a"}}"#,
                "callback: callback.transport: \"smtp\" is none of http, amqp",
            ),
            (
                r#"{"timeout":5,"callback":{"transport":"http","method":"post","uri":"http://10.0.0.1/"}}"#,
                "callback: callback.uri: the address 10.0.0.1 is refused: it is private",
            ),
            (
                r#"{"timeout":5,"callback":{"transport":"tcp","method":"","uri":"tcp://localhost:9"}}"#,
                "callback: callback.uri: the address 127.0.0.1 is refused",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_payload_is_a_callback_and_keeps_its_data() {
        let job = read(&timer(r#","timeout":5,"data":{"b":1.0,"a":[]},"unknown":1"#)).unwrap();
        assert!(
            job.content.ends_with(
                r#"{"transport":"http","method":"post","uri":"http://127.0.0.1/x","data":{"b":1.0,"a":[]}}}"#
            ),
            "{}",
            job.content
        );
    }
}
