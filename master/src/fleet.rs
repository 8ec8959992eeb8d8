//! The pools of this host with their processes: carries out what the cores decide.

mod ends;
mod guarded;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use roundsman_shared::board::Board;
use roundsman_shared::clock::{Mono, StoreClock};
use roundsman_shared::figures::{Figure, Figures, Metric, Said};
use roundsman_shared::job::Policy;
use roundsman_shared::names::{QueueName, WorkerId};
use roundsman_shared::outlook::{MOST_QUEUES, Outlook, PoolOutlook, QueueOutlook};
use roundsman_shared::protocol::{FromChild, Standing, ToChild, VERSION};
use roundsman_shared::store::StoreConfig;

use crate::beside::Beside;
use crate::child::{Child, Surroundings};
use crate::crew::{Crew, Demand, Hand, Known};
use crate::event::{Event, Key};
use crate::foreign;
use crate::guard::Guard;
use crate::oom::Kills;
use crate::others::Others;
use crate::plan::{Part, Plan, REPLIES, Work};
use crate::pool::{Actions, Budget};
use crate::random;
use crate::registry::{PartRecord, PoolRecord, start_time};
use crate::scale;
use crate::slot::{self, Action, Exit, Life, Slot};
use crate::spawn::{Launch, Started};

/// Workers whose state is written down at most.
const DUMPED: usize = 256;

