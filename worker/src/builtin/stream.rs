//! `stream`: one long-lived program in any language. It reads a JSON line a job on its standard input and answers by a
//! JSON line on its standard output, in any order. Its standard error is logged.
//!
//! ```text
//!   {"id":"…","kind":null,"payload":…,"attempt":1,"token":…,"deadline":…}  ──▶ program
//!   {"id":"…","ok":true,"result":…}  or  {"id":"…","ok":false,"error":"…","retry":false}  ◀── program
//! ```
//! The program is started with the first job. When it dies, the jobs that it had are charged with a crash, and it is
//! started again with the next one, unless it left by itself, with 0, after having worked: then it may never have read
//! them; a job over its timeout, or cancelled, costs the program its life, and its other jobs
//! go back uncharged. Jobs that come meanwhile wait until it is gone, with all that it started.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::unix::process::ExitStatusExt as _;
use std::rc::Rc;
use std::time::Duration;

use roundsman_shared::clock::Wall;
use roundsman_shared::exit;
use roundsman_shared::job::progress::tail;
use roundsman_shared::job::settle::Outcome;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::{mpsc, oneshot};

use super::capture::MAX_TAIL;
use crate::api::{Context, Ended, Handler, Patience, Run};
use crate::session::Task;
use crate::spawn;

/// Bytes of an answer.
const MAX_ANSWER: u64 = 1024 * 1024;
/// Where the id of an answer that is too long is looked for.
const HEAD: usize = 512;
/// Jobs that may wait for the program to read them: as many as there can be slots.
const WAITING: usize = 256;
/// How long the pipes of a program that has ended are read on.
const LINGER: Duration = Duration::from_millis(50);
/// Lines of standard error that are logged a second; the rest is dropped.
const LOGGED: u32 = 100;

#[derive(Serialize)]
struct Question<'a> {
    id: &'a str,
    kind: Option<&'a str>,
    payload: &'a RawValue,
    attempt: u32,
    token: i64,
    /// Unix ms.
    deadline: i64,
}

/// Of an answer that is wrong otherwise.
#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct AnswerLine {
    id: String,
    ok: bool,
    #[serde(default)]
    result: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    retry: Option<bool>,
}

type Waiting = Rc<RefCell<HashMap<String, VecDeque<oneshot::Sender<Ended>>>>>;

/// See the module's text.
pub(super) struct Stream {
    shared: Rc<Shared>,
}

struct Shared {
    command: Vec<String>,
    env: BTreeMap<String, String>,
    live: RefCell<Option<Live>>,
}

/// A running program.
#[derive(Clone)]
struct Live {
    lines: mpsc::Sender<String>,
    waiting: Waiting,
    kill: Rc<tokio::sync::Notify>,
    /// It is killed by us: no job is given to it any more, and none that it has is charged.
    doomed: Rc<Cell<bool>>,
}

impl Stream {
    pub(super) fn new(command: Vec<String>, env: BTreeMap<String, String>) -> Self {
        spawn::adopt_orphans();
        Self { shared: Rc::new(Shared { command, env, live: RefCell::default() }) }
    }
}

impl Handler for Stream {
    fn start(&self, task: &Task, context: Context) -> Run {
        let (shared, task) = (self.shared.clone(), task.clone());
        Box::pin(async move { ask(&shared, &task, context).await })
    }

    fn patience(&self) -> Patience {
        Patience::Wait(Duration::from_secs(4))
    }
}

async fn ask(shared: &Rc<Shared>, task: &Task, mut context: Context) -> Ended {
    let doomed = shared.live.borrow().clone().filter(|live| live.doomed.get());
    if let Some(live) = doomed {
        tokio::select! {
            biased;
            () = live.lines.closed() => {}
            () = context.stopped() => return Outcome::GiveBack.into(),
        }
    }
    let live = match program(shared) {
        Ok(live) => live,
        Err(ended) => return *ended,
    };
    let (answer, mut answered) = oneshot::channel();
    live.waiting.borrow_mut().entry(task.id.to_string()).or_default().push_back(answer);
    let question = question(task);
    if live.lines.send(question).await.is_err() {
        // It died in this moment; the answer says how.
        return answered.await.unwrap_or_else(|_| Outcome::GiveBack.into());
    }
    tokio::select! {
        biased;
        answer = &mut answered => answer.unwrap_or_else(|_| Outcome::GiveBack.into()),
        () = context.stopped() => {
            // Nothing else can stop a job in it. The other jobs hear of it once the program is gone.
            live.doomed.set(true);
            live.kill.notify_one();
            answered.await.unwrap_or_else(|_| Outcome::GiveBack.into())
        }
    }
}

