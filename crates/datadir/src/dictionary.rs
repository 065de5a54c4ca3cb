//! InnoDB's own list of tables, read from the pages of a stopped server's
//! system tablespace.
//!
//! `SYS_TABLES` is a clustered index in the REDUNDANT record format whose root
//! the dictionary header (page 7) names. Source: `dict0boot.h` (header and
//! columns), `dict_boot()`, `rem0rec.h` (records), `page0page.h` (pages).

use crate::bytes::{be16, be32};
use std::collections::HashSet;
use std::io;
use thiserror::Error;

#[cfg(test)]
mod tests;

/// `FSP_DICT_HDR_PAGE_NO`.
const HEADER_PAGE: u32 = 7;
/// `DICT_HDR` + `DICT_HDR_TABLES`.
const ROOT_AT: usize = 38 + 32;
/// `FIL_PAGE_NEXT`.
const NEXT_PAGE: usize = 12;
const PAGE_TYPE: usize = 24;
const INDEX: u16 = 17855;
/// `PAGE_HEADER` + `PAGE_LEVEL`.
const LEVEL: usize = 38 + 26;
/// `PAGE_HEADER` + `PAGE_N_HEAP`; its top bit says COMPACT.
const HEAP: usize = 38 + 4;
/// `PAGE_OLD_INFIMUM` and `PAGE_OLD_SUPREMUM`.
const INFIMUM: usize = 101;
const SUPREMUM: usize = 116;
const DELETED: u8 = 0x20;
/// Fields of a leaf record: NAME, DB_TRX_ID, DB_ROLL_PTR, ID, N_COLS, TYPE,
/// MIX_ID, MIX_LEN, CLUSTER_NAME, SPACE.
const FIELDS: usize = 10;
const SPACE: usize = 9;
const NONE: u32 = u32::MAX;
const DEPTH_MAX: usize = 16;

/// A table, or a partition of one, as InnoDB knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// `database/table` in file-name characters: its file is this and `.ibd`.
    pub name: String,
    /// Its tablespace; 0: it lies in the system tablespace.
    pub space: u32,
}

/// The dictionary cannot be read.
#[derive(Debug, Error)]
pub enum DictionaryError {
    /// A page is not what it should be.
    #[error("page {page} of the system tablespace: {what}")]
    Malformed {
        /// Which page.
        page: u32,
        /// The problem with it.
        what: &'static str,
    },
    /// A page cannot be read.
    #[error("page {page} of the system tablespace: {source}")]
    Io {
        /// Which page.
        page: u32,
        /// The system's error.
        source: io::Error,
    },
}

/// All tables, by name. `read` gives a page of the system tablespace.
///
/// # Errors
/// [`DictionaryError`].
pub fn tables(
    mut read: impl FnMut(u32) -> io::Result<Vec<u8>>,
) -> Result<Vec<Table>, DictionaryError> {
    let mut fetch = |page: u32| read(page).map_err(|source| DictionaryError::Io { page, source });
    let header = fetch(HEADER_PAGE)?;
    let mut at = be32(&header, ROOT_AT).ok_or(bad(HEADER_PAGE, "too short"))?;
    let mut page = index_page(at, fetch(at)?)?;
    for _ in 0..DEPTH_MAX {
        if level(at, &page)? == 0 {
            break;
        }
        let first = Records::new(at, &page)
            .next()
            .ok_or(bad(at, "an inner page without records"))??;
        let child = first.field(first.fields.saturating_sub(1));
        at = child
            .and_then(|b| Some(u32::from_be_bytes(b.try_into().ok()?)))
            .ok_or(bad(at, "a node pointer without a page number"))?;
        page = index_page(at, fetch(at)?)?;
    }
    if level(at, &page)? != 0 {
        return Err(bad(at, "the tree is too deep"));
    }
    let mut out = Vec::new();
    let mut seen = HashSet::new();
    loop {
        if !seen.insert(at) {
            return Err(bad(at, "its leaves go round in a circle"));
        }
        for record in Records::new(at, &page) {
            let record = record?;
            if record.deleted {
                continue;
            }
            out.push(table(at, &record)?);
        }
        at = be32(&page, NEXT_PAGE).ok_or(bad(at, "too short"))?;
        if at == NONE {
            break;
        }
        page = index_page(at, fetch(at)?)?;
    }
    out.sort();
    Ok(out)
}

