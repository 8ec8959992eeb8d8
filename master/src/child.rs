//! A running child: its pipes, its signals, its exit. Three facts that come in any order are kept apart: what it says,
//! that it has ended, and that nobody holds its pipes any more.
//!
//! Its exit is known by its pidfd. Then the rest of its group is killed, it is reaped, and what it has left behind is
//! ended, in this order: until the reaping its pid, and so its group's, cannot belong to anybody else.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::protocol::{FromChild, Lines, MAX_LINE_UP, ToChild, decode, encode};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::event::{Event, Key};
use crate::slot::{self, Deadly, Exit};
use crate::spawn::{Spawner, Started};
use crate::stderr::{self, Sink, Tail};

/// Lines that may wait for a child to read its pipe.
const WAITING_LINES: usize = 8;
/// A child that does not read for so long is hung.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// What was written to a pipe at once arrives at once.
const ATOMIC: usize = 4096;
const READ: usize = 4096;
/// Lines a second that are too many, and for how many seconds in a row.
const NOISY_LINES: u32 = 200;
const NOISY_SECONDS: u32 = 5;
/// Lines a second of a child that is out of control.
const MAD_LINES: u32 = 2000;
/// So many lines that are no messages within [`GARBLED_WITHIN`] are too many.
const GARBLED_LINES: u32 = 20;
const GARBLED_WITHIN: Duration = Duration::from_secs(60);
/// What is still in the pipes of a dead child is waited for so long before its jobs are released.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// Its pipes are closed so long after its end, whoever holds the other ends.
const DRAIN: Duration = Duration::from_secs(1);

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    #[cfg(target_os = "linux")]
    pidfd: Arc<OwnedFd>,
    reaped: Arc<AtomicBool>,
    out: Writer,
}

#[derive(Debug)]
struct Writer {
    pipe: Arc<pipe::Sender>,
    queue: mpsc::Sender<String>,
    /// Lines in the queue or being written.
    waiting: Arc<AtomicUsize>,
}

/// What a child needs of the master.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub events: mpsc::Sender<Event>,
    pub spawner: Spawner,
    pub sink: Sink,
}

impl Child {
    /// Takes charge of a process that was started.
    ///
    /// # Errors
    /// When its pipes cannot be watched.
    pub(crate) fn attend(started: Started, key: &Key, nonce: u64, around: &Surroundings) -> io::Result<Self> {
        let stdout = pipe::Receiver::from_owned_fd(started.stdout)?;
        let stderr = pipe::Receiver::from_owned_fd(started.stderr)?;
        let stdin = Arc::new(pipe::Sender::from_owned_fd(started.stdin)?);
        let tail = Tail::default();
        let reader = tokio::spawn(listen(stdout, key.clone(), nonce, around.events.clone()));
        let logger = tokio::spawn(stderr::forward(stderr, key.label(), around.sink.clone(), tail.clone()));
        let (queue, lines) = mpsc::channel(WAITING_LINES);
        let waiting = Arc::new(AtomicUsize::new(0));
        tokio::spawn(write(stdin.clone(), lines, waiting.clone(), key.clone(), around.events.clone()));
        let reaped = Arc::new(AtomicBool::new(false));
        let child = Self {
            pid: started.pid,
            #[cfg(target_os = "linux")]
            pidfd: Arc::new(started.pidfd),
            reaped: reaped.clone(),
            out: Writer { pipe: stdin, queue, waiting },
        };
        #[cfg(target_os = "linux")]
        let exit = Watch(crate::watch::for_reading(child.pidfd.try_clone()?)?);
        #[cfg(not(target_os = "linux"))]
        let exit = Watch(started.pid);
        let (pid, key, around) = (started.pid, key.clone(), around.clone());
        tokio::spawn(async move {
            exit.ended().await;
            let _ = around.events.send(Event::of(&key, slot::Event::Gone)).await;
            let exit = finish(pid, &reaped);
            let _ = around.spawner.sweep(pid).await;
            let mut readers = tokio::spawn(async move {
                let handles = (reader.abort_handle(), logger.abort_handle());
                let both = async { (reader.await, logger.await) };
                if tokio::time::timeout(DRAIN, both).await.is_err() {
                    handles.0.abort();
                    handles.1.abort();
                }
            });
            let _ = tokio::time::timeout(LAST_WORDS, &mut readers).await;
            let _ = around.events.send(Event::Reaped { key, exit, tail: tail.text() }).await;
        });
        Ok(child)
    }

    #[must_use]
    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(self.pid.as_raw_nonzero().get()).unwrap_or(0)
    }

    /// Sends a message; false when it does not read its pipe.
    #[must_use]
    pub(crate) fn send(&self, message: &ToChild) -> bool {
        let line = encode(message);
        // The usual way is the short one: straight into the pipe.
        if self.out.waiting.load(Ordering::Relaxed) == 0 && line.len() <= ATOMIC {
            match self.out.pipe.try_write(line.as_bytes()) {
                Ok(_) => return true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It has closed its pipe: its exit, or its silence, will tell.
                Err(_) => return true,
            }
        }
        self.out.waiting.fetch_add(1, Ordering::Relaxed);
        let put = self.out.queue.try_send(line).is_ok();
        if !put {
            self.out.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        put
    }

    /// Signals the process or its group, unless it has been reaped: then its pid may be somebody else's.
    pub(crate) fn signal(&self, group: bool, signal: Deadly) {
        let signal = match signal {
            Deadly::Term => Signal::TERM,
            Deadly::Cont => Signal::CONT,
            Deadly::Abort => Signal::ABORT,
            Deadly::Kill => Signal::KILL,
        };
        // The reaping runs on this same thread, and nothing between here and the signal yields to it.
        if self.reaped.load(Ordering::Acquire) {
            return;
        }
        let _ = if group {
            rustix::process::kill_process_group(self.pid, signal)
        } else {
            #[cfg(target_os = "linux")]
            let sent = rustix::process::pidfd_send_signal(self.pidfd.as_fd(), signal);
            #[cfg(not(target_os = "linux"))]
            let sent = rustix::process::kill_process(self.pid, signal);
            sent
        };
    }
}