/// What a fleet knows, while one of its crews is changed.
macro_rules! known {
    ($fleet:expr, $ahead:expr) => {
        Known {
            host: &$fleet.host,
            demand: &$fleet.demand,
            others: &$fleet.others,
            ahead: $ahead,
            blind: $fleet.blind,
        }
    };
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Fleet {
    host: String,
    store: StoreConfig,
    around: Surroundings,
    crews: BTreeMap<Arc<str>, Crew>,
    budget: Budget,
    kills: Kills,
    guard: Guard,
    pub policies: BTreeMap<QueueName, Policy>,
    pub demand: BTreeMap<QueueName, Demand>,
    /// The queues as they were seen last.
    pub seen: BTreeMap<QueueName, QueueOutlook>,
    /// What this fleet has counted since this master began.
    pub figures: Figures,
    pub clock: Option<StoreClock>,
    /// The other hosts, as they were read last.
    pub others: Others,
    pub blind: bool,
    pub paused: bool,
    /// What is this master's of it.
    pub beside: Beside,
}

impl Fleet {
    #[must_use]
    pub(crate) fn new(host: String, plan: &Plan, around: Surroundings, beside: Beside, now: Mono) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut fleet = Self {
            host,
            store: plan.store.clone(),
            around,
            crews: BTreeMap::new(),
            budget: Budget::new(cores, now),
            kills: Kills::new(),
            guard: Guard::new(cores),
            policies: plan.policies.clone(),
            demand: BTreeMap::new(),
            seen: BTreeMap::new(),
            figures: Figures::default(),
            clock: None,
            others: Others::default(),
            blind: false,
            paused: false,
            beside,
        };
        fleet.arrange(plan, now);
        fleet
    }

    /// Takes a plan over: new pools come, others go, the rest changes shape.
    pub(crate) fn arrange(&mut self, plan: &Plan, now: Mono) {
        let mut out = Vec::new();
        for (name, crew) in &mut self.crews {
            if !plan.pools.contains_key(&**name) && !crew.leaving {
                crew.leaving = true;
                let mut actions = Vec::new();
                crew.pool.close(now, Some(crew.plan.grace), "the pool was removed", &mut actions);
                out.push((name.clone(), actions));
            }
        }
        for (name, new) in &plan.pools {
            let crew = self.crews.entry(name.as_str().into()).or_insert_with(|| Crew::new(new.clone()));
            if std::mem::take(&mut crew.leaving) {
                crew.pool.reopen();
            }
            if !new.keeps_workers_of(&crew.plan) {
                crew.pool.renew();
            }
            crew.plan = new.clone();
            crew.pool.shape = new.shape();
            crew.pool.pardon();
        }
        for (name, actions) in out {
            self.carry_out(&name, actions, now);
        }
    }

    /// Hands an event to a slot.
    pub(crate) fn step(&mut self, key: &Key, event: slot::Event, now: Mono) {
        let Some(crew) = self.crews.get_mut(&key.pool) else { return };
        let mut actions = Vec::new();
        let was = crew.pool.quarantine.is_some();
        let idle =
            |crew: &Crew| crew.pool.slots.get(&key.number).and_then(Slot::life).is_some_and(Life::is_idle);
        let rested = idle(crew);
        let is_heard =
            crew.pool.slots.get(&key.number).is_some_and(|slot| slot.incarnation == key.incarnation);
        if let (true, slot::Event::Line(FromChild::Hb(beat))) = (is_heard, &event) {
            crew.load.beat(key.number, key.incarnation, beat);
        }
        crew.pool.step(now, key.number, key.incarnation, event, &mut actions);
        let rests = idle(crew) && !rested;
        if !was && let Some(quarantine) = &crew.pool.quarantine {
            let (pool, why) = (&*key.pool, &quarantine.why);
            tracing::error!(pool, why, "the pool is quarantined: nothing is started, its jobs wait");
        }
        self.carry_out(&key.pool, actions, now);
        // What fell due while it was busy may have found nobody.
        if rests {
            self.greet(&key.pool, key.number, now);
        }
    }

    /// A process has counted something.
    pub(crate) fn count(&mut self, key: &Key, figure: Figure) {
        let Some(hand) = self.crews.get_mut(&key.pool).and_then(|crew| crew.hands.get_mut(&key.number))
        else {
            return;
        };
        if hand.key == *key {
            self.figures.absorb(figure, &mut hand.said);
        }
    }

    /// It was read how much waits for a foreign pool, or could not be. Its keepers are told whether anything does.
    pub(crate) fn hear_demand(&mut self, from: &Key, pool: &str, reading: foreign::Reading, now: Mono) {
        let is_part = |crew: &Crew| matches!(crew.plan.work, Work::Part(Part::Demand(_)));
        if !self.crews.get(&from.pool).is_some_and(is_part) {
            return;
        }
        let Some(crew) = self.crews.get_mut(pool).filter(|crew| crew.plan.is_foreign()) else { return };
        let Some(waiting) = crew.read(now, reading) else { return };
        for hand in crew.hands.values() {
            let _ = hand.child.as_ref().is_none_or(|child| child.send(&ToChild::Demand { waiting }));
        }
    }

    /// A moment passed.
    pub(crate) fn time(&mut self, now: Mono) {
        let names: Vec<Arc<str>> = self.crews.keys().cloned().collect();
        for name in names {
            let Some(crew) = self.crews.get_mut(&name) else { continue };
            let mut actions = Vec::new();
            let was = crew.pool.quarantine.is_some();
            crew.pool.time(now, self.blind, &mut actions);
            if was && crew.pool.quarantine.is_none() {
                tracing::info!(pool = &*name, "trying the quarantined pool again");
            }
            self.carry_out(&name, actions, now);
        }
        self.crews.retain(|_, crew| !crew.leaving || crew.pool.alive() > 0);
    }

    /// Decides anew how many workers each pool is to have, and starts or lets go accordingly.
    pub(crate) fn scale(&mut self, now: Mono) {
        let mut unready: usize = self.crews.values().map(|crew| crew.pool.unready()).sum();
        self.crews.values_mut().for_each(Crew::size_up);
        let mut promised = self.crews.values().map(Crew::promised).fold(0, u64::saturating_add);
        let ahead = self.ahead();
        let names: Vec<Arc<str>> = self.crews.keys().cloned().collect();
        for name in names {
            self.hold(&name, promised);
            let Some(crew) = self.crews.get_mut(&name) else { continue };
            crew.decide(&name, now, &known!(self, ahead), &mut self.figures);
            let wanted = self.beside.wanted(&name, crew, now);
            let before = crew.promised();
            let mut actions = Vec::new();
            if crew.plan.is_part() && !crew.leaving {
                if wanted == 0 {
                    crew.pool.close(now, Some(crew.plan.grace), "another master has it", &mut actions);
                } else {
                    crew.pool.reopen();
                }
            }
            crew.pool.adjust(now, wanted, &mut self.budget, &mut unready, &mut actions);
            if crew.plan.is_foreign() {
                // Which of them is idle nobody knows: each ends what it does.
                crew.pool.shed(now, wanted, u32::MAX, "fewer workers are needed", &mut actions);
            }
            promised = promised.saturating_sub(before).saturating_add(crew.promised());
            self.carry_out(&name, actions, now);
        }
    }

    /// Lets go what is more than this master's share, each after its jobs.
    pub(crate) fn yield_workers(&mut self, now: Mono) {
        let names: Vec<Arc<str>> = self.crews.keys().cloned().collect();
        for name in names {
            let Some(crew) = self.crews.get_mut(&name).filter(|crew| !crew.plan.is_part()) else { continue };
            let wanted = self.beside.wanted(&name, crew, now);
            let mut actions = Vec::new();
            crew.pool.shed(now, wanted, u32::MAX, "workers of another program take over", &mut actions);
            self.carry_out(&name, actions, now);
        }
    }

    /// How this master stands beside another, if that is news.
    pub(crate) fn standing(&mut self, now: Mono) -> Option<Standing> {
        self.beside.news(self.crews.iter().map(|(name, crew)| (&**name, crew)), now)
    }

    /// So many workers in a pool, whatever it needs.
    pub(crate) fn fix(&mut self, pool: &str, to: Option<u32>, now: Mono) {
        let ahead = self.ahead();
        let Some((name, crew)) =
            self.crews.get_key_value(pool).map(|(name, _)| name.clone()).and_then(|name| {
                let crew = self.crews.get_mut(&name)?;
                Some((name, crew))
            })
        else {
            return;
        };
        crew.fixed = to;
        crew.decide(&name, now, &known!(self, ahead), &mut self.figures);
        let wanted = self.beside.wanted(&name, crew, now);
        let mut actions = Vec::new();
        if to.is_some() {
            crew.pool.shed(now, wanted, u32::MAX, "fewer workers are wanted (scale)", &mut actions);
        }
        self.carry_out(&name, actions, now);
    }

    /// A worker by the name that `status` shows, with its life; no part.
    pub(crate) fn worker(&self, label: &str) -> Option<(&Hand, &Life)> {
        let (pool, number) = label.rsplit_once('/')?;
        let crew = self.crews.get(pool).filter(|crew| !crew.plan.is_part())?;
        let number = number.parse().ok()?;
        Some((crew.hands.get(&number)?, crew.pool.slots.get(&number)?.life()?))
    }

    /// So many workers more or fewer in every pool than are found to be needed, until this process ends.
    pub(crate) fn resize(&mut self, by: i32, now: Mono) {
        let ahead = self.ahead();
        let names: Vec<Arc<str>> = self.crews.keys().cloned().collect();
        for name in names {
            let Some(crew) = self.crews.get_mut(&name) else { continue };
            if crew.plan.is_part() || crew.leaving {
                continue;
            }
            let changed = crew.resize(by);
            crew.decide(&name, now, &known!(self, ahead), &mut self.figures);
            let (pool, wanted, why) = (&*name, crew.decision.target, &crew.decision.why);
            tracing::info!(pool, by, changed, wanted, why, "told to have more or fewer workers");
            let mut actions = Vec::new();
            if by < 0 && changed {
                let (wanted, why) = (crew.decision.target, "fewer workers are wanted (SIGTTOU)");
                crew.pool.shed(now, wanted, by.unsigned_abs(), why, &mut actions);
            }
            self.carry_out(&name, actions, now);
        }
    }

    /// Writes down how things stand: a line a pool and a worker, at most [`DUMPED`] of these.
    pub(crate) fn dump(&self, now: Mono) {
        let mut left = DUMPED;
        for (name, crew) in &self.crews {
            tracing::info!("state of {}", crew.describe(name));
            for line in crew.describe_workers(now).take(left) {
                left -= 1;
                tracing::info!("state of {line}");
            }
        }
        let all: usize = self.crews.values().map(|crew| crew.hands.len()).sum();
        if all > DUMPED {
            tracing::info!("state of {} more workers is left out", all - DUMPED);
        }
    }

    /// Wakes up to `count` idle workers that serve a queue, and answers how many; if they are too few, the busy ones are
    /// told to look there.
    pub(crate) fn wake(&mut self, queue: &QueueName, count: u64, now: Mono) -> u64 {
        if self.paused {
            return 0;
        }
        let mut woken = 0;
        let names: Vec<Arc<str>> = self.crews.keys().cloned().collect();
        for name in &names {
            let Some(crew) = self.crews.get_mut(name) else { continue };
            if crew.plan.is_part() || woken == count {
                continue;
            }
            let mut actions = Vec::new();
            woken += crew.pool.wake(now, queue, count - woken, &mut actions);
            self.carry_out(name, actions, now);
        }
        if woken < count {
            for name in &names {
                let Some(crew) = self.crews.get_mut(name).filter(|crew| !crew.plan.is_part()) else {
                    continue;
                };
                let mut actions = Vec::new();
                crew.pool.look(now, queue, &mut actions);
                self.carry_out(name, actions, now);
            }
        }
        woken
    }

    /// Workers that were just woken for a queue and may not have pulled yet.
    #[must_use]
    pub(crate) fn woken(&self, queue: &QueueName, now: Mono) -> u64 {
        self.crews.values().map(|crew| crew.pool.woken(now, queue)).sum()
    }

    /// Everybody finishes and leaves; see [`crate::pool::Pool::close`].
    pub(crate) fn close(&mut self, by: Option<Duration>, why: &str, now: Mono) {
        let names: Vec<Arc<str>> = self.crews.keys().cloned().collect();
        for name in names {
            let Some(crew) = self.crews.get_mut(&name) else { continue };
            let mut actions = Vec::new();
            crew.pool.close(now, by, why, &mut actions);
            self.carry_out(&name, actions, now);
        }
    }

    /// Everybody gives everything back and leaves.
    pub(crate) fn release(&mut self, now: Mono) {
        let names: Vec<Arc<str>> = self.crews.keys().cloned().collect();
        for name in names {
            let Some(crew) = self.crews.get_mut(&name) else { continue };
            let mut actions = Vec::new();
            crew.pool.release(now, &mut actions);
            self.carry_out(&name, actions, now);
        }
    }

    /// The longest grace of all pools.
    #[must_use]
    pub(crate) fn grace(&self) -> Duration {
        self.crews.values().map(|crew| crew.plan.grace).max().unwrap_or_default()
    }

    #[must_use]
    pub(crate) fn alive(&self) -> usize {
        self.crews.values().map(|crew| crew.pool.alive()).sum()
    }

    #[must_use]
    pub(crate) fn next_deadline(&self) -> Option<Mono> {
        self.crews.values().filter_map(|crew| crew.pool.next_deadline()).min()
    }

    /// When somebody who is too much will have been idle for long.
    #[must_use]
    pub(crate) fn next_thinning(&self, now: Mono) -> Option<Mono> {
        let crews = self.crews.iter().filter(|(_, crew)| crew.thins());
        crews
            .filter_map(|(name, crew)| crew.pool.next_thinning(now, self.beside.wanted(name, crew, now)))
            .min()
    }

    /// Lets them go, as was decided at the last look.
    pub(crate) fn thin(&mut self, now: Mono) {
        let names: Vec<Arc<str>> = self.crews.keys().cloned().collect();
        for name in names {
            let Some(crew) = self.crews.get_mut(&name).filter(|crew| crew.thins()) else { continue };
            let wanted = self.beside.wanted(&name, crew, now);
            let mut actions = Vec::new();
            crew.pool.thin(now, wanted, &mut actions);
            self.carry_out(&name, actions, now);
        }
    }

    /// Whether more is to be started as soon as the budget allows.
    #[must_use]
    pub(crate) fn is_short(&self, now: Mono) -> bool {
        self.crews.iter().any(|(name, crew)| {
            let wanted = self.beside.wanted(name, crew, now);
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            !crew.leaving && crew.pool.quarantine.is_none() && crew.pool.filled() < wanted
        })
    }

    /// See [`Slot::shift`].
    pub(crate) fn shift(&mut self, late: Duration) {
        for crew in self.crews.values_mut() {
            crew.pool.shift(late);
        }
    }

    /// A process was started, or not.
    pub(crate) fn started(&mut self, key: &Key, started: std::io::Result<Started>, now: Mono) {
        let jitter = jitter();
        let Some(hand) = self.hand(key) else { return };
        let nonce = hand.nonce;
        let event = match started {
            Ok(started) => {
                let raw = started.pid;
                match Child::attend(started, key, nonce, &self.around) {
                    Ok(child) => {
                        let pid = child.pid();
                        if let Some(hand) = self.hand(key) {
                            (hand.pid, hand.started) = (pid, start_time(pid));
                            hand.child = Some(child);
                        }
                        slot::Event::Spawned { pid }
                    }
                    Err(error) => {
                        tracing::error!(worker = key.label(), %error, "cannot watch a process that was started");
                        // Unknown to the spawner, it is ended and reaped as an orphan is.
                        drop(self.around.spawner.sweep(raw));
                        slot::Event::SpawnFailed { misfit: false, jitter }
                    }
                }
            }
            Err(error) => {
                use std::io::ErrorKind::{NotFound, PermissionDenied};
                tracing::error!(worker = key.label(), %error, "cannot start its program");
                let misfit = matches!(error.kind(), NotFound | PermissionDenied);
                slot::Event::SpawnFailed { misfit, jitter }
            }
        };
        self.step(key, event, now);
    }

    /// Cancels a job that a worker here runs.
    pub(crate) fn cancel(&self, worker: &WorkerId, id: &roundsman_shared::names::JobId) {
        let hands = self.crews.values().flat_map(|crew| crew.hands.values());
        let Some(hand) = hands.into_iter().find(|hand| hand.id == *worker) else { return };
        let posted = hand.board.read().unwrap_or_default();
        if let (Some(posted), Some(child)) = (posted.iter().find(|posted| posted.id == *id), &hand.child) {
            let (queue, id) = (posted.queue.to_string(), posted.id.to_string());
            let _ = child.send(&ToChild::Cancel { queue, id });
        }
    }

    /// Says something to every worker.
    pub(crate) fn tell_all(&mut self, message: &ToChild) {
        for hand in self.crews.values().flat_map(|crew| crew.hands.values()) {
            let _ = hand.child.as_ref().is_some_and(|child| child.send(message));
        }
    }

    /// Tells the policies of a queue, or of all, to those who serve them.
    pub(crate) fn tell_policies(&self, changed: Option<&QueueName>) {
        for crew in self.crews.values() {
            let served =
                crew.pool.shape.queues.iter().filter(|queue| changed.is_none_or(|changed| changed == *queue));
            let queues: BTreeMap<String, serde_json::Value> = served
                .filter_map(|queue| {
                    Some((queue.to_string(), serde_json::to_value(self.policies.get(queue)?).ok()?))
                })
                .collect();
            if queues.is_empty() {
                continue;
            }
            let message = ToChild::Policies { queues };
            for hand in crew.hands.values() {
                let _ = hand.child.as_ref().is_some_and(|child| child.send(&message));
            }
        }
    }

    /// Queues in which a worker here may hold something, whatever the settings say by now.
    pub(crate) fn held_queues(&self) -> impl Iterator<Item = &QueueName> {
        let workers = self.crews.values().filter(|crew| !crew.plan.is_part());
        workers.flat_map(|crew| crew.hands.values()).flat_map(|hand| &hand.queues)
    }

    /// Replaces what read the policies once, at its start.
    pub(crate) fn renew_intake(&mut self) {
        let reads = |crew: &&mut Crew| matches!(crew.plan.work, Work::Part(Part::Intake | Part::Amqp(_)));
        for crew in self.crews.values_mut().filter(reads) {
            crew.pool.renew();
        }
    }

    /// Whether a pool has more workers to have than its fewest.
    #[must_use]
    pub(crate) fn is_active(&self) -> bool {
        self.crews.values().any(|crew| !crew.plan.is_part() && crew.decision.needed > crew.plan.min)
    }

    /// An earlier master had so many workers: as long as nothing else is known, they are needed. What was chosen by hand
    /// tells nothing of that.
    pub(crate) fn adopt(&mut self, desired: &BTreeMap<String, u32>, now: Mono) {
        for (name, crew) in &mut self.crews {
            if let Some(workers) =
                desired.get(&**name).filter(|_| !crew.plan.is_part() && crew.fixed.is_none())
            {
                crew.law.adopt(now, *workers);
                crew.foreign.adopt(*workers);
            }
        }
    }

    /// The master that this one takes over from has so many: what foreign pools need is not seen at once.
    pub(crate) fn inherit(&mut self, desired: &BTreeMap<String, u32>) {
        for (name, crew) in &mut self.crews {
            if let Some(workers) = desired.get(&**name).filter(|_| crew.fixed.is_none()) {
                crew.foreign.adopt(*workers);
            }
        }
    }

    /// What the registry says of all hosts.
    pub(crate) fn hear(&mut self, records: &[String]) {
        self.others = Others::of(records, &self.host);
    }

    /// How far ahead timers are to be known.
    #[must_use]
    pub(crate) fn ahead(&self) -> Duration {
        let slowest = self.crews.values().filter(|crew| !crew.plan.is_part()).map(Crew::boot).max();
        scale::ahead(slowest.unwrap_or_default())
    }

    /// Jobs that run here now.
    #[must_use]
    pub(crate) fn running(&self) -> u32 {
        let lives = self.crews.values().flat_map(|crew| crew.pool.slots.values()).filter_map(Slot::life);
        lives.map(|life| life.beat.running).sum()
    }

    /// What `status` shows, and what the other hosts reckon with if they may.
    #[must_use]
    pub(crate) fn records(&self, takes_part: bool) -> Vec<PoolRecord> {
        let pools = self.crews.iter().filter(|(_, crew)| !crew.plan.is_part());
        let (own, users): (Vec<_>, Vec<_>) = pools.partition(|(name, _)| &***name == REPLIES);
        // A pool that no settings name is shown while it does something.
        let own = own.into_iter().filter(|(_, crew)| !crew.hands.is_empty());
        users
            .into_iter()
            .chain(own)
            .map(|(name, crew)| crew.record(name, takes_part && !crew.leaving))
            .collect()
    }

    /// What `status` shows of the processes that run no jobs.
    #[must_use]
    pub(crate) fn parts(&self) -> Vec<PartRecord> {
        self.crews.values().filter_map(Crew::part).collect()
    }

    /// Shows the parts that want it what was counted and how things stand, as far as that has changed.
    pub(crate) fn tell_parts(&mut self) {
        let watching = |crew: &&mut Crew| matches!(&crew.plan.work, Work::Part(part) if part.watches());
        if !self.crews.values_mut().any(|crew| watching(&crew)) {
            return;
        }
        let outlook = self.outlook();
        for crew in self.crews.values_mut().filter(watching) {
            let lives = &crew.pool.slots;
            let ready =
                |number: &u32| lives.get(number).and_then(Slot::life).is_some_and(|life| !life.is_unready());
            for (_, hand) in crew.hands.iter_mut().filter(|(number, _)| ready(number)) {
                hand.show(&self.figures, &outlook);
            }
        }
    }

    fn outlook(&self) -> Outlook {
        let queues = self.seen.iter().take(MOST_QUEUES).map(|(name, seen)| (name.to_string(), *seen));
        let is_shown = |name: &Arc<str>, crew: &Crew| &**name != REPLIES || !crew.hands.is_empty();
        let pools = self.crews.iter().filter(|(name, crew)| !crew.plan.is_part() && is_shown(name, crew));
        let pool = |(name, crew): (&Arc<str>, &Crew)| {
            let mut pool = PoolOutlook { desired: crew.decision.target, ..PoolOutlook::default() };
            for life in crew.lives() {
                *pool.workers.entry(life.state().to_owned()).or_default() += 1;
                pool.busy += u32::from(life.beat.running > 0);
            }
            (name.to_string(), pool)
        };
        Outlook { queues: queues.collect(), pools: pools.map(pool).collect(), store_ok: !self.blind }
    }

    fn hand(&mut self, key: &Key) -> Option<&mut Hand> {
        let hand = self.crews.get_mut(&key.pool)?.hands.get_mut(&key.number)?;
        (hand.key == *key).then_some(hand)
    }

    fn carry_out(&mut self, pool: &Arc<str>, actions: Actions, now: Mono) {
        for (number, action) in actions {
            match action {
                Action::Spawn => self.spawn(pool, number, now),
                Action::Welcome => {
                    let (clock, policies, store) = (self.clock, &self.policies, &self.store);
                    let Some(crew) = self.crews.get(pool) else { continue };
                    let Some(hand) = crew.hands.get(&number) else { continue };
                    let assignment = crew.plan.assignment(store, policies, hand.id.clone(), clock);
                    let work = serde_json::to_value(assignment).unwrap_or_default();
                    self.send(pool, number, &ToChild::Welcome { v: VERSION, work }, now);
                    if self.paused {
                        self.send(pool, number, &ToChild::Pause, now);
                    }
                }
                Action::Send(message) => {
                    if let ToChild::Stop { mode, by_ms, why } = &message {
                        tracing::info!(
                            worker = format!("{pool}/{number}"),
                            ?mode,
                            by_ms,
                            why,
                            "it is told to leave"
                        );
                    }
                    self.send(pool, number, &message, now);
                }
                Action::Signal { group, signal } => {
                    let child = self.crews.get(pool).and_then(|crew| crew.hands.get(&number)?.child.as_ref());
                    if let Some(child) = child {
                        child.signal(group, signal);
                    }
                }
                Action::Ready => {
                    if let Some(crew) = self.crews.get_mut(pool)
                        && let Some(life) = crew.pool.slots.get(&number).and_then(Slot::life)
                    {
                        let took = now.since(life.since);
                        let took_ms = took.as_secs_f64() * 1000.0;
                        tracing::debug!(worker = format!("{pool}/{number}"), took_ms, "it is ready");
                        crew.load.started(took);
                        crew.pool.boot = crew.load.boot();
                        if let Some(hand) = crew.hands.get_mut(&number) {
                            hand.kills = Some(self.kills.of(hand.pid));
                        }
                    }
                    self.greet(pool, number, now);
                }
                Action::Died(death) => {
                    self.budget.note(now, &death);
                    self.figures.count(Metric::WorkerExits, &[&**pool, death.cause()], 1);
                    let Some(crew) = self.crews.get_mut(pool) else { continue };
                    crew.load.failures += u64::from(death.blame != slot::Blame::Nobody);
                    let hand = crew.hands.remove(&number);
                    let worker = format!("{pool}/{number}");
                    let pid = hand.map_or(0, |hand| hand.pid);
                    let peak_mib = death.peak_kb.div_ceil(1024);
                    match (&death.fate, death.blame) {
                        (None, _) if matches!(death.exit, Exit::OutOfMemory { .. }) => {
                            tracing::warn!(worker, pid, exit = %death.exit, peak_mib, "it had too little memory");
                        }
                        (_, slot::Blame::Nobody) => {
                            tracing::info!(worker, pid, exit = %death.exit, "it has ended")
                        }
                        (fate, _) => tracing::warn!(worker, pid, exit = %death.exit, ?fate, "it has died"),
                    }
                }
                Action::Note(text) => tracing::warn!(worker = format!("{pool}/{number}"), "{text}"),
            }
        }
    }

    fn send(&mut self, pool: &Arc<str>, number: u32, message: &ToChild, now: Mono) {
        let Some(hand) = self.crews.get(pool).and_then(|crew| crew.hands.get(&number)) else { return };
        let sent = hand.child.as_ref().is_none_or(|child| child.send(message));
        if !sent {
            let key = hand.key.clone();
            self.step(&key, slot::Event::Hung { why: "it does not read its pipe" }, now);
        }
    }

    /// A worker that becomes ready while work waits is woken for it.
    fn greet(&mut self, pool: &Arc<str>, number: u32, now: Mono) {
        let Some(crew) = self.crews.get(pool) else { return };
        if crew.plan.is_part() || self.paused {
            return;
        }
        let waits = |queue: &&QueueName| {
            self.demand.get(*queue).is_some_and(|demand| demand.ready + demand.unmet > 0)
        };
        if let Some(queue) = crew.pool.shape.queues.iter().find(waits) {
            let wake = ToChild::Wake { queue: queue.to_string() };
            self.send(pool, number, &wake, now);
        }
    }

    fn spawn(&mut self, pool: &Arc<str>, number: u32, now: Mono) {
        let Some(crew) = self.crews.get_mut(pool) else { return };
        let incarnation = crew.pool.slots.get(&number).map_or(0, |slot| slot.incarnation);
        let key = Key { pool: pool.clone(), number, incarnation };
        let nonce = random::bits();
        let name = pool.trim_matches(['(', ')']);
        let id = WorkerId::new(&format!("{}:{name}:{number}:{nonce:016x}", self.host));
        let program = crew.plan.program(&key.label());
        let (Ok(id), Ok(board)) = (id, Board::create()) else {
            let event = slot::Event::SpawnFailed { misfit: false, jitter: jitter() };
            return self.step(&key, event, now);
        };
        let launch = Launch { program, nonce, board: board.path() };
        let queues = crew.pool.shape.queues.clone();
        let said = Said::default();
        let hand = Hand {
            key: key.clone(),
            id,
            nonce,
            queues,
            board,
            child: None,
            pid: 0,
            started: 0,
            kills: None,
            said,
            told: (0, Outlook::default()),
        };
        crew.hands.insert(number, hand);
        let answer = self.around.spawner.launch(launch);
        let events = self.around.events.clone();
        tokio::spawn(async move {
            let started =
                answer.await.unwrap_or_else(|_| Err(std::io::Error::other("the spawning thread is gone")));
            let _ = events.send(Event::Started { key, started }).await;
        });
    }
}

fn jitter() -> f64 {
    random::fraction() * 2.0 - 1.0
}
