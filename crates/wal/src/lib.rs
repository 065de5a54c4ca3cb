//! The durable WAL of a branch: what a commit waits for.
//!
//! [`Log`] is the contract; `local` is the backend on this machine's disk,
//! `object` the one in an object store; `backup` copies the one to the other
//! place; `conformance` is the suite that every backend passes.

pub mod backup;
mod checked;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod disk;
mod entry;
mod failure;
mod line;
pub mod local;
mod memory;
pub mod object;
mod queue;
mod remote;
mod stamp;

pub use backup::{Backup, BackupConfig, BackupStatus};
pub use checked::{CheckedFrame, Damaged, FrameSums};
pub use local::{LocalLog, LocalLogConfig};
pub use memory::Memory;
pub use object::{ObjectLog, ObjectLogConfig};

use std::future::Future;
use std::pin::Pin;
use xylem_types::{Epoch, Frame, FrameSeq, Lsn};

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A place in a WAL: between two entries. Ordered; 0 is before the first
/// entry ever. Stays valid across restarts until trimmed. Opaque: the backend
/// alone knows what it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// How far a WAL is durable. Only a finished fsync or PUT makes one
/// (the constructor is private to this crate).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    epoch: Epoch,
    seq: FrameSeq,
    lsn: Lsn,
    position: Position,
}

impl Durable {
    /// The newest epoch that was sealed or begun.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
    /// The last durable frame of that epoch; 0 when it has none.
    pub fn seq(&self) -> FrameSeq {
        self.seq
    }
    /// The end of the last durable redo.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }
    /// The place after the last durable entry.
    pub fn position(&self) -> Position {
        self.position
    }
}

/// One entry of a WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The place after it.
    pub next: Position,
    /// The epoch under which it was written.
    pub epoch: Epoch,
    /// When the WAL wrote it, by the server's clock: microseconds since 1970.
    /// Never less than that of the entry before it, unless it is `stepped`.
    /// 0: not known.
    pub time_us: u64,
    /// No steady clock vouches for the time between the entry before and this
    /// one: the server's clock was set, back or forth, or the WAL was opened
    /// again in between.
    pub stepped: bool,
    /// What it is.
    pub record: Record,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// From here on only `epoch` (and later) may write. What the line is from
    /// here on is said by the `Begin` that follows.
    Seal,
    /// The entry's epoch begins at `start`: redo bytes at or after it that
    /// stand earlier in the WAL are void.
    Begin {
        /// The LSN of the epoch's first byte.
        start: Lsn,
    },
    /// Redo or a side-file operation.
    Frame(Frame),
}

/// A WAL refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A newer epoch owns the branch.
    #[error("epoch {given} is refused: epoch {current} owns the branch")]
    Fenced {
        /// The epoch of the refused call.
        given: Epoch,
        /// The newest epoch.
        current: Epoch,
    },
    /// The epoch has not begun.
    #[error("epoch {epoch} has not begun")]
    NotBegun {
        /// The epoch of the refused call.
        epoch: Epoch,
    },
    /// A frame does not follow the one before it.
    #[error(
        "frame {seq} at LSN {start} does not follow: frame {expected_seq} at LSN {expected_start} is next"
    )]
    OutOfOrder {
        /// What came.
        seq: FrameSeq,
        /// What came.
        start: Lsn,
        /// What must come.
        expected_seq: FrameSeq,
        /// What must come.
        expected_start: Lsn,
    },
    /// The frame is larger than the backend takes.
    #[error("frame {seq} has {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// What came.
        seq: FrameSeq,
        /// Its payload.
        bytes: u64,
        /// The most a frame may carry.
        limit: u64,
    },
    /// The position was trimmed away, or never was.
    #[error("position {0:?} is not in the WAL")]
    NoSuchPosition(Position),
    /// The WAL cannot go on: a write or fsync failed (the disk may be full).
    /// What was acknowledged is safe; nothing more is taken until the WAL is
    /// opened again, or, for a full disk, until room is there.
    #[error("{context}: {source}")]
    Io {
        /// What was tried, and on which file.
        context: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A block in the middle of the WAL failed its checksum.
    #[error("WAL is corrupt: {0}")]
    Corrupt(String),
    /// Another server has taken the WAL over: what this one has not been told
    /// is durable may be lost, and nothing more is taken here.
    #[error("another server has taken WAL {wal} over: it writes generation {generation}")]
    Superseded {
        /// Which WAL.
        wal: String,
        /// The other server's right to write it, as a number.
        generation: u64,
    },
    /// The WAL was closed.
    #[error("WAL is closed")]
    Closed,
}

