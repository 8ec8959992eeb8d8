use proptest::prelude::*;
use roundsman_shared::protocol::{Beat, Doing, RunningJob};

use super::*;

const DETECTION: Detection = Detection {
    suspect: Duration::from_millis(3500),
    silence: Duration::from_secs(10),
    frozen: Duration::from_secs(15),
};

fn at(ms: u64) -> Mono {
    Mono::from_nanos(ms * 1_000_000)
}

/// A slot with everything that it asked for.
struct Bench {
    slot: Slot,
    now: u64,
    out: Vec<Action>,
}

impl Bench {
    fn new() -> Self {
        Self { slot: Slot::default(), now: 0, out: Vec::new() }
    }

    fn step(&mut self, event: Event) -> &mut Self {
        let incarnation = self.slot.incarnation;
        self.slot.step(at(self.now), incarnation, event, &DETECTION, &mut self.out);
        self
    }

    fn after(&mut self, ms: u64) -> &mut Self {
        self.now += ms;
        self.step(Event::Time { blind: false })
    }

    fn spawned() -> Self {
        let mut bench = Self::new();
        bench.step(Event::Spawn).step(Event::Spawned { pid: 7 });
        bench
    }

    fn booting() -> Self {
        let mut bench = Self::spawned();
        bench.step(Event::Line(hello()));
        bench
    }

    fn serving() -> Self {
        let mut bench = Self::booting();
        bench.step(Event::Line(FromChild::Ready));
        bench.out.clear();
        bench
    }

    fn beat(&mut self, beat: Beat) -> &mut Self {
        self.step(Event::Line(FromChild::Hb(beat)))
    }

    fn phase(&self) -> Phase {
        self.slot.life().unwrap().phase
    }

    fn signals(&self) -> Vec<Deadly> {
        let signals = self.out.iter().filter_map(|action| match action {
            Action::Signal { signal, .. } => Some(*signal),
            _ => None,
        });
        signals.collect()
    }

    fn die(&mut self, exit: Exit) -> Death {
        self.step(Event::Gone).step(Event::Reaped { exit, ran: false, jitter: 0.0 });
        let deaths = self.out.iter().rev().find_map(|action| match action {
            Action::Died(death) => Some(death.clone()),
            _ => None,
        });
        deaths.unwrap()
    }

    fn backoff(&self) -> Option<u64> {
        match self.slot.state {
            State::Backoff { until } => Some(u64::try_from(until.since(at(self.now)).as_millis()).unwrap()),
            State::Empty | State::Alive(_) => None,
        }
    }
}

fn hello() -> FromChild {
    FromChild::Hello { v: [1, 1], pid: 7, nonce: 1, build: "test 1".into() }
}

fn idle(tick: u64) -> Beat {
    Beat { doing: Doing::Idle, tick, store_ok: true, ..Beat::default() }
}

fn busy(tick: u64, left: i64) -> Beat {
    let job = RunningJob { queue: "q".into(), id: "a".into(), attempt: 1, ran: 1, left, progress: None };
    Beat { doing: Doing::Busy, running: 1, jobs: vec![job], ..idle(tick) }
}

#[test]
fn the_usual_life() {
    let mut bench = Bench::new();
    bench.step(Event::Spawn);
    assert_eq!(bench.out, [Action::Spawn]);
    bench.step(Event::Spawned { pid: 7 }).step(Event::Line(hello()));
    assert_eq!(bench.out, [Action::Spawn, Action::Welcome]);
    bench.step(Event::Line(FromChild::Ready)).beat(idle(1));
    assert_eq!(bench.out.last(), Some(&Action::Ready));
    assert!(bench.slot.life().unwrap().is_idle());
    bench.beat(busy(2, 1000));
    assert_eq!(bench.slot.life().unwrap().state(), "busy");
    bench.step(Event::Drain { by: Some(Duration::from_secs(30)), why: "w".into() });
    assert!(matches!(bench.phase(), Phase::Draining { .. }));
    bench.beat(Beat { doing: Doing::Draining, ..idle(3) });
    let death = bench.die(Exit::Code(0));
    assert_eq!(death.blame, Blame::Nobody);
    assert!(matches!(bench.slot.state, State::Empty));
    assert_eq!(bench.signals(), []);
}

#[test]
fn ready_may_be_lost() {
    let mut bench = Bench::booting();
    bench.beat(idle(1));
    assert_eq!(bench.phase(), Phase::Serving);
    assert_eq!(bench.out.last(), Some(&Action::Ready));
}

