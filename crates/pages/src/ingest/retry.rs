//! Why ingest ends, and reads that it repeats.

use crate::branch::shared::Shared;
use crate::error::ReadError;
use std::time::Duration;

/// The pause after a read that failed.
pub(super) const RETRY: Duration = Duration::from_millis(500);

/// The reason why ingest ends.
pub(crate) enum Stop {
    /// The branch is shut down.
    Shutdown,
    /// It cannot go on.
    Failed(String),
}

pub(super) type Step<T> = Result<T, Stop>;

/// Repeats a read that fails because of the disk.
pub(super) fn retry<T>(shared: &Shared, mut read: impl FnMut() -> Result<T, ReadError>) -> Step<T> {
    let mut complained = false;
    loop {
        match read() {
            Ok(v) => return Ok(v),
            Err(e @ ReadError::Io { .. }) => {
                if !complained {
                    tracing::error!(branch_id = %shared.id, error = %e, "ingest cannot read a layer; trying again");
                    complained = true;
                }
                if shared.stopped() {
                    return Err(Stop::Shutdown);
                }
                shared.flush_pause(RETRY);
            }
            Err(e) => return Err(Stop::Failed(e.to_string())),
        }
    }
}
