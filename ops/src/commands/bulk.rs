//! `enqueue --ndjson`: many jobs from standard input, one JSON object a line.
//!
//! A bad line is told on standard error with its number and spoils no other. What was read is stored as soon as a
//! batch is full or the input pauses, so that a slow producer's jobs do not wait for the next ones.

use roundsman_shared::exit;
use roundsman_shared::job::spec::{self, Limits};
use roundsman_shared::job::{NewJob, SpecError};
use roundsman_shared::names::QueueName;
use roundsman_shared::settings::QueueSettings;
use roundsman_shared::store::{Enqueued, MAX_BATCH, Store, StoreError};
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};

use super::enqueue::{limits, refused, warn_of_neglect};
use super::{DONE, Failure};
use crate::connect::Context;
use crate::print::{self, many};

/// What a line may hold beside its payload.
const REST_OF_LINE: usize = 64 * 1024;
const READ_AHEAD: usize = 256 * 1024;

pub async fn run(context: &Context, queue: &QueueName, jsonl: bool) -> Result<u8, Failure> {
    let store = context.store().await?;
    context.demand_durability(&store).await?;
    let policy = context.policy(&store, queue).await?;
    warn_of_neglect(context, &store, queue).await?;
    let mut bulk = Bulk {
        context,
        store: &store,
        queue,
        limits: limits(&policy),
        policy: &policy,
        jsonl,
        batch: Vec::new(),
        results: Vec::new(),
        failed: 0,
        stored: 0,
        existing: 0,
        silent: false,
        bar: context.screen.progress(0, "jobs stored"),
    };
    let read = bulk.read(BufReader::with_capacity(READ_AHEAD, tokio::io::stdin())).await;
    bulk.bar.finish_and_clear();
    if context.screen.json {
        context.screen.document(&json!({"results": bulk.results}))?;
    }
    read?;
    if bulk.failed > 0 {
        print::complain(&format!("{}, refused {}", bulk.tally(), many(bulk.failed, "line")));
        return Err(Failure::said(exit::FAILED));
    }
    DONE
}

struct Bulk<'b> {
    context: &'b Context,
    store: &'b Store,
    queue: &'b QueueName,
    policy: &'b QueueSettings,
    limits: Limits,
    jsonl: bool,
    /// With their line numbers.
    batch: Vec<(u64, NewJob)>,
    /// For `--json`, which answers with one document at the end.
    results: Vec<Value>,
    failed: u64,
    /// Newly, by this call.
    stored: u64,
    existing: u64,
    /// Nobody reads standard output any more.
    silent: bool,
    bar: indicatif::ProgressBar,
}

