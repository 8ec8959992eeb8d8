//! The process of a worker that is kept: its start, its output, its signals and its whole tree.
//!
//! It starts through [`become_worker`], which asks the kernel to kill it when its keeper dies and then becomes the command:
//! only the process itself can ask that.

use std::ffi::OsString;
use std::io::{self, Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::foreign::KeepSpec;
use roundsman_shared::settings::StopSignal;
use roundsman_shared::{exit, launch};
use roundsman_worker::{adopt_orphans, children, sweep};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};

/// The first argument of a process that becomes a worker.
pub const SHIM: &str = "kept-worker";
const READ: usize = 16 * 1024;
/// For its last words, once nobody is left who could say more.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Nothing is ever sent: that the other end is gone is all there is to hear.
enum Never {}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Code(u8),
    Signal(i32),
}

/// A worker that was started.
pub(super) struct Program {
    child: Mutex<Child>,
    pid: Pid,
    ended: Arc<AtomicBool>,
    last_line: Arc<Mutex<Option<Mono>>>,
    /// Closed when all of its output was handed on.
    said: Receiver<Never>,
}

impl Program {
    /// Starts it, as the leader of a process group of its own. Called from the thread that lives as long as the keeper.
    pub(super) fn start(spec: &KeepSpec) -> io::Result<Self> {
        adopt_orphans();
        #[expect(clippy::disallowed_methods, reason = "this is the place")]
        let mut command = Command::new("/proc/self/exe");
        command.arg0("roundsman").arg(SHIM).arg(std::process::id().to_string()).args(&spec.command);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let last_line = Arc::new(Mutex::new(None));
        let (saying, said) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            forward("stdout", stdout, Some(last_line.clone()), saying.clone())?;
        }
        if let Some(stderr) = child.stderr.take() {
            forward("stderr", stderr, None, saying)?;
        }
        let ended = Arc::new(AtomicBool::new(false));
        let flag = ended.clone();
        std::thread::Builder::new().name("exit".to_owned()).spawn(move || {
            // It stays a zombie, so that its pid is nobody else's, until all of its group is dead.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(rustix::process::waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {
            }
            flag.store(true, Ordering::Release);
        })?;
        Ok(Self { child: Mutex::new(child), pid, ended, last_line, said })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn last_line(&self) -> Option<Mono> {
        *self.last_line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the worker itself to stop; one that is stopped by a signal has to go on for that.
    pub(super) fn stop(&self, signal: StopSignal) {
        let signal = match signal {
            StopSignal::Term => Signal::TERM,
            StopSignal::Int => Signal::INT,
            StopSignal::Quit => Signal::QUIT,
            StopSignal::Hup => Signal::HUP,
            StopSignal::Usr1 => Signal::USR1,
            StopSignal::Usr2 => Signal::USR2,
        };
        for signal in [signal, Signal::CONT] {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    pub(super) fn kill(&self) {
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }

    /// What the worker itself holds in memory; its children are not counted.
    pub(super) fn rss_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero()));
        let line = |text: String| text.lines().find_map(|line| Some(line.strip_prefix("VmRSS:")?.to_owned()));
        let number = |line: String| line.split_whitespace().next()?.parse().ok();
        status.ok().and_then(line).and_then(number).unwrap_or(0)
    }

    /// Takes in what the worker's tree has left behind and what has ended since.
    pub(super) fn reap_orphans(&self) {
        let own = self.pid.as_raw_nonzero().get();
        for pid in children().into_iter().filter_map(|pid| i32::try_from(pid).ok()).filter(|pid| *pid != own)
        {
            let _ = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
        }
    }

    /// Ends what is left of the worker's tree; answers how the worker itself ended.
    pub(super) fn finish(&self) -> End {
        self.kill();
        let status = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
        sweep(&[], None);
        let _ = self.said.recv_timeout(LAST_WORDS);
        match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => End::Code(u8::try_from(code).unwrap_or(exit::FAILED)),
                (None, Some(signal)) => End::Signal(signal),
                (None, None) => End::Code(exit::FAILED),
            },
            Err(_) => End::Code(exit::FAILED),
        }
    }
}

/// Hands on to this process's standard error, which the master reads at a bounded rate, and notes when a line ended.
/// A thread, since nobody may wait for a log; it ends with the last holder of the pipe, or with this process.
fn forward(
    name: &str,
    mut pipe: impl Read + Send + 'static,
    lines: Option<Arc<Mutex<Option<Mono>>>>,
    saying: Sender<Never>,
) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _saying = saying;
        let mut buffer = vec![0; READ];
        loop {
            let read = match pipe.read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            let bytes = buffer.get(..read).unwrap_or_default();
            if let Some(last) = lines.as_ref().filter(|_| bytes.contains(&b'\n')) {
                *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Mono::now());
            }
            // Without a master nobody reads it.
            let _ = io::stderr().lock().write_all(bytes);
        }
    })?;
    Ok(())
}

/// `roundsman kept-worker KEEPER COMMAND…`: becomes the command, which dies with its keeper. Answers why it could not.
pub fn become_worker(arguments: &[OsString]) -> u8 {
    let (Some(keeper), Some((program, rest))) =
        (arguments.get(2), arguments.get(3..).and_then(<[_]>::split_first))
    else {
        return exit::USAGE;
    };
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The keeper may have died before that was asked.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if parent.as_deref() != keeper.to_str() {
        return exit::FAILED;
    }
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    let mut command = Command::new(program);
    command.args(rest);
    for name in [launch::PARENT, launch::NONCE, launch::BOARD, launch::STDOUT] {
        command.env_remove(name);
    }
    let error = command.exec();
    let _ = writeln!(io::stderr(), "cannot start {}: {error}", program.to_string_lossy());
    if error.kind() == io::ErrorKind::NotFound { exit::NO_PROGRAM } else { exit::NOT_EXECUTABLE }
}

/// Ends this process by a signal, without a core: that would be the keeper's, of no use to anybody.
pub(super) fn die_by(signal: i32) {
    use nix::sys::signal::{Signal as Number, raise};
    use rustix::process::{Resource, Rlimit, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let Ok(number) = Number::try_from(signal) else { return };
    // The first of a fault's own may be taken by the runtime, which then steps aside.
    for _ in 0..2 {
        let _ = raise(number);
    }
}
