//! Prints pages of jobs, for `job list` and `dead list`.

use roundsman_shared::job::JobView;
use roundsman_shared::store::Store;

use crate::connect::Context;
use crate::errors::Failure;
use crate::print;
use crate::time;
use crate::walk::{FURTHEST, Filter, Listing, PAGE, Section, Walk};

/// What is to be listed.
#[derive(Debug)]
pub struct Wanted<'w> {
    pub sections: &'w [Section],
    pub filter: &'w Filter,
    pub cursor: Option<&'w str>,
    /// `None`: all of them, where they are streamed.
    pub limit: Option<usize>,
    /// One job a line, as they come.
    pub stream: bool,
}

/// Lists jobs as a table, a document or a stream.
pub async fn list(context: &Context, store: &Store, wanted: &Wanted<'_>) -> Result<(), Failure> {
    let screen = context.screen;
    let limit = wanted.limit.unwrap_or(if wanted.stream { usize::MAX } else { PAGE });
    let furthest = if wanted.stream && wanted.limit.is_none() { usize::MAX } else { FURTHEST };
    let mut walk = Walk::new(store, wanted.sections, wanted.cursor)?;
    let (mut jobs, mut count, mut now) = (Vec::new(), 0, 0);
    while count < limit && (wanted.filter.is_any() || walk.looked < furthest) {
        let Some(page) = walk.matching(wanted.filter, limit - count).await? else { break };
        for found in page {
            now = found.now.as_millis();
            let (queue, id) = (found.queue.clone(), found.id.clone());
            match found.view() {
                Ok(view) if wanted.stream => screen.row(&view)?,
                Ok(view) => jobs.push(view),
                Err(error) => {
                    screen.warn(&format!("{queue}/{id}: {error}"));
                    continue;
                }
            }
            count += 1;
        }
    }
    let next = walk.cursor();
    if !wanted.filter.is_any() {
        screen.note(&format!("looked at {}, {count} match", print::many(walk.looked, "job")));
    }
    if screen.json {
        return screen.document(&Listing { jobs, next });
    }
    if !wanted.stream {
        table(context, &jobs, now)?;
    }
    if let Some(next) = next {
        screen.note(&format!("more: --cursor {next}"));
    }
    Ok(())
}

fn table(context: &Context, jobs: &[JobView], now: i64) -> Result<(), Failure> {
    if jobs.is_empty() {
        context.screen.note("no jobs");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|job| {
            vec![
                format!("{}/{}", job.queue, job.id),
                job.state.to_string(),
                job.kind.clone().unwrap_or_default(),
                time::relative(job.due, now),
                job.attempt.to_string(),
                print::clean(job.error.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    context.screen.table(&["JOB", "STATE", "KIND", "DUE", "ATTEMPT", "ERROR"], &rows)
}
