//! Applies the records of a mini-transaction to a page.
//!
//! Source: `log_phys_t::apply()` and `recv_recover_page()` in `log0recv.cc`.

mod directory;
mod dynamic;
mod heap;
mod redundant;
mod undo;

use crate::bytes::{Frame, be32, be64, put};
use crate::{ApplyError, ApplyFault, Op, RecordKind, Records, SpaceFlags};
use xylem_types::{Lsn, PageId};

/// `FIL_PAGE_OFFSET`: the page's number.
pub(crate) const FIL_PAGE_OFFSET: usize = 4;
/// `FIL_PAGE_PREV` and, after it, `FIL_PAGE_NEXT`.
const FIL_PAGE_PREV: usize = 8;
/// `FIL_PAGE_LSN`, 8 bytes.
pub(crate) const FIL_PAGE_LSN: usize = 16;
/// `FIL_PAGE_TYPE`, 2 bytes.
pub(crate) const FIL_PAGE_TYPE: usize = 24;
/// `FIL_PAGE_SPACE_ID`.
pub(crate) const FIL_PAGE_SPACE_ID: usize = 34;
/// `FIL_PAGE_DATA_END`: bytes of the trailer.
pub(crate) const TRAILER: usize = 8;

/// The result of [`apply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// No record had an effect on the page.
    Nothing,
    /// The page changed and carries the end LSN.
    Changed,
    /// The page was freed. It is all zeros and carries no LSN.
    Freed,
}

/// The LSN that a page carries; `None` if `page` is too short.
pub fn page_lsn(page: &[u8]) -> Option<Lsn> {
    be64(page, FIL_PAGE_LSN).map(Lsn)
}

/// Applies to `page` the records that one mini-transaction has for it.
///
/// `page` is one physical page of a tablespace with the given flags, all zeros
/// if it was never written. `records` is the concatenation of the page's runs
/// ([`crate::MtrItem::Page`]) in the mini-transaction, which ends at `end_lsn`.
/// The caller applies mini-transactions in the order of their LSN, each only
/// once.
///
/// Afterwards the page carries `end_lsn`, and its checksum is stale until
/// [`crate::seal()`]. A freed page becomes all zeros, which InnoDB reads as an
/// unused page. `FREE_PAGE` allows this (`mtr0types.h`): no record changes the
/// page again before an `INIT_PAGE`.
///
/// # Errors
/// [`ApplyError`] when the records do not fit the page. The contents of the
/// page are then undefined.
pub fn apply(
    page: &mut [u8],
    page_id: PageId,
    flags: SpaceFlags,
    end_lsn: Lsn,
    records: &[u8],
) -> Result<Applied, ApplyError> {
    let fail = |kind, fault| ApplyError {
        page: page_id,
        end_lsn,
        kind,
        fault,
    };
    let want = flags.physical_page_size();
    if page.len() != want {
        return Err(fail(
            None,
            ApplyFault::PageSize {
                got: page.len(),
                want,
            },
        ));
    }
    let mut frame = Frame(page);
    let mut applied = Applied::Nothing;
    // Whether the page is known to be initialised and to have this id.
    let mut known = false;
    let mut records = Records::of_run(records, end_lsn);
    let (mut kind, mut named) = (RecordKind::Reserved, None);
    // Not as an iterator: it would move each record several times.
    loop {
        let record = match records.decode(&mut kind, &mut named) {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(fault) => return Err(fail(Some(kind), fault.into())),
        };
        let fail = |fault| fail(Some(record.kind), fault);
        if record.page != page_id || matches!(record.op, Op::File(_) | Op::TrimPages) {
            return Err(fail(ApplyFault::OtherPage(record.page)));
        }
        match record.op {
            Op::FreePage => {
                frame.0.fill(0);
                (applied, known) = (Applied::Freed, false);
                continue;
            }
            Op::InitPage => known = true,
            Op::Ignored => continue,
            _ if !known => {
                check_identity(&frame, page_id, flags).map_err(fail)?;
                known = true;
            }
            _ => {}
        }
        apply_one(&mut frame, page_id, flags, record.kind, &record.op).map_err(fail)?;
        applied = Applied::Changed;
    }
    if applied == Applied::Changed {
        stamp(frame.0, flags, end_lsn).ok_or(fail(None, ApplyFault::Corrupted))?;
    }
    Ok(applied)
}

/// Checks that the page carries its id. InnoDB refuses to read a page with
/// another id (`buf_page_t::read_complete()`). In system tablespaces older than
/// MySQL 4.1 the tablespace id is garbage.
fn check_identity(f: &Frame<'_>, id: PageId, flags: SpaceFlags) -> Result<(), ApplyFault> {
    let no = f.r4(FIL_PAGE_OFFSET).ok_or(ApplyFault::Corrupted)?;
    let space = f.r4(FIL_PAGE_SPACE_ID).ok_or(ApplyFault::Corrupted)?;
    let old_system = id.space.0 == 0 && !flags.is_full_crc32();
    if no == id.page.0 && (space == id.space.0 || old_system) {
        Ok(())
    } else {
        Err(ApplyFault::NotThisPage(PageId::new(space, no)))
    }
}

