//! Starting programs, and the environment they are given; nothing else in this crate does either.
//!
//! A program that a test starts must not outlive it, even when the test is killed. Drop takes care of the usual
//! end; for the other one Linux has the parent-death signal, which util-linux's `setpriv` sets without unsafe
//! code of ours. That signal follows the *thread* that forked, so every program is started by one thread that
//! lives as long as the process: a test's own thread may end while a fixture it made lives on.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{LazyLock, Mutex, PoisonError};

/// A variable of our own environment, when set and readable as text.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    raw_variable(name)?.into_string().ok()
}

#[expect(clippy::disallowed_methods, reason = "the one place in this crate that reads the environment")]
fn raw_variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// A command with our environment.
#[expect(clippy::disallowed_methods, reason = "the one place in this crate that makes commands")]
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// A command that is killed by the kernel when this process ends, where `setpriv` is found.
///
/// `setpriv` becomes the program (same pid), so that signals and exit codes are the program's own.
#[must_use]
pub fn bound_command(program: impl AsRef<OsStr>) -> Command {
    static SETPRIV: LazyLock<Option<PathBuf>> = LazyLock::new(|| find("setpriv"));
    match SETPRIV.as_deref() {
        Some(setpriv) if cfg!(target_os = "linux") => {
            let mut bound = command(setpriv);
            bound.args(["--pdeathsig", "KILL", "--"]).arg(program);
            bound
        }
        _ => command(program),
    }
}

/// Starts a program from the immortal thread. The child may be waited for from any thread.
///
/// # Errors
/// As [`Command::spawn`].
pub fn start(command: Command) -> io::Result<Child> {
    type Order = (Command, SyncSender<io::Result<Child>>);
    static SPAWNER: LazyLock<Mutex<SyncSender<Order>>> = LazyLock::new(|| {
        let (orders, inbox) = sync_channel::<Order>(1);
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // A caller that is gone (its test panicked) leaves the child to the parent-death signal.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, answer) = sync_channel(1);
    let orders = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner).clone();
    orders.send((command, reply)).map_err(|_gone| io::Error::other("the spawning thread is gone"))?;
    answer.recv().map_err(|_gone| io::Error::other("the spawning thread is gone"))?
}

/// Runs a program to its end with piped output.
///
/// # Errors
/// As [`Command::output`].
pub fn output(mut command: Command) -> io::Result<Output> {
    use std::process::Stdio;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    start(command)?.wait_with_output()
}

/// The program's path by our `PATH`.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = raw_variable("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_a_program_to_its_end() {
        let mut command = bound_command("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let done = output(command).unwrap();
        assert_eq!(
            (done.status.code(), &*done.stdout, &*done.stderr),
            (Some(3), &b"out\n"[..], &b"err\n"[..])
        );
    }

    #[test]
    fn a_missing_program_is_an_error_or_127() {
        let ended = output(bound_command("/no/such/program"));
        assert!(ended.map_or(true, |done| done.status.code() == Some(127)));
    }

    #[test]
    fn a_program_survives_the_thread_that_asked_for_it() {
        let asked = std::thread::spawn(|| {
            let mut command = bound_command("sleep");
            command.arg("600");
            start(command).unwrap()
        });
        let mut child = asked.join().unwrap();
        assert!(crate::proc::Process::of(child.id()).is_some_and(|it| it.is_alive()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
