//! The board: which jobs a worker runs at this moment, written where its master can read it after the worker has died,
//! however it died. A small anonymous file that both hold; the worker writes one entry a slot.
//!
//! An entry is 512 bytes: two bytes of length (little endian), then `QUEUE ID TOKEN`. It is written with one call, so
//! that a reader after the writer's death finds either the old entry or the new one. (A worker killed in the middle of
//! the call leaves it to the kernel to finish.)

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use crate::names::{JobId, QueueName};

const ENTRY: u64 = 512;
/// The most slots that a worker may have.
pub const MAX_SLOTS: usize = 256;

/// A job on the board.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Posted {
    pub queue: QueueName,
    pub id: JobId,
    pub token: i64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Board(File);

impl Board {
    /// The master's side.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub fn create() -> io::Result<Self> {
        let file: OwnedFd = rustix::fs::memfd_create("roundsman-board", rustix::fs::MemfdFlags::CLOEXEC)?;
        Ok(Self(File::from(file)))
    }

    /// Where the worker finds it, as long as this process lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// The worker's side.
    ///
    /// # Errors
    /// When there is no board at this path.
    pub fn open(path: &str) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().read(true).write(true).open(path)?))
    }

    /// Posts what a slot runs, or that it runs nothing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn post(&self, slot: usize, job: Option<(&QueueName, &JobId, i64)>) -> io::Result<()> {
        let mut entry = vec![0, 0];
        if let Some((queue, id, token)) = job {
            entry.extend_from_slice(format!("{queue} {id} {token}").as_bytes());
            let length = u16::try_from(entry.len() - 2).unwrap_or(0);
            entry[..2].copy_from_slice(&length.to_le_bytes());
        }
        self.0.write_all_at(&entry, slot as u64 * ENTRY)
    }

    /// Reads every slot.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> io::Result<Vec<Posted>> {
        let mut posted = Vec::new();
        let mut entry = [0; ENTRY as usize];
        for slot in 0..MAX_SLOTS {
            let read = self.0.read_at(&mut entry, slot as u64 * ENTRY)?;
            if read < 2 {
                break;
            }
            let length = usize::from(u16::from_le_bytes([entry[0], entry[1]]));
            let text = entry.get(2..2 + length).and_then(|bytes| std::str::from_utf8(bytes).ok());
            posted.extend(text.and_then(parse));
        }
        Ok(posted)
    }
}

fn parse(text: &str) -> Option<Posted> {
    let mut parts = text.split(' ');
    Some(Posted {
        queue: QueueName::new(parts.next()?).ok()?,
        id: JobId::new(parts.next()?).ok()?,
        token: parts.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_posts_the_other_reads() {
        let masters = Board::create().unwrap();
        let workers = Board::open(&masters.path()).unwrap();
        let (queue, id) = (QueueName::new(&"q".repeat(64)).unwrap(), JobId::new(&"i".repeat(128)).unwrap());
        workers.post(0, Some((&queue, &id, i64::MAX))).unwrap();
        workers.post(2, Some((&queue, &id, 5))).unwrap();
        let tokens =
            |board: &Board| board.read().unwrap().iter().map(|posted| posted.token).collect::<Vec<_>>();
        assert_eq!(tokens(&masters), [i64::MAX, 5]);
        workers.post(0, None).unwrap();
        assert_eq!(tokens(&masters), [5]);
    }
}
