//! The project as a whole: its status, metrics and events, and the document of this API.

use super::{Answer, Refused};
use crate::api::access::Caller;
use crate::api::error::Problem;
use crate::api::events::SentEvent;
use crate::api::{Api, events as stream, routes};
use crate::failure::Kind;
use crate::gateway::metrics;
use crate::report::{StatusReport, seen};
use axum::Json;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use std::sync::LazyLock;

/// The media type of metrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether the API answers.
#[utoipa::path(
    get, path = "/healthz", tag = "project", operation_id = "healthz", security(()),
    responses((status = 200, description = "It does", body = String, content_type = "text/plain"))
)]
pub async fn healthz() -> &'static str {
    "ok"
}

/// This document.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "project", operation_id = "openapi",
    responses(
        (status = 200, description = "OpenAPI 3.1", body = Object),
        Refused,
    )
)]
pub async fn openapi() -> Answer<Response> {
    /// Made once: it is the same for all requests.
    static DOCUMENT: LazyLock<Result<String, String>> =
        LazyLock::new(|| routes::split().1.to_json().map_err(|why| why.to_string()));
    match &*DOCUMENT {
        Ok(text) => {
            Ok(([(header::CONTENT_TYPE, "application/json")], text.as_str()).into_response())
        }
        Err(why) => Err(Problem::of(
            Kind::Failed,
            format!("the OpenAPI document cannot be written as JSON: {why}"),
        )),
    }
}

/// The metrics of the gateway.
#[utoipa::path(
    get, path = "/v1/metrics", tag = "project", operation_id = "metrics",
    responses(
        (status = 200, description = "OpenMetrics text", body = String, content_type = OPENMETRICS),
        Refused,
    )
)]
pub async fn gateway_metrics(State(api): State<Api>) -> Result<impl IntoResponse, Problem> {
    let text = metrics::read(&api.app.state).await.map_err(|error| {
        Problem::of(
            Kind::Unavailable,
            format!("the gateway tells no metrics: {error:#}"),
        )
        .hint("`xylem status` says whether it runs")
    })?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text))
}

/// The server, the gateway, and the branches and computes that the token reaches.
#[utoipa::path(
    get, path = "/v1/status", tag = "project", operation_id = "status",
    responses(
        (status = 200, description = "As `xylem status`", body = StatusReport),
        Refused,
    )
)]
pub async fn status(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Json<StatusReport> {
    let seen = seen::look_as(&api.app, Some(caller.token.clone())).await;
    let mut report = StatusReport::of(&api.app, seen);
    report.computes = super::computes::visible(&caller, report.computes);
    Json(report)
}

/// Changes of branches, computes and operations, as server-sent events. `event` is
/// `branch` (BranchEvent), `compute` (ComputeEvent), `operation` (OperationReport without
/// its result), or `reset`: events were missed. A listener that comes back sends the id of
/// its last event in `Last-Event-ID`.
#[utoipa::path(
    get, path = "/v1/events", tag = "project", operation_id = "events",
    params(("Last-Event-ID" = Option<String>, Header, nullable = false, description = "Id of the last event that was received")),
    responses(
        (status = 200, description = "A stream of such events without an end", body = SentEvent, content_type = "text/event-stream"),
        Refused,
    )
)]
pub async fn events(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Answer<Response> {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    // One that is none is that of an event which is not known any more.
    let last = last.map(|id| id.trim().parse().unwrap_or(0));
    Ok(stream::stream(api, caller, last).await?.into_response())
}
