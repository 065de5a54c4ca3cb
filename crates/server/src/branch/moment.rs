//! Moments of a branch (LSNs or times) and the limits of its history.

use super::binlog::{self, Log, LogEnd, LogError};
use super::live::OpenBranch;
use crate::time::timestamp;
use jiff::Timestamp;
use std::fmt;
use std::sync::Arc;
use tokio::time::Instant;
use xylem_binlog::Gtid;
use xylem_pages::{ReadAt, ReadError};
use xylem_types::Lsn;

/// A moment as a request gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Now, with everything acknowledged so far.
    Newest,
    /// This LSN.
    Lsn(Lsn),
    /// This time, by the server's clock.
    Time(Timestamp),
    /// Right after this transaction, in the order of the branch's binary log.
    Gtid(Gtid),
}

/// A moment that was found in a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where to read.
    pub read: ReadAt,
    /// Where the binary log ends, if that has more at that LSN.
    pub log_end: Option<LogEnd>,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Newest => f.write_str("now"),
            At::Lsn(lsn) => write!(f, "LSN {lsn}"),
            At::Time(time) => write!(f, "{time}"),
            At::Gtid(gtid) => write!(f, "GTID {gtid}"),
        }
    }
}

/// An LSN with its time, if the time is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The LSN.
    pub lsn: Lsn,
    /// The time by the server's clock.
    pub time: Option<Timestamp>,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LSN {}", self.lsn)?;
        match self.time {
            Some(time) => write!(f, " ({time})"),
            None => Ok(()),
        }
    }
}

/// The limits of a branch's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// The oldest moment that can be read or branched from.
    pub oldest: Point,
    /// The newest moment that can be read now.
    pub newest: Point,
}

/// A moment cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum MomentError {
    /// The moment lies outside the kept history.
    #[error("{at} is outside the history of branch {branch}, which reaches from {} to {}", horizon.oldest, horizon.newest)]
    Outside {
        /// The branch.
        branch: String,
        /// The requested moment.
        at: At,
        /// The branch's history.
        horizon: Horizon,
    },
    /// The branch has no history yet.
    #[error("branch {0} is empty: its first compute creates its database")]
    Empty(String),
    /// The branch's binary log does not have the transaction, or cannot be read.
    #[error("branch {branch}: {source}")]
    Log {
        /// The branch.
        branch: String,
        /// What is wrong.
        source: LogError,
    },
    /// The branch cannot be read.
    #[error("branch {branch}: {source}")]
    Read {
        /// The branch.
        branch: String,
        /// The page store's error.
        source: ReadError,
    },
}

/// `lsn` with its time. A time that cannot be read counts as unknown. Blocking.
pub fn point(branch: &OpenBranch, lsn: Lsn) -> Point {
    let time = branch.pages.time_at(lsn).ok().flatten();
    Point {
        lsn,
        time: time.and_then(timestamp),
    }
}

/// The limits of the history of `branch`; `None` when the branch is empty.
/// Blocking.
pub fn horizon(branch: &OpenBranch) -> Option<Horizon> {
    let oldest = branch.pages.oldest()?;
    let applied = branch.pages.applied();
    // Includes the side-file operations after the last mini-transaction.
    let newest = branch.pages.tell();
    (applied > Lsn::FIRST).then(|| Horizon {
        oldest: Point {
            lsn: oldest,
            time: oldest_time(branch, oldest, newest),
        },
        newest: point(branch, newest),
    })
}

/// The end of the history of `branch`: an LSN that covers everything acknowledged
/// before the call, including side-file operations, and nothing later. The LSN of a
/// side-file operation is known only once the operation is ingested. If ingest has
/// not caught up at `until`, the result is the later of the durable LSN and the
/// end of what is ingested.
pub async fn end(branch: &OpenBranch, until: Instant) -> Lsn {
    let position = branch.durable().position();
    let end = match branch.pages.wait_ingested(position, until).await {
        // Redo after the last whole mini-transaction has no visible effect.
        Ok(()) => branch.pages.tell(),
        Err(_) => branch.last_lsn().max(branch.pages.newest()),
    };
    end.max(Lsn(branch.meta.branch_point_lsn))
}

