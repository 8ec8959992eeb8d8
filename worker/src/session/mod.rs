//! The session core: decides what to pull, when to acknowledge, renew and give back, and when to leave. Pure: time,
//! randomness and every answer come in as events; store calls and commands to the slots go out as actions.
//!
//! Rules that live here:
//! - A pull asks for as many jobs as there are free slots and, beyond, for at most 50 ms of work. What waits longer, since
//!   the jobs before it are longer than was expected, is given back.
//! - A finished job is acknowledged with the next pull, and at most 5 ms after it ended.
//! - One store call of each kind is under way at a time. What a failed call carried is sent again: the store answers a
//!   repeated call as it did the first.
//! - A lease is renewed at an eighth of its length, so that an outage of the store for three quarters of it costs nothing.
//!   It counts as lost one margin before its end, on this host's clock from before the call was sent; then the worker
//!   leaves, since it can no longer know that its jobs are its own.

mod ahead;
mod drive;
mod events;
mod state;
mod tally;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use roundsman_shared::assignment::Assignment;
use roundsman_shared::clock::{Mono, SKEW_GUARD, StoreClock, StoreTime};
use roundsman_shared::exit;
use roundsman_shared::job::progress::Token;
use roundsman_shared::job::settle::{Delivery, Outcome, Run, Settlement, settle};
use roundsman_shared::job::{Policy, Spec};
use roundsman_shared::names::{JobId, QueueName, WorkerId};
use roundsman_shared::protocol::{Doing, StopMode};
use roundsman_shared::store::{Answer, Held, MAX_BATCH, Mark, Pulled, Renewed, StoreError};

pub use events::{Action, Event, Finished, Running, Seq, StopJob, Task};
pub use state::Counts;
pub(crate) use state::Lately;
use state::{Aside, Line, Stopping, Taken, UnderWay};
use tally::{End, Tally};

/// Work taken beyond the free slots, as expected running time.
const PREFETCH: Duration = Duration::from_millis(50);
/// The most jobs held at once, started or not.
const MAX_HELD: usize = 2 * MAX_BATCH;
/// How long a finished job may wait for its acknowledgement to be sent.
const ACK_WITHIN: Duration = Duration::from_millis(5);
/// A job that has run so long is noted as started in the store.
const MARK_AFTER: Duration = Duration::from_millis(20);
/// A queue that was found empty is looked at again after so long, even if nobody called.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// The same for a worker that is busy: it is told of nothing while it does not ask, and hints can be lost.
const LOOK_AGAIN_BUSY: Duration = Duration::from_secs(1);
/// The same for a worker without a master to call it.
const LOOK_AGAIN_ALONE: Duration = Duration::from_millis(500);
/// Between tries of a store that does not answer.
const RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(2);

/// See the module's text.
pub struct Session {
    assignment: Assignment,
    has_master: bool,
    lines: Vec<Line>,
    taken: HashMap<Seq, Taken>,
    next_seq: Seq,
    clock: Option<StoreClock>,
    /// Mean time that a job takes of its slot, in seconds.
    service: Option<f64>,
    /// Slots that have had their job for longer than work is held ahead.
    long: usize,
    /// What waited was taken back, and no job has ended since.
    held_up: bool,
    aside: Aside,
    /// Since when there was always something to do.
    busy_since: Option<Mono>,
    under_way: UnderWay,
    retry_at: Option<Mono>,
    retry_after: Duration,
    stopping: Option<Stopping>,
    paused: bool,
    left: bool,
    look_at: Mono,
    seed: u64,
    pub counts: Counts,
    pub(crate) lately: Lately,
    pub(crate) tally: Tally,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (worker, doing) = (&self.assignment.worker, self.doing());
        f.debug_struct("Session").field("worker", worker).field("doing", &doing).finish_non_exhaustive()
    }
}

