//! Faults: written to the history first, then made, to a process known by pid and start time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use roundsman_tests::history::{Cause, Event, Fault, HistoryWriter, Role};
use roundsman_tests::proc::Process;
use roundsman_tests::spawn;
use rustix::process::Signal;

use crate::Failure;

/// The processes of a fleet, as the kernel shows them.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) master: Option<Process>,
    /// What the master started.
    pub(crate) workers: Vec<Process>,
}

impl Tree {
    pub(crate) fn of(supervisor: Process) -> Self {
        // Orphans of an earlier master are the supervisor's children too.
        let is_master = |it: &Process| it.command_line().is_some_and(|line| line.contains(" master"));
        let master = supervisor.children().into_iter().find(is_master);
        let workers = master.map(Process::children).unwrap_or_default();
        Self { master, workers: workers.into_iter().filter(|it| it.is_alive()).collect() }
    }
}

/// Makes a fault. Answers whether there was still a process to suffer it.
pub(crate) fn strike(
    history: &HistoryWriter,
    target: Process,
    role: Role,
    fault: Fault,
) -> Result<bool, Failure> {
    let signal = match fault {
        Fault::Kill | Fault::StoreKill | Fault::BrokerKill => Signal::KILL,
        Fault::Stop | Fault::StoreStop => Signal::STOP,
        Fault::Continue | Fault::StoreContinue => Signal::CONT,
        Fault::Term => Signal::TERM,
        Fault::Hang | Fault::ClockStep | Fault::ChannelKill => {
            return Err(format!("{fault:?} is no signal").into());
        }
    };
    if !target.is_alive() {
        return Ok(false);
    }
    history.record(Event::Fault {
        fault,
        target_pid: Some(target.pid),
        target_start: Some(target.start),
        role: Some(role),
    })?;
    Ok(target.signal(signal).is_ok())
}

/// Programs that want a processor, each all of it; they end with this.
#[derive(Debug)]
pub(crate) struct Crowd(Vec<Child>);

impl Crowd {
    const SIZE: usize = 4;

    pub(crate) fn start() -> std::io::Result<Self> {
        let mut crowd = Self(Vec::new());
        for _ in 0..Self::SIZE {
            let mut command = spawn::bound_command("sh");
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            crowd.0.push(spawn::start(command)?);
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for one in &mut self.0 {
            let _ = (one.kill(), one.wait());
        }
    }
}

/// Sees each worker that wrote a history die, whoever ended it: by that a run without an end is known to be over.
/// Whoever else it is told to follow, too.
#[derive(Debug)]
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    /// Who else is watched.
    others: Arc<Mutex<Vec<Process>>>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Watcher {
    /// How late a death may be seen.
    const LOOK: Duration = Duration::from_millis(10);

    pub(crate) fn start(folder: PathBuf) -> Result<Self, Failure> {
        let history = HistoryWriter::create(&folder, "watcher")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let others = Arc::<Mutex<Vec<Process>>>::default();
        let told = others.clone();
        let watch = move || -> std::io::Result<()> {
            // `false` once its death was written.
            let mut known: BTreeMap<Process, bool> = BTreeMap::new();
            loop {
                let last = stopped.load(Ordering::Relaxed);
                for entry in std::fs::read_dir(&folder)? {
                    let name = entry?.file_name();
                    if let Some(process) = writer_of(&name.to_string_lossy()) {
                        known.entry(process).or_insert(true);
                    }
                }
                for process in told.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                    known.entry(process).or_insert(true);
                }
                for (process, alive) in &mut known {
                    if *alive && !process.is_alive() {
                        *alive = false;
                        let (target_pid, target_start) = (process.pid, Some(process.start));
                        history.record(Event::Death { target_pid, target_start, cause: Cause::Exited })?;
                    }
                }
                if last {
                    return Ok(());
                }
                std::thread::sleep(Self::LOOK);
            }
        };
        let thread = std::thread::spawn(move || watch().map_err(|error| error.to_string()));
        Ok(Self { stop, others, thread: Some(thread) })
    }

    pub(crate) fn follow(&self, process: Process) {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).push(process);
    }

    pub(crate) fn end(mut self) -> Result<(), Failure> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(done)) => Ok(done?),
            _ => Err("the watcher panicked".into()),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// `worker-PID-START-N.history.jsonl`
fn writer_of(name: &str) -> Option<Process> {
    let mut parts = name.strip_prefix("worker-")?.split('-');
    Some(Process { pid: parts.next()?.parse().ok()?, start: parts.next()?.parse().ok()? })
}
