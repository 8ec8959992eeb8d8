//! What workers write to their standard error: forwarded to ours line by line with the worker's name in front, at a
//! bounded rate, and the end of it kept for the record of a crash.
//!
//! What is over the rate is read all the same, since a worker that waits for us to read is a job that waits: it costs
//! one copy into a buffer that is there already, and the log says how much it was.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use tokio::net::unix::pipe::Receiver;

/// Bytes a second of one worker that are forwarded; what is more is counted and dropped.
const RATE: f64 = 64.0 * 1024.0;
const BURST: f64 = 256.0 * 1024.0;
/// Bytes of a line that are forwarded at most.
const MAX_LINE: usize = 16 * 1024;
/// Bytes that are kept for the record of a crash.
const TAIL: usize = 4096;
const READ: usize = 64 * 1024;
/// What the pipe of a worker that floods us is made to hold (Linux's default is 64 KiB, and this the most that it gives
/// to a user), so that few reads keep up with it.
const FLOODED_PIPE: usize = 1024 * 1024;
/// Between two emptyings of such a pipe: what it holds is read in a tenth of that time, and the rest of it is others'.
const FLOOD_PAUSE: Duration = Duration::from_millis(1);
/// What was dropped is told so long after the last of it, if no line tells it earlier.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// Chunks that wait for our own standard error. When it does not take them, they are dropped.
const WAITING: usize = 64;

/// Writes to our standard error from a thread of its own, so that a full pipe there stalls nobody.
#[derive(Debug, Clone)]
pub(crate) struct Sink(SyncSender<String>);

impl Sink {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no room for one.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (chunks, inbox) = sync_channel::<String>(WAITING);
        std::thread::Builder::new().name("stderr".to_owned()).spawn(move || {
            for chunk in inbox {
                let _ = std::io::stderr().lock().write_all(chunk.as_bytes());
            }
        })?;
        Ok(Self(chunks))
    }

    fn put(&self, chunk: String) -> bool {
        self.0.try_send(chunk).is_ok()
    }
}

/// The last that a worker said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = bytes.get(bytes.len().saturating_sub(TAIL)..).unwrap_or_default();
        let over = (kept.len() + last.len()).saturating_sub(TAIL);
        kept.drain(..over);
        kept.extend_from_slice(last);
    }

    /// As text; `None` when it said nothing.
    #[must_use]
    pub(crate) fn text(&self) -> Option<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept).trim_end().to_owned();
        (!text.is_empty()).then_some(text)
    }
}

