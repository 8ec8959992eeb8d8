//! The clock, what is to happen, and who makes things go wrong.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use roundsman_master::Release;
use roundsman_master::slot::Exit;
use roundsman_shared::clock::{Mono, StoreTime, Wall};
use roundsman_shared::job::spec::{Limits, parse};
use roundsman_shared::job::{Outcome, Policy};
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::protocol::{FromChild, ToChild};
use roundsman_shared::store::{Enqueued, PullRequest, RenewRequest, SettleRequest};
use roundsman_supervisor::core::{Event as TopEvent, Exit as MasterExit};
use roundsman_worker::core::{Event as SessionEvent, Seq};

use super::host::Host;
use super::judge::{Judge, Promise};
use super::worker::Process;
use super::{Planted, Verdict};
use crate::model::Model;

/// Of the played clock.
pub(super) type Nanos = u64;
pub(super) const US: Nanos = 1_000;
pub(super) const MS: Nanos = 1_000_000;
pub(super) const SECOND: Nanos = 1_000_000_000;

const HOSTS: usize = 2;
/// Things go wrong for so long.
const SPAN: Nanos = 30 * SECOND;
/// When all has healed, this much later at the latest everything has ended: a quarantine may have to pass, and leases.
const QUIET: Nanos = 900 * SECOND;
/// From the healing until what comes is served as usual.
const SETTLED: Nanos = 60 * SECOND;
/// A probe starts within this: a look of the master's, and a process that must be started for it.
const PROMPT: Duration = Duration::from_secs(3);
const PROBES: u64 = 6;
/// Of more different ones in a row their pool would be at fault, and be quarantined.
const MOST_CRASHERS: u32 = 2;
/// Unix time of the store at the beginning, in µs.
const EPOCH: i64 = 1_800_000_000_000_000;

/// Numbers that a seed gives again and again (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `least`, below `most`.
    pub(super) const fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least)
    }

    pub(super) const fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    /// From 0 to 1.
    pub(super) fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }

    pub(super) fn index(&mut self, of: usize) -> usize {
        usize::try_from(self.next() % (of as u64)).unwrap_or(0)
    }
}

/// A call of a worker's.
#[derive(Debug)]
pub(super) enum Call {
    Exchange { settle: Option<SettleRequest>, pull: Option<PullRequest> },
    Renew(RenewRequest),
    Unacked(QueueName, Option<i64>),
}

/// Something that happens at its moment.
#[derive(Debug)]
pub(super) enum What {
    Enqueue {
        number: u64,
        probe: bool,
    },
    /// A job falls due, or came in: the hosts' listeners hear of it.
    Due,
    Fault,
    Heal,
    // To a worker.
    Hello {
        uid: usize,
    },
    Order {
        uid: usize,
        order: ToChild,
    },
    PipeClosed {
        uid: usize,
    },
    Tick {
        uid: usize,
    },
    Beat {
        uid: usize,
    },
    End {
        uid: usize,
        seq: Seq,
        token: i64,
    },
    Answer {
        uid: usize,
        event: Box<SessionEvent>,
    },
    // What goes on whether a process runs or not.
    Apply {
        uid: usize,
        call: Box<Call>,
        sent: Mono,
        back: Nanos,
        answered: bool,
    },
    Die {
        uid: usize,
        exit: Exit,
    },
    // To a master.
    Spawned {
        host: usize,
        term: u64,
        number: u32,
        incarnation: u64,
    },
    Line {
        uid: usize,
        line: Box<FromChild>,
    },
    Gone {
        uid: usize,
    },
    Reaped {
        uid: usize,
        exit: Exit,
    },
    Watch {
        host: usize,
        term: u64,
    },
    Look {
        host: usize,
        term: u64,
    },
    Release {
        host: usize,
        term: u64,
        release: Box<Release>,
    },
    Settle {
        host: usize,
        term: u64,
        release: Box<Release>,
        request: Box<SettleRequest>,
    },
    // To a supervisor, and of its master as a process.
    TopUp {
        host: usize,
    },
    TopTick {
        host: usize,
        top: u64,
    },
    MasterStarted {
        host: usize,
        top: u64,
    },
    MasterSays {
        host: usize,
        pid: u32,
        line: Box<FromChild>,
    },
    MasterExited {
        host: usize,
        top: u64,
        pid: u32,
        exit: MasterExit,
    },
    MasterWelcome {
        host: usize,
        pid: u32,
    },
    MasterBeats {
        host: usize,
        pid: u32,
    },
    MasterDies {
        host: usize,
        pid: u32,
        exit: MasterExit,
    },
}

