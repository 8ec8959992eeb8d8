//! One supervisor for a store and a host: a file that it alone keeps locked, as long as it lives.
//!
//! The lock is the kernel's (`flock`), so that it ends with its holder however that ends; the descriptor is closed in
//! every program started from here. The file stays, since removing it would let two hold a lock of one name.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::settings::{Environment, StoreSettings, StoreUrl};

use crate::control;

/// A holder that was killed keeps its lock until the system has torn it down, which on a loaded machine takes longer than
/// to start the next.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "{store} is served as host {host} already, by {holder}: stop that one first, or give this one a name of its own with --host-id"
    )]
    Held { store: String, host: String, holder: Holder },
    #[error("cannot lock {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Who holds a lock, as far as its file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder(Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    path: PathBuf,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // What nobody listens on any more is removed by the next, too.
        let _ = fs::remove_file(self.path.with_extension("api"));
    }
}

/// A fleet of this machine, as its lock tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    pub host: String,
    /// Its supervisor.
    pub pid: u32,
    /// Where it takes orders.
    pub socket: PathBuf,
}

/// The fleets of this user that serve the store on this machine now, each once.
#[must_use]
pub fn fleets(environment: &Environment, store: &StoreSettings) -> Vec<Fleet> {
    let prefix = identity(store, "").replace('\0', " ");
    let mut found: Vec<Fleet> = Vec::new();
    // Where a service of the system keeps its state, by the unit that we write.
    for dir in places(environment).chain([PathBuf::from("/var/lib/roundsman")]) {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "lock") {
                continue;
            }
            let Ok(mut file) = File::open(&path) else { continue };
            // Nobody holds it: what it says is about one that is gone.
            if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
                continue;
            }
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            let mut lines = text.lines();
            let pid = lines.next().and_then(|line| line.parse().ok());
            let host = lines.next().and_then(|line| line.strip_prefix(&prefix));
            if let (Some(pid), Some(host)) = (pid, host)
                && found.iter().all(|fleet| fleet.pid != pid)
            {
                found.push(Fleet { host: host.to_owned(), pid, socket: path.with_extension("sock") });
            }
        }
    }
    found.sort_unstable_by(|one, other| one.host.cmp(&other.host));
    found
}

impl Lock {
    /// Where this fleet takes orders, if a socket can have such a path.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        Some(self.path.with_extension("sock")).filter(|path| control::fits(path))
    }

    /// Where its API hands its socket on, the same.
    pub(crate) fn handover(&self) -> Option<PathBuf> {
        Some(self.path.with_extension("api")).filter(|path| control::fits(path))
    }

    /// Takes the lock for this store as this host.
    ///
    /// # Errors
    /// [`LockError::Held`] when another process has it.
    pub(crate) fn take(
        environment: &Environment,
        store: &StoreSettings,
        host: &str,
    ) -> Result<Self, LockError> {
        let name = format!("up-{:016x}.lock", fnv(&identity(store, host)));
        let mut failed = None;
        for dir in places(environment) {
            let path = dir.join(&name);
            match open(&path) {
                Ok(file) => return lock(file, path, store, host),
                Err(source) => failed = Some(LockError::Io { path, source }),
            }
        }
        Err(failed
            .unwrap_or_else(|| LockError::Io { path: name.into(), source: io::ErrorKind::NotFound.into() }))
    }
}

/// Where state is kept, else where a session keeps what ends with it, else where everyone may write.
fn places(environment: &Environment) -> impl Iterator<Item = PathBuf> {
    let runtime = environment.directory("XDG_RUNTIME_DIR").map(|dir| dir.join("roundsman"));
    let user = rustix::process::geteuid().as_raw();
    let temporary = std::env::temp_dir().join(format!("roundsman-{user}"));
    [environment.state_dir(), runtime, Some(temporary)].into_iter().flatten()
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let no_link = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(no_link).open(path)
}

fn lock(mut file: File, path: PathBuf, store: &StoreSettings, host: &str) -> Result<Lock, LockError> {
    match lock_within(&file, PATIENCE) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // It may be about to be written; then the holder is not named.
            let _ = file.read_to_string(&mut text);
            let holder = Holder(text.lines().next().and_then(|line| line.parse().ok()));
            return Err(LockError::Held { store: store.url.to_string(), host: host.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(LockError::Io { path, source }),
    }
    let text = format!("{}\n{}\n", std::process::id(), identity(store, host).replace('\0', " "));
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => Ok(Lock { _file: file, path }),
        Err(source) => Err(LockError::Io { path, source }),
    }
}

