//! A pool with a clock of its own: who is started, told, let go and blamed.

mod recycle;

use super::*;
use roundsman_shared::protocol::{Beat, FromChild, StopMode};

fn shape(max: u32) -> Shape {
    Shape {
        queues: vec![QueueName::new("q").unwrap()],
        max,
        slots: 1,
        detection: Detection {
            suspect: Duration::from_millis(3500),
            silence: Duration::from_secs(10),
            frozen: Duration::from_secs(15),
        },
        grace: Duration::from_secs(30),
        max_memory: None,
        max_jobs: 0,
        spare: true,
        early: Duration::ZERO,
        leave: None,
    }
}

fn at(ms: u64) -> Mono {
    Mono::from_nanos(ms * 1_000_000)
}

fn spawned(out: &Actions) -> Vec<u32> {
    out.iter().filter(|(_, action)| *action == Action::Spawn).map(|(number, _)| *number).collect()
}

fn make_ready(pool: &mut Pool, now: Mono, number: u32) {
    let mut out = Vec::new();
    let incarnation = pool.slots[&number].incarnation;
    let hello = FromChild::Hello { v: [1, 1], pid: 1, nonce: 1, build: "t".into() };
    for event in [Event::Spawned { pid: 9 }, Event::Line(hello), Event::Line(FromChild::Ready)] {
        pool.step(now, number, incarnation, event, &mut out);
    }
}

fn filled(count: u32, max: u32) -> Pool {
    let mut pool = Pool::new(shape(max));
    let mut budget = Budget::new(64, at(0));
    pool.adjust(at(0), count, &mut budget, &mut 0, &mut Vec::new());
    for number in 1..=count {
        make_ready(&mut pool, at(u64::from(number)), number);
    }
    pool
}

#[test]
fn the_budget_bounds_starts() {
    let mut pool = Pool::new(shape(100));
    let mut budget = Budget::new(2, at(0));
    let mut out = Vec::new();
    let mut unready = 0;
    pool.adjust(at(0), 100, &mut budget, &mut unready, &mut out);
    assert_eq!((spawned(&out).len(), unready), (16, 16), "the burst");
    pool.adjust(at(250), 100, &mut budget, &mut unready, &mut out);
    assert_eq!(spawned(&out).len(), 25, "a quarter unready at most");
    pool.adjust(at(9000), 100, &mut budget, &mut unready, &mut out);
    assert_eq!(spawned(&out).len(), 25);
}

#[test]
fn only_idle_workers_are_let_go() {
    let mut pool = filled(3, 8);
    let mut budget = Budget::new(4, at(0));
    let mut out = Vec::new();
    pool.adjust(at(200), 1, &mut budget, &mut 0, &mut out);
    assert_eq!(out, []);
    pool.adjust(at(252), 0, &mut budget, &mut 0, &mut out);
    let stopped: Vec<u32> = out.iter().map(|(number, _)| *number).collect();
    assert_eq!(stopped, [1, 2], "those idle for a quarter of a second");
}

#[test]
fn who_is_too_much_goes_as_soon_as_it_has_been_idle_for_long() {
    let mut pool = filled(3, 8);
    let mut out = Vec::new();
    assert_eq!(pool.next_thinning(at(100), 3), None, "nobody is too much");
    let next = pool.next_thinning(at(100), 1).unwrap();
    assert!(next > at(100) && next <= at(260), "{next:?}");
    pool.thin(at(100), 1, &mut out);
    assert_eq!(out, []);
    pool.thin(next, 1, &mut out);
    assert_eq!(out.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1]);
    out.clear();
    pool.thin(at(5000), 1, &mut out);
    assert_eq!(out.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2]);
    assert_eq!((pool.next_thinning(at(5000), 1), pool.filled()), (None, 1));
}

#[test]
fn who_was_replaced_while_it_died_does_not_cost_another_its_place() {
    let mut pool = filled(2, 3);
    let mut budget = Budget::new(4, at(0));
    let mut out = Vec::new();
    pool.step(at(20_000), 1, 1, Event::Time { blind: false }, &mut out);
    assert!(out.contains(&(1, Action::Signal { group: false, signal: crate::slot::Deadly::Abort })));
    let beat = Beat { doing: Doing::Idle, ..Default::default() };
    pool.step(at(20_000), 2, 1, Event::Line(FromChild::Hb(beat)), &mut out);
    pool.adjust(at(20_000), 2, &mut budget, &mut 0, &mut out);
    assert_eq!(spawned(&out), [3]);
    out.clear();
    pool.step(at(21_000), 1, 1, Event::Gone, &mut out);
    pool.step(at(21_000), 1, 1, Event::Reaped { exit: Exit::Signal(6), ran: false, jitter: 0.0 }, &mut out);
    assert!(matches!(pool.slots[&1].state, State::Backoff { .. }));
    out.clear();
    pool.adjust(at(21_000), 2, &mut budget, &mut 0, &mut out);
    assert_eq!((out.len(), pool.filled()), (0, 2));
}

