//! Waiting for a job's end: `enqueue --wait` and `job wait`.

use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_shared::exit;
use roundsman_shared::job::State;
use roundsman_shared::job::view::Found;
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::settings::units::{UnitError, format_duration, parse_duration};
use roundsman_shared::store::{Store, StoreError};

use super::DONE;
use crate::connect::Context;
use crate::errors::Failure;
use crate::print;

/// Between two looks: short while the job may be quick, long when it is not.
const FIRST_POLL: Duration = Duration::from_millis(5);
const LAST_POLL: Duration = Duration::from_millis(250);
/// A store that is away no longer than this has only been restarted.
const OUTAGE: Duration = Duration::from_secs(5);
/// What `--wait` without a duration stands for.
pub const FOREVER: &str = "forever";

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    Forever,
    For(Duration),
}

pub fn patience(text: &str) -> Result<Patience, UnitError> {
    if text == FOREVER { Ok(Patience::Forever) } else { parse_duration(text).map(Patience::For) }
}

/// Waits, then prints the result, or the whole job with `--json`. Where the job `was_there` when this began, that it is not
/// found means that it has ended.
pub async fn answer(
    context: &Context,
    store: &Store,
    queue: &QueueName,
    id: &JobId,
    patience: Patience,
    was_there: bool,
) -> Result<u8, Failure> {
    let found = ended(store, queue, id, patience, was_there).await?;
    let view = found.view()?;
    if context.screen.json {
        context.screen.document(&view)?;
    } else if view.state == State::Done {
        context.screen.line(view.result.as_ref().map_or("null", |result| result.get()))?;
    }
    if view.state == State::Done {
        // Such as that its result could not be kept.
        if let Some(error) = &view.error {
            print::complain(&format!("{queue}/{id}: {}", print::clean(error)));
        }
        return DONE;
    }
    let cause = view.error.map_or_else(String::new, |error| format!(": {}", print::clean(&error)));
    print::complain(&format!("{queue}/{id} is {}{cause}", view.state));
    Err(Failure::said(exit::FAILED))
}

async fn ended(
    store: &Store,
    queue: &QueueName,
    id: &JobId,
    patience: Patience,
    mut was_there: bool,
) -> Result<Found, Failure> {
    let begun = Mono::now();
    let mut pause = FIRST_POLL;
    let mut away: Option<Mono> = None;
    loop {
        match store.look(queue, std::slice::from_ref(id)).await {
            Ok(found) => {
                away = None;
                let Some(found) = found.into_iter().next().flatten() else {
                    if was_there {
                        return Err(Failure::failed(format!(
                            "{queue}/{id} was there a moment ago and is not any more: it has ended and its record \
                             was not kept, or somebody deleted it"
                        ))
                        .advise(
                            "ended jobs are kept for keep_done of their queue, or shorter where the store is nearly full: \
                             see `roundsman doctor`",
                        ));
                    }
                    return Err(Failure::not_found(format!("{queue}/{id} is not there (any more)"))
                        .advise("an ended job is kept for keep_done of its queue"));
                };
                let state = found.state();
                if state.is_final() {
                    return Ok(found);
                }
                was_there = true;
                if let Patience::For(limit) = patience
                    && Mono::now().since(begun) >= limit
                {
                    let limit = format_duration(limit);
                    return Err(Failure::timed_out(format!(
                        "{queue}/{id} has not ended within {limit}: it is {state}"
                    ))
                    .advise(format!("`roundsman job explain {queue}/{id}` says why")));
                }
            }
            Err(StoreError::Unavailable(why)) => {
                let since = *away.get_or_insert_with(Mono::now);
                if Mono::now().since(since) > OUTAGE {
                    return Err(StoreError::Unavailable(why).into());
                }
            }
            Err(other) => return Err(other.into()),
        }
        let left = match patience {
            Patience::Forever => LAST_POLL,
            Patience::For(limit) => limit.saturating_sub(Mono::now().since(begun)),
        };
        tokio::time::sleep(pause.min(left)).await;
        pause = (pause * 3 / 2).min(LAST_POLL);
    }
}
