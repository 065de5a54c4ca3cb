//! Makes the next segment's file ahead of need, so that the writer finds it
//! with its blocks written: an fdatasync that follows has no blocks to
//! allocate, and the writer has nothing to create.
//!
//! A segment is made only when the one before it holds durable entries, the
//! first one when the first seal is queued. Recovery relies on this.

use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::segments::{Name, NextSegment};
use super::shared::{Closing, Health, Next, Shared};
use crate::disk::{Disk, DiskFile};
use crate::failure::Failure;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Zeros written at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks of zeros between two syncs. An fdatasync of the writer may have to
/// wait for this much.
const CHUNKS_PER_SYNC: u64 = 4;

/// Why a segment was not made.
pub(crate) enum PrepareError {
    /// There is no room, or the like. Another try may succeed, since it begins
    /// afresh.
    Again(Failure),
    /// The directory's state on disk is unknown.
    Fatal(Failure),
    /// The WAL ends.
    Stopped,
}

/// Makes segment `number`, however long it takes, and puts it into
/// `state.next`; ends early when the WAL does.
pub(crate) fn run(shared: &Shared, number: u64, bytes: u64) {
    loop {
        let stop = || {
            let state = shared.state.lock();
            stopped(state.closing, state.next_wanted, &state.health)
        };
        let spare = shared.spares.lock().take(bytes);
        let made = make(&*shared.disk, spare, &shared.stored, number, bytes, &stop);
        let mut state = shared.state.lock();
        match made {
            Ok(segment) => {
                state.next = Next::Ready(segment);
                state.next_failure = None;
                if matches!(state.health, Health::Stalled(_)) {
                    tracing::info!(dir = %shared.disk.path().display(), "the WAL goes on: there is room again");
                    state.health = Health::Running;
                }
                drop(state);
                shared.work.notify_all();
                shared.changed.notify_waiters();
                return;
            }
            Err(PrepareError::Stopped) => {
                state.next = Next::None;
                drop(state);
                shared.work.notify_all();
                return;
            }
            Err(PrepareError::Fatal(failure)) => {
                state.next = Next::None;
                drop(state);
                shared.fail(failure);
                return;
            }
            Err(PrepareError::Again(failure)) => {
                tracing::warn!(
                    dir = %shared.disk.path().display(),
                    error = %failure.source,
                    "the WAL's next segment could not be made, trying again: {}",
                    failure.context
                );
                state.next_failure = Some(failure);
                state.stall();
                shared.work.notify_all();
                shared.changed.notify_waiters();
                if stopped(state.closing, false, &state.health) {
                    state.next = Next::None;
                    return;
                }
                // No backoff: the wait ends early when a trim makes room.
                shared.retry.wait_for(&mut state, shared.config.retry);
            }
        }
    }
}

/// Whether to stop making a segment. A segment that the writer needs to drain
/// the queue is still made.
fn stopped(closing: Closing, wanted: bool, health: &Health) -> bool {
    match closing {
        Closing::No => matches!(health, Health::Failed(_) | Health::Closed),
        Closing::Drain => !wanted,
        Closing::Abandon => true,
    }
}

/// Makes the file of segment `number`, of `bytes` bytes, durable with its name.
/// It reuses `old`, a spare of that size, if there is one.
pub(crate) fn make(
    disk: &dyn Disk,
    old: Option<Name>,
    stored: &AtomicU64,
    number: u64,
    bytes: u64,
    stop: &dyn Fn() -> bool,
) -> Result<NextSegment, PrepareError> {
    let from = old.unwrap_or(Name::Spare(number));
    let describe =
        |what: &str, name: Name| format!("{what} {}", disk.path().join(name.to_string()).display());
    if old.is_none() {
        stored.fetch_add(bytes, Ordering::Relaxed);
    }
    let filled = fill(disk, from, old.is_some(), number, bytes, stop);
    let named = filled.and_then(|made| {
        disk.rename(&from.to_string(), &Name::Segment(number).to_string())?;
        Ok(made)
    });
    let (header, file) = match named {
        Ok(made) => made,
        Err(source) => {
            // This is best effort: a file that stays is reused or removed at
            // the next open.
            if disk.remove(&from.to_string()).is_ok() || old.is_none() {
                stored.fetch_sub(bytes, Ordering::Relaxed);
            }
            if stop() {
                return Err(PrepareError::Stopped);
            }
            return Err(PrepareError::Again(Failure::new(
                describe("prepare", from),
                source,
            )));
        }
    };
    disk.sync_dir().map_err(|source| {
        PrepareError::Fatal(Failure::new(
            describe("sync the directory after making", Name::Segment(number)),
            source,
        ))
    })?;
    Ok(NextSegment { header, file })
}

/// Fills a new file with zeros, and gives either kind its header.
fn fill(
    disk: &dyn Disk,
    name: Name,
    recycled: bool,
    number: u64,
    bytes: u64,
    stop: &dyn Fn() -> bool,
) -> io::Result<(SegmentHeader, Arc<dyn DiskFile>)> {
    let file = if recycled {
        disk.open(&name.to_string())?
    } else {
        disk.create(&name.to_string())?
    };
    if !recycled {
        // Allocation alone leaves the blocks marked as unwritten, and the
        // first write to each would need the journal again: hence zeros.
        file.allocate(bytes)?;
        let zeros = vec![0; CHUNK_BYTES.min(usize::try_from(bytes).unwrap_or(CHUNK_BYTES))];
        let mut offset = 0;
        let mut chunks = 0;
        while offset < bytes {
            let count = (bytes - offset).min(zeros.len() as u64);
            file.write_at(&mut [IoSlice::new(&zeros[..count as usize])], offset)?;
            offset += count;
            chunks += 1;
            if chunks % CHUNKS_PER_SYNC == 0 {
                file.sync()?;
                if stop() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
            }
        }
    }
    let header = SegmentHeader {
        number,
        bytes,
        salt: disk.salt()?,
    };
    let mut page = header.encode().to_vec();
    page.resize(SEGMENT_HEADER_BYTES as usize, 0);
    file.write_at(&mut [IoSlice::new(&page)], 0)?;
    file.sync()?;
    Ok((header, file))
}
