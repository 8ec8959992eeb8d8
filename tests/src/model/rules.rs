//! The model is the oracle of the suite, so a few rules are held against it by hand.

use roundsman_shared::job::{Due, NewJob};
use roundsman_shared::store::{Changed, Enqueued, PullRequest};

use super::*;

fn at(micros: i64) -> StoreTime {
    StoreTime::from_micros(micros)
}

fn job(id: &str, due: Due, priority: i16) -> NewJob {
    NewJob { id: JobId::new(id).unwrap(), due, priority, expires: None, content: "p1".into() }
}

fn ids(model: &mut Model, queue: &QueueName, now: i64) -> Vec<String> {
    let worker = WorkerId::new("h:p:1:x").unwrap();
    let lease = Duration::from_secs(15);
    let request = PullRequest { queue: queue.clone(), worker, max: 100, lease, latest: None };
    model.pull(&request, at(now)).deliveries.into_iter().map(|delivery| delivery.id.to_string()).collect()
}

#[test]
fn priority_then_due_then_order_of_the_call_then_id() {
    let (mut model, queue) = (Model::default(), QueueName::new("q").unwrap());
    let jobs = [
        job("z", Due::Now, 0),
        job("y", Due::Now, 0),
        job("b", Due::At(at(5)), 0),
        job("a", Due::At(at(5)), 0),
        job("late", Due::At(at(1001)), 9),
        job("high", Due::Now, 1),
    ];
    let answers = model.enqueue(&queue, &jobs, 10, at(1000));
    assert_eq!(answers[2], Enqueued::Created { due: at(5) });
    assert_eq!(ids(&mut model, &queue, 1000), ["high", "a", "b", "z", "y"]);
    assert_eq!(ids(&mut model, &queue, 1001), ["late"]);
}

#[test]
fn a_full_queue_takes_no_more() {
    let (mut model, queue) = (Model::default(), QueueName::new("q").unwrap());
    let jobs = [job("a", Due::Now, 0), job("b", Due::Now, 0), job("a", Due::Now, 0)];
    let answers = model.enqueue(&queue, &jobs, 1, at(1000));
    assert_eq!(
        answers,
        [Enqueued::Created { due: at(1000) }, Enqueued::Full { waiting: 1 }, Enqueued::Existing]
    );
}

#[test]
#[should_panic(expected = "is no step of the table")]
fn a_step_that_the_table_lacks_is_noticed() {
    let (mut model, queue) = (Model::default(), QueueName::new("q").unwrap());
    model.enqueue(&queue, &[job("a", Due::Now, 0)], 1, at(1000));
    let id = JobId::new("a").unwrap();
    assert_eq!(model.retry(&queue, &id, at(1000)), Changed::Refused(State::Ready));
    let job = model.queues.get_mut(&queue).unwrap().jobs.get_mut(&id).unwrap();
    job.step(Event::AckDone, Kept::Ended { state: FinalState::Done, at: at(1000), order: 0 }, at(1000));
}
