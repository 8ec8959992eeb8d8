//! Fleets of two hosts in one thread, with everything going wrong that can: thousands of courses, each made of its seed.
//! `SIMULATION_SEEDS=FROM..TO` plays others.
#![expect(clippy::print_stdout, reason = "figures are what these tests are read for")]

use roundsman_tests::simulation::{Planted, Verdict, play, tell};
use roundsman_tests::spawn;

/// By default; a thousand take some seven seconds.
const SEEDS: std::ops::Range<u64> = 0..3_000;
/// A planted bug shows within so many courses.
const ENOUGH: u64 = 600;

fn seeds() -> std::ops::Range<u64> {
    let Some(text) = spawn::variable("SIMULATION_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").expect("SIMULATION_SEEDS=FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn every_course_keeps_every_promise() {
    let (mut jobs, mut starts, mut faults, mut seconds) = (0, 0, 0, 0);
    let mut broken: Vec<Verdict> = Vec::new();
    for seed in seeds() {
        let verdict = play(seed, None);
        jobs += verdict.jobs;
        starts += verdict.starts;
        faults += verdict.faults;
        seconds += verdict.lasted_ms / 1_000;
        if !verdict.broken.is_empty() {
            broken.push(verdict);
        }
    }
    println!("{:?}: {jobs} jobs, {starts} starts, {faults} faults, {} h", seeds(), seconds / 3_600);
    let shown =
        broken.iter().take(5).map(|it| format!("seed {}: {:#?}", it.seed, it.broken)).collect::<Vec<_>>();
    assert!(broken.is_empty(), "{} courses: {}", broken.len(), shown.join("\n"));
}

/// `SIMULATION_TELL=SEED` prints a course, event by event.
#[test]
#[ignore = "prints the course that SIMULATION_TELL names"]
fn a_course_in_words() {
    let seed = spawn::variable("SIMULATION_TELL").and_then(|text| text.parse().ok()).expect("a seed");
    let (verdict, told) = tell(seed, None);
    for line in told {
        println!("{line}");
    }
    println!("{verdict:#?}");
}

#[test]
fn a_course_is_made_of_its_seed() {
    for seed in 0..20 {
        assert_eq!(play(seed, None), play(seed, None));
        assert_ne!(play(seed, None).trace, play(seed + 1, None).trace);
    }
}

/// What the judge calls what each bug breaks.
const fn name(bug: Planted) -> &'static str {
    match bug {
        Planted::TokenNotCompared => "token",
        Planted::ReleasedBeforeTheExit | Planted::LostLeaseIgnored | Planted::SweptTooSoon => "two at once",
        Planted::SweepsForgotten | Planted::DroppedAtTheStop => "stuck",
        Planted::WakesLost => "late",
        Planted::OwnLatenessHeld | Planted::WatchesUnheard => "killed",
        Planted::AckedBeforeTheEnd => "no effect",
        Planted::Early => "early",
        Planted::GiveBacksCharged => "charged",
        Planted::MastersNotReplaced => "unattended",
    }
}

#[test]
fn every_planted_bug_is_found_by_name() {
    for bug in Planted::ALL {
        let found = (0..ENOUGH)
            .find(|seed| play(*seed, Some(bug)).broken.iter().any(|broken| broken.starts_with(name(bug))));
        println!("{bug:?}: {:?} by seed {found:?}", name(bug));
        assert!(found.is_some(), "{bug:?}: no course of {ENOUGH} breaks {:?}", name(bug));
    }
}
