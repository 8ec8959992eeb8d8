//! A queue and its workers in memory: single jobs that arrive by chance, workers that take a while to start, and nothing
//! that the law is told but the length once a second.

use std::collections::VecDeque;

use super::*;

/// Steps of a second.
const STEPS: u64 = 50;
/// Steps from a start to the first job.
const START: u64 = 60;

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// So many of something that comes `mean` times.
    fn arrivals(&mut self, mean: f64) -> usize {
        let (least, mut product, mut count) = ((-mean).exp(), self.next(), 0);
        while product > least {
            product *= self.next();
            count += 1;
        }
        count
    }
}

#[derive(Clone, Copy)]
struct Worker {
    ready: u64,
    /// When its job ends.
    free: u64,
    leaves: bool,
}

/// What one second came to.
#[derive(Clone, Copy)]
struct Second {
    target: u32,
    needed: u32,
    saturated: bool,
    length: usize,
    /// The longest that a job waited which was begun in it, in seconds.
    wait: f64,
}

struct World {
    law: Law,
    limits: Limits,
    chance: Chance,
    step: u64,
    /// The steps in which those that wait arrived.
    queue: VecDeque<u64>,
    workers: Vec<Worker>,
    story: Vec<Second>,
}

impl World {
    fn new(seed: u64, min: u32, max: u32) -> Self {
        let limits = Limits { min, max, target_wait: Duration::from_secs(1) };
        let (law, chance) = (Law::default(), Chance(seed));
        Self { law, limits, chance, step: 0, queue: VecDeque::new(), workers: Vec::new(), story: Vec::new() }
    }

    fn now(&self) -> Mono {
        Mono::from_nanos(self.step * (1_000_000_000 / STEPS) + 1)
    }

    fn hands(&self) -> Hands {
        let stay = || self.workers.iter().filter(|it| !it.leaves);
        let count = |count: usize| u32::try_from(count).unwrap();
        Hands {
            there: count(stay().count()),
            ready: count(stay().filter(|it| it.ready <= self.step).count()),
        }
    }

    fn decide(&mut self, reading: Reading) -> Verdict {
        let (now, hands) = (self.now(), self.hands());
        let verdict = self.law.decide(now, Some(&(now, reading)), hands, &self.limits);
        let target = usize::try_from(verdict.target).unwrap();
        while self.workers.iter().filter(|it| !it.leaves).count() < target {
            self.workers.push(Worker { ready: self.step + START, free: 0, leaves: false });
        }
        let surplus = self.workers.iter().filter(|it| !it.leaves).count() - target;
        // The newest, whatever they do: nobody knows who is idle.
        for worker in self.workers.iter_mut().rev().filter(|it| !it.leaves).take(surplus) {
            worker.leaves = true;
        }
        verdict
    }

    /// So many seconds in which `arrive` jobs come a second and each takes a worker `service` seconds, by a quarter more or
    /// less.
    fn play(&mut self, seconds: u64, arrive: f64, service: f64) {
        for _ in 0..seconds {
            let mut wait: f64 = 0.0;
            for _ in 0..STEPS {
                self.step += 1;
                for _ in 0..self.chance.arrivals(arrive / STEPS as f64) {
                    self.queue.push_back(self.step);
                }
                let step = self.step;
                self.workers.retain(|it| !(it.leaves && it.free <= step));
                // Fast workers do several in a step.
                for worker in self.workers.iter_mut().filter(|it| it.ready <= step && !it.leaves) {
                    while worker.free <= step {
                        let Some(since) = self.queue.pop_front() else { break };
                        wait = wait.max((step - since) as f64 / STEPS as f64);
                        let takes = service * STEPS as f64 * (0.75 + 0.5 * self.chance.next());
                        worker.free = worker.free.max(step - 1) + (takes.round() as u64).max(1);
                    }
                }
            }
            let length = self.queue.len();
            let verdict = self.decide(Ok(length as u64));
            self.story.push(Second {
                target: verdict.target,
                needed: verdict.needed,
                saturated: verdict.saturated,
                length,
                wait,
            });
        }
    }

    fn last(&self, seconds: usize) -> &[Second] {
        self.story.get(self.story.len().saturating_sub(seconds)..).unwrap_or_default()
    }

