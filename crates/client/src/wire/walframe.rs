//! `WalFrame`: redo, which is collected until it is sent, and side-file
//! operations. The checksums are computed when the library takes the bytes over.

use super::Writer;
use bytes::Bytes;

/// An operation on a side file, like `xylem_types::FileOp`. Paths are relative to
/// the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // described in pageserver.proto
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
    /// The approximate size in memory and on the wire, in bytes.
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

    /// The kind of the operation's WAL entry, and the CRC-32C of the entry's
    /// payload (`docs/formats/wal.md`).
    fn in_wal(&self) -> (u8, u32) {
        let crc = |parts: &[&[u8]]| {
            let add = |crc, part: &&[u8]| crc32c::crc32c_append(crc, part);
            parts.iter().fold(0, add)
        };
        let long = |text: &str| u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
        match self {
            FileOp::Create { path, mode } => (16, crc(&[&mode.to_le_bytes(), path.as_bytes()])),
            FileOp::Write { path, offset, data } => {
                let parts: [&[u8]; 4] = [&offset.to_le_bytes(), &long(path), path.as_bytes(), data];
                (17, crc(&parts))
            }
            FileOp::Truncate { path, size } => (18, crc(&[&size.to_le_bytes(), path.as_bytes()])),
            FileOp::Rename { from, to } => {
                (19, crc(&[&long(from), from.as_bytes(), to.as_bytes()]))
            }
            FileOp::Unlink { path } => (20, crc(&[path.as_bytes()])),
            FileOp::Mkdir { path, mode } => (21, crc(&[&mode.to_le_bytes(), path.as_bytes()])),
            FileOp::Rmdir { path } => (22, crc(&[path.as_bytes()])),
        }
    }

    fn fields(&self) -> Writer {
        let mut out = Writer::inner();
        let kind = match self {
            FileOp::Create { .. } => 0,
            FileOp::Write { .. } => 1,
            FileOp::Truncate { .. } => 2,
            FileOp::Rename { .. } => 3,
            FileOp::Unlink { .. } => 4,
            FileOp::Mkdir { .. } => 5,
            FileOp::Rmdir { .. } => 6,
        };
        out.uint(1, kind);
        match self {
            FileOp::Create { path, mode } | FileOp::Mkdir { path, mode } => {
                out.bytes(2, path.as_bytes());
                out.uint(6, (*mode).into());
            }
            FileOp::Write { path, offset, data } => {
                out.bytes(2, path.as_bytes());
                out.uint(4, *offset);
                out.bytes(5, data);
            }
            FileOp::Truncate { path, size } => {
                out.bytes(2, path.as_bytes());
                out.uint(4, *size);
            }
            FileOp::Rename { from, to } => {
                out.bytes(2, from.as_bytes());
                out.bytes(3, to.as_bytes());
            }
            FileOp::Unlink { path } | FileOp::Rmdir { path } => out.bytes(2, path.as_bytes()),
        }
        out
    }
}

/// The gRPC message of frame `seq`, which carries the operation `op` at `lsn`.
pub fn file_frame(seq: u64, lsn: u64, op: &FileOp) -> Bytes {
    let mut out = Writer::message(op.cost() + 64);
    out.uint(1, seq);
    out.uint(2, lsn);
    out.nested(4, op.fields());
    let (kind, payload_crc) = op.in_wal();
    out.put(&sums(seq, lsn, kind, payload_crc));
    Bytes::from(out.finish())
}

/// The kind of a WAL entry that holds redo.
const REDO: u8 = 3;
/// The size of the two checksum fields, in bytes.
const SUMS: usize = 10;

/// The checksum fields of a frame.
fn sums(seq: u64, lsn: u64, kind: u8, payload_crc: u32) -> Writer {
    let mut crc = crc32c::crc32c(&seq.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &lsn.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &[kind]);
    crc = crc32c::crc32c_append(crc, &payload_crc.to_le_bytes());
    let mut out = Writer::inner();
    out.fixed32(5, payload_crc);
    out.fixed32(6, crc);
    out
}

/// The largest size of the gRPC prefix and the fields before the redo bytes: 5
/// bytes, twice a one-byte key with a number of up to ten bytes, and a key with a
/// length.
const HEAD: usize = 5 + 11 + 11 + 6;

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
        let mut bytes = Vec::with_capacity(HEAD + capacity + SUMS);
        bytes.resize(HEAD, 0);
        RedoBuilder {
            bytes,
            start_lsn,
            crc: 0,
        }
    }

    /// The number of redo bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() - HEAD
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

    /// The gRPC message of frame `seq`. A sealed frame never changes, because it
    /// must be the same whenever it is sent again.
    pub fn seal(mut self, seq: u64) -> Bytes {
        let redo = self.len();
        let mut head = Writer::inner();
        head.uint(1, seq);
        head.uint(2, self.start_lsn);
        head.len(3, redo);
        let sums = sums(seq, self.start_lsn, REDO, self.crc);
        self.bytes.extend_from_slice(sums.as_slice());
        let fields = head.as_slice();
        let len = u32::try_from(fields.len() + redo + SUMS).unwrap_or(u32::MAX);
        let start = HEAD - 5 - fields.len();
        self.bytes[start + 1..start + 5].copy_from_slice(&len.to_be_bytes());
        self.bytes[start + 5..HEAD].copy_from_slice(fields);
        let mut message = Bytes::from(self.bytes);
        bytes::Buf::advance(&mut message, start);
        message
    }
}