#[test]
fn wakes_go_to_the_latest_idle_once() {
    let mut pool = filled(3, 8);
    let queue = QueueName::new("q").unwrap();
    let mut out = Vec::new();
    assert_eq!(pool.wake(at(100), &queue, 2, &mut out), 2);
    assert_eq!(out.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(pool.woken(at(100), &queue), 2);
    assert_eq!(pool.wake(at(101), &queue, 5, &mut out), 1);
    assert_eq!(pool.wake(at(103), &queue, 5, &mut out), 3, "assumed idle again");
    assert_eq!(pool.wake(at(110), &QueueName::new("other").unwrap(), 5, &mut out), 0);
}

#[test]
fn a_program_that_is_not_there_is_quarantined_and_tried_again() {
    let mut pool = Pool::new(shape(4));
    let mut budget = Budget::new(4, at(0));
    let mut out = Vec::new();
    pool.adjust(at(0), 1, &mut budget, &mut 0, &mut out);
    pool.step(at(1), 1, 1, Event::Spawned { pid: 3 }, &mut out);
    pool.step(at(2), 1, 1, Event::Gone, &mut out);
    pool.step(at(3), 1, 1, Event::Reaped { exit: Exit::Code(127), ran: false, jitter: 0.0 }, &mut out);
    assert!(pool.quarantine.as_ref().unwrap().why.contains("127"));
    out.clear();
    pool.time(at(60_000), false, &mut out);
    pool.adjust(at(60_000), 2, &mut budget, &mut 0, &mut out);
    assert!(spawned(&out).is_empty());
    pool.time(at(300_100), false, &mut out);
    pool.adjust(at(300_100), 2, &mut budget, &mut 0, &mut out);
    assert_eq!(spawned(&out), [1], "one alone");
}

#[test]
fn too_many_workers_leave_after_their_jobs() {
    let mut pool = filled(3, 3);
    let busy = Beat { doing: Doing::Busy, running: 1, ..Default::default() };
    for number in 1..=3 {
        pool.step(at(100), number, 1, Event::Line(FromChild::Hb(busy.clone())), &mut Vec::new());
    }
    pool.shape.max = 1;
    let (mut budget, mut out) = (Budget::new(4, at(0)), Vec::new());
    pool.adjust(at(200), 3, &mut budget, &mut 0, &mut out);
    let told: Vec<u32> = out.iter().map(|(number, _)| *number).collect();
    assert_eq!(told, [3, 2]);
    let unbounded = |action: &Action| matches!(action, Action::Send(ToChild::Stop { mode: StopMode::Drain, by_ms, .. }) if *by_ms > 86_400_000);
    assert!(out.iter().all(|(_, action)| unbounded(action)), "{out:?}");
    out.clear();
    pool.adjust(at(300), 3, &mut budget, &mut 0, &mut out);
    assert_eq!(out, []);
}

#[test]
fn busy_workers_are_told_of_work_now_and_then() {
    let mut pool = filled(2, 2);
    let queue = QueueName::new("q").unwrap();
    let looks =
        |out: &Actions| out.iter().filter(|(_, it)| matches!(it, Action::Send(ToChild::Look { .. }))).count();
    let mut out = Vec::new();
    pool.look(at(100), &queue, &mut out);
    pool.look(at(101), &queue, &mut out);
    assert_eq!((looks(&out), pool.next_deadline()), (2, Some(at(110))));
    out.clear();
    pool.time(at(110), false, &mut out);
    assert_eq!(looks(&out), 2, "what came meanwhile");
    out.clear();
    pool.time(at(130), false, &mut out);
    assert_eq!(looks(&out), 0);
}

#[test]
fn different_jobs_that_crash_are_the_pools_fault() {
    let mut pool = Pool::new(shape(4));
    let mut budget = Budget::new(4, at(0));
    let mut ms = 0;
    let mut crash = |pool: &mut Pool, job: &str| {
        let mut out = Vec::new();
        ms += 60_000;
        pool.time(at(ms), false, &mut out);
        pool.adjust(at(ms), 1, &mut budget, &mut 0, &mut out);
        make_ready(pool, at(ms), 1);
        let incarnation = pool.slots[&1].incarnation;
        pool.step(at(ms), 1, incarnation, Event::Gone, &mut out);
        pool.crashed([job.to_owned()].into_iter());
        pool.step(
            at(ms),
            1,
            incarnation,
            Event::Reaped { exit: Exit::Signal(6), ran: false, jitter: 0.0 },
            &mut out,
        );
        pool.quarantine.is_some()
    };
    for _ in 0..6 {
        assert!(!crash(&mut pool, "q/one"));
    }
    assert!(!crash(&mut pool, "q/two"));
    assert!(!pool.is_at_fault());
    assert!(crash(&mut pool, "q/three") && pool.is_at_fault());
    // Tried again later: one crash is enough, and it is still not the job's.
    pool.time(at(86_400_000), false, &mut Vec::new());
    assert!(pool.quarantine.is_none() && pool.is_at_fault() && pool.is_on_trial());
}

/// A worker with many slots has many jobs when one of them ends it, and they run again together.
#[test]
fn crashes_that_one_job_may_have_done_are_not_the_pools_fault() {
    let mut pool = Pool::new(shape(4));
    let mut crash = |jobs: &[&str]| {
        pool.crashed(jobs.iter().map(|job| (*job).to_owned()));
        pool.is_at_fault()
    };
    assert!(!crash(&["q/one", "q/two", "q/three", "q/four"]));
    assert!(!crash(&["q/one", "q/five", "q/six", "q/seven"]));
    assert!(!crash(&[]));
    assert!(!crash(&["q/eight", "q/nine"]));
    assert!(!crash(&["q/nine", "q/three"]));
    assert!(crash(&["q/ten"]), "three that have nothing in common");
}

#[test]
fn four_failures_to_boot_are_the_pools() {
    let mut pool = Pool::new(shape(4));
    let mut budget = Budget::new(4, at(0));
    let mut ms = 0;
    for round in 1..=4 {
        let mut out = Vec::new();
        ms += 60_000;
        pool.time(at(ms), false, &mut out);
        pool.adjust(at(ms), 1, &mut budget, &mut 0, &mut out);
        assert_eq!(spawned(&out), [1], "round {round}");
        let incarnation = pool.slots[&1].incarnation;
        pool.step(at(ms), 1, incarnation, Event::Spawned { pid: 3 }, &mut out);
        pool.step(at(ms), 1, incarnation, Event::Gone, &mut out);
        pool.step(
            at(ms),
            1,
            incarnation,
            Event::Reaped { exit: Exit::Code(1), ran: false, jitter: 0.0 },
            &mut out,
        );
        assert_eq!(pool.quarantine.is_some(), round == 4);
    }
}

/// Of workers of which nobody knows whether they do anything.
fn unknown(max: u32) -> Pool {
    let shape = Shape { early: Duration::from_secs(30), leave: Some(Duration::from_secs(7)), ..shape(max) };
    Pool::new(shape)
}

fn live(pool: &mut Pool, from: u64, ms: u64, exit: Exit) {
    let mut budget = Budget::new(64, at(from));
    pool.adjust(at(from), 1, &mut budget, &mut 0, &mut Vec::new());
    make_ready(pool, at(from + 300), 1);
    let incarnation = pool.slots[&1].incarnation;
    let gone = Event::Reaped { exit, ran: false, jitter: 0.0 };
    pool.step(at(from + ms), 1, incarnation, gone, &mut Vec::new());
    // Its backoff is over.
    pool.time(at(from + ms + 60_000), false, &mut Vec::new());
}

#[test]
fn who_fails_early_again_and_again_has_never_started() {
    let mut pool = unknown(1);
    for start in 0..3 {
        live(&mut pool, start * 100_000, 2_000, Exit::Code(1));
        assert!(pool.quarantine.is_none(), "{start}");
    }
    live(&mut pool, 300_000, 2_000, Exit::Code(1));
    assert!(pool.quarantine.as_ref().unwrap().why.contains("failed soon after their start"));

    // Ends that are no failures are no reason, nor is one that comes late; it clears what was before.
    let mut pool = unknown(1);
    for start in 0..6 {
        live(&mut pool, start * 100_000, 2_000, Exit::Code(0));
    }
    for start in 6..9 {
        live(&mut pool, start * 100_000, 2_000, Exit::Code(1));
    }
    live(&mut pool, 900_000, 31_000, Exit::Code(1));
    for start in 10..13 {
        live(&mut pool, start * 100_000, 2_000, Exit::Code(1));
    }
    assert!(pool.quarantine.is_none());
    live(&mut pool, 1_300_000, 2_000, Exit::Code(1));
    assert!(pool.quarantine.is_some());
}

#[test]
fn nobody_takes_longer_to_leave_than_the_pool_allows() {
    let mut pool = unknown(2);
    let mut budget = Budget::new(64, at(0));
    pool.adjust(at(0), 2, &mut budget, &mut 0, &mut Vec::new());
    make_ready(&mut pool, at(1), 1);
    make_ready(&mut pool, at(1), 2);
    for (by, expected) in [(None, 7_000), (Some(Duration::from_secs(2)), 2_000)] {
        let mut out = Vec::new();
        let number = if by.is_none() { 1 } else { 2 };
        let incarnation = pool.slots[&number].incarnation;
        pool.step(at(10), number, incarnation, Event::Drain { by, why: "t".into() }, &mut out);
        let told = out.iter().find_map(|(_, action)| match action {
            Action::Send(ToChild::Stop { mode: StopMode::Drain, by_ms, .. }) => Some(*by_ms),
            _ => None,
        });
        assert_eq!(told, Some(expected));
    }
}
