//! Opening the file: whether it can be trusted, its settings, its schema.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use rustix::fs::Access;
use rustix::io::Errno;

use super::disk::Disk;
use super::fault::{Fault, Remedy};
use crate::clock::Mono;
use crate::store::StoreError;

/// Before it, two connections that checkpoint and commit at once can lose commits (the WAL-reset race).
const OLDEST_SQLITE: i32 = 3_051_003;
const SCHEMA: &str = include_str!("schema.sql");
const ADDED: &str = include_str!("added.sql");
const SCHEMA_VERSION: i64 = 1;
/// `RNDS`: what `file` and we know the file by.
const APPLICATION_ID: i64 = 0x524e_4453;
/// Bytes of a page. Measured: a drain costs a tenth less processor than with 4096, and no less with 16384.
pub(super) const PAGE: u64 = 8192;
/// Pages that the writer keeps in memory.
const WRITER_CACHE_KIB: u32 = 4096;
/// How long the write lock is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// File systems on which locks and shared memory do not reach other hosts or cannot be relied on, by `statfs` magic.
#[cfg(target_os = "linux")]
const NETWORK: [(u32, &str); 12] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x7375_7245, "Coda"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x7461_636f, "OCFS2"),
];
#[cfg(target_os = "linux")]
const FUSE: u32 = 0x6573_5546;

/// In one process, nothing may open and close the file beside SQLite while SQLite holds locks on it: closing any
/// descriptor drops them all. So the file is made under this lock, and otherwise only looked at by its path.
static MAKING: Mutex<()> = Mutex::new(());

/// Which file it is, to notice when another one takes its place: a number alone is soon used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    number: u64,
    born: Option<std::time::SystemTime>,
}

pub(super) fn identity(file: &Path) -> Option<Identity> {
    let found = fs::metadata(file).ok()?;
    Some(Identity { device: found.dev(), number: found.ino(), born: found.created().ok() })
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    name.into()
}

