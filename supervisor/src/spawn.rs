//! Starting the master; nothing else here starts a process.
//!
//! The process has one thread, so that the parent-death signals of children cannot fire early and no other start can
//! inherit the ends of these pipes. Signals are caught by handlers, which a started program does not inherit, and no
//! signal is ever blocked, which it would.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use roundsman_shared::launch;

/// What service managers say to this process alone.
const OURS_ALONE: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    launch::BOARD,
];

/// A started master. It is reaped by its pid, and by nothing else.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
}

/// Starts the running program once more in the role of `master`, in a process group of its own.
///
/// # Errors
/// When the system cannot make a process or pipes.
pub(crate) fn master(nonce: u64, our_stdout: &OwnedFd) -> io::Result<Started> {
    let mut command = own_program()?;
    for name in OURS_ALONE {
        command.env_remove(name);
    }
    let mut child = command
        .arg("master")
        .env(launch::PARENT, std::process::id().to_string())
        .env(launch::NONCE, nonce.to_string())
        .env(launch::STDOUT, our_stdout.as_raw_fd().to_string())
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("a started process has no pipes"));
    };
    Ok(Started { pid: child.id(), stdin, stdout })
}

/// The image that runs now, even if the file on disk is another by now.
#[expect(clippy::disallowed_methods, reason = "the one place in this crate that starts a process")]
fn own_program() -> io::Result<Command> {
    let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
    let mut command = Command::new(program);
    // For `ps`, which would show /proc/self/exe.
    command.arg0("roundsman");
    Ok(command)
}
