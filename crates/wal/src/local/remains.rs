//! Finds what a crash, or an earlier use of the file, left in a segment behind its last
//! good entry, and wipes it.
//!
//! A segment that is used again holds what it held before, so after a crash almost two
//! whole segments may have to be searched, an entry's header at any offset of them. The
//! page server answers nothing meanwhile.

use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::scan::{WINDOW_BYTES, Walked, Window};
use super::segments::Segment;
use crate::disk::DiskFile;
use crate::entry::{ENTRY_HEADER_BYTES, EntryHeader, payload};
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;
use std::thread;
use xylem_types::Epoch;

/// The unit in which zeros are recognized and written.
const BLOCK_BYTES: usize = 4096;
/// The place of an entry's position in its header.
const POSITION_AT: usize = 16;
/// Bytes for which another thread is worth its start.
const THREAD_BYTES: u64 = 4 << 20;
/// Threads that search one segment, at most.
const THREADS_MAX: u64 = 8;

/// The limits that an entry must keep before it is read. They tell the
/// remains of a crash from bytes that happen to have the right checksum: a
/// checksum alone is wrong once in four billion offsets, and a segment has 64
/// million offsets, which may hold anything from an earlier use of the file.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// Where the segment's first entry may begin.
    pub first: RangeInclusive<u64>,
    /// The epoch of the last entry known before it: later ones have no smaller
    /// epoch,
    pub epoch: Epoch,
    /// and no earlier time.
    pub time_us: u64,
}

impl Expected {
    /// Behind `walked`, in the same segment.
    pub fn after(segment: Segment, walked: &Walked) -> Expected {
        Expected {
            first: segment.first.0..=segment.first.0,
            epoch: walked.line.epoch,
            time_us: walked.time_us,
        }
    }

    /// The limits in the segment behind `segment`, whose good entries are
    /// `walked`. Entries behind those may have been good too.
    pub fn next(segment: Segment, walked: &Walked) -> Expected {
        let full = segment.position(segment.bytes);
        Expected {
            first: segment.position(walked.end).0..=full.0,
            ..Expected::after(segment, walked)
        }
    }

    /// In the first segment of a WAL without entries.
    pub fn begin() -> Expected {
        Expected {
            first: 0..=0,
            epoch: Epoch(0),
            time_us: 0,
        }
    }
}

/// An entry's header found beyond the end of the good entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remnant {
    /// Where, as an offset in the file.
    pub offset: u64,
    /// The entry's header.
    pub entry: EntryHeader,
}

/// The remains in a segment behind its entries.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// The good header among the remains, at any offset, that proves the most
    /// entries durable before it.
    pub newest: Option<Remnant>,
    /// Blocks that are not zeros: offset and length.
    pub dirty: Vec<(u64, u64)>,
}

/// Looks at everything from `from` to the end of a segment, in several threads if that is
/// much.
pub(crate) fn remains(
    file: &dyn DiskFile,
    header: SegmentHeader,
    expected: &Expected,
    from: u64,
) -> io::Result<Remains> {
    let cores = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let bytes = header.bytes.saturating_sub(from);
    let parts = (bytes / THREAD_BYTES).clamp(1, cores.min(THREADS_MAX));
    remains_in_parts(file, header, expected, from, parts)
}

/// As [`remains`], in so many threads, this one included.
fn remains_in_parts(
    file: &dyn DiskFile,
    header: SegmentHeader,
    expected: &Expected,
    from: u64,
    parts: u64,
) -> io::Result<Remains> {
    let end = header.bytes.max(from);
    let block = BLOCK_BYTES as u64;
    let share = (end - from).div_ceil(parts).next_multiple_of(block);
    let part = |n: u64| {
        let begin = (from + share * n).min(end);
        let upto = (begin + share).min(end);
        search(file, header, expected, begin, upto)
    };
    let part = &part;
    thread::scope(|scope| {
        let threads: Vec<_> = (1..parts)
            .map(|n| {
                let thread = thread::Builder::new().name("wal-recover".to_owned());
                (n, thread.spawn_scoped(scope, move || part(n)))
            })
            .collect();
        let mut all = part(0)?;
        for (n, thread) in threads {
            let found = match thread {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // Without a thread, this one does its part.
                Err(_) => part(n),
            };
            all.add(found?);
        }
        Ok(all)
    })
}

