//! The slots of one pool: how many are filled, which is started, woken or let go, and when the pool itself is at fault.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::names::QueueName;
use roundsman_shared::protocol::{Doing, ToChild};
use roundsman_shared::settings::Detection;

use crate::slot::{Action, Blame, Death, Event, Exit, Fate, Phase, Slot, State};

/// So many failures to boot in a row, and the pool is at fault rather than its workers.
const BOOT_FAILURES: u32 = 4;
/// So many different jobs crash their workers, with none finished in between, and the pool is at fault, not the jobs.
/// From the last of them on none is charged, so that none of a backlog dies of a bad deploy.
const CRASHING_JOBS: usize = 3;
/// A quarantined pool is tried again, with one worker, so much later.
const QUARANTINE: Duration = Duration::from_secs(300);
/// A worker is let go only after it has been idle for so long.
const IDLE_HOLD: Duration = Duration::from_secs(10);
/// Between two times that busy workers are told of work in a queue.
const LOOK_GAP: Duration = Duration::from_millis(10);
/// Workers that may be replaced at the same time after a change of settings, as a share.
const SURGE: usize = 4;

/// What the pool is to be, of all that settings say of it.
#[derive(Debug, Clone)]
pub struct Shape {
    pub queues: Vec<QueueName>,
    pub max: u32,
    pub slots: u16,
    pub detection: Detection,
    pub grace: Duration,
    pub max_memory: Option<u64>,
}

#[derive(Debug)]
pub struct Pool {
    pub shape: Shape,
    pub slots: BTreeMap<u32, Slot>,
    pub quarantine: Option<Quarantine>,
    boot_failures: u32,
    /// Jobs that crashed their workers since one was finished; kept over a quarantine.
    crashers: BTreeSet<String>,
    /// When busy workers were last told of work in a queue, and whether they are to be told again.
    looks: BTreeMap<QueueName, (Mono, bool)>,
    /// Slots whose worker was started with settings that count no more, by incarnation.
    stale: BTreeMap<u32, u64>,
    /// Nothing is started any more.
    closing: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    pub why: String,
    until: Mono,
}

/// How many processes may be started now, over all pools of the host.
#[derive(Debug)]
pub struct Budget {
    cores: usize,
    tokens: f64,
    filled: Mono,
    /// When a worker last failed to boot.
    failed: Option<Mono>,
}

/// After a failure to boot, starts are rare for so long.
const CAREFUL: Duration = Duration::from_secs(10);
const STARTS_PER_S: f64 = 40.0;
const CAREFUL_STARTS_PER_S: f64 = 10.0;
const BURST: f64 = 16.0;

impl Budget {
    #[must_use]
    pub fn new(cores: usize, now: Mono) -> Self {
        Self { cores, tokens: BURST, filled: now, failed: None }
    }

    fn is_careful(&self, now: Mono) -> bool {
        self.failed.is_some_and(|failed| now.since(failed) < CAREFUL)
    }

    /// Whether one more may be started, with `unready` of `wanted` not ready yet.
    fn take(&mut self, now: Mono, unready: usize, wanted: usize) -> bool {
        let rate = if self.is_careful(now) { CAREFUL_STARTS_PER_S } else { STARTS_PER_S };
        self.tokens = (self.tokens + now.since(self.filled).as_secs_f64() * rate).min(BURST);
        self.filled = now;
        if unready >= self.cores.max(wanted.div_ceil(4)) || self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// An action of one slot.
pub type Actions = Vec<(u32, Action)>;

impl Pool {
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            slots: BTreeMap::new(),
            quarantine: None,
            boot_failures: 0,
            crashers: BTreeSet::new(),
            looks: BTreeMap::new(),
            stale: BTreeMap::new(),
            closing: false,
        }
    }

