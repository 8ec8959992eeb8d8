//! One of several processes that work on one store at once, for the contract suite: it enqueues, pulls and
//! acknowledges at random, and dies at random, by `abort`, with jobs in its hands or an acknowledgement on its way.
//!
//! `contract-peer redis|sqlite PLACE NAMESPACE NUMBER JOBS MILLISECONDS RECORD`: NUMBER makes the name of the worker
//! and is the seed; RECORD is a file that is given a line `ID TOKEN STATE` for each job that it surely ended.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::job::record;
use roundsman_shared::job::settle::{Delivery, FollowUp, Write};
use roundsman_shared::job::{self, Due, NewJob, Outcome, Policy, Run, Settlement, Spec};
use roundsman_shared::names::{JobId, Namespace, QueueName, WorkerId};
use roundsman_shared::store::{
    Answer, Enqueued, PullRequest, RenewRequest, Retention, SettleRequest, Store, StoreConfig, StorePlace,
};

const LEASE: Duration = Duration::from_secs(3600);

/// Xorshift: the same seed gives the same choices, though not the same course of things.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    /// Once in `n` times.
    fn rarely(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

struct Peer {
    store: Store,
    queue: QueueName,
    worker: WorkerId,
    dice: Dice,
    jobs: u64,
    record: File,
    held: Vec<Delivery>,
}

/// The same id is the same job in every process.
fn new_job(n: u64) -> NewJob {
    let due = if n.is_multiple_of(3) { Due::In(Duration::from_millis(n % 20)) } else { Due::Now };
    let priority = i16::try_from(n % 4).unwrap_or(0);
    let spec = Spec { due, priority, ..Spec::bare(!n.is_multiple_of(5), n.to_string()) };
    let id = JobId::new(&format!("j{n}")).expect("a short id");
    NewJob { id, due, priority, expires: None, content: record::encode(&spec) }
}

impl Peer {
    async fn enqueue(&mut self) {
        let jobs: Vec<_> = (0..=self.dice.below(6)).map(|_| new_job(self.dice.below(self.jobs))).collect();
        let answers = self.store.enqueue(&self.queue, &jobs, 1_000_000).await.expect("enqueue");
        let fine = |answer: &Enqueued| matches!(answer, Enqueued::Created { .. } | Enqueued::Existing);
        assert!(answers.iter().all(fine), "{answers:?}");
    }

    fn outcome(&mut self, delivery: &Delivery) -> Outcome {
        let error = || "no".to_owned();
        let soon = Duration::from_millis(self.dice.below(4));
        match self.dice.below(12) {
            0 => Outcome::Retry { error: error(), after: Some(soon) },
            1 => Outcome::Snooze(soon),
            2 => Outcome::GiveBack,
            3 => Outcome::Dead { error: error() },
            4 => Outcome::Cancelled,
            5 => Outcome::Expired,
            _ => {
                let id = JobId::new(&format!("f.{}", delivery.id)).expect("a short id");
                let (priority, content) = (0, "P1".to_owned());
                let job = NewJob { id, due: Due::Now, priority, expires: None, content };
                let queue = QueueName::new("next").expect("a good name");
                Outcome::Done { result: None, follow_ups: vec![FollowUp { queue, job }], note: None }
            }
        }
    }

    fn settle(&mut self, delivery: &Delivery) -> Settlement {
        let outcome = self.outcome(delivery);
        let spec = delivery.record.decode().expect("a record of ours");
        let run = Run {
            worker: self.worker.clone(),
            started: None,
            ended: delivery.token / 1000,
            stderr_tail: None,
        };
        job::settle(delivery, &spec, outcome, &run, &Policy::default(), 0.0)
    }

    /// Dies soon, most likely while the next call is under way.
    fn die_soon(&mut self) {
        let soon = Duration::from_micros(self.dice.below(400));
        std::thread::spawn(move || {
            std::thread::sleep(soon);
            std::process::abort();
        });
    }

    async fn exchange(&mut self, max: usize) {
        let kept =
            if max == 0 { 0 } else { usize::try_from(self.dice.below(3)).unwrap_or(0).min(self.held.len()) };
        let ended: Vec<_> = self.held.split_off(kept);
        let settlements: Vec<_> = ended.iter().map(|delivery| self.settle(delivery)).collect();
        let (queue, worker) = (self.queue.clone(), self.worker.clone());
        let retention = Retention::from(&Policy::default());
        let settle = SettleRequest { queue, worker, settlements, retention, only_if_lapsed: false };
        let (queue, worker) = (self.queue.clone(), self.worker.clone());
        let pull = PullRequest { queue, worker, max, lease: LEASE, latest: None };
        if max > 0 && self.dice.rarely(300) {
            self.die_soon();
        }
        let (answers, pulled) = self.store.exchange(Some(&settle), Some(&pull)).await.expect("exchange");
        assert_eq!(answers.len(), settle.settlements.len());
        for (settlement, answer) in settle.settlements.iter().zip(&answers) {
            assert_eq!(
                *answer,
                Answer::Ok,
                "nobody else may touch what a living worker holds: {settlement:?}"
            );
            if let Write::Finish { state, .. } = &settlement.write {
                let line = format!("{} {} {}\n", settlement.id, settlement.token, state.as_str());
                self.record.write_all(line.as_bytes()).expect("the record is written");
            }
        }
        if self.dice.rarely(8) {
            // As after an answer that was lost. Those that go on waiting may be with somebody else by now.
            for (settlement, answer) in
                settle.settlements.iter().zip(self.store.settle(&settle).await.expect("again"))
            {
                let ended = matches!(settlement.write, Write::Finish { .. });
                assert!(
                    answer == Answer::Ok || (!ended && answer == Answer::Stale),
                    "{answer:?}: {settlement:?}"
                );
            }
        }
        self.held.extend(pulled.expect("a pull is answered").deliveries);
    }

    async fn renew(&self) {
        let (queue, worker) = (self.queue.clone(), self.worker.clone());
        let request = RenewRequest { queue, worker, lease: LEASE, marks: Vec::new() };
        assert!(!self.store.renew(&request).await.expect("renew").lost);
    }

    async fn work(&mut self, span: Duration) {
        let until = Mono::now() + span;
        while Mono::now() < until {
            match self.dice.below(8) {
                0 | 1 => self.enqueue().await,
                2 => self.renew().await,
                _ => {
                    let max = usize::try_from(1 + self.dice.below(6)).unwrap_or(1);
                    self.exchange(max).await;
                }
            }
            if self.dice.rarely(2000) {
                std::process::abort();
            }
        }
        self.exchange(0).await;
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, place, namespace, number, jobs, span, record] = &arguments[..] else {
        panic!("seven arguments, not {arguments:?}");
    };
    let place = match kind.as_str() {
        "redis" => StorePlace::Redis(place.clone()),
        "sqlite" => StorePlace::Sqlite(PathBuf::from(place)),
        other => panic!("{other} is no store"),
    };
    let namespace = Namespace::new(namespace).expect("a good name");
    let config = StoreConfig { place, namespace, lease: LEASE };
    let seed: u64 = number.parse().expect("a number");
    let span = Duration::from_millis(span.parse().expect("milliseconds"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut peer = Peer {
            store: Store::open(&config).await.expect("the store opens"),
            queue: QueueName::new("q").expect("a good name"),
            worker: WorkerId::new(&format!("host:pool:{number}:x")).expect("a good name"),
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            jobs: jobs.parse().expect("a number"),
            record: OpenOptions::new().create(true).append(true).open(record).expect("the record opens"),
            held: Vec::new(),
        };
        peer.work(span).await;
    });
}
