//! From the outcome of a delivery to what the store is to write: the one place where attempts are counted, retries
//! are timed and crashes are charged. Pure; the stores only compare the token and write what stands here.

use std::time::Duration;

use serde_json::value::RawValue;

use crate::clock::StoreTime;
use crate::job::Policy;
use crate::job::lifecycle::{Event, FinalState};
use crate::job::progress::{Attempt, AttemptEnd, MAX_ERROR, MAX_STDERR_TAIL, Progress, Token, place, tail};
use crate::job::record::{Record, Spec};
use crate::job::spec::NewJob;
use crate::job::{reply, retry};
use crate::names::{JobId, QueueName, WorkerId};

/// The second re-run of a job whose worker died waits so long, and then runs alone.
pub const CRASH_DELAY: Duration = Duration::from_secs(10);
/// From so many crashes on, a job shares its worker with no other.
pub const ALONE_FROM_CRASHES: u32 = 2;

/// A job of a kind that its worker does not know waits so long before the next worker looks at it.
pub const UNKNOWN_KIND_DELAY: Duration = Duration::from_secs(15);

/// One hand-over of a job to a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    pub queue: QueueName,
    pub id: JobId,
    pub token: Token,
    pub due: StoreTime,
    pub record: Record,
    /// What had happened before this delivery.
    pub progress: Progress,
}

impl Delivery {
    /// The number of this attempt, from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.progress.attempt + 1
    }

    /// Whether it must not share its worker: jobs beside it would be charged for a crash that is likely its own.
    #[must_use]
    pub const fn alone(&self) -> bool {
        self.progress.crashes >= ALONE_FROM_CRASHES
    }
}

/// A job that a handler wants to come to exist with its ack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowUp {
    pub queue: QueueName,
    pub job: NewJob,
}

/// How a delivery ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    Done {
        result: Option<Box<RawValue>>,
        follow_ups: Vec<FollowUp>,
        /// What is to be said of the result: it stands with the attempt.
        note: Option<String>,
    },
    /// Failed; `after` overrides the backoff.
    Retry {
        error: String,
        after: Option<Duration>,
    },
    TimedOut {
        error: String,
    },
    Snooze(Duration),
    /// Failed for good.
    Dead {
        error: String,
    },
    Cancelled,
    Expired,
    /// The worker has no handler for its kind: another pool may. Nothing is charged.
    UnknownKind {
        kind: String,
    },
    /// Put off by its worker without having been tried: where it is to go does not answer, or has its share of the slots.
    /// Nothing is charged, and no attempt is noted, since there may be very many.
    Held {
        why: String,
        after: Duration,
    },
    /// Put back by its worker: never started, or stopped by it. Nothing is charged.
    GiveBack,
    /// The worker died while it ran this job.
    Crashed {
        cause: String,
    },
    /// The worker was killed by a SIGKILL that Roundsman did not send, or left because its lease could not be renewed.
    Killed {
        cause: String,
    },
    /// The lease lapsed unheard.
    Lapsed,
}

/// Who ran it, and when, in Unix milliseconds of the store's clock.
#[derive(Debug, Clone)]
pub struct Run {
    pub worker: WorkerId,
    pub started: Option<i64>,
    pub ended: i64,
    pub stderr_tail: Option<String>,
}

/// Where a job that goes on waiting is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Before all others of its priority.
    Front,
    /// So long from now, by the store's clock.
    After(Duration),
}

/// What is written if the token still is the current one.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    Finish { state: FinalState, follow_ups: Vec<FollowUp> },
    Return { again: Again },
}

/// An acknowledgement, ready for the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    pub id: JobId,
    pub token: Token,
    pub priority: i16,
    /// When the job was due: where a job that is put back to the front belongs.
    pub due: StoreTime,
    /// The step of the lifecycle table that this is.
    pub event: Event,
    pub write: Write,
    /// What is kept of it, in the encoded form of [`Progress`].
    pub progress: String,
    /// The digest to remember a chosen id by, when the job ends.
    pub remember: Option<String>,
    /// For a job that would go on waiting: what is written instead, if its worker had been told to cancel it. Only the
    /// store knows at that moment, and it writes no progress of its own.
    pub if_cancelled: Option<IfCancelled>,
}

/// How a job ends that somebody cancelled while it ran, and whose delivery ended in another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfCancelled {
    pub progress: String,
    pub remember: Option<String>,
}

