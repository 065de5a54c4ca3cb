//! The WAL's segment files: their names, and which positions each holds.

use crate::Position;
use crate::disk::DiskFile;
use crate::local::format::{SEGMENT_HEADER_BYTES, SegmentHeader};
use std::sync::Arc;

/// A segment that holds entries, or will hold the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Its number.
    pub number: u64,
    /// Where its first entry begins.
    pub first: Position,
    /// The file's length.
    pub bytes: u64,
    /// Its header's salt.
    pub salt: u64,
}

impl Segment {
    /// The segment of that header, whose entries begin at `first`.
    pub fn begin(header: SegmentHeader, first: Position) -> Segment {
        let SegmentHeader {
            number,
            bytes,
            salt,
        } = header;
        Segment {
            number,
            first,
            bytes,
            salt,
        }
    }

    /// Where `position` stands in the file.
    pub fn offset(&self, position: Position) -> u64 {
        SEGMENT_HEADER_BYTES + (position.0 - self.first.0)
    }

    /// The position at `offset` of the file, which is past the header.
    pub fn position(&self, offset: u64) -> Position {
        Position(self.first.0 + (offset - SEGMENT_HEADER_BYTES))
    }
}

/// The segment that is written.
#[derive(Clone)]
pub(crate) struct Active {
    pub segment: Segment,
    pub file: Arc<dyn DiskFile>,
}

/// A segment file with a durable header and nothing else.
#[derive(Clone)]
pub(crate) struct NextSegment {
    pub header: SegmentHeader,
    pub file: Arc<dyn DiskFile>,
}

impl std::fmt::Debug for NextSegment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.header.fmt(f)
    }
}

/// The segments with entries, oldest first; empty in a WAL without entries.
#[derive(Debug)]
pub(crate) struct Segments {
    pub rows: Vec<Segment>,
}

impl Segments {
    /// The first position of the WAL.
    pub fn first(&self) -> Position {
        self.rows.first().map_or(Position(0), |s| s.first)
    }

    /// The segment that holds the entry at `position`, and where it ends, if
    /// another follows it.
    pub fn find(&self, position: Position) -> Option<(Segment, Option<Position>)> {
        let after = self.rows.partition_point(|s| s.first <= position);
        let segment = *self.rows.get(after.checked_sub(1)?)?;
        Some((segment, self.rows.get(after).map(|s| s.first)))
    }
}

/// The marker file that exists while a WAL is made from a backup.
pub(crate) const UNFINISHED: &str = "UNFINISHED";

/// A file's kind, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// A segment, by number.
    Segment(u64),
    /// A file on its way to be one.
    Spare(u64),
}

impl Name {
    /// The name of a file, `None` for what is not the WAL's.
    pub fn parse(name: &str) -> Option<Name> {
        let parsed = match name.strip_suffix(".wal") {
            Some(digits) => Name::Segment(digits.parse().ok()?),
            None => Name::Spare(name.strip_prefix("spare-")?.parse().ok()?),
        };
        // Each number has one name: without a sign, and with a fixed number of
        // zeros.
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Name::Segment(number) => write!(f, "{number:012}.wal"),
            Name::Spare(number) => write!(f, "spare-{number:012}"),
        }
    }
}
