//! The durable log (WAL) of a branch, which a commit waits for.
//!
//! [`Wal`] is the contract. `local` is the backend on this machine's disk,
//! `object` the one in an object store. `backup` copies a local WAL to an
//! object store. `conformance` is the suite that every backend passes.

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
pub use checked::{CheckedFrame, Damaged, FrameSums, Unreadable};
pub use local::{LocalWal, LocalWalConfig};
pub use memory::Memory;
pub use object::{ObjectWal, ObjectWalConfig};

use std::future::Future;
use std::pin::Pin;
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn};

/// A future that a trait object can return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A place in a WAL, between two entries. Positions are ordered; 0 is before
/// the first entry ever. A position stays valid across restarts until it is
/// trimmed. Its unit is known to the backend alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// How far a WAL is durable. Only a finished fsync or PUT makes this value: the
/// constructor is private to this crate.
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
    /// No steady clock vouches for the time since the entry before: the
    /// server's clock was set, or the WAL was opened again in between.
    pub stepped: bool,
    /// The content.
    pub record: Record,
}

/// The content of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// From here on only `epoch` and later ones may write. The `Begin` that
    /// follows says where the line of LSNs goes on.
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

/// A call that the WAL refused, or a failure of the WAL.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
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
        /// The refused frame.
        seq: FrameSeq,
        /// The LSN of its first byte.
        start: Lsn,
        /// The frame that must come next.
        expected_seq: FrameSeq,
        /// The LSN at which it must start.
        expected_start: Lsn,
    },
    /// The frame is larger than the backend takes.
    #[error("frame {seq} has {bytes} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The refused frame.
        seq: FrameSeq,
        /// Bytes of its payload.
        bytes: u64,
        /// The most a frame may carry.
        limit: u64,
    },
    /// The position was trimmed away, or never was.
    #[error("position {0:?} is not in the WAL")]
    NoSuchPosition(Position),
    /// The WAL cannot go on: a write or fsync failed (the disk may be full).
    /// Acknowledged entries are safe. The WAL accepts nothing more until it is
    /// opened again or, if the disk was full, until there is room.
    #[error("{context}: {source}")]
    Io {
        /// The operation and its file.
        context: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A block in the middle of the WAL failed its checksum.
    #[error("the WAL is corrupt: {0}")]
    Corrupt(String),
    /// Another server has taken the WAL over. Entries that were not reported
    /// durable may be lost, and this server accepts nothing more.
    #[error("WAL {wal}: another server has taken it over and writes generation {generation}")]
    Superseded {
        /// Which WAL.
        wal: String,
        /// The other server's right to write it, as a number.
        generation: u64,
    },
    /// The WAL was closed.
    #[error("the WAL is closed")]
    Closed,
}

impl WalError {
    /// Whether a WAL that failed with this error can be opened again once the
    /// cause that the error names is mended. If not, durable entries are
    /// damaged, or the WAL is another server's.
    pub fn is_mended_by_opening(&self) -> bool {
        matches!(self, WalError::Io { .. } | WalError::Closed)
    }
}