impl Bulk<'_> {
    async fn read<R: AsyncBufRead + Unpin>(&mut self, mut input: R) -> Result<(), Failure> {
        let longest = self.limits.max_payload.saturating_add(REST_OF_LINE);
        let mut number = 0;
        while let Some(line) = next_line(&mut input, longest).await? {
            number += 1;
            match line {
                Line::Text(text) if text.trim().is_empty() => {}
                Line::Text(text) => match spec::parse(&text, &self.limits) {
                    Ok(job) => self.batch.push((number, job)),
                    Err(error) => self.refuse(number, None, &in_line(&error))?,
                },
                Line::TooLong => self.refuse(number, None, &format!("is longer than {longest} bytes"))?,
                Line::NoText => self.refuse(number, None, "is no UTF-8")?,
            }
            if self.batch.len() == MAX_BATCH || !has_line(&mut input) {
                self.store().await?;
            }
        }
        self.store().await
    }

    async fn store(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let (numbers, jobs): (Vec<u64>, Vec<NewJob>) = self.batch.drain(..).unzip();
        let answers =
            self.store.enqueue(self.queue, &jobs, self.policy.max_waiting).await.map_err(|error| {
                let first = numbers.first().copied().unwrap_or(0);
                self.cut_off(error, first)
            })?;
        let mut ids = String::new();
        for ((number, job), answer) in numbers.into_iter().zip(&jobs).zip(answers) {
            let result = match answer {
                Enqueued::Created { .. } => {
                    self.stored += 1;
                    "created"
                }
                Enqueued::Existing => {
                    self.existing += 1;
                    "existing"
                }
                refusal @ (Enqueued::Conflict | Enqueued::Full { .. } | Enqueued::Expired) => {
                    let refusal = refused(self.queue, job, &refusal);
                    self.refuse(number, Some(job), &refusal.lines().collect::<Vec<_>>().join("; "))?;
                    continue;
                }
            };
            self.bar.inc(1);
            if self.jsonl || self.context.screen.json {
                self.report(&json!({"line": number, "id": job.id, "result": result, "error": null}))?;
            } else {
                ids.push_str(job.id.as_str());
                ids.push('\n');
            }
        }
        match ids.strip_suffix('\n') {
            Some(ids) if !self.silent => self.printed(self.context.screen.line(ids)),
            _ => Ok(()),
        }
    }

    /// A reader that goes away, as `head` does, wants no more ids; the jobs are stored all the same.
    fn printed(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        match result {
            Err(failure) if failure.code() == exit::OK => {
                self.silent = true;
                Ok(())
            }
            Err(failure) => {
                Err(failure.advise(format!("standard output cannot be written; {} by then", self.tally())))
            }
            Ok(()) => Ok(()),
        }
    }

    fn cut_off(&self, error: StoreError, line: u64) -> Failure {
        let failure = Failure::from(error);
        failure.advise(format!(
            "{}; go on from line {line} (repeating a line is safe if its job has an id)",
            self.tally()
        ))
    }

    /// What became of the lines that were not refused.
    fn tally(&self) -> String {
        let stored = format!("stored {}", many(self.stored, "job"));
        if self.existing == 0 { stored } else { format!("{stored}, found {} there already", self.existing) }
    }

    fn refuse(&mut self, number: u64, job: Option<&NewJob>, reason: &str) -> Result<(), Failure> {
        self.failed += 1;
        self.bar.suspend(|| print::complain(&format!("line {number}: {reason}")));
        if self.jsonl || self.context.screen.json {
            let id = job.map(|job| &job.id);
            self.report(&json!({"line": number, "id": id, "result": "refused", "error": reason}))?;
        }
        Ok(())
    }

    fn report(&mut self, result: &Value) -> Result<(), Failure> {
        if self.jsonl {
            if self.silent {
                return Ok(());
            }
            return self.printed(self.context.screen.row(result));
        }
        self.results.push(result.clone());
        Ok(())
    }
}

/// A JSON error counts its own lines, of which there is but one.
fn in_line(error: &SpecError) -> String {
    let text = error.to_string();
    text.replace(" at line 1 column ", " at column ")
}

enum Line {
    Text(String),
    TooLong,
    NoText,
}

/// Whether a whole line can be had without waiting.
fn has_line<R: AsyncBufRead + Unpin>(input: &mut R) -> bool {
    use std::pin::Pin;
    use std::task::{Context as Task, Poll, Waker};
    match Pin::new(input).poll_fill_buf(&mut Task::from_waker(Waker::noop())) {
        Poll::Ready(Ok(bytes)) => bytes.contains(&b'\n'),
        Poll::Ready(Err(_)) | Poll::Pending => false,
    }
}

/// The next line, of which no more than `longest` bytes are kept.
async fn next_line<R: AsyncBufRead + Unpin>(input: &mut R, longest: usize) -> Result<Option<Line>, Failure> {
    let mut line: Vec<u8> = Vec::new();
    let mut length = 0_usize;
    loop {
        let bytes = input.fill_buf().await?;
        if bytes.is_empty() && length == 0 {
            return Ok(None);
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let piece = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        length = length.saturating_add(piece.len());
        if length <= longest {
            line.extend_from_slice(piece);
        }
        let (used, last) = (piece.len() + usize::from(end.is_some()), end.is_some() || bytes.is_empty());
        input.consume(used);
        if end.is_some() && length == 0 {
            return Ok(Some(Line::Text(String::new())));
        }
        if last {
            break;
        }
    }
    if length > longest {
        return Ok(Some(Line::TooLong));
    }
    Ok(Some(String::from_utf8(line).map_or(Line::NoText, Line::Text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8], capacity: usize) -> Vec<String> {
        let mut input = BufReader::with_capacity(capacity, text);
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut input, 5).await.unwrap() {
            lines.push(match line {
                Line::Text(text) => text,
                Line::TooLong => "(long)".to_owned(),
                Line::NoText => "(no text)".to_owned(),
            });
        }
        lines
    }

    #[tokio::test]
    async fn lines_are_cut_and_bounded() {
        for capacity in [1, 3, 100] {
            assert_eq!(
                lines(b"a\n\n123456\n12345\n\xff\nend", capacity).await,
                ["a", "", "(long)", "12345", "(no text)", "end"]
            );
            assert_eq!(lines(b"", capacity).await, Vec::<String>::new());
        }
    }
}
