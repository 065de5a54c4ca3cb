//! Decodes the records of a mini-transaction.
//!
//! Source: `mtr0types.h` (layout and kinds), `recv_sys_t::parse_tail()`,
//! `log_parse_file()` and `log_phys_t::apply()` in `log0recv.cc` (checks).

use crate::mtr::lsn_at;
use crate::{RecordFault, RedoError, varint};
use std::fmt;
use xylem_types::{Lsn, PageId, PageNo, SpaceId};

/// The largest `innodb_page_size`; offsets beyond it are corrupt in any tablespace.
const PAGE_SIZE_MAX: u32 = 65536;
/// `FIL_PAGE_TYPE`: the current offset after INIT_PAGE or EXTENDED.
const FIL_PAGE_TYPE: u32 = 24;
/// In place of the current offset: no same-page record may follow.
const NO_SAME_PAGE: u32 = 1;

/// A record's kind, for messages and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// Frees a page.
    FreePage,
    /// Initialises a page with zeros.
    InitPage,
    /// Writes bytes.
    Write,
    /// Fills bytes with a pattern.
    Memset,
    /// Copies bytes within the page.
    Memmove,
    /// A reserved type code.
    Reserved,
    /// Changes the structure of a page. The field is the subtype, `None` if it
    /// is missing.
    Extended(Option<u8>),
    /// A record that readers may ignore. The field is the subtype, `None` if it
    /// is missing.
    Option(Option<u8>),
    /// Creates a file.
    FileCreate,
    /// Deletes a file.
    FileDelete,
    /// Renames a file.
    FileRename,
    /// Names a file that was modified since the checkpoint.
    FileModify,
    /// Ends a checkpoint, or is padding.
    FileCheckpoint,
    /// A file operation with a reserved type code.
    FileReserved,
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const EXT: [&str; 11] = [
            "INIT_ROW_FORMAT_REDUNDANT",
            "INIT_ROW_FORMAT_DYNAMIC",
            "UNDO_INIT",
            "UNDO_APPEND",
            "INSERT_HEAP_REDUNDANT",
            "INSERT_REUSE_REDUNDANT",
            "INSERT_HEAP_DYNAMIC",
            "INSERT_REUSE_DYNAMIC",
            "DELETE_ROW_FORMAT_REDUNDANT",
            "DELETE_ROW_FORMAT_DYNAMIC",
            "TRIM_PAGES",
        ];
        f.write_str(match self {
            RecordKind::FreePage => "FREE_PAGE",
            RecordKind::InitPage => "INIT_PAGE",
            RecordKind::Write => "WRITE",
            RecordKind::Memset => "MEMSET",
            RecordKind::Memmove => "MEMMOVE",
            RecordKind::Reserved => "RESERVED",
            RecordKind::Extended(None) => "EXTENDED",
            RecordKind::Extended(Some(s)) => match EXT.get(usize::from(*s)) {
                Some(name) => name,
                None => return write!(f, "EXTENDED({s})"),
            },
            RecordKind::Option(Some(0)) => "OPT_PAGE_CHECKSUM",
            RecordKind::Option(_) => "OPTION",
            RecordKind::FileCreate => "FILE_CREATE",
            RecordKind::FileDelete => "FILE_DELETE",
            RecordKind::FileRename => "FILE_RENAME",
            RecordKind::FileModify => "FILE_MODIFY",
            RecordKind::FileCheckpoint => "FILE_CHECKPOINT",
            RecordKind::FileReserved => "FILE_(reserved)",
        })
    }
}

