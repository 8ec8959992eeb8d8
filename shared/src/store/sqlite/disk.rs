//! Room on the disk. Enqueues are refused while there is still room for acknowledgements, and a ballast file is given
//! up when there is none.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use crate::clock::Mono;

const MIB: u64 = 1 << 20;
/// How long a look at the file system is trusted.
const TRUSTED: Duration = Duration::from_millis(100);
const BALLAST_TRIED: Duration = Duration::from_secs(1);

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Enough,
    /// Enqueues are refused.
    Low,
    /// And what ended well is not kept.
    Tight,
}

/// Free bytes, by the file system's size: the last fifth is kept for acknowledgements, but on a large disk 256 MiB are
/// enough.
const fn limit(size: u64) -> u64 {
    let fifth = size / 5;
    if fifth < 256 * MIB { fifth } else { 256 * MIB }
}

fn judge(size: u64, free: u64, reusable: u64) -> Room {
    let limit = limit(size);
    if free + reusable < limit / 2 {
        Room::Tight
    } else if free + reusable < limit || free < limit / 8 {
        Room::Low
    } else {
        Room::Enough
    }
}

/// Whether the file lies in memory.
pub(super) fn is_memory(file: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        /// `TMPFS_MAGIC` and `RAMFS_MAGIC`
        const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the magic has 32 bits")]
        rustix::fs::statfs(file).is_ok_and(|found| IN_MEMORY.contains(&(found.f_type as u32)))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        false
    }
}

#[derive(Debug)]
pub(super) struct Disk {
    file: PathBuf,
    ballast: PathBuf,
    size: u64,
    free: u64,
    room: Room,
    looked: Option<Mono>,
    /// Bytes stored since.
    stored: u64,
    ballast_tried: Option<Mono>,
    /// Somebody was told that the disk is full.
    full: bool,
}

impl Disk {
    pub(super) fn new(file: &Path) -> Self {
        let mut ballast = OsString::from(file);
        ballast.push("-reserve");
        let mut disk = Self {
            file: file.to_owned(),
            ballast: ballast.into(),
            size: 0,
            free: 0,
            room: Room::Enough,
            looked: None,
            stored: 0,
            ballast_tried: None,
            full: false,
        };
        disk.stat();
        disk
    }

    fn stat(&mut self) {
        if let Ok(found) = rustix::fs::statvfs(&self.file) {
            self.size = found.f_blocks.saturating_mul(found.f_frsize);
            self.free = found.f_bavail.saturating_mul(found.f_frsize);
        }
    }

    /// The WAL is copied into the file when it has so many bytes.
    pub(super) fn wal_bytes(&self) -> u64 {
        (self.size / 64).clamp(256 * 1024, 16 * MIB)
    }

    pub(super) const fn room(&self) -> Room {
        self.room
    }

    /// Looks, if the last look is old or much has been stored since.
    pub(super) fn look(&mut self, conn: &Connection, bytes: u64) -> Room {
        self.stored += bytes;
        let now = Mono::now();
        let trusted = self.looked.is_some_and(|then| now.since(then) < TRUSTED);
        if trusted && self.stored < limit(self.size) / 8 {
            return self.room;
        }
        self.looked = Some(now);
        self.stored = bytes;
        self.stat();
        let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap_or(0);
        let reusable = u64::try_from(pragma("freelist_count") * pragma("page_size")).unwrap_or(0);
        self.room = judge(self.size, self.free, reusable);
        self.full &= self.room != Room::Enough;
        self.keep_ballast(now);
        self.room
    }

    fn ballast_bytes(&self) -> u64 {
        (self.size / 20).min(16 * MIB)
    }

    /// Makes the ballast where there is room for it.
    fn keep_ballast(&mut self, now: Mono) {
        if self.ballast_tried.is_some_and(|then| now.since(then) < BALLAST_TRIED) {
            return;
        }
        self.ballast_tried = Some(now);
        let wanted = self.ballast_bytes();
        let there = std::fs::metadata(&self.ballast).map_or(0, |found| found.len());
        if there >= wanted || self.free < limit(self.size) + wanted {
            return;
        }
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.ballast)
            .and_then(|mut file| {
                // Written, not only allocated: it must hold its blocks on every file system.
                let block = vec![0x52; usize::try_from(wanted.min(MIB)).unwrap_or(0)];
                let mut left = wanted;
                while left > 0 {
                    let piece = left.min(block.len() as u64);
                    file.write_all(&block[..usize::try_from(piece).unwrap_or(0)])?;
                    left -= piece;
                }
                Ok(())
            });
        if let Err(error) = made {
            tracing::warn!(file = %self.ballast.display(), %error, "no room could be set aside");
        }
    }

    /// Gives the ballast up: the disk is full.
    pub(super) fn give_up_ballast(&mut self) {
        if !self.full {
            self.full = true;
            tracing::error!(file = %self.file.display(), "the disk is full: acknowledgements go on from the reserve");
        }
        self.room = Room::Tight;
        self.looked = Some(Mono::now());
        if let Ok(file) = OpenOptions::new().write(true).open(&self.ballast) {
            let _ = file.set_len(0);
        }
    }

    /// What a refused enqueue is told.
    pub(super) fn refusal(&self) -> String {
        format!(
            "{} has {} MiB free of {} MiB; the last {} MiB are kept for acknowledgements",
            self.file.parent().unwrap_or(&self.file).display(),
            self.free / MIB,
            self.size / MIB,
            limit(self.size).div_ceil(MIB)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_disk_is_not_low_at_85_percent() {
        assert_eq!(judge(700_000 * MIB, 100_000 * MIB, 0), Room::Enough);
        assert_eq!(judge(700_000 * MIB, 200 * MIB, 0), Room::Low);
        assert_eq!(judge(700_000 * MIB, 20 * MIB, 300 * MIB), Room::Low);
        assert_eq!(judge(700_000 * MIB, 20 * MIB, 0), Room::Tight);
    }

    #[test]
    fn a_small_one_keeps_a_fifth() {
        assert_eq!(judge(10 * MIB, 2 * MIB, 0), Room::Enough);
        assert_eq!(judge(10 * MIB, 2 * MIB - 1, 0), Room::Low);
        assert_eq!(judge(10 * MIB, MIB - 1, MIB), Room::Low);
        assert_eq!(judge(10 * MIB, MIB, MIB), Room::Enough, "pages that the file can use again count");
        assert_eq!(judge(10 * MIB, MIB / 2, 0), Room::Tight);
    }
}
