//! The lines that travel between a process and its parent: worker and master over the worker's stdin and stdout, master
//! and supervisor over the master's. One JSON object a line.
//!
//! - Towards the parent a line has at most [`MAX_LINE_UP`] bytes, so that a write of it to a pipe is atomic; towards
//!   the child at most [`MAX_LINE_DOWN`].
//! - Everything important is a state, not an event: beats repeat it, so any line may be lost or coalesced.
//! - Unknown message types and fields are ignored, so that builds N and N+1 understand each other.
//! - The parent judges only by its own clock at the time of receipt.
//!
//! A worker in any language may speak it. The least that it must say is `hello`, `ready` and a `hb` a second.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::figures::Figure;
use crate::outlook::Outlook;

/// The version spoken here.
pub const VERSION: u16 = 1;
/// Bytes of a line from a child, newline included.
pub const MAX_LINE_UP: usize = 4096;
/// Bytes of a line to a child, newline included. The assignment is the only long one.
pub const MAX_LINE_DOWN: usize = 1024 * 1024;
/// A child beats this often, and at once when its state changes.
pub const BEAT_MS: u64 = 1000;
/// Running jobs that a beat names; the rest are only counted.
pub const JOBS_NAMED: usize = 8;
/// Runs of which a beat says how long they took.
pub const RUNS_TOLD: usize = 16;

/// Bytes of what one that runs no jobs says of itself.
pub const MAX_SAYS: usize = 1024;

/// What a child is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    #[default]
    Starting,
    Idle,
    Busy,
    Draining,
}

impl Doing {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Draining => "draining",
        }
    }
}

/// A job that runs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningJob {
    pub queue: String,
    pub id: String,
    pub attempt: u32,
    /// How long it has run, in ms.
    pub ran: u64,
    /// How long it may still run, in ms; negative once it is over its timeout.
    pub left: i64,
    /// Percent, where the handler tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<u8>,
}

/// From a child to its parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum FromChild {
    /// The first line.
    Hello {
        /// Lowest and highest version understood.
        v: [u16; 2],
        pid: u32,
        /// The nonce that the parent gave.
        nonce: u64,
        /// What was built: `NAME VERSION`.
        build: String,
    },
    /// It has its store and its handler, and can take jobs.
    Ready,
    /// A sign of life: all that is true now.
    Hb(Beat),
    /// A wake-up came while every slot was taken: another worker should be woken.
    Full { queue: String },
    /// It takes no more jobs.
    Draining { why: String },
    /// Something that it counts, as it stands now; at most once a second, if it has changed.
    Figure(Figure),
    /// The last line; `code` is the exit code to expect.
    Bye { why: String, code: i32 },
    /// Something that people should know of.
    Warn { code: String, message: String },
    /// Of what reads the queues of foreign pools: how much waits for one, or why that is not known.
    Demand {
        pool: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        length: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// Of a master, when it changes: how it stands beside another that takes over from it, or it from that.
    Standing(Standing),
    /// A line of the answer to [`ToChild::Ask`]; the last has the exit code that it amounts to.
    Answer {
        ask: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u8>,
        says: String,
    },
}

/// How a master stands beside another one of the same host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// As it was told last.
    pub share: u8,
    pub leads: bool,
    /// Workers that it is to have for its share, over all pools, and those that are ready.
    pub wanted: u32,
    pub ready: u32,
    /// It has all that it is to have for its share.
    pub settled: bool,
    /// Processes that run no jobs, as far as only one master may have them.
    pub parts: u32,
    /// Why its program is no good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing: Option<String>,
}

/// What a master is asked for somebody who waits for the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "q", rename_all = "snake_case")]
pub enum Question {
    /// Have a worker leave; see [`crate::control::Order::StopWorker`].
    StopWorker { worker: String, now: bool },
    /// Say what a worker is at.
    DumpWorker { worker: String },
}

