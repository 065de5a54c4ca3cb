//! What travels with every call: token, branch, epoch. The one place that
//! reads gRPC metadata.

use super::status;
use crate::branch::OpenBranch;
use crate::node::{Node, Opened, Phase};
use std::sync::Arc;
use tonic::Status;
use tonic::metadata::MetadataMap;
use xylem_proto::{BRANCH_KEY, EPOCH_KEY, TOKEN_KEY};
use xylem_types::{BranchName, Epoch};

/// Who calls.
#[derive(Clone)]
pub(super) struct Caller {
    /// The branch it works on.
    pub branch: Arc<OpenBranch>,
    /// Its epoch; none for a reader without one.
    pub epoch: Option<Epoch>,
}

/// Checks the token.
pub(super) fn authenticate(node: &Node, metadata: &MetadataMap) -> Result<(), Status> {
    let Some(token) = &node.config.token else {
        return Ok(());
    };
    match metadata.get(TOKEN_KEY) {
        None => Err(Status::unauthenticated(format!(
            "this server wants a token, as metadata {TOKEN_KEY}"
        ))),
        Some(given) if token.matches(given.as_encoded_bytes()) => Ok(()),
        Some(_) => Err(Status::unauthenticated(format!(
            "the token in metadata {TOKEN_KEY} is wrong"
        ))),
    }
}

/// Checks the token and that the server serves.
pub(super) fn admitted<'a>(node: &'a Node, metadata: &MetadataMap) -> Result<&'a Opened, Status> {
    authenticate(node, metadata)?;
    match (node.phase(), node.opened()) {
        (Phase::Ready, Some(opened)) => Ok(opened),
        (Phase::Stopping, _) => Err(status::stopping()),
        _ => Err(Status::unavailable(
            "the server is starting: its branches are being opened; retry",
        )),
    }
}

/// Checks all three.
pub(super) fn caller(node: &Node, metadata: &MetadataMap) -> Result<Caller, Status> {
    let opened = admitted(node, metadata)?;
    let name = match text(metadata, BRANCH_KEY)? {
        Some(name) => BranchName::parse(name)
            .map_err(|error| Status::invalid_argument(format!("metadata {BRANCH_KEY}: {error}")))?,
        None => BranchName::main(),
    };
    let branch = opened
        .branches
        .read()
        .get(name.as_str())
        .map(Arc::clone)
        .ok_or_else(|| Status::not_found(format!("there is no branch {name}")))?;
    let epoch = match text(metadata, EPOCH_KEY)? {
        None => None,
        Some(digits) => Some(Epoch(digits.parse().map_err(|_| {
            Status::invalid_argument(format!(
                "metadata {EPOCH_KEY}: {digits:?} is not a decimal number"
            ))
        })?)),
    };
    Ok(Caller { branch, epoch })
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
    /// Refuses an epoch that is not the branch's newest.
    pub(super) fn check_epoch(&self) -> Result<(), Status> {
        let Some(given) = self.epoch else {
            return Ok(());
        };
        let current = self.branch.epoch();
        if given == current {
            Ok(())
        } else {
            Err(status::wrong_epoch(given, current, &self.branch.name))
        }
    }

    /// The caller's epoch, for calls that need one.
    pub(super) fn required_epoch(&self) -> Result<Epoch, Status> {
        self.epoch.ok_or_else(|| {
            Status::invalid_argument(format!("metadata {EPOCH_KEY} is missing: attach first"))
        })
    }
}
