use proptest::prelude::*;
use roundsman_shared::protocol::{Beat, Standing};

use super::*;

const GRACE: Duration = Duration::from_secs(3);
const WATCH: Duration = Duration::from_secs(10);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Two masters and who waits for the deploy.
struct Pair {
    unit: Unit,
    now: Mono,
}

const FIRST: u32 = 1;
const HEIR: u32 = 2;
const ASKER: Asker = 9;

fn hello(pid: u32) -> Event {
    Event::Said { pid, message: FromChild::Hello { v: [1, 1], pid, nonce: 5, build: String::new() } }
}

fn says(pid: u32, message: FromChild) -> Event {
    Event::Said { pid, message }
}

fn stands(pid: u32, share: u8, leads: bool, parts: u32) -> Event {
    let standing = Standing { share, leads, wanted: 8, ready: 2, settled: true, parts, failing: None };
    says(pid, FromChild::Standing(standing))
}

fn share(pid: u32, percent: u8) -> Action {
    Action::Send { pid, message: ToChild::Share { percent } }
}

fn lead(pid: u32) -> Action {
    Action::Send { pid, message: ToChild::Lead { orphans: false } }
}

impl Pair {
    /// One master serves, and an heir was started.
    fn new(batch: Option<u32>) -> Self {
        let now = Mono::from_nanos(1_000_000_000_000);
        let mut stage = Self { unit: Unit::new(now, GRACE), now };
        stage.feed(Event::Tick);
        stage.feed(Event::Started { heir: false, pid: FIRST, nonce: 5 });
        stage.feed(hello(FIRST));
        stage.feed(says(FIRST, FromChild::Ready));
        let request = Request::Deploy { batch, watch: WATCH };
        let actions = stage.feed(Event::Ordered { asker: ASKER, request });
        assert_eq!(actions, [share(FIRST, 100), Action::Start { heir: true }]);
        stage.feed(stands(FIRST, 100, true, 2));
        stage.feed(Event::Started { heir: true, pid: HEIR, nonce: 5 });
        stage
    }

    /// The heir has said hello; answers with how much it begins.
    fn greeted(batch: Option<u32>) -> (Self, u8) {
        let mut stage = Self::new(batch);
        let actions = stage.feed(hello(HEIR));
        let [Action::Welcome { pid: HEIR, heir: Some(share), .. }] = actions[..] else {
            panic!("{actions:?}")
        };
        stage.feed(says(HEIR, FromChild::Ready));
        (stage, share)
    }

    /// The heir has everything and is watched.
    fn watched() -> Self {
        let (mut stage, _) = Self::greeted(None);
        for percent in [25, 50, 75, 100] {
            stage.feed(stands(HEIR, percent, false, 0));
        }
        assert_eq!(stage.feed(stands(FIRST, 0, false, 0)), [lead(HEIR)]);
        stage
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.unit.step(self.now, event, &mut actions);
        actions
    }

    /// Without what is said to people.
    fn feed(&mut self, event: Event) -> Vec<Action> {
        let mut actions = self.step(event);
        let told = |it: &Action| {
            matches!(it, Action::Note(_) | Action::Tell(_))
                || matches!(it, Action::Reply { reply: Reply::Says { .. }, .. })
        };
        actions.retain(|action| !told(action));
        actions
    }

    /// Time passes, in which both masters beat.
    fn pass(&mut self, span: Duration) -> Vec<Action> {
        let end = self.now + span;
        let mut actions = Vec::new();
        while self.now < end {
            self.now = (self.now + ms(500)).min(end);
            for pid in self.unit.pids().collect::<Vec<_>>() {
                actions
                    .extend(self.feed(says(pid, FromChild::Hb(Beat { store_ok: true, ..Beat::default() }))));
            }
            actions.extend(self.feed(Event::Tick));
        }
        actions
    }
}

fn refused(actions: &[Action]) -> Option<(u8, &str)> {
    actions.iter().find_map(|action| match action {
        Action::Reply { to: ASKER, reply: Reply::Refused { code, text } } => Some((*code, text.as_str())),
        _ => None,
    })
}

