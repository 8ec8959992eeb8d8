//! The intake: takes raw jobs out of the Redis inboxes, so that any Redis client can enqueue with one `LPUSH`.
//!
//! A process of its own under the master, speaking the same protocol as a worker, because it parses what strangers wrote
//! and the master never does. Each queue has its own task and its own blocking connection:
//!
//! ```text
//!   inbox ──BLMOVE──▶ taking:HOST ──looked at here──▶ admit (out of the list and into the queue, in one step)
//!                                              └────▶ bury  (out of the list and into the dead letters)
//! ```
//! What a crash leaves in `taking:HOST` is taken in by the next life of this host, or by any other host once this one
//! is no longer heard of. While a queue is full, its inbox is left to its producers.

use std::time::Duration;

use roundsman_shared::assignment::Assignment;
use roundsman_shared::clock::Wall;
use roundsman_shared::exit;
use roundsman_shared::job::letter::{self, Letter, NO_INBOX_JOB};
use roundsman_shared::job::spec::{self, Limits};
use roundsman_shared::job::{NewJob, Policy};
use roundsman_shared::names::QueueName;
use roundsman_shared::store::redis::{RedisStore, Taken};
use roundsman_shared::store::{Enqueued, Store, StoreError};

use crate::part::{self, Part};

/// How long one blocking wait lasts.
const WAIT: Duration = Duration::from_secs(20);
/// Between tries while the queue is full or Redis away.
const RETRY: Duration = Duration::from_millis(500);
/// How often lists of hosts that are gone are looked for.
const LOOK_FOR_LEFTOVERS: Duration = Duration::from_secs(20);

/// Runs the role; answers the exit code.
pub(crate) fn run() -> u8 {
    part::run(serve)
}

async fn serve(part: &mut Part, assignment: Assignment) -> (u8, String) {
    let left = |code: u8, why: &str| (code, why.to_owned());
    let store = loop {
        match Store::open(&assignment.store_config()).await {
            Ok(Store::Redis(store)) => break store,
            Ok(Store::Sqlite(_)) => return left(exit::OK, "a SQLite store has no inbox"),
            Err(StoreError::Unfit(why)) => return (exit::CONFIG, why),
            Err(_) => {}
        }
        if part.starting(RETRY).await.is_some() {
            return left(exit::OK, "told to stop");
        }
    };
    let host = assignment.worker.host().to_owned();
    for (queue, _) in &assignment.queues {
        let inbox = Inbox {
            store: store.clone(),
            queue: queue.clone(),
            taker: host.clone(),
            policy: assignment.policy(queue),
        };
        tokio::spawn(inbox.serve());
    }
    part.ready();
    // What has been taken stays in this host's list.
    part.serving(|| true).await;
    left(exit::OK, "told to stop")
}

/// One queue's inbox.
struct Inbox {
    store: RedisStore,
    queue: QueueName,
    taker: String,
    policy: Policy,
}

impl Inbox {
    async fn serve(self) {
        let mut said = false;
        loop {
            let Err(error) = self.take_in().await;
            if !said {
                tracing::warn!(queue = %self.queue, %error, "the inbox waits");
                said = !matches!(error, StoreError::NearLimit(_));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Takes in until something fails.
    async fn take_in(&self) -> Result<std::convert::Infallible, StoreError> {
        let mut connection = self.store.inbox_connection().await?;
        self.leftovers().await?;
        let mut looked = roundsman_shared::clock::Mono::now();
        loop {
            let taken = self.store.inbox_take(&mut connection, &self.queue, &self.taker, WAIT).await?;
            self.admit(&self.taker, taken).await?;
            let now = roundsman_shared::clock::Mono::now();
            if now.since(looked) >= LOOK_FOR_LEFTOVERS {
                looked = now;
                self.leftovers().await?;
            }
        }
    }

    /// What an earlier life of this host, or a host that is gone, had taken and not taken in.
    async fn leftovers(&self) -> Result<(), StoreError> {
        let takers = self.store.inbox_takers(&self.queue, &self.taker).await?;
        let records = self.store.hosts().await?;
        let live: Vec<String> = records
            .iter()
            .filter_map(|record| serde_json::from_str::<serde_json::Value>(record).ok())
            .filter_map(|record| record.get("host")?.as_str().map(str::to_owned))
            .collect();
        for taker in takers.iter().filter(|taker| **taker == self.taker || !live.contains(taker)) {
            loop {
                let left = self.store.inbox_left(&self.queue, taker).await?;
                if left.is_empty() {
                    break;
                }
                self.admit(taker, left).await?;
            }
        }
        Ok(())
    }

    /// Makes jobs, or dead letters, of entries in a taker's list, in their order.
    async fn admit(&self, taker: &str, mut entries: Vec<Taken>) -> Result<(), StoreError> {
        while !entries.is_empty() {
            let limits = Limits {
                max_payload: usize::try_from(self.policy.max_payload).unwrap_or(usize::MAX),
                now: Wall::now(),
            };
            let mut good: Vec<(NewJob, Taken)> = Vec::new();
            for raw in entries.drain(..) {
                match parse(&raw, &limits) {
                    Ok(job) => good.push((job, raw)),
                    Err(why) => self.bury(taker, &raw, &why).await?,
                }
            }
            if good.is_empty() {
                return Ok(());
            }
            let answers = self.store.inbox_admit(&self.queue, taker, &good, self.policy.max_waiting).await?;
            for ((_, raw), answer) in good.into_iter().zip(answers) {
                match answer {
                    None | Some(Enqueued::Created { .. } | Enqueued::Existing) => {}
                    Some(Enqueued::Conflict) => {
                        self.bury(taker, &raw, "there is a job of this id with other content").await?;
                    }
                    Some(Enqueued::Expired) => {
                        self.bury(taker, &raw, "it had expired before it was taken in").await?
                    }
                    // It stays where it is until there is room.
                    Some(Enqueued::Full { .. }) => entries.push(raw),
                }
            }
            if !entries.is_empty() {
                tokio::time::sleep(RETRY).await;
            }
        }
        Ok(())
    }

    async fn bury(&self, taker: &str, raw: &Taken, why: &str) -> Result<(), StoreError> {
        tracing::warn!(queue = %self.queue, bytes = raw.len(), %why, "an entry of the inbox is no job: it is a dead letter now");
        let id = spec::generate_id();
        let now = self.store.clock().await?.reading;
        let letter = Letter::new(&letter::raw(raw), format!("{NO_INBOX_JOB}: {why}"), now);
        self.store.inbox_bury(&self.queue, taker, raw, &id, &letter).await?;
        Ok(())
    }
}

fn parse(raw: &[u8], limits: &Limits) -> Result<NewJob, String> {
    let text = std::str::from_utf8(raw).map_err(|error| format!("it is not UTF-8: {error}"))?;
    spec::parse(text, limits).map_err(|error| error.to_string())
}
