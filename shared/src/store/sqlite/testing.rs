//! What the tests of this store share.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tempfile::TempDir;

use super::SqliteStore;
use crate::clock::StoreTime;
use crate::job::record::encode;
use crate::job::settle::Delivery;
use crate::job::{Due, NewJob, Outcome, Policy, Run, Settlement, Spec, settle};
use crate::names::{JobId, Namespace, QueueName, WorkerId};
use crate::store::{
    Answer, PullRequest, Pulled, Retention, SettleRequest, StoreConfig, StoreError, StorePlace,
};

pub(super) const LEASE: Duration = Duration::from_secs(15);

pub(super) async fn try_open(path: &Path) -> Result<SqliteStore, StoreError> {
    let config = StoreConfig {
        place: StorePlace::Sqlite(path.to_owned()),
        namespace: Namespace::new("test").unwrap(),
        lease: LEASE,
    };
    SqliteStore::open(path, &config).await
}

/// Another handle on the file in `dir`.
pub(super) async fn open(dir: &Path) -> SqliteStore {
    try_open(&dir.join("jobs.db")).await.unwrap()
}

pub(super) async fn fresh() -> (SqliteStore, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (open(dir.path()).await, dir)
}

impl SqliteStore {
    /// Lets time go by for this handle.
    pub(super) fn pass(&self, span: Duration) {
        let micros = i64::try_from(span.as_micros()).unwrap();
        self.inner.place.clocks.test.both.fetch_add(micros, Ordering::SeqCst);
    }

    /// Sets the time of day that this handle sees.
    pub(super) fn jump(&self, seconds: i64) {
        self.inner.place.clocks.test.wall.fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }
}

pub(super) fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

pub(super) fn id(id: &str) -> JobId {
    JobId::new(id).unwrap()
}

pub(super) fn named(name: &str) -> WorkerId {
    WorkerId::new(&format!("host:pool:{name}:1")).unwrap()
}

pub(super) fn worker() -> WorkerId {
    named("1")
}

/// A job due now whose id was chosen.
pub(super) fn job(name: &str, payload: &str) -> NewJob {
    let content = encode(&Spec::bare(true, payload.to_owned()));
    NewJob { id: id(name), due: Due::Now, priority: 0, expires: None, content }
}

/// A job due in so many seconds.
pub(super) fn timer(name: &str, seconds: u64) -> NewJob {
    NewJob { due: Due::In(Duration::from_secs(seconds)), ..job(name, "null") }
}

pub(super) fn retention() -> Retention {
    Retention::from(&Policy::default())
}

pub(super) fn pull_request(queue: &QueueName, worker: &WorkerId, max: usize) -> PullRequest {
    PullRequest { queue: queue.clone(), worker: worker.clone(), max, lease: LEASE, latest: None }
}

pub(super) async fn pull(store: &SqliteStore, queue: &QueueName, max: usize) -> Pulled {
    store.exchange(None, Some(&pull_request(queue, &worker(), max))).await.unwrap().1.unwrap()
}

pub(super) fn settlement(
    delivery: &Delivery,
    worker: &WorkerId,
    outcome: Outcome,
    now: StoreTime,
) -> Settlement {
    let spec = delivery.record.decode().unwrap();
    let run = Run {
        worker: worker.clone(),
        started: Some(now.as_millis()),
        ended: now.as_millis(),
        stderr_tail: None,
    };
    settle(delivery, &spec, outcome, &run, &Policy::default(), 0.0)
}

pub(super) const fn done() -> Outcome {
    Outcome::Done { result: None, follow_ups: Vec::new(), note: None }
}

pub(super) fn settle_request(
    queue: &QueueName,
    worker: &WorkerId,
    settlements: Vec<Settlement>,
) -> SettleRequest {
    SettleRequest {
        queue: queue.clone(),
        worker: worker.clone(),
        settlements,
        retention: retention(),
        only_if_lapsed: false,
    }
}

/// Settles deliveries of [`worker`].
pub(super) async fn end(
    store: &SqliteStore,
    queue: &QueueName,
    deliveries: &[Delivery],
    outcome: impl Fn() -> Outcome,
) -> Vec<Answer> {
    let now = store.clock().await.unwrap().reading;
    let settlements =
        deliveries.iter().map(|delivery| settlement(delivery, &worker(), outcome(), now)).collect();
    store.exchange(Some(&settle_request(queue, &worker(), settlements)), None).await.unwrap().0
}

/// Pulls and settles until nothing is due.
pub(super) async fn settle_all(
    store: &SqliteStore,
    queue: &QueueName,
    limits: &Retention,
    outcome: impl Fn() -> Outcome,
) -> usize {
    let mut ended = 0;
    loop {
        let pulled = pull(store, queue, 256).await;
        if pulled.deliveries.is_empty() {
            return ended;
        }
        let settlements: Vec<_> = pulled
            .deliveries
            .iter()
            .map(|delivery| settlement(delivery, &worker(), outcome(), pulled.now))
            .collect();
        ended += settlements.len();
        let mut request = settle_request(queue, &worker(), settlements);
        request.retention = limits.clone();
        let (answers, _) = store.exchange(Some(&request), None).await.unwrap();
        assert!(answers.iter().all(|answer| *answer == Answer::Ok), "{answers:?}");
    }
}

pub(super) async fn finish_all(store: &SqliteStore, queue: &QueueName, limits: &Retention) -> usize {
    settle_all(store, queue, limits, done).await
}

/// Settles what [`worker`] holds.
pub(super) async fn settle_held(store: &SqliteStore, queue: &QueueName) {
    let held = store.unacked(queue, &worker(), None).await.unwrap();
    let deliveries: Vec<_> = held.into_iter().map(|held| held.delivery).collect();
    assert!(end(store, queue, &deliveries, done).await.iter().all(|answer| *answer == Answer::Ok));
}