impl Session {
    pub fn new(now: Mono, assignment: Assignment, has_master: bool, seed: u64) -> Self {
        let lines = assignment
            .queues
            .iter()
            .map(|(name, share)| Line {
                name: name.clone(),
                share: *share,
                dry_until: None,
                dry_since: now,
                hinted: false,
                used: 0.0,
                lease_until: None,
                held: 0,
                doubtful: false,
                pending: VecDeque::new(),
                pending_since: None,
                marks: Vec::new(),
            })
            .collect();
        Self {
            clock: assignment.clock,
            assignment,
            has_master,
            lines,
            taken: HashMap::new(),
            next_seq: 1,
            service: None,
            long: 0,
            held_up: false,
            aside: Aside::default(),
            busy_since: None,
            under_way: UnderWay::default(),
            retry_at: None,
            retry_after: RETRY,
            stopping: None,
            paused: false,
            left: false,
            look_at: now,
            seed,
            counts: Counts { store_ok: true, ..Counts::default() },
            lately: Lately::default(),
            tally: Tally::default(),
        }
    }

    pub const fn worker(&self) -> &WorkerId {
        &self.assignment.worker
    }

    pub fn doing(&self) -> Doing {
        match (&self.stopping, self.taken.is_empty()) {
            (Some(_), _) => Doing::Draining,
            (None, true) => Doing::Idle,
            (None, false) => Doing::Busy,
        }
    }

    /// The queue, id and attempt behind a number, and its timeout.
    pub fn describe(&self, seq: Seq) -> Option<(&Delivery, Duration)> {
        let taken = self.taken.get(&seq)?;
        Some((&taken.delivery, self.timeout(&taken.spec, taken.line)))
    }

    fn timeout(&self, spec: &Spec, line: usize) -> Duration {
        spec.timeout.unwrap_or_else(|| self.assignment.policy(&self.lines[line].name).timeout)
    }

    fn line(&self, queue: &QueueName) -> Option<usize> {
        self.lines.iter().position(|line| line.name == *queue)
    }

    fn margin(&self) -> Duration {
        (self.assignment.lease / 10).max(Duration::from_millis(300))
    }

    fn heard(&mut self, clock: StoreClock) {
        self.clock = Some(self.clock.map_or(clock, |known| known.narrowed(clock)));
    }

    /// Store time in Unix ms at a moment of this host's clock.
    fn stamp(&self, at: Mono) -> i64 {
        self.reading(at).map_or(0, StoreTime::as_millis)
    }

    /// Store time at a moment of this host's clock.
    fn reading(&self, at: Mono) -> Option<StoreTime> {
        let clock = self.clock?;
        let later = at >= clock.received;
        Some(if later { clock.at_least(at) } else { clock.reading - clock.received.since(at) })
    }