/// The thread that writes what was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The WAL's own writer, which is woken.
    Wake,
    /// The caller, with [`Wal::write_queued`], which it calls next.
    Caller,
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
pub trait Wal: Send + Sync + 'static {
    /// Makes a new epoch, one more than any before. It is durable on return,
    /// and older epochs are refused from here on. The returned `Durable` stands
    /// after everything that older epochs wrote.
    fn seal(&self) -> BoxFuture<'_, Result<Durable, WalError>>;

    /// Begins the sealed `epoch`'s line at `start`. Durable on return. Frames
    /// of `epoch` are refused before.
    fn begin(&self, epoch: Epoch, start: Lsn) -> BoxFuture<'_, Result<Durable, WalError>>;

    /// Queues frames. Returns when all of them are accepted, in order; waits
    /// while the queue is full. [`Wal::durable`] tells when they are durable. A
    /// call that is dropped while it waits may have accepted the first of the
    /// frames.
    fn append_checked(
        &self,
        epoch: Epoch,
        frames: Vec<CheckedFrame>,
        writer: Writer,
    ) -> BoxFuture<'_, Result<(), WalError>>;

    /// Writes what is queued and makes it durable on the calling thread, unless another
    /// thread is at it, or the backend writes elsewhere: then that happens soon.
    /// Blocking.
    fn write_queued(&self) {}

    /// [`Wal::append_checked`] of frames that were made here.
    fn append(&self, epoch: Epoch, frames: Vec<Frame>) -> BoxFuture<'_, Result<(), WalError>> {
        let frames = frames.into_iter().map(CheckedFrame::of).collect();
        self.append_checked(epoch, frames, Writer::Wake)
    }

    /// The last frame accepted in `epoch`, durable or not, and the LSN after
    /// the last accepted redo: where a compute that reconnects resumes.
    fn accepted(&self, epoch: Epoch) -> Result<(FrameSeq, Lsn), WalError>;

    /// Watches how far the WAL is durable. When the WAL has failed or closed,
    /// the sender is dropped. A caller copies the value and lets go of it: the
    /// writer waits while it is borrowed, and with a WAL in an object store a
    /// thread that makes requests.
    fn durable(&self) -> tokio::sync::watch::Receiver<Durable>;

    /// Reads durable entries from `position` on. At the durable end the reader
    /// returns `None`; called again later, it continues. It may give an entry a
    /// moment before [`Wal::durable`] tells of it, never later.
    fn read_from(&self, position: Position) -> Result<Box<dyn WalReader>, WalError>;

    /// Removes entries before `before`, as far as the backend can remove them
    /// in whole segments or objects.
    fn trim(&self, before: Position) -> Result<(), WalError>;

    /// The first position that can still be read.
    fn first(&self) -> Position;

    /// Bytes this WAL takes in its store.
    fn stored_bytes(&self) -> u64;

    /// Why the WAL accepts nothing more until it is opened again; `None` while
    /// it works, or waits for something that passes. [`WalError::Closed`] after
    /// it was closed.
    fn failed(&self) -> Option<WalError>;

    /// Waits until queued entries are durable, then ends. Appends are refused
    /// from here on. On return, even with the error of a WAL that has failed,
    /// the WAL can be opened again in the same place while this value and its
    /// readers are still held; what they report is then out of date.
    fn close(&self) -> BoxFuture<'_, Result<(), WalError>>;
}

/// Reads a WAL's entries in order. Blocking: for a thread of its own.
pub trait WalReader: Send {
    /// The next durable entry, `None` when there is no further one now.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] when a block fails its checksum, [`WalError::Io`].
    fn next(&mut self) -> Result<Option<Entry>, WalError>;

    /// As [`WalReader::next`], but lends the entry to `take`, so that redo is not
    /// copied to be read once. False, without a call, when there is no entry now.
    ///
    /// # Errors
    /// As for [`WalReader::next`]; `take` was not called then.
    fn lend(&mut self, take: &mut dyn FnMut(Lent<'_>)) -> Result<bool, WalError> {
        let Some(entry) = self.next()? else {
            return Ok(false);
        };
        take(Lent::of(&entry));
        Ok(true)
    }
}

/// An [`Entry`] while its reader holds it.
#[derive(Clone, Copy, Debug)]
pub struct Lent<'a> {
    /// As [`Entry::next`].
    pub next: Position,
    /// As [`Entry::time_us`].
    pub time_us: u64,
    /// As [`Entry::stepped`].
    pub stepped: bool,
    /// The content.
    pub record: LentRecord<'a>,
}

/// The content of a [`Lent`] entry.
#[derive(Clone, Copy, Debug)]
pub enum LentRecord<'a> {
    /// Redo.
    Redo {
        /// The LSN of the first byte.
        start: Lsn,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// Anything else.
    Other(&'a Record),
}

impl<'a> Lent<'a> {
    fn of(entry: &'a Entry) -> Lent<'a> {
        let record = match &entry.record {
            Record::Frame(Frame {
                start,
                body: FrameBody::Redo(bytes),
                ..
            }) => LentRecord::Redo {
                start: *start,
                bytes,
            },
            other => LentRecord::Other(other),
        };
        Lent {
            next: entry.next,
            time_us: entry.time_us,
            stepped: entry.stepped,
            record,
        }
    }
}