impl Remains {
    /// Adds those of the next part.
    fn add(&mut self, next: Remains) {
        for (at, length) in next.dirty {
            self.add_dirty(at, length);
        }
        if let Some(remnant) = next.newest {
            self.add_remnant(remnant);
        }
    }

    fn add_dirty(&mut self, block: u64, length: u64) {
        match self.dirty.last_mut() {
            Some((at, run)) if *at + *run == block => *run += length,
            _ => self.dirty.push((block, length)),
        }
    }

    fn add_remnant(&mut self, remnant: Remnant) {
        let synced = |r: &Remnant| r.entry.synced();
        if self.newest.is_none_or(|n| synced(&n) < synced(&remnant)) {
            self.newest = Some(remnant);
        }
    }
}

/// Looks at the blocks that begin from `from` on and before `to`.
fn search(
    file: &dyn DiskFile,
    header: SegmentHeader,
    expected: &Expected,
    from: u64,
    to: u64,
) -> io::Result<Remains> {
    let mut out = Remains::default();
    let mut window = Window::new(file, header.bytes);
    let mut block = from;
    while block < to {
        let length = (header.bytes - block).min(BLOCK_BYTES as u64);
        // A header that begins in this block may reach into the next.
        let reach = (header.bytes - block).min((BLOCK_BYTES + ENTRY_HEADER_BYTES - 1) as u64);
        let bytes = window.bytes(block, reach)?;
        if !is_zero(&bytes[..length as usize]) {
            out.add_dirty(block, length);
            candidates(bytes, block, &expected.first, |offset, at| {
                if let Some(entry) = remnant(header, expected, offset, &bytes[at..]) {
                    out.add_remnant(Remnant { offset, entry });
                }
            });
        }
        block += length;
    }
    Ok(out)
}

/// Without a branch for each byte, so that several are looked at together.
fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    let chunk_is_zero = |chunk: &[u8; 64]| chunk.iter().fold(0, |all, b| all | b) == 0;
    chunks.iter().all(chunk_is_zero) && rest.iter().all(|b| *b == 0)
}

/// Calls `each` for the offsets, in the file and in `bytes`, at which a header may begin
/// whose position fits: `bytes` are those from `block` on. The test is cheap, since it is
/// made for each byte of the segment.
fn candidates(
    bytes: &[u8],
    block: u64,
    first: &RangeInclusive<u64>,
    mut each: impl FnMut(u64, usize),
) {
    let whole = (bytes.len() + 1).saturating_sub(ENTRY_HEADER_BYTES);
    let positions = bytes.get(POSITION_AT..).unwrap_or_default();
    // An entry at the offset o of the file has the position first + (o - header).
    let least = first.start().wrapping_add(block - SEGMENT_HEADER_BYTES);
    let span = first.end() - first.start();
    for (at, position) in positions.windows(8).take(whole).enumerate() {
        let position = position.first_chunk().map_or(0, |p| u64::from_le_bytes(*p));
        let beyond = position.wrapping_sub(least.wrapping_add(at as u64));
        if beyond <= span {
            each(block + at as u64, at);
        }
    }
}

/// The header of an entry that belongs to this use of the file and to this place, if one
/// begins there. Its position fits.
fn remnant(
    header: SegmentHeader,
    expected: &Expected,
    offset: u64,
    bytes: &[u8],
) -> Option<EntryHeader> {
    let before = offset - SEGMENT_HEADER_BYTES;
    let entry = EntryHeader::decode_prefix(header.salt, bytes)?;
    // Neither an entry nor a write crosses segments.
    let fits = entry.total() <= header.bytes - offset && u64::from(entry.behind) <= before;
    let later = entry.epoch >= expected.epoch && entry.time_us >= expected.time_us;
    (fits && later && payload::is_of_wal(&entry)).then_some(entry)
}

/// Writes zeros over the dirty blocks. Durable after the next sync.
pub(crate) fn wipe(file: &dyn DiskFile, remains: &Remains) -> io::Result<()> {
    let zeros = vec![0; WINDOW_BYTES as usize];
    for (offset, length) in &remains.dirty {
        let mut at = *offset;
        let end = offset + length;
        while at < end {
            let count = (end - at).min(WINDOW_BYTES);
            file.write_at(&mut [IoSlice::new(&zeros[..count as usize])], at)?;
            at += count;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