#[cfg(target_os = "linux")]
struct Watch(tokio::io::unix::AsyncFd<OwnedFd>);
#[cfg(not(target_os = "linux"))]
struct Watch(Pid);

impl Watch {
    #[cfg(target_os = "linux")]
    async fn ended(&self) {
        let _ = self.0.readable().await;
    }

    #[cfg(not(target_os = "linux"))]
    async fn ended(&self) {
        let pid = self.0;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let _ = tokio::task::spawn_blocking(move || rustix::process::waitid(WaitId::Pid(pid), options)).await;
    }
}

/// Ends the rest of the group, then reaps.
fn finish(pid: Pid, reaped: &AtomicBool) -> Exit {
    let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    let status = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
    reaped.store(true, Ordering::Release);
    match status {
        Ok(Some(status)) => status
            .exit_status()
            .map(Exit::Code)
            .or_else(|| status.terminating_signal().map(Exit::Signal))
            .unwrap_or(Exit::Code(-1)),
        Ok(None) | Err(_) => Exit::Code(-1),
    }
}

async fn write(
    pipe: Arc<pipe::Sender>,
    mut lines: mpsc::Receiver<String>,
    waiting: Arc<AtomicUsize>,
    key: Key,
    events: mpsc::Sender<Event>,
) {
    while let Some(line) = lines.recv().await {
        match tokio::time::timeout(WRITE_TIMEOUT, write_all(&pipe, line.as_bytes())).await {
            Ok(Ok(())) => {
                waiting.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(Err(_)) => return,
            Err(_) => {
                let hung = slot::Event::Hung { why: "it does not read its pipe" };
                let _ = events.send(Event::of(&key, hung)).await;
                return;
            }
        }
    }
}

async fn write_all(pipe: &pipe::Sender, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        pipe.writable().await?;
        match pipe.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what a child says until the end of the pipe.
async fn listen(pipe: pipe::Receiver, key: Key, nonce: u64, events: mpsc::Sender<Event>) {
    let mut lines = Lines::new(MAX_LINE_UP);
    let mut meter = Meter::new(Mono::now());
    let mut buffer = vec![0; READ];
    loop {
        if pipe.readable().await.is_err() {
            return;
        }
        let read = match pipe.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let now = Mono::now();
        let mut heard: Vec<FromChild> = Vec::new();
        let mut trouble = None;
        lines.push(buffer.get(..read).unwrap_or_default(), |line| {
            let message = line.and_then(decode::<FromChild>);
            if let Some(told) = meter.line(now, message.is_err()) {
                trouble = Some(told);
            }
            match message {
                Ok(Some(FromChild::Hello { nonce: other, .. })) if other != nonce => {
                    trouble =
                        Some(slot::Event::Hung { why: "it said hello with another nonce than its own" });
                }
                // Of several beats the last says all that is true.
                Ok(Some(beat @ FromChild::Hb(_))) if matches!(heard.last(), Some(FromChild::Hb(_))) => {
                    heard.pop();
                    heard.push(beat);
                }
                Ok(Some(message)) => heard.push(message),
                Ok(None) | Err(_) => {}
            }
        });
        let all = heard.into_iter().map(slot::Event::Line).chain(trouble);
        for event in all {
            if events.send(Event::of(&key, event)).await.is_err() {
                return;
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Counts lines, and those that were no messages.
struct Meter {
    second: Mono,
    lines: u32,
    noisy: u32,
    garbled_since: Mono,
    garbled: u32,
}

impl Meter {
    const fn new(now: Mono) -> Self {
        Self { second: now, lines: 0, noisy: 0, garbled_since: now, garbled: 0 }
    }

    fn line(&mut self, now: Mono, garbled: bool) -> Option<slot::Event> {
        if garbled {
            if now.since(self.garbled_since) > GARBLED_WITHIN {
                (self.garbled_since, self.garbled) = (now, 0);
            }
            self.garbled += 1;
            if self.garbled == GARBLED_LINES {
                return Some(slot::Event::Garbled);
            }
        }
        if now.since(self.second) >= Duration::from_secs(1) {
            self.noisy = if self.lines > NOISY_LINES { self.noisy + 1 } else { 0 };
            (self.second, self.lines) = (now, 0);
        }
        self.lines += 1;
        if self.lines == MAD_LINES {
            return Some(slot::Event::Hung { why: "it floods its pipe" });
        }
        (self.noisy >= NOISY_SECONDS && self.lines == 1).then_some(slot::Event::Noisy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn floods_and_nonsense_are_told() {
        let mut meter = Meter::new(at(0));
        let told: Vec<_> = (0..MAD_LINES).filter_map(|_| meter.line(at(1), false)).collect();
        assert!(matches!(told[..], [slot::Event::Hung { .. }]));

        let mut meter = Meter::new(at(0));
        let mut told = Vec::new();
        for ms in 0..7000 {
            told.extend((ms % 4 == 0).then(|| meter.line(at(ms), false)).flatten());
        }
        assert!(matches!(told[..], [slot::Event::Noisy, slot::Event::Noisy]), "{told:?}");

        let mut meter = Meter::new(at(0));
        let told: Vec<_> = (0..40).filter_map(|n| meter.line(at(n * 1000), true)).collect();
        assert!(matches!(told[..], [slot::Event::Garbled]));
        assert!((0..10).all(|n| meter.line(at(n * 20_000), true).is_none()));
    }
}
