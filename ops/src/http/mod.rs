//! The API: a process of its own under the master, so that no stranger's request can touch a running job.
//!
//! ```text
//! server     connections, bounded                     answer   JSend, refusals
//! handover   the socket, from process to process
//!   └▶ router ─▶ access (host, origin, token) ─▶ jobs, queues, fleet, timers   one file a subject
//!                                                  └▶ funnel ─▶ store        enqueues, gathered
//! ```
//! It keeps nothing of its own: whichever host is asked answers from the store.

mod access;
mod answer;
mod body;
mod enqueue;
mod extract;
mod fleet;
mod funnel;
mod handover;
mod health;
mod jobs;
mod listing;
mod live;
mod openapi;
mod queues;
mod server;
mod timers;
mod wait;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use roundsman_shared::assignment::{Assignment, HttpSpec, PartSpec, Reaches};
use roundsman_shared::callback;
use roundsman_shared::clock::Mono;
use roundsman_shared::exit;
use roundsman_shared::job::Policy;
use roundsman_shared::names::QueueName;
use roundsman_shared::settings::Access;
use roundsman_shared::store::{Store, StoreError};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use self::access::{Call, Door};
use self::answer::{Refusal, Result};
use self::funnel::Funnel;
use self::live::Live;
use crate::part::{self, Part, Policies, Stop, Watched};

/// Between tries to bind the address, or to open the store.
const RETRY: Duration = Duration::from_millis(500);
/// The address is listened on when the store is open, or after so long, to say that it is away: whoever calls in between is
/// answered by the process before, where that still serves.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// How long a queue's live settings are believed.
const LIVE_FOR: Duration = Duration::from_secs(1);
/// Queues whose live settings are remembered.
const LIVE_QUEUES: usize = 4096;
/// A body up to here is held whenever it comes; of longer ones so many at once, and each waits so long for its turn.
const SMALL_BODY: usize = 64 * 1024;
const LARGE_BODIES: usize = 16;
const ROOM_WITHIN: Duration = Duration::from_secs(10);

/// Runs the role; answers the exit code.
pub(crate) fn run() -> u8 {
    part::run(serve)
}

async fn serve(part: &mut Part, assignment: Assignment) -> (u8, String) {
    let Some(PartSpec::Http(spec)) = assignment.part.clone() else {
        return (exit::CONFIG, "the assignment is for another part".to_owned());
    };
    let tls = match server::tls(spec.tls.as_ref()) {
        Ok(tls) => tls,
        Err(why) => return (exit::CONFIG, why),
    };
    let api = Arc::new(Api::new(&spec, assignment.lease, part.policies(), part.watched()));
    let mut opening = tokio::spawn(api.clone().open(assignment));
    tokio::select! {
        _ = &mut opening => {}
        told = part.starting(OPEN_WITHIN) => if told.is_some() {
            return (exit::OK, "told to stop".to_owned());
        },
    }
    let mut said = false;
    let listener = loop {
        match inherited(&spec).map_or_else(|| server::listen(spec.listen, spec.beside), Ok) {
            Ok(listener) => break listener,
            Err(error) => {
                if !said {
                    tracing::error!(
                        address = %spec.listen, %error,
                        "the API's address cannot be listened on; trying again (listen under [http] names another)"
                    );
                    said = true;
                }
                if part.starting(RETRY).await.is_some() {
                    return (exit::OK, "told to stop".to_owned());
                }
            }
        }
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!("the API is at {scheme}://{}", spec.listen);
    tokio::spawn(api.clone().watch());
    let offering = spec.handover.as_ref().and_then(|path| match handover::offer(path, &listener) {
        Ok(offering) => Some(tokio::spawn(offering)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the API cannot be handed over without a gap");
            None
        }
    });
    part.ready();
    let (stop, stopped) = watch::channel(false);
    let router =
        openapi::router().layer(middleware::from_fn_with_state(api.clone(), guard)).with_state(api.clone());
    let mut serving = tokio::spawn(server::serve(listener, tls, router, stopped));
    let told = part.serving(|| api.store.get().is_some()).await;
    // Whoever waits for a job's end gets an answer now.
    let _ = api.stop.send(true);
    // Else the socket stayed open where nobody takes over.
    if let Some(offering) = offering {
        offering.abort();
        let _ = offering.await;
    }
    let _ = stop.send(true);
    if let Stop::Drain(within) = told {
        part.draining(async { drop(tokio::time::timeout(within, &mut serving).await) }).await;
    }
    (exit::OK, "told to stop".to_owned())
}

/// The socket of the process that this one takes over from, if there is one.
fn inherited(spec: &HttpSpec) -> Option<TcpListener> {
    let path = spec.handover.as_ref().filter(|_| spec.beside)?;
    match handover::ask(path, spec.listen) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::debug!(%error, "no socket is handed over");
            None
        }
    }
}

