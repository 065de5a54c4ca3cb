//! Makes a local WAL's directory of its backup.

use super::config::BackupConfig;
use super::format::{Generation, Header, Kind, name, walk};
use super::line::{self, Fault, Range};
use crate::disk::Disk;
use crate::entry::{EntryHeader, follow, payload};
use crate::line::Line;
use crate::local::Maker;
use crate::queue::Queued;
use crate::remote::{Made, Remote};
use crate::{LocalWalConfig, Position, WalError};
use bytes::Bytes;
use futures::StreamExt;
use std::io;
use std::sync::Arc;
use xylem_types::{Epoch, FrameSeq, Lsn};

/// How often to look again when objects vanish because a backup trims.
const TRIES_MAX: usize = 10;
/// Objects that are asked for at a time.
const AHEAD: usize = 4;

/// How much of a lost WAL the page store has. A restored WAL continues there or
/// later, so that no position stands for two entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Entries before this place are in layers.
    pub position: Position,
    /// Redo before this is in layers too.
    pub lsn: Lsn,
}

/// The result of [`super::restore()`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The first position of the WAL.
    pub first: Position,
    /// The place after its last entry, which is a seal.
    pub end: Position,
    /// The epoch of that seal: greater than any that was given out before.
    pub epoch: Epoch,
    /// The end of the redo.
    pub lsn: Lsn,
    /// The time of the last entry in the backup; 0 when the backup had no entry
    /// that was needed. Later entries that are in no layer are lost.
    pub time_us: u64,
    /// How many entries came from the backup.
    pub entries: u64,
}

/// Bits of the number of epochs between two restores of a WAL. Seals of the
/// lost WAL may have given out epochs that its backup does not know, but fewer
/// than this number, since each took an fsync and a compute's start.
const EPOCHS_APART: u32 = 20;

/// The first epoch after a restore under `generation`.
fn first_epoch(generation: Generation, known: Epoch) -> Epoch {
    let apart = generation
        .0
        .saturating_add(1)
        .saturating_mul(1 << EPOCHS_APART);
    Epoch(apart.max(known.0.saturating_add(1)))
}

/// An error while an object is walked.
enum Wrong {
    /// With the object: the byte, and what.
    Object(u64, String),
    /// With the directory.
    Local(WalError),
}

impl From<(u64, String)> for Wrong {
    fn from((at, why): (u64, String)) -> Wrong {
        Wrong::Object(at, why)
    }
}

/// Where the restored line stands.
struct Progress {
    maker: Maker,
    line: Option<Line>,
    restored: Restored,
}

/// See [`super::restore()`].
pub(crate) async fn restore(
    remote: &Remote,
    generation: Generation,
    disk: Arc<dyn Disk>,
    floor: Floor,
    wal: LocalWalConfig,
    config: &BackupConfig,
) -> Result<Restored, WalError> {
    for _ in 0..TRIES_MAX {
        let Some(line) = line::find(remote).await.map_err(|f| f.error())? else {
            let empty = begin(&disk, floor, &wal, config).await?;
            let end = floor.position;
            close(remote, generation, end, end, None, config).await?;
            return finish(empty, generation, config).await;
        };
        if line.newest >= generation {
            let fault = Fault::Superseded {
                wal: remote.place(""),
                generation: line.newest,
            };
            return Err(fault.error());
        }
        let ranges = line.whole(remote).map_err(|f| f.error())?;
        let end = ranges.last().map_or(line.first, |r| r.end);
        let made = match ranges.first() {
            Some(first) if end >= floor.position => {
                make(remote, ranges, first.position, &disk, &wal, config).await?
            }
            _ => Some(begin(&disk, floor, &wal, config).await?),
        };
        // Some objects were trimmed meanwhile: fewer are needed now.
        let Some(made) = made else { continue };
        let follows = Some(line.newest);
        close(remote, generation, end, line.first, follows, config).await?;
        return finish(made, generation, config).await;
    }
    Err(WalError::Corrupt(format!(
        "{}: objects of the backup keep vanishing during the restore: something other than a backup removes them",
        remote.place("")
    )))
}

/// A WAL that begins at `floor`, without its seal.
async fn begin(
    disk: &Arc<dyn Disk>,
    floor: Floor,
    wal: &LocalWalConfig,
    config: &BackupConfig,
) -> Result<Progress, WalError> {
    let (disk, wal) = (Arc::clone(disk), wal.clone());
    let maker = blocking(config, move || Maker::begin(disk, wal, floor.position)).await?;
    Ok(Progress {
        maker,
        line: None,
        restored: Restored {
            first: floor.position,
            lsn: floor.lsn,
            ..Restored::default()
        },
    })
}

