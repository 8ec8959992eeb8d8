//! The master with real processes, signals and stores; this test plays its supervisor.
#![expect(clippy::unwrap_used, reason = "a test fails by it, its helpers too")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use roundsman_shared::clock::Wall;
use roundsman_shared::job::spec::{Limits, parse};
use roundsman_shared::job::view::{Found, Place};
use roundsman_shared::job::{FinalState, State};
use roundsman_shared::launch::{self, MasterStart};
use roundsman_shared::names::{JobId, Namespace, QueueName};
use roundsman_shared::protocol::{FromChild, StopMode, ToChild, decode, encode};
use roundsman_shared::store::{Store, StoreConfig, StorePlace};
use roundsman_tests::proc::Process;
use roundsman_tests::redis_server::{RedisOptions, RedisServer};
use roundsman_tests::tree::built;
use roundsman_tests::wait::wait_for;
use roundsman_tests::{spawn, time};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

/// A store, settings, and the master of one host.
struct Site {
    runtime: tokio::runtime::Runtime,
    store: Store,
    queue: QueueName,
    folder: TempDir,
    redis: RedisServer,
}

/// A running master.
struct Master {
    child: Child,
    process: Process,
    stdin: Option<ChildStdin>,
    heard: Arc<Mutex<Vec<FromChild>>>,
    stderr: PathBuf,
    seen: BTreeSet<Process>,
}

impl Site {
    /// `pool` is the pool's part of the settings, without its command.
    fn new(mode: &[&str], pool: &str) -> Self {
        let redis = RedisServer::start(RedisOptions::default()).unwrap();
        let folder = tempfile::Builder::new().prefix("roundsman-master-").tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let namespace = Namespace::new("roundsman").unwrap();
        let config = StoreConfig { place: StorePlace::Redis(redis.url()), namespace, lease: 15 * SECOND };
        let store = runtime.block_on(Store::open(&config)).unwrap();
        let worker = built("fixture-worker").unwrap().display().to_string();
        let mut command = if mode.first() == Some(&"sh") { vec![] } else { vec![worker] };
        command.extend(mode.iter().map(|&it| it.to_owned()));
        let site = Self { runtime, store, queue: QueueName::new("q").unwrap(), folder, redis };
        if mode == ["work"] {
            command.push(site.log_path().display().to_string());
        }
        let url = site.redis.url();
        let settings = format!(
            "[store]\nurl = \"{url}\"\n[http]\nlisten = \"\"\n[pools.p]\nqueues = [\"q\"]\ncommand = {}\n{pool}\n",
            json!(command)
        );
        fs::write(site.folder.path().join("roundsman.toml"), settings).unwrap();
        site
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("starts")
    }

