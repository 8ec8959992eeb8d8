use proptest::prelude::*;
use roundsman_shared::protocol::Beat;

use super::*;

const GRACE: Duration = Duration::from_secs(30);
const SIGABRT: i32 = 6;
const SIGSEGV: i32 = 11;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Of the master that runs just then: see [`Stage::feed`].
const CURRENT: u32 = 0;

fn said(message: FromChild) -> Event {
    Event::Said { pid: CURRENT, message }
}

fn hello(nonce: u64) -> Event {
    said(FromChild::Hello { v: [1, 1], pid: 7, nonce, build: String::new() })
}

fn beat() -> Event {
    said(FromChild::Hb(Beat { store_ok: true, ..Beat::default() }))
}

fn welcome() -> Action {
    Action::Welcome { pid: CURRENT, heir: None, scaled: BTreeMap::new() }
}

fn stop() -> Event {
    Event::Asked(Request::Stop { why: "SIGTERM" })
}

/// A unit with a clock of its own. What it says to people is left out of the answers.
struct Stage {
    unit: Unit,
    now: Mono,
    pid: u32,
}

impl Stage {
    fn new() -> Self {
        let now = Mono::from_nanos(1_000_000_000_000);
        let mut stage = Self { unit: Unit::new(now, GRACE), now, pid: 100 };
        assert_eq!(stage.feed(Event::Tick), [Action::Start { heir: false }]);
        stage.start();
        stage
    }

    fn ready() -> Self {
        let mut stage = Self::new();
        stage.get_ready();
        stage
    }

    fn start(&mut self) {
        self.pid += 1;
        assert_eq!(self.feed(Event::Started { heir: false, pid: self.pid, nonce: 5 }), []);
    }

    fn get_ready(&mut self) {
        assert_eq!(self.feed(hello(5))[0], welcome());
        let told = self.feed(said(FromChild::Ready));
        assert!(matches!(told[..], [Action::Tell(News::Ready { .. })]), "{told:?}");
    }

    fn feed(&mut self, event: Event) -> Vec<Action> {
        let mut actions = self.step(event);
        actions.retain(|action| !matches!(action, Action::Note(_) | Action::Tell(News::Status(_))));
        for action in &mut actions {
            if let Action::Welcome { pid, .. } | Action::Send { pid, .. } = action
                && *pid == self.pid
            {
                *pid = CURRENT;
            }
        }
        actions
    }

    fn step(&mut self, mut event: Event) -> Vec<Action> {
        if let Event::Said { pid, .. } = &mut event
            && *pid == CURRENT
        {
            *pid = self.pid;
        }
        let mut actions = Vec::new();
        self.unit.step(self.now, event, &mut actions);
        actions
    }

    /// What the service manager is told.
    fn tells(&mut self, event: Event) -> Vec<News> {
        let actions = self.step(event);
        let news = |action| if let Action::Tell(news) = action { Some(news) } else { None };
        actions.into_iter().filter_map(news).collect()
    }

    /// Lets time pass in steps as the loop would.
    fn pass(&mut self, span: Duration) -> Vec<Action> {
        let end = self.now + span;
        let mut actions = Vec::new();
        while let Some(next) = self.unit.next_deadline().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            actions.extend(self.feed(Event::Tick));
        }
        self.now = end;
        actions
    }

    fn dies(&mut self, exit: Exit) -> Vec<Action> {
        let actions = self.feed(Event::Exited { pid: self.pid, exit });
        actions.into_iter().filter(|it| !matches!(it, Action::Forget { .. } | Action::Tell(_))).collect()
    }

    fn send_stop(mode: StopMode, by: Duration) -> Action {
        let by_ms = u64::try_from(by.as_millis()).unwrap();
        Action::Send { pid: CURRENT, message: ToChild::Stop { mode, by_ms, why: "SIGTERM".into() } }
    }
}

#[test]
fn a_beating_master_is_left_alone() {
    let mut stage = Stage::ready();
    for _ in 0..1000 {
        assert_eq!(stage.pass(ms(1000)), []);
        assert_eq!(stage.feed(beat()), []);
        assert!(stage.unit.is_fresh(stage.now));
    }
}

#[test]
fn a_killed_master_is_replaced_at_once_and_for_ever() {
    let mut stage = Stage::ready();
    for _ in 0..1000 {
        assert_eq!(stage.dies(Exit::Signal(SIGKILL)), [Action::Start { heir: false }]);
        stage.start();
        stage.get_ready();
    }
}