/// Works out what an outcome does. `jitter` lies in 0 to 1.
#[must_use]
pub fn settle(
    delivery: &Delivery,
    spec: &Spec,
    outcome: Outcome,
    run: &Run,
    policy: &Policy,
    jitter: f64,
) -> Settlement {
    let mut progress = delivery.progress.clone();
    let tried = run.started.is_some() && !matches!(outcome, Outcome::Held { .. });
    let note = match &outcome {
        Outcome::Done { note, .. } => note.clone(),
        _ => None,
    };
    let mut decision = decide(&mut progress, spec, outcome, policy, jitter);
    let charged = !matches!(decision.end, AttemptEnd::GaveBack | AttemptEnd::Snooze);
    let number = delivery.attempt();
    if charged {
        progress.attempt = number;
    }
    let error = decision.error.map(|text| tail(&text, MAX_ERROR));
    progress.error.clone_from(&error);
    if charged || tried {
        let (worker, host) = place(&run.worker);
        progress.push(Attempt {
            attempt: number,
            token: delivery.token,
            worker,
            host,
            started: run.started,
            ended: run.ended,
            outcome: decision.end,
            error: error.or(note),
            stderr_tail: run.stderr_tail.as_deref().map(|text| tail(text, MAX_STDERR_TAIL)),
        });
    }
    let digest = || delivery.record.chosen().then(|| delivery.record.digest());
    let (mut remember, mut if_cancelled) = (None, None);
    if matches!(decision.write, Write::Return { .. }) {
        // No error ended it; what went wrong stands with the attempts.
        let ended = Progress {
            state: Some(FinalState::Cancelled),
            ended: Some(run.ended),
            due: Some(delivery.due.as_millis()),
            error: None,
            ..progress.clone()
        };
        if_cancelled = Some(IfCancelled { progress: ended.encode(delivery.token), remember: digest() });
    }
    progress.due = match &mut decision.write {
        Write::Finish { state, follow_ups } => {
            progress.state = Some(*state);
            progress.ended = Some(run.ended);
            remember = digest();
            let Delivery { queue, id, token, .. } = delivery;
            follow_ups.extend(reply::of(queue, id, *token, spec, *state, &progress));
            Some(delivery.due.as_millis())
        }
        Write::Return { again: Again::Front } => Some(delivery.due.as_millis()),
        Write::Return { again: Again::After(_) } => None,
    };
    Settlement {
        id: delivery.id.clone(),
        token: delivery.token,
        priority: spec.priority,
        due: delivery.due,
        event: decision.event,
        write: decision.write,
        progress: progress.encode(delivery.token),
        remember,
        if_cancelled,
    }
}

struct Decision {
    event: Event,
    write: Write,
    end: AttemptEnd,
    error: Option<String>,
}

impl Decision {
    const fn finish(event: Event, state: FinalState, end: AttemptEnd, error: Option<String>) -> Self {
        Self { event, write: Write::Finish { state, follow_ups: Vec::new() }, end, error }
    }

    const fn again(event: Event, again: Again, end: AttemptEnd, error: Option<String>) -> Self {
        Self { event, write: Write::Return { again }, end, error }
    }
}

