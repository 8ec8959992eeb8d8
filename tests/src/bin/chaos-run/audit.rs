//! What the store shows when all is over: every job, into the history and into figures.

use std::collections::BTreeMap;
use std::time::Duration;

use roundsman_shared::job::view::JobView;
use roundsman_shared::job::{AttemptEnd, State};
use roundsman_shared::settings::QueueSettings;
use roundsman_shared::store::{MAX_BATCH, Store, StoreError};
use roundsman_tests::history::{Event, HistoryWriter, JobState, digest};
use roundsman_tests::time;

use crate::Failure;
use crate::report::Report;
use crate::stand::{HARM, HARM_ATTEMPTS, QUEUES, Stand, queue};

const LOOK: Duration = Duration::from_millis(50);
/// After the last job, for what may still come of it.
const QUIET: u32 = 6;

/// How far apart two processes may put one moment of the store's clock: each goes by a reading of its own and what has
/// passed since, and a busy machine may have taken so long for the reading. Runs that overlap are found by the checker,
/// which has one clock for all.
const CLOCK_MS: i64 = 25;

/// What the audit counted.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) states: BTreeMap<&'static str, u64>,
    /// Recorded ends of deliveries.
    pub(crate) outcomes: BTreeMap<String, u64>,
    /// The most deliveries of one job.
    pub(crate) most: usize,
    /// What the recorded attempts say against a promise.
    pub(crate) broken: Vec<String>,
}

impl Counted {
    pub(crate) fn of(&self, outcome: &str) -> u64 {
        self.outcomes.get(outcome).copied().unwrap_or(0)
    }

    /// Runs that were cut off and made again.
    pub(crate) fn reruns(&self) -> u64 {
        ["killed", "crashed", "lapsed"].iter().map(|outcome| self.of(outcome)).sum()
    }

    pub(crate) fn demand_all_done(&self, report: &mut Report) {
        let done = self.states.get("done").copied().unwrap_or(0);
        let all: u64 = self.states.values().sum();
        report.demand(done == all, || format!("{} of {all} jobs are not done", all - done));
    }

    pub(crate) fn tell(&self, report: &mut Report) {
        let pairs = |map: &mut dyn Iterator<Item = (String, u64)>| {
            map.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
        };
        report.figure("jobs by state", pairs(&mut self.states.iter().map(|(k, v)| ((*k).to_owned(), *v))));
        report
            .figure("deliveries by outcome", pairs(&mut self.outcomes.iter().map(|(k, v)| (k.clone(), *v))));
        report.figure("runs cut off, made again", self.reruns());
        report.figure("most deliveries of a job", self.most);
        for what in self.broken.iter().take(10) {
            report.broken(what.clone());
        }
        report.demand(self.broken.len() <= 10, || format!("and {} more", self.broken.len() - 10));
    }
}

/// From the moment when each job was due to its first start, in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Waits(Vec<i64>);

impl Waits {
    pub(crate) fn note(&mut self, job: &JobView) {
        let started = job.attempts.first().and_then(|attempt| attempt.started);
        self.0.extend(started.map(|started| started - job.due));
    }

    pub(crate) fn most(&self) -> i64 {
        self.0.iter().copied().max().unwrap_or(0)
    }

    pub(crate) fn tell(&mut self, report: &mut Report) {
        self.0.sort_unstable();
        let at = |share: usize| {
            let last = self.0.len().saturating_sub(1);
            self.0.get((self.0.len() * share / 100).min(last)).copied().unwrap_or(0)
        };
        report.figure("waits p50 / p99 / most", format!("{} / {} / {} ms", at(50), at(99), self.most()));
    }
}