#[test]
fn what_counts_against_a_master() {
    for (exit, ready, lived, counts) in [
        (Exit::Signal(SIGKILL), true, ms(0), false),
        (Exit::Signal(SIGKILL), false, ms(0), true),
        (Exit::Signal(SIGSEGV), true, ms(9000), true),
        (Exit::Code(1), true, ms(9000), true),
        (Exit::Code(78), true, ms(9000), true),
        (Exit::Code(0), true, ms(9000), false),
        (Exit::Code(0), true, ms(100), true),
        (Exit::Code(0), false, ms(9000), true),
    ] {
        let mut stage = Stage::new();
        if ready {
            stage.get_ready();
            stage.feed(beat());
        }
        stage.pass(lived);
        assert_eq!(stage.dies(exit), [Action::Start { heir: false }], "{exit:?}");
        assert_eq!(stage.unit.failures.len(), usize::from(counts), "{exit:?} {ready} {lived:?}");
    }
}

#[test]
fn failures_are_followed_by_pauses_and_by_giving_up() {
    let mut stage = Stage::ready();
    for pause in [0, 100, 200, 400, 800] {
        let mut actions = stage.dies(Exit::Code(1));
        if pause > 0 {
            assert_eq!(actions, []);
            assert_eq!(stage.pass(ms(pause - 1)), []);
            actions = stage.pass(ms(1));
        }
        assert_eq!(actions, [Action::Start { heir: false }], "{pause}");
        stage.start();
    }
    assert_eq!(stage.dies(Exit::Code(1)), [Action::Finish { code: exit::FAILED }]);
    assert_eq!(stage.unit.next_deadline(), None);
}

#[test]
fn old_failures_are_forgotten() {
    let mut stage = Stage::new();
    for _ in 0..100 {
        assert_eq!(stage.dies(Exit::Code(1)), [Action::Start { heir: false }]);
        stage.start();
        for _ in 0..60 {
            stage.pass(ms(1000));
            stage.feed(if stage.unit.is_welcome() { beat() } else { hello(5) });
        }
    }
}

#[test]
fn a_program_that_cannot_be_started_is_a_failure() {
    let mut stage = Stage::ready();
    assert_eq!(stage.dies(Exit::Signal(SIGKILL)), [Action::Start { heir: false }]);
    assert_eq!(
        stage.feed(Event::StartFailed { heir: false, error: "no memory".into() }),
        [Action::Start { heir: false }]
    );
    assert_eq!(stage.feed(Event::StartFailed { heir: false, error: "no memory".into() }), []);
    assert_eq!(stage.pass(ms(100)), [Action::Start { heir: false }]);
}

#[test]
fn what_a_restart_cannot_mend_is_passed_on_at_the_first_start_only() {
    for code in [exit::CONFIG, exit::UNAVAILABLE] {
        let mut stage = Stage::new();
        stage.feed(hello(5));
        assert_eq!(stage.dies(Exit::Code(code.into())), [Action::Finish { code }]);
        // Ready, but its store was never reached, or found unfit.
        let mut stage = Stage::ready();
        assert_eq!(
            stage.dies(Exit::Code(code.into())),
            [Action::Start { heir: false }],
            "once may be chance"
        );
        stage.start();
        stage.get_ready();
        assert_eq!(stage.dies(Exit::Code(code.into())), []);
        assert_eq!(stage.pass(ms(100)), [Action::Start { heir: false }]);
        stage.start();
        stage.get_ready();
        assert_eq!(stage.dies(Exit::Code(code.into())), [Action::Finish { code }]);
        let mut stage = Stage::ready();
        stage.feed(beat());
        assert_eq!(stage.dies(Exit::Code(code.into())), [Action::Start { heir: false }]);
    }
}

#[test]
fn a_host_that_is_served_by_another_is_left_to_it() {
    for mut stage in [Stage::new(), Stage::ready()] {
        stage.feed(hello(5));
        let code = exit::CONFLICT;
        assert_eq!(stage.dies(Exit::Code(code.into())), [Action::Finish { code }]);
    }
}

#[test]
fn silence_is_ended_by_abort_then_kill() {
    for greeted in [false, true] {
        let mut stage = Stage::new();
        if greeted {
            stage.get_ready();
        }
        let pid = stage.pid;
        assert_eq!(stage.pass(ms(9999)), []);
        assert_eq!(stage.pass(ms(1)), [Action::Abort { pid }]);
        assert!(!stage.unit.is_fresh(stage.now));
        // It is too late to speak now.
        assert_eq!(stage.feed(beat()), []);
        assert_eq!(stage.pass(ms(1999)), []);
        assert_eq!(stage.pass(ms(1)), [Action::Kill { pid }]);
        assert_eq!(stage.dies(Exit::Signal(SIGKILL)), [Action::Start { heir: false }]);
        assert_eq!(stage.unit.failures.len(), 1);
    }
}

