//! The store in a SQLite file (WAL), for one host and any number of its processes. No set-up.
//!
//! ```text
//! open      whether the file can be trusted, its settings, its schema (schema.sql)
//! writer    the thread that writes: groups of requests, one transaction, one commit
//! reader    the thread that looks
//! tx        a step: the queue rows that it changes, its moment, the hints that it owes
//! guard     the clock, watched for jumps
//! disk      room: who is refused, and the ballast
//! enqueue, deliver, settle, pulse, operate, reads    the verbs
//! hints     datagrams from process to process
//! fault     what can go wrong, and what callers are told
//! ```
//!
//! Every step is one `BEGIN IMMEDIATE` transaction, or a part of one that other steps share.

mod deliver;
mod disk;
mod enqueue;
mod fault;
mod guard;
mod hints;
mod open;
mod operate;
mod points;
mod pulse;
mod reader;
mod reads;
mod settle;
mod tx;
mod writer;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod stress;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use self::fault::Fault;
use self::reader::{Look, Reader};
use self::tx::{Tx, View};
use self::writer::{Place, Request, Writer};
use super::{
    Answer, Cancelled, Changed, Durability, Enqueued, Glimpse, Held, Hint, HostBeat, Outgoing, Page, Point,
    PullRequest, Pulled, Pulse, QueueView, RenewRequest, Renewed, Retention, SettleRequest, StoreConfig,
    StoreError,
};
use crate::clock::{Mono, StoreClock};
use crate::job::letter::Letter;
use crate::job::progress::Token;
use crate::job::spec::Due;
use crate::job::view::Found;
use crate::job::{NewJob, State};
use crate::names::{JobId, QueueName, WorkerId};

/// Requests that wait for a thread; whoever comes then waits as well.
const WAITING_REQUESTS: usize = 1024;
/// What a stored job takes beside its content: keys, indexes, its share of the log.
const JOB_OVERHEAD: u64 = 256;

/// A handle on the file. Clones share two threads, each with a connection of its own; they end with the last clone.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    writes: mpsc::Sender<Request>,
    looks: mpsc::Sender<Look>,
    place: Place,
    /// Closes with the last handle; listeners watch it.
    closed: watch::Sender<()>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SqliteStore").field(&self.inner.place.file).finish()
    }
}

/// A handle that does not keep the store open.
struct WeakStore(Weak<Inner>);

impl WeakStore {
    fn upgrade(&self) -> Option<SqliteStore> {
        self.0.upgrade().map(|inner| SqliteStore { inner })
    }
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the store's thread has stopped".to_owned())
}

impl SqliteStore {
    /// Opens the file; makes it and its directory if they are not there.
    ///
    /// # Errors
    /// [`StoreError::Unfit`] when it is no database of ours, of a newer version, or on a network file system;
    /// [`StoreError::Unavailable`] when it stays locked for 5 s or cannot be read.
    pub async fn open(path: &Path, config: &StoreConfig) -> Result<Self, StoreError> {
        let (path, namespace) = (path.to_owned(), config.namespace.clone());
        let (writes, requests) = mpsc::channel(WAITING_REQUESTS);
        let (looks, looking) = mpsc::channel(WAITING_REQUESTS);
        let (opened, opening) = oneshot::channel();
        spawn("sqlite-write", move || {
            let writer = open::prepare(&path).and_then(|file| {
                let place = Place {
                    file,
                    namespace,
                    clocks: guard::Clocks::new(),
                    generation: Arc::default(),
                    replaced: Arc::default(),
                };
                Ok((Writer::open(place.clone())?, place))
            });
            match writer {
                Ok((writer, place)) => {
                    let _ = opened.send(Ok(place));
                    writer.run(requests);
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            }
        })?;
        let place = opening.await.map_err(|_gone| stopped())??;
        let reader = Reader::new(place.clone());
        spawn("sqlite-read", move || reader.run(looking))?;
        let (closed, _) = watch::channel(());
        Ok(Self { inner: Arc::new(Inner { writes, looks, place, closed }) })
    }

    /// Whether another file was found in the place of the one that was opened, and is used instead since.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        self.inner.place.replaced.load(Ordering::Relaxed)
    }

    fn file(&self) -> &Path {
        &self.inner.place.file
    }

    fn downgrade(&self) -> WeakStore {
        WeakStore(Arc::downgrade(&self.inner))
    }

    fn closed(&self) -> watch::Receiver<()> {
        self.inner.closed.subscribe()
    }

    async fn request<T: Send + 'static>(
        &self,
        durable: bool,
        adds: Option<u64>,
        step: impl FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (request, answer) = Request::new(durable, adds, step);
        self.inner.writes.send(request).await.map_err(|_gone| stopped())?;
        answer.await.map_err(|_gone| stopped())?
    }

    async fn write<T: Send + 'static>(
        &self,
        durable: bool,
        step: impl FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.request(durable, None, step).await
    }

    async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&View<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let look: Look = Box::new(move |reader| {
            let _ = reply.send(reader.look(look));
        });
        self.inner.looks.send(look).await.map_err(|_gone| stopped())?;
        answer.await.map_err(|_gone| stopped())?
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    spawned.map(drop).map_err(|error| StoreError::Unavailable(format!("no thread for the store: {error}")))
}

