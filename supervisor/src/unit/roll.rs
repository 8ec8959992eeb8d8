//! Rolling onto another program: a second master, the heir, is started from it beside the first, and takes the work over
//! step by step; the first stays until the heir has proved itself, and takes all back if it does not.
//!
//! ```text
//!           heir is ready        heir has all it is to have            first has no parts left
//!  Growing ───────────────▶ Growing, a step more ─ … 100 % ─▶ Handing ───────────────▶ Watching ──▶ the heir is the master,
//!     │  dies, is silent, cannot start its workers, takes too long │                      │         the first may finish
//!     └───────────────────────────────▶ Undoing ◀──────────────────┴──────────────────────┘
//!                                          └─ the heir is gone: all is as before
//! ```
//!
//! Each step starts before it stops: the first master lets workers go only when as many of the heir's are ready, and these
//! finish their jobs. What one host may have only one of (the intakes) changes hands last.

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::control::Reply;
use roundsman_shared::exit;
use roundsman_shared::protocol::{Standing, StopMode, ToChild};

use super::charge::Charge;
use super::{Action, Asker, FOREVER, OVER_GRACE};
use crate::note::Note;

/// From the start of an heir until it has everything; what takes longer is undone.
pub(super) const WITHIN: Duration = Duration::from_secs(120);
/// By default so many percent change hands at a time.
const STEP: u8 = 25;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stage {
    /// The heir is to have so many percent of the workers.
    Growing { share: u8 },
    /// It has all workers; the first master's other processes are to end.
    Handing,
    /// It has everything, and is watched.
    Watching { until: Mono },
    /// It is told to leave.
    Undoing { until: Mono, why: String },
}

/// A roll under way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Roll {
    /// `None` while it is being started.
    pub(super) heir: Option<Charge>,
    pub(super) stage: Stage,
    /// Workers at a time, where somebody said so.
    batch: Option<u32>,
    step: u8,
    watch: Duration,
    by: Mono,
    /// Who waits for its end.
    pub(super) asker: Option<Asker>,
}

/// How a roll goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Goes,
    /// The heir is to be the master.
    Passed,
    /// The heir is gone for good.
    Undone,
}

impl Roll {
    pub(super) fn new(now: Mono, batch: Option<u32>, watch: Duration, asker: Option<Asker>) -> Self {
        let by = now + WITHIN;
        Self { heir: None, stage: Stage::Growing { share: STEP }, batch, step: STEP, watch, by, asker }
    }

    /// What the heir is to begin with.
    pub(super) const fn first_share(&self) -> u8 {
        self.step
    }

    /// So many workers at a time, of so many.
    fn pace(&mut self, wanted: u32) {
        if let Some(batch) = self.batch.take() {
            let percent = (u64::from(batch) * 100).div_ceil(u64::from(wanted.max(1))).clamp(1, 100);
            self.step = u8::try_from(percent).unwrap_or(100);
        }
    }

    pub(super) fn next_deadline(&self) -> Mono {
        let own = match self.stage {
            Stage::Growing { .. } | Stage::Handing => self.by,
            Stage::Watching { until } | Stage::Undoing { until, .. } => until,
        };
        self.heir.as_ref().map_or(own, |heir| own.min(heir.next_deadline()))
    }

    pub(super) fn shift(&mut self, late: Duration) {
        self.by = self.by + late;
        match &mut self.stage {
            Stage::Growing { .. } | Stage::Handing => {}
            Stage::Watching { until } | Stage::Undoing { until, .. } => *until = *until + late,
        }
        if let Some(heir) = &mut self.heir {
            heir.shift(late);
        }
    }

    fn says(&self, text: String, actions: &mut Vec<Action>) {
        if let Some(to) = self.asker {
            actions.push(Action::Reply { to, reply: Reply::Says { text } });
        }
    }

    /// Both masters are told what each is to have from now on; the heir first.
    fn share(&mut self, share: u8, first: &Charge, actions: &mut Vec<Action>) {
        if let Some(heir) = &self.heir {
            heir.send(ToChild::Share { percent: share }, actions);
        }
        let left = 100 - share.saturating_sub(self.step);
        first.send(ToChild::Share { percent: left.min(100) }, actions);
        self.stage = Stage::Growing { share };
    }

    /// The heir's word of how it stands.
    pub(super) fn heir_stands(
        &mut self,
        now: Mono,
        standing: &Standing,
        first: &Charge,
        grace: Duration,
        actions: &mut Vec<Action>,
    ) {
        if matches!(self.stage, Stage::Undoing { .. }) {
            // Its jobs may take long; what there may be one only of is served again at once.
            if !standing.leads && standing.parts == 0 {
                first.send(ToChild::Lead { orphans: false }, actions);
            }
            return;
        }
        if let Some(why) = &standing.failing {
            return self.undo(now, why.clone(), first, grace, actions);
        }
        let Stage::Growing { share } = self.stage else { return };
        if !standing.settled || standing.share != share {
            return;
        }
        let Standing { ready, .. } = standing;
        self.says(format!("{share} %: {ready} workers of the new program are ready"), actions);
        if share < 100 {
            return self.share(share.saturating_add(self.step).min(100), first, actions);
        }
        first.send(ToChild::Share { percent: 0 }, actions);
        first.send(ToChild::Follow, actions);
        self.stage = Stage::Handing;
    }

