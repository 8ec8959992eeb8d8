//! What the operations of a sequence stand for.

use std::time::Duration;

use roundsman_shared::clock::StoreTime;
use roundsman_shared::job::record::encode;
use roundsman_shared::job::view::Found;
use roundsman_shared::job::{Due, NewJob, Policy, Spec};
use roundsman_shared::names::JobId;
use roundsman_shared::settings::Backoff;
use roundsman_shared::store::Retention;

use crate::op::{DueArg, ExpiresArg, JobArg};
use crate::stores::{HOUR, from_spec, id};

/// In the far past and the far future, in Unix milliseconds.
const PAST: i64 = 1_000_000_000_000;
const FUTURE: i64 = 4_102_444_800_000;

pub(crate) fn policy() -> Policy {
    let backoff = Backoff::Fixed { delay: HOUR };
    Policy {
        max_attempts: 3,
        max_crashes: 3,
        max_killed: 3,
        max_snooze: 2 * HOUR,
        backoff,
        ..Policy::default()
    }
}

pub(crate) fn retention(old: bool) -> Retention {
    let age = if old { Duration::ZERO } else { HOUR };
    let (keep_done, keep_dead, remember_ids) = (age, age, age);
    let (keep_done_max, keep_dead_max, remember_ids_max) = (3, 2, 4);
    Retention { keep_done, keep_done_max, keep_dead, keep_dead_max, remember_ids, remember_ids_max }
}

pub(crate) fn due(due: DueArg) -> Due {
    match due {
        DueArg::Now => Due::Now,
        DueArg::InAnHour => Due::In(HOUR),
        DueArg::Past(n) => Due::At(StoreTime::from_millis(PAST + i64::from(n))),
        DueArg::Future(n) => Due::At(StoreTime::from_millis(FUTURE + i64::from(n))),
    }
}

pub(crate) fn job_id(number: u8) -> JobId {
    id(&format!("j{number}"))
}

pub(crate) fn lease(lapses: bool) -> Duration {
    if lapses { Duration::ZERO } else { HOUR }
}

/// The content of a job with another payload.
pub(crate) fn replaced(found: Option<Found>, payload: u8) -> String {
    let spec = found.and_then(|found| found.record.decode().ok());
    let spec = spec.unwrap_or_else(|| Spec::bare(true, String::new()));
    encode(&Spec { payload: format!("\"other {payload}\""), ..spec })
}

pub(crate) fn new_job(arg: &JobArg) -> NewJob {
    let mut spec = Spec::bare(arg.chosen, arg.payload.to_string());
    (spec.due, spec.priority) = (due(arg.due), arg.priority);
    spec.expires = match arg.expires {
        ExpiresArg::Never => None,
        ExpiresArg::Past => Some(StoreTime::from_millis(PAST)),
        ExpiresArg::Future => Some(StoreTime::from_millis(FUTURE)),
    };
    if arg.traced {
        spec.headers.insert("traceparent".to_owned(), format!("00-{}", arg.payload));
    }
    from_spec(job_id(arg.id).as_str(), &spec)
}
