//! From settings to what is to run: pools with their shapes, the programs of their workers and what each is told.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use roundsman_shared::assignment::{
    self, AmqpIn, AmqpSpec, Assignment, HandlerSpec, HttpSpec, PartSpec, StoreAddress,
};
use roundsman_shared::callback;
use roundsman_shared::clock::StoreClock;
use roundsman_shared::foreign::{DemandSpec, KeepSpec, Source};
use roundsman_shared::job::{Policy, reply};
use roundsman_shared::names::{NameError, Namespace, QueueName, WorkerId};
use roundsman_shared::settings::{
    Backoff, CallbackHandler, Detection, Durability, Handler, Liveness, PoolRun, PoolSettings, Settings,
    StoreUrl,
};
use roundsman_shared::store::{StoreConfig, StorePlace};

use crate::pool::Shape;
use crate::spawn::Program;

/// The pool that delivers replies; no pool of the user's has this name.
pub(crate) const REPLIES: &str = "(replies)";
/// Replies on their way at once.
const REPLY_SLOTS: u16 = 32;
const TIMER_SLOTS: u16 = 32;
/// A foreign worker that fails sooner than this has never worked, as far as anybody knows.
const EARLY: Duration = Duration::from_secs(30);
/// A keeper ends its worker when the grace is over; only then is it itself late.
const KEEPER: Duration = Duration::from_secs(5);

/// Everything that is to run here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    pub store: StoreConfig,
    pub pools: BTreeMap<String, PoolPlan>,
    /// The policies of all queues that settings name, before live settings.
    pub policies: BTreeMap<QueueName, Policy>,
    /// What an acknowledgement of the store must be worth.
    pub durability: Option<Durability>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PoolPlan {
    pub work: Work,
    /// With their shares of a worker's time.
    pub queues: Vec<(QueueName, u32)>,
    pub min: u32,
    pub max: u32,
    /// Over all hosts.
    pub total: Option<u32>,
    pub slots: u16,
    pub target_wait: Duration,
    pub grace: Duration,
    pub max_memory: Option<u64>,
    pub max_jobs: u64,
    pub detection: Detection,
}

/// What its workers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Work {
    Handler(Box<HandlerSpec>),
    Command(Vec<String>),
    /// Programs that take their jobs from a queue of their own.
    Foreign(Box<ForeignWork>),
    /// It runs no jobs.
    Part(Part),
}

/// Workers that know nothing of Roundsman's queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignWork {
    pub keep: KeepSpec,
    /// They speak the pipe protocol, so that nobody needs to keep them.
    pub beats: bool,
}

/// A process of the fleet beside its workers, in a pool of its own that no settings name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// Takes in what came by Redis inboxes.
    Intake,
    /// Takes in messages of an AMQP broker.
    Amqp(AmqpSpec),
    /// Reads how much waits for foreign pools.
    Demand(DemandSpec),
    /// Serves the API.
    Http(Box<HttpSpec>),
}

impl Part {
    /// Whether it is to know what the fleet counts and how things stand.
    pub(crate) const fn watches(&self) -> bool {
        match self {
            Self::Http(_) => true,
            Self::Intake | Self::Amqp(_) | Self::Demand(_) => false,
        }
    }

    /// As it is started and named.
    #[must_use]
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Intake => "intake",
            Self::Amqp(_) => "amqp",
            Self::Demand(_) => "demand",
            Self::Http(_) => "http",
        }
    }
}

/// What is no pool of the user's is watched by these.
const DETECTION: Detection = Detection {
    suspect: Duration::from_millis(3500),
    silence: Duration::from_secs(10),
    frozen: Duration::from_secs(15),
};

/// Whoever waits for a reply does not wait for days.
fn reply_policy() -> Policy {
    let backoff =
        Backoff::Exponential { base: Duration::from_secs(1), factor: 3, cap: Duration::from_secs(60) };
    Policy { max_attempts: 5, backoff, keep_dead: Duration::from_secs(3 * 86_400), ..Policy::DEFAULT }
}

