//! A host: its master, which is a pool of slots and what `fleet` and `run` of the real one do around it.

use std::collections::BTreeMap;
use std::time::Duration;

use roundsman_master::pool::{Actions, Budget, Pool, Shape};
use roundsman_master::slot::{Action, Deadly, Event, Exit, Life, Slot};
use roundsman_master::{Ending, Release};
use roundsman_shared::names::WorkerId;
use roundsman_shared::protocol::{FromChild, ToChild};
use roundsman_shared::settings::Detection;
use roundsman_shared::store::{Answer, Retention, SettleRequest};

use super::Planted;
use super::top::Top;
use super::world::{MS, Nanos, Random, SECOND, US, What, World};

const MAX: u32 = 4;
const LOOK: Nanos = SECOND;
/// Between two looks at deadlines, where the real master sleeps until each.
const WATCH: Nanos = 100 * MS;
/// Later than that, as for the real master, and every deadline moves.
const LATE: Nanos = 100 * MS;

pub(super) struct Host {
    pub(super) top: Top,
    /// Counts its masters.
    pub(super) term: u64,
    pub(super) master: Option<Master>,
    /// Its master does not run until then.
    pub(super) frozen: Nanos,
    /// It does not reach the store until then.
    pub(super) cut: Nanos,
    /// Workers.
    pub(super) wanted: u32,
}

pub(super) struct Master {
    pool: Pool,
    budget: Budget,
    /// The process in each slot.
    hands: BTreeMap<u32, usize>,
    watched: Nanos,
    /// What is being given back.
    releasing: Vec<WorkerId>,
}

impl Host {
    pub(super) fn new(random: &mut Random) -> Self {
        let wanted = u32::try_from(random.between(1, u64::from(MAX) + 1)).unwrap_or(1);
        Self { top: Top::default(), term: 0, master: None, frozen: 0, cut: 0, wanted }
    }
}

impl World {
    pub(super) fn master_up(&mut self, host: usize) {
        if self.hosts[host].master.is_some() {
            return;
        }
        let now = self.mono(host);
        let shape = Shape {
            queues: vec![self.queue.clone()],
            max: MAX,
            slots: self.slots,
            detection: Detection {
                suspect: Duration::from_millis(3500),
                silence: Duration::from_secs(10),
                frozen: Duration::from_secs(15),
            },
            grace: Duration::from_secs(5),
            max_memory: None,
            max_jobs: 0,
            spare: true,
            early: Duration::ZERO,
            leave: None,
        };
        let watched = self.now;
        let it = &mut self.hosts[host];
        it.term += 1;
        let term = it.term;
        it.master = Some(Master {
            pool: Pool::new(shape),
            budget: Budget::new(4, now),
            hands: BTreeMap::new(),
            watched,
            releasing: Vec::new(),
        });
        self.at(self.now, What::Watch { host, term });
        self.soon(0, LOOK, What::Look { host, term });
    }

    /// The master is gone, and its workers notice.
    pub(super) fn master_down(&mut self, host: usize) {
        self.hosts[host].master = None;
        for uid in self.alive(host).collect::<Vec<_>>() {
            self.soon(100 * US, 50 * MS, What::PipeClosed { uid });
        }
    }

    /// All of it dies at once, and comes back; the last host sometimes for ever.
    pub(super) fn host_down(&mut self, host: usize) {
        let it = &mut self.hosts[host];
        (it.master, it.frozen, it.top) = (None, 0, it.top.after_a_fall());
        for uid in self.alive(host).collect::<Vec<_>>() {
            self.dies(uid, Exit::Signal(9));
        }
        if host == 0 || !self.random.chance(50) {
            self.soon(SECOND, 25 * SECOND, What::TopUp { host });
        } else {
            self.hosts[host].top.is_lost = true;
        }
    }

    fn is_current(&self, host: usize, term: u64) -> bool {
        self.hosts[host].term == term && self.hosts[host].master.is_some()
    }

    /// The master whose child this is, if it is the present one and the child is in its slot.
    fn parent(&mut self, uid: usize) -> Option<&mut Master> {
        let process = &self.processes[uid];
        let (host, term, number) = (process.host, process.term, process.number);
        let it = &mut self.hosts[host];
        let master = it.master.as_mut().filter(|_| it.term == term)?;
        (master.hands.get(&number) == Some(&uid)).then_some(master)
    }

