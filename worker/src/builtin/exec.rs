//! `exec`: one process a job. The payload comes on its standard input, the job's facts in its environment, the result
//! from its standard output, the verdict from its exit code.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;

use roundsman_shared::clock::Wall;
use roundsman_shared::exit;
use roundsman_shared::job::settle::Outcome;
use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;

use super::capture;
use crate::api::{Context, Ended, Failure, Handler, Patience, Run};
use crate::session::Task;
use crate::spawn;

/// Between being asked to end and being killed.
const GRACE: Duration = Duration::from_secs(2);
/// How long a program's pipes are read after it has ended: a grandchild may hold them.
const LINGER: Duration = Duration::from_millis(100);
/// A job that asks to be called later (exit code 75) is called after this.
const SNOOZE: Duration = Duration::from_secs(30);

/// See the module's text.
pub(super) struct Exec {
    shared: Rc<Shared>,
}

struct Shared {
    command: Vec<String>,
    env: BTreeMap<String, String>,
    slots: usize,
    /// The leaders that run now: what else is a child of this process has been orphaned by one of them.
    leaders: RefCell<Vec<u32>>,
}

impl Exec {
    pub(super) fn new(command: Vec<String>, env: BTreeMap<String, String>, slots: usize) -> Self {
        spawn::adopt_orphans();
        Self { shared: Rc::new(Shared { command, env, slots, leaders: RefCell::default() }) }
    }
}

impl Handler for Exec {
    fn start(&self, task: &Task, context: Context) -> Run {
        let (shared, task) = (self.shared.clone(), task.clone());
        Box::pin(async move { run(&shared, &task, context).await })
    }

    fn patience(&self) -> Patience {
        Patience::Wait(GRACE + Duration::from_secs(4))
    }
}

/// The facts of a job that a program finds in its environment.
fn facts(task: &Task) -> Vec<(&'static str, String)> {
    let deadline =
        Wall::now().as_millis().saturating_add(i64::try_from(task.timeout.as_millis()).unwrap_or(i64::MAX));
    let mut facts = vec![
        ("ROUNDSMAN_JOB_ID", task.id.to_string()),
        ("ROUNDSMAN_QUEUE", task.queue.to_string()),
        ("ROUNDSMAN_KIND", task.spec.kind.clone().unwrap_or_default()),
        ("ROUNDSMAN_ATTEMPT", task.attempt.to_string()),
        ("ROUNDSMAN_TOKEN", task.token.to_string()),
        ("ROUNDSMAN_DEADLINE", deadline.to_string()),
    ];
    if let Some(trace) = task.spec.headers.get("traceparent") {
        facts.push(("TRACEPARENT", trace.clone()));
    }
    facts
}

async fn run(shared: &Shared, task: &Task, mut context: Context) -> Ended {
    let mut program = match spawn::start(&shared.command, &shared.env, &facts(task)) {
        Ok(program) => program,
        Err(error) => return cannot_start(shared, &error),
    };
    let leader = program.child.id().unwrap_or(0);
    shared.leaders.borrow_mut().push(leader);
    let (stdin, stdout, stderr) =
        (program.child.stdin.take(), program.child.stdout.take(), program.child.stderr.take());
    let kept = Rc::new(RefCell::new(Vec::new()));
    let talk = {
        let kept = kept.clone();
        async move {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A program need not read its payload.
                    let _ = stdin.write_all(task.spec.payload.as_bytes()).await;
                    let _ = stdin.write_all(b"\n").await;
                }
            };
            let hear = async {
                match stdout {
                    Some(stdout) => capture::head(stdout, capture::MAX_RESULT).await,
                    None => (Vec::new(), false),
                }
            };
            let note = async {
                if let Some(stderr) = stderr {
                    capture::tail(stderr, kept).await;
                }
            };
            let ((), heard, ()) = tokio::join!(feed, hear, note);
            heard
        }
    };
    let mut talk = std::pin::pin!(talk);
    let mut heard = None;
    let mut stopping = false;
    let status = loop {
        let kill_after = async {
            if stopping {
                tokio::time::sleep(GRACE).await;
            } else {
                context.stopped().await;
            }
        };
        tokio::select! {
            biased;
            status = program.child.wait() => break status,
            all = &mut talk, if heard.is_none() => heard = Some(all),
            () = kill_after => {
                program.signal(if stopping { Signal::KILL } else { Signal::TERM });
                stopping = true;
            }
        }
    };
    // The group outlives its leader by nothing: what it left behind goes with it.
    program.signal(Signal::KILL);
    shared.leaders.borrow_mut().retain(|pid| *pid != leader);
    let token = (shared.slots > 1).then_some(task.token);
    spawn::sweep(&shared.leaders.borrow(), token);
    if heard.is_none() {
        heard = tokio::time::timeout(LINGER, &mut talk).await.ok();
    }
    let stderr_tail = capture::text(&kept.borrow());
    match status {
        Ok(status) => verdict(status, heard, stderr_tail, shared),
        Err(error) => Failure::retry(format!("the program could not be waited for: {error}")).into(),
    }
}

fn cannot_start(shared: &Shared, error: &std::io::Error) -> Ended {
    let why = format!("{} cannot be started: {error}", shared.command.first().map_or("", String::as_str));
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => exit::NO_PROGRAM,
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::InvalidInput => exit::NOT_EXECUTABLE,
        // ENOEXEC has no kind of its own.
        _ if error.raw_os_error() == Some(8) => exit::NOT_EXECUTABLE,
        _ => return Failure::retry(why).into(),
    };
    Ended { unfit: Some((code, why)), ..Outcome::GiveBack.into() }
}

fn verdict(
    status: ExitStatus,
    heard: Option<(Vec<u8>, bool)>,
    stderr_tail: Option<String>,
    shared: &Shared,
) -> Ended {
    let last_words = || {
        stderr_tail
            .as_deref()
            .and_then(|text| text.lines().last())
            .map(|line| format!(": {line}"))
            .unwrap_or_default()
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    let outcome = match code {
        Some(exit::OK) => {
            let (bytes, cut) = heard.unwrap_or_default();
            capture::done(&bytes, cut)
        }
        Some(exit::TRY_AGAIN) => Outcome::Snooze(SNOOZE),
        Some(exit::DATA) => Outcome::Dead { error: format!("exit code {}{}", exit::DATA, last_words()) },
        Some(code @ (exit::NOT_EXECUTABLE | exit::NO_PROGRAM)) => {
            let why = format!("{} exited with {code}{}", shared.command.join(" "), last_words());
            return Ended { stderr_tail, unfit: Some((code, why)), ..Outcome::GiveBack.into() };
        }
        _ => {
            let how = match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => format!("killed by signal {}", signal_name(signal)),
                (None, None) => "it ended strangely".to_owned(),
            };
            Outcome::Retry { error: format!("{how}{}", last_words()), after: None }
        }
    };
    Ended { stderr_tail, ..outcome.into() }
}

/// `SIGTERM (15)`.
pub(super) fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| signal.to_string(), |name| format!("{name} ({signal})"))
}
