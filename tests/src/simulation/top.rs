//! The top of a host: its supervisor, which is the real unit of rules with what `run` and `spawn` do around it; the process
//! of its master, as far as the supervisor sees it; and a service manager, which starts a supervisor when there is none.

use std::time::Duration;

use roundsman_shared::protocol::{Beat, Doing, FromChild};
use roundsman_supervisor::core::{Action, Event, Exit, Unit};

use super::Planted;
use super::world::{MS, Nanos, SECOND, US, What, World};

const BEAT: Nanos = SECOND;
const GRACE: Duration = Duration::from_secs(5);
/// A service manager looks again whether the tree before is gone.
const RETRY: Nanos = 100 * MS;

/// A supervisor, and the process that it knows as its master.
#[derive(Debug, Default)]
pub(super) struct Top {
    unit: Option<Unit>,
    /// Counts the supervisors.
    number: u64,
    /// It does not run until then.
    pub(super) frozen: Nanos,
    /// When its unit is to be stepped next.
    tick_at: Nanos,
    /// Counts the masters, and is the pid of the last.
    pids: u32,
    /// Of the master that runs or boots.
    pid: Option<u32>,
    /// It stood still while its supervisor did not: it may be taken for stuck.
    pub(super) suspicious: bool,
    /// The host never comes back.
    pub(super) is_lost: bool,
}

impl Top {
    /// Nothing of it runs; numbers are not given twice.
    pub(super) fn after_a_fall(&self) -> Self {
        Self { number: self.number, pids: self.pids, is_lost: self.is_lost, ..Self::default() }
    }
}

impl World {
    /// By the service manager; not before all of the tree before is gone, as the lock has it.
    pub(super) fn top_up(&mut self, host: usize) {
        let now = self.mono(host);
        let top = &mut self.hosts[host].top;
        if top.unit.is_some() {
            return;
        }
        if top.pid.is_some() {
            return self.after(RETRY, What::TopUp { host });
        }
        top.number += 1;
        top.unit = Some(Unit::new(now, GRACE));
        (top.tick_at, top.frozen) = (Nanos::MAX, 0);
        let number = top.number;
        self.top_hears(host, number, Event::Tick);
    }

    /// The supervisor is no more; its master hears of it.
    pub(super) fn top_down(&mut self, host: usize) {
        let now = self.now;
        let it = &mut self.hosts[host];
        it.top.unit = None;
        it.top.frozen = 0;
        if let Some(pid) = it.top.pid {
            let at = it.frozen.max(now) + MS;
            self.at(at, What::MasterDies { host, pid, exit: Exit::Signal(15) });
        }
        self.soon(100 * MS, 3 * SECOND, What::TopUp { host });
    }

    pub(super) fn top_ticks(&mut self, host: usize, number: u64) {
        let now = self.now;
        let top = &mut self.hosts[host].top;
        if top.number == number && top.tick_at <= now {
            top.tick_at = Nanos::MAX;
            self.top_hears(host, number, Event::Tick);
        }
    }

    /// The unit takes an event; what follows is done.
    pub(super) fn top_hears(&mut self, host: usize, number: u64, event: Event) {
        let now = self.mono(host);
        let top = &mut self.hosts[host].top;
        let (true, Some(unit)) = (top.number == number, top.unit.as_mut()) else { return };
        let mut actions = Vec::new();
        unit.step(now, event, &mut actions);
        let due = unit.next_deadline();
        for action in &actions {
            self.tell(|| format!("supervisor {host}: {action:?}"));
            self.carry_out_top(host, number, action);
        }
        let Some(due) = due else { return };
        let at = self.now + u64::try_from(due.since(now).as_nanos()).unwrap_or(0).max(MS);
        if at < self.hosts[host].top.tick_at {
            self.hosts[host].top.tick_at = at;
            self.at(at, What::TopTick { host, top: number });
        }
    }