/// Waits until nothing is left to do. Answers whether that came in time.
pub(crate) async fn drained(store: &Store, deadline: Duration) -> Result<bool, Failure> {
    let end = time::mono() + deadline;
    let queues = QUEUES.map(queue).into_iter().collect::<Result<Vec<_>, _>>()?;
    let mut quiet = 0;
    while time::mono() < end {
        let mut left = 0;
        for queue in &queues {
            match store.overview(queue).await {
                Ok(view) => left += view.scheduled + view.ready + view.running + view.outbox,
                Err(StoreError::Unavailable(_)) => left += 1,
                Err(error) => return Err(error.into()),
            }
        }
        quiet = if left == 0 { quiet + 1 } else { 0 };
        if quiet == QUIET {
            return Ok(true);
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(false)
}

/// Reads every job, writes it to the history, and gives each to the visitor.
pub(crate) fn audit(
    stand: &Stand,
    store: &Store,
    drained: bool,
    mut visit: impl FnMut(&JobView) -> Result<(), Failure>,
) -> Result<Counted, Failure> {
    let mut counted = Counted::default();
    stand.writer.record(Event::AuditPass { audit: 1, drained })?;
    stand.runtime.block_on(async {
        for name in QUEUES {
            let queue = queue(name)?;
            for state in [
                State::Scheduled,
                State::Ready,
                State::Running,
                State::Done,
                State::Dead,
                State::Cancelled,
                State::Expired,
            ] {
                let mut cursor: Option<String> = None;
                loop {
                    let page = store.list(&queue, state, cursor.as_deref(), MAX_BATCH).await?;
                    for found in page.found {
                        let killed = found.progress.killed;
                        let view = found.view()?;
                        note(&stand.writer, &view, killed, &mut counted)?;
                        visit(&view)?;
                    }
                    cursor = page.next;
                    if cursor.is_none() {
                        break;
                    }
                }
            }
        }
        Ok::<(), Failure>(())
    })?;
    Ok(counted)
}

const fn state_of(state: State) -> (JobState, &'static str) {
    match state {
        State::Scheduled => (JobState::Scheduled, "scheduled"),
        State::Ready => (JobState::Ready, "ready"),
        State::Running => (JobState::Running, "running"),
        State::Done => (JobState::Done, "done"),
        State::Dead => (JobState::Dead, "dead"),
        State::Cancelled => (JobState::Cancelled, "cancelled"),
        State::Expired => (JobState::Expired, "expired"),
    }
}

/// What the settings of a run say, or the default.
fn attempts_of(queue: &str) -> u32 {
    if queue == HARM { HARM_ATTEMPTS } else { QueueSettings::DEFAULT.max_attempts }
}

fn note(writer: &HistoryWriter, view: &JobView, killed: u32, counted: &mut Counted) -> Result<(), Failure> {
    let (state, word) = state_of(view.state);
    *counted.states.entry(word).or_default() += 1;
    counted.most = counted.most.max(view.attempts.len());
    let mut finals = 0;
    let mut failures = 0;
    let mut token = None;
    let mut before: Option<(i64, i64)> = None;
    for attempt in &view.attempts {
        let Some(outcome) = attempt.outcome else { continue };
        let word = serde_json::to_value(outcome)?;
        *counted.outcomes.entry(word.as_str().unwrap_or_default().to_owned()).or_default() += 1;
        if matches!(
            outcome,
            AttemptEnd::Done | AttemptEnd::Dead | AttemptEnd::Cancelled | AttemptEnd::Expired
        ) {
            finals += 1;
            token = u64::try_from(attempt.token).ok();
        }
        failures += u32::from(matches!(outcome, AttemptEnd::Retry | AttemptEnd::TimedOut));
        let mut wrong = |what: &str| counted.broken.push(format!("{}/{}: {what}", view.queue, view.id));
        if let Some((last_token, last_ended)) = before {
            if attempt.token <= last_token {
                wrong("a later delivery has no higher token");
            }
            let early = attempt.started.map_or(0, |started| last_ended - started);
            if early > CLOCK_MS {
                wrong(&format!("its record shows two runs at once, for {early} ms"));
            }
        }
        before = Some((attempt.token, attempt.ended.unwrap_or_default()));
    }
    if state.is_final() {
        if finals == 0 && state != JobState::Dead {
            counted.broken.push(format!("{}/{}: {word}, and no delivery ended it", view.queue, view.id));
        }
        writer.record(Event::Ended {
            queue: view.queue.to_string(),
            id: view.id.to_string(),
            state,
            token,
        })?;
    }
    writer.record(Event::Audit {
        audit: 1,
        queue: view.queue.to_string(),
        id: view.id.to_string(),
        state,
        attempts: view.attempt,
        crashes: view.crashes,
        killed,
        spent: failures >= view.max_attempts.unwrap_or_else(|| attempts_of(view.queue.as_str())),
        finals: Some(finals),
        digest: Some(digest(view.payload.get().as_bytes())),
    })?;
    Ok(())
}
