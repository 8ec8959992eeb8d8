//! Waiting for the ends of jobs: `?wait=`.

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::job::view::Found;
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::settings::units::parse_duration;
use roundsman_shared::store::{MAX_BATCH, StoreError};
use tokio::sync::watch;

use super::Api;
use super::answer::{Refusal, Result};

/// The longest that a call may hold its connection.
pub(super) const LONGEST: Duration = Duration::from_secs(300);
/// Between two looks: short while the jobs may be quick.
const FIRST: Duration = Duration::from_millis(3);
const LAST: Duration = Duration::from_millis(50);

/// Reads `wait`.
pub(super) fn patience(text: Option<&str>) -> Result<Option<Duration>> {
    let Some(text) = text else { return Ok(None) };
    let wait = parse_duration(text).map_err(|error| Refusal::bad("wait", error.to_string()))?;
    if wait > LONGEST {
        return Err(Refusal::bad("wait", format!("is longer than {LONGEST:?}")));
    }
    Ok(Some(wait))
}

/// Looks until all have ended, the time is over, or this process is to leave; answers what was seen last, in order.
/// A job that is not there (any more) counts as ended.
pub(super) async fn until_ended(
    api: &Api,
    queue: &QueueName,
    ids: &[JobId],
    wait: Duration,
) -> Result<Vec<Option<Found>>> {
    let deadline = Mono::now() + wait;
    let mut stop = api.stop.subscribe();
    let mut seen: Vec<Option<Found>> = vec![None; ids.len()];
    let mut open: Vec<usize> = (0..ids.len()).collect();
    let mut pause = FIRST;
    loop {
        // What is looked at now is the answer, if the time is over.
        let last = Mono::now() >= deadline || *stop.borrow();
        for chunk in open.chunks(MAX_BATCH) {
            let wanted: Vec<JobId> = chunk.iter().filter_map(|at| ids.get(*at).cloned()).collect();
            let found = match api.store()?.look(queue, &wanted).await {
                Ok(found) => found,
                // A store that is away for a moment has not ended any job.
                Err(StoreError::Unavailable(_)) if !last => continue,
                Err(error) => return Err(error.into()),
            };
            for (at, found) in chunk.iter().zip(found) {
                if let Some(place) = seen.get_mut(*at) {
                    *place = found;
                }
            }
        }
        let is_open = |at: &usize| {
            seen.get(*at).is_some_and(|found| found.as_ref().is_some_and(|found| !found.state().is_final()))
        };
        open.retain(is_open);
        if open.is_empty() || last {
            return Ok(seen);
        }
        let left = deadline.since(Mono::now());
        sleep(pause.min(left), &mut stop).await;
        pause = (pause * 3 / 2).min(LAST);
    }
}

async fn sleep(pause: Duration, stop: &mut watch::Receiver<bool>) {
    // Over at once, or early, when this process is to leave.
    let _ = tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await;
}
