//! What a program prints, within bounds.

use roundsman_shared::job::settle::Outcome;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes kept of a program's standard output: the job's result.
pub(super) const MAX_RESULT: usize = 64 * 1024;
/// Bytes kept of the end of its standard error.
pub(super) const MAX_TAIL: usize = 2048;

/// Reads to the end and keeps the first `max` bytes; what comes after is read and dropped.
pub(super) async fn head(mut from: impl AsyncRead + Unpin, max: usize) -> (Vec<u8>, bool) {
    let (mut kept, mut buffer, mut cut) = (Vec::new(), vec![0; 16 * 1024], false);
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        let room = max.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..read.min(room)]);
        cut |= read > room;
    }
    (kept, cut)
}

/// Reads to the end and keeps the last bytes.
pub(super) async fn tail(mut from: impl AsyncRead + Unpin, kept: std::rc::Rc<std::cell::RefCell<Vec<u8>>>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        let mut kept = kept.borrow_mut();
        kept.extend_from_slice(&buffer[read.saturating_sub(MAX_TAIL)..read]);
        let over = kept.len().saturating_sub(MAX_TAIL);
        kept.drain(..over);
    }
}

/// Bytes as text, if there are any.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

/// How a job ends that was done and printed this. What is `cut` is kept as a text, since a part of a document may look
/// like a whole one, and the attempt says so.
pub(super) fn done(bytes: &[u8], cut: bool) -> Outcome {
    if !cut {
        return Outcome::Done { result: result(bytes), follow_ups: Vec::new(), note: None };
    }
    // A character that the cut went through is left out.
    let bytes = match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => bytes,
    };
    let note = format!("the result is cut: more than the {MAX_RESULT} bytes that are kept was given");
    tracing::warn!("{note}");
    let result = serde_json::value::to_raw_value(&String::from_utf8_lossy(bytes)).ok();
    Outcome::Done { result, follow_ups: Vec::new(), note: Some(note) }
}

/// What a program printed, as the result of a job: JSON if it is JSON, else a text.
fn result(bytes: &[u8]) -> Option<Box<serde_json::value::RawValue>> {
    let text = text(bytes)?;
    let trimmed = text.trim();
    if serde_json::from_str::<&serde_json::value::RawValue>(trimmed).is_ok() {
        let compact = roundsman_shared::job::spec::compact(trimmed).ok()?;
        return serde_json::value::RawValue::from_string(compact).ok();
    }
    serde_json::value::to_raw_value(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_json_or_text() {
        let of = |bytes: &[u8]| result(bytes).map(|raw| raw.get().to_owned());
        assert_eq!(of(b"{ \"a\": 1 }\n").as_deref(), Some("{\"a\":1}"));
        assert_eq!(of(b"hello there\n").as_deref(), Some("\"hello there\""));
        assert_eq!(of(b"\n"), None);
        assert_eq!(of(b"\xff").as_deref(), Some("\"\u{fffd}\""));
    }

    #[test]
    fn a_cut_result_is_a_text_and_says_so() {
        let of = |bytes: &[u8]| match done(bytes, true) {
            Outcome::Done { result, note, .. } => (result.unwrap().get().to_owned(), note.unwrap()),
            other => panic!("{other:?}"),
        };
        assert_eq!(of(b"12345").0, "\"12345\"");
        assert!(of(b"[1, 2").1.contains("is cut: more than the 65536 bytes"));
        assert_eq!(of("aé".as_bytes().split_last().unwrap().1).0, "\"a\"");
    }
}
