//! Frames: the redo and side-file operations that a compute sends, in one order.

use crate::{FrameSeq, Lsn};
use std::sync::Arc;

/// One numbered unit of a branch's WAL, as its compute sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The number of the frame within its epoch.
    pub seq: FrameSeq,
    /// For redo, the LSN of the first byte. For a side-file operation, the end
    /// of the last redo frame before it.
    pub start: Lsn,
    /// Redo or a side-file operation.
    pub body: FrameBody,
}

/// A frame's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameBody {
    /// Redo bytes, exactly as InnoDB wrote them. The LSN after them is `start`
    /// plus their length. A frame need not end where an mtr ends.
    Redo(Arc<[u8]>),
    /// An operation on a side file.
    File(FileOp),
}

impl Frame {
    /// The LSN after this frame: `start` plus the redo bytes it carries.
    /// Saturates at [`Lsn::MAX`].
    pub fn end(&self) -> Lsn {
        match &self.body {
            FrameBody::Redo(bytes) => Lsn(self.start.0.saturating_add(bytes.len() as u64)),
            FrameBody::File(_) => self.start,
        }
    }
}

/// An operation on one of the files that MariaDB keeps beside InnoDB. Paths are
/// relative to the data directory, separated by `/`, without a leading `./`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// Creates an empty file, or empties an existing one (`open` with `O_CREAT`
    /// of a new file, or with `O_TRUNC`).
    Create {
        /// The file.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Writes `data` at `offset`. A gap before it is filled with zeros.
    Write {
        /// The file.
        path: String,
        /// In bytes from the file's start.
        offset: u64,
        /// The bytes at `offset` afterwards.
        data: Arc<[u8]>,
    },
    /// Shortens or extends the file to `size` bytes.
    Truncate {
        /// The file.
        path: String,
        /// In bytes.
        size: u64,
    },
    /// Renames the file or directory `from`. It replaces a file called `to`.
    Rename {
        /// The old path.
        from: String,
        /// The new path.
        to: String,
    },
    /// Deletes the file.
    Unlink {
        /// The file.
        path: String,
    },
    /// Creates the directory.
    Mkdir {
        /// The directory.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Deletes the directory.
    Rmdir {
        /// The directory.
        path: String,
    },
}

impl FileOp {
    /// The longest path, in bytes: Linux's `PATH_MAX`.
    pub const PATH_MAX: usize = 4096;
}