    pub(super) fn has_spawned(&mut self, host: usize, term: u64, number: u32, incarnation: u64) {
        if !self.is_current(host, term) {
            return;
        }
        let uid = self.new_process(host, term, number, incarnation);
        if let Some(master) = self.hosts[host].master.as_mut() {
            master.hands.insert(number, uid);
        }
        self.step(uid, Event::Spawned { pid: 1 });
        self.soon(2 * MS, 60 * MS, What::Hello { uid });
    }

    /// An event for the slot of a process.
    fn step(&mut self, uid: usize, event: Event) {
        let process = &self.processes[uid];
        let (host, number, incarnation) = (process.host, process.number, process.incarnation);
        let now = self.mono(host);
        let Some(master) = self.parent(uid) else { return };
        let mut actions = Actions::new();
        master.pool.step(now, number, incarnation, event, &mut actions);
        self.carry_out_pool(host, actions);
    }

    fn carry_out_pool(&mut self, host: usize, actions: Actions) {
        let term = self.hosts[host].term;
        for (number, action) in actions {
            let hand = self.hosts[host].master.as_ref().and_then(|master| master.hands.get(&number).copied());
            match action {
                Action::Spawn => {
                    let incarnation = self.slot(host, number).map_or(0, |slot| slot.incarnation);
                    if let Some(master) = self.hosts[host].master.as_mut() {
                        master.hands.remove(&number);
                    }
                    self.soon(MS, 10 * MS, What::Spawned { host, term, number, incarnation });
                }
                Action::Welcome => {
                    let welcome = ToChild::Welcome { v: 1, work: serde_json::Value::Null };
                    self.tells(hand, welcome);
                }
                Action::Send(message) => self.tells(hand, message),
                Action::Signal { signal, .. } => self.is_signalled(hand, signal),
                Action::Ready => self.wakes_for_all(host),
                Action::Died(death) => {
                    let quarantine =
                        self.hosts[host].master.as_ref().and_then(|it| it.pool.quarantine.clone());
                    self.tell(|| format!("host {host}: {death:?}, {quarantine:?}"));
                }
                Action::Note(note) => self.tell(|| format!("host {host}: {note}")),
            }
        }
    }

    fn slot(&self, host: usize, number: u32) -> Option<&Slot> {
        self.hosts[host].master.as_ref()?.pool.slots.get(&number)
    }

    fn tells(&mut self, hand: Option<usize>, order: ToChild) {
        if let Some(uid) = hand {
            self.soon(20 * US, MS, What::Order { uid, order });
        }
    }

    fn is_signalled(&mut self, hand: Option<usize>, signal: Deadly) {
        let Some(uid) = hand else { return };
        let process = &self.processes[uid];
        let (host, number) = (process.host, process.number);
        if matches!(signal, Deadly::Abort | Deadly::Kill) && process.alive && !process.suspicious {
            let why = self.slot(host, number).and_then(Slot::life).map(|life| format!("{:?}", life.fate));
            let id = process.id.clone();
            self.judge.broken(format!("killed: {id} was not stuck: {why:?}"));
        }
        let process = &self.processes[uid];
        let (until, term) = (process.frozen, process.term);
        let frozen = until > self.now;
        match signal {
            // A process that stands still takes no signal but this.
            Deadly::Kill => self.soon(MS, 5 * MS, What::Die { uid, exit: Exit::Signal(9) }),
            Deadly::Abort if !frozen => {
                self.soon(5 * MS, 50 * MS, What::Die { uid, exit: Exit::Signal(6) });
                if self.planted == Some(Planted::ReleasedBeforeTheExit) {
                    let release = Box::new(self.a_release(uid, Ending::Unseen));
                    self.after(100 * US, What::Release { host, term, release });
                }
            }
            // It takes it when it goes on.
            Deadly::Abort => self.at(until, What::Die { uid, exit: Exit::Signal(6) }),
            Deadly::Term | Deadly::Cont => {}
        }
    }