/// The first known time at or after `oldest`. The result is cached until `oldest`
/// changes.
fn oldest_time(branch: &OpenBranch, oldest: Lsn, newest: Lsn) -> Option<Timestamp> {
    let mut known = branch.oldest_time.lock();
    if let Some((lsn, time)) = *known
        && lsn == oldest
    {
        return Some(time);
    }
    let at = |lsn: u64| point(branch, Lsn(lsn)).time;
    // No LSN up to `low` has a time; every LSN from `high` on has one.
    let (mut low, mut high, mut step) = (oldest.0, oldest.0, 1);
    while at(high).is_none() {
        if high >= newest.0 {
            return None;
        }
        low = high;
        high = high.saturating_add(step).min(newest.0);
        step = step.saturating_mul(2);
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if at(middle).is_some() {
            high = middle;
        } else {
            low = middle;
        }
    }
    let time = at(high)?;
    *known = Some((oldest, time));
    Some(time)
}

/// Resolves `at` to a place to read `branch` at, within what is durable now.
///
/// # Errors
/// [`MomentError`]. Waiting for ingest ends at `until`.
pub async fn resolve(
    branch: &Arc<OpenBranch>,
    at: At,
    until: Instant,
) -> Result<Found, MomentError> {
    let read = |source| MomentError::Read {
        branch: branch.name(),
        source,
    };
    let applied = branch.pages.applied();
    let ingested = match at {
        // An applied LSN is readable even if ingest has failed since.
        At::Lsn(lsn) if lsn <= applied => Ok(()),
        _ => {
            let position = branch.durable().position();
            branch.pages.wait_ingested(position, until).await
        }
    };
    let branch_ = Arc::clone(branch);
    let found = tokio::task::spawn_blocking(move || find(&branch_, at, ingested));
    match found.await {
        Ok(found) => found,
        Err(error) => Err(read(ReadError::Stopped(format!(
            "resolving {at} failed: {error}"
        )))),
    }
}

fn find(
    branch: &OpenBranch,
    at: At,
    ingested: Result<(), ReadError>,
) -> Result<Found, MomentError> {
    let name = || branch.name();
    let read = |source| MomentError::Read {
        branch: name(),
        source,
    };
    let Some(oldest) = branch.pages.oldest() else {
        return Err(MomentError::Empty(name()));
    };
    let outside = || match horizon(branch) {
        Some(horizon) => MomentError::Outside {
            branch: name(),
            at,
            horizon,
        },
        None => MomentError::Empty(name()),
    };
    let applied = branch.pages.applied();
    // While the branch has the log of its parent, that ends where it does for the branch.
    let found = |at: ReadAt| {
        let log_end = match branch.meta.log_end {
            Some(end) if !binlog::is_own(branch, at).map_err(read)? => Some(end),
            _ => None,
        };
        Ok(Found { read: at, log_end })
    };
    match at {
        At::Newest => {
            ingested.map_err(read)?;
            if applied <= Lsn::FIRST {
                return Err(MomentError::Empty(name()));
            }
            found(ReadAt::Newest)
        }
        At::Gtid(gtid) => {
            ingested.map_err(read)?;
            let log = Log::of(branch, branch.pages.newest());
            let moment = log.and_then(|log| log.moment_of(gtid, oldest));
            let (lsn, end) = moment.map_err(|source| MomentError::Log {
                branch: name(),
                source,
            })?;
            Ok(Found {
                read: ReadAt::Lsn(lsn),
                log_end: Some(end),
            })
        }
        At::Lsn(lsn)
            if lsn < oldest
                || lsn > branch.last_lsn().max(branch.pages.newest())
                    && !branch.may_have_been_end(lsn) =>
        {
            Err(outside())
        }
        At::Lsn(lsn) => {
            ingested.map_err(read)?;
            // Redo after the last whole mtr has no visible effect.
            found(ReadAt::Lsn(lsn.min(branch.pages.newest())))
        }
        At::Time(time) => {
            let time_us = u64::try_from(time.as_microsecond()).unwrap_or(0);
            if time > branch.now() {
                return Err(outside());
            }
            let lsn = match branch.pages.lsn_at(time_us) {
                Ok(lsn) => lsn,
                Err(ReadError::TimeOutside { .. } | ReadError::TooOld { .. }) => {
                    return Err(outside());
                }
                Err(error) => return Err(read(error)),
            };
            // If anything after `lsn` is applied, nothing before it is missing.
            if lsn >= applied {
                ingested.map_err(read)?;
            }
            found(ReadAt::Lsn(lsn))
        }
    }
}