    fn master(&self) -> Master {
        let mut command = spawn::bound_command(built("real-master").unwrap());
        let stderr = self.folder.path().join(format!("stderr-{}", time::mono_us()));
        command.env_clear();
        if let Some(path) = spawn::variable("PATH") {
            command.env("PATH", path);
        }
        command
            .env("HOME", self.folder.path())
            .env(launch::PARENT, std::process::id().to_string())
            .env(launch::NONCE, "7")
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr).unwrap());
        let mut child = spawn::start(command).unwrap();
        let process = Process::of(child.id()).unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (lines, heard_too) = (BufReader::new(child.stdout.take().unwrap()).lines(), heard.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Ok(Some(message)) = decode::<FromChild>(&line) {
                    heard_too.lock().unwrap().push(message);
                }
            }
        });
        let start = MasterStart {
            config: None,
            alone: false,
            files: None,
            overrides: vec![],
            host: "box".into(),
            supervisor_pid: std::process::id(),
            scaled: BTreeMap::new(),
            heir: None,
            handover: None,
        };
        let welcome = ToChild::Welcome { v: 1, work: serde_json::to_value(start).unwrap() };
        stdin.write_all(encode(&welcome).as_bytes()).unwrap();
        Master { child, process, stdin: Some(stdin), heard, stderr, seen: BTreeSet::new() }
    }

    fn enqueue(&self, job: &Value) -> JobId {
        let limits = Limits { max_payload: 1 << 20, now: Wall::now() };
        let job = parse(&job.to_string(), &limits).unwrap();
        let id = job.id.clone();
        self.runtime.block_on(self.store.enqueue(&self.queue, &[job], 1_000_000)).unwrap();
        id
    }

    /// The host's entry in the registry.
    fn record(&self) -> Option<Value> {
        let records = self.runtime.block_on(self.store.hosts()).ok()?;
        records
            .iter()
            .filter_map(|text| serde_json::from_str::<Value>(text).ok())
            .find(|it| it["host"] == "box")
    }

    fn workers(&self) -> Vec<(String, Process, String)> {
        let record = self.record().unwrap_or_default();
        let workers = record["pools"][0]["workers"].as_array().cloned().unwrap_or_default();
        let read = |worker: &Value| {
            let process = Process::of(u32::try_from(worker["pid"].as_u64()?).ok()?)?;
            Some((worker["worker"].as_str()?.to_owned(), process, worker["state"].as_str()?.to_owned()))
        };
        workers.iter().filter_map(read).collect()
    }

    fn wait_workers(&self, state: &str, count: usize) -> Vec<Process> {
        wait_for(&format!("{count} {state} workers"), SOON, || {
            let workers = self.workers();
            let there: Vec<Process> =
                workers.iter().filter(|(_, _, is)| is == state).map(|(_, process, _)| *process).collect();
            if there.len() == count { Ok(there) } else { Err(format!("{:?}", self.record())) }
        })
        .unwrap()
    }

    /// Starts of jobs so far: id, pid, microseconds.
    fn starts(&self) -> Vec<(String, u32, u64)> {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let read = |line: &str| {
            let mut words = line.split(' ');
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        text.lines().filter_map(read).collect()
    }

    /// The n-th start of a job, from 0: pid and microseconds.
    fn wait_start(&self, id: &JobId, n: usize, within: Duration) -> (u32, u64) {
        wait_for(&format!("start {n} of {id}"), within, || {
            let starts = self.starts();
            let found = starts.iter().filter(|(it, _, _)| it == id.as_str()).nth(n);
            found.map(|(_, pid, at)| (*pid, *at)).ok_or_else(|| format!("{starts:?} {:?}", self.record()))
        })
        .unwrap()
    }

    fn look(&self, id: &JobId) -> Option<Found> {
        let found = self.runtime.block_on(self.store.look(&self.queue, std::slice::from_ref(id))).ok()?;
        found.into_iter().next().flatten()
    }

    fn wait_state(&self, id: &JobId, state: State, within: Duration) -> Found {
        wait_for(&format!("{id} to be {state:?}"), within, || match self.look(id) {
            Some(found) if found.state() == state => Ok(found),
            other => Err(format!("{other:?}")),
        })
        .unwrap()
    }
}

impl Master {
    fn say(&mut self, message: &ToChild) {
        let line = encode(message);
        let _ = self.stdin.as_mut().map(|stdin| stdin.write_all(line.as_bytes()));
    }

    fn stop(&mut self, mode: StopMode, by: Duration) {
        let by_ms = u64::try_from(by.as_millis()).unwrap();
        self.say(&ToChild::Stop { mode, by_ms, why: "test".into() });
    }

    fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let status = wait_for("the master to leave", within, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        status.unwrap_or_else(|late| panic!("{late}\n{}", self.log()))
    }

    fn log(&self) -> String {
        let bytes = fs::read(&self.stderr).unwrap_or_default();
        String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(8000)..]).into_owned()
    }

    /// Remembers everything below it, to be found when its parents are gone.
    fn remember(&mut self) {
        self.seen.extend(self.process.descendants());
        let known: Vec<Process> = self.seen.iter().copied().collect();
        self.seen.extend(known.iter().flat_map(|process| process.descendants()));
    }

    fn alive(&mut self) -> Vec<Process> {
        self.remember();
        self.seen.iter().copied().filter(|process| process.is_alive()).collect()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.remember();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "the master's log:\n{}", self.log());
        }
        self.stop(StopMode::Release, Duration::ZERO);
        let _ = wait_for("the master to leave", Duration::from_secs(3), || match self.child.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in self.alive() {
            let _ = process.signal(Signal::KILL);
        }
    }
}

fn percentile(values: &mut [u64], share: usize) -> u64 {
    values.sort_unstable();
    values[(values.len() * share / 100).min(values.len() - 1)]
}

fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "measured: {text}");
}

