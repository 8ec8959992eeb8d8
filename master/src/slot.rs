//! One place for a worker process: its life from the spawn to the exit, and the pause before the next. Pure.
//!
//! ```text
//! Empty → Spawning → Hello → Booting → Serving ⇄ Suspect
//!   ↑                                     ↓         ↓
//!   │                  Draining → Releasing → Aborting → Killing → Stuck
//!   └─ Backoff ← Reaping ←── (an exit, seen in any of these) ──────┘
//! ```
//!
//! Whoever is waited for has a deadline, and each deadline leads one step further down; the exit is the only way out.
//! Lines and exits are for one incarnation; what comes of an earlier one is dropped by [`Slot::step`].

mod death;
mod life;

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::exit;
use roundsman_shared::protocol::{FromChild, ToChild};
use roundsman_shared::settings::Detection;

pub use self::death::{Blame, Death, Exit, Fate};
pub use self::life::{Life, Phase};

/// A worker that has lived so long is healthy, whether or not it had a job.
const HEALTHY: Duration = Duration::from_secs(30);
const BACKOFF_FIRST: f64 = 0.25;
const BACKOFF_FACTOR: f64 = 1.7;
const BACKOFF_CAP: f64 = 30.0;

/// A place, numbered from 1 in its pool.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Counts the processes that this slot has had.
    pub incarnation: u64,
    pub state: State,
    /// Deaths in a row before the first finished job.
    failures: u32,
}

#[derive(Debug, Clone)]
pub enum State {
    Empty,
    Backoff { until: Mono },
    Alive(Box<Life>),
}

#[derive(Debug, Clone)]
pub enum Event {
    Spawn,
    Spawned {
        pid: u32,
    },
    /// `misfit`: there is no such program, or it cannot be run.
    SpawnFailed {
        misfit: bool,
        jitter: f64,
    },
    Line(FromChild),
    /// More lines than anybody needs.
    Noisy,
    /// It does not read its pipe, or floods ours.
    Hung {
        why: &'static str,
    },
    /// What it says is not the protocol.
    Garbled,
    /// Finish what runs, and leave; within `by`, else by the jobs' own timeouts.
    Drain {
        by: Option<Duration>,
        why: String,
    },
    /// Give everything back and leave.
    Release,
    /// Its exit was seen; nothing may be sent to it from now on.
    Gone,
    /// The exit is known, and nothing of it is left. `ran`: jobs were running then. `jitter` lies in -1 to 1.
    Reaped {
        exit: Exit,
        ran: bool,
        jitter: f64,
    },
    /// A moment passed. `blind`: the master itself does not reach the store.
    Time {
        blind: bool,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Spawn,
    /// The answer to `hello`.
    Welcome,
    Send(ToChild),
    Signal {
        group: bool,
        signal: Deadly,
    },
    /// It may take jobs from now on.
    Ready,
    Died(Death),
    /// For the log.
    Note(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadly {
    Term,
    Cont,
    Abort,
    Kill,
}

impl Default for Slot {
    fn default() -> Self {
        Self { incarnation: 0, state: State::Empty, failures: 0 }
    }
}

impl Slot {
    #[must_use]
    pub fn life(&self) -> Option<&Life> {
        match &self.state {
            State::Alive(life) => Some(life),
            State::Empty | State::Backoff { .. } => None,
        }
    }

    pub fn life_mut(&mut self) -> Option<&mut Life> {
        match &mut self.state {
            State::Alive(life) => Some(life),
            State::Empty | State::Backoff { .. } => None,
        }
    }

    /// Whether it counts towards what the pool is to have: there, or waiting to be again.
    #[must_use]
    pub fn is_filled(&self) -> bool {
        match &self.state {
            State::Empty => false,
            State::Backoff { .. } => true,
            State::Alive(life) => life.stays(),
        }
    }

    /// Nothing here waits longer than until then.
    #[must_use]
    pub fn next_deadline(&self, detection: &Detection) -> Option<Mono> {
        match &self.state {
            State::Empty => None,
            State::Backoff { until } => Some(*until),
            State::Alive(life) => life.next_deadline(detection),
        }
    }

    /// Moves every deadline: the master itself was late, and has judged nobody meanwhile.
    pub fn shift(&mut self, late: Duration) {
        let State::Alive(life) = &mut self.state else { return };
        life.heard = life.heard + late;
        life.ticked = life.ticked + late;
        match &mut life.phase {
            Phase::Hello { by }
            | Phase::Booting { by }
            | Phase::Draining { by }
            | Phase::Releasing { by }
            | Phase::Aborting { by }
            | Phase::Killing { by } => *by = *by + late,
            Phase::Spawning | Phase::Serving | Phase::Suspect | Phase::Stuck | Phase::Reaping => {}
        }
    }

    /// Forgets what went wrong, so that the next start is at once.
    pub fn forgive(&mut self) {
        self.failures = 0;
        if matches!(self.state, State::Backoff { .. }) {
            self.state = State::Empty;
        }
    }

    /// See the module's text. Total: what does not fit the state changes nothing.
    pub fn step(
        &mut self,
        now: Mono,
        incarnation: u64,
        event: Event,
        detection: &Detection,
        out: &mut Vec<Action>,
    ) {
        if matches!(event, Event::Spawn) {
            if matches!(self.state, State::Empty) {
                self.incarnation += 1;
                self.state = State::Alive(Box::new(Life::new(now)));
                out.push(Action::Spawn);
            }
            return;
        }
        if incarnation != self.incarnation {
            return;
        }
        let life = match &mut self.state {
            State::Alive(life) => life,
            State::Backoff { until } => {
                if matches!(event, Event::Time { .. }) && now >= *until {
                    self.state = State::Empty;
                }
                return;
            }
            State::Empty => return,
        };
        match event {
            Event::Reaped { exit, ran, jitter } => {
                let death = life.death(exit, ran);
                let lived = life.ready.is_some_and(|ready| now.since(ready) >= HEALTHY);
                self.bury(now, death, lived, jitter, out);
            }
            Event::SpawnFailed { misfit, jitter } => {
                let blame = if misfit { Blame::SetUp } else { Blame::Worker { ready: false } };
                let exit = Exit::Code(i32::from(exit::NO_PROGRAM));
                let death = Death { exit, fate: None, blame, peak_kb: 0 };
                self.bury(now, death, false, jitter, out);
            }
            other => {
                life.step(now, other, detection, out);
                if life.beat.done + life.beat.failed > 0 {
                    self.failures = 0;
                }
            }
        }
    }

    fn bury(&mut self, now: Mono, death: Death, lived: bool, jitter: f64, out: &mut Vec<Action>) {
        let retired = death.fate == Some(Fate::Retired);
        let early = self.life().is_some_and(|life| life.ready.is_none());
        // An end before `ready` is never normal, whatever the exit code says, unless we wanted it.
        let failed = matches!(death.blame, Blame::Worker { .. } | Blame::SetUp) || (early && !retired);
        self.state = if failed && !lived {
            let span =
                BACKOFF_FIRST * BACKOFF_FACTOR.powi(i32::try_from(self.failures).unwrap_or(64).min(64));
            self.failures += 1;
            let delay =
                Duration::from_secs_f64(span.min(BACKOFF_CAP) * (1.0 + 0.25 * jitter.clamp(-1.0, 1.0)));
            State::Backoff { until: now + delay }
        } else {
            State::Empty
        };
        out.push(Action::Died(death));
    }
}

#[cfg(test)]
mod tests;
