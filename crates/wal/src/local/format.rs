//! The bytes of a segment file: its header and the header of an entry. Drawn
//! in `docs/formats/wal.md`. Everything is little-endian.

use crate::Position;
use xylem_types::{Epoch, FrameSeq, Lsn};

/// Bytes before a segment's first entry: one page, so that no write of an
/// entry touches the header's.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 4096;
/// Bytes of the segment header that mean something.
pub(crate) const SEGMENT_FIELDS_BYTES: usize = 44;
/// Bytes before an entry's payload.
pub(crate) const ENTRY_HEADER_BYTES: usize = 60;

const MAGIC: [u8; 8] = *b"XYLEMWAL";
const VERSION: u32 = 2;

/// What a segment file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Its number; the file's name says the same.
    pub number: u64,
    /// The file's length.
    pub bytes: u64,
    /// A random number, new each time the file is put to use. The checksums of
    /// entries begin with it: what an earlier use has left, and what a frame's
    /// payload may imitate, fails.
    pub salt: u64,
}

impl SegmentHeader {
    /// The header as it stands at the file's beginning.
    pub fn encode(&self) -> [u8; SEGMENT_FIELDS_BYTES] {
        let mut out = [0; SEGMENT_FIELDS_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&(SEGMENT_HEADER_BYTES as u32).to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.bytes.to_le_bytes());
        out[32..40].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32c::crc32c(&out[..40]);
        out[40..44].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header, or says what is wrong with it.
    pub fn decode(bytes: &[u8; SEGMENT_FIELDS_BYTES]) -> Result<SegmentHeader, String> {
        if bytes[0..8] != MAGIC {
            return Err("not a segment of a log: wrong magic".to_owned());
        }
        // The version before the checksum: another version may have another one.
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(format!(
                "format version {version}, this program reads {VERSION}: open the log with the program that wrote it"
            ));
        }
        if crc32c::crc32c(&bytes[..40]) != u32_at(bytes, 40) {
            return Err("segment header fails its checksum".to_owned());
        }
        if u64::from(u32_at(bytes, 12)) != SEGMENT_HEADER_BYTES {
            return Err(format!("segment header of {} bytes", u32_at(bytes, 12)));
        }
        Ok(SegmentHeader {
            number: u64_at(bytes, 16),
            bytes: u64_at(bytes, 24),
            salt: u64_at(bytes, 32),
        })
    }
}

/// What stands before an entry's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryHeader {
    /// CRC-32C of the payload.
    pub payload_crc: u32,
    /// Bytes of the payload.
    pub length: u32,
    /// How far before this entry the write began that it was part of: what
    /// stands before `position - behind` was durable before this entry was
    /// written. Tells a torn write from a damaged disk.
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
    /// an entry before it.
    pub time_us: u64,
    /// What the payload is.
    pub kind: u8,
}

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
        })
    }

    /// The header at the beginning of `bytes`, if one is whole there.
    pub fn decode_prefix(salt: u64, bytes: &[u8]) -> Option<EntryHeader> {
        EntryHeader::decode(salt, bytes.first_chunk()?)
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

/// The `u32` at `at`; the caller knows it is there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
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
