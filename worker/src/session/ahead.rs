//! What is held ahead of the slots, and what becomes of it when it cannot start.
//!
//! A mean says little of the next job: behind a long one that follows short ones much may wait. So what has waited for
//! longer than the prefetch allows goes back to where others find it, and nothing more is pulled until a job has ended:
//! what was given back is not taken again at once by the worker that cannot start it.
//!
//! A job that must run alone cannot start while others run. It stands aside, and others overtake it; but now and then
//! the worker gives way to it and pulls nothing, in spells that grow with its wait, so that it starts in the end however
//! long the others are.

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::job::settle::Outcome;

use super::events::{Action, Running, Seq, Task};
use super::state::Aside;
use super::{MAX_HELD, PREFETCH, Session};

impl Aside {
    /// Whether others wait for it now: from 1 s to 2 s of its wait, from 4 s to 8 s, from 16 s to 32 s and so on.
    fn is_given_way(&self, now: Mono) -> bool {
        self.waited(now).checked_ilog2().is_some_and(|power| power % 2 == 0)
    }

    /// When that changes.
    pub(super) fn next_turn(&self, now: Mono) -> Option<Mono> {
        let turn = self.waited(now).checked_ilog2().map_or(1, |power| 2 << power);
        self.since.map(|since| since + Duration::from_secs(turn))
    }

    fn waited(&self, now: Mono) -> u64 {
        self.since.map_or(0, |since| now.since(since).as_secs())
    }
}

impl Session {
    /// Jobs that have a slot or wait for the next free one.
    pub(super) fn held(&self) -> usize {
        self.taken.len() - self.aside.tasks.len()
    }

    /// How many more jobs may be held.
    pub(super) fn room(&self) -> usize {
        let slots = self.assignment.slots;
        // A slot that is taken for long starts none of what waits.
        let turning = slots.saturating_sub(self.long);
        #[expect(clippy::cast_precision_loss, reason = "slots are few")]
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
        let ahead = self.service.map_or(0, |mean| {
            ((PREFETCH.as_secs_f64() / mean.max(1e-7)) * turning as f64).min(MAX_HELD as f64) as usize
        });
        (slots + ahead).min(MAX_HELD.max(slots)).saturating_sub(self.held())
    }

    /// Whether what was pulled now could not start, though a slot may be free.
    pub(super) fn blocked(&self, now: Mono) -> bool {
        self.held_up
            || self.aside.running.is_some()
            || self.aside.is_given_way(now)
            || self.aside.tasks.len() >= self.assignment.slots
    }

    /// Sends jobs to the slots, but for those that must wait until they have the worker for themselves.
    pub(super) fn hand_out(&mut self, now: Mono, mut tasks: Vec<Task>, actions: &mut Vec<Action>) {
        let slots = self.assignment.slots;
        if self.stopping.is_some() || self.paused || self.aside.running.is_some() {
            return tasks.into_iter().for_each(|task| self.give_back(now, task.seq));
        }
        if slots > 1 {
            for task in tasks.extract_if(.., |task| task.alone).collect::<Vec<_>>() {
                if self.aside.tasks.len() < slots {
                    self.aside.since.get_or_insert(now);
                    self.aside.tasks.push_back(task);
                } else {
                    self.give_back(now, task.seq);
                }
            }
        }
        if !tasks.is_empty() {
            actions.push(Action::Run(tasks));
        }
    }

    /// Starts a job that stands aside, once nothing else runs.
    pub(super) fn drive_aside(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if self.held() > 0 || self.under_way.pull.is_some() {
            return;
        }
        let Some(task) = self.aside.tasks.pop_front() else { return };
        self.aside.running = Some(task.seq);
        self.aside.since = (!self.aside.tasks.is_empty()).then_some(now);
        actions.push(Action::Run(vec![task]));
    }

    /// Gives back what stands aside.
    pub(super) fn clear_aside(&mut self, now: Mono) {
        self.aside.since = None;
        for task in std::mem::take(&mut self.aside.tasks) {
            self.give_back(now, task.seq);
        }
    }

    /// Takes a job that stands aside out of there. Answers whether it did.
    pub(super) fn leave_aside(&mut self, seq: Seq) -> bool {
        let before = self.aside.tasks.len();
        self.aside.tasks.retain(|task| task.seq != seq);
        if self.aside.tasks.is_empty() {
            self.aside.since = None;
        }
        self.aside.tasks.len() < before
    }

    fn give_back(&mut self, now: Mono, seq: Seq) {
        self.conclude(now, seq, Outcome::GiveBack, None, now, None);
    }

    /// Takes back what waits, where nothing has started for as long as work may be held ahead.
    pub(super) fn watch_waiting(&mut self, now: Mono, running: &[Running], actions: &mut Vec<Action>) {
        self.long = running.iter().filter(|job| now.since(job.started) >= PREFETCH).count();
        let moving = self.long < running.len();
        if running.is_empty() || moving || self.held_up || self.held() <= running.len() {
            return;
        }
        // What came just now is on its way to a slot.
        let waits = self.taken.iter().any(|(seq, taken)| {
            now.since(taken.since) >= PREFETCH
                && running.iter().all(|job| job.seq != *seq)
                && self.aside.tasks.iter().all(|task| task.seq != *seq)
        });
        if waits {
            self.held_up = true;
            actions.push(Action::TakeBack);
        }
    }
}
