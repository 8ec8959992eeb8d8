//! How processes end.

use roundsman_shared::clock::Mono;

use super::{Fleet, jitter};
use crate::event::Key;
use crate::oom;
use crate::release::{Ending, Release};
use crate::slot::{self, Exit, Slot};

impl Fleet {
    /// A process is gone: frees its slot, and answers whose jobs are to be given back.
    pub(crate) fn reaped(
        &mut self,
        key: &Key,
        exit: Exit,
        tail: Option<String>,
        now: Mono,
    ) -> Option<Release> {
        let clock = self.clock;
        let policies = self.policies.clone();
        let crew = self.crews.get_mut(&key.pool)?;
        let hand = crew.hands.get(&key.number).filter(|hand| hand.key == *key)?;
        let life = crew.pool.slots.get(&key.number).and_then(Slot::life);
        let fate = life.and_then(|life| life.fate.clone());
        let exit = match exit {
            Exit::Signal(signal)
                if fate.is_none()
                    && (oom::is_said(exit, tail.as_deref())
                        || (signal == 9 && self.kills.explain(now, hand.kills.as_deref()))) =>
            {
                Exit::OutOfMemory { signal }
            }
            exit => exit,
        };
        let peak_kb = life.map_or(0, |life| life.peak_kb);
        if let Some(life) = life {
            crew.load.gone(key.number, &life.beat);
        }
        let running = hand.board.read().unwrap_or_default();
        // Who said good-bye had given everything back.
        let ran = !running.is_empty() && life.is_none_or(|life| !life.is_leaving());
        if fate.is_none() && exit.is_crash() && (ran || exit != Exit::Code(0)) {
            let jobs = running.iter().map(|posted| format!("{}/{}", posted.queue, posted.id));
            crew.pool.crashed(jobs);
        }
        let release = (!crew.plan.is_part()).then(|| Release {
            worker: hand.id.clone(),
            queues: hand.queues.clone(),
            policies,
            ending: Ending::Seen { exit, fate, running, pool_at_fault: crew.pool.is_at_fault(), peak_kb },
            stderr_tail: tail,
            clock,
        });
        self.step(key, slot::Event::Reaped { exit, ran, jitter: jitter() }, now);
        release
    }

    /// Looks whom the kernel has killed for want of memory.
    pub(crate) fn count_kills(&mut self, now: Mono) {
        let hands = self.crews.values().flat_map(|crew| crew.hands.values());
        self.kills.look(now, hands.filter_map(|hand| hand.kills.as_deref()));
    }
}
