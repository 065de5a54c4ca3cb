//! Calls of the service Control that list and change branches.

use super::pages::pooled;
use super::{call, status};
use crate::access::Bearer;
use crate::branch::binlog::{Log, LogError};
use crate::branch::lifecycle::{self, Early, ManageError, Name, New};
use crate::branch::live::OpenBranch;
use crate::branch::moment::{self, At, MomentError, Point};
use crate::branch::registry::{BranchRef, ClosedBranch};
use crate::node::{Node, Opened};
use crate::project::{Project, lease_of};
use jiff::Timestamp;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Request, Status};
use xylem_pages::ReadAt;
use xylem_proto::control::{
    Branch, CreateBranchRequest, CreateLeaseRequest, ListBranchesRequest, Moment,
    RemoveBranchRequest, RenameBranchRequest, ReopenBranchRequest, ResolveTimeRequest,
    ResolveTimeResponse, RestoreBranchRequest, RestoreBranchResponse, moment::At as WireAt,
};
use xylem_tokens::Right;
use xylem_types::{BranchName, Lsn};

/// How long ResolveTime waits for ingest to reach a moment.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long ListBranches waits for ingest to reach the ends of the branches.
const LIST_PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn list(
    node: &Arc<Node>,
    bearer: &Bearer,
    request: Request<ListBranchesRequest>,
) -> Result<Vec<Branch>, Status> {
    let opened = call::in_charge(node)?;
    bearer.manages()?;
    let request = request.get_ref();
    if !request.name.is_empty() {
        let which = branch("name", &request.name)?;
        bearer.may_on(Right::Read, &opened.branches, &which)?;
        if let Some(closed) = opened.branches.closed(&which) {
            let mut told = closed_of(&opened.catalog.project(), &closed);
            hide_relatives(opened, bearer, &mut told);
            return Ok(vec![told]);
        }
        let named = call::named(opened, "name", &request.name)?;
        return Ok(vec![one(node, bearer, named).await?]);
    }
    let all = opened.branches.all().into_iter();
    let may_read = |id| {
        let which = BranchRef::Id(id);
        bearer.may_on(Right::Read, &opened.branches, &which).is_ok()
    };
    let open = all
        .filter(|branch| request.leases || !branch.meta.lease)
        .filter(|branch| may_read(branch.id()));
    let mut told = describe(node, open.collect()).await?;
    let project = opened.catalog.project();
    let closed = opened.branches.all_closed().into_iter();
    told.extend(
        closed
            .filter(|(_, closed)| request.leases || !closed.meta.lease)
            .filter(|(_, closed)| may_read(closed.meta.id))
            .map(|(_, closed)| closed_of(&project, &closed)),
    );
    told.sort_by(|a, b| a.name.cmp(&b.name));
    for branch in &mut told {
        hide_relatives(opened, bearer, branch);
    }
    Ok(told)
}

/// Leaves out the parent and the children that the caller may not read.
fn hide_relatives(opened: &Opened, bearer: &Bearer, branch: &mut Branch) {
    let may_read = may_read(opened, bearer);
    if !branch.parent.is_empty() && !may_read(&branch.parent) {
        let id = format!("id:{}", branch.parent_id);
        branch.trouble = branch.trouble.replace(&id, "which this token may not read");
        branch.parent.clear();
        branch.parent_id.clear();
    }
    branch.children.retain(|child| may_read(child));
}

/// Whether the caller may read the branch of a name.
fn may_read<'a>(opened: &'a Opened, bearer: &'a Bearer) -> impl Fn(&str) -> bool + 'a {
    |name| {
        let which = BranchRef::Name(name.to_owned());
        bearer.may_on(Right::Read, &opened.branches, &which).is_ok()
    }
}

/// Describes a branch that is not open, from the catalogue alone.
fn closed_of(project: &Project, closed: &ClosedBranch) -> Branch {
    let meta = &closed.meta;
    let name_of = |id| project.branch(id).map_or("", |(name, _)| name).to_owned();
    let children = project.children(meta.id).into_iter();
    Branch {
        name: name_of(meta.id),
        id: meta.id.to_string(),
        parent: meta.parent.map(name_of).unwrap_or_default(),
        parent_id: meta.parent.map_or_else(String::new, |id| id.to_string()),
        branch_point_lsn: meta.branch_point_lsn,
        created_at: meta.created_at.to_string(),
        lease: meta.lease,
        children: children.map(str::to_owned).collect(),
        state: "closed".to_owned(),
        trouble: closed.why.clone(),
        ..Branch::default()
    }
}

