//! What a crew takes of its machine, and that it keeps to what there is.

use std::collections::BTreeMap;

use roundsman_shared::clock::Mono;

use super::Crew;
use crate::guard::Usage;
use crate::host_load;
use crate::scale::SATURATED;
use crate::slot::Life;

/// The share of workers whose memory is no more than what is reckoned with.
const MEMORY_SHARE: f64 = 0.95;
/// Workers whose processor time is looked at.
const LOOKED_AT: usize = 8;

/// What its workers took when the machine was read.
#[derive(Debug, Default)]
pub(super) struct Weight {
    /// Those that were ready.
    counted: u32,
    /// Bytes that nearly all of them stay below; as it was last known.
    each: u64,
    /// When their processor time was looked at, and by pid how many nanoseconds each had wanted by then.
    cpu: Option<(Mono, BTreeMap<u32, u64>)>,
    /// The share of its time in which one of them wants a processor; as it was last known.
    wants_cpu: Option<f64>,
}

impl Crew {
    /// Whether it has fewer workers than it needs.
    pub(crate) fn wants_more(&self) -> bool {
        let needed = usize::try_from(self.decision.needed.min(self.plan.max)).unwrap_or(usize::MAX);
        !self.plan.is_part() && self.pool.filled() < needed
    }

    /// The machine is read: what do its workers take?
    pub(crate) fn weigh(&mut self, now: Mono, asks_for_cpu: bool) {
        self.weight.counted = self.pool.ready();
        self.size_up();
        if asks_for_cpu {
            self.look_at_cpu(now);
        } else {
            self.weight.cpu = None;
        }
    }

    /// What a worker takes changes between two readings.
    pub(crate) fn size_up(&mut self) {
        let ready = self.lives().filter(|life| life.stays() && life.ready.is_some());
        let mut sizes: Vec<u64> = ready.map(|life| life.beat.rss_kb).filter(|size| *size > 0).collect();
        sizes.sort_unstable();
        let place = ((sizes.len() as f64 * MEMORY_SHARE).ceil() as usize).saturating_sub(1);
        self.weight.each = sizes.get(place).map_or(self.weight.each, |size| size * 1024);
    }

    fn look_at_cpu(&mut self, now: Mono) {
        let busy = self.lives().filter(|life| life.stays() && life.beat.running > 0).take(LOOKED_AT);
        let wanted = |life: &Life| Some((life.pid, host_load::wanted_cpu(life.pid)?));
        let new: BTreeMap<u32, u64> = busy.filter_map(wanted).collect();
        let share = self.weight.cpu.as_ref().and_then(|(at, old)| {
            let passed = now.since(*at).as_nanos() as f64;
            let rises = new.iter().filter_map(|(pid, nanos)| Some(nanos.checked_sub(*old.get(pid)?)? as f64));
            let shares: Vec<f64> = rises.map(|rise| rise / passed.max(1.0)).collect();
            (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
        });
        self.weight.wants_cpu = share.or(self.weight.wants_cpu);
        self.weight.cpu = Some((now, new));
    }

    /// Bytes for workers that the last reading did not see.
    pub(crate) fn promised(&self) -> u64 {
        if self.plan.is_part() {
            return 0;
        }
        let unseen =
            self.pool.filled().saturating_sub(usize::try_from(self.weight.counted).unwrap_or(usize::MAX));
        u64::try_from(unseen).unwrap_or(u64::MAX).saturating_mul(self.weight.each)
    }

    /// `promised`: to other crews.
    pub(crate) fn usage(&self, promised: u64) -> Usage {
        Usage {
            there: u32::try_from(self.pool.filled()).unwrap_or(u32::MAX),
            counted: self.weight.counted,
            min: self.plan.min,
            each: self.weight.each,
            promised,
            wants_cpu: self.weight.wants_cpu,
        }
    }

    /// What was decided, as far as the machine has room for it.
    pub(super) fn keep_to_the_machine(&mut self, now: Mono) {
        let is_held = self.held.is_some_and(|held| self.decision.hold(&held));
        let since = is_held.then(|| *self.held_since.get_or_insert(now));
        self.held_since = since;
        self.decision.saturated |= since.is_some_and(|since| now.since(since) >= SATURATED);
    }
}

#[cfg(test)]
mod tests {
    use roundsman_shared::figures::Figures;
    use roundsman_shared::protocol::{Beat, Doing, FromChild};
    use roundsman_shared::settings::{LoadInput, Override, Settings};

