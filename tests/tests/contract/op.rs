//! The operations of a random sequence. Small on purpose: few ids, few workers and low limits, so that all of it
//! collides. Durations are zero or an hour: the milliseconds that a real store takes must not matter.

use proptest::prelude::*;
use roundsman_shared::job::State;

pub(crate) const QUEUES: u8 = 2;
pub(crate) const WORKERS: u8 = 3;
pub(crate) const IDS: u8 = 12;

#[derive(Debug, Clone)]
pub(crate) struct JobArg {
    pub(crate) id: u8,
    pub(crate) chosen: bool,
    pub(crate) payload: u8,
    pub(crate) due: DueArg,
    pub(crate) priority: i16,
    pub(crate) expires: ExpiresArg,
    pub(crate) traced: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum DueArg {
    Now,
    /// So many milliseconds after 2001.
    Past(u8),
    /// So many milliseconds after 2100.
    Future(u8),
    InAnHour,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum ExpiresArg {
    Never,
    Past,
    Future,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum OutcomeArg {
    Done,
    /// With so many follow-ups.
    DoneWith(u8),
    RetryNow,
    RetryLater,
    Snooze,
    Dead,
    Cancelled,
    Expired,
    GiveBack,
    Crashed,
    Killed,
    Lapsed,
}

/// A delivery of this queue, counted back from the newest, and what became of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AckArg {
    pub(crate) back: u8,
    pub(crate) started: bool,
    pub(crate) outcome: OutcomeArg,
}

#[derive(Debug, Clone)]
pub(crate) struct SettleArg {
    pub(crate) acks: Vec<AckArg>,
    /// In another worker's name than that of the first delivery.
    pub(crate) foreign: bool,
    pub(crate) only_if_lapsed: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct PullArg {
    pub(crate) worker: u8,
    pub(crate) max: u8,
    pub(crate) lapses: bool,
    pub(crate) clock: ClockArg,
}

/// What the worker thinks of the store's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ClockArg {
    Unknown,
    Right,
    Jumped,
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    Enqueue {
        jobs: Vec<JobArg>,
        max_waiting: u64,
    },
    Pull(PullArg),
    Settle(SettleArg),
    Exchange(SettleArg, PullArg),
    /// Marks name deliveries as [`AckArg`] does.
    Renew {
        worker: u8,
        lapses: bool,
        marks: Vec<u8>,
    },
    Pulse,
    /// A master looks who has lapsed and takes the jobs of those.
    Sweep {
        all: bool,
    },
    /// A worker puts back all it holds.
    Release {
        worker: u8,
    },
    Trim {
        old: bool,
    },
    Cancel {
        id: u8,
    },
    Reschedule {
        id: u8,
        due: DueArg,
    },
    Replace {
        id: u8,
        payload: u8,
        due: Option<DueArg>,
    },
    Retry {
        id: u8,
    },
    Delete {
        id: u8,
    },
    Purge {
        state: State,
    },
    Pause {
        paused: bool,
    },
    SetLive {
        key: u8,
        value: Option<u8>,
    },
    MoveOutbox {
        count: u8,
    },
}

fn due() -> impl Strategy<Value = DueArg> {
    prop_oneof![
        6 => Just(DueArg::Now),
        3 => (0..3_u8).prop_map(DueArg::Past),
        1 => (0..3_u8).prop_map(DueArg::Future),
        1 => Just(DueArg::InAnHour),
    ]
}

fn job() -> impl Strategy<Value = JobArg> {
    let expires = prop_oneof![
        8 => Just(ExpiresArg::Never),
        1 => Just(ExpiresArg::Past),
        1 => Just(ExpiresArg::Future),
    ];
    (0..IDS, any::<bool>(), 0..2_u8, due(), -1..2_i16, expires).prop_map(
        |(id, traced, payload, due, priority, expires)| JobArg {
            id,
            chosen: is_chosen(id),
            payload,
            due,
            priority,
            expires,
            traced,
        },
    )
}

/// Ids that were made by the product stand for one content each, so an id is always of one kind.
const fn is_chosen(id: u8) -> bool {
    !id.is_multiple_of(4)
}

/// Differs with each call, or is made of the id alone, so that the same id often comes with the same content.
fn jobs() -> impl Strategy<Value = Vec<JobArg>> {
    let plain = (0..IDS).prop_map(|id| JobArg {
        id,
        chosen: is_chosen(id),
        payload: 0,
        due: if id % 5 == 4 { DueArg::Past(id % 3) } else { DueArg::Now },
        priority: i16::from(id % 3) - 1,
        expires: ExpiresArg::Never,
        traced: id % 2 == 0,
    });
    prop::collection::vec(prop_oneof![3 => plain, 1 => job()], 1..6)
}

fn ack() -> impl Strategy<Value = AckArg> {
    let outcome = prop_oneof![
        6 => Just(OutcomeArg::Done),
        2 => (1..3_u8).prop_map(OutcomeArg::DoneWith),
        2 => Just(OutcomeArg::RetryNow),
        2 => Just(OutcomeArg::RetryLater),
        1 => Just(OutcomeArg::Snooze),
        3 => Just(OutcomeArg::Dead),
        1 => Just(OutcomeArg::Cancelled),
        1 => Just(OutcomeArg::Expired),
        3 => Just(OutcomeArg::GiveBack),
        2 => Just(OutcomeArg::Crashed),
        1 => Just(OutcomeArg::Killed),
        1 => Just(OutcomeArg::Lapsed),
    ];
    let back = prop_oneof![4 => 0..3_u8, 1 => 0..12_u8];
    (back, any::<bool>(), outcome).prop_map(|(back, started, outcome)| AckArg { back, started, outcome })
}

fn settle() -> impl Strategy<Value = SettleArg> {
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.15));
    (prop::collection::vec(ack(), 1..5), flags).prop_map(|(acks, (foreign, only_if_lapsed))| SettleArg {
        acks,
        foreign,
        only_if_lapsed,
    })
}

