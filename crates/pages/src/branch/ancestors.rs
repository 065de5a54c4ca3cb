//! The history that a branch shares with its ancestors: its parent, the parent's
//! parent, and so on.

use super::forks::SLOTS;
use super::shared::{Parent, Shared};
use super::view::Snapshot;
use crate::error::ReadError;
use std::sync::Arc;
use xylem_types::Lsn;
use xylem_wal::Position;

impl Parent {
    /// The error that says why what is shared with the parent cannot be read
    /// yet, or never can.
    fn behind(&self) -> Option<ReadError> {
        if let Some(why) = self.lost.get() {
            return Some(ReadError::Stopped(why.clone()));
        }
        // Not by LSN: side-file operations at the very LSN stand behind the mtr
        // that ends there, and the LSN itself may lie behind that (see `forks`).
        let until = self.cut.get().copied();
        let until = until.unwrap_or(self.branch_point.position);
        if self.shared.ingested_operations() >= until {
            return None;
        }
        let reached = self.shared.applied();
        Some(match self.shared.failed() {
            Some(why) => ReadError::Stopped(format!("branch {}: {why}", self.shared.id)),
            None => ReadError::NotReached {
                wanted: self.branch_point.lsn,
                reached,
                hop: "ingest of its parent branch",
            },
        })
    }
}

impl Shared {
    /// The parent, the parent's parent, and so on.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &Parent> {
        std::iter::successors(self.parent.as_ref(), |p| p.shared.parent.as_ref())
    }

    /// Its layers and its ancestors'.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut out = Snapshot::new(self.layers());
        for parent in self.ancestors() {
            out.push(parent.shared.layers(), parent.branch_point.lsn);
        }
        out
    }

    /// As [`Shared::snapshot`] without waiting for a lock.
    pub(crate) fn try_snapshot(&self) -> Option<Snapshot> {
        let own = |s: &Shared| s.layers.try_read().map(|l| Arc::clone(&l));
        let mut out = Snapshot::new(own(self)?);
        for parent in self.ancestors() {
            out.push(own(&parent.shared)?, parent.branch_point.lsn);
        }
        Some(out)
    }

    /// The oldest LSN that can be read, its ancestors' part included.
    pub(crate) fn oldest(&self) -> Option<Lsn> {
        let own = self.own_oldest();
        match &self.parent {
            // Whatever an ancestor lets go of, it keeps the branch point.
            Some(parent) if own.is_none_or(|own| own <= parent.branch_point.lsn) => {
                Some(parent.shared.oldest()?.min(parent.branch_point.lsn))
            }
            _ => own,
        }
    }

    /// The error that says which ancestor has not ingested yet what is shared
    /// with it, as may be after a start.
    pub(crate) fn ancestors_behind(&self) -> Option<ReadError> {
        self.ancestors().find_map(Parent::behind)
    }

    /// Waits until what is shared with ancestors can be read, or never can.
    pub(crate) async fn ancestors_ready(&self) {
        for parent in self.ancestors() {
            let mut position = parent.shared.position_tx.subscribe();
            loop {
                position.borrow_and_update();
                match parent.behind() {
                    None | Some(ReadError::Stopped(_)) => break,
                    // The sender lives as long as the parent.
                    Some(_) => drop(position.changed().await),
                }
            }
        }
    }

    /// Checks that what is shared with the parent is there: `wal_end` and
    /// `wal_position` are the end of the parent's durable redo and the place
    /// after its last entry, as its WAL was opened and before anything new was
    /// written.
    ///
    /// If neither that nor the parent's layers reach the branch point, a WAL
    /// was lost in between, and nothing of this branch can be read. If redo
    /// does, and the operations behind it are gone, nobody waits for them: they
    /// are gone in the parent as well.
    pub(crate) fn check_parent(&self, wal_end: Lsn, wal_position: Position) {
        let Some(parent) = &self.parent else {
            return;
        };
        let point = parent.branch_point;
        let reached = wal_end.max(parent.shared.newest());
        if point.lsn.bytes_since(reached) <= SLOTS {
            if wal_position < point.position {
                let _ = parent.cut.set(wal_position);
            }
            return;
        }
        let why = format!(
            "it left branch {} at LSN {}, and what is left of that one's WAL and layers ends at LSN {reached}: the WAL was lost; remove this branch",
            parent.shared.id, point.lsn
        );
        parent.shared.forks.remove(self.id);
        let _ = parent.lost.set(why.clone());
        self.fail(why);
    }
}
