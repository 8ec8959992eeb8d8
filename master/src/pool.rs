//! The slots of one pool: how many are filled, which is started, woken or let go, and when the pool itself is at fault.
//! Pure.

mod recycle;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::names::QueueName;
use roundsman_shared::protocol::{Doing, ToChild};
use roundsman_shared::settings::Detection;

use self::recycle::Wear;
use crate::scale::UNKNOWN_BOOT;
use crate::slot::{Action, Blame, Death, Event, Exit, Fate, Phase, Slot, State};

/// So many failures to boot in a row, and the pool is at fault rather than its workers.
const BOOT_FAILURES: u32 = 4;
/// So many different jobs crash their workers, with none finished in between, and the pool is at fault, not the jobs.
/// From the last of them on none is charged, so that none of a backlog dies of a bad deploy. Of several jobs that ran
/// in a worker when it crashed one may have done it: crashes count as different only if they have no job in common.
const CRASHING_JOBS: usize = 3;
/// Jobs of one crash that are remembered.
const MOST_SUSPECTS: usize = 256;
/// A quarantined pool is tried again, with one worker, so much later.
const QUARANTINE: Duration = Duration::from_secs(300);
/// A worker is let go only after it has been idle for so long: younger beats may say otherwise. That fewer have been
/// needed for a while is for the law to say.
pub(crate) const IDLE_HOLD: Duration = Duration::from_millis(250);
/// Between two times that busy workers are told of work in a queue.
const LOOK_GAP: Duration = Duration::from_millis(10);

/// What the pool is to be, of all that settings say of it.
#[derive(Debug, Clone)]
pub struct Shape {
    pub queues: Vec<QueueName>,
    pub max: u32,
    pub slots: u16,
    pub detection: Detection,
    pub grace: Duration,
    pub max_memory: Option<u64>,
    /// Jobs after which a worker leaves by itself; 0: never.
    pub max_jobs: u64,
    /// Whoever is replaced stays until another is ready in its stead; else it goes first, where there may be one only.
    pub spare: bool,
    /// An end with an error within so long of having been ready is a failure to start.
    pub early: Duration,
    /// Whoever is to leave has so long for it at most; without it jobs end by their own timeouts.
    pub leave: Option<Duration>,
}

