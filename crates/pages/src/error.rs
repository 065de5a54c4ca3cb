//! Why the page store cannot do what it was asked.

use xylem_types::{BranchId, Lsn, PageId, SpaceId};

/// A store or a branch could not be opened, or its ingest stopped.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("{context}: {source}")]
    Io {
        /// The operation that failed, and its file.
        context: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A block, manifest or WAL record failed its check.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// Another process has taken the branch over.
    #[error("branch {0}: another server has opened it; this one no longer changes it")]
    Taken(BranchId),
    /// The branch has forks, which live on its history.
    #[error(
        "branch {branch} cannot be removed: {} left it and need its history",
        list(forks)
    )]
    HasForks {
        /// The branch to remove.
        branch: BranchId,
        /// Its forks.
        forks: Vec<BranchId>,
    },
    /// The WAL failed.
    #[error("WAL: {0}")]
    Wal(#[from] xylem_wal::WalError),
    /// Redo that is not understood. Ingest of the branch stops here.
    #[error("redo at LSN {lsn}: {message}")]
    Redo {
        /// Where the mtr begins.
        lsn: Lsn,
        /// The error of the redo parser.
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
        /// The tablespace asked for.
        space: SpaceId,
        /// The LSN of the read.
        lsn: Lsn,
    },
    /// The tablespace has fewer pages.
    #[error(
        "page {page} is beyond the end of its tablespace, which has {pages} pages at LSN {lsn}"
    )]
    BeyondEnd {
        /// The page asked for.
        page: PageId,
        /// The tablespace's size.
        pages: u32,
        /// The LSN of the read.
        lsn: Lsn,
    },
    /// The LSN is older than the history kept.
    #[error("LSN {lsn} is older than the history kept, which begins at {oldest}")]
    TooOld {
        /// The LSN asked for.
        lsn: Lsn,
        /// The oldest LSN that can be read.
        oldest: Lsn,
    },
    /// The time is before the history kept.
    #[error("{} is before the history kept, which begins at LSN {oldest}{}", time_text(*time_us), oldest_us.map(|t| format!(", {}", time_text(t))).unwrap_or_default())]
    TimeOutside {
        /// The time asked for, in microseconds since 1970.
        time_us: u64,
        /// The oldest LSN there is.
        oldest: Lsn,
        /// Its time, if that is known.
        oldest_us: Option<u64>,
    },
    /// The server's clock showed the time twice, or never.
    #[error("which moment {} means is not certain: {message}", time_text(*time_us))]
    TimeUnclear {
        /// The time asked for, in microseconds since 1970.
        time_us: u64,
        /// Why, and which LSNs may be meant.
        message: String,
    },
    /// The LSN has not been ingested in time.
    #[error("LSN {wanted} was not reached in time: {hop} stands at {reached}, {} bytes behind", wanted.0.saturating_sub(reached.0))]
    NotReached {
        /// The LSN asked for.
        wanted: Lsn,
        /// Where the lagging part stands.
        reached: Lsn,
        /// The lagging part in words: "WAL" or "ingest".
        hop: &'static str,
    },
    /// A stored block failed its checksum, or redo cannot be applied.
    #[error("page {page} at LSN {lsn}: {message}")]
    Corrupt {
        /// Which page.
        page: PageId,
        /// The LSN of the read.
        lsn: Lsn,
        /// The damage, and its file.
        message: String,
    },
    /// Reading a layer failed.
    #[error("{context}: {source}")]
    Io {
        /// The operation that failed, and its file.
        context: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// Memory alone has no answer; a read with [`crate::Reach::Files`] has.
    #[error("the answer is not in memory")]
    NotInMemory,
    /// Ingest has stopped; the reason stands in the message.
    #[error("the branch's ingest has stopped: {0}")]
    Stopped(String),
}
