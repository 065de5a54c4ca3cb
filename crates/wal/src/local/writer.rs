//! The writer: it takes all queued entries, writes them with one call, syncs once,
//! and publishes how far the WAL is durable. No other code makes entries durable.
//!
//! Whoever holds the pen ([`Shared::pen`]) writes: the WAL's own thread, or a caller of
//! [`write_queued`], which saves two switches of threads for each commit. Only the
//! WAL's thread waits: for the next segment, or for room on a full disk. No entry stays
//! behind: each holder looks at the queue again after it has put the pen down.

use super::format::SEGMENT_HEADER_BYTES;
use super::prepare;
use super::segments::{Active, Name, NextSegment, Segment};
use super::shared::{Closing, Health, Next, Shared};
use crate::entry::{ENTRY_HEADER_BYTES, EntryHeader};
use crate::failure::Failure;
use crate::queue::Queued;
use crate::stamp::Stamps;
use crate::{Durable, Position};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use tokio::sync::watch;

/// Payloads up to this size are copied next to their headers: a copy is
/// cheaper than one more slice for the system to walk.
const COPY_BYTES_MAX: usize = 4096;

/// The most memory that the arena keeps between two batches.
const ARENA_KEPT: usize = 64 << 10;

/// The writer's next step.
enum Work {
    Write(Vec<Queued>),
    /// The next entry takes this many bytes, more than the segment has left, or
    /// there is none yet.
    NextSegment(u64),
    /// Nothing is queued.
    Nothing,
    End,
}

/// The outcome of writing a batch.
enum Written {
    Durable,
    /// The disk is full. The batch is kept for the next attempt.
    Full(Failure),
}

/// The state of writing.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    sender: watch::Sender<Durable>,
    /// None before the first entry.
    active: Option<Active>,
    /// The place after the last entry written.
    end: Position,
    /// The last entry's time.
    time_us: u64,
    stamps: Stamps,
    preparer: Option<JoinHandle<()>>,
    /// Headers and small payloads of a batch; kept for its memory.
    arena: Vec<u8>,
    /// A batch for which the disk had no room, laid out.
    kept: Option<Batch>,
}

/// Entries on their way to the disk.
struct Batch {
    entries: Vec<Queued>,
    pieces: Vec<Piece>,
    end: Position,
}

impl Writer {
    /// A writer behind what was recovered.
    pub fn new(
        shared: &Arc<Shared>,
        sender: watch::Sender<Durable>,
        active: Option<Active>,
        time_us: u64,
    ) -> Writer {
        let end = sender.borrow().position;
        Writer {
            shared: Arc::clone(shared),
            sender,
            active,
            end,
            time_us,
            stamps: Stamps::new(shared.config.clock.clone()),
            preparer: None,
            arena: Vec::new(),
            kept: None,
        }
    }
}

/// The WAL's thread: writes until the WAL ends or fails. Drops `lock` last: from then
/// on another owner may take the directory.
pub(crate) fn run(shared: &Arc<Shared>, lock: Box<dyn Send>) {
    if let Err(failure) = work(shared) {
        shared.fail(failure);
    }
    shared.stop(Closing::Abandon);
    // Waits for a write under way.
    let mut writer = shared.pen.lock().take();
    let preparer = writer.as_mut().and_then(|writer| writer.preparer.take());
    if let Some(preparer) = preparer
        && preparer.join().is_err()
    {
        tracing::error!(dir = %shared.disk.path().display(), "the WAL's preparer panicked");
    }
    // No trim is under way while this is held, and none begins after.
    let files = shared.spares.lock();
    {
        let mut state = shared.state.lock();
        if !matches!(state.health, Health::Failed(_)) {
            state.health = Health::Closed;
        }
        state.queue.clear();
        state.next = Next::None;
    }
    drop(files);
    drop(lock);
    // Dropping the sender tells the receivers of `durable`.
    drop(writer);
    shared.state.lock().ended = true;
    shared.changed.notify_waiters();
}

fn work(shared: &Arc<Shared>) -> Result<(), Failure> {
    loop {
        if !wait_for_work(shared)? {
            return Ok(());
        }
        let mut pen = shared.pen.lock();
        let Some(writer) = pen.as_mut() else {
            return Ok(());
        };
        match writer.step() {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(failure) => {
                // While this thread holds the pen: the next holder would write over the
                // entries that are lost, and leave a gap.
                shared.fail(failure.clone());
                return Err(failure);
            }
        }
    }
}

