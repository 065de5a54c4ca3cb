//! Branches.

use super::{Answer, Begun, BranchPath, Change, Refused, Repeatable, Wait};
use super::{at, branch_name, compute_name, control, invalid, session, shared_session};
use crate::api::Api;
use crate::api::access::Caller;
use crate::api::operations::{On, Outcome};
use crate::api::request::{ChangeBranch, NewBranch, RestoreBranch};
use crate::compute::name::ComputeName;
use crate::remote::path as resource;
use crate::report::branch::BranchReport;
use crate::report::change::{Changed, Created, MomentReport, Removed, Restored, Shown};
use crate::settings::span;
use crate::work;
use crate::work::branch::{BranchSettings, PoolSize, SpanOrDefault};
use anyhow::Context;
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
use xylem_tokens::Right;
use xylem_types::BranchName;

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
    /// An LSN, a time (RFC 3339), how long ago (`5 minutes ago`), or a transaction of the
    /// branch's own binary log (`gtid:0-1-42`). Default: now.
    #[param(min_length = 1)]
    at: Option<String>,
}

/// The branches that the token may read.
#[utoipa::path(
    get, path = "/v1/branches", tag = "branches", operation_id = "listBranches", params(All),
    responses(
        (status = 200, description = "As `xylem branch ls`", body = Vec<BranchReport>),
        Refused,
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
        Begun,
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
                let mut up = shared_session(&app, &caller).await?;
                up.caller.branch(&new.from).await?;
                let made = work::branch::create(&app, &mut up, &new).await?;
                let place = resource(&["branches", &made.branch.name]);
                Outcome::created(&made, place)
            })
        })
        .await
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
        Refused,
    )
)]
pub async fn branch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(BranchPath { name }): Path<BranchPath>,
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
        Begun,
    )
)]
pub async fn change_branch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(BranchPath { name }): Path<BranchPath>,
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
    let after = after.map(SpanOrDefault::parse).transpose();
    let size = body.pool_size.as_deref();
    let size = size.map(PoolSize::parse).transpose();
    let settings = BranchSettings {
        suspend_after: after.map_err(|why| invalid(format!("suspend_after: {why}")))?,
        pool_size: size.map_err(|why| invalid(format!("pool_size: {why}")))?,
        moments: body.moments,
    };
    if to.is_none() && settings == BranchSettings::default() {
        return Err(invalid(
            "there is nothing to change: give name, suspend_after, pool_size or moments",
        ));
    }
    let on = (On::Branch(name.clone().into()), &body);
    let call = "PATCH /v1/branches/{name}";
    let change = Change::new((api, caller), &headers, &wait, call, on)?;
    change
        .by(move |app, caller| {
            Box::pin(async move {
                let progress = app.progress();
                let mut up = match to {
                    Some(_) => session(&app, &caller).await?,
                    None => shared_session(&app, &caller).await?,
                };
                up.caller.branch(&name).await?;
                let changed = match &to {
                    Some(to) => {
                        work::branch::rename(&app, &mut up, &progress, &name, to, &settings).await?
                    }
                    None => work::branch::set(&app, &mut up, &name, &settings).await?,
                };
                Outcome::ok(&changed)
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
        Begun,
    )
)]
pub async fn remove_branch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(BranchPath { name }): Path<BranchPath>,
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

/// A moment of a branch as LSN, as time and as position of its binary log, and the limits of
/// its history.
#[utoipa::path(
    get, path = "/v1/branches/{name}/moments", tag = "branches", operation_id = "getMoment",
    params(BranchPath, At),
    responses(
        (status = 200, description = "The moment", body = MomentReport),
        Refused,
    )
)]
pub async fn moments(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(BranchPath { name }): Path<BranchPath>,
    Query(query): Query<At>,
) -> Answer<Json<MomentReport>> {
    let name = compute_name(&name)?;
    let at = at(&api, query.at.as_deref())?;
    let control = control(&api, &caller).await?;
    Ok(Json(control.resolve(&name, at, true).await?.into()))
}

/// Restore a branch to a moment. Its present state is kept as another branch.
#[utoipa::path(
    post, path = "/v1/branches/{name}/restore", tag = "branches", operation_id = "restoreBranch",
    params(BranchPath, Wait, Repeatable),
    request_body = RestoreBranch,
    responses(
        (status = 200, description = "As `xylem branch restore`", body = Restored),
        Begun,
    )
)]
pub async fn restore_branch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(BranchPath { name }): Path<BranchPath>,
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
        Begun,
    )
)]
pub async fn reopen_branch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(BranchPath { name }): Path<BranchPath>,
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
