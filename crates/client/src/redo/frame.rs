//! Frames: redo, which is collected until it is sent, and side-file operations. Their
//! payloads are those of WAL entries (`docs/formats/wal.md`). The checksums are computed
//! when the library takes the bytes over.

use std::sync::Arc;
use xylem_wire::{FRAME_HEAD_BYTES, FrameHead, frame_head};

/// An operation on a side file, like `xylem_types::FileOp`. Paths are relative to
/// the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // described in docs/formats/wal.md
pub enum FileOp {
    Create {
        path: String,
        mode: u32,
    },
    Write {
        path: String,
        offset: u64,
        data: Vec<u8>,
    },
    Truncate {
        path: String,
        size: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    Mkdir {
        path: String,
        mode: u32,
    },
    Rmdir {
        path: String,
    },
}

impl FileOp {
    /// The approximate size in memory and on the connection, in bytes.
    pub fn cost(&self) -> usize {
        64 + match self {
            FileOp::Write { path, data, .. } => path.len() + data.len(),
            FileOp::Rename { from, to } => from.len() + to.len(),
            FileOp::Create { path, .. }
            | FileOp::Truncate { path, .. }
            | FileOp::Unlink { path }
            | FileOp::Mkdir { path, .. }
            | FileOp::Rmdir { path } => path.len(),
        }
    }

    /// Whether every path is at most `PATH_MAX` bytes long. The server refuses
    /// longer ones.
    pub fn has_short_paths(&self) -> bool {
        let longest = match self {
            FileOp::Rename { from, to } => from.len().max(to.len()),
            FileOp::Write { path, .. }
            | FileOp::Create { path, .. }
            | FileOp::Truncate { path, .. }
            | FileOp::Unlink { path }
            | FileOp::Mkdir { path, .. }
            | FileOp::Rmdir { path } => path.len(),
        };
        longest <= libc::PATH_MAX as usize
    }

    /// The kind and the payload of the operation's WAL entry.
    fn in_wal(&self) -> (u8, Vec<u8>) {
        let long = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
        match self {
            FileOp::Create { path, mode } => (16, [&mode.to_le_bytes(), path.as_bytes()].concat()),
            FileOp::Write { path, offset, data } => {
                let parts: [&[u8]; 4] = [&offset.to_le_bytes(), &long(path), path.as_bytes(), data];
                (17, parts.concat())
            }
            FileOp::Truncate { path, size } => {
                (18, [&size.to_le_bytes()[..], path.as_bytes()].concat())
            }
            FileOp::Rename { from, to } => {
                let parts: [&[u8]; 3] = [&long(from), from.as_bytes(), to.as_bytes()];
                (19, parts.concat())
            }
            FileOp::Unlink { path } => (20, path.as_bytes().to_vec()),
            FileOp::Mkdir { path, mode } => (21, [&mode.to_le_bytes(), path.as_bytes()].concat()),
            FileOp::Rmdir { path } => (22, path.as_bytes().to_vec()),
        }
    }
}

/// The message of frame `seq`, which carries the operation `op` at `lsn`.
pub fn file_frame(seq: u64, lsn: u64, op: &FileOp) -> Arc<Vec<u8>> {
    let (kind, payload) = op.in_wal();
    let head = head(seq, lsn, kind, crc32c::crc32c(&payload));
    Arc::new([&frame_head(seq, &head, payload.len())[..], &payload].concat())
}

/// The kind of a WAL entry that holds redo.
const REDO: u8 = 3;

fn head(seq: u64, lsn: u64, kind: u8, payload_crc: u32) -> FrameHead {
    let mut crc = crc32c::crc32c(&seq.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &lsn.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &[kind]);
    crc = crc32c::crc32c_append(crc, &payload_crc.to_le_bytes());
    FrameHead {
        start_lsn: lsn,
        payload_crc,
        header_crc: crc,
        kind,
    }
}

/// Collects redo bytes after a gap for their head, so that they are copied only
/// once, from InnoDB's buffer into the message.
#[derive(Debug)]
pub struct RedoBuilder {
    bytes: Vec<u8>,
    start_lsn: u64,
    /// CRC-32C of the redo so far, as read from InnoDB's buffer.
    crc: u32,
}

impl RedoBuilder {
    /// A frame whose first byte will have LSN `start_lsn`, with room for
    /// `capacity` bytes.
    pub fn new(start_lsn: u64, capacity: usize) -> RedoBuilder {
        let mut bytes = Vec::with_capacity(FRAME_HEAD_BYTES + capacity);
        bytes.resize(FRAME_HEAD_BYTES, 0);
        RedoBuilder {
            bytes,
            start_lsn,
            crc: 0,
        }
    }

    /// The number of redo bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() - FRAME_HEAD_BYTES
    }

    /// Whether there is no redo yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The LSN after the last byte.
    pub fn end_lsn(&self) -> u64 {
        self.start_lsn + self.len() as u64
    }

    /// Appends redo. The checksum covers `redo` and not the copy, so that it also
    /// detects errors of the copying.
    pub fn push(&mut self, redo: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, redo);
        self.bytes.extend_from_slice(redo);
    }

    /// The message of frame `seq`. A sealed frame never changes, because it must be the
    /// same whenever it is sent again.
    pub fn seal(mut self, seq: u64) -> Arc<Vec<u8>> {
        let head = head(seq, self.start_lsn, REDO, self.crc);
        let head = frame_head(seq, &head, self.len());
        self.bytes[..FRAME_HEAD_BYTES].copy_from_slice(&head);
        Arc::new(self.bytes)
    }
}
