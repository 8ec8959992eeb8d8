//! The one loop: what happens becomes an event, the unit decides, its actions are carried out.
//!
//! ```text
//! operator ──signals──▶ ┌────────────┐ ◀──stdout: hello, ready, a beat a second── master
//! kernel ──SIGCHLD────▶ │ supervisor │ ──stdin: welcome, stop, pause, reload────▶   │
//! systemd ◀──notify──── └────────────┘ ──ABRT, KILL (silence)───────────────────▶   ▼
//! operator ──control────────▶ ▲ orphans of a dead master come here to be reaped   workers
//! ```
//!
//! One thread that polls. Absent on purpose: tokio, threads, the store, job data, timers of its own. Nothing here waits
//! but in `poll`: pipes are non-blocking, and what a master does not read in time is dropped, as every message is a state
//! that can be said again or a stop that SIGKILL backs.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::control::{Order, Reply};
use roundsman_shared::exit;
use roundsman_shared::launch::MasterStart;
use roundsman_shared::protocol::{self, FromChild, Lines, Question, ToChild};
use roundsman_shared::settings::{LoadInput, Settings};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::Error;
use crate::control::Control;
use crate::lock::Lock;
use crate::notify::Notifier;
use crate::reaper::{self, Reaper};
use crate::signals::{Caught, Signals, Terminal};
use crate::spawn::{self, Image};
use crate::unit::{Action, Asker, Event, Request, Unit};

/// Bytes that are read from a master at a time, so that a flood of lines cannot keep the loop from the rest.
const READ_AT_ONCE: usize = 64 * 1024;
/// Bytes that a dead master may have left in its pipe: as much as a pipe can hold.
const LEFT_IN_PIPE: usize = 1024 * 1024;
/// Bytes that may wait for a master to read them, beyond the one longest line.
const UNSENT: usize = protocol::MAX_LINE_DOWN;

/// How long a program that was rolled out by SIGUSR2 is watched.
const WATCH: Duration = Duration::from_secs(10);

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
    let mut supervisor = Supervisor::prepare(launch, &lock)?;
    begun();
    let code = supervisor.serve();
    supervisor.reaper.sweep(supervisor.unit.pids());
    if let Some(control) = supervisor.control.take() {
        control.close();
    }
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
    /// Of each master by its pid.
    pipes: BTreeMap<u32, Pipes>,
    /// Where this program lies, and its successors.
    program: PathBuf,
    /// What masters are started from.
    image: Image,
    /// What the last heir was started from.
    heir: Option<Image>,
    control: Option<Control>,
    /// Where the API of one master hands its socket to that of the next.
    handover: Option<PathBuf>,
}

