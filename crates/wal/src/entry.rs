//! The bytes of an entry, the same in every backend: a header of 60 bytes and a
//! payload. Drawn in `docs/formats/wal.md`. Everything is little-endian.

pub(crate) mod payload;
#[cfg(test)]
mod tests;

use crate::line::{Line, Taken};
use crate::{Position, Record};
use xylem_types::{Epoch, FrameSeq, Lsn};

/// Bytes before an entry's payload.
pub(crate) const ENTRY_HEADER_BYTES: usize = 60;

/// The header before an entry's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    /// CRC-32C of the payload.
    pub payload_crc: u32,
    /// Bytes of the payload.
    pub length: u32,
    /// The distance from the beginning of the write that this entry was part
    /// of: everything before `position - behind` was durable before the entry
    /// was written. This tells a torn write from a damaged disk.
    pub behind: u32,
    /// Where the entry begins.
    pub position: Position,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its number, 0 for a seal or begin.
    pub seq: FrameSeq,
    /// A frame's or begin's start; for a seal the end of the redo before it.
    pub lsn: Lsn,
    /// When it was written: microseconds since 1970, never less than that of
    /// the entry before it, unless it is `stepped`.
    pub time_us: u64,
    /// The kind of the payload.
    pub kind: u8,
    /// See [`crate::Entry::stepped`].
    pub stepped: bool,
}

/// Bit of an entry's flags: it is `stepped`.
const STEPPED: u8 = 1;

impl EntryHeader {
    /// The header's bytes in a segment of that salt.
    pub fn encode(&self, salt: u64) -> [u8; ENTRY_HEADER_BYTES] {
        let mut out = [0; ENTRY_HEADER_BYTES];
        out[4..8].copy_from_slice(&self.payload_crc.to_le_bytes());
        out[8..12].copy_from_slice(&self.length.to_le_bytes());
        out[12..16].copy_from_slice(&self.behind.to_le_bytes());
        out[16..24].copy_from_slice(&self.position.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.seq.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.lsn.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.time_us.to_le_bytes());
        out[56] = self.kind;
        out[57] = if self.stepped { STEPPED } else { 0 };
        let crc = header_crc(salt, &out);
        out[0..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header of a segment of that salt; `None` when it fails its checksum.
    pub fn decode(salt: u64, bytes: &[u8; ENTRY_HEADER_BYTES]) -> Option<EntryHeader> {
        if header_crc(salt, bytes) != u32_at(bytes, 0) {
            return None;
        }
        Some(EntryHeader {
            payload_crc: u32_at(bytes, 4),
            length: u32_at(bytes, 8),
            behind: u32_at(bytes, 12),
            position: Position(u64_at(bytes, 16)),
            epoch: Epoch(u64_at(bytes, 24)),
            seq: FrameSeq(u64_at(bytes, 32)),
            lsn: Lsn(u64_at(bytes, 40)),
            time_us: u64_at(bytes, 48),
            kind: bytes[56],
            stepped: bytes[57] & STEPPED != 0,
        })
    }

    /// The header at the beginning of `bytes`, if one is whole there.
    pub fn decode_prefix(salt: u64, bytes: &[u8]) -> Option<EntryHeader> {
        EntryHeader::decode(salt, bytes.first_chunk()?)
    }

    /// Whether its time may stand behind an entry of time `before_us`.
    pub fn time_follows(&self, before_us: u64) -> bool {
        self.stepped || self.time_us >= before_us
    }

    /// Bytes the entry takes, header and payload.
    pub fn total(&self) -> u64 {
        ENTRY_HEADER_BYTES as u64 + u64::from(self.length)
    }

    /// Everything before this place was durable before the entry was written.
    pub fn synced(&self) -> Position {
        Position(self.position.0.saturating_sub(u64::from(self.behind)))
    }
}

fn header_crc(salt: u64, bytes: &[u8; ENTRY_HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &bytes[4..])
}

/// The line after an entry, `None` when it does not follow `before`.
pub(crate) fn follow(before: Option<Line>, entry: &EntryHeader, record: &Record) -> Option<Line> {
    let mut line = before.unwrap_or_default();
    match record {
        Record::Seal => {
            let after = Line {
                epoch: entry.epoch,
                begun: false,
                seq: entry.seq,
                lsn: entry.lsn,
            };
            // The seal of a restored WAL skips epochs.
            let newer = line.epoch < entry.epoch && line.lsn == entry.lsn;
            let fits = before.is_none() || (newer && entry.seq == FrameSeq(0));
            fits.then_some(after)
        }
        Record::Begin { start } => {
            let after = Line {
                epoch: entry.epoch,
                begun: true,
                seq: entry.seq,
                lsn: *start,
            };
            let fits =
                before.is_none() || matches!(line.begin(entry.epoch, *start), Ok(Taken::Next));
            fits.then_some(after)
        }
        Record::Frame(frame) => {
            let after = Line {
                epoch: entry.epoch,
                begun: true,
                seq: frame.seq,
                lsn: frame.end(),
            };
            let fits =
                before.is_none() || matches!(line.frame(entry.epoch, frame), Ok(Taken::Next));
            fits.then_some(after)
        }
    }
}

/// The `u32` at `at`; the caller knows it is there.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    out.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(out)
}

/// The `u64` at `at`; the caller knows it is there.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(out)
}
