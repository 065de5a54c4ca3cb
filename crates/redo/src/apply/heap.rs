//! The header, the record heap and the free list of index pages.
//!
//! Source: `page0page.h` (header), `page_create_low()` in `page0page.cc`,
//! `page_mem_free()` in `page0cur.cc`.

use super::FIL_PAGE_TYPE;
use crate::bytes::Frame;

/// `PAGE_N_DIR_SLOTS`.
pub(super) const N_DIR_SLOTS: usize = 38;
/// `PAGE_HEAP_TOP`.
pub(super) const HEAP_TOP: usize = 40;
/// `PAGE_N_HEAP`; bit 15 is set in ROW_FORMAT=COMPACT and DYNAMIC.
pub(super) const N_HEAP: usize = 42;
/// `PAGE_FREE`: the list of deleted records.
pub(super) const FREE: usize = 44;
/// `PAGE_GARBAGE`: bytes in deleted records.
pub(super) const GARBAGE: usize = 46;
/// `PAGE_LAST_INSERT`.
pub(super) const LAST_INSERT: usize = 48;
/// `PAGE_DIRECTION_B`, in its low 3 bits.
const DIRECTION: usize = 51;
/// `PAGE_N_DIRECTION`.
const N_DIRECTION: usize = 52;
/// `PAGE_N_RECS`.
pub(super) const N_RECS: usize = 54;
/// End of what `page_create_low()` clears of the header (`PAGE_HEADER_PRIV_END`).
const PRIV_END: usize = 64;
/// `PAGE_LEVEL`: 0 in a leaf page.
pub(super) const LEVEL: usize = 64;
/// `PAGE_DATA`: the infimum's header.
const DATA: usize = 94;

/// `PAGE_DIR`: bytes after the record directory.
const DIR_END: usize = 8;

/// `REC_NEXT`: the distance from the link to the next record to the record.
pub(super) const REC_NEXT: usize = 2;

/// Offsets that differ between the two record formats.
#[derive(Clone, Copy)]
pub(super) struct Format {
    /// ROW_FORMAT=COMPACT or DYNAMIC.
    pub(super) compact: bool,
    /// The infimum record.
    pub(super) infimum: usize,
    /// The supremum record.
    pub(super) supremum: usize,
    /// Where user records begin.
    pub(super) heap_bottom: usize,
    /// Fixed bytes before a record: `REC_N_OLD_EXTRA_BYTES`, `REC_N_NEW_EXTRA_BYTES`.
    pub(super) extra: usize,
}

/// ROW_FORMAT=REDUNDANT.
pub(super) const REDUNDANT: Format = Format {
    compact: false,
    infimum: 101,
    supremum: 116,
    heap_bottom: 125,
    extra: 6,
};
/// ROW_FORMAT=COMPACT and DYNAMIC.
pub(super) const COMPACT: Format = Format {
    compact: true,
    infimum: 99,
    supremum: 112,
    heap_bottom: 120,
    extra: 5,
};

const PAGE_INDEX: usize = 17855;
const PAGE_RTREE: usize = 17854;
const PAGE_INSTANT: usize = 18;
const LEFT: u8 = 1;
const RIGHT: u8 = 2;
const NO_DIRECTION: u8 = 5;

/// Infimum and supremum of an empty page.
const REDUNDANT_ENDS: &[u8; 31] =
    b"\x08\x01\x00\x00\x03\x00\x74infimum\x00\x09\x01\x00\x08\x03\x00\x00supremum\x00";
/// Infimum and supremum of an empty page.
const COMPACT_ENDS: &[u8; 26] = b"\x01\x00\x02\x00\x0dinfimum\x00\x01\x00\x0b\x00\x00supremum";

/// Makes the page an empty index page, except for the fields that INIT_PAGE and
/// later WRITE records set.
pub(super) fn create(f: &mut Frame<'_>, compact: bool) -> Option<()> {
    let fmt = if compact { COMPACT } else { REDUNDANT };
    f.w2(FIL_PAGE_TYPE, PAGE_INDEX)?;
    f.fill(N_DIR_SLOTS, PRIV_END - N_DIR_SLOTS, 0)?;
    f.w2(N_DIR_SLOTS, 2)?;
    f.w1(DIRECTION, NO_DIRECTION)?;
    f.w2(N_HEAP, if compact { 0x8002 } else { 2 })?;
    f.w2(HEAP_TOP, fmt.heap_bottom)?;
    f.put(
        DATA,
        if compact {
            COMPACT_ENDS
        } else {
            REDUNDANT_ENDS
        },
    )?;
    let dir_end = f.len().checked_sub(DIR_END)?;
    f.fill(fmt.heap_bottom, dir_end.checked_sub(fmt.heap_bottom)?, 0)?;
    f.w2(dir_end.checked_sub(4)?, fmt.supremum)?;
    f.w2(dir_end.checked_sub(2)?, fmt.infimum)
}

