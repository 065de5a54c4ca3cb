//! What may enter a branch's WAL: frames that follow, and whose redo is whole
//! mini-transactions with the right checksums, as far as it has come.
//!
//! Redo that is wrong would stop ingest for ever once it is in the WAL, and by
//! then its commit was acknowledged. So it is checked before. A
//! mini-transaction may span frames: how far its bytes have passed is kept from
//! one group to the next, for each frame that the WAL may have accepted, since
//! an append whose stream ends while it waits for room leaves a part of its
//! group accepted. After a restart of the server that state is found in the
//! WAL, behind the last mini-transaction that ingest has finished.

use std::sync::Arc;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use xylem_pages::Branch;
use xylem_redo::{MtrCheck, RedoError};
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{CheckedFrame, Position, Record, Wal, WalError};

/// How often to look again for the WAL's end when it is trimmed meanwhile.
const TRIES_MAX: usize = 10;

/// Frames were not appended, or not all of them.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The WAL refused or failed.
    #[error(transparent)]
    Log(#[from] WalError),
    /// A frame's redo is not redo. The frames before it were appended.
    #[error(
        "{source}; frame {seq}, which carries it, was not taken. Its own checksum is right, so InnoDB wrote it so: check this compute's memory (a hardware fault is the likely cause), then start it again; it goes on after the last whole mini-transaction, at LSN {whole}"
    )]
    Redo {
        /// The frame.
        seq: FrameSeq,
        /// The end of the last whole mini-transaction.
        whole: Lsn,
        /// What is wrong, and at which LSN.
        source: RedoError,
    },
    /// The redo that is in the WAL already is not redo.
    #[error("the WAL holds redo that cannot be read: {0}; restore the branch to an LSN before it")]
    Stored(RedoError),
}

/// What is known of the redo that a branch's WAL has accepted.
pub struct Framing {
    wal: Arc<dyn Wal>,
    pages: Arc<Branch>,
    /// One append at a time: the check goes through the bytes in their order.
    known: Mutex<Option<Known>>,
}

struct Known {
    epoch: Epoch,
    /// The check after frames that the WAL may have accepted, in order.
    after: Vec<(FrameSeq, MtrCheck)>,
}

impl Framing {
    /// The check of what goes into `wal`, which `pages` ingests.
    pub fn new(wal: Arc<dyn Wal>, pages: Arc<Branch>) -> Framing {
        Framing {
            wal,
            pages,
            known: Mutex::new(None),
        }
    }

    /// Appends frames of `epoch` to the branch's WAL, up to the first whose
    /// redo is wrong.
    ///
    /// # Errors
    /// [`AppendError`].
    pub async fn append(
        &self,
        epoch: Epoch,
        mut frames: Vec<CheckedFrame>,
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
                // The WAL has it, and ignores it.
                continue;
            }
            let follows = Some(seq.0) == last.0.checked_add(1);
            if !follows || frame.frame().start != check.lsn() {
                // The WAL refuses the group, and says what it expects.
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
        self.wal.append_checked(epoch, frames).await?;
        if let Some(known) = &mut *known {
            // All were accepted.
            known.after.drain(..known.after.len().saturating_sub(1));
        }
        wrong.map_or(Ok(()), Err)
    }

    /// The check at the end of what the WAL has accepted of `epoch`, of which
    /// nobody has kept track: the stretch behind the last mini-transaction that
    /// ingest has finished is read again.
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
                // Ingest went on and the WAL was trimmed.
                Ok(Err(AppendError::Log(WalError::NoSuchPosition(_)))) => continue,
                Ok(Err(error)) => return Err(error),
                Err(error) => {
                    return Err(AppendError::Log(WalError::Io {
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
                return Err(AppendError::Log(WalError::Corrupt(format!(
                    "its redo ends at LSN {lsn}, but what can be read of it ends at LSN {found}"
                ))));
            }
        }
        Err(AppendError::Log(WalError::Corrupt(
            "its entries vanish while they are read".to_owned(),
        )))
    }
}

/// Reads the WAL from `from` to its end; `whole` is where the first
/// mini-transaction begins that is to be checked, if an epoch had begun there.
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
