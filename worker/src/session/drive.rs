//! What follows from a session's state after each event: when to leave, to renew, to acknowledge and to pull; and when to
//! look again.

use std::time::Duration;

use roundsman_shared::clock::{Mono, SKEW_GUARD};
use roundsman_shared::exit;
use roundsman_shared::store::{MAX_BATCH, PullRequest, RenewRequest, SettleRequest};

use super::events::{Action, StopJob};
use super::state::{Line, Stopping};
use super::{ACK_WITHIN, LOOK_AGAIN, LOOK_AGAIN_BUSY, MARK_AFTER, Session};

impl Session {
    /// Everything that follows from the state: stopping, leases, acknowledgements, pulls.
    pub(super) fn drive(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if self.left {
            return;
        }
        self.drive_stop(now, actions);
        self.drive_leases(now, actions);
        if self.left {
            return;
        }
        self.drive_aside(now, actions);
        if self.retry_at.is_some_and(|at| at > now) {
            return;
        }
        if let Some(at) = self.lines.iter().position(|line| line.doubtful)
            && !self.under_way.reconcile
        {
            self.under_way.reconcile = true;
            let newest = self.known(at).map(|(_, token)| token).max();
            actions.push(Action::Reconcile(self.lines[at].name.clone(), newest));
        }
        self.drive_exchange(now, actions);
    }

    fn drive_stop(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let Some(stopping) = &mut self.stopping else {
            let jobs = self.counts.claimed - self.counts.held;
            if self.assignment.max_jobs > 0 && jobs >= self.assignment.max_jobs {
                let why = format!("it has run {jobs} jobs (max_jobs)");
                self.stopping = Some(Stopping { release_at: None, released: false, why });
            }
            return;
        };
        if !stopping.released && stopping.release_at.is_some_and(|at| at <= now) {
            stopping.released = true;
            actions.push(Action::TakeBack);
            for seq in self.taken.keys() {
                actions.push(Action::StopJob(*seq, StopJob::Released));
            }
        }
        let done = self.taken.is_empty()
            && self.under_way.settle.is_none()
            && self.lines.iter().all(|line| line.pending.is_empty());
        // What a pull may have brought is asked for only while the store answers: it comes back without us, too.
        let asking = self.under_way.exchange || self.under_way.reconcile;
        let doubt = asking || self.lines.iter().any(|line| line.doubtful);
        if done && !(doubt && self.counts.store_ok) {
            let why = stopping.why.clone();
            self.leave(exit::OK, why, actions);
        }
    }

    fn drive_leases(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let (lease, margin) = (self.assignment.lease, self.margin());
        let lost = self
            .lines
            .iter()
            .find(|line| line.held > 0 && line.lease_until.is_some_and(|until| now + margin >= until));
        if let Some(line) = lost {
            let why = format!("the lease on queue {} could not be renewed in time", line.name);
            self.leave(exit::TRY_AGAIN, why, actions);
            return;
        }
        if self.under_way.renew || self.retry_at.is_some_and(|at| at > now) {
            return;
        }
        let worker = self.assignment.worker.clone();
        let due = self.lines.iter_mut().find(|line| {
            line.held > 0
                && (!line.marks.is_empty()
                    || line.lease_until.is_some_and(|until| now + lease * 7 / 8 >= until))
        });
        if let Some(line) = due {
            self.under_way.renew = true;
            let marks = line.marks.drain(..line.marks.len().min(MAX_BATCH)).collect();
            actions.push(Action::Renew(RenewRequest { queue: line.name.clone(), worker, lease, marks }));
        }
    }

    /// Whether more is to be pulled.
    fn hungry(&self, now: Mono) -> bool {
        let (room, held) = (self.room(), self.held());
        self.stopping.is_none()
            && !self.paused
            && !self.blocked(now)
            && room > 0
            && (held < self.assignment.slots || room >= MAX_BATCH.min(held))
    }

    /// When a queue that was found empty is to be looked at again.
    fn look_at_dry(&self, line: &Line) -> Option<Mono> {
        let busy = self.busy_since.map(|since| since.max(line.dry_since) + LOOK_AGAIN_BUSY);
        line.dry_until.map(|until| busy.map_or(until, |busy| until.min(busy)))
    }