fn question(task: &Task) -> String {
    let payload = RawValue::from_string(task.spec.payload.clone()).expect("a stored payload is JSON");
    let timeout = i64::try_from(task.timeout.as_millis()).unwrap_or(i64::MAX);
    let question = Question {
        id: task.id.as_str(),
        kind: task.spec.kind.as_deref(),
        payload: &payload,
        attempt: task.attempt,
        token: task.token,
        deadline: Wall::now().as_millis().saturating_add(timeout),
    };
    let mut line = serde_json::to_string(&question).expect("plain data serialises");
    line.push('\n');
    line
}

/// The running program, started if need be.
fn program(shared: &Rc<Shared>) -> Result<Live, Box<Ended>> {
    if let Some(live) = shared.live.borrow().as_ref().filter(|live| !live.lines.is_closed()) {
        return Ok(live.clone());
    }
    let mut program = spawn::start(&shared.command, &shared.env, &[]).map_err(|error| {
        let why = format!("{} cannot be started: {error}", shared.command.join(" "));
        let code = match error.kind() {
            std::io::ErrorKind::NotFound => exit::NO_PROGRAM,
            _ => exit::NOT_EXECUTABLE,
        };
        Box::new(Ended { unfit: Some((code, why)), ..Outcome::GiveBack.into() })
    })?;
    let (lines, mut to_write) = mpsc::channel::<String>(WAITING);
    let live = Live { lines, waiting: Waiting::default(), kill: Rc::default(), doomed: Rc::default() };
    *shared.live.borrow_mut() = Some(live.clone());
    let (stdin, stdout, stderr) =
        (program.child.stdin.take(), program.child.stdout.take(), program.child.stderr.take());
    let last_words = Rc::new(RefCell::new(String::new()));
    let (waiting, kill, doomed) = (live.waiting.clone(), live.kill.clone(), live.doomed.clone());
    let shared = shared.clone();
    let useful = Rc::new(Cell::new(false));
    spawn_local(async move {
        let status = {
            let write = async {
                if let Some(mut stdin) = stdin {
                    while let Some(line) = to_write.recv().await {
                        if stdin.write_all(line.as_bytes()).await.is_err() {
                            break;
                        }
                    }
                }
                // It reads no more: its exit is near, or its timeouts are.
                std::future::pending::<()>().await;
            };
            let read = async {
                if let Some(stdout) = stdout {
                    hear(BufReader::new(stdout), &waiting, &useful, &last_words).await;
                }
            };
            let log = async {
                if let Some(stderr) = stderr {
                    log(BufReader::new(stderr), &last_words).await;
                }
            };
            let mut write = std::pin::pin!(write);
            // What it wrote before an answer is read before that answer.
            let mut listen = std::pin::pin!(async { tokio::join!(biased; log, read) });
            let mut listening = true;
            loop {
                tokio::select! {
                    biased;
                    status = program.child.wait() => {
                        // What it said before it died still counts. Something that it left behind may hold the pipes.
                        if listening {
                            let _ = tokio::time::timeout(LINGER, &mut listen).await;
                        }
                        break status;
                    }
                    () = kill.notified() => program.signal(Signal::KILL),
                    _ = &mut listen, if listening => listening = false,
                    () = &mut write => {}
                }
            }
        };
        program.signal(Signal::KILL);
        spawn::sweep(&[], None);
        let ended = match &status {
            Ok(status) => died(*status, &last_words.borrow()),
            Err(error) => format!("the program could not be waited for: {error}"),
        };
        let status = status.ok();
        let crashed = status.is_some_and(|status| !status.success());
        let unfit = status.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
        let unfit = unfit.filter(|code| [exit::NOT_EXECUTABLE, exit::NO_PROGRAM].contains(code));
        let stderr_tail = Some(last_words.borrow().clone()).filter(|text| !text.is_empty());
        let all: Vec<_> = waiting.borrow_mut().drain().flat_map(|(_, senders)| senders).collect();
        // Closed before the answers go out, so that the next job starts another program.
        drop(to_write);
        *shared.live.borrow_mut() = None;
        for sender in all {
            let outcome = match unfit {
                Some(_) => Outcome::GiveBack,
                None if doomed.get() => Outcome::GiveBack,
                None if crashed => Outcome::Crashed { cause: ended.clone() },
                // It left in good order between two jobs, as a program that guards against leaks does; the next one
                // that leaves with these unanswered has done nothing else.
                None if useful.get() => Outcome::GiveBack,
                None => Outcome::Retry { error: format!("{ended}, without an answer"), after: None },
            };
            let unfit = unfit.map(|code| (code, ended.clone()));
            let _ = sender.send(Ended { stderr_tail: stderr_tail.clone(), unfit, ..outcome.into() });
        }
    });
    Ok(live)
}

