//! Gives the jobs of a worker that is gone back to their queues, each with the outcome that it deserves.
//!
//! Which jobs: the store knows (what the worker holds under lease). Which of them it ran: the board says. The work is
//! remembered until it is done, however long the store is away.

use std::collections::BTreeMap;
use std::time::Duration;

use roundsman_shared::board::Posted;
use roundsman_shared::clock::StoreClock;
use roundsman_shared::clock::{Mono, wall_micros};
use roundsman_shared::exit;
use roundsman_shared::figures::{Figures, Metric};
use roundsman_shared::job::{Outcome, Policy, Run, Settlement, Spec, settle};
use roundsman_shared::names::{QueueName, WorkerId};
use roundsman_shared::store::{Answer, Held, MAX_BATCH, Retention, SettleRequest, Store, StoreError};

use crate::random;
use crate::slot::{Exit, Fate};

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_CAP: Duration = Duration::from_secs(1);

/// How the worker came to be gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// We saw it: how it ended, and why if we ended it.
    /// `pool_at_fault`: so many different jobs crashed it that none of them is charged any more.
    /// `peak_kb`: the most memory with which it was seen.
    Seen { exit: Exit, fate: Option<Fate>, running: Vec<Posted>, pool_at_fault: bool, peak_kb: u64 },
    /// It outlived an earlier master, and nobody saw its end.
    Unseen,
    /// Its lease lapsed: its host is gone, or cut off.
    Lapsed,
}

/// Whose jobs are to be given back.
#[derive(Debug, Clone)]
pub struct Release {
    pub worker: WorkerId,
    pub queues: Vec<QueueName>,
    pub policies: BTreeMap<QueueName, Policy>,
    pub ending: Ending,
    pub stderr_tail: Option<String>,
    pub clock: Option<StoreClock>,
}

impl Release {
    /// Does it, and answers how many jobs of each queue may run again. Returns only when it is done.
    pub(crate) async fn run(&self, store: &Store, figures: &mut Figures) -> BTreeMap<QueueName, u64> {
        let mut returned = BTreeMap::new();
        for queue in &self.queues {
            let mut pause = RETRY_FIRST;
            loop {
                match self.release(store, queue, figures).await {
                    Ok(count) => {
                        if count > 0 {
                            returned.insert(queue.clone(), count);
                        }
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(worker = %self.worker, %queue, %error, "releasing its jobs failed; trying again");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(RETRY_CAP);
                    }
                }
            }
        }
        returned
    }

    async fn release(
        &self,
        store: &Store,
        queue: &QueueName,
        figures: &mut Figures,
    ) -> Result<u64, StoreError> {
        let policy = self.policies.get(queue).cloned().unwrap_or_default();
        let mut returned = 0;
        loop {
            let held = store.unacked(queue, &self.worker, None).await?;
            if held.is_empty() {
                return Ok(returned);
            }
            #[cfg(target_os = "linux")]
            if matches!(self.ending, Ending::Unseen | Ending::Lapsed) {
                crate::leftovers::end(&held).await;
            }
            let now = self
                .clock
                .map_or_else(|| wall_micros() / 1000, |clock| clock.at_least(Mono::now()).as_millis());
            for batch in held.chunks(MAX_BATCH) {
                let settled = |held| self.settlement(held, &policy, now, random::fraction());
                let (settlements, kinds): (Vec<Settlement>, Vec<_>) = batch.iter().map(settled).unzip();
                let outcomes: Vec<_> = settlements.iter().map(|it| it.event.outcome()).collect();
                let request = SettleRequest {
                    queue: queue.clone(),
                    worker: self.worker.clone(),
                    settlements,
                    retention: Retention::from(&policy),
                    only_if_lapsed: self.ending == Ending::Lapsed,
                };
                let answers = store.settle(&request).await?;
                let done = answers.iter().filter(|answer| **answer == Answer::Ok).count();
                for (_, (kind, outcome)) in answers
                    .iter()
                    .zip(kinds.iter().zip(outcomes))
                    .filter(|(answer, _)| **answer == Answer::Ok)
                {
                    let kind = kind.as_deref().unwrap_or_default();
                    figures.count(Metric::Jobs, &[queue.as_str(), kind, outcome], 1);
                    figures.count(Metric::JobsRecovered, &[queue.as_str(), outcome], 1);
                }
                if done == 0 {
                    // Somebody else was faster, or the lease is good again.
                    return Ok(returned);
                }
                returned += done as u64;
            }
        }
    }

