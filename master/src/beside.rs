//! Two masters on one host, while another program is rolled out: which part of the work is this one's. Pure.
//!
//! Both find the same number of workers to be needed; the heir has its share of it rounded up, the other the rest, so
//! that together they have as many as one would. What there may be one only of (the intakes) belongs to the one that leads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::protocol::Standing;

use crate::crew::Crew;
use crate::plan::{Part, Work};

/// An heir goes on having as many workers as it took over for so long after it leads; by then it knows itself how many are
/// needed.
const KEPT: Duration = Duration::from_secs(10);
/// Workers of a new program that do not become ready, and it is no good.
const FAILURES: u32 = 2;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Beside {
    share: u8,
    leads: bool,
    /// It came second.
    heir: bool,
    /// How many workers the other master had, and which pools it could not fill, as far as that is known.
    before: Option<Before>,
    led: Option<Mono>,
    /// Somebody wants to know how it stands.
    watched: bool,
    said: Option<Standing>,
}

/// What an heir finds.
#[derive(Debug, Default)]
pub(crate) struct Before {
    pub desired: BTreeMap<String, u32>,
    pub quarantined: BTreeSet<String>,
}

impl Beside {
    /// Alone, or as an heir with so many percent.
    pub(crate) fn new(heir: Option<u8>) -> Self {
        Self {
            share: heir.unwrap_or(100),
            leads: heir.is_none(),
            heir: heir.is_some(),
            before: None,
            led: None,
            watched: heir.is_some(),
            said: None,
        }
    }

    /// It takes over from a master that lives.
    pub(crate) const fn is_heir(&self) -> bool {
        self.heir
    }

    /// No other master has a part of the host's work.
    pub(crate) const fn is_alone(&self) -> bool {
        self.leads && self.share == 100
    }

    pub(crate) fn found(&mut self, before: Before) {
        self.before = Some(before);
    }

    pub(crate) fn share(&mut self, percent: u8) {
        self.share = percent.min(100);
        self.watched = true;
        self.said = None;
    }

    pub(crate) fn lead(&mut self, now: Mono) {
        self.leads = true;
        self.led = Some(now);
        self.said = None;
    }

    pub(crate) fn follow(&mut self) {
        self.leads = false;
        self.said = None;
    }

    /// How many workers a crew is to have here.
    pub(crate) fn wanted(&self, name: &str, crew: &Crew, now: Mono) -> u32 {
        let target = crew.decision.target;
        if let Work::Part(part) = &crew.plan.work {
            // An address can be listened on by both, so that nobody finds it closed.
            let here = self.leads || (self.heir && matches!(part, Part::Http(_)));
            return if here { target } else { 0 };
        }
        let kept = self.heir && crew.fixed.is_none() && self.led.is_none_or(|led| now.since(led) < KEPT);
        let target = if kept { target.max(self.kept(name)).min(crew.plan.max) } else { target };
        let rest = u64::from(target) * u64::from(100 - self.share) / 100;
        let rest = u32::try_from(rest).unwrap_or(target);
        if self.heir { target - rest } else { self.of(target) }
    }

    fn of(&self, target: u32) -> u32 {
        u32::try_from(u64::from(target) * u64::from(self.share) / 100).unwrap_or(target)
    }

    /// At least one, so that a program that cannot start a worker is found out before it matters.
    fn kept(&self, name: &str) -> u32 {
        let before = self.before.as_ref().and_then(|before| before.desired.get(name)).copied();
        before.unwrap_or(0).max(u32::from(!self.leads))
    }

    /// How it stands, if that is news to somebody who wants to know.
    pub(crate) fn news<'a>(
        &mut self,
        crews: impl Iterator<Item = (&'a str, &'a Crew)>,
        now: Mono,
    ) -> Option<Standing> {
        if !self.watched {
            return None;
        }
        let mut standing = Standing { share: self.share, leads: self.leads, ..Standing::default() };
        standing.settled = !self.heir || self.before.is_some();
        for (name, crew) in crews.filter(|(_, crew)| !crew.leaving) {
            let (wanted, ready) = (self.wanted(name, crew, now), crew.pool.ready());
            match &crew.plan.work {
                Work::Part(Part::Http(_)) => {}
                Work::Part(_) => {
                    standing.parts += u32::try_from(crew.pool.alive()).unwrap_or(u32::MAX);
                    continue;
                }
                Work::Handler(_) | Work::Command(_) | Work::Foreign(_) => {
                    standing.wanted += wanted;
                    standing.ready += ready;
                }
            }
            if self.before.as_ref().is_some_and(|before| before.quarantined.contains(name)) {
                continue;
            }
            standing.settled &= ready >= wanted;
            if self.heir && standing.failing.is_none() {
                standing.failing = crew.pool.failing(FAILURES).map(|why| format!("pool {name}: {why}"));
            }
        }
        if self.said.as_ref() == Some(&standing) {
            return None;
        }
        self.said = Some(standing.clone());
        Some(standing)
    }
}
