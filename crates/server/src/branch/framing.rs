//! Checks redo before it enters a branch's WAL: frames must be consecutive, and their
//! redo must consist of mini-transactions with the right checksums.
//!
//! Invalid redo in the WAL would stop ingest for good, after its commit was
//! acknowledged. The check therefore comes first. A mini-transaction may span frames,
//! so the state of the check is kept from one group to the next. It is kept for each
//! frame that the WAL may have accepted, since an append whose stream ends while it
//! waits for room leaves a part of its group accepted. After a restart of the server
//! the state is rebuilt from the WAL, starting after the last mini-transaction that
//! ingest has finished.

use std::sync::Arc;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use xylem_pages::Branch;
use xylem_redo::{MtrCheck, RedoError};
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{CheckedFrame, Position, Record, Wal, WalError, Writer};

/// Attempts to read the end of a WAL that is trimmed meanwhile.
const TRIES_MAX: usize = 10;

/// Not all frames were appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The WAL refused or failed.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// A frame's redo is invalid. The frames before it were appended.
    #[error(
        "{source}; the server rejected frame {seq}, which contains it. The frame's own checksum is right, so InnoDB wrote the redo this way: check the memory of the compute's machine (a hardware fault is the likely cause), then start the compute again; it continues after the last whole mini-transaction, at LSN {whole}"
    )]
    Redo {
        /// The frame.
        seq: FrameSeq,
        /// The end of the last whole mini-transaction.
        whole: Lsn,
        /// The fault, with its LSN.
        source: RedoError,
    },
    /// Redo that is already in the WAL is invalid.
    #[error(
        "the WAL holds redo that cannot be read: {0}; restore the branch to an LSN before that"
    )]
    Stored(RedoError),
}

/// The state of the check of a branch's redo.
pub struct Framing {
    wal: Arc<dyn Wal>,
    pages: Arc<Branch>,
    /// Locked during an append: the check must see the bytes in order.
    known: Mutex<Option<Known>>,
}

struct Known {
    epoch: Epoch,
    /// The state of the check after each frame that the WAL may have accepted, in order.
    after: Vec<(FrameSeq, MtrCheck)>,
}

impl Framing {
    /// A check of what is appended to `wal`, which `pages` ingests.
    pub fn new(wal: Arc<dyn Wal>, pages: Arc<Branch>) -> Framing {
        Framing {
            wal,
            pages,
            known: Mutex::new(None),
        }
    }

    /// Appends frames of `epoch` to the branch's WAL, up to the first frame with
    /// invalid redo.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn append(
        &self,
        epoch: Epoch,
        mut frames: Vec<CheckedFrame>,
        writer: Writer,
    ) -> Result<(), AppendError> {
        let mut known = self.known.lock().await;
        let (accepted, lsn) = self.wal.accepted(epoch)?;
        let found = known.as_ref().filter(|known| known.epoch == epoch);
        let found = found.and_then(|known| {
            let mut after = known.after.iter();
            after.find(|(seq, check)| *seq == accepted && check.lsn() == lsn)
        });
        let mut check = match found {
            Some((_, check)) => *check,
            None => self.find(epoch).await?,
        };
        let mut after = vec![(accepted, check)];
        let mut wrong = None;
        let mut last = accepted;
        for (nth, frame) in frames.iter().enumerate() {
            let seq = frame.frame().seq;
            if seq <= last {
                // The WAL has this frame already, and ignores it.
                continue;
            }
            let follows = Some(seq.0) == last.0.checked_add(1);
            if !follows || frame.frame().start != check.lsn() {
                // The WAL rejects the group and says what it expects.
                break;
            }
            if let Err(source) = frame.redo().map_or(Ok(()), |redo| check.push(redo)) {
                let whole = check.whole_lsn();
                wrong = Some((nth, AppendError::Redo { seq, whole, source }));
                break;
            }
            after.push((seq, check));
            last = seq;
        }
        *known = Some(Known { epoch, after });
        let wrong = wrong.map(|(nth, error)| {
            frames.truncate(nth);
            error
        });
        self.wal.append_checked(epoch, frames, writer).await?;
        if let Some(known) = &mut *known {
            // The WAL accepted all frames.
            known.after.drain(..known.after.len().saturating_sub(1));
        }
        wrong.map_or(Ok(()), Err)
    }

    /// Rebuilds the state of the check at the end of what the WAL has accepted of
    /// `epoch`: reads the WAL again after the last mini-transaction that ingest has
    /// finished.
    async fn find(&self, epoch: Epoch) -> Result<MtrCheck, AppendError> {
        let mut durable = self.wal.durable();
        for _ in 0..TRIES_MAX {
            let (seq, lsn) = self.wal.accepted(epoch)?;
            // Only what is durable can be read.
            let reached = durable.wait_for(|now| now.epoch() > epoch || now.seq() >= seq);
            if reached.await.is_err() {
                self.wal.accepted(epoch)?;
                return Err(WalError::Closed.into());
            }
            let (from, whole) = self.pages.unfinished();
            let ended = CancellationToken::new();
            let (wal, token) = (Arc::clone(&self.wal), ended.clone());
            let _ends_with_us = ended.drop_guard();
            let reading = tokio::task::spawn_blocking(move || read(&*wal, from, whole, &token));
            let check = match reading.await {
                Ok(Ok(check)) => check,
                // Ingest advanced meanwhile, and the WAL was trimmed.
                Ok(Err(AppendError::Wal(WalError::NoSuchPosition(_)))) => continue,
                Ok(Err(error)) => return Err(error),
                Err(error) => {
                    return Err(AppendError::Wal(WalError::Io {
                        context: "read the end of the WAL".to_owned(),
                        source: std::io::Error::other(error),
                    }));
                }
            };
            if let Some(check) = check.filter(|check| check.lsn() == lsn) {
                return Ok(check);
            }
            if self.wal.accepted(epoch)? == (seq, lsn) {
                let found = check.map_or(Lsn(0), |check| check.lsn());
                return Err(AppendError::Wal(WalError::Corrupt(format!(
                    "its redo ends at LSN {lsn}, but what can be read of it ends at LSN {found}"
                ))));
            }
        }
        Err(AppendError::Wal(WalError::Corrupt(
            "its entries disappear while they are read".to_owned(),
        )))
    }
}

/// Reads the WAL from `from` to its end. `whole` is the LSN of the first
/// mini-transaction to check, if an epoch has begun by then.
fn read(
    wal: &dyn Wal,
    from: Position,
    whole: Option<Lsn>,
    ended: &CancellationToken,
) -> Result<Option<MtrCheck>, AppendError> {
    let mut check = whole.map(MtrCheck::new);
    let mut reader = wal.read_from(from)?;
    while let Some(entry) = reader.next()? {
        if ended.is_cancelled() {
            return Err(WalError::Closed.into());
        }
        match (entry.record, &mut check) {
            (Record::Begin { start }, check) => *check = Some(MtrCheck::new(start)),
            (
                Record::Frame(Frame {
                    start,
                    body: FrameBody::Redo(bytes),
                    ..
                }),
                Some(check),
            ) => {
                // The first entries may begin before `whole`.
                let skip = check.lsn().0.saturating_sub(start.0);
                let skip = usize::try_from(skip).unwrap_or(usize::MAX);
                let rest = bytes.get(skip..).unwrap_or_default();
                check.push(rest).map_err(AppendError::Stored)?;
            }
            _ => {}
        }
    }
    Ok(check)
}