#[test]
fn who_does_not_boot_is_killed() {
    let mut bench = Bench::spawned();
    bench.after(4999);
    assert_eq!(bench.signals(), []);
    bench.after(1);
    assert_eq!(bench.signals(), [Deadly::Kill]);
    let mut bench = Bench::booting();
    bench.after(15_000);
    assert_eq!(bench.signals(), [Deadly::Kill]);
    let death = bench.die(Exit::Signal(9));
    assert_eq!(death.blame, Blame::Worker { ready: false });
    assert_eq!(bench.backoff(), Some(250));
}

#[test]
fn booting_waits_for_a_store_that_is_away() {
    let waiting = || Beat { doing: Doing::Starting, ..Beat::default() };
    let mut bench = Bench::booting();
    for _ in 0..55 {
        bench.beat(waiting()).after(1000);
    }
    assert_eq!(bench.signals(), []);
    for _ in 0..20 {
        bench.beat(waiting()).after(1000);
    }
    assert_eq!(bench.signals(), [Deadly::Kill], "the master reaches the store");

    let mut bench = Bench::booting();
    for _ in 0..600 {
        bench.now += 1000;
        bench.beat(waiting()).step(Event::Time { blind: true });
    }
    assert_eq!(bench.signals(), []);
}

#[test]
fn another_version_is_not_served() {
    let mut bench = Bench::spawned();
    bench.step(Event::Line(FromChild::Hello { v: [2, 3], pid: 7, nonce: 1, build: "next 2".into() }));
    assert_eq!(bench.signals(), [Deadly::Kill]);
    let Some(Fate::Unready { why }) = bench.die(Exit::Signal(9)).fate else { panic!() };
    assert_eq!(why, "next 2 speaks versions 2 to 3 of the protocol");
}

#[test]
fn silence_is_suspected_then_ended_step_by_step() {
    let mut bench = Bench::serving();
    bench.beat(busy(1, 300_000)).after(3499);
    assert_eq!(bench.phase(), Phase::Serving);
    bench.after(1);
    assert_eq!((bench.phase(), bench.out.as_slice()), (Phase::Suspect, &[Action::Send(ToChild::Ping)][..]));
    bench.beat(busy(1, 300_000));
    assert_eq!(bench.phase(), Phase::Serving);
    bench.after(3500).after(6500);
    assert_eq!(bench.signals(), [Deadly::Abort]);
    bench.after(2000);
    assert_eq!(bench.signals(), [Deadly::Abort, Deadly::Kill]);
    bench.after(5000);
    assert_eq!(bench.phase(), Phase::Stuck);
    assert!(matches!(bench.die(Exit::Signal(9)).fate, Some(Fate::Stalled { .. })));
}

#[test]
fn a_job_over_its_time_ends_its_worker_and_a_long_one_does_not() {
    let mut bench = Bench::serving();
    for tick in 0..1000 {
        bench.beat(busy(tick, 300_000)).after(1000);
    }
    assert_eq!(bench.signals(), []);
    bench.beat(busy(1001, -4000)).after(1000);
    assert_eq!(bench.signals(), []);
    bench.beat(busy(1002, -5001)).after(0);
    assert_eq!(bench.signals(), [Deadly::Abort]);
    let jobs = vec![("q".to_owned(), "a".to_owned())];
    assert_eq!(bench.die(Exit::Signal(6)).fate, Some(Fate::TimedOut { jobs }));
}

#[test]
fn a_frozen_executor_is_ended_unless_a_job_has_time() {
    let mut bench = Bench::serving();
    for _ in 0..14 {
        bench.after(1000).beat(idle(5));
    }
    assert_eq!(bench.signals(), []);
    for _ in 0..3 {
        bench.after(1000).beat(idle(5));
    }
    assert_eq!(bench.signals(), [Deadly::Abort]);

    let mut bench = Bench::serving();
    for _ in 0..100 {
        bench.after(1000).beat(busy(5, 1000));
    }
    assert_eq!(bench.signals(), [], "inside its time a job may block");
    bench.after(1000).beat(busy(5, -100)).after(1);
    assert_eq!(bench.signals(), [Deadly::Abort]);

    let mut bench = Bench::serving();
    for _ in 0..100 {
        bench.after(1000).beat(idle(0));
    }
    assert_eq!(bench.signals(), [], "a worker that counts no ticks");
}