impl Plan {
    /// Works it out.
    ///
    /// # Errors
    /// When a name of the settings is none for the store, which the settings' own check rules out.
    pub(crate) fn of(settings: &Settings) -> Result<Self, NameError> {
        let place = match &settings.store.url {
            StoreUrl::Redis { url } => StorePlace::Redis(url.expose().to_owned()),
            StoreUrl::Sqlite { path } => StorePlace::Sqlite(path.clone()),
        };
        let namespace = Namespace::new(&settings.store.namespace)?;
        let store = StoreConfig { place, namespace, lease: settings.store.lease };
        let mut pools = BTreeMap::new();
        let mut demand = DemandSpec::default();
        for (name, pool) in &settings.pools {
            if let Some(foreign) = &pool.foreign {
                demand.pools.insert(name.clone(), Source::of(&foreign.demand));
            }
            pools.insert(name.clone(), PoolPlan::of(settings, pool)?);
        }
        let mut policies = BTreeMap::new();
        for (name, policy) in &settings.queues {
            policies.insert(QueueName::new(name)?, policy.clone());
        }
        policies.entry(QueueName::new(reply::QUEUE)?).or_insert_with(reply_policy);
        pools.insert(REPLIES.to_owned(), PoolPlan::replies(settings)?);
        if settings.http.listen.is_some() {
            Self::serve_timers(settings, &mut pools, &mut policies)?;
        }
        let mut parts = Vec::new();
        if let Some(amqp) = AmqpSpec::of(settings)? {
            for AmqpIn { queue, .. } in &amqp.intakes {
                let policy = || settings.queue(queue.as_str()).clone();
                policies.entry(queue.clone()).or_insert_with(policy);
            }
            parts.push(Part::Amqp(amqp));
        }
        if !demand.pools.is_empty() {
            parts.push(Part::Demand(demand));
        }
        if matches!(store.place, StorePlace::Redis(_)) {
            parts.push(Part::Intake);
        }
        parts.extend(HttpSpec::of(settings).map(|spec| Part::Http(Box::new(spec))));
        for part in parts {
            // No pool of the user's has such a name.
            // Replies are made by jobs that have ended, and by nobody else.
            let queues = policies.keys().filter(|queue| !reply::is_own(queue));
            pools.insert(format!("({})", part.name()), PoolPlan::part(part, queues));
        }
        Ok(Self { store, pools, policies, durability: settings.store.durability })
    }

    /// Adds a pool for the timers that Skyring's API sets, unless one serves them.
    fn serve_timers(
        settings: &Settings,
        pools: &mut BTreeMap<String, PoolPlan>,
        policies: &mut BTreeMap<QueueName, Policy>,
    ) -> Result<(), NameError> {
        let queue = QueueName::new(callback::QUEUE)?;
        if pools.values().any(|pool| pool.queues.iter().any(|(served, _)| *served == queue)) {
            return Ok(());
        }
        if pools.contains_key(callback::QUEUE) {
            tracing::warn!(
                "timers that are set by POST /timer wait: the pool \"timers\" does not serve the queue \"timers\""
            );
            return Ok(());
        }
        policies.entry(queue.clone()).or_insert_with(|| settings.queue(callback::QUEUE).clone());
        let handler = HandlerSpec::of(settings, &Handler::Callback(CallbackHandler { secret: None }));
        pools.insert(callback::QUEUE.to_owned(), PoolPlan::timers(handler, queue));
        Ok(())
    }

    /// The API takes over from that of another master, where this one is its heir.
    pub(crate) fn hand_over(&mut self, handover: Option<&Path>, is_heir: bool) {
        for pool in self.pools.values_mut() {
            if let Work::Part(Part::Http(spec)) = &mut pool.work {
                spec.beside = is_heir;
                spec.handover = handover.map(Path::to_owned);
            }
        }
    }

