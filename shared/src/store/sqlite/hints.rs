//! Hints from process to process. SQLite tells nobody of a commit, so every listening host binds a datagram socket and
//! enters it in `listeners`; whoever commits something of interest sends each of them a line of JSON. Sending never
//! waits: a full socket is told later that it missed something, one that is gone is forgotten.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::params;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::SqliteStore;
use super::fault::Fault;
use super::tx::{Tx, View};
use crate::clock::StoreTime;
use crate::names::{JobId, QueueName, WorkerId};
use crate::store::{Hint, StoreError};

/// The longest path of a socket (`sun_path` has 104 bytes on macOS).
const MAX_PATH: usize = 100;
/// Hints that wait for whoever listens.
const WAITING_HINTS: usize = 1024;
/// A listener looks so often whether it is still entered and its socket still there.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// What is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Nudge {
    Work { queue: QueueName, due: u32, next: Option<StoreTime> },
    Cancel { queue: QueueName, worker: WorkerId, id: JobId },
    Changed { queue: QueueName },
    Lost,
}

impl Nudge {
    pub(super) fn work(queue: &QueueName) -> Self {
        Self::Work { queue: queue.clone(), due: 0, next: None }
    }

    /// One more job to be done at `due`.
    pub(super) fn add(&mut self, at: StoreTime, now: StoreTime) {
        if let Self::Work { due, next, .. } = self {
            if at <= now {
                *due += 1;
            } else {
                *next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::Work { due: 0, next: None, .. })
    }

    /// Takes another in, if both can be told at once.
    pub(super) fn merge(&mut self, other: &Self) -> bool {
        match (self, other) {
            (Self::Work { queue, due, next }, Self::Work { queue: q, due: d, next: n }) if queue == q => {
                *due = due.saturating_add(*d);
                *next = [*next, *n].into_iter().flatten().min();
                true
            }
            (Self::Changed { queue }, Self::Changed { queue: q }) => queue == q,
            _ => false,
        }
    }

    const fn queue(&self) -> Option<&QueueName> {
        match self {
            Self::Work { queue, .. } | Self::Cancel { queue, .. } | Self::Changed { queue } => Some(queue),
            Self::Lost => None,
        }
    }
}

impl From<Nudge> for Hint {
    fn from(nudge: Nudge) -> Self {
        match nudge {
            Nudge::Work { queue, due, next } => Self::Work { queue, due, next_due: next },
            Nudge::Cancel { worker, id, .. } => Self::Cancel { worker, id },
            Nudge::Changed { queue } => Self::Changed { queue },
            Nudge::Lost => Self::Lost,
        }
    }
}

/// A row of `listeners`.
#[derive(Debug)]
pub(super) struct Address {
    socket: String,
    queues: Vec<QueueName>,
}

pub(super) fn addresses(view: &View<'_>) -> Result<Vec<Address>, Fault> {
    let mut read = view.sql("SELECT socket, queues FROM listeners WHERE namespace = ?1")?;
    let mut rows = read.query([view.namespace.as_str()])?;
    let mut addresses = Vec::new();
    while let Some(row) = rows.next()? {
        let queues: String = row.get(1)?;
        addresses
            .push(Address { socket: row.get(0)?, queues: serde_json::from_str(&queues).unwrap_or_default() });
    }
    Ok(addresses)
}

/// Sends hints.
#[derive(Debug)]
pub(super) struct Post {
    socket: Option<UnixDatagram>,
    missed: HashSet<String>,
}

impl Post {
    pub(super) fn new() -> Self {
        let socket = UnixDatagram::unbound().ok().filter(|socket| socket.set_nonblocking(true).is_ok());
        Self { socket, missed: HashSet::new() }
    }