struct Entry {
    at: Nanos,
    number: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What a job does when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Done,
    /// Fails so often, then is done.
    Fails(u32),
    /// Asks to be called again, once.
    Snoozes,
    /// Ends its worker so often, then is done.
    Crashes(u32),
    /// Goes on after its timeout, once.
    Stubborn,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    pub(super) deed: Deed,
    pub(super) lasts: Nanos,
    pub(super) starts: u32,
    /// A run came to its end, and the end was good.
    pub(super) has_effect: bool,
}

pub(super) struct World {
    pub(super) now: Nanos,
    pub(super) random: Random,
    queued: BinaryHeap<Reverse<Entry>>,
    numbers: u64,
    pub(super) store: Model,
    pub(super) queue: QueueName,
    pub(super) policy: Policy,
    pub(super) lease: Duration,
    pub(super) slots: u16,
    pub(super) hosts: Vec<Host>,
    /// Every process that ever was, by its number.
    pub(super) processes: Vec<Process>,
    pub(super) works: BTreeMap<JobId, Work>,
    pub(super) judge: Judge,
    pub(super) planted: Option<Planted>,
    /// The store answers nobody until then.
    pub(super) store_away: Nanos,
    /// Calls and answers are lost until then, some of them.
    pub(super) lossy: Nanos,
    pub(super) healed: bool,
    /// All that happens, in words, where somebody wants to read it.
    pub(super) told: Option<Vec<String>>,
    /// Jobs that end their worker, so far.
    crashers: u32,
}

