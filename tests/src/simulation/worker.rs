//! A worker process: what `run` and `slots` of the real one do around its session, without a process.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use roundsman_master::slot::Exit;
use roundsman_shared::assignment::{Assignment, StoreAddress};
use roundsman_shared::board::Posted;
use roundsman_shared::clock::Mono;
use roundsman_shared::exit;
use roundsman_shared::job::view::{Place, Unacked};
use roundsman_shared::job::{Outcome, Settlement};
use roundsman_shared::names::{JobId, Namespace, WorkerId};
use roundsman_shared::protocol::{Beat, Doing, FromChild, RunningJob, StopMode, ToChild};
use roundsman_shared::store::{Answer, SettleRequest, StoreError};
use roundsman_worker::core::{Action, Event, Finished, Running, Seq, Session, Task};

use super::Planted;
use super::world::{Call, Deed, MS, Nanos, SECOND, US, What, World};

/// After this a call whose answer does not come has failed.
const NO_ANSWER: Nanos = 1_500 * MS;
const BEAT: Nanos = SECOND;
const BEAT_GAP: Nanos = 100 * MS;
const OVERRUN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Job {
    task: Task,
    started: Mono,
    stubborn: bool,
    stopped: bool,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) uid: usize,
    pub(super) host: usize,
    /// Of the master that started it.
    pub(super) term: u64,
    pub(super) number: u32,
    pub(super) incarnation: u64,
    pub(super) id: WorkerId,
    session: Option<Session>,
    pub(super) alive: bool,
    /// It does not run until then.
    pub(super) frozen: Nanos,
    /// It stood still, or had a job that did not stop: a master may take it for stuck.
    pub(super) suspicious: bool,
    /// Another worker runs what it runs: it must leave with its next step.
    must_leave: bool,
    running: Vec<Job>,
    waiting: VecDeque<Task>,
    /// Its master can hear it.
    pipe: bool,
    /// When its session wants to be looked after, and when it said last how it is.
    tick_at: Nanos,
    beaten: (Doing, Nanos),
    beat_planned: bool,
    tick: u64,
    /// What it ran when it died.
    pub(super) ran: Vec<Posted>,
    /// What it held was given back.
    pub(super) released: bool,
}

impl Process {
    pub(super) fn freeze(&mut self, until: Nanos) {
        self.frozen = self.frozen.max(until);
        self.suspicious = true;
    }
}

impl World {
    /// A process that a master has just started.
    pub(super) fn new_process(&mut self, host: usize, term: u64, number: u32, incarnation: u64) -> usize {
        let uid = self.processes.len();
        let id = WorkerId::new(&format!("host{host}:p:{number}:{uid:x}")).expect("an id");
        self.processes.push(Process {
            uid,
            host,
            term,
            number,
            incarnation,
            id,
            session: None,
            alive: true,
            frozen: 0,
            suspicious: false,
            must_leave: false,
            running: Vec::new(),
            waiting: VecDeque::new(),
            pipe: true,
            tick_at: Nanos::MAX,
            beaten: (Doing::Starting, 0),
            beat_planned: false,
            tick: 0,
            ran: Vec::new(),
            released: false,
        });
        uid
    }

    pub(super) fn says_hello(&mut self, uid: usize) {
        if !self.processes[uid].alive {
            return;
        }
        if !self.healed && self.random.chance(3) {
            return self.dies(uid, Exit::Code(1));
        }
        let (v, nonce, build) = ([1, 1], 0, "simulated".to_owned());
        self.says(uid, FromChild::Hello { v, pid: 1, nonce, build });
    }

    fn says(&mut self, uid: usize, line: FromChild) {
        if self.processes[uid].pipe {
            self.soon(20 * US, MS, What::Line { uid, line: Box::new(line) });
        }
    }