    fn mean(&self, seconds: usize) -> f64 {
        let last = self.last(seconds);
        last.iter().map(|it| f64::from(it.target)).sum::<f64>() / last.len() as f64
    }

    /// Times that the number turned from rising to falling or back.
    fn turns(&self, seconds: usize) -> usize {
        let targets = self.last(seconds).windows(2);
        let changes: Vec<bool> = targets
            .filter(|two| two[0].target != two[1].target)
            .map(|two| two[0].target < two[1].target)
            .collect();
        changes.windows(2).filter(|two| two[0] != two[1]).count()
    }

    /// The share of seconds in which something waited longer than it was to.
    fn late(&self, seconds: usize) -> f64 {
        let most = self.limits.target_wait.as_secs_f64();
        self.last(seconds).iter().filter(|it| it.wait > most).count() as f64 / seconds as f64
    }

    fn shown(&self) -> String {
        self.story.iter().map(|it| format!("{}:{} ", it.target, it.length)).collect()
    }
}

/// The fewest that keep the wait, always there.
fn need(arrive: f64, service: f64) -> u32 {
    let least = (arrive * service).ceil() as u32;
    let keeps = |workers: &u32| {
        let mut world = World::new(99, *workers, *workers);
        world.play(1500, arrive, service);
        world.late(1200) <= 0.05
    };
    (least..).find(keeps).unwrap()
}

fn burst(world: &mut World, jobs: usize) {
    let step = world.step;
    world.queue.extend(std::iter::repeat_n(step, jobs));
}

#[test]
fn a_constant_load_gets_what_it_needs_and_little_more() {
    for (arrive, service) in
        [(4.5, 1.0), (18.0, 1.0), (95.0, 0.1), (0.37, 10.0), (0.45, 1.0), (3.0, 0.1), (40.0, 1.0), (4.0, 4.0)]
    {
        let need = need(arrive, service);
        let (mut ratios, mut lates) = (0.0, 0.0);
        for seed in 0..8 {
            let mut world = World::new(seed, 0, 100);
            // It has settled after 5 min.
            world.play(900, arrive, service);
            let (ratio, late) = (world.mean(600) / f64::from(need), world.late(600));
            assert!(late <= 0.2 && ratio <= 1.5, "{arrive} x {service}: {ratio} {late}: {}", world.shown());
            // It tries fewer now and then, and takes that back.
            assert!(world.turns(600) <= 14, "{arrive} x {service}: {}", world.shown());
            ratios += ratio / 8.0;
            lates += late / 8.0;
        }
        assert!(ratios <= 1.3 && lates <= 0.1, "{arrive} x {service}: {ratios} of {need}, late {lates}");
    }
}

#[test]
fn a_burst_is_worked_off_and_its_workers_go() {
    for seed in 0..8 {
        let mut world = World::new(seed, 1, 50);
        world.play(30, 0.5, 1.0);
        burst(&mut world, 2_000);
        // With all 50 from the first moment on it would take 40 s.
        world.play(90, 0.5, 1.0);
        assert!(world.queue.len() < 10, "{}", world.shown());
        world.play(240, 0.5, 1.0);
        assert!(world.mean(10) <= 2.0, "{}", world.shown());
    }
}

#[test]
fn a_step_is_followed_up_and_down() {
    for seed in 0..8 {
        let mut world = World::new(seed, 0, 64);
        world.play(300, 5.0, 1.0);
        world.play(30, 30.0, 1.0);
        assert!(world.mean(1) >= 30.0, "{}", world.shown());
        world.play(170, 30.0, 1.0);
        assert!(world.mean(60) <= 42.0 && world.late(100) <= 0.2, "{}", world.shown());
        world.play(400, 5.0, 1.0);
        assert!(world.mean(100) <= 9.0, "{}", world.shown());
    }
}

#[test]
fn a_load_in_batches_keeps_its_workers() {
    let mut world = World::new(1, 0, 100);
    for _ in 0..15 {
        burst(&mut world, 200);
        world.play(60, 0.1, 1.0);
    }
    assert!((10.0..=45.0).contains(&world.mean(600)) && world.turns(600) <= 8, "{}", world.shown());
}

