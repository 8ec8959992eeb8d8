//! A worker that does what tests want, as `fixture-worker MODE [LOG]`:
//!
//! - `work`: takes jobs and does what each says: `{"sleep": MS}`, `{"first": MS}` (sleeps at its first attempt
//!   only), `{"exit": N}`, `{"abort": 1}`, `{"stuck": 1}` (goes on
//!   after its timeout), `{"daemon": SECONDS}` (leaves a session leader behind that holds the pipes, then dies)
//! - `idle`, `silent` (ready, then never a beat), `mute` (closes its end of the pipe to the master, and lives on), `unread`
//!   (beats, and reads no more of what it is told), `deaf` (heeds neither `stop` nor TERM), `flood` (writes to its standard
//!   error without end), `exit N`
//!
//! Each start of a job is a line `ID PID MICROSECONDS` in the log, by the boot-time clock.

use std::fs::OpenOptions;
use std::io::{BufRead as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use roundsman_shared::assignment::Assignment;
use roundsman_shared::board::Board;
use roundsman_shared::job::settle::Delivery;
use roundsman_shared::job::{Outcome, Run, settle};
use roundsman_shared::launch;
use roundsman_shared::names::QueueName;
use roundsman_shared::protocol::{Doing, FromChild, RunningJob, ToChild};
use roundsman_shared::store::{PullRequest, RenewRequest, Retention, SettleRequest, Store};
use roundsman_tests::pipe_child::{self, Voice};
use roundsman_tests::{spawn, time};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    let second = arguments.next();
    match mode.as_str() {
        "idle" => pipe_child::idle(),
        "exit" => ExitCode::from(second.and_then(|code| code.parse().ok()).unwrap_or(1)),
        "silent" => misbehave(|| {}),
        "mute" => mute(),
        "unread" => unread(),
        "deaf" => misbehave(|| {
            // Ignored by what is started, and by this process: the dispositions are those of its parent's shell.
            let _ = nix::sys::signal::SigSet::from(nix::sys::signal::Signal::SIGTERM).thread_block();
        }),
        "flood" => misbehave(|| {
            std::thread::spawn(|| {
                let line = vec![b'x'; 60_000];
                loop {
                    let _ = std::io::stderr().write_all(&line);
                }
            });
        }),
        "work" => work(second.as_deref().unwrap_or("/dev/null")),
        other => {
            let _ = writeln!(std::io::stderr(), "no such mode: {other}");
            ExitCode::from(64)
        }
    }
}