    pub(super) fn is_ordered(&mut self, uid: usize, order: ToChild) {
        if !self.processes[uid].alive {
            return;
        }
        let event = match order {
            ToChild::Welcome { .. } => return self.is_welcome(uid),
            ToChild::Ping => return self.beats_now(uid),
            ToChild::Wake { .. } => Event::Wake(self.queue.clone()),
            ToChild::Look { .. } => Event::Look(self.queue.clone()),
            ToChild::Stop { mode, by_ms, why } => {
                Event::Stop { mode, within: Duration::from_millis(by_ms), why }
            }
            _ => return,
        };
        // Before its session is there it has nothing to finish.
        if self.processes[uid].session.is_none() && matches!(event, Event::Stop { .. }) {
            return self.dies(uid, Exit::Code(0));
        }
        self.hears(uid, event);
    }

    fn is_welcome(&mut self, uid: usize) {
        let process = &self.processes[uid];
        let assignment = Assignment {
            worker: process.id.clone(),
            store: StoreAddress::Sqlite("unused".into()),
            namespace: Namespace::new("simulated").expect("a name"),
            lease: self.lease,
            queues: vec![(self.queue.clone(), 1)],
            policies: BTreeMap::from([(self.queue.clone(), self.policy.clone())]),
            slots: usize::from(self.slots),
            max_jobs: 0,
            handler: None,
            part: None,
            clock: None,
        };
        let (now, seed) = (self.mono(process.host), self.random.next());
        self.processes[uid].session = Some(Session::new(now, assignment, true, seed));
        self.says(uid, FromChild::Ready);
        self.after(BEAT, What::Beat { uid });
        self.hears(uid, Event::Tick(Vec::new()));
    }

    pub(super) fn loses_its_master(&mut self, uid: usize) {
        self.processes[uid].pipe = false;
        if !self.processes[uid].alive {
            return;
        }
        if self.processes[uid].session.is_none() {
            return self.dies(uid, Exit::Code(0));
        }
        let within = Duration::from_secs(100 * 365 * 86_400);
        self.hears(uid, Event::Stop { mode: StopMode::Drain, within, why: "its master is gone".to_owned() });
    }

    pub(super) fn ticks(&mut self, uid: usize) {
        // Another one may have been planned since.
        let process = &self.processes[uid];
        if process.alive && process.tick_at <= self.now {
            let running = process.running_now();
            self.processes[uid].tick_at = Nanos::MAX;
            self.hears(uid, Event::Tick(running));
        }
    }

    pub(super) fn beats(&mut self, uid: usize) {
        let now = self.mono(self.processes[uid].host);
        let process = &self.processes[uid];
        // Without a master it looks itself whether its jobs keep to their time.
        let over = |job: &Job| now.since(job.started) > job.task.timeout + OVERRUN;
        if process.alive && !process.pipe && process.running.iter().any(over) {
            return self.dies(uid, Exit::Code(i32::from(exit::TIMED_OUT)));
        }
        if self.processes[uid].alive {
            self.after(BEAT, What::Beat { uid });
            self.beats_now(uid);
        }
    }

    fn beats_now(&mut self, uid: usize) {
        let now = self.mono(self.processes[uid].host);
        let at = self.now;
        let process = &mut self.processes[uid];
        let Some(session) = &process.session else { return };
        process.tick += 1;
        process.beaten = (session.doing(), at);
        process.beat_planned = false;
        let whole = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let jobs = process.running.iter().map(|job| {
            let ran = now.since(job.started);
            RunningJob {
                progress: None,
                queue: job.task.queue.to_string(),
                id: job.task.id.to_string(),
                attempt: job.task.attempt,
                ran: u64::try_from(ran.as_millis()).unwrap_or(0),
                left: whole(job.task.timeout) - whole(ran),
            }
        });
        let counts = session.counts;
        let beat = Beat {
            doing: session.doing(),
            claimed: counts.claimed,
            done: counts.done,
            failed: counts.failed,
            jobs: jobs.collect(),
            running: u32::try_from(process.running.len()).unwrap_or(0),
            tick: process.tick,
            store_ok: counts.store_ok,
            ..Beat::default()
        };
        self.says(uid, FromChild::Hb(beat));
    }

