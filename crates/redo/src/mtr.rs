//! One mini-transaction: where it ends, whether its checksum is right.
//!
//! ```text
//! records, each: type+flags byte, length, fields    first byte never 0 or 1
//! end byte       0 or 1, alternating with the log file's wraps
//! CRC-32C        4 bytes, big-endian, of the records without the end byte
//! ```
//!
//! Source: the comment in `mtr0types.h`, `log_parse_start()` in `log0recv.cc`.

use crate::{Items, Records, RedoError, varint};
use xylem_types::Lsn;

/// The longest mini-transaction accepted, in bytes. InnoDB's own recovery
/// gives up at about 1 MiB (`recv_sys_t::MTR_SIZE_MAX`) and the largest seen
/// under load was 31 KB; the bound only keeps a corrupt stream from growing a
/// buffer without end.
pub const MTR_SIZE_MAX: usize = 16 << 20;

/// The end byte and the checksum.
pub(crate) const TAIL: usize = 1 + 4;

/// A whole mini-transaction whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtr<'a> {
    start: Lsn,
    records: &'a [u8],
    end_byte: u8,
}

/// What [`parse_mtr`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseStep<'a> {
    /// A mini-transaction; the next begins [`Mtr::size`] bytes further on.
    Mtr(Mtr<'a>),
    /// The bytes end before the mini-transaction does.
    NeedMore,
}

impl<'a> Mtr<'a> {
    /// The LSN of its first byte.
    pub fn start_lsn(&self) -> Lsn {
        self.start
    }

    /// The LSN after it, which is the LSN its pages carry.
    pub fn end_lsn(&self) -> Lsn {
        Lsn(self.start.0.saturating_add(self.size() as u64))
    }

    /// Its length in bytes, with end byte and checksum.
    pub fn size(&self) -> usize {
        self.records.len() + TAIL
    }

    /// Its records, as they stand in the log.
    pub fn record_bytes(&self) -> &'a [u8] {
        self.records
    }

    /// The byte after the records, 0 or 1. In a log file it tells this turn
    /// of the ring from the one before: [`crate::LogGeometry::sequence_bit`].
    pub fn end_byte(&self) -> u8 {
        self.end_byte
    }

    /// Its records, decoded one by one.
    pub fn records(&self) -> Records<'a> {
        Records::of_mtr(self.records, self.start)
    }

    /// Itself split by page, for storage.
    pub fn items(&self) -> Items<'a> {
        Items::new(self.records, self.start)
    }
}

/// What stands where a record or the end byte may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// A record of so many bytes, its first byte and its length among them.
    Record(usize),
    /// The end byte.
    End(u8),
    /// The bytes end before that is known: at most 4 are needed.
    NeedMore,
}

/// Reads what `bytes` begin with; `None` when a record's length is written in
/// a reserved form.
#[inline]
pub(crate) fn head(bytes: &[u8]) -> Option<Head> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Some(Head::NeedMore);
    };
    if first <= 1 {
        return Some(Head::End(first));
    }
    let short = usize::from(first & 15);
    if short > 0 {
        return Some(Head::Record(1 + short));
    }
    let Some(&length) = rest.first() else {
        return Some(Head::NeedMore);
    };
    // A record's length has at most 3 bytes; the rest is reserved.
    if varint::len_from_first(length) > 3 {
        return None;
    }
    Some(match varint::decode(rest) {
        Some((add, _)) => Head::Record(1 + add as usize + 15),
        None => Head::NeedMore,
    })
}

/// Reads the mini-transaction that begins at `bytes[0]`, whose LSN is `lsn`.
///
/// A cut tail is [`ParseStep::NeedMore`], never an error.
///
/// # Errors
/// [`RedoError`] when what stands there is not a mini-transaction.
pub fn parse_mtr(bytes: &[u8], lsn: Lsn) -> Result<ParseStep<'_>, RedoError> {
    parse_from(bytes, lsn, &mut 0)
}

/// [`parse_mtr`] that begins its search for the end at `*scanned`, a record's
/// start it reached before, and leaves there how far it got.
pub(crate) fn parse_from<'a>(
    bytes: &'a [u8],
    lsn: Lsn,
    scanned: &mut usize,
) -> Result<ParseStep<'a>, RedoError> {
    let mut at = *scanned;
    let end_byte = loop {
        *scanned = at;
        let rest = bytes.get(at..).unwrap_or_default();
        let size = match head(rest) {
            Some(Head::NeedMore) => return Ok(ParseStep::NeedMore),
            Some(Head::End(first)) => break first,
            Some(Head::Record(size)) => size,
            None => {
                return Err(RedoError::BadLength {
                    lsn: lsn_at(lsn, at),
                });
            }
        };
        at += size;
        if at > MTR_SIZE_MAX - TAIL {
            return Err(RedoError::TooLong { lsn });
        }
    };
    if at == 0 {
        return Err(RedoError::Empty { lsn });
    }
    let (Some(records), Some(stored)) = (bytes.get(..at), crate::bytes::be32(bytes, at + 1)) else {
        return Ok(ParseStep::NeedMore);
    };
    let computed = crc32c::crc32c(records);
    if computed != stored {
        return Err(RedoError::Checksum {
            lsn,
            stored,
            computed,
        });
    }
    *scanned = 0;
    Ok(ParseStep::Mtr(Mtr {
        start: lsn,
        records,
        end_byte,
    }))
}

/// The LSN of byte `at` of a mini-transaction.
pub(crate) fn lsn_at(start: Lsn, at: usize) -> Lsn {
    Lsn(start.0.saturating_add(at as u64))
}
