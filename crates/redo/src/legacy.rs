//! Checksums that older servers wrote and InnoDB 10.11 still accepts: those of
//! `innodb_checksum_algorithm=innodb` (the default of MySQL 5.6 and MariaDB
//! 10.1), those of earlier versions, and Adler-32 on compressed pages.
//!
//! Source: `buf_page_is_corrupted()` in `buf0buf.cc`,
//! `buf_calc_page_new_checksum()` and `buf_calc_page_old_checksum()` in
//! `buf0checksum.cc`, `ut_fold_binary()` in `ut0rnd.inl`,
//! `page_zip_calc_checksum()` in `page0zip.cc`.

use crate::apply::{FIL_PAGE_LSN, FIL_PAGE_OFFSET, FIL_PAGE_SPACE_ID, FIL_PAGE_TYPE, TRAILER};
use crate::bytes::be32;
use crate::seal::{self, DATA, FLUSH_LSN, NO_CHECKSUM};
use crate::{PageCheck, SpaceFlags};
use xylem_types::PageId;

/// Like [`crate::verify`], for pages that an older server may have written. It
/// accepts all that InnoDB 10.11 accepts with
/// `innodb_checksum_algorithm=full_crc32`. [`crate::seal()`] gives such a page a
/// current checksum, except if [`is_unused`] returns true for it.
///
/// # Errors
/// [`PageCheck`] gives the reason.
pub fn verify_old(page: &[u8], page_id: PageId, flags: SpaceFlags) -> Result<(), PageCheck> {
    let bad = match crate::verify(page, page_id, flags) {
        Err(bad @ (PageCheck::Checksum { .. } | PageCheck::Lsn)) if !flags.is_full_crc32() => bad,
        result => return result,
    };
    let accepted = match flags.zip_size() {
        Some(_) => be32(page, 0).is_some() && be32(page, 0) == adler(page),
        None if is_unused(page) => return Ok(()),
        None => accepts(page) == Some(true),
    };
    if accepted {
        seal::check_id(page, page_id, flags).unwrap_or(Err(bad))
    } else {
        Err(bad)
    }
}

/// Whether the page is unused: all zeros, except for the flush LSN, which older
/// servers wrote to the first page of each file of the system tablespace.
pub fn is_unused(page: &[u8]) -> bool {
    let zero = |part: Option<&[u8]>| part.is_none_or(|b| b.iter().all(|&b| b == 0));
    zero(page.get(..FLUSH_LSN)) && zero(page.get(FLUSH_LSN + 8..))
}

fn accepts(page: &[u8]) -> Option<bool> {
    let trailer = page.len().checked_sub(TRAILER)?;
    if be32(page, FIL_PAGE_LSN + 4)? != be32(page, trailer + 4)? {
        return Some(false);
    }
    let (first, second) = (be32(page, 0)?, be32(page, trailer)?);
    let crc = seal::checksum(page, SpaceFlags::new(0).ok()?)?;
    let both_crc = first == crc && second == crc;
    // Very old versions wrote the LSN there.
    let second_fine = second == be32(page, FIL_PAGE_LSN)?
        || second == NO_CHECKSUM
        || both_crc
        || second == old_checksums(page)?.1;
    let first_fine =
        first == 0 || first == NO_CHECKSUM || both_crc || first == old_checksums(page)?.0;
    Some(first_fine && second_fine)
}

/// The two checksums of `innodb_checksum_algorithm=innodb`: in the first 4 bytes
/// of a page, and at the start of its 8-byte trailer. The second one covers the
/// first one.
pub fn old_checksums(page: &[u8]) -> Option<(u32, u32)> {
    let end = page.len().checked_sub(TRAILER)?;
    let new = fold(page.get(FIL_PAGE_OFFSET..FLUSH_LSN)?).wrapping_add(fold(page.get(DATA..end)?));
    Some((new, fold(page.get(..FLUSH_LSN)?)))
}

/// `ut_fold_binary()`. InnoDB computes with more bits and drops the upper ones,
/// which do not influence the lower ones.
fn fold(bytes: &[u8]) -> u32 {
    const MASK: u32 = 1_463_735_687;
    const MASK2: u32 = 1_653_893_711;
    bytes.iter().fold(0u32, |fold, &byte| {
        let byte = u32::from(byte);
        ((((fold ^ byte ^ MASK2) << 8).wrapping_add(fold)) ^ MASK).wrapping_add(byte)
    })
}

/// Adler-32 over the parts of a compressed page that its checksum covers.
fn adler(page: &[u8]) -> Option<u32> {
    const MODULUS: u32 = 65521;
    let parts = [
        page.get(FIL_PAGE_OFFSET..FIL_PAGE_LSN)?,
        page.get(FIL_PAGE_TYPE..FIL_PAGE_TYPE + 2)?,
        page.get(FIL_PAGE_SPACE_ID..)?,
    ];
    // As zlib's adler32(0, …), both sums begin at 0.
    let (mut a, mut b) = (0u32, 0u32);
    for byte in parts.iter().flat_map(|part| part.iter()) {
        a = (a + u32::from(*byte)) % MODULUS;
        b = (b + a) % MODULUS;
    }
    Some(b << 16 | a)
}