    /// Its session takes an event; what follows is done.
    pub(super) fn hears(&mut self, uid: usize, event: Event) {
        let now = self.mono(self.processes[uid].host);
        let process = &mut self.processes[uid];
        let (true, Some(session)) = (process.alive, process.session.as_mut()) else { return };
        let mut actions = Vec::new();
        session.step(now, event, &mut actions);
        self.carry_out(uid, actions);
        if !self.processes[uid].alive {
            return;
        }
        if std::mem::take(&mut self.processes[uid].must_leave) {
            let id = self.processes[uid].id.clone();
            self.judge.broken(format!("two at once: {id} goes on with what another runs by now"));
        }
        self.plan_next(uid, now);
    }

    fn plan_next(&mut self, uid: usize, now: Mono) {
        let at = self.now;
        let process = &mut self.processes[uid];
        let Some(session) = process.session.as_mut() else { return };
        let due = session.next_deadline(now);
        let tick_at = at + u64::try_from(due.since(now).as_nanos()).unwrap_or(Nanos::MAX / 2);
        let doing = session.doing();
        let says_so = doing != process.beaten.0 && !process.beat_planned;
        let sooner = tick_at < process.tick_at;
        if sooner {
            process.tick_at = tick_at;
        }
        process.beat_planned |= says_so;
        let beat_at = (process.beaten.1 + BEAT_GAP).max(at);
        if sooner {
            self.at(tick_at, What::Tick { uid });
        }
        if says_so {
            self.at(beat_at, What::Order { uid, order: ToChild::Ping });
        }
    }

