//! Handlers, jobs and failures: what users of this crate see.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display};
use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use roundsman_shared::job::settle::{FollowUp as SharedFollowUp, Outcome};
use roundsman_shared::job::spec::{self, Fields, SpecError};
use roundsman_shared::names::{JobId, QueueName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::watch;

use crate::session::Task;

/// A job as a handler gets it. `T` is the payload's type; a payload that is not of it makes the job a dead letter.
#[derive(Debug)]
pub struct Job<T> {
    pub payload: T,
    pub queue: QueueName,
    /// Stable over all attempts: what receivers can drop repeats by.
    pub id: JobId,
    pub kind: Option<String>,
    /// From 1.
    pub attempt: u32,
    /// Rises with each delivery of the job.
    pub token: i64,
    pub key: Option<String>,
    pub headers: BTreeMap<String, String>,
    /// How long the job may run.
    pub timeout: Duration,
    pub context: Context,
}

/// What a handler can tell, and be told, while it runs.
#[derive(Debug, Clone)]
pub struct Context {
    pub(crate) progress: Arc<AtomicU8>,
    pub(crate) stop: watch::Receiver<bool>,
}

/// A context's value for "no progress told".
pub(crate) const NO_PROGRESS: u8 = u8::MAX;

impl Context {
    /// Shows how far the job has come, in percent.
    pub fn progress(&self, percent: u8) {
        self.progress.store(percent.min(100), Ordering::Relaxed);
    }

    /// Whether the job is to stop: it was cancelled, is over its timeout, or its worker must leave. Async handlers are
    /// dropped at their next await; blocking ones should look here now and then, else their process is killed.
    #[must_use]
    pub fn should_stop(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits until [`Context::should_stop`].
    pub(crate) async fn stopped(&mut self) {
        if self.stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Why a handler did not finish its job. Any error turns into one that is tried again, by `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Try again: after the queue's backoff, or after this time.
    Retry { error: String, after: Option<Duration> },
    /// Never try again: a dead letter.
    Dead { error: String },
    /// Not now: call again after this time, without charging an attempt.
    Snooze(Duration),
}

impl Failure {
    /// Try again after the queue's backoff.
    pub fn retry(error: impl Display) -> Self {
        Self::Retry { error: error.to_string(), after: None }
    }

    /// Try again after this time.
    pub fn retry_after(error: impl Display, after: Duration) -> Self {
        Self::Retry { error: error.to_string(), after: Some(after) }
    }

    /// Never try again.
    pub fn dead(error: impl Display) -> Self {
        Self::Dead { error: error.to_string() }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        Self::Retry { error: text, after: None }
    }
}

/// A job that comes to exist in the same step as this one ends.
#[derive(Debug, Clone)]
pub struct FollowUp {
    pub queue: QueueName,
    pub kind: Option<String>,
    pub payload: serde_json::Value,
    pub delay: Duration,
}

impl FollowUp {
    /// A job for `queue`, due at once.
    pub fn new(queue: QueueName, payload: serde_json::Value) -> Self {
        Self { queue, kind: None, payload, delay: Duration::ZERO }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(mut self, kind: &str) -> Self {
        self.kind = Some(kind.to_owned());
        self
    }

    /// Due so long after the ack.
    #[must_use]
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// A result with follow-up jobs. A handler without any just returns what serialises.
#[derive(Debug, Clone, Default)]
pub struct Output {
    result: Option<Box<RawValue>>,
    follow_ups: Vec<FollowUp>,
}

impl Output {
    /// A result.
    ///
    /// # Errors
    /// When it does not serialise to JSON.
    pub fn new(result: &impl Serialize) -> Result<Self, Failure> {
        let raw = serde_json::value::to_raw_value(result)?;
        Ok(Self { result: (raw.get() != "null").then_some(raw), follow_ups: Vec::new() })
    }

    /// Another job to come to exist with this one's end.
    #[must_use]
    pub fn then(mut self, follow_up: FollowUp) -> Self {
        self.follow_ups.push(follow_up);
        self
    }

    fn outcome(self, job: &Task) -> Result<Outcome, Failure> {
        let follow_ups =
            self.follow_ups.into_iter().enumerate().map(|(index, wanted)| follow_up(job, index, wanted));
        Ok(Outcome::Done {
            result: self.result,
            follow_ups: follow_ups.collect::<Result<_, SpecError>>()?,
            note: None,
        })
    }
}

/// What a handler may return when all went well: anything that serialises, or an [`Output`].
pub trait Answer {
    /// As an output.
    ///
    /// # Errors
    /// When it does not serialise to JSON.
    fn output(self) -> Result<Output, Failure>;
}

impl<T: Serialize> Answer for T {
    fn output(self) -> Result<Output, Failure> {
        Output::new(&self)
    }
}

impl Answer for Output {
    fn output(self) -> Result<Output, Failure> {
        Ok(self)
    }
}

/// The follow-up's id is made of the job, its delivery and the index, so that the same ack makes the same jobs.
fn follow_up(job: &Task, index: usize, wanted: FollowUp) -> Result<SharedFollowUp, SpecError> {
    let seed = format!("{}/{}/{}/{index}", job.queue, job.id, job.token);
    let fields = Fields {
        id: Some(format!("{}-{index}", roundsman_shared::job::record::digest(&seed))),
        kind: wanted.kind,
        r#in: (!wanted.delay.is_zero()).then_some(wanted.delay),
        ..Fields::default()
    };
    let limits = spec::Limits { max_payload: usize::MAX, now: roundsman_shared::clock::Wall::now() };
    let payload = spec::compact(&wanted.payload.to_string())?;
    Ok(SharedFollowUp { queue: wanted.queue, job: spec::check(fields, payload, &limits)? })
}

/// How a run of a handler ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) stderr_tail: Option<String>,
    /// The handler cannot work at all: the worker leaves with this code, and its pool is at fault.
    pub(crate) unfit: Option<(u8, String)>,
    /// What a transport did for it.
    pub(crate) request: Option<Request>,
}

/// One request of a transport, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub transport: &'static str,
    pub outcome: &'static str,
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, stderr_tail: None, unfit: None, request: None }
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::from(match failure {
            Failure::Retry { error, after } => Outcome::Retry { error, after },
            Failure::Dead { error } => Outcome::Dead { error },
            Failure::Snooze(span) => Outcome::Snooze(span),
        })
    }
}

pub(crate) type Run = Pin<Box<dyn Future<Output = Ended>>>;

/// How long a job that is told to stop is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all: it is dropped.
    Drop,
    /// It stops by itself when told.
    Wait(Duration),
    /// It runs on a thread that nothing can stop but the end of the process.
    Forever,
}

/// Something that runs jobs. Started on the thread of the slots, and stays there.
pub(crate) trait Handler {
    fn start(&self, task: &Task, context: Context) -> Run;
    fn patience(&self) -> Patience;
}

type Make = Box<dyn FnOnce() -> Box<dyn Handler> + Send>;

fn job<T: DeserializeOwned>(task: &Task, context: Context) -> Result<Job<T>, Failure> {
    let payload = serde_json::from_str(&task.spec.payload)
        .map_err(|error| Failure::dead(format!("the payload does not fit its handler: {error}")))?;
    Ok(Job {
        payload,
        queue: task.queue.clone(),
        id: task.id.clone(),
        kind: task.spec.kind.clone(),
        attempt: task.attempt,
        token: task.token,
        key: task.spec.key.clone(),
        headers: task.spec.headers.clone(),
        timeout: task.timeout,
        context,
    })
}

struct Async<F, T>(F, std::marker::PhantomData<fn(T)>);

impl<F, Fut, T, R> Handler for Async<F, T>
where
    F: Fn(Job<T>) -> Fut + 'static,
    Fut: Future<Output = Result<R, Failure>> + 'static,
    T: DeserializeOwned + 'static,
    R: Answer + 'static,
{
    fn start(&self, task: &Task, context: Context) -> Run {
        let job = match job(task, context) {
            Ok(job) => job,
            Err(failure) => return Box::pin(std::future::ready(failure.into())),
        };
        let (run, task) = ((self.0)(job), task.clone());
        Box::pin(async move {
            run.await
                .and_then(Answer::output)
                .and_then(|output| output.outcome(&task))
                .map_or_else(Ended::from, Ended::from)
        })
    }

    fn patience(&self) -> Patience {
        Patience::Drop
    }
}

struct Blocking<F, T>(Arc<F>, std::marker::PhantomData<fn(T)>);

impl<F, T, R> Handler for Blocking<F, T>
where
    F: Fn(Job<T>) -> Result<R, Failure> + Send + Sync + 'static,
    T: DeserializeOwned + Send + 'static,
    R: Answer + 'static,
{
    fn start(&self, task: &Task, context: Context) -> Run {
        let (call, task) = (self.0.clone(), task.clone());
        let run = tokio::task::spawn_blocking(move || {
            job(&task, context)
                .and_then(|job| call(job))
                .and_then(Answer::output)
                .and_then(|output| output.outcome(&task))
        });
        Box::pin(async move {
            match run.await {
                Ok(Ok(outcome)) => outcome.into(),
                Ok(Err(failure)) => failure.into(),
                Err(error) if error.is_panic() => panicked(error.into_panic().as_ref()),
                Err(_) => Outcome::GiveBack.into(),
            }
        })
    }

    fn patience(&self) -> Patience {
        Patience::Forever
    }
}

/// A panic is a failure of the job, not of the worker.
pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Ended {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned());
    Failure::retry(format!("the handler panicked: {text}")).into()
}

/// The handlers of a worker, by kind.
#[derive(Default)]
pub(crate) struct Handlers {
    pub(crate) by_kind: HashMap<String, Box<dyn Handler>>,
    /// For jobs of any other kind, and of none.
    pub(crate) other: Option<Box<dyn Handler>>,
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_kind.keys()).finish()
    }
}

impl Handlers {
    pub(crate) fn find(&self, kind: Option<&str>) -> Option<&dyn Handler> {
        kind.and_then(|kind| self.by_kind.get(kind)).or(self.other.as_ref()).map(AsRef::as_ref)
    }
}

/// A worker of the user's own: handlers by kind, then [`Worker::run`] from `main`.
#[derive(Default)]
pub struct Worker {
    makes: Vec<(Option<String>, Make)>,
    pool: Option<String>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.makes.iter().map(|(kind, _)| kind)).finish()
    }
}

impl Worker {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn add(mut self, kind: Option<&str>, make: Make) -> Self {
        self.makes.push((kind.map(str::to_owned), make));
        self
    }

    /// An async handler for jobs of this kind. All async handlers of a worker share one thread: what computes or blocks
    /// for long belongs in [`Worker::handle_blocking`].
    #[must_use]
    pub fn handle<F, Fut, T, R>(self, kind: &str, handler: F) -> Self
    where
        F: Fn(Job<T>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<R, Failure>> + 'static,
        T: DeserializeOwned + 'static,
        R: Answer + 'static,
    {
        self.add(Some(kind), Box::new(move || Box::new(Async(handler, std::marker::PhantomData))))
    }

    /// An async handler for jobs of no kind, or of one that no other handler is for.
    #[must_use]
    pub fn handle_any<F, Fut, T, R>(self, handler: F) -> Self
    where
        F: Fn(Job<T>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<R, Failure>> + 'static,
        T: DeserializeOwned + 'static,
        R: Answer + 'static,
    {
        self.add(None, Box::new(move || Box::new(Async(handler, std::marker::PhantomData))))
    }

    /// A handler that may block, for jobs of this kind: each runs on a thread of its own.
    #[must_use]
    pub fn handle_blocking<F, T, R>(self, kind: &str, handler: F) -> Self
    where
        F: Fn(Job<T>) -> Result<R, Failure> + Send + Sync + 'static,
        T: DeserializeOwned + Send + 'static,
        R: Answer + 'static,
    {
        self.add(
            Some(kind),
            Box::new(move || Box::new(Blocking(Arc::new(handler), std::marker::PhantomData))),
        )
    }

    /// A handler that may block, for jobs of no kind, or of one that no other handler is for.
    #[must_use]
    pub fn handle_any_blocking<F, T, R>(self, handler: F) -> Self
    where
        F: Fn(Job<T>) -> Result<R, Failure> + Send + Sync + 'static,
        T: DeserializeOwned + Send + 'static,
        R: Answer + 'static,
    {
        self.add(None, Box::new(move || Box::new(Blocking(Arc::new(handler), std::marker::PhantomData))))
    }

    /// The pool whose settings count when it is started by hand; `default` otherwise. A master tells it anyway.
    #[must_use]
    pub fn pool(mut self, pool: &str) -> Self {
        self.pool = Some(pool.to_owned());
        self
    }

    /// Pulls and runs jobs until it is told to stop. Call it from `main`, before any other thread or runtime is started.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let Self { makes, pool } = self;
        let make = move || {
            let mut handlers = Handlers::default();
            for (kind, make) in makes {
                match kind {
                    Some(kind) => drop(handlers.by_kind.insert(kind, make())),
                    None => handlers.other = Some(make()),
                }
            }
            handlers
        };
        ExitCode::from(crate::run::serve_with(Some(Box::new(make)), pool))
    }
}
