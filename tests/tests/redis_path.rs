//! The way to Redis: connections that go silent, and an address behind which another server is the primary now. Both
//! leave a connection open for ever, so only what gives it up and opens another one goes on. And a server that comes
//! back empty, or with another time.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::job::{self, NewJob, Spec, record};
use roundsman_shared::names::{JobId, Namespace, QueueName, WorkerId};
use roundsman_shared::store::redis::{InboxConnection, RedisStore};
use roundsman_shared::store::{Enqueued, Hint, PullRequest, Store, StoreConfig, StoreError, StorePlace};
use roundsman_tests::redis_server::{RedisOptions, RedisServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// What has to work again works again within this: an answer's deadline, a probe's interval, and a slow machine.
const SOON: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(15);

/// Passes bytes on between its own port and a server's.
struct Relay {
    port: u16,
    server: Arc<AtomicU16>,
    /// How many connections there were, and how many of the first ones are frozen.
    made: watch::Receiver<u64>,
    frozen: watch::Sender<u64>,
}

impl Relay {
    async fn to(server: &RedisServer) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Arc::new(AtomicU16::new(server.port()));
        let (count, made) = watch::channel(0);
        let (frozen, frozen_seen) = watch::channel(0);
        let target = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((here, _)) = listener.accept().await {
                count.send_modify(|count| *count += 1);
                let (number, frozen) = (*count.borrow(), frozen_seen.clone());
                let target = target.load(Ordering::Relaxed);
                tokio::spawn(async move {
                    let there = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await.unwrap();
                    let ((here_in, here_out), (there_in, there_out)) =
                        (here.into_split(), there.into_split());
                    tokio::join!(
                        pass(here_in, there_out, number, frozen.clone()),
                        pass(there_in, here_out, number, frozen)
                    )
                });
            }
        });
        Self { port, server, made, frozen }
    }

    /// Nothing passes any more on the connections that there are, and none of them is closed.
    fn freeze(&self) {
        self.frozen.send_replace(self.made());
    }

    fn made(&self) -> u64 {
        *self.made.borrow()
    }

    /// Connections from now on lead to this server.
    fn lead_to(&self, server: &RedisServer) {
        self.server.store(server.port(), Ordering::Relaxed);
    }

    async fn store(&self) -> Store {
        let place = StorePlace::Redis(format!("redis://127.0.0.1:{}/", self.port));
        Store::open(&StoreConfig { place, namespace: namespace(), lease: LEASE }).await.unwrap()
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, number: u64, frozen: watch::Receiver<u64>) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        if number <= *frozen.borrow() {
            std::future::pending::<()>().await;
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

fn namespace() -> Namespace {
    Namespace::new("t").unwrap()
}

fn queue() -> QueueName {
    QueueName::new("q").unwrap()
}

fn new_job(name: &str) -> NewJob {
    let spec = Spec::bare(true, "1".to_owned());
    let content = record::encode(&spec);
    NewJob { id: JobId::new(name).unwrap(), due: spec.due, priority: 0, expires: None, content }
}

async fn enqueue(store: &Store, name: &str) -> Result<(), StoreError> {
    store.enqueue(&queue(), &[new_job(name)], 1000).await.map(drop)
}

async fn pull(store: &Store) -> Result<usize, StoreError> {
    let worker = WorkerId::new("h:p:1:x").unwrap();
    let request = PullRequest { queue: queue(), worker, max: 9, lease: LEASE, latest: None };
    store.pull(&request).await.map(|pulled| pulled.deliveries.len())
}

fn redis(store: &Store) -> &RedisStore {
    let Store::Redis(redis) = store else { panic!("not a Redis store") };
    redis
}

/// Repeats a call until it works.
async fn again<T>(what: &str, mut call: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let start = Mono::now();
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => {
                let late = Mono::now().since(start);
                assert!(late < SOON, "{what} after {late:?}: {error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Reads hints until the wanted one.
async fn told(hints: &mut mpsc::Receiver<Hint>, wanted: impl Fn(&Hint) -> bool) {
    let seen = async { while !wanted(&hints.recv().await.expect("the hints go on")) {} };
    tokio::time::timeout(SOON, seen).await.expect("the hint comes in time");
}

/// Takes until there is an entry, which may also have been moved to the taker's list by a call that failed.
async fn from_inbox(store: &RedisStore, connection: &mut InboxConnection) -> Vec<u8> {
    let mut take = async || {
        let mut taken = store.inbox_take(connection, &queue(), "h", Duration::from_secs(1)).await?;
        if taken.is_empty() {
            taken = store.inbox_left(&queue(), "h").await?;
        }
        taken.pop().ok_or_else(|| StoreError::Unavailable("the inbox is empty".to_owned()))
    };
    again("the inbox", &mut take).await
}

#[tokio::test]
async fn connections_that_went_silent_are_replaced() {
    let server = RedisServer::start(RedisOptions::default()).unwrap();
    let relay = Relay::to(&server).await;
    let store = relay.store().await;
    let mut hints = store.listen(&[queue()], "h").await.unwrap();
    let mut inbox = redis(&store).inbox_connection().await.unwrap();
    enqueue(&store, "a").await.unwrap();
    told(&mut hints, |hint| matches!(hint, Hint::Work { .. })).await;

    relay.freeze();
    let made = relay.made();
    // Many calls at once do not mean many connections.
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.clock().await.is_ok() || store.clock().await.is_ok() })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap(), "the second reading of the clock works");
    }
    assert!(relay.made() - made <= 2, "{} connections were opened", relay.made() - made);
    assert_eq!(again("a pull", async || pull(&store).await).await, 1);

    told(&mut hints, |hint| *hint == Hint::Lost).await;
    enqueue(&store, "b").await.unwrap();
    told(&mut hints, |hint| matches!(hint, Hint::Work { .. })).await;

    assert_eq!(server.cli(&["LPUSH", "t:{q}:inbox", "entry"]), "1");
    assert_eq!(from_inbox(redis(&store), &mut inbox).await, b"entry");
}