#[test]
fn a_master_that_even_sigkill_does_not_end_is_left_to_itself() {
    let mut stage = Stage::ready();
    let stuck = stage.pid;
    stage.pass(SILENCE + ABORT);
    assert_eq!(stage.pass(KILL), [Action::Forget { pid: stuck }, Action::Start { heir: false }]);
    stage.start();
    stage.get_ready();
    assert_eq!(stage.feed(Event::Exited { pid: stuck, exit: Exit::Signal(SIGABRT) }), []);
    assert_eq!(stage.unit.pid(), Some(stage.pid));
}

#[test]
fn own_lateness_is_not_held_against_the_master() {
    let mut stage = Stage::ready();
    // Nine quiet seconds, then the host sleeps for an hour.
    assert_eq!(stage.pass(ms(9000)), []);
    stage.now = stage.now + Duration::from_secs(3600);
    assert_eq!(stage.feed(Event::Tick), []);
    assert_eq!(stage.pass(ms(900)), []);
    assert_eq!(stage.feed(beat()), []);
    assert_eq!(stage.pass(ms(9999)), []);
}

#[test]
fn a_process_that_is_not_ours_is_killed() {
    let strange = FromChild::Hello { v: [2, 3], pid: 7, nonce: 5, build: String::new() };
    for first in [hello(6), beat(), said(FromChild::Ready), said(strange)] {
        let mut stage = Stage::new();
        let pid = stage.pid;
        assert_eq!(stage.feed(first), [Action::Kill { pid }]);
        assert_eq!(stage.dies(Exit::Signal(SIGKILL)), [Action::Start { heir: false }]);
        assert_eq!(stage.unit.failures.len(), 1);
    }
    let mut stage = Stage::new();
    assert_eq!(stage.feed(Event::Garbled { error: "?".into() }), []);
}

#[test]
fn a_stop_drains_and_ends_when_nothing_is_left() {
    let mut stage = Stage::ready();
    let told = stage.feed(stop());
    assert_eq!(told[1..], [Stage::send_stop(StopMode::Drain, GRACE)]);
    assert!(matches!(told[0], Action::Tell(News::Stopping { within, .. }) if within == GRACE + OVER_GRACE));
    assert_eq!(stage.dies(Exit::Code(0)), []);
    // Orphans of an earlier master finish.
    assert_eq!(stage.feed(Event::Exited { pid: 3, exit: Exit::Code(0) }), []);
    assert_eq!(stage.feed(Event::Childless), [Action::Finish { code: exit::OK }]);
}

#[test]
fn what_does_not_stop_in_time_is_killed() {
    // Orphans that stay, and a master that stays.
    let mut stage = Stage::ready();
    stage.feed(stop());
    stage.dies(Exit::Code(0));
    assert_eq!(stage.pass(GRACE), [Action::Finish { code: exit::OK }]);
    let mut stage = Stage::ready();
    stage.feed(stop());
    for _ in 0..39 {
        assert_eq!(stage.pass(ms(1000)), []);
        assert_eq!(stage.feed(beat()), []);
    }
    assert_eq!(stage.pass(ms(1000)), [Action::Finish { code: exit::FAILED }]);
}

#[test]
fn the_second_stop_is_at_once_and_the_third_more_so() {
    let mut stage = Stage::ready();
    stage.feed(stop());
    // The same request, told twice by timeout(1).
    assert_eq!(stage.feed(stop()), []);
    stage.pass(ms(1000));
    assert_eq!(stage.feed(stop()), [Stage::send_stop(StopMode::Release, RELEASE)]);
    assert_eq!(stage.pass(RELEASE - ms(1)), []);
    assert_eq!(stage.pass(ms(1)), [Action::Finish { code: exit::INTERRUPTED }]);

    let mut stage = Stage::ready();
    stage.feed(stop());
    stage.pass(ms(1000));
    stage.feed(stop());
    assert_eq!(stage.dies(Exit::Code(0)), []);
    assert_eq!(stage.feed(Event::Childless), [Action::Finish { code: exit::INTERRUPTED }]);

    let mut stage = Stage::ready();
    stage.feed(stop());
    stage.pass(ms(1000));
    stage.feed(stop());
    assert_eq!(stage.feed(stop()), [Action::Finish { code: exit::INTERRUPTED }]);
}

