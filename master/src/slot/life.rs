//! The process in a slot: what is known of it, and what is done about it. See [`super`] for its states.

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::protocol::{self, Beat, Doing, FromChild, RunningJob, StopMode, ToChild};
use roundsman_shared::settings::Detection;

use super::{Action, Blame, Deadly, Death, Event, Exit, Fate};

/// From the spawn to `hello`.
const HELLO: Duration = Duration::from_secs(5);
/// From `hello` to `ready`; prolonged while the worker says that it cannot reach the store.
const BOOT: Duration = Duration::from_secs(15);
/// The longest that a worker may boot while its master does reach the store.
const BOOT_CAP: Duration = Duration::from_secs(60);
/// To leave after it was told to give everything back.
const RELEASE: Duration = Duration::from_secs(5);
/// To leave after SIGABRT.
const ABORT: Duration = Duration::from_secs(2);
/// To be gone after SIGKILL.
const KILL: Duration = Duration::from_secs(5);
/// Longer than any job: each ends by its own timeout before.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);
/// One that leaves and has run nothing for so long is helped along.
const LINGER: Duration = Duration::from_secs(10);
/// A worker is taken to be idle again so long after it was woken, unless its beat says otherwise.
const WAKE_OUTSTANDING: Duration = Duration::from_millis(2);

/// A process, from the order to start it to its reaping.
#[derive(Debug, Clone)]
pub struct Life {
    pub phase: Phase,
    pub pid: u32,
    pub since: Mono,
    pub ready: Option<Mono>,
    /// When it was last heard.
    pub heard: Mono,
    pub beat: Beat,
    /// The most memory with which it was seen, in KiB.
    pub peak_kb: u64,
    /// When the tick of its executor last moved.
    pub(super) ticked: Mono,
    /// Since when it runs nothing.
    pub idle: Option<Mono>,
    /// A wake-up that it may still be acting on, and since when.
    pub woken: Option<Mono>,
    /// Why we ended it, once we do.
    pub fate: Option<Fate>,
    /// It began to leave by itself, or was told to before it could hear.
    leaving: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Spawning,
    Hello {
        by: Mono,
    },
    Booting {
        by: Mono,
    },
    Serving,
    Suspect,
    Draining {
        by: Mono,
    },
    Releasing {
        by: Mono,
    },
    Aborting {
        by: Mono,
    },
    Killing {
        by: Mono,
    },
    /// It does not even die by SIGKILL: in the kernel, waiting for a device.
    Stuck,
    Reaping,
}

