//! The routes, and the right that each one needs. A request is admitted before its body is
//! read.

use super::Api;
use super::access::Caller;
use super::error::{Problem, document};
use super::handlers::{branches, compute_name, computes, operations, project, tokens, transfers};
use super::operations::OPERATION;
use crate::failure::Kind;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use std::net::SocketAddr;
use std::time::Duration;
use utoipa::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use xylem_tokens::Right;

/// The largest body of a request.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// The right that a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Not even a token.
    Nothing,
    /// A token. The answer has only what the token reaches.
    Token,
    /// This right on the branch in the path, or on the branch of the compute there.
    Branch(Right),
    /// To end the compute in the path: `read` for a read-only one, else `write`.
    Compute,
    /// A right on the branches that the body names, which the handler checks.
    Body,
    /// To have begun the operation in the path, or `admin` on the whole project, which the
    /// handler checks.
    Operation,
    /// This right on the whole project.
    Project(Right),
}

/// All routes. One that is missing here is refused.
pub const ROUTES: &[(&str, &str, Need)] = &[
    ("GET", "/healthz", Need::Nothing),
    ("GET", "/v1/openapi.json", Need::Token),
    ("GET", "/v1/metrics", Need::Project(Right::Read)),
    ("GET", "/v1/status", Need::Token),
    ("GET", "/v1/events", Need::Token),
    ("GET", "/v1/operations", Need::Token),
    ("GET", "/v1/operations/{id}", Need::Token),
    ("DELETE", "/v1/operations/{id}", Need::Operation),
    ("GET", "/v1/branches", Need::Token),
    ("POST", "/v1/branches", Need::Body),
    ("GET", "/v1/branches/{name}", Need::Branch(Right::Read)),
    ("PATCH", "/v1/branches/{name}", Need::Branch(Right::Admin)),
    ("DELETE", "/v1/branches/{name}", Need::Branch(Right::Admin)),
    (
        "GET",
        "/v1/branches/{name}/moments",
        Need::Branch(Right::Read),
    ),
    (
        "POST",
        "/v1/branches/{name}/restore",
        Need::Branch(Right::Admin),
    ),
    (
        "POST",
        "/v1/branches/{name}/reopen",
        Need::Branch(Right::Admin),
    ),
    (
        "POST",
        "/v1/branches/{name}/exports",
        Need::Project(Right::Admin),
    ),
    ("POST", "/v1/imports", Need::Project(Right::Admin)),
    ("GET", "/v1/computes", Need::Token),
    ("GET", "/v1/computes/{name}", Need::Branch(Right::Read)),
    ("DELETE", "/v1/computes/{name}", Need::Compute),
    // The handler asks for more unless the compute is to be read-only.
    (
        "POST",
        "/v1/computes/{name}/start",
        Need::Branch(Right::Read),
    ),
    ("POST", "/v1/computes/{name}/stop", Need::Compute),
    ("POST", "/v1/computes/{name}/kill", Need::Compute),
    ("GET", "/v1/tokens", Need::Project(Right::Admin)),
    ("POST", "/v1/tokens", Need::Project(Right::Admin)),
    ("POST", "/v1/tokens/rotate", Need::Project(Right::Admin)),
    ("GET", "/v1/tokens/{id}", Need::Project(Right::Admin)),
    ("DELETE", "/v1/tokens/{id}", Need::Project(Right::Admin)),
];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Xylem",
        description = "Branches, computes and tokens of a project. Each request needs a token (`xylem token create`). Errors are problem documents (RFC 9457).",
    ),
    components(schemas(
        super::events::BranchEvent,
        super::events::ComputeEvent,
        super::error::Problem
    )),
    security(("token" = []))
)]
struct Document;

/// The routes, and their OpenAPI document.
pub fn split() -> (Router<Api>, utoipa::openapi::OpenApi) {
    let mut document = Document::openapi();
    document.info.version = xylem_server::VERSION.to_owned();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .build();
    document
        .components
        .get_or_insert_default()
        .add_security_scheme("token", SecurityScheme::Http(scheme));
    OpenApiRouter::with_openapi(document)
        .routes(routes!(project::healthz))
        .routes(routes!(project::openapi))
        .routes(routes!(project::gateway_metrics))
        .routes(routes!(project::status))
        .routes(routes!(project::events))
        .routes(routes!(operations::operations))
        .routes(routes!(operations::operation, operations::cancel_operation))
        .routes(routes!(branches::branches, branches::create_branch))
        .routes(routes!(
            branches::branch,
            branches::change_branch,
            branches::remove_branch
        ))
        .routes(routes!(branches::moments))
        .routes(routes!(branches::restore_branch))
        .routes(routes!(branches::reopen_branch))
        .routes(routes!(transfers::export_branch))
        .routes(routes!(transfers::import_branch))
        .routes(routes!(computes::computes))
        .routes(routes!(computes::compute, computes::remove_compute))
        .routes(routes!(computes::start_compute))
        .routes(routes!(computes::stop_compute))
        .routes(routes!(computes::kill_compute))
        .routes(routes!(tokens::tokens, tokens::create_token))
        .routes(routes!(tokens::rotate_keys))
        .routes(routes!(tokens::token, tokens::revoke_token))
        .split_for_parts()
}

