//! A child's ends of the pipe to its parent. One thread reads, one writes; nothing else touches it.
//!
//! The first thing a child does is to move descriptors 0 and 1 away: what a handler or a grandchild prints goes to
//! standard error, and none of them can write into the pipe or hold it open.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use crate::protocol::{self, FromChild, Lines, MAX_LINE_DOWN, MAX_LINE_UP, ToChild};
use tokio::sync::mpsc;

/// Lines that may wait to be written. Beats that find no room are dropped: the next one says more.
const OUTGOING: usize = 256;
/// Messages that may wait to be read.
const INCOMING: usize = 256;

const LAST_WORDS: Duration = Duration::from_millis(500);

/// What comes from the parent.
#[derive(Debug)]
pub enum Incoming {
    Message(ToChild),
    Malformed(String),
    /// The parent is gone.
    Closed,
}

/// The way to the parent.
#[derive(Debug)]
pub struct Outgoing {
    sender: SyncSender<FromChild>,
    written: std::sync::mpsc::Receiver<()>,
}

impl Outgoing {
    /// Sends, unless the pipe is full: then the message is dropped.
    pub fn send(&self, message: FromChild) {
        match self.sender.try_send(message) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Sends the last message and waits a moment until all is written.
    pub fn close(self, last: FromChild) {
        self.send(last);
        let Self { sender, written } = self;
        drop(sender);
        // Ends when the writing thread does, or when the parent reads no more.
        let _ = written.recv_timeout(LAST_WORDS);
    }
}

/// Takes the descriptors 0 and 1 for the pipe, and leaves `/dev/null` and standard error in their places.
fn take_descriptors() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let reader = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let writer = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok((reader, writer))
}

/// Opens both ends.
///
/// # Errors
/// When the descriptors cannot be moved or the threads not be started.
pub fn open() -> std::io::Result<(Outgoing, mpsc::Receiver<Incoming>)> {
    let (reader, writer) = take_descriptors()?;
    let (sender, receiver) = sync_channel::<FromChild>(OUTGOING);
    let (done, written) = sync_channel::<()>(1);
    let mut writer = File::from(writer);
    std::thread::Builder::new().name("pipe-out".to_owned()).spawn(move || {
        let _done = done;
        for message in receiver {
            let line = protocol::encode(&message);
            if line.len() > MAX_LINE_UP {
                continue;
            }
            // A closed pipe is noticed by the reader.
            if writer.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    })?;
    let (incoming, messages) = mpsc::channel(INCOMING);
    let mut reader = File::from(reader);
    std::thread::Builder::new().name("pipe-in".to_owned()).spawn(move || {
        let mut lines = Lines::new(MAX_LINE_DOWN);
        let mut buffer = vec![0; 8192];
        loop {
            let read = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let mut all = Vec::new();
            lines.push(&buffer[..read], |line| match line.and_then(protocol::decode::<ToChild>) {
                Ok(Some(message)) => all.push(Incoming::Message(message)),
                Ok(None) => {}
                Err(error) => all.push(Incoming::Malformed(error.to_string())),
            });
            for message in all {
                if incoming.blocking_send(message).is_err() {
                    return;
                }
            }
        }
        let _ = incoming.blocking_send(Incoming::Closed);
    })?;
    Ok((Outgoing { sender, written }, messages))
}
