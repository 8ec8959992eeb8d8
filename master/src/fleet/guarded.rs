//! What the machine has left, and who is held or goes for it.

use std::sync::Arc;

use roundsman_shared::clock::Mono;

use super::Fleet;
use crate::crew::Crew;
use crate::guard::Reading;
use crate::host_load;
use crate::slot::Slot;

impl Fleet {
    /// Reads what the machine has left, where it is time for that.
    pub(crate) fn watch_machine(&mut self, now: Mono) {
        let waits = self.demand.values().any(|demand| demand.ready + demand.unmet > 0);
        let more_may_be_needed = waits || self.running() > 0 || self.crews.values().any(Crew::wants_more);
        if self.guard.is_due(now, more_may_be_needed) {
            self.take_reading(now, host_load::read());
        }
    }

    fn take_reading(&mut self, now: Mono, reading: Reading) {
        self.guard.look(now, reading);
        let asks_for_cpu = self.guard.asks_for_cpu();
        for crew in self.crews.values_mut().filter(|crew| !crew.plan.is_part()) {
            crew.weigh(now, asks_for_cpu);
        }
        if self.guard.takes_relief(now) {
            self.relieve(now);
        }
    }

    /// Tells a crew how many workers the machine has room for. `promised`: bytes for workers of all crews that were
    /// started since the machine was read.
    pub(super) fn hold(&mut self, name: &str, promised: u64) {
        let is_alone = self.beside.is_alone();
        let Some(crew) = self.crews.get_mut(name).filter(|crew| !crew.plan.is_part()) else { return };
        let usage = crew.usage(promised.saturating_sub(crew.promised()));
        // While two masters share the host, each has a part of what both see.
        crew.held = if is_alone { self.guard.held(&usage) } else { None };
    }

    /// Has the youngest worker go that does nothing and is not the last of its pool.
    fn relieve(&mut self, now: Mono) {
        let can_miss_one = |(_, crew): &(&Arc<str>, &Crew)| {
            !crew.plan.is_part() && !crew.plan.is_foreign() && crew.pool.filled() > 1
        };
        let idle =
            |slot: &Slot| slot.life().filter(|life| life.is_idle() && !life.is_woken(now)).map(|it| it.since);
        let youngest = self.crews.iter().filter(can_miss_one).flat_map(|(name, crew)| {
            crew.pool
                .slots
                .iter()
                .filter_map(move |(number, slot)| Some((idle(slot)?, name.clone(), *number)))
        });
        let Some((_, name, number)) = youngest.max() else { return };
        let Some(crew) = self.crews.get_mut(&name) else { return };
        let worker = format!("{name}/{number}");
        tracing::warn!(
            worker,
            "hardly anything gets done for want of memory: it is not needed as much as that"
        );
        let mut actions = Vec::new();
        crew.pool.dismiss_one(now, number, "this machine is short of memory", &mut actions);
        self.carry_out(&name, actions, now);
    }
}

#[cfg(test)]
mod tests {
    use roundsman_shared::protocol::{Beat, Doing, FromChild};
    use roundsman_shared::settings::{Environment, LoadInput, Override, Settings};
    use tokio::sync::mpsc;

    use super::*;
    use crate::beside::Beside;
    use crate::child::Surroundings;
    use crate::plan::Plan;
    use crate::pool::Budget;
    use crate::slot::Event;
    use crate::spawn::Spawner;
    use crate::stderr::Sink;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    /// Of the pools `a` and `b`, with workers that are there but for their processes.
    fn fleet() -> Fleet {
        let pools =
            [("pools.a.queues", "[\"a\"]"), ("pools.b.queues", "[\"b\"]"), ("store.url", "sqlite:/tmp/x.db")];
        let input = LoadInput {
            environment: [("HOME", "/home/a")].into_iter().collect(),
            system_file: "/none".into(),
            current_dir: "/none".into(),
            config: None,
            alone: false,
            files: None,
            overrides: pools.map(|(key, value)| Override::text("--x", key, value)).to_vec(),
            cores: 4,
        };
        let plan = Plan::of(&Settings::load(&input).unwrap().settings).unwrap();
        let (events, _) = mpsc::channel(1);
        let spawner = Spawner::start(&Environment::default()).unwrap();
        let around = Surroundings { events, spawner, sink: Sink::start().unwrap() };
        Fleet::new("h".into(), &plan, around, Beside::new(None), at(0))
    }

    fn add(fleet: &mut Fleet, pool: &str, ms: u64, number: u32, doing: Doing) {
        let crew = fleet.crews.get_mut(pool).unwrap();
        let mut budget = Budget::new(64, at(ms));
        crew.pool.adjust(at(ms), number, &mut budget, &mut 0, &mut Vec::new());
        let hello = FromChild::Hello { v: [1, 1], pid: 1, nonce: 1, build: "t".into() };
        let running = u32::from(doing == Doing::Busy);
        let beat = Beat { doing, running, rss_kb: 256 << 10, ..Beat::default() };
        let lines = [hello, FromChild::Ready, FromChild::Hb(beat)].map(Event::Line);
        for event in [Event::Spawned { pid: 9 }].into_iter().chain(lines) {
            crew.pool.step(at(ms), number, 1, event, &mut Vec::new());
        }
    }

    fn staying(fleet: &Fleet) -> [usize; 2] {
        ["a", "b"].map(|pool| fleet.crews[pool].pool.filled())
    }

    #[tokio::test]
    async fn the_youngest_of_the_idle_goes_and_never_the_last_of_its_pool() {
        let mut fleet = fleet();
        for (pool, ms, number, doing) in [
            ("a", 0, 1, Doing::Idle),
            ("b", 100, 1, Doing::Idle),
            ("a", 200, 2, Doing::Idle),
            ("a", 300, 3, Doing::Busy),
            ("b", 400, 2, Doing::Busy),
        ] {
            add(&mut fleet, pool, ms, number, doing);
        }
        let full = Reading { memory_some: Some(20.0), memory_full: Some(9.0), ..Reading::default() };
        fleet.take_reading(at(1000), full);
        assert_eq!(staying(&fleet), [3, 2]);
        for (ms, left) in
            [(11_000, [2, 2]), (15_000, [2, 2]), (21_000, [2, 1]), (31_000, [1, 1]), (41_000, [1, 1])]
        {
            fleet.take_reading(at(ms), full);
            assert_eq!(staying(&fleet), left, "{ms}");
        }
        assert!(fleet.crews["a"].pool.slots[&3].life().unwrap().stays(), "who is busy stays");
    }

    #[tokio::test]
    async fn what_one_pool_is_promised_is_not_the_others() {
        let mut fleet = fleet();
        add(&mut fleet, "a", 0, 1, Doing::Busy);
        add(&mut fleet, "b", 0, 1, Doing::Busy);
        let room = |workers: u64| Reading {
            available: Some((workers + 1) * (256 << 20)),
            total: Some(64 << 30),
            ..Reading::default()
        };
        fleet.take_reading(at(1000), room(3));
        let held = |fleet: &mut Fleet, pool: &str| {
            let promised = fleet.crews.values().map(Crew::promised).sum();
            fleet.hold(pool, promised);
            fleet.crews[pool].held.map(|held| held.at)
        };
        assert_eq!((held(&mut fleet, "a"), held(&mut fleet, "b")), (Some(4), Some(4)));
        add(&mut fleet, "a", 1000, 3, Doing::Busy);
        assert_eq!((held(&mut fleet, "a"), held(&mut fleet, "b")), (Some(4), Some(2)));
        fleet.beside.share(50);
        assert_eq!(held(&mut fleet, "a"), None, "two masters see the same room");
    }
}