impl World {
    pub(super) fn new(seed: u64, planted: Option<Planted>) -> Self {
        let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5eed);
        let lease = Duration::from_secs([3, 5, 15][random.index(3)]);
        let slots = u16::try_from(random.between(1, 4)).unwrap_or(1);
        let queue = QueueName::new("q").expect("a name");
        let mut world = Self {
            now: SECOND,
            random,
            queued: BinaryHeap::new(),
            numbers: 0,
            store: Model::default(),
            queue,
            policy: Policy::default(),
            lease,
            slots,
            hosts: Vec::new(),
            processes: Vec::new(),
            works: BTreeMap::new(),
            judge: Judge::default(),
            planted,
            store_away: 0,
            lossy: 0,
            healed: false,
            told: None,
            crashers: 0,
        };
        world.judge.verdict.seed = seed;
        world.hosts = (0..HOSTS).map(|_| Host::new(&mut world.random)).collect();
        world.plan();
        world
    }

    /// What comes in and what goes wrong, and when.
    fn plan(&mut self) {
        for host in 0..HOSTS {
            self.at(self.now, What::TopUp { host });
        }
        let jobs = self.random.between(20, 90);
        for number in 0..jobs {
            let at = self.now + self.random.between(0, SPAN);
            self.at(at, What::Enqueue { number, probe: false });
        }
        let faults = self.random.between(0, 9);
        for _ in 0..faults {
            let at = self.now + self.random.between(SECOND, SPAN);
            self.at(at, What::Fault);
        }
        let healed = self.now + SPAN;
        self.at(healed, What::Heal);
        for number in 0..PROBES {
            self.at(
                healed + SETTLED + number * SECOND / 2,
                What::Enqueue { number: jobs + number, probe: true },
            );
        }
    }

    pub(super) fn at(&mut self, at: Nanos, what: What) {
        self.numbers += 1;
        self.queued.push(Reverse(Entry { at: at.max(self.now), number: self.numbers, what }));
    }

    pub(super) fn after(&mut self, span: Nanos, what: What) {
        self.at(self.now + span, what);
    }

    /// A moment from `least` to `most` later.
    pub(super) fn soon(&mut self, least: Nanos, most: Nanos, what: What) {
        let span = self.random.between(least, most);
        self.after(span, what);
    }

    /// This host's own clock, which has nothing to do with any other's.
    pub(super) fn mono(&self, host: usize) -> Mono {
        Mono::from_nanos(self.now + 1_000 * SECOND * (host as u64 + 1))
    }

    pub(super) fn store_now(&self) -> StoreTime {
        StoreTime::from_micros(EPOCH + i64::try_from(self.now / US).unwrap_or(0))
    }

    pub(super) fn play(&mut self) -> Verdict {
        let mut last = 0;
        let end = self.now + SPAN + QUIET;
        while let Some(Reverse(Entry { at, number, what })) = self.queued.pop() {
            if at > end || self.judge.verdict.broken.len() > 5 {
                break;
            }
            self.now = at;
            if let Some(until) = self.frozen(&what) {
                self.at(until, what);
                continue;
            }
            self.judge.note(at, number);
            self.happen(what);
            // Not at every step: it looks at every job.
            if at >= last + SECOND {
                last = at;
                if self.healed
                    && at > SPAN + SETTLED + 10 * SECOND
                    && self.judge.all_ended(&self.store, &self.queue, self.store_now())
                {
                    break;
                }
            }
        }
        self.judge_tops();
        self.judge.verdict.lasted_ms = self.now / MS;
        self.judge.audit(&self.store, &self.queue, self.store_now(), &self.works);
        std::mem::take(&mut self.judge.verdict)
    }

    /// Until when whoever this is for does not run.
    fn frozen(&self, what: &What) -> Option<Nanos> {
        let until = match what {
            What::Hello { uid }
            | What::Order { uid, .. }
            | What::PipeClosed { uid }
            | What::Tick { uid }
            | What::Beat { uid }
            | What::End { uid, .. }
            | What::Answer { uid, .. } => self.processes[*uid].frozen,
            // Its timers go on though it hears nothing.
            What::TopTick { .. } if self.planted == Some(Planted::WatchesUnheard) => 0,
            What::TopTick { host, .. }
            | What::MasterStarted { host, .. }
            | What::MasterSays { host, .. }
            | What::MasterExited { host, .. } => self.hosts[*host].top.frozen,
            What::MasterWelcome { host, .. }
            | What::MasterBeats { host, .. }
            | What::Spawned { host, .. }
            | What::Watch { host, .. }
            | What::Look { host, .. }
            | What::Release { host, .. }
            | What::Settle { host, .. } => self.hosts[*host].frozen,
            What::Line { uid, .. } | What::Gone { uid } | What::Reaped { uid, .. } => {
                self.hosts[self.processes[*uid].host].frozen
            }
            What::Enqueue { .. }
            | What::Due
            | What::Fault
            | What::Heal
            | What::Apply { .. }
            | What::Die { .. }
            | What::TopUp { .. }
            | What::MasterDies { .. } => 0,
        };
        (until > self.now).then_some(until)
    }

    fn happen(&mut self, what: What) {
        if let Some(told) = &mut self.told {
            let seconds = self.now as f64 / SECOND as f64;
            told.push(format!("{seconds:12.6} {what:?}"));
        }
        match what {
            What::Enqueue { number, probe } => self.enqueue(number, probe),
            What::Due => self.hint(),
            What::Fault => self.fault(),
            What::Heal => self.heal(),
            What::Hello { uid } => self.says_hello(uid),
            What::Order { uid, order } => self.is_ordered(uid, order),
            What::PipeClosed { uid } => self.loses_its_master(uid),
            What::Tick { uid } => self.ticks(uid),
            What::Beat { uid } => self.beats(uid),
            What::End { uid, seq, token } => self.ends(uid, seq, token),
            What::Answer { uid, event } => self.hears(uid, *event),
            What::Apply { uid, call, sent, back, answered } => self.applies(uid, *call, sent, back, answered),
            What::Die { uid, exit } => self.dies(uid, exit),
            What::Spawned { host, term, number, incarnation } => {
                self.has_spawned(host, term, number, incarnation);
            }
            What::Line { uid, line } => self.hears_line(uid, *line),
            What::Gone { uid } => self.sees_exit(uid),
            What::Reaped { uid, exit } => self.has_reaped(uid, exit),
            What::Watch { host, term } => self.watches(host, term),
            What::Look { host, term } => self.looks(host, term),
            What::Release { host, term, release } => self.releases(host, term, *release),
            What::Settle { host, term, release, request } => self.settles(host, term, *release, &request),
            What::TopUp { host } => self.top_up(host),
            What::TopTick { host, top } => self.top_ticks(host, top),
            What::MasterStarted { host, top } => self.master_started(host, top),
            What::MasterSays { host, pid, line } => self.master_says(host, pid, *line),
            What::MasterExited { host, top, pid, exit } => {
                self.top_hears(host, top, TopEvent::Exited { pid, exit });
            }
            What::MasterWelcome { host, pid } => self.master_is_welcome(host, pid),
            What::MasterBeats { host, pid } => self.master_beats(host, pid),
            What::MasterDies { host, pid, exit } => self.master_dies(host, pid, exit),
        }
    }

    fn enqueue(&mut self, number: u64, probe: bool) {
        let deed = match if probe { 0 } else { self.random.between(0, 100) } {
            0..74 => Deed::Done,
            74..84 => Deed::Fails(u32::try_from(self.random.between(1, 3)).unwrap_or(1)),
            84..90 => Deed::Snoozes,
            90..95 if self.crashers < MOST_CRASHERS => {
                self.crashers += 1;
                Deed::Crashes(u32::try_from(self.random.between(1, 4)).unwrap_or(1))
            }
            _ => Deed::Stubborn,
        };
        // Mostly milliseconds, some seconds.
        let lasts = match if probe { 0 } else { self.random.between(0, 10) } {
            0..6 => self.random.between(MS / 2, 30 * MS),
            6..9 => self.random.between(30 * MS, SECOND),
            _ => self.random.between(SECOND, 8 * SECOND),
        };
        // What goes on after its timeout is quick when it is tried again.
        let lasts = if deed == Deed::Stubborn { lasts.min(30 * MS) } else { lasts };
        let delay = if self.random.chance(40) { self.random.between(1, 4_000) } else { 0 };
        let id = format!("job-{number}");
        let timeout = if deed == Deed::Stubborn { ",\"timeout\":\"1s\"" } else { "" };
        let due = if delay > 0 { format!(",\"in\":\"{delay}ms\"") } else { String::new() };
        let text = format!("{{\"id\":\"{id}\",\"payload\":{number}{due}{timeout}}}");
        let job = parse(&text, &Limits { max_payload: 1 << 10, now: Wall::default() }).expect("a job");
        let now = self.store_now();
        let answer = self.store.enqueue(&self.queue, std::slice::from_ref(&job), u64::MAX, now);
        let Some(Enqueued::Created { due }) = answer.first() else { unreachable!("ids are new") };
        let may_die = matches!(deed, Deed::Crashes(2..));
        let start_by = probe.then(|| *due + PROMPT);
        self.judge.promises.insert(job.id.clone(), Promise { due: *due, may_die, start_by });
        self.works.insert(job.id, Work { deed, lasts, starts: 0, has_effect: false });
        self.after(delay * MS + MS, What::Due);
    }

    /// One thing that goes wrong.
    fn fault(&mut self) {
        self.judge.verdict.faults += 1;
        let host = self.random.index(HOSTS);
        match self.random.between(0, 100) {
            0..30 => {
                let alive: Vec<usize> = self.alive(host).collect();
                if !alive.is_empty() {
                    let uid = alive[self.random.index(alive.len())];
                    self.dies(uid, Exit::Signal(9));
                }
            }
            30..45 => {
                let alive: Vec<usize> = self.alive(host).collect();
                if !alive.is_empty() {
                    let uid = alive[self.random.index(alive.len())];
                    let until = self.now + self.random.between(SECOND, 25 * SECOND);
                    self.processes[uid].freeze(until);
                }
            }
            45..54 => {
                let crashed = self.random.chance(50);
                let exit = if crashed { MasterExit::Code(1) } else { MasterExit::Signal(9) };
                if let Some(pid) = self.master_pid(host) {
                    self.master_dies(host, pid, exit);
                }
            }
            54..62 => {
                // In some of these for longer than its supervisor bears it.
                let until = self.now + self.random.between(SECOND, 25 * SECOND);
                self.hosts[host].frozen = until;
                self.hosts[host].top.suspicious = true;
            }
            62..66 => self.top_down(host),
            66..70 => {
                let until = self.now + self.random.between(SECOND, 25 * SECOND);
                self.hosts[host].top.frozen = until;
            }
            70..77 => self.host_down(host),
            77..85 => self.hosts[host].cut = self.now + self.random.between(SECOND / 2, 25 * SECOND),
            85..92 => self.store_away = self.now + self.random.between(SECOND / 10, 25 * SECOND),
            92..96 => self.lossy = self.now + self.random.between(SECOND, 10 * SECOND),
            _ => {
                // The whole host stands still.
                let until = self.now + self.random.between(SECOND, 25 * SECOND);
                self.hosts[host].frozen = until;
                self.hosts[host].top.frozen = until;
                for uid in self.alive(host).collect::<Vec<_>>() {
                    self.processes[uid].freeze(until);
                }
            }
        }
        if self.random.chance(30) {
            self.hosts[host].wanted = u32::try_from(self.random.between(0, 5)).unwrap_or(1);
        }
    }

    fn heal(&mut self) {
        self.healed = true;
        (self.store_away, self.lossy) = (0, 0);
        // Who stands still goes on when his time has come.
        for host in &mut self.hosts {
            (host.cut, host.wanted) = (0, 2);
        }
    }

    pub(super) fn alive(&self, host: usize) -> impl Iterator<Item = usize> {
        let here = move |process: &&Process| process.host == host && process.alive;
        self.processes.iter().filter(here).map(|process| process.uid)
    }

    /// Whether a host reaches the store now.
    pub(super) fn is_reached(&self, host: usize) -> bool {
        self.hosts[host].cut <= self.now && self.store_away <= self.now
    }

    /// Whether a call or an answer goes astray now.
    pub(super) fn is_lost(&mut self) -> bool {
        self.lossy > self.now && self.random.chance(30)
    }

    /// For whoever reads the course.
    pub(super) fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(told) = &mut self.told {
            told.push(format!("             {}", what()));
        }
    }

    pub(super) const fn done() -> Outcome {
        Outcome::Done { result: None, follow_ups: Vec::new(), note: None }
    }
}