#[test]
fn the_work_changes_hands_step_by_step_and_the_new_ones_come_first() {
    let (mut stage, first) = Pair::greeted(None);
    assert_eq!(first, 25);
    // Not all are ready yet, or it tells of what it had before.
    let early = Standing { share: 25, settled: false, ..Standing::default() };
    assert_eq!(stage.feed(says(HEIR, FromChild::Standing(early))), []);
    assert_eq!(stage.feed(stands(HEIR, 0, false, 0)), []);
    for (has, next, left) in [(25, 50, 75), (50, 75, 50), (75, 100, 25)] {
        assert_eq!(stage.feed(stands(HEIR, has, false, 0)), [share(HEIR, next), share(FIRST, left)]);
    }
    let follow = Action::Send { pid: FIRST, message: ToChild::Follow };
    assert_eq!(stage.feed(stands(HEIR, 100, false, 0)), [share(FIRST, 0), follow]);
    assert_eq!(stage.feed(stands(FIRST, 0, false, 1)), [], "its intake still runs");
    assert_eq!(stage.feed(stands(FIRST, 0, false, 0)), [lead(HEIR)]);
    assert_eq!(stage.pass(WATCH - ms(500)), []);
    let actions = stage.pass(ms(500));
    let [
        Action::Send { pid: FIRST, message: ToChild::Stop { mode: StopMode::Drain, by_ms, .. } },
        ref rest @ ..,
    ] = actions[..]
    else {
        panic!("{actions:?}")
    };
    assert!(by_ms > 86_400_000, "jobs end by their own timeouts");
    assert!(
        matches!(rest, [Action::Adopt, Action::Reply { to: ASKER, reply: Reply::Done { .. } }]),
        "{rest:?}"
    );
    assert_eq!(stage.unit.pid(), Some(HEIR));
    // It takes as long as its jobs do, and ends as it was told to.
    assert_eq!(stage.pass(Duration::from_secs(600)), []);
    let ended = Event::Exited { pid: FIRST, exit: Exit::Code(0) };
    assert_eq!(stage.feed(ended), [Action::Forget { pid: FIRST }]);
    assert_eq!(stage.unit.pids().collect::<Vec<_>>(), [HEIR]);
}

#[test]
fn the_workers_of_a_retired_master_that_dies_are_looked_after() {
    let mut stage = Pair::watched();
    stage.pass(WATCH);
    assert_eq!(stage.unit.pid(), Some(HEIR));
    let ended = Event::Exited { pid: FIRST, exit: Exit::Signal(SIGKILL) };
    let adopt = Action::Send { pid: HEIR, message: ToChild::Lead { orphans: true } };
    assert_eq!(stage.feed(ended), [Action::Forget { pid: FIRST }, adopt]);
}

#[test]
fn a_batch_is_a_number_of_workers() {
    for (batch, percent) in [(1, 13), (2, 25), (8, 100), (100, 100)] {
        assert_eq!(Pair::greeted(Some(batch)).1, percent, "{batch} of 8");
    }
}