    /// Hands an event to a slot, and draws the pool's conclusions from a death.
    pub fn step(&mut self, now: Mono, number: u32, incarnation: u64, event: Event, out: &mut Actions) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let mut actions = Vec::new();
        let ended = |slot: &Slot| slot.life().map(|life| life.beat.done + life.beat.failed);
        let before = ended(slot);
        slot.step(now, incarnation, event, &self.shape.detection, &mut actions);
        if ended(slot) > before {
            self.crashers.clear();
        }
        for action in actions {
            match &action {
                Action::Died(death) => self.died(now, death),
                Action::Ready => self.boot_failures = 0,
                Action::Spawn
                | Action::Welcome
                | Action::Send(_)
                | Action::Signal { .. }
                | Action::Note(_) => {}
            }
            out.push((number, action));
        }
    }

    /// A moment passed.
    pub fn time(&mut self, now: Mono, blind: bool, out: &mut Actions) {
        let due: Vec<(u32, u64)> =
            self.slots.iter().map(|(number, slot)| (*number, slot.incarnation)).collect();
        for (number, incarnation) in due {
            self.step(now, number, incarnation, Event::Time { blind }, out);
        }
        let due = |(_, (at, again)): (&QueueName, &(Mono, bool))| *again && now.since(*at) >= LOOK_GAP;
        let due: Vec<QueueName> =
            self.looks.iter().filter(|look| due(*look)).map(|(queue, _)| queue.clone()).collect();
        for queue in due {
            self.look(now, &queue, out);
        }
        if self.quarantine.as_ref().is_some_and(|quarantine| now >= quarantine.until) {
            self.quarantine = None;
            // One failure more, and it is back.
            self.boot_failures = BOOT_FAILURES - 1;
        }
    }

    /// A worker is about to be buried that crashed while it ran these jobs.
    pub fn crashed(&mut self, jobs: impl Iterator<Item = String>) {
        let room = (2 * CRASHING_JOBS).saturating_sub(self.crashers.len());
        self.crashers.extend(jobs.take(room));
    }

    /// Whether the crashes since a job was finished are the pool's fault, not the jobs'.
    #[must_use]
    pub fn is_at_fault(&self) -> bool {
        self.crashers.len() >= CRASHING_JOBS
    }

    fn died(&mut self, now: Mono, death: &Death) {
        // On trial one crash is enough, whichever job it hits.
        let crash = matches!(death.blame, Blame::Job | Blame::Worker { ready: true });
        if crash && self.is_at_fault() && self.quarantine.is_none() {
            let why = format!("different jobs in a row crashed their workers ({})", death.exit);
            self.put_in_quarantine(now, why);
        }
        match death.blame {
            Blame::Nobody | Blame::Job | Blame::Worker { ready: true } => {}
            Blame::Worker { ready: false } => {
                self.boot_failures += 1;
                if self.boot_failures >= BOOT_FAILURES {
                    let last = match &death.fate {
                        Some(Fate::Unready { why }) => why.clone(),
                        _ => death.exit.to_string(),
                    };
                    let why = format!(
                        "{} workers in a row did not become ready; the last: {last}",
                        self.boot_failures
                    );
                    self.put_in_quarantine(now, why);
                }
            }
            Blame::SetUp => {
                let why = match death.exit {
                    Exit::Code(127) => "there is no such program (exit code 127)".to_owned(),
                    Exit::Code(126) => "the program cannot be run (exit code 126)".to_owned(),
                    exit => format!("its workers refuse how they are set up ({exit})"),
                };
                self.put_in_quarantine(now, why);
            }
        }
    }

    pub fn put_in_quarantine(&mut self, now: Mono, why: String) {
        self.quarantine = Some(Quarantine { why, until: now + QUARANTINE });
        for slot in self.slots.values_mut() {
            slot.forgive();
        }
    }

    /// Another try after a change of settings.
    pub fn pardon(&mut self) {
        self.quarantine = None;
        self.boot_failures = 0;
        for slot in self.slots.values_mut() {
            slot.forgive();
        }
    }

    /// Marks every present worker as started with settings that count no more.
    pub fn renew(&mut self) {
        self.stale = self.slots.iter().map(|(number, slot)| (*number, slot.incarnation)).collect();
    }

    /// Lets everybody go; nobody is started any more. `by` bounds the time of what runs; without it jobs end by
    /// their own timeouts.
    pub fn close(&mut self, now: Mono, by: Option<Duration>, why: &str, out: &mut Actions) {
        self.closing = true;
        let all: Vec<u32> = self.slots.keys().copied().collect();
        for number in all {
            self.let_go(now, number, by, why, out);
        }
    }

    /// Has everybody give everything back at once.
    pub fn release(&mut self, now: Mono, out: &mut Actions) {
        self.closing = true;
        let all: Vec<(u32, u64)> =
            self.slots.iter().map(|(number, slot)| (*number, slot.incarnation)).collect();
        for (number, incarnation) in all {
            self.step(now, number, incarnation, Event::Release, out);
        }
    }

    fn let_go(&mut self, now: Mono, number: u32, by: Option<Duration>, why: &str, out: &mut Actions) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        if slot.life().is_none() {
            slot.forgive();
            return;
        }
        let incarnation = slot.incarnation;
        let event = Event::Drain { by, why: why.to_owned() };
        self.step(now, number, incarnation, event, out);
    }

    /// Workers that exist, whatever they do.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.slots.values().filter(|slot| slot.life().is_some()).count()
    }

    #[must_use]
    pub fn unready(&self) -> usize {
        self.slots.values().filter_map(Slot::life).filter(|life| life.is_unready()).count()
    }

    /// Workers that are to stay, or wait to be started again.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.slots.values().filter(|slot| slot.is_filled()).count()
    }

    /// Starts what is missing and lets go what has long been idle and is too much. `unready` counts over all pools.
    pub fn adjust(
        &mut self,
        now: Mono,
        desired: u32,
        budget: &mut Budget,
        unready: &mut usize,
        out: &mut Actions,
    ) {
        if self.closing {
            return;
        }
        let wanted = if self.is_on_trial() { desired.min(1) } else { desired };
        let wanted = usize::try_from(wanted.min(self.shape.max)).unwrap_or(usize::MAX);
        let most = usize::try_from(self.shape.max).unwrap_or(usize::MAX);
        while self.quarantine.is_none() && self.filled() < wanted && self.alive() < most {
            let Some(number) = self.vacant() else { break };
            if !budget.take(now, *unready, wanted) {
                break;
            }
            *unready += 1;
            let slot = self.slots.entry(number).or_default();
            let mut actions = Vec::new();
            slot.step(now, slot.incarnation, Event::Spawn, &self.shape.detection, &mut actions);
            out.extend(actions.into_iter().map(|action| (number, action)));
        }
        // Who was replaced while it died need not come back.
        let mut waiting = self.filled().saturating_sub(wanted);
        for slot in self.slots.values_mut().filter(|slot| matches!(slot.state, State::Backoff { .. })) {
            if waiting > 0 {
                waiting -= 1;
                slot.state = State::Empty;
            }
        }
        let surplus = self.filled().saturating_sub(wanted);
        for number in self.long_idle(now).into_iter().take(surplus) {
            self.let_go(now, number, None, "fewer workers are needed", out);
        }
        // More than there may be: also of those that are busy, each after its jobs, the least busy first.
        let surplus = self.filled().saturating_sub(most);
        if surplus > 0 {
            let mut able: Vec<(u32, u32)> = self
                .slots
                .iter()
                .filter_map(|(number, slot)| {
                    Some((slot.life().filter(|life| life.stays())?.beat.running, *number))
                })
                .collect();
            able.sort_unstable_by_key(|(running, number)| (*running, std::cmp::Reverse(*number)));
            for (_, number) in able.into_iter().take(surplus) {
                self.let_go(now, number, None, "max_workers is lower", out);
            }
        }
        self.replace_some(now, out);
    }

    /// The lowest number without a worker.
    fn vacant(&self) -> Option<u32> {
        let mut taken = self.slots.iter().filter(|(_, slot)| !matches!(slot.state, State::Empty));
        let mut number = 1;
        for (used, _) in taken.by_ref() {
            if *used != number {
                break;
            }
            number += 1;
        }
        (number <= self.shape.max).then_some(number)
    }

    /// Idle for long, the longest first.
    fn long_idle(&self, now: Mono) -> Vec<u32> {
        let mut idle: Vec<(Mono, u32)> = self
            .slots
            .iter()
            .filter_map(|(number, slot)| {
                let life =
                    slot.life().filter(|life| life.is_idle() && life.stays() && !life.is_woken(now))?;
                let since = life.idle.filter(|since| now.since(*since) >= IDLE_HOLD)?;
                Some((since, *number))
            })
            .collect();
        idle.sort_unstable();
        idle.into_iter().map(|(_, number)| number).collect()
    }

    /// Replaces workers with old settings, and those that use too much memory, a few at a time.
    fn replace_some(&mut self, now: Mono, out: &mut Actions) {
        let stale = &self.stale;
        let limit = self.shape.max_memory.map(|bytes| bytes / 1024);
        let going = self
            .slots
            .values()
            .filter_map(Slot::life)
            .filter(|life| !life.stays() || life.is_unready())
            .count();
        let mut room = self.filled().div_ceil(SURGE).max(1).saturating_sub(going);
        let mut chosen = Vec::new();
        for (number, slot) in &self.slots {
            let Some(life) = slot.life().filter(|life| life.stays() && life.ready.is_some()) else {
                continue;
            };
            let fat = limit.is_some_and(|limit| life.beat.rss_kb > limit);
            let old = stale.get(number) == Some(&slot.incarnation);
            if room > 0 && (old || fat) {
                room -= 1;
                chosen.push((*number, if old { "new settings" } else { "it uses more than max_memory" }));
            }
        }
        for (number, why) in chosen {
            self.let_go(now, number, None, why, out);
        }
    }

    /// After a quarantine, until a job is finished.
    fn is_on_trial(&self) -> bool {
        self.is_at_fault() || self.boot_failures >= BOOT_FAILURES - 1
    }

    /// Takes up work again that was to be given up.
    pub fn reopen(&mut self) {
        self.closing = false;
    }

    /// Tells busy workers to look at a queue with their next pull: what came in while nobody was idle. Told at most once
    /// in [`LOOK_GAP`]; what comes meanwhile is told after it.
    pub fn look(&mut self, now: Mono, queue: &QueueName, out: &mut Actions) {
        if !self.shape.queues.contains(queue) {
            return;
        }
        if let Some((at, again)) = self.looks.get_mut(queue)
            && now.since(*at) < LOOK_GAP
        {
            *again = true;
            return;
        }
        self.looks.insert(queue.clone(), (now, false));
        for (number, slot) in &self.slots {
            if slot.life().is_some_and(|life| life.phase == Phase::Serving && life.stays()) {
                out.push((*number, Action::Send(ToChild::Look { queue: queue.to_string() })));
            }
        }
    }

    /// Wakes up to `count` workers for a queue, the most recently idle first; answers how many.
    pub fn wake(&mut self, now: Mono, queue: &QueueName, count: u64, out: &mut Actions) -> u64 {
        if count == 0 || !self.shape.queues.contains(queue) {
            return 0;
        }
        let slots = u32::from(self.shape.slots);
        let mut able: Vec<(Mono, u32)> = self
            .slots
            .iter()
            .filter_map(|(number, slot)| {
                let life = slot.life()?;
                let free = life.phase == Phase::Serving
                    && life.stays()
                    && !life.is_woken(now)
                    && (life.idle.is_some() || life.beat.running < slots)
                    && life.beat.doing != Doing::Draining;
                free.then(|| (life.idle.unwrap_or_default(), *number))
            })
            .collect();
        able.sort_unstable();
        let mut woken = 0;
        for (_, number) in able.into_iter().rev() {
            if woken == count {
                break;
            }
            if let Some(life) = self.slots.get_mut(&number).and_then(Slot::life_mut) {
                life.woken = Some(now);
                out.push((number, Action::Send(ToChild::Wake { queue: queue.clone().into() })));
                woken += 1;
            }
        }
        woken
    }

    /// Workers that were woken so lately that they may not have pulled yet.
    #[must_use]
    pub fn woken(&self, now: Mono, queue: &QueueName) -> u64 {
        if !self.shape.queues.contains(queue) {
            return 0;
        }
        self.slots.values().filter_map(Slot::life).filter(|life| life.is_woken(now)).count() as u64
    }

    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        let slots = self.slots.values().filter_map(|slot| slot.next_deadline(&self.shape.detection));
        let looks = self.looks.values().filter(|(_, again)| *again).map(|(at, _)| *at + LOOK_GAP);
        slots.chain(looks).min()
    }

    pub fn shift(&mut self, late: Duration) {
        for slot in self.slots.values_mut() {
            slot.shift(late);
        }
    }
}

