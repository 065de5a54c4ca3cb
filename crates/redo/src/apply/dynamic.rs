//! Inserts and deletes ROW_FORMAT=COMPACT and DYNAMIC records.
//!
//! The header before a record's data consists of the lengths of variable fields,
//! the null flags, and 5 bytes: info bits and n_owned (1 byte), heap number
//! (13 bits), status (3 bits), distance to the next record (2 bytes, modulo
//! 64 KiB).
//!
//! Source: `page_apply_insert_dynamic()` and `page_apply_delete_dynamic()` in
//! `page0cur.cc`; `rem0rec.h`.

use super::directory::{self, MAX_OWNED, MIN_OWNED};
use super::heap::{
    self, COMPACT as FMT, FREE, GARBAGE, HEAP_TOP, LAST_INSERT, LEVEL, N_DIR_SLOTS, N_HEAP, N_RECS,
    REC_NEXT,
};
use crate::bytes::Frame;

/// `REC_STATUS_NODE_PTR`.
const NODE_PTR: usize = 1;
/// `REC_STATUS_INSTANT`.
const INSTANT: usize = 4;

/// The fields of an insert record.
pub(super) struct Insert<'a> {
    pub(super) page_no: u32,
    pub(super) reuse: bool,
    pub(super) prev: usize,
    pub(super) shift: usize,
    pub(super) header: usize,
    pub(super) header_common: usize,
    pub(super) data_common: usize,
    pub(super) data: &'a [u8],
}

/// The offset that `rec` links to, which is not checked.
fn linked(f: &Frame<'_>, rec: usize) -> Option<usize> {
    Some((rec + f.r2(rec.checked_sub(REC_NEXT)?)?) & 0xffff)
}

/// Whether a record may stand at `rec`.
fn in_heap(rec: usize, top: usize) -> bool {
    rec >= FMT.heap_bottom + FMT.extra && rec <= top
}

/// The record that owns the slot of `rec`, at most `steps` records later, and
/// the number of records that it owns.
fn owner_of(f: &Frame<'_>, rec: usize, limit: usize, steps: usize) -> Option<(usize, usize)> {
    let mut at = rec;
    for _ in 0..=steps {
        match heap::n_owned(f, FMT, at)? {
            0 => at = linked(f, at)?,
            n => return Some((at, n)),
        }
        if at != FMT.supremum && !in_heap(at, limit) {
            return None;
        }
    }
    None
}