    /// The acknowledgement of a job, and its kind. `now` is the store's, in Unix milliseconds; `jitter` lies in 0 to 1.
    #[must_use]
    pub fn settlement(
        &self,
        held: &Held,
        policy: &Policy,
        now: i64,
        jitter: f64,
    ) -> (Settlement, Option<String>) {
        let (spec, outcome) = match held.delivery.record.decode() {
            Ok(spec) => (spec, self.outcome(held)),
            Err(error) => (Spec::bare(false, "null".to_owned()), Outcome::Dead { error: error.to_string() }),
        };
        let charged = !matches!(outcome, Outcome::GiveBack);
        let run = Run {
            worker: self.worker.clone(),
            started: held.started,
            ended: now,
            stderr_tail: self.stderr_tail.clone().filter(|_| charged),
        };
        let settlement = settle(&held.delivery, &spec, outcome, &run, policy, jitter);
        (settlement, spec.kind)
    }

    /// What the end of the worker means for a job that it held.
    fn outcome(&self, held: &Held) -> Outcome {
        let (exit, fate, running, pool_at_fault, peak_kb) = match &self.ending {
            Ending::Lapsed => return Outcome::Lapsed,
            Ending::Unseen if held.started.is_some() => {
                return Outcome::Killed { cause: "its worker ended while no master watched".to_owned() };
            }
            Ending::Unseen => return Outcome::GiveBack,
            Ending::Seen { exit, fate, running, pool_at_fault, peak_kb } => {
                (*exit, fate, running, *pool_at_fault, *peak_kb)
            }
        };
        let delivery = &held.delivery;
        let ran = running.iter().any(|posted| {
            posted.queue == delivery.queue && posted.id == delivery.id && posted.token == delivery.token
        });
        if !ran {
            return Outcome::GiveBack;
        }
        match (fate, exit) {
            (Some(Fate::TimedOut { jobs }), _) => {
                let own = |(queue, id): &(String, String)| {
                    queue == delivery.queue.as_str() && id == delivery.id.as_str()
                };
                if jobs.iter().any(own) {
                    let error = "it went on after its timeout, and its worker was killed for it".to_owned();
                    Outcome::TimedOut { error }
                } else {
                    Outcome::GiveBack
                }
            }
            (Some(Fate::Stalled { why }), _) => Outcome::Crashed { cause: format!("stalled: {why}") },
            (Some(Fate::Retired | Fate::Unready { .. }), _) => Outcome::GiveBack,
            (None, Exit::Signal(9)) => {
                Outcome::Killed { cause: "its worker was killed from outside (signal SIGKILL)".to_owned() }
            }
            (None, Exit::OutOfMemory { signal: 9 }) => {
                let cause = out_of_memory("the kernel killed its worker (signal SIGKILL)", peak_kb);
                Outcome::Killed { cause }
            }
            (None, Exit::Code(code)) if code == i32::from(exit::TRY_AGAIN) => {
                Outcome::Killed { cause: "its worker left because it could not renew its lease".to_owned() }
            }
            // The pool is at fault, not the job.
            (None, Exit::Code(64 | 78 | 126 | 127)) => Outcome::GiveBack,
            (None, _) if pool_at_fault => Outcome::GiveBack,
            (None, Exit::OutOfMemory { signal }) => {
                let how = format!("its worker was refused memory and aborted ({})", Exit::Signal(signal));
                Outcome::Crashed { cause: out_of_memory(&how, peak_kb) }
            }
            (None, Exit::Code(0)) => Outcome::Crashed { cause: "exit code 0 in mid-job".to_owned() },
            (None, exit) => Outcome::Crashed { cause: exit.to_string() },
        }
    }
}

fn out_of_memory(how: &str, peak_kb: u64) -> String {
    match peak_kb {
        0 => format!("out of memory: {how}"),
        peak_kb => format!("out of memory: {how}; it was seen with {} MiB at most", peak_kb.div_ceil(1024)),
    }
}

