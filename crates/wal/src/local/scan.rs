//! Reads a segment file that a crash may have left in any state, and walks its entries.

use super::format::{SEGMENT_FIELDS_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::segments::Segment;
use crate::Position;
use crate::disk::DiskFile;
use crate::entry::{ENTRY_HEADER_BYTES, EntryHeader, follow, payload};
use crate::line::Line;
use std::io::{self, IoSlice};

/// Bytes read at once.
pub(super) const WINDOW_BYTES: u64 = 1 << 20;

/// Why a segment cannot be read.
#[derive(Debug)]
pub(crate) enum ScanError {
    Io(io::Error),
    /// Damage, and the byte of the file where it is.
    Corrupt(u64, String),
}

impl From<io::Error> for ScanError {
    fn from(e: io::Error) -> ScanError {
        ScanError::Io(e)
    }
}

/// Reads a segment's own header; the file must be as long as it says.
pub(crate) fn segment_header(file: &dyn DiskFile, number: u64) -> Result<SegmentHeader, ScanError> {
    let size = file.size()?;
    let mut bytes = [0; SEGMENT_FIELDS_BYTES];
    if size < SEGMENT_HEADER_BYTES {
        return Err(ScanError::Corrupt(
            0,
            format!("a file of {size} bytes is no segment"),
        ));
    }
    file.read_at(&mut bytes, 0)?;
    let header = SegmentHeader::decode(&bytes).map_err(|why| ScanError::Corrupt(0, why))?;
    if header.number != number {
        return Err(ScanError::Corrupt(
            0,
            format!("its header says it is segment {}", header.number),
        ));
    }
    if header.bytes != size {
        return Err(ScanError::Corrupt(
            0,
            format!("it has {size} bytes, its header says {}", header.bytes),
        ));
    }
    Ok(header)
}

/// The position of the first entry, of a segment that must have one. Its
/// payload is left for the readers to check.
pub(crate) fn first_position(
    file: &dyn DiskFile,
    header: SegmentHeader,
) -> Result<Position, ScanError> {
    let mut bytes = [0; ENTRY_HEADER_BYTES];
    file.read_at(&mut bytes, SEGMENT_HEADER_BYTES)?;
    match EntryHeader::decode(header.salt, &bytes) {
        Some(entry) => Ok(entry.position),
        None => Err(ScanError::Corrupt(
            SEGMENT_HEADER_BYTES,
            "the first entry is damaged".to_owned(),
        )),
    }
}

/// A segment's first entry, if one is whole there.
pub(crate) fn first_entry(
    file: &dyn DiskFile,
    header: SegmentHeader,
) -> io::Result<Option<EntryHeader>> {
    let mut window = Window::new(file, header.bytes);
    Ok(match window.entry(header.salt, SEGMENT_HEADER_BYTES)? {
        Found::Good(entry) => Some(entry),
        Found::Bad => None,
    })
}

/// Where the good entries of a segment end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walked {
    /// The end of the last good entry, as an offset in the file.
    pub end: u64,
    /// The offset at which the last entry's write began. Bytes from there on
    /// may not be on the disk yet.
    pub unsynced: u64,
    /// The line after the last good entry.
    pub line: Line,
    /// That entry's time.
    pub time_us: u64,
}

/// Walks the entries of a segment, of which the first is good.
pub(crate) fn walk(file: &dyn DiskFile, segment: Segment) -> Result<Walked, ScanError> {
    let mut window = Window::new(file, segment.bytes);
    let mut walked = Walked {
        end: SEGMENT_HEADER_BYTES,
        unsynced: SEGMENT_HEADER_BYTES,
        line: Line::default(),
        time_us: 0,
    };
    loop {
        let offset = walked.end;
        let entry = match window.entry(segment.salt, offset)? {
            Found::Good(entry) if entry.position == segment.position(offset) => entry,
            // The checksum is good, so only a program can have written this.
            Found::Good(_) => {
                return Err(ScanError::Corrupt(
                    offset,
                    "an entry that belongs elsewhere".to_owned(),
                ));
            }
            Found::Bad => return Ok(walked),
        };
        let payload = window.bytes(offset + ENTRY_HEADER_BYTES as u64, u64::from(entry.length))?;
        let record =
            payload::decode(&entry, payload).map_err(|why| ScanError::Corrupt(offset, why))?;
        let before = (offset > SEGMENT_HEADER_BYTES).then_some(walked.line);
        walked.line = follow(before, &entry, &record).ok_or_else(|| {
            ScanError::Corrupt(
                offset,
                format!("entry {entry:?} does not follow the one before it"),
            )
        })?;
        if !entry.time_follows(walked.time_us) {
            return Err(ScanError::Corrupt(
                offset,
                format!(
                    "an entry of time {} after one of time {}",
                    entry.time_us, walked.time_us
                ),
            ));
        }
        walked.time_us = entry.time_us;
        walked.end = offset + entry.total();
        walked.unsynced = segment.offset(entry.synced().max(segment.first));
    }
}

/// Writes the bytes from `from` to `to` over themselves, so that the next sync
/// is sure to write them. The system may have failed to write them and
/// forgotten about it, so that reads show bytes that the disk does not hold.
pub(crate) fn rewrite(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let mut window = Window::new(file, to);
    let mut at = from;
    while at < to {
        let bytes = window.bytes(at, (to - at).min(WINDOW_BYTES))?;
        let count = bytes.len() as u64;
        file.write_at(&mut [IoSlice::new(bytes)], at)?;
        at += count;
    }
    Ok(())
}

/// The content of the place where an entry is expected.
enum Found {
    Good(EntryHeader),
    /// No entry, or part of one.
    Bad,
}

/// A part of a file in memory.
pub(super) struct Window<'a> {
    file: &'a dyn DiskFile,
    /// The file's end.
    size: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn DiskFile, size: u64) -> Window<'a> {
        Window {
            file,
            size,
            at: 0,
            bytes: Vec::new(),
        }
    }

    /// `length` bytes from `offset`; the caller knows that the file has them.
    pub(super) fn bytes(&mut self, offset: u64, length: u64) -> io::Result<&[u8]> {
        let have = self.at..self.at + self.bytes.len() as u64;
        if offset < have.start || offset + length > have.end {
            let count = length.max(WINDOW_BYTES.min(self.size.saturating_sub(offset)));
            self.bytes
                .resize(usize::try_from(count).map_err(io::Error::other)?, 0);
            // A failed read must not pass for the file's content.
            self.at = u64::MAX - count;
            self.file.read_at(&mut self.bytes, offset)?;
            self.at = offset;
        }
        let from = (offset - self.at) as usize;
        Ok(&self.bytes[from..from + length as usize])
    }

    /// The entry at `offset`, checked whole.
    fn entry(&mut self, salt: u64, offset: u64) -> io::Result<Found> {
        let left = self.size.saturating_sub(offset);
        if left < ENTRY_HEADER_BYTES as u64 {
            return Ok(Found::Bad);
        }
        let Some(entry) =
            EntryHeader::decode_prefix(salt, self.bytes(offset, ENTRY_HEADER_BYTES as u64)?)
        else {
            return Ok(Found::Bad);
        };
        if entry.total() > left {
            return Ok(Found::Bad);
        }
        let payload = self.bytes(offset + ENTRY_HEADER_BYTES as u64, u64::from(entry.length))?;
        if crc32c::crc32c(payload) != entry.payload_crc {
            return Ok(Found::Bad);
        }
        Ok(Found::Good(entry))
    }
}
