//! The AMQP way in: messages of a broker become jobs. A part of the fleet, since it parses what strangers wrote.
//!
//! ```text
//! message    a message as a job, or why it is none                (pure)
//! held       messages between delivery and ack                    (pure)
//! topology   the queue, and whether it dead-letters
//! consumer   one queue of the broker, taken in for ever
//! tally      how it stands with it, for `status`
//! ```
//! Each queue that is taken in has a task and a connection of its own, so that what one is refused, or has to wait for,
//! is nothing to the others.
//!
//! No message is acknowledged before its job is stored. One that the broker delivers again has the same `message-id`,
//! and so makes the same job; without one, see [`held::Unsure`].

mod consumer;
mod held;
mod message;
mod tally;
mod topology;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use roundsman_shared::assignment::{Assignment, PartSpec};
use roundsman_shared::exit;
use roundsman_shared::store::{Store, StoreError};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::consumer::Intake;
use self::tally::Tally;
use crate::part::{self, Part, Said, Stop};

/// Between tries to open the store.
const RETRY: Duration = Duration::from_millis(500);

/// Runs the role; answers the exit code.
pub(crate) fn run() -> u8 {
    part::run(serve)
}

async fn serve(part: &mut Part, assignment: Assignment) -> (u8, String) {
    let Some(PartSpec::Amqp(spec)) = &assignment.part else {
        return (exit::CONFIG, "it was not told what to take in".to_owned());
    };
    let store = loop {
        match Store::open(&assignment.store_config()).await {
            Ok(store) => break store,
            Err(StoreError::Unfit(why)) => return (exit::CONFIG, why),
            Err(_) => {}
        }
        if part.starting(RETRY).await.is_some() {
            return (exit::OK, "told to stop".to_owned());
        }
    };
    let (stop, stopped) = watch::channel(false);
    let (mut tallies, mut tasks) = (Vec::new(), JoinSet::new());
    for intake in &spec.intakes {
        let tally = Arc::new(Tally::new(format!("{} → {}", intake.from, intake.queue)));
        tallies.push(tally.clone());
        let intake = Intake {
            url: spec.url.expose().to_owned(),
            policy: assignment.policy(&intake.queue),
            of: intake.clone(),
            store: store.clone(),
            tally,
            stop: stopped.clone(),
        };
        tasks.spawn(intake.serve());
    }
    part.ready();
    let say = || Said {
        store_ok: tallies.iter().all(|tally| tally.store_ok.load(Ordering::Relaxed)),
        done: tallies.iter().map(|tally| tally.taken()).sum(),
        words: Some(tallies.iter().map(|tally| tally.words()).collect::<Vec<_>>().join("; ")),
    };
    if let Stop::Drain(within) = part.telling(say).await {
        let _ = stop.send(true);
        let done = async { while tasks.join_next().await.is_some() {} };
        part.draining(async { tokio::time::timeout(within, done).await.unwrap_or(()) }).await;
    }
    (exit::OK, "told to stop".to_owned())
}
