//! A fleet of several hosts in one thread, under a clock that only exists here, and everything that can go wrong with it:
//! the same seed gives the same course, so that whatever is found can be looked at again.
//!
//! ```text
//! as they are    supervisor: Unit    master: Pool with its slots, the verdicts on what the dead held    worker: Session
//! as it is meant the store: crate::model
//! played here    processes, pipes, the network, the clock, who falls over when (world, worker, host, top), and the judge
//! ```
//! What is not played: bytes, how long things take to compute, and stops and rolls.
//!
//! The judge looks on while it happens: no job starts before it is due, or while it runs elsewhere; nobody is killed who
//! was not stuck, worker or master; no delivery is charged that was only given back. And at the end, when all has healed: every job that was
//! acknowledged has ended, once, as it should have, each host has a master, and the fleet serves what comes.

mod host;
mod judge;
mod top;
mod worker;
mod world;

pub use judge::Verdict;

/// A bug that is put into the played parts, to see that the judge finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// The store takes an acknowledgement for the current delivery, whatever its token.
    TokenNotCompared,
    /// A dead worker's jobs are given back when its exit is expected, not when it is seen.
    ReleasedBeforeTheExit,
    /// A lost lease does not end the worker.
    LostLeaseIgnored,
    /// Another host sweeps leases that are good.
    SweptTooSoon,
    /// Nobody sweeps the lapsed leases of a host that is gone.
    SweepsForgotten,
    /// A wake-up is lost, and nobody looks again.
    WakesLost,
    /// The master's own pause is held against its workers.
    OwnLatenessHeld,
    /// A worker that is told to stop drops what it has not started.
    DroppedAtTheStop,
    /// A job is acknowledged as done when it starts.
    AckedBeforeTheEnd,
    /// A job is handed out before it is due.
    Early,
    /// What is given back is charged as if it had been tried.
    GiveBacksCharged,
    /// No other master is started when one has died.
    MastersNotReplaced,
    /// A supervisor that stood still holds it against its master.
    WatchesUnheard,
}

impl Planted {
    pub const ALL: [Self; 13] = [
        Self::TokenNotCompared,
        Self::ReleasedBeforeTheExit,
        Self::LostLeaseIgnored,
        Self::SweptTooSoon,
        Self::SweepsForgotten,
        Self::WakesLost,
        Self::OwnLatenessHeld,
        Self::DroppedAtTheStop,
        Self::AckedBeforeTheEnd,
        Self::Early,
        Self::GiveBacksCharged,
        Self::MastersNotReplaced,
        Self::WatchesUnheard,
    ];
}

/// Plays one course to its end.
#[must_use]
pub fn play(seed: u64, planted: Option<Planted>) -> Verdict {
    world::World::new(seed, planted).play()
}

/// As [`play`], with a line for all that happened.
#[must_use]
pub fn tell(seed: u64, planted: Option<Planted>) -> (Verdict, Vec<String>) {
    let mut world = world::World::new(seed, planted);
    world.told = Some(Vec::new());
    let verdict = world.play();
    (verdict, world.told.unwrap_or_default())
}