#[test]
fn a_killed_worker_is_replaced_and_its_job_runs_elsewhere_at_once() {
    let site = Site::new(&["work"], "min_workers = 2\nmax_workers = 3");
    let _master = site.master();
    let mut delays = Vec::new();
    for round in 0..15 {
        site.wait_workers("idle", 2);
        let id = site.enqueue(&json!({"id": format!("k{round}"), "payload": {"first": 60_000}}));
        let (pid, _) = site.wait_start(&id, 0, SOON);
        let killed = time::boot_us();
        Process::of(pid).unwrap().signal(Signal::KILL).unwrap();
        let (other, at) = site.wait_start(&id, 1, SOON);
        assert_ne!(pid, other);
        delays.push(at - killed);
        let replaced = wait_for("the replacement", SOON, || {
            let workers = site.workers();
            let fit = workers.len() >= 2 && workers.iter().all(|(_, process, _)| process.pid != pid);
            if fit { Ok(time::boot_us()) } else { Err(format!("{workers:?}")) }
        })
        .unwrap();
        assert!(replaced - killed < 1_500_000, "{} us", replaced - killed);
        let found = site.wait_state(&id, State::Done, SOON);
        assert_eq!((found.progress.killed, found.progress.crashes, found.progress.failures), (1, 0, 0));
    }
    let (median, worst) = (percentile(&mut delays, 50), percentile(&mut delays, 100));
    note(&format!("kill to start elsewhere: p50 {median} us, worst {worst} us"));
    assert!(median < 100_000 && worst < 1_000_000, "{delays:?}");
}

