//! The job as people and programs see it: the object that `--json`, the API and the dashboard share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::clock::StoreTime;
use crate::job::lifecycle::State;
use crate::job::progress::{Attempt, Progress, Token};
use crate::job::record::{Record, RecordError};
use crate::names::{JobId, QueueName};

/// See PRODUCT's job object; times are Unix milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobView {
    pub id: JobId,
    pub queue: QueueName,
    pub kind: Option<String>,
    pub state: State,
    pub payload: Box<RawValue>,
    pub priority: i16,
    pub due: i64,
    pub created: i64,
    pub attempt: u32,
    pub crashes: u32,
    pub max_attempts: Option<u32>,
    pub key: Option<String>,
    pub headers: BTreeMap<String, String>,
    pub result: Option<Box<RawValue>>,
    pub error: Option<String>,
    pub attempts: Vec<OpenAttempt>,
}

/// An attempt, which may still be going on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenAttempt {
    pub attempt: u32,
    pub token: Token,
    pub worker: String,
    pub host: String,
    pub started: Option<i64>,
    pub ended: Option<i64>,
    pub outcome: Option<crate::job::AttemptEnd>,
    pub error: Option<String>,
    pub stderr_tail: Option<String>,
}

impl From<Attempt> for OpenAttempt {
    fn from(a: Attempt) -> Self {
        Self {
            attempt: a.attempt,
            token: a.token,
            worker: a.worker,
            host: a.host,
            started: a.started,
            ended: Some(a.ended),
            outcome: Some(a.outcome),
            error: a.error,
            stderr_tail: a.stderr_tail,
        }
    }
}

/// A delivery that is under lease now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unacked {
    pub worker: crate::names::WorkerId,
    pub token: Token,
    pub due: StoreTime,
    /// Unix milliseconds; `None` while it is only prefetched.
    pub started: Option<i64>,
    /// When its timeout is over, in Unix milliseconds.
    pub deadline: Option<i64>,
}

/// Where a store found a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    Waiting { due: StoreTime },
    Running(Unacked),
    Ended,
}

/// What a store knows of one job.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub queue: QueueName,
    pub id: JobId,
    pub record: Record,
    pub progress: Progress,
    pub place: Place,
    /// The store's clock when it looked.
    pub now: StoreTime,
}

impl Found {
    #[must_use]
    pub fn state(&self) -> State {
        match &self.place {
            Place::Waiting { due } if *due <= self.now => State::Ready,
            Place::Waiting { .. } => State::Scheduled,
            Place::Running(_) => State::Running,
            Place::Ended => self.progress.state.map_or(State::Dead, super::lifecycle::FinalState::state),
        }
    }

    /// Whether it waits though its expiry has passed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let created = self.record.created_at();
        let passed = |spec: super::Spec| spec.expiry(created).is_some_and(|expiry| expiry <= self.now);
        matches!(self.place, Place::Waiting { .. }) && self.record.decode().is_ok_and(passed)
    }

    /// The object that is shown.
    ///
    /// # Errors
    /// When the stored record cannot be read.
    pub fn view(self) -> Result<JobView, RecordError> {
        let state = self.state();
        let spec = self.record.decode()?;
        let mut attempts: Vec<OpenAttempt> =
            self.progress.attempts.into_iter().map(OpenAttempt::from).collect();
        let mut attempt = self.progress.attempt;
        let due = match &self.place {
            Place::Waiting { due } => self.progress.due.unwrap_or_else(|| due.as_millis()),
            Place::Running(unacked) => unacked.due.as_millis(),
            Place::Ended => self.progress.due.unwrap_or_default(),
        };
        if let Place::Running(unacked) = self.place {
            attempt += 1;
            let (worker, host) = crate::job::progress::place(&unacked.worker);
            attempts.push(OpenAttempt {
                attempt,
                token: unacked.token,
                worker,
                host,
                started: unacked.started,
                ended: None,
                outcome: None,
                error: None,
                stderr_tail: None,
            });
        }
        Ok(JobView {
            id: self.id,
            queue: self.queue,
            kind: spec.kind,
            state,
            payload: RawValue::from_string(spec.payload).expect("a stored payload is JSON"),
            priority: spec.priority,
            due,
            created: self.record.created(),
            attempt,
            crashes: self.progress.crashes,
            max_attempts: spec.max_attempts,
            key: spec.key,
            headers: spec.headers,
            result: self.progress.result,
            error: self.progress.error,
            attempts,
        })
    }
}