/// What all calls share.
#[derive(Debug)]
struct Api {
    door: Door,
    /// With secrets masked.
    shown_store: String,
    /// How long an unheard worker keeps its jobs.
    lease: Duration,
    reaches: Reaches,
    store: OnceLock<(Store, Funnel)>,
    policies: Policies,
    lately: Mutex<HashMap<QueueName, (Mono, Arc<Policy>)>>,
    live: Live,
    /// Large bodies that may be held at once.
    room: Semaphore,
    /// Whether this process is about to leave.
    stop: watch::Sender<bool>,
}

impl Api {
    fn new(spec: &HttpSpec, lease: Duration, policies: Policies, watched: Watched) -> Self {
        Self {
            door: Door::new(spec),
            shown_store: spec.store.clone(),
            lease,
            reaches: spec.reaches.clone(),
            store: OnceLock::new(),
            policies,
            lately: Mutex::default(),
            live: Live::new(watched),
            room: Semaphore::new(LARGE_BODIES),
            stop: watch::channel(false).0,
        }
    }

    /// Opens the store, for as long as that takes.
    async fn open(self: Arc<Self>, assignment: Assignment) {
        let mut said = false;
        loop {
            match Store::open(&assignment.store_config()).await {
                Ok(store) => {
                    let funnel = Funnel::start(store.clone());
                    let _ = self.store.set((store, funnel));
                    return;
                }
                Err(error) if !said => {
                    tracing::warn!(%error, "the API waits for the store");
                    said = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn opened(&self) -> Result<&(Store, Funnel)> {
        let away = || StoreError::Unavailable("it has not been reached yet".to_owned());
        Ok(self.store.get().ok_or_else(away)?)
    }

    fn store(&self) -> Result<&Store> {
        Ok(&self.opened()?.0)
    }

    /// The policy of a queue, with its live settings over what the files say.
    async fn policy(&self, queue: &QueueName) -> Result<Arc<Policy>> {
        let now = Mono::now();
        let known = self.lately.lock().unwrap_or_else(PoisonError::into_inner).get(queue).cloned();
        if let Some((at, policy)) = known
            && now.since(at) < LIVE_FOR
        {
            return Ok(policy);
        }
        let told = self.policies.lock().unwrap_or_else(PoisonError::into_inner).get(queue).cloned();
        let mut policy = told.unwrap_or_default();
        // What cannot be read is another version's business; `doctor` tells of it.
        let _ = policy.apply_live(&self.store()?.live(queue).await?);
        let policy = Arc::new(policy);
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        if lately.len() >= LIVE_QUEUES {
            lately.retain(|_, (at, _)| now.since(*at) < LIVE_FOR);
        }
        if lately.len() < LIVE_QUEUES {
            lately.insert(queue.clone(), (now, policy.clone()));
        }
        Ok(policy)
    }

    /// Queues that settings name or pools of this host serve.
    fn configured(&self) -> Vec<QueueName> {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Waits until a body of this length may be held.
    async fn room_for(&self, headers: &HeaderMap) -> Result<Option<SemaphorePermit<'_>>> {
        let length =
            headers.get(header::CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length <= SMALL_BODY) {
            return Ok(None);
        }
        let full = || {
            Refusal::error(StatusCode::SERVICE_UNAVAILABLE, "too many large bodies at once")
                .retry_after(RETRY)
        };
        let room = tokio::time::timeout(ROOM_WITHIN, self.room.acquire()).await.map_err(|_late| full())?;
        room.map(Some).map_err(|_closed| full())
    }
}

type Shared = State<Arc<Api>>;

/// What a call needs, by its path and method: the role, and the queue that it is about.
fn needs(method: &Method, path: &str) -> Option<(Access, Option<String>)> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let access = if matches!(*method, Method::GET | Method::HEAD) { Access::Read } else { Access::Operate };
    match parts.as_slice() {
        // For machines that only want to know whether it lives.
        ["livez" | "readyz" | "ping"] => None,
        // The page itself holds no data.
        [""] | ["dashboard", _] if access == Access::Read => None,
        ["timer", ..] => Some((access, Some(callback::QUEUE.to_owned()))),
        ["api", "v1", "queues", queue, ..] => Some((access, Some((*queue).to_owned()))),
        _ => Some((access, None)),
    }
}

async fn guard(State(api): Shared, mut request: Request, next: Next) -> Response {
    let call = Call {
        method: request.method(),
        uri: request.uri(),
        version: request.version(),
        headers: request.headers(),
    };
    let needed = needs(request.method(), request.uri().path());
    let admitted = api.door.check(call).and_then(|()| {
        let Some((access, queue)) = needed else { return Ok(None) };
        let caller = api.door.admit(request.headers(), access)?;
        queue.map_or(Ok(()), |queue| caller.demand(&queue))?;
        Ok(Some(caller))
    });
    match admitted {
        Ok(Some(caller)) => drop(request.extensions_mut().insert(caller)),
        Ok(None) => {}
        Err(refusal) => return refusal.into_response(),
    }
    next.run(request).await
}

/// A path that nothing answers.
async fn nowhere() -> Response {
    let refusal = Refusal::fail(
        StatusCode::NOT_FOUND,
        "path",
        "there is nothing here; /openapi.json lists what there is",
    );
    ([(timers::REASON, "Not Found")], refusal).into_response()
}

/// A path that answers to other methods.
async fn no_method() -> Refusal {
    Refusal::fail(StatusCode::METHOD_NOT_ALLOWED, "method", "is not allowed here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_needs_its_role() {
        let needed =
            |method, path| needs(&method, path).map(|(access, queue)| (access, queue.unwrap_or_default()));
        for path in ["/livez", "/readyz", "/ping", "/ping/", "/", "/dashboard/main.js"] {
            assert_eq!(needed(Method::GET, path), None, "{path}");
        }
        for (method, path, access, queue) in [
            (Method::GET, "/api/v1/queues", Access::Read, ""),
            (Method::GET, "/api/v1/queues/a/jobs/b", Access::Read, "a"),
            (Method::POST, "/api/v1/queues/a/jobs", Access::Operate, "a"),
            (Method::PATCH, "/api/v1/queues/a/jobs/b", Access::Operate, "a"),
            (Method::POST, "/api/v1/queues/a/pause", Access::Operate, "a"),
            (Method::GET, "/openapi.json", Access::Read, ""),
            (Method::GET, "/api/v1/jobs", Access::Read, ""),
            (Method::GET, "/timer/x", Access::Read, "timers"),
            (Method::POST, "/timer/", Access::Operate, "timers"),
            (Method::DELETE, "/livez/x", Access::Operate, ""),
            // Not what the router takes it for, and so refused to who is limited to queues.
            (Method::GET, "/api/v1/queues/%61/jobs", Access::Read, "%61"),
        ] {
            assert_eq!(needed(method, path), Some((access, queue.to_owned())), "{path}");
        }
    }
}
