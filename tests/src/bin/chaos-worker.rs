//! A worker for chaos runs, on the public handler API: does what its payload says and writes what it does.
//!
//! ```json
//! {"n":17,"ms":25,"fails":1,"then":2,"harm":"abort"}
//! ```
//!
//! sleeps 25 ms, fails its first attempt, returns two follow-up jobs for the queue `next` when it succeeds, and does harm
//! to its worker on the way.
//! `chaos-worker HISTORY` appends to a history of its own in that folder; a line is one write, so it survives the
//! SIGKILL that is meant for it.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use roundsman_shared::job::record;
use roundsman_shared::names::QueueName;
use roundsman_tests::history::{Enqueue, Event, Fault, HistoryWriter, Outcome, digest};
use roundsman_tests::proc::Process;
use roundsman_tests::spawn;
use roundsman_worker::{Context, Failure, FollowUp, Job, Output, Worker};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Where follow-ups go.
const NEXT: &str = "next";
const AGAIN: Duration = Duration::from_millis(20);
/// Bytes.
const FLOOD: usize = 64 << 20;
const BLOAT: usize = 600 << 20;

#[derive(Debug, Deserialize)]
struct Work {
    n: u64,
    #[serde(default)]
    ms: u64,
    /// Attempts up to this one fail.
    #[serde(default)]
    fails: u32,
    /// So many follow-ups.
    #[serde(default)]
    then: usize,
    harm: Option<Harm>,
    #[expect(dead_code, reason = "only to make the job longer")]
    #[serde(default)]
    padding: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Harm {
    /// It never gives its thread back.
    Spin,
    Abort,
    /// It leaves as if all were well.
    Exit,
    /// More on standard error than anybody wants to read.
    Flood,
    /// More memory than its pool allows.
    Bloat,
    /// A child that outlives it, and holds its output open.
    Leave,
}

impl Harm {
    fn make(self, history: &HistoryWriter) -> std::io::Result<()> {
        match self {
            Self::Spin => {
                let own = Process::own();
                let (target_pid, target_start) = (Some(own.pid), Some(own.start));
                history.record(Event::Fault { fault: Fault::Hang, target_pid, target_start, role: None })?;
                loop {
                    std::hint::spin_loop();
                }
            }
            Self::Abort => std::process::abort(),
            #[expect(clippy::disallowed_methods, reason = "that is the harm")]
            Self::Exit => std::process::exit(0),
            Self::Flood => {
                let line = [b'x'; 1023];
                let mut stderr = std::io::stderr().lock();
                for _ in 0..FLOOD / 1024 {
                    stderr.write_all(&line)?;
                    stderr.write_all(b"\n")?;
                }
                Ok(())
            }
            Self::Bloat => {
                let held = vec![1_u8; BLOAT];
                // A look at its memory comes with each beat.
                std::thread::sleep(Duration::from_secs(3));
                drop(std::hint::black_box(held));
                Ok(())
            }
            Self::Leave => {
                let mut command = spawn::command("sleep");
                command.arg("3600");
                spawn::start(command).map(drop)
            }
        }
    }
}

fn main() -> ExitCode {
    let folder = std::env::args_os().nth(1);
    let history = folder.map(|folder| HistoryWriter::create(Path::new(&folder), "worker"));
    match history {
        Some(Ok(history)) => {
            let history = Arc::new(history);
            Worker::new().handle_any(move |job| work(history.clone(), job)).run()
        }
        // The pool is at fault, as when the program were missing.
        Some(Err(_)) | None => ExitCode::from(127),
    }
}

async fn work(history: Arc<HistoryWriter>, job: Job<Box<RawValue>>) -> Result<Output, Failure> {
    let run = Run::start(history, &job)?;
    let work: Work = serde_json::from_str(job.payload.get())?;
    tokio::time::sleep(Duration::from_millis(work.ms)).await;
    if let Some(harm) = work.harm {
        harm.make(&run.history)?;
    }
    run.history.record(Event::Effect {
        queue: job.queue.to_string(),
        id: job.id.to_string(),
        attempt: job.attempt,
        token: run.token,
        sink: "worker".to_owned(),
    })?;
    if job.attempt <= work.fails {
        run.end(Outcome::Retry)?;
        return Err(Failure::retry_after(format!("attempt {} fails on purpose", job.attempt), AGAIN));
    }
    let mut output = Output::new(&work.n)?;
    for index in 0..work.then {
        let follow_up = FollowUp::new(QueueName::new(NEXT)?, serde_json::json!({"n": work.n, "ms": index}));
        run.history.record(Event::FollowUp {
            enqueue: Enqueue {
                queue: NEXT.to_owned(),
                id: id_of_follow_up(&job, index),
                due_ms: None,
                digest: digest(follow_up.payload.to_string().as_bytes()),
            },
            parent_queue: job.queue.to_string(),
            parent_id: job.id.to_string(),
            token: run.token,
        })?;
        output = output.then(follow_up);
    }
    run.end(Outcome::Done)?;
    Ok(output)
}

/// As the worker makes it, so that an audit can find it.
fn id_of_follow_up<T>(job: &Job<T>, index: usize) -> String {
    let seed = format!("{}/{}/{}/{index}", job.queue, job.id, job.token);
    format!("{}-{index}", record::digest(&seed))
}

/// A run from its first act to its last. One that is dropped on the way because it was told to stop is given back; one
/// that its process leaves under it has no end.
struct Run {
    history: Arc<HistoryWriter>,
    queue: String,
    id: String,
    attempt: u32,
    token: u64,
    context: Context,
    over: bool,
}

impl Run {
    fn start(history: Arc<HistoryWriter>, job: &Job<Box<RawValue>>) -> Result<Self, Failure> {
        let run = Self {
            history,
            queue: job.queue.to_string(),
            id: job.id.to_string(),
            attempt: job.attempt,
            token: u64::try_from(job.token)?,
            context: job.context.clone(),
            over: false,
        };
        run.history.record(Event::Start {
            queue: run.queue.clone(),
            id: run.id.clone(),
            attempt: run.attempt,
            token: run.token,
            worker: format!("pid {}", std::process::id()),
            worker_pid: None,
            due_ms: None,
            timeout_ms: u64::try_from(job.timeout.as_millis()).ok(),
            digest: Some(digest(job.payload.get().as_bytes())),
        })?;
        Ok(run)
    }

    fn end(mut self, outcome: Outcome) -> std::io::Result<()> {
        self.say(outcome)
    }

    fn say(&mut self, outcome: Outcome) -> std::io::Result<()> {
        self.over = true;
        self.history.record(Event::End {
            queue: self.queue.clone(),
            id: self.id.clone(),
            attempt: self.attempt,
            token: self.token,
            outcome,
        })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.over && self.context.should_stop() {
            // Nobody is left to be told; the history then shows a run without an end.
            let _ = self.say(Outcome::Released);
        }
    }
}
