//! The one thread of a process that writes. It takes all requests that wait, carries them out in one transaction and
//! answers them after its commit; a request that fails is taken out and costs the others nothing but time.
//!
//! What must survive a power cut is committed with an fsync; what a power cut may undo (it only repeats a job) is not.
//! There is one connection for both, since two would empty each other's page cache with every commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::disk::{Disk, Room};
use super::fault::{Fault, Remedy};
use super::guard::Clocks;
use super::hints::{Address, Nudge, Post, forget};
use super::open::{self, Identity, Patience};
use super::tx::Tx;
use crate::clock::Mono;
use crate::names::Namespace;
use crate::store::StoreError;

/// The most requests in one transaction.
const GROUP: usize = 64;
/// A transaction takes no further request after this: other processes wait for the lock.
const LONG_ENOUGH: Duration = Duration::from_millis(4);
/// How often the file is looked at from outside.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How long a checkpoint may wait for readers to finish.
const CHECKPOINT_PATIENCE: Duration = Duration::from_millis(20);

/// A verb on its way. It may be carried out more than once; only what was committed is answered.
pub(super) trait Call: Send {
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Fault>;
    fn answer(self: Box<Self>, failed: Option<StoreError>);
}

pub(super) struct Verb<F, T> {
    step: F,
    done: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Call for Verb<F, T>
where
    F: FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send,
    T: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), Fault> {
        self.done = Some((self.step)(tx)?);
        Ok(())
    }

    fn answer(self: Box<Self>, failed: Option<StoreError>) {
        let answer = match (failed, self.done) {
            (Some(error), _) => Err(error),
            (None, Some(done)) => Ok(done),
            (None, None) => Err(StoreError::Unavailable("the call was not carried out".to_owned())),
        };
        // Nobody waits any more: it is done all the same.
        let _ = self.reply.send(answer);
    }
}

pub(super) struct Request {
    call: Box<dyn Call>,
    /// Whether it must survive a power cut.
    durable: bool,
    /// Bytes that it adds, if it may be refused for want of room.
    adds: Option<u64>,
}

impl Request {
    pub(super) fn new<F, T>(
        durable: bool,
        adds: Option<u64>,
        step: F,
    ) -> (Self, oneshot::Receiver<Result<T, StoreError>>)
    where
        F: FnMut(&mut Tx<'_>) -> Result<T, Fault> + Send + 'static,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        (Self { call: Box::new(Verb { step, done: None, reply }), durable, adds }, answer)
    }
}

/// What the file needs to be opened again.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) file: PathBuf,
    pub(super) namespace: Namespace,
    pub(super) clocks: Clocks,
    /// Rises whenever the writer had to open the file anew; the reader follows.
    pub(super) generation: Arc<AtomicU64>,
    /// Another file has taken the place of the one that was opened.
    pub(super) replaced: Arc<AtomicBool>,
}

pub(super) struct Writer {
    place: Place,
    conn: Option<Connection>,
    patience: Patience,
    identity: Option<Identity>,
    /// It was said that the file is gone.
    said_gone: bool,
    disk: Disk,
    post: Post,
    /// The setting of `synchronous` now.
    durable: Option<bool>,
    /// The WAL is checkpointed early, for want of room.
    short: bool,
    checked: Mono,
}

/// What a committed transaction leaves to be done.
struct Committed {
    calls: usize,
    nudges: Vec<Nudge>,
    addresses: Vec<Address>,
}

impl Writer {
    pub(super) fn open(place: Place) -> Result<Self, StoreError> {
        let disk = Disk::new(&place.file);
        let mut writer = Self {
            place,
            conn: None,
            patience: Patience::default(),
            identity: None,
            said_gone: false,
            disk,
            post: Post::new(),
            durable: None,
            short: false,
            checked: Mono::now(),
        };
        writer.connect()?;
        Ok(writer)
    }

