//! The names of a branch's own binary log, in its data directory.

/// The base name of the log: `--log-bin=binlog`.
pub const BINLOG: &str = "binlog";

/// The largest file of the log, in bytes. MariaDB's positions in it have 32 bits.
pub const BINLOG_FILE_MAX: u64 = 4 << 30;

/// A file of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BinlogFile {
    /// Events, in the file of this number.
    Events(u32),
    /// The names of the files with events.
    Index,
    /// The names of the files that are being removed or added.
    PurgeIndex,
    /// The GTIDs in the log, as of the last clean end of a server.
    State,
}

impl BinlogFile {
    /// The file at `path`, relative to the data directory. `None` if it is not the log's.
    pub fn at(path: &str) -> Option<BinlogFile> {
        match path.strip_prefix(BINLOG)?.strip_prefix('.')? {
            "index" => Some(BinlogFile::Index),
            "~rec~" => Some(BinlogFile::PurgeIndex),
            "state" => Some(BinlogFile::State),
            number if number.len() >= 6 && number.bytes().all(|b| b.is_ascii_digit()) => {
                number.parse().ok().map(BinlogFile::Events)
            }
            _ => None,
        }
    }

    /// The path of the file with events of this number (`generate_new_name` in `log.cc`).
    pub fn events_path(number: u32) -> String {
        format!("{BINLOG}.{number:06}")
    }
}
