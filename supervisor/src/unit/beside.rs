//! What a unit does beside keeping its master alive: orders that are answered, the roll onto another program, masters that
//! are retired.

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::control::Reply;
use roundsman_shared::exit;
use roundsman_shared::protocol::{FromChild, Question, ToChild};

use super::charge::{Charge, Heard};
use super::roll::{Roll, Stage, Verdict};
use super::{ANSWER, Action, Asker, Exit, MOST_RETIRED, Master, Unit, Wish};
use crate::note::Note;

fn refuse(asker: Option<Asker>, code: u8, text: &str, actions: &mut Vec<Action>) {
    match asker {
        Some(to) => actions.push(Action::Reply { to, reply: Reply::Refused { code, text: text.to_owned() } }),
        None => actions.push(Action::Note(Note::NotRolled { why: text.to_owned() })),
    }
}

impl Unit {
    pub(super) fn on_scale(
        &mut self,
        pool: String,
        to: Option<u32>,
        asker: Option<Asker>,
        actions: &mut Vec<Action>,
    ) {
        let text = match to {
            Some(to) => {
                self.scaled.insert(pool.clone(), to);
                let workers = if to == 1 { "worker" } else { "workers" };
                format!("pool {pool}: {to} {workers}, until `scale {pool} auto` or the end of this fleet")
            }
            None => {
                self.scaled.remove(&pool);
                format!("pool {pool}: as many workers as it needs")
            }
        };
        self.send_all(&ToChild::Scale { pool, to }, actions);
        if let Some(to) = asker {
            actions.push(Action::Reply { to, reply: Reply::Done { text } });
        }
    }

    pub(super) fn on_question(
        &mut self,
        now: Mono,
        what: Question,
        asker: Option<Asker>,
        actions: &mut Vec<Action>,
    ) {
        let Some(ask) = asker else { return };
        if self.send(ToChild::Ask { ask, what }, actions) {
            self.questions.insert(ask, now + ANSWER);
        } else {
            refuse(asker, exit::TRY_AGAIN, "there is no master just now; try again in a moment", actions);
        }
    }

    pub(super) fn on_deploy(
        &mut self,
        now: Mono,
        batch: Option<u32>,
        watch: Duration,
        asker: Option<Asker>,
        actions: &mut Vec<Action>,
    ) {
        let ready = matches!(&self.master, Master::Held(charge) if charge.ready_since().is_some());
        let no = match () {
            () if self.wish != Wish::Serve => Some((exit::CONFLICT, "the fleet is stopping")),
            () if self.roll.is_some() => {
                Some((exit::CONFLICT, "another program is being rolled out already"))
            }
            () if !ready => Some((exit::TRY_AGAIN, "there is no master just now; try again in a moment")),
            () if self.retired.len() >= MOST_RETIRED => {
                let why = "the workers of earlier programs are still at their jobs; try again when these have ended";
                Some((exit::TRY_AGAIN, why))
            }
            () => None,
        };
        if let Some((code, text)) = no {
            return refuse(asker, code, text, actions);
        }
        actions.push(Action::Note(Note::Rolling));
        // It answers with how many workers it has.
        self.send(ToChild::Share { percent: 100 }, actions);
        self.roll = Some(Roll::new(now, batch, watch, asker));
        actions.push(Action::Start { heir: true });
        self.tell_status(now, actions);
    }

    pub(super) fn on_heir(&mut self, now: Mono, pid: u32, nonce: u64, actions: &mut Vec<Action>) {
        actions.push(Action::Note(Note::Started { pid }));
        let mut charge = Charge::new(now, pid, nonce);
        let doomed = self.wish != Wish::Serve
            || self.roll.as_ref().is_none_or(|roll| matches!(roll.stage, Stage::Undoing { .. }));
        if doomed {
            charge.kill(now, actions);
        }
        match &mut self.roll {
            Some(roll) => roll.heir = Some(charge),
            // Whoever it was started for is gone: it is watched until it is too.
            None => self.retired.push(charge),
        }
    }

    /// A line of an heir or of one that is retired.
    pub(super) fn on_other_said(
        &mut self,
        now: Mono,
        pid: u32,
        message: FromChild,
        actions: &mut Vec<Action>,
    ) {
        if let Some(charge) = self.retired.iter_mut().find(|charge| charge.pid == pid) {
            charge.hear(now, message, actions);
            return;
        }
        let Some(roll) = &mut self.roll else { return };
        let Some(heir) = roll.heir.as_mut().filter(|heir| heir.pid == pid) else { return };
        if let (FromChild::Standing(standing), Master::Held(first), true) =
            (&message, &self.master, heir.is_welcome())
        {
            roll.heir_stands(now, standing, first, self.grace, actions);
        }
        let share = roll.first_share();
        let Some(heir) = &mut roll.heir else { return };
        match heir.hear(now, message, actions) {
            Heard::Nothing | Heard::Ready | Heard::Beat => {}
            Heard::Hello => {
                if let Stage::Growing { share: first } = &mut roll.stage {
                    *first = share;
                }
                let scaled = self.scaled.clone();
                actions.push(Action::Welcome { pid, heir: Some(share), scaled });
                if self.quiet {
                    heir.send(ToChild::Pause, actions);
                }
            }
            Heard::Stranger => {
                self.undo(now, "it does not speak as a master of ours".to_owned(), actions);
            }
        }
    }

