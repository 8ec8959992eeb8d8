//! In words, why a job is not running, why it ran more than once, and when it will run.

use std::time::Duration;

use roundsman_shared::job::progress::{Attempt, AttemptEnd};
use roundsman_shared::job::view::{Found, Place, Unacked};
use roundsman_shared::job::{JobView, Progress, State};
use roundsman_shared::settings::QueueSettings;
use roundsman_shared::settings::units::format_duration;
use roundsman_shared::store::{MAX_BATCH, QueueView, Store};

use crate::errors::Failure;
use crate::fleet::Fleet;
use crate::print::many;
use crate::time::{moment, relative, span};

/// How many jobs are looked at to tell a job's place among those that are ready.
const FURTHEST: usize = 4096;

/// All that an explanation rests on.
struct Facts<'f> {
    job: &'f JobView,
    progress: &'f Progress,
    place: &'f Place,
    /// Unix milliseconds of the store's clock.
    now: i64,
    queue: &'f QueueView,
    policy: &'f QueueSettings,
    /// Ready jobs that go first; `None` where they are too many to count.
    ahead: Option<usize>,
    fleet: &'f Fleet,
    lease: Duration,
}

/// The job, and what is to be said of it, the most telling first.
pub async fn explain(
    store: &Store,
    found: Found,
    policy: &QueueSettings,
    lease: Duration,
) -> Result<(JobView, Vec<String>), Failure> {
    let (progress, place, now) = (found.progress.clone(), found.place.clone(), found.now.as_millis());
    let name = found.queue.clone();
    let job = found.view()?;
    let (queue, fleet) = (store.overview(&name).await?, Fleet::read(store).await?);
    let ahead = if job.state == State::Ready { ahead(store, &job).await? } else { None };
    let facts = Facts {
        job: &job,
        progress: &progress,
        place: &place,
        now,
        queue: &queue,
        policy,
        ahead,
        fleet: &fleet,
        lease,
    };
    let reasons = facts.reasons();
    Ok((job, reasons))
}

/// The number of ready jobs that go first.
async fn ahead(store: &Store, job: &JobView) -> Result<Option<usize>, Failure> {
    let (mut before, mut cursor) = (0, None);
    while before < FURTHEST {
        let page = store.list(&job.queue, State::Ready, cursor.as_deref(), MAX_BATCH).await?;
        if let Some(at) = page.found.iter().position(|found| found.id == job.id) {
            return Ok(Some(before + at));
        }
        before += page.found.len();
        cursor = page.next;
        if cursor.is_none() {
            // It has moved on while we looked.
            return Ok(Some(before));
        }
    }
    Ok(None)
}