    /// Takes one event; what is to be done about it is appended to `actions`.
    pub fn step(&mut self, now: Mono, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Wake(queue) => self.wake(now, queue, actions),
            Event::Look(queue) => {
                if let Some(at) = self.line(&queue) {
                    self.hint(at);
                }
            }
            Event::Exchanged { sent, result } => self.exchanged(now, sent, result, actions),
            Event::Renewed { sent, queue, result } => self.renewed(now, sent, &queue, result, actions),
            Event::Reconciled { queue, result } => self.reconciled(now, &queue, result),
            Event::Finished(finished) => {
                for job in finished {
                    self.finished(now, job);
                }
            }
            Event::Returned(seqs) => {
                for seq in seqs {
                    self.conclude(now, seq, Outcome::GiveBack, None, now, None);
                }
            }
            Event::Tick(running) => self.tick(now, &running, actions),
            Event::Cancel { queue, id } => self.cancel(now, &queue, &id, actions),
            Event::Policies(policies) => self.assignment.policies.extend(policies),
            Event::Pause(paused) => {
                self.paused = paused;
                if paused {
                    self.clear_aside(now);
                    actions.push(Action::TakeBack);
                }
            }
            Event::Stop { mode, within, why } => self.stop(now, mode, within, why, actions),
        }
        self.drive(now, actions);
        if !self.taken.is_empty() {
            self.busy_since.get_or_insert(now);
        } else if !self.under_way.exchange {
            self.busy_since = None;
        }
    }

    /// A queue may hold something.
    fn hint(&mut self, at: usize) {
        self.lines[at].dry_until = None;
        self.lines[at].hinted = self.under_way.pull == Some(at);
    }

    fn wake(&mut self, now: Mono, queue: QueueName, actions: &mut Vec<Action>) {
        let Some(at) = self.line(&queue) else { return };
        self.hint(at);
        if self.stopping.is_some() || self.blocked(now) || self.held() >= self.assignment.slots {
            actions.push(Action::Full(queue));
        }
    }

    fn stop(&mut self, now: Mono, mode: StopMode, within: Duration, why: String, actions: &mut Vec<Action>) {
        let release_at = match mode {
            StopMode::Drain => now + within,
            StopMode::Release => now,
        };
        let stopping = self.stopping.get_or_insert(Stopping { release_at: None, released: false, why });
        stopping.release_at = Some(stopping.release_at.map_or(release_at, |at| at.min(release_at)));
        self.clear_aside(now);
        actions.push(Action::TakeBack);
    }

    fn cancel(&mut self, now: Mono, queue: &QueueName, id: &JobId, actions: &mut Vec<Action>) {
        let found =
            self.taken.iter().find(|(_, taken)| taken.delivery.id == *id && taken.delivery.queue == *queue);
        let Some((&seq, _)) = found else { return };
        if self.leave_aside(seq) {
            self.conclude(now, seq, Outcome::Cancelled, None, now, None);
        } else {
            actions.push(Action::StopJob(seq, StopJob::Cancelled));
        }
    }

    fn tick(&mut self, now: Mono, running: &[Running], actions: &mut Vec<Action>) {
        self.watch_waiting(now, running, actions);
        for job in running {
            if now.since(job.started) < MARK_AFTER {
                continue;
            }
            let (started, line) = (self.stamp(job.started), self.taken.get(&job.seq).map(|taken| taken.line));
            let Some(line) = line else { continue };
            let timeout =
                self.taken.get(&job.seq).map(|taken| self.timeout(&taken.spec, line)).unwrap_or_default();
            let Some(taken) = self.taken.get_mut(&job.seq) else { continue };
            if !taken.marked {
                taken.marked = true;
                let deadline = started.saturating_add(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
                let (id, token) = (taken.delivery.id.clone(), taken.delivery.token);
                self.lines[line].marks.push(Mark { id, token, started, deadline });
            }
        }
    }

    fn finished(&mut self, now: Mono, job: Finished) {
        let ran = job.ended.since(job.started);
        self.held_up = false;
        if let Some(request) = job.request {
            self.tally.request(request);
        }
        if ran >= PREFETCH {
            self.long = self.long.saturating_sub(1);
        }
        let seconds = ran.as_secs_f64();
        // What is put off makes room at once: where much is, more is taken in one go.
        self.service = Some(self.service.map_or(seconds, |mean| mean * 0.9 + seconds * 0.1));
        // But it has not run, and uses none of `max_jobs`.
        if let Outcome::Held { .. } = job.outcome {
            self.counts.held += 1;
            self.conclude(now, job.seq, job.outcome, None, job.ended, None);
            return;
        }
        self.counts.busy += ran;
        self.lately.note(ran);
        if let Some(taken) = self.taken.get(&job.seq) {
            let line = &mut self.lines[taken.line];
            line.used += seconds.max(1e-6) / f64::from(line.share.max(1));
        }
        match job.outcome {
            Outcome::Done { .. } => self.counts.done += 1,
            _ => self.counts.failed += 1,
        }
        self.conclude(now, job.seq, job.outcome, Some(job.started), job.ended, job.stderr_tail);
    }

    /// Turns an outcome into an acknowledgement that waits to be sent.
    fn conclude(
        &mut self,
        now: Mono,
        seq: Seq,
        outcome: Outcome,
        started: Option<Mono>,
        ended: Mono,
        stderr_tail: Option<String>,
    ) {
        let Some(taken) = self.taken.remove(&seq) else { return };
        if self.aside.running == Some(seq) {
            self.aside.running = None;
        }
        let run = Run {
            worker: self.assignment.worker.clone(),
            started: started.map(|at| self.stamp(at)),
            ended: self.stamp(ended),
            stderr_tail,
        };
        let jitter = self.random();
        let line = &self.lines[taken.line];
        let settlement = match self.assignment.policies.get(&line.name) {
            Some(policy) => settle(&taken.delivery, &taken.spec, outcome, &run, policy, jitter),
            None => settle(&taken.delivery, &taken.spec, outcome, &run, &Policy::DEFAULT, jitter),
        };
        let times = started.map(|at| {
            // A job that is given back uncharged is due anew from then; its place in the queue is the old one.
            let wait = self.reading(at).map_or(Duration::ZERO, |reading| reading.since(taken.delivery.due));
            (wait, ended.since(at))
        });
        let (queue, kind) = (&self.lines[taken.line].name, taken.spec.kind.as_deref());
        self.tally.ended(&End { line: taken.line, queue, kind, event: settlement.event, times });
        self.acknowledge(now, taken.line, settlement);
    }

    fn acknowledge(&mut self, now: Mono, line: usize, settlement: Settlement) {
        let line = &mut self.lines[line];
        line.pending_since.get_or_insert(now);
        line.pending.push_back(settlement);
    }

    /// A number from 0 to 1 (splitmix64).
    fn random(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let unit = ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }

    fn answered(&mut self, now: Mono, operation: &str, ok: bool) {
        self.counts.store_ok = ok;
        if !ok {
            self.tally.store_error(operation);
        }
        if ok {
            self.retry_at = None;
            self.retry_after = RETRY;
        } else {
            self.retry_at = Some(now + self.retry_after);
            self.retry_after = (self.retry_after * 2).min(MAX_RETRY);
        }
    }

    fn exchanged(
        &mut self,
        now: Mono,
        sent: Mono,
        result: Result<(Vec<Answer>, Option<Pulled>), StoreError>,
        actions: &mut Vec<Action>,
    ) {
        let (settled, pull) = (self.under_way.settle.take(), self.under_way.pull.take());
        self.under_way.exchange = false;
        self.answered(now, "exchange", result.is_ok());
        let Ok((answers, pulled)) = result else {
            if let Some((line, settlements)) = settled {
                let line = &mut self.lines[line];
                line.pending_since.get_or_insert(now);
                for settlement in settlements.into_iter().rev() {
                    line.pending.push_front(settlement);
                }
            }
            if let Some(line) = pull {
                self.lines[line].doubtful = true;
            }
            return;
        };
        if let Some((line, settlements)) = settled {
            let line = &mut self.lines[line];
            line.held = line.held.saturating_sub(settlements.len());
            if line.held == 0 {
                line.lease_until = None;
            }
            let refused = answers.iter().filter(|answer| **answer != Answer::Ok).count();
            if refused > 0 {
                tracing::warn!(queue = %line.name, refused, "acknowledgements came too late: others had the jobs by then");
            }
        }
        if let (Some(line), Some(pulled)) = (pull, pulled) {
            self.pulled(now, sent, line, pulled, actions);
        }
    }

    fn pulled(&mut self, now: Mono, sent: Mono, at: usize, pulled: Pulled, actions: &mut Vec<Action>) {
        let reading = pulled.now;
        if pulled.skewed {
            // What looked like a jump may be the time that the call itself took; by now that is known.
            self.retry_at = Some(now + RETRY);
            if let Some(expected) = self.clock.map(|clock| clock.at_most(now))
                && reading > expected + SKEW_GUARD
            {
                actions.push(Action::Steer(self.lines[at].name.clone(), expected));
            }
            return;
        }
        self.heard(StoreClock { reading, sent, received: now });
        // Where nothing is due any more, the next look waits to be called for.
        let hinted = std::mem::take(&mut self.lines[at].hinted);
        if !hinted && (pulled.deliveries.is_empty() || pulled.next_due.is_none_or(|due| due > reading)) {
            self.lines[at].dry_until = Some(now + self.look_again(&pulled, reading));
            self.lines[at].dry_since = now;
        }
        if pulled.deliveries.is_empty() {
            return;
        }
        let line = &mut self.lines[at];
        line.lease_until = Some(sent + self.assignment.lease);
        line.held += pulled.deliveries.len();
        self.counts.claimed += pulled.deliveries.len() as u64;
        let mut tasks = Vec::with_capacity(pulled.deliveries.len());
        for delivery in pulled.deliveries {
            if let Some(task) = self.take(now, at, delivery, reading) {
                tasks.push(task);
            }
        }
        self.hand_out(now, tasks, actions);
    }

    fn look_again(&self, pulled: &Pulled, reading: StoreTime) -> Duration {
        if self.has_master {
            return LOOK_AGAIN;
        }
        pulled.next_due.map_or(LOOK_AGAIN_ALONE, |due| due.since(reading).min(LOOK_AGAIN_ALONE))
    }

    /// Notes a delivery; `None` where it ends without being run.
    fn take(&mut self, now: Mono, at: usize, delivery: Delivery, reading: StoreTime) -> Option<Task> {
        let seq = self.next_seq;
        self.next_seq += 1;
        let (spec, verdict) = match delivery.record.decode() {
            Ok(spec) => {
                let expiry = spec.expiry(delivery.record.created_at());
                let expired = expiry.is_some_and(|expiry| expiry <= reading).then_some(Outcome::Expired);
                (spec, expired)
            }
            Err(error) => {
                (Spec::bare(false, "null".to_owned()), Some(Outcome::Dead { error: error.to_string() }))
            }
        };
        let spec = Arc::new(spec);
        let task = Task {
            seq,
            queue: delivery.queue.clone(),
            id: delivery.id.clone(),
            token: delivery.token,
            attempt: delivery.attempt(),
            timeout: self.timeout(&spec, at),
            alone: delivery.alone(),
            spec: spec.clone(),
        };
        self.taken.insert(seq, Taken { delivery, spec, line: at, since: now, marked: false });
        if let Some(outcome) = verdict {
            self.conclude(now, seq, outcome, None, now, None);
            return None;
        }
        Some(task)
    }

    fn renewed(
        &mut self,
        now: Mono,
        sent: Mono,
        queue: &QueueName,
        result: Result<Renewed, StoreError>,
        actions: &mut Vec<Action>,
    ) {
        self.under_way.renew = false;
        self.answered(now, "renew", result.is_ok());
        let Some(at) = self.line(queue) else { return };
        match result {
            Ok(renewed) if renewed.lost => self.leave(
                exit::TRY_AGAIN,
                format!("the lease on queue {queue} lapsed, its jobs are others' now"),
                actions,
            ),
            Ok(renewed) => {
                self.heard(StoreClock { reading: renewed.now, sent, received: now });
                self.lines[at].lease_until = Some(sent + self.assignment.lease);
                for id in renewed.cancel {
                    self.cancel(now, queue, &id, actions);
                }
            }
            Err(_) => {
                for taken in self.taken.values_mut().filter(|taken| taken.line == at) {
                    taken.marked = false;
                }
            }
        }
    }

    /// Gives back what the store thinks is ours and we never received.
    fn reconciled(&mut self, now: Mono, queue: &QueueName, result: Result<Vec<Held>, StoreError>) {
        self.under_way.reconcile = false;
        self.answered(now, "unacked", result.is_ok());
        let (Some(at), Ok(held)) = (self.line(queue), result) else { return };
        let full = held.len() >= MAX_BATCH;
        let mut unknown = 0;
        for held in held {
            let Delivery { id, token, .. } = &held.delivery;
            if self.known(at).any(|known| known == (id, *token)) {
                continue;
            }
            unknown += 1;
            let seq = self.next_seq;
            self.next_seq += 1;
            let spec =
                Arc::new(held.delivery.record.decode().unwrap_or_else(|_| Spec::bare(false, "null".into())));
            self.lines[at].held += 1;
            self.taken
                .insert(seq, Taken { delivery: held.delivery, spec, line: at, since: now, marked: true });
            self.conclude(now, seq, Outcome::GiveBack, None, now, None);
        }
        self.lines[at].doubtful = full && unknown > 0;
    }

    /// The deliveries from a queue that this worker knows to be its own.
    fn known(&self, at: usize) -> impl Iterator<Item = (&JobId, Token)> {
        let taken = self.taken.values().filter(move |taken| taken.line == at);
        let sent = self.under_way.settle.iter().filter(move |(line, _)| *line == at);
        taken
            .map(|taken| (&taken.delivery.id, taken.delivery.token))
            .chain(self.lines[at].pending.iter().map(|it| (&it.id, it.token)))
            .chain(sent.flat_map(|(_, all)| all).map(|it| (&it.id, it.token)))
    }

    fn leave(&mut self, code: u8, why: String, actions: &mut Vec<Action>) {
        if !self.left {
            self.left = true;
            actions.push(Action::Leave { code, why });
        }
    }
}

#[cfg(test)]
mod tests;
