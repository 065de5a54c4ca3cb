//! What a server looks after by itself: whether the project is still its own,
//! and leases that nobody uses any more.

use crate::manage::{self, ManageError};
use crate::node::{Node, Phase};
use std::sync::Arc;
use std::time::Duration;

/// How often the project is looked after.
const STEP: Duration = Duration::from_secs(10);

/// Looks after the project until the server stops.
pub(crate) async fn run(node: Arc<Node>) {
    // A lease goes soon after its time, however short that is.
    let step = STEP.min(node.config.lease_timeout / 4);
    loop {
        tokio::time::sleep(step).await;
        if node.phase() == Phase::Stopping {
            return;
        }
        let looking = Arc::clone(&node);
        let looked = tokio::task::spawn_blocking(move || {
            if let Some(opened) = looking.opened() {
                opened.catalog.look();
            }
        });
        if looked.await.is_err() {
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