    use super::*;
    use crate::crew::{Demand, Known};
    use crate::guard::{Guard, Reading};
    use crate::others::Others;
    use crate::plan::Plan;
    use crate::pool::Budget;
    use crate::scale::Reason;
    use crate::slot::Event;

    const MIB: u64 = 1 << 20;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    /// Of at most eight workers, of which three are there that take 90 MiB each.
    fn crew() -> Crew {
        let input = LoadInput {
            environment: [("HOME", "/home/a")].into_iter().collect(),
            system_file: "/none".into(),
            current_dir: "/none".into(),
            config: None,
            alone: false,
            files: None,
            overrides: [
                ("store.url", "sqlite:/tmp/x.db"),
                ("pools.p.queues", "[\"q\"]"),
                ("pools.p.max_workers", "8"),
            ]
            .map(|(key, value)| Override::text("--x", key, value))
            .to_vec(),
            cores: 1,
        };
        let plan = Plan::of(&Settings::load(&input).unwrap().settings).unwrap();
        let mut crew = Crew::new(plan.pools["p"].clone());
        let mut budget = Budget::new(64, at(0));
        crew.pool.adjust(at(0), 3, &mut budget, &mut 0, &mut Vec::new());
        for number in 1..=3 {
            let hello = FromChild::Hello { v: [1, 1], pid: 1, nonce: 1, build: "t".into() };
            let beat = Beat { doing: Doing::Busy, running: 1, rss_kb: 90 * 1024, ..Beat::default() };
            let lines = [hello, FromChild::Ready, FromChild::Hb(beat)].map(Event::Line);
            for event in [Event::Spawned { pid: 9 }].into_iter().chain(lines) {
                crew.pool.step(at(0), number, 1, event, &mut Vec::new());
            }
        }
        crew
    }

    /// A thousand jobs wait, and so much memory is left.
    fn decide(crew: &mut Crew, guard: &mut Guard, now: Mono, left: u64) {
        let available = Some(left + 256 * MIB);
        guard.look(now, Reading { available, total: Some(16_000 * MIB), ..Reading::default() });
        crew.weigh(now, guard.asks_for_cpu());
        crew.held = guard.held(&crew.usage(0));
        let queue = roundsman_shared::names::QueueName::new("q").unwrap();
        let mut waiting = Demand::default();
        waiting.ready = 1000;
        let demand = [(queue, waiting)].into();
        let (others, ahead) = (Others::default(), crate::scale::ahead(crate::scale::UNKNOWN_BOOT));
        let known = Known { host: "h", demand: &demand, others: &others, ahead, blind: false };
        crew.decide("p", now, &known, &mut Figures::default());
    }

    #[test]
    fn a_pool_has_no_more_workers_than_its_machine_has_memory_for() {
        let (mut crew, mut guard) = (crew(), Guard::new(2));
        decide(&mut crew, &mut guard, at(1000), 210 * MIB);
        let decision = &crew.decision;
        assert_eq!((decision.target, decision.reason, decision.saturated), (5, Reason::Machine, false));
        let told = "; held at 5: this machine has 210 MiB left, and a worker takes 90";
        assert!(decision.why.ends_with(told), "{}", decision.why);
        assert!(crew.wants_more() && crew.describe("p").contains(told));
        // For a minute: it needs more machines.
        decide(&mut crew, &mut guard, at(61_000), 0);
        assert_eq!((crew.decision.target, crew.decision.saturated), (3, true));
        // Who was started since has not taken what it will take.
        let mut budget = Budget::new(64, at(61_000));
        crew.pool.adjust(at(61_000), 5, &mut budget, &mut 0, &mut Vec::new());
        assert_eq!((crew.promised(), crew.usage(0).there), (180 * MIB, 5));
        decide(&mut crew, &mut guard, at(62_000), 800 * MIB);
        assert_eq!((crew.decision.target, crew.decision.reason), (8, Reason::MaxWorkers));
    }

    #[test]
    fn who_is_told_how_many_to_have_is_not_held() {
        let (mut crew, mut guard) = (crew(), Guard::new(2));
        crew.fixed = Some(7);
        decide(&mut crew, &mut guard, at(1000), 0);
        assert_eq!((crew.decision.target, crew.decision.reason), (7, Reason::ByHand));
    }
}