pub(super) async fn create(
    node: &Arc<Node>,
    bearer: &Bearer,
    request: Request<CreateBranchRequest>,
) -> Result<Branch, Status> {
    let opened = call::in_charge(node)?;
    let request = request.into_inner();
    let name = name("name", &request.name)?;
    bearer.manages()?;
    bearer.may(Right::Admin, &name)?;
    let made = if request.empty {
        if !request.from.is_empty() || request.at.is_some() {
            return Err(Status::invalid_argument(
                "empty: a branch without a parent has no branch point; omit from and at",
            ));
        }
        on_its_own(node, |node, early| async move {
            lifecycle::create_empty(&node, name, early).await
        })
        .await?
    } else {
        let from = from(&request.from)?;
        bearer.may_on(Right::Read, &opened.branches, &from)?;
        let new = New {
            name: Name::Given(name),
            from,
            at: at(request.at)?,
        };
        let may_read = may_read(opened, bearer);
        on_its_own_for(node, may_read, |node, early| async move {
            lifecycle::create(&node, new, early).await
        })
        .await?
    };
    one(node, bearer, made).await
}

pub(super) async fn create_lease(
    node: &Arc<Node>,
    bearer: &Bearer,
    request: Request<CreateLeaseRequest>,
) -> Result<Branch, Status> {
    let opened = call::in_charge(node)?;
    let request = request.into_inner();
    let from = from(&request.from)?;
    bearer.manages()?;
    bearer.may_on(Right::Read, &opened.branches, &from)?;
    let new = New {
        name: Name::Lease,
        from,
        at: at(request.at)?,
    };
    let may_read = may_read(opened, bearer);
    let made = on_its_own_for(node, may_read, |node, early| async move {
        lifecycle::create(&node, new, early).await
    })
    .await?;
    one(node, bearer, made).await
}

pub(super) async fn remove(
    node: &Arc<Node>,
    bearer: &Bearer,
    request: Request<RemoveBranchRequest>,
) -> Result<(), Status> {
    let opened = call::in_charge(node)?;
    let which = branch("name", &request.get_ref().name)?;
    bearer.manages()?;
    // Readers end leases, also one that is gone already.
    let lease = match (opened.branches.place(&which), &which) {
        (Some(place), _) => place.lease,
        (None, BranchRef::Name(name)) => lease_of(name).is_some(),
        (None, BranchRef::Id(_)) => false,
    };
    let right = match lease {
        true => Right::Read,
        false => Right::Admin,
    };
    bearer.may_on(right, &opened.branches, &which)?;
    let may_read = may_read(opened, bearer);
    on_its_own_for(node, may_read, |node, early| async move {
        lifecycle::remove(&node, &which, early).await
    })
    .await
}

pub(super) async fn reopen(
    node: &Arc<Node>,
    bearer: &Bearer,
    request: Request<ReopenBranchRequest>,
) -> Result<Branch, Status> {
    let opened = call::in_charge(node)?;
    let which = branch("name", &request.get_ref().name)?;
    bearer.manages()?;
    bearer.may_on(Right::Admin, &opened.branches, &which)?;
    let may_read = may_read(opened, bearer);
    let reopened = on_its_own_for(node, may_read, |node, early| async move {
        lifecycle::reopen(&node, &which, early).await
    })
    .await?;
    one(node, bearer, reopened).await
}

pub(super) async fn rename(
    node: &Arc<Node>,
    bearer: &Bearer,
    request: Request<RenameBranchRequest>,
) -> Result<Branch, Status> {
    let opened = call::in_charge(node)?;
    let request = request.into_inner();
    let which = branch("name", &request.name)?;
    let to = name("new_name", &request.new_name)?;
    bearer.manages()?;
    bearer.may_on(Right::Admin, &opened.branches, &which)?;
    bearer.may(Right::Admin, &to)?;
    let renamed = on_its_own(node, |node, early| async move {
        lifecycle::rename(&node, &which, to, early).await
    })
    .await?;
    one(node, bearer, renamed).await
}

