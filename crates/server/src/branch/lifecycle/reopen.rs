//! Reopens a branch whose WAL or ingest has failed, or that did not open, without a
//! restart of the server.
//!
//! Its descendants read through the open parent, so they are reopened as well.

use super::{ManageError, blocking, opened, settle};
use crate::branch::lifecycle::Early;
use crate::branch::live::OpenBranch;
use crate::branch::open::{self, Opener};
use crate::branch::registry::{BranchRef, ClosedBranch};
use crate::node::{Node, Opened};
use crate::project::{BranchMeta, Project};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use xylem_types::BranchId;

/// How long closing may take; it may wait for a store that does not answer.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);

/// Closes and opens a branch and its descendants.
///
/// # Errors
/// The branch does not open; then it stays closed.
pub async fn reopen(
    node: &Arc<Node>,
    which: &BranchRef,
    early: Early,
) -> Result<Arc<OpenBranch>, ManageError> {
    let opened = opened(node)?;
    let _changes = settle::lock(opened).await?;
    let project = opened.catalog.project();
    let open = opened.branches.get(which).map(|branch| branch.id());
    let closed = opened.branches.closed(which).map(|closed| closed.meta.id);
    let id = open
        .or(closed)
        .ok_or_else(|| ManageError::NoBranch(which.clone()))?;
    let line = line(&project, id);
    if let Some(of) = line.first().and_then(|(_, meta)| meta.parent)
        && opened.branches.closed(&BranchRef::Id(of)).is_some()
    {
        return Err(ManageError::ParentClosed {
            branch: which.clone(),
            parent: project.branch(of).map(|(name, _)| name.to_owned()),
        });
    }
    // Creates a number that no WAL was opened with, and proves that this server still
    // owns the project.
    settle::change(node, early, |_| Ok(())).await?;
    let right = opened.catalog.number();
    for (name, meta) in line.iter().rev() {
        close(opened, name, meta).await?;
    }
    let reopening = Arc::clone(node);
    let line_ = line.clone();
    blocking(move || {
        let opened = reopening.opened().ok_or(ManageError::Stopping)?;
        open_line(&reopening, opened, &line_, right);
        Ok(())
    })
    .await?;
    tracing::info!(branch = %which, branch_id = %id, "branch reopened");
    super::find(opened, &BranchRef::Id(id)).map_err(|error| match error {
        // Use the caller's name for the branch.
        ManageError::NotOpen { why, .. } => ManageError::NotOpen {
            branch: which.to_string(),
            why,
        },
        other => other,
    })
}

/// A branch and all of its descendants, each after its parent.
fn line(project: &Project, id: BranchId) -> Vec<(String, BranchMeta)> {
    let named = |id: BranchId| {
        let found = project.branch(id);
        found.map(|(name, meta)| (name.to_owned(), meta.clone()))
    };
    let mut line: Vec<(String, BranchMeta)> = named(id).into_iter().collect();
    let mut next = 0;
    while let Some(of) = line.get(next).map(|(_, meta)| meta.id) {
        let all = project.branches.iter();
        let left = all.filter(|(_, meta)| meta.parent == Some(of));
        line.extend(left.map(|(name, meta)| (name.clone(), meta.clone())));
        next += 1;
    }
    line
}

/// Closes a branch and registers it as closed.
async fn close(opened: &Opened, name: &str, meta: &BranchMeta) -> Result<(), ManageError> {
    let which = BranchRef::Id(meta.id);
    let closed = match (opened.branches.get(&which), opened.branches.closed(&which)) {
        (Some(branch), _) => {
            let closed = ClosedBranch::new(meta.clone(), "it is being reopened; retry".to_owned());
            opened.branches.insert_closed(&closed, name);
            // The branch's computes reconnect when it is open.
            branch.end_because(format!("branch {name} is being reopened"));
            let closing = tokio::spawn(async move { open::close_branch(&branch).await });
            *closed.closing.lock() = Some(closing);
            closed
        }
        (None, Some(closed)) => closed,
        (None, None) => return Ok(()),
    };
    self::closed(&closed).await
}

/// Waits until all parts of a branch are closed.
///
/// # Errors
/// [`ManageError::Refused`] when that takes too long.
pub(super) async fn closed(branch: &ClosedBranch) -> Result<(), ManageError> {
    let closing: Option<JoinHandle<()>> = branch.closing.lock().take();
    let Some(mut closing) = closing else {
        return Ok(());
    };
    if tokio::time::timeout(CLOSE_LIMIT, &mut closing)
        .await
        .is_err()
    {
        *branch.closing.lock() = Some(closing);
        return Err(ManageError::Refused(format!(
            "the branch could not be closed within {} s because the store does not answer; it is not served; try again later",
            CLOSE_LIMIT.as_secs()
        )));
    }
    Ok(())
}

/// Opens every branch that can be opened. Blocking.
fn open_line(node: &Node, opened: &Opened, line: &[(String, BranchMeta)], right: u64) {
    // Ingest reads parts of the WALs again, and must place each operation before or
    // after a fork as it did the first time. All forks must therefore be known before
    // ingest starts.
    opened.store.hold_ingest();
    let opener = Opener::of(node, opened);
    for (name, meta) in line {
        let made = opener.open(name, meta.clone(), Some(right));
        match made {
            Ok(branch) => opened.branches.insert(&branch, name),
            Err(error) => open::set_closed(&opened.branches, name, meta, &error),
        }
    }
    opened.store.start_ingest();
}
