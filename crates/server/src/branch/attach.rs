//! Attaching: a compute takes the right to write a branch over from another compute.

use super::live::OpenBranch;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::MutexGuard;
use tokio::time::Instant;
use xylem_pages::ReadError;
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{Durable, WalError};

/// How long an attach waits for other attaches.
const ATTACH_TURN: Duration = Duration::from_secs(10);
/// How long an attach waits for ingest before it fences the present compute.
const ATTACH_BEFORE: Duration = Duration::from_secs(20);
/// Ingest that makes no progress for this long counts as stuck.
const ATTACH_STALL: Duration = Duration::from_secs(5);
/// How long an attach waits for the WAL and for ingest once the previous compute is
/// fenced. The sum of all waits is less than the caller's limit, `ATTACH_LIMIT` of the
/// command line.
const ATTACH_PATIENCE: Duration = Duration::from_secs(25);

/// A lag up to this size counts as near, whatever rate was measured.
const NEAR_BYTES: u64 = 4 << 20;

/// The result of an attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The new epoch.
    pub epoch: Epoch,
    /// Where the compute's own redo begins.
    pub start_lsn: Lsn,
    /// The branch has no redo yet: the compute creates a new database.
    pub empty: bool,
}

/// An attach did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The WAL refused or failed.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// Ingest did not reach the end of the WAL.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The name belongs to another branch by now.
    #[error("its name belongs to another branch by now; retry")]
    Renamed,
    /// Another attach does not finish.
    #[error("another compute has been attaching for {} s; retry", ATTACH_TURN.as_secs())]
    Crowded,
    /// Ingest lags too far behind to wait for it.
    #[error(
        "ingest is {bytes} bytes behind the WAL and {why}: the running compute was not fenced; see the server's log and `xylem doctor`, and retry"
    )]
    Behind {
        /// The lag.
        bytes: u64,
        /// Why the attach does not wait for ingest.
        why: String,
    },
    /// A change that could remove or replace the branch is under way.
    #[error("it is being changed, and the store has not confirmed the change yet; retry")]
    Held,
    /// The WAL did not become durable in time.
    #[error("the WAL did not become durable within {} s: it is at LSN {reached}, {} bytes behind", ATTACH_PATIENCE.as_secs(), wanted.bytes_since(*reached))]
    NotDurable {
        /// The LSN that was waited for.
        wanted: Lsn,
        /// The durable LSN.
        reached: Lsn,
    },
}

impl OpenBranch {
    /// Gives the caller the right to write: a new epoch, which begins at the end of the
    /// last whole mtr. On return the checkpoint on which the compute starts is durable
    /// and applied. `meant` says whether this is still the branch that the caller
    /// means, since names can move.
    ///
    /// # Errors
    /// [`AttachError`]. A new attempt starts over.
    pub async fn attach(&self, meant: impl Fn() -> bool) -> Result<Attached, AttachError> {
        if self.is_held() {
            return Err(AttachError::Held);
        }
        let turn = tokio::time::timeout(ATTACH_TURN, self.attach_turn.lock()).await;
        let _one_at_a_time = turn.map_err(|_| AttachError::Crowded)?;
        if self.is_held() {
            return Err(AttachError::Held);
        }
        if !meant() {
            return Err(AttachError::Renamed);
        }
        // Do not fence a running compute for one that could not begin.
        self.ingest_is_near().await?;
        let until = Instant::now() + ATTACH_PATIENCE;
        let sealed = self.wal.seal().await?;
        self.end_older_writer(sealed.epoch());
        // Older epochs can write no more. Ingest reads the WAL up to the seal, and the
        // history is cut after the last whole mtr.
        self.pages.wait_ingested(sealed.position(), until).await?;
        let cut = self.pages.applied();
        let epoch = sealed.epoch();
        self.label().metrics.attaches.inc();
        if cut <= Lsn::FIRST {
            let begun = self.wal.begin(epoch, Lsn::FIRST).await?;
            self.pages.wait_ingested(begun.position(), until).await?;
            tracing::info!(branch = self.name(), %epoch, "attached; the branch is empty");
            return Ok(Attached {
                epoch,
                start_lsn: Lsn::FIRST,
                empty: true,
            });
        }
        self.wal.begin(epoch, cut).await?;
        let checkpoint = Frame {
            seq: FrameSeq(1),
            start: cut,
            body: FrameBody::Redo(Arc::from(xylem_redo::checkpoint_mtr(cut).as_slice())),
        };
        let start_lsn = checkpoint.end();
        self.wal.append(epoch, vec![checkpoint]).await?;
        self.wait_durable(epoch, FrameSeq(1), start_lsn, until)
            .await?;
        self.pages.wait_applied(start_lsn, until).await?;
        tracing::info!(branch = self.name(), %epoch, %start_lsn, "attached");
        Ok(Attached {
            epoch,
            start_lsn,
            empty: false,
        })
    }