    fn carry_out_top(&mut self, host: usize, top: u64, action: &Action) {
        match *action {
            Action::Start { .. } => {
                let first = self.hosts[host].top.pids == 0;
                if first || self.planted != Some(Planted::MastersNotReplaced) {
                    self.soon(MS, 10 * MS, What::MasterStarted { host, top });
                }
            }
            Action::Welcome { pid, .. } => self.soon(20 * US, MS, What::MasterWelcome { host, pid }),
            Action::Abort { pid } => {
                let it = &self.hosts[host];
                let at = it.frozen.max(self.now) + MS;
                if it.top.pid == Some(pid) && !it.top.suspicious {
                    self.judge.broken(format!("killed: the master of host {host} was not stuck"));
                }
                self.at(at, What::MasterDies { host, pid, exit: Exit::Signal(6) });
            }
            Action::Kill { pid } => {
                self.soon(MS, 5 * MS, What::MasterDies { host, pid, exit: Exit::Signal(9) });
            }
            // All below ends with it.
            Action::Finish { .. } => {
                self.hosts[host].top.unit = None;
                if let Some(pid) = self.hosts[host].top.pid {
                    self.master_dies(host, pid, Exit::Signal(9));
                }
                for uid in self.alive(host).collect::<Vec<_>>() {
                    self.dies(uid, roundsman_master::slot::Exit::Signal(9));
                }
                self.soon(SECOND, 5 * SECOND, What::TopUp { host });
            }
            Action::Send { .. }
            | Action::Adopt
            | Action::Reply { .. }
            | Action::Forget { .. }
            | Action::Tell(_)
            | Action::Note(_) => {}
        }
    }

    pub(super) fn master_started(&mut self, host: usize, top: u64) {
        let it = &mut self.hosts[host];
        // Its parent died while it was being started.
        if it.top.number != top || it.top.unit.is_none() {
            return;
        }
        it.top.pids += 1;
        let pid = it.top.pids;
        (it.top.pid, it.top.suspicious, it.frozen) = (Some(pid), false, 0);
        self.top_hears(host, top, Event::Started { heir: false, pid, nonce: 0 });
        let hello = FromChild::Hello { v: [1, 1], pid, nonce: 0, build: "simulated".to_owned() };
        self.soon(MS, 30 * MS, What::MasterSays { host, pid, line: Box::new(hello) });
    }

    pub(super) fn master_is_welcome(&mut self, host: usize, pid: u32) {
        if self.hosts[host].top.pid == Some(pid) {
            self.master_up(host);
            self.soon(MS, 100 * MS, What::MasterSays { host, pid, line: Box::new(FromChild::Ready) });
            self.after(BEAT, What::MasterBeats { host, pid });
        }
    }

    pub(super) fn master_beats(&mut self, host: usize, pid: u32) {
        if self.hosts[host].top.pid == Some(pid) {
            let beat = Beat { doing: Doing::Idle, store_ok: self.is_reached(host), ..Beat::default() };
            self.soon(20 * US, MS, What::MasterSays { host, pid, line: Box::new(FromChild::Hb(beat)) });
            self.after(BEAT, What::MasterBeats { host, pid });
        }
    }

    /// A line of its has come to the supervisor.
    pub(super) fn master_says(&mut self, host: usize, pid: u32, message: FromChild) {
        let number = self.hosts[host].top.number;
        self.top_hears(host, number, Event::Said { pid, message });
    }

    pub(super) fn master_dies(&mut self, host: usize, pid: u32, exit: Exit) {
        if self.hosts[host].top.pid != Some(pid) {
            return;
        }
        self.master_down(host);
        let it = &mut self.hosts[host];
        (it.top.pid, it.frozen) = (None, 0);
        let top = it.top.number;
        self.soon(MS, 20 * MS, What::MasterExited { host, top, pid, exit });
    }

    /// Of the running master.
    pub(super) fn master_pid(&self, host: usize) -> Option<u32> {
        self.hosts[host].top.pid
    }

    /// Each host has somebody who looks after it.
    pub(super) fn judge_tops(&mut self) {
        for host in 0..self.hosts.len() {
            let (now, it) = (self.mono(host), &self.hosts[host]);
            let is_served =
                it.master.is_some() && it.top.unit.as_ref().is_some_and(|unit| unit.is_fresh(now));
            if !is_served && !it.top.is_lost {
                let what = format!("unattended: host {host} has no master that beats: {:?}", it.top);
                self.judge.broken(what);
            }
        }
    }
}
