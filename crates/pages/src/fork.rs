//! Where branches leave a branch.
//!
//! A fork shares everything up to its LSN, and of side-file operations what
//! stood in the log before it. Operations have no LSN of their own: they count
//! from the end of the mtr before them. So one that comes after a fork at that
//! very LSN counts from the next byte instead, and so does one that comes a
//! while after what was before it, which a moment in that while must not show.
//! No mtr ends there: the shortest has more bytes than there are such places
//! ([`SLOTS`]).

use crate::api::{ReadAt, ReadError, StoreError};
use crate::branch::{Branch, Shared, folder};
use crate::manifest::{Ancestor, Manifest};
use crate::store::random;
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use xylem_types::{BranchId, Lsn};
use xylem_wal::Position;

/// How many bytes behind the end of an mtr may be given to operations. An mtr
/// takes at least 7: a record of 2, the end marker, the checksum of 4.
pub(crate) const SLOTS: u64 = 5;
/// How many of them pauses may take; the others are for forks.
const PAUSES: u64 = 3;

/// A branch could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// It cannot leave the branch there.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its first manifest could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Too many branches left at one LSN, with side files changed in between.
    #[error(
        "{SLOTS} branches were made at LSN {lsn} with files changed between them, and nothing was \
         written to the database since; try again when something was"
    )]
    Crowded {
        /// Where.
        lsn: Lsn,
    },
}

/// One fork.
#[derive(Clone, Copy, Debug)]
struct Point {
    branch: BranchId,
    lsn: Lsn,
    position: Position,
}

/// The forks of a branch.
#[derive(Default)]
pub(crate) struct Forks {
    points: Mutex<Vec<Point>>,
    /// Operations that count from behind the end of an mtr and may have to be
    /// read from the log again: from where they count, where they stand.
    shifted: Mutex<VecDeque<(Lsn, Position)>>,
    /// Held while an operation is brought in, and while a fork is decided on.
    gate: Mutex<()>,
    /// The LSN that the newest operation counts from.
    side: AtomicU64,
    /// The newest LSN that somebody was told of as the branch's end.
    told: AtomicU64,
}

impl Forks {
    /// For a branch whose layers end at `end`.
    pub(crate) fn new(end: Lsn) -> Forks {
        Forks {
            side: AtomicU64::new(end.0),
            ..Forks::default()
        }
    }

    /// `branch` left at `lsn`, operations before `position` with it.
    pub(crate) fn add(&self, branch: BranchId, lsn: Lsn, position: Position) {
        let mut points = self.points.lock();
        points.retain(|p| p.branch != branch);
        points.push(Point {
            branch,
            lsn,
            position,
        });
    }

    /// `branch` left at `lsn`, and nobody knows where operations stood then:
    /// those that count from there go with it.
    fn keep(&self, branch: BranchId, lsn: Lsn) {
        let mut points = self.points.lock();
        if !points.iter().any(|p| p.branch == branch) {
            points.push(Point {
                branch,
                lsn,
                position: Position(u64::MAX),
            });
        }
    }

    /// `branch` is no more.
    pub(crate) fn remove(&self, branch: BranchId) {
        self.points.lock().retain(|p| p.branch != branch);
    }

    /// The branches that left.
    pub(crate) fn branches(&self) -> Vec<BranchId> {
        self.points.lock().iter().map(|p| p.branch).collect()
    }

    /// The same, and where each left.
    pub(crate) fn all(&self) -> Vec<(BranchId, Lsn)> {
        let points = self.points.lock();
        points.iter().map(|p| (p.branch, p.lsn)).collect()
    }

    /// Where they left, in order, each once; `decide` sees them while no fork
    /// can be added.
    pub(crate) fn points<T>(&self, decide: impl FnOnce(Vec<Lsn>) -> T) -> T {
        let points = self.points.lock();
        let mut lsns: Vec<Lsn> = points.iter().map(|p| p.lsn).collect();
        lsns.sort_unstable();
        lsns.dedup();
        decide(lsns)
    }

