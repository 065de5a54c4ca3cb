//! Opens a WAL's directory: finds where the entries end, cuts off the remains
//! of a crash behind them, and makes everything it found durable.
//!
//! `docs/formats/wal.md` says how recovery tells a torn write from damage.

use super::config::LocalWalConfig;
use super::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::remains::{self, Expected, Remains, Remnant};
use super::scan::{self, ScanError};
use super::segments::{Active, Name, NextSegment, Segment, UNFINISHED};
use crate::disk::{Disk, DiskFile};
use crate::line::Line;
use crate::{Durable, Position, WalError};
use std::io;
use std::sync::Arc;

/// The contents of the directory.
pub(crate) struct Recovered {
    /// Owns the directory.
    pub lock: Box<dyn Send>,
    /// The segments with entries.
    pub segments: Vec<Segment>,
    /// The last of them, which is written; none before the first entry.
    pub active: Option<Active>,
    /// The segment after the active one, if it was there.
    pub next: Option<NextSegment>,
    pub spares: Vec<(Name, u64)>,
    /// Bytes of all files.
    pub stored: u64,
    pub line: Line,
    pub durable: Durable,
    /// The last entry's time.
    pub time_us: u64,
}

/// Where the entries end.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    position: Position,
    line: Line,
    time_us: u64,
}

/// A segment file among the last two: the ones that a crash may have caught.
struct Found {
    header: SegmentHeader,
    file: Arc<dyn DiskFile>,
}

impl Found {
    fn name(&self) -> Name {
        Name::Segment(self.header.number)
    }
}

/// The last segments: the one that is written, and the one after it.
#[derive(Default)]
struct Tail {
    /// The segment before the active one, if it was looked at.
    sealed: Option<Segment>,
    active: Option<Active>,
    next: Option<NextSegment>,
    end: End,
}

/// Opens the directory.
pub(crate) fn recover(disk: &dyn Disk, config: &LocalWalConfig) -> Result<Recovered, WalError> {
    let lock = lock(disk)?;
    let names = disk.list().map_err(|e| io_error(disk, "list", None, e))?;
    if names.iter().any(|name| name == UNFINISHED) {
        return Err(WalError::Corrupt(format!(
            "{}: restoring this WAL was interrupted; restore it again",
            disk.path().display()
        )));
    }
    let names: Vec<Name> = names.iter().filter_map(|name| Name::parse(name)).collect();
    let spares = spares(disk, config, &names)?;
    let numbers = segment_numbers(disk, &names)?;
    let older = numbers.len().saturating_sub(2);
    let mut segments = Vec::with_capacity(numbers.len());
    for number in &numbers[..older] {
        segments.push(sealed(disk, &open_segment(disk, *number)?)?);
    }
    let mut tail = tail(disk, &numbers[older..])?;
    segments.extend(tail.sealed);
    segments.extend(tail.active.as_ref().map(|active| active.segment));
    check_order(disk, &segments)?;
    // A next segment from a configuration with smaller frames is too short.
    let small = |next: &mut NextSegment| next.header.bytes < config.segment_bytes_min();
    if let Some(small) = tail.next.take_if(small) {
        let name = Name::Segment(small.header.number);
        disk.remove(&name.to_string())
            .map_err(|e| io_error(disk, "remove", Some(name), e))?;
    }
    // Names must be durable too: entries in a file that a crash removes would
    // be lost.
    disk.sync_dir()
        .map_err(|e| io_error(disk, "sync", None, e))?;

    let stored = segments.iter().map(|s| s.bytes).sum::<u64>()
        + tail.next.as_ref().map_or(0, |n| n.header.bytes)
        + spares.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let end = tail.end;
    Ok(Recovered {
        lock,
        segments,
        active: tail.active,
        next: tail.next,
        spares,
        stored,
        line: end.line,
        durable: Durable {
            epoch: end.line.epoch,
            seq: end.line.seq,
            lsn: end.line.lsn,
            position: end.position,
        },
        time_us: end.time_us,
    })
}

/// Takes the directory for this owner.
fn lock(disk: &dyn Disk) -> Result<Box<dyn Send>, WalError> {
    disk.lock().map_err(|source| {
        let what = if source.kind() == io::ErrorKind::WouldBlock {
            "another process, or another part of this one, has this WAL open"
        } else {
            "lock the WAL's directory"
        };
        WalError::Io {
            context: format!("{}: {what}", disk.path().display()),
            source,
        }
    })
}

/// Recovers the last segments, which have these numbers: two at most.
fn tail(disk: &dyn Disk, numbers: &[u64]) -> Result<Tail, WalError> {
    let found = numbers
        .iter()
        .map(|number| open_segment(disk, *number))
        .collect::<Result<Vec<_>, _>>()?;
    match <[Found; 2]>::try_from(found) {
        Ok([last, unused]) => match begins(disk, &unused)? {
            Some(segment) => {
                let before = sealed(disk, &last)?;
                let end = cut(disk, &unused, segment, None)?;
                Ok(Tail {
                    sealed: Some(before),
                    active: Some(Active {
                        segment,
                        file: unused.file,
                    }),
                    next: None,
                    end,
                })
            }
            None => last_of_two(disk, last, unused),
        },
        Err(found) => {
            let (active, end) = only(disk, found.into_iter().next())?;
            Ok(Tail {
                active,
                end,
                ..Tail::default()
            })
        }
    }
}

