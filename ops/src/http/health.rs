//! For machines that ask whether this one lives.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::Shared;
use super::answer::{Refusal, Result, success};

/// A store that answers later is not ready for anything.
const PATIENCE: Duration = Duration::from_secs(2);

/// This process serves.
#[utoipa::path(get, path = "/livez", tag = "machines", responses((status = 200, description = "It lives")))]
pub(super) async fn livez() -> Response {
    success(json!({"live": true}))
}

/// This process serves, and the store answers.
#[utoipa::path(
    get, path = "/readyz", tag = "machines",
    responses((status = 200, description = "Jobs are taken"), (status = 503, description = "The store is away"))
)]
pub(super) async fn readyz(State(api): Shared) -> Result {
    if *api.stop.borrow() {
        return Err(Refusal::error(StatusCode::SERVICE_UNAVAILABLE, "this process is about to leave"));
    }
    let store = api.store()?;
    match tokio::time::timeout(PATIENCE, store.clock()).await {
        Ok(Ok(_)) => Ok(success(json!({"ready": true}))),
        Ok(Err(error)) => Err(error.into()),
        Err(_late) => Err(Refusal::error(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the store did not answer within {PATIENCE:?}"),
        )),
    }
}
