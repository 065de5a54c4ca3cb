//! The words of Xylem as types: LSN, page ids, branches, epochs, frames.
//!
//! Nothing here does I/O or knows a wire or disk format. A number that means
//! something has its own type, so that a page number cannot be passed where an
//! LSN is meant.

mod frame;
mod ids;

#[cfg(test)]
mod tests;

/// Bytes of the largest side file. A compute refuses what would make one larger
/// (`EFBIG`), and so does the server; MariaDB's own stay far below.
pub const SIDE_FILE_MAX: u64 = 64 << 20;

pub use frame::{FileOp, Frame, FrameBody};
pub use ids::{
    BranchId, BranchName, BranchNameError, Epoch, FrameSeq, Lsn, PageId, PageNo, SpaceId,
};