/// A sign of life. All counters are cumulative.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    pub doing: Doing,
    /// Deliveries taken, jobs done, deliveries that failed.
    #[serde(default)]
    pub claimed: u64,
    #[serde(default)]
    pub done: u64,
    #[serde(default)]
    pub failed: u64,
    /// Milliseconds that jobs ran in all: with `done` and `failed`, the mean service time.
    #[serde(default)]
    pub busy_ms: u64,
    /// Microseconds that each of the last runs took, the latest last; at most [`RUNS_TOLD`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub took: Vec<u32>,
    /// Jobs that run now, the longest running first; at most [`JOBS_NAMED`].
    #[serde(default)]
    pub jobs: Vec<RunningJob>,
    /// How many run in all.
    #[serde(default)]
    pub running: u32,
    /// Rises while the runtime of the handlers turns.
    #[serde(default)]
    pub tick: u64,
    #[serde(default)]
    pub rss_kb: u64,
    /// The most memory that it has held, as far as the system tells.
    #[serde(default)]
    pub peak_kb: u64,
    /// Whether the store answered the last call.
    #[serde(default)]
    pub store_ok: bool,
    /// How it stands with what it serves, in words, from one that runs no jobs; at most [`MAX_SAYS`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
}

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopMode {
    /// Take nothing new, finish what runs.
    Drain,
    /// Give everything back and leave.
    Release,
}

/// From a parent to its child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub enum ToChild {
    /// The answer to `hello`: the version to speak, and what to do.
    Welcome {
        v: u16,
        work: serde_json::Value,
    },
    /// Settings of queues changed: queue → policy.
    Policies {
        queues: BTreeMap<String, serde_json::Value>,
    },
    /// There is work in this queue.
    Wake {
        queue: String,
    },
    /// There may be work in this queue for one that is busy now: its next pull is to look there too. Not answered.
    Look {
        queue: String,
    },
    /// What the fleet of this host has counted, as it stands now; all of it at first, then what has changed.
    Figures {
        figures: Vec<Figure>,
    },
    /// How things stand, at most once a second, when it has changed.
    Outlook(Outlook),
    /// To who keeps a foreign worker: whether anything waits in its queue, about once a second as long as that is known.
    Demand {
        waiting: bool,
    },
    /// This running job is to be cancelled.
    Cancel {
        queue: String,
        id: String,
    },
    /// Take nothing new until `resume`.
    Pause,
    Resume,
    Stop {
        mode: StopMode,
        /// Milliseconds after which what still runs is given back.
        by_ms: u64,
        why: String,
    },
    /// Read the settings again; a wrong file is refused and the old ones stay.
    Reload,
    /// So many workers more (or fewer) in every pool than are found to be needed, beside what was said before.
    Resize {
        by: i32,
    },
    /// So many workers in a pool, whatever it needs; `None`: as many as it needs.
    Scale {
        pool: String,
        to: Option<u32>,
    },
    /// So many percent of what the pools need are this master's to have; the rest is another one's of the same host.
    Share {
        percent: u8,
    },
    /// This master speaks for its host: it enters it in the store's registry, and has the processes of which there may be
    /// one only. `orphans`: an earlier master has died, and its workers are to be looked after.
    Lead {
        orphans: bool,
    },
    /// Another one speaks for the host from now on.
    Follow,
    /// Answered with [`FromChild::Answer`].
    Ask {
        ask: u64,
        what: Question,
    },
    /// Write down how things stand.
    Dump,
    /// Beat now.
    Ping,
}

/// Why a line was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("a line of more than {0} bytes")]
    TooLong(usize),
    #[error("a line that is no message: {0}")]
    Malformed(String),
}

/// The text, without what is over so many bytes.
#[must_use]
pub fn cut(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}

/// One message as a line, newline included.
#[must_use]
pub fn encode<M: Serialize>(message: &M) -> String {
    let mut line = serde_json::to_string(message).expect("messages serialise");
    line.push('\n');
    line
}

/// Reads one line. `Ok(None)` for a message of a type that this build does not know.
///
/// # Errors
/// When the line is no message.
pub fn decode<M: for<'de> Deserialize<'de>>(line: &str) -> Result<Option<M>, LineError> {
    match serde_json::from_str::<M>(line) {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.to_string().starts_with("unknown variant") => Ok(None),
        Err(error) => Err(LineError::Malformed(error.to_string())),
    }
}