/// A record about a file. Names are as InnoDB writes them: relative to the data
/// directory with a leading `./`, or absolute. They end in `.ibd` and are in the
/// file name character set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileEvent<'a> {
    /// The file of the tablespace was created.
    Create {
        /// The tablespace.
        space: SpaceId,
        /// The file name.
        name: &'a [u8],
    },
    /// The file of the tablespace was deleted.
    Delete {
        /// The tablespace.
        space: SpaceId,
        /// The file name.
        name: &'a [u8],
    },
    /// The file of the tablespace was renamed.
    Rename {
        /// The tablespace.
        space: SpaceId,
        /// The old file name.
        old: &'a [u8],
        /// The new file name.
        new: &'a [u8],
    },
    /// Names the file of a tablespace that changes for the first time since a
    /// checkpoint.
    Modify {
        /// The tablespace.
        space: SpaceId,
        /// The file name.
        name: &'a [u8],
    },
    /// A checkpoint ends. Recovery may begin at `lsn`.
    Checkpoint {
        /// The checkpoint's LSN.
        lsn: Lsn,
    },
    /// Fills space and has no meaning.
    Padding,
}

/// The effect of a record on its page. Offsets are absolute, in bytes from the
/// start of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Frees the page. Its contents no longer matter.
    FreePage,
    /// Fills the page with zeros, apart from its id.
    InitPage,
    /// Writes `data` at `offset`.
    Write {
        /// Offset of the first byte.
        offset: u32,
        /// The bytes; at least one.
        data: &'a [u8],
    },
    /// Fills `len` bytes at `offset` with repetitions of `pattern`.
    Memset {
        /// Offset of the first byte.
        offset: u32,
        /// Number of bytes.
        len: u32,
        /// 1 to `len` bytes.
        pattern: &'a [u8],
    },
    /// Copies `len` bytes from `source` to `offset`. The ranges may overlap.
    Memmove {
        /// Offset of the destination.
        offset: u32,
        /// Number of bytes.
        len: u32,
        /// Offset of the source.
        source: u32,
    },
    /// Makes the page an empty index page.
    InitIndex {
        /// ROW_FORMAT=COMPACT or DYNAMIC if true, REDUNDANT if false.
        compact: bool,
    },
    /// Makes the page an empty undo log page.
    UndoInit,
    /// Appends an undo log record.
    UndoAppend {
        /// The record, without the links around it.
        data: &'a [u8],
    },
    /// Inserts a record into a ROW_FORMAT=REDUNDANT index page.
    InsertRedundant {
        /// Whether it takes the space of a deleted record (PAGE_FREE) and not
        /// the top of the heap.
        reuse: bool,
        /// The predecessor's offset from the infimum.
        prev: u32,
        /// Info bits (2), short offsets (1), number of fields - 1.
        header: u32,
        /// Number of header bytes equal to the predecessor's.
        header_common: u32,
        /// Number of data bytes equal to the predecessor's.
        data_common: u32,
        /// The other header and data bytes.
        data: &'a [u8],
    },
    /// Inserts a record into a ROW_FORMAT=COMPACT or DYNAMIC index page.
    InsertDynamic {
        /// Whether it takes the space of a deleted record (PAGE_FREE) and not
        /// the top of the heap.
        reuse: bool,
        /// The predecessor's offset from the infimum.
        prev: u32,
        /// With `reuse`, the distance by which the start of the record moves,
        /// with the sign in bit 0.
        shift: u32,
        /// Info and status bits (3), number of literal header bytes.
        header: u32,
        /// Number of header bytes equal to the predecessor's.
        header_common: u32,
        /// Number of data bytes equal to the predecessor's.
        data_common: u32,
        /// The other header and data bytes.
        data: &'a [u8],
    },
    /// Deletes a record from a ROW_FORMAT=REDUNDANT index page.
    DeleteRedundant {
        /// The predecessor's offset from the infimum.
        prev: u32,
    },
    /// Deletes a record from a ROW_FORMAT=COMPACT or DYNAMIC index page.
    DeleteDynamic {
        /// The predecessor's offset from the infimum.
        prev: u32,
        /// The deleted record's header size, without the 5 fixed bytes.
        header_size: u32,
        /// The deleted record's data size.
        data_size: u32,
    },
    /// Truncates an undo tablespace to the number of pages that the record's
    /// page number gives, and initialises all of it anew.
    TrimPages,
    /// The checksum of the page at the end of the mini-transaction. Only debug
    /// builds of InnoDB write it.
    PageChecksum {
        /// CRC-32C of all but checksum, LSN, flush LSN and trailer.
        crc: u32,
    },
    /// An optional record of another kind. It has no effect.
    Ignored,
    /// A record about a file, not a page.
    File(FileEvent<'a>),
}