    /// Answers the sockets that are gone.
    pub(super) fn send(&mut self, nudges: &[Nudge], addresses: &[Address]) -> Vec<String> {
        let Some(socket) = &self.socket else { return Vec::new() };
        let lines: Vec<_> = nudges
            .iter()
            .filter_map(|nudge| Some((nudge.queue()?, serde_json::to_vec(nudge).ok()?)))
            .collect();
        let mut gone = Vec::new();
        for address in addresses {
            for (_, line) in lines.iter().filter(|(queue, _)| address.queues.contains(queue)) {
                let lost = self.missed.contains(&address.socket);
                let line = if lost { br#""lost""#.as_slice() } else { line };
                match socket.send_to(line, &address.socket) {
                    Ok(_) if lost => {
                        self.missed.remove(&address.socket);
                        break;
                    }
                    Ok(_) => {}
                    Err(error)
                        if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) =>
                    {
                        self.missed.remove(&address.socket);
                        gone.push(address.socket.clone());
                        break;
                    }
                    Err(_) => {
                        self.missed.insert(address.socket.clone());
                        break;
                    }
                }
            }
        }
        gone
    }
}

/// Removes a socket that nobody listens on, and nothing else.
pub(super) fn remove(path: &Path) {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        let _ = std::fs::remove_file(path);
    }
}

/// Forgets sockets that nobody listens on.
pub(super) fn forget(tx: &Tx<'_>, sockets: &[String]) -> Result<(), Fault> {
    for socket in sockets {
        tx.sql("DELETE FROM listeners WHERE socket = ?1")?.execute([socket])?;
    }
    Ok(())
}

fn enter(tx: &Tx<'_>, socket: &str, host: &str, queues: &str) -> Result<(), Fault> {
    tx.sql("REPLACE INTO listeners (socket, namespace, host, queues) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![socket, tx.view.namespace.as_str(), host, queues])?;
    Ok(())
}

/// A path for a new socket: beside the file, or where the path is too long for that, in a directory of ours in the
/// temporary one.
fn place(file: &Path) -> Result<PathBuf, StoreError> {
    let name = uuid::Uuid::now_v7().simple().to_string();
    let name = &name[20..];
    let mut beside = file.as_os_str().to_owned();
    beside.push(format!("-hints-{name}"));
    if beside.len() <= MAX_PATH {
        return Ok(beside.into());
    }
    let me = rustix::process::geteuid().as_raw();
    let dir = std::env::temp_dir().join(format!("roundsman-{me}"));
    let unfit =
        |why: &str| StoreError::Unfit(format!("{} cannot hold the sockets for hints: {why}", dir.display()));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|error| unfit(&error.to_string()))?;
    let found = std::fs::symlink_metadata(&dir).map_err(|error| unfit(&error.to_string()))?;
    if !found.is_dir() || found.uid() != me || found.mode() & 0o022 != 0 {
        return Err(unfit("it belongs to somebody else"));
    }
    let digest = crate::job::record::digest(&file.to_string_lossy());
    Ok(dir.join(format!("{digest}-{name}")))
}

fn bind(path: &Path) -> Result<tokio::net::UnixDatagram, StoreError> {
    let failed = |error: std::io::Error| StoreError::Unavailable(format!("{}: {error}", path.display()));
    let socket = UnixDatagram::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    tokio::net::UnixDatagram::from_std(socket).map_err(failed)
}

/// See [`crate::store::Store::listen`].
pub(super) async fn listen(
    store: &SqliteStore,
    queues: &[QueueName],
    host: &str,
) -> Result<mpsc::Receiver<Hint>, StoreError> {
    let path = place(store.file())?;
    let ear = Ear {
        socket: bind(&path)?,
        path,
        host: host.to_owned(),
        queues: serde_json::to_string(queues).unwrap_or_default(),
        store: store.downgrade(),
    };
    ear.enter().await?;
    let (hints, receiver) = mpsc::channel(WAITING_HINTS);
    tokio::spawn(ear.run(hints, store.closed()));
    Ok(receiver)
}

/// One listener.
struct Ear {
    socket: tokio::net::UnixDatagram,
    path: PathBuf,
    host: String,
    queues: String,
    store: super::WeakStore,
}

impl Ear {
    async fn enter(&self) -> Result<(), StoreError> {
        let Some(store) = self.store.upgrade() else { return Ok(()) };
        let (socket, host, queues) =
            (self.path.to_string_lossy().into_owned(), self.host.clone(), self.queues.clone());
        store.write(false, move |tx| enter(tx, &socket, &host, &queues)).await
    }

