//! The history of a run: what every actor saw, written by itself, to be judged afterwards by [`crate::checker`].
//!
//! Each producer, handler, sink, fault injector and auditor appends one JSON line an event to a file of its own
//! in one folder. A line is one `write` to a file opened for appending, so it survives the SIGKILL of its writer
//! (not a power cut), and a cut can only be at the end of a file. Any language can write it:
//!
//! ```json
//! {"seq":0,"mono_us":1,"boot_us":1,"wall_us":1,"pid":7,"start":42,"event":"enq_ok","queue":"q","id":"a","due_ms":null,"digest":"cbf29ce484222325"}
//! ```
//!
//! Rules for writers, on which the checks rest:
//! - `enq_invoke` before the call, its answer after the answer; no answer counts as `enq_unknown`;
//! - `start` is a handler's first act and `end` its last; `ended` and `stale` are the store's answers to an ack;
//! - `fault` just before the fault is made, so that nothing it causes can come before it;
//! - an audit is one `audit_pass` followed by an `audit` for each job that the store shows.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::proc::Process;
use crate::time;

/// The end of a history file's name.
const SUFFIX: &str = "history.jsonl";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// From 0 without a gap, in each file.
    pub seq: u64,
    /// CLOCK_MONOTONIC, which orders the events of all actors.
    pub mono_us: u64,
    /// CLOCK_BOOTTIME.
    pub boot_us: u64,
    /// CLOCK_REALTIME, which due times are compared with.
    pub wall_us: u64,
    /// The writer, and its start time in clock ticks since boot.
    pub pid: u32,
    pub start: u64,
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A producer is about to enqueue.
    EnqInvoke(Enqueue),
    /// The enqueue was acknowledged; `due_ms` as the store answered it.
    EnqOk(Enqueue),
    /// The enqueue was refused; nothing may have been stored by it.
    EnqRefused {
        #[serde(flatten)]
        enqueue: Enqueue,
        why: Refusal,
    },
    /// The answer was lost: the job may exist or not.
    EnqUnknown(Enqueue),
    /// A handler returned a follow-up job; it exists exactly when the handler's delivery was accepted.
    FollowUp {
        #[serde(flatten)]
        enqueue: Enqueue,
        parent_queue: String,
        parent_id: String,
        token: u64,
    },
    /// The job's due time, or with a digest its payload, was changed.
    Rescheduled { queue: String, id: String, due_ms: Option<i64>, digest: Option<String> },
    /// A cancel was accepted; a running job is only told to stop.
    CancelOk { queue: String, id: String, was_running: bool },
    /// An operator removed the job or purged its queue.
    Deleted { queue: String, id: String },
    /// An operator had an ended job tried again.
    Revived { queue: String, id: String },
    /// A handler began a delivery.
    Start {
        queue: String,
        id: String,
        attempt: u32,
        token: u64,
        worker: String,
        /// When another process than the writer is the worker, as with `exec`.
        #[serde(default)]
        worker_pid: Option<u32>,
        #[serde(default)]
        due_ms: Option<i64>,
        #[serde(default)]
        timeout_ms: Option<u64>,
        /// Of the payload that was handed over.
        #[serde(default)]
        digest: Option<String>,
    },
    /// A handler ended a delivery and is about to say so.
    End { queue: String, id: String, attempt: u32, token: u64, outcome: Outcome },
    /// The store refused an ack.
    Stale { queue: String, id: String, token: u64, outcome: Outcome },
    /// A sink saw an effect.
    Effect { queue: String, id: String, attempt: u32, token: u64, sink: String },
    /// The store recorded a job's final outcome; without a token when no delivery ended it.
    Ended {
        queue: String,
        id: String,
        state: JobState,
        #[serde(default)]
        token: Option<u64>,
    },
    /// Something is about to be done to a process, the store or a clock.
    Fault {
        fault: Fault,
        #[serde(default)]
        target_pid: Option<u32>,
        #[serde(default)]
        target_start: Option<u64>,
        #[serde(default)]
        role: Option<Role>,
    },
    /// A process was seen to end.
    Death {
        target_pid: u32,
        #[serde(default)]
        target_start: Option<u64>,
        cause: Cause,
    },
    /// The jobs that the store shows follow. After `drained`, nothing was left to do.
    AuditPass { audit: u32, drained: bool },
    /// One job, as the store shows it.
    Audit {
        audit: u32,
        queue: String,
        id: String,
        state: JobState,
        attempts: u32,
        crashes: u32,
        #[serde(default)]
        killed: u32,
        /// Its attempts are used up by ends of its own: errors, and time that was up.
        #[serde(default)]
        spent: bool,
        /// How many final outcomes the job's history shows.
        #[serde(default)]
        finals: Option<u32>,
        #[serde(default)]
        digest: Option<String>,
    },
}

