//! A site on its own Redis server, and a worker of flesh and blood: the test itself pulls and acknowledges.

use std::time::Duration;

use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::settle::Delivery;
use roundsman_shared::job::{Outcome, Policy, Run, settle};
use roundsman_shared::names::{Namespace, QueueName, WorkerId};
use roundsman_shared::store::{
    Answer, HostBeat, Mark, PullRequest, RenewRequest, Retention, SettleRequest, Store, StoreConfig,
    StorePlace,
};
use roundsman_tests::redis_server::{RedisOptions, RedisServer};
use roundsman_tests::tree::{Output, Site};
use serde_json::Value;

const LEASE: Duration = Duration::from_secs(15);

pub(crate) struct Rig {
    pub(crate) server: RedisServer,
    pub(crate) site: Site,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With further settings.
    pub(crate) fn with(settings: &str) -> Self {
        let server = RedisServer::start(RedisOptions::default()).unwrap();
        let site = Site::new(&format!("[store]\nurl = \"{}\"\n{settings}", server.url())).unwrap();
        Self { server, site }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.site.cli(arguments).unwrap()
    }

    pub(crate) fn feed(&self, arguments: &[&str], input: &str) -> Output {
        self.site.cli_with_input(arguments, input).unwrap()
    }

    /// Standard output of a verb that must succeed, without the last newline.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}");
        done.stdout.trim_end_matches('\n').to_owned()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// A verb that must fail: nothing on standard output, and each phrase on standard error.
    pub(crate) fn fails(&self, arguments: &[&str], code: i32, phrases: &[&str]) {
        assert_failed(arguments, &self.run(arguments), code, phrases);
    }

    /// Changes a setting of the server.
    pub(crate) fn tune(&self, setting: &str, value: &str) {
        assert_eq!(self.server.cli(&["CONFIG", "SET", setting, value]), "OK");
    }

    pub(crate) fn store<T>(&self, work: impl AsyncFnOnce(Store) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = StoreConfig {
            place: StorePlace::Redis(self.server.url()),
            namespace: Namespace::new("roundsman").unwrap(),
            lease: LEASE,
        };
        runtime.block_on(async { work(Store::open(&config).await.unwrap()).await })
    }

    /// Delivers the next job of the queue, and marks it as begun.
    pub(crate) fn begin(&self, queue: &str) -> Delivery {
        let queue = QueueName::new(queue).unwrap();
        self.store(async |store| {
            let request =
                PullRequest { queue: queue.clone(), worker: worker(), max: 1, lease: LEASE, latest: None };
            let pulled = store.pull(&request).await.unwrap();
            let delivery = pulled.deliveries.into_iter().next().unwrap();
            let started = pulled.now.as_millis();
            let mark =
                Mark { id: delivery.id.clone(), token: delivery.token, started, deadline: started + 300_000 };
            let renew = RenewRequest { queue, worker: worker(), lease: LEASE, marks: vec![mark] };
            store.renew(&renew).await.unwrap();
            delivery
        })
    }

    pub(crate) fn end(&self, delivery: &Delivery, outcome: Outcome) {
        let policy = Policy::default();
        let spec = delivery.record.decode().unwrap();
        self.store(async |store| {
            let ended = store.clock().await.unwrap().reading.as_millis();
            let run = Run { worker: worker(), started: Some(ended - 5), ended, stderr_tail: None };
            let settlement = settle(delivery, &spec, outcome, &run, &policy, 0.0);
            let request = SettleRequest {
                queue: delivery.queue.clone(),
                worker: worker(),
                settlements: vec![settlement],
                retention: Retention::from(&policy),
                only_if_lapsed: false,
            };
            assert_eq!(store.settle(&request).await.unwrap(), [Answer::Ok]);
        });
    }

    /// Runs the next job of the queue to this end.
    pub(crate) fn work(&self, queue: &str, outcome: Outcome) {
        let delivery = self.begin(queue);
        self.end(&delivery, outcome);
    }

    /// Enqueues a job that becomes a dead letter.
    pub(crate) fn bury(&self, queue: &str, id: &str, error: &str) {
        self.ok(&["enqueue", queue, "--id", id, "-q"]);
        self.work(queue, Outcome::Dead { error: error.to_owned() });
    }

    /// Enters a host with one pool in the registry.
    pub(crate) fn beat(&self, host: &str, record: &str) {
        self.store(async |store| {
            let beat = HostBeat { host: host.to_owned(), record: record.to_owned(), lease: LEASE };
            store.beat(&beat).await.unwrap();
        });
    }

    pub(crate) fn now(&self) -> StoreTime {
        self.store(async |store| store.clock().await.unwrap().reading)
    }
}

pub(crate) fn worker() -> WorkerId {
    WorkerId::new("box:default:1:aa").unwrap()
}

#[track_caller]
pub(crate) fn assert_failed(arguments: &[&str], done: &Output, code: i32, phrases: &[&str]) {
    assert_eq!(done.code, Some(code), "{arguments:?}: {done:?}");
    assert_eq!(done.stdout, "", "{arguments:?}: {done:?}");
    for phrase in phrases {
        assert!(done.stderr.contains(phrase), "{arguments:?}: no {phrase:?} in {:?}", done.stderr);
    }
}