    fn connect(&mut self) -> Result<(), StoreError> {
        self.conn = None;
        let identity = open::identity(&self.place.file);
        if self.identity.is_some() && identity.is_some() && identity != self.identity {
            tracing::error!(
                file = %self.place.file.display(),
                "another file has taken its place, and is served from now on: jobs that were only in the old one are lost \
                 to this fleet; to have them back, stop it and put the old file back"
            );
            self.place.replaced.store(true, Ordering::Relaxed);
        }
        (self.identity, self.said_gone) = (identity, false);
        self.conn = Some(open::connect_writer(&self.place.file, &self.patience, &self.disk)?);
        (self.durable, self.short) = (None, false);
        Ok(())
    }

    /// Serves until every handle of the store is gone.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let (mut lazy, mut durable) = (Vec::new(), Vec::new());
            let mut next = Some(first);
            while let Some(request) = next {
                if request.durable {
                    durable.push(request)
                } else {
                    lazy.push(request)
                }
                next = if lazy.len() + durable.len() < GROUP { requests.try_recv().ok() } else { None };
            }
            // Those that need no fsync are not to wait for one.
            self.group(lazy, false);
            self.group(durable, true);
        }
    }

    fn group(&mut self, mut requests: Vec<Request>, durable: bool) {
        if requests.is_empty() {
            return;
        }
        if let Err(error) = self.check() {
            for request in requests {
                request.call.answer(Some(error.clone()));
            }
            return;
        }
        requests = self.admit(requests);
        while !requests.is_empty() {
            match self.transact(&mut requests, durable) {
                Ok(committed) => {
                    self.tell(&committed.nudges, &committed.addresses);
                    let left = requests.split_off(committed.calls);
                    for request in requests {
                        request.call.answer(None);
                    }
                    requests = left;
                }
                Err(fault) if requests.len() > 1 && matches!(fault.remedy(), Remedy::Full | Remedy::None) => {
                    for request in requests {
                        self.alone(request, durable);
                    }
                    return;
                }
                Err(fault) if requests.len() == 1 => {
                    tracing::debug!(?fault, "a request failed");
                    if let Some(request) = requests.pop() {
                        self.retry(request, durable, fault);
                    }
                }
                Err(fault) => {
                    let error = self.give_up(fault);
                    for request in requests {
                        request.call.answer(Some(error.clone()));
                    }
                    return;
                }
            }
        }
    }

    /// Refuses what would take the room that acknowledgements need.
    fn admit(&mut self, requests: Vec<Request>) -> Vec<Request> {
        let Some(conn) = &self.conn else { return requests };
        let mut admitted = Vec::with_capacity(requests.len());
        for request in requests {
            let room = self.disk.look(conn, request.adds.unwrap_or(0));
            if request.adds.is_some() && room != Room::Enough {
                request.call.answer(Some(StoreError::NearLimit(self.disk.refusal())));
            } else {
                admitted.push(request);
            }
        }
        admitted
    }

    fn alone(&mut self, mut request: Request, durable: bool) {
        match self.transact(std::slice::from_mut(&mut request), durable) {
            Ok(committed) => {
                self.tell(&committed.nudges, &committed.addresses);
                request.call.answer(None);
            }
            Err(fault) => self.retry(request, durable, fault),
        }
    }

    /// A request failed by itself. A full disk is helped once; else its caller is told.
    fn retry(&mut self, mut request: Request, durable: bool, fault: Fault) {
        if fault.remedy() != Remedy::Full {
            let error = self.give_up(fault);
            return request.call.answer(Some(error));
        }
        if request.adds.is_some() {
            return request.call.answer(Some(StoreError::NearLimit(self.disk.refusal())));
        }
        self.disk.give_up_ballast();
        self.shorten_log("TRUNCATE");
        match self.transact(std::slice::from_mut(&mut request), durable) {
            Ok(committed) => {
                self.tell(&committed.nudges, &committed.addresses);
                request.call.answer(None);
            }
            Err(fault) => {
                let error = self.give_up(fault);
                request.call.answer(Some(error));
            }
        }
    }

    /// What callers are told of a fault; the connection goes if it cannot be trusted any more.
    fn give_up(&mut self, fault: Fault) -> StoreError {
        let remedy = fault.remedy();
        let mut error = fault.into_store();
        if remedy == Remedy::Busy
            && let Some(holder) = open::lock_holder(&self.place.file)
        {
            error = StoreError::Unavailable(format!("{holder} keeps the file locked"));
        }
        if remedy == Remedy::Reopen {
            tracing::error!(file = %self.place.file.display(), %error, "the file is opened anew");
            self.conn = None;
            self.place.generation.fetch_add(1, Ordering::Relaxed);
        }
        error
    }

    /// Carries out requests from the front in one transaction; nothing has happened if it fails.
    fn transact(&mut self, requests: &mut [Request], durable: bool) -> Result<Committed, Fault> {
        let Some(conn) = &self.conn else { return Err(Fault::Unreadable("the file is not open".to_owned())) };
        if self.durable != Some(durable) {
            conn.execute_batch(if durable {
                "PRAGMA synchronous = FULL"
            } else {
                "PRAGMA synchronous = NORMAL"
            })?;
            self.durable = Some(durable);
        }
        let tight = self.disk.room() == Room::Tight;
        if self.short != tight {
            let pages = if tight { 32 } else { self.disk.wal_bytes() / open::PAGE };
            conn.execute_batch(&format!("PRAGMA wal_autocheckpoint = {pages}"))?;
            self.short = tight;
        }
        conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let place = &self.place;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let mut tx = Tx::begin(conn, &place.namespace, &place.clocks, tight)?;
            let (mut calls, began) = (0, Mono::now());
            for request in requests.iter_mut() {
                if calls > 0 {
                    if Mono::now().since(began) > LONG_ENOUGH {
                        break;
                    }
                    tx.tick();
                }
                request.call.run(&mut tx)?;
                calls += 1;
            }
            tx.flush()?;
            let addresses = tx.addresses()?;
            conn.prepare_cached("COMMIT")?.execute([])?;
            Ok(Committed { calls, nudges: tx.nudges, addresses })
        }));
        let outcome =
            outcome.unwrap_or_else(|_| Err(Fault::Unreadable("a step on the store panicked".to_owned())));
        // Some failures have rolled back already.
        if outcome.is_err() && !conn.is_autocommit() && conn.execute_batch("ROLLBACK").is_err() {
            self.conn = None;
        }
        outcome
    }

    /// Comes before the answers: a process whose one request is answered may end at once, and this thread with it.
    fn tell(&mut self, nudges: &[Nudge], addresses: &[Address]) {
        let gone = self.post.send(nudges, addresses);
        if !gone.is_empty() {
            for socket in &gone {
                // Refused or missing: nobody is bound to it any more.
                super::hints::remove(std::path::Path::new(socket));
            }
            let (request, _) = Request::new(false, None, move |tx| forget(tx, &gone));
            self.alone(request, false);
        }
    }

    /// Opens the file if it is not open. Once a second: whether it is still the same file, and the log's length.
    fn check(&mut self) -> Result<(), StoreError> {
        let now = Mono::now();
        if self.conn.is_some() && now.since(self.checked) < CHECK_EVERY {
            return Ok(());
        }
        self.checked = now;
        let identity = open::identity(&self.place.file);
        if identity.is_none() {
            if !std::mem::replace(&mut self.said_gone, true) {
                tracing::error!(
                    file = %self.place.file.display(),
                    "the file was deleted or moved away, with its jobs: put it back"
                );
            }
            if self.conn.take().is_some() {
                self.place.generation.fetch_add(1, Ordering::Relaxed);
            }
            let gone = format!("{} is not there any more", self.place.file.display());
            return Err(StoreError::Unavailable(gone));
        }
        if self.conn.is_some() && identity != self.identity {
            self.conn = None;
            self.place.generation.fetch_add(1, Ordering::Relaxed);
        }
        if self.conn.is_none() {
            return self.connect();
        }
        if open::log_bytes(&self.place.file) > 4 * self.disk.wal_bytes() {
            self.shorten_log("RESTART");
        }
        Ok(())
    }

    /// Copies the log into the file so that it begins anew, if no reader needs it.
    fn shorten_log(&mut self, how: &str) {
        let Some(conn) = &self.conn else { return };
        self.patience.set(CHECKPOINT_PATIENCE);
        let done = conn.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(()));
        self.patience.reset();
        if let Err(error) = done {
            tracing::warn!(file = %self.place.file.display(), %error, "the log could not be copied into the file");
        }
    }
}
