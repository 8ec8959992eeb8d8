//! The store: where jobs are, between being accepted and having ended. Two of them keep the same contract: Redis,
//! which hosts share, and SQLite, a file that needs no set-up. The verbs and their answers stand in [`verbs`].
//!
//! Invariants: every move of a job is one atomic step; every step out of `running` compares the delivery's token; a
//! lease is a row that we write, never an expiring key; the clock is the store's.

pub mod redis;
pub mod sqlite;
pub mod verbs;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock::StoreClock;
use crate::job::progress::Token;
use crate::job::spec::Due;
use crate::job::view::Found;
use crate::names::{JobId, Namespace, QueueName, WorkerId};
pub use verbs::*;

/// Where a store is and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    pub place: StorePlace,
    pub namespace: Namespace,
    /// How long a worker may go unheard.
    pub lease: Duration,
}

#[derive(Clone, PartialEq, Eq)]
pub enum StorePlace {
    Sqlite(PathBuf),
    /// May hold a password.
    Redis(String),
}

impl std::fmt::Debug for StorePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Self::Redis(_) => f.write_str("Redis(…)"),
        }
    }
}

/// A store. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub enum Store {
    Redis(redis::RedisStore),
    Sqlite(sqlite::SqliteStore),
}

macro_rules! verbs {
    ($( $(#[$doc:meta])* $verb:ident ( $($arg:ident : $type:ty),* ) -> $answer:ty; )*) => {
        impl Store {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// See [`StoreError`].
                pub async fn $verb(&self, $($arg: $type),*) -> Result<$answer, StoreError> {
                    match self {
                        Self::Redis(store) => store.$verb($($arg),*).await,
                        Self::Sqlite(store) => store.$verb($($arg),*).await,
                    }
                }
            )*
        }
    };
}

impl Store {
    /// Connects, and refuses a store that would lose jobs.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it is not reached within a few seconds, [`StoreError::Unfit`] when its settings
    /// would drop keys, its version is too old or its files are on a network file system.
    pub async fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        match &config.place {
            StorePlace::Redis(url) => Ok(Self::Redis(redis::RedisStore::open(url, config).await?)),
            StorePlace::Sqlite(path) => Ok(Self::Sqlite(sqlite::SqliteStore::open(path, config).await?)),
        }
    }

    /// `redis` or `sqlite`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Redis(_) => "redis",
            Self::Sqlite(_) => "sqlite",
        }
    }

    /// Whether the store is another one than was opened, with other jobs: a file can be deleted or replaced under a
    /// running fleet, which goes on with the new one.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        match self {
            Self::Redis(_) => false,
            Self::Sqlite(store) => store.is_replaced(),
        }
    }

    /// Acknowledges.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn settle(&self, request: &SettleRequest) -> Result<Vec<Answer>, StoreError> {
        Ok(self.exchange(Some(request), None).await?.0)
    }

    /// Pulls.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn pull(&self, request: &PullRequest) -> Result<Pulled, StoreError> {
        let (_, pulled) = self.exchange(None, Some(request)).await?;
        pulled.ok_or_else(|| StoreError::Corrupt("a pull came back without an answer".to_owned()))
    }
}