/// The entries end in `last`; `unused` is the segment after it.
fn last_of_two(disk: &dyn Disk, last: Found, unused: Found) -> Result<Tail, WalError> {
    // A segment is made only after one with durable entries.
    let Some(segment) = begins(disk, &last)? else {
        return Err(corrupt(
            disk,
            last.name(),
            SEGMENT_HEADER_BYTES,
            "the first entry is damaged",
        ));
    };
    let end = cut(disk, &last, segment, Some(&unused))?;
    Ok(Tail {
        sealed: None,
        active: Some(Active {
            segment,
            file: last.file,
        }),
        next: Some(NextSegment {
            header: unused.header,
            file: unused.file,
        }),
        end,
    })
}

/// Keeps the spare files that can be used, removes the rest.
fn spares(
    disk: &dyn Disk,
    config: &LocalWalConfig,
    names: &[Name],
) -> Result<Vec<(Name, u64)>, WalError> {
    // A WAL without a segment keeps no spares.
    let most = if names.iter().any(|n| matches!(n, Name::Segment(_))) {
        config.spare_segments
    } else {
        0
    };
    let mut kept = Vec::new();
    for name in names
        .iter()
        .copied()
        .filter(|n| matches!(n, Name::Spare(_)))
    {
        let file = disk
            .open(&name.to_string())
            .map_err(|e| io_error(disk, "open", Some(name), e))?;
        let bytes = file
            .size()
            .map_err(|e| io_error(disk, "measure", Some(name), e))?;
        // A spare that was never filled has the same length. Its first use is
        // slower; that is all.
        if bytes == config.segment_bytes && kept.len() < most {
            kept.push((name, bytes));
        } else {
            disk.remove(&name.to_string())
                .map_err(|e| io_error(disk, "remove", Some(name), e))?;
        }
    }
    Ok(kept)
}

/// The numbers of the segments, which must be consecutive.
fn segment_numbers(disk: &dyn Disk, names: &[Name]) -> Result<Vec<u64>, WalError> {
    let number = |n: &Name| {
        if let Name::Segment(number) = n {
            Some(*number)
        } else {
            None
        }
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if let [a, b] = pair
            && a + 1 != *b
        {
            return Err(corrupt(
                disk,
                Name::Segment(a + 1),
                0,
                "the segment is missing between others",
            ));
        }
    }
    Ok(numbers)
}

/// Opens a segment and checks its header. The header was durable before the
/// file had its name, so no crash explains a bad one.
fn open_segment(disk: &dyn Disk, number: u64) -> Result<Found, WalError> {
    let name = Name::Segment(number);
    let file = disk
        .open(&name.to_string())
        .map_err(|e| io_error(disk, "open", Some(name), e))?;
    let header = scan::segment_header(&*file, number).map_err(|e| scan_error(disk, name, e))?;
    Ok(Found { header, file })
}

/// The row of a segment that is followed by one with entries, so that all of it
/// is durable.
fn sealed(disk: &dyn Disk, found: &Found) -> Result<Segment, WalError> {
    let first = scan::first_position(&*found.file, found.header)
        .map_err(|e| scan_error(disk, found.name(), e))?;
    Ok(Segment::begin(found.header, first))
}

/// A segment, if it has a good first entry.
fn begins(disk: &dyn Disk, found: &Found) -> Result<Option<Segment>, WalError> {
    let entry = scan::first_entry(&*found.file, found.header)
        .map_err(|e| io_error(disk, "read", Some(found.name()), e))?;
    Ok(entry.map(|entry| Segment::begin(found.header, entry.position)))
}

/// A WAL of one segment, or of none yet.
fn only(disk: &dyn Disk, found: Option<Found>) -> Result<(Option<Active>, End), WalError> {
    let Some(found) = found else {
        return Ok((None, End::default()));
    };
    if let Some(segment) = begins(disk, &found)? {
        let end = cut(disk, &found, segment, None)?;
        let active = Active {
            segment,
            file: found.file,
        };
        return Ok((Some(active), end));
    }
    // A segment that is not the first followed one with durable entries, and
    // that one was removed only when this one had durable entries too.
    if found.header.number != 1 {
        return Err(corrupt(
            disk,
            found.name(),
            SEGMENT_HEADER_BYTES,
            "the first entry is damaged",
        ));
    }
    // The first seal was under way and no caller was told of it. A WAL without
    // entries has no segment, so that it takes no room.
    unacknowledged(disk, &found, &Expected::begin(), Position(0), None)?;
    disk.remove(&found.name().to_string())
        .map_err(|e| io_error(disk, "remove", Some(found.name()), e))?;
    Ok((None, End::default()))
}

