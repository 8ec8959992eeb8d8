//! A queue and its workers in memory, second by second.

use super::*;

/// Workers that take half a second to start, and a queue whose length is all that the law sees.
struct World {
    law: Law,
    limits: Limits,
    length: f64,
    target: u32,
    /// The number that was decided on a second ago is ready now.
    ready: u32,
    /// Numbers so far, one a second.
    story: Vec<u32>,
}

impl World {
    fn new(min: u32, max: u32) -> Self {
        let limits = Limits { min, max, target_wait: Duration::from_secs(1) };
        Self { law: Law::default(), limits, length: 0.0, target: min, ready: min, story: Vec::new() }
    }

    fn second(&self) -> Mono {
        Mono::from_nanos((self.story.len() as u64 + 1) * 1_000_000_000)
    }

    fn decide(&mut self, reading: Reading) -> Verdict {
        let now = self.second();
        let hands = Hands { there: self.target, ready: self.ready };
        let verdict = self.law.decide(now, Some(&(now, reading)), hands, &self.limits);
        self.target = verdict.target;
        self.story.push(verdict.target);
        verdict
    }

    /// So many seconds with `arrive` jobs and `rate` for each worker. Jobs are whole: chance, drawn evenly, makes ± 30 %.
    fn play(&mut self, seconds: u64, arrive: f64, rate: f64) {
        for second in 0..seconds {
            self.ready = self.target.min(self.ready.max(self.story.last().copied().unwrap_or(self.target)));
            let noise = 1.0 + 0.3 * ((second * 7919 % 13) as f64 - 6.0) / 6.0;
            self.length = (self.length + arrive * noise - f64::from(self.ready) * rate).max(0.0);
            let verdict = self.decide(Ok(self.length.floor() as u64));
            self.ready = self.ready.min(verdict.target);
        }
    }

    fn last(&self, seconds: usize) -> &[u32] {
        self.story.get(self.story.len().saturating_sub(seconds)..).unwrap_or_default()
    }

    fn turns(&self, seconds: usize) -> usize {
        let changes: Vec<i64> = self
            .last(seconds)
            .windows(2)
            .map(|two| i64::from(two[1]) - i64::from(two[0]))
            .filter(|change| *change != 0)
            .collect();
        changes.windows(2).filter(|two| (two[0] > 0) != (two[1] > 0)).count()
    }
}

fn settled(arrive: f64, rate: f64, max: u32) -> (f64, World) {
    let mut world = World::new(0, max);
    world.play(600, arrive, rate);
    let last = world.last(120);
    let mean = last.iter().map(|it| f64::from(*it)).sum::<f64>() / last.len() as f64;
    (mean, world)
}

#[test]
fn a_constant_load_gets_what_it_needs_and_little_more() {
    for (arrive, rate) in [(4.5, 1.0), (18.0, 1.0), (95.0, 10.0), (3.7, 0.1), (0.45, 1.0)] {
        let (mean, world) = settled(arrive, rate, 100);
        let need = (arrive / rate).ceil();
        assert!(
            mean <= need * 1.3 + 0.5 && mean >= arrive / rate * 0.99,
            "{arrive}/{rate}: {mean} of {need}: {:?}",
            world.story
        );
        // It tries fewer now and then, and takes that back.
        assert!(world.turns(120) <= 6, "{arrive}/{rate}: {:?}", world.last(120));
        let wait = world.length / (need * rate);
        assert!(wait < 8.0, "{arrive}/{rate}: {wait}");
    }
}

#[test]
fn a_burst_is_worked_off_and_its_workers_go() {
    let mut world = World::new(1, 50);
    world.play(30, 0.5, 1.0);
    assert_eq!(world.target, 1, "{:?}", world.story);
    world.length += 2_000.0;
    world.play(90, 0.5, 1.0);
    assert!(world.length < 1.0, "{} {:?}", world.length, world.story);
    world.play(240, 0.5, 1.0);
    assert!(world.target <= 2, "{:?}", world.story);
}

#[test]
fn a_step_is_followed_up_and_down() {
    let mut world = World::new(0, 64);
    world.play(200, 5.0, 1.0);
    world.play(60, 30.0, 1.0);
    assert!((30..=45).contains(&world.target), "{:?}", world.story);
    world.play(400, 5.0, 1.0);
    assert!((5..=7).contains(&world.target), "{:?}", world.story);
}

#[test]
fn an_empty_queue_needs_the_fewest() {
    let mut world = World::new(0, 10);
    world.play(5, 0.0, 1.0);
    assert_eq!(world.target, 0);
    world.length = 1.0;
    world.play(1, 0.0, 1.0);
    assert_eq!(world.target, 1);
    world.play(9, 0.0, 1.0);
    assert_eq!(world.target, 1, "not at once");
    world.play(30, 0.0, 1.0);
    assert_eq!(world.target, 0);
    let mut world = World::new(3, 10);
    world.play(100, 0.0, 1.0);
    assert!(world.story.iter().all(|it| *it == 3));
}

#[test]
fn unread_the_number_stays() {
    let mut world = World::new(0, 20);
    world.play(100, 6.0, 1.0);
    let before = world.target;
    for _ in 0..100 {
        let verdict = world.decide(Err("no such host".to_owned()));
        assert_eq!((verdict.target, verdict.mood), (before, Mood::Blind));
        assert!(verdict.why.contains("no such host"), "{}", verdict.why);
    }
    let late = world.second() + STALE;
    let hands = Hands { there: before, ready: before };
    let verdict = world.law.decide(late, Some(&(world.second(), Ok(0))), hands, &world.limits);
    assert_eq!(verdict.mood, Mood::Blind);
}

#[test]
fn what_is_needed_beyond_the_most_is_told() {
    let mut world = World::new(0, 4);
    world.play(60, 20.0, 1.0);
    let verdict = world.decide(Ok(world.length as u64));
    assert_eq!(verdict.target, 4);
    assert!(verdict.needed > 4, "{verdict:?}");
}