    /// Waits until ingest has reached the present durable end of the WAL, and checks
    /// that it will soon reach what was written meanwhile.
    async fn ingest_is_near(&self) -> Result<(), AttachError> {
        let began = Instant::now();
        let (until, end) = (began + ATTACH_BEFORE, self.durable());
        let lag = |end: Durable| end.lsn().bytes_since(self.pages.applied());
        let first = lag(end);
        let behind = |why: String| AttachError::Behind {
            bytes: lag(self.durable()),
            why,
        };
        let mut reached = self.pages.ingested_position();
        while reached < end.position() {
            let look = until.min(Instant::now() + ATTACH_STALL);
            match self.pages.wait_ingested(end.position(), look).await {
                Ok(()) => break,
                Err(ReadError::NotReached { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let now = self.pages.ingested_position();
            if now == reached {
                return Err(behind(format!(
                    "has not moved for {} s",
                    ATTACH_STALL.as_secs()
                )));
            }
            reached = now;
            if Instant::now() >= until {
                return Err(behind(format!(
                    "had not caught up after {} s",
                    ATTACH_BEFORE.as_secs()
                )));
            }
        }
        // Assume that ingest reads what was written meanwhile at the same rate.
        let (took, left) = (began.elapsed().as_secs_f64(), lag(self.durable()));
        let needed = took * left as f64 / first.max(1) as f64;
        if left > NEAR_BYTES && needed > ATTACH_PATIENCE.as_secs_f64() / 2.0 {
            return Err(behind(format!("would need {needed:.0} s more")));
        }
        Ok(())
    }

    /// Fences the present compute. No attach succeeds until the guard is dropped.
    ///
    /// # Errors
    /// The WAL refuses or fails.
    pub async fn fence(&self) -> Result<MutexGuard<'_, ()>, WalError> {
        let guard = self.attach_turn.lock().await;
        // Without an epoch there is no compute to fence.
        if self.epoch() > Epoch(0) {
            let sealed = self.wal.seal().await?;
            self.end_older_writer(sealed.epoch());
        }
        Ok(guard)
    }

    async fn wait_durable(
        &self,
        epoch: Epoch,
        seq: FrameSeq,
        wanted: Lsn,
        until: Instant,
    ) -> Result<(), AttachError> {
        let mut durable = self.durable.clone();
        let reached = |durable: &Durable| durable.epoch() > epoch || durable.seq() >= seq;
        // Copied, so that the guard that `wait_for` returns is dropped at once.
        let waited = tokio::time::timeout_at(until, durable.wait_for(reached))
            .await
            .map(|now| now.map(|now| *now));
        match waited {
            Ok(Ok(now)) if now.epoch() > epoch => Err(WalError::Fenced {
                given: epoch,
                current: now.epoch(),
            }
            .into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(self
                .wal
                .accepted(epoch)
                .err()
                .unwrap_or(WalError::Closed)
                .into()),
            Err(_) => Err(AttachError::NotDurable {
                wanted,
                reached: self.durable().lsn(),
            }),
        }
    }
}
