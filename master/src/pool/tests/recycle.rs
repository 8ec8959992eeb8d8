//! Who is replaced, and that another is ready before.

use super::*;

const MIB_KB: u64 = 1024;

/// A pool whose workers may have 100 MiB, and what it does about them.
struct Bench {
    pool: Pool,
    budget: Budget,
    ms: u64,
}

impl Bench {
    /// With so many workers that are ready, of at most `max`.
    fn new(count: u32, max: u32) -> Self {
        let mut pool = filled(count, max);
        pool.shape.max_memory = Some(100 << 20);
        Self { pool, budget: Budget::new(64, at(0)), ms: 1000 }
    }

    fn beat(&mut self, number: u32, beat: Beat) {
        let incarnation = self.pool.slots[&number].incarnation;
        self.pool.step(at(self.ms), number, incarnation, Event::Line(FromChild::Hb(beat)), &mut Vec::new());
    }

    fn grows(&mut self, number: u32, mib: u64) {
        self.beat(number, Beat { doing: Doing::Idle, rss_kb: mib * MIB_KB, ..Beat::default() });
    }

    /// A second later: who is started, and who is let go and why.
    fn look(&mut self, wanted: u32) -> (Vec<u32>, Vec<(u32, String)>) {
        self.ms += 1000;
        let mut out = Vec::new();
        let mut unready = self.pool.unready();
        self.pool.adjust(at(self.ms), wanted, &mut self.budget, &mut unready, &mut out);
        let told = out.iter().filter_map(|(number, action)| match action {
            Action::Send(ToChild::Stop { mode: StopMode::Drain, why, .. }) => Some((*number, why.clone())),
            _ => None,
        });
        (spawned(&out), told.collect())
    }

    fn readies(&mut self, number: u32) {
        make_ready(&mut self.pool, at(self.ms), number);
    }

    fn dies(&mut self, number: u32, exit: Exit) {
        let incarnation = self.pool.slots[&number].incarnation;
        let mut out = Vec::new();
        self.pool.step(at(self.ms), number, incarnation, Event::Gone, &mut out);
        let gone = Event::Reaped { exit, ran: false, jitter: 0.0 };
        self.pool.step(at(self.ms), number, incarnation, gone, &mut out);
    }
}

fn too_large(numbers: &[u32]) -> Vec<(u32, String)> {
    numbers.iter().map(|number| (*number, "it uses more than max_memory".to_owned())).collect()
}

fn nobody() -> (Vec<u32>, Vec<(u32, String)>) {
    (Vec::new(), Vec::new())
}

#[test]
fn a_worker_that_leaks_stays_until_another_is_ready() {
    let mut bench = Bench::new(1, 1);
    bench.grows(1, 100);
    assert_eq!(bench.look(1), nobody());
    bench.grows(1, 150);
    assert_eq!(bench.look(1), (vec![2], vec![]), "beyond max_workers");
    assert_eq!((bench.look(1), bench.pool.ready()), (nobody(), 1));
    bench.readies(2);
    assert_eq!(bench.look(1), (vec![], too_large(&[1])));
    assert_eq!((bench.look(1), bench.pool.alive(), bench.pool.ready()), (nobody(), 2, 1));
    bench.dies(1, Exit::Code(0));
    assert_eq!((bench.look(1), bench.pool.alive()), (nobody(), 1));
    // The next one has the free place.
    bench.grows(2, 150);
    assert_eq!(bench.look(1), (vec![1], vec![]));
}

#[test]
fn who_shrinks_again_is_replaced_all_the_same() {
    let mut bench = Bench::new(1, 1);
    bench.grows(1, 150);
    assert_eq!(bench.look(1), (vec![2], vec![]));
    bench.grows(1, 50);
    bench.readies(2);
    assert_eq!(bench.look(1), (vec![], too_large(&[1])), "else the one that was started would go");
}

#[test]
fn whose_spare_does_not_start_serves_on() {
    let mut bench = Bench::new(2, 2);
    bench.grows(1, 150);
    bench.grows(2, 150);
    for round in 1..=4 {
        assert_eq!(bench.look(2), (vec![3], vec![]), "round {round}");
        bench.dies(3, Exit::Code(1));
        assert_eq!((bench.look(2), bench.pool.ready()), (nobody(), 2), "round {round}");
        bench.ms += 60_000;
        for number in [1, 2] {
            bench.grows(number, 150);
        }
        bench.pool.time(at(bench.ms), false, &mut Vec::new());
    }
    assert!(bench.pool.quarantine.is_some());
    assert_eq!((bench.look(2), bench.pool.ready()), (nobody(), 2));
}

