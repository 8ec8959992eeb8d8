//! The one loop: what happens becomes an event, the unit decides, its actions are carried out.
//!
//! ```text
//! operator ──signals──▶ ┌────────────┐ ◀──stdout: hello, ready, a beat a second── master
//! kernel ──SIGCHLD────▶ │ supervisor │ ──stdin: welcome, stop, pause, reload────▶   │
//! systemd ◀──notify──── └────────────┘ ──ABRT, KILL (silence)───────────────────▶   ▼
//!                             ▲ orphans of a dead master come here to be reaped   workers
//! ```
//!
//! One thread that polls. Absent on purpose: tokio, threads, the store, job data, timers of its own. Nothing here waits
//! but in `poll`: pipes are non-blocking, and what a master does not read in time is dropped, as every message is a state
//! that can be said again or a stop that SIGKILL backs.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{ChildStdin, ChildStdout};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::launch::MasterStart;
use roundsman_shared::protocol::{self, FromChild, Lines, ToChild};
use roundsman_shared::settings::{LoadInput, Settings};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::Error;
use crate::lock::Lock;
use crate::notify::Notifier;
use crate::reaper::{self, Reaper};
use crate::signals::{Caught, Signals, Terminal};
use crate::spawn;
use crate::unit::{Action, Event, Request, Unit};

/// Bytes that are read from a master at a time, so that a flood of lines cannot keep the loop from the rest.
const READ_AT_ONCE: usize = 64 * 1024;
/// Bytes that a dead master may have left in its pipe: as much as a pipe can hold.
const LEFT_IN_PIPE: usize = 1024 * 1024;
/// Bytes that may wait for a master to read them, beyond the one longest line.
const UNSENT: usize = protocol::MAX_LINE_DOWN;

/// What a supervisor serves.
#[derive(Debug)]
pub struct Launch {
    /// From which the master loads the same settings, and from which they are loaded again on SIGHUP.
    pub input: LoadInput,
    /// Loaded from it.
    pub settings: Settings,
    /// The id of this host: 1 to 64 characters of `A-Z a-z 0-9 . _ -`.
    pub host: String,
}

/// Keeps a master alive until the fleet is stopped; the answer is the exit code. `begun` is called once all that may refuse
/// has not.
///
/// # Errors
/// When it cannot begin: another supervisor serves this store as this host, or the system refuses.
pub fn run(launch: Launch, begun: impl FnOnce()) -> Result<u8, Error> {
    let lock = Lock::take(&launch.input.environment, &launch.settings.store, &launch.host)?;
    let mut supervisor = Supervisor::prepare(launch)?;
    begun();
    let code = supervisor.serve();
    supervisor.reaper.sweep(supervisor.unit.pid());
    drop(lock);
    Ok(code)
}

struct Supervisor {
    launch: Launch,
    unit: Unit,
    signals: Signals,
    terminal: Terminal,
    reaper: Reaper,
    notifier: Notifier,
    /// Our own standard output, for the `stdout` handler: every program started from here inherits it.
    stdout: OwnedFd,
    pipes: Option<Pipes>,
}

impl Supervisor {
    fn prepare(launch: Launch) -> Result<Self, Error> {
        let failed = |what| move |source| Error::Prepare { what, source };
        Ok(Self {
            unit: Unit::new(Mono::now(), grace(&launch.settings)),
            signals: Signals::catch().map_err(failed("catch signals"))?,
            terminal: Terminal::look(),
            reaper: Reaper::adopt().map_err(failed("become the parent of orphans"))?,
            notifier: Notifier::new(&launch.input.environment),
            // Not close-on-exec, other than nearly every descriptor.
            stdout: rustix::io::dup(io::stdout())
                .map_err(|error| failed("hand down standard output")(error.into()))?,
            pipes: None,
            launch,
        })
    }

