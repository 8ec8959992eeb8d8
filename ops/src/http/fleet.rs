//! The running fleet, as its hosts tell it to the store.

use axum::Extension;
use axum::extract::State;
use serde_json::{Value, json};

use super::Shared;
use super::access::Caller;
use super::answer::{Result, success};
use super::openapi::{Fail, FleetDocument, ScalingDocument, Success};
use crate::fleet::Fleet;
use crate::overview::Overview;

/// Store, hosts, pools, workers and queues: the object of `status --json`.
#[utoipa::path(
    get, path = "/api/v1/fleet", tag = "fleet",
    responses((status = 200, body = Success<FleetDocument>),
        (status = 403, description = "The token is for some queues only", body = Fail))
)]
pub(super) async fn fleet(State(api): Shared, Extension(caller): Extension<Caller>) -> Result {
    caller.demand_all()?;
    let (store, queues) = (api.store()?, api.queues(&caller).await?);
    Ok(success(Overview::read(store, &queues).await?.document(store, &api.shown_store)))
}

/// How many workers each pool wants, and why.
#[utoipa::path(
    get, path = "/api/v1/scaling", tag = "fleet",
    responses((status = 200, body = Success<ScalingDocument>),
        (status = 403, description = "The token is for some queues only", body = Fail))
)]
pub(super) async fn scaling(State(api): Shared, Extension(caller): Extension<Caller>) -> Result {
    caller.demand_all()?;
    let fleet = Fleet::read(api.store()?).await?;
    let mut pools = Vec::new();
    for host in &fleet.records {
        for pool in host.get("pools").and_then(Value::as_array).into_iter().flatten() {
            let mut shown = json!({"host": host.get("host")});
            if let (Value::Object(shown), Value::Object(pool)) = (&mut shown, pool) {
                let count = pool.get("workers").and_then(Value::as_array).map_or(0, Vec::len);
                shown.extend(
                    pool.iter().filter(|(key, _)| *key != "workers").map(|(k, v)| (k.clone(), v.clone())),
                );
                shown.insert("workers".to_owned(), count.into());
            }
            pools.push(shown);
        }
    }
    Ok(success(json!({"pools": pools})))
}
