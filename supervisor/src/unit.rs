//! The rules by which one master is kept alive: pure, so without clock, process or log of its own.
//!
//! ```text
//!              Start                hello              ready
//!   Due ────────────────▶ Greeting ───────▶ Booting ────────▶ Ready
//!    ▲                       │ silent, or says what it must not  │
//!    │ at once, then         ▼                                   ▼
//!    ├─ after a pause ◀── exit ◀── Killing ◀── 2 s ── Aborting ◀─┘
//!    │
//!    └─ too many in a minute: Finished        a stop: exit ──▶ Gone ── nothing left below ──▶ Finished
//! ```
//!
//! - Only valid lines count as signs of life, at the moment of their receipt. If this process itself was late (stopped,
//!   suspended, starved), every deadline moves by as much.
//! - A restart is held against the master when it died before it was ready, by an error, a crash or our own hand. A
//!   SIGKILL that we did not send (an operator, the host out of memory) and an orderly end are not.
//! - `Finish` is the last action ever: what is still alive below is killed then.

use std::collections::VecDeque;
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::exit;
use roundsman_shared::protocol::{self, Beat, FromChild, StopMode, ToChild};

use crate::note::Note;

/// No line for so long, and the master is given up. It beats once a second.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);
/// No line for so long, and nobody is told any more that its loop turns.
const STALE: Duration = Duration::from_millis(3500);
/// From SIGABRT, which leaves a trace of where it hung, to SIGKILL.
pub(crate) const ABORT: Duration = Duration::from_secs(2);
/// From SIGKILL until a process that does not go even so (it waits in the kernel) is left to itself.
pub(crate) const KILL: Duration = Duration::from_secs(5);
/// How long a master may take beyond the grace of its pools.
pub(crate) const OVER_GRACE: Duration = Duration::from_secs(10);
/// From the second TERM to SIGKILL for all.
pub(crate) const RELEASE: Duration = Duration::from_secs(2);
/// So many restarts that are held against the master are allowed within [`WINDOW`].
pub(crate) const MOST_RESTARTS: usize = 5;
/// A store that so many masters in a row find unfit is so; one may have met it in a moment of recovery.
const UNFIT_TRIES: usize = 2;
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
/// The pause before the second restart in the window; each later one doubles it, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// An orderly end so soon after `ready` is a failure too, since it would be repeated without end.
const LIVED: Duration = Duration::from_secs(5);
/// `timeout(1)` and some shells send the same signal to a process and to its group: within so long it is one request.
const ONE_REQUEST: Duration = Duration::from_millis(3);
/// The unit wants to be stepped at least so often, by which it knows when it was not.
const TICK: Duration = Duration::from_secs(1);
/// Not stepped for so long, and the whole gap counts for nothing.
const LATE: Duration = Duration::from_secs(2);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
}

/// What people ask of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Stop, and the second time at once.
    Stop { why: &'static str },
    /// The settings have changed, and are right.
    Reload { grace: Duration },
    /// The settings have changed, and cannot be used.
    KeepSettings { why: &'static str },
    /// Take no new jobs.
    Quiet,
    /// So many workers more or fewer in every pool, until the master ends.
    Resize { by: i32 },
    /// Say how things stand.
    Dump,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// [`Action::Start`] was carried out.
    Started {
        pid: u32,
        nonce: u64,
    },
    StartFailed {
        error: String,
    },
    /// A line of the master.
    Said(FromChild),
    /// A line that is no message.
    Garbled(String),
    /// A child was reaped: the master or an orphan that came to us.
    Exited {
        pid: u32,
        exit: Exit,
    },
    /// There is no child left, of any kind.
    Childless,
    Asked(Request),
    /// Time has passed.
    Tick,
}

/// What to tell the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    Ready {
        status: String,
    },
    Status(String),
    /// A reload has begun and ended, well or not.
    Reloaded {
        status: String,
    },
    Stopping {
        within: Duration,
        status: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Start a master and answer with [`Event::Started`] or [`Event::StartFailed`].
    Start,
    /// Answer its `hello` with what it is to do.
    Welcome,
    Send(ToChild),
    /// SIGABRT to the master alone.
    Abort {
        pid: u32,
    },
    /// SIGKILL to the master's process group.
    Kill {
        pid: u32,
    },
    /// Its pipes are of no further use.
    Forget,
    Tell(News),
    Note(Note),
    /// Kill what is left below, and leave with this code.
    Finish {
        code: u8,
    },
}

