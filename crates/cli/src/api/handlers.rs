//! The answers to requests, one function for each route.

use super::access::Caller;
use super::error::Problem;
use super::operations::{Asked, IDEMPOTENCY_KEY, On, OperationReport, Outcome, WAIT, WAIT_MAX};
use super::request::{
    ChangeBranch, NewBranch, NewToken, RestoreBranch, RotateKeys, StartCompute, moment,
};
use super::{Api, events, routes};
use crate::app::App;
use crate::compute::name::ComputeName;
use crate::compute::record::{self, ComputeRecord};
use crate::control::{Control, near};
use crate::failure::{self, Failure, Kind};
use crate::gateway::metrics;
use crate::remote::path as resource;
use crate::report::branch::BranchReport;
use crate::report::change::{
    Changed, Created, Ended, MomentReport, Removed, Restored, Shown, Started,
};
use crate::report::token::{RotatedReport, TokenReport};
use crate::report::{ComputeReport, StatusReport, computes as all_computes, seen};
use crate::session::Session;
use crate::settings::span;
use crate::work;
use anyhow::{Context, Result};
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::IntoParams;
use xylem_tokens::Right;
use xylem_types::BranchName;

/// The media type of metrics.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// An answer, or why there is none.
type Answer<T> = Result<T, Problem>;

/// How long the server may take to say what a read-only compute shows.
const READER_LIMIT: Duration = Duration::from_secs(5);

/// How long a request waits.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wait {
    /// How long to wait for the outcome, in seconds. Then the answer is 202, and
    /// `Location` names the operation. Default: 30.
    #[param(maximum = 300)]
    wait: Option<u64>,
}

impl Wait {
    fn or(&self, default: u64) -> Answer<Duration> {
        let wait = self.wait.unwrap_or(default);
        if wait > WAIT_MAX {
            return Err(invalid(format!("wait: at most {WAIT_MAX} seconds")));
        }
        Ok(Duration::from_secs(wait))
    }
}

/// A branch in a path, for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "a schema")]
struct BranchPath {
    /// The branch's name; `/` in it is written %2F.
    #[param(
        max_length = 200,
        pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*)*$"
    )]
    name: String,
}

/// A compute in a path, for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "a schema")]
struct ComputePath {
    /// The branch's name, or that of a read-only compute, such as main@1.
    #[param(
        max_length = 200,
        pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*)*(@[1-9][0-9]{0,17})?$"
    )]
    name: String,
}

/// The header of a request that may be repeated, for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "a schema")]
struct Repeatable {
    /// The same key gives the same operation back. A key that came with another request is
    /// refused.
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 256,
        pattern = "^[!-~]+$"
    )]
    key: Option<String>,
}

/// The choice of branches that are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct All {
    /// Include the hidden branches of read-only computes. Default: false.
    #[serde(default)]
    #[param(required = false)]
    all: bool,
}

/// A moment.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct At {
    /// An LSN, a time (RFC 3339), or how long ago (`5 minutes ago`). Default: now.
    #[param(min_length = 1)]
    at: Option<String>,
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::of(Kind::Invalid, detail)
}

/// The name of a branch or compute in a path.
pub fn compute_name(text: &str) -> Answer<ComputeName> {
    ComputeName::parse(text).map_err(invalid)
}

fn branch_name(text: &str) -> Answer<BranchName> {
    BranchName::parse(text).map_err(|error| invalid(error.to_string()))
}

/// A connection to the server that has the caller's rights.
async fn control(api: &Api, caller: &Caller) -> Answer<Control> {
    let server = api.app.state.server_record();
    let Some(server) = server.filter(|server| server.process.is_alive()) else {
        return Err(Problem::of(Kind::Unavailable, "the server does not run")
            .hint("`xylem up` starts it, and so does starting a compute"));
    };
    let token = Some(caller.token.clone());
    Ok(Control::with_token(&api.app, &server, token).await?)
}

