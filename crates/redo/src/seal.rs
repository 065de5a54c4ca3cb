//! Page checksums: written so that InnoDB accepts a page, and checked as InnoDB
//! checks them.
//!
//! Source: `buf_flush_init_for_writing()` and `buf_page_encrypt()` in
//! `buf0flu.cc`, `buf_page_is_corrupted()` and `buf_page_t::read_complete()` in
//! `buf0buf.cc`, `buf_calc_page_crc32()` in `buf0checksum.cc`,
//! `page_zip_calc_checksum()` in `page0zip.cc`.

use crate::apply::{FIL_PAGE_LSN, FIL_PAGE_OFFSET, FIL_PAGE_SPACE_ID, FIL_PAGE_TYPE, TRAILER};
use crate::apply::{carried_id, page_lsn, stamp};
use crate::bytes::{be32, put};
use crate::{PageCheck, SpaceFlags};
use crc32c::crc32c;
use xylem_types::PageId;

/// `FIL_PAGE_FILE_FLUSH_LSN_OR_KEY_VERSION`: 8 bytes that all checksums but
/// full_crc32 skip.
pub(crate) const FLUSH_LSN: usize = 26;
/// `TRX_SYS_PAGE_NO` of the system tablespace.
const TRX_SYS: PageId = PageId::new(0, 5);
/// `FIL_PAGE_DATA`.
pub(crate) const DATA: usize = 38;
/// `BUF_NO_CHECKSUM_MAGIC`, written by `innodb_checksum_algorithm=none`.
pub(crate) const NO_CHECKSUM: u32 = 0xdead_beef;
/// The flag in `FIL_PAGE_TYPE` of a page_compressed page in a full_crc32
/// tablespace.
const COMPRESSED_MARKER: u16 = 1 << 15;
/// `FIL_PAGE_PAGE_COMPRESSED_ENCRYPTED` and `FIL_PAGE_PAGE_COMPRESSED`.
const COMPRESSED_TYPES: [u16; 2] = [37401, 34354];

/// Writes the checksum and the trailer so that InnoDB accepts the page. An
/// all-zero page stays unchanged, because InnoDB reads it as an unused page.
///
/// A buffer whose size is not the page size stays unchanged, too.
pub fn seal(page: &mut [u8], flags: SpaceFlags) {
    if page.len() == flags.physical_page_size() && !is_zero(page) {
        // Cannot fail: the length is right.
        let _ = seal_page(page, flags);
    }
}

fn seal_page(page: &mut [u8], flags: SpaceFlags) -> Option<()> {
    let lsn = page_lsn(page)?;
    stamp(page, flags, lsn)?;
    // Clears the key version of encrypted pages. Without full_crc32 the same
    // bytes are the flush LSN on page 0, and the split sequence number of an
    // R-tree page, which InnoDB clears, too, when it writes the page.
    if flags.is_full_crc32() {
        put(page, 0, &[0; 4])?;
    } else {
        let id = carried_id(page)?;
        if id.page.0 != 0 && id != TRX_SYS {
            put(page, FLUSH_LSN, &[0; 8])?;
        }
    }
    let sum = checksum(page, flags)?.to_be_bytes();
    if flags.is_full_crc32() {
        return put(page, page.len().checked_sub(4)?, &sum);
    }
    put(page, 0, &sum)?;
    if flags.zip_size().is_none() {
        put(page, page.len().checked_sub(TRAILER)?, &sum)?;
    }
    Some(())
}

/// Computes the checksum of a page of this format.
pub(crate) fn checksum(page: &[u8], flags: SpaceFlags) -> Option<u32> {
    if flags.is_full_crc32() {
        return Some(crc32c(page.get(..page.len().checked_sub(4)?)?));
    }
    if flags.zip_size().is_some() {
        return Some(
            crc32c(page.get(FIL_PAGE_OFFSET..FIL_PAGE_LSN)?)
                ^ crc32c(page.get(FIL_PAGE_TYPE..FIL_PAGE_TYPE + 2)?)
                ^ crc32c(page.get(FIL_PAGE_SPACE_ID..)?),
        );
    }
    let end = page.len().checked_sub(TRAILER)?;
    Some(crc32c(page.get(FIL_PAGE_OFFSET..FLUSH_LSN)?) ^ crc32c(page.get(DATA..end)?))
}

