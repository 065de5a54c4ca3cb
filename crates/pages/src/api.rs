//! What the page store takes and returns.

use std::sync::Arc;
use std::time::Duration;
use xylem_ambient::Clock;
use xylem_types::{BranchId, Lsn, PageId, SpaceId};

/// How a store is set up.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Memory for open layers, frozen layers, indexes and caches of all
    /// branches together, in bytes.
    pub memory_bytes: u64,
    /// Redo bytes an open layer holds before it is frozen and flushed. A
    /// quarter of `memory_bytes` is the most that is used.
    pub open_layer_bytes: u64,
    /// A page that gathered this many bytes of redo since its last image, in
    /// one flush or in layers that are merged, gets a new image there. So a
    /// read applies at most about as much of each run of layers.
    pub image_after_bytes: u64,
    /// The same for the number of mtrs.
    pub image_after_mtrs: u32,
    /// A page whose read has to gather this much more from memory is built, so
    /// that the next one need not: bytes of redo and 64 for each mtr.
    pub long_chain_bytes: u64,
    /// Most bytes of a layer that a merge writes, about.
    pub merged_layer_bytes: u64,
    /// An open layer is flushed when it has been open for so long.
    pub flush_after: Duration,
    /// How far back every LSN stays readable: time that the steady clock of a
    /// running server has seen pass.
    pub history: Duration,
    /// What tells the time: the same clock as the log's.
    pub clock: Clock,
    /// Whether the log is trimmed behind what layers durably hold.
    pub trim_log: bool,
    /// What the scrub that goes on in the background reads from the store in a
    /// second, over all branches; 0: there is none.
    pub scrub_bytes_per_second: u64,
    /// It begins with a branch again after so long at the earliest.
    pub scrub_pause: Duration,
}

impl Default for StoreConfig {
    /// 512 MiB of memory.
    fn default() -> StoreConfig {
        StoreConfig {
            memory_bytes: 512 << 20,
            open_layer_bytes: 64 << 20,
            image_after_bytes: 32 << 10,
            image_after_mtrs: 512,
            long_chain_bytes: 512 << 10,
            merged_layer_bytes: 128 << 20,
            flush_after: Duration::from_secs(300),
            history: Duration::from_secs(7 * 24 * 3600),
            clock: Clock::system(),
            trim_log: true,
            scrub_bytes_per_second: 2 << 20,
            scrub_pause: Duration::from_secs(3600),
        }
    }
}

/// Which version of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadAt {
    /// What is ingested now.
    Newest,
    /// Every mtr that ended at or before this LSN, none that ended later. The
    /// caller has waited until it is ingested.
    Lsn(Lsn),
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

/// A store or a branch could not be opened, or its ingest stopped.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("{context}: {source}")]
    Io {
        /// What was tried, and on which file.
        context: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A block, manifest or log record failed its check.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// Another process has taken the branch over.
    #[error("branch {0}: another server has opened it; this one no longer changes it")]
    Taken(BranchId),
    /// Others left the branch and live on what it has.
    #[error(
        "branch {branch} cannot be removed: {} left it and need its history",
        list(forks)
    )]
    HasForks {
        /// Which.
        branch: BranchId,
        /// Who.
        forks: Vec<BranchId>,
    },
    /// The log failed.
    #[error("log: {0}")]
    Log(#[from] xylem_wal::WalError),
    /// Redo that is not understood: ingest of the branch stops here.
    #[error("redo at LSN {lsn}: {message}")]
    Redo {
        /// Where.
        lsn: Lsn,
        /// What.
        message: String,
    },
}

fn list(ids: &[BranchId]) -> String {
    let ids: Vec<String> = ids.iter().map(BranchId::to_string).collect();
    ids.join(", ")
}

/// A time for people: RFC 3339, in UTC.
pub(crate) fn time_text(us: u64) -> String {
    jiff::Timestamp::from_microsecond(us.try_into().unwrap_or(i64::MAX))
        .map_or_else(|_| format!("{us} µs after 1970"), |t| t.to_string())
}

/// A read could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No such tablespace at that LSN.
    #[error("tablespace {space} does not exist at LSN {lsn}")]
    NoSuchTablespace {
        /// What was asked for.
        space: SpaceId,
        /// As of when.
        lsn: Lsn,
    },
    /// The tablespace has fewer pages.
    #[error(
        "page {page} is beyond the end of its tablespace, which has {pages} pages at LSN {lsn}"
    )]
    BeyondEnd {
        /// What was asked for.
        page: PageId,
        /// The tablespace's size.
        pages: u32,
        /// As of when.
        lsn: Lsn,
    },
    /// The LSN is older than the history kept.
    #[error("LSN {lsn} is older than the history kept, which begins at {oldest}")]
    TooOld {
        /// What was asked for.
        lsn: Lsn,
        /// What there is.
        oldest: Lsn,
    },
    /// The time is before the history kept.
    #[error("{} is before the history kept, which begins at LSN {oldest}{}", time_text(*time_us), oldest_us.map(|t| format!(", {}", time_text(t))).unwrap_or_default())]
    TimeOutside {
        /// What was asked for, in microseconds since 1970.
        time_us: u64,
        /// The oldest LSN there is.
        oldest: Lsn,
        /// Its time, if that is known.
        oldest_us: Option<u64>,
    },
    /// The server's clock showed the time twice, or never.
    #[error("which moment {} means is not certain: {message}", time_text(*time_us))]
    TimeUnclear {
        /// What was asked for, in microseconds since 1970.
        time_us: u64,
        /// Why, and which LSNs may be meant.
        message: String,
    },
    /// The LSN has not been ingested in time.
    #[error("LSN {wanted} was not reached in time: {hop} stands at {reached}, {} bytes behind", wanted.0.saturating_sub(reached.0))]
    NotReached {
        /// What was asked for.
        wanted: Lsn,
        /// Where the lagging part stands.
        reached: Lsn,
        /// "log" or "ingest".
        hop: &'static str,
    },
    /// A stored block failed its checksum, or redo cannot be applied.
    #[error("page {page} at LSN {lsn}: {message}")]
    Corrupt {
        /// Which page.
        page: PageId,
        /// As of when.
        lsn: Lsn,
        /// What is wrong, in which file.
        message: String,
    },
    /// Reading a layer failed.
    #[error("{context}: {source}")]
    Io {
        /// What was tried, and on which file.
        context: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Ingest has stopped; the reason stands in the message.
    #[error("the branch's ingest has stopped: {0}")]
    Stopped(String),
}
