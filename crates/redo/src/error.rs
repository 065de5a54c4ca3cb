//! What can be wrong with redo, a page, or a log file header.

use crate::{BadSpaceFlags, RecordKind};
use thiserror::Error;
use xylem_types::{Lsn, PageId};

/// Redo that cannot be read. The stream stops here: nothing after it can be
/// trusted to begin at a record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RedoError {
    /// A mini-transaction without a record. In a log file: the end of the log.
    #[error("redo at LSN {lsn}: a mini-transaction without records")]
    Empty {
        /// Where it begins.
        lsn: Lsn,
    },
    /// A record whose length is written in a reserved form.
    #[error("redo at LSN {lsn}: the record's length is written in a reserved form")]
    BadLength {
        /// Where the record begins.
        lsn: Lsn,
    },
    /// A mini-transaction longer than [`crate::MTR_SIZE_MAX`].
    #[error(
        "redo at LSN {lsn}: mini-transaction longer than {} bytes",
        crate::MTR_SIZE_MAX
    )]
    TooLong {
        /// Where the mini-transaction begins.
        lsn: Lsn,
    },
    /// The checksum does not match. In a log file: the end of the log.
    #[error(
        "redo at LSN {lsn}: CRC-32C of the mini-transaction is {computed:#010x}, stored is {stored:#010x}"
    )]
    Checksum {
        /// Where the mini-transaction begins.
        lsn: Lsn,
        /// What the log says.
        stored: u32,
        /// What its records give.
        computed: u32,
    },
    /// A record that is not understood. Its mini-transaction's checksum was right.
    #[error("redo at LSN {lsn}: {kind} record{}: {fault}", of_page(.page))]
    Record {
        /// Where the record begins.
        lsn: Lsn,
        /// Its kind.
        kind: RecordKind,
        /// Its page, when that could be read.
        page: Option<PageId>,
        /// What is wrong.
        fault: RecordFault,
    },
}

fn of_page(page: &Option<PageId>) -> String {
    page.map(|p| format!(" of page {p}")).unwrap_or_default()
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordFault {
    /// A kind, or a subtype of EXTENDED, that this version does not know.
    #[error("unknown kind")]
    Unknown,
    /// It ends before its fields do.
    #[error("truncated")]
    Truncated,
    /// The tablespace or page number is not one.
    #[error("malformed page id")]
    BadPageId,
    /// It changes bytes that no page has.
    #[error("beyond the page")]
    OutOfPage,
    /// It has bytes after its last field.
    #[error("bytes after the last field")]
    Trailing,
    /// A field has a value that it cannot have.
    #[error("invalid {0}")]
    Invalid(&'static str),
    /// Tablespace flags that give no page size.
    #[error(transparent)]
    Flags(#[from] BadSpaceFlags),
}

/// Records could not be applied to a page. The page's contents are then
/// undefined: throw the buffer away.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("page {page}, mini-transaction ending at LSN {end_lsn}{}: {fault}", of_kind(.kind))]
pub struct ApplyError {
    /// The page.
    pub page: PageId,
    /// The end of the mini-transaction.
    pub end_lsn: Lsn,
    /// The record that failed, when it was a record.
    pub kind: Option<RecordKind>,
    /// Why.
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
    #[error("record is for page {0}")]
    OtherPage(PageId),
    /// The buffer is not one page of the tablespace.
    #[error("page buffer is {got} bytes, the tablespace's pages are {want}")]
    PageSize {
        /// Bytes in the buffer.
        got: usize,
        /// The tablespace's physical page size.
        want: usize,
    },
    /// The page was never initialised, or is another one: redo before this is missing.
    #[error("page is not initialised or carries another page's id ({0})")]
    NotThisPage(PageId),
    /// The record does not fit what the page holds.
    #[error("does not fit the page's contents")]
    Corrupted,
    /// An OPT_PAGE_CHECKSUM record disagrees with the page.
    #[error("the page's contents do not have the checksum that the log recorded")]
    Checksum,
}

/// A page that InnoDB would call corrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PageCheck {
    /// The buffer is not one page of the tablespace.
    #[error("page buffer is {got} bytes, the tablespace's pages are {want}")]
    PageSize {
        /// Bytes in the buffer.
        got: usize,
        /// The tablespace's physical page size.
        want: usize,
    },
    /// It carries another page's id.
    #[error("page carries the id of page {0}")]
    PageId(PageId),
    /// The LSN at its start and its end differ.
    #[error("LSN at the page's start and end differ")]
    Lsn,
    /// The checksum does not match.
    #[error("checksum is {computed:#010x}, stored is {stored:#010x}")]
    Checksum {
        /// What the page says.
        stored: u32,
        /// What its contents give.
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
    /// Fewer bytes than the header and both checkpoint blocks.
    #[error("log file header is {got} bytes, {} are needed", crate::START_OFFSET)]
    Short {
        /// Bytes given.
        got: usize,
    },
    /// Not the format of MariaDB 10.8 and later.
    #[error("log format {format:#010x} is not that of MariaDB 10.8 and later{}", encrypted(*.format))]
    Format {
        /// The format field.
        format: u32,
    },
    /// Made with `innodb_encrypt_log=ON`.
    #[error("the log is encrypted")]
    Encrypted,
    /// The header block's checksum does not match.
    #[error("log header checksum is {computed:#010x}, stored is {stored:#010x}")]
    Checksum {
        /// What the header says.
        stored: u32,
        /// What its contents give.
        computed: u32,
    },
    /// The first LSN cannot be one.
    #[error("log header has first LSN {0}")]
    FirstLsn(Lsn),
    /// Neither checkpoint block is valid.
    #[error("no valid checkpoint block in the log file")]
    NoCheckpoint,
}

fn encrypted(format: u32) -> &'static str {
    if format & 1 << 31 != 0 {
        " (encrypted)"
    } else {
        ""
    }
}