    pub(super) fn hears_line(&mut self, uid: usize, line: FromChild) {
        let full = matches!(line, FromChild::Full { .. });
        self.step(uid, Event::Line(line));
        if full {
            self.wakes(self.processes[uid].host, 1);
        }
    }

    pub(super) fn sees_exit(&mut self, uid: usize) {
        self.step(uid, Event::Gone);
    }

    pub(super) fn has_reaped(&mut self, uid: usize, exit: Exit) {
        let jitter = self.random.fraction() * 2.0 - 1.0;
        let process = &self.processes[uid];
        let (host, term, number) = (process.host, process.term, process.number);
        let mut running = process.ran.clone();
        if self.planted == Some(Planted::GiveBacksCharged) {
            let held = self.store.unacked(&self.queue, &process.id, None);
            running = held
                .into_iter()
                .map(|held| roundsman_shared::board::Posted {
                    queue: held.delivery.queue,
                    id: held.delivery.id,
                    token: held.delivery.token,
                })
                .collect();
        }
        let Some(master) = self.parent(uid) else { return };
        let life = master.pool.slots.get(&number).and_then(Slot::life);
        let fate = life.and_then(|life| life.fate.clone());
        let ran = !running.is_empty() && !life.is_some_and(Life::is_leaving);
        if fate.is_none() && exit.is_crash() && (ran || exit != Exit::Code(0)) {
            let jobs = running.iter().map(|posted| format!("{}/{}", posted.queue, posted.id));
            master.pool.crashed(jobs);
        }
        let pool_at_fault = master.pool.is_at_fault();
        let ending = Ending::Seen { exit, fate, running, pool_at_fault, peak_kb: 0 };
        self.step(uid, Event::Reaped { exit, ran, jitter });
        let release = Box::new(self.a_release(uid, ending));
        self.soon(50 * US, 2 * MS, What::Release { host, term, release });
    }

    fn a_release(&self, uid: usize, ending: Ending) -> Release {
        Release {
            worker: self.processes[uid].id.clone(),
            queues: vec![self.queue.clone()],
            policies: BTreeMap::new(),
            ending,
            stderr_tail: None,
            clock: None,
        }
    }

    /// Deadlines, starts and what is too much.
    pub(super) fn watches(&mut self, host: usize, term: u64) {
        if !self.is_current(host, term) {
            return;
        }
        let (now, at, blind) = (self.mono(host), self.now, !self.is_reached(host));
        let held = self.planted == Some(Planted::OwnLatenessHeld);
        let it = &mut self.hosts[host];
        let wanted = it.wanted;
        let Some(master) = it.master.as_mut() else { return };
        let late = at.saturating_sub(master.watched + WATCH);
        master.watched = at;
        if late > LATE && !held {
            master.pool.shift(Duration::from_nanos(late));
        }
        let mut actions = Actions::new();
        master.pool.time(now, blind, &mut actions);
        let mut unready = master.pool.unready();
        master.pool.adjust(now, wanted, &mut master.budget, &mut unready, &mut actions);
        self.carry_out_pool(host, actions);
        self.after(WATCH, What::Watch { host, term });
    }

    /// A look at the store: what is ready, whose lease has lapsed, and which orphans are gone.
    pub(super) fn looks(&mut self, host: usize, term: u64) {
        if !self.is_current(host, term) {
            return;
        }
        self.after(LOOK, What::Look { host, term });
        if !self.is_reached(host) {
            return;
        }
        let now = self.store_now();
        let pulse = self.store.pulse(&self.queue, self.lease, Duration::ZERO, now);
        let mut lapsed = pulse.lapsed;
        if self.planted == Some(Planted::SweepsForgotten) {
            lapsed.clear();
        }
        for worker in lapsed {
            let process = self.processes.iter().find(|process| process.id == worker).map(|it| it.uid);
            if let Some(uid) = process {
                self.begin_release(host, term, uid, Ending::Lapsed);
            }
        }
        if self.planted == Some(Planted::SweptTooSoon) {
            let others: Vec<usize> =
                self.processes.iter().filter(|it| it.host != host && it.alive).map(|it| it.uid).collect();
            for uid in others {
                self.begin_release(host, term, uid, Ending::Unseen);
            }
        }
        // Those of earlier masters, whose end this one has not seen.
        let gone: Vec<usize> = self
            .processes
            .iter()
            .filter(|it| it.host == host && it.term < term && !it.alive && !it.released)
            .map(|it| it.uid)
            .collect();
        for uid in gone {
            self.begin_release(host, term, uid, Ending::Unseen);
        }
        if pulse.ready > 0 {
            self.wakes(host, pulse.ready);
        }
    }