    /// Every queue that is served here, sorted.
    #[must_use]
    pub(crate) fn queues(&self) -> Vec<QueueName> {
        let pools = self.pools.values().filter(|pool| !pool.is_part());
        let mut all: Vec<QueueName> =
            pools.flat_map(|pool| pool.queues.iter().map(|(queue, _)| queue.clone())).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl PoolPlan {
    fn of(settings: &Settings, pool: &PoolSettings) -> Result<Self, NameError> {
        let work = match &pool.run {
            PoolRun::Command(command) if let Some(foreign) = &pool.foreign => {
                let keep = KeepSpec::of(foreign, command.clone(), pool.grace);
                Work::Foreign(Box::new(ForeignWork { keep, beats: foreign.liveness == Liveness::Beats }))
            }
            PoolRun::Command(command) => Work::Command(command.clone()),
            PoolRun::Handler(handler) => Work::Handler(Box::new(HandlerSpec::of(settings, handler))),
        };
        Ok(Self {
            work,
            queues: assignment::shares(&pool.queues)?,
            min: pool.min_workers,
            max: pool.max_workers_total.unwrap_or(u32::MAX).min(pool.max_workers),
            total: pool.max_workers_total,
            slots: pool.slots,
            target_wait: pool.target_wait,
            grace: pool.grace,
            max_memory: pool.max_memory,
            max_jobs: pool.max_jobs.unwrap_or(0),
            detection: pool.detection,
        })
    }

    /// Its workers come when there are replies, and go.
    fn replies(settings: &Settings) -> Result<Self, NameError> {
        Ok(Self {
            work: Work::Handler(Box::new(HandlerSpec::reply(settings))),
            queues: vec![(QueueName::new(reply::QUEUE)?, 1)],
            min: 0,
            max: 1,
            total: None,
            slots: REPLY_SLOTS,
            target_wait: Duration::from_secs(1),
            grace: Duration::from_secs(5),
            max_memory: None,
            max_jobs: 0,
            detection: DETECTION,
        })
    }

    /// Whether it runs no jobs.
    #[must_use]
    pub(crate) const fn is_part(&self) -> bool {
        matches!(self.work, Work::Part(_))
    }

    /// Whether its workers have a queue of their own.
    #[must_use]
    pub(crate) const fn is_foreign(&self) -> bool {
        matches!(self.work, Work::Foreign(_))
    }

    /// With what a pool of transports has by default.
    fn timers(handler: HandlerSpec, queue: QueueName) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            work: Work::Handler(Box::new(handler)),
            queues: vec![(queue, 1)],
            min: 0,
            max: u32::try_from(cores.saturating_mul(2)).unwrap_or(1),
            total: None,
            slots: TIMER_SLOTS,
            target_wait: Duration::from_secs(1),
            grace: Duration::from_secs(30),
            max_memory: Some(512 * 1024 * 1024),
            max_jobs: 0,
            detection: DETECTION,
        }
    }

