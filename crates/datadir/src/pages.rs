//! Every page of a tablespace, checked, as the page store takes it.

use crate::bytes::{be16, be32};
use crate::compressed::{self, ExpandError};
use crate::tablespace::{DESCRIPTORS, Reader, Tablespace, descriptor_bytes};
use std::io;
use std::ops::Range;
use xylem_redo::{PageCheck, is_unused, page_lsn, seal, verify, verify_old};
use xylem_types::{Lsn, PageId};

#[cfg(test)]
mod tests;

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;
/// `FSP_TRX_SYS_PAGE_NO`.
const TRX_SYS: u32 = 5;
/// `TRX_SYS_DOUBLEWRITE`, from the page's end.
const DOUBLEWRITE: usize = 200;
/// `TRX_SYS_DOUBLEWRITE_MAGIC_N`.
const DOUBLEWRITE_MAGIC: u32 = 536_853_855;
/// `FSP_IBUF_TREE_ROOT_PAGE_NO`.
const CHANGE_BUFFER: u32 = 4;
/// `PAGE_HEADER` + `PAGE_N_RECS`, + `PAGE_LEVEL`.
const RECORDS: usize = 38 + 16;
const LEVEL: usize = 38 + 26;

/// A page that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPage {
    /// Its number.
    pub page: u32,
    /// The problem with it.
    pub problem: String,
}

/// The result of a pass over a tablespace.
#[derive(Debug, Default)]
pub struct Found {
    /// Pages that are not all zeros.
    pub pages: u64,
    /// Pages that cannot be used.
    pub bad: Vec<BadPage>,
    /// Pages with a wrong checksum that belong to nothing, so that their
    /// content does not matter.
    pub bad_and_free: Vec<u32>,
}

/// Goes over the pages of `space` in order and gives those that are not all
/// zeros to `take`, each valid and sealed, as far as none was bad before. No
/// page may be newer than `end`. `read` is told how many bytes were read, and
/// may end it.
///
/// The doublewrite buffer is left out: copies of other pages, of no use to a
/// server that was stopped.
///
/// # Errors
/// When reading fails, or `take` or `read` does.
pub fn scan<E: From<io::Error>>(
    space: &Tablespace,
    end: Lsn,
    mut take: impl FnMut(u32, &[u8]) -> Result<(), E>,
    mut read: impl FnMut(u64) -> Result<(), E>,
) -> Result<Found, E> {
    let reader = space.reader()?;
    let size = space.page_bytes();
    let skip = if space.id == 0 {
        doublewrite(space, &reader)?
    } else {
        Vec::new()
    };
    let mut found = Found::default();
    let mut buffer = vec![0; READ_BYTES.max(size)];
    // The page that describes the extents of those that follow.
    let mut extents: Vec<u8> = Vec::new();
    let mut first = 0;
    while first < space.pages {
        let room = (space.pages - first) as usize * size;
        let room = room.min(buffer.len() / size * size);
        let count = reader.read(first, buffer.get_mut(..room).unwrap_or_default())?;
        read(u64::from(count) * size as u64)?;
        for (no, page) in (first..first + count).zip(buffer.chunks_exact_mut(size)) {
            let describes = (no as usize).is_multiple_of(size);
            if describes {
                extents.clear();
            }
            if is_unused(page) || skip.iter().any(|r| r.contains(&no)) {
                continue;
            }
            match check(space, no, page, end) {
                Ok(page) => {
                    if describes {
                        extents.extend_from_slice(&page);
                    }
                    found.pages += 1;
                    if found.bad.is_empty() {
                        take(no, &page)?;
                    }
                }
                Err(_) if is_free(space, &extents, no) => found.bad_and_free.push(no),
                Err(problem) => found.bad.push(BadPage { page: no, problem }),
            }
        }
        first += count;
    }
    Ok(found)
}

/// A page of the file as the page store takes it.
fn check<'a>(
    space: &Tablespace,
    no: u32,
    page: &'a mut [u8],
    end: Lsn,
) -> Result<std::borrow::Cow<'a, [u8]>, String> {
    let flags = space.flags;
    let id = PageId::new(space.id, no);
    let mut expanded = None;
    let mut fresh = true;
    match verify(page, id, flags) {
        Ok(()) => {}
        Err(PageCheck::PageCompressed) => {
            let mut whole = compressed::expand(page, flags).map_err(|e| text(&e))?;
            if flags.is_full_crc32() {
                // It was compressed before it had a checksum.
                seal(&mut whole, flags);
            }
            verify_old(&whole, id, flags).map_err(|e| e.to_string())?;
            fresh = false;
            expanded = Some(whole);
        }
        Err(_) => {
            verify_old(page, id, flags).map_err(|e| e.to_string())?;
            fresh = false;
        }
    }
    let page = match expanded {
        Some(mut whole) => {
            seal(&mut whole, flags);
            std::borrow::Cow::Owned(whole)
        }
        None => {
            if !fresh {
                seal(page, flags);
            }
            std::borrow::Cow::Borrowed(&*page)
        }
    };
    match page_lsn(&page) {
        Some(lsn) if lsn > end => Err(format!(
            "page has LSN {lsn}, after the end of the redo log, {end}: it belongs to another directory, or the server was not stopped cleanly"
        )),
        _ => Ok(page),
    }
}

fn text(error: &ExpandError) -> String {
    error.to_string()
}

/// Whether the page belongs to nothing.
fn is_free(space: &Tablespace, extents: &[u8], no: u32) -> bool {
    let within = no as usize % space.page_bytes();
    let extent = space.extent() as usize;
    let at = DESCRIPTORS + within / extent * descriptor_bytes(space.flags);
    let bit = within % extent * 2;
    // XDES_STATE 0: not initialised. XDES_BITMAP: two bits a page, the first
    // says free.
    let Some(state) = be32(extents, at + 20) else {
        return false;
    };
    let bits = extents.get(at + 24 + bit / 8).copied().unwrap_or(0);
    within != 0 && (state == 0 || bits >> (bit % 8) & 1 != 0)
}

/// The pages of the doublewrite buffer.
fn doublewrite(space: &Tablespace, reader: &Reader) -> io::Result<Vec<Range<u32>>> {
    let page = reader.page(TRX_SYS)?;
    let at = page.len().saturating_sub(DOUBLEWRITE);
    if be32(&page, at + 10) != Some(DOUBLEWRITE_MAGIC) {
        return Ok(Vec::new());
    }
    let blocks = [be32(&page, at + 14), be32(&page, at + 18)];
    let extent = space.extent();
    Ok(blocks
        .into_iter()
        .flatten()
        .map(|b| b..b.saturating_add(extent))
        .collect())
}

/// Whether changes to secondary indexes wait in the change buffer of the
/// system tablespace.
///
/// # Errors
/// When its root cannot be read.
pub fn has_buffered_changes(system: &Tablespace) -> io::Result<bool> {
    let root = system.reader()?.page(CHANGE_BUFFER)?;
    Ok(be16(&root, RECORDS) != Some(0) || be16(&root, LEVEL) != Some(0))
}