/// Applies INSERT_HEAP_DYNAMIC or INSERT_REUSE_DYNAMIC; `None` if it does not
/// fit the page.
pub(super) fn insert(f: &mut Frame<'_>, r: &Insert<'_>) -> Option<()> {
    let n_slots = f.r2(N_DIR_SLOTS)?;
    let n_heap = f.r2(N_HEAP)?;
    let leaf = f.r2(LEVEL)? == 0;
    let literal = r.header >> 3;
    if n_slots < 2
        || n_heap < 0x8002
        || n_heap & 0x7fff >= f.len() / FMT.extra
        || n_heap & 0x7fff < n_slots
        || f.r2(FMT.supremum - REC_NEXT)? != 0
        || (r.header & INSTANT != 0 && !leaf)
        || literal > r.data.len()
    {
        return None;
    }
    heap::is_index(f, r.page_no)?;
    let last_slot = heap::slot(f, n_slots - 1)?;
    let top = f.r2(HEAP_TOP)?;
    if top < FMT.heap_bottom
        || top > last_slot
        || f.r2(last_slot)? != FMT.supremum
        || f.r2(heap::slot(f, 0)?)? != FMT.infimum
    {
        return None;
    }
    let prev = FMT.infimum.checked_add(r.prev)?;
    if r.prev != 0 && !in_heap(prev, top) {
        return None;
    }
    let next = linked(f, prev)?;
    if next != FMT.supremum && !in_heap(next, top) {
        return None;
    }
    let (owner, owned) = owner_of(f, next, top, MAX_OWNED)?;
    if owned > MAX_OWNED {
        return None;
    }
    let owner_slot = directory::find(f, last_slot, owner)?;

    let extra = FMT.extra + r.header_common + literal;
    let data_size = r.data_common + r.data.len() - literal;
    let (start, heap_no);
    if r.reuse {
        let free = f.r2(FREE)?;
        if !in_heap(free, top) {
            return None;
        }
        let at = free.checked_sub(extra)?;
        start = if r.shift & 1 != 0 {
            at.checked_sub(r.shift >> 1)?
        } else {
            at + (r.shift >> 1)
        };
        let garbage = f.r2(GARBAGE)?;
        if start < FMT.heap_bottom || start + extra + data_size > top || garbage < extra + data_size
        {
            return None;
        }
        let next_free = match f.r2(free - REC_NEXT)? {
            0 => 0,
            link => match (free + link) & 0xffff {
                at if in_heap(at, top) => at,
                _ => return None,
            },
        };
        heap_no = heap::heap_no(f, FMT, free)?;
        f.w2(FREE, next_free)?;
        f.w2(GARBAGE, garbage - extra - data_size)?;
    } else {
        if top + extra + data_size > last_slot {
            return None;
        }
        start = top;
        heap_no = n_heap & 0x7fff;
        f.w2(N_HEAP, n_heap + 1)?;
        f.w2(HEAP_TOP, top + extra + data_size)?;
    }

    let rec = start + extra;
    let (header, data) = r.data.split_at_checked(literal)?;
    f.put(start, header)?;
    f.copy(
        prev.checked_sub(FMT.extra + r.header_common)?,
        start + literal,
        r.header_common,
    )?;
    let status = if leaf { r.header & INSTANT } else { NODE_PTR };
    f.w1(rec - 5, ((r.header & 3) << 4) as u8)?;
    f.w2(rec - 4, heap_no << 3 | status)?;
    f.w2(rec - REC_NEXT, next.wrapping_sub(rec))?;
    let last_insert = f.r2(LAST_INSERT)?;
    f.w2(LAST_INSERT, rec)?;
    f.w2(prev - REC_NEXT, rec.wrapping_sub(prev))?;
    f.copy(prev, rec, r.data_common)?;
    f.put(rec + r.data_common, data)?;
    heap::set_n_owned(f, FMT, owner, owned + 1)?;
    heap::note_insert(f, last_insert, prev, next)?;
    if owned == MAX_OWNED {
        directory::split(f, FMT, owner_slot)
    } else {
        Some(())
    }
}

/// Applies DELETE_ROW_FORMAT_DYNAMIC; `None` if it does not fit the page.
pub(super) fn delete(
    f: &mut Frame<'_>,
    page_no: u32,
    prev: usize,
    header_size: usize,
    data_size: usize,
) -> Option<()> {
    let n_slots = f.r2(N_DIR_SLOTS)?;
    let n_recs = f.r2(N_RECS)?;
    if n_recs == 0
        || n_slots < 2
        || f.r2(FMT.supremum - REC_NEXT)? != 0
        || f.r2(N_HEAP)? & 0x8000 == 0
    {
        return None;
    }
    heap::is_index(f, page_no)?;
    let last_slot = heap::slot(f, n_slots - 1)?;
    let prev = FMT.infimum.checked_add(prev)?;
    if prev > last_slot {
        return None;
    }
    let rec = linked(f, prev)?;
    let extra = FMT.extra + header_size;
    if rec < FMT.heap_bottom + extra || last_slot < rec.checked_add(data_size)? {
        return None;
    }
    let next = linked(f, rec)?;
    if next != FMT.supremum && !in_heap(next, last_slot) {
        return None;
    }
    let (mut owner, owned) = owner_of(f, rec, last_slot, n_recs)?;
    let owned = owned - 1;
    let slot = directory::find(f, last_slot, owner)?;
    if owner == rec {
        owner = prev;
        f.w2(slot, owner)?;
    }
    f.w2(prev - REC_NEXT, next.wrapping_sub(prev))?;
    heap::set_n_owned(f, FMT, owner, owned)?;
    heap::free(f, FMT, rec, data_size, extra)?;
    if owned < MIN_OWNED {
        directory::balance(f, FMT, (heap::slot(f, 0)?.checked_sub(slot)?) / 2)?;
    }
    Some(())
}