#[test]
fn who_uses_far_too_much_goes_at_once() {
    let mut bench = Bench::new(1, 1);
    bench.grows(1, 201);
    let told = vec![(1, "it uses more than twice max_memory".to_owned())];
    assert_eq!(bench.look(1), (vec![2], told));
    // Nor is a third one started while it has jobs to end.
    bench.readies(2);
    bench.grows(2, 150);
    assert_eq!((bench.look(1), bench.pool.ready()), (nobody(), 1));
}

#[test]
fn a_quarter_is_replaced_at_a_time() {
    let mut bench = Bench::new(8, 8);
    bench.pool.renew();
    let old = |told: &[(u32, String)]| told.iter().filter(|(_, why)| why == "new settings").count();
    let (spares, told) = bench.look(8);
    assert_eq!((&spares[..], told.len()), (&[9, 10][..], 0));
    bench.readies(9);
    let (more, told) = bench.look(8);
    assert_eq!((more.len(), old(&told)), (0, 1), "one is ready, one may go");
    bench.readies(10);
    assert_eq!(old(&bench.look(8).1), 1);
    assert_eq!((bench.look(8), bench.pool.ready()), (nobody(), 8), "until they are gone");
    bench.dies(1, Exit::Code(0));
    let (more, told) = bench.look(8);
    assert_eq!((&more[..], told.len()), (&[1][..], 0));
    bench.dies(2, Exit::Code(0));
    for _ in 0..20 {
        let unready: Vec<u32> = bench
            .pool
            .slots
            .iter()
            .filter(|(_, slot)| slot.life().is_some_and(crate::slot::Life::is_unready))
            .map(|(number, _)| *number)
            .collect();
        unready.into_iter().for_each(|number| bench.readies(number));
        for (number, _) in bench.look(8).1 {
            bench.dies(number, Exit::Code(0));
        }
        assert!(bench.pool.ready() >= 8 && bench.pool.alive() <= 10);
        if bench.pool.alive() == 8 && bench.pool.unready() == 0 && bench.look(8) == nobody() {
            let old = |number: &u32| {
                bench.pool.slots[number].life().is_some() && bench.pool.slots[number].incarnation == 1
            };
            assert_eq!((1..=8).filter(old).count(), 0);
            return;
        }
    }
    panic!("it goes on for ever");
}

#[test]
fn with_fewer_wanted_the_worn_go_first() {
    let mut bench = Bench::new(3, 3);
    bench.grows(1, 50);
    bench.grows(3, 50);
    bench.grows(2, 150);
    assert_eq!(bench.look(2), (vec![], too_large(&[2])));
    assert_eq!(bench.look(2), nobody());
    bench.grows(1, 150);
    assert_eq!(bench.look(0).1.len(), 2, "nobody is started for a pool that is to be empty");
}

#[test]
fn where_there_may_be_one_only_the_old_one_goes_first() {
    let mut bench = Bench::new(1, 1);
    bench.pool.shape.spare = false;
    bench.pool.renew();
    assert_eq!(bench.look(1), (vec![], vec![(1, "new settings".to_owned())]));
    bench.dies(1, Exit::Code(0));
    assert_eq!(bench.look(1), (vec![1], vec![]));
}

#[test]
fn who_is_about_to_have_run_its_jobs_has_a_successor() {
    let ran =
        |claimed| Beat { doing: Doing::Busy, running: 1, claimed, done: claimed - 1, ..Beat::default() };
    let mut bench = Bench::new(1, 1);
    bench.pool.shape.max_jobs = 1000;
    bench.ms = 50_000;
    // Ten a second: so many it runs in the three seconds that another takes to be ready.
    bench.beat(1, ran(500));
    assert_eq!(bench.look(1), nobody());
    bench.ms = 97_000;
    bench.beat(1, ran(975));
    assert_eq!(bench.look(1), (vec![2], vec![]));
    bench.readies(2);
    assert_eq!((bench.look(1), bench.pool.ready()), (nobody(), 2), "it leaves by itself");
    bench.beat(1, Beat { doing: Doing::Draining, ..ran(1000) });
    assert_eq!((bench.look(1), bench.pool.ready()), (nobody(), 1));
    bench.dies(1, Exit::Code(0));
    assert_eq!((bench.look(1), bench.pool.alive()), (nobody(), 1));
    // One that does not leave is let go.
    bench.beat(2, Beat { done: 1000, ..ran(1000) });
    assert_eq!(bench.look(1), (vec![1], vec![]));
    bench.readies(1);
    assert_eq!(bench.look(1), (vec![], vec![(2, "it has run max_jobs".to_owned())]));
}

#[test]
fn the_last_job_of_a_worker_does_not_keep_its_place() {
    let mut bench = Bench::new(1, 1);
    bench.pool.shape.max_jobs = 1;
    assert_eq!(bench.look(1), nobody());
    let last = Beat { doing: Doing::Draining, running: 1, claimed: 1, ..Beat::default() };
    bench.beat(1, last);
    assert_eq!(bench.look(1), (vec![2], vec![]), "while it runs");
}