    fn serve(&mut self) -> u8 {
        let mut events = vec![Event::Tick];
        loop {
            let now = Mono::now();
            for event in events.drain(..) {
                if let Some(code) = self.step(now, event) {
                    return code;
                }
            }
            self.notifier.feed(now, self.unit.is_fresh(now));
            self.wait();
            self.gather(&mut events);
        }
    }

    /// One event and all that follows from it; a code when it is over.
    fn step(&mut self, now: Mono, event: Event) -> Option<u8> {
        let mut events = vec![event];
        let mut actions = Vec::new();
        while let Some(event) = events.pop() {
            self.unit.step(now, event, &mut actions);
            for action in actions.drain(..) {
                match action {
                    Action::Start => events.push(self.start()),
                    Action::Welcome => self.welcome(),
                    Action::Send(message) => self.send(&message),
                    Action::Abort { pid } => reaper::abort(pid),
                    Action::Kill { pid } => reaper::kill_group(pid),
                    Action::Forget => self.pipes = None,
                    Action::Tell(news) => self.notifier.tell(&news),
                    Action::Note(note) => note.log(),
                    Action::Finish { code } => return Some(code),
                }
            }
        }
        None
    }

    fn start(&mut self) -> Event {
        // The seed of std's hash maps is random, and all the randomness needed here.
        let nonce = RandomState::new().build_hasher().finish();
        let started = spawn::master(nonce, &self.stdout).and_then(|started| {
            let pid = started.pid;
            Pipes::new(started.stdin, started.stdout).map(|pipes| (pid, pipes)).inspect_err(|_| {
                reaper::kill_group(pid);
            })
        });
        match started {
            Ok((pid, pipes)) => {
                self.pipes = Some(pipes);
                Event::Started { pid, nonce }
            }
            Err(error) => Event::StartFailed { error: error.to_string() },
        }
    }

    fn welcome(&mut self) {
        let start = MasterStart {
            config: self.launch.input.config.clone(),
            alone: self.launch.input.alone,
            files: self.launch.input.files.clone(),
            overrides: self.launch.input.overrides.clone(),
            host: self.launch.host.clone(),
            supervisor_pid: std::process::id(),
        };
        let work = serde_json::to_value(start).expect("a path that is UTF-8 serialises");
        self.send(&ToChild::Welcome { v: protocol::VERSION, work });
    }

    fn send(&mut self, message: &ToChild) {
        if let Some(pipes) = &mut self.pipes {
            pipes.send(&protocol::encode(message));
        }
    }

