//! `stdout`: one compact JSON line a job, its payload, on the standard output of `up` itself.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use roundsman_shared::job::settle::Outcome;
use roundsman_shared::launch;

use crate::api::{Context, Ended, Failure, Handler, Patience, Run};
use crate::session::Task;

/// A job that could not be written is tried again after this.
const AGAIN: Duration = Duration::from_secs(10);

/// See the module's text.
pub(super) struct Stdout(Option<Arc<File>>);

/// The descriptor that the supervisor kept for this, handed down through the master.
fn inherited() -> Option<File> {
    let number: i32 = roundsman_shared::settings::Environment::capture().get(launch::STDOUT)?.parse().ok()?;
    if number <= 2 {
        return None;
    }
    #[expect(unsafe_code, reason = "a descriptor that is inherited by number has no other way in")]
    // SAFETY: the number was put into the environment by the parent, which left this descriptor open for us; nothing
    // else in this process owns or closes it, and this is called once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    // Handlers' children have no business with it.
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(File::from(descriptor))
}

impl Stdout {
    pub(super) fn open() -> Self {
        // Started by hand: descriptor 1 is the terminal still.
        let own = || rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).ok().map(File::from);
        Self(inherited().or_else(own).map(Arc::new))
    }

    /// Writes one line.
    pub(super) fn write(&self, json: &str) -> impl Future<Output = Ended> + use<> {
        let mut line = String::with_capacity(json.len() + 1);
        line.push_str(json);
        line.push('\n');
        // Whoever reads it may be slow: it must not hold up this thread.
        let file = self.0.clone();
        let written =
            file.map(|file| tokio::task::spawn_blocking(move || (&*file).write_all(line.as_bytes())));
        async move {
            let Some(written) = written else {
                return held("there is none");
            };
            match written.await {
                Ok(Ok(())) => Outcome::Done { result: None, follow_ups: Vec::new(), note: None }.into(),
                Ok(Err(error)) => held(error),
                Err(error) => Failure::retry(error).into(),
            }
        }
    }
}

/// The reader of `up` has gone away, or the disk behind it is full: no fault of the job, which waits.
fn held(why: impl std::fmt::Display) -> Ended {
    Outcome::Held { why: format!("the standard output of `up` cannot be written to: {why}"), after: AGAIN }
        .into()
}

impl Handler for Stdout {
    fn start(&self, task: &Task, _: Context) -> Run {
        Box::pin(self.write(&task.spec.payload))
    }

    fn patience(&self) -> Patience {
        Patience::Wait(Duration::from_secs(1))
    }
}