    /// The first master's word.
    pub(super) fn first_stands(&mut self, now: Mono, standing: &Standing, actions: &mut Vec<Action>) {
        if matches!(self.stage, Stage::Growing { .. }) && standing.share == 100 {
            self.pace(standing.wanted);
        }
        if self.stage != Stage::Handing || standing.leads || standing.parts > 0 {
            return;
        }
        if let Some(heir) = &self.heir {
            heir.send(ToChild::Lead { orphans: false }, actions);
            self.says(format!("master {} serves; it is watched", heir.pid), actions);
        }
        self.stage = Stage::Watching { until: now + self.watch };
    }

    /// Sends the heir away and gives all back to the first master.
    pub(super) fn undo(
        &mut self,
        now: Mono,
        why: String,
        first: &Charge,
        grace: Duration,
        actions: &mut Vec<Action>,
    ) {
        if matches!(self.stage, Stage::Undoing { .. }) {
            return;
        }
        actions.push(Action::Note(Note::Undoing { why: why.clone() }));
        self.says(format!("going back to the old program: {why}"), actions);
        first.send(ToChild::Share { percent: 100 }, actions);
        if let Some(heir) = &mut self.heir {
            if heir.is_welcome() {
                let by_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                let why = "its program is no good".to_owned();
                heir.send(ToChild::Follow, actions);
                heir.send(ToChild::Stop { mode: StopMode::Drain, by_ms, why }, actions);
            } else if !heir.is_condemned() {
                heir.kill(now, actions);
            }
        }
        self.stage = Stage::Undoing { until: now + grace + OVER_GRACE, why };
    }

    /// Time has passed.
    pub(super) fn time(
        &mut self,
        now: Mono,
        first: &Charge,
        grace: Duration,
        actions: &mut Vec<Action>,
    ) -> Verdict {
        if let Some(heir) = &mut self.heir {
            let was = heir.is_condemned();
            let stuck = heir.time(now, actions);
            if !was && heir.is_condemned() {
                self.undo(now, "the new master is silent".to_owned(), first, grace, actions);
            }
            if stuck {
                return Verdict::Undone;
            }
        }
        match &self.stage {
            Stage::Growing { .. } | Stage::Handing if now >= self.by => {
                let why = format!("the new program has not taken over within {} s", WITHIN.as_secs());
                self.undo(now, why, first, grace, actions);
            }
            Stage::Watching { until } if now >= *until => return Verdict::Passed,
            Stage::Undoing { until, .. } if now >= *until => {
                if let Some(heir) = self.heir.as_mut().filter(|heir| !heir.is_condemned()) {
                    heir.kill(now, actions);
                }
            }
            _ => {}
        }
        Verdict::Goes
    }

    /// The heir is the master from now on; the other may finish what it runs.
    pub(super) fn pass(self, first: &Charge, actions: &mut Vec<Action>) -> Option<Charge> {
        let heir = self.heir?;
        let by_ms = u64::try_from(FOREVER.as_millis()).unwrap_or(u64::MAX);
        let why = "another program is served".to_owned();
        first.send(ToChild::Stop { mode: StopMode::Drain, by_ms, why }, actions);
        actions.push(Action::Adopt);
        actions.push(Action::Note(Note::Rolled { from: first.pid, to: heir.pid }));
        if let Some(to) = self.asker {
            let text = format!(
                "master {} serves; {} leaves when the jobs of its workers have ended",
                heir.pid, first.pid
            );
            actions.push(Action::Reply { to, reply: Reply::Done { text } });
        }
        Some(heir)
    }

    /// It is over without a change.
    pub(super) fn refuse(self, last: Option<&Charge>, actions: &mut Vec<Action>) {
        if let Some(first) = last {
            first.send(ToChild::Share { percent: 100 }, actions);
            first.send(ToChild::Lead { orphans: false }, actions);
        }
        let why = match self.stage {
            Stage::Undoing { why, .. } => why,
            Stage::Growing { .. } | Stage::Handing | Stage::Watching { .. } => "it was given up".to_owned(),
        };
        actions.push(Action::Note(Note::NotRolled { why: why.clone() }));
        if let Some(to) = self.asker {
            let text = format!("not deployed, the old program serves: {why}");
            actions.push(Action::Reply { to, reply: Reply::Refused { code: exit::FAILED, text } });
        }
    }
}
