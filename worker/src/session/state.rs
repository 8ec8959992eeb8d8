//! What a session remembers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::job::Spec;
use roundsman_shared::job::settle::{Delivery, Settlement};
use roundsman_shared::names::QueueName;
use roundsman_shared::protocol::RUNS_TOLD;
use roundsman_shared::store::Mark;

use super::events::{Seq, Task};

/// One of the queues that the worker serves.
pub(super) struct Line {
    pub(super) name: QueueName,
    pub(super) share: u32,
    /// Found empty; looked at again at this moment.
    pub(super) dry_until: Option<Mono>,
    /// When it was last found so.
    pub(super) dry_since: Mono,
    /// There may be work since the pull that is under way was sent: its answer does not know.
    pub(super) hinted: bool,
    /// Running time taken, divided by the share.
    pub(super) used: f64,
    pub(super) lease_until: Option<Mono>,
    pub(super) held: usize,
    /// A pull's answer was lost: the store may know of deliveries that we do not.
    pub(super) doubtful: bool,
    pub(super) pending: VecDeque<Settlement>,
    pub(super) pending_since: Option<Mono>,
    pub(super) marks: Vec<Mark>,
}

pub(super) struct Taken {
    pub(super) delivery: Delivery,
    pub(super) spec: Arc<Spec>,
    pub(super) line: usize,
    pub(super) since: Mono,
    pub(super) marked: bool,
}

/// Jobs that must have the worker for themselves.
#[derive(Default)]
pub(super) struct Aside {
    pub(super) tasks: VecDeque<Task>,
    /// Since when the first of them waits.
    pub(super) since: Option<Mono>,
    /// The one that runs.
    pub(super) running: Option<Seq>,
}

/// What is under way with the store.
#[derive(Default)]
pub(super) struct UnderWay {
    pub(super) settle: Option<(usize, Vec<Settlement>)>,
    pub(super) pull: Option<usize>,
    pub(super) exchange: bool,
    pub(super) renew: bool,
    pub(super) reconcile: bool,
}

pub(super) struct Stopping {
    pub(super) release_at: Option<Mono>,
    pub(super) released: bool,
    pub(super) why: String,
}

/// For the beats.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub claimed: u64,
    /// Of these, the ones that were put off untried.
    pub held: u64,
    pub done: u64,
    pub failed: u64,
    pub busy: Duration,
    pub store_ok: bool,
}

/// What the last runs took, in microseconds, for the beats.
#[derive(Debug, Default)]
pub(crate) struct Lately(VecDeque<u32>);

impl Lately {
    pub(super) fn note(&mut self, ran: Duration) {
        if self.0.len() == RUNS_TOLD {
            self.0.pop_front();
        }
        self.0.push_back(u32::try_from(ran.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn told(&self) -> Vec<u32> {
        self.0.iter().copied().collect()
    }
}
