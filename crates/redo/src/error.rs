//! Errors of redo, pages and log file headers.

use crate::{BadSpaceFlags, RecordKind};
use thiserror::Error;
use xylem_types::{Lsn, PageId};

/// Redo that cannot be read. Nothing after it can be trusted either, because
/// the start of the next record is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RedoError {
    /// A mini-transaction without a record. In a log file this is the end of the
    /// redo log.
    #[error("redo at LSN {lsn}: the mini-transaction has no records")]
    Empty {
        /// The start of the mini-transaction.
        lsn: Lsn,
    },
    /// A record's length has a reserved encoding.
    #[error("redo at LSN {lsn}: the record's length has a reserved encoding")]
    BadLength {
        /// The start of the record.
        lsn: Lsn,
    },
    /// A mini-transaction longer than [`crate::MTR_SIZE_MAX`].
    #[error(
        "redo at LSN {lsn}: the mini-transaction is longer than {} bytes",
        crate::MTR_SIZE_MAX
    )]
    TooLong {
        /// The start of the mini-transaction.
        lsn: Lsn,
    },
    /// The checksum does not match. In a log file this is the end of the redo
    /// log.
    #[error(
        "redo at LSN {lsn}: the CRC-32C of the mini-transaction is {computed:#010x}, but {stored:#010x} is stored"
    )]
    Checksum {
        /// The start of the mini-transaction.
        lsn: Lsn,
        /// The CRC-32C at the end of the mini-transaction.
        stored: u32,
        /// The CRC-32C of its records.
        computed: u32,
    },
    /// An invalid or unknown record in a mini-transaction whose checksum matches.
    #[error("redo at LSN {lsn}: {kind} record{}: {fault}", of_page(.page))]
    Record {
        /// The start of the record.
        lsn: Lsn,
        /// The kind of the record.
        kind: RecordKind,
        /// The page of the record, if it could be read.
        page: Option<PageId>,
        /// The reason.
        fault: RecordFault,
    },
}

fn of_page(page: &Option<PageId>) -> String {
    page.map(|p| format!(" of page {p}")).unwrap_or_default()
}

/// Why a record is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordFault {
    /// An unknown kind, or an unknown subtype of EXTENDED.
    #[error("unknown kind")]
    Unknown,
    /// The record ends before its fields do.
    #[error("truncated")]
    Truncated,
    /// The tablespace id or page number is malformed, or not allowed in this
    /// record.
    #[error("malformed page id")]
    BadPageId,
    /// The record changes bytes outside the page.
    #[error("beyond the page")]
    OutOfPage,
    /// The record has bytes after its last field.
    #[error("bytes after the last field")]
    Trailing,
    /// The named field has a value that is not allowed.
    #[error("invalid {0}")]
    Invalid(&'static str),
    /// Tablespace flags without a valid page size.
    #[error(transparent)]
    Flags(#[from] BadSpaceFlags),
}

/// Records could not be applied to a page. The contents of the page are then
/// undefined; the caller must discard the buffer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("page {page}, mini-transaction ending at LSN {end_lsn}{}: {fault}", of_kind(.kind))]
pub struct ApplyError {
    /// The page.
    pub page: PageId,
    /// The end of the mini-transaction.
    pub end_lsn: Lsn,
    /// The kind of the record that failed; `None` if no record is at fault.
    pub kind: Option<RecordKind>,
    /// The reason.
    pub fault: ApplyFault,
}

fn of_kind(kind: &Option<RecordKind>) -> String {
    kind.map(|k| format!(", {k}")).unwrap_or_default()
}

/// Why a record could not be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ApplyFault {
    /// The record cannot be decoded.
    #[error(transparent)]
    Record(#[from] RecordFault),
    /// The record is for another page.
    #[error("the record is for page {0}")]
    OtherPage(PageId),
    /// The size of the buffer is not the page size of the tablespace.
    #[error("the page buffer has {got} bytes, but the tablespace's pages have {want}")]
    PageSize {
        /// Bytes in the buffer.
        got: usize,
        /// The tablespace's physical page size.
        want: usize,
    },
    /// The page was never initialised, or the buffer holds another page. Earlier
    /// redo is missing.
    #[error("page is not initialised or carries another page's id ({0})")]
    NotThisPage(PageId),
    /// The record contradicts the contents of the page.
    #[error("does not fit the page's contents")]
    Corrupted,
    /// An OPT_PAGE_CHECKSUM record contradicts the contents of the page.
    #[error("the page's contents do not have the checksum that the redo recorded")]
    Checksum,
}

/// A page that InnoDB would report as corrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PageCheck {
    /// The size of the buffer is not the page size of the tablespace.
    #[error("the page buffer has {got} bytes, but the tablespace's pages have {want}")]
    PageSize {
        /// Bytes in the buffer.
        got: usize,
        /// The tablespace's physical page size.
        want: usize,
    },
    /// The page carries another page's id.
    #[error("page carries the id of page {0}")]
    PageId(PageId),
    /// The LSNs at the start and the end of the page differ.
    #[error("the LSNs at the page's start and end differ")]
    Lsn,
    /// The checksum does not match.
    #[error("the checksum is {computed:#010x}, but {stored:#010x} is stored")]
    Checksum {
        /// The checksum in the page.
        stored: u32,
        /// The checksum of its contents.
        computed: u32,
    },
    /// The page is encrypted in the file.
    #[error("page is encrypted")]
    Encrypted,
    /// The page is page_compressed in the file.
    #[error("page is page_compressed")]
    PageCompressed,
}

/// A log file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LogHeaderError {
    /// The file is too short for the header and both checkpoint blocks.
    #[error("the redo log's header has {got} bytes of {}", crate::START_OFFSET)]
    Short {
        /// Bytes given.
        got: usize,
    },
    /// The format is not that of MariaDB 10.8 and later.
    #[error("redo log format {format:#010x} is not that of MariaDB 10.8 and later{}", encrypted(*.format))]
    Format {
        /// The format field.
        format: u32,
    },
    /// The redo log was written with `innodb_encrypt_log=ON`.
    #[error("the redo log is encrypted")]
    Encrypted,
    /// The checksum of the header block does not match.
    #[error("the redo log's header checksum is {computed:#010x}, but {stored:#010x} is stored")]
    Checksum {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of its contents.
        computed: u32,
    },
    /// The first LSN is below [`crate::START_OFFSET`].
    #[error("the redo log's header has an invalid first LSN, {0}")]
    FirstLsn(Lsn),
    /// Neither checkpoint block is valid.
    #[error("the redo log has no valid checkpoint block")]
    NoCheckpoint,
}

fn encrypted(format: u32) -> &'static str {
    if format & 1 << 31 != 0 {
        " (encrypted)"
    } else {
        ""
    }
}