#[tokio::test]
async fn hints_that_went_silent_are_noticed_though_nothing_else_is_asked() {
    let server = RedisServer::start(RedisOptions::default()).unwrap();
    let relay = Relay::to(&server).await;
    let store = relay.store().await;
    let mut hints = store.listen(&[queue()], "h").await.unwrap();
    relay.freeze();
    told(&mut hints, |hint| *hint == Hint::Lost).await;
}

#[tokio::test]
async fn a_demoted_server_is_left() {
    let first = RedisServer::start(RedisOptions::default()).unwrap();
    let second = RedisServer::start(RedisOptions::default()).unwrap();
    let relay = Relay::to(&first).await;
    let store = relay.store().await;
    let mut hints = store.listen(&[queue()], "h").await.unwrap();
    let mut inbox = redis(&store).inbox_connection().await.unwrap();
    let taken = redis(&store).inbox_take(&mut inbox, &queue(), "h", Duration::from_millis(10)).await;
    assert!(taken.unwrap().is_empty());
    enqueue(&store, "a").await.unwrap();
    enter_as_replica(&second, &first).await;

    assert_eq!(second.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    relay.lead_to(&second);
    assert_eq!(first.cli(&["REPLICAOF", "127.0.0.1", &second.port().to_string()]), "OK");

    assert_eq!(again("a pull", async || pull(&store).await).await, 1);
    assert_eq!(second.cli(&["HGET", "t:{q}:meta", "running"]), "1", "written where it counts");
    told(&mut hints, |hint| *hint == Hint::Lost).await;
    assert_eq!(second.cli(&["LPUSH", "t:{q}:inbox", "entry"]), "1");
    assert_eq!(from_inbox(redis(&store), &mut inbox).await, b"entry");
}

#[tokio::test]
async fn a_demoted_server_is_left_also_by_who_only_reads() {
    let first = RedisServer::start(RedisOptions::default()).unwrap();
    let second = RedisServer::start(RedisOptions::default()).unwrap();
    let relay = Relay::to(&first).await;
    let (writer, reader) = (relay.store().await, relay.store().await);
    enqueue(&writer, "a").await.unwrap();
    enter_as_replica(&second, &first).await;
    assert_eq!(second.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    relay.lead_to(&second);
    // A replica that hears nothing of its primary goes on answering.
    assert_eq!(first.cli(&["REPLICAOF", "127.0.0.1", "1"]), "OK");

    assert_eq!(again("an enqueue", async || enqueue(&writer, "b").await).await, ());
    let id = JobId::new("b").unwrap();
    again("a look", async || match &reader.look(&queue(), std::slice::from_ref(&id)).await?[..] {
        [Some(_)] => Ok(()),
        other => Err(StoreError::Unavailable(format!("{other:?}"))),
    })
    .await;
}

#[tokio::test]
async fn a_server_that_was_emptied_lists_its_queues_again() {
    let server = RedisServer::start(RedisOptions::default()).unwrap();
    let relay = Relay::to(&server).await;
    let store = relay.store().await;
    let listed = async || store.queues().await.unwrap();
    let plain = || {
        let content = record::encode(&Spec::bare(false, "1".to_owned()));
        NewJob { id: job::spec::generate_id(), due: job::Due::Now, priority: 0, expires: None, content }
    };
    for jobs in [vec![new_job("a")], vec![plain(), plain()]] {
        for _ in 0..2 {
            let answers = store.enqueue(&queue(), &jobs, 1000).await.unwrap();
            let created = |answer: &Enqueued| matches!(answer, Enqueued::Created { .. });
            assert!(answers.iter().all(created) && answers.len() == jobs.len(), "{answers:?}");
            assert_eq!(listed().await, [queue()]);
            assert_eq!(server.cli(&["FLUSHALL"]), "OK");
        }
    }
    store.pause(&queue(), false).await.unwrap();
    assert_eq!(listed().await, [queue()]);

    // And what comes by the inbox.
    enqueue(&store, "a").await.unwrap();
    assert_eq!(server.cli(&["FLUSHALL"]), "OK");
    assert_eq!(server.cli(&["LPUSH", "t:{q}:inbox", "entry"]), "1");
    let mut inbox = redis(&store).inbox_connection().await.unwrap();
    let entry = from_inbox(redis(&store), &mut inbox).await;
    let admitted = redis(&store).inbox_admit(&queue(), "h", &[(new_job("b"), entry)], 1000).await.unwrap();
    assert!(matches!(admitted[..], [Some(Enqueued::Created { .. })]), "{admitted:?}");
    assert_eq!(listed().await, [queue()]);
}

/// A job that was enqueued while the clock stood wrong is not late by the error.
#[tokio::test]
async fn what_was_enqueued_during_a_jump_is_due_when_it_is_undone() {
    let server = RedisServer::start(RedisOptions::default()).unwrap();
    let relay = Relay::to(&server).await;
    let store = relay.store().await;
    enqueue(&store, "before").await.unwrap();
    // What scripts read is the server's time and this.
    assert_eq!(server.cli(&["HSET", "t:{q}:meta", "offset", "3600000000"]), "1");
    for name in ["a", "b"] {
        enqueue(&store, name).await.unwrap();
    }
    let planned = NewJob { due: job::Due::In(Duration::from_secs(1)), ..new_job("planned") };
    store.enqueue(&queue(), &[planned], 1000).await.unwrap();
    let honest = store.clock().await.unwrap().reading;
    assert!(store.steer(&queue(), honest).await.unwrap());

    let worker = WorkerId::new("h:p:1:x").unwrap();
    let request = PullRequest { queue: queue(), worker, max: 9, lease: LEASE, latest: None };
    let pulled = store.pull(&request).await.unwrap();
    let ids: Vec<&str> = pulled.deliveries.iter().map(|it| it.id.as_str()).collect();
    assert_eq!(ids, ["before", "a", "b"]);
}

async fn enter_as_replica(replica: &RedisServer, primary: &RedisServer) {
    assert_eq!(replica.cli(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]), "OK");
    again("the replica", async || {
        let info = replica.info("replication");
        let up = info["master_link_status"] == "up" && replica.cli(&["EXISTS", "t:{q}:jobs"]) == "1";
        if up { Ok(()) } else { Err(StoreError::Unavailable(format!("{info:?}"))) }
    })
    .await;
}
