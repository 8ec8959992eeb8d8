//! The operations of a [`Twin`] beside enqueue, pull and acknowledge.

use std::time::Duration;

use roundsman_shared::job::settle::{Delivery, FollowUp};
use roundsman_shared::job::{Due, Outcome};
use roundsman_shared::names::{QueueName, WorkerId};
use roundsman_shared::store::{Mark, RenewRequest};

use crate::args::{due, job_id, replaced, retention};
use crate::op::{Op, WORKERS};
use crate::stores::{HOUR, worker};
use crate::twin::{Checked, Twin, failed, same};

impl Twin<'_> {
    pub(crate) async fn renew(&mut self, at: usize, number: u8, lease: Duration, marks: &[u8]) -> Checked {
        let from = self.tick().await?;
        let given = marks.iter().filter_map(|back| self.given[at].iter().rev().nth(usize::from(*back)));
        let mark = |(n, (_, delivery)): (i64, &(u8, Delivery))| Mark {
            id: delivery.id.clone(),
            token: delivery.token,
            started: 1000 + n,
            deadline: 2000 + n,
        };
        let marks = (0..).zip(given).map(mark).collect();
        let request = RenewRequest { queue: self.queues[at].clone(), worker: worker(number), lease, marks };
        let mut renewed = self.store.renew(&request).await.map_err(failed)?;
        self.tick().await?;
        if !(from..=self.known).contains(&renewed.now) {
            return Err(format!("the renewal says that it happened at {:?}", renewed.now));
        }
        renewed.cancel.sort();
        same("renew", &renewed, &self.model.renew(&request, renewed.now))
    }

    pub(crate) async fn pulse(&mut self, at: usize, lease: Duration) -> Checked<Vec<WorkerId>> {
        let name = self.queues[at].clone();
        let mut pulse = self.store.pulse(&name, lease, HOUR).await.map_err(failed)?;
        self.tick().await?;
        pulse.lapsed.sort();
        let mut expected = self.model.pulse(&name, lease, HOUR, pulse.now);
        self.version(at, pulse.live_version, expected.live_version)?;
        expected.live_version = pulse.live_version;
        same("pulse", &pulse, &expected)?;
        self.pulsed[at] = pulse.now;
        Ok(pulse.lapsed)
    }

    pub(crate) async fn sweep(&mut self, at: usize, all: bool) -> Checked {
        let lapsed = self.pulse(at, HOUR).await?;
        for number in 0..=WORKERS {
            if all || lapsed.contains(&worker(number)) {
                self.release(at, number, Outcome::Lapsed, true).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn release(
        &mut self,
        at: usize,
        number: u8,
        outcome: Outcome,
        only_if_lapsed: bool,
    ) -> Checked {
        self.a_later_millisecond().await?;
        let name = self.queues[at].clone();
        let held = self.store.unacked(&name, &worker(number), None).await.map_err(failed)?;
        let settle = |held: &roundsman_shared::store::Held| {
            self.settlement(&held.delivery, number, held.started.is_some(), outcome.clone())
        };
        let settlements: Vec<_> = held.iter().map(settle).collect::<Checked<_>>()?;
        if settlements.is_empty() {
            return Ok(());
        }
        let request = self.request(name, worker(number), settlements, only_if_lapsed);
        self.exchange_both(at, Some(&request), None).await
    }

    pub(crate) async fn trim(&mut self, name: &QueueName, old: bool) -> Checked {
        self.a_later_millisecond().await?;
        while self.store.trim(name, &retention(old)).await.map_err(failed)? {}
        self.tick().await?;
        self.model.trim(name, &retention(old), self.known);
        Ok(())
    }

    pub(crate) async fn move_outbox(&mut self, name: &QueueName, count: usize) -> Checked {
        let store: Vec<_> = self.store.outbox(name).await.map_err(failed)?.into_iter().take(count).collect();
        let model: Vec<_> = self.model.outbox(name).into_iter().take(count).collect();
        let jobs = |outbox: &[roundsman_shared::store::Outgoing]| -> Vec<_> {
            outbox.iter().map(|outgoing| outgoing.follow_up.clone()).collect()
        };
        same("the outbox", &jobs(&store), &jobs(&model))?;
        for outgoing in &store {
            let FollowUp { queue, job } = &outgoing.follow_up;
            self.enqueue(queue, std::slice::from_ref(job), u64::MAX).await?;
        }
        let tickets = |outbox: Vec<roundsman_shared::store::Outgoing>| -> Vec<_> {
            outbox.into_iter().map(|outgoing| outgoing.ticket).collect()
        };
        self.store.outbox_moved(name, &tickets(store)).await.map_err(failed)?;
        self.model.outbox_moved(name, &tickets(model));
        Ok(())
    }

    pub(crate) async fn change(&mut self, name: &QueueName, op: &Op) -> Checked {
        self.a_later_millisecond().await?;
        let from = self.tick().await?;
        match op {
            Op::Cancel { id } => {
                let id = job_id(*id);
                let answer = self.store.cancel(name, &id).await.map_err(failed)?;
                self.tick().await?;
                same("cancel", &answer, &self.model.cancel(name, &id, self.known))?;
                self.ended = self.known;
                // A cancellation is not told how much is kept.
                self.trim(name, false).await
            }
            Op::Reschedule { id, due: to } => {
                let (id, due) = (job_id(*id), due(*to));
                let answer = self.store.reschedule(name, &id, due).await.map_err(failed)?;
                self.tick().await?;
                let now = match due {
                    Due::Now => self.moment(name, &id, Duration::ZERO, from).await?,
                    Due::In(span) => self.moment(name, &id, span, from).await?,
                    Due::At(_) => self.known,
                };
                same("reschedule", &answer, &self.model.reschedule(name, &id, due, now))
            }
            Op::Replace { id, payload, due: to } => {
                let (id, due) = (job_id(*id), to.map(due));
                let found = self.store.look(name, std::slice::from_ref(&id)).await.map_err(failed)?;
                let content = replaced(found.into_iter().next().flatten(), *payload);
                let answer = self.store.replace(name, &id, &content, due).await.map_err(failed)?;
                self.tick().await?;
                let now = match due {
                    Some(Due::Now) => self.moment(name, &id, Duration::ZERO, from).await?,
                    Some(Due::In(span)) => self.moment(name, &id, span, from).await?,
                    Some(Due::At(_)) | None => self.known,
                };
                same("replace", &answer, &self.model.replace(name, &id, &content, due, now))
            }
            Op::Retry { id } => {
                let id = job_id(*id);
                let answer = self.store.retry(name, &id).await.map_err(failed)?;
                self.tick().await?;
                let now = self.moment(name, &id, Duration::ZERO, from).await?;
                same("retry", &answer, &self.model.retry(name, &id, now))
            }
            Op::Delete { id } => {
                let id = job_id(*id);
                let answer = self.store.delete(name, &id).await.map_err(failed)?;
                same("delete", &answer, &self.model.delete(name, &id))
            }
            Op::Purge { state } => {
                let answer = self.store.purge(name, *state).await.map_err(failed)?;
                self.tick().await?;
                same("purge", &answer, &self.model.purge(name, *state, self.known))
            }
            other => unreachable!("{other:?} is no change"),
        }
    }
}