impl Facts<'_> {
    fn reasons(&self) -> Vec<String> {
        let mut reasons = match self.place {
            Place::Waiting { .. } if self.job.state == State::Scheduled => self.scheduled(),
            Place::Waiting { .. } => self.ready(),
            Place::Running(unacked) => self.running(unacked),
            Place::Ended => self.ended(),
        };
        reasons.extend(self.repeats());
        reasons
    }

    fn scheduled(&self) -> Vec<String> {
        let (job, progress) = (self.job, self.progress);
        let when = format!("it is due {}", moment(job.due, self.now));
        let last = job.attempts.last();
        let error = || job.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
        let why = match last.and_then(|attempt| attempt.outcome) {
            _ if self.is_held() => {
                format!("its worker put it off untried, which costs it no attempt{}", error())
            }
            Some(AttemptEnd::GaveBack) if self.kind_is_unknown() => format!(
                "no worker that took it knows its kind{}; it is left for one that does, and offered again then",
                self.quoted_kind()
            ),
            Some(AttemptEnd::Retry | AttemptEnd::TimedOut) => {
                let most = job.max_attempts.unwrap_or(self.policy.max_attempts);
                format!(
                    "it failed {} of {most} times and waits before it is tried again (backoff){}",
                    progress.failures,
                    error()
                )
            }
            Some(AttemptEnd::Snooze) => "its handler asked to be called again later (snooze)".to_owned(),
            Some(AttemptEnd::Crashed | AttemptEnd::Killed) => format!(
                "its worker died {} times while it ran; it waits and then runs alone in its worker (dead after {})",
                progress.crashes + progress.killed,
                self.policy.max_crashes
            ),
            _ if progress.snoozed > 0 => "its handler asked to be called again later (snooze)".to_owned(),
            _ => "it is not due yet".to_owned(),
        };
        let mut reasons = vec![why, when];
        reasons.extend(self.paused());
        reasons
    }

    /// Whether the last worker that took it did not try it: then the reason is that of no attempt.
    fn is_held(&self) -> bool {
        let last = self.job.attempts.last().and_then(|attempt| attempt.error.as_ref());
        self.job.error.is_some() && self.job.error.as_ref() != last
    }

    /// Whether the last worker that took it put it back because it has no handler for its kind.
    fn kind_is_unknown(&self) -> bool {
        self.progress.attempts.last().is_some_and(is_of_unknown_kind)
    }

    fn quoted_kind(&self) -> String {
        self.job.kind.as_ref().map_or_else(String::new, |kind| format!(" {kind:?}"))
    }

    fn paused(&self) -> Option<String> {
        let queue = &self.job.queue;
        self.queue
            .paused
            .then(|| format!("the queue {queue} is paused; `roundsman queue resume {queue}` lets it go on"))
    }

    fn ready(&self) -> Vec<String> {
        let (job, name) = (self.job, self.job.queue.as_str());
        let mut reasons = vec![format!("it has been due since {}", moment(job.due, self.now))];
        reasons.extend(self.paused());
        reasons.extend(self.fleet.neglect(name));
        reasons.extend(self.fleet.hushed(name));
        let kind = job.kind.as_deref();
        if self.kind_is_unknown() || kind.is_some_and(|kind| self.fleet.is_stranger(name, kind)) {
            let kind = self.quoted_kind();
            reasons.push(format!("no running pool knows its kind{kind}; it is left for one that does"));
        }
        match self.ahead {
            Some(0) => reasons.push("no other job of the queue goes before it".to_owned()),
            Some(ahead) => reasons.push(format!("it waits behind {} of the queue", many(ahead, "other job"))),
            None => reasons.push(format!(
                "it waits behind more than {FURTHEST} of the {} jobs that are ready",
                self.queue.ready
            )),
        }
        for (host, pool) in self.fleet.pools_of(name) {
            let why = pool.why();
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            reasons.push(format!(
                "pool {} on {host} serves it with {} of {} workers wanted, running {}{why}",
                pool.pool,
                pool.workers.len(),
                pool.desired,
                many(pool.running(), "job")
            ));
        }
        reasons
    }

    fn running(&self, unacked: &Unacked) -> Vec<String> {
        let (label, host) = (unacked.worker.label(), unacked.worker.host());
        let mut reasons = match unacked.started {
            Some(started) => {
                vec![format!("it runs on worker {label} of {host} since {}", moment(started, self.now))]
            }
            None => vec![format!("it is handed to worker {label} of {host}, which has not begun it")],
        };
        match unacked.deadline {
            Some(deadline) if deadline > self.now => {
                reasons.push(format!("its timeout is over {}", relative(deadline, self.now)));
            }
            Some(deadline) => reasons
                .push(format!("its timeout was over {}; it is being stopped", relative(deadline, self.now))),
            None => {}
        }
        if !self.fleet.is_heard(host) {
            reasons.push(format!(
                "the host {host} is not heard any more; the job runs again once its lease has lapsed (lease {})",
                format_duration(self.lease)
            ));
        }
        reasons
    }

    fn ended(&self) -> Vec<String> {
        let (job, progress) = (self.job, self.progress);
        let ended = progress.ended.map_or_else(String::new, |at| format!(" {}", moment(at, self.now)));
        let error = job.error.as_deref().unwrap_or("no reason is kept");
        let again = format!("`roundsman job retry {}/{}` makes it run again", job.queue, job.id);
        match job.state {
            State::Done => vec![format!("it ended well{ended}")],
            State::Dead => vec![format!("it was given up{ended}: {error}"), self.why_dead(), again],
            State::Cancelled => vec![format!("somebody cancelled it{ended}"), again],
            State::Expired => {
                vec![format!("its expiry passed before it could start; it ended{ended}"), again]
            }
            State::Scheduled | State::Ready | State::Running => Vec::new(),
        }
    }

    fn why_dead(&self) -> String {
        let (job, progress) = (self.job, self.progress);
        let most = job.max_attempts.unwrap_or(self.policy.max_attempts);
        match job.attempts.last().and_then(|attempt| attempt.outcome) {
            None => "it never ran".to_owned(),
            Some(AttemptEnd::Crashed) => {
                format!("its worker died {} times while it ran (max_crashes)", progress.crashes)
            }
            Some(AttemptEnd::Killed) => {
                format!("its worker was killed {} times while it ran (max_killed)", progress.killed)
            }
            Some(_) if progress.failures >= most => {
                format!("it failed {} times, and {most} are allowed (max_attempts)", progress.failures)
            }
            Some(_) => "its handler said that another attempt is of no use".to_owned(),
        }
    }

    /// Why it ran more than once.
    fn repeats(&self) -> Vec<String> {
        let over: Vec<_> = self.job.attempts.iter().filter(|attempt| attempt.ended.is_some()).collect();
        if self.job.attempts.len() < 2 && over.iter().all(|attempt| attempt.outcome == Some(AttemptEnd::Done))
        {
            return Vec::new();
        }
        over.into_iter()
            .map(|attempt| {
                let took = attempt.started.zip(attempt.ended).map(|(started, ended)| ended.abs_diff(started));
                let took = took
                    .map_or_else(String::new, |took| format!(" after {}", span(Duration::from_millis(took))));
                let error = attempt.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
                let ended = attempt.ended.map_or_else(String::new, |at| relative(at, self.now));
                format!(
                    "attempt {} on {} of {} {}{took}, {ended}{error}",
                    attempt.attempt,
                    attempt.worker,
                    attempt.host,
                    attempt.outcome.map_or("goes on", |outcome| in_words(outcome, attempt.error.is_some()))
                )
            })
            .collect()
    }
}

/// A worker that puts a job back gives a reason only where it knows no such kind.
pub fn is_of_unknown_kind(attempt: &Attempt) -> bool {
    attempt.outcome == AttemptEnd::GaveBack && attempt.error.is_some()
}

const fn in_words(end: AttemptEnd, has_reason: bool) -> &'static str {
    match end {
        AttemptEnd::GaveBack if has_reason => "was put back by its worker",
        AttemptEnd::Done => "ended well",
        AttemptEnd::Retry => "failed",
        AttemptEnd::Snooze => "was put off by its handler",
        AttemptEnd::Dead => "failed for good",
        AttemptEnd::Cancelled => "was cancelled",
        AttemptEnd::Expired => "came after the job's expiry",
        AttemptEnd::GaveBack => "was put back unfinished by its worker, which had to stop",
        AttemptEnd::TimedOut => "was stopped at its timeout",
        AttemptEnd::Crashed => "crashed its worker",
        AttemptEnd::Killed => "was killed with its worker from outside",
        AttemptEnd::Lapsed => "was lost with its worker, which was not heard for a lease",
    }
}