#[test]
fn draining_ends_in_release_then_abort_then_kill() {
    let mut bench = Bench::serving();
    bench.beat(busy(1, 100_000)).step(Event::Drain { by: Some(Duration::from_secs(2)), why: "stop".into() });
    for tick in 2..4 {
        bench.after(1000).beat(busy(tick, 100_000));
    }
    bench.after(0);
    assert!(matches!(bench.phase(), Phase::Releasing { .. }));
    assert_eq!(bench.signals(), [Deadly::Term, Deadly::Cont]);
    bench.after(5000).after(2000);
    assert_eq!(bench.signals(), [Deadly::Term, Deadly::Cont, Deadly::Abort, Deadly::Kill]);
    let death = bench.die(Exit::Signal(9));
    assert_eq!((death.fate, death.blame), (Some(Fate::Retired), Blame::Nobody));
    assert_eq!(bench.backoff(), None);
}

#[test]
fn who_is_let_go_before_it_was_there_leaves_at_once() {
    let mut bench = Bench::new();
    bench.step(Event::Spawn).step(Event::Drain { by: Some(Duration::from_secs(30)), why: "w".into() });
    assert!(!bench.slot.is_filled());
    bench.step(Event::Spawned { pid: 7 });
    assert_eq!(bench.signals(), [Deadly::Term, Deadly::Cont]);
    assert_eq!(bench.die(Exit::Signal(15)).blame, Blame::Nobody);
}

#[test]
fn who_is_to_blame() {
    let finished = || Beat { done: 1, ..idle(1) };
    for (beat, exit, blame, backoff) in [
        (None, Exit::Code(1), Blame::Worker { ready: false }, Some(250)),
        (None, Exit::Code(0), Blame::Nobody, Some(250)),
        (None, Exit::Code(127), Blame::SetUp, Some(250)),
        (Some(idle(1)), Exit::Code(1), Blame::Worker { ready: true }, Some(250)),
        (Some(idle(1)), Exit::Code(0), Blame::Nobody, None),
        (Some(idle(1)), Exit::Code(75), Blame::Nobody, None),
        (Some(idle(1)), Exit::Signal(9), Blame::Nobody, None),
        (Some(idle(1)), Exit::OutOfMemory { signal: 9 }, Blame::Nobody, None),
        (Some(idle(1)), Exit::OutOfMemory { signal: 6 }, Blame::Worker { ready: true }, Some(250)),
        (Some(idle(1)), Exit::Signal(11), Blame::Worker { ready: true }, Some(250)),
        (Some(finished()), Exit::Signal(11), Blame::Job, None),
        (Some(finished()), Exit::Code(78), Blame::SetUp, Some(250)),
    ] {
        let mut bench = Bench::booting();
        if let Some(beat) = beat.clone() {
            bench.beat(beat);
        }
        assert_eq!(bench.die(exit).blame, blame, "{beat:?} {exit}");
        assert_eq!(bench.backoff(), backoff, "{beat:?} {exit}");
    }
}

#[test]
fn the_most_memory_with_which_it_was_seen_is_kept() {
    let mut bench = Bench::serving();
    bench.beat(Beat { rss_kb: 700, ..idle(1) });
    bench.beat(Beat { rss_kb: 400, peak_kb: 900, ..idle(2) }).beat(Beat { rss_kb: 500, ..idle(3) });
    let death = bench.die(Exit::OutOfMemory { signal: 9 });
    assert_eq!((death.peak_kb, death.cause()), (900, "out_of_memory"));
    assert_eq!(death.exit.to_string(), "out of memory (signal SIGKILL)");
}

#[test]
fn the_backoff_grows_to_half_a_minute_and_is_forgiven() {
    let mut bench = Bench::new();
    let mut delays = Vec::new();
    for _ in 0..12 {
        bench.step(Event::Spawn).step(Event::Spawned { pid: 7 });
        bench.die(Exit::Code(1));
        let delay = bench.backoff().unwrap();
        delays.push(delay);
        bench.after(delay + 1);
        assert!(matches!(bench.slot.state, State::Empty));
    }
    assert_eq!(delays[..4], [250, 425, 722, 1228]);
    assert_eq!(delays[11], 30_000);
    bench.step(Event::Spawn).step(Event::Spawned { pid: 7 }).step(Event::Line(hello()));
    bench.beat(Beat { done: 1, ..idle(1) });
    assert_eq!(bench.die(Exit::Signal(6)).blame, Blame::Job);
    assert_eq!(bench.backoff(), None);
}