#[test]
fn what_a_bad_program_does_is_undone() {
    let failing = || {
        let failing = Some("its workers do not become ready".to_owned());
        says(HEIR, FromChild::Standing(Standing { failing, ..Standing::default() }))
    };
    let ended = |exit| Event::Exited { pid: HEIR, exit };
    // It dies by itself, in any stage.
    for stage in [Pair::new(None), Pair::greeted(None).0, Pair::watched()] {
        for exit in [Exit::Code(1), Exit::Code(0), Exit::Signal(11)] {
            let mut stage = Pair { unit: clone(&stage.unit), now: stage.now };
            let actions = stage.feed(ended(exit));
            assert!(actions.contains(&share(FIRST, 100)) && actions.contains(&lead(FIRST)), "{actions:?}");
            assert_eq!(refused(&actions).unwrap().0, exit::FAILED);
            assert_eq!((stage.unit.pid(), stage.unit.failures.len()), (Some(FIRST), 0));
        }
    }
    // Its workers are bad: it is told to leave, and killed when it does not.
    for mut stage in [Pair::greeted(None).0, Pair::watched()] {
        let actions = stage.feed(failing());
        assert!(
            matches!(
                &actions[..],
                [
                    first,
                    Action::Send { pid: HEIR, message: ToChild::Follow },
                    Action::Send { pid: HEIR, message: ToChild::Stop { mode: StopMode::Drain, .. } }
                ] if *first == share(FIRST, 100)
            ),
            "{actions:?}"
        );
        assert_eq!(stage.feed(stands(HEIR, 100, true, 1)), [], "its intake still runs");
        // The first need not wait for the heir's jobs.
        assert_eq!(stage.feed(failing()), [lead(FIRST)]);
        assert_eq!(stage.pass(GRACE + OVER_GRACE), [Action::Kill { pid: HEIR }]);
        let actions = stage.feed(ended(Exit::Signal(SIGKILL)));
        assert_eq!(
            refused(&actions).unwrap().1,
            "not deployed, the old program serves: its workers do not become ready"
        );
    }
    // It cannot be started.
    let mut stage = Pair::greeted(None).0;
    stage.feed(ended(Exit::Code(1)));
    let request = Request::Deploy { batch: None, watch: WATCH };
    stage.feed(Event::Ordered { asker: ASKER, request });
    let actions = stage.feed(Event::StartFailed { heir: true, error: "no such file".into() });
    assert!(refused(&actions).unwrap().1.contains("no such file"), "{actions:?}");
    // It is no master at all.
    let mut stage = Pair::new(None);
    assert_eq!(stage.feed(says(HEIR, FromChild::Ready))[0], Action::Kill { pid: HEIR });
    // It says nothing.
    let mut stage = Pair::new(None);
    let mut actions = Vec::new();
    for _ in 0..40 {
        stage.now = stage.now + ms(500);
        actions.extend(stage.feed(says(FIRST, FromChild::Hb(Beat::default()))));
    }
    assert!(
        actions.contains(&Action::Abort { pid: HEIR }) && actions.contains(&Action::Kill { pid: HEIR }),
        "{actions:?}"
    );
    // It does not get there.
    let mut stage = Pair::greeted(None).0;
    assert_eq!(stage.pass(roll::WITHIN)[0], share(FIRST, 100));
}

/// By its own events: a unit is not to be cloned outside of tests.
fn clone(unit: &Unit) -> Unit {
    Unit {
        master: match &unit.master {
            Master::Held(charge) => Master::Held(charge.clone()),
            other => panic!("{other:?}"),
        },
        roll: unit.roll.clone(),
        retired: unit.retired.clone(),
        failures: unit.failures.clone(),
        scaled: unit.scaled.clone(),
        questions: unit.questions.clone(),
        stoppers: unit.stoppers.clone(),
        told: unit.told.clone(),
        ..*unit
    }
}

#[test]
fn an_heir_that_is_ready_takes_over_from_a_master_that_dies() {
    let ended = || Event::Exited { pid: FIRST, exit: Exit::Signal(SIGKILL) };
    let lead = Action::Send { pid: HEIR, message: ToChild::Lead { orphans: true } };
    for mut stage in [Pair::greeted(None).0, Pair::watched()] {
        let actions = stage.feed(ended());
        assert_eq!(
            actions[..4],
            [Action::Forget { pid: FIRST }, share(HEIR, 100), lead.clone(), Action::Adopt]
        );
        assert_eq!(stage.unit.pid(), Some(HEIR));
    }
    let mut stage = Pair::new(None);
    let actions = stage.feed(ended());
    assert!(actions.contains(&Action::Kill { pid: HEIR }), "{actions:?}");
    assert!(actions.contains(&Action::Start { heir: false }), "the old program: {actions:?}");
    assert!(refused(&actions).is_some());
}

#[test]
fn a_deploy_is_refused_where_it_cannot_be() {
    let deploy = || Event::Ordered { asker: ASKER, request: Request::Deploy { batch: None, watch: WATCH } };
    let (mut stage, _) = Pair::greeted(None);
    assert_eq!(refused(&stage.feed(deploy())).unwrap().0, exit::CONFLICT, "one at a time");
    let mut stage = Pair::watched();
    stage.feed(Event::Asked(Request::Stop { why: "SIGTERM" }));
    assert_eq!(refused(&stage.feed(deploy())).unwrap().0, exit::CONFLICT, "it stops");
    let now = Mono::from_nanos(1_000_000_000_000);
    let mut stage = Pair { unit: Unit::new(now, GRACE), now };
    assert_eq!(refused(&stage.feed(deploy())).unwrap().0, exit::TRY_AGAIN, "no master yet");
}

