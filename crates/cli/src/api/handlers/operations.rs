//! Operations.

use super::{Answer, Begun, Refused, Wait};
use crate::api::Api;
use crate::api::access::Caller;
use crate::api::error::Problem;
use crate::api::operations::{Operation, OperationReport};
use crate::failure::Kind;
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// How long a request waits for the end of what it cancels, in seconds.
const CANCEL_WAIT: u64 = 30;

/// Operations of the last hour, the oldest one first, without their results.
#[utoipa::path(
    get, path = "/v1/operations", tag = "operations", operation_id = "listOperations",
    responses(
        (status = 200, description = "Those of the token and of the branches that it may read", body = Vec<OperationReport>),
        Refused,
    )
)]
pub async fn operations(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Answer<Json<Vec<OperationReport>>> {
    Ok(Json(api.operations.list(&caller, api.app.now()?)))
}

/// An operation, with its result for the token that has begun it.
#[utoipa::path(
    get, path = "/v1/operations/{id}", tag = "operations", operation_id = "getOperation",
    params(("id" = String, Path, description = "Its id"), Wait),
    responses(
        (status = 200, description = "Its present state, after `wait` seconds at most (default: 0)", body = OperationReport),
        Refused,
    )
)]
pub async fn operation(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(wait): Query<Wait>,
) -> Answer<Json<OperationReport>> {
    let wait = wait.or(0)?;
    let found = find(&api, &caller, &id)?;
    found.wait(wait).await;
    Ok(Json(found.report(&caller)))
}

fn find(api: &Api, caller: &Caller, id: &str) -> Answer<Arc<Operation>> {
    let found = api.operations.find(caller, id, api.app.now()?);
    found.ok_or_else(|| {
        let detail = format!("there is no operation {id}");
        Problem::of(Kind::NotFound, detail)
            .hint("an operation is known for an hour after its end, until the API is restarted")
    })
}

/// Cancel an import or an export: it ends, and leaves nothing. Needs the token that has begun
/// it, or `admin` on all branches.
#[utoipa::path(
    delete, path = "/v1/operations/{id}", tag = "operations", operation_id = "cancelOperation",
    params(("id" = String, Path, description = "Its id"), Wait),
    responses(
        (status = 200, description = "Its state after its end: it may have succeeded before", body = OperationReport),
        Begun,
    )
)]
pub async fn cancel_operation(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(wait): Query<Wait>,
) -> Answer<Response> {
    let wait = wait.or(CANCEL_WAIT)?;
    let found = find(&api, &caller, &id)?;
    found.cancel(&caller)?;
    found.wait(wait).await;
    let report = found.report(&caller);
    if report.ended.is_some() {
        return Ok(Json(report).into_response());
    }
    let place = [(header::LOCATION, format!("/v1/operations/{id}"))];
    Ok((StatusCode::ACCEPTED, place, Json(report)).into_response())
}
