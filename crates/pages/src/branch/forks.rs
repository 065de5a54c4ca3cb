//! The forks of a branch and their branch points.
//!
//! A fork shares everything up to its branch point's LSN, and of side-file
//! operations those before its place in the WAL. Operations have no LSN of
//! their own: they count from the end of the mtr before them. An operation that
//! comes after a fork at that very LSN counts from the next byte instead, and so
//! does one that comes a while after what was before it, which a moment in that
//! while must not show. No mtr ends there: the shortest has more bytes than
//! there are such places ([`SLOTS`]).

pub(crate) use crate::manifest::record::SLOTS;
use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use xylem_types::{BranchId, Lsn};
use xylem_wal::Position;

/// How many of the [`SLOTS`] pauses may take; the others are for forks.
const PAUSES: u64 = 3;

/// A fork of a branch, as the branch itself knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The fork's own id.
    pub branch: BranchId,
    /// The LSN of its branch point: the last one that both share.
    pub lsn: Lsn,
}

/// A fork and its branch point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) branch: BranchId,
    pub(super) lsn: Lsn,
    pub(super) position: Position,
}

/// The forks of a branch.
#[derive(Default)]
pub(crate) struct Forks {
    pub(super) points: Mutex<Vec<Point>>,
    /// Operations that count from behind the end of an mtr and may have to be
    /// read from the WAL again: from where they count, where they stand.
    shifted: Mutex<VecDeque<(Lsn, Position)>>,
    /// Held while an operation is brought in, and while a fork is decided on.
    gate: Mutex<()>,
    /// The LSN that the newest operation counts from.
    side: AtomicU64,
    /// The newest LSN that a caller was told of as the branch's end.
    told: AtomicU64,
}

impl Forks {
    /// The forks of a branch whose layers end at `end`, none so far.
    pub(crate) fn new(end: Lsn) -> Forks {
        Forks {
            side: AtomicU64::new(end.0),
            ..Forks::default()
        }
    }

    /// Adds the fork `branch`, which left at `lsn` and shares operations before
    /// `position`.
    pub(crate) fn add(&self, branch: BranchId, lsn: Lsn, position: Position) {
        let mut points = self.points.lock();
        points.retain(|p| p.branch != branch);
        points.push(Point {
            branch,
            lsn,
            position,
        });
    }

    /// Adds the fork `branch`, which left at `lsn`, when nobody knows where
    /// operations stood then: it shares those that count from there.
    pub(crate) fn keep(&self, branch: BranchId, lsn: Lsn) {
        let mut points = self.points.lock();
        if !points.iter().any(|p| p.branch == branch) {
            points.push(Point {
                branch,
                lsn,
                position: Position(u64::MAX),
            });
        }
    }

    /// Forgets a fork that is no more.
    pub(crate) fn remove(&self, branch: BranchId) {
        self.points.lock().retain(|p| p.branch != branch);
    }

    /// The ids of the forks.
    pub(crate) fn branches(&self) -> Vec<BranchId> {
        self.points.lock().iter().map(|p| p.branch).collect()
    }

    /// The forks, by LSN.
    pub(crate) fn all(&self) -> Vec<Fork> {
        let points = self.points.lock();
        let fork = |p: &Point| Fork {
            branch: p.branch,
            lsn: p.lsn,
        };
        let mut all: Vec<Fork> = points.iter().map(fork).collect();
        drop(points);
        all.sort_by_key(|f| (f.lsn, f.branch));
        all
    }

    /// The LSNs of their branch points, ascending, each once; `decide` sees them
    /// while no fork can be added.
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

    /// Notes that a caller was told of `lsn` and means the branch as it is now.
    /// Later operations count from behind it, as far as there is room.
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
        // An operation that was read before a caller was told was in the WAL by
        // then.
        let paused = paused || self.told.load(Ordering::Acquire) >= newest.0;
        let left = points.iter().filter(|p| p.position <= position);
        let at = match left.map(|p| p.lsn).max() {
            Some(left) if left >= newest => Lsn(left.0 + 1),
            _ if paused && newest.bytes_since(lsn) < PAUSES => Lsn(newest.0 + 1),
            _ => newest,
        };
        // Forks that left behind it share it.
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

    /// The place of the first operation that a fork at `lsn` does not share
    /// though no mtr ends before it.
    pub(super) fn first_behind(&self, lsn: Lsn) -> Option<Position> {
        let shifted = self.shifted.lock();
        let first = shifted.iter().find(|(at, _)| *at > lsn);
        first.map(|(_, position)| *position)
    }

    /// The LSN that the newest operation counts from.
    pub(super) fn side(&self) -> Lsn {
        Lsn(self.side.load(Ordering::Acquire))
    }
}