fn pull() -> impl Strategy<Value = PullArg> {
    let clock =
        prop_oneof![6 => Just(ClockArg::Unknown), 2 => Just(ClockArg::Right), 1 => Just(ClockArg::Jumped)];
    (0..WORKERS, 1..5_u8, prop::bool::weighted(0.3), clock).prop_map(|(worker, max, lapses, clock)| PullArg {
        worker,
        max,
        lapses,
        clock,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let id = || 0..IDS;
    let max_waiting = prop_oneof![3 => Just(6_u64), 1 => Just(3_u64)];
    prop_oneof![
        16 => (jobs(), max_waiting).prop_map(|(jobs, max_waiting)| Op::Enqueue { jobs, max_waiting }),
        12 => pull().prop_map(Op::Pull),
        12 => settle().prop_map(Op::Settle),
        5 => (settle(), pull()).prop_map(|(settle, pull)| Op::Exchange(settle, pull)),
        4 => (0..WORKERS, prop::bool::weighted(0.3), prop::collection::vec(0..4_u8, 0..3))
            .prop_map(|(worker, lapses, marks)| Op::Renew { worker, lapses, marks }),
        2 => Just(Op::Pulse),
        4 => any::<bool>().prop_map(|all| Op::Sweep { all }),
        2 => (0..WORKERS).prop_map(|worker| Op::Release { worker }),
        1 => any::<bool>().prop_map(|old| Op::Trim { old }),
        6 => id().prop_map(|id| Op::Cancel { id }),
        4 => (id(), due()).prop_map(|(id, due)| Op::Reschedule { id, due }),
        3 => (id(), any::<u8>(), prop::option::of(due()))
            .prop_map(|(id, payload, due)| Op::Replace { id, payload, due }),
        6 => id().prop_map(|id| Op::Retry { id }),
        3 => id().prop_map(|id| Op::Delete { id }),
        2 => prop::sample::select(&State::ALL[..]).prop_map(|state| Op::Purge { state }),
        2 => prop::bool::weighted(0.3).prop_map(|paused| Op::Pause { paused }),
        1 => (0..2_u8, prop::option::of(0..2_u8)).prop_map(|(key, value)| Op::SetLive { key, value }),
        2 => (0..4_u8).prop_map(|count| Op::MoveOutbox { count }),
    ]
}

/// Operations, each on one of the queues; most on the first.
pub(crate) fn sequence() -> impl Strategy<Value = Vec<(u8, Op)>> {
    let queue = prop_oneof![4 => Just(0_u8), 1 => 0..QUEUES];
    // Down to one operation, so that a failing sequence can shrink.
    prop::collection::vec((queue, op()), 1..200)
}