/// A job as its producer names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enqueue {
    pub queue: String,
    pub id: String,
    /// Absolute; `None` when it is due at once or was given as a delay.
    pub due_ms: Option<i64>,
    /// [`digest`] of the content.
    pub digest: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The id exists with other content.
    Conflict,
    /// The queue or the store is full.
    Full,
    /// Bad input.
    Bad,
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    Retry,
    Snooze,
    Dead,
    Cancelled,
    /// Given back at a stop.
    Released,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Scheduled,
    Ready,
    Running,
    Done,
    Dead,
    Cancelled,
    Expired,
}

impl JobState {
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Dead | Self::Cancelled | Self::Expired)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP and SIGCONT.
    Stop,
    Continue,
    /// SIGTERM.
    Term,
    /// The handler blocks its worker for good.
    Hang,
    StoreKill,
    /// SIGKILL of the message broker.
    BrokerKill,
    /// The broker closes the channels of its consumers.
    ChannelKill,
    StoreStop,
    StoreContinue,
    ClockStep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Supervisor,
    Master,
    Worker,
    Store,
}

/// Why a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// SIGKILL that Roundsman did not send.
    Killed,
    /// Another signal, or an exit with an error.
    Crashed,
    /// Roundsman killed it because it was silent or frozen.
    Stalled,
    /// Roundsman killed it because its job was over its time.
    Timeout,
    /// Roundsman replaced it for its memory.
    Memory,
    /// Roundsman did not need it any more.
    Scaled,
    /// Roundsman was stopped, and the grace time had passed.
    Stopped,
    /// By itself, in order.
    Exited,
}

/// FNV-1a, 64 bit, as 16 hex digits: a line of code in any language that writes histories.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    format!("{:016x}", fnv(bytes))
}

pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Appends one actor's events to its own file. Threads may share it.
#[derive(Debug)]
pub struct HistoryWriter {
    own: Process,
    file: Mutex<(File, u64)>,
    path: PathBuf,
}

impl HistoryWriter {
    /// A new file in the folder, named for the actor and this process.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(folder: &Path, actor: &str) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let own = Process::own();
        let mut number = 0_u32;
        loop {
            let path = folder.join(format!("{actor}-{}-{}-{number}.{SUFFIX}", own.pid, own.start));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { own, file: Mutex::new((file, 0)), path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends the event with the time of this call.
    ///
    /// # Errors
    /// When it cannot be written; the run proves nothing then.
    pub fn record(&self, event: Event) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // Clocks are read under the lock: a file's order is the order of its times.
        let record = Record {
            seq: file.1,
            mono_us: time::mono_us(),
            boot_us: time::boot_us(),
            wall_us: time::wall_us(),
            pid: self.own.pid,
            start: self.own.start,
            event,
        };
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        file.0.write_all(&line)?;
        file.1 += 1;
        Ok(())
    }
}

/// Where a line stands: the evidence of a check, small enough to keep for every event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineRef {
    file: u32,
    offset: u32,
}

impl LineRef {
    pub(crate) fn file(self) -> u32 {
        self.file
    }
}

/// A line as it was read.
#[derive(Debug)]
pub enum Line {
    Record(Box<Record>),
    /// The file's last line has no end: its writer was killed in the middle.
    Torn,
    /// No line of a history.
    Malformed(String),
}

/// Reads all the histories of a folder.
#[derive(Debug)]
pub struct HistoryReader {
    files: Vec<PathBuf>,
}

