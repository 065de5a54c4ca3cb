//! Making a branch that leaves another.

use super::forks::{Point, SLOTS};
use super::shared::Shared;
use crate::api::ReadAt;
use crate::error::{ReadError, StoreError};
use crate::manifest::record::BranchPoint;
use crate::manifest::version::Manifest;
use crate::place::branch_folder;
use xylem_types::{BranchId, Lsn};

/// A branch could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// The branch point cannot be read.
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
        /// The end of the last mtr.
        lsn: Lsn,
    },
}

impl Shared {
    /// Decides the branch point of `id`, and keeps history there from now on.
    fn leave(&self, id: BranchId, at: ReadAt) -> Result<BranchPoint, ForkError> {
        if let (ReadAt::Lsn(lsn), Some(parent)) = (at, &self.parent)
            && lsn <= parent.branch_point.lsn
        {
            return parent.shared.leave(id, at);
        }
        if let Some(behind) = self.ancestors_behind() {
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
        // Folding decides what it lets go of under the same lock.
        if let Some(oldest) = self.oldest().filter(|oldest| lsn < *oldest) {
            return Err(ReadError::TooOld { lsn, oldest }.into());
        }
        points.push(Point {
            branch: id,
            lsn,
            position,
        });
        Ok(BranchPoint {
            parent: self.id,
            lsn,
            position,
        })
    }

    /// Makes the branch `id`, a fork of this one or of the ancestor that this
    /// one shares `at` with, and returns the LSN of its branch point. Durable on
    /// return; the fork is not open yet. Blocking: writes one small file.
    pub(crate) fn fork(&self, id: BranchId, at: ReadAt) -> Result<Lsn, ForkError> {
        let place = &self.resources.place;
        let point = self.leave(id, at)?;
        let made = place
            .folder(&branch_folder(id))
            .map_err(|source| StoreError::Io {
                context: format!("make branch {id} in {}", place.url()),
                source,
            })
            .and_then(|files| {
                let writer = self.resources.random()?;
                Manifest::fork(&*files, id, writer, point)
            });
        if let Err(e) = made {
            // Where it was decided that the branch leaves.
            self.forget_fork(id);
            for parent in self.ancestors() {
                parent.shared.forget_fork(id);
            }
            return Err(e.into());
        }
        Ok(point.lsn)
    }
}
