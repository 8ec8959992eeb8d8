//! Replaces workers that are worn: too large, close to their last job, or started with settings that count no more. One
//! is started first, in a place beyond what the pool is to have, and the old one leaves when that is ready; as long as it
//! is not, the old one serves on. Only who uses far too much memory goes at once.

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::protocol::Beat;

use super::{Actions, Pool};
use crate::scale;
use crate::slot::{Life, Phase, Slot};

/// Workers that may be on their way in and out beyond what the pool is to have, as a share of that; one at least.
const SURGE: usize = 4;
/// Over so many times `max_memory` nothing is waited for: what it takes meanwhile is taken from all others.
const FAR_OVER: u64 = 2;

/// Why a worker is to be replaced; the first is the most pressing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wear {
    Memory,
    Settings,
    /// It should have left by itself.
    Jobs,
    /// It is about to leave by itself.
    Soon,
}

impl Wear {
    const fn why(self) -> &'static str {
        match self {
            Self::Memory => "it uses more than max_memory",
            Self::Settings => "new settings",
            Self::Jobs => "it has run max_jobs",
            Self::Soon => "it is about to have run max_jobs",
        }
    }
}

/// Places that there may be beyond what the pool is to have.
pub(super) fn surge(wanted: usize) -> usize {
    wanted.div_ceil(SURGE)
}

impl Pool {
    /// Marks every present worker as started with settings that count no more.
    pub fn renew(&mut self) {
        self.worn =
            self.slots.iter().map(|(number, slot)| (*number, (slot.incarnation, Wear::Settings))).collect();
    }

    /// Workers that serve and are to stay, and hold what they promise.
    pub(super) fn able(&self) -> usize {
        self.lives().filter(|life| is_able(life)).count()
    }

    fn lives(&self) -> impl Iterator<Item = &Life> {
        self.slots.values().filter_map(Slot::life)
    }

    /// Workers that are replaced, or replace themselves, and are not gone yet.
    pub(super) fn spent(&self) -> usize {
        let by_itself = |life: &Life| life.is_leaving() && life.fate.is_none();
        let spent = |(number, slot): &(&u32, &Slot)| {
            slot.life()
                .is_some_and(|life| self.spent.get(number) == Some(&slot.incarnation) || by_itself(life))
        };
        self.slots.iter().filter(spent).count()
    }

    /// Marks who has grown too large; who is far too large is let go at once.
    pub(super) fn wear(&mut self, now: Mono, out: &mut Actions) {
        let slots = &self.slots;
        let is_there = |number: &u32, incarnation: u64| {
            slots.get(number).is_some_and(|slot| slot.incarnation == incarnation && slot.life().is_some())
        };
        self.worn.retain(|number, (incarnation, _)| is_there(number, *incarnation));
        self.spent.retain(|number, incarnation| is_there(number, *incarnation));
        let Some(limit) = self.shape.max_memory.map(|bytes| bytes / 1024) else { return };
        let mut far_over = Vec::new();
        for (number, slot) in &self.slots {
            let Some(life) = slot.life().filter(|life| is_able(life) && life.beat.rss_kb > limit) else {
                continue;
            };
            self.worn.insert(*number, (slot.incarnation, Wear::Memory));
            if life.beat.rss_kb > limit.saturating_mul(FAR_OVER) {
                far_over.push(*number);
            }
        }
        for number in far_over {
            self.spend(now, number, "it uses more than twice max_memory", out);
        }
    }

    /// Workers that serve though they are to be replaced, the most pressing first.
    fn worn(&self, now: Mono) -> Vec<(Wear, u32)> {
        let mut all: Vec<(Wear, u32)> = self
            .slots
            .iter()
            .filter_map(|(number, slot)| {
                let life = slot.life().filter(|life| is_able(life))?;
                let marked =
                    self.worn.get(number).filter(|(incarnation, _)| *incarnation == slot.incarnation);
                let wear = match marked {
                    Some((_, wear)) => *wear,
                    None => self.jobs_left(now, life)?,
                };
                Some((wear, *number))
            })
            .collect();
        all.sort_unstable();
        all
    }

    /// How it stands with `max_jobs`. One that at the rate of its life so far has run them before another would be ready
    /// is about to leave.
    fn jobs_left(&self, now: Mono, life: &Life) -> Option<Wear> {
        let (most, Beat { claimed, done, failed, .. }) = (self.shape.max_jobs, &life.beat);
        if most == 0 {
            return None;
        }
        if done + failed >= most {
            return Some(Wear::Jobs);
        }
        let lived = now.since(life.ready?).max(Duration::from_millis(1));
        let rate = *claimed as f64 / lived.as_secs_f64();
        let soon = rate * scale::ahead(self.boot).as_secs_f64();
        (most.saturating_sub(*claimed) as f64 <= soon).then_some(Wear::Soon)
    }

    /// Places beyond what the pool is to have, for those who take over.
    pub(super) fn spares(&self, now: Mono, wanted: usize) -> usize {
        if !self.shape.spare {
            return 0;
        }
        self.worn(now).len().min(surge(wanted).saturating_sub(self.spent()))
    }

    /// Lets go whose place others have taken; where nobody may come first, a few at a time.
    pub(super) fn replace(&mut self, now: Mono, wanted: usize, out: &mut Actions) {
        let count = if self.shape.spare {
            self.able().saturating_sub(wanted)
        } else {
            let going = self.lives().filter(|life| !life.stays() || life.is_unready()).count();
            surge(self.filled()).max(1).saturating_sub(going)
        };
        let going = self.worn(now).into_iter().filter(|(wear, _)| *wear != Wear::Soon).take(count);
        for (wear, number) in going.collect::<Vec<_>>() {
            self.spend(now, number, wear.why(), out);
        }
    }

    fn spend(&mut self, now: Mono, number: u32, why: &str, out: &mut Actions) {
        if let Some(slot) = self.slots.get(&number) {
            self.spent.insert(number, slot.incarnation);
        }
        self.let_go(now, number, None, why, out);
    }
}

fn is_able(life: &Life) -> bool {
    life.phase == Phase::Serving && life.stays()
}