#[derive(Debug)]
pub struct Pool {
    pub shape: Shape,
    pub slots: BTreeMap<u32, Slot>,
    pub quarantine: Option<Quarantine>,
    /// From the start of a worker to its being ready, nearly always.
    pub boot: Duration,
    boot_failures: u32,
    /// What ran at each crash since a job was finished, of crashes that have no job in common; kept over a quarantine.
    crashes: Vec<BTreeSet<String>>,
    /// When busy workers were last told of work in a queue, and whether they are to be told again.
    looks: BTreeMap<QueueName, (Mono, bool)>,
    /// Slots whose worker is to be replaced, by incarnation.
    worn: BTreeMap<u32, (u64, Wear)>,
    /// Slots whose worker was let go for that, by incarnation.
    spent: BTreeMap<u32, u64>,
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
            boot: UNKNOWN_BOOT,
            boot_failures: 0,
            crashes: Vec::new(),
            looks: BTreeMap::new(),
            worn: BTreeMap::new(),
            spent: BTreeMap::new(),
            closing: false,
        }
    }

    /// Hands an event to a slot, and draws the pool's conclusions from a death.
    pub fn step(&mut self, now: Mono, number: u32, incarnation: u64, event: Event, out: &mut Actions) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let event = match event {
            Event::Drain { by, why } => Event::Drain { by: by.or(self.shape.leave), why },
            other => other,
        };
        let mut actions = Vec::new();
        let ready = slot.life().and_then(|life| life.ready);
        let young = ready.is_some_and(|ready| now.since(ready) < self.shape.early);
        let ended = |slot: &Slot| slot.life().map(|life| life.beat.done + life.beat.failed);
        let before = ended(slot);
        slot.step(now, incarnation, event, &self.shape.detection, &mut actions);
        if ended(slot) > before {
            self.crashes.clear();
        }
        if ready.is_some() && !young && !self.shape.early.is_zero() && self.quarantine.is_none() {
            self.boot_failures = 0;
        }
        for mut action in actions {
            match &mut action {
                Action::Died(death) => {
                    if young && death.blame == (Blame::Worker { ready: true }) {
                        death.blame = Blame::Worker { ready: false };
                    }
                    self.died(now, death);
                }
                Action::Ready if !self.shape.early.is_zero() => {}
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
        let suspects: BTreeSet<String> = jobs.take(MOST_SUSPECTS).collect();
        let is_new = !suspects.is_empty() && self.crashes.iter().all(|other| other.is_disjoint(&suspects));
        if is_new && !self.is_at_fault() {
            self.crashes.push(suspects);
        }
    }

    /// Whether the crashes since a job was finished are the pool's fault, not the jobs'.
    #[must_use]
    pub fn is_at_fault(&self) -> bool {
        self.crashes.len() >= CRASHING_JOBS
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
                        "{} workers in a row {}; the last: {last}",
                        self.boot_failures,
                        if self.shape.early.is_zero() {
                            "did not become ready"
                        } else {
                            "failed soon after their start"
                        }
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

    /// Why its program is no good, once so many workers have not become ready, or it is quarantined.
    #[must_use]
    pub fn failing(&self, failures: u32) -> Option<String> {
        match &self.quarantine {
            Some(quarantine) => Some(quarantine.why.clone()),
            None if self.boot_failures >= failures => {
                Some(format!("{} workers in a row did not become ready", self.boot_failures))
            }
            None => None,
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

    /// Lets this one go after its jobs.
    pub fn dismiss_one(&mut self, now: Mono, number: u32, why: &str, out: &mut Actions) {
        self.let_go(now, number, None, why, out);
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

    /// Workers that serve and are to stay.
    #[must_use]
    pub fn ready(&self) -> u32 {
        let ready = |life: &&crate::slot::Life| life.stays() && life.ready.is_some();
        u32::try_from(self.slots.values().filter_map(Slot::life).filter(ready).count()).unwrap_or(u32::MAX)
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
        let most = usize::try_from(self.shape.max).unwrap_or(usize::MAX);
        let wanted = usize::try_from(desired).unwrap_or(usize::MAX).min(most);
        self.wear(now, out);
        let spares = self.spares(now, wanted);
        let goal = self.goal(wanted, spares);
        let room = most.saturating_add(recycle::surge(wanted).min(spares + self.spent()));
        while self.quarantine.is_none() && self.filled() < goal && self.alive() < room {
            let Some(number) = self.vacant(room) else { break };
            if !budget.take(now, *unready, wanted) {
                break;
            }
            *unready += 1;
            let slot = self.slots.entry(number).or_default();
            let mut actions = Vec::new();
            slot.step(now, slot.incarnation, Event::Spawn, &self.shape.detection, &mut actions);
            out.extend(actions.into_iter().map(|action| (number, action)));
        }
        self.replace(now, wanted, out);
        let spares = self.spares(now, wanted);
        // Who was replaced while it died need not come back.
        let mut waiting = self.filled().saturating_sub(wanted + spares);
        for slot in self.slots.values_mut().filter(|slot| matches!(slot.state, State::Backoff { .. })) {
            if waiting > 0 {
                waiting -= 1;
                slot.state = State::Empty;
            }
        }
        self.thin(now, desired, out);
        let surplus = self.filled().saturating_sub(most.saturating_add(spares));
        self.dismiss(now, surplus, "max_workers is lower", out);
    }

    /// Lets go whoever is too much and has long been idle.
    pub fn thin(&mut self, now: Mono, desired: u32, out: &mut Actions) {
        let surplus = self.surplus(now, desired);
        for number in self.long_idle(now).into_iter().take(surplus) {
            self.let_go(now, number, None, "fewer workers are needed", out);
        }
    }

    /// When the next of those who are too much will have been idle for long.
    #[must_use]
    pub fn next_thinning(&self, now: Mono, desired: u32) -> Option<Mono> {
        if self.closing || self.surplus(now, desired) == 0 {
            return None;
        }
        let idle = self.slots.values().filter_map(Slot::life).filter(|life| life.is_idle() && life.stays());
        idle.filter_map(|life| Some(life.idle? + IDLE_HOLD)).filter(|end| *end > now).min()
    }

    /// Workers beyond what the pool is to have.
    fn surplus(&self, now: Mono, desired: u32) -> usize {
        let wanted = usize::try_from(desired.min(self.shape.max)).unwrap_or(usize::MAX);
        self.filled().saturating_sub(wanted.saturating_add(self.spares(now, wanted)))
    }

    /// Lets go up to `count` workers that are more than `desired`, though they may not have been idle for long.
    pub fn shed(&mut self, now: Mono, desired: u32, count: u32, why: &str, out: &mut Actions) {
        let desired = usize::try_from(desired).unwrap_or(usize::MAX);
        let surplus = self.filled().saturating_sub(desired.saturating_add(self.spares(now, desired)));
        let count = surplus.min(usize::try_from(count).unwrap_or(usize::MAX));
        self.dismiss(now, count, why, out);
    }

    /// Lets workers go, also busy ones, each after its jobs: the least busy first.
    fn dismiss(&mut self, now: Mono, count: usize, why: &str, out: &mut Actions) {
        if count == 0 {
            return;
        }
        let mut able: Vec<(u32, u32)> = self
            .slots
            .iter()
            .filter_map(|(number, slot)| {
                Some((slot.life().filter(|life| life.stays())?.beat.running, *number))
            })
            .collect();
        able.sort_unstable_by_key(|(running, number)| (*running, std::cmp::Reverse(*number)));
        for (_, number) in able.into_iter().take(count) {
            self.let_go(now, number, None, why, out);
        }
    }

    /// The lowest number without a worker.
    fn vacant(&self, most: usize) -> Option<u32> {
        let mut taken = self.slots.iter().filter(|(_, slot)| !matches!(slot.state, State::Empty));
        let mut number = 1;
        for (used, _) in taken.by_ref() {
            if *used != number {
                break;
            }
            number += 1;
        }
        usize::try_from(number).is_ok_and(|number| number <= most).then_some(number)
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

    /// Workers that there may be, those included that start and those that wait to be started again.
    fn goal(&self, wanted: usize, spares: usize) -> usize {
        match self.is_on_trial() {
            false => wanted.saturating_add(spares),
            // Who is to be replaced would stay for ever.
            true if spares > 0 => (self.able() + 1).min(wanted.saturating_add(spares)),
            true => wanted.min(1),
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
mod tests;