    fn carry_out(&mut self, uid: usize, actions: Vec<Action>) {
        let (mut returned, mut stopped) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Exchange { settle, pull } => self.calls(uid, Call::Exchange { settle, pull }),
                Action::Renew(request) => self.calls(uid, Call::Renew(request)),
                Action::Reconcile(queue, newer_than) => self.calls(uid, Call::Unacked(queue, newer_than)),
                Action::Run(tasks) => self.processes[uid].waiting.extend(tasks),
                Action::TakeBack => {
                    returned.extend(self.processes[uid].waiting.drain(..).map(|task| task.seq));
                }
                Action::StopJob(seq, _) => stopped.push(seq),
                Action::Full(queue) => self.says(uid, FromChild::Full { queue: queue.to_string() }),
                Action::Leave { code, .. } => {
                    let lost = code == exit::TRY_AGAIN;
                    if !(lost && self.planted == Some(Planted::LostLeaseIgnored)) {
                        return self.dies(uid, Exit::Code(i32::from(code)));
                    }
                }
                Action::Steer(..) => {}
            }
        }
        // The session keeps them in no order.
        stopped.sort_unstable();
        for seq in stopped {
            self.stops(uid, seq);
        }
        if !returned.is_empty() && self.planted != Some(Planted::DroppedAtTheStop) {
            self.hears(uid, Event::Returned(returned));
        }
        self.starts(uid);
    }

    /// Sends a call off.
    fn calls(&mut self, uid: usize, call: Call) {
        let process = &self.processes[uid];
        let sent = self.mono(process.host);
        let (there, back) = (self.random.between(30 * US, 2 * MS), self.random.between(30 * US, 2 * MS));
        if self.is_lost() {
            return self.fails(uid, sent, call);
        }
        let answered = !self.is_lost();
        self.after(there, What::Apply { uid, call: Box::new(call), sent, back, answered });
    }

    /// It will not be answered.
    fn fails(&mut self, uid: usize, sent: Mono, call: Call) {
        let error = || StoreError::Unavailable("no answer".to_owned());
        let event = match call {
            Call::Exchange { .. } => Event::Exchanged { sent, result: Err(error()) },
            Call::Renew(request) => Event::Renewed { sent, queue: request.queue, result: Err(error()) },
            Call::Unacked(queue, _) => Event::Reconciled { queue, result: Err(error()) },
        };
        self.after(NO_ANSWER, What::Answer { uid, event: Box::new(event) });
    }

    /// A call reaches the store, whether or not its sender lives.
    pub(super) fn applies(&mut self, uid: usize, call: Call, sent: Mono, back: Nanos, answered: bool) {
        if !self.is_reached(self.processes[uid].host) {
            return self.fails(uid, sent, call);
        }
        let now = self.store_now();
        let event = match &call {
            Call::Exchange { settle, pull } => {
                let answers = settle.as_ref().map(|request| self.settle(request)).unwrap_or_default();
                let pulled = pull.as_ref().map(|request| {
                    let early = Duration::from_secs(u64::from(self.planted == Some(Planted::Early)));
                    self.store.pull(request, now + early)
                });
                Event::Exchanged { sent, result: Ok((answers, pulled)) }
            }
            Call::Renew(request) => {
                let result = Ok(self.store.renew(request, now));
                Event::Renewed { sent, queue: request.queue.clone(), result }
            }
            Call::Unacked(queue, newer_than) => {
                let result = Ok(self.store.unacked(queue, &self.processes[uid].id, *newer_than));
                Event::Reconciled { queue: queue.clone(), result }
            }
        };
        if answered {
            self.after(back, What::Answer { uid, event: Box::new(event) });
        } else {
            self.fails(uid, sent, call);
        }
    }

    /// The store takes acknowledgements; the judge looks whether one changed what another holds.
    pub(super) fn settle(&mut self, request: &SettleRequest) -> Vec<Answer> {
        let (mut taken, mut others) = (request.clone(), Vec::new());
        for (at, item) in request.settlements.iter().enumerate() {
            let Some(held) = self.holder(&item.id) else { continue };
            if (&held.worker, held.token) != (&request.worker, item.token) {
                if self.planted == Some(Planted::TokenNotCompared) {
                    (taken.settlements[at].token, taken.worker) = (held.token, held.worker.clone());
                }
                // The same call may end an earlier delivery and the current one.
                let ends = |it: &Settlement| (&it.id, it.token) == (&item.id, held.token);
                if held.worker != request.worker || !request.settlements.iter().any(ends) {
                    others.push((item.id.clone(), held));
                }
            }
        }
        let answers = self.store.settle(&taken, self.store_now());
        for (id, before) in others {
            if self.holder(&id).is_none_or(|now| now.token != before.token) {
                self.judge.broken(format!("token: {id} is ended by one who does not hold it"));
            }
        }
        answers
    }

    /// Under whose lease a job is.
    fn holder(&self, id: &JobId) -> Option<Unacked> {
        let found =
            self.store.look(&self.queue, std::slice::from_ref(id), self.store_now()).pop().flatten()?;
        match found.place {
            Place::Running(held) => Some(held),
            Place::Waiting { .. } | Place::Ended => None,
        }
    }

    /// Fills the free slots.
    fn starts(&mut self, uid: usize) {
        while self.processes[uid].running.len() < usize::from(self.slots) {
            let Some(task) = self.processes[uid].waiting.pop_front() else { return };
            self.start(uid, task);
        }
    }

    fn start(&mut self, uid: usize, task: Task) {
        let host = self.processes[uid].host;
        let (id, token, seq) = (task.id.clone(), task.token, task.seq);
        self.judge.starts(&id, token, self.store_now());
        let holders: Vec<usize> = self
            .processes
            .iter()
            .filter(|other| other.uid != uid && other.runs(&id))
            .map(|it| it.uid)
            .collect();
        for other in holders {
            if self.processes[other].frozen > self.now {
                self.processes[other].must_leave = true;
            } else {
                let (one, two) = (&self.processes[uid].id, &self.processes[other].id);
                self.judge.broken(format!("two at once: {id} runs in {two} and starts in {one}"));
            }
        }
        let Some(work) = self.works.get_mut(&id) else { return };
        work.starts += 1;
        let (lasts, crashes) =
            (work.lasts, matches!(work.deed, Deed::Crashes(times) if work.starts <= times));
        let stubborn = work.deed == Deed::Stubborn && work.starts == 1;
        let started = self.mono(host);
        self.processes[uid].running.push(Job { task, started, stubborn, stopped: false });
        if stubborn {
            self.processes[uid].suspicious = true;
        } else if crashes {
            self.after(lasts, What::Die { uid, exit: Exit::Signal(6) });
        } else {
            if self.planted == Some(Planted::AckedBeforeTheEnd) {
                let finished = vec![self.finished(uid, seq, Self::done())];
                return self.hears(uid, Event::Finished(finished));
            }
            self.after(lasts, What::End { uid, seq, token });
        }
    }

    fn finished(&self, uid: usize, seq: Seq, outcome: Outcome) -> Finished {
        let process = &self.processes[uid];
        let ended = self.mono(process.host);
        let job = process.running.iter().find(|job| job.task.seq == seq);
        let started = job.map_or(ended, |job| job.started);
        Finished { seq, outcome, started, ended, stderr_tail: None, request: None }
    }

    /// A job has come to its end.
    pub(super) fn ends(&mut self, uid: usize, seq: Seq, token: i64) {
        let process = &self.processes[uid];
        let at = process.running.iter().position(|job| job.task.seq == seq && job.task.token == token);
        let (true, Some(at)) = (process.alive, at) else { return };
        let stopped = process.running[at].stopped;
        let id = process.running[at].task.id.clone();
        let Some(work) = self.works.get_mut(&id) else { return };
        let outcome = match work.deed {
            _ if stopped => Outcome::GiveBack,
            Deed::Fails(times) if work.starts <= times => {
                Outcome::Retry { error: "on purpose".to_owned(), after: Some(Duration::from_millis(20)) }
            }
            Deed::Snoozes if work.starts == 1 => Outcome::Snooze(Duration::from_millis(500)),
            _ => {
                work.has_effect = true;
                Self::done()
            }
        };
        let finished = vec![self.finished(uid, seq, outcome)];
        self.processes[uid].running.remove(at);
        self.hears(uid, Event::Finished(finished));
        self.starts(uid);
    }

    /// Told to stop, a job that listens ends soon.
    fn stops(&mut self, uid: usize, seq: Seq) {
        let Some(job) = self.processes[uid].running.iter_mut().find(|job| job.task.seq == seq) else {
            return;
        };
        if !job.stubborn {
            job.stopped = true;
            let token = job.task.token;
            self.soon(50 * US, 5 * MS, What::End { uid, seq, token });
        }
    }

    /// The process is no more.
    pub(super) fn dies(&mut self, uid: usize, exit: Exit) {
        let process = &mut self.processes[uid];
        if !process.alive {
            return;
        }
        process.alive = false;
        process.must_leave = false;
        let posted = process.running.drain(..).map(|job| Posted {
            queue: job.task.queue,
            id: job.task.id,
            token: job.task.token,
        });
        process.ran = posted.collect();
        process.session = None;
        if process.pipe {
            self.soon(50 * US, 2 * MS, What::Gone { uid });
            self.soon(3 * MS, 20 * MS, What::Reaped { uid, exit });
        }
    }
}

impl Process {
    fn runs(&self, id: &JobId) -> bool {
        self.running.iter().any(|job| job.task.id == *id)
    }

    fn running_now(&self) -> Vec<Running> {
        self.running.iter().map(|job| Running { seq: job.task.seq, started: job.started }).collect()
    }
}
