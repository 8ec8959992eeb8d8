//! One master process, from its start to its end: what is known of it, and what its silence leads to.

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::protocol::{self, Beat, FromChild, ToChild};

use super::{ABORT, Action, KILL, SILENCE, STALE};
use crate::note::Note;

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Greeting,
    Booting,
    Ready { since: Mono },
    Aborting { until: Mono },
    Killing { until: Mono },
}

/// A master that runs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Charge {
    pub(super) pid: u32,
    nonce: u64,
    pub(super) phase: Phase,
    pub(super) heard: Mono,
    pub(super) beat: Option<Beat>,
}

/// What a line of it came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// It was not expected to say that, or is not listened to any more.
    Nothing,
    /// It waits for what it is to do.
    Hello,
    /// It is not what was started, and is being killed.
    Stranger,
    Ready,
    Beat,
}

impl Charge {
    pub(super) const fn new(now: Mono, pid: u32, nonce: u64) -> Self {
        Self { pid, nonce, phase: Phase::Greeting, heard: now, beat: None }
    }

    pub(super) const fn is_welcome(&self) -> bool {
        matches!(self.phase, Phase::Booting | Phase::Ready { .. })
    }

    /// Whether it is being ended by signals.
    pub(super) const fn is_condemned(&self) -> bool {
        matches!(self.phase, Phase::Aborting { .. } | Phase::Killing { .. })
    }

    pub(super) const fn ready_since(&self) -> Option<Mono> {
        if let Phase::Ready { since } = self.phase { Some(since) } else { None }
    }

    pub(super) fn is_fresh(&self, now: Mono) -> bool {
        !self.is_condemned() && now.since(self.heard) < STALE
    }

    pub(super) fn next_deadline(&self) -> Mono {
        match self.phase {
            Phase::Greeting | Phase::Booting | Phase::Ready { .. } => self.heard + SILENCE,
            Phase::Aborting { until } | Phase::Killing { until } => until,
        }
    }

    /// The supervisor itself was late.
    pub(super) fn shift(&mut self, late: Duration) {
        match &mut self.phase {
            Phase::Greeting | Phase::Booting | Phase::Ready { .. } => self.heard = self.heard + late,
            Phase::Aborting { until } | Phase::Killing { until } => *until = *until + late,
        }
    }

    /// Takes a line in. What it says of itself goes to the log.
    pub(super) fn hear(&mut self, now: Mono, message: FromChild, actions: &mut Vec<Action>) -> Heard {
        if self.is_condemned() {
            return Heard::Nothing;
        }
        let pid = self.pid;
        self.heard = now;
        match (self.phase, message) {
            (Phase::Greeting, FromChild::Hello { v: [low, high], nonce, .. })
                if self.nonce == nonce && (low..=high).contains(&protocol::VERSION) =>
            {
                self.phase = Phase::Booting;
                return Heard::Hello;
            }
            (Phase::Greeting, _) => {
                actions.push(Action::Note(Note::NotOurs { pid }));
                self.kill(now, actions);
                return Heard::Stranger;
            }
            (Phase::Booting, FromChild::Ready) => {
                self.phase = Phase::Ready { since: now };
                actions.push(Action::Note(Note::Ready { pid }));
                return Heard::Ready;
            }
            (_, FromChild::Hb(beat)) => {
                self.beat = Some(beat);
                return Heard::Beat;
            }
            (_, FromChild::Draining { why }) => actions.push(Action::Note(Note::Draining { pid, why })),
            (_, FromChild::Bye { why, code }) => actions.push(Action::Note(Note::Bye { pid, why, code })),
            (_, FromChild::Warn { code, message }) => {
                actions.push(Action::Note(Note::Warned { pid, code, message }));
            }
            // A second hello or ready tells nothing new, and a master has no slots to be full; the rest is not for this.
            (
                _,
                FromChild::Hello { .. }
                | FromChild::Ready
                | FromChild::Full { .. }
                | FromChild::Figure(_)
                | FromChild::Demand { .. }
                | FromChild::Standing(_)
                | FromChild::Answer { .. },
            ) => {}
        }
        Heard::Nothing
    }

    pub(super) fn send(&self, message: ToChild, actions: &mut Vec<Action>) {
        if self.is_welcome() {
            actions.push(Action::Send { pid: self.pid, message });
        }
    }

    pub(super) fn kill(&mut self, now: Mono, actions: &mut Vec<Action>) {
        actions.push(Action::Kill { pid: self.pid });
        self.phase = Phase::Killing { until: now + KILL };
    }

    /// Time has passed. Answers whether it is to be left to itself, since not even SIGKILL ends it; if it ever ends, it is
    /// reaped like an orphan.
    pub(super) fn time(&mut self, now: Mono, actions: &mut Vec<Action>) -> bool {
        let pid = self.pid;
        match self.phase {
            Phase::Greeting | Phase::Booting | Phase::Ready { .. } if now >= self.heard + SILENCE => {
                actions.push(Action::Note(Note::Silent { pid, since: now.since(self.heard) }));
                actions.push(Action::Abort { pid });
                self.phase = Phase::Aborting { until: now + ABORT };
            }
            Phase::Aborting { until } if now >= until => self.kill(now, actions),
            Phase::Killing { until } if now >= until => {
                actions.push(Action::Note(Note::Stuck { pid }));
                actions.push(Action::Forget { pid });
                return true;
            }
            _ => {}
        }
        false
    }

    /// In words.
    pub(super) const fn describe(&self) -> &'static str {
        match self.phase {
            Phase::Greeting => "started",
            Phase::Booting => "booting",
            Phase::Ready { .. } => "ready",
            Phase::Aborting { .. } | Phase::Killing { .. } => "being killed",
        }
    }
}