/// A decoded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The page; for a record about a file, the tablespace and page 0.
    pub page: PageId,
    /// The kind, for messages and counts.
    pub kind: RecordKind,
    /// The effect on the page.
    pub op: Op<'a>,
    /// Whether the record names its page; if not, it is for the page of the
    /// record before it.
    pub names_page: bool,
    /// The encoded record.
    pub bytes: &'a [u8],
}

impl RecordKind {
    fn of(first: u8, file: bool) -> RecordKind {
        if file {
            match first & 0xf0 {
                0x80 => RecordKind::FileCreate,
                0x90 => RecordKind::FileDelete,
                0xa0 => RecordKind::FileRename,
                0xb0 => RecordKind::FileModify,
                0xf0 => RecordKind::FileCheckpoint,
                _ => RecordKind::FileReserved,
            }
        } else {
            match first & 0x70 {
                0x00 => RecordKind::FreePage,
                0x10 => RecordKind::InitPage,
                0x20 => RecordKind::Extended(None),
                0x30 => RecordKind::Write,
                0x40 => RecordKind::Memset,
                0x50 => RecordKind::Memmove,
                0x60 => RecordKind::Reserved,
                _ => RecordKind::Option(None),
            }
        }
    }
}

/// Decodes records one by one, and ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    all: &'a [u8],
    at: usize,
    start: Lsn,
    page: Option<PageId>,
    /// The end of the last record's change, from which the next offset counts.
    offset: u32,
    failed: bool,
}

/// The payload of one record, read from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// An integer of at most `max` bytes.
    #[inline(always)]
    fn int(&mut self, max: usize) -> Result<u32, RecordFault> {
        let (v, n) = varint::decode(self.0).ok_or(RecordFault::Truncated)?;
        if n > max {
            return Err(RecordFault::Invalid("integer"));
        }
        self.0 = self.0.get(n..).unwrap_or_default();
        Ok(v)
    }

    #[inline]
    fn end(&self) -> Result<(), RecordFault> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(RecordFault::Trailing)
        }
    }
}