/// Waits until something is queued. False when the WAL is to end.
fn wait_for_work(shared: &Shared) -> Result<bool, Failure> {
    let mut state = shared.state.lock();
    loop {
        if let Health::Failed(failure) = &state.health {
            return Err(failure.clone());
        }
        if state.closing == Closing::Abandon {
            return Ok(false);
        }
        if !state.queue.entries.is_empty() || state.room_wanted {
            return Ok(true);
        }
        if state.closing == Closing::Drain {
            // What is not durable and not queued is a caller's: it may find the disk
            // full, and leave its batch to this thread. The pen is free when it is done.
            return Ok(state.queue.bytes > 0);
        }
        shared.work.wait(&mut state);
    }
}

/// Writes what is queued, unless another thread does, or the WAL's own thread must.
pub(crate) fn write_queued(shared: &Arc<Shared>) {
    loop {
        let Some(mut pen) = shared.pen.try_lock() else {
            // Its holder looks at the queue again.
            return;
        };
        let Some(writer) = pen.as_mut() else {
            return;
        };
        match writer.write_now() {
            Ok(true) => {}
            // The WAL's thread goes on.
            Ok(false) => {
                drop(pen);
                shared.work.notify_all();
                return;
            }
            // As in `work`, before the pen is put down.
            Err(failure) => return shared.fail(failure),
        }
        drop(pen);
        if shared.state.lock().queue.entries.is_empty() {
            return;
        }
    }
}

impl Writer {
    /// Does the next step of the WAL's own thread, and waits where it must. False when
    /// the WAL is to end.
    fn step(&mut self) -> Result<bool, Failure> {
        match self.take()? {
            Work::Write(entries) => {
                let batch = self.lay_out(entries)?;
                self.write_at_last(batch)
            }
            Work::NextSegment(bytes) => self.switch(bytes),
            Work::Nothing => Ok(true),
            Work::End => Ok(false),
        }
    }

