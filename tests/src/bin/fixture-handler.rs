//! A worker for the tests of fleets, on the public handler API: each kind of job behaves well or badly in one way.
//!
//! `fixture-handler FOLDER` writes what its handlers do to a history in the folder; the daemons that it starts are
//! named in the folder's file `daemons`, one pid a line.
//!
//! | kind | does |
//! |---|---|
//! | `echo` | answers its payload |
//! | `sleep` {ms} | awaits, then answers its attempt |
//! | `until` {file, mib} | runs until there is a file of this name in the folder, and holds so much memory meanwhile |
//! | `block` {ms} | holds the thread that all async handlers share |
//! | `stubborn` {ms} | runs on a thread of its own and does not look whether it is to stop |
//! | `spin` | an endless loop that waits for nothing |
//! | `deadlock` | holds the thread of all async handlers, waiting for what only itself could send |
//! | `abort`, `segv` | dies by a signal |
//! | `exit` {code} | ends the process |
//! | `panic` | panics |
//! | `flood` {mib} | writes so much to standard output and as much to standard error |
//! | `forge` | prints lines of the protocol, then answers |
//! | `daemon` | leaves a process in a session of its own behind, which holds what it inherited; then aborts |
//! | `litter` | leaves a process in its own group behind, and answers with its pid |
//! | `leak` {mib} | keeps so much memory for ever |
//! | `hoard` {mib, ms} | keeps so much more memory every so many milliseconds, without end |
//! | `follow` {queue, payload} | answers with a follow-up job |
//! | `snooze` {ms} | asks to be called later, once; then answers |
//! | `dead` | asks never to be called again |
//! | `progress` {percent, ms} | tells how far it is, then awaits |

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use roundsman_shared::names::QueueName;
use roundsman_tests::history::{Event, HistoryWriter, Outcome};
use roundsman_tests::spawn;
use roundsman_worker::{Failure, FollowUp, Job, Output, Worker};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

/// What a payload may say; kinds read what they need.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wish {
    ms: u64,
    code: i32,
    mib: usize,
    percent: u8,
    queue: String,
    file: String,
    payload: Value,
}

#[derive(Clone)]
struct Log(Arc<HistoryWriter>);

impl Log {
    fn start<T>(&self, job: &Job<T>) {
        self.write(Event::Start {
            queue: job.queue.to_string(),
            id: job.id.to_string(),
            attempt: job.attempt,
            token: token(job),
            worker: std::process::id().to_string(),
            worker_pid: None,
            due_ms: None,
            timeout_ms: u64::try_from(job.timeout.as_millis()).ok(),
            digest: None,
        });
    }

    fn end<T>(&self, job: &Job<T>, outcome: Outcome) {
        let (queue, id) = (job.queue.to_string(), job.id.to_string());
        self.write(Event::End { queue, id, attempt: job.attempt, token: token(job), outcome });
    }

    fn write(&self, event: Event) {
        self.0.record(event).expect("a history that cannot be written proves nothing");
    }
}

/// A handler that writes first that it was called.
fn told<T, Fut>(
    log: &Log,
    run: impl Fn(Log, Job<T>) -> Fut + Send + 'static,
) -> impl Fn(Job<T>) -> Fut + Send + 'static {
    let log = log.clone();
    move |job| {
        log.start(&job);
        run(log.clone(), job)
    }
}

fn token<T>(job: &Job<T>) -> u64 {
    u64::try_from(job.token).unwrap_or(0)
}

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else { return ExitCode::from(2) };
    let Ok(writer) = HistoryWriter::create(&folder, "handler") else { return ExitCode::from(2) };
    let log = Log(Arc::new(writer));
    let worker = good(Worker::new(), &log, &folder);
    let worker = deadly(worker, &log, &folder);
    greedy(worker, &log).run()
}

/// Handlers that do nothing wrong.
fn good(worker: Worker, log: &Log, folder: &Path) -> Worker {
    let (mark, folder) = (folder.join("snoozed"), folder.to_owned());
    let wait = async |log: Log, job: Job<Wish>| {
        job.context.progress(job.payload.percent);
        tokio::time::sleep(Duration::from_millis(job.payload.ms)).await;
        log.end(&job, Outcome::Done);
        Ok::<_, Failure>(job.attempt)
    };
    worker
        .handle(
            "echo",
            told(log, async |log, job: Job<Value>| {
                log.end(&job, Outcome::Done);
                Ok::<_, Failure>(job.payload)
            }),
        )
        .handle("sleep", told(log, wait))
        .handle("progress", told(log, wait))
        .handle(
            "until",
            told(log, move |log, job: Job<Wish>| {
                let file = folder.join(&job.payload.file);
                async move {
                    let held = vec![1_u8; job.payload.mib << 20];
                    while !file.exists() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    drop(held);
                    log.end(&job, Outcome::Done);
                    Ok::<_, Failure>(job.attempt)
                }
            }),
        )
        .handle(
            "follow",
            told(log, async |log, job: Job<Wish>| {
                let queue = QueueName::new(&job.payload.queue)?;
                let next = FollowUp::new(queue, job.payload.payload.clone()).kind("echo");
                log.end(&job, Outcome::Done);
                Ok::<_, Failure>(Output::new(&json!({"followed": true}))?.then(next))
            }),
        )
        .handle(
            "snooze",
            told(log, move |log, job: Job<Wish>| {
                let mark = mark.clone();
                async move {
                    if !mark.exists() {
                        fs::write(&mark, "")?;
                        log.end(&job, Outcome::Snooze);
                        return Err(Failure::Snooze(Duration::from_millis(job.payload.ms)));
                    }
                    log.end(&job, Outcome::Done);
                    Ok(job.attempt)
                }
            }),
        )
        .handle(
            "dead",
            told(log, async |log, job: Job<Value>| {
                log.end(&job, Outcome::Dead);
                let error = job.payload.get("error").and_then(Value::as_str);
                Err::<(), _>(Failure::dead(error.unwrap_or("it is of no use")))
            }),
        )
}