fn misbehave(how: impl FnOnce()) -> ExitCode {
    how();
    let quiet = std::env::args().nth(1).as_deref() == Some("silent");
    let voice = Voice::hello();
    let orders = pipe_child::orders();
    if pipe_child::welcome(&orders).is_some() {
        if quiet {
            voice.say(&FromChild::Ready);
        } else {
            voice.start();
        }
    }
    sleep_for_ever()
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn mute() -> ExitCode {
    let voice = Voice::hello();
    let orders = pipe_child::orders();
    if pipe_child::welcome(&orders).is_some() {
        voice.say(&FromChild::Ready);
        let nothing = std::fs::File::open("/dev/null").expect("there is /dev/null");
        rustix::stdio::dup2_stdout(nothing).expect("the descriptor is replaced");
    }
    sleep_for_ever()
}

/// Its pipe is made as small as can be and almost filled, so that few lines fill it.
fn unread() -> ExitCode {
    let voice = Voice::hello();
    let mut welcome = String::new();
    if std::io::stdin().lock().read_line(&mut welcome).is_ok_and(|read| read > 0) {
        rustix::pipe::fcntl_setpipe_size(rustix::stdio::stdin(), 4096).expect("it is a pipe");
        let mut own = OpenOptions::new().write(true).open("/proc/self/fd/0").expect("it can be opened");
        own.write_all(&[b'\n'; 4000]).expect("there is room");
        voice.start();
    }
    sleep_for_ever()
}

struct Worker {
    assignment: Assignment,
    store: Store,
    board: Board,
    voice: Voice,
    log: String,
}

fn work(log: &str) -> ExitCode {
    let voice = Voice::hello();
    let orders = pipe_child::orders();
    let Some(work) = pipe_child::welcome(&orders) else { return ExitCode::SUCCESS };
    let assignment: Assignment = serde_json::from_value(work).expect("an assignment");
    let board = Board::open(&spawn::variable(launch::BOARD).expect("a board")).expect("the board opens");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = loop {
            match Store::open(&assignment.store_config()).await {
                Ok(store) => break store,
                Err(_) => voice.now(|beat| beat.store_ok = false),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let (sender, mut wakes) = tokio::sync::mpsc::channel(64);
        std::thread::spawn(move || orders.iter().try_for_each(|order| sender.blocking_send(order)));
        let worker = Worker { assignment, store, board, voice, log: log.to_owned() };
        tokio::spawn(renew(worker.store.clone(), worker.assignment.clone()));
        worker.voice.start();
        worker.pull_all().await;
        while let Some(order) = wakes.recv().await {
            match order {
                ToChild::Wake { .. } | ToChild::Resume => worker.pull_all().await,
                ToChild::Stop { .. } => break,
                _ => {}
            }
        }
        worker.voice.say(&FromChild::Bye { why: "stopped".into(), code: 0 });
        ExitCode::SUCCESS
    })
}

async fn renew(store: Store, assignment: Assignment) {
    loop {
        tokio::time::sleep(assignment.lease / 3).await;
        for (queue, _) in &assignment.queues {
            let (queue, worker) = (queue.clone(), assignment.worker.clone());
            let _ =
                store.renew(&RenewRequest { queue, worker, lease: assignment.lease, marks: vec![] }).await;
        }
    }
}

impl Worker {
    async fn pull_all(&self) {
        for (queue, _) in &self.assignment.queues {
            while self.pull_one(queue).await {}
        }
    }

    async fn pull_one(&self, queue: &QueueName) -> bool {
        let request = PullRequest {
            queue: queue.clone(),
            worker: self.assignment.worker.clone(),
            max: 1,
            lease: self.assignment.lease,
            latest: None,
        };
        let Ok(pulled) = self.store.pull(&request).await else { return false };
        let Some(delivery) = pulled.deliveries.first() else { return false };
        self.log(&delivery.id.to_string());
        let spec = delivery.record.decode().expect("a record");
        let timeout = spec.timeout.unwrap_or_else(|| self.assignment.policy(queue).timeout);
        self.board.post(0, Some((queue, &delivery.id, delivery.token))).expect("the board takes it");
        let job = RunningJob {
            progress: None,
            queue: queue.to_string(),
            id: delivery.id.to_string(),
            attempt: delivery.attempt(),
            ran: 0,
            left: i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX),
        };
        self.voice.now(|beat| {
            beat.doing = Doing::Busy;
            (beat.running, beat.jobs) = (1, vec![job]);
            beat.claimed += 1;
        });
        let begun = time::mono();
        run(&spec.payload, delivery.attempt()).await;
        self.settle(queue, delivery, &spec).await;
        self.board.post(0, None).expect("the board takes it");
        self.voice.now(|beat| {
            beat.doing = Doing::Idle;
            (beat.running, beat.jobs) = (0, vec![]);
            beat.done += 1;
            beat.busy_ms += u64::try_from((time::mono() - begun).as_millis()).unwrap_or(0);
        });
        true
    }

    async fn settle(&self, queue: &QueueName, delivery: &Delivery, spec: &roundsman_shared::job::Spec) {
        let policy = self.assignment.policy(queue);
        let worker = self.assignment.worker.clone();
        let run = Run { worker: worker.clone(), started: None, ended: time::wall_ms(), stderr_tail: None };
        let outcome = Outcome::Done { result: None, follow_ups: vec![], note: None };
        let settlements = vec![settle(delivery, spec, outcome, &run, &policy, 0.0)];
        let retention = Retention::from(&policy);
        let request =
            SettleRequest { queue: queue.clone(), worker, settlements, retention, only_if_lapsed: false };
        let _ = self.store.settle(&request).await;
    }

    fn log(&self, id: &str) {
        let line = format!("{id} {} {}\n", std::process::id(), time::boot_us());
        let mut file = OpenOptions::new().create(true).append(true).open(&self.log).expect("the log opens");
        file.write_all(line.as_bytes()).expect("the log takes it");
    }
}

async fn run(payload: &str, attempt: u32) {
    let payload: serde_json::Value = serde_json::from_str(payload).unwrap_or_default();
    let number = |key: &str| payload.get(key).and_then(serde_json::Value::as_u64);
    let _ = writeln!(std::io::stderr(), "running {payload}");
    if let Some(ms) = number("sleep").or_else(|| number("first").filter(|_| attempt == 1)) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    if let Some(seconds) = number("daemon") {
        let mut command = spawn::command("setsid");
        command.args(["sleep", &seconds.to_string()]);
        let _ = spawn::start(command);
        tokio::time::sleep(Duration::from_millis(200)).await;
        std::process::abort();
    }
    if number("abort").is_some() {
        std::process::abort();
    }
    if let Some(code) = number("exit") {
        leave(i32::try_from(code).unwrap_or(1));
    }
    if number("stuck").is_some() {
        loop {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
    }
}

#[expect(clippy::disallowed_methods, clippy::exit, reason = "a job that ends its worker")]
fn leave(code: i32) -> ! {
    std::process::exit(code)
}
