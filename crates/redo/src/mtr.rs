//! Finds the end of a mini-transaction and checks its checksum.
//!
//! ```text
//! records, each: type+flags byte, length, fields    first byte never 0 or 1
//! end byte       0 or 1, alternating with the log file's wraps
//! CRC-32C        4 bytes, big-endian, of the records without the end byte
//! ```
//!
//! Source: the comment in `mtr0types.h`, `log_parse_start()` in `log0recv.cc`.

use crate::{Items, Records, RedoError, varint};
use xylem_types::{Lsn, PageId};

/// The longest mini-transaction accepted, in bytes. InnoDB's own recovery
/// refuses 1 MiB and more (`recv_sys_t::MTR_SIZE_MAX`), and real ones are much
/// smaller. The bound keeps a corrupt stream from growing a buffer without end.
pub const MTR_SIZE_MAX: usize = 16 << 20;

/// Bytes of the end byte and the checksum.
pub(crate) const TAIL: usize = 1 + 4;

/// A whole mini-transaction whose checksum matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtr<'a> {
    start: Lsn,
    records: &'a [u8],
    end_byte: u8,
}

/// The result of [`parse_mtr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseStep<'a> {
    /// A mini-transaction. The next one begins [`Mtr::size`] bytes later.
    Mtr(Mtr<'a>),
    /// The bytes end before the mini-transaction does.
    NeedMore,
}

impl<'a> Mtr<'a> {
    /// The LSN of the first byte.
    pub fn start_lsn(&self) -> Lsn {
        self.start
    }

    /// The LSN after the last byte. Pages that the mini-transaction changed carry
    /// this LSN.
    pub fn end_lsn(&self) -> Lsn {
        Lsn(self.start.0.saturating_add(self.size() as u64))
    }

    /// The length in bytes, including the end byte and the checksum.
    pub fn size(&self) -> usize {
        self.records.len() + TAIL
    }

    /// The encoded records, without the end byte and the checksum.
    pub fn record_bytes(&self) -> &'a [u8] {
        self.records
    }

    /// The byte after the records, 0 or 1. In a log file it distinguishes this
    /// turn of the ring from the previous one:
    /// [`crate::LogGeometry::sequence_bit`].
    pub fn end_byte(&self) -> u8 {
        self.end_byte
    }

    /// Decodes the records one by one.
    pub fn records(&self) -> Records<'a> {
        Records::of_mtr(self.records, self.start)
    }

    /// Calls `each` with the page, the place and the length of each run
    /// ([`crate::MtrItem::Page`]) of a mini-transaction that consists of runs of
    /// ordinary pages only, none of which starts fresh: [`Mtr::items`] for most
    /// mini-transactions, in less time. `None`: it is no such one, or not
    /// valid; what `each` was called with until then means nothing.
    #[inline]
    pub fn ordinary_runs(&self, mut each: impl FnMut(PageId, u32, u32)) -> Option<()> {
        let mut records = self.records();
        let mut run: Option<(PageId, usize)> = None;
        let mut give = |(page, from): (PageId, usize), to: usize| {
            // A mini-transaction is not longer than `MTR_SIZE_MAX`.
            #[allow(clippy::cast_possible_truncation)]
            each(page, from as u32, (to - from) as u32);
        };
        loop {
            let at = records.position();
            if at == self.records.len() {
                if let Some(run) = run {
                    give(run, at);
                }
                return Some(());
            }
            let page = records.pass()?;
            match run {
                Some((of, _)) if of == page => {}
                Some(before) => {
                    give(before, at);
                    run = Some((page, at));
                }
                None => run = Some((page, at)),
            }
        }
    }

    /// Splits the mini-transaction by page, for storage.
    pub fn items(&self) -> Items<'a> {
        Items::new(self.records, self.start)
    }
}

/// The item at the start of some bytes: a record or the end byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// A record, and its size in bytes including the first byte and the length.
    Record(usize),
    /// The end byte.
    End(u8),
    /// Too few bytes to tell. At most 4 are needed.
    NeedMore,
}

/// Reads the head at the start of `bytes`; `None` if a record's length has a
/// reserved encoding.
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
    // A record's length has at most 3 bytes; longer encodings are reserved.
    if varint::len_from_first(length) > 3 {
        return None;
    }
    Some(match varint::decode(rest) {
        Some((add, _)) => Head::Record(1 + add as usize + 15),
        None => Head::NeedMore,
    })
}

/// Reads the mini-transaction at the start of `bytes`, whose LSN is `lsn`.
///
/// A truncated one is [`ParseStep::NeedMore`], never an error.
///
/// # Errors
/// [`RedoError`] when the bytes are not a mini-transaction.
pub fn parse_mtr(bytes: &[u8], lsn: Lsn) -> Result<ParseStep<'_>, RedoError> {
    parse_mtr_from(bytes, lsn, &mut 0)
}

/// [`parse_mtr`] that resumes its search for the end at `*scanned`, where an earlier
/// call with fewer bytes left it; 0 at first. So a long mini-transaction that arrives
/// in many pieces is searched once.
///
/// # Errors
/// As for [`parse_mtr`].
pub fn parse_mtr_from<'a>(
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
