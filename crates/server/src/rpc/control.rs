//! Service `xylem.control.v1.Control`: branches and computes.

use super::call::{self, Caller};
use super::pages::blocking;
use super::{Answers, backup, branches, convert, import, stall, status};
use crate::access::{Bearer, Entry};
use crate::branch::registry::BranchRef;
use crate::metrics::StreamKind;
use crate::node::{Node, Phase};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;
use xylem_pages::ReadAt;
use xylem_proto::BRANCH_KEY;
use xylem_proto::control::control_server::Control;
use xylem_proto::control::{
    AttachRequest, AttachResponse, BaseBackupRequest, BaseItem, Branch, CreateBranchRequest,
    CreateLeaseRequest, GetTablespaceRequest, ImportItem, ImportResponse, ListBranchesRequest,
    ListBranchesResponse, RemoveBranchRequest, RemoveBranchResponse, RenameBranchRequest,
    ReopenBranchRequest, ResolveTimeRequest, ResolveTimeResponse, RestoreBranchRequest,
    RestoreBranchResponse, StatusRequest, StatusResponse, Tablespace,
};
use xylem_tokens::Right;
use xylem_types::{BinlogFile, Lsn, SpaceId};

/// Service `xylem.control.v1.Control`.
pub(crate) struct ControlService {
    node: Arc<Node>,
}

impl ControlService {
    pub(crate) fn new(node: Arc<Node>) -> ControlService {
        ControlService { node }
    }

    /// The entry in the log of a call about the branch `on`, and its caller.
    fn begin<T>(
        &self,
        request: &Request<T>,
        call: &'static str,
        on: &str,
    ) -> Result<(Entry<'_>, Bearer), Status> {
        let bearer = call::bearer(request)?;
        let entry = self.node.access.audit.begin(request, &bearer, call, on);
        Ok((entry, bearer))
    }