impl Budget {
    /// A worker failed before it was ready.
    pub fn note(&mut self, now: Mono, death: &Death) {
        if matches!(death.blame, Blame::Worker { ready: false } | Blame::SetUp) {
            self.failed = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roundsman_shared::protocol::{FromChild, StopMode};

    fn shape(max: u32) -> Shape {
        Shape {
            queues: vec![QueueName::new("q").unwrap()],
            max,
            slots: 1,
            detection: Detection {
                suspect: Duration::from_millis(3500),
                silence: Duration::from_secs(10),
                frozen: Duration::from_secs(15),
            },
            grace: Duration::from_secs(30),
            max_memory: None,
        }
    }

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn spawned(out: &Actions) -> Vec<u32> {
        out.iter().filter(|(_, action)| *action == Action::Spawn).map(|(number, _)| *number).collect()
    }

    fn make_ready(pool: &mut Pool, now: Mono, number: u32) {
        let mut out = Vec::new();
        let incarnation = pool.slots[&number].incarnation;
        let hello = FromChild::Hello { v: [1, 1], pid: 1, nonce: 1, build: "t".into() };
        for event in [Event::Spawned { pid: 9 }, Event::Line(hello), Event::Line(FromChild::Ready)] {
            pool.step(now, number, incarnation, event, &mut out);
        }
    }

    fn filled(count: u32, max: u32) -> Pool {
        let mut pool = Pool::new(shape(max));
        let mut budget = Budget::new(64, at(0));
        pool.adjust(at(0), count, &mut budget, &mut 0, &mut Vec::new());
        for number in 1..=count {
            make_ready(&mut pool, at(u64::from(number)), number);
        }
        pool
    }

    #[test]
    fn the_budget_bounds_starts() {
        let mut pool = Pool::new(shape(100));
        let mut budget = Budget::new(2, at(0));
        let mut out = Vec::new();
        let mut unready = 0;
        pool.adjust(at(0), 100, &mut budget, &mut unready, &mut out);
        assert_eq!((spawned(&out).len(), unready), (16, 16), "the burst");
        pool.adjust(at(250), 100, &mut budget, &mut unready, &mut out);
        assert_eq!(spawned(&out).len(), 25, "a quarter unready at most");
        pool.adjust(at(9000), 100, &mut budget, &mut unready, &mut out);
        assert_eq!(spawned(&out).len(), 25);
    }

    #[test]
    fn only_long_idle_workers_are_let_go() {
        let mut pool = filled(3, 8);
        let mut budget = Budget::new(4, at(0));
        let mut out = Vec::new();
        pool.adjust(at(9000), 1, &mut budget, &mut 0, &mut out);
        assert_eq!(out, []);
        pool.adjust(at(10_002), 0, &mut budget, &mut 0, &mut out);
        let stopped: Vec<u32> = out.iter().map(|(number, _)| *number).collect();
        assert_eq!(stopped, [1, 2], "those idle for 10 s");
    }

    #[test]
    fn who_was_replaced_while_it_died_does_not_cost_another_its_place() {
        let mut pool = filled(2, 3);
        let mut budget = Budget::new(4, at(0));
        let mut out = Vec::new();
        pool.step(at(20_000), 1, 1, Event::Time { blind: false }, &mut out);
        assert!(out.contains(&(1, Action::Signal { group: false, signal: crate::slot::Deadly::Abort })));
        let beat = roundsman_shared::protocol::Beat { doing: Doing::Idle, ..Default::default() };
        pool.step(at(20_000), 2, 1, Event::Line(FromChild::Hb(beat)), &mut out);
        pool.adjust(at(20_000), 2, &mut budget, &mut 0, &mut out);
        assert_eq!(spawned(&out), [3]);
        out.clear();
        pool.step(at(21_000), 1, 1, Event::Gone, &mut out);
        pool.step(
            at(21_000),
            1,
            1,
            Event::Reaped { exit: Exit::Signal(6), ran: false, jitter: 0.0 },
            &mut out,
        );
        assert!(matches!(pool.slots[&1].state, State::Backoff { .. }));
        out.clear();
        pool.adjust(at(21_000), 2, &mut budget, &mut 0, &mut out);
        assert_eq!((out.len(), pool.filled()), (0, 2));
    }

    #[test]
    fn wakes_go_to_the_latest_idle_once() {
        let mut pool = filled(3, 8);
        let queue = QueueName::new("q").unwrap();
        let mut out = Vec::new();
        assert_eq!(pool.wake(at(100), &queue, 2, &mut out), 2);
        assert_eq!(out.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(pool.woken(at(100), &queue), 2);
        assert_eq!(pool.wake(at(101), &queue, 5, &mut out), 1);
        assert_eq!(pool.wake(at(103), &queue, 5, &mut out), 3, "assumed idle again");
        assert_eq!(pool.wake(at(110), &QueueName::new("other").unwrap(), 5, &mut out), 0);
    }

    #[test]
    fn a_program_that_is_not_there_is_quarantined_and_tried_again() {
        let mut pool = Pool::new(shape(4));
        let mut budget = Budget::new(4, at(0));
        let mut out = Vec::new();
        pool.adjust(at(0), 1, &mut budget, &mut 0, &mut out);
        pool.step(at(1), 1, 1, Event::Spawned { pid: 3 }, &mut out);
        pool.step(at(2), 1, 1, Event::Gone, &mut out);
        pool.step(at(3), 1, 1, Event::Reaped { exit: Exit::Code(127), ran: false, jitter: 0.0 }, &mut out);
        assert!(pool.quarantine.as_ref().unwrap().why.contains("127"));
        out.clear();
        pool.time(at(60_000), false, &mut out);
        pool.adjust(at(60_000), 2, &mut budget, &mut 0, &mut out);
        assert!(spawned(&out).is_empty());
        pool.time(at(300_100), false, &mut out);
        pool.adjust(at(300_100), 2, &mut budget, &mut 0, &mut out);
        assert_eq!(spawned(&out), [1], "one alone");
    }

    #[test]
    fn too_many_workers_leave_after_their_jobs() {
        let mut pool = filled(3, 3);
        let busy = roundsman_shared::protocol::Beat { doing: Doing::Busy, running: 1, ..Default::default() };
        for number in 1..=3 {
            pool.step(at(100), number, 1, Event::Line(FromChild::Hb(busy.clone())), &mut Vec::new());
        }
        pool.shape.max = 1;
        let (mut budget, mut out) = (Budget::new(4, at(0)), Vec::new());
        pool.adjust(at(200), 3, &mut budget, &mut 0, &mut out);
        let told: Vec<u32> = out.iter().map(|(number, _)| *number).collect();
        assert_eq!(told, [3, 2]);
        let unbounded = |action: &Action| matches!(action, Action::Send(ToChild::Stop { mode: StopMode::Drain, by_ms, .. }) if *by_ms > 86_400_000);
        assert!(out.iter().all(|(_, action)| unbounded(action)), "{out:?}");
        out.clear();
        pool.adjust(at(300), 3, &mut budget, &mut 0, &mut out);
        assert_eq!(out, []);
    }

    #[test]
    fn busy_workers_are_told_of_work_now_and_then() {
        let mut pool = filled(2, 2);
        let queue = QueueName::new("q").unwrap();
        let looks = |out: &Actions| {
            out.iter().filter(|(_, it)| matches!(it, Action::Send(ToChild::Look { .. }))).count()
        };
        let mut out = Vec::new();
        pool.look(at(100), &queue, &mut out);
        pool.look(at(101), &queue, &mut out);
        assert_eq!((looks(&out), pool.next_deadline()), (2, Some(at(110))));
        out.clear();
        pool.time(at(110), false, &mut out);
        assert_eq!(looks(&out), 2, "what came meanwhile");
        out.clear();
        pool.time(at(130), false, &mut out);
        assert_eq!(looks(&out), 0);
    }

    #[test]
    fn different_jobs_that_crash_are_the_pools_fault() {
        let mut pool = Pool::new(shape(4));
        let mut budget = Budget::new(4, at(0));
        let mut ms = 0;
        let mut crash = |pool: &mut Pool, job: &str| {
            let mut out = Vec::new();
            ms += 60_000;
            pool.time(at(ms), false, &mut out);
            pool.adjust(at(ms), 1, &mut budget, &mut 0, &mut out);
            make_ready(pool, at(ms), 1);
            let incarnation = pool.slots[&1].incarnation;
            pool.step(at(ms), 1, incarnation, Event::Gone, &mut out);
            pool.crashed([job.to_owned()].into_iter());
            pool.step(
                at(ms),
                1,
                incarnation,
                Event::Reaped { exit: Exit::Signal(6), ran: false, jitter: 0.0 },
                &mut out,
            );
            pool.quarantine.is_some()
        };
        for _ in 0..6 {
            assert!(!crash(&mut pool, "q/one"));
        }
        assert!(!crash(&mut pool, "q/two"));
        assert!(!pool.is_at_fault());
        assert!(crash(&mut pool, "q/three") && pool.is_at_fault());
        // Tried again later: one crash is enough, and it is still not the job's.
        pool.time(at(86_400_000), false, &mut Vec::new());
        assert!(pool.quarantine.is_none() && pool.is_at_fault() && pool.is_on_trial());
    }

    #[test]
    fn four_failures_to_boot_are_the_pools() {
        let mut pool = Pool::new(shape(4));
        let mut budget = Budget::new(4, at(0));
        let mut ms = 0;
        for round in 1..=4 {
            let mut out = Vec::new();
            ms += 60_000;
            pool.time(at(ms), false, &mut out);
            pool.adjust(at(ms), 1, &mut budget, &mut 0, &mut out);
            assert_eq!(spawned(&out), [1], "round {round}");
            let incarnation = pool.slots[&1].incarnation;
            pool.step(at(ms), 1, incarnation, Event::Spawned { pid: 3 }, &mut out);
            pool.step(at(ms), 1, incarnation, Event::Gone, &mut out);
            pool.step(
                at(ms),
                1,
                incarnation,
                Event::Reaped { exit: Exit::Code(1), ran: false, jitter: 0.0 },
                &mut out,
            );
            assert_eq!(pool.quarantine.is_some(), round == 4);
        }
    }
}
