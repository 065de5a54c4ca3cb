//! The record directory of index pages.
//!
//! Each slot points at the last of the 4 to 8 records that it owns. The first
//! slot owns only the infimum, the last slot 1 to 8 records. The slots have 2
//! bytes each and end at the page's trailer, in reverse order.
//!
//! Source: `page_dir_split_slot()` and `page_dir_balance_slot()` in
//! `page0cur.cc`.

use super::heap::{self, Format, HEAP_TOP, N_DIR_SLOTS, REC_NEXT};
use crate::bytes::Frame;

/// `PAGE_DIR_SLOT_MIN_N_OWNED`.
pub(super) const MIN_OWNED: usize = 4;
/// `PAGE_DIR_SLOT_MAX_N_OWNED`.
pub(super) const MAX_OWNED: usize = 8;

/// The record after `rec` (`page_rec_next_get()`).
fn next(f: &Frame<'_>, fmt: Format, rec: usize) -> Option<usize> {
    let link = f.r2(rec.checked_sub(REC_NEXT)?)?;
    let at = match link {
        0 => return None,
        _ if fmt.compact => (rec + link) & (f.len() - 1),
        _ => link,
    };
    (at >= fmt.supremum && at <= f.r2(HEAP_TOP)?).then_some(at)
}

/// The offset of the slot that points at `rec`, searched from the offset `last`
/// upwards. The infimum's slot is not searched.
pub(super) fn find(f: &Frame<'_>, last: usize, rec: usize) -> Option<usize> {
    let slots = f.0.get(last..heap::slot(f, 0)?)?;
    let (slots, _) = slots.as_chunks::<2>();
    let want = u16::try_from(rec).ok()?.to_be_bytes();
    let is_it = |slot: &[u8; 2]| u16::from_ne_bytes(*slot) == u16::from_ne_bytes(want);
    // A group at a time without a branch for each slot, which compilers turn into
    // vector instructions.
    let (groups, rest) = slots.as_chunks::<16>();
    let mut before = 0;
    for group in groups {
        if group.iter().fold(false, |hit, slot| hit | is_it(slot)) {
            return Some(last + 2 * (before + group.iter().position(is_it)?));
        }
        before += group.len();
    }
    Some(last + 2 * (before + rest.iter().position(is_it)?))
}

/// Splits the slot at offset `slot`, which owns one record too many.
pub(super) fn split(f: &mut Frame<'_>, fmt: Format, slot: usize) -> Option<()> {
    const OWNED: usize = MAX_OWNED + 1;
    let mut rec = f.r2(slot.checked_add(2)?)?;
    if rec < heap::COMPACT.infimum || rec > f.r2(HEAP_TOP)? {
        return None;
    }
    for _ in 0..OWNED / 2 {
        rec = next(f, fmt, rec)?;
    }
    let n_slots = f.r2(N_DIR_SLOTS)?;
    let last = heap::slot(f, n_slots)?;
    f.copy(last.checked_add(2)?, last, slot.checked_sub(last)?)?;
    f.w2(N_DIR_SLOTS, n_slots + 1)?;
    f.w2(slot, rec)?;
    heap::set_n_owned(f, fmt, rec, OWNED / 2)?;
    let upper = f.r2(slot.checked_sub(2)?)?;
    heap::set_n_owned(f, fmt, upper, OWNED - OWNED / 2)
}

/// Moves a record to slot number `n`, which owns one record too few, from the
/// next slot, or merges the two slots.
pub(super) fn balance(f: &mut Frame<'_>, fmt: Format, n: usize) -> Option<()> {
    let n_slots = f.r2(N_DIR_SLOTS)?;
    if n + 1 == n_slots {
        // The last slot has no minimum.
        return Some(());
    }
    let slot = heap::slot(f, n)?;
    let upper = f.r2(slot.checked_sub(2)?)?;
    let rec = f.r2(slot)?;
    let owned = heap::n_owned(f, fmt, upper)?;
    if owned <= MIN_OWNED {
        heap::set_n_owned(f, fmt, rec, 0)?;
        heap::set_n_owned(f, fmt, upper, owned + (MIN_OWNED - 1))?;
        let last = heap::slot(f, n_slots.checked_sub(1)?)?;
        f.copy(last, last.checked_add(2)?, slot.checked_sub(last)?)?;
        f.w2(last, 0)?;
        return f.w2(N_DIR_SLOTS, n_slots - 1);
    }
    let new = next(f, fmt, rec)?;
    heap::set_n_owned(f, fmt, rec, 0)?;
    heap::set_n_owned(f, fmt, new, MIN_OWNED)?;
    heap::set_n_owned(f, fmt, upper, owned - 1)?;
    f.w2(slot, new)
}