pub(super) async fn restore(
    node: &Arc<Node>,
    bearer: &Bearer,
    request: Request<RestoreBranchRequest>,
) -> Result<RestoreBranchResponse, Status> {
    let opened = call::in_charge(node)?;
    let request = request.into_inner();
    let which = branch("name", &request.name)?;
    bearer.manages()?;
    bearer.may_on(Right::Admin, &opened.branches, &which)?;
    let at = match at(request.at)? {
        At::Newest => {
            return Err(Status::invalid_argument(
                "at: it is missing: give the LSN or time to restore to",
            ));
        }
        at => at,
    };
    let keep_as = match request.keep_as.as_str() {
        "" => None,
        text => Some(name("keep_as", text)?),
    };
    if let Some(keep_as) = &keep_as {
        bearer.may(Right::Admin, keep_as)?;
    }
    let may_read = may_read(opened, bearer);
    let restored = on_its_own_for(node, may_read, |node, early| async move {
        lifecycle::restore(&node, &which, at, keep_as, early).await
    })
    .await?;
    Ok(RestoreBranchResponse {
        branch: Some(one(node, bearer, restored.new).await?),
        kept: Some(one(node, bearer, restored.old).await?),
    })
}

pub(super) async fn resolve_time(
    node: &Arc<Node>,
    bearer: &Bearer,
    request: Request<ResolveTimeRequest>,
) -> Result<ResolveTimeResponse, Status> {
    let opened = call::in_charge(node)?;
    let request = request.into_inner();
    let which = from(&request.branch)?;
    bearer.manages()?;
    bearer.may_on(Right::Read, &opened.branches, &which)?;
    let branch = call::named(opened, "branch", &which.to_string())?;
    let asked = at(request.at)?;
    let found = moment::resolve(&branch, asked, Instant::now() + PATIENCE)
        .await
        .map_err(|error| status::of_moment(&error))?;
    let (point, horizon, (gtid, gtid_trouble)) = pooled(&node.survey_pool, move || {
        let mut trouble = String::new();
        let lsn = match found.read {
            ReadAt::Newest => branch.pages.tell(),
            ReadAt::Lsn(lsn) => lsn,
        };
        let horizon = moment::horizon(&branch)
            .ok_or_else(|| Status::failed_precondition(format!("branch {which} is empty")))?;
        let gtid = match (request.gtid, asked) {
            (false, _) => String::new(),
            // More transactions may be in the log at the LSN.
            (true, At::Gtid(gtid)) => Log::of(&branch, branch.pages.newest())
                .and_then(|log| log.position_after(gtid))
                .map_err(|error| of_log(&branch, error))?
                .to_string(),
            (true, _) => match Log::of(&branch, lsn).and_then(|log| log.position()) {
                Ok(position) => position.to_string(),
                Err(LogError::None) => String::new(),
                // An encrypted log keeps nobody from the rest.
                Err(error @ LogError::Invalid { .. }) => {
                    trouble = error.to_string();
                    String::new()
                }
                Err(error) => return Err(of_log(&branch, error)),
            },
        };
        Ok((moment::point(&branch, lsn), horizon, (gtid, trouble)))
    })
    .await?;
    Ok(ResolveTimeResponse {
        lsn: point.lsn.0,
        time: time(&point),
        oldest_lsn: horizon.oldest.lsn.0,
        oldest_time: time(&horizon.oldest),
        newest_lsn: horizon.newest.lsn.0,
        newest_time: time(&horizon.newest),
        gtid,
        gtid_trouble,
    })
}

/// Runs a change as a task of its own, so that a caller that disconnects does not
/// interrupt it. A caller that waits is told early when the outcome is unknown.
pub(super) async fn on_its_own<T, F>(
    node: &Arc<Node>,
    change: impl FnOnce(Arc<Node>, Early) -> F,
) -> Result<T, Status>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ManageError>> + Send + 'static,
{
    on_its_own_for(node, |_| true, change).await
}

/// As [`on_its_own`], for a caller who must not learn names that it may not read.
async fn on_its_own_for<T, F>(
    node: &Arc<Node>,
    may_read: impl Fn(&str) -> bool,
    change: impl FnOnce(Arc<Node>, Early) -> F,
) -> Result<T, Status>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ManageError>> + Send + 'static,
{
    let told_to = |error: ManageError| status::of_manage(&error.without_names(&may_read));
    let (early, told) = lifecycle::early();
    tokio::select! {
        done = tokio::spawn(change(Arc::clone(node), early)) => match done {
            Ok(done) => done.map_err(told_to),
            Err(error) => Err(Status::internal(format!("the change failed: {error}"))),
        },
        Ok(error) = told => Err(told_to(error)),
    }
}

