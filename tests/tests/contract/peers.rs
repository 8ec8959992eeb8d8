//! Several processes at once on one store. They die at random; whoever watches them puts back what they held. In the
//! end each job must have ended once, whatever was under way when a process died.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Child;
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::job::settle::{Delivery, Write};
use roundsman_shared::job::view::Place;
use roundsman_shared::job::{self, NewJob, Outcome, Policy, Run, Settlement, Spec, State};
use roundsman_shared::store::{Answer, Cancelled, Enqueued, MAX_BATCH, SettleRequest, StorePlace};
use roundsman_tests::spawn;

use crate::stores::{Bed, HOUR, from_spec, id, on_each_store, worker};

on_each_store![each_job_ends_once_whoever_dies,];

/// At once.
const PEERS: usize = 4;
const JOBS: u64 = 5000;
const SPAN: Duration = Duration::from_secs(4);

/// Jobs that surely ended: what was acknowledged as such, and in which state.
type Ended = BTreeMap<String, Vec<(i64, State)>>;

struct Watch {
    bed: Bed,
    folder: tempfile::TempDir,
    children: Vec<(u8, Child)>,
    next: u8,
    deaths: u32,
    ended: Ended,
    until: Mono,
}

/// A first crash puts a job back to the front, a second one ends it: nothing waits for seconds.
fn policy() -> Policy {
    Policy { max_crashes: 2, ..Policy::default() }
}

fn settle(delivery: &Delivery, number: u8, outcome: Outcome) -> Settlement {
    let run = Run { worker: worker(number), started: None, ended: delivery.token / 1000, stderr_tail: None };
    job::settle(delivery, &delivery.record.decode().unwrap(), outcome, &run, &policy(), 0.0)
}

/// As the peers make it.
fn new_job(n: u64) -> NewJob {
    let due = if n.is_multiple_of(3) { job::Due::In(Duration::from_millis(n % 20)) } else { job::Due::Now };
    let priority = i16::try_from(n % 4).unwrap_or(0);
    from_spec(&format!("j{n}"), &Spec { due, priority, ..Spec::bare(!n.is_multiple_of(5), n.to_string()) })
}

impl Watch {
    fn start(&mut self) {
        let (kind, place) = match &self.bed.config.place {
            StorePlace::Redis(url) => ("redis", url.clone()),
            StorePlace::Sqlite(path) => ("sqlite", path.display().to_string()),
        };
        let left = self.until.since(Mono::now()).as_millis().to_string();
        let record = self.folder.path().join(self.next.to_string());
        let mut command = spawn::bound_command(env!("CARGO_BIN_EXE_contract-peer"));
        command.args([kind, &place, self.bed.config.namespace.as_str()]);
        command.args([&self.next.to_string(), &JOBS.to_string(), &left]).arg(record);
        self.children.push((self.next, spawn::start(command).expect("the peer starts")));
        self.next += 1;
    }

    async fn settle(&mut self, number: u8, settlements: Vec<Settlement>) {
        let request: SettleRequest = self.bed.request(number, settlements);
        let answers = self.bed.store.settle(&request).await.unwrap();
        for (settlement, answer) in request.settlements.iter().zip(answers) {
            assert_eq!(answer, Answer::Ok, "{settlement:?}");
            // The last call of a dead peer may be carried out after what it held was listed; then the answer is about
            // the outcome that it had given, by the same token.
            let now = self.bed.look(settlement.id.as_str()).await.expect("a job that is known");
            let last = now.progress.attempts.last().map(|attempt| attempt.token);
            if let Write::Finish { state, .. } = settlement.write
                && (now.state(), last) == (state.state(), Some(settlement.token))
            {
                let ended = self.ended.entry(settlement.id.to_string()).or_default();
                ended.push((settlement.token, state.state()));
            }
        }
    }

    /// Takes what a dead peer held.
    async fn release(&mut self, number: u8) {
        loop {
            let held = self.bed.store.unacked(&self.bed.queue, &worker(number), None).await.unwrap();
            if held.is_empty() {
                return;
            }
            let crashed = |held: &roundsman_shared::store::Held| {
                settle(&held.delivery, number, Outcome::Crashed { cause: "SIGABRT".to_owned() })
            };
            self.settle(number, held.iter().map(crashed).collect()).await;
        }
    }

