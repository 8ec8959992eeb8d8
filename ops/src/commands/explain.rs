//! `job explain`: in words, why a job is not running, why it ran more than once, and when it will run.

use roundsman_shared::job::view::Found;
use roundsman_shared::store::Store;
use serde_json::json;

use super::Failure;
use crate::connect::Context;
use crate::explain::explain;
use crate::print::clean;

pub async fn run(context: &Context, store: &Store, found: Found) -> Result<(), Failure> {
    let policy = context.policy(store, &found.queue).await?;
    let (job, reasons) = explain(store, found, &policy, context.settings().store.lease).await?;
    let reasons: Vec<String> = reasons.iter().map(|reason| clean(reason)).collect();
    if context.screen.json {
        let document = json!({"id": job.id, "queue": job.queue, "state": job.state, "reasons": reasons});
        return context.screen.document(&document);
    }
    context.screen.line(&format!("{}/{} is {}.", job.queue, job.id, job.state))?;
    reasons.iter().try_for_each(|reason| context.screen.line(&format!("- {reason}")))
}
