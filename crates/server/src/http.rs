//! Metrics and health over HTTP, for clients without gRPC.

use crate::node::Node;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;
use tonic::Code;
use xylem_tokens::Right;

/// `/metrics`, `/healthz`, `/readyz`.
pub(crate) fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(node)
}

/// Names of branches and what goes on in them are not for everybody.
async fn metrics(State(node): State<Arc<Node>>, headers: HeaderMap) -> Response {
    let given = headers.get(header::AUTHORIZATION);
    let token = given.and_then(|given| given.as_bytes().strip_prefix(b"Bearer "));
    let admitted = node
        .access
        .bearer(token)
        .and_then(|bearer| bearer.may_all(Right::Read));
    if let Err(status) = admitted {
        let code = match status.code() {
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            _ => StatusCode::FORBIDDEN,
        };
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (code, challenge, format!("{}\n", status.message())).into_response();
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], node.scrape()).into_response()
}

async fn ready(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let reasons = node.unready();
    if reasons.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }
}