    /// No fork is decided on while the guard lives.
    pub(crate) fn hold(&self) -> MutexGuard<'_, ()> {
        self.gate.lock()
    }

    /// Operations that come after this count from behind `lsn`, as far as
    /// there is room: whoever was told of it means the branch as it was then.
    pub(crate) fn tell(&self, lsn: Lsn) {
        self.told.fetch_max(lsn.0, Ordering::AcqRel);
    }

    /// The LSN that the operation at `position` counts from, where mtrs end at
    /// `lsn`; `paused` says that it came a while after what is before it. The
    /// caller holds the gate.
    ///
    /// Read again after a restart an operation may get another LSN, but one on
    /// the same side of every fork.
    pub(crate) fn operation_lsn(&self, lsn: Lsn, position: Position, paused: bool) -> Lsn {
        let points = self.points.lock();
        let newest = self.side().max(lsn);
        // One that was read before somebody was told was in the log by then.
        let paused = paused || self.told.load(Ordering::Acquire) >= newest.0;
        let left = points.iter().filter(|p| p.position <= position);
        let at = match left.map(|p| p.lsn).max() {
            Some(left) if left >= newest => Lsn(left.0 + 1),
            _ if paused && newest.bytes_since(lsn) < PAUSES => Lsn(newest.0 + 1),
            _ => newest,
        };
        // Those that left behind it share it.
        let share = points
            .iter()
            .filter(|p| p.position > position && p.lsn >= lsn);
        let at = share.map(|p| p.lsn).min().map_or(at, |lsn| at.min(lsn));
        if at > lsn {
            self.shifted.lock().push_back((at, position));
        }
        self.side.fetch_max(at.0, Ordering::AcqRel);
        at
    }

    /// Operations before `position` are in layers for good.
    pub(crate) fn flushed(&self, position: Position) {
        let mut shifted = self.shifted.lock();
        while shifted.front().is_some_and(|(_, at)| *at < position) {
            shifted.pop_front();
        }
    }

    /// Where the first operation stands that a fork at `lsn` does not share
    /// though no mtr ends before it.
    fn first_behind(&self, lsn: Lsn) -> Option<Position> {
        let shifted = self.shifted.lock();
        let first = shifted.iter().find(|(at, _)| *at > lsn);
        first.map(|(_, position)| *position)
    }

    /// The LSN that the newest operation counts from.
    fn side(&self) -> Lsn {
        Lsn(self.side.load(Ordering::Acquire))
    }
}

impl Shared {
    /// Decides where `id` leaves, and keeps history there from now on.
    fn leave(&self, id: BranchId, at: ReadAt) -> Result<Ancestor, ForkError> {
        if let (ReadAt::Lsn(lsn), Some(parent)) = (at, &self.parent)
            && lsn <= parent.lsn
        {
            return parent.shared.leave(id, at);
        }
        if let Some(behind) = self.ancestor_behind() {
            return Err(behind.into());
        }
        let _gate = self.forks.hold();
        let (applied, position) = self.visible();
        let (lsn, position) = match at {
            ReadAt::Newest => (applied.max(self.forks.side()), position),
            ReadAt::Lsn(lsn) => {
                self.resolve(at)?;
                let behind = self.forks.first_behind(lsn);
                (lsn, behind.map_or(position, |behind| behind.min(position)))
            }
        };
        if lsn.bytes_since(applied) >= SLOTS {
            return Err(ForkError::Crowded { lsn: applied });
        }
        let mut points = self.forks.points.lock();
        // What is let go of is decided under the same lock.
        if let Some(oldest) = self.oldest().filter(|oldest| lsn < *oldest) {
            return Err(ReadError::TooOld { lsn, oldest }.into());
        }
        points.push(Point {
            branch: id,
            lsn,
            position,
        });
        Ok(Ancestor {
            branch: self.id,
            lsn,
            position,
        })
    }
}

impl Branch {
    /// Keeps what branch `id` shares with this one, which left at `lsn` and
    /// does not open now. Before [`crate::Store::start_ingest`], as for any
    /// branch that left.
    pub fn keep_for(&self, id: BranchId, lsn: Lsn) {
        self.shared.forks.keep(id, lsn);
    }

    /// Makes the branch `id`, which leaves this one, or the ancestor that this
    /// one shares `at` with. Durable on return; it is not open yet. The cost
    /// is that of writing one small file. Blocking.
    ///
    /// `ReadAt::Newest` is all that is ingested; who wants all that was
    /// acknowledged waits for that first ([`Branch::wait_ingested`]).
    ///
    /// # Errors
    /// See [`ForkError`].
    pub fn fork(&self, id: BranchId, at: ReadAt) -> Result<Lsn, ForkError> {
        let store = &self.shared.store;
        let ancestor = self.shared.leave(id, at)?;
        let made = store
            .place
            .folder(&folder(id))
            .map_err(|source| StoreError::Io {
                context: format!("make branch {id} in {}", store.place.url()),
                source,
            })
            .and_then(|files| Manifest::fork(&*files, id, random(), ancestor));
        if let Err(e) = made {
            store.forget_fork(id);
            return Err(e.into());
        }
        Ok(ancestor.lsn)
    }
}