    fn begin_release(&mut self, host: usize, term: u64, uid: usize, ending: Ending) {
        let release = self.a_release(uid, ending);
        let Some(master) = self.hosts[host].master.as_mut() else { return };
        if !master.releasing.contains(&release.worker) {
            master.releasing.push(release.worker.clone());
            self.soon(50 * US, 2 * MS, What::Release { host, term, release: Box::new(release) });
        }
    }

    /// Asks what the worker held, and works out what becomes of it.
    pub(super) fn releases(&mut self, host: usize, term: u64, release: Release) {
        if !self.is_current(host, term) {
            return;
        }
        if !self.is_reached(host) || self.is_lost() {
            return self.soon(20 * MS, SECOND, What::Release { host, term, release: Box::new(release) });
        }
        let held = self.store.unacked(&self.queue, &release.worker, None);
        if held.is_empty() {
            return self.has_released(host, &release.worker, 0);
        }
        let (now, jitter) = (self.store_now().as_millis(), self.random.fraction());
        let settlements =
            held.iter().map(|held| release.settlement(held, &self.policy, now, jitter).0).collect();
        let request = SettleRequest {
            queue: self.queue.clone(),
            worker: release.worker.clone(),
            settlements,
            retention: Retention::from(&self.policy),
            only_if_lapsed: release.ending == Ending::Lapsed,
        };
        let (release, request) = (Box::new(release), Box::new(request));
        self.soon(50 * US, 2 * MS, What::Settle { host, term, release, request });
    }

    pub(super) fn settles(&mut self, host: usize, term: u64, release: Release, request: &SettleRequest) {
        if !self.is_current(host, term) {
            return;
        }
        if !self.is_reached(host) || self.is_lost() {
            return self.soon(20 * MS, SECOND, What::Release { host, term, release: Box::new(release) });
        }
        let answers = self.settle(request);
        let done = answers.iter().filter(|answer| **answer == Answer::Ok).count();
        if done == 0 {
            return self.has_released(host, &release.worker, 0);
        }
        self.has_released(host, &release.worker, done as u64);
        // There may have been more than one call could take.
        self.soon(50 * US, 2 * MS, What::Release { host, term, release: Box::new(release) });
    }

    fn has_released(&mut self, host: usize, worker: &WorkerId, count: u64) {
        if let Some(master) = self.hosts[host].master.as_mut() {
            master.releasing.retain(|other| other != worker);
        }
        if let Some(process) = self.processes.iter_mut().find(|process| process.id == *worker) {
            process.released |= !process.alive;
        }
        if count > 0 {
            self.hint();
        }
    }

    /// New work: every listener that reaches the store hears of it.
    pub(super) fn hint(&mut self) {
        for host in 0..self.hosts.len() {
            self.wakes_for_all(host);
        }
    }

    fn wakes_for_all(&mut self, host: usize) {
        if self.is_reached(host) && self.hosts[host].frozen <= self.now {
            let (queue, now) = (self.queue.clone(), self.store_now());
            let ready = self.store.overview(&queue, now).ready;
            self.wakes(host, ready);
        }
    }

    fn wakes(&mut self, host: usize, count: u64) {
        if self.planted == Some(Planted::WakesLost) || self.hosts[host].frozen > self.now {
            return;
        }
        let (now, queue) = (self.mono(host), self.queue.clone());
        let Some(master) = self.hosts[host].master.as_mut() else { return };
        let mut actions = Actions::new();
        let woken = master.pool.wake(now, &queue, count, &mut actions);
        if woken < count {
            master.pool.look(now, &queue, &mut actions);
        }
        self.carry_out_pool(host, actions);
    }
}