    /// Replaces the dead until the time is over.
    async fn watch(&mut self) {
        while !self.children.is_empty() {
            for at in (0..self.children.len()).rev() {
                let Some(status) = self.children[at].1.try_wait().unwrap() else { continue };
                let (number, _) = self.children.swap_remove(at);
                assert!(status.success() || status.signal() == Some(6), "peer {number} left with {status}");
                self.deaths += u32::from(!status.success());
                self.release(number).await;
                if Mono::now() < self.until && self.next < 200 {
                    self.start();
                }
            }
            let pulse = self.bed.store.pulse(&self.bed.queue, HOUR, Duration::ZERO).await.unwrap();
            assert!(pulse.lapsed.is_empty(), "{pulse:?}");
            let some = pulse.now.as_micros().unsigned_abs() % JOBS;
            if let Cancelled::Told(by) =
                self.bed.store.cancel(&self.bed.queue, &id(&format!("j{some}"))).await.unwrap()
            {
                assert!(by.as_str().starts_with("host:pool:"));
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// Does what is left.
    async fn drain(&mut self) {
        let jobs: Vec<_> = (0..JOBS).map(new_job).collect();
        for jobs in jobs.chunks(MAX_BATCH) {
            let answers = self.bed.enqueue(jobs).await;
            let fine = |answer: &Enqueued| matches!(answer, Enqueued::Created { .. } | Enqueued::Existing);
            assert!(answers.iter().all(fine), "{answers:?}");
        }
        loop {
            let pulled = self.bed.pull_as(0, MAX_BATCH, HOUR).await;
            if pulled.deliveries.is_empty() && pulled.next_due.is_none() {
                return;
            }
            let expire = |delivery: &Delivery| settle(delivery, 0, Outcome::Expired);
            self.settle(0, pulled.deliveries.iter().map(expire).collect()).await;
        }
    }

    /// What the peers wrote down before they died.
    fn read_records(&mut self) {
        for file in std::fs::read_dir(self.folder.path()).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            // The last line may be half written.
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let words: Vec<_> = line.split_whitespace().collect();
                let ended = self.ended.entry(words[0].to_owned()).or_default();
                ended.push((words[1].parse().unwrap(), words[2].parse().unwrap()));
            }
        }
    }

    async fn audit(&self) {
        let mut states: BTreeMap<State, u64> = BTreeMap::new();
        for n in 0..JOBS {
            let name = format!("j{n}");
            let found = self.bed.look(&name).await.unwrap_or_else(|| panic!("{name} is lost"));
            assert_eq!(found.place, Place::Ended, "{name}");
            *states.entry(found.state()).or_default() += 1;
            match self.ended.get(&name).map(Vec::as_slice) {
                // It was cancelled while it waited, or its worker died before it wrote down what it had been answered.
                None => {}
                Some([(token, state)]) => {
                    assert_eq!(found.state(), *state, "{name}");
                    let last = found.progress.attempts.last().map(|attempt| attempt.token);
                    assert_eq!(last, Some(*token), "{name} was ended by another delivery");
                }
                Some(more) => panic!("{name} ended more than once: {more:?}"),
            }
            let tokens: Vec<_> = found.progress.attempts.iter().map(|attempt| attempt.token).collect();
            assert!(tokens.is_sorted_by(|a, b| a < b), "{name}: {tokens:?}");
        }
        let count = |state| states.get(&state).copied().unwrap_or_default();
        let view = self.bed.store.overview(&self.bed.queue).await.unwrap();
        let kept = [State::Done, State::Dead, State::Cancelled, State::Expired].map(count);
        assert_eq!([view.done, view.dead, view.cancelled, view.expired], kept);
        assert_eq!((view.enqueued_total, view.ended_total), (JOBS, JOBS));
        assert_eq!((view.scheduled, view.ready, view.running), (0, 0, 0));
        let pulse = self.bed.store.pulse(&self.bed.queue, HOUR, Duration::ZERO).await.unwrap();
        assert_eq!((pulse.waiting, pulse.running, pulse.outbox), (0, 0, count(State::Done)));
        self.audit_follow_ups(count(State::Done)).await;
    }

    /// One for each job that was done, by whomever.
    async fn audit_follow_ups(&self, done: u64) {
        let mut names = Vec::new();
        loop {
            let outbox = self.bed.store.outbox(&self.bed.queue).await.unwrap();
            if outbox.is_empty() {
                break;
            }
            names.extend(outbox.iter().map(|outgoing| outgoing.follow_up.job.id.clone()));
            let tickets: Vec<_> = outbox.into_iter().map(|outgoing| outgoing.ticket).collect();
            self.bed.store.outbox_moved(&self.bed.queue, &tickets).await.unwrap();
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!((names.len(), count), (usize::try_from(done).unwrap(), names.len()));
    }
}

async fn each_job_ends_once_whoever_dies(bed: Bed) {
    let folder = tempfile::tempdir().unwrap();
    let (children, ended, until) = (Vec::new(), Ended::new(), Mono::now() + SPAN);
    let mut watch = Watch { bed, folder, children, next: 1, deaths: 0, ended, until };
    for _ in 0..PEERS {
        watch.start();
    }
    watch.watch().await;
    watch.drain().await;
    watch.read_records();
    assert!(watch.deaths > 0, "nobody died: the test shows nothing");
    assert!(watch.ended.len() > 100, "only {} jobs were ended", watch.ended.len());
    watch.audit().await;
}