#[test]
fn a_late_master_judges_nobody() {
    let mut bench = Bench::serving();
    bench.beat(busy(1, 300_000));
    bench.now += 30_000;
    bench.slot.shift(Duration::from_secs(30));
    bench.after(0);
    assert_eq!((bench.phase(), bench.signals()), (Phase::Serving, vec![]));
}

#[test]
fn an_earlier_incarnation_is_not_heard() {
    let mut bench = Bench::serving();
    bench.die(Exit::Signal(9));
    bench.step(Event::Spawn);
    bench.out.clear();
    bench.slot.step(at(1), 1, Event::Spawned { pid: 3 }, &DETECTION, &mut bench.out);
    bench.slot.step(at(1), 1, Event::Gone, &DETECTION, &mut bench.out);
    bench.slot.step(
        at(1),
        1,
        Event::Reaped { exit: Exit::Code(1), ran: false, jitter: 0.0 },
        &DETECTION,
        &mut bench.out,
    );
    assert_eq!((bench.phase(), bench.out.len()), (Phase::Spawning, 0));
}

fn any_event() -> impl Strategy<Value = Event> {
    let beat = (0_u64..4, -9000_i64..9000, 0_u32..3, 0_u64..3, any::<bool>()).prop_map(
        |(tick, left, running, done, ok)| {
            let doing =
                [Doing::Starting, Doing::Idle, Doing::Busy, Doing::Draining][usize::try_from(tick).unwrap()];
            let jobs = if running > 0 { busy(tick, left).jobs } else { vec![] };
            Event::Line(FromChild::Hb(Beat {
                doing,
                tick,
                jobs,
                running,
                done,
                store_ok: ok,
                ..Beat::default()
            }))
        },
    );
    prop_oneof![
        Just(Event::Spawn),
        Just(Event::Spawned { pid: 7 }),
        Just(Event::SpawnFailed { misfit: false, jitter: 1.0 }),
        Just(Event::Line(hello())),
        Just(Event::Line(FromChild::Ready)),
        Just(Event::Line(FromChild::Full { queue: "q".into() })),
        Just(Event::Line(FromChild::Draining { why: "w".into() })),
        Just(Event::Line(FromChild::Bye { why: "w".into(), code: 0 })),
        beat,
        Just(Event::Noisy),
        Just(Event::Hung { why: "h" }),
        Just(Event::Garbled),
        (0_u64..60_000).prop_map(|ms| Event::Drain { by: Some(Duration::from_millis(ms)), why: "w".into() }),
        Just(Event::Release),
        Just(Event::Gone),
        prop_oneof![(0_i32..130).prop_map(Exit::Code), (1_i32..16).prop_map(Exit::Signal)]
            .prop_map(|exit| Event::Reaped { exit, ran: false, jitter: -1.0 }),
        any::<bool>().prop_map(|blind| Event::Time { blind }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_happens(events in prop::collection::vec((any_event(), 0_u64..20_000), 1..60)) {
        let mut bench = Bench::new();
        for (event, ms) in events {
            bench.now += ms;
            let gone = bench.slot.life().is_some_and(|life| life.phase == Phase::Reaping);
            let empty = bench.slot.life().is_none();
            bench.out.clear();
            bench.step(event.clone());
            if gone || (empty && !matches!(event, Event::Spawn)) || matches!(event, Event::Gone) {
                prop_assert_eq!(bench.signals(), vec![], "a signal after the exit, by {:?}", event);
            }
            if let (Some(life), Some(deadline)) = (bench.slot.life(), bench.slot.next_deadline(&DETECTION)) {
                let draining = matches!(life.phase, Phase::Draining { .. });
                prop_assert!(draining || deadline <= at(bench.now + 120_000));
            }
        }
        // Whatever it was doing, once it is asked to leave and says nothing any more it is gone or stuck.
        bench.step(Event::Release);
        if bench.slot.life().is_some_and(|life| life.phase == Phase::Spawning) {
            bench.step(Event::Spawned { pid: 7 });
        }
        for _ in 0..100 {
            bench.after(1000);
        }
        if let Some(life) = bench.slot.life() {
            prop_assert!(matches!(life.phase, Phase::Stuck | Phase::Reaping), "{:?}", life.phase);
        }
        if bench.slot.life().is_some() {
            bench.step(Event::Gone).step(Event::Reaped { exit: Exit::Signal(9), ran: false, jitter: 0.0 });
        }
        prop_assert!(bench.slot.life().is_none());
    }
}
