//! Opens a branch again whose WAL or ingest has failed, or that did not open,
//! without the server being started again.
//!
//! What left it reads from what is open of it, and so is opened again, too.

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

/// How long closing may take, for which a store that is away is waited for.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);

/// Closes what is open of a branch and of those that left it, and opens it.
///
/// # Errors
/// Why it does not open; then it stays closed.
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
        let of = project
            .branch(of)
            .map_or_else(String::new, |(name, _)| name.to_owned());
        return Err(ManageError::Refused(format!(
            "branch {which} left branch {of}, which is not open either: reopen that one, and those that left it are opened, too"
        )));
    }
    // A right that was never given, and the proof that the project is still
    // this server's.
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
    tracing::info!(branch = %which, branch_id = %id, "branch opened again");
    super::find(opened, &BranchRef::Id(id)).map_err(|error| match error {
        // As the caller called it.
        ManageError::NotOpen { why, .. } => ManageError::NotOpen {
            branch: which.to_string(),
            why,
        },
        other => other,
    })
}

/// A branch and those that left it, those that left these, and so on: each
/// after the one it left.
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

/// Closes what is open of a branch. It is among the closed ones then.
async fn close(opened: &Opened, name: &str, meta: &BranchMeta) -> Result<(), ManageError> {
    let which = BranchRef::Id(meta.id);
    let closed = match (opened.branches.get(&which), opened.branches.closed(&which)) {
        (Some(branch), _) => {
            let closed =
                ClosedBranch::new(meta.clone(), "it is being opened again; retry".to_owned());
            opened.branches.insert_closed(&closed, name);
            // Its computes come back when it is open.
            branch.end_because(format!("branch {name} is opened again"));
            let closing = tokio::spawn(async move { open::close_branch(&branch).await });
            *closed.closing.lock() = Some(closing);
            closed
        }
        (None, Some(closed)) => closed,
        (None, None) => return Ok(()),
    };
    self::closed(&closed).await
}

/// Waits until nothing is open of a branch.
///
/// # Errors
/// [`ManageError::Refused`] while something is.
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
            "what was open of the branch is not closed after {} s, as the store does not answer: it stays closed; try again later",
            CLOSE_LIMIT.as_secs()
        )));
    }
    Ok(())
}

/// Opens what can be opened. Blocking.
fn open_line(node: &Node, opened: &Opened, line: &[(String, BranchMeta)], right: u64) {
    // What is read again from the WALs counts as before or after a fork as it
    // did the first time: so all that left must be known first.
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
