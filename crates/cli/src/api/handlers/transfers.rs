//! Imports and exports, between branches and directories of the server's machine.

use super::{Answer, Begun, BranchPath, Change, Repeatable, Wait, at, branch_name};
use crate::api::Api;
use crate::api::access::Caller;
use crate::api::operations::{On, Outcome};
use crate::api::request::{ExportBranch, NewImport};
use crate::app::App;
use crate::remote::path as resource;
use crate::report::transfer::{ExportReport, ImportReport};
use crate::settings::ServerPorts;
use crate::work::{export, import};
use anyhow::Result;
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard};
use xylem_types::BranchName;

/// Import a data directory of the server's machine as a branch. Needs `admin` on all branches,
/// and that the owner has allowed the directory (`xylem up --api-files`).
#[utoipa::path(
    post, path = "/v1/imports", tag = "transfers", operation_id = "importBranch",
    params(Wait, Repeatable),
    request_body = NewImport,
    responses(
        (status = 200, description = "With `check`: whether it can be imported; `refused` has the obstacles", body = ImportReport),
        (status = 201, description = "As `xylem import`", body = ImportReport),
        Begun,
    )
)]
pub async fn import_branch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
    Json(body): Json<NewImport>,
) -> Answer<Response> {
    let branch = match &body.branch {
        Some(name) => branch_name(name)?,
        None => BranchName::main(),
    };
    let files = Arc::clone(&api.files);
    let (datadir, scratch) = (body.datadir.clone(), body.scratch.clone());
    let look = move || {
        let scratch = scratch.as_deref();
        let scratch = scratch
            .map(|dir| files.source("scratch", dir))
            .transpose()?;
        anyhow::Ok((files.source("datadir", &datadir)?, scratch))
    };
    // At once, before anything is begun, and again when it is its turn.
    let look = tokio::task::spawn_blocking(move || look().map(|_| look));
    let look = look.await.map_err(anyhow::Error::from)??;
    let turns = Arc::clone(&api.transfers);
    let on = (On::Branch(branch.clone().into()), &body);
    let (check, leave_out_unknown) = (body.check, body.leave_out_unknown);
    let change = Change::new((api, caller), &headers, &wait, "POST /v1/imports", on)?;
    change
        .cancellable()
        .by(move |mut app, _| {
            Box::pin(async move {
                let _turn = turn(&app, turns).await?;
                app.state.require_project()?;
                let (datadir, scratch) = look()?;
                let wanted = import::Wanted {
                    datadir,
                    branch,
                    check,
                    leave_out_unknown,
                    scratch,
                    object_store: None,
                    ports: ServerPorts::default(),
                };
                let canceller = app.clone();
                let mut new_project = false;
                let importing = import::import(&mut app, &wanted, &mut new_project);
                let report = canceller.unless_cancelled(importing).await?;
                if check {
                    return Outcome::ok(&report);
                }
                match import::refused(&report) {
                    Some(error) => Err(error),
                    None => Outcome::created(&report, resource(&["branches", &report.branch])),
                }
            })
        })
        .await
}

/// Export a branch, as of a moment, into a data directory of the server's machine. Needs `admin`
/// on all branches, and that the owner has allowed the directory (`xylem up --api-files`).
#[utoipa::path(
    post, path = "/v1/branches/{name}/exports", tag = "transfers", operation_id = "exportBranch",
    params(BranchPath, Wait, Repeatable),
    request_body = ExportBranch,
    responses(
        (status = 200, description = "As `xylem export`", body = ExportReport),
        Begun,
    )
)]
pub async fn export_branch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(BranchPath { name }): Path<BranchPath>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
    Json(body): Json<ExportBranch>,
) -> Answer<Response> {
    let branch = branch_name(&name)?;
    let at = at(&api, body.at.as_deref())?;
    let (files, turns) = (Arc::clone(&api.files), Arc::clone(&api.transfers));
    files.target("dir", &body.dir)?;
    let on = (On::Branch(branch.clone().into()), &body);
    let dir = body.dir.clone();
    let call = "POST /v1/branches/{name}/exports";
    let change = Change::new((api, caller), &headers, &wait, call, on)?;
    change
        .cancellable()
        .by(move |app, _| {
            Box::pin(async move {
                let _turn = turn(&app, turns).await?;
                let target = files.target("dir", &dir)?;
                let wanted = export::Wanted { branch, target, at };
                Outcome::ok(&export::export(&app, &wanted).await?)
            })
        })
        .await
}

/// Waits until no other import or export goes on.
async fn turn(app: &App, turns: Arc<Mutex<()>>) -> Result<OwnedMutexGuard<()>> {
    if let Ok(turn) = Arc::clone(&turns).try_lock_owned() {
        return Ok(turn);
    }
    let progress = app.progress();
    progress.say("waiting for another import or export to end".to_owned());
    let turn = async { Ok(turns.lock_owned().await) };
    let turn = app.unless_cancelled(turn).await?;
    // The token may have been revoked meanwhile.
    app.check()?;
    Ok(turn)
}