impl LogError {
    /// Of a WAL that has failed: whether opening it anew may mend it, once what
    /// the error names was seen to. Otherwise what is durable is damaged, or it
    /// is another server's.
    pub fn is_mended_by_opening(&self) -> bool {
        matches!(self, LogError::Io { .. } | LogError::Closed)
    }
}

/// A branch's WAL.
///
/// Guarantees, which `conformance` tests:
///
/// 1. Entries are read back in the order in which they were appended, each
///    exactly once, byte for byte.
/// 2. What `durable` has said survives any crash. What it has not said may
///    survive, as a prefix of what was appended.
/// 3. After `seal` has returned `epoch`, no frame of an older epoch enters the
///    WAL, whenever it was sent; a frame accepted before but not durable may
///    still become durable before the seal's own entry, never after it.
/// 4. Within an epoch, frames are numbered 1, 2, 3, … and each redo frame
///    starts where the one before ended; anything else is refused and changes
///    nothing. A frame with a number at or below the last accepted one is a
///    resend: it is accepted and ignored.
/// 5. Readers see only durable entries.
/// 6. An entry's time is what the clock said when the entry was written, or
///    that of the entry before it where the clock has gone back a little. Where
///    the clock has gone 10 s further than a steady clock, or back, the entry
///    is `stepped`; so is the first after the WAL was opened, unless its time
///    is that of the entry before it to 10 s.
pub trait Log: Send + Sync + 'static {
    /// Makes a new epoch: one more than any before. Durable on return; older
    /// epochs are refused from here on. The `Durable` returned stands after
    /// everything that older epochs wrote.
    fn seal(&self) -> BoxFuture<'_, Result<Durable, LogError>>;

    /// Begins the sealed `epoch`'s line at `start`. Durable on return. Frames
    /// of `epoch` are refused before.
    fn begin(&self, epoch: Epoch, start: Lsn) -> BoxFuture<'_, Result<Durable, LogError>>;

    /// Queues frames. Returns when they are accepted, in order; waits while
    /// the queue is full. Their durability is told by `durable`. Dropped while
    /// it waits, it may have accepted the first of them.
    fn append_checked(
        &self,
        epoch: Epoch,
        frames: Vec<CheckedFrame>,
    ) -> BoxFuture<'_, Result<(), LogError>>;

    /// [`Log::append_checked`] of frames that were made here.
    fn append(&self, epoch: Epoch, frames: Vec<Frame>) -> BoxFuture<'_, Result<(), LogError>> {
        self.append_checked(epoch, frames.into_iter().map(CheckedFrame::of).collect())
    }

    /// The last frame accepted in `epoch`, durable or not, and the LSN after
    /// the last accepted redo: where a compute that reconnects resumes.
    fn accepted(&self, epoch: Epoch) -> Result<(FrameSeq, Lsn), LogError>;

    /// Watches how far the WAL is durable. When the WAL has failed or closed,
    /// the sender is dropped.
    fn durable(&self) -> tokio::sync::watch::Receiver<Durable>;

    /// Reads durable entries from `position` on. The reader ends where the WAL
    /// is durable now; called again later it goes on.
    fn read_from(&self, position: Position) -> Result<Box<dyn LogReader>, LogError>;

    /// Lets go of everything before `position` that the backend can let go of
    /// in whole pieces.
    fn trim(&self, before: Position) -> Result<(), LogError>;

    /// The first position that can still be read.
    fn first(&self) -> Position;

    /// Bytes this WAL takes in its store.
    fn stored_bytes(&self) -> u64;

    /// Why the WAL takes nothing more until it is opened anew; `None` while it
    /// works, or waits for something that passes. Says [`LogError::Closed`] of
    /// one that was closed.
    fn failed(&self) -> Option<LogError>;

    /// Waits for what is queued, then ends. Appends are refused from here on.
    /// On return, be it with the error of a WAL that has failed, the WAL can be
    /// opened anew in the same place, also while this value and its readers are
    /// still held; what they say is then out of date.
    fn close(&self) -> BoxFuture<'_, Result<(), LogError>>;
}

/// Reads a WAL's entries in order. Blocking: for a thread of its own.
pub trait LogReader: Send {
    /// The next durable entry, `None` when there is no further one now.
    ///
    /// # Errors
    /// [`LogError::Corrupt`] when a block fails its checksum, [`LogError::Io`].
    fn next(&mut self) -> Result<Option<Entry>, LogError>;
}
