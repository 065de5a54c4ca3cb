//! The arguments and results of reads.

use std::sync::Arc;
use xylem_types::{Lsn, SpaceId};

/// The version that a read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAt {
    /// The end of what is ingested now.
    Newest,
    /// Every mtr that ended at or before this LSN, none that ended later. The
    /// caller has waited until it is ingested.
    Lsn(Lsn),
}

/// How far a read may go for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It may read files and wait for locks. Blocking.
    Files,
    /// It does neither: [`crate::ReadError::NotInMemory`] says that memory alone
    /// has no answer, or not at little cost.
    Memory,
}

/// A page as of an LSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// A valid InnoDB page of its tablespace's physical size, or all zeros.
    pub bytes: Arc<[u8]>,
    /// The LSN up to which it shows the branch.
    pub lsn: Lsn,
}

/// A tablespace as of an LSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tablespace {
    /// Its id.
    pub space: SpaceId,
    /// Its file, relative to the data directory, without a leading `./`:
    /// `db/table.ibd`, `ibdata1`, `undo001`.
    pub path: String,
    /// FSP_SPACE_FLAGS.
    pub flags: u32,
    /// FSP_SIZE: pages.
    pub pages: u32,
    /// Physical page size in bytes.
    pub page_bytes: u32,
}

/// A side file or a directory as of an LSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    /// Relative to the data directory.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// The content; `None` for a directory.
    pub data: Option<Arc<[u8]>>,
}
