//! Parses the redo of MariaDB 10.8 and later, splits it by page, and applies it.
//!
//! Bytes in, bytes out: no I/O, no clock, no panic on any input. The formats
//! are InnoDB's own and are described in `docs/formats/redo.md`; their source
//! is `storage/innobase/include/mtr0types.h` (records), `log/log0recv.cc`
//! (reading and applying) and `page/page0cur.cc` (index pages).
//!
//! The parts of the crate, in the order data flows:
//!
//! 1. [`MtrReader`] (a stream in chunks of any size) and [`parse_mtr`] (a slice)
//!    find whole mini-transactions and check their CRC-32C: [`Mtr`].
//!    [`MtrCheck`] only checks a stream as it passes, and keeps none of it.
//! 2. [`Mtr::items`] splits a mini-transaction by page for storage
//!    ([`MtrItem`]); [`Mtr::records`] decodes each [`Record`].
//! 3. [`apply()`] applies to a page the records that one mini-transaction has for
//!    it, [`seal()`] makes the page valid for InnoDB to read, [`verify`] checks it.
//! 4. [`log_file`] and [`read_log_file_header`] write and read the start of an
//!    `ib_logfile0`.
#![forbid(unsafe_code)]

mod apply;
mod bytes;
mod check;
mod describe;
mod error;
mod flags;
mod items;
mod legacy;
mod logfile;
mod mtr;
mod nameslog;
mod reader;
mod record;
mod seal;
pub mod varint;

pub use apply::{Applied, apply, page_lsn};
pub use check::MtrCheck;
pub use describe::PageHead;
pub use error::{ApplyError, ApplyFault, LogHeaderError, PageCheck, RecordFault, RedoError};
pub use flags::{BadSpaceFlags, SpaceFlags};
pub use items::{Items, MtrItem};
pub use legacy::{is_unused, old_checksums, verify_old};
pub use logfile::{
    CHECKPOINT_MTR_LEN, LogGeometry, LogHeader, START_OFFSET, checkpoint_mtr, log_file,
    read_log_file_header,
};
pub use mtr::{MTR_SIZE_MAX, Mtr, ParseStep, parse_mtr, parse_mtr_from};
pub use nameslog::log_file_naming;
pub use reader::MtrReader;
pub use record::{FileEvent, Op, Record, RecordKind, Records};
pub use seal::{seal, verify};
