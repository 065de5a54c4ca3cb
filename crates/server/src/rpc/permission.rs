//! Whether a compute's commits may be acknowledged now.

use super::status;
use crate::branch::live::OpenBranch;
use crate::node::Opened;
use crate::ownership::{Ownership, Right};
use crate::project::catalog::Catalog;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use xylem_types::Epoch;

/// The permission to acknowledge the commits of one stream of redo.
#[derive(Clone)]
pub(super) struct Permission {
    branch: Arc<OpenBranch>,
    catalog: Arc<Catalog>,
    ownership: Arc<Ownership>,
    /// Cancelled when another server owns the project.
    lost: CancellationToken,
    /// Above zero: commits must wait; see [`OpenBranch::hold`].
    held: watch::Receiver<u32>,
    epoch: Epoch,
    /// Cancelled when a newer stream takes over, or a newer epoch was created.
    replaced: CancellationToken,
}

impl Permission {
    /// Takes the branch's line of redo over from an earlier stream of `epoch`.
    pub fn take(opened: &Opened, branch: Arc<OpenBranch>, epoch: Epoch) -> Permission {
        Permission {
            ownership: Arc::clone(&opened.ownership),
            lost: opened.catalog.lost().clone(),
            catalog: Arc::clone(&opened.catalog),
            held: branch.watch_held(),
            replaced: branch.take_writer(epoch),
            branch,
            epoch,
        }
    }

    /// Whether there is permission now. The durable LSN is read after this.
    ///
    /// # Errors
    /// When the stream has to end.
    pub fn now(&self) -> Result<bool, Status> {
        if self.replaced.is_cancelled() {
            return Err(self.replaced());
        }
        match self.ownership.right() {
            Right::Lost => Err(self.lost()),
            Right::Yes => Ok(*self.held.borrow() == 0),
            Right::Doubtful => Ok(false),
        }
    }

    /// Waits for permission.
    ///
    /// # Errors
    /// When the stream has to end.
    pub async fn wait(&mut self) -> Result<(), Status> {
        let mut renewals = self.ownership.changes();
        loop {
            renewals.borrow_and_update();
            self.held.borrow_and_update();
            if self.now()? {
                return Ok(());
            }
            tokio::select! {
                biased;
                ended = self.ended() => return Err(ended),
                // The senders live as long as the branch and the catalogue.
                _ = self.held.changed() => {}
                _ = renewals.changed() => {}
            }
        }
    }

    /// Completes when the stream has to end, with the reason.
    pub fn ended(&self) -> impl Future<Output = Status> + use<> {
        let this = self.clone();
        async move {
            tokio::select! {
                biased;
                () = this.lost.cancelled() => this.lost(),
                () = this.replaced.cancelled() => this.replaced(),
            }
        }
    }

    fn lost(&self) -> Status {
        match self.catalog.why_lost() {
            Some(why) => status::lost(&why),
            None => status::stopping(),
        }
    }

    fn replaced(&self) -> Status {
        let newest = self.branch.epoch();
        if newest > self.epoch {
            return status::wrong_epoch(self.epoch, newest, &self.branch.name());
        }
        Status::aborted(format!(
            "a newer stream of epoch {} on branch {} has replaced this one",
            self.epoch,
            self.branch.name()
        ))
    }
}