    fn part<'a>(part: Part, queues: impl Iterator<Item = &'a QueueName>) -> Self {
        Self {
            work: Work::Part(part),
            queues: queues.map(|queue| (queue.clone(), 1)).collect(),
            min: 1,
            max: 1,
            total: None,
            slots: 0,
            target_wait: Duration::from_secs(1),
            grace: Duration::from_secs(5),
            max_memory: None,
            max_jobs: 0,
            detection: DETECTION,
        }
    }

    #[must_use]
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            queues: self.queues.iter().map(|(queue, _)| queue.clone()).collect(),
            max: self.max,
            slots: self.slots,
            detection: self.detection,
            grace: self.grace,
            max_memory: self.max_memory,
            max_jobs: self.max_jobs,
            // Of some parts there may be one only.
            spare: !self.is_part(),
            // Nothing else tells whether they have ever done anything.
            early: if self.is_foreign() { EARLY } else { Duration::ZERO },
            leave: match &self.work {
                Work::Foreign(work) if work.beats => Some(self.grace),
                Work::Foreign(_) => Some(self.grace + KEEPER),
                Work::Handler(_) | Work::Command(_) | Work::Part(_) => None,
            },
        }
    }

    /// Whether workers that were started with `old` are still what is wanted.
    #[must_use]
    pub(crate) fn keeps_workers_of(&self, old: &Self) -> bool {
        (&self.work, &self.queues, self.slots, self.max_jobs)
            == (&old.work, &old.queues, old.slots, old.max_jobs)
    }

    /// What a worker with this label is started as.
    #[must_use]
    pub(crate) fn program(&self, label: &str) -> Program {
        let own = |arguments: &[&str]| Program::Own {
            arguments: arguments.iter().map(|&it| it.to_owned()).collect(),
        };
        match &self.work {
            Work::Handler(_) => own(&["worker", label]),
            Work::Part(part) => own(&[part.name()]),
            Work::Foreign(work) if !work.beats => own(&["keep", label]),
            Work::Foreign(work) => Program::Command(work.keep.command.clone()),
            Work::Command(command) => Program::Command(command.clone()),
        }
    }

    /// What a worker is told.
    #[must_use]
    pub(crate) fn assignment(
        &self,
        store: &StoreConfig,
        policies: &BTreeMap<QueueName, Policy>,
        worker: WorkerId,
        clock: Option<StoreClock>,
    ) -> Assignment {
        let address = match &store.place {
            StorePlace::Redis(url) => StoreAddress::Redis(url.clone()),
            StorePlace::Sqlite(path) => StoreAddress::Sqlite(path.clone()),
        };
        let handler = match &self.work {
            Work::Handler(handler) => Some((**handler).clone()),
            Work::Command(_) | Work::Foreign(_) | Work::Part(_) => None,
        };
        let part = match &self.work {
            Work::Part(Part::Amqp(spec)) => Some(PartSpec::Amqp(spec.clone())),
            Work::Part(Part::Http(spec)) => Some(PartSpec::Http(spec.clone())),
            Work::Part(Part::Demand(spec)) => Some(PartSpec::Demand(spec.clone())),
            Work::Foreign(work) => Some(PartSpec::Keep(work.keep.clone())),
            Work::Handler(_) | Work::Command(_) | Work::Part(Part::Intake) => None,
        };
        let policy = |(queue, _): &(QueueName, u32)| Some((queue.clone(), policies.get(queue)?.clone()));
        Assignment {
            worker,
            store: address,
            namespace: store.namespace.clone(),
            lease: store.lease,
            queues: self.queues.clone(),
            policies: self.queues.iter().filter_map(policy).collect(),
            slots: usize::from(self.slots),
            max_jobs: self.max_jobs,
            handler,
            part,
            clock,
        }
    }
}

#[cfg(test)]
mod tests {
    use roundsman_shared::settings::{LoadInput, Override, PoolQueues};

    use super::*;

    fn plan(more: &[(&str, &str)]) -> Plan {
        let more = more.iter().map(|(key, value)| Override::text("--x", key, *value));
        let store = Override::text("--x", "store.url", "sqlite:/tmp/x.db");
        let input = LoadInput {
            environment: [("HOME", "/home/a")].into_iter().collect(),
            system_file: "/none".into(),
            current_dir: "/none".into(),
            config: None,
            alone: false,
            files: None,
            overrides: std::iter::once(store).chain(more).collect(),
            cores: 1,
        };
        Plan::of(&Settings::load(&input).unwrap().settings).unwrap()
    }

    #[test]
    fn the_api_brings_a_pool_for_its_timers() {
        let queues = |plan: &Plan| plan.queues().iter().map(ToString::to_string).collect::<Vec<_>>();
        let on = plan(&[]);
        assert_eq!(on.pools.keys().collect::<Vec<_>>(), ["(http)", "(replies)", "default", "timers"]);
        assert_eq!(queues(&on), ["default", "roundsman.replies", "timers"]);
        let Work::Handler(handler) = &on.pools["timers"].work else { panic!("a handler") };
        assert!(matches!(**handler, HandlerSpec::Callback { .. }));
        let off = plan(&[("http.listen", "")]);
        assert_eq!(off.pools.keys().collect::<Vec<_>>(), ["(replies)", "default"]);
        let served = plan(&[("pools.p.queues", "[\"timers\"]")]);
        assert_eq!(served.pools.keys().collect::<Vec<_>>(), ["(http)", "(replies)", "p"]);
    }

    #[test]
    fn an_order_is_a_fall_of_shares() {
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        let read = assignment::shares(&PoolQueues::Ordered(names)).unwrap();
        assert_eq!(read.iter().map(|(_, share)| *share).collect::<Vec<_>>(), [100, 10, 1]);
        let long: Vec<String> = (0..20).map(|n| format!("q{n}")).collect();
        let read = assignment::shares(&PoolQueues::Ordered(long)).unwrap();
        assert_eq!((read[0].1, read[19].1), (10_000, 1));
    }
}
