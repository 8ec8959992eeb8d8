//! Producers: what is enqueued, how fast, and what the history says of it.

use std::time::Duration;

use roundsman_shared::clock::Wall;
use roundsman_shared::job::spec::{self, Limits};
use roundsman_shared::names::QueueName;
use roundsman_shared::store::{Enqueued, Store, StoreError};
use roundsman_tests::history::{Enqueue, Event, HistoryWriter, Refusal, digest};
use serde_json::Value;

use crate::Failure;
use crate::options::Random;

/// So many waiting jobs are enough for every fleet.
const WAITING_MAX: u64 = 10_000_000;
const RETRY: Duration = Duration::from_millis(50);

/// A job as it will be enqueued.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) payload: String,
    pub(crate) delay: Option<Duration>,
}

impl Order {
    /// The n-th job of a mixed load: 1 to 50 ms, one in 20 fails once or twice, one in 20 has follow-ups, one in 10
    /// is due later.
    pub(crate) fn mixed(n: u64, random: &mut Random) -> Self {
        let mut work = serde_json::json!({"n": n, "ms": 1 + random.below(50)});
        if random.below(20) == 0 {
            work["fails"] = Value::from(1 + random.below(2));
        }
        if random.below(20) == 0 {
            work["then"] = Value::from(1 + random.below(3));
        }
        let delay = (random.below(10) == 0).then(|| Duration::from_millis(random.below(2_000)));
        Self { id: format!("job-{n}"), payload: work.to_string(), delay }
    }

    pub(crate) fn named(&self, queue: &QueueName, due_ms: Option<i64>) -> Enqueue {
        Enqueue {
            queue: queue.to_string(),
            id: self.id.clone(),
            due_ms,
            digest: digest(self.payload.as_bytes()),
        }
    }

    /// A line of NDJSON.
    pub(crate) fn line(&self) -> String {
        let delay = self.delay.map_or_else(String::new, |it| format!(",\"in\":\"{}ms\"", it.as_millis()));
        format!("{{\"id\":{:?},\"payload\":{}{delay}}}", self.id, self.payload)
    }
}

/// Enqueues a batch, and repeats it until it is answered, as a producer that wants to be sure does. Answers how often
/// the answer was lost.
pub(crate) async fn enqueue(
    store: &Store,
    queue: &QueueName,
    orders: &[Order],
    history: &HistoryWriter,
) -> Result<u64, Failure> {
    let limits = Limits { max_payload: 256 * 1024, now: Wall::now() };
    let jobs =
        orders.iter().map(|order| spec::parse(&order.line(), &limits)).collect::<Result<Vec<_>, _>>()?;
    let mut lost = 0;
    loop {
        for order in orders {
            history.record(Event::EnqInvoke(order.named(queue, None)))?;
        }
        match store.enqueue(queue, &jobs, WAITING_MAX).await {
            Ok(answers) => {
                for (order, answer) in orders.iter().zip(answers) {
                    let refused = |why| Event::EnqRefused { enqueue: order.named(queue, None), why };
                    history.record(match answer {
                        Enqueued::Created { due } => {
                            Event::EnqOk(order.named(queue, order.delay.map(|_| due.as_millis())))
                        }
                        Enqueued::Existing => Event::EnqOk(order.named(queue, None)),
                        Enqueued::Conflict => refused(Refusal::Conflict),
                        Enqueued::Full { .. } => refused(Refusal::Full),
                        Enqueued::Expired => refused(Refusal::Bad),
                    })?;
                }
                return Ok(lost);
            }
            Err(StoreError::NearLimit(_)) => {
                for order in orders {
                    let enqueue = order.named(queue, None);
                    history.record(Event::EnqRefused { enqueue, why: Refusal::Full })?;
                }
            }
            Err(StoreError::Unavailable(_)) => {
                lost += 1;
                for order in orders {
                    history.record(Event::EnqUnknown(order.named(queue, None)))?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(RETRY).await;
    }
}
