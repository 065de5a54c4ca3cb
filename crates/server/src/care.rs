//! What a server looks after by itself: whether the project is still its own,
//! and leases that nobody uses any more.
//!
//! Two tasks, since the first must not wait for the second, which waits for
//! the store.

use crate::manage::{self, ManageError};
use crate::node::{Node, Phase};
use crate::ownership;
use crate::project::catalog::CatalogError;
use std::sync::Arc;
use std::time::Duration;

/// How often leases are looked through.
const STEP: Duration = Duration::from_secs(10);

/// Asks the store whether the project is still this server's, until the
/// server ends: a server that stops drains its WALs, and acknowledges.
pub(crate) async fn watch_ownership(node: Arc<Node>) {
    let Some(opened) = node.opened() else {
        return;
    };
    let step = ownership::look_interval(&node.config, opened.store.place().is_exclusive());
    loop {
        tokio::time::sleep(step).await;
        let catalog = Arc::clone(&opened.catalog);
        match tokio::task::spawn_blocking(move || catalog.look()).await {
            Ok(Ok(())) => {}
            Ok(Err(CatalogError::Lost { .. })) | Err(_) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the store does not say whether the project is still this server's");
            }
        }
    }
}

/// Removes leases that nobody uses, until the server stops.
pub(crate) async fn remove_leases(node: Arc<Node>) {
    // A lease goes soon after its time, however short that is.
    let step = STEP.min(node.config.lease_timeout / 4);
    loop {
        tokio::time::sleep(step).await;
        if node.phase() == Phase::Stopping {
            return;
        }
        remove_idle_leases(&node).await;
    }
}

async fn remove_idle_leases(node: &Arc<Node>) {
    let Some(opened) = node.opened() else {
        return;
    };
    let timeout = node.config.lease_timeout;
    let leases = opened.branches.all().into_iter();
    for lease in leases.filter(|branch| branch.meta.lease && branch.idle() >= timeout) {
        let name = lease.name();
        match manage::remove_idle(node, lease.id(), timeout).await {
            Ok(true) => tracing::info!(
                lease = name,
                "removed: nobody used it for {} s",
                timeout.as_secs()
            ),
            // Somebody came back, or removed it.
            Ok(false) | Err(ManageError::NoBranch(_)) => {}
            Err(error) => tracing::warn!(lease = name, %error, "cannot remove an unused lease"),
        }
    }
}