#[test]
fn a_stop_without_a_welcomed_master_starts_none() {
    // It only just runs.
    let mut stage = Stage::new();
    let pid = stage.pid;
    assert_eq!(stage.feed(stop())[1..], [Action::Kill { pid }]);
    assert_eq!(stage.dies(Exit::Signal(SIGKILL)), []);
    assert_eq!(stage.feed(Event::Childless), [Action::Finish { code: exit::OK }]);
    // None runs.
    let mut stage = Stage::new();
    stage.dies(Exit::Code(1));
    stage.start();
    assert_eq!(stage.dies(Exit::Code(1)), []);
    stage.feed(stop());
    assert_eq!(stage.feed(Event::Childless), [Action::Finish { code: exit::OK }]);
    // It dies of the stop.
    let mut stage = Stage::ready();
    stage.feed(stop());
    assert_eq!(stage.dies(Exit::Signal(SIGSEGV)), []);
    assert_eq!(stage.feed(Event::Childless), [Action::Finish { code: exit::OK }]);
}

#[test]
fn freshness_ends_before_the_master_is_given_up_and_comes_back_with_a_beat() {
    let mut stage = Stage::ready();
    stage.pass(STALE - ms(1));
    assert!(stage.unit.is_fresh(stage.now));
    stage.pass(ms(1));
    assert!(!stage.unit.is_fresh(stage.now));
    stage.feed(beat());
    assert!(stage.unit.is_fresh(stage.now));
    let pid = stage.pid;
    assert_eq!(stage.pass(SILENCE), [Action::Abort { pid }]);
    assert!(!stage.unit.is_fresh(stage.now));
    stage.dies(Exit::Signal(SIGABRT));
    stage.start();
    assert!(stage.unit.is_fresh(stage.now));
}

#[test]
fn a_service_manager_is_told_in_words_and_of_each_thing_once() {
    let says = |text: &str| vec![News::Status(text.to_owned())];
    let beats = |running, store_ok| said(FromChild::Hb(Beat { running, store_ok, ..Beat::default() }));
    let mut stage = Stage::new();
    // A reload that ended now would be taken for the end of the start.
    assert_eq!(stage.tells(Event::Asked(Request::KeepSettings { why: "x" })), []);
    assert_eq!(stage.tells(Event::Asked(Request::Reload { grace: GRACE })), []);
    stage.get_ready();
    assert_eq!(stage.tells(beats(0, false)), says("serving, master 101; the store has not answered yet"));
    assert_eq!(stage.tells(beats(0, true)), says("serving, master 101"));
    assert_eq!(stage.tells(beats(3, true)), []);
    assert_eq!(stage.tells(beats(3, false)), says("serving, master 101; the store does not answer"));
    assert_eq!(stage.tells(beats(3, true)), says("serving, master 101"));

    let why = "the new settings are wrong";
    let status = format!("serving, master 101; the last reload was refused: {why}");
    let refused = stage.tells(Event::Asked(Request::KeepSettings { why }));
    assert_eq!(refused, [News::Reloaded { status }]);
    assert_eq!(stage.tells(beats(3, true)), []);
    let status = "serving, master 101".to_owned();
    let reloaded = stage.tells(Event::Asked(Request::Reload { grace: GRACE }));
    assert_eq!(reloaded, [News::Reloaded { status }]);

    let ended = Event::Exited { pid: stage.pid, exit: Exit::Signal(SIGKILL) };
    assert_eq!(stage.tells(ended), says("master 101 ended by SIGKILL; starting another"));
    stage.start();
    stage.get_ready();
    assert_eq!(stage.tells(Event::Asked(Request::Quiet)), says("quiet, takes no new jobs, master 102"));

    stage.feed(beats(1, true));
    let status = "draining: 1 job runs, and may for 30 s more".to_owned();
    assert_eq!(stage.tells(stop()), [News::Stopping { within: GRACE + OVER_GRACE, status }]);
    assert_eq!(stage.tells(Event::Asked(Request::Reload { grace: GRACE })), []);
    stage.pass(ms(1000));
    assert_eq!(stage.tells(beats(2, true)), says("draining: 2 jobs run, and may for 29 s more"));
    assert_eq!(stage.tells(stop()), says("stopping at once"));
}