#[cfg(test)]
mod tests {
    use roundsman_shared::clock::StoreTime;
    use roundsman_shared::job::record::{Record, encode};
    use roundsman_shared::job::settle::Delivery;
    use roundsman_shared::job::{Progress, Settlement};
    use roundsman_shared::names::JobId;
    use roundsman_shared::store::Held;

    use super::*;

    fn queue() -> QueueName {
        QueueName::new("q").unwrap()
    }

    fn held(id: &str, token: i64) -> Held {
        let record = Record::stamp(StoreTime::from_millis(900), &encode(&Spec::bare(false, "1".into())));
        let (due, progress) = (StoreTime::from_millis(1000), Progress::default());
        let delivery = Delivery { queue: queue(), id: JobId::new(id).unwrap(), token, due, record, progress };
        Held { delivery, started: Some(1001), deadline: None }
    }

    fn release(ending: Ending) -> Release {
        Release {
            worker: WorkerId::new("h:p:1:x").unwrap(),
            queues: vec![queue()],
            policies: BTreeMap::new(),
            ending,
            stderr_tail: Some("the end".into()),
            clock: None,
        }
    }

    fn seen(exit: Exit, fate: Option<Fate>) -> Release {
        let running = vec![Posted { queue: queue(), id: JobId::new("a").unwrap(), token: 7 }];
        release(Ending::Seen { exit, fate, running, pool_at_fault: false, peak_kb: 100_000 })
    }

    fn said(outcome: &Outcome) -> String {
        match outcome {
            Outcome::Crashed { cause } => format!("crashed: {cause}"),
            Outcome::Killed { cause } => format!("killed: {cause}"),
            Outcome::TimedOut { .. } => "timed out".into(),
            Outcome::GiveBack => "given back".into(),
            Outcome::Lapsed => "lapsed".into(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn each_end_has_its_outcome() {
        let timed_out = |id: &str| Some(Fate::TimedOut { jobs: vec![("q".into(), id.into())] });
        let stalled = Some(Fate::Stalled { why: "no sign of life".into() });
        for (exit, fate, expected) in [
            (Exit::Signal(6), None, "crashed: signal SIGABRT"),
            (Exit::Code(3), None, "crashed: exit code 3"),
            (Exit::Signal(9), None, "killed: its worker was killed from outside (signal SIGKILL)"),
            (
                Exit::OutOfMemory { signal: 9 },
                None,
                "killed: out of memory: the kernel killed its worker (signal SIGKILL); it was seen with 98 MiB at most",
            ),
            (
                Exit::OutOfMemory { signal: 6 },
                None,
                "crashed: out of memory: its worker was refused memory and aborted (signal SIGABRT); it was seen with 98 MiB at most",
            ),
            (Exit::OutOfMemory { signal: 9 }, Some(Fate::Retired), "given back"),
            (Exit::Code(75), None, "killed: its worker left because it could not renew its lease"),
            (Exit::Code(0), None, "crashed: exit code 0 in mid-job"),
            (Exit::Code(127), None, "given back"),
            (Exit::Signal(9), Some(Fate::Retired), "given back"),
            (Exit::Signal(9), timed_out("a"), "timed out"),
            (Exit::Signal(6), timed_out("another"), "given back"),
            (Exit::Signal(6), stalled, "crashed: stalled: no sign of life"),
        ] {
            let release = seen(exit, fate);
            assert_eq!(said(&release.outcome(&held("a", 7))), expected, "{exit}");
            assert_eq!(said(&release.outcome(&held("b", 7))), "given back", "{exit}");
            assert_eq!(said(&release.outcome(&held("a", 8))), "given back", "{exit}: another delivery");
        }
        assert_eq!(said(&release(Ending::Lapsed).outcome(&held("a", 7))), "lapsed");
        assert!(said(&release(Ending::Unseen).outcome(&held("a", 7))).starts_with("killed"));
        assert_eq!(
            said(&release(Ending::Unseen).outcome(&Held { started: None, ..held("a", 7) })),
            "given back"
        );
    }

    #[test]
    fn what_cannot_be_read_is_dead() {
        let mut broken = held("a", 7);
        broken.delivery.record = Record::new("nonsense".into());
        let settled: Settlement = seen(Exit::Code(0), None).settlement(&broken, &Policy::default(), 0, 0.0).0;
        assert_eq!(settled.event, roundsman_shared::job::lifecycle::Event::AckDead);
    }
}
