//! The stores that are held against the contract. Each test has one of its own: a namespace of the Redis server that
//! its process started, or a SQLite file.

use std::future::Future;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::record;
use roundsman_shared::job::settle::Delivery;
use roundsman_shared::job::{self, Due, NewJob, Outcome, Policy, Run, Settlement, Spec};
use roundsman_shared::names::{JobId, Namespace, QueueName, WorkerId};
use roundsman_shared::store::{
    Answer, Enqueued, Mark, PullRequest, Pulled, RenewRequest, Renewed, Retention, SettleRequest, Store,
    StoreConfig, StorePlace,
};
use roundsman_tests::redis_server::{RedisOptions, RedisServer};
use tempfile::TempDir;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Redis,
    Sqlite,
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A store of the test's own, with the words that most tests need.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) store: Store,
    pub(crate) config: StoreConfig,
    pub(crate) queue: QueueName,
    /// Removed with the test.
    _folder: Option<TempDir>,
}

/// One Redis server a process; it leaves with the process.
fn redis_url() -> &'static str {
    static SERVER: OnceLock<RedisServer> = OnceLock::new();
    static URL: OnceLock<String> = OnceLock::new();
    let server =
        SERVER.get_or_init(|| RedisServer::start(RedisOptions::default()).expect("redis-server starts"));
    URL.get_or_init(|| server.url())
}

