//! The header of a segment file. Drawn in `docs/formats/wal.md`.

use crate::entry::{u32_at, u64_at};

/// Bytes before a segment's first entry: one page, so that no write of an
/// entry touches the header's.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 4096;
/// Bytes of the segment header that hold fields.
pub(crate) const SEGMENT_FIELDS_BYTES: usize = 44;

const MAGIC: [u8; 8] = *b"XYLEMWAL";
const VERSION: u32 = 2;

/// The header of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Its number; the file's name says the same.
    pub number: u64,
    /// The file's length.
    pub bytes: u64,
    /// A random number, new each time the file is put to use. The checksums of
    /// entries begin with it, so that entries of an earlier use, and payloads
    /// that imitate entries, fail their checks.
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
            return Err("not a segment of a WAL: wrong magic".to_owned());
        }
        // The version is checked first, because another version may have
        // another checksum.
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(format!(
                "format version {version}, this program reads {VERSION}: open the WAL with the program that wrote it"
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
