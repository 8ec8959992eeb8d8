//! The law, look by look.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits =
    Limits { min: 0, max: 4, bound: Bound::Host, slots: 1, target_wait: Duration::from_secs(1) };
const BOOT: Duration = Duration::from_millis(50);

fn at(ms: u64) -> Mono {
    Mono::from_nanos(ms * 1_000_000)
}

fn inputs(ready: u64) -> Inputs<'static> {
    Inputs { ready, boot: BOOT, ..Inputs::default() }
}

/// A steady flow of so many jobs a second, each of so many seconds, for a minute; answers the last decision.
fn flow(law: &mut Law, limits: &Limits, rate: u64, service: f64) -> Decision {
    let mut decision = Decision::first(0);
    for second in 0..=60_u64 {
        let took = vec![service; usize::try_from(rate).unwrap()];
        let busy = (rate as f64 * service) as usize;
        let running = vec![service / 2.0; busy];
        let look = Inputs {
            arrived: (second * rate).cast_signed(),
            took: &took,
            running: &running,
            workers: decision.target,
            ..inputs(0)
        };
        decision = law.decide(at(second * 1000), &look, limits);
    }
    decision
}

#[test]
fn one_ready_job_needs_a_worker_at_once() {
    let mut law = Law::default();
    assert_eq!(law.decide(at(0), &inputs(0), &LIMITS).target, 0);
    let decision = law.decide(at(1), &inputs(1), &LIMITS);
    assert_eq!(decision.target, 1);
    assert_eq!(decision.why, "1 ready at 100 ms each (a guess) need 1 worker");
}

#[test]
fn a_backlog_is_worked_off_in_the_target_wait() {
    let mut law = Law::default();
    let decision = law.decide(at(0), &inputs(14), &LIMITS);
    assert_eq!((decision.needed, decision.target), (3, 3));
    let decision = law.decide(at(1), &inputs(1000), &LIMITS);
    assert_eq!(decision.target, 4);
    assert!(decision.why.contains("need 220 workers; bounded by max_workers 4"), "{}", decision.why);
    assert!(!decision.saturated);
    assert!(law.decide(at(60_001), &inputs(1000), &LIMITS).saturated);
}

#[test]
fn a_job_behind_long_ones_gets_a_worker() {
    let mut law = Law::default();
    let limits = Limits { max: 16, ..LIMITS };
    let running = [30.0; 5];
    let look = |ready: u64, waited: u64| Inputs {
        oldest: Duration::from_millis(waited),
        running: &running,
        took: &[0.01],
        workers: 5,
        ..inputs(ready)
    };
    assert_eq!(law.decide(at(0), &look(0, 0), &limits).target, 5);
    // It takes a hundredth of a second, but all five are held.
    assert_eq!(law.decide(at(1_000), &look(1, 700), &limits).target, 6);
    let limits = Limits { slots: 4, ..limits };
    let running = [30.0; 20];
    let all_held = Inputs { running: &running, ..look(1, 700) };
    assert_eq!(Law::default().decide(at(0), &all_held, &limits).target, 6, "of four slots each");
}

#[test]
fn rates_and_service_times_are_learned() {
    let decision = flow(&mut Law::default(), &Limits { max: 40, ..LIMITS }, 200, 0.09);
    assert!((18..=20).contains(&decision.target), "{decision:?}");
    assert!(decision.why.starts_with("200.0/s arriving at 90 ms each need"), "{}", decision.why);
}

#[test]
fn long_jobs_hold_their_workers() {
    let mut law = Law::default();
    let look = Inputs { running: &[9.0, 9.0], workers: 2, oldest: Duration::from_millis(700), ..inputs(1) };
    assert_eq!(law.decide(at(0), &look, &LIMITS).target, 3);
    let look = Inputs { running: &[9.0, 9.0], workers: 3, ..inputs(0) };
    let why = law.decide(at(60_000), &look, &LIMITS).why;
    assert_eq!(
        why,
        "2 workers held by long jobs need 2 workers; 3, as so small a fall is put off for a while"
    );
    assert_eq!(law.decide(at(61_000), &look, &LIMITS).why, "2 workers held by long jobs need 2 workers");
}

#[test]
fn a_few_long_jobs_fewer_are_chance() {
    let mut law = Law::default();
    let limits = Limits { max: 20, ..LIMITS };
    let mut held = |seconds: std::ops::Range<u64>, count: usize| {
        let running = vec![9.0; count];
        let mut look = |second: u64| {
            law.decide(at(second * 1000), &Inputs { running: &running, workers: 10, ..inputs(0) }, &limits)
                .target
        };
        seconds.map(&mut look).last().unwrap()
    };
    assert_eq!(held(0..50, 9), 9);
    // The root of nine is three.
    assert_eq!(held(50..58, 6), 9, "three fewer");
    assert_eq!(held(58..60, 3), 3, "six fewer, and no hold for what they hold no more");
    assert_eq!(held(60..118, 2), 3, "one fewer");
    assert_eq!(held(118..121, 2), 2, "but not for ever");
}

#[test]
fn timers_are_prepared_for() {
    let mut law = Law::default();
    let decision = law.decide(at(0), &Inputs { soon: 1000, ..inputs(0) }, &LIMITS);
    assert_eq!(decision.target, 4);
    assert!(
        decision.why.starts_with("1000 due in a moment at 100 ms each (a guess) need"),
        "{}",
        decision.why
    );
}

