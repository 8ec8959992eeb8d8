//! The session against a scripted store: every rule of its header, and random histories.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use roundsman_shared::assignment::StoreAddress;
use roundsman_shared::job::record::{Record, encode};
use roundsman_shared::job::{Progress, lifecycle};
use roundsman_shared::names::Namespace;
use roundsman_shared::store::PullRequest;

use super::*;

mod ahead;
mod fairness;
mod stopping;

const LEASE: Duration = Duration::from_secs(15);

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn assignment(slots: usize, queues: &[(&str, u32)]) -> Assignment {
    Assignment {
        worker: WorkerId::new("host:pool:1:a").unwrap(),
        store: StoreAddress::Sqlite("unused".into()),
        namespace: Namespace::new("test").unwrap(),
        lease: LEASE,
        queues: queues.iter().map(|(name, share)| (queue(name), *share)).collect(),
        policies: BTreeMap::new(),
        slots,
        max_jobs: 0,
        handler: None,
        part: None,
        clock: None,
    }
}

/// A session with its clock, and what it asked for last.
struct Bench {
    session: Session,
    now: Mono,
    actions: Vec<Action>,
    token: i64,
}

impl Bench {
    fn new(assignment: Assignment) -> Self {
        let now = Mono::from_nanos(1_000_000_000_000);
        let session = Session::new(now, assignment, true, 1);
        let mut bench = Self { session, now, actions: Vec::new(), token: 1_700_000_000_000_000 };
        bench.step(Event::Tick(vec![]));
        bench
    }

