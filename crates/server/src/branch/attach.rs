//! Attaching: a compute takes the right to write a branch from the one that has
//! it.

use super::live::OpenBranch;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::MutexGuard;
use tokio::time::Instant;
use xylem_pages::ReadError;
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{Durable, WalError};

/// How long an attach waits for others that attach.
const ATTACH_TURN: Duration = Duration::from_secs(10);
/// How long it waits for ingest before anybody is fenced.
const ATTACH_BEFORE: Duration = Duration::from_secs(20);
/// Ingest that has not moved for so long does not go on by itself.
const ATTACH_STALL: Duration = Duration::from_secs(5);
/// How long it waits for the WAL and for ingest once the compute before is
/// fenced. All together are less than a caller's patience: `ATTACH_LIMIT` of
/// the command line.
const ATTACH_PATIENCE: Duration = Duration::from_secs(25);

/// So much redo is soon ingested, whatever was measured.
const NEAR_BYTES: u64 = 4 << 20;

/// What a compute that attached begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its right to write.
    pub epoch: Epoch,
    /// Where its own redo begins.
    pub start_lsn: Lsn,
    /// There is no redo yet: it creates a new database.
    pub empty: bool,
}

/// An attach did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The WAL refused or failed.
    #[error(transparent)]
    Log(#[from] WalError),
    /// Ingest did not get there.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The name means another branch by now.
    #[error("its name means another branch by now; retry")]
    Renamed,
    /// Others attach, and do not come to an end.
    #[error("another compute has been attaching for {} s; retry", ATTACH_TURN.as_secs())]
    Crowded,
    /// Ingest is not near enough to be waited for.
    #[error(
        "ingest is {bytes} bytes behind the WAL, and {why}: the compute that runs was not fenced; see the server's log and `xylem doctor`, and retry"
    )]
    Behind {
        /// How far.
        bytes: u64,
        /// Why it is not waited for.
        why: String,
    },
    /// It may be about to go, or to be another line.
    #[error("it is being changed, and the store has not said yet whether it was; retry")]
    Held,
    /// The WAL did not become durable in time.
    #[error("the WAL did not become durable within {} s: it stands at {reached}, {} bytes behind", ATTACH_PATIENCE.as_secs(), wanted.bytes_since(*reached))]
    NotDurable {
        /// What was waited for.
        wanted: Lsn,
        /// Where the WAL stands.
        reached: Lsn,
    },
}

impl OpenBranch {
    /// Gives the caller the right to write: a new epoch, whose line begins at
    /// the end of the last whole mtr. On return the checkpoint that its
    /// compute starts on is durable and applied. `meant` says whether this is
    /// still the branch that the caller means: names change.
    ///
    /// # Errors
    /// [`AttachError`]; a further attach begins afresh.
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
        // A compute that runs is not fenced for one that could not begin.
        self.ingest_is_near().await?;
        let until = Instant::now() + ATTACH_PATIENCE;
        let sealed = self.wal.seal().await?;
        // Older epochs write no more; what they wrote is read to its end, and
        // the last whole mtr of it is where history is cut.
        self.pages.wait_ingested(sealed.position(), until).await?;
        let cut = self.pages.applied();
        let epoch = sealed.epoch();
        self.label().metrics.attaches.inc();
        if cut <= Lsn::FIRST {
            let begun = self.wal.begin(epoch, Lsn::FIRST).await?;
            self.pages.wait_ingested(begun.position(), until).await?;
            tracing::info!(%epoch, "attached, the branch is empty");
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
        tracing::info!(%epoch, %start_lsn, "attached");
        Ok(Attached {
            epoch,
            start_lsn,
            empty: false,
        })
    }

    /// Waits until ingest has got to where the WAL is durable now, and looks
    /// whether it will soon get to where it is then.
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
                    "was not there after {} s",
                    ATTACH_BEFORE.as_secs()
                )));
            }
        }
        // What was written meanwhile is read at the same rate.
        let (took, left) = (began.elapsed().as_secs_f64(), lag(self.durable()));
        let needed = took * left as f64 / first.max(1) as f64;
        if left > NEAR_BYTES && needed > ATTACH_PATIENCE.as_secs_f64() / 2.0 {
            return Err(behind(format!("would need {needed:.0} s more")));
        }
        Ok(())
    }

    /// Takes the right to write from whoever has it. Nobody is given it while
    /// the guard lives.
    ///
    /// # Errors
    /// When the WAL refuses or fails.
    pub async fn fence(&self) -> Result<MutexGuard<'_, ()>, WalError> {
        let guard = self.attach_turn.lock().await;
        // Without an epoch there is nobody to take it from.
        if self.epoch() > Epoch(0) {
            self.wal.seal().await?;
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
        // Copied out: the guard that `wait_for` returns must not stay.
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
