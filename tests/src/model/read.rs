use std::collections::BTreeMap;

use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::view::Found;
use roundsman_shared::job::{FinalState, State};
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::store::{MAX_BATCH, Outgoing, QueueView};

use super::Model;

impl Model {
    #[must_use]
    pub fn look(&self, name: &QueueName, ids: &[JobId], now: StoreTime) -> Vec<Option<Found>> {
        let jobs = self.queues.get(name).map(|queue| &queue.jobs);
        ids.iter().map(|id| Some(jobs?.get(id)?.found(name, id, now))).collect()
    }

    /// All jobs in one state: waiting ones by priority and due time, ended ones from the newest, running ones by id.
    #[must_use]
    pub fn list(&self, name: &QueueName, state: State, now: StoreTime) -> Vec<Found> {
        let Some(queue) = self.queues.get(name) else { return Vec::new() };
        let ended = |state| queue.ended_in(state).into_iter().rev().map(|(_, _, id)| id).collect();
        let ids: Vec<JobId> = match state {
            State::Scheduled | State::Ready => {
                let line = queue.line().into_iter();
                line.filter(|(_, score)| (*score <= now) == (state == State::Ready))
                    .map(|(id, _)| id)
                    .collect()
            }
            State::Running => {
                queue.jobs.iter().filter(|(_, job)| job.held().is_some()).map(|(id, _)| id.clone()).collect()
            }
            State::Done => ended(FinalState::Done),
            State::Dead => ended(FinalState::Dead),
            State::Cancelled => ended(FinalState::Cancelled),
            State::Expired => ended(FinalState::Expired),
        };
        ids.iter().map(|id| queue.jobs[id].found(name, id, now)).collect()
    }

    #[must_use]
    pub fn overview(&self, name: &QueueName, now: StoreTime) -> QueueView {
        let Some(queue) = self.queues.get(name) else {
            return QueueView { queue: name.to_string(), ..QueueView::default() };
        };
        let due = queue.line().into_iter().map(|(_, score)| score).filter(|score| *score <= now).min();
        QueueView {
            queue: name.to_string(),
            paused: queue.paused,
            scheduled: queue.count(State::Scheduled, now),
            ready: queue.count(State::Ready, now),
            running: queue.count(State::Running, now),
            done: queue.count(State::Done, now),
            dead: queue.count(State::Dead, now),
            cancelled: queue.count(State::Cancelled, now),
            expired: queue.count(State::Expired, now),
            oldest_due_ms: due.map(|due| (now.as_micros() - due.as_micros()) / 1000),
            inbox: 0,
            outbox: queue.outbox.len() as u64,
            enqueued_total: queue.enqueued,
            ended_total: queue.ended,
        }
    }

    #[must_use]
    pub fn queues(&self) -> Vec<QueueName> {
        self.queues.keys().cloned().collect()
    }

    pub fn pause(&mut self, queue: &QueueName, paused: bool) {
        self.queues.entry(queue.clone()).or_default().paused = paused;
    }

    #[must_use]
    pub fn live(&self, queue: &QueueName) -> BTreeMap<String, String> {
        self.queues.get(queue).map(|queue| queue.live.clone()).unwrap_or_default()
    }

    pub fn set_live(&mut self, queue: &QueueName, key: &str, value: Option<&str>) {
        let queue = self.queues.entry(queue.clone()).or_default();
        let before = match value {
            Some(value) => queue.live.insert(key.to_owned(), value.to_owned()),
            None => queue.live.remove(key),
        };
        if before.as_deref() != value {
            queue.live_version += 1;
        }
    }

    #[must_use]
    pub fn outbox(&self, queue: &QueueName) -> Vec<Outgoing> {
        let waiting = self.queues.get(queue).map(|queue| queue.outbox.clone()).unwrap_or_default();
        waiting.into_iter().take(MAX_BATCH).collect()
    }

    pub fn outbox_moved(&mut self, queue: &QueueName, tickets: &[String]) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.outbox.retain(|outgoing| !tickets.contains(&outgoing.ticket));
        }
    }
}