fn lock_within(file: &File, patience: Duration) -> Result<(), TryLockError> {
    let end = Mono::now() + patience;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Mono::now() < end => std::thread::sleep(LOOK),
            other => return other,
        }
    }
}

/// What must be served once only: the same for two ways to write one store.
fn identity(store: &StoreSettings, host: &str) -> String {
    let url = match &store.url {
        StoreUrl::Sqlite { path } => format!("sqlite:{}", real(path).display()),
        StoreUrl::Redis { url } => plain(&url.to_string()),
    };
    format!("{url}\0{}\0{host}", store.namespace)
}

/// The path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let by_folder = || Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?));
    fs::canonicalize(path).ok().or_else(by_folder).unwrap_or_else(|| path.to_owned())
}

/// A server's URL without user, password and options, and with the port and database that count by default.
fn plain(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or(url);
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    if scheme == "redis+unix" {
        return url.to_owned();
    }
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit('@').next().unwrap_or(authority).to_lowercase();
    // A colon within brackets is part of an IPv6 address.
    let has_port = host.rfind(':') > host.rfind(']');
    let port = if has_port { "" } else { ":6379" };
    let database = if database.is_empty() { "0" } else { database };
    format!("redis://{host}{port}/{database}")
}

/// FNV-1a: short, and the same in every build, which std's hash does not promise.
fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use roundsman_shared::settings::{LoadInput, Override, Settings};

    use super::*;

    fn store(dir: &Path, url: &str) -> StoreSettings {
        let input = LoadInput {
            environment: Environment::default(),
            system_file: "/none".into(),
            current_dir: dir.to_owned(),
            config: None,
            alone: false,
            files: None,
            overrides: vec![Override::text("--store", "store.url", url)],
            cores: 1,
        };
        Settings::load(&input).unwrap_or_else(|error| panic!("{error}")).settings.store
    }

    #[test]
    fn a_server_written_in_two_ways_is_one() {
        for url in ["redis://h", "redis://h:6379", "redis://:secret@H/0", "redis://u:p@h:6379/0?x=y"] {
            assert_eq!(plain(url), "redis://h:6379/0", "{url}");
        }
        assert_eq!(plain("rediss://[::1]"), "redis://[::1]:6379/0");
        assert_eq!(plain("redis://[::1]:7/2"), "redis://[::1]:7/2");
        assert_eq!(plain("redis+unix:///run/r.sock?db=1"), "redis+unix:///run/r.sock");
    }

    #[test]
    fn a_file_reached_by_a_link_is_one_and_a_second_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join("real")).unwrap();
        std::os::unix::fs::symlink(dir.join("real"), dir.join("link")).unwrap();
        let environment = Environment::from_iter([("STATE_DIRECTORY", dir.join("state").to_string_lossy())]);

        let held = Lock::take(&environment, &store(dir, "sqlite:real/a.db"), "h").unwrap();
        let error = Lock::take(&environment, &store(dir, "sqlite:link/a.db"), "h").unwrap_err();
        assert!(error.to_string().contains(&format!("by process {}:", std::process::id())), "{error}");
        for (url, host) in [("sqlite:real/a.db", "i"), ("sqlite:real/b.db", "h")] {
            Lock::take(&environment, &store(dir, url), host).unwrap();
        }
        drop(held);
        Lock::take(&environment, &store(dir, "sqlite:link/a.db"), "h").unwrap();
    }

    #[test]
    fn a_holder_that_is_about_to_be_gone_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("STATE_DIRECTORY", dir.path().to_string_lossy())]);
        let store = store(dir.path(), "sqlite:a.db");
        let held = Lock::take(&environment, &store, "h").unwrap();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| Lock::take(&environment, &store, "h"));
            // By then the other has met it, or comes to an open door; it must be let in either way.
            std::thread::sleep(LOOK * 5);
            drop(held);
            next.join().unwrap().unwrap();
        });
    }

    #[test]
    fn without_a_home_it_lies_in_the_session_and_no_secret_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment::from_iter([("XDG_RUNTIME_DIR", dir.path().to_string_lossy())]);
        let store = store(dir.path(), "redis://u:hunter2@a");
        let _held = Lock::take(&environment, &store, "h").unwrap();
        let path = fs::read_dir(dir.path().join("roundsman")).unwrap().next().unwrap().unwrap().path();
        let text = fs::read_to_string(path).unwrap();
        assert_eq!(text, format!("{}\nredis://a:6379/0 roundsman h\n", std::process::id()));
    }
}