/// Writes the LSN to `FIL_PAGE_LSN` and, except in ROW_FORMAT=COMPRESSED, to the
/// trailer.
pub(crate) fn stamp(page: &mut [u8], flags: SpaceFlags, lsn: Lsn) -> Option<()> {
    let be = lsn.0.to_be_bytes();
    put(page, FIL_PAGE_LSN, &be)?;
    if flags.zip_size().is_some() {
        return Some(());
    }
    let trailer = page.len().checked_sub(TRAILER)?;
    if flags.is_full_crc32() {
        // Only the low half, which the checksum follows.
        put(page, trailer, be.get(4..)?)
    } else {
        put(page, trailer, &be)
    }
}

fn apply_one(
    f: &mut Frame<'_>,
    id: PageId,
    flags: SpaceFlags,
    kind: RecordKind,
    op: &Op<'_>,
) -> Result<(), ApplyFault> {
    // InnoDB never logs structural records for ROW_FORMAT=COMPRESSED pages.
    if matches!(kind, RecordKind::Extended(_)) && flags.zip_size().is_some() {
        return Err(ApplyFault::Corrupted);
    }
    let done = match *op {
        Op::InitPage => init_page(f, id),
        Op::Write { offset, data } => f.put(offset as usize, data),
        Op::Memset {
            offset,
            len,
            pattern,
        } => memset(f, offset as usize, len as usize, pattern),
        Op::Memmove {
            offset,
            len,
            source,
        } => f.copy(source as usize, offset as usize, len as usize),
        Op::InitIndex { compact } => heap::create(f, compact),
        Op::UndoInit => undo::init(f),
        Op::UndoAppend { data } => undo::append(f, data),
        Op::InsertRedundant {
            reuse,
            prev,
            header,
            header_common,
            data_common,
            data,
        } => redundant::insert(
            f,
            &redundant::Insert {
                page_no: id.page.0,
                reuse,
                prev: prev as usize,
                header: header as usize,
                header_common: header_common as usize,
                data_common: data_common as usize,
                data,
            },
        ),
        Op::InsertDynamic {
            reuse,
            prev,
            shift,
            header,
            header_common,
            data_common,
            data,
        } => dynamic::insert(
            f,
            &dynamic::Insert {
                page_no: id.page.0,
                reuse,
                prev: prev as usize,
                shift: shift as usize,
                header: header as usize,
                header_common: header_common as usize,
                data_common: data_common as usize,
                data,
            },
        ),
        Op::DeleteRedundant { prev } => redundant::delete(f, id.page.0, prev as usize),
        Op::DeleteDynamic {
            prev,
            header_size,
            data_size,
        } => dynamic::delete(
            f,
            id.page.0,
            prev as usize,
            header_size as usize,
            data_size as usize,
        ),
        Op::PageChecksum { crc } => {
            return match page_checksum(f.0) {
                Some(c) if c == crc => Ok(()),
                _ => Err(ApplyFault::Checksum),
            };
        }
        Op::FreePage | Op::TrimPages | Op::Ignored | Op::File(_) => Some(()),
    };
    done.ok_or(ApplyFault::Corrupted)
}

fn init_page(f: &mut Frame<'_>, id: PageId) -> Option<()> {
    f.0.fill(0);
    f.put(FIL_PAGE_OFFSET, &id.page.0.to_be_bytes())?;
    f.fill(FIL_PAGE_PREV, 8, 0xff)?;
    f.put(FIL_PAGE_SPACE_ID, &id.space.0.to_be_bytes())
}

fn memset(f: &mut Frame<'_>, offset: usize, len: usize, pattern: &[u8]) -> Option<()> {
    let target = f.0.get_mut(offset..offset.checked_add(len)?)?;
    if let &[byte] = pattern {
        target.fill(byte);
    } else {
        for (t, p) in target.iter_mut().zip(pattern.iter().cycle()) {
            *t = *p;
        }
    }
    Some(())
}

/// The checksum of an OPT_PAGE_CHECKSUM record (`mtr_t::page_checksum()`).
fn page_checksum(page: &[u8]) -> Option<u32> {
    let end = page.len().checked_sub(TRAILER)?;
    let crc = crc32c::crc32c(page.get(FIL_PAGE_OFFSET..FIL_PAGE_LSN)?);
    let crc = crc32c::crc32c_append(crc, page.get(FIL_PAGE_TYPE..FIL_PAGE_TYPE + 2)?);
    Some(crc32c::crc32c_append(
        crc,
        page.get(FIL_PAGE_SPACE_ID..end)?,
    ))
}

/// The id that a page carries.
pub(crate) fn carried_id(page: &[u8]) -> Option<PageId> {
    Some(PageId::new(
        be32(page, FIL_PAGE_SPACE_ID)?,
        be32(page, FIL_PAGE_OFFSET)?,
    ))
}