/// Checks the page as InnoDB does when it reads it, with
/// `innodb_checksum_algorithm` at `full_crc32` or `crc32`. An all-zero page is
/// valid; any other page must have a matching id, LSN and checksum. The caller
/// checks that the LSN is not in the future.
///
/// Unlike InnoDB, this refuses the pre-CRC checksums of files last written by
/// MySQL 5.6 or MariaDB 10.1 and older. [`crate::verify_old`] accepts them.
///
/// # Errors
/// [`PageCheck`] gives the reason.
pub fn verify(page: &[u8], page_id: PageId, flags: SpaceFlags) -> Result<(), PageCheck> {
    let want = flags.physical_page_size();
    let size = PageCheck::PageSize {
        got: page.len(),
        want,
    };
    if page.len() != want {
        return Err(size);
    }
    if is_zero(page) {
        return Ok(());
    }
    check(page, page_id, flags).unwrap_or(Err(size))
}

fn check(page: &[u8], page_id: PageId, flags: SpaceFlags) -> Option<Result<(), PageCheck>> {
    let kind = crate::bytes::be16(page, FIL_PAGE_TYPE)?;
    let lsn = be32(page, FIL_PAGE_LSN + 4)?;
    let trailer = page.len().checked_sub(TRAILER)?;
    let first = be32(page, 0)?;
    let computed = checksum(page, flags)?;
    if flags.is_full_crc32() {
        if kind & COMPRESSED_MARKER != 0 {
            return Some(Err(PageCheck::PageCompressed));
        }
        let stored = be32(page, trailer + 4)?;
        if stored != computed {
            return Some(Err(PageCheck::Checksum { stored, computed }));
        }
        if first != 0 {
            // The key version is where older formats have the checksum.
            return Some(Err(PageCheck::Encrypted));
        }
        if lsn != be32(page, trailer)? {
            return Some(Err(PageCheck::Lsn));
        }
    } else if flags.is_page_compressed() && COMPRESSED_TYPES.contains(&kind) {
        return Some(Err(PageCheck::PageCompressed));
    } else if flags.zip_size().is_some() {
        if first != computed && first != NO_CHECKSUM {
            return Some(Err(PageCheck::Checksum {
                stored: first,
                computed,
            }));
        }
    } else {
        if lsn != be32(page, trailer + 4)? {
            return Some(Err(PageCheck::Lsn));
        }
        let second = be32(page, trailer)?;
        let none = first == NO_CHECKSUM && second == NO_CHECKSUM;
        let bad = if first == computed { second } else { first };
        if bad != computed && !none {
            return Some(Err(PageCheck::Checksum {
                stored: bad,
                computed,
            }));
        }
    }
    check_id(page, page_id, flags)
}

/// Checks that the page carries the id `page_id`. In a system tablespace without
/// full_crc32, only the page number counts.
pub(crate) fn check_id(
    page: &[u8],
    page_id: PageId,
    flags: SpaceFlags,
) -> Option<Result<(), PageCheck>> {
    let id = carried_id(page)?;
    let old_system = !flags.is_full_crc32() && page_id.space.0 == 0;
    if id == page_id || (old_system && id.page == page_id.page) {
        Some(Ok(()))
    } else {
        Some(Err(PageCheck::PageId(id)))
    }
}

fn is_zero(page: &[u8]) -> bool {
    // In chunks, so that an optimised build compares many bytes at a time.
    let (words, rest) = page.as_chunks::<16>();
    words.iter().all(|w| *w == [0; 16]) && rest.iter().all(|&b| b == 0)
}