impl<'a> Records<'a> {
    /// The records of a mini-transaction that begins at `start`.
    pub(crate) fn of_mtr(bytes: &'a [u8], start: Lsn) -> Records<'a> {
        Records {
            all: bytes,
            at: 0,
            start,
            page: None,
            offset: 0,
            failed: false,
        }
    }

    /// The records of a run ([`crate::MtrItem::Page`]) or of several
    /// concatenated runs. The LSN of an error is `base` plus the offset of the
    /// record in `bytes`.
    pub fn of_run(bytes: &'a [u8], base: Lsn) -> Records<'a> {
        Records::of_mtr(bytes, base)
    }

    /// Bytes decoded so far.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Decodes the next record; none at the end. When it fails, `kind` and `page`
    /// are what is known of the record.
    #[inline(always)]
    pub(crate) fn decode(
        &mut self,
        kind: &mut RecordKind,
        page: &mut Option<PageId>,
    ) -> Result<Option<Record<'a>>, RecordFault> {
        let rest = self.all.get(self.at..).unwrap_or_default();
        let Some(&first) = rest.first() else {
            return Ok(None);
        };
        let file = first & 0x80 != 0 && self.page.is_none();
        *kind = RecordKind::of(first, file);
        let (skip, size) = head(rest, first).ok_or(RecordFault::Truncated)?;
        let bytes = rest.get(..size).ok_or(RecordFault::Truncated)?;
        let mut f = Fields(bytes.get(skip..).ok_or(RecordFault::Truncated)?);
        if first <= 1 {
            // 0 and 1 are end bytes, which framing has removed.
            return Err(RecordFault::Invalid("length"));
        }
        let op;
        let names_page = file || first & 0x80 == 0;
        if file {
            let last = rest.len() == size;
            (*page, op) = decode_file(first, *kind, &mut f, last)?;
        } else {
            if names_page {
                let space = f.int(5).map_err(|_| RecordFault::BadPageId)?;
                let no = f.int(5).map_err(|_| RecordFault::BadPageId)?;
                self.page = Some(PageId::new(space, no));
                self.offset = 0;
            }
            *page = self.page;
            op = self.decode_page(kind, names_page, f)?;
        }
        self.at += size;
        let page = page.ok_or(RecordFault::BadPageId)?;
        Ok(Some(Record {
            page,
            kind: *kind,
            op,
            names_page,
            bytes,
        }))
    }

    #[inline(always)]
    fn decode_page(
        &mut self,
        kind: &mut RecordKind,
        names_page: bool,
        f: Fields<'a>,
    ) -> Result<Op<'a>, RecordFault> {
        match *kind {
            RecordKind::FreePage | RecordKind::InitPage => {
                if !names_page {
                    return Err(RecordFault::Invalid("same-page flag"));
                }
                f.end()?;
                if *kind == RecordKind::FreePage {
                    self.offset = NO_SAME_PAGE;
                    Ok(Op::FreePage)
                } else {
                    self.offset = FIL_PAGE_TYPE;
                    Ok(Op::InitPage)
                }
            }
            RecordKind::Write | RecordKind::Memset | RecordKind::Memmove => {
                if self.offset == NO_SAME_PAGE {
                    return Err(RecordFault::Invalid("same-page flag"));
                }
                let (end, op) = decode_bytes(*kind, self.offset, f)?;
                self.offset = end;
                Ok(op)
            }
            RecordKind::Extended(_) => {
                let (&subtype, payload) = f.0.split_first().ok_or(RecordFault::Truncated)?;
                *kind = RecordKind::Extended(Some(subtype));
                if !names_page && self.offset == NO_SAME_PAGE {
                    return Err(RecordFault::Invalid("same-page flag"));
                }
                let op = decode_extended(subtype, Fields(payload))?;
                if op == Op::TrimPages {
                    // The page number is a size, so no record can refer to it.
                    if !names_page {
                        return Err(RecordFault::Invalid("same-page flag"));
                    }
                    self.offset = NO_SAME_PAGE;
                } else {
                    if self.page.is_none_or(|p| p.page < PageNo(3)) {
                        return Err(RecordFault::Invalid("page number"));
                    }
                    self.offset = FIL_PAGE_TYPE;
                }
                Ok(op)
            }
            RecordKind::Option(_) => {
                *kind = RecordKind::Option(f.0.first().copied());
                Ok(match *f.0 {
                    [0, a, b, c, d] => Op::PageChecksum {
                        crc: u32::from_be_bytes([a, b, c, d]),
                    },
                    _ => Op::Ignored,
                })
            }
            _ => Err(RecordFault::Unknown),
        }
    }

    /// Passes over the next record if it only changes bytes of an ordinary page,
    /// and returns that page. Otherwise it does nothing: [`Iterator::next`] says
    /// what the record is, or what is wrong with it.
    #[inline]
    pub(crate) fn pass(&mut self) -> Option<PageId> {
        let rest = self.all.get(self.at..)?;
        let &first = rest.first()?;
        let (skip, size) = head(rest, first)?;
        let mut f = Fields(rest.get(..size)?.get(skip..)?);
        let (page, offset) = if first & 0x80 == 0 {
            let space = f.int(5).ok()?;
            (PageId::new(space, f.int(5).ok()?), 0)
        } else {
            (self.page?, self.offset)
        };
        // Page 0 tells of its tablespace, and records of the first three pages
        // have rules of their own.
        if page.page < PageNo(3) || offset == NO_SAME_PAGE {
            return None;
        }
        let offset = match first & 0x70 {
            0x20 => {
                let (&subtype, payload) = f.0.split_first()?;
                match decode_extended(subtype, Fields(payload)).ok()? {
                    Op::TrimPages => return None,
                    _ => FIL_PAGE_TYPE,
                }
            }
            0x30 => decode_bytes(RecordKind::Write, offset, f).ok()?.0,
            0x40 => decode_bytes(RecordKind::Memset, offset, f).ok()?.0,
            0x50 => decode_bytes(RecordKind::Memmove, offset, f).ok()?.0,
            _ => return None,
        };
        self.at += size;
        self.page = Some(page);
        self.offset = offset;
        Some(page)
    }
}

