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
//! - While another program is rolled out there are two masters, and after it the first finishes its jobs: see [`roll`].
//! - `Finish` is the last action ever: what is still alive below is killed then.

mod beside;
mod charge;
mod roll;
mod words;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::control::Reply;
use roundsman_shared::exit;
use roundsman_shared::protocol::{FromChild, Question, StopMode, ToChild};

use self::charge::{Charge, Heard, Phase};
use self::roll::Roll;
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

/// Longer than any job: each ends by its own timeout before.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);
/// For a master to answer a question.
const ANSWER: Duration = Duration::from_secs(10);
/// Masters that may still be finishing when another program is to be rolled out.
const MOST_RETIRED: usize = 4;

/// Somebody who waits for an answer.
pub type Asker = u64;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

/// What people ask of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
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
    /// Stop without grace.
    StopNow { why: &'static str },
    /// So many workers in a pool, which exists, whatever it needs.
    Scale { pool: String, to: Option<u32> },
    /// For the master to answer.
    Question(Question),
    /// Roll onto the program that is on disk now.
    Deploy { batch: Option<u32>, watch: Duration },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// [`Action::Start`] was carried out.
    Started {
        heir: bool,
        pid: u32,
        nonce: u64,
    },
    StartFailed {
        heir: bool,
        error: String,
    },
    /// A line of a master.
    Said {
        pid: u32,
        message: FromChild,
    },
    /// A line that is no message.
    Garbled {
        error: String,
    },
    /// A child was reaped: the master or an orphan that came to us.
    Exited {
        pid: u32,
        exit: Exit,
    },
    /// There is no child left, of any kind.
    Childless,
    /// By a signal.
    Asked(Request),
    /// By somebody who waits for the answer.
    Ordered {
        asker: Asker,
        request: Request,
    },
    /// Time has passed.
    Tick,
}

/// What to tell the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
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
pub enum Action {
    /// Start a master and answer with [`Event::Started`] or [`Event::StartFailed`]; an heir from the program on disk.
    Start {
        heir: bool,
    },
    /// Answer its `hello` with what it is to do; an heir is to take over so many percent at first.
    Welcome {
        pid: u32,
        heir: Option<u8>,
        scaled: BTreeMap<String, u32>,
    },
    Send {
        pid: u32,
        message: ToChild,
    },
    /// The program of the heir is the one that later masters are started from.
    Adopt,
    Reply {
        to: Asker,
        reply: Reply,
    },
    /// SIGABRT to the master alone.
    Abort {
        pid: u32,
    },
    /// SIGKILL to the master's process group.
    Kill {
        pid: u32,
    },
    /// Its pipes are of no further use.
    Forget {
        pid: u32,
    },
    Tell(News),
    Note(Note),
    /// Kill what is left below, and leave with this code.
    Finish {
        code: u8,
    },
}

#[derive(Debug, Clone, PartialEq)]
enum Master {
    /// None runs. The next is started at this moment.
    Due {
        at: Mono,
    },
    /// [`Action::Start`] is on its way.
    Starting,
    Held(Charge),
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
pub struct Unit {
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
    roll: Option<Roll>,
    /// Masters whose program was replaced, and whose workers may finish; at most [`MOST_RETIRED`].
    retired: Vec<Charge>,
    /// Pools with a number of workers of somebody's choice.
    scaled: BTreeMap<String, u32>,
    /// Who waits for the master's answer, and until when.
    questions: BTreeMap<Asker, Mono>,
    /// Who waits for the end.
    stoppers: Vec<Asker>,
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
    pub const fn new(now: Mono, grace: Duration) -> Self {
        Self {
            master: Master::Due { at: now },
            wish: Wish::Serve,
            grace,
            quiet: false,
            ever_ready: false,
            ever_served: false,
            failures: VecDeque::new(),
            roll: None,
            retired: Vec::new(),
            scaled: BTreeMap::new(),
            questions: BTreeMap::new(),
            stoppers: Vec::new(),
            refused: None,
            told: String::new(),
            seen: now,
        }
    }

    /// When it must be stepped next at the latest; `None` once it is over.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        let tick = self.seen + TICK;
        let own = match &self.master {
            Master::Finished => return None,
            Master::Due { at } => *at,
            Master::Starting | Master::Gone => tick,
            Master::Held(charge) => charge.next_deadline(),
        };
        let rolling = self.roll.as_ref().map(Roll::next_deadline);
        let retired = self.retired.iter().map(Charge::next_deadline);
        let beside = rolling.into_iter().chain(retired).chain(self.questions.values().copied()).min();
        let own = beside.map_or(own, |beside| own.min(beside));
        let wished = match (self.wish, &self.master) {
            (Wish::Serve, _) => tick,
            (Wish::Drain { grace, .. }, Master::Gone) => grace,
            (Wish::Drain { until, .. } | Wish::Leave { until }, _) => until,
        };
        Some(tick.min(own).min(wished))
    }