/// Adds the seal, and makes the WAL one that opens.
async fn finish(
    progress: Progress,
    generation: Generation,
    config: &BackupConfig,
) -> Result<Restored, WalError> {
    let Progress {
        mut maker,
        mut restored,
        ..
    } = progress;
    restored.epoch = first_epoch(generation, restored.epoch);
    let seal = Queued::mark(payload::SEAL, restored.epoch, restored.lsn);
    let header = EntryHeader {
        payload_crc: seal.payload_crc,
        length: 0,
        behind: 0,
        position: maker.end(),
        epoch: restored.epoch,
        seq: FrameSeq(0),
        lsn: restored.lsn,
        time_us: config.clock.now_us(),
        kind: payload::SEAL,
        // Another machine's clock may have told the times before.
        stepped: true,
    };
    restored.end = Position(header.position.0 + header.total());
    blocking(config, move || {
        maker.push(&header, &[])?;
        maker.finish()
    })
    .await?;
    Ok(restored)
}

/// Fetches the ranges and makes a WAL of them, without the seal. `None` when an
/// object has gone.
async fn make(
    remote: &Remote,
    ranges: &[Range],
    first: Position,
    disk: &Arc<dyn Disk>,
    wal: &LocalWalConfig,
    config: &BackupConfig,
) -> Result<Option<Progress>, WalError> {
    let (disk, wal) = (Arc::clone(disk), wal.clone());
    let maker = blocking(config, move || Maker::begin(disk, wal, first)).await?;
    let mut progress = Progress {
        maker,
        line: None,
        restored: Restored {
            first,
            ..Restored::default()
        },
    };
    let objects = futures::stream::iter(ranges.iter().copied());
    let objects = objects.map(|range| async move {
        let found = remote.get(&range.name()).await;
        (range, found)
    });
    let mut objects = std::pin::pin!(objects.buffered(AHEAD));
    while let Some((range, found)) = objects.next().await {
        let Some(object) = found.map_err(|failure| failure.error())? else {
            return Ok(None);
        };
        let place = remote.place(&range.name());
        progress = blocking(config, move || {
            add(progress, range, object).map_err(|wrong| match wrong {
                Wrong::Object(at, why) => WalError::Corrupt(format!("{place} at byte {at}: {why}")),
                Wrong::Local(e) => e,
            })
        })
        .await?;
    }
    Ok(Some(progress))
}

/// Begins `generation` at the end of the restored entries, so that objects
/// which a replaced server adds later are void.
async fn close(
    remote: &Remote,
    generation: Generation,
    end: Position,
    first: Position,
    follows: Option<Generation>,
    config: &BackupConfig,
) -> Result<(), WalError> {
    let writer = config.entropy.next().map_err(|source| WalError::Io {
        context: "draw the random bytes of a backup's writer".to_owned(),
        source,
    })?;
    let header = Header {
        generation,
        kind: Kind::Start,
        writer,
        position: end,
        first,
        follows,
        bytes: 0,
        digest: 0,
        whole: end,
    };
    let object = Bytes::copy_from_slice(&header.encode());
    let key = name(generation, Kind::Start);
    match remote.make(&key, &object).await {
        Ok(Made::Ours) => Ok(()),
        Ok(Made::Taken(_)) => Err(WalError::Superseded {
            wal: remote.place(""),
            generation: generation.0,
        }),
        Err(failure) => Err(failure.error()),
    }
}

/// Adds the entries of one object, as far as they are in the line.
fn add(mut progress: Progress, range: Range, object: Bytes) -> Result<Progress, Wrong> {
    let kind = Kind::Range(range.position);
    let header = Header::decode(range.generation, kind, &object).map_err(|why| (0, why))?;
    let mut end = range.position;
    walk(&header, &object, |entry, payload| {
        if entry.position >= range.end {
            return Ok(());
        }
        let at = entry.position.0 - range.position.0;
        next(&mut progress, entry, payload, at)?;
        end = progress.maker.end();
        Ok::<_, Wrong>(())
    })?;
    if end != range.end {
        let why = format!(
            "its entries end at position {}, the line goes on from {}",
            end.0, range.end.0
        );
        return Err(Wrong::Object(0, why));
    }
    Ok(progress)
}

fn next(
    progress: &mut Progress,
    entry: &EntryHeader,
    payload: &[u8],
    at: u64,
) -> Result<(), Wrong> {
    let record = payload::decode(entry, payload).map_err(|why| (at, why))?;
    let restored = &mut progress.restored;
    let line = follow(progress.line, entry, &record);
    let Some(line) = line.filter(|_| entry.time_follows(restored.time_us)) else {
        let why = format!("entry {entry:?} does not follow the one before it");
        return Err(Wrong::Object(at, why));
    };
    progress.line = Some(line);
    progress.maker.push(entry, payload).map_err(Wrong::Local)?;
    *restored = Restored {
        first: restored.first,
        end: Position(entry.position.0 + entry.total()),
        epoch: line.epoch,
        lsn: line.lsn,
        time_us: entry.time_us,
        entries: restored.entries + 1,
    };
    Ok(())
}

/// Runs what writes files where it may block.
async fn blocking<T: Send + 'static>(
    config: &BackupConfig,
    work: impl FnOnce() -> Result<T, WalError> + Send + 'static,
) -> Result<T, WalError> {
    match config.runtime.spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(WalError::Io {
            context: "restore a WAL".to_owned(),
            source: io::Error::other(e),
        }),
    }
}
