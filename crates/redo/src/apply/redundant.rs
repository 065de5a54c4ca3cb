//! Inserts and deletes ROW_FORMAT=REDUNDANT records.
//!
//! The header before a record's data consists of the end offsets of the fields
//! (1 or 2 bytes each, in reverse order) and 6 bytes: info bits and n_owned
//! (1 byte), heap number (13 bits), number of fields (10 bits), 1-byte-offsets
//! flag (1 bit), offset of the next record (2 bytes).
//!
//! Source: `page_apply_insert_redundant()` and `page_apply_delete_redundant()`
//! in `page0cur.cc`; `rem0rec.h`, `rem0rec.inl`.

use super::directory::{self, MAX_OWNED, MIN_OWNED};
use super::heap::{
    self, FREE, GARBAGE, HEAP_TOP, LAST_INSERT, N_DIR_SLOTS, N_HEAP, N_RECS, REC_NEXT,
    REDUNDANT as FMT,
};
use crate::bytes::{Frame, be16};

/// `REC_MAX_N_FIELDS`.
const MAX_FIELDS: usize = 1023;
/// The longest header: 6 bytes and the end offsets of all fields.
const HEADER_MAX: usize = FMT.extra + 2 * MAX_FIELDS;

/// The fields of an insert record.
pub(super) struct Insert<'a> {
    pub(super) page_no: u32,
    pub(super) reuse: bool,
    pub(super) prev: usize,
    pub(super) header: usize,
    pub(super) header_common: usize,
    pub(super) data_common: usize,
    pub(super) data: &'a [u8],
}

/// The sizes of a record's header and data, in bytes.
fn sizes(f: &Frame<'_>, rec: usize) -> Option<(usize, usize)> {
    let n_fields = (f.r2(rec.checked_sub(4)?)? & 0x7fe) >> 1;
    let short = f.r1(rec.checked_sub(3)?)? & 1 != 0;
    let extra = FMT.extra + if short { n_fields } else { 2 * n_fields };
    let start = rec.checked_sub(extra)?;
    let data = match (n_fields, short) {
        (0, _) => 0,
        (_, true) => usize::from(f.r1(start)? & 0x7f),
        (_, false) => f.r2(start)? & 0x3fff,
    };
    Some((extra, data))
}

/// Whether a record may stand at `rec`.
fn in_heap(rec: usize, top: usize) -> bool {
    rec >= FMT.heap_bottom + FMT.extra && rec <= top
}