#[test]
fn who_may_wait_long_needs_no_more_than_the_load() {
    let mut world = World::new(1, 0, 100);
    world.limits.target_wait = Duration::from_secs(60);
    world.play(900, 18.0, 1.0);
    assert!(world.mean(600) <= 21.0, "{}", world.shown());
    assert!(world.late(600) == 0.0, "{}", world.shown());
}

#[test]
fn an_empty_queue_needs_the_fewest() {
    let mut world = World::new(1, 0, 10);
    world.play(5, 0.0, 1.0);
    assert!(world.mean(5) == 0.0);
    burst(&mut world, 1);
    world.play(1, 0.0, 1.0);
    assert!(world.mean(1) == 1.0, "at once");
    world.play(9, 0.0, 1.0);
    assert!(world.mean(9) == 1.0, "not at once: {}", world.shown());
    world.play(60, 0.0, 1.0);
    assert!(world.mean(1) == 0.0, "{}", world.shown());
    let mut world = World::new(1, 3, 10);
    world.play(100, 0.0, 1.0);
    assert!(world.mean(100) == 3.0);
}

#[test]
fn who_is_wanted_again_soon_stays_for_longer() {
    let mut world = World::new(1, 0, 10);
    world.play(900, 0.02, 0.1);
    assert!(world.turns(600) <= 6, "{}", world.shown());
}

#[test]
fn those_that_never_start_are_not_followed_by_more() {
    let (mut law, limits) =
        (Law::default(), Limits { min: 0, max: 100, target_wait: Duration::from_secs(1) });
    for second in 1..100 {
        let now = Mono::from_nanos(second * 1_000_000_000);
        let hands = Hands { there: 1, ready: 0 };
        let verdict = law.decide(now, Some(&(now, Ok(10 * second))), hands, &limits);
        assert_eq!(verdict.target, 1, "{verdict:?}");
    }
}

#[test]
fn unread_the_number_stays() {
    let mut world = World::new(1, 0, 20);
    world.play(100, 6.0, 1.0);
    let before = world.story.last().unwrap().target;
    for _ in 0..100 {
        world.step += STEPS;
        let verdict = world.decide(Err("no such host".to_owned()));
        assert_eq!((verdict.target, verdict.mood), (before, Mood::Blind));
        assert!(verdict.why.contains("no such host"), "{}", verdict.why);
    }
    // Nor does it count what is old.
    let (read, hands) = (world.now(), world.hands());
    let verdict = world.law.decide(read + STALE, Some(&(read, Ok(0))), hands, &world.limits);
    assert_eq!((verdict.target, verdict.mood), (before, Mood::Blind));
    world.step += STEPS;
    assert_ne!(world.decide(Ok(0)).mood, Mood::Blind);
}

#[test]
fn what_an_earlier_master_had_is_kept_until_more_is_known() {
    let mut law = Law::default();
    let limits = Limits { min: 0, max: 20, target_wait: Duration::from_secs(1) };
    let (now, none) = (Mono::from_nanos(1_000_000_000), Hands { there: 0, ready: 0 });
    law.adopt(7);
    assert_eq!(law.decide(now, None, none, &limits).target, 7);
    assert_eq!(law.decide(now, Some(&(now, Ok(3))), none, &limits).target, 7);
}

#[test]
fn what_is_needed_beyond_the_most_is_told() {
    let mut world = World::new(1, 0, 4);
    world.play(60, 20.0, 1.0);
    let found = world.last(30).iter().map(|it| it.needed).collect::<Vec<_>>();
    assert!(found.iter().all(|needed| *needed > 4), "{found:?}");
    assert!(world.last(1).iter().all(|it| !it.saturated), "not at once");
    world.play(30, 20.0, 1.0);
    assert!(world.last(1).iter().all(|it| it.saturated));
    // It goes away with the load, and does not leave its trace for long.
    world.queue.clear();
    world.play(150, 0.2, 1.0);
    assert!(world.mean(10) <= 2.0, "{}", world.shown());
    assert!(world.last(10).iter().all(|it| it.needed <= 4 && !it.saturated));
}