fn bad(page: u32, what: &'static str) -> DictionaryError {
    DictionaryError::Malformed { page, what }
}

fn table(at: u32, record: &Record<'_>) -> Result<Table, DictionaryError> {
    let malformed = || bad(at, "a record of SYS_TABLES is malformed");
    if record.fields != FIELDS {
        return Err(malformed());
    }
    let name = record.field(0).ok_or_else(malformed)?;
    let name = std::str::from_utf8(name).map_err(|_| malformed())?;
    let space = record.field(SPACE).ok_or_else(malformed)?;
    let space = space.try_into().map_err(|_| malformed())?;
    Ok(Table {
        name: name.to_owned(),
        space: u32::from_be_bytes(space),
    })
}

fn index_page(at: u32, page: Vec<u8>) -> Result<Vec<u8>, DictionaryError> {
    let compact = be16(&page, HEAP).is_none_or(|n| n & 0x8000 != 0);
    if be16(&page, PAGE_TYPE) != Some(INDEX) || compact {
        return Err(bad(at, "not a page of SYS_TABLES"));
    }
    Ok(page)
}

fn level(at: u32, page: &[u8]) -> Result<u16, DictionaryError> {
    be16(page, LEVEL).ok_or(bad(at, "too short"))
}

/// A REDUNDANT record.
struct Record<'a> {
    page: &'a [u8],
    /// Where its fields begin.
    origin: usize,
    fields: usize,
    /// Field ends of 1 byte, not 2.
    short: bool,
    deleted: bool,
}

impl<'a> Record<'a> {
    fn at(page: &'a [u8], origin: usize) -> Option<Record<'a>> {
        let info = *page.get(origin.checked_sub(6)?)?;
        // 13 bits heap number, 10 bits fields, 1 bit size of the field ends.
        let bits = be16(page, origin.checked_sub(4)?)?;
        Some(Record {
            page,
            origin,
            fields: usize::from(bits >> 1 & 0x3ff),
            short: bits & 1 != 0,
            deleted: info & DELETED != 0,
        })
    }

    /// The end of a field from the origin, and whether it is NULL.
    fn end(&self, nth: usize) -> Option<(usize, bool)> {
        if self.short {
            let b = *self.page.get(self.origin.checked_sub(7 + nth)?)?;
            return Some((usize::from(b & 0x7f), b & 0x80 != 0));
        }
        let b = be16(self.page, self.origin.checked_sub(8 + 2 * nth)?)?;
        Some((usize::from(b & 0x3fff), b & 0x8000 != 0))
    }

    fn field(&self, nth: usize) -> Option<&'a [u8]> {
        if nth >= self.fields {
            return None;
        }
        let start = match nth {
            0 => 0,
            _ => self.end(nth - 1)?.0,
        };
        let (end, null) = self.end(nth)?;
        if null {
            return None;
        }
        self.page
            .get(self.origin.checked_add(start)?..self.origin.checked_add(end)?)
    }
}

/// The records of a page in order.
struct Records<'a> {
    number: u32,
    page: &'a [u8],
    at: Option<usize>,
    left: usize,
}

impl<'a> Records<'a> {
    fn new(number: u32, page: &'a [u8]) -> Records<'a> {
        Records {
            number,
            page,
            at: Some(INFIMUM),
            // A record takes more than a byte: no circle lasts longer.
            left: page.len(),
        }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, DictionaryError>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at?;
        let next = be16(self.page, at.checked_sub(2)?).map(usize::from);
        let broken = bad(self.number, "its records are not linked");
        self.left = self.left.saturating_sub(1);
        match next {
            Some(SUPREMUM) => {
                self.at = None;
                None
            }
            Some(next) if next > SUPREMUM && self.left > 0 => {
                self.at = Some(next);
                let record = Record::at(self.page, next);
                if record.is_none() {
                    self.at = None;
                }
                Some(record.ok_or(broken))
            }
            _ => {
                self.at = None;
                Some(Err(broken))
            }
        }
    }
}
