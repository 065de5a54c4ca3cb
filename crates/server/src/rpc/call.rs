//! Reads the gRPC metadata of every call: token, branch, epoch.

use super::status;
use crate::access::Bearer;
use crate::branch::live::OpenBranch;
use crate::branch::registry::BranchRef;
use crate::node::{Node, Opened, Phase};
use std::sync::Arc;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Request, Status};
use xylem_proto::{BRANCH_KEY, EPOCH_KEY, TOKEN_KEY};
use xylem_tokens::Right;
use xylem_types::{BranchName, Epoch};

/// The caller of a branch's call.
#[derive(Clone)]
pub(super) struct Caller {
    /// The caller's rights.
    pub bearer: Bearer,
    /// The branch of the call.
    pub branch: Arc<OpenBranch>,
    /// The name or id that the caller gave.
    pub which: BranchRef,
    /// The caller's epoch; `None` for a reader.
    pub epoch: Option<Epoch>,
}

/// Checks the token before the request's body is read, and notes whose it is.
#[derive(Clone)]
pub(crate) struct Authenticate(pub(crate) Arc<Node>);

impl Interceptor for Authenticate {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let token = request.metadata().get(TOKEN_KEY);
        let bearer = self.0.bearer(token.map(|token| token.as_encoded_bytes()))?;
        request.extensions_mut().insert(bearer);
        Ok(request)
    }
}

/// The caller whose token [`Authenticate`] has checked.
pub(super) fn bearer<T>(request: &Request<T>) -> Result<Bearer, Status> {
    let bearer = request.extensions().get::<Bearer>();
    bearer
        .cloned()
        .ok_or_else(|| Status::internal("the token was not checked"))
}

/// Checks that the server is ready. [`Authenticate`] has checked the token.
pub(super) fn admitted(node: &Node) -> Result<&Opened, Status> {
    match (node.phase(), node.opened()) {
        (Phase::Ready, Some(opened)) => Ok(opened),
        (Phase::Stopping, _) => Err(status::stopping()),
        _ => Err(Status::unavailable(
            "the server is starting: its branches are being opened; retry",
        )),
    }
}

/// Checks that the server is ready and still owns the project.
pub(super) fn in_charge(node: &Node) -> Result<&Opened, Status> {
    let opened = admitted(node)?;
    match opened.catalog.why_lost() {
        None => Ok(opened),
        Some(lost) => Err(Status::failed_precondition(lost.to_string())),
    }
}

/// The branch that the field `field` of a request names.
pub(super) fn named(opened: &Opened, field: &str, text: &str) -> Result<Arc<OpenBranch>, Status> {
    let which = BranchRef::parse(text)
        .map_err(|error| Status::invalid_argument(format!("{field}: {error}")))?;
    opened
        .branches
        .get(&which)
        .ok_or_else(|| absent(opened, &which))
}

/// The error for a branch that is unknown or not open.
pub(super) fn absent(opened: &Opened, which: &BranchRef) -> Status {
    match opened.branches.closed(which) {
        Some(closed) => status::not_open(which, &closed.why),
        None => status::no_branch(which),
    }
}

/// Checks that the server is ready and that the caller may make the call, and reads the
/// call's branch and epoch. A call in an epoch writes.
pub(super) fn caller<T>(node: &Node, request: &Request<T>) -> Result<Caller, Status> {
    let (bearer, metadata) = (bearer(request)?, request.metadata());
    let epoch = match text(metadata, EPOCH_KEY)? {
        None => None,
        Some(digits) => Some(Epoch(digits.parse().map_err(|_| {
            Status::invalid_argument(format!(
                "metadata {EPOCH_KEY}: {digits:?} is not a decimal number"
            ))
        })?)),
    };
    identify(node, bearer, text(metadata, BRANCH_KEY)?, epoch)
}

/// Checks that the server is ready, and finds the branch that `name` says; without one,
/// it is `main`.
pub(super) fn identify(
    node: &Node,
    bearer: Bearer,
    name: Option<&str>,
    epoch: Option<Epoch>,
) -> Result<Caller, Status> {
    let opened = admitted(node)?;
    let which = match name {
        Some(text) => BranchRef::parse(text)
            .map_err(|error| Status::invalid_argument(format!("{BRANCH_KEY}: {error}")))?,
        None => BranchRef::Name(BranchName::main().as_str().to_owned()),
    };
    let right = match epoch {
        Some(_) => Right::Write,
        None => Right::Read,
    };
    bearer.may_on(right, &opened.branches, &which)?;
    bearer.may_in(epoch)?;
    let branch = match opened.branches.get(&which) {
        Some(branch) => branch,
        // NOT_FOUND would mean a missing page to a compute.
        None if epoch.is_some() && opened.branches.closed(&which).is_none() => {
            return Err(status::removed(&which.to_string()));
        }
        None => return Err(absent(opened, &which)),
    };
    // A name may have moved to another branch since the epoch was created, and each
    // branch numbers its epochs itself. Only the project's first branch may be named with
    // an epoch.
    if epoch.is_some()
        && matches!(which, BranchRef::Name(_))
        && branch.id() != opened.catalog.project().first
    {
        return Err(Status::failed_precondition(format!(
            "{BRANCH_KEY}: {which} is a name, which may have moved to another branch; a call with an epoch must use the id that Attach returned, id:{}",
            branch.id()
        )));
    }
    branch.touch();
    let caller = Caller {
        bearer,
        branch,
        which,
        epoch,
    };
    if caller.bearer.is_computes() {
        caller.check_epoch()?;
    }
    Ok(caller)
}

pub(super) fn text<'a>(metadata: &'a MetadataMap, key: &str) -> Result<Option<&'a str>, Status> {
    metadata
        .get(key)
        .map(|value| {
            value
                .to_str()
                .map_err(|_| Status::invalid_argument(format!("metadata {key} is not ASCII text")))
        })
        .transpose()
}

impl Caller {
    /// Refuses an epoch that is not the branch's newest, and any call on a removed
    /// branch.
    pub(super) fn check_epoch(&self) -> Result<(), Status> {
        if self.branch.is_removed() {
            return Err(status::removed(&self.branch.name()));
        }
        let Some(given) = self.epoch else {
            return Ok(());
        };
        let current = self.branch.epoch();
        if given == current {
            Ok(())
        } else {
            Err(status::wrong_epoch(given, current, &self.branch.name()))
        }
    }

    /// The caller's epoch, or an error if the caller has none.
    pub(super) fn required_epoch(&self) -> Result<Epoch, Status> {
        self.epoch.ok_or_else(|| {
            Status::invalid_argument(format!("metadata {EPOCH_KEY} is missing: attach first"))
        })
    }
}