/// Checks the place, and makes an empty file with the right mode if there is none. Answers its canonical path.
pub(super) fn prepare(path: &Path) -> Result<PathBuf, StoreError> {
    let version = rusqlite::version_number();
    if version < OLDEST_SQLITE {
        return Err(StoreError::Unfit(format!(
            "SQLite {} can lose commits when several processes write; 3.51.3 is the oldest that will do",
            rusqlite::version()
        )));
    }
    let unfit = |error: &dyn std::fmt::Display| StoreError::Unfit(format!("{}: {error}", path.display()));
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => denied(path, "reach or make"),
        _ => unfit(&error),
    };
    let name = path.file_name().ok_or_else(|| unfit(&"it names no file"))?;
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    let parent = parent.canonicalize().map_err(failed)?;
    check_file_system(&parent)?;
    let mut file = parent.join(name);
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Ok(there) = file.canonicalize() {
        file = there;
    }
    let length = match fs::metadata(&file) {
        Ok(found) if !found.is_file() => return Err(unfit(&"it is no file")),
        Ok(found) => {
            if found.permissions().mode() & 0o077 != 0 {
                tracing::warn!(file = %file.display(), "others may read or write the job store");
            }
            Some(found.len())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    // SQLite would take an empty file for a new database and throw the log away.
    let log = beside(&file, "-wal");
    if length.unwrap_or(0) == 0 && fs::metadata(&log).is_ok_and(|found| found.len() > 0) {
        let why = if length.is_none() { "is missing" } else { "is empty" };
        return Err(StoreError::Unfit(format!(
            "{} {why}, but its log {} is there: put the file back, or move the log away to start anew",
            file.display(),
            log.display()
        )));
    }
    if length.is_none() {
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
        match made {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(file)
}

/// What this user may not do, and how it may.
fn denied(path: &Path, what: &str) -> StoreError {
    let user = rustix::process::geteuid().as_raw();
    StoreError::Unfit(format!(
        "user {user} may not {what} {}: run as the user whom it belongs to, or give it to user {user} (chown, chmod)",
        path.display()
    ))
}

/// Whether this user may read and write the file and what SQLite keeps beside it. SQLite itself says only that it
/// cannot open the file, as it does when a disk fails, or opens what it may not write for reading.
fn permitted(file: &Path) -> Result<(), StoreError> {
    let both = Access::READ_OK | Access::WRITE_OK;
    for part in [file, &beside(file, "-wal"), &beside(file, "-shm")] {
        match rustix::fs::access(part, both) {
            Err(Errno::ACCESS | Errno::PERM) => return Err(denied(part, "read and write")),
            Err(Errno::ROFS) => return Err(read_only(part)),
            // What is not there is made, or missed later.
            Ok(()) | Err(_) => {}
        }
    }
    let Some(folder) = file.parent() else { return Ok(()) };
    match rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK) {
        Err(Errno::ACCESS | Errno::PERM) => Err(denied(folder, "make files in")),
        Err(Errno::ROFS) => Err(read_only(folder)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn read_only(path: &Path) -> StoreError {
    StoreError::Unfit(format!(
        "{} is on a file system that is mounted read-only: mount it for writing, or keep the file elsewhere",
        path.display()
    ))
}

#[cfg(target_os = "linux")]
fn check_file_system(dir: &Path) -> Result<(), StoreError> {
    let Ok(found) = rustix::fs::statfs(dir) else { return Ok(()) };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the magic has 32 bits")]
    let magic = found.f_type as u32;
    let refuse = |name: &str| {
        Err(StoreError::Unfit(format!(
            "{} is on a network file system ({name}), where SQLite loses data; use a local disk, or Redis",
            dir.display()
        )))
    };
    if let Some((_, name)) = NETWORK.iter().find(|(known, _)| *known == magic) {
        return refuse(name);
    }
    if magic == FUSE {
        // Many local ones are FUSE as well; the mount table names the kind.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if let Some(kind) = mount_kind(&mounts, dir).filter(|kind| is_remote_fuse(kind)) {
            return refuse(kind);
        }
        tracing::warn!(dir = %dir.display(), "the job store is on a FUSE file system, which must keep locks and shared memory");
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn check_file_system(dir: &Path) -> Result<(), StoreError> {
    /// `MNT_LOCAL`
    const LOCAL: u32 = 0x1000;
    match rustix::fs::statfs(dir) {
        Ok(found) if found.f_flags & LOCAL == 0 => Err(StoreError::Unfit(format!(
            "{} is on a network file system, where SQLite loses data",
            dir.display()
        ))),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The type of the mount that holds `dir`, from the text of `mountinfo`.
#[cfg(target_os = "linux")]
fn mount_kind<'m>(mounts: &'m str, dir: &Path) -> Option<&'m str> {
    let entries = mounts.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        Some((left.split(' ').nth(4)?, right.split(' ').next()?))
    });
    entries
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind)
}

#[cfg(target_os = "linux")]
fn is_remote_fuse(kind: &str) -> bool {
    [
        "sshfs",
        "s3",
        "rclone",
        "gcs",
        "gluster",
        "ceph",
        "davfs",
        "curlftpfs",
        "blob",
        "goofys",
        "juicefs",
        "smb",
        "nfs",
    ]
    .iter()
    .any(|remote| kind.contains(remote))
}

/// How long a connection waits for a lock.
#[derive(Debug, Clone)]
pub(super) struct Patience(Arc<AtomicU64>);

impl Default for Patience {
    fn default() -> Self {
        let patience = Self(Arc::default());
        patience.reset();
        patience
    }
}

impl Patience {
    pub(super) fn set(&self, span: Duration) {
        self.0.store(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn reset(&self) {
        self.set(PATIENCE);
    }

    fn is_over(&self, since: Mono) -> bool {
        Mono::now().since(since) > Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Bytes of the log beside the file.
pub(super) fn log_bytes(file: &Path) -> u64 {
    fs::metadata(beside(file, "-wal")).map_or(0, |found| found.len())
}

/// Opens a connection with the settings that all of them share.
pub(super) fn connect(file: &Path, cache_kib: u32, patience: &Patience) -> Result<Connection, Fault> {
    // No CREATE: a file that has gone must not come back empty.
    let mut conn = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    let (patience, mut since) = (patience.clone(), Mono::default());
    let mut dice = u64::from(std::process::id()) ^ Mono::now().as_nanos();
    // The stock handler backs off to 100 ms; transactions here last 1 to 5.
    conn.busy_handler(Some(move |tries: i32| {
        if tries == 0 {
            since = Mono::now();
        } else if patience.is_over(since) {
            return false;
        }
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let most = 100 * u64::try_from(tries.clamp(1, 20)).unwrap_or(1);
        std::thread::sleep(Duration::from_micros(100 + (dice >> 33) % most));
        true
    }))?;
    conn.set_prepared_statement_cache_capacity(128);
    // One plan a statement: otherwise statements are prepared again as their bound values change.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.execute_batch(&format!(
        "PRAGMA page_size = {PAGE}; PRAGMA cache_size = -{cache_kib}; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;
         PRAGMA foreign_keys = OFF;"
    ))?;
    Ok(conn)
}

/// Opens the connection that writes, and brings the schema up to date.
pub(super) fn connect_writer(
    file: &Path,
    patience: &Patience,
    disk: &Disk,
) -> Result<Connection, StoreError> {
    let broken = |fault: Fault| match fault.remedy() {
        Remedy::None => StoreError::Unfit(format!("{}: {}", file.display(), fault.into_store())),
        Remedy::Busy | Remedy::Full | Remedy::Reopen => fault.into_store(),
    };
    permitted(file)?;
    let mut conn = connect(file, WRITER_CACHE_KIB, patience).map_err(broken)?;
    let began = Mono::now();
    // Changing to WAL takes a lock for which the busy handler is not always asked.
    while let Err(fault) = wal(&conn) {
        if fault.remedy() != Remedy::Busy || Mono::now().since(began) > PATIENCE {
            return Err(broken(fault));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    migrate(&mut conn).map_err(broken)??;
    let bytes = disk.wal_bytes();
    let pages = bytes / PAGE;
    conn.execute_batch(&format!("PRAGMA journal_size_limit = {bytes}; PRAGMA wal_autocheckpoint = {pages};"))
        .map_err(|error| broken(error.into()))?;
    Ok(conn)
}

fn wal(conn: &Connection) -> Result<(), Fault> {
    let mode: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode == "wal" {
        Ok(())
    } else {
        Err(Fault::Unreadable(format!("it cannot be put into WAL mode, only {mode}")))
    }
}

fn migrate(conn: &mut Connection) -> Result<Result<(), StoreError>, Fault> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let pragma = |name| tx.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (version, application) = (pragma("user_version")?, pragma("application_id")?);
    let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 && application != APPLICATION_ID {
        return Ok(Err(StoreError::Unfit("the file is a SQLite database of another program".to_owned())));
    }
    if version > SCHEMA_VERSION {
        return Ok(Err(StoreError::Unfit(format!(
            "the file was written by a newer Roundsman (schema {version}; this one reads up to {SCHEMA_VERSION})"
        ))));
    }
    if version == 0 {
        tx.execute_batch(SCHEMA)?;
        tx.execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
        ))?;
    }
    tx.execute_batch(ADDED)?;
    tx.commit()?;
    Ok(Ok(()))
}

/// Who holds the write lock, if the system tells.
pub(super) fn lock_holder(file: &Path) -> Option<String> {
    /// Where SQLite's WAL write lock lies in the `-shm` file.
    const WRITE_LOCK: &str = "120";
    // Read from /proc: to open the file here would drop our own locks.
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let node = fs::metadata(beside(file, "-shm")).ok()?.ino().to_string();
    let pid = locks.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, "POSIX" | "OFDLCK", _, "WRITE", pid, place, from, to] = words[..] else { return None };
        (place.rsplit(':').next() == Some(&node) && from <= WRITE_LOCK && to == WRITE_LOCK)
            .then(|| pid.to_owned())
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::testing::*;

    async fn refused(path: &Path) -> String {
        match try_open(path).await {
            Err(StoreError::Unfit(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn only_our_own_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/er/jobs.db");
        drop(try_open(&file).await.unwrap());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().mode() & 0o777, 0o700);

        let text = dir.path().join("text.db");
        fs::write(&text, "not a database, but long enough to look like one: ".repeat(100)).unwrap();
        assert!(refused(&text).await.contains("not a database"));
        assert!(fs::read_to_string(&text).unwrap().starts_with("not a database"));

        let foreign = dir.path().join("foreign.db");
        Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(refused(&foreign).await.contains("another program"));

        Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(refused(&file).await.contains("newer"));
        assert!(refused(dir.path()).await.contains("no file"));

        let orphan = dir.path().join("orphan.db");
        fs::write(beside(&orphan, "-wal"), "x").unwrap();
        assert!(refused(&orphan).await.contains("is missing"));
        assert!(!orphan.exists());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn mounts_are_told_apart() {
        let table = "21 1 8:1 / / rw - ext4 /dev/sda rw\n22 21 0:5 / /mnt/far rw - fuse.sshfs me@far: rw\n";
        assert_eq!(mount_kind(table, Path::new("/mnt/far/x")), Some("fuse.sshfs"));
        assert_eq!(mount_kind(table, Path::new("/mnt/farther")), Some("ext4"));
        assert!(is_remote_fuse("fuse.sshfs") && !is_remote_fuse("fuseblk"));
    }
}