    fn drive_exchange(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if self.under_way.exchange {
            return;
        }
        let room = self.room();
        let pull = if self.hungry(now) { self.next_line(now) } else { None };
        let oldest =
            self.lines.iter().enumerate().filter_map(|(at, line)| Some((line.pending_since?, at))).min();
        let settle = oldest.filter(|(since, at)| {
            pull.is_some()
                || now.since(*since) >= ACK_WITHIN
                || self.lines[*at].pending.len() >= MAX_BATCH
                || self.taken.is_empty()
        });
        if pull.is_none() && settle.is_none() {
            return;
        }
        let settle = settle.map(|(_, at)| {
            let worker = self.assignment.worker.clone();
            let policy = self.assignment.policy(&self.lines[at].name);
            let line = &mut self.lines[at];
            let mut settlements: Vec<_> = line.pending.drain(..line.pending.len().min(MAX_BATCH)).collect();
            // What came in one pull is cheapest when it goes together.
            settlements.sort_by_key(|settlement| settlement.token);
            line.pending_since = if line.pending.is_empty() { None } else { Some(now) };
            self.under_way.settle = Some((at, settlements.clone()));
            SettleRequest {
                queue: line.name.clone(),
                worker,
                settlements,
                retention: (&policy).into(),
                only_if_lapsed: false,
            }
        });
        let pull = pull.map(|at| {
            self.under_way.pull = Some(at);
            self.lines[at].hinted = false;
            PullRequest {
                queue: self.lines[at].name.clone(),
                worker: self.assignment.worker.clone(),
                max: room.min(MAX_BATCH),
                lease: self.assignment.lease,
                latest: self.clock.map(|clock| clock.at_most(now) + SKEW_GUARD),
            }
        });
        self.under_way.exchange = true;
        actions.push(Action::Exchange { settle, pull });
    }

    /// The queue to pull from: of those that may hold something, the one that has had least of its share; or the
    /// first, where the pool names an order (shares of 0).
    fn next_line(&mut self, now: Mono) -> Option<usize> {
        for at in 0..self.lines.len() {
            if self.look_at_dry(&self.lines[at]).is_some_and(|due| due <= now) {
                self.lines[at].dry_until = None;
            }
        }
        let open =
            || self.lines.iter().enumerate().filter(|(_, line)| line.dry_until.is_none() && !line.doubtful);
        let least = open().min_by(|(_, a), (_, b)| {
            if a.share == 0 || b.share == 0 { std::cmp::Ordering::Equal } else { a.used.total_cmp(&b.used) }
        })?;
        let (at, floor) = (least.0, least.1.used);
        // A queue that was empty for long has no claim to the time it did not want.
        for line in &mut self.lines {
            if line.dry_until.is_some() {
                line.used = line.used.max(floor);
            }
        }
        Some(at)
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_deadline(&mut self, now: Mono) -> Mono {
        let mut next = now + LOOK_AGAIN;
        let mut at = |moment: Mono| {
            if moment < next {
                next = moment;
            }
        };
        if let Some(retry) = self.retry_at {
            at(retry);
        }
        if let Some(release) = self.stopping.as_ref().filter(|s| !s.released).and_then(|s| s.release_at) {
            at(release);
        }
        let margin = self.margin();
        // What cannot be done before an answer, or before the next try, is no reason to wake up.
        let open = !self.under_way.exchange && self.retry_at.is_none_or(|at| at <= now);
        let hungry = open && self.hungry(now);
        if let Some(turn) = self.aside.next_turn(now) {
            at(turn);
        }
        for line in &self.lines {
            if let Some(since) = line.pending_since.filter(|_| open) {
                at(since + ACK_WITHIN);
            }
            if let Some(due) = self.look_at_dry(line).filter(|_| hungry) {
                at(due);
            }
            if let Some(until) = line.lease_until.filter(|_| line.held > 0) {
                let lease = self.assignment.lease;
                let renew = Mono::from_nanos(until.as_nanos().saturating_sub(nanos(lease * 7 / 8)));
                at(if self.under_way.renew || renew <= now {
                    Mono::from_nanos(until.as_nanos().saturating_sub(nanos(margin)))
                } else {
                    renew
                });
            }
        }
        if self.taken.values().any(|taken| !taken.marked) {
            if self.look_at <= now {
                self.look_at = now + MARK_AFTER;
            }
            at(self.look_at);
        }
        if next <= now { now + Duration::from_millis(1) } else { next }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