#[test]
fn a_stop_reaches_both() {
    for mut stage in [Pair::greeted(None).0, Pair::watched()] {
        let actions = stage.feed(Event::Asked(Request::Stop { why: "SIGTERM" }));
        let told: Vec<u32> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Send { pid, message: ToChild::Stop { .. } } => Some(*pid),
                _ => None,
            })
            .collect();
        assert_eq!(told, [FIRST, HEIR]);
        assert!(refused(&actions).is_some(), "nobody waits for nothing: {actions:?}");
        stage.feed(Event::Exited { pid: FIRST, exit: Exit::Code(0) });
        stage.feed(Event::Exited { pid: HEIR, exit: Exit::Code(0) });
        assert_eq!(stage.feed(Event::Childless), [Action::Finish { code: exit::OK }]);
    }
}

#[test]
fn questions_are_answered_by_the_master_or_refused_in_time() {
    let what = || Question::DumpWorker { worker: "a/1".into() };
    let (mut stage, _) = Pair::greeted(None);
    let asked = stage.feed(Event::Ordered { asker: 7, request: Request::Question(what()) });
    assert_eq!(asked, [Action::Send { pid: FIRST, message: ToChild::Ask { ask: 7, what: what() } }]);
    let answer = |code, says: &str| FromChild::Answer { ask: 7, code, says: says.to_owned() };
    let reply = stage.step(says(FIRST, answer(None, "a")));
    assert_eq!(reply, [Action::Reply { to: 7, reply: Reply::Says { text: "a".into() } }]);
    let reply = stage.step(says(FIRST, answer(Some(3), "b")));
    assert_eq!(reply, [Action::Reply { to: 7, reply: Reply::Refused { code: 3, text: "b".into() } }]);
    assert_eq!(stage.step(says(FIRST, answer(Some(0), "c"))), [], "it had its answer");
    stage.feed(Event::Ordered { asker: 8, request: Request::Question(what()) });
    let actions = stage.pass(ANSWER);
    assert!(matches!(
        actions[..],
        [Action::Reply { to: 8, reply: Reply::Refused { code: exit::TRY_AGAIN, .. } }]
    ));
}

#[test]
fn a_number_of_workers_by_hand_outlives_the_master() {
    let (mut stage, _) = Pair::greeted(None);
    let scale = |to| Event::Ordered { asker: 7, request: Request::Scale { pool: "a".into(), to } };
    let told = |pid, to| Action::Send { pid, message: ToChild::Scale { pool: "a".into(), to } };
    assert_eq!(stage.feed(scale(Some(3)))[..2], [told(FIRST, Some(3)), told(HEIR, Some(3))]);
    stage.feed(Event::Exited { pid: HEIR, exit: Exit::Code(1) });
    stage.feed(Event::Exited { pid: FIRST, exit: Exit::Signal(SIGKILL) });
    stage.feed(Event::Started { heir: false, pid: 3, nonce: 5 });
    let actions = stage.feed(hello(3));
    let scaled = BTreeMap::from([("a".to_owned(), 3)]);
    assert_eq!(actions, [Action::Welcome { pid: 3, heir: None, scaled }]);
    stage.feed(scale(None));
    assert_eq!(stage.unit.scaled, BTreeMap::new());
}

/// Both masters, living or dead, and who of them may be signalled.
struct World {
    stage: Pair,
    alive: Vec<u32>,
    pids: u32,
    answered: usize,
}

#[derive(Debug, Clone, Copy)]
enum Chance {
    Pass(u64),
    Hello(usize),
    Ready(usize),
    Stands(usize, u8, bool, bool),
    Die(usize, Exit),
    Deploy,
    Stop,
}