/// All routes, behind the checks of every request.
pub fn router(api: Api) -> Router {
    let (router, _) = split();
    router
        .fallback(no_route)
        .layer(from_fn_with_state(api.clone(), admit))
        .layer(map_response(document))
        .with_state(api)
}

async fn no_route() -> Problem {
    Problem::of(Kind::NotFound, "there is no such resource")
        .hint("GET /v1/openapi.json describes all of them")
}

/// Admits a request by its token, reads its body, and writes a refusal to the audit log.
async fn admit(State(api): State<Api>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let path = parts.extensions.get::<MatchedPath>().cloned();
    let path = path.as_ref().map(MatchedPath::as_str);
    if path == Some("/healthz") {
        return next.run(Request::from_parts(parts, Body::empty())).await;
    }
    let Some(&ConnectInfo(from)) = parts.extensions.get::<ConnectInfo<SocketAddr>>() else {
        return Problem::of(Kind::Failed, "a request without an address").into_response();
    };
    let caller = match api.access.caller(&parts.headers, from) {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let method = parts.method.clone();
    let params = RawPathParams::from_request_parts(&mut parts, &())
        .await
        .ok();
    let param = params.as_ref().and_then(|all| all.iter().next());
    let on = param.map_or_else(String::new, |(_, value)| value.to_owned());
    let admitted = match path {
        Some(path) => admitted(&caller, &method, path, &on),
        None => Ok(()),
    };
    let response = match admitted {
        Ok(()) => match body_of(body).await {
            Ok(body) => {
                parts.extensions.insert(caller.clone());
                next.run(Request::from_parts(parts, body)).await
            }
            Err(problem) => problem.into_response(),
        },
        Err(problem) => problem.into_response(),
    };
    // An operation writes its own line.
    let begun = response.headers().contains_key(OPERATION);
    if !method.is_safe() && !begun {
        let call = format!("{method} {}", path.unwrap_or("?"));
        let status = response.status();
        let refused = response.extensions().get::<Problem>().cloned();
        let refused = refused.unwrap_or_else(|| Problem::at(status, status.to_string()));
        let outcome = match status.is_success() {
            true => Ok(()),
            false => Err(&refused),
        };
        api.access.audit(&caller, &call, &on, outcome);
    }
    response
}

/// Whether `caller` has the right that the route needs; `on` is the branch or compute in
/// the path.
fn admitted(caller: &Caller, method: &Method, path: &str, on: &str) -> Result<(), Problem> {
    let asked = match method.as_str() {
        "HEAD" => "GET",
        other => other,
    };
    let mut same_path = ROUTES.iter().filter(|(_, route, _)| *route == path);
    let Some((_, _, need)) = same_path.clone().find(|(method, _, _)| *method == asked) else {
        // Another method is refused by the router.
        return match same_path.next() {
            Some(_) => Ok(()),
            None => Err(Problem::of(Kind::Denied, "this route has no right yet")),
        };
    };
    match need {
        Need::Nothing | Need::Token | Need::Body | Need::Operation => Ok(()),
        Need::Branch(right) => caller.may(*right, &compute_name(on)?),
        Need::Compute => {
            let name = compute_name(on)?;
            let right = match name.is_reader() {
                true => Right::Read,
                false => Right::Write,
            };
            caller.may(right, &name)
        }
        Need::Project(right) => caller.may_all(*right),
    }
}

async fn body_of(body: Body) -> Result<Body, Problem> {
    match tokio::time::timeout(BODY_LIMIT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(Body::from(bytes)),
        Ok(Err(error)) => {
            let large = std::error::Error::source(&error)
                .is_some_and(|cause| cause.to_string().contains("length limit"));
            Err(match large {
                true => Problem::at(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!("the body has more than {BODY_BYTES_MAX} bytes"),
                ),
                false => Problem::at(
                    StatusCode::BAD_REQUEST,
                    format!("the body broke off: {error}"),
                ),
            })
        }
        Err(_) => Err(Problem::at(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not arrive in {} s", BODY_LIMIT.as_secs()),
        )),
    }
}
