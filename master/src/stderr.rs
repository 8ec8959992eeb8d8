//! What workers write to their standard error: forwarded to ours line by line with the worker's name in front, at a
//! bounded rate, and the end of it kept for the record of a crash.

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
const READ: usize = 16 * 1024;
/// Between two reads of a worker that floods us: it may wait, we may not.
const FLOOD_PAUSE: Duration = Duration::from_millis(5);
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
        kept.extend_from_slice(bytes);
        if kept.len() > TAIL {
            let over = kept.len() - TAIL;
            kept.drain(..over);
        }
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
    let mut lines = Prefixed { label, line: Vec::new(), cut: false, dropped: 0 };
    let mut tokens = BURST;
    let mut filled = Mono::now();
    let mut buffer = vec![0; READ];
    loop {
        if pipe.readable().await.is_err() {
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
        let now = Mono::now();
        tokens = (tokens + now.since(filled).as_secs_f64() * RATE).min(BURST);
        filled = now;
        if tokens < read as f64 {
            lines.drop_bytes(read);
            tokio::time::sleep(FLOOD_PAUSE).await;
            continue;
        }
        tokens -= read as f64;
        let chunk = lines.take(bytes);
        let length = chunk.len();
        if length > 0 && !sink.put(chunk) {
            lines.drop_bytes(length);
        }
        tokio::task::yield_now().await;
    }
    let rest = lines.end();
    if !rest.is_empty() {
        sink.put(rest);
    }
}

struct Prefixed {
    label: String,
    line: Vec<u8>,
    cut: bool,
    dropped: usize,
}

impl Prefixed {
    fn drop_bytes(&mut self, count: usize) {
        self.dropped += count;
        self.line.clear();
        self.cut = true;
    }

    fn take(&mut self, bytes: &[u8]) -> String {
        let mut out = String::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let room = MAX_LINE.saturating_sub(self.line.len());
            if !self.cut {
                self.line.extend_from_slice(text.get(..text.len().min(room)).unwrap_or_default());
            }
            if ends {
                self.flush(&mut out);
            } else if self.line.len() >= MAX_LINE && !self.cut {
                self.flush(&mut out);
                self.cut = true;
            }
        }
        out
    }

    fn flush(&mut self, out: &mut String) {
        if self.dropped > 0 {
            let _ = writeln!(out, "[{}] ({} bytes dropped)", self.label, self.dropped);
            self.dropped = 0;
        }
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
        Prefixed { label: "p/1".into(), line: Vec::new(), cut: false, dropped: 0 }
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
        assert_eq!(cut.take(b"rest\nnext\n"), "[p/1] next\n");
        let mut dropping = lines();
        dropping.drop_bytes(7);
        assert_eq!(dropping.take(b"end of it\nnext\n"), "[p/1] (7 bytes dropped)\n[p/1] next\n");
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
}