async fn one(node: &Arc<Node>, bearer: &Bearer, branch: Arc<OpenBranch>) -> Result<Branch, Status> {
    let opened = call::admitted(node)?;
    let told = describe(node, vec![branch]).await?.pop();
    let mut told = told.ok_or_else(|| Status::internal("the branch has no description"))?;
    hide_relatives(opened, bearer, &mut told);
    Ok(told)
}

/// Describes each branch. Reads pages to find the times.
async fn describe(node: &Arc<Node>, all: Vec<Arc<OpenBranch>>) -> Result<Vec<Branch>, Status> {
    let pool = Arc::clone(&node.survey_pool);
    let node = Arc::clone(node);
    // In parallel, so that a branch that lags does not delay the others.
    let until = Instant::now() + LIST_PATIENCE;
    let ends = all.iter().map(|branch| moment::end(branch, until));
    let ends = futures::future::join_all(ends).await;
    pooled(&pool, move || {
        let opened = node.opened().ok_or_else(status::stopping)?;
        let project = opened.catalog.project();
        Ok(all
            .iter()
            .zip(ends)
            .map(|(branch, end)| branch_of(opened, &project, branch, end))
            .collect())
    })
    .await
}

fn branch_of(opened: &Opened, project: &Project, branch: &OpenBranch, end: Lsn) -> Branch {
    let state = branch.state();
    let trouble = branch.broken();
    let meta = &branch.meta;
    let horizon = moment::horizon(branch);
    let parent = meta.parent.and_then(|id| project.branch(id));
    let mut ancestors_layer_bytes = 0;
    let mut next = meta.parent;
    while let Some(parent) = next.and_then(|id| opened.branches.get(&BranchRef::Id(id))) {
        ancestors_layer_bytes += parent.pages.layer_bytes();
        next = parent.meta.parent;
    }
    let children = project.children(branch.id());
    Branch {
        name: branch.name(),
        id: branch.id().to_string(),
        parent: parent.map_or_else(String::new, |(name, _)| name.to_owned()),
        branch_point_lsn: meta.branch_point_lsn,
        last_lsn: end.0,
        created_at: meta.created_at.to_string(),
        epoch: state.epoch,
        applied_lsn: branch.pages.newest().0,
        wal_bytes: state.wal_bytes,
        layer_bytes: state.layer_bytes,
        parent_id: meta.parent.map_or_else(String::new, |id| id.to_string()),
        lease: meta.lease,
        oldest_lsn: horizon.map_or(0, |horizon| horizon.oldest.lsn.0),
        oldest_time: horizon.map_or_else(String::new, |horizon| time(&horizon.oldest)),
        newest_time: horizon.map_or_else(String::new, |horizon| time(&horizon.newest)),
        children: children.into_iter().map(str::to_owned).collect(),
        ancestors_layer_bytes,
        state: match &trouble {
            None => "open".to_owned(),
            Some(_) => "stopped".to_owned(),
        },
        trouble: trouble.unwrap_or_default(),
    }
}

fn of_log(branch: &OpenBranch, source: LogError) -> Status {
    status::of_moment(&MomentError::Log {
        branch: branch.name(),
        source,
    })
}

fn time(point: &Point) -> String {
    point.time.map_or_else(String::new, |time| time.to_string())
}

fn name(field: &str, text: &str) -> Result<BranchName, Status> {
    BranchName::parse(text).map_err(|error| Status::invalid_argument(format!("{field}: {error}")))
}

fn branch(field: &str, text: &str) -> Result<BranchRef, Status> {
    BranchRef::parse(text).map_err(|error| Status::invalid_argument(format!("{field}: {error}")))
}

fn from(text: &str) -> Result<BranchRef, Status> {
    match text {
        "" => Ok(BranchRef::Name(BranchName::main().as_str().to_owned())),
        text => branch("from", text),
    }
}

fn at(moment: Option<Moment>) -> Result<At, Status> {
    match moment.and_then(|moment| moment.at) {
        None => Ok(At::Newest),
        Some(WireAt::Lsn(lsn)) => Ok(At::Lsn(Lsn(lsn))),
        Some(WireAt::Time(text)) => match text.parse::<Timestamp>() {
            Ok(time) => Ok(At::Time(time)),
            Err(error) => Err(Status::invalid_argument(format!(
                "time: {text:?} is not an RFC 3339 time, such as 2026-11-22T14:05:00Z: {error}"
            ))),
        },
        Some(WireAt::Gtid(text)) => match text.parse() {
            Ok(gtid) => Ok(At::Gtid(gtid)),
            Err(error) => Err(Status::invalid_argument(format!("gtid: {error}"))),
        },
    }
}
