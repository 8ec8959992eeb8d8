//! Starting the master; nothing else here starts a process.
//!
//! The process has one thread, so that the parent-death signals of children cannot fire early and no other start can
//! inherit the ends of these pipes. Signals are caught by handlers, which a started program does not inherit, and no
//! signal is ever blocked, which it would.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
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

/// A program that a master can be started from, whatever becomes of its file.
#[derive(Debug)]
pub(crate) enum Image {
    /// The one that runs here.
    Own,
    /// The file that is held open.
    #[cfg(target_os = "linux")]
    Held(OwnedFd),
    /// The file at this path, where the system cannot start an open one.
    #[cfg(not(target_os = "linux"))]
    At(PathBuf),
}

/// Where the running program lies; asked before anybody can have replaced it.
///
/// # Errors
/// When the system does not tell.
pub(crate) fn own_path() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// The program that lies there now.
///
/// # Errors
/// When there is none.
pub(crate) fn on_disk(path: &Path) -> io::Result<Image> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{Mode, OFlags};
        let named = |error: rustix::io::Errno| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map(Image::Held).map_err(named)
    }
    #[cfg(not(target_os = "linux"))]
    path.try_exists().and_then(|there| {
        if there { Ok(Image::At(path.to_owned())) } else { Err(io::ErrorKind::NotFound.into()) }
    })
}

/// Starts a program in the role of `master`, in a process group of its own.
///
/// # Errors
/// When the system cannot make a process or pipes.
pub(crate) fn master(image: &Image, nonce: u64, our_stdout: &OwnedFd) -> io::Result<Started> {
    let mut command = program(image)?;
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

#[expect(clippy::disallowed_methods, reason = "the one place in this crate that starts a process")]
fn program(image: &Image) -> io::Result<Command> {
    let program = match image {
        Image::Own if cfg!(target_os = "linux") => "/proc/self/exe".into(),
        Image::Own => std::env::current_exe()?,
        // It is closed only once the program is loaded.
        #[cfg(target_os = "linux")]
        Image::Held(file) => format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
        #[cfg(not(target_os = "linux"))]
        Image::At(path) => path.clone(),
    };
    let mut command = Command::new(program);
    // For `ps`, which would show where it was loaded from.
    command.arg0("roundsman");
    Ok(command)
}