fn chances() -> impl Strategy<Value = Chance> {
    let exit = prop_oneof![Just(Exit::Signal(SIGKILL)), Just(Exit::Code(0)), Just(Exit::Code(1))];
    prop_oneof![
        6 => (0..6000u64).prop_map(Chance::Pass),
        6 => (0..3usize).prop_map(Chance::Hello),
        6 => (0..3usize).prop_map(Chance::Ready),
        12 => (0..3usize, prop::sample::select(vec![0u8, 25, 50, 75, 100]), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(who, share, leads, fails)| Chance::Stands(who, share, leads, fails)),
        2 => (0..3usize, exit).prop_map(|(who, exit)| Chance::Die(who, exit)),
        3 => Just(Chance::Deploy),
        1 => Just(Chance::Stop),
    ]
}

impl World {
    fn feed(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.stage.step(event) {
                match action {
                    Action::Start { heir } => {
                        self.pids += 1;
                        self.alive.push(self.pids);
                        events.push(Event::Started { heir, pid: self.pids, nonce: 5 });
                    }
                    Action::Send { pid, .. } | Action::Welcome { pid, .. } | Action::Abort { pid } => {
                        assert!(self.alive.contains(&pid), "to the dead {pid}");
                    }
                    Action::Kill { pid } => {
                        assert!(self.alive.contains(&pid), "to the dead {pid}");
                        self.alive.retain(|alive| *alive != pid);
                        events.push(Event::Exited { pid, exit: Exit::Signal(SIGKILL) });
                    }
                    Action::Reply { reply, .. } => self.answered += usize::from(reply.is_last()),
                    Action::Adopt | Action::Forget { .. } | Action::Tell(_) | Action::Note(_) => {}
                    Action::Finish { .. } => self.alive.clear(),
                }
            }
        }
        let most = 2 + MOST_RETIRED;
        assert!(self.stage.unit.pids().count() <= most + 1, "{:?}", self.stage.unit);
    }

    fn who(&self, which: usize) -> Option<u32> {
        self.alive.iter().rev().nth(which).copied()
    }

    fn befall(&mut self, chance: Chance) -> usize {
        match chance {
            Chance::Pass(millis) => {
                self.stage.now = self.stage.now + ms(millis);
                self.feed(Event::Tick);
            }
            Chance::Hello(who) => {
                if let Some(pid) = self.who(who) {
                    self.feed(hello(pid));
                }
            }
            Chance::Ready(who) => {
                if let Some(pid) = self.who(who) {
                    self.feed(says(pid, FromChild::Ready));
                }
            }
            Chance::Stands(who, share, leads, fails) => {
                if let Some(pid) = self.who(who) {
                    let failing = fails.then(|| "bad".to_owned());
                    let standing =
                        Standing { share, leads, settled: true, wanted: 4, failing, ..Standing::default() };
                    self.feed(says(pid, FromChild::Standing(standing)));
                }
            }
            Chance::Die(who, exit) => {
                if let Some(pid) = self.who(who) {
                    self.alive.retain(|alive| *alive != pid);
                    self.feed(Event::Exited { pid, exit });
                }
            }
            Chance::Deploy => {
                let request = Request::Deploy { batch: None, watch: WATCH };
                self.feed(Event::Ordered { asker: ASKER, request });
                return 1;
            }
            Chance::Stop => self.feed(Event::Asked(Request::Stop { why: "SIGTERM" })),
        }
        0
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Whatever happens while a program is rolled out: no word and no signal to the dead, a bounded number of masters, and
    /// everybody who ordered something is answered once.
    #[test]
    fn whatever_happens_a_roll_ends(chances in prop::collection::vec(chances(), 0..80)) {
        let now = Mono::from_nanos(1_000_000_000_000);
        let stage = Pair { unit: Unit::new(now, GRACE), now };
        let mut world = World { stage, alive: Vec::new(), pids: 0, answered: 0 };
        world.feed(Event::Tick);
        let mut deploys = 0;
        for chance in chances {
            if world.stage.unit.next_deadline().is_none() {
                break;
            }
            deploys += world.befall(chance);
        }
        for _ in 0..400 {
            world.stage.now = world.stage.now + ms(1000);
            world.feed(Event::Tick);
        }
        prop_assert_eq!(world.stage.unit.roll, None);
        prop_assert_eq!(world.answered, deploys);
    }
}
