//! Every key that the product keeps in Redis.
//!
//! All keys of a queue share its base, `NAMESPACE:{QUEUE}`, and so one cluster slot; the scripts make the rest of each
//! key from it. Per queue:
//!
//! | key | type | holds |
//! |---|---|---|
//! | `:inbox` | list | raw jobs that producers pushed |
//! | `:taking:TAKER` | list | raw jobs that an intake is about to take in |
//! | `:takers` | set | hosts that have a `:taking` list |
//! | `:jobs` | hash | id → record, as long as anything is known of the job |
//! | `:due:PRIORITY` | sorted set | waiting ids by due time in microseconds |
//! | `:progress` | hash | id → `TOKEN DUE {…}`: what has happened to a job that has not ended |
//! | `:ended` | hash | id → `TOKEN …`: the same of one that has |
//! | `:done`, `:cancelled`, `:expired` | list | ended ids, oldest first |
//! | `:dead` | sorted set | dead ids by the time of their end in ms |
//! | `:unacked:WORKER` | hash | token → the ids of its delivery, joined by blanks; `+` if `:begun` or `:cancel` holds any |
//! | `:begun:WORKER` | hash | id → `TOKEN STARTED DEADLINE` of what has been running for a while |
//! | `:leases` | sorted set | worker → end of its lease in microseconds |
//! | `:lost` | sorted set | workers whose lease lapsed, by when (ms) |
//! | `:cancel:WORKER` | set | running ids that are to be cancelled |
//! | `:remembered`, `:digests` | sorted set, hash | ended ids that producers chose, and their content |
//! | `:outbox` | list | follow-ups on their way to their queues |
//! | `:meta` | hash | clock offset, pause, last token, counters, priorities in use |
//! | `:live` | hash | live settings |
//! | `:hints` | channel | that there is something to do |
//!
//! Beside the queues: `NAMESPACE:queues` (set), `{NAMESPACE}:hosts` (hash), `{NAMESPACE}:host-leases` and, for the points
//! of charts, `{NAMESPACE}:points:STEP` (sorted sets).

use crate::names::{Namespace, QueueName};

/// Makes keys for one namespace.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    namespace: Namespace,
}

impl Keys {
    pub(super) const fn new(namespace: Namespace) -> Self {
        Self { namespace }
    }

    pub(super) fn base(&self, queue: &QueueName) -> String {
        format!("{}:{{{queue}}}", self.namespace)
    }

    pub(super) fn of(&self, queue: &QueueName, name: &str) -> String {
        format!("{}:{{{queue}}}:{name}", self.namespace)
    }

    pub(super) fn taking(&self, queue: &QueueName, taker: &str) -> String {
        self.of(queue, &format!("taking:{taker}"))
    }

    /// The queue that a channel or key belongs to.
    pub(super) fn queue_of<'k>(&self, key: &'k str) -> Option<&'k str> {
        let rest = key.strip_prefix(self.namespace.as_str())?.strip_prefix(":{")?;
        rest.split_once('}').map(|(queue, _)| queue)
    }

    /// The base of the keys that belong to no queue.
    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_str()
    }

    pub(super) fn queues(&self) -> String {
        format!("{}:queues", self.namespace)
    }

    /// The base of the keys of the hosts.
    pub(super) fn registry(&self) -> String {
        format!("{{{}}}", self.namespace)
    }

    pub(super) fn hosts(&self) -> String {
        format!("{}:hosts", self.registry())
    }

    pub(super) fn host_leases(&self) -> String {
        format!("{}:host-leases", self.registry())
    }

    pub(super) fn points(&self, step: u32) -> String {
        format!("{}:points:{step}", self.registry())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inbox_is_where_producers_are_told() {
        let keys = Keys::new(Namespace::new("roundsman").unwrap());
        let queue = QueueName::new("default").unwrap();
        assert_eq!(keys.of(&queue, "inbox"), "roundsman:{default}:inbox");
        assert_eq!(keys.queue_of(&keys.of(&queue, "hints")), Some("default"));
        assert_eq!(keys.queue_of("other:{default}:hints"), None);
    }
}