    async fn attached(
        &self,
        bearer: &Bearer,
        request: &Request<AttachRequest>,
    ) -> Result<AttachResponse, Status> {
        call::in_charge(&self.node)?;
        bearer.manages()?;
        let caller = call::caller(&self.node, request)?;
        let (node, branch) = (Arc::clone(&self.node), caller.branch);
        let id = branch.id();
        // A lease is a reader's, and nobody else sees what it writes.
        if !branch.meta.lease {
            let opened = call::admitted(&node)?;
            let this = BranchRef::Id(id);
            bearer.may_on(Right::Write, &opened.branches, &this)?;
        }
        // A task of its own, so that a caller that disconnects does not interrupt it.
        let span = branch.span();
        let attaching = async move {
            let meant = || {
                let branches = node.opened().map(|opened| &opened.branches);
                let now = branches.and_then(|branches| branches.get(&caller.which));
                now.is_some_and(|now| now.id() == branch.id())
            };
            branch
                .attach(meant)
                .await
                .map_err(|error| status::of_attach(&error, &branch.name()))
        };
        let attached = tokio::spawn(attaching.instrument(span))
            .await
            .map_err(|error| Status::internal(format!("the attach failed: {error}")))??;
        Ok(AttachResponse {
            epoch: attached.epoch.0,
            start_lsn: attached.start_lsn.0,
            empty: attached.empty,
            branch_id: id.to_string(),
            token: self.node.access.compute_token(bearer, id, attached.epoch)?,
        })
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn list_branches(
        &self,
        request: Request<ListBranchesRequest>,
    ) -> Result<Response<ListBranchesResponse>, Status> {
        let bearer = call::bearer(&request)?;
        let branches = branches::list(&self.node, &bearer, request).await?;
        Ok(Response::new(ListBranchesResponse { branches }))
    }

    async fn create_branch(
        &self,
        request: Request<CreateBranchRequest>,
    ) -> Result<Response<Branch>, Status> {
        let (entry, bearer) = self.begin(&request, "CreateBranch", &request.get_ref().name)?;
        let done = branches::create(&self.node, &bearer, request).await;
        entry.end(&done);
        done.map(Response::new)
    }

    async fn remove_branch(
        &self,
        request: Request<RemoveBranchRequest>,
    ) -> Result<Response<RemoveBranchResponse>, Status> {
        let (entry, bearer) = self.begin(&request, "RemoveBranch", &request.get_ref().name)?;
        let removed = branches::remove(&self.node, &bearer, request).await;
        entry.end(&removed);
        removed.map(|()| Response::new(RemoveBranchResponse {}))
    }

    async fn rename_branch(
        &self,
        request: Request<RenameBranchRequest>,
    ) -> Result<Response<Branch>, Status> {
        let (entry, bearer) = self.begin(&request, "RenameBranch", &request.get_ref().name)?;
        let done = branches::rename(&self.node, &bearer, request).await;
        entry.end(&done);
        done.map(Response::new)
    }

    async fn reopen_branch(
        &self,
        request: Request<ReopenBranchRequest>,
    ) -> Result<Response<Branch>, Status> {
        let (entry, bearer) = self.begin(&request, "ReopenBranch", &request.get_ref().name)?;
        let done = branches::reopen(&self.node, &bearer, request).await;
        entry.end(&done);
        done.map(Response::new)
    }

    async fn restore_branch(
        &self,
        request: Request<RestoreBranchRequest>,
    ) -> Result<Response<RestoreBranchResponse>, Status> {
        let (entry, bearer) = self.begin(&request, "RestoreBranch", &request.get_ref().name)?;
        let done = branches::restore(&self.node, &bearer, request).await;
        entry.end(&done);
        done.map(Response::new)
    }

    async fn create_lease(
        &self,
        request: Request<CreateLeaseRequest>,
    ) -> Result<Response<Branch>, Status> {
        let (entry, bearer) = self.begin(&request, "CreateLease", &request.get_ref().from)?;
        let done = branches::create_lease(&self.node, &bearer, request).await;
        entry.end(&done);
        done.map(Response::new)
    }

    async fn resolve_time(
        &self,
        request: Request<ResolveTimeRequest>,
    ) -> Result<Response<ResolveTimeResponse>, Status> {
        let bearer = call::bearer(&request)?;
        branches::resolve_time(&self.node, &bearer, request)
            .await
            .map(Response::new)
    }

    async fn attach(
        &self,
        request: Request<AttachRequest>,
    ) -> Result<Response<AttachResponse>, Status> {
        let on = call::text(request.metadata(), BRANCH_KEY)?.unwrap_or("main");
        let (entry, bearer) = self.begin(&request, "Attach", on)?;
        let attached = self.attached(&bearer, &request).await;
        entry.end(&attached);
        attached.map(Response::new)
    }

    type BaseBackupStream = Answers<BaseItem>;

    async fn base_backup(
        &self,
        request: Request<BaseBackupRequest>,
    ) -> Result<Response<Self::BaseBackupStream>, Status> {
        let caller = call::caller(&self.node, &request)?;
        let request = request.get_ref();
        let at = version(&self.node, &caller, request.lsn, 0).await?;
        let branch = Arc::clone(&caller.branch);
        let items =
            backup::base_backup(Arc::clone(&self.node), caller, at, request.all_tablespaces);
        let ticket = self.node.stream(StreamKind::backup, &branch);
        Ok(Response::new(stall::guarded(items, ticket, branch)))
    }

    async fn get_tablespace(
        &self,
        request: Request<GetTablespaceRequest>,
    ) -> Result<Response<Tablespace>, Status> {
        let caller = call::caller(&self.node, &request)?;
        get_tablespace(&self.node, &caller, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn import_branch(
        &self,
        request: Request<Streaming<ImportItem>>,
    ) -> Result<Response<ImportResponse>, Status> {
        call::in_charge(&self.node)?;
        let (mut entry, bearer) = self.begin(&request, "ImportBranch", "")?;
        let items = request.into_inner();
        let imported = import::import(&self.node, &bearer, &mut entry.on, items).await;
        entry.end(&imported);
        imported.map(Response::new)
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let phase = self.node.phase();
        let opened = self.node.opened().filter(|_| phase != Phase::Starting);
        let used = opened.map_or(0, |opened| opened.memory_used());
        Ok(Response::new(StatusResponse {
            version: crate::VERSION.to_owned(),
            state: phase.as_str().to_owned(),
            pid: std::process::id(),
            object_store: self.node.config.object_store.clone(),
            memory_bytes: used,
            memory_budget_bytes: self.node.config.memory.0,
            project_id: opened
                .map_or_else(String::new, |opened| opened.catalog.project().id.clone()),
        }))
    }
}

/// Waits until `lsn` (or `min_lsn` if `lsn` is 0) is applied, and returns the version
/// to read.
async fn version(node: &Node, caller: &Caller, lsn: u64, min_lsn: u64) -> Result<ReadAt, Status> {
    caller.check_epoch()?;
    let pages = &caller.branch.pages;
    let wanted = Lsn(if lsn != 0 { lsn } else { min_lsn });
    let until = Instant::now() + node.config.page_wait_timeout.max(Duration::from_secs(1));
    // As in `pages::wait_applied`: a restart must not hide acknowledged commits.
    if wanted == Lsn::ZERO {
        caller
            .branch
            .caught_up(until)
            .await
            .map_err(|error| status::of_read(&error, &caller.branch.name()))?;
    }
    // A branch without redo is at the first LSN, applied or not.
    if wanted > Lsn::FIRST && (wanted > pages.newest() || !pages.is_readable()) {
        pages
            .wait_applied(wanted, until)
            .await
            .map_err(|error| status::of_read(&error, &caller.branch.name()))?;
    }
    Ok(if lsn != 0 {
        ReadAt::Lsn(wanted)
    } else {
        caller.branch.newest()
    })
}

/// The sparse file that stands for a tablespace.
pub(super) async fn get_tablespace(
    node: &Node,
    caller: &Caller,
    request: GetTablespaceRequest,
) -> Result<Tablespace, Status> {
    let pages = !request.no_pages;
    let which = if request.path.is_empty() {
        backup::Which::Id(SpaceId(request.space_id))
    } else {
        let path = convert::relative(request.path)
            .map_err(|why| Status::invalid_argument(format!("path: {why}")))?;
        backup::Which::Path(path)
    };
    let at = version(node, caller, request.lsn, request.min_lsn).await?;
    let branch = Arc::clone(&caller.branch);
    let tablespace = blocking(node, move || backup::one(&branch, &which, at, pages)).await?;
    caller.check_epoch()?;
    Ok(tablespace)
}

/// Bytes of the branch's binary log.
pub(super) async fn get_log(
    node: &Node,
    caller: &Caller,
    get: xylem_wire::GetLog,
) -> Result<Vec<u8>, Status> {
    let xylem_wire::GetLog { number, length, .. } = get;
    if length > xylem_wire::LOG_BYTES_MAX {
        let max = xylem_wire::LOG_BYTES_MAX;
        return Err(Status::invalid_argument(format!(
            "length: {length} bytes of the binary log, the limit is {max}"
        )));
    }
    let at = version(node, caller, 0, get.min_lsn).await?;
    let branch = Arc::clone(&caller.branch);
    let bytes = blocking(node, move || {
        let path = BinlogFile::events_path(number);
        let read = branch
            .pages
            .side_file(at, &path, get.offset, length as usize);
        let found = read.map_err(|error| status::of_read(&error, &branch.name()))?;
        found.ok_or_else(|| {
            Status::not_found(format!("branch {}: there is no {path}", branch.name()))
        })
    })
    .await?;
    caller.check_epoch()?;
    Ok(bytes)
}