/// The verbs; see [`crate::store::Store`]. What producers and operators rely on is durable when it is answered; a
/// power cut may undo pulls, renewals and acknowledgements, which repeats jobs and loses none.
#[expect(clippy::missing_errors_doc, reason = "see StoreError")]
impl SqliteStore {
    pub async fn enqueue(
        &self,
        queue: &QueueName,
        jobs: &[NewJob],
        max_waiting: u64,
    ) -> Result<Vec<Enqueued>, StoreError> {
        let bytes: usize = jobs.iter().map(|job| job.content.len() + 2 * job.id.as_str().len()).sum();
        let adds =
            u64::try_from(bytes).unwrap_or(u64::MAX) + JOB_OVERHEAD * u64::try_from(jobs.len()).unwrap_or(0);
        let (queue, jobs) = (queue.clone(), jobs.to_vec());
        self.request(true, Some(adds), move |tx| enqueue::enqueue(tx, &queue, &jobs, max_waiting)).await
    }

    pub async fn bury(&self, queue: &QueueName, id: &JobId, letter: &Letter) -> Result<bool, StoreError> {
        let adds = u64::try_from(letter.content.len() + letter.progress.len()).unwrap_or(u64::MAX);
        let (queue, id, letter) = (queue.clone(), id.clone(), letter.clone());
        let adds = adds + JOB_OVERHEAD;
        self.request(true, Some(adds), move |tx| enqueue::bury(tx, &queue, &id, &letter)).await
    }

    pub async fn exchange(
        &self,
        settle: Option<&SettleRequest>,
        pull: Option<&PullRequest>,
    ) -> Result<(Vec<Answer>, Option<Pulled>), StoreError> {
        let (settle, pull) = (settle.cloned(), pull.cloned());
        self.write(false, move |tx| {
            let answers = settle.as_ref().map(|settle| settle::settle(tx, settle)).transpose()?;
            let pulled = pull.as_ref().map(|pull| deliver::pull(tx, pull)).transpose()?;
            Ok((answers.unwrap_or_default(), pulled))
        })
        .await
    }

    pub async fn renew(&self, request: &RenewRequest) -> Result<Renewed, StoreError> {
        let request = request.clone();
        self.write(false, move |tx| deliver::renew(tx, &request)).await
    }

    pub async fn unacked(
        &self,
        queue: &QueueName,
        worker: &WorkerId,
        newer_than: Option<Token>,
    ) -> Result<Vec<Held>, StoreError> {
        let (queue, worker) = (queue.clone(), worker.clone());
        self.read(move |view| deliver::unacked(view, &queue, &worker, newer_than)).await
    }

    pub async fn pulse(
        &self,
        queue: &QueueName,
        lease: Duration,
        ahead: Duration,
    ) -> Result<Pulse, StoreError> {
        let queue = queue.clone();
        self.write(false, move |tx| pulse::pulse(tx, &queue, lease, ahead)).await
    }

    pub async fn glimpse(&self, queue: &QueueName) -> Result<Glimpse, StoreError> {
        let queue = queue.clone();
        self.read(move |view| pulse::glimpse(view, &queue)).await
    }

    /// The clock of a file guards itself, with each reading: see [`guard`].
    #[expect(clippy::unused_async, reason = "the other store's has to wait")]
    pub async fn steer(&self, _: &QueueName, _: crate::clock::StoreTime) -> Result<bool, StoreError> {
        Ok(false)
    }

    pub async fn trim(&self, queue: &QueueName, retention: &Retention) -> Result<bool, StoreError> {
        let (queue, retention) = (queue.clone(), retention.clone());
        self.write(false, move |tx| pulse::trim(tx, &queue, &retention)).await
    }

    pub async fn cancel(&self, queue: &QueueName, id: &JobId) -> Result<Cancelled, StoreError> {
        let (queue, id) = (queue.clone(), id.clone());
        self.write(true, move |tx| operate::cancel(tx, &queue, &id)).await
    }

    pub async fn expire(&self, queue: &QueueName, ids: &[JobId]) -> Result<u64, StoreError> {
        let (queue, ids) = (queue.clone(), ids.to_vec());
        self.write(false, move |tx| operate::expire(tx, &queue, &ids)).await
    }

    pub async fn reschedule(&self, queue: &QueueName, id: &JobId, due: Due) -> Result<Changed, StoreError> {
        let (queue, id) = (queue.clone(), id.clone());
        self.write(true, move |tx| operate::reschedule(tx, &queue, &id, due)).await
    }

    pub async fn replace(
        &self,
        queue: &QueueName,
        id: &JobId,
        content: &str,
        due: Option<Due>,
    ) -> Result<Changed, StoreError> {
        let (queue, id, content) = (queue.clone(), id.clone(), content.to_owned());
        self.write(true, move |tx| operate::replace(tx, &queue, &id, &content, due)).await
    }