/// The offset of the directory's slot `n`; slot 0 is the last one in the page.
pub(super) fn slot(f: &Frame<'_>, n: usize) -> Option<usize> {
    f.len()
        .checked_sub(DIR_END + 2)?
        .checked_sub(n.checked_mul(2)?)
}

/// Checks that the page is an index page and carries the number `page_no`.
pub(super) fn is_index(f: &Frame<'_>, page_no: u32) -> Option<()> {
    let index = matches!(f.r2(FIL_PAGE_TYPE)?, PAGE_INDEX | PAGE_RTREE | PAGE_INSTANT);
    (index && f.r4(super::FIL_PAGE_OFFSET)? == page_no).then_some(())
}

/// The number of records that the directory slot at `rec` owns; 0 if no slot
/// points at `rec`.
pub(super) fn n_owned(f: &Frame<'_>, fmt: Format, rec: usize) -> Option<usize> {
    Some(usize::from(f.r1(rec.checked_sub(fmt.extra)?)? & 15))
}

/// Sets the number that [`n_owned`] reads.
pub(super) fn set_n_owned(f: &mut Frame<'_>, fmt: Format, rec: usize, n: usize) -> Option<()> {
    let at = rec.checked_sub(fmt.extra)?;
    let byte = f.r1(at)? & 0xf0 | u8::try_from(n & 15).ok()?;
    f.w1(at, byte)
}

/// The record's number in the heap (13 bits).
pub(super) fn heap_no(f: &Frame<'_>, fmt: Format, rec: usize) -> Option<usize> {
    Some(f.r2(rec.checked_sub(fmt.extra - 1)?)? >> 3)
}

/// Updates the page's insert direction (not in R-trees) and the number of
/// records.
pub(super) fn note_insert(
    f: &mut Frame<'_>,
    last_insert: usize,
    prev: usize,
    next: usize,
) -> Option<()> {
    #[allow(clippy::cast_possible_truncation)]
    let is_rtree = f.r1(FIL_PAGE_TYPE + 1)? == PAGE_RTREE as u8;
    if !is_rtree {
        let dir = f.r1(DIRECTION)?;
        let (new, count) = if last_insert != 0 && last_insert == prev && dir & 7 != LEFT {
            (RIGHT, f.r2(N_DIRECTION)? + 1)
        } else if last_insert != 0 && last_insert == next && dir & 7 != RIGHT {
            (LEFT, f.r2(N_DIRECTION)? + 1)
        } else {
            (NO_DIRECTION, 0)
        };
        f.w1(DIRECTION, dir & !7 | new)?;
        f.w2(N_DIRECTION, count)?;
    }
    f.w2(N_RECS, f.r2(N_RECS)? + 1)
}

/// Frees the space of a record: the last record of the heap lowers the heap's
/// top, any other record goes to the free list. The freed bytes become zeros, as
/// in InnoDB.
pub(super) fn free(
    f: &mut Frame<'_>,
    fmt: Format,
    rec: usize,
    data_size: usize,
    extra_size: usize,
) -> Option<()> {
    let head = f.r2(FREE)?;
    let n_heap = f.r2(N_HEAP)?.checked_sub(1)?;
    let heap_no = heap_no(f, fmt, rec)? | if n_heap & 0x8000 != 0 { 0x8000 } else { 0 };
    let end = rec.checked_add(data_size)?;
    let from = if n_heap == heap_no {
        let spare = f.r2(HEAP_TOP)?.checked_sub(end)?;
        let from = rec.checked_sub(extra_size)?;
        f.w2(HEAP_TOP, from)?;
        f.w2(N_HEAP, n_heap)?;
        f.w2(GARBAGE, f.r2(GARBAGE)?.checked_sub(spare)?)?;
        from
    } else {
        f.w2(FREE, rec)?;
        f.w2(
            GARBAGE,
            f.r2(GARBAGE)?
                .checked_add(extra_size)?
                .checked_add(data_size)?,
        )?;
        let next = match head {
            0 => 0,
            _ if fmt.compact => head.wrapping_sub(rec),
            _ => head,
        };
        f.w2(rec.checked_sub(REC_NEXT)?, next)?;
        rec
    };
    f.w2(LAST_INSERT, 0)?;
    f.w2(N_RECS, f.r2(N_RECS)?.checked_sub(1)?)?;
    f.fill(from, end.checked_sub(from)?, 0)
}