impl HistoryReader {
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(SUFFIX)) {
                files.push(path);
            }
        }
        files.sort();
        Ok(Self { files })
    }

    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Every line, file by file, without holding more than one.
    ///
    /// # Errors
    /// When a file cannot be read, or is longer than 4 GiB.
    pub fn for_each(&self, mut visit: impl FnMut(LineRef, Line)) -> io::Result<()> {
        for (number, path) in (0..).zip(&self.files) {
            let mut reader = BufReader::with_capacity(1 << 18, File::open(path)?);
            let mut bytes = Vec::new();
            let mut position = 0_usize;
            loop {
                bytes.clear();
                let length = reader.read_until(b'\n', &mut bytes)?;
                if length == 0 {
                    break;
                }
                let offset = u32::try_from(position)
                    .map_err(|_long| io::Error::other(format!("{} is over 4 GiB", path.display())))?;
                position += length;
                let line = match serde_json::from_slice::<Record>(&bytes) {
                    _ if bytes.last() != Some(&b'\n') => Line::Torn,
                    Ok(record) => Line::Record(Box::new(record)),
                    Err(error) => Line::Malformed(error.to_string()),
                };
                visit(LineRef { file: number, offset }, line);
            }
        }
        Ok(())
    }

    /// All records of all files in the order of their monotonic time.
    ///
    /// # Errors
    /// As [`Self::for_each`], and for a malformed line.
    pub fn merged(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut bad = None;
        self.for_each(|at, line| match line {
            Line::Record(record) => records.push(*record),
            Line::Torn => {}
            Line::Malformed(error) => {
                bad.get_or_insert((at, error));
            }
        })?;
        if let Some((at, error)) = bad {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", self.place(at))));
        }
        records.sort_by_key(|record| record.mono_us);
        Ok(records)
    }

    /// The line with the place where it stands.
    #[must_use]
    pub fn quote(&self, at: LineRef) -> String {
        format!("{}: {}", self.place(at), self.line(at).unwrap_or_else(|error| error.to_string()))
    }

    fn place(&self, at: LineRef) -> String {
        let name = usize::try_from(at.file).ok().and_then(|file| self.files.get(file)?.file_name());
        format!("{}+{}", name.unwrap_or_default().to_string_lossy(), at.offset)
    }

    fn line(&self, at: LineRef) -> io::Result<String> {
        /// Evidence is to be read by people.
        const LIMIT: u64 = 4_096;
        let path = usize::try_from(at.file).ok().and_then(|file| self.files.get(file));
        let mut file = File::open(path.ok_or(io::ErrorKind::NotFound)?)?;
        file.seek(SeekFrom::Start(u64::from(at.offset)))?;
        let mut bytes = Vec::new();
        BufReader::new(file.take(LIMIT)).read_until(b'\n', &mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enqueue(id: &str) -> Enqueue {
        Enqueue { queue: "q".into(), id: id.into(), due_ms: Some(1_700_000_000_000), digest: digest(b"{}") }
    }

    #[test]
    fn the_format_is_flat_and_stays() {
        let event = Event::EnqRefused { enqueue: enqueue("a"), why: Refusal::Conflict };
        let record = Record { seq: 1, mono_us: 2, boot_us: 3, wall_us: 4, pid: 5, start: 6, event };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(
            text,
            r#"{"seq":1,"mono_us":2,"boot_us":3,"wall_us":4,"pid":5,"start":6,"event":"enq_refused","queue":"q","id":"a","due_ms":1700000000000,"digest":"08f44b07b5901a25","why":"conflict"}"#
        );
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        let least = r#"{"seq":0,"mono_us":1,"boot_us":1,"wall_us":1,"pid":7,"start":42,"event":"start",
            "queue":"q","id":"a","attempt":1,"token":9,"worker":"default/1"}"#;
        let Event::Start { token, due_ms, .. } = serde_json::from_str::<Record>(least).unwrap().event else {
            panic!("no start")
        };
        assert_eq!((token, due_ms), (9, None));
    }

    #[test]
    fn files_of_several_actors_are_merged_by_time() {
        let folder = tempfile::tempdir().unwrap();
        let one = HistoryWriter::create(folder.path(), "producer").unwrap();
        let two = HistoryWriter::create(folder.path(), "producer").unwrap();
        assert_ne!(one.path(), two.path());
        for i in 0..10 {
            let writer = if i % 3 == 0 { &one } else { &two };
            writer.record(Event::EnqInvoke(enqueue(&i.to_string()))).unwrap();
        }
        let reader = HistoryReader::open(folder.path()).unwrap();
        let ids: Vec<String> = reader
            .merged()
            .unwrap()
            .into_iter()
            .map(|record| match record.event {
                Event::EnqInvoke(enqueue) => enqueue.id,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ids.concat(), "0123456789");
    }

    #[test]
    fn a_torn_end_is_told_from_a_bad_line() {
        let folder = tempfile::tempdir().unwrap();
        let writer = HistoryWriter::create(folder.path(), "worker").unwrap();
        writer.record(Event::EnqOk(enqueue("a"))).unwrap();
        let mut file = OpenOptions::new().append(true).open(writer.path()).unwrap();
        file.write_all(b"{\"seq\":1,").unwrap();
        let reader = HistoryReader::open(folder.path()).unwrap();
        assert_eq!(reader.merged().unwrap().len(), 1);
        file.write_all(b"\n").unwrap();
        let error = reader.merged().unwrap_err().to_string();
        assert!(error.starts_with("worker-"), "{error}");
    }

    #[test]
    fn the_digest_is_fnv_1a() {
        assert_eq!((&*digest(b""), &*digest(b"a")), ("cbf29ce484222325", "af63dc4c8601ec8c"));
    }

    #[test]
    fn evidence_is_quoted_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let writer = HistoryWriter::create(folder.path(), "sink").unwrap();
        writer.record(Event::EnqOk(enqueue("a"))).unwrap();
        writer.record(Event::EnqOk(enqueue("b"))).unwrap();
        let reader = HistoryReader::open(folder.path()).unwrap();
        let mut lines = Vec::new();
        reader.for_each(|at, _| lines.push(at)).unwrap();
        let quote = reader.quote(lines[1]);
        assert!(quote.starts_with("sink-") && quote.contains(r#""id":"b""#), "{quote}");
    }
}