    /// A child ended that is not the master.
    pub(super) fn on_other_exit(&mut self, now: Mono, pid: u32, exit: Exit, actions: &mut Vec<Action>) {
        let retired = self.retired.len();
        self.retired.retain(|charge| charge.pid != pid);
        let is_heir =
            self.roll.as_ref().is_some_and(|roll| roll.heir.as_ref().is_some_and(|it| it.pid == pid));
        if !is_heir && retired == self.retired.len() {
            return actions.push(Action::Note(Note::OrphanEnded { pid, exit }));
        }
        actions.push(Action::Forget { pid });
        let expected = exit == Exit::Code(0);
        actions.push(Action::Note(Note::MasterEnded { pid, exit, expected }));
        if !is_heir && !expected {
            // Its workers are nobody's now.
            self.send(ToChild::Lead { orphans: true }, actions);
        }
        if is_heir {
            if let Some(roll) = &mut self.roll {
                roll.heir = None;
            }
            self.undo(now, format!("the new master ended {exit}"), actions);
            self.undone(actions);
        }
    }

    /// The master has ended while an heir was about to follow it. Answers whether that one does now.
    pub(super) fn is_succeeded(&mut self, now: Mono, pid: u32, actions: &mut Vec<Action>) -> bool {
        let Some(mut roll) = self.roll.take() else { return false };
        let able = roll.heir.as_ref().is_some_and(|heir| heir.ready_since().is_some())
            && !matches!(roll.stage, Stage::Undoing { .. });
        if !able {
            // It was to take over from somebody who is no more: the next master is of the old program.
            if let Some(mut heir) = roll.heir.take() {
                if !heir.is_condemned() {
                    heir.kill(now, actions);
                }
                self.retired.push(heir);
            }
            roll.refuse(None, actions);
            return false;
        }
        let Some(heir) = roll.heir.take() else { return false };
        heir.send(ToChild::Share { percent: 100 }, actions);
        heir.send(ToChild::Lead { orphans: true }, actions);
        actions.push(Action::Adopt);
        actions.push(Action::Note(Note::Rolled { from: pid, to: heir.pid }));
        if let Some(to) = roll.asker {
            let text = format!("master {} serves; {pid} ended before it was asked to", heir.pid);
            actions.push(Action::Reply { to, reply: Reply::Done { text } });
        }
        self.master = Master::Held(heir);
        self.tell_status(now, actions);
        true
    }

    /// Sends an heir away.
    pub(super) fn undo(&mut self, now: Mono, why: String, actions: &mut Vec<Action>) {
        if let (Some(roll), Master::Held(first)) = (&mut self.roll, &self.master) {
            roll.undo(now, why, first, self.grace, actions);
        }
    }

    /// The heir is gone, and all is as before.
    pub(super) fn undone(&mut self, actions: &mut Vec<Action>) {
        let Some(roll) = self.roll.take() else { return };
        let first = if let Master::Held(first) = &self.master { Some(first) } else { None };
        roll.refuse(first, actions);
    }

    /// The fleet stops: there is nothing to roll out any more.
    pub(super) fn abandon(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let Some(mut roll) = self.roll.take() else { return };
        if let Some(mut heir) = roll.heir.take() {
            if !heir.is_welcome() && !heir.is_condemned() {
                heir.kill(now, actions);
            }
            self.retired.push(heir);
        }
        roll.refuse(None, actions);
    }

    /// Time has passed for whoever is not the master.
    pub(super) fn time_beside(&mut self, now: Mono, actions: &mut Vec<Action>) {
        self.retired.retain_mut(|charge| !charge.time(now, actions));
        self.questions.retain(|asker, until| {
            if now >= *until {
                refuse(Some(*asker), exit::TRY_AGAIN, "the master has not answered in time", actions);
            }
            now < *until
        });
        let (Some(roll), Master::Held(first)) = (&mut self.roll, &self.master) else { return };
        match roll.time(now, first, self.grace, actions) {
            Verdict::Goes => {}
            Verdict::Undone => self.undone(actions),
            Verdict::Passed => {
                let Some(heir) = self.roll.take().and_then(|roll| roll.pass(first, actions)) else { return };
                if let Master::Held(first) = std::mem::replace(&mut self.master, Master::Held(heir)) {
                    self.retired.push(first);
                }
                self.tell_status(now, actions);
            }
        }
    }

    /// Nobody waits for nothing when the supervisor leaves.
    pub(super) fn answer_all(&mut self, code: u8, actions: &mut Vec<Action>) {
        for to in std::mem::take(&mut self.stoppers) {
            let reply = match code {
                exit::OK => Reply::Done { text: "the fleet has stopped".to_owned() },
                exit::INTERRUPTED => {
                    Reply::Done { text: "the fleet has stopped; what ran was given back".to_owned() }
                }
                code => {
                    Reply::Refused { code, text: "the fleet did not stop in time, and was killed".to_owned() }
                }
            };
            actions.push(Action::Reply { to, reply });
        }
        for asker in std::mem::take(&mut self.questions).into_keys() {
            refuse(Some(asker), exit::TRY_AGAIN, "the fleet has stopped", actions);
        }
    }
}
