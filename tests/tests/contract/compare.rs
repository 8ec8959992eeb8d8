//! The whole state of a store, held against the model's.

use roundsman_shared::job::record::{CREATED_DIGITS, Record};
use roundsman_shared::job::view::Found;
use roundsman_shared::job::{FinalState, State};
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::store::Held;

use crate::args::job_id;
use crate::op::{IDS, WORKERS};
use crate::stores::worker;
use crate::twin::{Checked, Twin, failed, same};

/// The record with the moment of another one's enqueue.
pub(crate) fn stamped(record: &Record, like: &Record) -> Record {
    let created = like.as_str().get(..CREATED_DIGITS).unwrap_or_default();
    Record::new(format!("{created}{}", record.as_str().get(CREATED_DIGITS..).unwrap_or_default()))
}

impl Twin<'_> {
    pub(crate) fn born_in_time(&self, queue: &QueueName, id: &JobId, created: i64) -> Checked {
        match self.born.get(&(queue.clone(), id.clone())) {
            Some((from, to)) if (*from..=*to).contains(&created) => Ok(()),
            window => {
                Err(format!("{id} in {queue} says that it was made at {created}, it was in {window:?}"))
            }
        }
    }

    pub(crate) async fn compare(&mut self) -> Checked {
        for queue in self.queues.clone() {
            self.compare_queue(&queue).await.map_err(|why| format!("in {queue}, {why}"))?;
        }
        Ok(())
    }

    async fn compare_queue(&mut self, queue: &QueueName) -> Checked {
        let ids: Vec<_> = (0..IDS).map(job_id).collect();
        let store = self.store.look(queue, &ids).await.map_err(failed)?;
        self.tick().await?;
        let model = self.model.look(queue, &ids, self.known);
        for (id, (store, model)) in ids.iter().zip(store.iter().zip(&model)) {
            match (store, model) {
                (Some(store), Some(model)) => self.compare_found(store, model)?,
                (None, None) => {}
                _ => return Err(format!("look at {id}\n  store: {store:?}\n  model: {model:?}")),
            }
        }
        for state in State::ALL {
            self.compare_list(queue, state).await.map_err(|why| format!("the list of {state}: {why}"))?;
        }
        for number in 0..=WORKERS {
            let holder = worker(number);
            let mut store = self.store.unacked(queue, &holder, None).await.map_err(failed)?;
            let mut model = self.model.unacked(queue, &holder, None);
            if let Some(first) = model.first().map(|held| held.delivery.token) {
                store.extend(self.store.unacked(queue, &holder, Some(first)).await.map_err(failed)?);
                model.extend(self.model.unacked(queue, &holder, Some(first)));
            }
            for all in [&mut store, &mut model] {
                all.sort_by(|a, b| {
                    (a.delivery.token, &a.delivery.id).cmp(&(b.delivery.token, &b.delivery.id))
                });
            }
            let strip = |held: &Held| {
                let mut held = held.clone();
                held.delivery.record =
                    stamped(&held.delivery.record, &Record::new("0".repeat(CREATED_DIGITS)));
                held
            };
            let strip_all = |all: &[Held]| all.iter().map(strip).collect::<Vec<_>>();
            same("what a worker holds", &strip_all(&store), &strip_all(&model))?;
        }
        self.compare_numbers(queue).await
    }

    async fn compare_numbers(&mut self, queue: &QueueName) -> Checked {
        let from = self.tick().await?;
        let mut store = self.store.overview(queue).await.map_err(failed)?;
        self.tick().await?;
        let mut model = self.model.overview(queue, self.known);
        // Measured at some moment between the two readings.
        let (least, age, most) =
            (self.model.overview(queue, from).oldest_due_ms, store.oldest_due_ms, model.oldest_due_ms);
        if age.is_some() != most.is_some() || age < least || age > most {
            return Err(format!("the oldest job is {age:?} ms old, not in {least:?} to {most:?}"));
        }
        (store.oldest_due_ms, model.oldest_due_ms) = (None, None);
        same("overview", &store, &model)?;
        let queues = self.store.queues().await.map_err(failed)?;
        if store.enqueued_total > 0 && !queues.contains(queue) {
            return Err("it is not listed".to_owned());
        }
        let outbox = |all: Vec<roundsman_shared::store::Outgoing>| -> Vec<_> {
            all.into_iter().map(|outgoing| outgoing.follow_up).collect()
        };
        let store = self.store.outbox(queue).await.map_err(failed)?;
        same("outbox", &outbox(store), &outbox(self.model.outbox(queue)))?;
        same("live settings", &self.store.live(queue).await.map_err(failed)?, &self.model.live(queue))
    }

    async fn compare_list(&mut self, queue: &QueueName, state: State) -> Checked {
        let mut store: Vec<Found> = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.store.list(queue, state, cursor.as_deref(), self.page).await.map_err(failed)?;
            if page.found.len() > self.page {
                return Err(format!(
                    "a page of {} jobs, at most {} were asked for",
                    page.found.len(),
                    self.page
                ));
            }
            store.extend(page.found);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
            if store.len() > 1000 {
                return Err("it has no end".to_owned());
            }
        }
        self.tick().await?;
        let model = self.model.list(queue, state, self.known);
        if state == State::Running {
            // In no order that was promised.
            store.sort_by(|a, b| a.id.cmp(&b.id));
        }
        let ids = |list: &[Found]| -> Vec<_> { list.iter().map(|found| found.id.clone()).collect() };
        same("ids", &ids(&store), &ids(&model))?;
        store.iter().zip(&model).try_for_each(|(store, model)| self.compare_found(store, model))
    }

    fn compare_found(&self, store: &Found, model: &Found) -> Checked {
        self.born_in_time(&store.queue, &store.id, store.record.created())?;
        let (mut store, mut model) = (store.clone(), model.clone());
        model.record = stamped(&model.record, &store.record);
        model.now = store.now;
        if store.progress.state == Some(FinalState::Cancelled) && store.progress.ended.is_some() {
            // The store's own moment, where it was the store that ended it.
            store.progress.ended = model.progress.ended;
        }
        same(&format!("look at {}", store.id), &store, &model)
    }
}