    /// Writes what is queued. False when the WAL's own thread must go on.
    fn write_now(&mut self) -> Result<bool, Failure> {
        if self.kept.is_some() {
            return Ok(false);
        }
        match self.take()? {
            Work::Write(entries) => {
                let batch = self.lay_out(entries)?;
                match self.write(&batch)? {
                    Written::Durable => self.publish(&batch.entries),
                    Written::Full(_) => {
                        self.kept = Some(batch);
                        self.shared.state.lock().room_wanted = true;
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Work::Nothing | Work::End => Ok(true),
            Work::NextSegment(_) => Ok(false),
        }
    }

    /// The next step. Does not wait.
    fn take(&mut self) -> Result<Work, Failure> {
        let limit = self.shared.config.batch_bytes;
        let left = self.active.as_ref().map_or(0, |active| {
            active.segment.bytes - active.segment.offset(self.end)
        });
        let mut state = self.shared.state.lock();
        if let Health::Failed(failure) = &state.health {
            return Err(failure.clone());
        }
        if state.closing == Closing::Abandon {
            return Ok(Work::End);
        }
        if self.kept.is_some() {
            return Ok(Work::Write(Vec::new()));
        }
        let Some(first) = state.queue.entries.front() else {
            return Ok(Work::Nothing);
        };
        if first.bytes() > left {
            return Ok(Work::NextSegment(first.bytes()));
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = state.queue.entries.front() {
            bytes += next.bytes();
            if bytes > left || (bytes > limit && !batch.is_empty()) {
                break;
            }
            batch.extend(state.queue.entries.pop_front());
        }
        Ok(Work::Write(batch))
    }

    /// Writes a batch, and waits for room while the disk is full. False when the WAL is
    /// to end first.
    fn write_at_last(&mut self, batch: Batch) -> Result<bool, Failure> {
        loop {
            match self.write(&batch)? {
                Written::Durable => {
                    self.shared.state.lock().room_wanted = false;
                    self.publish(&batch.entries);
                    return Ok(true);
                }
                Written::Full(failure) => {
                    if !self.wait_for_room(failure) {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Makes a batch durable.
    fn write(&mut self, batch: &Batch) -> Result<Written, Failure> {
        let Some(Active { segment, file }) = self.active.clone() else {
            let bug = io::Error::other("there is no segment to write to");
            return Err(self.failure("write to", bug));
        };
        let offset = segment.offset(self.end);
        let mut slices: Vec<IoSlice<'_>> = batch
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Arena(range) => IoSlice::new(&self.arena[range.clone()]),
                Piece::Shared(bytes) => IoSlice::new(bytes),
            })
            .collect();
        match file.write_at(&mut slices, offset) {
            Ok(()) => {}
            // The file has its blocks, but a file system that copies on write needs
            // new ones. The same bytes are written again, so no entry passes for
            // durable too early.
            Err(e) if is_full(&e) => return Ok(Written::Full(self.failure("write to", e))),
            Err(e) => return Err(self.failure("write to", e)),
        }
        // A failed sync is never tried again: the system may have dropped bytes
        // that it could not write, and would report success.
        file.sync().map_err(|e| self.failure("sync", e))?;
        self.end = batch.end;
        self.arena.clear();
        self.arena.shrink_to(ARENA_KEPT);
        Ok(Written::Durable)
    }

    /// Encodes entries, or takes the batch that is encoded already.
    fn lay_out(&mut self, entries: Vec<Queued>) -> Result<Batch, Failure> {
        if let Some(kept) = self.kept.take() {
            return Ok(kept);
        }
        let Some(salt) = self.active.as_ref().map(|active| active.segment.salt) else {
            let bug = io::Error::other("there is no segment to write to");
            return Err(self.failure("write to", bug));
        };
        self.arena.clear();
        let stamp = self.stamps.next(&mut self.time_us);
        let mut pieces = Vec::new();
        let mut from = 0;
        let mut position = self.end;
        for entry in &entries {
            let header = EntryHeader {
                payload_crc: entry.payload_crc,
                // Both are bounded by the configuration's check.
                length: u32::try_from(entry.payload.length()).unwrap_or(u32::MAX),
                behind: u32::try_from(position.0 - self.end.0).unwrap_or(u32::MAX),
                position,
                epoch: entry.epoch,
                seq: entry.seq,
                lsn: entry.lsn,
                time_us: stamp.time_us,
                kind: entry.kind,
                stepped: stamp.stepped && position == self.end,
            };
            self.arena.extend(header.encode(salt));
            self.arena.extend(&entry.payload.head);
            match &entry.payload.body {
                Some(body) if body.len() > COPY_BYTES_MAX => {
                    pieces.push(Piece::Arena(from..self.arena.len()));
                    pieces.push(Piece::Shared(Arc::clone(body)));
                    from = self.arena.len();
                }
                Some(body) => self.arena.extend(body.iter()),
                None => {}
            }
            position.0 += entry.bytes();
        }
        pieces.push(Piece::Arena(from..self.arena.len()));
        Ok(Batch {
            entries,
            pieces,
            end: position,
        })
    }

    /// Publishes that `batch` is durable, and has the next segment made in time.
    fn publish(&mut self, batch: &[Queued]) {
        let Some(last) = batch.last() else { return };
        let durable = Durable {
            epoch: last.epoch,
            seq: last.seq,
            lsn: last.lsn_after,
            position: self.end,
        };
        {
            // Room is made before the news goes out, because a caller that
            // hears it may append at once.
            let mut state = self.shared.state.lock();
            state.queue.written(batch.iter().map(Queued::bytes).sum());
            if matches!(state.health, Health::Stalled(_)) {
                state.health = Health::Running;
            }
        }
        self.shared.tell(&self.sender, durable);
        // This comes after the news: a caller that waits for it may look at the
        // watch.
        self.shared.state.lock().durable = durable;
        self.shared.changed.notify_waiters();
        self.prepare_ahead();
    }

    /// Has the next segment made when this one is half full.
    fn prepare_ahead(&mut self) {
        let Some(Active { segment, .. }) = &self.active else {
            return;
        };
        let used = self.end.0 - segment.first.0;
        if used < (segment.bytes - SEGMENT_HEADER_BYTES) / 2 {
            return;
        }
        let number = segment.number + 1;
        {
            let mut state = self.shared.state.lock();
            if !matches!(state.next, Next::None) || state.closing != Closing::No {
                return;
            }
            state.next = Next::Coming;
        }
        let bytes = self.shared.config.segment_bytes_of(number);
        let shared = Arc::clone(&self.shared);
        let spawned = std::thread::Builder::new()
            .name("xylem-wal-next".to_owned())
            .stack_size(256 << 10)
            .spawn(move || prepare::run(&shared, number, bytes));
        match spawned {
            // The preparer before has long ended: only one runs at a time.
            Ok(handle) => self.preparer = Some(handle),
            Err(e) => {
                // Then the writer makes it when it needs it.
                tracing::warn!(error = %e, "the WAL's preparer could not be started");
                self.shared.state.lock().next = Next::None;
            }
        }
    }

    /// Goes on in the next segment, which must take an entry of `entry_bytes`.
    /// False when the WAL is to end first.
    fn switch(&mut self, entry_bytes: u64) -> Result<bool, Failure> {
        let next = match self.next_segment(entry_bytes) {
            Ok(Some(next)) => next,
            Ok(None) => return Ok(false),
            Err(failure) => return Err(failure),
        };
        let segment = Segment::begin(next.header, self.end);
        self.shared.segments.write().rows.push(segment);
        self.active = Some(Active {
            segment,
            file: next.file,
        });
        Ok(true)
    }

    fn next_segment(&mut self, entry_bytes: u64) -> Result<Option<NextSegment>, Failure> {
        let number = self.active.as_ref().map_or(0, |a| a.segment.number) + 1;
        let bytes_min = SEGMENT_HEADER_BYTES + entry_bytes;
        let mut state = self.shared.state.lock();
        state.next_wanted = true;
        loop {
            if let Health::Failed(failure) = &state.health {
                return Err(failure.clone());
            }
            if state.closing == Closing::Abandon {
                return Ok(None);
            }
            match std::mem::replace(&mut state.next, Next::None) {
                Next::Ready(next) if next.header.bytes >= bytes_min => {
                    state.next_wanted = false;
                    return Ok(Some(next));
                }
                Next::Coming => {
                    state.next = Next::Coming;
                    state.stall();
                    if state.closing == Closing::Drain
                        && let Some(failure) = &state.next_failure
                    {
                        return Err(failure.clone());
                    }
                    self.shared.changed.notify_waiters();
                    self.shared.work.wait(&mut state);
                }
                // There is no segment, or one that is too short for the entry:
                // make one here.
                unfit @ (Next::Ready(_) | Next::None) => {
                    if let Next::Ready(small) = unfit {
                        self.shared
                            .stored
                            .fetch_sub(small.header.bytes, Ordering::Relaxed);
                    }
                    if state.closing == Closing::Drain
                        && let Some(failure) = &state.next_failure
                    {
                        return Err(failure.clone());
                    }
                    state.next = Next::Coming;
                    drop(state);
                    let bytes = self.shared.config.segment_bytes_of(number).max(bytes_min);
                    prepare::run(&self.shared, number, bytes);
                    state = self.shared.state.lock();
                }
            }
        }
    }

    /// Stalls for a while, or until something is trimmed. False when the WAL
    /// is to end.
    fn wait_for_room(&self, failure: Failure) -> bool {
        let mut state = self.shared.state.lock();
        state.health = Health::Stalled(failure.clone());
        self.shared.changed.notify_waiters();
        if state.closing == Closing::No {
            self.shared
                .retry
                .wait_for(&mut state, self.shared.config.retry);
        }
        if state.closing == Closing::Drain {
            state.health = Health::Failed(failure);
        }
        state.closing == Closing::No
    }

    fn failure(&self, what: &str, source: io::Error) -> Failure {
        let place = match &self.active {
            Some(Active { segment, .. }) => {
                let path = self.shared.path(Name::Segment(segment.number));
                format!("{path} at byte {}", segment.offset(self.end))
            }
            None => self.shared.disk.path().display().to_string(),
        };
        Failure::new(format!("{what} {place}"), source)
    }
}

/// A part of a batch.
enum Piece {
    Arena(Range<usize>),
    Shared(Arc<[u8]>),
}

fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

const _: () = assert!(ENTRY_HEADER_BYTES as u64 <= SEGMENT_HEADER_BYTES);
