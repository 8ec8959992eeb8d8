//! A job as people read it.

use roundsman_shared::job::view::{Found, OpenAttempt, Place};
use roundsman_shared::settings::units::format_duration;

use super::Failure;
use crate::connect::Context;
use crate::print::clean;
use crate::time::{moment, relative};

/// How an attempt ended, as `--json` writes it.
fn outcome(attempt: &OpenAttempt) -> String {
    attempt
        .outcome
        .and_then(|outcome| serde_json::to_value(outcome).ok())
        .and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_else(|| if attempt.started.is_some() { "running" } else { "handed over" }.to_owned())
}

/// Prints the job, or its document with `--json`.
pub fn show(context: &Context, found: Found) -> Result<(), Failure> {
    let screen = context.screen;
    let now = found.now.as_millis();
    let timeout = found.record.decode().ok().and_then(|spec| spec.timeout);
    let deadline = match &found.place {
        Place::Running(unacked) => unacked.deadline,
        Place::Waiting { .. } | Place::Ended => None,
    };
    let ended = found.progress.ended;
    let job = found.view()?;
    if screen.json {
        return screen.document(&job);
    }
    let mut rows = vec![
        ("job", format!("{}/{}", job.queue, job.id)),
        ("state", job.state.to_string()),
        ("kind", job.kind.unwrap_or_default()),
        ("payload", job.payload.get().to_owned()),
        ("priority", job.priority.to_string()),
        ("created", moment(job.created, now)),
        ("due", moment(job.due, now)),
        ("ended", ended.map(|at| moment(at, now)).unwrap_or_default()),
        ("key", job.key.unwrap_or_default()),
        ("timeout", timeout.map(format_duration).unwrap_or_default()),
        ("deadline", deadline.map(|at| moment(at, now)).unwrap_or_default()),
        ("attempt", job.attempt.to_string()),
        ("crashes", if job.crashes > 0 { job.crashes.to_string() } else { String::new() }),
        ("max_attempts", job.max_attempts.map(|most| most.to_string()).unwrap_or_default()),
        ("result", job.result.map(|result| result.get().to_owned()).unwrap_or_default()),
        ("error", job.error.unwrap_or_default()),
    ];
    rows.extend(job.headers.into_iter().map(|(name, value)| ("header", format!("{name}: {value}"))));
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        screen.line(&format!("{name:<13} {}", clean(value)))?;
    }
    if !job.attempts.is_empty() {
        screen.line("")?;
        let rows: Vec<Vec<String>> = job.attempts.iter().map(|attempt| row(attempt, now)).collect();
        screen.table(&["ATTEMPT", "OUTCOME", "WORKER", "HOST", "STARTED", "ENDED", "ERROR"], &rows)?;
    }
    for attempt in &job.attempts {
        if let Some(tail) = &attempt.stderr_tail {
            screen.line(&format!("\nstandard error of attempt {}:", attempt.attempt))?;
            for line in tail.lines() {
                screen.line(&format!("  {}", clean(line)))?;
            }
        }
    }
    Ok(())
}

fn row(attempt: &OpenAttempt, now: i64) -> Vec<String> {
    let ago = |at: Option<i64>| at.map(|at| relative(at, now)).unwrap_or_default();
    vec![
        attempt.attempt.to_string(),
        outcome(attempt),
        attempt.worker.clone(),
        attempt.host.clone(),
        ago(attempt.started),
        ago(attempt.ended),
        attempt.error.clone().unwrap_or_default(),
    ]
}
