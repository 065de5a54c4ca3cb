//! Reads the gRPC metadata of every call: token, branch, epoch.

use super::status;
use crate::branch::live::OpenBranch;
use crate::branch::registry::BranchRef;
use crate::config::Token;
use crate::node::{Node, Opened, Phase};
use std::sync::Arc;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Request, Status};
use xylem_proto::{BRANCH_KEY, EPOCH_KEY, TOKEN_KEY};
use xylem_types::{BranchName, Epoch};

/// The caller of a branch's call.
#[derive(Clone)]
pub(super) struct Caller {
    /// The branch of the call.
    pub branch: Arc<OpenBranch>,
    /// The name or id that the caller gave.
    pub which: BranchRef,
    /// The caller's epoch; `None` for a reader.
    pub epoch: Option<Epoch>,
}

/// Checks the token before the request's body is read.
#[derive(Clone)]
pub(crate) struct Authenticate(pub(crate) Option<Token>);

impl Interceptor for Authenticate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(token) = &self.0 else {
            return Ok(request);
        };
        match request.metadata().get(TOKEN_KEY) {
            None => Err(Status::unauthenticated(format!(
                "this server requires a token in metadata {TOKEN_KEY}"
            ))),
            Some(given) if token.matches(given.as_encoded_bytes()) => Ok(request),
            Some(_) => Err(Status::unauthenticated(format!(
                "the token in metadata {TOKEN_KEY} is wrong"
            ))),
        }
    }
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

/// Checks that the server is ready, and reads the branch and the epoch of a call.
pub(super) fn caller(node: &Node, metadata: &MetadataMap) -> Result<Caller, Status> {
    let epoch = match text(metadata, EPOCH_KEY)? {
        None => None,
        Some(digits) => Some(Epoch(digits.parse().map_err(|_| {
            Status::invalid_argument(format!(
                "metadata {EPOCH_KEY}: {digits:?} is not a decimal number"
            ))
        })?)),
    };
    identify(node, text(metadata, BRANCH_KEY)?, epoch)
}

/// Checks that the server is ready, and finds the branch that `name` says; without one,
/// it is `main`.
pub(super) fn identify(
    node: &Node,
    name: Option<&str>,
    epoch: Option<Epoch>,
) -> Result<Caller, Status> {
    let opened = admitted(node)?;
    let which = match name {
        Some(text) => BranchRef::parse(text)
            .map_err(|error| Status::invalid_argument(format!("{BRANCH_KEY}: {error}")))?,
        None => BranchRef::Name(BranchName::main().as_str().to_owned()),
    };
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
    Ok(Caller {
        branch,
        which,
        epoch,
    })
}

fn text<'a>(metadata: &'a MetadataMap, key: &str) -> Result<Option<&'a str>, Status> {
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
