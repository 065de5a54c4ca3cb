//! Removes unused leases, the hidden branches of read-only computes.

use super::lifecycle::{self, ManageError};
use crate::node::{Node, Phase};
use std::sync::Arc;
use std::time::Duration;

/// The interval between two checks of all leases.
const STEP: Duration = Duration::from_secs(10);

/// Removes unused leases until the server stops.
pub async fn remove_unused(node: Arc<Node>) {
    // Short timeouts need shorter steps, so that a lease goes soon after its time.
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
        match lifecycle::remove_idle(node, lease.id(), timeout).await {
            Ok(true) => tracing::info!(
                lease = name,
                "lease removed: it was unused for {} s",
                timeout.as_secs()
            ),
            // The lease is in use again, or was removed.
            Ok(false) | Err(ManageError::NoBranch(_)) => {}
            Err(error) => tracing::warn!(lease = name, %error, "cannot remove an unused lease"),
        }
    }
}