/// A session in which the server is asked with the caller's rights.
async fn session(app: &App, caller: &Caller) -> Result<Session> {
    let mut session = Session::open(app, &app.progress()).await?;
    let server = &session.running.record;
    session.caller = Control::with_token(app, server, Some(caller.token.clone())).await?;
    Ok(session)
}

/// A change, and how its request is to be answered.
struct Change {
    api: Api,
    asked: Asked,
    wait: Duration,
}

impl Change {
    fn new<T: Serialize>(
        (api, caller): (Api, Caller),
        headers: &HeaderMap,
        wait: &Wait,
        call: &str,
        (on, body): (On, &T),
    ) -> Answer<Change> {
        let key = headers.get(IDEMPOTENCY_KEY);
        let key = key.map(|key| key.to_str().map(str::to_owned));
        let body = serde_json::to_string(body).context("the body")?;
        Ok(Change {
            wait: wait.or(WAIT)?,
            asked: Asked {
                caller,
                call: call.to_owned(),
                said: format!("{on} {body}"),
                on,
                key: key.transpose().map_err(|_| {
                    Problem::at(StatusCode::BAD_REQUEST, "Idempotency-Key is not ASCII")
                })?,
            },
            api,
        })
    }

    /// Begins the change, waits, and answers.
    async fn by<W>(self, work: W) -> Answer<Response>
    where
        W: FnOnce(App, Caller) -> LocalBoxFuture<'static, Result<Outcome>> + Send + 'static,
    {
        let caller = self.asked.caller.clone();
        let theirs = caller.clone();
        let begun = self
            .api
            .operations
            .begin(&self.api, self.asked, move |app| work(app, theirs))?;
        Ok(begun.answer(&self.api.access, &caller, self.wait).await)
    }
}

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
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(routes::split().1)
}

/// The metrics of the gateway.
#[utoipa::path(
    get, path = "/v1/metrics", tag = "project", operation_id = "metrics",
    responses(
        (status = 200, description = "OpenMetrics text", body = String, content_type = OPENMETRICS),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "No gateway runs", body = Problem, content_type = "application/problem+json"),
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
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn status(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Json<StatusReport> {
    let seen = seen::look_as(&api.app, Some(caller.token.clone())).await;
    let mut report = StatusReport::of(&api.app, seen);
    report.computes = visible(&caller, report.computes);
    Json(report)
}

fn visible(caller: &Caller, computes: Vec<ComputeReport>) -> Vec<ComputeReport> {
    let all = computes.into_iter();
    all.filter(|compute| {
        let name = ComputeName::parse(&compute.name);
        name.is_ok_and(|name| caller.has(Right::Read, &name))
    })
    .collect()
}

/// Changes of branches, computes and operations, as server-sent events. `event` is
/// `branch` (BranchEvent), `compute` (ComputeEvent), `operation` (OperationReport without
/// its result), or `reset`: events were missed. A listener that comes back sends the id of
/// its last event in `Last-Event-ID`.
#[utoipa::path(
    get, path = "/v1/events", tag = "project", operation_id = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "Id of the last event that was received")),
    responses(
        (status = 200, description = "A stream without an end", body = String, content_type = "text/event-stream"),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many listeners", body = Problem, content_type = "application/problem+json"),
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
    Ok(events::stream(api, caller, last).await?.into_response())
}