    pub async fn retry(&self, queue: &QueueName, id: &JobId) -> Result<Changed, StoreError> {
        let (queue, id) = (queue.clone(), id.clone());
        self.write(true, move |tx| operate::retry(tx, &queue, &id)).await
    }

    pub async fn delete(&self, queue: &QueueName, id: &JobId) -> Result<Changed, StoreError> {
        let (queue, id) = (queue.clone(), id.clone());
        self.write(true, move |tx| operate::delete(tx, &queue, &id)).await
    }

    pub async fn purge(&self, queue: &QueueName, state: State) -> Result<u64, StoreError> {
        let queue = queue.clone();
        self.write(true, move |tx| operate::purge(tx, &queue, state)).await
    }

    pub async fn pause(&self, queue: &QueueName, paused: bool) -> Result<(), StoreError> {
        let queue = queue.clone();
        self.write(true, move |tx| operate::pause(tx, &queue, paused)).await
    }

    pub async fn look(&self, queue: &QueueName, ids: &[JobId]) -> Result<Vec<Option<Found>>, StoreError> {
        let (queue, ids) = (queue.clone(), ids.to_vec());
        self.read(move |view| reads::look(view, &queue, &ids)).await
    }

    pub async fn list(
        &self,
        queue: &QueueName,
        state: State,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (queue, cursor) = (queue.clone(), cursor.map(str::to_owned));
        self.read(move |view| reads::list(view, &queue, state, cursor.as_deref(), limit)).await
    }

    pub async fn queues(&self) -> Result<Vec<QueueName>, StoreError> {
        self.read(reads::queues).await
    }

    pub async fn overview(&self, queue: &QueueName) -> Result<QueueView, StoreError> {
        let queue = queue.clone();
        self.read(move |view| reads::overview(view, &queue)).await
    }

    pub async fn live(&self, queue: &QueueName) -> Result<BTreeMap<String, String>, StoreError> {
        let queue = queue.clone();
        self.read(move |view| reads::live(view, &queue)).await
    }

    pub async fn set_live(
        &self,
        queue: &QueueName,
        key: &str,
        value: Option<&str>,
    ) -> Result<(), StoreError> {
        let (queue, key, value) = (queue.clone(), key.to_owned(), value.map(str::to_owned));
        self.write(true, move |tx| operate::set_live(tx, &queue, &key, value.as_deref())).await
    }

    pub async fn outbox(&self, queue: &QueueName) -> Result<Vec<Outgoing>, StoreError> {
        let queue = queue.clone();
        self.read(move |view| reads::outbox(view, &queue)).await
    }

    /// Not durable: to move a follow-up again is answered `Existing`.
    pub async fn outbox_moved(&self, queue: &QueueName, tickets: &[String]) -> Result<(), StoreError> {
        let (queue, tickets) = (queue.clone(), tickets.to_vec());
        self.write(false, move |tx| operate::outbox_moved(tx, &queue, &tickets)).await
    }

    pub async fn beat(&self, beat: &HostBeat) -> Result<(), StoreError> {
        let beat = beat.clone();
        self.write(false, move |tx| operate::beat(tx, &beat)).await
    }

    pub async fn leave(&self, host: &str) -> Result<(), StoreError> {
        let host = host.to_owned();
        self.write(false, move |tx| operate::leave(tx, &host)).await
    }

    pub async fn hosts(&self) -> Result<Vec<String>, StoreError> {
        self.read(reads::hosts).await
    }

    pub async fn plot(&self, point: &Point, keep: u32) -> Result<bool, StoreError> {
        let point = point.clone();
        self.write(false, move |tx| points::plot(tx, &point, keep)).await
    }

    pub async fn plotted(&self, step: u32, from: i64, to: i64) -> Result<Vec<Point>, StoreError> {
        self.read(move |view| points::plotted(view, step, from, to)).await
    }

    pub async fn clock(&self) -> Result<StoreClock, StoreError> {
        let sent = Mono::now();
        let reading = self.read(|view| Ok(view.now)).await?;
        Ok(StoreClock { reading, sent, received: Mono::now() })
    }

    pub async fn room(&self) -> Result<(), StoreError> {
        self.request(false, Some(0), |_| Ok(())).await
    }

    #[expect(clippy::unused_async, reason = "a verb like the others")]
    pub async fn durability(&self) -> Result<Durability, StoreError> {
        let file = self.file().display();
        Ok(if disk::is_memory(self.file()) {
            Durability {
                level: "memory".to_owned(),
                why: format!("{file} lies in memory (tmpfs): a reboot loses it"),
            }
        } else {
            Durability {
                level: "fsync".to_owned(),
                why: format!(
                    "{file} is a SQLite database in WAL mode with synchronous=FULL: the disk has confirmed a job before \
                     its enqueue is acknowledged"
                ),
            }
        })
    }

    pub async fn listen(&self, queues: &[QueueName], host: &str) -> Result<mpsc::Receiver<Hint>, StoreError> {
        hints::listen(self, queues, host).await
    }
}
