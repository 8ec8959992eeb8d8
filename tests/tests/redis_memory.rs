//! A Redis whose memory is nearly or wholly used up: what gives way, what is refused, and what works all the same.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::job::{self, NewJob, Outcome, Policy, Run, Spec, State, record, settle};
use roundsman_shared::names::{JobId, Namespace, QueueName, WorkerId};
use roundsman_shared::store::{
    HostBeat, PullRequest, Retention, SettleRequest, Store, StoreConfig, StoreError, StorePlace,
};
use roundsman_tests::redis_server::{RedisOptions, RedisServer};

const LEASE: Duration = Duration::from_secs(15);
const MIB: u64 = 1 << 20;
const LIMIT: u64 = 16 * MIB;
const BATCH: usize = 100;

struct Bed {
    server: RedisServer,
    store: Store,
}

impl Bed {
    async fn new() -> Self {
        let server =
            RedisServer::start(RedisOptions { maxmemory: Some(LIMIT), ..RedisOptions::default() }).unwrap();
        let config = StoreConfig {
            place: StorePlace::Redis(server.url()),
            namespace: Namespace::new("t").unwrap(),
            lease: LEASE,
        };
        let store = Store::open(&config).await.unwrap();
        Self { server, store }
    }

    /// Jobs of 2 KiB.
    async fn enqueue(&self, queue: &str) -> Result<(), StoreError> {
        let content = record::encode(&Spec::bare(false, format!("\"{}\"", "x".repeat(2048))));
        let new = || NewJob {
            id: job::spec::generate_id(),
            due: job::Due::Now,
            priority: 0,
            expires: None,
            content: content.clone(),
        };
        let jobs: Vec<NewJob> = (0..BATCH).map(|_| new()).collect();
        self.store.enqueue(&name(queue), &jobs, u64::MAX).await.map(drop)
    }

    /// Ends what waits; answers the last of it.
    async fn work(&self, queue: &str) -> Option<JobId> {
        let worker = WorkerId::new("h:p:1:x").unwrap();
        let request = PullRequest {
            queue: name(queue),
            worker: worker.clone(),
            max: BATCH,
            lease: LEASE,
            latest: None,
        };
        let pulled = self.store.pull(&request).await.unwrap();
        let ended = pulled.now.as_millis();
        let run = Run { worker: worker.clone(), started: Some(ended), ended, stderr_tail: None };
        let done = || Outcome::Done { result: None, follow_ups: Vec::new(), note: None };
        let one = |it: &settle::Delivery| {
            settle(it, &it.record.decode().unwrap(), done(), &run, &Policy::DEFAULT, 0.5)
        };
        let retention = Retention { keep_done_max: 1_000_000, ..Retention::from(&Policy::DEFAULT) };
        let request = SettleRequest {
            queue: name(queue),
            worker,
            settlements: pulled.deliveries.iter().map(one).collect(),
            retention,
            only_if_lapsed: false,
        };
        self.store.settle(&request).await.unwrap();
        pulled.deliveries.last().map(|it| it.id.clone())
    }
}

fn name(queue: &str) -> QueueName {
    QueueName::new(queue).unwrap()
}

#[tokio::test]
async fn kept_jobs_give_way_to_new_ones() {
    let bed = Bed::new().await;
    let (mut stored, mut last, mut held_up) = (0_u64, None, Duration::ZERO);
    // Three times what fits, in a queue whose jobs are kept and in one whose are kept as well.
    while stored * 2048 < 3 * LIMIT {
        let queue = if stored % 200 == 0 { "a" } else { "b" };
        let began = Mono::now();
        loop {
            match bed.enqueue(queue).await {
                Ok(()) => break,
                Err(StoreError::NearLimit(why)) => {
                    // What has ended this moment is not taken away from who may wait for it.
                    held_up = Mono::now().since(began);
                    assert!(held_up < Duration::from_secs(10), "{why}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        stored += BATCH as u64;
        last = Some((name(queue), bed.work(queue).await.unwrap()));
    }
    let (queue, id) = last.unwrap();
    assert!(bed.store.look(&queue, &[id]).await.unwrap()[0].is_some(), "the newest is there");
    let views =
        [bed.store.overview(&name("a")).await.unwrap(), bed.store.overview(&name("b")).await.unwrap()];
    assert_eq!(views.iter().map(|view| view.ended_total).sum::<u64>(), stored);
    let kept: u64 = views.iter().map(|view| view.done).sum();
    assert!(kept > 0 && kept < stored, "{kept} of {stored}, held up for {held_up:?}");
}

#[tokio::test]
async fn operators_can_work_at_the_limit() {
    let bed = Bed::new().await;
    let refused = async || loop {
        match bed.enqueue("a").await {
            Ok(()) => {}
            Err(StoreError::NearLimit(why)) => return why,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(refused().await.contains("maxmemory"));
    let waiting = bed.store.overview(&name("a")).await.unwrap().ready;
    // Now nothing that needs memory is carried out any more.
    let used: u64 = bed.server.info("memory")["used_memory"].parse().unwrap();
    let limit = (used - MIB).to_string();
    assert_eq!(bed.server.cli(&["CONFIG", "SET", "maxmemory", &limit]), "OK");
    assert!(bed.server.cli(&["SET", "x", "1"]).contains("OOM"));

    let store = &bed.store;
    store.pause(&name("never-seen"), true).await.unwrap();
    store.pause(&name("a"), true).await.unwrap();
    store.set_live(&name("a"), "max_attempts", Some("3")).await.unwrap();
    let view = store.overview(&name("a")).await.unwrap();
    assert!(view.paused);
    assert_eq!(store.live(&name("a")).await.unwrap()["max_attempts"], "3");
    store.set_live(&name("a"), "max_attempts", None).await.unwrap();
    assert!(store.live(&name("a")).await.unwrap().is_empty());
    store.pause(&name("a"), false).await.unwrap();
    let beat = HostBeat { host: "h".to_owned(), record: "{}".to_owned(), lease: LEASE };
    store.beat(&beat).await.unwrap();
    assert_eq!(store.hosts().await.unwrap(), ["{}"]);
    store.leave("h").await.unwrap();
    assert!(store.hosts().await.unwrap().is_empty());
    assert!(bed.work("a").await.is_some());
    assert_eq!(store.purge(&name("a"), State::Ready).await.unwrap(), 256);
    assert_eq!(store.overview(&name("a")).await.unwrap().ready, waiting - 100 - 256);
}
