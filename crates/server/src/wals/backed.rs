//! A local WAL that is copied to the object store.

use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use xylem_types::{BranchId, Epoch, FrameSeq, Lsn};
use xylem_wal::backup::{Backup, BackupStatus};
use xylem_wal::{
    BoxFuture, CheckedFrame, Durable, LocalWal, Position, Wal, WalError, WalReader, Writer,
};

/// A local WAL and its backup.
pub struct BackedWal {
    wal: LocalWal,
    backup: Backup,
    interval: Duration,
    id: BranchId,
}

impl BackedWal {
    pub(super) fn new(
        wal: LocalWal,
        backup: Backup,
        interval: Duration,
        id: BranchId,
    ) -> BackedWal {
        BackedWal {
            wal,
            backup,
            interval,
            id,
        }
    }

    /// The age at which an entry must be in the backup.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// The progress of the backup.
    pub fn backup(&self) -> BackupStatus {
        self.backup.status()
    }

    /// Waits until everything that is durable now is in the object store.
    ///
    /// # Errors
    /// The reason, when the backup has ended.
    pub async fn reach_now(&self) -> Result<(), WalError> {
        let end = self.wal.durable().borrow().position();
        self.backup.reach(end).await
    }

    /// Closes the WAL when a server with a newer right has begun to write its backup:
    /// from then on, commits that this server acknowledges would be lost.
    pub(super) fn end_when_replaced(self: &Arc<Self>, runtime: &Handle) {
        let wal = Arc::downgrade(self);
        let ended = self.backup.ended();
        runtime.spawn(async move {
            if let Err(error @ WalError::Superseded { .. }) = ended.await
                && let Some(wal) = wal.upgrade()
            {
                tracing::error!(branch_id = %wal.id, %error, "closing the WAL");
                let _ = wal.wal.close().await;
            }
        });
    }

    /// An error if another server owns the WAL by now.
    fn replaced(&self) -> Result<(), WalError> {
        match self.backup.status().trouble {
            Some(error @ WalError::Superseded { .. }) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Wal for BackedWal {
    fn seal(&self) -> BoxFuture<'_, Result<Durable, WalError>> {
        Box::pin(async move {
            self.replaced()?;
            self.wal.seal().await
        })
    }

    fn begin(&self, epoch: Epoch, start: Lsn) -> BoxFuture<'_, Result<Durable, WalError>> {
        Box::pin(async move {
            self.replaced()?;
            self.wal.begin(epoch, start).await
        })
    }

    fn append_checked(
        &self,
        epoch: Epoch,
        frames: Vec<CheckedFrame>,
        writer: Writer,
    ) -> BoxFuture<'_, Result<(), WalError>> {
        self.wal.append_checked(epoch, frames, writer)
    }

    fn write_queued(&self) {
        self.wal.write_queued();
    }

    fn accepted(&self, epoch: Epoch) -> Result<(FrameSeq, Lsn), WalError> {
        match self.wal.accepted(epoch) {
            Err(WalError::Closed) => Err(self.replaced().err().unwrap_or(WalError::Closed)),
            accepted => accepted,
        }
    }

    fn durable(&self) -> watch::Receiver<Durable> {
        self.wal.durable()
    }

    fn read_from(&self, position: Position) -> Result<Box<dyn WalReader>, WalError> {
        self.wal.read_from(position)
    }

    fn trim(&self, before: Position) -> Result<(), WalError> {
        self.wal.trim(before)?;
        self.backup.trim(before);
        Ok(())
    }

    fn first(&self) -> Position {
        self.wal.first()
    }

    fn stored_bytes(&self) -> u64 {
        self.wal.stored_bytes()
    }

    fn failed(&self) -> Option<WalError> {
        match self.wal.failed()? {
            // The WAL was closed because another server owns it by now.
            WalError::Closed => Some(self.replaced().err().unwrap_or(WalError::Closed)),
            error => Some(error),
        }
    }

    fn close(&self) -> BoxFuture<'_, Result<(), WalError>> {
        Box::pin(async move {
            let closed = self.wal.close().await;
            match self.backup.close().await {
                // Superseded: another server owns the WAL.
                Ok(()) | Err(WalError::Superseded { .. }) => {}
                // The WAL itself is complete; the next start continues the backup.
                Err(error) => {
                    tracing::error!(branch_id = %self.id, %error, "the backup lacks the end of the WAL");
                }
            }
            closed
        })
    }
}
