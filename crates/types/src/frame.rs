//! What a compute sends: redo bytes and side-file operations, in one order.

use crate::{FrameSeq, Lsn};
use std::sync::Arc;

/// One unit of a branch's log, as its compute numbered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its place in the order of its epoch.
    pub seq: FrameSeq,
    /// For redo: the LSN of its first byte. For a side-file operation: the LSN
    /// at which it stands, which is the end of the last redo frame before it.
    pub start: Lsn,
    /// What it carries.
    pub body: FrameBody,
}

/// A frame's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameBody {
    /// Redo bytes, exactly as InnoDB wrote them; `start` + length is the LSN
    /// after them. A frame need not end where an mtr ends.
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

/// An operation on one of the files that MariaDB keeps beside InnoDB. Paths
/// are relative to the data directory, without a leading `./`, `/` separated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// The file exists and is empty afterwards (`open` with `O_CREAT`, and
    /// `O_TRUNC` or not there before).
    Create {
        /// Which file.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// The file has `data` at `offset` afterwards; a gap before it is zeros.
    Write {
        /// Which file.
        path: String,
        /// In bytes from the file's start.
        offset: u64,
        /// What stands there.
        data: Arc<[u8]>,
    },
    /// The file is `size` bytes long afterwards.
    Truncate {
        /// Which file.
        path: String,
        /// In bytes.
        size: u64,
    },
    /// What was called `from` is called `to`, replacing what was called so.
    Rename {
        /// The old name.
        from: String,
        /// The new name.
        to: String,
    },
    /// The file is gone.
    Unlink {
        /// Which file.
        path: String,
    },
    /// The directory exists.
    Mkdir {
        /// Which directory.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// The directory is gone.
    Rmdir {
        /// Which directory.
        path: String,
    },
}

impl FileOp {
    /// No path is longer, in bytes: what Linux takes (`PATH_MAX`).
    pub const PATH_MAX: usize = 4096;
}