impl Bed {
    pub(crate) async fn make(kind: Kind) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let namespace = Namespace::new(&format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))).unwrap();
        let (place, folder) = match kind {
            Kind::Redis => (StorePlace::Redis(redis_url().to_owned()), None),
            Kind::Sqlite => {
                // In memory where that can be had: the contract is about what is written, not about the disk.
                let base = Path::new("/dev/shm");
                let folder = if base.is_dir() { TempDir::new_in(base) } else { TempDir::new() }.unwrap();
                (StorePlace::Sqlite(folder.path().join("store.db")), Some(folder))
            }
        };
        let config = StoreConfig { place, namespace, lease: Duration::from_secs(15) };
        let store = Store::open(&config).await.expect("the store opens");
        Self { store, config, queue: queue("q"), _folder: folder }
    }

    pub(crate) async fn now(&self) -> StoreTime {
        self.store.clock().await.unwrap().reading
    }

    /// As if the last delivery had been made when the clock stood there.
    pub(crate) async fn set_last_token(&self, token: i64) {
        match &self.config.place {
            StorePlace::Redis(url) => {
                let client = redis::Client::open(url.as_str()).unwrap();
                let mut connection = client.get_multiplexed_async_connection().await.unwrap();
                let meta = format!("{}:{{{}}}:meta", self.config.namespace, self.queue);
                let set =
                    redis::cmd("HSET").arg(meta).arg("token").arg(token).query_async(&mut connection).await;
                assert_eq!(set.map(|count: i64| count >= 0), Ok(true));
            }
            StorePlace::Sqlite(path) => {
                let file = rusqlite::Connection::open(path).unwrap();
                let set = file.execute(
                    "UPDATE queues SET last_token = ?1 WHERE name = ?2",
                    (token, self.queue.as_str()),
                );
                assert_eq!(set, Ok(1));
            }
        }
    }

    /// Waits until the store's clock shows at least this.
    pub(crate) async fn until(&self, moment: StoreTime) {
        while self.now().await < moment {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn enqueue(&self, jobs: &[NewJob]) -> Vec<Enqueued> {
        self.store.enqueue(&self.queue, jobs, 1_000_000).await.unwrap()
    }

    /// Pulls for worker 1, for an hour.
    pub(crate) async fn pull(&self, max: usize) -> Vec<Delivery> {
        self.pull_as(1, max, HOUR).await.deliveries
    }

    pub(crate) async fn pull_as(&self, number: u8, max: usize, lease: Duration) -> Pulled {
        let request =
            PullRequest { queue: self.queue.clone(), worker: worker(number), max, lease, latest: None };
        self.store.pull(&request).await.unwrap()
    }

    pub(crate) async fn settle(&self, settlements: Vec<Settlement>) -> Vec<Answer> {
        self.store.settle(&self.request(1, settlements)).await.unwrap()
    }

    pub(crate) fn request(&self, number: u8, settlements: Vec<Settlement>) -> SettleRequest {
        let retention = Retention::from(&Policy::default());
        let (queue, worker) = (self.queue.clone(), worker(number));
        SettleRequest { queue, worker, settlements, retention, only_if_lapsed: false }
    }

    /// What a master writes that found the worker's lease lapsed.
    pub(crate) async fn sweep(&self, number: u8, deliveries: &[Delivery]) -> Vec<Answer> {
        let settlements =
            deliveries.iter().map(|delivery| settled(delivery, number, Outcome::Lapsed)).collect();
        let request = SettleRequest { only_if_lapsed: true, ..self.request(number, settlements) };
        self.store.settle(&request).await.unwrap()
    }

    pub(crate) async fn renew(&self, number: u8, lease: Duration, marks: Vec<Mark>) -> Renewed {
        let request = RenewRequest { queue: self.queue.clone(), worker: worker(number), lease, marks };
        self.store.renew(&request).await.unwrap()
    }

    /// The ids that a pull gives, in order.
    pub(crate) async fn pulled_ids(&self, max: usize) -> Vec<String> {
        self.pull(max).await.into_iter().map(|delivery| delivery.id.to_string()).collect()
    }

    pub(crate) async fn look(&self, name: &str) -> Option<job::view::Found> {
        self.store.look(&self.queue, &[id(name)]).await.unwrap().remove(0)
    }

    pub(crate) async fn state(&self, name: &str) -> Option<job::State> {
        self.look(name).await.map(|found| found.state())
    }

    /// Enqueues a job, pulls it and ends it.
    pub(crate) async fn run(&self, new: NewJob, outcome: Outcome) -> Settlement {
        let name = new.id.clone();
        self.enqueue(&[new]).await;
        let delivery = self.pull(1).await.remove(0);
        assert_eq!(delivery.id, name);
        let settlement = settled(&delivery, 1, outcome);
        assert_eq!(self.settle(vec![settlement.clone()]).await, [Answer::Ok]);
        settlement
    }
}

pub(crate) fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

pub(crate) fn worker(number: u8) -> WorkerId {
    WorkerId::new(&format!("host:pool:{number}:x")).unwrap()
}

pub(crate) fn id(name: &str) -> JobId {
    JobId::new(name).unwrap()
}

/// A job with a chosen id, due now.
pub(crate) fn new_job(name: &str) -> NewJob {
    from_spec(name, &Spec::bare(true, "1".to_owned()))
}

pub(crate) fn due_at(name: &str, due: Due) -> NewJob {
    from_spec(name, &Spec { due, ..Spec::bare(true, "1".to_owned()) })
}

pub(crate) fn with_priority(name: &str, priority: i16) -> NewJob {
    from_spec(name, &Spec { priority, ..Spec::bare(true, "1".to_owned()) })
}

pub(crate) fn from_spec(name: &str, spec: &Spec) -> NewJob {
    let content = record::encode(spec);
    NewJob { id: id(name), due: spec.due, priority: spec.priority, expires: spec.expires, content }
}

/// What a worker would acknowledge under the default policy.
pub(crate) fn settled(delivery: &Delivery, number: u8, outcome: Outcome) -> Settlement {
    let spec = delivery.record.decode().unwrap();
    let run =
        Run { worker: worker(number), started: Some(1), ended: delivery.token / 1000, stderr_tail: None };
    job::settle(delivery, &spec, outcome, &run, &Policy::default(), 0.0)
}

pub(crate) fn done() -> Outcome {
    Outcome::Done { result: None, follow_ups: Vec::new(), note: None }
}

/// Runs a test on a store of its own.
pub(crate) fn on<F: Future<Output = ()>>(kind: Kind, test: impl FnOnce(Bed) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { test(Bed::make(kind).await).await });
}

/// Makes a test of each of these functions on each store.
macro_rules! on_each_store {
    ($($test:ident,)*) => {
        mod redis {
            $(#[test] fn $test() { crate::stores::on(crate::stores::Kind::Redis, super::$test); })*
        }
        mod sqlite {
            $(#[test] fn $test() { crate::stores::on(crate::stores::Kind::Sqlite, super::$test); })*
        }
    };
}
pub(crate) use on_each_store;