fn decide(progress: &mut Progress, spec: &Spec, outcome: Outcome, policy: &Policy, jitter: f64) -> Decision {
    match outcome {
        Outcome::Done { result, follow_ups, .. } => {
            progress.result = result;
            Decision {
                event: Event::AckDone,
                write: Write::Finish { state: FinalState::Done, follow_ups },
                end: AttemptEnd::Done,
                error: None,
            }
        }
        Outcome::Retry { error, after } => {
            failed(progress, spec, policy, jitter, AttemptEnd::Retry, error, after)
        }
        Outcome::TimedOut { error } => {
            failed(progress, spec, policy, jitter, AttemptEnd::TimedOut, error, None)
        }
        Outcome::Snooze(span) => {
            let total = Duration::from_millis(progress.snoozed).saturating_add(span);
            if total > policy.max_snooze {
                let error = format!(
                    "snoozed {total:?} in all, more than the {:?} allowed (max_snooze)",
                    policy.max_snooze
                );
                return failed(progress, spec, policy, jitter, AttemptEnd::Retry, error, None);
            }
            progress.snoozed = u64::try_from(total.as_millis()).unwrap_or(u64::MAX);
            Decision::again(Event::AckSnooze, Again::After(span), AttemptEnd::Snooze, None)
        }
        Outcome::Dead { error } => {
            Decision::finish(Event::AckDead, FinalState::Dead, AttemptEnd::Dead, Some(error))
        }
        Outcome::Cancelled => {
            Decision::finish(Event::AckCancelled, FinalState::Cancelled, AttemptEnd::Cancelled, None)
        }
        Outcome::Expired => {
            Decision::finish(Event::AckExpired, FinalState::Expired, AttemptEnd::Expired, None)
        }
        Outcome::UnknownKind { kind } => {
            let error = Some(format!("no worker that pulled it knows the kind {kind:?}"));
            Decision::again(Event::AckSnooze, Again::After(UNKNOWN_KIND_DELAY), AttemptEnd::GaveBack, error)
        }
        Outcome::Held { why, after } => {
            Decision::again(Event::AckSnooze, Again::After(after), AttemptEnd::GaveBack, Some(why))
        }
        Outcome::GiveBack => Decision::again(Event::GiveBack, Again::Front, AttemptEnd::GaveBack, None),
        Outcome::Crashed { cause } => {
            progress.crashes += 1;
            if progress.crashes >= policy.max_crashes {
                let error =
                    format!("crashed its worker {} times, the last time by {cause}", progress.crashes);
                return Decision::finish(
                    Event::CrashDead,
                    FinalState::Dead,
                    AttemptEnd::Crashed,
                    Some(error),
                );
            }
            let error = Some(format!("its worker died: {cause}"));
            if progress.crashes < ALONE_FROM_CRASHES {
                Decision::again(Event::Crash, Again::Front, AttemptEnd::Crashed, error)
            } else {
                Decision::again(Event::CrashAgain, Again::After(CRASH_DELAY), AttemptEnd::Crashed, error)
            }
        }
        Outcome::Killed { cause } => lost(progress, policy, AttemptEnd::Killed, cause),
        Outcome::Lapsed => {
            lost(progress, policy, AttemptEnd::Lapsed, "its worker's lease lapsed unheard".to_owned())
        }
    }
}

/// A failure that the handler told of.
fn failed(
    progress: &mut Progress,
    spec: &Spec,
    policy: &Policy,
    jitter: f64,
    end: AttemptEnd,
    error: String,
    after: Option<Duration>,
) -> Decision {
    progress.failures += 1;
    if progress.failures >= spec.max_attempts.unwrap_or(policy.max_attempts) {
        return Decision::finish(Event::AckDead, FinalState::Dead, end, Some(error));
    }
    let delay = after.unwrap_or_else(|| retry::delay(&policy.backoff, progress.failures, jitter));
    Decision::again(Event::AckRetry, Again::After(delay), end, Some(error))
}

