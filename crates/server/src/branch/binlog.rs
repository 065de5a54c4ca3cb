//! The binary log of a branch at a moment: what it says of transactions.
//!
//! Whatever the log has at an LSN is prepared or committed in the redo before that LSN, and
//! a compute that begins there commits what the log has. So the log's position is exactly
//! that of the data.

use super::live::OpenBranch;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use xylem_binlog::{Gtid, Item, Position, scan};
use xylem_pages::{ReadAt, ReadError};
use xylem_types::{BINLOG, BinlogFile, Lsn, SIDE_FILE_MAX};

/// The side file in which the plugin names the branch that last ran with a binary log.
const OWNER: &str = "xylem.binlog";
/// How the plugin says there that the log is not in the branch.
const ELSEWHERE: &str = " elsewhere";
/// More bytes than a branch's name has there.
const OWNER_BYTES: usize = 256;

/// The end of the parent's log for a branch, if that is before the branch point: a group commit
/// writes many transactions at one LSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEnd {
    /// The number of the log's file.
    pub file: u32,
    /// The size of that file, in bytes.
    pub size: u64,
}

impl LogEnd {
    /// The size of file `number`, which has `size` bytes in the parent; `None` if the branch
    /// has none of it.
    pub fn size_of(self, number: u32, size: u64) -> Option<u64> {
        match number.cmp(&self.file) {
            std::cmp::Ordering::Less => Some(size),
            std::cmp::Ordering::Equal => Some(size.min(self.size)),
            std::cmp::Ordering::Greater => None,
        }
    }
}

/// A transaction, or the log itself, cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The page store cannot read it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log itself cannot be read.
    #[error("{file}: {why}")]
    Invalid {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// There is no log.
    #[error("it has no binary log of its own: `xylem up -- --log-bin` begins one")]
    None,
    /// The log has no such transaction.
    #[error("{gtid} is not in its binary log, which ends at {end}")]
    Unknown {
        /// The transaction.
        gtid: Gtid,
        /// The end of the log.
        end: Position,
    },
    /// The file with the transaction was removed.
    #[error("the file of its binary log that had {0} was purged")]
    Purged(Gtid),
    /// The transaction was written before the history that is kept.
    #[error("{0} is older than the history that is kept")]
    Old(Gtid),
}

/// A branch's log.
pub struct Log<'a> {
    branch: &'a OpenBranch,
    lsn: Lsn,
    end: Option<LogEnd>,
    /// The numbers of its files, the oldest first. Not empty.
    files: Vec<u32>,
}

/// A place in a log.
struct Place {
    file: u32,
    /// Where the transaction ends.
    end: u64,
}

/// Whether the binary log that `branch` has at `at` is its own. Otherwise it is its parent's,
/// as of the branch point, or was left behind when the log moved out of the branch. Blocking.
///
/// # Errors
/// [`ReadError`].
pub fn is_own(branch: &OpenBranch, at: ReadAt) -> Result<bool, ReadError> {
    Ok(owner(branch, at)?.is_some_and(|owner| names(&owner, branch)))
}

/// Whether a line in [`OWNER`] says that the log is a part of `branch`.
fn names(owner: &str, branch: &OpenBranch) -> bool {
    owner == format!("id:{}", branch.id())
}

/// The line in [`OWNER`].
fn owner(branch: &OpenBranch, at: ReadAt) -> Result<Option<String>, ReadError> {
    let bytes = branch.pages.side_file(at, OWNER, 0, OWNER_BYTES)?;
    let line = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(line.and_then(|line| Some(line.strip_suffix('\n')?.to_owned())))
}

