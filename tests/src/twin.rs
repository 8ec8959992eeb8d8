//! A trace of the scaling simulator played for real: what its workers are told, and what they write.
//!
//! Producer and workers each make the trace of its name, seed and scale, so that a job is no more than its place in it.
//! Each worker has a file of its own in one folder, named for its process: that it is there says that the worker was, and
//! each line is a run.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use roundsman_master::simulate::Trace;
use serde::{Deserialize, Serialize};

use crate::proc::Process;

/// The end of a file's name.
const SUFFIX: &str = ".runs";
/// Where the dependency that serves few at once is reached, in the same folder.
pub const DEPENDENCY: &str = "dependency.sock";

/// A job's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its place in the trace.
    pub job: usize,
    /// When the trace began, by the monotonic clock.
    pub began_us: u64,
}

/// A run that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub job: usize,
    /// Of the same job, before it.
    pub failures: u32,
    /// By the monotonic clock.
    pub started_us: u64,
    pub ended_us: u64,
    /// When the job is to come back, where the run failed.
    pub again_us: Option<u64>,
}

/// Which trace it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Which<'w> {
    pub name: &'w str,
    pub seed: u64,
    pub scale: f64,
}

impl Which<'_> {
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        Trace::named(self.name, self.seed, self.scale)
    }
}

/// The file of one worker.
#[derive(Debug)]
pub struct Diary(File);

impl Diary {
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let Process { pid, start } = Process::own();
        let path = folder.join(format!("{pid}-{start}{SUFFIX}"));
        Ok(Self(OpenOptions::new().append(true).create_new(true).open(path)?))
    }

    /// # Errors
    /// When it cannot be written.
    pub fn note(&self, run: &Run) -> io::Result<()> {
        let mut line = serde_json::to_vec(run)?;
        line.push(b'\n');
        (&self.0).write_all(&line)
    }
}

/// Every worker that has begun a diary.
///
/// # Errors
/// When the folder cannot be read.
pub fn workers(folder: &Path) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let own = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.split_once('-'));
        if let Some((Ok(pid), Ok(start))) = own.map(|(pid, start)| (pid.parse(), start.parse())) {
            found.push(Process { pid, start });
        }
    }
    Ok(found)
}

/// Every run of every worker, in the order of their starts.
///
/// # Errors
/// When a file cannot be read, or is no diary.
pub fn runs(folder: &Path) -> io::Result<Vec<Run>> {
    let mut all = Vec::new();
    for Process { pid, start } in workers(folder)? {
        let text = fs::read_to_string(folder.join(format!("{pid}-{start}{SUFFIX}")))?;
        for line in text.lines() {
            all.push(serde_json::from_str::<Run>(line)?);
        }
    }
    all.sort_unstable_by_key(|run| run.started_us);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_writes_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let diary = Diary::create(folder.path()).unwrap();
        let run = |job, started_us| Run { job, failures: 0, started_us, ended_us: 9, again_us: None };
        diary.note(&run(2, 7)).unwrap();
        diary.note(&run(1, 5)).unwrap();
        fs::write(folder.path().join("else"), "").unwrap();
        assert_eq!(workers(folder.path()).unwrap(), [Process::own()]);
        assert_eq!(runs(folder.path()).unwrap(), [run(1, 5), run(2, 7)]);
    }
}