    fn step(&mut self, event: Event) {
        self.session.step(self.now, event, &mut self.actions);
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    fn store_now(&self) -> StoreTime {
        StoreTime::from_micros(1_700_000_000_000_000 + i64::try_from(self.now.as_nanos() / 1000).unwrap())
    }

    fn delivery(&mut self, id: &str, crashes: u32) -> Delivery {
        let spec = Spec::bare(false, "1".into());
        Delivery {
            queue: queue("q"),
            id: JobId::new(id).unwrap(),
            token: self.token,
            due: self.store_now(),
            record: Record::stamp(self.store_now(), &encode(&spec)),
            progress: Progress { crashes, ..Progress::default() },
        }
    }

    /// Answers the exchange that is under way.
    fn answer(&mut self, exchange: Action, ids: &[&str]) {
        let Action::Exchange { settle, pull } = exchange else { panic!("no exchange but {exchange:?}") };
        let answers = settle.map_or_else(Vec::new, |settle| vec![Answer::Ok; settle.settlements.len()]);
        self.token += 1;
        let pulled = pull.map(|_| Pulled {
            now: self.store_now(),
            deliveries: ids.iter().map(|id| self.delivery(id, 0)).collect(),
            next_due: None,
            paused: false,
            skewed: false,
            live_version: 0,
        });
        let sent = self.now;
        self.step(Event::Exchanged { sent, result: Ok((answers, pulled)) });
    }

    fn only(&mut self) -> Action {
        let mut actions = self.take();
        assert_eq!(actions.len(), 1, "{actions:?}");
        actions.remove(0)
    }

    /// Pulls these jobs and returns their tasks.
    fn pull(&mut self, ids: &[&str]) -> Vec<Task> {
        let exchange = self.only();
        self.answer(exchange, ids);
        let tasks = self.take().into_iter().find_map(|action| match action {
            Action::Run(tasks) => Some(tasks),
            _ => None,
        });
        tasks.expect("tasks to run")
    }

    fn finish(&mut self, seq: Seq, ran: Duration) {
        self.end(seq, ran, Outcome::Done { result: None, follow_ups: vec![], note: None });
    }

    /// How many jobs the next pull asks for, be it after the acknowledgement that is due.
    fn next_pull(&mut self) -> usize {
        self.session.lines[0].dry_until = None;
        let exchange = self.take().pop().unwrap();
        match &exchange {
            Action::Exchange { pull: Some(pull), .. } => pull.max,
            Action::Exchange { pull: None, .. } => {
                self.answer(exchange, &[]);
                self.step(Event::Wake(queue("q")));
                pull_of(&self.only()).max
            }
            other => panic!("{other:?}"),
        }
    }

    fn end(&mut self, seq: Seq, ran: Duration, outcome: Outcome) {
        let ended = self.now;
        self.pass(ran);
        let finished =
            Finished { seq, outcome, started: ended, ended: self.now, stderr_tail: None, request: None };
        self.step(Event::Finished(vec![finished]));
    }
}

fn pull_of(action: &Action) -> &PullRequest {
    match action {
        Action::Exchange { pull: Some(pull), .. } => pull,
        other => panic!("no pull but {other:?}"),
    }
}

fn settled_by(action: &Action) -> Vec<&str> {
    match action {
        Action::Exchange { settle: Some(settle), .. } => {
            settle.settlements.iter().map(|s| s.id.as_str()).collect()
        }
        other => panic!("no acknowledgement but {other:?}"),
    }
}

/// Whether the job is stopped, to be given back.
fn gives_back(actions: &[Action], wanted: Seq) -> bool {
    actions.iter().any(|action| matches!(action, Action::StopJob(seq, StopJob::Released) if *seq == wanted))
}

#[test]
fn the_first_pull_is_for_the_free_slots_alone() {
    let mut bench = Bench::new(assignment(3, &[("q", 0)]));
    let first = bench.only();
    assert_eq!(pull_of(&first).max, 3);
}

#[test]
fn short_jobs_are_prefetched_and_long_ones_are_not() {
    for (ran, most) in
        [(Duration::from_micros(10), MAX_BATCH), (Duration::from_millis(10), 6), (Duration::from_secs(1), 1)]
    {
        let mut bench = Bench::new(assignment(1, &[("q", 0)]));
        let tasks = bench.pull(&["a"]);
        bench.finish(tasks[0].seq, ran);
        assert_eq!(bench.next_pull(), most, "jobs of {ran:?}");
    }
}

#[test]
fn where_much_is_put_off_more_is_taken_in_one_go() {
    let mut bench = Bench::new(assignment(1, &[("q", 0)]));
    let tasks = bench.pull(&["a"]);
    bench.end(
        tasks[0].seq,
        Duration::from_micros(10),
        Outcome::Held { after: Duration::from_secs(1), why: "it is away".into() },
    );
    assert_eq!(bench.next_pull(), MAX_BATCH);
}

#[test]
fn an_acknowledgement_goes_with_the_next_pull_or_within_five_milliseconds() {
    let mut bench = Bench::new(assignment(2, &[("q", 0)]));
    let tasks = bench.pull(&["a", "b"]);
    // Nothing more is due: the queue is dry, b still runs, and a waits for its acknowledgement.
    bench.finish(tasks[0].seq, Duration::from_millis(100));
    assert!(bench.take().is_empty());
    let due = bench.session.next_deadline(bench.now);
    assert!(due.since(bench.now) <= ACK_WITHIN, "{:?}", due.since(bench.now));
    bench.pass(ACK_WITHIN);
    bench.step(Event::Tick(vec![]));
    let exchange = bench.only();
    assert_eq!(settled_by(&exchange), ["a"]);
    bench.answer(exchange, &[]);
    bench.finish(tasks[1].seq, Duration::from_millis(100));
    assert_eq!(settled_by(&bench.only()), ["b"], "the last one goes at once");
}

#[test]
fn what_a_failed_call_carried_is_sent_again() {
    let mut bench = Bench::new(assignment(1, &[("q", 0)]));
    let tasks = bench.pull(&["a"]);
    bench.finish(tasks[0].seq, Duration::from_millis(500));
    let exchange = bench.only();
    assert_eq!(settled_by(&exchange), ["a"]);
    let sent = bench.now;
    bench.step(Event::Exchanged { sent, result: Err(StoreError::Unavailable("cut".into())) });
    assert!(bench.take().is_empty(), "not at once");
    bench.pass(RETRY);
    bench.step(Event::Tick(vec![]));
    assert_eq!(settled_by(&bench.only()), ["a"]);
}

#[test]
fn deliveries_of_a_lost_answer_are_given_back() {
    let mut bench = Bench::new(assignment(1, &[("q", 0)]));
    let _lost = bench.only();
    let sent = bench.now;
    bench.step(Event::Exchanged { sent, result: Err(StoreError::Unavailable("cut".into())) });
    bench.pass(RETRY);
    bench.step(Event::Tick(vec![]));
    assert!(matches!(bench.only(), Action::Reconcile(..)), "before anything else is pulled");
    let delivery = bench.delivery("ghost", 0);
    let held = Held { delivery, started: None, deadline: None };
    bench.step(Event::Reconciled { queue: queue("q"), result: Ok(vec![held]) });
    let exchange = bench.only();
    assert_eq!(settled_by(&exchange), ["ghost"]);
}

#[test]
fn the_lease_is_renewed_and_a_worker_that_cannot_leaves_before_its_end() {
    let mut bench = Bench::new(assignment(1, &[("q", 0)]));
    let tasks = bench.pull(&["a"]);
    bench.take();
    let running =
        || Event::Tick(vec![Running { seq: tasks[0].seq, started: Mono::from_nanos(1_000_000_000_000) }]);
    bench.pass(Duration::from_millis(25));
    bench.step(running());
    let Action::Renew(mark) = bench.only() else { panic!("the start is to be noted") };
    assert_eq!(mark.marks.len(), 1);
    let (sent, now) = (bench.now, bench.store_now());
    // The answer is slow: the lease goes from before the call.
    let slow = Duration::from_secs(1);
    bench.pass(slow);
    bench.step(Event::Renewed {
        sent,
        queue: queue("q"),
        result: Ok(Renewed { now, lost: false, cancel: vec![] }),
    });
    bench.pass(LEASE / 3);
    bench.step(running());
    assert!(matches!(bench.only(), Action::Renew(_)));
    let sent = bench.now;
    bench.step(Event::Renewed {
        sent,
        queue: queue("q"),
        result: Err(StoreError::Unavailable("cut".into())),
    });
    bench.pass(LEASE * 2 / 3 - bench.session.margin() - slow);
    bench.step(running());
    let left =
        bench.take().into_iter().any(|action| matches!(action, Action::Leave { code: exit::TRY_AGAIN, .. }));
    assert!(left, "before the lease can lapse");
}

#[test]
fn a_lost_lease_ends_the_worker() {
    let mut bench = Bench::new(assignment(1, &[("q", 0)]));
    bench.pull(&["a"]);
    let (sent, now) = (bench.now, bench.store_now());
    bench.step(Event::Renewed {
        sent,
        queue: queue("q"),
        result: Ok(Renewed { now, lost: true, cancel: vec![] }),
    });
    assert!(matches!(bench.only(), Action::Leave { code: exit::TRY_AGAIN, .. }));
}

#[test]
fn stopping_gives_back_what_was_not_started_and_lets_the_rest_finish() {
    let mut bench = Bench::new(assignment(2, &[("q", 0)]));
    let tasks = bench.pull(&["a", "b"]);
    bench.step(Event::Stop { mode: StopMode::Drain, within: Duration::from_secs(30), why: "test".into() });
    assert!(matches!(bench.only(), Action::TakeBack));
    bench.step(Event::Returned(vec![tasks[1].seq]));
    bench.pass(ACK_WITHIN);
    bench.step(Event::Tick(vec![]));
    let exchange = bench.only();
    assert_eq!(settled_by(&exchange), ["b"]);
    bench.answer(exchange, &[]);
    bench.finish(tasks[0].seq, Duration::from_secs(1));
    let exchange = bench.only();
    assert!(matches!(&exchange, Action::Exchange { pull: None, .. }), "nothing more is pulled");
    bench.answer(exchange, &[]);
    assert!(matches!(bench.only(), Action::Leave { code: exit::OK, .. }));
}

#[test]
fn the_grace_over_running_jobs_are_released() {
    let mut bench = Bench::new(assignment(1, &[("q", 0)]));
    let tasks = bench.pull(&["a"]);
    bench.step(Event::Stop { mode: StopMode::Drain, within: Duration::from_secs(30), why: "test".into() });
    bench.take();
    bench.pass(Duration::from_secs(31));
    bench.step(Event::Tick(vec![]));
    assert!(gives_back(&bench.take(), tasks[0].seq));
}

#[test]
fn a_wake_up_in_vain_is_told() {
    let mut bench = Bench::new(assignment(1, &[("q", 0)]));
    bench.pull(&["a"]);
    bench.step(Event::Wake(queue("q")));
    assert!(bench.take().iter().any(|action| matches!(action, Action::Full(_))));
}

#[test]
fn a_clock_that_jumped_is_corrected_and_moves_no_estimate() {
    let mut bench = Bench::new(assignment(1, &[("q", 0)]));
    let exchange = bench.only();
    bench.answer(exchange, &[]);
    bench.step(Event::Wake(queue("q")));
    let exchange = bench.only();
    let latest = pull_of(&exchange).latest.expect("a reading is known by now");
    assert_eq!(latest, bench.store_now() + SKEW_GUARD);
    let sent = bench.now;
    let skewed = Pulled {
        now: latest + Duration::from_secs(3600),
        deliveries: vec![],
        next_due: None,
        paused: false,
        skewed: true,
        live_version: 0,
    };
    let expected = bench.store_now();
    bench.step(Event::Exchanged { sent, result: Ok((vec![], Some(skewed))) });
    assert!(matches!(bench.only(), Action::Steer(_, to) if to == expected), "no call took an hour");
    bench.pass(RETRY);
    bench.step(Event::Tick(vec![]));
    let again = bench.only();
    assert_eq!(
        pull_of(&again).latest,
        Some(bench.store_now() + SKEW_GUARD),
        "the jump has not moved the estimate"
    );
}

#[test]
fn shares_divide_running_time() {
    let mut bench = Bench::new(assignment(1, &[("q", 3), ("r", 1)]));
    let mut taken = [0.0_f64; 2];
    for _ in 0..400 {
        let exchange = bench.take().pop().expect("an exchange");
        let pulled = pull_of(&exchange).queue.clone();
        let at = usize::from(pulled == queue("r"));
        let Action::Exchange { settle, .. } = &exchange else { unreachable!() };
        let answers = settle.as_ref().map_or_else(Vec::new, |s| vec![Answer::Ok; s.settlements.len()]);
        let mut delivery = bench.delivery(&format!("j{}", bench.token), 0);
        bench.token += 1;
        delivery.queue = pulled;
        let (sent, now) = (bench.now, bench.store_now());
        let pulled = Pulled {
            now,
            deliveries: vec![delivery],
            next_due: Some(now),
            paused: false,
            skewed: false,
            live_version: 0,
        };
        bench.step(Event::Exchanged { sent, result: Ok((answers, Some(pulled))) });
        let seq = bench.session.next_seq - 1;
        bench.take();
        bench.finish(seq, Duration::from_millis(200));
        taken[at] += 0.2;
    }
    let share = taken[0] / (taken[0] + taken[1]);
    assert!((0.74..0.76).contains(&share), "{share}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens, each delivery is acknowledged exactly once, with a step that the lifecycle table knows, and a
    /// session that was told to stop leaves.
    #[test]
    fn every_delivery_is_acknowledged_once(script in proptest::collection::vec((0_u8..6, 0_u64..40), 1..120)) {
        let mut bench = Bench::new(assignment(2, &[("q", 0)]));
        let mut open: Vec<Action> = Vec::new();
        let mut tasks: Vec<Seq> = Vec::new();
        let (mut delivered, mut acknowledged) = (BTreeSet::new(), Vec::new());
        let mut left = false;
        let mut script = script.into_iter();
        let mut rounds = 0;
        while !left {
            rounds += 1;
            prop_assert!(rounds < 5000, "it does not end");
            let (what, span) = script.next().unwrap_or((255, 10));
            bench.pass(Duration::from_millis(span));
            match what {
                0 => bench.step(Event::Wake(queue("q"))),
                1 | 2 if !tasks.is_empty() => {
                    let seq = tasks.remove(0);
                    bench.finish(seq, Duration::from_millis(span));
                }
                3 if !open.is_empty() => {
                    // The answer is lost, the call took no effect.
                    let sent = bench.now;
                    match open.remove(0) {
                        Action::Exchange { .. } => bench.step(Event::Exchanged { sent, result: Err(StoreError::Unavailable("x".into())) }),
                        Action::Renew(r) => bench.step(Event::Renewed { sent, queue: r.queue, result: Err(StoreError::Unavailable("x".into())) }),
                        Action::Reconcile(queue, _) => bench.step(Event::Reconciled { queue, result: Err(StoreError::Unavailable("x".into())) }),
                        _ => unreachable!(),
                    }
                }
                255 => {
                    if rounds % 2 == 0 {
                        bench.step(Event::Stop { mode: StopMode::Drain, within: Duration::from_secs(1), why: "end".into() });
                    } else if let Some(seq) = tasks.pop() {
                        bench.finish(seq, Duration::from_millis(1));
                    } else {
                        bench.step(Event::Tick(vec![]));
                    }
                    if !open.is_empty() { answer_one(&mut bench, &mut open, &mut delivered, &mut acknowledged, 0); }
                }
                _ if !open.is_empty() => {
                    answer_one(&mut bench, &mut open, &mut delivered, &mut acknowledged, usize::try_from(span % 3).unwrap());
                }
                _ => bench.step(Event::Tick(vec![])),
            }
            for action in bench.take() {
                match action {
                    Action::Run(all) => tasks.extend(all.into_iter().map(|task| task.seq)),
                    Action::TakeBack => {
                        let back = std::mem::take(&mut tasks);
                        bench.step(Event::Returned(back));
                    }
                    Action::StopJob(..) | Action::Full(_) => {}
                    Action::Leave { .. } => left = true,
                    call => open.push(call),
                }
            }
            for action in bench.take() {
                if matches!(action, Action::Leave { .. }) { left = true } else { open.push(action) }
            }
        }
        let unique: BTreeSet<_> = acknowledged.iter().cloned().collect();
        prop_assert_eq!(unique.len(), acknowledged.len(), "twice");
        prop_assert_eq!(unique, delivered);
    }
}

fn answer_one(
    bench: &mut Bench,
    open: &mut Vec<Action>,
    delivered: &mut BTreeSet<String>,
    acknowledged: &mut Vec<String>,
    count: usize,
) {
    let sent = bench.now;
    match open.remove(0) {
        Action::Exchange { settle, pull } => {
            if let Some(settle) = &settle {
                for item in &settle.settlements {
                    assert!(lifecycle::next(lifecycle::State::Running, item.event).is_some());
                    acknowledged.push(item.id.to_string());
                }
            }
            let count = pull.as_ref().map_or(0, |pull| count.min(pull.max));
            let ids: Vec<String> = (0..count).map(|n| format!("{}-{n}", bench.token)).collect();
            delivered.extend(ids.iter().cloned());
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            bench.answer(Action::Exchange { settle, pull }, &ids);
        }
        Action::Renew(request) => {
            let now = bench.store_now();
            bench.step(Event::Renewed {
                sent,
                queue: request.queue,
                result: Ok(Renewed { now, lost: false, cancel: vec![] }),
            });
        }
        Action::Reconcile(queue, _) => bench.step(Event::Reconciled { queue, result: Ok(vec![]) }),
        other => panic!("{other:?}"),
    }
}
