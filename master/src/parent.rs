//! The pipe to the supervisor: the same protocol as with workers, from the child's side.
//!
//! The two ends are first moved to private descriptors, and 0 and 1 pointed elsewhere, so that nothing that prints by
//! mistake, here or in a child, can write into the pipe or hold it. A thread each reads and writes: the pipe is
//! inherited, so that its mode is not ours to change, and a supervisor that does not read must not stall the loop.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::launch;
use roundsman_shared::protocol::{self, FromChild, Lines, MAX_LINE_DOWN, ToChild, decode, encode};
use roundsman_shared::settings::Environment;
use tokio::sync::mpsc;

/// Lines that wait for the supervisor to read. Beats repeat what is true, so that dropped ones do no harm.
const WAITING: usize = 16;
const READ: usize = 4096;
/// Descriptors below are the standard ones.
const FIRST_PRIVATE: i32 = 3;
/// For the last line to be taken by a pipe that was full.
const LAST_WORD: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Parent {
    out: SyncSender<String>,
    writer: JoinHandle<()>,
    /// Ends at the end of the pipe.
    pub lines: mpsc::Receiver<ToChild>,
    /// Whose child this process is to be.
    pid: Option<u32>,
}

impl Parent {
    /// Takes the pipes over and says `hello`. Before the runtime.
    ///
    /// # Errors
    /// When the descriptors cannot be moved.
    pub(crate) fn take(environment: &Environment) -> io::Result<Self> {
        let (input, output) = take_pipes()?;
        let (out, inbox) = sync_channel::<String>(WAITING);
        let writer = std::thread::Builder::new().name("to-parent".to_owned()).spawn(move || {
            let mut output = File::from(output);
            for line in inbox {
                if output.write_all(line.as_bytes()).is_err() {
                    return;
                }
            }
        })?;
        let (heard, lines) = mpsc::channel(WAITING);
        std::thread::Builder::new()
            .name("from-parent".to_owned())
            .spawn(move || read(File::from(input), &heard))?;
        let number = |name| environment.get(name).and_then(|text| text.parse().ok());
        let parent =
            Self { out, writer, lines, pid: number(launch::PARENT).and_then(|pid| u32::try_from(pid).ok()) };
        parent.say(&FromChild::Hello {
            v: [protocol::VERSION, protocol::VERSION],
            pid: std::process::id(),
            nonce: number(launch::NONCE).unwrap_or(0),
            build: format!("roundsman {}", env!("CARGO_PKG_VERSION")),
        });
        Ok(parent)
    }

    /// Never waits; what finds no room is dropped.
    pub(crate) fn say(&self, message: &FromChild) {
        let _ = self.out.try_send(encode(message));
    }

    /// Says the last word, and waits a little for the supervisor to read it.
    pub(crate) fn finish(self, message: &FromChild) {
        self.say(message);
        let Self { out, writer, .. } = self;
        drop(out);
        let begun = Mono::now();
        while !writer.is_finished() && Mono::now().since(begun) < LAST_WORD {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The first `welcome`; `None` when the pipe ends before. Waits, so not for the runtime.
    pub(crate) fn welcome(&mut self) -> Option<serde_json::Value> {
        loop {
            if let ToChild::Welcome { work, .. } = self.lines.blocking_recv()? {
                return Some(work);
            }
        }
    }

    /// Whether this process has another parent than the one that started it.
    #[must_use]
    pub(crate) fn is_gone(&self) -> bool {
        let own = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        self.pid.is_some_and(|pid| own.and_then(|own| u32::try_from(own).ok()) != Some(pid))
    }
}

fn take_pipes() -> io::Result<(OwnedFd, OwnedFd)> {
    let input = rustix::io::fcntl_dupfd_cloexec(io::stdin(), FIRST_PRIVATE)?;
    let output = rustix::io::fcntl_dupfd_cloexec(io::stdout(), FIRST_PRIVATE)?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    nix::unistd::dup2_stdout(io::stderr())?;
    Ok((input, output))
}

fn read(mut input: File, heard: &mpsc::Sender<ToChild>) {
    let mut lines = Lines::new(MAX_LINE_DOWN);
    let mut buffer = [0; READ];
    loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let mut messages = Vec::new();
        lines.push(buffer.get(..read).unwrap_or_default(), |line| {
            if let Ok(Some(message)) = line.and_then(decode::<ToChild>) {
                messages.push(message);
            }
        });
        for message in messages {
            if heard.blocking_send(message).is_err() {
                return;
            }
        }
    }
}