/// Applies INSERT_HEAP_REDUNDANT or INSERT_REUSE_REDUNDANT; `None` if it does
/// not fit the page.
pub(super) fn insert(f: &mut Frame<'_>, r: &Insert<'_>) -> Option<()> {
    let n_slots = f.r2(N_DIR_SLOTS)?;
    let n_heap = f.r2(N_HEAP)?;
    if n_slots < 2
        || n_heap < n_slots
        || n_heap < 2
        || n_heap >= f.len() / FMT.extra
        || f.r2(FMT.supremum - REC_NEXT)? != 0
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
    if r.prev != 0 && !(prev > FMT.heap_bottom + FMT.extra && prev <= top) {
        return None;
    }
    let (prev_extra, prev_data) = sizes(f, prev)?;
    if prev_extra == FMT.extra
        || (r.prev != 0 && prev.checked_sub(prev_extra)? < FMT.heap_bottom)
        || (r.header_common != 0 && prev.checked_sub(r.header_common)? < FMT.heap_bottom)
        || prev + prev_data > top
    {
        return None;
    }
    let next = f.r2(prev - REC_NEXT)?;
    if next != FMT.supremum && !in_heap(next, top) {
        return None;
    }

    let n_fields = (r.header >> 3) + 1;
    if n_fields > MAX_FIELDS {
        return None;
    }
    let short = r.header >> 2 & 1;
    let extra = FMT.extra + if short != 0 { n_fields } else { 2 * n_fields };
    let literal = extra.checked_sub(r.header_common + FMT.extra)?;

    let (owner, owned) = owner_of(f, next, top, MAX_OWNED)?;
    if owned > MAX_OWNED {
        return None;
    }
    let owner_slot = directory::find(f, last_slot, owner)?;

    // The new record's header: literal bytes, then bytes of its predecessor.
    let mut buf = [0u8; HEADER_MAX];
    let header = buf.get_mut(..extra)?;
    header
        .get_mut(..literal)?
        .copy_from_slice(r.data.get(..literal)?);
    let common = f.0.get(prev.checked_sub(extra - literal)?..prev)?;
    header.get_mut(literal..)?.copy_from_slice(common);
    let count = (n_fields << 1) as u16;
    let fixed = header.get_mut(extra - FMT.extra..)?;
    let &mut [ref mut info, _, ref mut high, ref mut low, ..] = fixed else {
        return None;
    };
    *info = ((r.header & 3) << 4) as u8;
    *high = *high & 0xf8 | (count >> 8) as u8;
    *low = (count & 0xfe) as u8 | short as u8;
    let data_size = if short != 0 {
        usize::from(*header.first()? & 0x7f)
    } else {
        usize::from(be16(header, 0)? & 0x3fff)
    };
    if literal + data_size.checked_sub(r.data_common)? != r.data.len() {
        return None;
    }

    let start;
    if r.reuse {
        let free = f.r2(FREE)?;
        if !in_heap(free, top) {
            return None;
        }
        let (free_extra, free_data) = sizes(f, free)?;
        start = free.checked_sub(free_extra)?;
        let next_free = f.r2(free - REC_NEXT)?;
        let garbage = f.r2(GARBAGE)?;
        if start < FMT.heap_bottom
            || free + free_data > top
            || extra + data_size > free_extra + free_data
            || garbage < free_extra + free_data
            || (next_free != 0 && !(next_free > FMT.heap_bottom + FMT.extra && next_free <= top))
        {
            return None;
        }
        f.w2(GARBAGE, garbage - extra - data_size)?;
        set_heap_no(header, heap::heap_no(f, FMT, free)?)?;
        f.w2(FREE, next_free)?;
    } else {
        if top + extra + data_size > last_slot {
            return None;
        }
        start = top;
        set_heap_no(header, n_heap)?;
        f.w2(N_HEAP, n_heap + 1)?;
        f.w2(HEAP_TOP, top + extra + data_size)?;
    }

    let last_insert = f.r2(LAST_INSERT)?;
    f.put(start, header)?;
    let rec = start + extra;
    f.w2(LAST_INSERT, rec)?;
    f.w2(prev - REC_NEXT, rec)?;
    f.copy(prev, rec, r.data_common)?;
    f.put(rec + r.data_common, r.data.get(literal..)?)?;
    heap::set_n_owned(f, FMT, owner, owned + 1)?;
    heap::note_insert(f, last_insert, prev, next)?;
    if owned == MAX_OWNED {
        directory::split(f, FMT, owner_slot)
    } else {
        Some(())
    }
}

/// Sets the heap number in `header`, the whole header of a record.
fn set_heap_no(header: &mut [u8], n: usize) -> Option<()> {
    let at = header.len().checked_sub(5)?;
    let low = be16(header, at)? & 7;
    let value = u16::try_from(n << 3 & 0xfff8).ok()? | low;
    crate::bytes::put(header, at, &value.to_be_bytes())
}

/// The record that owns the slot of `rec`, at most `steps` records later, and
/// the number of records that it owns.
fn owner_of(f: &Frame<'_>, rec: usize, limit: usize, steps: usize) -> Option<(usize, usize)> {
    let mut at = rec;
    for _ in 0..=steps {
        match heap::n_owned(f, FMT, at)? {
            0 => at = f.r2(at - REC_NEXT)?,
            n => return Some((at, n)),
        }
        if at != FMT.supremum && !in_heap(at, limit) {
            return None;
        }
    }
    None
}

/// Applies DELETE_ROW_FORMAT_REDUNDANT; `None` if it does not fit the page.
pub(super) fn delete(f: &mut Frame<'_>, page_no: u32, prev: usize) -> Option<()> {
    let n_slots = f.r2(N_DIR_SLOTS)?;
    let n_recs = f.r2(N_RECS)?;
    if n_recs == 0
        || n_slots < 2
        || f.r2(FMT.supremum - REC_NEXT)? != 0
        || f.r2(N_HEAP)? & 0x8000 != 0
    {
        return None;
    }
    heap::is_index(f, page_no)?;
    let last_slot = heap::slot(f, n_slots - 1)?;
    let prev = FMT.infimum.checked_add(prev)?;
    if prev > last_slot {
        return None;
    }
    let rec = f.r2(prev - REC_NEXT)?;
    if !in_heap(rec, last_slot) {
        return None;
    }
    let (extra, data) = sizes(f, rec)?;
    if rec < FMT.heap_bottom + extra || last_slot < rec + data {
        return None;
    }
    let next = f.r2(rec - REC_NEXT)?;
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
    f.w2(prev - REC_NEXT, next)?;
    heap::set_n_owned(f, FMT, owner, owned)?;
    heap::free(f, FMT, rec, data, extra)?;
    if owned < MIN_OWNED {
        directory::balance(f, FMT, (heap::slot(f, 0)?.checked_sub(slot)?) / 2)?;
    }
    Some(())
}