/// Bytes before a record's fields, and of the whole record.
#[inline(always)]
fn head(rest: &[u8], first: u8) -> Option<(usize, usize)> {
    match usize::from(first & 15) {
        0 => {
            let (add, n) = rest.get(1..).and_then(varint::decode)?;
            Some((1 + n, 16 + add as usize))
        }
        n => Some((1, 1 + n)),
    }
}

/// Decodes WRITE, MEMSET and MEMMOVE. `before` is where the change of the record
/// before it ends. Also returns where this one ends.
#[inline(always)]
fn decode_bytes<'a>(
    kind: RecordKind,
    before: u32,
    mut f: Fields<'a>,
) -> Result<(u32, Op<'a>), RecordFault> {
    let offset = before + f.int(3)?;
    if f.0.is_empty() {
        return Err(RecordFault::Truncated);
    }
    // InnoDB never logs the first 8 bytes, the checksum and the page number.
    if !(8..PAGE_SIZE_MAX).contains(&offset) {
        return Err(RecordFault::OutOfPage);
    }
    let (len, op);
    if kind == RecordKind::Write {
        let data = f.0;
        // A record has at most 2 MiB, so the cast does not truncate.
        #[allow(clippy::cast_possible_truncation)]
        {
            len = data.len() as u32;
        }
        op = Op::Write { offset, data };
    } else {
        len = f.int(3)?;
        if kind == RecordKind::Memset {
            let pattern = f.0;
            if pattern.is_empty() || pattern.len() > len as usize {
                return Err(RecordFault::Invalid("pattern length"));
            }
            op = Op::Memset {
                offset,
                len,
                pattern,
            };
        } else {
            let s = f.int(3)?;
            f.end()?;
            let distance = (s >> 1) + 1;
            let source = if s & 1 != 0 {
                offset.checked_sub(distance)
            } else {
                offset.checked_add(distance)
            };
            let source = source.ok_or(RecordFault::OutOfPage)?;
            if source < 8 || source.saturating_add(len) > PAGE_SIZE_MAX {
                return Err(RecordFault::OutOfPage);
            }
            op = Op::Memmove {
                offset,
                len,
                source,
            };
        }
    }
    let end = offset.saturating_add(len);
    if end > PAGE_SIZE_MAX {
        return Err(RecordFault::OutOfPage);
    }
    Ok((end, op))
}