    async fn run(mut self, hints: mpsc::Sender<Hint>, mut closed: watch::Receiver<()>) {
        let mut line = vec![0; 4096];
        let mut check = tokio::time::interval(CHECK_EVERY);
        check.tick().await;
        loop {
            tokio::select! {
                read = self.socket.recv(&mut line) => {
                    let hint = read.ok().and_then(|length| serde_json::from_slice::<Nudge>(&line[..length]).ok());
                    let Some(hint) = hint else { continue };
                    if let Err(mpsc::error::TrySendError::Full(_)) = hints.try_send(hint.into()) {
                        // Whatever else comes meanwhile is lost as well, and told at once.
                        let Ok(room) = hints.reserve().await else { break };
                        while self.socket.try_recv(&mut line).is_ok() {}
                        room.send(Hint::Lost);
                    }
                }
                () = hints.closed() => break,
                _ = closed.changed() => break,
                _ = check.tick() => self.check(&hints).await,
            }
        }
        remove(&self.path);
        if let Some(store) = self.store.upgrade() {
            let sockets = [self.path.to_string_lossy().into_owned()];
            let _ = store.write(false, move |tx| forget(tx, &sockets)).await;
        }
    }

    /// Temporary directories get cleaned, and a sender may have taken us for dead.
    async fn check(&mut self, hints: &mpsc::Sender<Hint>) {
        if std::fs::symlink_metadata(&self.path).is_err() {
            let _ = hints.try_send(Hint::Lost);
            if let Ok(socket) = bind(&self.path) {
                self.socket = socket;
            }
        }
        let Some(store) = self.store.upgrade() else { return };
        let socket = self.path.to_string_lossy().into_owned();
        let entered = store
            .read(move |view| {
                Ok(view.sql("SELECT 1 FROM listeners WHERE socket = ?1")?.exists([socket.as_str()])?)
            })
            .await;
        if matches!(entered, Ok(false)) && self.enter().await.is_ok() {
            let _ = hints.try_send(Hint::Lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::job::Due;
    use crate::store::Hint;
    use crate::store::sqlite::testing::*;

    #[tokio::test]
    async fn whoever_listens_is_told() {
        let (store, dir) = fresh().await;
        let other = open(dir.path()).await;
        let (q, r) = (queue("q"), queue("r"));
        let mut hints = store.listen(std::slice::from_ref(&q), "h").await.unwrap();
        other.enqueue(&r, &[job("a", "1")], 100).await.unwrap();
        other.enqueue(&q, &[job("a", "1"), job("b", "1"), timer("c", 60)], 100).await.unwrap();
        let Some(Hint::Work { queue, due: 2, next_due: Some(next) }) = hints.recv().await else { panic!() };
        assert_eq!(queue, q);
        other.reschedule(&q, &id("c"), Due::At(next + Duration::from_secs(1))).await.unwrap();
        assert!(matches!(hints.recv().await, Some(Hint::Work { due: 0, next_due: Some(_), .. })));
        pull(&other, &q, 1).await;
        other.cancel(&q, &id("a")).await.unwrap();
        assert_eq!(hints.recv().await, Some(Hint::Cancel { worker: worker(), id: id("a") }));
        other.pause(&q, true).await.unwrap();
        assert_eq!(hints.recv().await, Some(Hint::Changed { queue: q.clone() }));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_listener() {
        let (store, dir) = fresh().await;
        let q = queue("q");
        let mut hints = store.listen(std::slice::from_ref(&q), "h").await.unwrap();
        for n in 0..3000 {
            store.pause(&q, n % 2 == 0).await.unwrap();
        }
        let mut lost = false;
        while let Ok(Some(hint)) = tokio::time::timeout(Duration::from_millis(500), hints.recv()).await {
            lost |= hint == Hint::Lost;
            // The one that missed something is told with the next hint.
            if hints.is_empty() && !lost {
                store.pause(&q, true).await.unwrap();
            }
        }
        assert!(lost, "a full listener learns that it lost hints");
        drop(hints);
        let sockets = || {
            std::fs::read_dir(dir.path())
                .unwrap()
                .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("hints"))
        };
        for _ in 0..500 {
            if sockets().count() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the socket of a listener that is gone is still there");
    }
}