impl Supervisor {
    fn prepare(launch: Launch, lock: &Lock) -> Result<Self, Error> {
        let failed = |what| move |source| Error::Prepare { what, source };
        let socket = lock.socket();
        let listening = socket.as_ref().map(|path| Control::listen(path.clone()));
        let control = match listening {
            Some(Ok(control)) => Some(control),
            Some(Err(error)) => {
                tracing::warn!(%error, "no control socket: `stop`, `scale` and `deploy` cannot reach this fleet");
                None
            }
            None => {
                tracing::warn!(
                    "the state folder's path is too long for a control socket: `stop`, `scale` and `deploy` cannot reach this fleet"
                );
                None
            }
        };
        Ok(Self {
            unit: Unit::new(Mono::now(), grace(&launch.settings)),
            signals: Signals::catch().map_err(failed("catch signals"))?,
            terminal: Terminal::look(),
            reaper: Reaper::adopt().map_err(failed("become the parent of orphans"))?,
            notifier: Notifier::new(&launch.input.environment),
            // Not close-on-exec, other than nearly every descriptor.
            stdout: rustix::io::dup(io::stdout())
                .map_err(|error| failed("hand down standard output")(error.into()))?,
            pipes: BTreeMap::new(),
            program: spawn::own_path().map_err(failed("find the running program"))?,
            image: Image::Own,
            heir: None,
            control,
            handover: lock.handover(),
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
                    Action::Start { heir } => events.push(self.start(heir)),
                    Action::Welcome { pid, heir, scaled } => self.welcome(pid, heir, scaled),
                    Action::Send { pid, message } => self.send(pid, &message),
                    Action::Adopt => self.image = self.heir.take().unwrap_or(Image::Own),
                    Action::Reply { to, reply } => self.reply(to, &reply),
                    Action::Abort { pid } => reaper::abort(pid),
                    Action::Kill { pid } => reaper::kill_group(pid),
                    Action::Forget { pid } => drop(self.pipes.remove(&pid)),
                    Action::Tell(news) => self.notifier.tell(&news),
                    Action::Note(note) => note.log(),
                    Action::Finish { code } => return Some(code),
                }
            }
        }
        None
    }

    fn start(&mut self, heir: bool) -> Event {
        // The seed of std's hash maps is random, and all the randomness needed here.
        let nonce = RandomState::new().build_hasher().finish();
        let image = if heir {
            spawn::on_disk(&self.program).map(|image| self.heir.insert(image) as &_)
        } else {
            Ok(&self.image)
        };
        let started = image.and_then(|image| spawn::master(image, nonce, &self.stdout)).and_then(|started| {
            let pid = started.pid;
            Pipes::new(started.stdin, started.stdout).map(|pipes| (pid, pipes)).inspect_err(|_| {
                reaper::kill_group(pid);
            })
        });
        match started {
            Ok((pid, pipes)) => {
                self.pipes.insert(pid, pipes);
                Event::Started { heir, pid, nonce }
            }
            Err(error) => Event::StartFailed { heir, error: error.to_string() },
        }
    }

    fn welcome(&mut self, pid: u32, heir: Option<u8>, scaled: BTreeMap<String, u32>) {
        let start = MasterStart {
            config: self.launch.input.config.clone(),
            alone: self.launch.input.alone,
            files: self.launch.input.files.clone(),
            overrides: self.launch.input.overrides.clone(),
            host: self.launch.host.clone(),
            supervisor_pid: std::process::id(),
            scaled,
            heir,
            handover: self.handover.clone(),
        };
        let work = serde_json::to_value(start).expect("a path that is UTF-8 serialises");
        self.send(pid, &ToChild::Welcome { v: protocol::VERSION, work });
    }

    fn send(&mut self, pid: u32, message: &ToChild) {
        if let Some(pipes) = self.pipes.get_mut(&pid) {
            pipes.send(&protocol::encode(message));
        }
    }

    fn reply(&mut self, to: Asker, reply: &Reply) {
        if let Some(control) = &mut self.control {
            control.reply(to, reply);
        }
    }

    /// Sleeps until something happens or must.
    fn wait(&self) {
        let now = Mono::now();
        let deadline = self.unit.next_deadline().into_iter().chain(self.notifier.next_feed(now));
        let deadline = deadline.chain(self.control.as_ref().and_then(Control::next_deadline)).min();
        let left = deadline.map_or(Duration::ZERO, |deadline| deadline.since(now));
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut watched = vec![PollFd::new(&self.signals, PollFlags::IN)];
        for pipes in self.pipes.values() {
            watched.extend(pipes.stdout.as_ref().map(|stdout| PollFd::new(stdout, PollFlags::IN)));
            let unsent = pipes.stdin.as_ref().filter(|_| !pipes.unsent.is_empty());
            watched.extend(unsent.map(|stdin| PollFd::new(stdin, PollFlags::OUT)));
        }
        watched.extend(self.control.iter().flat_map(Control::watched));
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
        for (pid, pipes) in &mut self.pipes {
            let ended = reaped.exits.iter().any(|(gone, _)| gone == pid);
            pipes.flush();
            pipes.read(*pid, if ended { LEFT_IN_PIPE } else { READ_AT_ONCE }, events);
        }
        events.extend(reaped.exits.into_iter().map(|(pid, exit)| Event::Exited { pid, exit }));
        if reaped.childless {
            events.push(Event::Childless);
        }
        let orders = self.control.as_mut().map(|control| control.gather(Mono::now())).unwrap_or_default();
        for (asker, order) in orders {
            events.extend(self.on_order(asker, order));
        }
        events.push(Event::Tick);
    }

    /// What somebody asks for over the control socket; answered at once when that can be said here.
    fn on_order(&mut self, asker: Asker, order: Order) -> Option<Event> {
        tracing::info!(?order, "told over the control socket");
        let request = match order {
            Order::Stop { now: false } => Request::Stop { why: "told to stop" },
            Order::Stop { now: true } => Request::StopNow { why: "told to stop at once" },
            Order::Reload => {
                let (request, reply) = match self.reload() {
                    Ok(request) => (request, Reply::Done { text: "the settings are read again".to_owned() }),
                    Err(refused) => {
                        let text = format!("the old settings stay: {}", refused.text);
                        let why = refused.why;
                        (Request::KeepSettings { why }, Reply::Refused { code: exit::CONFIG, text })
                    }
                };
                self.reply(asker, &reply);
                return Some(Event::Asked(request));
            }
            Order::Scale { pool, to } => {
                if let Err(refusal) = self.may_scale(&pool, to) {
                    self.reply(asker, &refusal);
                    return None;
                }
                Request::Scale { pool, to }
            }
            Order::StopWorker { worker, now } => Request::Question(Question::StopWorker { worker, now }),
            Order::DumpWorker { worker } => Request::Question(Question::DumpWorker { worker }),
            Order::Deploy { batch, watch_ms } => {
                Request::Deploy { batch, watch: Duration::from_millis(watch_ms) }
            }
        };
        Some(Event::Ordered { asker, request })
    }

    fn may_scale(&self, pool: &str, to: Option<u32>) -> Result<(), Reply> {
        let pools = &self.launch.settings.pools;
        let refuse = |code, text| Err(Reply::Refused { code, text });
        let Some(settings) = pools.get(pool) else {
            let names: Vec<&str> = pools.keys().map(String::as_str).collect();
            return refuse(
                exit::NOT_FOUND,
                format!("there is no pool \"{pool}\" here; there are: {}", names.join(", ")),
            );
        };
        let most = settings.max_workers_total.unwrap_or(u32::MAX).min(settings.max_workers);
        match to {
            Some(to) if to > most => refuse(
                exit::CONFLICT,
                format!(
                    "pool {pool} may have {most} workers at most: raise max_workers in its settings first"
                ),
            ),
            _ => Ok(()),
        }
    }

    fn on_signal(&mut self, caught: Caught) -> Vec<Event> {
        let request = match caught {
            // Reaping happens at every turn.
            Caught::Child => return Vec::new(),
            Caught::Stop(why) => Request::Stop { why },
            Caught::Hangup if self.terminal.is_closed() => Request::Stop { why: "the terminal was closed" },
            Caught::Hangup => {
                self.reload().unwrap_or_else(|refused| Request::KeepSettings { why: refused.why })
            }
            Caught::Roll => Request::Deploy { batch: None, watch: WATCH },
            Caught::Dump => {
                return vec![Event::Asked(Request::Dump), Event::Asked(Request::Stop { why: "SIGQUIT" })];
            }
            Caught::Quiet => Request::Quiet,
            Caught::Resize(by) => Request::Resize { by },
        };
        vec![Event::Asked(request)]
    }

    /// Checks the settings anew, so that a master is never told of wrong ones.
    fn reload(&mut self) -> Result<Request, Refused> {
        let mut input = self.launch.input.clone();
        let settings = match input.read_files().and_then(|()| Settings::load(&input)) {
            Ok(loaded) => loaded.settings,
            Err(error) => {
                tracing::error!("the settings are wrong, the old ones stay: {error}");
                return Err(Refused { why: "the new settings are wrong", text: error.to_string() });
            }
        };
        let (old, new) = (&self.launch.settings.store, &settings.store);
        if (&old.url, &old.namespace) != (&new.url, &new.namespace) {
            let why = "another store needs a restart";
            tracing::error!("{why}, the old settings stay");
            return Err(Refused { why, text: why.to_owned() });
        }
        tracing::info!("the settings are right, and loaded anew");
        self.launch.input = input;
        let grace = grace(&settings);
        self.launch.settings = settings;
        Ok(Request::Reload { grace })
    }
}

/// Why changed settings are not taken.
struct Refused {
    why: &'static str,
    text: String,
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

    fn read(&mut self, pid: u32, most: usize, events: &mut Vec<Event>) {
        let mut buffer = [0; 8192];
        let mut left = most;
        while let Some(stdout) = self.stdout.as_mut().filter(|_| left > 0) {
            match stdout.read(&mut buffer) {
                Ok(0) => self.stdout = None,
                Ok(count) => {
                    left = left.saturating_sub(count);
                    self.lines.push(&buffer[..count], |line| events.extend(event(pid, line)));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.stdout = None,
            }
        }
    }
}

fn event(pid: u32, line: Result<&str, protocol::LineError>) -> Option<Event> {
    match line.and_then(protocol::decode::<FromChild>) {
        Ok(message) => message.map(|message| Event::Said { pid, message }),
        Err(error) => Some(Event::Garbled { error: error.to_string() }),
    }
}