/// Cuts a stream of bytes into lines of bounded length. Bytes of a line that is too long are dropped up to its end.
#[derive(Debug)]
pub struct Lines {
    max: usize,
    buffer: Vec<u8>,
    dropping: bool,
}

impl Lines {
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { max, buffer: Vec::new(), dropping: false }
    }

    /// Takes bytes in, and hands every complete line to `each`.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Result<&str, LineError>)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.dropping {
                self.dropping = false;
                continue;
            }
            if self.buffer.len() + line.len() >= self.max {
                self.buffer.clear();
                each(Err(LineError::TooLong(self.max)));
                continue;
            }
            self.buffer.extend_from_slice(line);
            match std::str::from_utf8(&self.buffer) {
                Ok(text) => each(Ok(text)),
                Err(error) => each(Err(LineError::Malformed(error.to_string()))),
            }
            self.buffer.clear();
        }
        if self.dropping {
            return;
        }
        if self.buffer.len() + bytes.len() >= self.max {
            self.buffer = Vec::new();
            self.dropping = true;
            each(Err(LineError::TooLong(self.max)));
        } else {
            self.buffer.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(max: usize, pieces: &[&[u8]]) -> Vec<Result<String, LineError>> {
        let mut lines = Lines::new(max);
        let mut all = Vec::new();
        for piece in pieces {
            lines.push(piece, |line| all.push(line.map(str::to_owned)));
        }
        all
    }

    #[test]
    fn lines_are_put_together_and_bounded() {
        assert_eq!(cut(100, &[b"ab", b"c\nde\n", b"f"]), [Ok("abc".to_owned()), Ok("de".to_owned())]);
        assert_eq!(cut(4, &[b"abcdef", b"gh\nok\n"]), [Err(LineError::TooLong(4)), Ok("ok".to_owned())]);
        assert!(matches!(cut(100, &[b"\xff\n"])[0], Err(LineError::Malformed(_))));
        let flood = vec![b'x'; 1 << 20];
        let mut lines = Lines::new(4096);
        for _ in 0..64 {
            lines.push(&flood, |_| {});
        }
        assert!(lines.buffer.capacity() <= 4096 * 2, "{}", lines.buffer.capacity());
    }

    #[test]
    fn messages_survive_the_wire() {
        let beat = FromChild::Hb(Beat { doing: Doing::Busy, done: 3, running: 1, ..Beat::default() });
        let line = encode(&beat);
        assert_eq!(decode::<FromChild>(line.trim()).unwrap(), Some(beat));
        let stop = ToChild::Stop { mode: StopMode::Drain, by_ms: 5, why: "test".into() };
        assert_eq!(decode::<ToChild>(encode(&stop).trim()).unwrap(), Some(stop));
    }

    #[test]
    fn newer_messages_are_skipped_and_nonsense_is_told() {
        assert_eq!(decode::<FromChild>(r#"{"t":"telepathy","n":1}"#).unwrap(), None);
        assert_eq!(decode::<FromChild>(r#"{"t":"ready","n":1}"#).unwrap(), Some(FromChild::Ready));
        assert!(decode::<FromChild>("hello").is_err());
        assert!(decode::<FromChild>(r#"{"t":"hello"}"#).is_err());
    }

    #[test]
    fn a_beat_with_the_longest_names_fits_a_line() {
        let job = RunningJob {
            queue: "q".repeat(64),
            id: "i".repeat(128),
            attempt: u32::MAX,
            ran: u64::MAX,
            left: i64::MIN,
            progress: Some(100),
        };
        let beat = Beat {
            doing: Doing::Draining,
            claimed: u64::MAX,
            done: u64::MAX,
            failed: u64::MAX,
            busy_ms: u64::MAX,
            took: vec![u32::MAX; RUNS_TOLD],
            jobs: vec![job; JOBS_NAMED],
            running: u32::MAX,
            tick: u64::MAX,
            rss_kb: u64::MAX,
            peak_kb: u64::MAX,
            store_ok: false,
            says: None,
        };
        assert!(encode(&FromChild::Hb(beat)).len() <= MAX_LINE_UP);
    }
}
