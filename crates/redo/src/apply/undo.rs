//! Undo log pages.
//!
//! Source: `trx_undo_page_init()` in `trx0undo.cc`, `log_phys_t::undo_append()`
//! in `log0recv.cc`.

use super::{FIL_PAGE_TYPE, TRAILER};
use crate::bytes::Frame;

/// `TRX_UNDO_PAGE_HDR`; it begins with the page's undo type, 2 bytes.
const PAGE_HDR: usize = 38;
/// `TRX_UNDO_PAGE_START`.
const PAGE_START: usize = PAGE_HDR + 2;
/// `TRX_UNDO_PAGE_FREE`: the offset of the next record.
const PAGE_FREE: usize = PAGE_HDR + 4;
/// `TRX_UNDO_PAGE_NODE`: two file addresses of 4 + 2 bytes.
const PAGE_NODE: usize = PAGE_HDR + 6;
/// `TRX_UNDO_SEG_HDR`: the end of the page header.
const SEG_HDR: usize = PAGE_HDR + 18;
/// The end of the segment header, which `UNDO_INIT` keeps.
const SEG_HDR_END: usize = SEG_HDR + 30;
const FIL_PAGE_UNDO_LOG: usize = 2;

/// Makes the page an empty undo log page.
pub(super) fn init(f: &mut Frame<'_>) -> Option<()> {
    f.w2(FIL_PAGE_TYPE, FIL_PAGE_UNDO_LOG)?;
    f.w2(PAGE_HDR, 0)?;
    f.w2(PAGE_START, SEG_HDR)?;
    f.w2(PAGE_FREE, SEG_HDR)?;
    for address in [PAGE_NODE, PAGE_NODE + 6] {
        f.fill(address, 4, 0xff)?;
        f.w2(address + 4, 0)?;
    }
    let rest = f.len().checked_sub(SEG_HDR_END + TRAILER)?;
    f.fill(SEG_HDR_END, rest, 0)
}

/// Appends a record with the links before and after it.
pub(super) fn append(f: &mut Frame<'_>, data: &[u8]) -> Option<()> {
    let free = f.r2(PAGE_FREE)?;
    let limit = f.len().checked_sub(TRAILER)?;
    if free < SEG_HDR || free + data.len() + 6 >= limit {
        return None;
    }
    let end = free + 4 + data.len();
    f.w2(PAGE_FREE, end)?;
    f.w2(free, end)?;
    f.put(free + 2, data)?;
    f.w2(end - 2, free)
}
