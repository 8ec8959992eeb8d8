//! Messages between their delivery and their ack, and what of them the broker is told. Pure.

use std::collections::{BTreeMap, VecDeque};

use roundsman_shared::job::NewJob;
use roundsman_shared::names::JobId;
use serde_json::Value;

use super::message::is_chosen;

/// A message that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct Held {
    /// Of the channel that it came by, and of no other.
    pub(super) tag: u64,
    pub(super) item: Item,
}

#[derive(Debug)]
pub(super) enum Item {
    Job(NewJob),
    Refused(Box<Refusal>),
}

/// A message that cannot become a job.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Under which it becomes a dead letter: the same for the same message.
    pub(super) id: JobId,
    /// Its raw bytes.
    pub(super) payload: Value,
    pub(super) why: String,
}

/// What the broker is told of one tag, or of all up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) tag: u64,
    pub(super) multiple: bool,
}

/// The fewest acknowledgements for these tags, in rising order, while `kept` is the lowest tag that must not be
/// acknowledged.
pub(super) fn acks(tags: &[u64], kept: Option<u64>) -> Vec<Ack> {
    let below = tags.partition_point(|tag| kept.is_none_or(|kept| *tag < kept));
    let (below, above) = tags.split_at(below);
    let first = below.last().map(|tag| Ack { tag: *tag, multiple: true });
    first.into_iter().chain(above.iter().map(|tag| Ack { tag: *tag, multiple: false })).collect()
}

/// Jobs of messages without an id that were handed to the store and never acknowledged to the broker, since their channel
/// was lost. The broker delivers each of those messages again, marked so; one of the same content then gets the same id,
/// and is stored once. By content, so that of several that are alike each counts once.
#[derive(Debug)]
pub(super) struct Unsure {
    ids: BTreeMap<String, Vec<JobId>>,
    /// Contents, the oldest first.
    order: VecDeque<String>,
    most: usize,
}

impl Unsure {
    pub(super) fn new(most: usize) -> Self {
        Self { ids: BTreeMap::new(), order: VecDeque::new(), most }
    }

    /// A channel is lost, and with it the acks of these.
    pub(super) fn remember(&mut self, held: impl IntoIterator<Item = Held>) {
        for Held { item, .. } in held {
            let Item::Job(job) = item else { continue };
            if is_chosen(&job) {
                continue;
            }
            self.order.push_back(job.content.clone());
            self.ids.entry(job.content).or_default().push(job.id);
            while self.order.len() > self.most {
                let Some(oldest) = self.order.pop_front() else { break };
                self.take(&oldest);
            }
        }
    }

    /// A message came again: its job keeps the id that it had.
    pub(super) fn recall(&mut self, job: &mut NewJob) {
        if self.order.is_empty() || is_chosen(job) {
            return;
        }
        if let Some(id) = self.take(&job.content) {
            if let Some(at) = self.order.iter().position(|content| *content == job.content) {
                self.order.remove(at);
            }
            job.id = id;
        }
    }

    fn take(&mut self, content: &str) -> Option<JobId> {
        let ids = self.ids.get_mut(content)?;
        let id = (!ids.is_empty()).then(|| ids.remove(0));
        if ids.is_empty() {
            self.ids.remove(content);
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;
    use roundsman_shared::job::spec::Limits;

    use super::super::message::read;
    use super::*;

    #[test]
    fn acks_reach_as_far_as_they_may() {
        let one = |tag| Ack { tag, multiple: false };
        let all = |tag| Ack { tag, multiple: true };
        assert_eq!(acks(&[1, 2, 5], None), [all(5)]);
        assert_eq!(acks(&[1, 2, 5], Some(9)), [all(5)]);
        assert_eq!(acks(&[1, 3, 4], Some(2)), [all(1), one(3), one(4)]);
        assert_eq!(acks(&[3, 4], Some(2)), [one(3), one(4)]);
        assert_eq!(acks(&[], Some(2)), []);
    }

    fn job(body: &str, id: &str) -> NewJob {
        let limits = Limits { max_payload: 100, now: serde_json::from_str("1700000000000").unwrap() };
        let properties = BasicProperties::default().with_message_id(id.into());
        read(&properties, body.as_bytes(), &limits).unwrap()
    }

    fn held(jobs: &[NewJob]) -> Vec<Held> {
        (1..).zip(jobs).map(|(tag, job)| Held { tag, item: Item::Job(job.clone()) }).collect()
    }

    #[test]
    fn a_message_without_an_id_keeps_the_one_it_had() {
        let first = [job("1", ""), job("2", ""), job("1", ""), job("1", "m")];
        let mut unsure = Unsure::new(10);
        unsure.remember(held(&first));
        let recalled = |unsure: &mut Unsure, body: &str, id: &str| {
            let mut again = job(body, id);
            let fresh = again.id.clone();
            unsure.recall(&mut again);
            (again.id != fresh).then_some(again.id)
        };
        assert_eq!(recalled(&mut unsure, "1", ""), Some(first[0].id.clone()));
        assert_eq!(recalled(&mut unsure, "3", ""), None);
        assert_eq!(recalled(&mut unsure, "1", "m"), None);
        assert_eq!(recalled(&mut unsure, "1", ""), Some(first[2].id.clone()));
        assert_eq!(recalled(&mut unsure, "1", ""), None, "as often as it was lost");
        assert_eq!((unsure.order.len(), unsure.ids.len()), (1, 1));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut unsure = Unsure::new(3);
        let many: Vec<NewJob> = (0..10).map(|n| job(&n.to_string(), "")).collect();
        unsure.remember(held(&many));
        assert_eq!((unsure.order.len(), unsure.ids.len()), (3, 3));
        let mut again = job("9", "");
        unsure.recall(&mut again);
        assert_eq!(again.id, many[9].id);
    }
}