    /// Sleeps until something happens or must.
    fn wait(&self) {
        let now = Mono::now();
        let deadline = self.unit.next_deadline().into_iter().chain(self.notifier.next_feed(now)).min();
        let left = deadline.map_or(Duration::ZERO, |deadline| deadline.since(now));
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut watched = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(pipes) = &self.pipes {
            watched.extend(pipes.stdout.as_ref().map(|stdout| PollFd::new(stdout, PollFlags::IN)));
            let unsent = pipes.stdin.as_ref().filter(|_| !pipes.unsent.is_empty());
            watched.extend(unsent.map(|stdin| PollFd::new(stdin, PollFlags::OUT)));
        }
        match poll(&mut watched, Some(&timeout)) {
            // What is ready is found by trying, since nothing here blocks.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                // Out of memory, at most: not a reason to spin.
                tracing::error!("poll: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    /// All that happened, a master's last words before its end.
    fn gather(&mut self, events: &mut Vec<Event>) {
        for caught in self.signals.pending() {
            events.extend(self.on_signal(caught));
        }
        let reaped = self.reaper.collect();
        let ended = reaped.exits.iter().any(|(pid, _)| Some(*pid) == self.unit.pid());
        if let Some(pipes) = &mut self.pipes {
            pipes.flush();
            pipes.read(if ended { LEFT_IN_PIPE } else { READ_AT_ONCE }, events);
        }
        events.extend(reaped.exits.into_iter().map(|(pid, exit)| Event::Exited { pid, exit }));
        if reaped.childless {
            events.push(Event::Childless);
        }
        events.push(Event::Tick);
    }

    fn on_signal(&mut self, caught: Caught) -> Vec<Event> {
        let request = match caught {
            // Reaping happens at every turn.
            Caught::Child => return Vec::new(),
            Caught::Stop(why) => Request::Stop { why },
            Caught::Hangup if self.terminal.is_closed() => Request::Stop { why: "the terminal was closed" },
            Caught::Hangup => self.reload(),
            Caught::Dump => {
                return vec![Event::Asked(Request::Dump), Event::Asked(Request::Stop { why: "SIGQUIT" })];
            }
            Caught::Quiet => Request::Quiet,
            Caught::Resize(by) => Request::Resize { by },
            Caught::NotServed(what) => {
                tracing::warn!("{what}");
                return Vec::new();
            }
        };
        vec![Event::Asked(request)]
    }

    /// Checks the settings anew, so that a master is never told of wrong ones.
    fn reload(&mut self) -> Request {
        let mut input = self.launch.input.clone();
        let settings = match input.read_files().and_then(|()| Settings::load(&input)) {
            Ok(loaded) => loaded.settings,
            Err(error) => {
                tracing::error!("the settings are wrong, the old ones stay: {error}");
                return Request::KeepSettings { why: "the new settings are wrong" };
            }
        };
        let (old, new) = (&self.launch.settings.store, &settings.store);
        if (&old.url, &old.namespace) != (&new.url, &new.namespace) {
            tracing::error!("another store needs a restart, the old settings stay");
            return Request::KeepSettings { why: "another store needs a restart" };
        }
        tracing::info!("the settings are right, and loaded anew");
        self.launch.input = input;
        Request::Reload { grace: grace(&settings) }
    }
}

/// The time that a stop may take: the longest of all pools.
fn grace(settings: &Settings) -> Duration {
    settings.pools.values().map(|pool| pool.grace).max().unwrap_or_default()
}

/// Both pipes of a master, as long as they are open.
struct Pipes {
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    lines: Lines,
    unsent: Vec<u8>,
}

impl Pipes {
    /// The flags are of our own ends, of which no one else has a copy.
    fn new(stdin: ChildStdin, stdout: ChildStdout) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&stdin, true)?;
        rustix::io::ioctl_fionbio(&stdout, true)?;
        let lines = Lines::new(protocol::MAX_LINE_UP);
        Ok(Self { stdin: Some(stdin), stdout: Some(stdout), lines, unsent: Vec::new() })
    }

    fn send(&mut self, line: &str) {
        if self.unsent.len() + line.len() > UNSENT {
            tracing::warn!("the master does not read: a message to it is dropped");
            return;
        }
        self.unsent.extend_from_slice(line.as_bytes());
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(stdin) = self.stdin.as_mut().filter(|_| !self.unsent.is_empty()) {
            match stdin.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It closed its end, or it ended: the rest is told by its exit or its silence.
                Err(_) => self.stdin = None,
            }
        }
    }

    fn read(&mut self, most: usize, events: &mut Vec<Event>) {
        let mut buffer = [0; 8192];
        let mut left = most;
        while let Some(stdout) = self.stdout.as_mut().filter(|_| left > 0) {
            match stdout.read(&mut buffer) {
                Ok(0) => self.stdout = None,
                Ok(count) => {
                    left = left.saturating_sub(count);
                    self.lines.push(&buffer[..count], |line| events.extend(event(line)));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.stdout = None,
            }
        }
    }
}

fn event(line: Result<&str, protocol::LineError>) -> Option<Event> {
    match line.and_then(protocol::decode::<FromChild>) {
        Ok(message) => message.map(Event::Said),
        Err(error) => Some(Event::Garbled(error.to_string())),
    }
}