/// Operations of the last hour, the oldest one first, without their results.
#[utoipa::path(
    get, path = "/v1/operations", tag = "operations", operation_id = "listOperations",
    responses(
        (status = 200, description = "Those of the token and of the branches that it may read", body = Vec<OperationReport>),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
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
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn operation(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(wait): Query<Wait>,
) -> Answer<Json<OperationReport>> {
    let wait = wait.or(0)?;
    let Some(found) = api.operations.find(&caller, &id, api.app.now()?) else {
        return Err(
            Problem::of(Kind::NotFound, format!("there is no operation {id}")).hint(
                "an operation is known for an hour after its end, until the API is restarted",
            ),
        );
    };
    found.wait(wait).await;
    Ok(Json(found.report(&caller)))
}

/// The branches that the token may read.
#[utoipa::path(
    get, path = "/v1/branches", tag = "branches", operation_id = "listBranches", params(All),
    responses(
        (status = 200, description = "As `xylem branch ls`", body = Vec<BranchReport>),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The server does not run", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn branches(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(All { all }): Query<All>,
) -> Answer<Json<Vec<BranchReport>>> {
    let control = control(&api, &caller).await?;
    Ok(Json(work::branch::list(&control, all).await?))
}

/// Create a branch. Needs `admin` on its name and `read` on its parent.
#[utoipa::path(
    post, path = "/v1/branches", tag = "branches", operation_id = "createBranch",
    params(Wait, Repeatable),
    request_body = NewBranch,
    responses(
        (status = 201, description = "As `xylem branch create`", body = Created),
        (status = 202, description = "It goes on", body = OperationReport),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn create_branch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
    Json(body): Json<NewBranch>,
) -> Answer<Response> {
    let name = branch_name(&body.name)?;
    let from = match &body.from {
        Some(from) => branch_name(from)?,
        None => BranchName::main(),
    };
    let on = ComputeName::from(name.clone());
    caller.may(Right::Admin, &on)?;
    caller.may(Right::Read, &ComputeName::from(from.clone()))?;
    let new = work::branch::New {
        name,
        from,
        at: at(&api, body.at.as_deref())?,
        suspend_after: span_of(body.suspend_after.as_deref())?,
    };
    let on = (On::Branch(on), &body);
    let change = Change::new((api, caller), &headers, &wait, "POST /v1/branches", on)?;
    change
        .by(|app, caller| {
            Box::pin(async move {
                let mut up = session(&app, &caller).await?;
                up.caller.branch(&new.from).await?;
                let made = work::branch::create(&app, &mut up, &new).await?;
                let place = resource(&["branches", &made.branch.name]);
                Outcome::created(&made, place)
            })
        })
        .await
}

fn at(api: &Api, text: Option<&str>) -> Answer<Option<crate::moment::Moment>> {
    let Some(text) = text else { return Ok(None) };
    let found = moment(text, api.app.now()?);
    found.map(Some).map_err(|why| invalid(format!("at: {why}")))
}

fn span_of(text: Option<&str>) -> Answer<Option<String>> {
    let Some(text) = text else { return Ok(None) };
    let found = span(text);
    found
        .map(Some)
        .map_err(|why| invalid(format!("suspend_after: {why}")))
}

/// A branch. Its troubles are told to tokens with `admin` on all branches.
#[utoipa::path(
    get, path = "/v1/branches/{name}", tag = "branches", operation_id = "getBranch",
    params(BranchPath),
    responses(
        (status = 200, description = "As `xylem branch show`", body = Shown),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The server does not run", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn branch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answer<Json<Shown>> {
    let name = compute_name(&name)?;
    let control = control(&api, &caller).await?;
    let all = work::branch::list(&control, true).await?;
    let diagnosed = caller.claims.allows_all(Right::Admin);
    Ok(Json(
        work::branch::show(&control, &all, &name, diagnosed).await?,
    ))
}

/// Rename a branch, or change its settings. Needs `admin` on both names.
#[utoipa::path(
    patch, path = "/v1/branches/{name}", tag = "branches", operation_id = "changeBranch",
    params(BranchPath, Wait),
    request_body = ChangeBranch,
    responses(
        (status = 200, description = "As `xylem branch set`, `rename`", body = Changed),
        (status = 202, description = "It goes on", body = OperationReport),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn change_branch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
    Json(body): Json<ChangeBranch>,
) -> Answer<Response> {
    let name = branch_name(&name)?;
    let to = body.name.as_deref().map(branch_name).transpose()?;
    if let Some(to) = &to {
        caller.may(Right::Admin, &ComputeName::from(to.clone()))?;
    }
    let after = body.suspend_after.as_deref();
    let after = after.map(work::branch::SpanOrDefault::parse).transpose();
    let after = after.map_err(|why| invalid(format!("suspend_after: {why}")))?;
    if to.is_none() && after.is_none() {
        return Err(invalid(
            "there is nothing to change: give name or suspend_after",
        ));
    }
    let on = (On::Branch(name.clone().into()), &body);
    let call = "PATCH /v1/branches/{name}";
    let change = Change::new((api, caller), &headers, &wait, call, on)?;
    change
        .by(move |app, caller| {
            Box::pin(async move {
                let progress = app.progress();
                let mut up = session(&app, &caller).await?;
                up.caller.branch(&name).await?;
                let mut changed = match &after {
                    Some(after) => Some(work::branch::set(&app, &mut up, &name, after).await?),
                    None => None,
                };
                if let Some(to) = &to {
                    let renamed = work::branch::rename(&app, &mut up, &progress, &name, to);
                    changed = Some(renamed.await?);
                }
                Outcome::ok(&changed.context("nothing was changed")?)
            })
        })
        .await
}

/// Remove a branch without child branches, its compute and its history.
#[utoipa::path(
    delete, path = "/v1/branches/{name}", tag = "branches", operation_id = "removeBranch",
    params(BranchPath, Wait),
    responses(
        (status = 200, description = "As `xylem branch rm`: the branch as it was", body = Removed),
        (status = 202, description = "It goes on", body = OperationReport),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn remove_branch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
) -> Answer<Response> {
    let name = compute_name(&name)?;
    let on = (On::Branch(name.clone()), &());
    let call = "DELETE /v1/branches/{name}";
    let change = Change::new((api, caller), &headers, &wait, call, on)?;
    change
        .by(move |app, caller| {
            Box::pin(async move {
                let mut up = session(&app, &caller).await?;
                up.caller.branch(&name).await?;
                Outcome::ok(&work::branch::remove(&app, &mut up, &name).await?)
            })
        })
        .await
}

/// A moment of a branch as LSN and as time, and the limits of its history.
#[utoipa::path(
    get, path = "/v1/branches/{name}/moments", tag = "branches", operation_id = "getMoment",
    params(BranchPath, At),
    responses(
        (status = 200, description = "The moment", body = MomentReport),
        (status = "4XX", description = "Refused, or outside the history", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The server does not run", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn moments(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Query(query): Query<At>,
) -> Answer<Json<MomentReport>> {
    let name = compute_name(&name)?;
    let at = at(&api, query.at.as_deref())?;
    let control = control(&api, &caller).await?;
    Ok(Json(control.resolve(&name, at).await?.into()))
}

/// Restore a branch to a moment. Its present state is kept as another branch.
#[utoipa::path(
    post, path = "/v1/branches/{name}/restore", tag = "branches", operation_id = "restoreBranch",
    params(BranchPath, Wait, Repeatable),
    request_body = RestoreBranch,
    responses(
        (status = 200, description = "As `xylem branch restore`", body = Restored),
        (status = 202, description = "It goes on", body = OperationReport),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn restore_branch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
    Json(body): Json<RestoreBranch>,
) -> Answer<Response> {
    let name = branch_name(&name)?;
    let keep_as = body.keep_as.as_deref().map(branch_name).transpose()?;
    if let Some(keep_as) = &keep_as {
        caller.may(Right::Admin, &ComputeName::from(keep_as.clone()))?;
    }
    let at = at(&api, Some(&body.at))?.context("no moment")?;
    let on = (On::Branch(name.clone().into()), &body);
    let call = "POST /v1/branches/{name}/restore";
    let change = Change::new((api, caller), &headers, &wait, call, on)?;
    change
        .by(move |app, caller| {
            Box::pin(async move {
                let progress = app.progress();
                let mut up = session(&app, &caller).await?;
                up.caller.branch(&name).await?;
                let keep = keep_as.as_ref();
                let done = work::branch::restore(&app, &mut up, &progress, &name, at, keep);
                Outcome::ok(&done.await?)
            })
        })
        .await
}

/// Open a branch and its child branches again, when it has stopped or did not open.
#[utoipa::path(
    post, path = "/v1/branches/{name}/reopen", tag = "branches", operation_id = "reopenBranch",
    params(BranchPath, Wait, Repeatable),
    responses(
        (status = 200, description = "As `xylem branch reopen`", body = BranchReport),
        (status = 202, description = "It goes on", body = OperationReport),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn reopen_branch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
) -> Answer<Response> {
    let name = compute_name(&name)?;
    let on = (On::Branch(name.clone()), &());
    let call = "POST /v1/branches/{name}/reopen";
    let change = Change::new((api, caller), &headers, &wait, call, on)?;
    change
        .by(move |app, caller| {
            Box::pin(async move {
                let up = session(&app, &caller).await?;
                Outcome::ok(&work::branch::reopen(&up, &name).await?)
            })
        })
        .await
}

/// The computes of branches that the token may read.
#[utoipa::path(
    get, path = "/v1/computes", tag = "computes", operation_id = "listComputes",
    responses(
        (status = 200, description = "As `xylem compute ls`", body = Vec<ComputeReport>),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn computes(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Json<Vec<ComputeReport>> {
    Json(look_at_computes(&api, &caller).await)
}

async fn look_at_computes(api: &Api, caller: &Caller) -> Vec<ComputeReport> {
    let seen = seen::look_as(&api.app, Some(caller.token.clone())).await;
    visible(caller, all_computes(&api.app.state, &seen.branches))
}

/// A compute.
#[utoipa::path(
    get, path = "/v1/computes/{name}", tag = "computes", operation_id = "getCompute",
    params(ComputePath),
    responses(
        (status = 200, description = "As an element of `xylem compute ls`", body = ComputeReport),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn compute(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answer<Json<ComputeReport>> {
    let name = compute_name(&name)?;
    let all = look_at_computes(&api, &caller).await;
    let found = all.into_iter().find(|c| c.name == name.to_string());
    match found {
        Some(found) => Ok(Json(found)),
        None => Err(Problem::new(&no_compute(&api.app, &caller, &name))),
    }
}

/// The error that there is no such compute. It names only what the caller may read.
fn no_compute(app: &App, caller: &Caller, name: &ComputeName) -> anyhow::Error {
    let all = record::list(&app.state).into_iter().map(|(name, _)| name);
    let known: Vec<String> = all
        .filter(|name| caller.has(Right::Read, name))
        .map(|name| name.to_string())
        .collect();
    let hint = match near(&name.to_string(), known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => "`xylem compute ls` lists the computes".to_owned(),
    };
    let what = format!("{} was never started", name.described());
    Failure::of(Kind::NotFound, what, hint)
}

fn check_compute(app: &App, caller: &Caller, name: &ComputeName) -> Result<()> {
    match ComputeRecord::load(&app.state.compute(name)) {
        Some(_) => Ok(()),
        None => Err(no_compute(app, caller, name)),
    }
}

/// Whether there is a read-only compute `name`, and the caller may not read what it shows.
async fn is_hidden(up: &Session, name: &ComputeName) -> Result<bool> {
    let seen = up.caller.find_branch(name).await?;
    Ok(seen.is_none() && up.running.control.find_branch(name).await?.is_some())
}

/// Refuses a caller that may not read what the read-only compute `name` shows: its branch may
/// have another name by now.
async fn check_reader(app: &App, caller: &Caller, name: &ComputeName) -> Result<()> {
    let record = ComputeRecord::load(&app.state.compute(name));
    let server = app
        .state
        .server_record()
        .filter(|one| one.process.is_alive());
    let (Some(record), Some(server)) = (record, server) else {
        return Ok(());
    };
    if !record.process.is_alive() {
        return Ok(());
    }
    let look = async {
        let control = Control::with_token(app, &server, Some(caller.token.clone())).await?;
        control.find_branch(name).await
    };
    let found = tokio::time::timeout(READER_LIMIT, look).await;
    match found.context("the server does not say what the compute shows")?? {
        Some(_) => Ok(()),
        None => Err(no_compute(app, caller, name)),
    }
}

/// Start the compute of a branch (needs `write`), or a further one that only reads (needs
/// `read`). One that runs already is no error.
#[utoipa::path(
    post, path = "/v1/computes/{name}/start", tag = "computes", operation_id = "startCompute",
    params(ComputePath, Wait, Repeatable),
    request_body(content = Option<StartCompute>),
    responses(
        (status = 200, description = "As `xylem compute start`", body = Started),
        (status = 202, description = "It goes on", body = OperationReport),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn start_compute(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
    body: Option<Json<StartCompute>>,
) -> Answer<Response> {
    let body = body.map(|Json(body)| body).unwrap_or_default();
    let name = compute_name(&name)?;
    work::compute::check(&api.app, &name, body.read_only)?;
    // To start a reader again is to read, too.
    if !body.read_only && !name.is_reader() {
        caller.may(Right::Write, &name)?;
    }
    if body.at.is_some() && !body.read_only {
        return Err(invalid(
            "at: only a compute that is read_only shows a moment",
        ));
    }
    if body.port == Some(0) {
        return Err(invalid("port: 1 to 65535"));
    }
    let wanted = work::compute::Wanted {
        name: name.clone(),
        port: body.port,
        read_only: body.read_only,
        at: at(&api, body.at.as_deref())?,
    };
    let on = (On::Branch(name.clone()), &body);
    let call = "POST /v1/computes/{name}/start";
    let change = Change::new((api, caller), &headers, &wait, call, on)?;
    change
        .by(move |app, caller| {
            Box::pin(async move {
                let progress = app.progress();
                let mut up = session(&app, &caller).await?;
                // The branch of one that only reads may have another name by now.
                if !name.is_reader() {
                    up.caller.branch(&name).await?;
                } else if is_hidden(&up, &name).await? {
                    return Err(no_compute(&app, &caller, &name));
                }
                let started = work::compute::start(&app, &mut up, &progress, &wanted).await?;
                drop(up);
                let report = work::compute::report_of(&app, Some(&started)).await;
                Outcome::ok(&report.context("no report")?)
            })
        })
        .await
}

/// Stop a compute, and wait for its end. A read-only one is removed.
#[utoipa::path(
    post, path = "/v1/computes/{name}/stop", tag = "computes", operation_id = "stopCompute",
    params(ComputePath, Wait, Repeatable),
    responses(
        (status = 200, description = "As `xylem compute stop`", body = Ended),
        (status = 202, description = "It goes on", body = OperationReport),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn stop_compute(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
) -> Answer<Response> {
    let call = "POST /v1/computes/{name}/stop";
    end((api, caller), &name, (&wait, &headers), call, false).await
}

/// Kill a compute (SIGKILL). Nothing committed is lost. A read-only one is removed.
#[utoipa::path(
    post, path = "/v1/computes/{name}/kill", tag = "computes", operation_id = "killCompute",
    params(ComputePath, Wait, Repeatable),
    responses(
        (status = 200, description = "As `xylem compute kill`", body = Ended),
        (status = 202, description = "It goes on", body = OperationReport),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn kill_compute(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
) -> Answer<Response> {
    let call = "POST /v1/computes/{name}/kill";
    end((api, caller), &name, (&wait, &headers), call, true).await
}

/// Remove a read-only compute: stop it, and release its moment.
#[utoipa::path(
    delete, path = "/v1/computes/{name}", tag = "computes", operation_id = "removeCompute",
    params(ComputePath, Wait),
    responses(
        (status = 200, description = "As `xylem compute stop`", body = Ended),
        (status = 202, description = "It goes on", body = OperationReport),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn remove_compute(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
) -> Answer<Response> {
    if !compute_name(&name)?.is_reader() {
        return Err(
            Problem::of(Kind::Conflict, "a branch's compute goes with its branch")
                .hint("stop it by POST /v1/computes/{name}/stop, or remove the branch"),
        );
    }
    let call = "DELETE /v1/computes/{name}";
    end((api, caller), &name, (&wait, &headers), call, false).await
}

async fn end(
    (api, caller): (Api, Caller),
    name: &str,
    (wait, headers): (&Wait, &HeaderMap),
    call: &str,
    kill: bool,
) -> Answer<Response> {
    let name = compute_name(name)?;
    let on = (On::Branch(name.clone()), &());
    let change = Change::new((api, caller), headers, wait, call, on)?;
    change
        .by(move |app, caller| {
            Box::pin(async move {
                check_compute(&app, &caller, &name)?;
                if name.is_reader() {
                    check_reader(&app, &caller, &name).await?;
                }
                let ended = match kill {
                    true => work::compute::kill(&app, &name).await,
                    false => work::compute::stop(&app, &name).await,
                };
                // It may have gone meanwhile.
                let ended = ended.map_err(|error| match failure::kind(&error) {
                    Kind::NotFound => no_compute(&app, &caller, &name),
                    _ => error,
                });
                Outcome::ok(&ended?)
            })
        })
        .await
}

/// The tokens that were made. Needs `admin` on all branches, as the other calls on tokens.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens", operation_id = "listTokens",
    responses(
        (status = 200, description = "As `xylem token ls`", body = Vec<TokenReport>),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn tokens(State(api): State<Api>) -> Answer<Json<Vec<TokenReport>>> {
    Ok(Json(work::token::known(&api.app)?))
}

/// Make a token.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", operation_id = "createToken",
    params(Wait, Repeatable),
    request_body = NewToken,
    responses(
        (status = 201, description = "As `xylem token create`, with the token", body = TokenReport),
        (status = 202, description = "It goes on", body = OperationReport),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn create_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
    Json(body): Json<NewToken>,
) -> Answer<Response> {
    if body.rights.is_empty() {
        return Err(invalid("rights: a token needs one at least"));
    }
    for right in &body.rights {
        let found = work::token::scope(&right.on.to_string());
        found.map_err(|why| invalid(format!("rights: {why}")))?;
    }
    let expires = body.expires.as_deref().unwrap_or("30d");
    let expires = work::token::Lifetime::parse(expires);
    let new = work::token::New {
        name: body.name.clone(),
        rights: body.rights.clone(),
        expires: expires.map_err(|why| invalid(format!("expires: {why}")))?,
    };
    let on = (On::Project(body.name.clone()), &body);
    let change = Change::new((api, caller), &headers, &wait, "POST /v1/tokens", on)?;
    change
        .by(move |app, _| {
            Box::pin(async move {
                let made = work::token::create(&app, &new).await?;
                let place = resource(&["tokens", &made.id]);
                Outcome::created(&made, place)
            })
        })
        .await
}

/// Sign with a new key from now on.
#[utoipa::path(
    post, path = "/v1/tokens/rotate", tag = "tokens", operation_id = "rotateKeys",
    params(Wait, Repeatable),
    request_body(content = Option<RotateKeys>),
    responses(
        (status = 200, description = "As `xylem token rotate`", body = RotatedReport),
        (status = 202, description = "It goes on", body = OperationReport),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn rotate_keys(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
    body: Option<Json<RotateKeys>>,
) -> Answer<Response> {
    let body = body.map(|Json(body)| body).unwrap_or_default();
    let on = (On::Project("keys".to_owned()), &body);
    let call = "POST /v1/tokens/rotate";
    let change = Change::new((api, caller), &headers, &wait, call, on)?;
    change
        .by(move |app, _| {
            Box::pin(async move { Outcome::ok(&work::token::rotate(&app, body.drop_old).await?) })
        })
        .await
}

/// Revoke a token: it is refused from the next second on.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "tokens", operation_id = "revokeToken",
    params(("id" = String, Path, description = "Its id, or its name"), Wait),
    responses(
        (status = 200, description = "As `xylem token revoke`", body = TokenReport),
        (status = 202, description = "It goes on", body = OperationReport),
        (status = "4XX", description = "Refused", body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Failed", body = Problem, content_type = "application/problem+json"),
    )
)]
pub async fn revoke_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
) -> Answer<Response> {
    let on = (On::Project(id.clone()), &());
    let call = "DELETE /v1/tokens/{id}";
    let change = Change::new((api, caller), &headers, &wait, call, on)?;
    change
        .by(move |app, _| {
            Box::pin(async move { Outcome::ok(&work::token::revoke(&app, &id).await?) })
        })
        .await
}
