//! What moves: the metrics, the recent past in equal steps, and a stream of how things stand.
//!
//! ```text
//!   master ──figures, outlook──▶ Part ──once a second──▶ Series ──▶ /api/v1/series
//!                                  │                        ├─ minutes ─▶ store, and back at the next start
//!                                  ▼                        └─ point ─┐
//!                               /metrics    store ──state, while anybody looks──┴─▶ /api/v1/events
//! ```
//! The numbers of a moment cost the store nothing; it is asked only by a scrape, and while a stream is open.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{self, StreamExt as _};
use roundsman_shared::clock::Wall;
use roundsman_shared::store::Point;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::MissedTickBehavior;

use super::access::Caller;
use super::answer::{Refusal, Result, success};
use super::extract::Params;
use super::openapi::{Fail, SeriesDocument, Success};
use super::{Api, Shared};
use crate::exposition::{Format, Scrape};
use crate::overview::{Overview, views};
use crate::part::Watched;
use crate::series::{Chart, Kept, Series, Watcher};

const EVERY: Duration = Duration::from_secs(1);
/// A comment goes over a stream that is silent for so long, so that nobody in between closes it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Streams open at once.
const MOST_STREAMS: usize = 256;
/// Events that a slow reader may be behind; then it misses some.
const BEHIND: usize = 16;
/// What a piece of the past shows if no beginning is named.
const RECENT_MS: i64 = 300_000;
/// Steps of one answer.
const MOST_STEPS: i64 = 5_000;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Live {
    watched: Watched,
    series: Mutex<Series>,
    events: broadcast::Sender<Told>,
}

/// One event of the stream.
#[derive(Debug, Clone)]
struct Told {
    name: &'static str,
    data: Arc<str>,
}

impl Live {
    pub(super) fn new(watched: Watched) -> Self {
        Self { watched, series: Mutex::default(), events: broadcast::channel(BEHIND).0 }
    }

    fn series(&self) -> std::sync::MutexGuard<'_, Series> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, name: &'static str, data: &Value) {
        // Nobody looks: that is no error.
        let _ = self.events.send(Told { name, data: data.to_string().into() });
    }

    fn is_looked_at(&self) -> bool {
        self.events.receiver_count() > 0
    }
}

impl Api {
    /// Looks once a second, for as long as this process lives.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut watcher = Watcher::default();
        let mut restored = false;
        let mut shown = Value::Null;
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            if !restored {
                restored = self.restore().await;
            }
            let now = Wall::now().as_millis();
            let sample = {
                let seen = self.live.watched.lock().unwrap_or_else(PoisonError::into_inner);
                watcher.look(now, &seen.outlook, &seen.figures)
            };
            let point = json!({"t": now, "queues": &sample.queues, "pools": &sample.pools});
            self.live.tell("point", &point);
            let kept = self.live.series().push(now, sample);
            for kept in kept {
                tokio::spawn(self.clone().keep(kept));
            }
            if self.live.is_looked_at() {
                self.tell_state(&mut shown, now).await;
            } else {
                shown = Value::Null;
            }
        }
    }

    async fn tell_state(&self, shown: &mut Value, now: i64) {
        let Ok(mut state) = self.state().await else { return };
        if state != *shown {
            shown.clone_from(&state);
            state["now"] = now.into();
            self.live.tell("state", &state);
        }
    }

    async fn state(&self) -> Result<Value> {
        let store = self.store()?;
        let mut queues = store.queues().await?;
        queues.extend(self.configured());
        queues.sort_unstable();
        queues.dedup();
        Ok(Overview::read(store, &queues).await?.document(store, &self.shown_store))
    }

    /// Takes the past out of the store; false while the store is not there.
    async fn restore(&self) -> bool {
        let Ok(store) = self.store() else { return false };
        let now = Wall::now().as_millis() / 1000;
        for (step, reach) in Series::kept_steps() {
            let Ok(points) = store.plotted(step, now - reach, now).await else { return false };
            let mut series = self.live.series();
            for point in points {
                series.restore(point.step, point.at, &point.text);
            }
        }
        true
    }

    async fn keep(self: Arc<Self>, kept: Kept) {
        let Ok(store) = self.store() else { return };
        let point = Point { step: kept.step, at: kept.at, text: kept.text };
        if let Err(error) = store.plot(&point, kept.keep).await {
            tracing::debug!(%error, "a point of the charts was not kept");
        }
    }
}

