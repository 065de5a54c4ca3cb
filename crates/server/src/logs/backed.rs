//! A log on this server's disk that is copied to the object store.

use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use xylem_types::{BranchId, Epoch, FrameSeq, Lsn};
use xylem_wal::backup::{Backup, BackupStatus};
use xylem_wal::{BoxFuture, CheckedFrame, Durable, LocalWal, Position, Wal, WalError, WalReader};

/// A log on this server's disk, and its backup.
pub struct BackedLog {
    log: LocalWal,
    backup: Backup,
    interval: Duration,
    id: BranchId,
}

impl BackedLog {
    pub(super) fn new(
        log: LocalWal,
        backup: Backup,
        interval: Duration,
        id: BranchId,
    ) -> BackedLog {
        BackedLog {
            log,
            backup,
            interval,
            id,
        }
    }

    /// How old an entry may become before it is in the backup.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// How far the backup is.
    pub fn backup(&self) -> BackupStatus {
        self.backup.status()
    }

    /// Waits until everything that is durable now is in the object store.
    ///
    /// # Errors
    /// Why the backup has ended.
    pub async fn reach_now(&self) -> Result<(), WalError> {
        let end = self.log.durable().borrow().position();
        self.backup.reach(end).await
    }

    /// Lets the log end when a server that was given a newer right to it has
    /// begun to write its backup: what this one told computes from then on
    /// would be lost.
    pub(super) fn end_when_replaced(self: &Arc<Self>, runtime: &Handle) {
        let log = Arc::downgrade(self);
        let ended = self.backup.ended();
        runtime.spawn(async move {
            if let Err(error @ WalError::Superseded { .. }) = ended.await
                && let Some(log) = log.upgrade()
            {
                tracing::error!(branch = %log.id, %error, "the log ends");
                let _ = log.log.close().await;
            }
        });
    }

    /// That another server has the log by now, if so.
    fn replaced(&self) -> Result<(), WalError> {
        match self.backup.status().trouble {
            Some(error @ WalError::Superseded { .. }) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Wal for BackedLog {
    fn seal(&self) -> BoxFuture<'_, Result<Durable, WalError>> {
        Box::pin(async move {
            self.replaced()?;
            self.log.seal().await
        })
    }

    fn begin(&self, epoch: Epoch, start: Lsn) -> BoxFuture<'_, Result<Durable, WalError>> {
        Box::pin(async move {
            self.replaced()?;
            self.log.begin(epoch, start).await
        })
    }

    fn append_checked(
        &self,
        epoch: Epoch,
        frames: Vec<CheckedFrame>,
    ) -> BoxFuture<'_, Result<(), WalError>> {
        self.log.append_checked(epoch, frames)
    }

    fn accepted(&self, epoch: Epoch) -> Result<(FrameSeq, Lsn), WalError> {
        match self.log.accepted(epoch) {
            Err(WalError::Closed) => Err(self.replaced().err().unwrap_or(WalError::Closed)),
            accepted => accepted,
        }
    }

    fn durable(&self) -> watch::Receiver<Durable> {
        self.log.durable()
    }

    fn read_from(&self, position: Position) -> Result<Box<dyn WalReader>, WalError> {
        self.log.read_from(position)
    }

    fn trim(&self, before: Position) -> Result<(), WalError> {
        self.log.trim(before)?;
        self.backup.trim(before);
        Ok(())
    }

    fn first(&self) -> Position {
        self.log.first()
    }

    fn stored_bytes(&self) -> u64 {
        self.log.stored_bytes()
    }

    fn failed(&self) -> Option<WalError> {
        match self.log.failed()? {
            // It was closed because it is another server's by now.
            WalError::Closed => Some(self.replaced().err().unwrap_or(WalError::Closed)),
            error => Some(error),
        }
    }

    fn close(&self) -> BoxFuture<'_, Result<(), WalError>> {
        Box::pin(async move {
            let closed = self.log.close().await;
            match self.backup.close().await {
                // Or it is not this server's any more.
                Ok(()) | Err(WalError::Superseded { .. }) => {}
                // The log is there, and the next start goes on.
                Err(error) => {
                    tracing::error!(branch = %self.id, %error, "the end of the log is not in its backup");
                }
            }
            closed
        })
    }
}