#[test]
fn reload_and_quiet_reach_the_master_and_its_successor() {
    let mut stage = Stage::new();
    let grace = ms(5000);
    assert_eq!(stage.feed(Event::Asked(Request::Reload { grace })), []);
    assert_eq!(stage.feed(Event::Asked(Request::Quiet)), []);
    assert_eq!(stage.feed(hello(5)), [welcome(), Action::Send { pid: CURRENT, message: ToChild::Pause }]);
    assert_eq!(
        stage.feed(Event::Asked(Request::Reload { grace })),
        [Action::Send { pid: CURRENT, message: ToChild::Reload }]
    );
    stage.feed(said(FromChild::Ready));
    stage.dies(Exit::Signal(SIGKILL));
    stage.start();
    assert_eq!(stage.feed(hello(5)), [welcome(), Action::Send { pid: CURRENT, message: ToChild::Pause }]);
    assert_eq!(stage.feed(stop())[1..], [Stage::send_stop(StopMode::Drain, grace)]);
}

#[test]
fn the_state_is_told_in_words() {
    let mut stage = Stage::ready();
    stage.feed(beat());
    stage.pass(ms(500));
    let mut actions = Vec::new();
    stage.unit.step(stage.now, Event::Asked(Request::Dump), &mut actions);
    let state = "serving; master 101 ready, last line 500 ms ago; \
                 last beat: starting, 0 claimed, 0 done, 0 failed, 0 running, store well; \
                 0 failures within a minute";
    // And the master tells of what is below it.
    assert_eq!(
        actions,
        [Action::Note(Note::State(state.into())), Action::Send { pid: stage.pid, message: ToChild::Dump }]
    );
}

/// What may happen to a supervisor, as seen by the processes of a machine that does what it is told.
#[derive(Debug, Clone)]
enum Chance {
    Pass(u64),
    /// This process is held up.
    Sleep(u64),
    Hello,
    WrongHello,
    Say(FromChild),
    Die(Exit),
    StrangerDies,
    Request(Request),
    Childless,
}

fn chances() -> impl Strategy<Value = Chance> {
    let exit = prop_oneof![
        (0..=1i32).prop_map(Exit::Code),
        Just(Exit::Code(78)),
        Just(Exit::Signal(SIGKILL)),
        Just(Exit::Signal(SIGSEGV)),
    ];
    let said = prop_oneof![
        Just(FromChild::Ready),
        Just(FromChild::Hb(Beat::default())),
        Just(FromChild::Bye { why: String::new(), code: 0 }),
        Just(FromChild::Draining { why: String::new() }),
    ];
    let request = prop_oneof![
        2 => Just(Request::Stop { why: "SIGTERM" }),
        1 => Just(Request::Reload { grace: ms(3000) }),
        1 => Just(Request::KeepSettings { why: "they are wrong" }),
        1 => Just(Request::Quiet),
        1 => Just(Request::Dump),
        1 => Just(Request::Resize { by: 1 }),
    ];
    prop_oneof![
        8 => (0..4000u64).prop_map(Chance::Pass),
        1 => (0..100_000u64).prop_map(Chance::Sleep),
        6 => Just(Chance::Hello),
        1 => Just(Chance::WrongHello),
        8 => said.prop_map(Chance::Say),
        4 => exit.prop_map(Chance::Die),
        1 => Just(Chance::StrangerDies),
        1 => request.prop_map(Chance::Request),
        2 => Just(Chance::Childless),
    ]
}

/// The machine: at most one master lives, unless one is stuck; signals reach only living ones.
struct World {
    unit: Unit,
    now: Mono,
    alive: Option<u32>,
    pids: u32,
    /// A master that SIGKILL does not end.
    stubborn: bool,
    over: bool,
    starts: Vec<Mono>,
    /// Deaths by a SIGKILL that the unit did not send, which are not held against the master.
    excused: usize,
    killed: bool,
}

impl World {
    fn new(stubborn: bool) -> Self {
        let now = Mono::from_nanos(5_000_000_000);
        let unit = Unit::new(now, ms(3000));
        let starts = Vec::new();
        Self { unit, now, alive: None, pids: 0, stubborn, over: false, starts, excused: 0, killed: false }
    }

