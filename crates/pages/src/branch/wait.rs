//! Waiting for ingest.

use super::shared::Shared;
use crate::error::ReadError;
use tokio::sync::watch;
use tokio::time::Instant;
use xylem_types::Lsn;
use xylem_wal::Position;

impl Shared {
    /// Waits until everything before `position` was ingested.
    pub(crate) async fn wait_ingested(
        &self,
        position: Position,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        // By itself: in the call below, the watch would stay locked until the
        // wait is over, and the WAL could not say that anything is durable.
        let durable = self.wal.durable().borrow().lsn();
        let watch = self.position_tx.subscribe();
        self.wait(watch, deadline, |p| *p >= position, durable)
            .await
    }

    /// Waits until `lsn` is ingested.
    pub(crate) async fn wait_applied(&self, lsn: Lsn, deadline: Instant) -> Result<(), ReadError> {
        let watch = self.applied_tx.subscribe();
        self.wait(watch, deadline, |l| *l >= lsn, lsn).await
    }

    async fn wait<T>(
        &self,
        mut watch: watch::Receiver<T>,
        deadline: Instant,
        reached: impl Fn(&T) -> bool,
        wanted: Lsn,
    ) -> Result<(), ReadError> {
        if tokio::time::timeout_at(deadline, self.ancestors_ready())
            .await
            .is_err()
            && let Some(behind) = self.ancestors_behind()
        {
            return Err(behind);
        }
        loop {
            if reached(&watch.borrow_and_update()) {
                return Ok(());
            }
            if let Some(why) = self.failed() {
                return Err(ReadError::Stopped(why));
            }
            let moved = tokio::time::timeout_at(deadline, watch.changed()).await;
            if !matches!(moved, Ok(Ok(()))) {
                if reached(&watch.borrow()) {
                    return Ok(());
                }
                return Err(self.not_reached(wanted));
            }
        }
    }

    fn not_reached(&self, wanted: Lsn) -> ReadError {
        let durable = self.wal.durable().borrow().lsn();
        let (hop, reached) = match durable < wanted {
            true => ("WAL", durable),
            false => ("ingest", self.applied()),
        };
        ReadError::NotReached {
            wanted,
            reached,
            hop,
        }
    }
}
