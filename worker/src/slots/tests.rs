//! The slots with handlers that do not return when they should.

use roundsman_shared::job::Spec;
use roundsman_shared::names::{JobId, QueueName};

use super::*;
use crate::api::{Handler, Run};

/// Holds the thread of the slots, or one of its own that nothing can stop, for the payload's milliseconds.
struct Sleep {
    blocking: bool,
}

impl Handler for Sleep {
    fn start(&self, task: &Task, _: Context) -> Run {
        let span = Duration::from_millis(task.spec.payload.parse().unwrap());
        let done = || Outcome::Done { result: None, follow_ups: vec![], note: None }.into();
        if self.blocking {
            let run = tokio::task::spawn_blocking(move || std::thread::sleep(span));
            return Box::pin(async move { run.await.map_or_else(|_| Outcome::GiveBack.into(), |()| done()) });
        }
        Box::pin(async move {
            std::thread::sleep(span);
            done()
        })
    }

    fn patience(&self) -> Patience {
        if self.blocking { Patience::Forever } else { Patience::Drop }
    }
}

fn slots(count: usize, blocking: bool) -> Slots {
    let make = move || Handlers { other: Some(Box::new(Sleep { blocking })), ..Handlers::default() };
    start(count, None, Box::new(make)).unwrap()
}

fn task(seq: Seq, ms: u64, timeout: Duration) -> Task {
    Task {
        seq,
        queue: QueueName::new("q").unwrap(),
        id: JobId::new(&format!("j{seq}")).unwrap(),
        token: 1,
        attempt: 1,
        spec: Arc::new(Spec::bare(false, ms.to_string())),
        timeout,
        alone: false,
    }
}

/// Waits until so many jobs have ended; answers their numbers and outcomes.
fn ended(slots: &mut Slots, count: usize) -> Vec<(Seq, Outcome)> {
    let mut all = Vec::new();
    while all.len() < count {
        match slots.reports.blocking_recv().unwrap() {
            Report::Finished(finished) => all.extend(finished.into_iter().map(|job| (job.seq, job.outcome))),
            Report::Unfit { why, .. } => panic!("{why}"),
        }
    }
    all
}

fn wait_running(slots: &Slots, seq: Seq) {
    let since = Mono::now();
    while !slots.gauge.running().iter().any(|job| job.seq == seq) {
        assert!(Mono::now().since(since) < Duration::from_secs(10), "{seq} does not start");
        std::thread::sleep(Duration::from_millis(1));
    }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_thread_that_is_stuck_for_long_loses_no_job_and_no_stop() {
    let mut slots = slots(1, false);
    slots.run(vec![task(1, 300, LONG)]);
    wait_running(&slots, 1);
    // As many as come in an hour.
    for _ in 0..3_600 {
        slots.nudge();
    }
    slots.run(vec![task(2, 0, LONG), task(3, 0, LONG), task(4, 0, LONG)]);
    for _ in 0..2_000 {
        slots.stop(3, StopJob::Cancelled);
    }
    let mut all = ended(&mut slots, 4);
    all.sort_by_key(|(seq, _)| *seq);
    for (seq, outcome) in all {
        let cancelled = matches!(outcome, Outcome::Cancelled);
        assert_eq!(cancelled, seq == 3, "{seq}: {outcome:?}");
    }
}

#[test]
fn what_waits_can_be_taken_back_from_a_thread_that_is_stuck() {
    let mut slots = slots(4, false);
    slots.run(vec![task(1, 500, LONG), task(2, 0, LONG), task(3, 0, LONG)]);
    wait_running(&slots, 1);
    let asked = Mono::now();
    assert_eq!(slots.take_back(), [2, 3]);
    assert!(Mono::now().since(asked) < Duration::from_millis(300), "{:?}", Mono::now().since(asked));
    assert!(matches!(ended(&mut slots, 1)[..], [(1, Outcome::Done { .. })]));
}

/// Cancels a job that runs; answers its outcome, and the slots for what they report after it.
fn cancelled_after(ms: u64, timeout: Duration) -> (Outcome, Slots) {
    let mut slots = slots(2, true);
    slots.run(vec![task(1, ms, timeout)]);
    wait_running(&slots, 1);
    slots.stop(1, StopJob::Cancelled);
    let Some(Report::Finished(mut finished)) = slots.reports.blocking_recv() else { panic!("no end") };
    (finished.remove(0).outcome, slots)
}

#[test]
fn a_cancelled_job_that_does_not_return_ends_as_cancelled_at_its_timeout_and_costs_the_worker() {
    let asked = Mono::now();
    let (outcome, mut slots) = cancelled_after(3_000, Duration::from_millis(500));
    assert!(matches!(outcome, Outcome::Cancelled), "{outcome:?}");
    let next = slots.reports.blocking_recv();
    assert!(matches!(next, Some(Report::Unfit { code: exit::OK, .. })), "{next:?}");
    let took = Mono::now().since(asked);
    assert!(took >= Duration::from_millis(500) && took < Duration::from_millis(2_500), "{took:?}");
}

#[test]
fn a_cancelled_job_that_returns_costs_nothing() {
    let (outcome, mut slots) = cancelled_after(300, LONG);
    // It had succeeded before it heard of it.
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    // It goes on with the next.
    slots.run(vec![task(2, 0, LONG)]);
    let next = slots.reports.blocking_recv();
    assert!(matches!(next, Some(Report::Finished(_))), "{next:?}");
}
