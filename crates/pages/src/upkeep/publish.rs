//! Publishes manifests, for flushes and merges.

use super::fault::Fault;
use crate::branch::shared::Shared;
use crate::error::StoreError;
use crate::manifest::record::Edit;
use crate::manifest::version::Manifest;
use crate::place::Put;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The first pause after a write that failed; each further one is twice as
/// long, up to [`PAUSE_MAX`].
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(50);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Publishes a manifest, however long that takes: whether an attempt that
/// failed has reached the store is not known, so nothing else may be published
/// in its place, and the files it names must stay.
///
/// Only the branch's own flush and merges wait for it: others ask the manifest
/// with [`Mutex::try_lock_for`], and merges of a branch that waits here take no
/// turn of another's. When the branch stops
/// meanwhile, they publish nothing either.
///
/// [`Mutex::try_lock_for`]: parking_lot::Mutex::try_lock_for
pub(crate) fn publish(shared: &Shared, edit: impl FnOnce(&Manifest) -> Edit) -> Result<Put, Fault> {
    let mut pause = PAUSE_MIN;
    let mut complained = false;
    let mut manifest = shared.manifest.lock();
    if shared.stopped() && shared.publish_fails.load(Ordering::Acquire) {
        // Another's attempt ended with the stop, and may have reached the store.
        return Err(Fault::Stopped);
    }
    let edit = edit(&manifest);
    loop {
        match manifest.publish(&*shared.files, edit.clone()) {
            Ok(put) => {
                shared.publish_fails.store(false, Ordering::Release);
                if put == Put::NotSynced {
                    // It exists, so its layers must stay; the next one syncs both.
                    tracing::warn!(branch_id = %shared.id, "it is not certain that the manifest is durable");
                }
                return Ok(put);
            }
            Err(e @ StoreError::Io { .. }) => {
                shared.stats.flush_failures.add(1);
                // From here on branches that share memory and upkeep with
                // this one know that it may take long.
                shared.publish_fails.store(true, Ordering::Release);
                if !complained {
                    tracing::error!(branch_id = %shared.id, error = %e, "the manifest was not written; trying again");
                    complained = true;
                }
                shared.flush_pause(pause);
                pause = (pause * 2).min(PAUSE_MAX);
                if shared.stopped() {
                    return Err(Fault::Stopped);
                }
            }
            Err(e) => return Err(Fault::Dead(e.to_string())),
        }
    }
}