/// The worker went away through no fault of the job.
fn lost(progress: &mut Progress, policy: &Policy, end: AttemptEnd, cause: String) -> Decision {
    progress.killed += 1;
    if progress.killed >= policy.max_killed {
        let error = format!("lost its worker {} times, the last time because {cause}", progress.killed);
        return Decision::finish(Event::CrashDead, FinalState::Dead, end, Some(error));
    }
    let event = if end == AttemptEnd::Lapsed { Event::Lapse } else { Event::Crash };
    Decision::again(event, Again::Front, end, Some(cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::lifecycle::{State, next};
    use crate::job::record::encode;

    fn delivery(progress: Progress) -> Delivery {
        let spec = Spec::bare(false, "1".into());
        Delivery {
            queue: QueueName::new("q").unwrap(),
            id: JobId::new("a").unwrap(),
            token: 7,
            due: StoreTime::from_millis(1000),
            record: Record::stamp(StoreTime::from_millis(900), &encode(&spec)),
            progress,
        }
    }

    fn run() -> Run {
        Run { worker: WorkerId::new("h:p:1:x").unwrap(), started: Some(1001), ended: 1002, stderr_tail: None }
    }

    /// Settles and returns what was written with the progress after it.
    fn after(progress: Progress, outcome: Outcome) -> (Settlement, Progress) {
        let spec = Spec::bare(false, "1".into());
        let settled = settle(&delivery(progress), &spec, outcome, &run(), &Policy::default(), 0.0);
        let progress = Progress::decode(&settled.progress).unwrap().1;
        (settled, progress)
    }

    #[test]
    fn crashes_run_at_once_then_later_then_never() {
        let crash = || Outcome::Crashed { cause: "SIGABRT".into() };
        let (first, progress) = after(Progress::default(), crash());
        assert_eq!(first.write, Write::Return { again: Again::Front });
        let (second, progress) = after(progress, crash());
        assert_eq!(second.write, Write::Return { again: Again::After(CRASH_DELAY) });
        assert!(delivery(progress.clone()).alone());
        let (third, progress) = after(progress, crash());
        assert_eq!(third.event, Event::CrashDead);
        assert_eq!((progress.attempt, progress.crashes, progress.failures), (3, 3, 0));
        assert!(progress.error.unwrap().contains("SIGABRT"));
    }

    #[test]
    fn kills_from_outside_are_counted_apart() {
        let mut progress = Progress::default();
        for _ in 0..9 {
            let (settled, next) = after(progress, Outcome::Killed { cause: "SIGKILL".into() });
            assert_eq!(settled.write, Write::Return { again: Again::Front });
            progress = next;
        }
        assert_eq!((progress.crashes, progress.killed), (0, 9));
        assert_eq!(after(progress, Outcome::Killed { cause: "SIGKILL".into() }).0.event, Event::CrashDead);
    }

    #[test]
    fn snoozes_and_give_backs_charge_nothing() {
        let (_, progress) = after(Progress::default(), Outcome::Snooze(Duration::from_secs(5)));
        assert_eq!((progress.attempt, progress.failures, progress.snoozed), (0, 0, 5000));
        let (_, progress) = after(progress, Outcome::GiveBack);
        assert_eq!((progress.attempt, progress.due), (0, Some(1000)));
        let (settled, progress) = after(progress, Outcome::Snooze(Duration::from_secs(86_400)));
        assert_eq!((settled.event, progress.failures), (Event::AckRetry, 1));
    }

    #[test]
    fn a_job_may_be_held_for_ever() {
        let mut progress = after(Progress::default(), Outcome::Retry { error: "no".into(), after: None }).1;
        for _ in 0..100 {
            let held = Outcome::Held { why: "nobody answers".into(), after: Duration::from_secs(86_400) };
            let (settled, next) = after(progress, held);
            assert_eq!(settled.write, Write::Return { again: Again::After(Duration::from_secs(86_400)) });
            progress = next;
        }
        assert_eq!((progress.attempt, progress.failures, progress.snoozed), (1, 1, 0));
        assert_eq!((progress.attempts.len(), progress.error.as_deref()), (1, Some("nobody answers")));
    }

    #[test]
    fn attempts_end_in_a_dead_letter() {
        let retry = || Outcome::Retry { error: "no".into(), after: None };
        let (settled, _) = after(Progress { attempt: 23, failures: 23, ..Progress::default() }, retry());
        assert!(matches!(settled.write, Write::Return { again: Again::After(_) }));
        let (settled, progress) =
            after(Progress { attempt: 30, failures: 24, ..Progress::default() }, retry());
        assert_eq!(settled.write, Write::Finish { state: FinalState::Dead, follow_ups: vec![] });
        assert_eq!((progress.attempt, progress.error.as_deref()), (31, Some("no")));
    }

    #[test]
    fn every_outcome_is_a_step_of_the_table() {
        let outcomes = [
            Outcome::Done { result: None, follow_ups: vec![], note: None },
            Outcome::Retry { error: "e".into(), after: None },
            Outcome::TimedOut { error: "e".into() },
            Outcome::Snooze(Duration::from_secs(1)),
            Outcome::Dead { error: "e".into() },
            Outcome::Cancelled,
            Outcome::Expired,
            Outcome::UnknownKind { kind: "k".into() },
            Outcome::Held { why: "w".into(), after: Duration::from_secs(1) },
            Outcome::GiveBack,
            Outcome::Crashed { cause: "c".into() },
            Outcome::Killed { cause: "c".into() },
            Outcome::Lapsed,
        ];
        for outcome in outcomes {
            let (settled, _) = after(Progress::default(), outcome.clone());
            let to = next(State::Running, settled.event)
                .unwrap_or_else(|| panic!("{outcome:?}: {:?}", settled.event));
            match settled.write {
                Write::Finish { state, .. } => assert_eq!(to, state.state(), "{outcome:?}"),
                Write::Return { again: Again::Front } => assert_eq!(to, State::Ready, "{outcome:?}"),
                Write::Return { again: Again::After(_) } => assert_eq!(to, State::Scheduled, "{outcome:?}"),
            }
        }
    }
}