/// How far a living master has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting { nonce: u64 },
    Booting,
    Ready { since: Mono },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Master {
    /// None runs. The next is started at this moment.
    Due {
        at: Mono,
    },
    /// [`Action::Start`] is on its way.
    Starting,
    Running {
        pid: u32,
        phase: Phase,
        heard: Mono,
    },
    Aborting {
        pid: u32,
        until: Mono,
    },
    Killing {
        pid: u32,
        until: Mono,
    },
    /// It left and no other will be started; what earlier ones left behind may finish.
    Gone,
    Finished,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Serve,
    /// `asked` by the first TERM; jobs may run until `grace`, the master may live until `until`.
    Drain {
        asked: Mono,
        grace: Mono,
        until: Mono,
    },
    /// By the second.
    Leave {
        until: Mono,
    },
}

/// One master and what is wanted of it.
#[derive(Debug)]
pub(crate) struct Unit {
    master: Master,
    wish: Wish,
    /// The largest of all pools.
    grace: Duration,
    quiet: bool,
    /// A master has read its settings.
    ever_ready: bool,
    /// A master has reached the store.
    ever_served: bool,
    /// When restarts were held against the master, the oldest first; at most [`MOST_RESTARTS`] + 1.
    failures: VecDeque<Mono>,
    beat: Option<Beat>,
    /// Why the settings that were to be loaded last are not the ones that count.
    refused: Option<&'static str>,
    /// What the service manager was told last.
    told: String,
    /// When this unit was stepped last.
    seen: Mono,
}

impl Unit {
    /// A unit that starts its first master at the first step.
    #[must_use]
    pub(crate) const fn new(now: Mono, grace: Duration) -> Self {
        Self {
            master: Master::Due { at: now },
            wish: Wish::Serve,
            grace,
            quiet: false,
            ever_ready: false,
            ever_served: false,
            failures: VecDeque::new(),
            beat: None,
            refused: None,
            told: String::new(),
            seen: now,
        }
    }