    /// Whether the master has shown of late that its loop turns; one that has just started is given as long to.
    #[must_use]
    pub fn is_fresh(&self, now: Mono) -> bool {
        match &self.master {
            Master::Held(charge) => charge.is_fresh(now),
            Master::Due { .. } | Master::Starting => false,
            // There is none to watch.
            Master::Gone | Master::Finished => true,
        }
    }

    /// The master that may still be signalled.
    #[must_use]
    pub(crate) const fn pid(&self) -> Option<u32> {
        match &self.master {
            Master::Held(charge) => Some(charge.pid),
            Master::Due { .. } | Master::Starting | Master::Gone | Master::Finished => None,
        }
    }

    /// Every master that may still be signalled.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        let heir = self.roll.as_ref().and_then(|roll| roll.heir.as_ref());
        self.pid().into_iter().chain(heir.into_iter().chain(&self.retired).map(|charge| charge.pid))
    }

    /// Takes one event in; what is to be done comes out, to be carried out in order.
    pub fn step(&mut self, now: Mono, event: Event, actions: &mut Vec<Action>) {
        if self.master == Master::Finished {
            return;
        }
        self.forgive_own_lateness(now, actions);
        match event {
            Event::Started { heir: false, pid, nonce } => self.on_started(now, pid, nonce, actions),
            Event::Started { heir: true, pid, nonce } => self.on_heir(now, pid, nonce, actions),
            Event::StartFailed { heir: false, error } => {
                actions.push(Action::Note(Note::StartFailed { error }));
                self.failed(now, actions);
            }
            Event::StartFailed { heir: true, error } => {
                self.undo(now, format!("its program cannot be started: {error}"), actions);
                self.undone(actions);
            }
            Event::Said { pid, message } => self.on_said(now, pid, message, actions),
            Event::Garbled { error } => actions.push(Action::Note(Note::Garbled { error })),
            Event::Exited { pid, exit } if Some(pid) == self.pid() => self.on_exit(now, pid, exit, actions),
            Event::Exited { pid, exit } => self.on_other_exit(now, pid, exit, actions),
            Event::Childless => self.on_childless(actions),
            Event::Asked(request) => self.on_asked(now, request, None, actions),
            Event::Ordered { asker, request } => self.on_asked(now, request, Some(asker), actions),
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
        if let Master::Held(charge) = &mut self.master {
            charge.shift(late);
        }
        if let Some(roll) = &mut self.roll {
            roll.shift(late);
        }
        for charge in &mut self.retired {
            charge.shift(late);
        }
        for until in self.questions.values_mut() {
            *until = *until + late;
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
        let mut charge = Charge::new(now, pid, nonce);
        if self.wish != Wish::Serve {
            charge.kill(now, actions);
        }
        self.master = Master::Held(charge);
    }

    /// A line of the master, of an heir, or of one that is retired.
    fn on_said(&mut self, now: Mono, pid: u32, message: FromChild, actions: &mut Vec<Action>) {
        if Some(pid) != self.pid() {
            return self.on_other_said(now, pid, message, actions);
        }
        let Master::Held(charge) = &mut self.master else { return };
        match &message {
            FromChild::Standing(standing) if charge.is_welcome() => {
                if let Some(roll) = &mut self.roll {
                    roll.first_stands(now, standing, actions);
                }
            }
            FromChild::Answer { ask, code, says } => self.on_answer(*ask, *code, says, actions),
            _ => {}
        }
        let Master::Held(charge) = &mut self.master else { return };
        match charge.hear(now, message, actions) {
            Heard::Nothing | Heard::Stranger => {}
            Heard::Hello => {
                actions.push(Action::Welcome { pid, heir: None, scaled: self.scaled.clone() });
                if self.quiet {
                    charge.send(ToChild::Pause, actions);
                }
            }
            Heard::Ready => {
                self.ever_ready = true;
                if self.wish == Wish::Serve {
                    self.told = self.status(now);
                    actions.push(Action::Tell(News::Ready { status: self.told.clone() }));
                }
            }
            Heard::Beat => {
                self.ever_served |= charge.beat.as_ref().is_some_and(|beat| beat.store_ok);
                self.tell_status(now, actions);
            }
        }
    }

    fn on_answer(&mut self, ask: Asker, code: Option<u8>, says: &str, actions: &mut Vec<Action>) {
        if !self.questions.contains_key(&ask) {
            return;
        }
        let text = says.to_owned();
        let reply = match code {
            None => Reply::Says { text },
            Some(exit::OK) => Reply::Done { text },
            Some(code) => Reply::Refused { code, text },
        };
        if reply.is_last() {
            self.questions.remove(&ask);
        }
        actions.push(Action::Reply { to: ask, reply });
    }

    fn on_exit(&mut self, now: Mono, pid: u32, exit: Exit, actions: &mut Vec<Action>) {
        actions.push(Action::Forget { pid });
        let Master::Held(charge) = &self.master else { return };
        let (ready_since, ours) = (charge.ready_since(), charge.is_condemned());
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
        if self.is_succeeded(now, pid, actions) {
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

    fn on_asked(&mut self, now: Mono, request: Request, asker: Option<Asker>, actions: &mut Vec<Action>) {
        match request {
            Request::Stop { why } => {
                self.stoppers.extend(asker);
                self.on_stop(now, why, actions);
            }
            Request::StopNow { why } => {
                self.stoppers.extend(asker);
                if self.wish == Wish::Serve {
                    self.on_stop(now, why, actions);
                }
                self.leave(now, why, actions);
            }
            Request::Scale { pool, to } => self.on_scale(pool, to, asker, actions),
            Request::Question(what) => self.on_question(now, what, asker, actions),
            Request::Deploy { batch, watch } => self.on_deploy(now, batch, watch, asker, actions),
            Request::Reload { grace } => {
                self.grace = grace;
                self.send_all(&ToChild::Reload, actions);
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
                self.send_all(&ToChild::Pause, actions);
                self.tell_status(now, actions);
            }
            Request::Resize { by } => {
                if !self.send(ToChild::Resize { by }, actions) {
                    actions.push(Action::Note(Note::NobodyToResize));
                }
            }
            Request::Dump => {
                actions.push(Action::Note(Note::State(self.describe(now))));
                self.send_all(&ToChild::Dump, actions);
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
                self.send_stop(StopMode::Drain, self.grace, why, actions);
                match &mut self.master {
                    // It was not told yet what to do, so it has nothing to finish.
                    Master::Held(charge) if charge.phase == Phase::Greeting => charge.kill(now, actions),
                    Master::Due { .. } => self.master = Master::Gone,
                    Master::Held(_) | Master::Starting | Master::Gone | Master::Finished => {}
                }
                self.abandon(now, actions);
            }
            Wish::Drain { asked, .. } if now.since(asked) < ONE_REQUEST => {}
            Wish::Drain { .. } => self.leave(now, why, actions),
            Wish::Leave { .. } => self.finish(exit::INTERRUPTED, actions),
        }
    }

    /// What runs is given back.
    fn leave(&mut self, now: Mono, why: &'static str, actions: &mut Vec<Action>) {
        if matches!(self.wish, Wish::Leave { .. }) || self.master == Master::Finished {
            return;
        }
        self.wish = Wish::Leave { until: now + RELEASE };
        actions.push(Action::Note(Note::Leaving { why }));
        self.tell_status(now, actions);
        self.send_stop(StopMode::Release, RELEASE, why, actions);
    }

    fn send_stop(&self, mode: StopMode, by: Duration, why: &str, actions: &mut Vec<Action>) {
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.send_all(&ToChild::Stop { mode, by_ms, why: why.to_owned() }, actions);
    }

    /// To the master, if it listens.
    fn send(&self, message: ToChild, actions: &mut Vec<Action>) -> bool {
        match &self.master {
            Master::Held(charge) if charge.is_welcome() => {
                charge.send(message, actions);
                true
            }
            _ => false,
        }
    }

    /// To every master that listens.
    fn send_all(&self, message: &ToChild, actions: &mut Vec<Action>) {
        self.send(message.clone(), actions);
        let heir = self.roll.as_ref().and_then(|roll| roll.heir.as_ref());
        for charge in heir.into_iter().chain(&self.retired) {
            charge.send(message.clone(), actions);
        }
    }

    #[cfg(test)]
    const fn is_welcome(&self) -> bool {
        matches!(&self.master, Master::Held(charge) if charge.is_welcome())
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
        let stuck = match &mut self.master {
            Master::Due { at } if now >= *at => {
                self.master = Master::Starting;
                actions.push(Action::Start { heir: false });
                false
            }
            Master::Held(charge) => charge.time(now, actions),
            Master::Due { .. } | Master::Starting | Master::Gone | Master::Finished => false,
        };
        if stuck {
            self.failed(now, actions);
        }
        self.time_beside(now, actions);
    }

    fn finish(&mut self, code: u8, actions: &mut Vec<Action>) {
        self.master = Master::Finished;
        self.answer_all(code, actions);
        actions.push(Action::Finish { code });
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
}

/// The number is the same on every system.
const SIGKILL: i32 = 9;

#[cfg(test)]
mod roll_tests;
#[cfg(test)]
mod tests;
