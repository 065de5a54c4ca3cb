//! Records and page headers as text, for inspection tools.
//!
//! Source of the names: `fil0types.h`, `fsp0types.h`, `page0types.h`.

use crate::bytes::{be16, be32};
use crate::{FileEvent, Op, page_lsn};
use std::fmt::{self, Write};
use xylem_types::{Lsn, PageId};

/// The number of data bytes shown.
const SHOWN: usize = 32;
/// Offset of the infimum record in ROW_FORMAT=COMPACT and DYNAMIC pages, and
/// in REDUNDANT ones.
const INFIMUM: (u32, u32) = (99, 101);

/// Fields at the same place in every page: offset, length, name.
const FIELDS: [(u32, u32, &str); 6] = [
    (8, 4, "FIL_PAGE_PREV"),
    (12, 4, "FIL_PAGE_NEXT"),
    (16, 8, "FIL_PAGE_LSN"),
    (24, 2, "FIL_PAGE_TYPE"),
    (26, 8, "FIL_PAGE_FILE_FLUSH_LSN_OR_KEY_VERSION"),
    (34, 4, "FIL_PAGE_SPACE_ID"),
];

/// Displays bytes in hexadecimal, at most [`SHOWN`] of them.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in self.0.iter().take(SHOWN) {
            write!(f, "{b:02x}")?;
        }
        match self.0.len() > SHOWN {
            true => f.write_char('…'),
            false => Ok(()),
        }
    }
}

/// A file name; bytes that are not UTF-8 are replaced.
fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Describes the predecessor at offset `prev` from the infimum.
fn after(prev: u32, infimum: u32) -> String {
    match prev {
        0 => "after the infimum".to_owned(),
        prev => format!("after the record at {}", infimum.saturating_add(prev)),
    }
}

fn space(reuse: bool) -> &'static str {
    match reuse {
        true => "in a deleted record's place",
        false => "at the heap's top",
    }
}

/// Describes the bytes that an insert copies from the predecessor and the bytes
/// that it holds itself.
fn copied(header: u32, data: u32, literal: &[u8]) -> String {
    format!(
        "{header} header and {data} data bytes copied from that record, {} new: {}",
        literal.len(),
        Hex(literal)
    )
}

impl Op<'_> {
    /// Offset and number of the bytes that the record writes; `None` if the
    /// record does not hold them.
    pub fn range(&self) -> Option<(u32, u32)> {
        match self {
            Op::Write { offset, data } => Some((*offset, data.len() as u32)),
            Op::Memset { offset, len, .. } | Op::Memmove { offset, len, .. } => {
                Some((*offset, *len))
            }
            _ => None,
        }
    }
}