    fn feed(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(mut event) = events.pop() {
            if let (Event::Said { pid, .. }, Some(alive)) = (&mut event, self.alive) {
                *pid = alive;
            }
            let mut actions = Vec::new();
            self.unit.step(self.now, event, &mut actions);
            assert!(!self.over || actions.is_empty(), "after the end: {actions:?}");
            for action in actions {
                match action {
                    Action::Start { heir: _ } => {
                        assert!(self.alive.is_none() || self.stubborn, "two masters");
                        self.pids += 1;
                        self.killed = false;
                        self.alive = Some(self.pids);
                        self.starts.push(self.now);
                        events.push(Event::Started { heir: false, pid: self.pids, nonce: 5 });
                    }
                    Action::Abort { pid } => assert_eq!(self.alive, Some(pid), "a signal to a dead process"),
                    Action::Kill { pid } => {
                        assert_eq!(self.alive, Some(pid), "a signal to a dead process");
                        self.killed = true;
                    }
                    Action::Welcome { .. } | Action::Send { .. } => {
                        assert!(self.alive.is_some(), "a message to nobody")
                    }
                    Action::Finish { .. } => self.over = true,
                    Action::Adopt | Action::Reply { .. } => unreachable!("nobody has ordered anything"),
                    Action::Forget { .. } | Action::Tell(_) | Action::Note(_) => {}
                }
            }
        }
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(next) = self.unit.next_deadline().filter(|next| *next <= end) {
            assert!(next > self.now || self.unit.seen == self.now, "the loop would spin");
            self.now = self.now.max(next);
            self.feed(Event::Tick);
            self.obey();
        }
        self.now = end;
    }

    /// SIGKILL ends what is not stubborn.
    fn obey(&mut self) {
        if self.killed && !self.stubborn {
            self.die(Exit::Signal(SIGKILL));
        }
    }

    fn die(&mut self, exit: Exit) {
        let Some(pid) = self.alive.take() else { return };
        if exit == Exit::Signal(SIGKILL) && !self.killed || exit == Exit::Code(0) {
            self.excused += 1;
        }
        self.killed = false;
        self.feed(Event::Exited { pid, exit });
    }

    fn befall(&mut self, chance: Chance) {
        match chance {
            Chance::Pass(millis) => self.pass(ms(millis)),
            Chance::Sleep(millis) => {
                self.now = self.now + ms(millis);
                self.feed(Event::Tick);
            }
            Chance::Hello if self.alive.is_some() => self.feed(hello(5)),
            Chance::WrongHello if self.alive.is_some() => self.feed(hello(4)),
            Chance::Say(message) if self.alive.is_some() => self.feed(said(message)),
            Chance::Hello | Chance::WrongHello | Chance::Say(_) => {}
            Chance::Die(exit) => self.die(exit),
            Chance::StrangerDies => self.feed(Event::Exited { pid: 90_000, exit: Exit::Code(0) }),
            Chance::Request(request) => self.feed(Event::Asked(request)),
            Chance::Childless if self.alive.is_none() => self.feed(Event::Childless),
            Chance::Childless => {}
        }
        self.obey();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happens: no signal to what is dead, never two masters, nothing after the end, no more starts than are
    /// allowed, and a stop ends.
    #[test]
    fn whatever_happens_the_rules_hold(
        stubborn in prop::bool::weighted(0.1),
        chances in prop::collection::vec(chances(), 0..120),
    ) {
        let mut world = World::new(stubborn);
        world.feed(Event::Tick);
        for chance in chances {
            world.befall(chance);
        }
        // Starts beyond the first that no excused death explains are restarts held against the master.
        let busiest = world.starts.iter().map(|first| {
            world.starts.iter().filter(|start| **start >= *first && start.since(*first) < WINDOW).count()
        }).max().unwrap_or(0);
        prop_assert!(busiest <= MOST_RESTARTS + 1 + world.excused, "{busiest} starts, {} excused", world.excused);

        world.feed(stop());
        world.pass(ms(3000) + OVER_GRACE + SILENCE + ABORT + KILL);
        prop_assert!(world.over, "{:?}", world.unit);
    }

    /// A master that says nothing from some moment on is gone within silence, abort and kill.
    #[test]
    fn every_silence_ends(greeted in any::<bool>(), ready in any::<bool>(), beats in 0..30u64) {
        let mut world = World::new(false);
        world.feed(Event::Tick);
        if greeted {
            world.feed(hello(5));
        }
        if greeted && ready {
            world.feed(said(FromChild::Ready));
        }
        if greeted {
            for _ in 0..beats {
                world.pass(ms(1000));
                world.feed(beat());
            }
        }
        world.pass(SILENCE + ABORT);
        prop_assert_eq!(world.pids, 2);
        prop_assert!(!world.over);
    }
}