#[test]
fn timers_that_come_evenly_are_the_flow() {
    let limits = Limits { max: 40, target_wait: Duration::from_secs(5), ..LIMITS };
    let mut law = Law::default();
    let target = flow(&mut law, &limits, 50, 0.4).target;
    assert!((19..=22).contains(&target), "{target}");
    let look = |soon| Inputs {
        arrived: 3050,
        soon,
        ahead: ahead(BOOT),
        took: &[0.4; 50],
        running: &[0.2; 20],
        workers: target,
        oldest: Duration::ZERO,
        ..inputs(0)
    };
    let evenly = law.clone().decide(at(61_000), &look(150), &limits);
    assert_eq!((evenly.needed, evenly.terms.soon), (target, 0), "{evenly:?}");
    let at_once = law.decide(at(61_000), &look(500), &limits);
    assert!(at_once.target > target, "{at_once:?}");
}

#[test]
fn down_only_after_a_while_and_never_when_blind() {
    let mut law = Law::default();
    assert_eq!(law.decide(at(0), &inputs(100), &LIMITS).target, 4);
    assert_eq!(law.decide(at(1000), &inputs(0), &LIMITS).target, 1, "a backlog that is gone needs nobody");
    assert_eq!(law.decide(at(9_000), &inputs(0), &LIMITS).target, 1, "but one stays for a while");
    let blind = Inputs { blind: true, ..inputs(0) };
    assert_eq!(law.decide(at(90_000), &blind, &LIMITS).target, 1);
    let decision = law.decide(at(90_001), &inputs(0), &LIMITS);
    assert_eq!((decision.target, decision.why.as_str()), (0, "nothing to do needs 0 workers"));
}

#[test]
fn one_who_starts_slowly_is_never_the_last_to_go() {
    let mut law = Law::default();
    let slow = |ready| Inputs { boot: Duration::from_secs(2), ..inputs(ready) };
    law.decide(at(0), &slow(1), &LIMITS);
    assert_eq!(law.decide(at(500_000), &slow(0), &LIMITS).target, 1);
}

#[test]
fn a_flow_that_ebbs_is_followed_after_the_hold() {
    let mut law = Law::default();
    let limits = Limits { max: 40, ..LIMITS };
    let target = flow(&mut law, &limits, 100, 0.1).target;
    let after = |second: u64, law: &mut Law| {
        let look = Inputs { arrived: 6000, workers: target, ..inputs(0) };
        law.decide(at(60_000 + second * 1000), &look, &limits)
    };
    let decisions: Vec<Decision> = (1..=60).map(|second| after(second, &mut law)).collect();
    assert_eq!(decisions[3].target, target, "not within the first seconds");
    assert!(decisions[3].why.contains("until the need has been lower for"), "{}", decisions[3].why);
    assert_eq!(decisions[59].target, 0);
}

#[test]
fn the_workers_of_an_earlier_master_count_as_needed() {
    let mut law = Law::default();
    law.adopt(at(100_000), 3);
    for second in 0..6 {
        assert_eq!(law.decide(at(100_000 + second * 1000), &inputs(0), &LIMITS).target, 3);
    }
    let targets = (6..60).map(|second| law.decide(at(100_000 + second * 1000), &inputs(0), &LIMITS).target);
    assert_eq!(targets.last(), Some(0));
}

#[test]
fn who_survives_stays_while_workers_fail() {
    let mut law = Law::default();
    let limits = Limits { max: 40, ..LIMITS };
    let target = flow(&mut law, &limits, 100, 0.1).target;
    let mut failing = |second: u64, failures| {
        let look = Inputs {
            arrived: (6000 + second * 100).cast_signed(),
            workers: target,
            failures,
            running: &[0.1; 10],
            ..inputs(0)
        };
        law.decide(at(60_000 + second * 1000), &look, &limits)
    };
    for second in 1..=60 {
        let decision = failing(second, second);
        assert!(decision.target >= target.min(10), "{decision:?}");
    }
}

#[test]
fn a_host_that_has_seen_nothing_goes_by_what_the_others_tell() {
    let limits = Limits { max: 40, bound: Bound::Hosts(2), ..LIMITS };
    let elsewhere = Elsewhere { workers: 10, running: 10, held: 0, runs: 200, service: 0.5 };
    let decision = Law::default().decide(at(0), &Inputs { elsewhere, ..inputs(100) }, &limits);
    // 100 x 0.5 s within 0.65 of the 0.7 s that are left would be more, but no job needs two.
    assert_eq!(decision.needed, 100, "{decision:?}");
    assert!(decision.why.starts_with("100 ready at 500 ms each need 100 workers"), "{}", decision.why);
    assert!(decision.why.ends_with("; bounded by max_workers, 40 on 2 hosts"), "{}", decision.why);
}

proptest! {
    #[test]
    fn the_limits_hold_and_more_work_never_needs_less(
        looks in prop::collection::vec(
            (0_u64..5000, -1000_i64..100_000, 0_usize..20, any::<bool>(), 1_u64..5000, 0_u64..5), 1..40),
        min in 0_u32..4, more in 0_u32..10, slots in 1_u16..64,
    ) {
        let limits = Limits { min, max: min + more.max(1), bound: Bound::Host, slots, target_wait: Duration::from_secs(1) };
        let (mut law, mut now, mut arrived, mut failures) = (Law::default(), 0, 0, 0);
        for (ready, come, held, blind, ms, failed) in looks {
            now += ms;
            arrived += come;
            failures += failed;
            let running = vec![3.0; held];
            let look = Inputs { arrived, running: &running, blind, failures, took: &[0.05], ..inputs(ready) };
            let mut other = law.clone();
            let decision = law.decide(at(now), &look, &limits);
            prop_assert!((limits.min..=limits.max).contains(&decision.target));
            prop_assert!(ready == 0 || blind || decision.target >= 1);
            let busier = other.decide(at(now), &Inputs { ready: ready + 100, ..look }, &limits);
            prop_assert!(busier.target >= decision.target);
            prop_assert!(!decision.why.is_empty());
        }
    }
}