/// Describes the effect in words. Offsets are from the page's start; data is in
/// hexadecimal.
impl fmt::Display for Op<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = |offset: u32, len: u32| {
            let found = FIELDS.iter().find(|(at, n, _)| (*at, *n) == (offset, len));
            found.map_or(String::new(), |(_, _, name)| format!(" ({name})"))
        };
        match self {
            Op::FreePage => f.write_str("the page is freed: its contents no longer matter"),
            Op::InitPage => f.write_str("the page becomes zeros with only its identity"),
            Op::Write { offset, data } => write!(
                f,
                "{} bytes at {offset}{}: {}",
                data.len(),
                field(*offset, data.len() as u32),
                Hex(data)
            ),
            Op::Memset {
                offset,
                len,
                pattern,
            } => write!(
                f,
                "{len} bytes at {offset}{} are filled with {}",
                field(*offset, *len),
                Hex(pattern)
            ),
            Op::Memmove {
                offset,
                len,
                source,
            } => write!(f, "{len} bytes are copied from {source} to {offset}"),
            Op::InitIndex { compact } => write!(
                f,
                "the page becomes an empty index page, ROW_FORMAT={}",
                if *compact {
                    "COMPACT or DYNAMIC"
                } else {
                    "REDUNDANT"
                }
            ),
            Op::UndoInit => f.write_str("the page becomes an empty undo log page"),
            Op::UndoAppend { data } => write!(
                f,
                "an undo log record of {} bytes is appended: {}",
                data.len(),
                Hex(data)
            ),
            Op::InsertRedundant {
                reuse,
                prev,
                header,
                header_common,
                data_common,
                data,
            } => write!(
                f,
                "a record of {} fields is inserted {}, {}; {}",
                (header >> 3) + 1,
                after(*prev, INFIMUM.1),
                space(*reuse),
                copied(*header_common, *data_common, data)
            ),
            Op::InsertDynamic {
                reuse,
                prev,
                header_common,
                data_common,
                data,
                ..
            } => write!(
                f,
                "a record is inserted {}, {}; {}",
                after(*prev, INFIMUM.0),
                space(*reuse),
                copied(*header_common, *data_common, data)
            ),
            Op::DeleteRedundant { prev } => {
                write!(f, "the record {} is deleted", after(*prev, INFIMUM.1))
            }
            Op::DeleteDynamic {
                prev,
                header_size,
                data_size,
            } => write!(
                f,
                "the record {} is deleted: {} header and {data_size} data bytes",
                after(*prev, INFIMUM.0),
                header_size + 5
            ),
            Op::TrimPages => {
                f.write_str("the tablespace is truncated to the page number and initialised anew")
            }
            Op::PageChecksum { crc } => {
                write!(f, "the page's contents have the CRC-32C {crc:#010x}")
            }
            Op::Ignored => f.write_str("an optional record without effect"),
            Op::File(event) => match event {
                FileEvent::Create { name: n, .. } => write!(f, "{} is created", name(n)),
                FileEvent::Delete { name: n, .. } => write!(f, "{} is deleted", name(n)),
                FileEvent::Rename { old, new, .. } => {
                    write!(f, "{} is renamed to {}", name(old), name(new))
                }
                FileEvent::Modify { name: n, .. } => {
                    write!(
                        f,
                        "{} changes for the first time since a checkpoint",
                        name(n)
                    )
                }
                FileEvent::Checkpoint { lsn } => write!(f, "a checkpoint at LSN {lsn}"),
                FileEvent::Padding => f.write_str("padding"),
            },
        }
    }
}

/// Fields of a page's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHead {
    /// The id that the page carries.
    pub id: PageId,
    /// The end LSN of the last mini-transaction that changed the page.
    pub lsn: Lsn,
    /// FIL_PAGE_TYPE.
    pub kind: u16,
}

impl PageHead {
    /// Reads the header of `page`; `None` if it is too short.
    pub fn of(page: &[u8]) -> Option<PageHead> {
        Some(PageHead {
            id: PageId::new(be32(page, 34)?, be32(page, 4)?),
            lsn: page_lsn(page)?,
            kind: be16(page, 24)?,
        })
    }

    /// The name of the page type, `unknown` if it has none.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            0 => "FIL_PAGE_TYPE_ALLOCATED",
            2 => "FIL_PAGE_UNDO_LOG",
            3 => "FIL_PAGE_INODE",
            4 => "FIL_PAGE_IBUF_FREE_LIST",
            5 => "FIL_PAGE_IBUF_BITMAP",
            6 => "FIL_PAGE_TYPE_SYS",
            7 => "FIL_PAGE_TYPE_TRX_SYS",
            8 => "FIL_PAGE_TYPE_FSP_HDR",
            9 => "FIL_PAGE_TYPE_XDES",
            10 => "FIL_PAGE_TYPE_BLOB",
            11 => "FIL_PAGE_TYPE_ZBLOB",
            12 => "FIL_PAGE_TYPE_ZBLOB2",
            17854 => "FIL_PAGE_RTREE",
            17855 => "FIL_PAGE_INDEX",
            18 => "FIL_PAGE_TYPE_INSTANT",
            _ => "unknown",
        }
    }
}