fn died(status: std::process::ExitStatus, last_words: &str) -> String {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("the program exited with {code}"),
        (None, Some(signal)) => format!("the program was killed by {}", super::exec::signal_name(signal)),
        (None, None) => "the program ended strangely".to_owned(),
    };
    match last_words.lines().last() {
        Some(line) => format!("{how}: {line}"),
        None => how,
    }
}

/// A task that lives on the slots' thread.
fn spawn_local(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(task);
}

async fn hear(
    mut from: impl tokio::io::AsyncBufRead + Unpin,
    waiting: &Waiting,
    useful: &Cell<bool>,
    last_words: &RefCell<String>,
) {
    let mut line = Vec::new();
    let mut strange = 0_u64;
    loop {
        line.clear();
        match (&mut from).take(MAX_ANSWER).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let is_cut = line.last() != Some(&b'\n') && line.len() as u64 >= MAX_ANSWER;
        if is_cut && !skip_line(&mut from).await {
            return;
        }
        let (id, outcome) = match serde_json::from_slice::<AnswerLine>(&line) {
            Ok(answer) => (answer.id.clone(), answer.outcome()),
            Err(error) => match named(&line, is_cut, waiting) {
                Some(id) if is_cut => {
                    let error = format!("the program's answer has more than {MAX_ANSWER} bytes");
                    (id, Outcome::Dead { error })
                }
                Some(id) => {
                    let error = format!("the program's answer cannot be read: {error}");
                    (id, Outcome::Retry { error, after: None })
                }
                None => {
                    strange += 1;
                    if strange.is_power_of_two() {
                        let said = String::from_utf8_lossy(line.get(..80).unwrap_or(&line)).into_owned();
                        tracing::warn!(
                            said,
                            lines = strange,
                            "the program printed something that is no answer; it is ignored"
                        );
                    }
                    continue;
                }
            },
        };
        let sender = {
            let mut waiting = waiting.borrow_mut();
            let senders = waiting.get_mut(&id);
            let sender = senders.and_then(VecDeque::pop_front);
            waiting.retain(|_, senders| !senders.is_empty());
            sender
        };
        let Some(sender) = sender else {
            tracing::warn!(id = %tail(&id, 128), "an answer to a job that was not asked; it is ignored");
            continue;
        };
        useful.set(true);
        // They belong to this job as likely as to another: none that it dies with is blamed for them.
        last_words.borrow_mut().clear();
        let _ = sender.send(outcome.into());
    }
}

/// Reads on to the end of the line; answers whether there is more after it.
async fn skip_line(from: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> bool {
    loop {
        let Ok(bytes) = from.fill_buf().await else { return false };
        if bytes.is_empty() {
            return false;
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(bytes.len(), |end| end + 1);
        from.consume(used);
        if end.is_some() {
            return true;
        }
    }
}

/// The job that a line is about which is no answer otherwise: it names one that is waited for.
fn named(line: &[u8], is_cut: bool, waiting: &Waiting) -> Option<String> {
    if !is_cut {
        let named: Named = serde_json::from_slice(line).ok()?;
        return waiting.borrow().contains_key(&named.id).then_some(named.id);
    }
    let start = String::from_utf8_lossy(line.get(..HEAD).unwrap_or(line)).into_owned();
    let is_named = |id: &&String| start.contains(&format!("\"{id}\""));
    waiting.borrow().keys().find(is_named).cloned()
}

impl AnswerLine {
    fn outcome(self) -> Outcome {
        if self.ok {
            Outcome::Done {
                result: self.result.filter(|raw| raw.get() != "null"),
                follow_ups: Vec::new(),
                note: None,
            }
        } else {
            let error = self.error.unwrap_or_else(|| "the program gave no reason".to_owned());
            match self.retry {
                Some(false) => Outcome::Dead { error },
                _ => Outcome::Retry { error, after: None },
            }
        }
    }
}

async fn log(mut from: impl tokio::io::AsyncBufRead + Unpin, last_words: &Rc<RefCell<String>>) {
    let mut line = Vec::new();
    let mut logged = (roundsman_shared::clock::Mono::now(), 0);
    loop {
        line.clear();
        match (&mut from).take(16 * 1024).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let mut kept = last_words.borrow_mut();
        kept.push_str(&text);
        if kept.len() > MAX_TAIL {
            *kept = tail(&kept, MAX_TAIL);
        }
        let now = roundsman_shared::clock::Mono::now();
        if now.since(logged.0) > Duration::from_secs(1) {
            logged = (now, 0);
        }
        logged.1 += 1;
        if logged.1 <= LOGGED {
            tracing::info!(target: "handler", "{}", text.trim_end());
        }
    }
}
