//! Pages that `PAGE_COMPRESSED` tables have compressed in their files; redo
//! and the buffer pool know them whole.
//!
//! Source: `fil_page_compress()` and `fil_page_decompress()` in
//! `fil0pagecompress.cc`, `buf_page_full_crc32_size()` in `buf0buf.h`.

use crate::bytes::{be16, be32};
use crc32c::crc32c;
use thiserror::Error;
use xylem_redo::SpaceFlags;

#[cfg(test)]
mod tests;

/// `FIL_PAGE_TYPE`.
const TYPE: usize = 24;
/// `FIL_PAGE_COMP_ALGO`: without full_crc32, 8 bytes; with it, the header's
/// end.
const ALGORITHM: usize = 26;
/// `FIL_PAGE_DATA`, where the length stands without full_crc32.
const DATA: usize = 38;
/// In the type of a compressed page, with full_crc32; below it its length in
/// the file, in 256 bytes.
const MARKER: u16 = 1 << 15;
/// `BUF_NO_CHECKSUM_MAGIC`.
const NO_CHECKSUM: u32 = 0xdead_beef;

/// A page cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExpandError {
    /// By what it was compressed is not supported.
    #[error("page is compressed with {0}, which is not supported here")]
    Algorithm(&'static str),
    /// It does not expand to a page.
    #[error("compressed page is damaged")]
    Damaged,
    /// It is encrypted besides.
    #[error("page is encrypted")]
    Encrypted,
}

/// `innodb_compression_algorithm`, by number.
pub fn algorithm(number: u64) -> &'static str {
    match number {
        0 => "none",
        1 => "zlib",
        2 => "lz4",
        3 => "lzo",
        4 => "lzma",
        5 => "bzip2",
        6 => "snappy",
        _ => "an unknown algorithm",
    }
}

/// Whether pages compressed by it can be expanded.
pub fn supported(number: u64) -> bool {
    number <= 2
}

/// The page as InnoDB has it in memory, its checksum still to be made.
///
/// # Errors
/// [`ExpandError`].
pub fn expand(page: &[u8], flags: SpaceFlags) -> Result<Vec<u8>, ExpandError> {
    let (number, data) = if flags.is_full_crc32() {
        full_crc32(page, flags)?
    } else {
        older(page)?
    };
    let mut out = vec![0; flags.logical_page_size()];
    let done = match number {
        1 => miniz_oxide::inflate::decompress_slice_iter_to_slice(
            &mut out,
            std::iter::once(data),
            true,
            false,
        )
        .ok(),
        2 => lz4_flex::block::decompress_into(data, &mut out).ok(),
        other => return Err(ExpandError::Algorithm(algorithm(other))),
    };
    if done == Some(out.len()) {
        Ok(out)
    } else {
        Err(ExpandError::Damaged)
    }
}

fn full_crc32(page: &[u8], flags: SpaceFlags) -> Result<(u64, &[u8]), ExpandError> {
    let number = u64::from(flags.raw() >> 5 & 7);
    let parts = || {
        let kind = be16(page, TYPE)?;
        let len = usize::from(kind & !MARKER) << 8;
        let (body, sum) = page.get(..len)?.split_at_checked(len.checked_sub(4)?)?;
        let fits = kind & MARKER != 0 && len < flags.logical_page_size();
        if !fits || crc32c(body).to_be_bytes() != *sum {
            return None;
        }
        let encrypted = be32(page, 0)? != 0;
        // For some the exact length counts: its low byte, plus 1 and the
        // checksum's 4, stands at the end.
        let exact = match number {
            2 | 3 | 6 => match body.last()? {
                0 => len - 5,
                low => (len + usize::from(*low)).checked_sub(0x100 + 5)?,
            },
            _ => body.len(),
        };
        Some((encrypted, page.get(ALGORITHM..exact)?))
    };
    match parts() {
        Some((true, _)) => Err(ExpandError::Encrypted),
        Some((false, data)) => Ok((number, data)),
        None => Err(ExpandError::Damaged),
    }
}

fn older(page: &[u8]) -> Result<(u64, &[u8]), ExpandError> {
    /// `FIL_PAGE_PAGE_COMPRESSED`; the other is encrypted besides.
    const COMPRESSED: u16 = 34354;
    let parts = || {
        if be32(page, 0)? != NO_CHECKSUM {
            return None;
        }
        let number =
            u64::from(be32(page, ALGORITHM)?) << 32 | u64::from(be32(page, ALGORITHM + 4)?);
        let len = usize::from(be16(page, DATA)?);
        let from = DATA + 2;
        Some((number, page.get(from..from.checked_add(len)?)?))
    };
    if be16(page, TYPE) != Some(COMPRESSED) {
        return Err(ExpandError::Encrypted);
    }
    parts().ok_or(ExpandError::Damaged)
}