#[test]
fn a_crash_is_charged_with_its_cause() {
    let site = Site::new(&["work"], "min_workers = 1\nmax_workers = 2");
    let _master = site.master();
    site.wait_workers("idle", 1);
    let id = site.enqueue(&json!({"id": "crash", "payload": {"abort": 1}}));
    site.wait_start(&id, 1, SOON);
    let found = wait_for("two crashes", SOON, || match site.look(&id) {
        Some(found) if found.progress.crashes == 2 => Ok(found),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    let attempt = &found.progress.attempts[0];
    assert!(attempt.error.as_deref().unwrap().contains("signal SIGABRT"), "{attempt:?}");
    assert!(attempt.stderr_tail.as_deref().unwrap().contains("running"), "{attempt:?}");
    assert_eq!(found.state(), State::Scheduled, "the second re-run waits");
}

#[test]
fn a_stopped_worker_is_replaced_after_the_silence_and_not_before() {
    let site = Site::new(&["work"], "min_workers = 2\nmax_workers = 3");
    let _master = site.master();
    let workers = site.wait_workers("idle", 2);
    workers[0].signal(Signal::STOP).unwrap();
    workers[1].signal(Signal::STOP).unwrap();
    std::thread::sleep(3 * SECOND);
    workers[1].signal(Signal::CONT).unwrap();
    let begun = time::mono();
    wait_for("the stopped worker to be gone", SOON, || {
        if workers[0].is_alive() { Err(workers[0].to_string()) } else { Ok(()) }
    })
    .unwrap();
    let silent = time::mono() - begun + 3 * SECOND;
    assert!(silent > Duration::from_millis(8500) && silent < 14 * SECOND, "{silent:?}");
    wait_for("a replacement", SOON, || {
        let workers = site.workers();
        if workers.len() == 2 { Ok(()) } else { Err(format!("{workers:?}")) }
    })
    .unwrap();
    assert!(workers[1].is_alive());
}

/// Waits until the one worker is another than this; something may be done before each look.
fn wait_replaced(site: &Site, worker: Process, mut before_a_look: impl FnMut()) -> Duration {
    let begun = time::mono();
    wait_for("the worker to be replaced", SOON, || {
        before_a_look();
        let others = site.workers().iter().any(|(_, process, _)| *process != worker);
        if others && !worker.is_alive() { Ok(()) } else { Err(format!("{:?}", site.record())) }
    })
    .unwrap();
    time::mono() - begun
}

#[test]
fn a_worker_that_closes_its_pipe_and_lives_on_is_replaced() {
    let site = Site::new(&["mute"], "min_workers = 1\nmax_workers = 1");
    let _master = site.master();
    let worker = wait_for("the worker", SOON, || {
        site.workers().first().map(|(_, process, _)| *process).ok_or_else(|| format!("{:?}", site.record()))
    });
    let took = wait_replaced(&site, worker.unwrap(), || {});
    note(&format!("its end of the pipe closed → replaced: {took:?}"));
    assert!(took < 14 * SECOND, "{took:?}");
}

#[test]
fn a_worker_that_does_not_read_its_pipe_is_replaced() {
    let site = Site::new(&["unread"], "min_workers = 1\nmax_workers = 1");
    let _master = site.master();
    let worker = site.wait_workers("idle", 1)[0];
    let mut jobs = 0;
    // Each is a line to the worker, which says by its beats that it is idle.
    let took = wait_replaced(&site, worker, || {
        site.enqueue(&json!({"id": format!("w{jobs}"), "payload": jobs}));
        jobs += 1;
    });
    note(&format!("its pipe unread → replaced: {took:?}"));
}

#[test]
fn a_missing_program_is_quarantined_and_the_backlog_stays() {
    let site = Site::new(&["sh", "-c", "echo x >> starts; exit 127"], "min_workers = 1\nmax_workers = 4");
    let _master = site.master();
    let ids: Vec<JobId> =
        (0..3).map(|n| site.enqueue(&json!({"id": format!("b{n}"), "payload": n}))).collect();
    let why = wait_for("quarantine", SOON, || {
        let record = site.record().unwrap_or_default();
        record["pools"][0]["quarantined"].as_str().map(str::to_owned).ok_or_else(|| record.to_string())
    })
    .unwrap();
    assert!(why.contains("127"), "{why}");
    let starts = || fs::read_to_string(site.log_path()).unwrap_or_default().lines().count();
    let before = starts();
    assert!(before <= 4, "{before}");
    std::thread::sleep(3 * SECOND);
    assert_eq!(starts(), before);
    for id in ids {
        let found = site.look(&id).unwrap();
        assert_eq!((found.state(), found.progress.attempt), (State::Ready, 0));
    }
}

#[test]
fn what_a_dead_worker_leaves_behind_is_ended_though_it_holds_the_pipes() {
    let site = Site::new(&["work"], "min_workers = 1\nmax_workers = 2");
    let mut master = site.master();
    site.wait_workers("idle", 1);
    let id = site.enqueue(&json!({"id": "d", "payload": {"daemon": 600}}));
    let (pid, _) = site.wait_start(&id, 0, SOON);
    let daemon = wait_for("the daemon", SOON, || {
        master.remember();
        let found = master.seen.iter().find(|it| it.command_line().is_some_and(|line| line == "sleep 600"));
        found.copied().ok_or_else(|| format!("{:?}", master.seen))
    })
    .unwrap();
    site.wait_start(&id, 1, SOON);
    assert!(!daemon.is_alive(), "it was gone before its job was given to another");
    assert!(!Process::of(pid).is_some_and(Process::is_alive));
}

#[test]
fn a_flood_of_errors_costs_neither_memory_nor_the_log() {
    let site = Site::new(&["flood"], "min_workers = 1\nmax_workers = 1");
    let master = site.master();
    site.wait_workers("idle", 1);
    let cpu = master.process.cpu_time().unwrap();
    std::thread::sleep(5 * SECOND);
    let (pss, cpu) = (master.process.pss().unwrap(), master.process.cpu_time().unwrap().saturating_sub(cpu));
    let log = fs::metadata(&master.stderr).unwrap().len();
    note(&format!("under a flood: {} KiB, {cpu:?} of processor in 5 s, log {log} bytes", pss / 1024));
    assert!(pss < 20 << 20, "{pss}");
    assert!(log < 1 << 20, "{log}");
    assert!(cpu < 2 * SECOND, "{cpu:?}");
    assert_eq!(site.workers().len(), 1);
}

#[test]
fn a_drain_lets_jobs_finish_and_gives_the_rest_back() {
    let site = Site::new(&["work"], "min_workers = 2\nmax_workers = 2");
    let mut master = site.master();
    site.wait_workers("idle", 2);
    let short = site.enqueue(&json!({"id": "short", "payload": {"sleep": 1500}}));
    let long = site.enqueue(&json!({"id": "long", "payload": {"sleep": 60_000}}));
    site.wait_start(&short, 0, SOON);
    site.wait_start(&long, 0, SOON);
    master.remember();
    master.stop(StopMode::Drain, 3 * SECOND);
    assert_eq!(master.wait_exit(SOON).code(), Some(0));
    assert_eq!(site.look(&short).unwrap().state(), State::Done);
    let long = site.look(&long).unwrap();
    assert_eq!((long.state(), long.progress.attempt, long.progress.killed), (State::Ready, 0, 0));
    assert_eq!(master.alive(), []);
    assert_eq!(site.record(), None, "it has left the registry");
    let heard = master.heard.lock().unwrap();
    assert!(matches!(heard.first(), Some(FromChild::Hello { nonce: 7, .. })));
    assert!(matches!(heard.last(), Some(FromChild::Bye { code: 0, .. })), "{:?}", heard.last());
}

#[test]
fn a_worker_that_heeds_nothing_is_ended_step_by_step() {
    let site = Site::new(&["deaf"], "min_workers = 1\nmax_workers = 1");
    let mut master = site.master();
    site.wait_workers("idle", 1);
    master.remember();
    let begun = time::mono();
    master.stop(StopMode::Drain, SECOND);
    assert_eq!(master.wait_exit(SOON).code(), Some(0));
    let took = time::mono() - begun;
    assert!(took > 5 * SECOND && took < 10 * SECOND, "{took:?}");
    assert_eq!(master.alive(), []);
}

#[test]
fn a_job_that_goes_on_after_its_timeout_ends_its_worker() {
    let site = Site::new(&["work"], "min_workers = 1\nmax_workers = 1");
    let _master = site.master();
    site.wait_workers("idle", 1);
    let id = site.enqueue(&json!({"id": "s", "timeout": "1s", "payload": {"stuck": 1}}));
    let (pid, _) = site.wait_start(&id, 0, SOON);
    let found = wait_for("the failure", SOON, || match site.look(&id) {
        Some(found) if found.progress.failures == 1 => Ok(found),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    assert_eq!((found.progress.crashes, found.progress.killed), (0, 0));
    assert!(!Process::of(pid).is_some_and(Process::is_alive));
}

#[test]
fn without_its_supervisor_a_master_drains_and_leaves() {
    let site = Site::new(&["work"], "min_workers = 2\nmax_workers = 2");
    let mut master = site.master();
    site.wait_workers("idle", 2);
    let id = site.enqueue(&json!({"id": "o", "payload": {"sleep": 2000}}));
    site.wait_start(&id, 0, SOON);
    master.remember();
    drop(master.stdin.take());
    assert_eq!(master.wait_exit(SOON).code(), Some(0));
    assert_eq!(site.look(&id).unwrap().state(), State::Done);
    assert_eq!(master.alive(), []);
}

#[test]
fn the_next_master_releases_what_the_workers_of_the_dead_one_held() {
    let site = Site::new(&["work"], "min_workers = 1\nmax_workers = 1");
    let mut first = site.master();
    site.wait_workers("idle", 1);
    let id = site.enqueue(&json!({"id": "n", "payload": {"first": 60_000}}));
    let (pid, _) = site.wait_start(&id, 0, SOON);
    site.wait_workers("busy", 1);
    first.remember();
    first.process.signal(Signal::KILL).unwrap();
    let _second = site.master();
    let orphan = Process::of(pid).unwrap();
    wait_for("the second master's worker", SOON, || {
        let workers = site.workers();
        let other = workers.iter().any(|(_, process, _)| process.pid != pid);
        if other { Ok(()) } else { Err(format!("{workers:?}")) }
    })
    .unwrap();
    assert!(orphan.is_alive(), "a running job is left alone");
    assert_eq!(site.look(&id).unwrap().state(), State::Running);
    let killed = time::boot_us();
    orphan.signal(Signal::KILL).unwrap();
    let (_, at) = site.wait_start(&id, 1, SOON);
    note(&format!("orphan's end to start elsewhere: {} us", at - killed));
    assert!(at - killed < 1_000_000, "{} us", at - killed);
}

#[test]
fn from_zero_the_first_job_starts_at_once_and_an_idle_pool_shrinks_again() {
    let site = Site::new(&["work"], "min_workers = 0\nmax_workers = 2");
    let mut master = site.master();
    wait_for("the entry", SOON, || site.record().ok_or_else(|| "none".to_owned())).unwrap();
    let begun = time::boot_us();
    let id = site.enqueue(&json!({"id": "z", "payload": 1}));
    let (_, at) = site.wait_start(&id, 0, SOON);
    note(&format!("from zero: {} ms", (at - begun) / 1000));
    assert!(at - begun < 1_000_000, "{} us", at - begun);
    site.wait_state(&id, State::Done, SOON);
    wait_for("an empty pool", 2 * SOON, || {
        let alive: Vec<String> = master
            .alive()
            .iter()
            .filter_map(|it| it.command_line())
            .filter(|line| line.contains("work"))
            .collect();
        if alive.is_empty() { Ok(()) } else { Err(format!("{alive:?}")) }
    })
    .unwrap();
}

#[test]
fn timers_are_on_time_and_wakes_are_fast() {
    let site = Site::new(&["work"], "min_workers = 2\nmax_workers = 2");
    let _master = site.master();
    site.wait_workers("idle", 2);
    let mut late = Vec::new();
    let mut direct = Vec::new();
    let clock_offset = i64::try_from(time::wall_us()).unwrap() - i64::try_from(time::boot_us()).unwrap();
    for n in 0..30 {
        let due = time::wall_ms() + 40 + n;
        let id = site.enqueue(&json!({"id": format!("t{n}"), "due": due, "payload": 1}));
        let (_, at) = site.wait_start(&id, 0, SOON);
        let started = i64::try_from(at).unwrap() + clock_offset;
        assert!(started >= due * 1000, "early by {} us", due * 1000 - started);
        late.push(u64::try_from(started - due * 1000).unwrap());
        let begun = time::boot_us();
        let id = site.enqueue(&json!({"id": format!("i{n}"), "payload": 1}));
        direct.push(site.wait_start(&id, 0, SOON).1 - begun);
    }
    let text = |values: &mut Vec<u64>| {
        format!("p50 {} us, p95 {} us", percentile(values, 50), percentile(values, 95))
    };
    note(&format!("due to start: {}; enqueue to start: {}", text(&mut late), text(&mut direct)));
    assert!(percentile(&mut late, 50) < 20_000 && percentile(&mut direct, 50) < 20_000);
}

#[test]
fn a_hundred_idle_workers_cost_next_to_nothing() {
    let site = Site::new(&["idle"], "min_workers = 100\nmax_workers = 100");
    let mut master = site.master();
    site.wait_workers("idle", 100);
    // What the scripts call is left out: these are the calls of clients.
    let commands = || {
        let calls = |line: &str| line.split(['=', ',']).nth(1)?.parse::<u64>().ok();
        let stats = site.redis.info("commandstats");
        let named = stats.iter().filter(|(name, _)| name.ends_with("_evalsha") || name.ends_with("_hset"));
        named.filter_map(|(_, line)| calls(line)).sum::<u64>()
    };
    let (before, cpu) = (commands(), master.process.cpu_time().unwrap());
    let begun = time::mono();
    std::thread::sleep(10 * SECOND);
    let (after, cpu) = (commands(), master.process.cpu_time().unwrap().saturating_sub(cpu));
    let seconds = (time::mono() - begun).as_secs_f64();
    let rate = f64::from(u32::try_from(after - before).unwrap()) / seconds;
    let pss = master.process.pss().unwrap() / 1024;
    note(&format!(
        "100 idle workers: {rate:.1} commands/s, {:.2} % of a processor, {pss} KiB",
        cpu.as_secs_f64() / seconds * 100.0
    ));
    assert!(pss < 20 * 1024);
    master.stop(StopMode::Drain, SECOND);
    assert_eq!(master.wait_exit(SOON).code(), Some(0));
}

#[test]
fn a_store_that_is_away_stops_nobody() {
    let mut site = Site::new(&["work"], "min_workers = 1\nmax_workers = 1");
    let _master = site.master();
    let workers = site.wait_workers("idle", 1);
    let id = site.enqueue(&json!({"id": "away", "payload": {"first": 60_000}}));
    let (pid, _) = site.wait_start(&id, 0, SOON);
    site.redis.stop_process().unwrap();
    // Its end is seen while the store is away, and its job is given back once it is there again.
    Process::of(pid).unwrap().signal(Signal::KILL).unwrap();
    std::thread::sleep(4 * SECOND);
    site.redis.continue_process().unwrap();
    site.wait_start(&id, 1, SOON);
    let found = site.wait_state(&id, State::Done, SOON);
    assert_eq!((found.progress.killed, &found.place), (1, &Place::Ended));
    assert_eq!(found.progress.state, Some(FinalState::Done));
    assert_eq!(workers[0].pid, pid);
    let _ = &mut site;
}
