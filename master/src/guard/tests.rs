//! What the machine says, and who is held by it.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const ROOMY: Reading = Reading {
    available: Some(8000 * MIB),
    total: Some(16_000 * MIB),
    memory_some: Some(0.0),
    memory_full: Some(0.0),
    cpu_some: Some(0.0),
};
const POOL: Usage = Usage { there: 3, counted: 3, min: 0, each: 90 * MIB, promised: 0, wants_cpu: None };

fn at(ms: u64) -> Mono {
    Mono::from_nanos(ms * 1_000_000)
}

fn after(reading: Reading) -> Guard {
    let mut guard = Guard::new(4);
    guard.look(at(0), reading);
    guard
}

#[test]
fn what_is_left_bounds_the_workers() {
    let left = |mib: u64| Reading { available: Some((mib + 256) * MIB), ..ROOMY };
    let held = |reading, usage: Usage| after(reading).held(&usage).map(|held| held.at);
    for (name, reading, usage, expected) in [
        ("room for many", ROOMY, POOL, Some(3 + (8000 - 256) / 90)),
        ("room for two", left(210), POOL, Some(5)),
        ("room for none", left(80), POOL, Some(3)),
        ("less than is kept for others", Reading { available: Some(0), ..ROOMY }, POOL, Some(3)),
        (
            "nobody is there",
            Reading { available: Some(0), ..ROOMY },
            Usage { there: 0, counted: 0, ..POOL },
            Some(1),
        ),
        ("some of those there have not taken theirs", left(210), Usage { counted: 2, ..POOL }, Some(4)),
        ("others were started since", left(210), Usage { promised: 100 * MIB, ..POOL }, Some(4)),
        (
            "a small machine keeps less",
            Reading { available: Some(110 * MIB), total: Some(400 * MIB), ..ROOMY },
            POOL,
            Some(4),
        ),
        ("nobody knows what a worker takes", left(0), Usage { each: 0, ..POOL }, None),
        ("nothing is read", Reading::default(), POOL, None),
    ] {
        assert_eq!(held(reading, usage), expected, "{name}");
    }
}

#[test]
fn pressure_of_memory_holds_growth_until_it_is_over() {
    let some = |percent| Reading { memory_some: Some(percent), ..ROOMY };
    let mut guard = after(some(10.0));
    let is_tight = |guard: &Guard| {
        guard.held(&POOL).is_some_and(|held| matches!(held.short, Short::MemoryPressure { .. }))
    };
    assert!(!is_tight(&guard));
    for (percent, expected) in [(10.1, true), (6.0, true), (4.9, false), (9.0, false), (30.0, true)] {
        guard.look(at(1000), some(percent));
        assert_eq!(is_tight(&guard), expected, "{percent}");
    }
    assert_eq!(guard.held(&POOL).unwrap().at, 3);
    assert_eq!(guard.held(&Usage { there: 0, min: 4, ..POOL }).unwrap().at, 1, "also of the fewest");
    guard.look(at(2000), Reading { memory_some: None, memory_full: None, ..ROOMY });
    assert!(!is_tight(&guard), "it is told no more");
}

#[test]
fn a_short_processor_holds_only_who_wants_it_and_beyond_the_cores() {
    let short = Reading { available: None, cpu_some: Some(85.0), ..ROOMY };
    let held = |usage: Usage| after(short).held(&usage).map(|held| held.at);
    assert_eq!(held(POOL), None, "nobody knows whether it does");
    assert_eq!(held(Usage { wants_cpu: Some(0.2), ..POOL }), None, "its workers wait for others");
    let wants = Usage { wants_cpu: Some(0.9), ..POOL };
    assert_eq!(held(wants), Some(4), "as many as there are cores");
    assert_eq!(held(Usage { there: 6, ..wants }), Some(6), "nobody goes for it");
    assert_eq!(held(Usage { min: 8, ..wants }), Some(8), "nor below the fewest");
    let mut guard = after(short);
    guard.look(at(1000), Reading { cpu_some: Some(45.0), ..short });
    assert!(guard.held(&wants).is_some());
    guard.look(at(2000), Reading { cpu_some: Some(39.0), ..short });
    assert!(guard.held(&wants).is_none() && !guard.asks_for_cpu());
}

#[test]
fn where_nothing_gets_done_for_want_of_memory_one_goes_now_and_then() {
    let full = |percent| Reading { memory_some: Some(8.0), memory_full: Some(percent), ..ROOMY };
    let mut guard = after(full(6.0));
    assert!(!guard.takes_relief(at(9999)));
    assert!(guard.takes_relief(at(10_000)) && !guard.takes_relief(at(10_000)));
    guard.look(at(19_000), full(3.0));
    assert!(!guard.takes_relief(at(19_999)) && guard.takes_relief(at(20_000)));
    assert_eq!(guard.held(&POOL).unwrap().at, 3, "nor is another started in its stead");
    guard.look(at(21_000), full(1.9));
    assert!(!guard.takes_relief(at(60_000)));
    guard.look(at(61_000), full(6.0));
    assert!(!guard.takes_relief(at(70_999)) && guard.takes_relief(at(71_000)), "the ten seconds begin anew");
}

#[test]
fn it_is_read_now_and_then() {
    let guard = after(ROOMY);
    assert!(Guard::new(1).is_due(at(0), false));
    assert!(!guard.is_due(at(999), true) && guard.is_due(at(1000), true));
    assert!(!guard.is_due(at(4999), false) && guard.is_due(at(5000), false));
}

fn any_reading() -> impl Strategy<Value = Reading> {
    let percent = || prop::option::of(0.0..100.0);
    let bytes = || prop::option::of(0..u64::MAX);
    (bytes(), bytes(), percent(), percent(), percent()).prop_map(
        |(available, total, memory_some, memory_full, cpu_some)| Reading {
            available,
            total,
            memory_some,
            memory_full,
            cpu_some,
        },
    )
}

proptest! {
    #[test]
    fn nobody_goes_for_it_and_more_memory_never_holds_more(
        readings in prop::collection::vec(any_reading(), 1..10),
        there in 0_u32..100,
        counted in 0_u32..100,
        min in 0_u32..100,
        each in 0_u64..(4 << 30),
        promised in 0_u64..(64 << 30),
        wants_cpu in prop::option::of(0.0..4.0),
        more in 0_u64..(64 << 30),
    ) {
        let usage = Usage { there, counted, min, each, promised, wants_cpu };
        let mut guard = Guard::new(4);
        for (second, reading) in readings.iter().enumerate() {
            guard.look(at(second as u64 * 1000), *reading);
            let held = guard.held(&usage);
            prop_assert!(held.is_none_or(|held| held.at >= there.max(1)));
        }
        let last = readings[readings.len() - 1];
        let before = guard.held(&usage);
        let richer = Reading { available: last.available.map(|bytes| bytes.saturating_add(more)), ..last };
        guard.look(at(60_000), richer);
        let after = guard.held(&usage);
        let at = |held: Option<Held>| held.map_or(u32::MAX, |held| held.at);
        prop_assert!(at(after) >= at(before), "{before:?} {after:?}");
    }
}