    /// When it must be stepped next at the latest; `None` once it is over.
    #[must_use]
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        let tick = self.seen + TICK;
        let own = match self.master {
            Master::Finished => return None,
            Master::Due { at } => at,
            Master::Starting | Master::Gone => tick,
            Master::Running { heard, .. } => heard + SILENCE,
            Master::Aborting { until, .. } | Master::Killing { until, .. } => until,
        };
        let wished = match (self.wish, self.master) {
            (Wish::Serve, _) => tick,
            (Wish::Drain { grace, .. }, Master::Gone) => grace,
            (Wish::Drain { until, .. } | Wish::Leave { until }, _) => until,
        };
        Some(tick.min(own).min(wished))
    }

    /// Whether the master has shown of late that its loop turns; one that has just started is given as long to.
    #[must_use]
    pub(crate) fn is_fresh(&self, now: Mono) -> bool {
        match self.master {
            Master::Running { heard, .. } => now.since(heard) < STALE,
            Master::Due { .. } | Master::Starting | Master::Aborting { .. } | Master::Killing { .. } => false,
            // There is none to watch.
            Master::Gone | Master::Finished => true,
        }
    }

    /// The master that may still be signalled.
    #[must_use]
    pub(crate) const fn pid(&self) -> Option<u32> {
        match self.master {
            Master::Running { pid, .. } | Master::Aborting { pid, .. } | Master::Killing { pid, .. } => {
                Some(pid)
            }
            Master::Due { .. } | Master::Starting | Master::Gone | Master::Finished => None,
        }
    }

    /// Takes one event in; what is to be done comes out, to be carried out in order.
    pub(crate) fn step(&mut self, now: Mono, event: Event, actions: &mut Vec<Action>) {
        if self.master == Master::Finished {
            return;
        }
        self.forgive_own_lateness(now, actions);
        match event {
            Event::Started { pid, nonce } => self.on_started(now, pid, nonce, actions),
            Event::StartFailed { error } => {
                actions.push(Action::Note(Note::StartFailed { error }));
                self.failed(now, actions);
            }
            Event::Said(message) => self.on_said(now, message, actions),
            Event::Garbled(error) => actions.push(Action::Note(Note::Garbled { error })),
            Event::Exited { pid, exit } if Some(pid) == self.pid() => self.on_exit(now, pid, exit, actions),
            Event::Exited { pid, exit } => actions.push(Action::Note(Note::OrphanEnded { pid, exit })),
            Event::Childless => self.on_childless(actions),
            Event::Asked(request) => self.on_asked(now, request, actions),
            Event::Tick => {}
        }
        self.on_time(now, actions);
    }

    fn forgive_own_lateness(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let late = now.since(self.seen);
        self.seen = self.seen.max(now);
        if late <= LATE {
            return;
        }
        actions.push(Action::Note(Note::Late { by: late }));
        match &mut self.master {
            Master::Running { heard: moment, .. }
            | Master::Aborting { until: moment, .. }
            | Master::Killing { until: moment, .. } => *moment = *moment + late,
            Master::Due { .. } | Master::Starting | Master::Gone | Master::Finished => {}
        }
        match &mut self.wish {
            Wish::Serve => {}
            Wish::Drain { grace, until, .. } => {
                *grace = *grace + late;
                *until = *until + late;
            }
            Wish::Leave { until } => *until = *until + late,
        }
    }

    fn on_started(&mut self, now: Mono, pid: u32, nonce: u64, actions: &mut Vec<Action>) {
        actions.push(Action::Note(Note::Started { pid }));
        self.beat = None;
        self.master = Master::Running { pid, phase: Phase::Greeting { nonce }, heard: now };
        if self.wish != Wish::Serve {
            self.kill(now, pid, actions);
        }
    }

    fn on_said(&mut self, now: Mono, message: FromChild, actions: &mut Vec<Action>) {
        // One that is being killed is not listened to any more.
        let Master::Running { pid, phase, heard } = &mut self.master else { return };
        let pid = *pid;
        *heard = now;
        match (&phase, message) {
            (Phase::Greeting { nonce }, FromChild::Hello { v: [low, high], nonce: said, .. })
                if said == *nonce && (low..=high).contains(&protocol::VERSION) =>
            {
                *phase = Phase::Booting;
                actions.push(Action::Welcome);
                if self.quiet {
                    actions.push(Action::Send(ToChild::Pause));
                }
            }
            (Phase::Greeting { .. }, _) => {
                actions.push(Action::Note(Note::NotOurs { pid }));
                self.kill(now, pid, actions);
            }
            (Phase::Booting, FromChild::Ready) => {
                *phase = Phase::Ready { since: now };
                self.ever_ready = true;
                actions.push(Action::Note(Note::Ready { pid }));
                if self.wish == Wish::Serve {
                    self.told = self.status(now);
                    actions.push(Action::Tell(News::Ready { status: self.told.clone() }));
                }
            }
            (_, FromChild::Hb(beat)) => {
                self.ever_served |= beat.store_ok;
                self.beat = Some(beat);
                self.tell_status(now, actions);
            }
            (_, FromChild::Draining { why }) => actions.push(Action::Note(Note::Draining { pid, why })),
            (_, FromChild::Bye { why, code }) => actions.push(Action::Note(Note::Bye { pid, why, code })),
            (_, FromChild::Warn { code, message }) => {
                actions.push(Action::Note(Note::Warned { pid, code, message }));
            }
            // A second hello or ready tells nothing new, and a master has no slots to be full.
            (
                _,
                FromChild::Hello { .. } | FromChild::Ready | FromChild::Full { .. } | FromChild::Figure(_),
            ) => {}
        }
    }

    fn on_exit(&mut self, now: Mono, pid: u32, exit: Exit, actions: &mut Vec<Action>) {
        actions.push(Action::Forget);
        let (ready_since, ours) = match self.master {
            Master::Running { phase: Phase::Ready { since }, .. } => (Some(since), false),
            Master::Running { .. } => (None, false),
            _ => (None, true),
        };
        let orderly = exit == Exit::Code(0) && !ours;
        actions.push(Action::Note(Note::MasterEnded {
            pid,
            exit,
            expected: self.wish != Wish::Serve && orderly,
        }));
        if self.wish != Wish::Serve {
            self.master = Master::Gone;
            return;
        }
        if let Exit::Code(code) = exit
            && let Ok(code @ (exit::CONFIG | exit::UNAVAILABLE)) = u8::try_from(code)
            && !self.ever_served
            && (!self.ever_ready || self.failures.len() >= UNFIT_TRIES)
        {
            return self.finish(code, actions);
        }
        // Somebody else serves as this host: another master would only meet him again.
        if exit == Exit::Code(i32::from(exit::CONFLICT)) {
            return self.finish(exit::CONFLICT, actions);
        }
        self.told = format!("master {pid} ended {exit}; starting another");
        actions.push(Action::Tell(News::Status(self.told.clone())));
        let held_against = match (exit, ready_since) {
            (_, None) => true,
            (Exit::Signal(SIGKILL), Some(_)) => false,
            (Exit::Code(0), Some(since)) => now.since(since) < LIVED,
            (Exit::Code(_) | Exit::Signal(_), Some(_)) => true,
        };
        if held_against {
            self.failed(now, actions);
        } else {
            self.master = Master::Due { at: now };
        }
    }

    /// Plans the next start, or gives up.
    fn failed(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if self.wish != Wish::Serve {
            self.master = Master::Gone;
            return;
        }
        while self.failures.front().is_some_and(|oldest| now.since(*oldest) >= WINDOW) {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        if self.failures.len() > MOST_RESTARTS {
            actions.push(Action::Note(Note::GivenUp));
            return self.finish(exit::FAILED, actions);
        }
        let pause = match self.failures.len() {
            ..=1 => Duration::ZERO,
            nth => PAUSE.saturating_mul(1 << (nth - 2).min(16)).min(LONGEST_PAUSE),
        };
        self.master = Master::Due { at: now + pause };
    }

    fn on_childless(&mut self, actions: &mut Vec<Action>) {
        if self.master != Master::Gone {
            return;
        }
        let code = if matches!(self.wish, Wish::Leave { .. }) { exit::INTERRUPTED } else { exit::OK };
        self.finish(code, actions);
    }

    fn on_asked(&mut self, now: Mono, request: Request, actions: &mut Vec<Action>) {
        match request {
            Request::Stop { why } => self.on_stop(now, why, actions),
            Request::Reload { grace } => {
                self.grace = grace;
                if self.is_welcome() {
                    actions.push(Action::Send(ToChild::Reload));
                }
                self.refused = None;
                self.tell_reloaded(now, actions);
            }
            Request::KeepSettings { why } => {
                self.refused = Some(why);
                self.tell_reloaded(now, actions);
            }
            Request::Quiet => {
                self.quiet = true;
                actions.push(Action::Note(Note::Quiet));
                if self.is_welcome() {
                    actions.push(Action::Send(ToChild::Pause));
                }
                self.tell_status(now, actions);
            }
            Request::Resize { by } => {
                let message = ToChild::Resize { by };
                actions.push(if self.is_welcome() {
                    Action::Send(message)
                } else {
                    Action::Note(Note::NobodyToResize)
                });
            }
            Request::Dump => {
                actions.push(Action::Note(Note::State(self.describe(now))));
                if self.is_welcome() {
                    actions.push(Action::Send(ToChild::Dump));
                }
            }
        }
    }

    fn on_stop(&mut self, now: Mono, why: &'static str, actions: &mut Vec<Action>) {
        match self.wish {
            Wish::Serve => {
                let grace = now + self.grace;
                self.wish = Wish::Drain { asked: now, grace, until: grace + OVER_GRACE };
                actions.push(Action::Note(Note::Stopping { why, grace: self.grace }));
                self.told = self.status(now);
                actions.push(Action::Tell(News::Stopping {
                    within: self.grace + OVER_GRACE,
                    status: self.told.clone(),
                }));
                match self.master {
                    Master::Running { pid, phase: Phase::Greeting { .. }, .. } => {
                        // It was not told yet what to do, so it has nothing to finish.
                        self.kill(now, pid, actions);
                    }
                    Master::Running { .. } => self.send_stop(StopMode::Drain, self.grace, why, actions),
                    Master::Due { .. } => self.master = Master::Gone,
                    Master::Starting | Master::Aborting { .. } | Master::Killing { .. } => {}
                    Master::Gone | Master::Finished => {}
                }
            }
            Wish::Drain { asked, .. } if now.since(asked) < ONE_REQUEST => {}
            Wish::Drain { .. } => {
                self.wish = Wish::Leave { until: now + RELEASE };
                actions.push(Action::Note(Note::Leaving { why }));
                self.tell_status(now, actions);
                if self.is_welcome() {
                    self.send_stop(StopMode::Release, RELEASE, why, actions);
                }
            }
            Wish::Leave { .. } => self.finish(exit::INTERRUPTED, actions),
        }
    }

    fn send_stop(&self, mode: StopMode, by: Duration, why: &str, actions: &mut Vec<Action>) {
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        actions.push(Action::Send(ToChild::Stop { mode, by_ms, why: why.to_owned() }));
    }

    const fn is_welcome(&self) -> bool {
        matches!(self.master, Master::Running { phase: Phase::Booting | Phase::Ready { .. }, .. })
    }

    fn kill(&mut self, now: Mono, pid: u32, actions: &mut Vec<Action>) {
        actions.push(Action::Kill { pid });
        self.master = Master::Killing { pid, until: now + KILL };
    }

    fn on_time(&mut self, now: Mono, actions: &mut Vec<Action>) {
        match self.wish {
            Wish::Leave { until } if now >= until => return self.finish(exit::INTERRUPTED, actions),
            Wish::Drain { grace, .. } if self.master == Master::Gone && now >= grace => {
                return self.finish(exit::OK, actions);
            }
            Wish::Drain { until, .. } if now >= until => {
                actions.push(Action::Note(Note::Overdue { pid: self.pid() }));
                return self.finish(exit::FAILED, actions);
            }
            Wish::Serve | Wish::Drain { .. } | Wish::Leave { .. } => {}
        }
        match self.master {
            Master::Due { at } if now >= at => {
                self.master = Master::Starting;
                actions.push(Action::Start);
            }
            Master::Running { pid, heard, .. } if now >= heard + SILENCE => {
                actions.push(Action::Note(Note::Silent { pid, since: now.since(heard) }));
                actions.push(Action::Abort { pid });
                self.master = Master::Aborting { pid, until: now + ABORT };
            }
            Master::Aborting { pid, until } if now >= until => self.kill(now, pid, actions),
            Master::Killing { pid, until } if now >= until => {
                // If it ever ends, it is reaped like an orphan.
                actions.push(Action::Note(Note::Stuck { pid }));
                actions.push(Action::Forget);
                self.failed(now, actions);
            }
            _ => {}
        }
    }

    fn finish(&mut self, code: u8, actions: &mut Vec<Action>) {
        self.master = Master::Finished;
        actions.push(Action::Finish { code });
    }

    /// How things stand, in a line for the service manager. Nothing in it changes at every beat, but while draining.
    fn status(&self, now: Mono) -> String {
        let running = self.beat.as_ref().map_or(0, |beat| beat.running);
        let jobs = if running == 1 { "1 job runs".to_owned() } else { format!("{running} jobs run") };
        match (self.wish, self.master, &self.beat) {
            (Wish::Leave { .. }, ..) => "stopping at once".to_owned(),
            (Wish::Drain { grace, .. }, Master::Gone, _) => format!(
                "draining: what an earlier master left behind may go on for {} s",
                grace.since(now).as_secs()
            ),
            (Wish::Drain { grace, .. }, ..) => {
                format!("draining: {jobs}, and may for {} s more", grace.since(now).as_secs())
            }
            (Wish::Serve, Master::Running { pid, phase: Phase::Ready { .. }, .. }, beat) => {
                let does = if self.quiet { "quiet, takes no new jobs" } else { "serving" };
                let store = match beat {
                    Some(beat) if !beat.store_ok && self.ever_served => "; the store does not answer",
                    Some(beat) if !beat.store_ok => "; the store has not answered yet",
                    Some(_) | None => "",
                };
                let refused = self.refused.map(|why| format!("; the last reload was refused: {why}"));
                format!("{does}, master {pid}{store}{}", refused.unwrap_or_default())
            }
            (Wish::Serve, ..) => "starting a master".to_owned(),
        }
    }

    /// Tells the service manager how things stand, if that is news.
    fn tell_status(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let status = self.status(now);
        if self.told != status {
            self.told.clone_from(&status);
            actions.push(Action::Tell(News::Status(status)));
        }
    }

    /// A manager that has not heard `ready` yet would take the end of a reload for it, and one that waits for our end is
    /// not to be told that all is well.
    fn tell_reloaded(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if self.ever_ready && self.wish == Wish::Serve {
            self.told = self.status(now);
            actions.push(Action::Tell(News::Reloaded { status: self.told.clone() }));
        }
    }

    fn describe(&self, now: Mono) -> String {
        let ago = |moment: Mono| format!("{} ms ago", now.since(moment).as_millis());
        let master = match self.master {
            Master::Due { .. } | Master::Starting => "none, about to be started".to_owned(),
            Master::Running { pid, phase, heard } => {
                let phase = match phase {
                    Phase::Greeting { .. } => "started",
                    Phase::Booting => "booting",
                    Phase::Ready { .. } => "ready",
                };
                format!("{pid} {phase}, last line {}", ago(heard))
            }
            Master::Aborting { pid, .. } | Master::Killing { pid, .. } => format!("{pid} being killed"),
            Master::Gone | Master::Finished => "gone".to_owned(),
        };
        let wish = match self.wish {
            Wish::Serve if self.quiet => "quiet".to_owned(),
            Wish::Serve => "serving".to_owned(),
            Wish::Drain { asked, .. } => format!("draining, asked {}", ago(asked)),
            Wish::Leave { .. } => "leaving now".to_owned(),
        };
        let failures = self.failures.iter().filter(|at| now.since(**at) < WINDOW).count();
        let beat = self.beat.as_ref().map_or_else(
            || "none".to_owned(),
            |beat| {
                let Beat { doing, claimed, done, failed, running, store_ok, .. } = beat;
                let doing = doing.as_str();
                format!(
                    "{doing}, {claimed} claimed, {done} done, {failed} failed, {running} running, store {}",
                    if *store_ok { "well" } else { "not answering" }
                )
            },
        );
        format!("{wish}; master {master}; last beat: {beat}; {failures} failures within a minute")
    }
}

/// The number is the same on every system.
const SIGKILL: i32 = 9;

#[cfg(test)]
mod tests;