/// Decodes an EXTENDED record of `subtype`.
#[inline(always)]
fn decode_extended(subtype: u8, mut f: Fields<'_>) -> Result<Op<'_>, RecordFault> {
    Ok(match subtype {
        0 | 1 => {
            f.end()?;
            Op::InitIndex {
                compact: subtype == 1,
            }
        }
        2 => {
            f.end()?;
            Op::UndoInit
        }
        3 => {
            if f.0.len() < 3 {
                return Err(RecordFault::Truncated);
            }
            Op::UndoAppend { data: f.0 }
        }
        4 | 5 => Op::InsertRedundant {
            reuse: subtype == 5,
            prev: f.int(3)?,
            header: f.int(2)?,
            header_common: f.int(2)?,
            data_common: f.int(2)?,
            data: f.0,
        },
        6 | 7 => Op::InsertDynamic {
            reuse: subtype == 7,
            prev: f.int(3)?,
            shift: if subtype == 7 { f.int(3)? } else { 0 },
            header: f.int(3)?,
            header_common: f.int(2)?,
            data_common: f.int(3)?,
            data: f.0,
        },
        8 => {
            let prev = f.int(3)?;
            f.end()?;
            Op::DeleteRedundant { prev }
        }
        9 => {
            let (prev, header_size, data_size) = (f.int(3)?, f.int(2)?, f.int(3)?);
            f.end()?;
            Op::DeleteDynamic {
                prev,
                header_size,
                data_size,
            }
        }
        10 => {
            f.end()?;
            Op::TrimPages
        }
        _ => return Err(RecordFault::Unknown),
    })
}

/// Decodes a FILE_ record. `last` says that it is the last one of its
/// mini-transaction.
fn decode_file<'a>(
    first: u8,
    kind: RecordKind,
    f: &mut Fields<'a>,
    last: bool,
) -> Result<(Option<PageId>, Op<'a>), RecordFault> {
    let nobody = PageId::default();
    if kind == RecordKind::FileReserved {
        return Err(RecordFault::Unknown);
    }
    if first == 0xf1 && f.0 == [0] {
        return Ok((Some(nobody), Op::File(FileEvent::Padding)));
    }
    let space = SpaceId(f.int(5).map_err(|_| RecordFault::BadPageId)?);
    if f.int(5).map_err(|_| RecordFault::BadPageId)? != 0 {
        return Err(RecordFault::BadPageId);
    }
    let page = Some(PageId {
        space,
        page: PageNo(0),
    });
    let rest = f.0;
    if kind == RecordKind::FileCheckpoint {
        if space != SpaceId(0) {
            return Err(RecordFault::BadPageId);
        }
        if first == 0xf2 {
            return Ok((page, Op::File(FileEvent::Padding)));
        }
        if !last {
            return Err(RecordFault::Invalid(
                "place: not the last of its mini-transaction",
            ));
        }
        let event = match <[u8; 8]>::try_from(rest) {
            Ok(lsn) if lsn != [0; 8] => FileEvent::Checkpoint {
                lsn: Lsn(u64::from_be_bytes(lsn)),
            },
            _ if !rest.is_empty()
                && rest.len() <= PAGE_SIZE_MAX as usize
                && rest.iter().all(|&b| b == 0) =>
            {
                FileEvent::Padding
            }
            _ => return Err(RecordFault::Invalid("checkpoint LSN")),
        };
        return Ok((page, Op::File(event)));
    }
    if space == SpaceId(0) {
        return Err(RecordFault::BadPageId);
    }
    let event = if kind == RecordKind::FileRename {
        let nul = rest
            .iter()
            .position(|&b| b == 0)
            .ok_or(RecordFault::Truncated)?;
        let (old, new) = rest.split_at(nul);
        FileEvent::Rename {
            space,
            old: file_name(old)?,
            new: file_name(new.get(1..).unwrap_or_default())?,
        }
    } else {
        let name = file_name(rest)?;
        match kind {
            RecordKind::FileCreate => FileEvent::Create { space, name },
            RecordKind::FileDelete => FileEvent::Delete { space, name },
            _ => FileEvent::Modify { space, name },
        }
    };
    Ok((page, Op::File(event)))
}

fn file_name(name: &[u8]) -> Result<&[u8], RecordFault> {
    if name.ends_with(b".ibd") && !name.contains(&0) {
        Ok(name)
    } else {
        Err(RecordFault::Invalid("file name"))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RedoError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let (mut kind, mut page) = (RecordKind::Reserved, None);
        match self.decode(&mut kind, &mut page) {
            Ok(record) => record.map(Ok),
            Err(fault) => {
                self.failed = true;
                Some(Err(RedoError::Record {
                    lsn: lsn_at(self.start, self.at),
                    kind,
                    page,
                    fault,
                }))
            }
        }
    }
}