impl Log<'_> {
    /// The log of `branch` at `lsn`. Blocking, as all functions here.
    ///
    /// # Errors
    /// [`LogError::None`], or when it cannot be read.
    pub fn of(branch: &OpenBranch, lsn: Lsn) -> Result<Log<'_>, LogError> {
        let at = ReadAt::Lsn(lsn);
        let owner = owner(branch, at)?.unwrap_or_default();
        let own = names(&owner, branch);
        // After the branch point a branch without a log of its own has changes that are in none.
        let shared = lsn.0 <= branch.meta.branch_point_lsn;
        if owner.ends_with(ELSEWHERE) || !own && !shared {
            return Err(LogError::None);
        }
        let end = branch.meta.log_end.filter(|_| !own);
        let mut log = Log {
            branch,
            lsn,
            end,
            files: Vec::new(),
        };
        let index = format!("{BINLOG}.index");
        let index = branch
            .pages
            .side_file(at, &index, 0, SIDE_FILE_MAX as usize)?;
        let index = index.ok_or(LogError::None)?;
        for line in String::from_utf8_lossy(&index).lines() {
            if let Some(BinlogFile::Events(number)) = BinlogFile::at(line.trim_start_matches("./"))
                && log.size(number)?.is_some()
            {
                log.files.push(number);
            }
        }
        match log.files.is_empty() {
            true => Err(LogError::None),
            false => Ok(log),
        }
    }

    fn size(&self, number: u32) -> Result<Option<u64>, ReadError> {
        let path = BinlogFile::events_path(number);
        let size = self
            .branch
            .pages
            .side_file_size(ReadAt::Lsn(self.lsn), &path)?;
        Ok(size.and_then(|size| match self.end {
            Some(end) => end.size_of(number, size),
            None => Some(size),
        }))
    }

    fn scan(
        &self,
        number: u32,
        each: &mut dyn FnMut(Item) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        let path = BinlogFile::events_path(number);
        let size = self.size(number)?.unwrap_or(0);
        let mut read = |offset, length| {
            let at = ReadAt::Lsn(self.lsn);
            let bytes = self.branch.pages.side_file(at, &path, offset, length)?;
            Ok::<_, ReadError>(bytes.unwrap_or_default())
        };
        match scan(size, &mut read, each) {
            Ok(_) => Ok(()),
            Err(xylem_binlog::Error::Read(error)) => Err(LogError::Read(error)),
            Err(error) => Err(LogError::Invalid {
                file: path,
                why: error.to_string(),
            }),
        }
    }

    /// The state of the log before file `number`. Nothing, if that was cut off right at its
    /// beginning.
    fn before(&self, number: u32) -> Result<Option<Position>, LogError> {
        let mut before = None;
        self.scan(number, &mut |item| match item {
            Item::List(list) => {
                let mut position = Position::default();
                list.into_iter().for_each(|gtid| position.add(gtid));
                before = Some(position);
                ControlFlow::Break(())
            }
            Item::Checkpoint(_) | Item::Group(_) => ControlFlow::Continue(()),
        })?;
        Ok(before)
    }

    /// The state of the log at its end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn position(&self) -> Result<Position, LogError> {
        // A file that was just begun may not have the state yet.
        for number in self.files.iter().rev() {
            if let Some(mut position) = self.before(*number)? {
                self.scan(*number, &mut |item| {
                    if let Item::Group(group) = item {
                        position.add(group.gtid);
                    }
                    ControlFlow::Continue(())
                })?;
                return Ok(position);
            }
        }
        Ok(Position::default())
    }

    /// The state of the log right after the transaction `gtid`.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn position_after(&self, gtid: Gtid) -> Result<Position, LogError> {
        let Place { file, end } = self.find(gtid)?;
        let mut log = Log {
            branch: self.branch,
            lsn: self.lsn,
            end: Some(LogEnd { file, size: end }),
            files: self.files.clone(),
        };
        log.files.retain(|number| *number <= file);
        log.position()
    }

    /// Where the transaction `gtid` ends.
    fn find(&self, gtid: Gtid) -> Result<Place, LogError> {
        // The newest file before which the log did not have it.
        let (mut low, mut high) = (0, self.files.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let before = self.before(self.files[middle])?;
            match before.is_some_and(|before| !before.contains(gtid)) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let Some(file) = low.checked_sub(1).map(|at| self.files[at]) else {
            return Err(LogError::Purged(gtid));
        };
        let mut end = None;
        self.scan(file, &mut |item| match item {
            Item::Group(group) if group.gtid == gtid => {
                end = Some(group.end);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        })?;
        match end {
            Some(end) => Ok(Place { file, end }),
            None => Err(LogError::Unknown {
                gtid,
                end: self.position()?,
            }),
        }
    }

    /// The LSN at which the branch got the transaction `gtid`, and where the log ends for a
    /// branch from there. `oldest` is the beginning of the history.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn moment_of(&self, gtid: Gtid, oldest: Lsn) -> Result<(Lsn, LogEnd), LogError> {
        let Place { file, end } = self.find(gtid)?;
        let path = BinlogFile::events_path(file);
        // The file may have had the same name in an earlier log (RESET MASTER). The last event
        // of the group, with its time and transaction, tells them apart.
        const EVENT_BYTES: u64 = 31;
        let from = end.saturating_sub(EVENT_BYTES);
        let last = |lsn| {
            let at = ReadAt::Lsn(lsn);
            self.branch
                .pages
                .side_file(at, &path, from, EVENT_BYTES as usize)
        };
        let ours = last(self.lsn)?;
        let has = |lsn| {
            let size = self.branch.pages.side_file_size(ReadAt::Lsn(lsn), &path)?;
            Ok::<_, ReadError>(size.is_some_and(|size| size >= end) && last(lsn)? == ours)
        };
        if has(oldest)? {
            return Err(LogError::Old(gtid));
        }
        let (mut without, mut with) = (oldest.0, self.lsn.0);
        while with - without > 1 {
            let middle = without + (with - without) / 2;
            match has(Lsn(middle))? {
                true => with = middle,
                false => without = middle,
            }
        }
        Ok((Lsn(with), LogEnd { file, size: end }))
    }
}
