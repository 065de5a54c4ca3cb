//! Xylem's terms as types: LSNs, page ids, branches, epochs, frames.
//!
//! Nothing here does I/O or knows a wire or disk format. Each kind of number
//! has its own type, so that a page number cannot be passed in place of an LSN.

mod binlog;
mod frame;
mod ids;

#[cfg(test)]
mod tests;

/// The largest size of a side file, in bytes, other than a file of the binary log.
/// MariaDB's own side files stay far below it.
pub const SIDE_FILE_MAX: u64 = 64 << 20;

/// The largest size of the side file `path`, in bytes. The compute and the server both
/// refuse an operation that would make it larger (`EFBIG` in the compute).
pub fn side_file_max(path: &str) -> u64 {
    match BinlogFile::at(path) {
        Some(BinlogFile::Events(_)) => BINLOG_FILE_MAX,
        _ => SIDE_FILE_MAX,
    }
}

pub use binlog::{BINLOG, BINLOG_FILE_MAX, BinlogFile};
pub use frame::{FileOp, Frame, FrameBody};
pub use ids::{
    BranchId, BranchName, BranchNameError, Epoch, FrameSeq, Lsn, PageId, PageNo, SpaceId,
};