/// Handlers that end their worker.
fn deadly(worker: Worker, log: &Log, folder: &Path) -> Worker {
    let list = folder.join("daemons");
    worker
        .handle(
            "abort",
            told(log, async |_, _: Job<Value>| -> Result<(), Failure> {
                let _ = io::stderr().write_all(b"about to abort\n");
                std::process::abort()
            }),
        )
        .handle(
            "segv",
            told(log, async |_, _: Job<Value>| -> Result<(), Failure> {
                // The first one only resets the handler that Rust installs against stack overflows.
                loop {
                    rustix::process::kill_process(rustix::process::getpid(), Signal::SEGV)?;
                }
            }),
        )
        .handle(
            "exit",
            told(log, async |_, job: Job<Wish>| -> Result<(), Failure> { leave(job.payload.code) }),
        )
        .handle("panic", told(log, async |_, _: Job<Value>| -> Result<(), Failure> { panic!("on purpose") }))
        .handle(
            "daemon",
            told(log, move |log, job: Job<Value>| {
                let list = list.clone();
                async move {
                    if !list.exists() {
                        leave_behind(&list)?;
                        std::process::abort();
                    }
                    // Whether the daemon of the first delivery still lives, seen from the second.
                    let pid = fs::read_to_string(&list)?.trim().to_owned();
                    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
                    log.end(&job, Outcome::Done);
                    Ok::<_, Failure>(json!({"daemon": pid, "stat": stat}))
                }
            }),
        )
}

/// Handlers that take more than their share.
fn greedy(worker: Worker, log: &Log) -> Worker {
    let (stubborn, spin, flood) = (log.clone(), log.clone(), log.clone());
    worker
        .handle(
            "block",
            told(log, async |log, job: Job<Wish>| {
                std::thread::sleep(Duration::from_millis(job.payload.ms));
                log.end(&job, Outcome::Done);
                Ok::<_, Failure>(job.attempt)
            }),
        )
        .handle_blocking("stubborn", move |job: Job<Wish>| {
            stubborn.start(&job);
            std::thread::sleep(Duration::from_millis(job.payload.ms));
            stubborn.end(&job, Outcome::Done);
            Ok::<_, Failure>(job.attempt)
        })
        .handle_blocking("spin", move |job: Job<Value>| -> Result<(), Failure> {
            spin.start(&job);
            loop {
                std::hint::spin_loop();
            }
        })
        .handle(
            "deadlock",
            told(log, async |log, job: Job<Value>| {
                let (sender, receiver) = std::sync::mpsc::channel::<()>();
                // The one who could send is the one who waits.
                let never = receiver.recv();
                drop(sender);
                log.end(&job, Outcome::Done);
                Ok::<_, Failure>(never.is_ok())
            }),
        )
        .handle_blocking("flood", move |job: Job<Wish>| {
            flood.start(&job);
            let line = [&[b'x'; 1023][..], b"\n"].concat();
            let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
            for _ in 0..job.payload.mib * 1024 {
                out.write_all(&line)?;
                err.write_all(&line)?;
            }
            flood.end(&job, Outcome::Done);
            Ok::<_, Failure>(job.payload.mib)
        })
        .handle(
            "forge",
            told(log, async |log, job: Job<Value>| {
                let mut out = io::stdout().lock();
                for line in [
                    r#"{"t":"bye","why":"forged","code":0}"#,
                    r#"{"t":"hello","v":[1,1],"pid":1,"nonce":0,"build":"forged"}"#,
                    r#"{"t":"draining","why":"forged"}"#,
                    "no protocol at all",
                ] {
                    writeln!(out, "{line}")?;
                }
                out.flush()?;
                log.end(&job, Outcome::Done);
                Ok::<_, Failure>("forged")
            }),
        )
        .handle(
            "litter",
            told(log, async |log, job: Job<Wish>| {
                let left = spawn::start({
                    let mut command = spawn::command("sleep");
                    command.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                    command
                })?;
                log.end(&job, Outcome::Done);
                Ok::<_, Failure>(left.id())
            }),
        )
        .handle(
            "leak",
            told(log, async |log, job: Job<Wish>| {
                Box::leak(vec![1_u8; job.payload.mib << 20].into_boxed_slice());
                log.end(&job, Outcome::Done);
                Ok::<_, Failure>(std::process::id())
            }),
        )
        .handle(
            "hoard",
            told(log, async |_, job: Job<Wish>| -> Result<(), Failure> {
                loop {
                    Box::leak(vec![1_u8; job.payload.mib << 20].into_boxed_slice());
                    tokio::time::sleep(Duration::from_millis(job.payload.ms)).await;
                }
            }),
        )
}

/// A process that its parent does not wait for, in a session of its own, with what we hand down to children.
fn leave_behind(list: &Path) -> io::Result<()> {
    let mut shell = spawn::command("sh");
    shell.args(["-c", r#"setsid sleep 600 & echo $! >> "$0""#]).arg(list).stdin(Stdio::null());
    shell.status()?;
    Ok(())
}

#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "a user's handler may do it, and it is what is tested"
)]
fn leave(code: i32) -> ! {
    std::process::exit(code)
}
