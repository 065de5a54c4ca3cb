//! An entry's payload: redo as it is, a side-file operation encoded. Drawn in
//! `docs/formats/wal.md`.

use super::EntryHeader;
use crate::Record;
use std::sync::Arc;
use xylem_types::{FileOp, Frame, FrameBody};

pub(crate) const SEAL: u8 = 1;
pub(crate) const BEGIN: u8 = 2;
pub(crate) const REDO: u8 = 3;
const CREATE: u8 = 16;
const WRITE: u8 = 17;
const TRUNCATE: u8 = 18;
const RENAME: u8 = 19;
const UNLINK: u8 = 20;
const MKDIR: u8 = 21;
const RMDIR: u8 = 22;

/// A payload on its way to the disk. The large part is shared, not copied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payload {
    /// The beginning of the payload.
    pub head: Vec<u8>,
    /// The rest, if there is one.
    pub body: Option<Arc<[u8]>>,
}

impl Payload {
    /// Its bytes.
    pub fn length(&self) -> u64 {
        self.head.len() as u64 + self.body.as_ref().map_or(0, |b| b.len() as u64)
    }

    /// Its CRC-32C.
    pub fn crc(&self) -> u32 {
        let head = crc32c::crc32c(&self.head);
        self.body
            .as_ref()
            .map_or(head, |b| crc32c::crc32c_append(head, b))
    }
}

/// A frame's kind and payload.
pub(crate) fn encode(body: &FrameBody) -> (u8, Payload) {
    let op = match body {
        FrameBody::Redo(bytes) => {
            return (
                REDO,
                Payload {
                    head: Vec::new(),
                    body: Some(Arc::clone(bytes)),
                },
            );
        }
        FrameBody::File(op) => op,
    };
    let mut head = Vec::new();
    let mut body = None;
    let kind = match op {
        FileOp::Create { path, mode } => {
            head.extend(mode.to_le_bytes());
            head.extend(path.as_bytes());
            CREATE
        }
        FileOp::Write { path, offset, data } => {
            head.extend(offset.to_le_bytes());
            put_string(&mut head, path);
            body = Some(Arc::clone(data));
            WRITE
        }
        FileOp::Truncate { path, size } => {
            head.extend(size.to_le_bytes());
            head.extend(path.as_bytes());
            TRUNCATE
        }
        FileOp::Rename { from, to } => {
            put_string(&mut head, from);
            head.extend(to.as_bytes());
            RENAME
        }
        FileOp::Unlink { path } => {
            head.extend(path.as_bytes());
            UNLINK
        }
        FileOp::Mkdir { path, mode } => {
            head.extend(mode.to_le_bytes());
            head.extend(path.as_bytes());
            MKDIR
        }
        FileOp::Rmdir { path } => {
            head.extend(path.as_bytes());
            RMDIR
        }
    };
    (kind, Payload { head, body })
}

/// A length that does not fit belongs to a path of 4 GiB. Such a frame is
/// larger than any WAL takes, and is refused before its bytes are used.
fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Whether a header is one that a WAL writes: marks have neither a number nor a
/// payload, frames have a number.
pub(crate) fn is_of_wal(header: &EntryHeader) -> bool {
    match header.kind {
        SEAL | BEGIN => header.seq.0 == 0 && header.length == 0,
        REDO | CREATE | WRITE | TRUNCATE | RENAME | UNLINK | MKDIR | RMDIR => header.seq.0 > 0,
        _ => false,
    }
}

/// Decodes an entry's record, or says what is wrong with it. The checksum was
/// good, so a wrong payload was written that way.
pub(crate) fn decode(header: &EntryHeader, payload: &[u8]) -> Result<Record, String> {
    match header.kind {
        SEAL | BEGIN if !payload.is_empty() => Err("a payload where none belongs".to_owned()),
        SEAL => Ok(Record::Seal),
        BEGIN => Ok(Record::Begin { start: header.lsn }),
        kind => Ok(Record::Frame(Frame {
            seq: header.seq,
            start: header.lsn,
            body: decode_frame(kind, payload)?,
        })),
    }
}

/// Decodes the payload of a frame of this kind, or says what is wrong with it.
pub(crate) fn decode_frame(kind: u8, payload: &[u8]) -> Result<FrameBody, String> {
    let mut input = Input { rest: payload };
    let op = match kind {
        REDO => return Ok(FrameBody::Redo(Arc::from(payload))),
        CREATE => FileOp::Create {
            mode: u32::from_le_bytes(input.take()?),
            path: input.text()?,
        },
        WRITE => FileOp::Write {
            offset: u64::from_le_bytes(input.take()?),
            path: input.string()?,
            data: Arc::from(input.rest),
        },
        TRUNCATE => FileOp::Truncate {
            size: u64::from_le_bytes(input.take()?),
            path: input.text()?,
        },
        RENAME => FileOp::Rename {
            from: input.string()?,
            to: input.text()?,
        },
        UNLINK => FileOp::Unlink {
            path: input.text()?,
        },
        MKDIR => FileOp::Mkdir {
            mode: u32::from_le_bytes(input.take()?),
            path: input.text()?,
        },
        RMDIR => FileOp::Rmdir {
            path: input.text()?,
        },
        other => return Err(format!("unknown kind {other}")),
    };
    Ok(FrameBody::File(op))
}

/// Reads a payload from its beginning.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (first, rest) = self.rest.split_first_chunk().ok_or("payload ends early")?;
        self.rest = rest;
        Ok(*first)
    }

    /// A text with its length before it.
    fn string(&mut self) -> Result<String, String> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        let (text, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or("payload ends early")?;
        self.rest = rest;
        utf8(text)
    }

    /// A text that takes the rest.
    fn text(&mut self) -> Result<String, String> {
        utf8(std::mem::take(&mut self.rest))
    }
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a path that is not UTF-8".to_owned())
}
