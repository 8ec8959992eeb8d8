//! Enqueues of many connections, gathered: what comes while the store is busy goes to it together, in one call a queue.
//! A call alone is not held up. Answers come when the store has answered.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use roundsman_shared::job::NewJob;
use roundsman_shared::names::QueueName;
use roundsman_shared::store::{Enqueued, MAX_BATCH, Store, StoreError};
use tokio::sync::{mpsc, oneshot};

/// Calls that may wait; who comes later waits to be let in.
const WAITING: usize = 4096;
/// Calls that are gathered at most.
const GATHERED: usize = 1024;

type Answer = Result<Enqueued, StoreError>;
/// Jobs and who waits for each, in the same order.
type Batch = (Vec<NewJob>, Vec<oneshot::Sender<Answer>>);

#[derive(Debug)]
struct Call {
    queue: QueueName,
    job: NewJob,
    max_waiting: u64,
    reply: oneshot::Sender<Answer>,
}

/// The way in for single jobs.
#[derive(Debug, Clone)]
pub(super) struct Funnel(mpsc::Sender<Call>);

impl Funnel {
    pub(super) fn start(store: Store) -> Self {
        let (sender, mut calls) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            let mut gathered = Vec::new();
            while calls.recv_many(&mut gathered, GATHERED).await > 0 {
                store_all(&store, &mut gathered).await;
            }
        });
        Self(sender)
    }

    /// Stores one job.
    pub(super) async fn enqueue(&self, queue: &QueueName, job: NewJob, max_waiting: u64) -> Answer {
        let (reply, answer) = oneshot::channel();
        let gone = || StoreError::Unavailable("the call was not carried out".to_owned());
        let call = Call { queue: queue.clone(), job, max_waiting, reply };
        self.0.send(call).await.map_err(|_closed| gone())?;
        answer.await.map_err(|_dropped| gone())?
    }
}

async fn store_all(store: &Store, gathered: &mut Vec<Call>) {
    let mut by_queue: BTreeMap<(QueueName, u64), Batch> = BTreeMap::new();
    for call in gathered.drain(..) {
        let (jobs, replies) = by_queue.entry((call.queue, call.max_waiting)).or_default();
        jobs.push(call.job);
        replies.push(call.reply);
    }
    join_all(by_queue.into_iter().map(|((queue, max_waiting), (jobs, replies))| async move {
        let mut replies = replies.into_iter();
        for jobs in jobs.chunks(MAX_BATCH) {
            let answers = store.enqueue(&queue, jobs, max_waiting).await;
            let answers: Vec<Answer> = match answers {
                Ok(answers) => answers.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error); jobs.len()],
            };
            // Who does not wait for the answer any more has its job all the same.
            answers.into_iter().zip(&mut replies).for_each(|(answer, reply)| drop(reply.send(answer)));
        }
    }))
    .await;
}
