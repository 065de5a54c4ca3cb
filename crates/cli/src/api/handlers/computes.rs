//! Computes.

use super::{Answer, Begun, Change, ComputePath, Refused, Repeatable, Wait};
use super::{at, compute_name, invalid, shared_session};
use crate::api::Api;
use crate::api::access::Caller;
use crate::api::error::Problem;
use crate::api::operations::{On, Outcome};
use crate::api::request::StartCompute;
use crate::app::App;
use crate::compute::name::ComputeName;
use crate::compute::record::{self, ComputeRecord};
use crate::control::{Control, near};
use crate::failure::{self, Failure, Kind};
use crate::report::change::{Ended, Started};
use crate::report::{ComputeReport, computes as all_computes, seen};
use crate::session::Session;
use crate::work;
use anyhow::{Context, Result};
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use std::time::Duration;
use xylem_tokens::Right;

/// How long the server may take to say what a read-only compute shows.
const READER_LIMIT: Duration = Duration::from_secs(5);

/// The computes that the caller may read.
pub(super) fn visible(caller: &Caller, computes: Vec<ComputeReport>) -> Vec<ComputeReport> {
    let all = computes.into_iter();
    all.filter(|compute| {
        let name = ComputeName::parse(&compute.name);
        name.is_ok_and(|name| caller.has(Right::Read, &name))
    })
    .collect()
}

/// The computes of branches that the token may read.
#[utoipa::path(
    get, path = "/v1/computes", tag = "computes", operation_id = "listComputes",
    responses(
        (status = 200, description = "As `xylem compute ls`", body = Vec<ComputeReport>),
        Refused,
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
        Refused,
    )
)]
pub async fn compute(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(ComputePath { name }): Path<ComputePath>,
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
        Begun,
    )
)]
pub async fn start_compute(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(ComputePath { name }): Path<ComputePath>,
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
                let mut up = shared_session(&app, &caller).await?;
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
        Begun,
    )
)]
pub async fn stop_compute(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(ComputePath { name }): Path<ComputePath>,
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
        Begun,
    )
)]
pub async fn kill_compute(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(ComputePath { name }): Path<ComputePath>,
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
        Begun,
    )
)]
pub async fn remove_compute(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(ComputePath { name }): Path<ComputePath>,
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