verbs! {
    /// Stores jobs. A job whose id is there already is compared with it. `max_waiting` bounds scheduled and ready jobs.
    /// Refused as a whole with [`StoreError::NearLimit`] while the store's memory or disk is above 80 % of its limit.
    enqueue(queue: &QueueName, jobs: &[crate::job::NewJob], max_waiting: u64) -> Vec<Enqueued>;

    /// Writes down as a dead letter what came in and could not become a job. `false` where the id is in use already, as
    /// after a call that was repeated.
    bury(queue: &QueueName, id: &JobId, letter: &crate::job::letter::Letter) -> bool;

    /// Acknowledges what a worker has finished and gives it its next jobs, in one round trip. Either half may be absent.
    /// The acknowledgements come first; on one queue both are one step where the store can make it so.
    exchange(settle: Option<&SettleRequest>, pull: Option<&PullRequest>) -> (Vec<Answer>, Option<Pulled>);

    /// Prolongs a worker's lease in a queue, notes what it has begun, and tells it what to cancel. A worker that holds
    /// nothing there has nothing to lose: the answer is not `lost`.
    renew(request: &RenewRequest) -> Renewed;

    /// What a worker holds under lease in a queue, with records, from the oldest pull: at most [`MAX_BATCH`] jobs, and
    /// whole pulls. With `newer_than` only what later pulls gave; so the token of the last job leads to the next page,
    /// and an empty page ends it.
    unacked(queue: &QueueName, worker: &WorkerId, newer_than: Option<Token>) -> Vec<Held>;

    /// Looks at a queue, and at whose lease has lapsed. Called once a second by each master while anything waits or runs;
    /// a gap in these calls of more than 3 s means that nobody could renew, and holds back lapsing for one lease.
    pulse(queue: &QueueName, lease: Duration, ahead: Duration) -> Pulse;

    /// Whether anything has happened in a queue, for one command: what a pulse costs is not spent on a queue that sleeps.
    glimpse(queue: &QueueName) -> Glimpse;

    /// Corrects the queue's clock when it stands more than [`crate::clock::SKEW_GUARD`] from `expected`, which is what a
    /// reading before and this host's boot-time clock say: after a jump forward nothing starts early, and once the jump
    /// is undone nothing stays late. Answers whether it was moved. SQLite's clock guards itself.
    steer(queue: &QueueName, expected: crate::clock::StoreTime) -> bool;

    /// Removes what has been kept long enough, a bounded piece at a time. Answers whether there is more.
    trim(queue: &QueueName, retention: &Retention) -> bool;

    /// Cancels a job, or tells the worker that runs it.
    cancel(queue: &QueueName, id: &JobId) -> Cancelled;

    /// Ends those of these jobs that wait though their expiry has passed; answers how many. At most [`MAX_BATCH`] a call.
    /// Whoever pulls an expired job ends it too, so this is for queues from which nobody pulls.
    expire(queue: &QueueName, ids: &[JobId]) -> u64;

    /// Moves a waiting job's due time.
    reschedule(queue: &QueueName, id: &JobId, due: Due) -> Changed;

    /// Gives a waiting job other content, as [`crate::job::record::encode`] makes it, with the priority that it has; and
    /// another due time, if one is given.
    replace(queue: &QueueName, id: &JobId, content: &str, due: Option<Due>) -> Changed;

    /// Makes a scheduled job due now, or an ended one (but a done one) ready again with its failures and crashes
    /// forgiven.
    retry(queue: &QueueName, id: &JobId) -> Changed;

    /// Removes a job that waits or has ended, with all that is known of it.
    delete(queue: &QueueName, id: &JobId) -> Changed;

    /// Removes waiting jobs (`scheduled` or `ready`) or ended ones of one state, at most [`MAX_BATCH`] a call; answers
    /// how many. Zero means that none is left.
    purge(queue: &QueueName, state: crate::job::State) -> u64;

    /// Stops or resumes deliveries of a queue.
    pause(queue: &QueueName, paused: bool) -> ();

    /// Finds jobs by id, in the order asked; at most [`MAX_BATCH`].
    look(queue: &QueueName, ids: &[JobId]) -> Vec<Option<Found>>;

    /// A page of the jobs in one state: waiting ones by priority and due time, ended ones from the newest.
    list(queue: &QueueName, state: crate::job::State, cursor: Option<&str>, limit: usize) -> Page;

    /// The queues that exist, sorted.
    queues() -> Vec<QueueName>;

    /// A queue in numbers.
    overview(queue: &QueueName) -> QueueView;

    /// The live settings of a queue, as `queue set` left them.
    live(queue: &QueueName) -> std::collections::BTreeMap<String, String>;

    /// Changes a live setting; `None` removes it.
    set_live(queue: &QueueName, key: &str, value: Option<&str>) -> ();

    /// Follow-ups that wait to be moved, oldest first, at most [`MAX_BATCH`].
    outbox(queue: &QueueName) -> Vec<Outgoing>;

    /// Takes moved follow-ups out of the outbox.
    outbox_moved(queue: &QueueName, tickets: &[String]) -> ();

    /// Enters or renews a host in the registry.
    beat(beat: &HostBeat) -> ();

    /// Takes a host out of the registry.
    leave(host: &str) -> ();

    /// The records of the hosts whose entry has not lapsed.
    hosts() -> Vec<String>;

    /// Keeps a point of a chart, unless one of that moment is kept already, by whichever host; and forgets those of this
    /// step that are `keep` steps older. Answers whether it was kept. Redis without memory for it refuses.
    plot(point: &Point, keep: u32) -> bool;

    /// The points of a step from one moment (Unix seconds) to before another, oldest first, at most [`MAX_POINTS`].
    plotted(step: u32, from: i64, to: i64) -> Vec<Point>;

    /// Reads the store's clock.
    clock() -> StoreClock;

    /// Whether there is room for more jobs: [`StoreError::NearLimit`] where there is not.
    room() -> ();

    /// What its acknowledgements are worth.
    durability() -> Durability;

    /// Starts listening for hints about these queues. The receiver ends when it is dropped or the store is closed.
    listen(queues: &[QueueName], host: &str) -> mpsc::Receiver<Hint>;
}
