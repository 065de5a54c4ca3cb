//! Moments of a branch: an LSN or a time, and how far its history reaches.

use super::live::OpenBranch;
use crate::time::timestamp;
use jiff::Timestamp;
use std::fmt;
use std::sync::Arc;
use tokio::time::Instant;
use xylem_pages::{ReadAt, ReadError};
use xylem_types::Lsn;

/// A moment as people name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Now, with everything that was acknowledged.
    Newest,
    /// This LSN.
    Lsn(Lsn),
    /// This time, by the server's clock.
    Time(Timestamp),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Newest => f.write_str("now"),
            At::Lsn(lsn) => write!(f, "LSN {lsn}"),
            At::Time(time) => write!(f, "{time}"),
        }
    }
}

/// An LSN, with its time if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Where.
    pub lsn: Lsn,
    /// When, by the server's clock.
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

/// How far a branch's history reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// The oldest moment that can be read or branched from.
    pub oldest: Point,
    /// The newest that can be read now.
    pub newest: Point,
}

/// A moment cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MomentError {
    /// It lies outside the history kept.
    #[error("{at} is outside the history of branch {branch}, which reaches from {} to {}", horizon.oldest, horizon.newest)]
    Outside {
        /// Of which branch.
        branch: String,
        /// What was asked for.
        at: At,
        /// What there is.
        horizon: Horizon,
    },
    /// There is no history at all.
    #[error("branch {0} is empty: its first compute makes its database")]
    Empty(String),
    /// The branch cannot be read.
    #[error("branch {branch}: {source}")]
    Read {
        /// Which branch.
        branch: String,
        /// What it said.
        source: ReadError,
    },
}

/// `lsn` with its time. Blocking. A time that cannot be read is not known.
pub fn point(branch: &OpenBranch, lsn: Lsn) -> Point {
    let time = branch.pages.time_at(lsn).ok().flatten();
    Point {
        lsn,
        time: time.and_then(timestamp),
    }
}

/// How far the history of `branch` reaches; none when it is empty. Blocking.
pub fn horizon(branch: &OpenBranch) -> Option<Horizon> {
    let oldest = branch.pages.oldest()?;
    let applied = branch.pages.applied();
    // With the operations on side files behind the last mini-transaction.
    let newest = branch.pages.tell();
    (applied > Lsn::FIRST).then(|| Horizon {
        oldest: Point {
            lsn: oldest,
            time: oldest_time(branch, oldest, newest),
        },
        newest: point(branch, newest),
    })
}

/// The end of `branch`'s history: an LSN that shows everything that was
/// acknowledged before the call, operations on side files as well, and nothing
/// that comes later. Where those count from is known only once they are
/// ingested; when that takes until `until`, the answer is the end of what is
/// durable, or of what is ingested if that is later.
pub async fn end(branch: &OpenBranch, until: Instant) -> Lsn {
    let position = branch.durable().position();
    let end = match branch.pages.wait_ingested(position, until).await {
        // Redo behind the last whole mini-transaction shows nothing.
        Ok(()) => branch.pages.tell(),
        Err(_) => branch.last_lsn().max(branch.pages.newest()),
    };
    end.max(Lsn(branch.meta.branch_point_lsn))
}

/// The first time that is known from `oldest` on: that of the LSN itself, or of
/// the first after it that has one. It stays when it was found.
fn oldest_time(branch: &OpenBranch, oldest: Lsn, newest: Lsn) -> Option<Timestamp> {
    let mut known = branch.oldest_time.lock();
    if let Some((lsn, time)) = *known
        && lsn == oldest
    {
        return Some(time);
    }
    let at = |lsn: u64| point(branch, Lsn(lsn)).time;
    // Up to `low` there is none, from `high` on there are.
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

/// Where to read `branch` for `at`, as far as it is durable now.
///
/// # Errors
/// [`MomentError`]; waiting for ingest ends at `until`.
pub async fn resolve(
    branch: &Arc<OpenBranch>,
    at: At,
    until: Instant,
) -> Result<ReadAt, MomentError> {
    let read = |source| MomentError::Read {
        branch: branch.name(),
        source,
    };
    let applied = branch.pages.applied();
    let ingested = match at {
        // Whatever has become of the newer part.
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
            "looking for {at} ended early: {error}"
        )))),
    }
}

fn find(
    branch: &OpenBranch,
    at: At,
    ingested: Result<(), ReadError>,
) -> Result<ReadAt, MomentError> {
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
    match at {
        At::Newest => {
            ingested.map_err(read)?;
            if applied <= Lsn::FIRST {
                return Err(MomentError::Empty(name()));
            }
            Ok(ReadAt::Newest)
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
            // Redo behind the last whole mtr shows nothing.
            Ok(ReadAt::Lsn(lsn.min(branch.pages.newest())))
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
            // What comes after it was read, so nothing is missing before it.
            if lsn >= applied {
                ingested.map_err(read)?;
            }
            Ok(ReadAt::Lsn(lsn))
        }
    }
}