/// Metrics: in the OpenMetrics format where `Accept` names it, else in the older text format of Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "machines",
    responses((status = 200, description = "The metrics", content(
        ("application/openmetrics-text"), ("text/plain")
    )))
)]
pub(super) async fn metrics(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result {
    caller.demand_all()?;
    let format = Format::of(headers.get(header::ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or_default());
    let queues = match api.queues(&caller).await {
        Ok(queues) => views(api.store()?, &queues).await.ok(),
        Err(_) => None,
    };
    let (figures, outlook) = {
        let seen = api.live.watched.lock().unwrap_or_else(PoisonError::into_inner);
        (seen.figures.iter().cloned().collect(), seen.outlook.clone())
    };
    let scrape = Scrape { version: env!("CARGO_PKG_VERSION"), figures, outlook, queues };
    let broken =
        |_| Refusal::error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written down");
    let text = scrape.text(format).map_err(broken)?;
    Ok(([(header::CONTENT_TYPE, format.content_type()), (header::VARY, "accept")], text).into_response())
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Piece {
    /// Unix milliseconds; five minutes before the end if it is left out.
    #[param(value_type = Option<i64>)]
    from: Option<String>,
    /// Unix milliseconds; now if it is left out.
    #[param(value_type = Option<i64>)]
    to: Option<String>,
    /// The least length of a step in milliseconds. There are steps of 1 s, 10 s, 1 min and 10 min; the shortest that
    /// reaches back to `from` is taken.
    #[param(value_type = Option<i64>)]
    step: Option<String>,
}

/// The recent past of queues and pools in equal steps; `null` where nothing is known.
#[utoipa::path(
    get, path = "/api/v1/series", tag = "fleet", params(Piece),
    responses((status = 200, body = Success<SeriesDocument>), (status = 400, body = Fail),
        (status = 403, description = "The token is for some queues only", body = Fail))
)]
pub(super) async fn series(
    State(api): Shared,
    Extension(caller): Extension<Caller>,
    Params(piece): Params<Piece>,
) -> Result {
    caller.demand_all()?;
    Ok(success(api.live.chart(&piece, Wall::now().as_millis())?))
}

impl Live {
    fn chart(&self, piece: &Piece, now: i64) -> Result<Chart> {
        let millis = |name, text: &Option<String>| {
            let number = |text: &String| {
                text.parse::<i64>().map_err(|error| {
                    Refusal::bad(name, format!("must be a whole number of milliseconds: {error}"))
                })
            };
            text.as_ref().map(number).transpose()
        };
        let to = millis("to", &piece.to)?.unwrap_or(now);
        let from = millis("from", &piece.from)?.unwrap_or_else(|| to.saturating_sub(RECENT_MS));
        let step = millis("step", &piece.step)?.unwrap_or(0);
        if from >= to {
            return Err(Refusal::bad("from", "must lie before to"));
        }
        if to > now.saturating_add(86_400_000) || from < 0 {
            return Err(Refusal::bad(
                "to",
                "lies beyond tomorrow, or before 1970; both are Unix milliseconds",
            ));
        }
        let step = Series::step_for(from, now, step);
        if (to - from) / (i64::from(step) * 1000) > MOST_STEPS {
            return Err(Refusal::bad("from", format!("asks for more than {MOST_STEPS} steps of {step} s")));
        }
        Ok(self.series().chart(from, to, step))
    }
}

/// A stream of events (`text/event-stream`): `state` is the object of `/api/v1/fleet` with the time, sent when it has
/// changed, and `point` is the newest moment of the series; each at most once a second.
#[utoipa::path(
    get, path = "/api/v1/events", tag = "fleet",
    responses((status = 200, description = "The stream", content_type = "text/event-stream"),
        (status = 403, description = "The token is for some queues only", body = Fail),
        (status = 503, description = "As many streams are open as may be"))
)]
pub(super) async fn events(State(api): Shared, Extension(caller): Extension<Caller>) -> Result {
    caller.demand_all()?;
    if api.live.events.receiver_count() >= MOST_STREAMS {
        let refusal = Refusal::error(StatusCode::SERVICE_UNAVAILABLE, "too many streams are open");
        return Err(refusal.retry_after(EVERY * 10));
    }
    let events = api.live.events.subscribe();
    let mut first = api.state().await?;
    first["now"] = Wall::now().as_millis().into();
    let first = Told { name: "state", data: first.to_string().into() };
    let rest = stream::unfold(events, async |mut events| {
        loop {
            match events.recv().await {
                Ok(told) => return Some((told, events)),
                // It was too slow for some of them; each of the next says all that is true.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let mut stopped = api.stop.subscribe();
    let told = stream::once(async { first })
        .chain(rest)
        .map(|told| Ok::<_, Infallible>(Event::default().event(told.name).data(&*told.data)))
        .take_until(async move { drop(stopped.wait_for(|stopped| *stopped).await) });
    let mut response: Response =
        Sse::new(told).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}
