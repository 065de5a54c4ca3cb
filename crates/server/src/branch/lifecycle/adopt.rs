//! Adds an imported branch to the project.
//!
//! Until then no catalogue names what the import writes. If the server is killed
//! meanwhile, its next start sweeps the files.

use super::{
    Early, ManageError, blocking, check_free, open_new, opened, publish, remove_unnamed, settle,
};
use crate::branch::live::OpenBranch;
use crate::branch::open;
use crate::node::{Node, Opened};
use crate::project::{BranchMeta, InnodbParams};
use crate::time;
use std::sync::Arc;
use xylem_types::{BranchId, BranchName, Epoch, Lsn};

/// Checks that an import with the parameters `innodb` can become the branch `name`.
/// The name must be free, or its branch empty. The page size must be the project's,
/// unless all of the project's branches are empty.
///
/// # Errors
/// [`ManageError`].
pub(crate) fn check(
    node: &Node,
    name: &BranchName,
    innodb: &InnodbParams,
) -> Result<(), ManageError> {
    let opened = opened(node)?;
    let branches = opened.branches.all();
    let taken = branches.iter().find(|b| b.name() == name.as_str());
    let closed = opened.branches.all_closed();
    // It is unknown whether a branch that is not open is empty.
    if taken.is_some_and(|b| !is_empty(b)) || closed.iter().any(|(n, _)| n == name.as_str()) {
        return Err(ManageError::Exists(name.to_string()));
    }
    let have = opened.catalog.project().innodb.page_size;
    if have != innodb.page_size && !(closed.is_empty() && branches.iter().all(is_empty)) {
        return Err(ManageError::Refused(format!(
            "its page size is {} bytes, that of this project {have}: import it as a new project",
            innodb.page_size
        )));
    }
    Ok(())
}

/// Makes the imported branch `id` the branch `name`. It replaces an empty branch of
/// that name. If that certainly failed, what the import has written is removed.
///
/// # Errors
/// [`ManageError`].
pub(crate) async fn adopt(
    node: &Arc<Node>,
    name: &BranchName,
    id: BranchId,
    innodb: InnodbParams,
    early: Early,
) -> Result<(), ManageError> {
    let opened = opened(node)?;
    let _changes = match settle::lock(opened).await {
        Ok(changes) => changes,
        Err(error) => {
            remove_unnamed(node, id).await;
            return Err(error);
        }
    };
    let branches = opened.branches.all();
    let empty = branches.iter().find(|b| b.name() == name.as_str());
    // Held before the check: no compute may attach to the empty branch from here on.
    let held = empty.map(|branch| branch.hold());
    if let Err(error) = check(node, name, &innodb) {
        remove_unnamed(node, id).await;
        return Err(error);
    }
    let meta = BranchMeta {
        id,
        parent: None,
        branch_point_lsn: 0,
        created_at: time::now(&node.config.clock),
        lease: false,
        log_end: None,
    };
    let made = {
        let node = Arc::clone(node);
        blocking(move || open_new(&node, meta)).await?
    };
    let branches = opened.branches.all();
    let all_empty = branches.iter().all(is_empty) && opened.branches.all_closed().is_empty();
    let empty = branches.into_iter().find(|b| b.name() == name.as_str());
    let (add, gone) = (name.to_string(), empty.as_ref().map(|b| b.id()));
    let published = publish(node, &made, early, move |project, meta| {
        if gone.is_some_and(|gone| project.branch(gone).is_some()) {
            project.branches.remove(&add);
        }
        check_free(project, &add)?;
        if gone == Some(project.first) {
            project.first = meta.id;
        }
        if all_empty {
            project.innodb = innodb;
        }
        project.branches.insert(add, meta);
        Ok(())
    })
    .await;
    if let Err(error) = published {
        if let Some(held) = held.filter(|_| !error.is_certain()) {
            held.keep();
        }
        return Err(error);
    }
    if let Some(empty) = empty {
        remove_empty(node, opened, &empty).await;
    }
    opened.branches.insert(&made, name.as_str());
    Ok(())
}

/// Closes and removes the empty branch that was replaced. Best effort: the next start
/// sweeps what stays.
async fn remove_empty(node: &Arc<Node>, opened: &Opened, empty: &Arc<OpenBranch>) {
    let id = empty.id();
    opened.branches.remove(id);
    empty.set_removed();
    open::close_branch(empty).await;
    let node = Arc::clone(node);
    let removed = tokio::task::spawn_blocking(move || {
        let opened = node.opened()?;
        Some((opened.store.remove_branch(id), opened.wals.remove(id)))
    });
    if !matches!(removed.await, Ok(Some((Ok(()), Ok(()))))) {
        tracing::warn!(branch_id = %id, "cannot remove the replaced empty branch; the next start removes it");
    }
}

/// No compute has ever attached to the branch.
fn is_empty(branch: &Arc<OpenBranch>) -> bool {
    branch.epoch() == Epoch(0) && branch.pages.applied() <= Lsn::FIRST
}