/// Forwards until the end of the pipe.
pub(crate) async fn forward(pipe: Receiver, label: String, sink: Sink, tail: Tail) {
    let mut lines = Prefixed::new(label);
    let mut allowance = Allowance::full(Mono::now());
    let mut buffer = vec![0; READ];
    let mut grown = false;
    // Read since the last pause.
    let mut drained = 0;
    loop {
        let readable = if lines.dropped > 0 {
            let Ok(readable) = tokio::time::timeout(TELL_AFTER, pipe.readable()).await else {
                lines.send(&sink, Prefixed::tell);
                continue;
            };
            readable
        } else {
            pipe.readable().await
        };
        if readable.is_err() {
            break;
        }
        let read = match pipe.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => break,
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        tail.push(bytes);
        let (forwarded, over) = bytes.split_at(allowance.grant(Mono::now(), read).min(read));
        lines.send(&sink, |lines| lines.take(forwarded));
        if over.is_empty() {
            tokio::task::yield_now().await;
            continue;
        }
        lines.drop_bytes(over.len());
        if !grown {
            grown = true;
            grow(&pipe);
        }
        drained += read;
        if read < READ || drained >= FLOODED_PIPE {
            drained = 0;
            tokio::time::sleep(FLOOD_PAUSE).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
    lines.send(&sink, Prefixed::end);
}

/// A smaller pipe works as well, only slower: whoever owns many may not be given more.
fn grow(pipe: &Receiver) {
    #[cfg(target_os = "linux")]
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, FLOODED_PIPE);
    #[cfg(not(target_os = "linux"))]
    let _ = pipe;
}

/// What may be forwarded. Once it is used up, nothing is until there is enough for a second: whole lines with gaps
/// between them can be read, a few bytes of each cannot.
struct Allowance {
    bytes: f64,
    filled: Mono,
    used_up: bool,
}

impl Allowance {
    const fn full(now: Mono) -> Self {
        Self { bytes: BURST, filled: now, used_up: false }
    }

    /// How many of so many bytes.
    fn grant(&mut self, now: Mono, wanted: usize) -> usize {
        self.bytes = (self.bytes + now.since(self.filled).as_secs_f64() * RATE).min(BURST);
        self.filled = now;
        if self.used_up && self.bytes < RATE {
            return 0;
        }
        let granted = wanted.min(self.bytes as usize);
        self.bytes -= granted as f64;
        self.used_up = granted < wanted;
        granted
    }
}

struct Prefixed {
    label: String,
    line: Vec<u8>,
    cut: bool,
    dropped: usize,
}

impl Prefixed {
    const fn new(label: String) -> Self {
        Self { label, line: Vec::new(), cut: false, dropped: 0 }
    }

    /// Sends what this makes of the lines; what is not taken counts as dropped.
    fn send(&mut self, sink: &Sink, make: impl FnOnce(&mut Self) -> String) {
        let untold = self.dropped;
        let chunk = make(self);
        let length = chunk.len();
        if length > 0 && !sink.put(chunk) {
            self.drop_bytes(length + untold);
        }
    }

    fn drop_bytes(&mut self, count: usize) {
        self.dropped += count + self.line.len();
        self.line.clear();
        self.cut = true;
    }

    /// What was dropped since it was told last.
    fn tell(&mut self) -> String {
        match std::mem::take(&mut self.dropped) {
            0 => String::new(),
            dropped => format!("[{}] ({dropped} bytes dropped)\n", self.label),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> String {
        let mut out = String::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            if self.cut {
                self.dropped += piece.len();
                if ends {
                    self.flush(&mut out);
                }
                continue;
            }
            let (kept, over) = text.split_at(text.len().min(MAX_LINE - self.line.len()));
            self.line.extend_from_slice(kept);
            if ends {
                self.flush(&mut out);
            } else if self.line.len() >= MAX_LINE {
                self.flush(&mut out);
                self.cut = true;
            }
            self.dropped += over.len();
        }
        out
    }

    fn flush(&mut self, out: &mut String) {
        out.push_str(&self.tell());
        if !self.cut || !self.line.is_empty() {
            let _ = writeln!(out, "[{}] {}", self.label, String::from_utf8_lossy(&self.line));
        }
        self.line.clear();
        self.cut = false;
    }

    fn end(&mut self) -> String {
        let mut out = String::new();
        if !self.line.is_empty() || self.dropped > 0 {
            self.cut = true;
            self.flush(&mut out);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Prefixed {
        Prefixed::new("p/1".into())
    }

    #[test]
    fn lines_are_put_together_and_named() {
        let mut lines = lines();
        assert_eq!(lines.take(b"a"), "");
        assert_eq!(lines.take(b"b\n\nc"), "[p/1] ab\n[p/1] \n");
        assert_eq!(lines.end(), "[p/1] c\n");
    }

    #[test]
    fn long_lines_are_cut_and_drops_are_told() {
        let mut cut = lines();
        let out = cut.take(&vec![b'x'; 3 * MAX_LINE]);
        assert_eq!(out.len(), MAX_LINE + "[p/1] \n".len());
        let rest = 2 * MAX_LINE + "rest\n".len();
        assert_eq!(cut.take(b"rest\nnext\n"), format!("[p/1] ({rest} bytes dropped)\n[p/1] next\n"));
        let mut dropping = lines();
        assert_eq!(dropping.take(b"begun"), "");
        dropping.drop_bytes(7);
        assert_eq!(dropping.take(b"end of it\nnext\n"), "[p/1] (22 bytes dropped)\n[p/1] next\n");
    }

    #[test]
    fn the_tail_keeps_the_end() {
        let tail = Tail::default();
        assert_eq!(tail.text(), None);
        tail.push(&vec![b'x'; 3 * TAIL]);
        tail.push(b"the end\n");
        let text = tail.text().unwrap();
        assert!(text.ends_with("xthe end") && text.len() == TAIL - 1);
    }

    #[test]
    fn an_allowance_that_is_used_up_waits_for_a_second_of_it() {
        let (burst, second) = (BURST as usize, RATE as usize);
        let at = |ms: u64| Mono::from_nanos(ms * 1_000_000);
        let mut allowance = Allowance::full(at(0));
        assert_eq!(allowance.grant(at(0), 1_000), 1_000);
        assert_eq!(allowance.grant(at(0), burst), burst - 1_000);
        assert_eq!(allowance.grant(at(999), 1), 0);
        let granted = allowance.grant(at(1_001), 2 * second);
        assert!((second..second + second / 100).contains(&granted), "{granted}");
        assert_eq!(allowance.grant(at(1_002), 1), 0);
        assert_eq!(allowance.grant(at(60_000), 1), 1);
        assert_eq!(allowance.grant(at(60_000), burst), burst - 1);
    }

    #[test]
    fn what_a_full_sink_does_not_take_is_dropped_and_told_later() {
        let (chunks, inbox) = sync_channel(1);
        let sink = Sink(chunks);
        let mut lines = lines();
        lines.drop_bytes(1_000);
        lines.send(&sink, |lines| lines.take(b"\nfirst\n"));
        lines.drop_bytes(2_000);
        lines.send(&sink, |lines| lines.take(b"\nsecond\n"));
        assert_eq!(inbox.recv().unwrap(), "[p/1] (1001 bytes dropped)\n[p/1] first\n");
        lines.send(&sink, |lines| lines.take(b"\nthird\n"));
        let lost = 2_000 + "[p/1] (2001 bytes dropped)\n[p/1] second\n".len() + "\n".len();
        assert_eq!(inbox.recv().unwrap(), format!("[p/1] ({lost} bytes dropped)\n[p/1] third\n"));
    }

    /// A worker that writes faster than is forwarded is read to its end, most of it is dropped and told as such, and
    /// other tasks of the thread have their turns all the while.
    #[tokio::test]
    async fn a_flood_is_read_to_its_end_and_mostly_dropped() {
        const MIB: usize = 1 << 20;
        const WRITTEN: usize = 64 * MIB;
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        let writer = std::thread::spawn(move || {
            let mut pipe = std::fs::File::from(theirs);
            let line = [&[b'x'; 1023][..], b"\n"].concat();
            for _ in 0..WRITTEN / line.len() {
                pipe.write_all(&line).unwrap();
            }
            pipe.write_all(b"the end\n").unwrap();
        });
        let (chunks, inbox) = sync_channel(4096);
        let tail = Tail::default();
        let begun = Mono::now();
        let pipe = Receiver::from_owned_fd(ours).unwrap();
        let forwarding = tokio::spawn(forward(pipe, "p/1".to_owned(), Sink(chunks), tail.clone()));
        let mut turns = 0;
        while !forwarding.is_finished() {
            turns += 1;
            tokio::task::yield_now().await;
        }
        forwarding.await.unwrap();
        writer.join().unwrap();
        let seconds = Mono::now().since(begun).as_secs_f64();
        let log: String = inbox.iter().collect();
        // A prefix for each line of 1 KiB, and a note for each gap.
        assert!((log.len() as f64) < (BURST + RATE * seconds) * 1.1, "{} bytes in {seconds} s", log.len());
        let (mut told, mut dropped) = (0, 0);
        for line in log.lines().map(|line| line.strip_prefix("[p/1] ").unwrap()) {
            match line.strip_prefix('(').and_then(|line| line.strip_suffix(" bytes dropped)")) {
                Some(count) => dropped += count.parse::<usize>().unwrap(),
                None => told += line.len() + 1,
            }
        }
        assert_eq!(told + dropped, WRITTEN + "the end\n".len());
        assert!(tail.text().unwrap().ends_with("x\nthe end"));
        assert!(turns >= WRITTEN / FLOODED_PIPE, "{turns} turns");
    }
}