/// The entries of a segment must fit into it.
fn check_order(disk: &dyn Disk, segments: &[Segment]) -> Result<(), WalError> {
    for pair in segments.windows(2) {
        let [a, b] = pair else { continue };
        let fits = b.first > a.first && b.first.0 - a.first.0 <= a.bytes - SEGMENT_HEADER_BYTES;
        if !fits {
            let why = format!(
                "its first position is {}, that of the segment before {}",
                b.first.0, a.first.0
            );
            return Err(corrupt(
                disk,
                Name::Segment(b.number),
                SEGMENT_HEADER_BYTES,
                &why,
            ));
        }
    }
    Ok(())
}

/// Cuts the last segment in use behind its last good entry, and makes
/// everything before the cut durable.
fn cut(
    disk: &dyn Disk,
    found: &Found,
    segment: Segment,
    unused: Option<&Found>,
) -> Result<End, WalError> {
    let name = found.name();
    let io = |what: &str, e| io_error(disk, what, Some(name), e);
    let walked = scan::walk(&*found.file, segment).map_err(|e| scan_error(disk, name, e))?;
    let end = segment.position(walked.end);
    let expected = Expected::after(segment, &walked);
    let remains = remains::remains(&*found.file, found.header, &expected, walked.end)
        .map_err(|e| io("read", e))?;
    if let Some(remnant) = &remains.newest
        && remnant.entry.synced() > end
    {
        return Err(damaged(disk, name, walked.end, name, remnant));
    }
    if let Some(unused) = unused {
        let expected = Expected::next(segment, &walked);
        wipe_unused(disk, unused, &expected, end, (name, walked.end))?;
    }
    if !remains.dirty.is_empty() {
        tracing::info!(
            file = %disk.path().join(name.to_string()).display(),
            offset = walked.end,
            "cutting off a write that was not finished"
        );
    }
    remains::wipe(&*found.file, &remains).map_err(|e| io("write to", e))?;
    scan::rewrite(&*found.file, walked.unsynced, walked.end).map_err(|e| io("write to", e))?;
    found.file.sync().map_err(|e| io("sync", e))?;
    Ok(End {
        position: end,
        line: walked.line,
        time_us: walked.time_us,
    })
}

/// Finds remains in a segment that holds no first entry; none of them may prove
/// a durable entry. The entries before the segment end at `end`, which is at
/// `before` in the segment before.
fn unacknowledged(
    disk: &dyn Disk,
    found: &Found,
    expected: &Expected,
    end: Position,
    before: Option<(Name, u64)>,
) -> Result<Remains, WalError> {
    let remains = remains::remains(&*found.file, found.header, expected, SEGMENT_HEADER_BYTES)
        .map_err(|e| io_error(disk, "read", Some(found.name()), e))?;
    // The first write to this segment began when everything before the segment
    // was durable, and later writes began when its first entry was durable.
    if let Some(remnant) = &remains.newest
        && remnant.entry.synced() > end
    {
        let first = remnant
            .entry
            .position
            .0
            .saturating_sub(remnant.offset - SEGMENT_HEADER_BYTES);
        let (name, offset) = match before {
            Some(before) if first > end.0 => before,
            _ => (found.name(), SEGMENT_HEADER_BYTES),
        };
        return Err(damaged(disk, name, offset, found.name(), remnant));
    }
    Ok(remains)
}

/// Wipes a segment that holds no first entry, so that it can be the next.
fn wipe_unused(
    disk: &dyn Disk,
    found: &Found,
    expected: &Expected,
    end: Position,
    before: (Name, u64),
) -> Result<(), WalError> {
    let io = |what: &str, e| io_error(disk, what, Some(found.name()), e);
    let remains = unacknowledged(disk, found, expected, end, Some(before))?;
    if remains.dirty.is_empty() {
        return Ok(());
    }
    remains::wipe(&*found.file, &remains).map_err(|e| io("write to", e))?;
    found.file.sync().map_err(|e| io("sync", e))
}

/// The entry at `offset` of `name` must have been durable, because `remnant`
/// of `witness` says so.
fn damaged(disk: &dyn Disk, name: Name, offset: u64, witness: Name, remnant: &Remnant) -> WalError {
    let why = format!(
        "a durable entry is damaged: byte {} of {witness} was written when everything before position {} was durable",
        remnant.offset,
        remnant.entry.synced().0
    );
    corrupt(disk, name, offset, &why)
}

fn io_error(disk: &dyn Disk, what: &str, name: Option<Name>, source: io::Error) -> WalError {
    let path = match name {
        Some(name) => disk.path().join(name.to_string()),
        None => disk.path().to_owned(),
    };
    WalError::Io {
        context: format!("{what} {}", path.display()),
        source,
    }
}

fn corrupt(disk: &dyn Disk, name: Name, offset: u64, why: &str) -> WalError {
    WalError::Corrupt(format!(
        "{} at byte {offset}: {why}",
        disk.path().join(name.to_string()).display()
    ))
}

fn scan_error(disk: &dyn Disk, name: Name, error: ScanError) -> WalError {
    match error {
        ScanError::Io(e) => io_error(disk, "read", Some(name), e),
        ScanError::Corrupt(offset, why) => corrupt(disk, name, offset, &why),
    }
}