impl Life {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            phase: Phase::Spawning,
            pid: 0,
            since: now,
            ready: None,
            heard: now,
            beat: Beat::default(),
            peak_kb: 0,
            ticked: now,
            idle: None,
            woken: None,
            fate: None,
            leaving: false,
        }
    }

    /// Whether it is to stay as far as anybody knows.
    #[must_use]
    pub fn stays(&self) -> bool {
        !self.leaving
            && self.fate.is_none()
            && matches!(
                self.phase,
                Phase::Spawning
                    | Phase::Hello { .. }
                    | Phase::Booting { .. }
                    | Phase::Serving
                    | Phase::Suspect
            )
    }

    /// Started, but not yet of use.
    #[must_use]
    pub fn is_unready(&self) -> bool {
        matches!(self.phase, Phase::Spawning | Phase::Hello { .. } | Phase::Booting { .. })
    }

    /// Whether it has said that it leaves, or was told to.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Serves and runs nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Serving && !self.leaving && self.idle.is_some()
    }

    #[must_use]
    pub fn is_woken(&self, now: Mono) -> bool {
        self.woken.is_some_and(|woken| now.since(woken) < WAKE_OUTSTANDING)
    }

    /// What `status` shows.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Spawning | Phase::Hello { .. } | Phase::Booting { .. } => "starting",
            Phase::Serving if self.leaving => "draining",
            Phase::Serving => match self.beat.doing {
                Doing::Starting | Doing::Idle => "idle",
                Doing::Busy => "busy",
                Doing::Draining => "draining",
            },
            Phase::Suspect => "suspect",
            Phase::Draining { .. } | Phase::Releasing { .. } => "draining",
            Phase::Aborting { .. } | Phase::Killing { .. } => "killing",
            Phase::Stuck => "stuck",
            Phase::Reaping => "ended",
        }
    }

    pub(super) fn next_deadline(&self, detection: &Detection) -> Option<Mono> {
        let vital = || {
            let silence = self.heard + detection.silence;
            let overdue = self.beat.jobs.iter().map(|job| job.left).min().map(|left| {
                let left = Duration::from_millis(u64::try_from(left.saturating_add(5000)).unwrap_or(0));
                self.heard + left
            });
            overdue.map_or(silence, |overdue| overdue.min(silence))
        };
        match self.phase {
            Phase::Spawning | Phase::Stuck | Phase::Reaping => None,
            Phase::Serving => Some(vital().min(self.heard + detection.suspect)),
            Phase::Suspect => Some(vital()),
            Phase::Draining { by } => {
                let by = by.min(vital());
                Some(self.idle.map_or(by, |idle| by.min(idle + LINGER)))
            }
            Phase::Hello { by }
            | Phase::Booting { by }
            | Phase::Releasing { by }
            | Phase::Aborting { by }
            | Phase::Killing { by } => Some(by),
        }
    }

    pub(super) fn step(&mut self, now: Mono, event: Event, detection: &Detection, out: &mut Vec<Action>) {
        if self.phase == Phase::Reaping {
            return;
        }
        match event {
            Event::Spawned { pid } if self.phase == Phase::Spawning => {
                self.pid = pid;
                self.heard = now;
                self.phase = Phase::Hello { by: now + HELLO };
                if self.leaving {
                    self.release(now, out);
                }
            }
            Event::Line(line) => self.line(now, line, out),
            Event::Time { blind } => self.time(now, blind, detection, out),
            Event::Gone => self.phase = Phase::Reaping,
            Event::Noisy if self.phase == Phase::Serving => self.phase = Phase::Suspect,
            Event::Hung { why } => self.stall(now, why.to_owned(), out),
            Event::Garbled => {
                out.push(Action::Note("what it says is not the protocol; it is replaced".to_owned()));
                self.drain(now, None, "protocol", out);
            }
            Event::Drain { by, why } => self.drain(now, by, &why, out),
            Event::Release => match self.phase {
                Phase::Spawning => self.leaving = true,
                Phase::Hello { .. }
                | Phase::Booting { .. }
                | Phase::Serving
                | Phase::Suspect
                | Phase::Draining { .. } => self.release(now, out),
                Phase::Releasing { .. }
                | Phase::Aborting { .. }
                | Phase::Killing { .. }
                | Phase::Stuck
                | Phase::Reaping => {}
            },
            Event::Spawn
            | Event::Spawned { .. }
            | Event::Noisy
            | Event::SpawnFailed { .. }
            | Event::Reaped { .. } => {}
        }
    }

    fn line(&mut self, now: Mono, line: FromChild, out: &mut Vec<Action>) {
        self.heard = now;
        if self.phase == Phase::Suspect {
            self.phase = Phase::Serving;
        }
        match line {
            FromChild::Hello { v, build, .. } => match self.phase {
                Phase::Hello { .. } if v[0] <= protocol::VERSION && protocol::VERSION <= v[1] => {
                    self.phase = Phase::Booting { by: now + BOOT };
                    out.push(Action::Welcome);
                }
                Phase::Hello { .. } => {
                    let why = format!("{build} speaks versions {} to {} of the protocol", v[0], v[1]);
                    self.unready(now, why, out);
                }
                _ => self.step_garbled(now, out),
            },
            FromChild::Ready => self.become_ready(now, out),
            FromChild::Hb(beat) => self.beat(now, beat, out),
            // A sign of life, and no more to a slot.
            FromChild::Figure(_)
            | FromChild::Demand { .. }
            | FromChild::Standing(_)
            | FromChild::Answer { .. } => {}
            FromChild::Draining { .. } => self.leave_by_itself(now),
            FromChild::Bye { .. } => {
                self.leaving = true;
                if matches!(self.phase, Phase::Booting { .. } | Phase::Serving) {
                    self.phase = Phase::Draining { by: now + RELEASE };
                }
            }
            FromChild::Full { .. } => {
                self.woken = Some(now);
                self.idle = None;
            }
            FromChild::Warn { code, message } => out.push(Action::Note(format!("{code}: {message}"))),
        }
    }

    fn step_garbled(&mut self, now: Mono, out: &mut Vec<Action>) {
        self.drain(now, None, "protocol", out);
    }

    fn become_ready(&mut self, now: Mono, out: &mut Vec<Action>) {
        if let Phase::Booting { .. } = self.phase {
            self.phase = Phase::Serving;
            self.ready = Some(now);
            self.ticked = now;
            if self.beat.running == 0 {
                self.idle = Some(now);
            }
            out.push(Action::Ready);
        }
    }

    fn beat(&mut self, now: Mono, beat: Beat, out: &mut Vec<Action>) {
        if beat.tick != self.beat.tick {
            self.ticked = now;
        }
        let busy = beat.running > 0 || !beat.jobs.is_empty() || beat.doing == Doing::Busy;
        self.idle = match (busy, self.idle) {
            (true, _) => None,
            (false, Some(since)) if beat.claimed == self.beat.claimed => Some(since),
            (false, _) => Some(now),
        };
        self.peak_kb = self.peak_kb.max(beat.peak_kb).max(beat.rss_kb);
        self.beat = beat;
        match self.beat.doing {
            Doing::Starting => {
                if let Phase::Booting { by } = &mut self.phase
                    && !self.beat.store_ok
                {
                    *by = (*by).max((now + BOOT).min(self.since + BOOT_CAP));
                }
            }
            // The line `ready` may have been lost; a state says the same.
            Doing::Idle | Doing::Busy => self.become_ready(now, out),
            Doing::Draining => self.leave_by_itself(now),
        }
    }

    /// It has had enough jobs, or somebody else told it to stop.
    fn leave_by_itself(&mut self, now: Mono) {
        self.leaving = true;
        if matches!(self.phase, Phase::Booting { .. } | Phase::Serving) {
            self.phase = Phase::Draining { by: now + FOREVER };
            self.idle = self.idle.map(|_| now);
        }
    }

    /// Without a bound its jobs end by their own timeouts. No beat is new enough to tell how long that is.
    fn drain(&mut self, now: Mono, by: Option<Duration>, why: &str, out: &mut Vec<Action>) {
        let by = by.unwrap_or(FOREVER);
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        match &mut self.phase {
            Phase::Spawning => self.leaving = true,
            Phase::Draining { by: until } if self.fate.is_some() => {
                if now + by < *until {
                    *until = now + by;
                    out.push(Action::Send(ToChild::Stop {
                        mode: StopMode::Drain,
                        by_ms,
                        why: why.to_owned(),
                    }));
                }
            }
            Phase::Hello { .. }
            | Phase::Booting { .. }
            | Phase::Serving
            | Phase::Suspect
            | Phase::Draining { .. } => {
                self.fate = Some(Fate::Retired);
                self.leaving = true;
                // Who is not ready has nothing to finish.
                let by = if self.ready.is_some() { by } else { by.min(RELEASE) };
                self.phase = Phase::Draining { by: now + by };
                self.idle = self.idle.map(|_| now);
                out.push(Action::Send(ToChild::Stop { mode: StopMode::Drain, by_ms, why: why.to_owned() }));
            }
            Phase::Releasing { .. }
            | Phase::Aborting { .. }
            | Phase::Killing { .. }
            | Phase::Stuck
            | Phase::Reaping => {}
        }
    }

    fn release(&mut self, now: Mono, out: &mut Vec<Action>) {
        self.leaving = true;
        self.fate.get_or_insert(Fate::Retired);
        self.phase = Phase::Releasing { by: now + RELEASE };
        let why = "the time to finish is over".to_owned();
        out.push(Action::Send(ToChild::Stop { mode: StopMode::Release, by_ms: 0, why }));
        out.push(Action::Signal { group: false, signal: Deadly::Term });
        out.push(Action::Signal { group: false, signal: Deadly::Cont });
    }

    fn abort(&mut self, now: Mono, fate: Fate, out: &mut Vec<Action>) {
        if !matches!(self.fate, Some(Fate::TimedOut { .. } | Fate::Stalled { .. })) {
            self.fate = Some(fate);
        }
        self.phase = Phase::Aborting { by: now + ABORT };
        out.push(Action::Signal { group: false, signal: Deadly::Abort });
    }

    fn kill(&mut self, now: Mono, out: &mut Vec<Action>) {
        self.phase = Phase::Killing { by: now + KILL };
        out.push(Action::Signal { group: true, signal: Deadly::Kill });
    }

    fn unready(&mut self, now: Mono, why: String, out: &mut Vec<Action>) {
        out.push(Action::Note(format!("it is killed: {why}")));
        self.fate.get_or_insert(Fate::Unready { why });
        self.kill(now, out);
    }

    fn stall(&mut self, now: Mono, why: String, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Serving | Phase::Suspect | Phase::Draining { .. } => {
                out.push(Action::Note(format!("it is killed: {why}")));
                self.abort(now, Fate::Stalled { why }, out);
            }
            Phase::Hello { .. } | Phase::Booting { .. } => self.unready(now, why, out),
            Phase::Spawning
            | Phase::Releasing { .. }
            | Phase::Aborting { .. }
            | Phase::Killing { .. }
            | Phase::Stuck
            | Phase::Reaping => {}
        }
    }

    fn time(&mut self, now: Mono, blind: bool, detection: &Detection, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Hello { by } if now >= by => self.unready(now, format!("no hello in {HELLO:?}"), out),
            Phase::Booting { by } if now >= by => {
                if blind && now.since(self.heard) < detection.silence {
                    self.phase = Phase::Booting { by: now + BOOT };
                } else {
                    self.unready(now, "it did not become ready in time".to_owned(), out);
                }
            }
            Phase::Serving | Phase::Suspect | Phase::Draining { .. } => self.vital(now, detection, out),
            Phase::Releasing { by } if now >= by => self.abort(now, Fate::Retired, out),
            Phase::Aborting { by } if now >= by => self.kill(now, out),
            Phase::Killing { by } if now >= by => {
                self.phase = Phase::Stuck;
                out.push(Action::Note(
                    "it does not die by SIGKILL; its place is lost until it does".to_owned(),
                ));
            }
            Phase::Spawning
            | Phase::Hello { .. }
            | Phase::Booting { .. }
            | Phase::Releasing { .. }
            | Phase::Aborting { .. }
            | Phase::Killing { .. }
            | Phase::Stuck
            | Phase::Reaping => {}
        }
    }

    /// Whether it still shows life, and its jobs keep to their time.
    fn vital(&mut self, now: Mono, detection: &Detection, out: &mut Vec<Action>) {
        let silent = now.since(self.heard);
        let elapsed = i64::try_from(silent.as_millis()).unwrap_or(i64::MAX);
        let over = |job: &RunningJob, by: i64| job.left.saturating_sub(elapsed) < -by;
        let overdue: Vec<_> = self
            .beat
            .jobs
            .iter()
            .filter(|job| over(job, 5000))
            .map(|job| (job.queue.clone(), job.id.clone()))
            .collect();
        if !overdue.is_empty() {
            let names =
                overdue.iter().map(|(queue, id)| format!("{queue}/{id}")).collect::<Vec<_>>().join(", ");
            out.push(Action::Note(format!("it is killed: {names} went on after the timeout")));
            return self.abort(now, Fate::TimedOut { jobs: overdue }, out);
        }
        if silent >= detection.silence {
            return self.stall(now, format!("no sign of life for {:.1} s", silent.as_secs_f64()), out);
        }
        // A tick that never rose is one that nobody counts. A job inside its time may hold the executor.
        let inside = self.beat.running > 0 && !self.beat.jobs.iter().any(|job| over(job, 0));
        let frozen = self.heard.since(self.ticked);
        if self.beat.tick > 0 && !inside && frozen >= detection.frozen {
            return self.stall(
                now,
                format!("its executor has not moved for {:.1} s", frozen.as_secs_f64()),
                out,
            );
        }
        match self.phase {
            Phase::Serving if silent >= detection.suspect => {
                self.phase = Phase::Suspect;
                out.push(Action::Send(ToChild::Ping));
            }
            Phase::Draining { by } if now >= by => self.release(now, out),
            // Nothing that it runs holds it any more.
            Phase::Draining { .. } if self.idle.is_some_and(|idle| now.since(idle) >= LINGER) => {
                self.release(now, out);
            }
            _ => {}
        }
    }

    /// `ran`: it had jobs to answer for when it ended.
    pub(super) fn death(&self, exit: Exit, ran: bool) -> Death {
        let finished = self.beat.done + self.beat.failed > 0;
        let failure = if finished { Blame::Job } else { Blame::Worker { ready: self.ready.is_some() } };
        let blame = match (&self.fate, exit) {
            (Some(Fate::Retired), _) => Blame::Nobody,
            (Some(_), _) => failure,
            (None, Exit::Code(0)) if ran => failure,
            (None, Exit::Code(0 | 75) | Exit::Signal(9) | Exit::OutOfMemory { signal: 9 }) => Blame::Nobody,
            (None, Exit::Code(64 | 78 | 126 | 127)) => Blame::SetUp,
            (None, Exit::Code(_) | Exit::Signal(_) | Exit::OutOfMemory { .. }) => failure,
        };
        Death { exit, fate: self.fate.clone(), blame, peak_kb: self.peak_kb }
    }
}
