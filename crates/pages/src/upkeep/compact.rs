//! Which layers are merged when, and how a merge becomes part of the truth.
//!
//! Layers form runs in the order of the WAL: a flush makes one, a merge makes
//! one of several that stand side by side. A read may have to look into every
//! run, so there must be few; a version is written again each time its run is
//! merged, so merges take runs of about one size ("universal" or size-tiered
//! compaction: the number of runs grows with the logarithm of the history).
//! History before the horizon is folded into the oldest run once that saves a
//! fifth of the bytes there: then layers take at most a quarter more than must
//! be kept.
//!
//! A merge is done in pieces. Each piece writes one layer and publishes it
//! together with how far its inputs were read; so a merge that is interrupted
//! goes on where it was, and takes little more room than one layer. Between
//! two pieces what it has written stands in the order of keys before what it
//! has not read, as in any run.
//!
//! A few merges of a branch may be under way, each with a stretch of runs that
//! it shares with no other. A thread that has claimed one ([`crate::branch::jobs`]) does a
//! piece of it; others do pieces of the others meanwhile. Where one thread has
//! to do it all, the newest merge goes first, and another begins before it
//! when many new runs have come. What can come between:
//!
//! - *Two pieces are published, in either order.* Each makes its manifest of
//!   the newest one, whose lock it holds, and changes in it only its own merge
//!   and layers of its own runs. So it is with the list of layers, which may
//!   change in the other order: a run's layers are only ever one merge's.
//! - *A flush is published between.* Its run is newer than all that there are,
//!   so it is in no merge's stretch.
//! - *A merge is chosen while another ends.* That one leaves the list of merges
//!   only after its layers have changed, and the list is looked at before the
//!   layers: its runs are taken, or they are what it left.
//! - *A branch leaves while a fold runs.* Only one merge has the oldest layers,
//!   and only that one folds. It decides what is let go of under the lock under
//!   which branches leave, before it reads: see [`Shared::advance`]. A merge
//!   above it never drops a version.
//! - *The merge below a merge leaves nothing.* Then that one has the oldest
//!   layers from its next piece on, and folds; the other is over by then.
//! - *A merge above a fold makes an image* of a page that the fold has begun to
//!   forget. Folding keeps what can be seen at the horizon, after it, and where
//!   branches left. An image of an LSN at which that cannot be made any more is
//!   void wherever a read may still be: its tablespace was cut or made
//!   anew since.
//! - *A merge cannot read its layers.* It pauses, and keeps its stretch. Others
//!   go on around it.
//! - *The branch stops.* No piece begins any more. One that is being written or
//!   published ends without having changed anything, and the thread
//!   that stops the branch waits for all. When an attempt to publish failed
//!   before, no other thread publishes in its place ([`publish`]).
//! - *A crash.* The manifest has all merges of which a piece was published.
//!   Each goes on; those that were only begun are chosen again.

use super::fault::Fault;
use super::fold::{Fold, Kept};
use super::merge::Merge;
use super::plan::is_bottom;
use super::publish::publish;
use crate::branch::jobs::{AtWork, Claim, Which};
use crate::branch::shared::Shared;
use crate::layer::format::LayerKind;
use crate::layer::read::LayerFile;
use crate::layer::scan::RowScan;
use crate::layer::write::LayerWriter;
use crate::manifest::record::{Edit, Merging};
use crate::place::Put;
use parking_lot::MutexGuard;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The work that a thread asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Errand {
    /// A merge to begin.
    pub(crate) plan: bool,
    /// One to go on with.
    pub(crate) which: Which,
}

/// The outcome of an [`Errand`].
pub(crate) enum Did {
    /// Nothing to do.
    Nothing,
    /// A piece was done.
    Piece {
        /// Why it could not be told whether there is another merge to begin.
        unplanned: Option<Fault>,
    },
    /// A piece was not done.
    Failed {
        /// Why.
        fault: Fault,
        /// The attempt before failed, too.
        again: bool,
    },
}

impl Shared {
    /// Does one piece of what is to be merged; `claimed` is called when it is
    /// known which, and others may look for more.
    ///
    /// # Errors
    /// When the branch stops, or it cannot be told what is to be merged.
    pub(crate) fn compact(&self, errand: Errand, claimed: impl FnOnce()) -> Result<Did, Fault> {
        let Some(at_work) = self.jobs.work(|| self.stopped()) else {
            return Err(Fault::Stopped);
        };
        if self.ancestors_behind().is_some() {
            return Ok(Did::Nothing);
        }
        // A merge under way need not wait until others can be planned.
        let (claim, unplanned) = match self.claim(&at_work, errand) {
            (Some(claim), unplanned) => (claim, unplanned),
            (None, Some(fault)) => return Err(fault),
            (None, None) => return Ok(Did::Nothing),
        };
        claimed();
        match self.advance(&claim.merging) {
            Ok(rest) => {
                claim.done(rest);
                Ok(Did::Piece { unplanned })
            }
            Err(Fault::Stopped) => Err(Fault::Stopped),
            Err(fault) => {
                let again = claim.failed(matches!(fault, Fault::Dead(_)));
                Ok(Did::Failed { fault, again })
            }
        }
    }

    /// A merge to begin or to go on with, and why the former was not looked for.
    fn claim<'a>(
        &'a self,
        at_work: &AtWork<'a>,
        errand: Errand,
    ) -> (Option<Claim<'a>>, Option<Fault>) {
        let mut unplanned = None;
        if errand.plan {
            let _plan = at_work.plan();
            match self.next_merge(self.jobs.has(errand.which)) {
                Ok(Some(merging)) => return (Some(at_work.add(merging)), None),
                Ok(None) => {}
                Err(fault) => unplanned = Some(fault),
            }
        }
        (at_work.take(errand.which), unplanned)
    }

    /// Does a piece of the merge, which the caller has claimed, and answers
    /// what is left of it.
    fn advance(&self, merging: &Merging) -> Result<Option<Merging>, Fault> {
        let bottom = is_bottom(&self.layers().files, merging);
        let horizon = if bottom { Some(self.horizon()?) } else { None };
        let horizon = horizon.filter(|h| {
            // Nothing of its own is older than its branch point.
            let parent = self.parent.as_ref();
            parent.is_none_or(|parent| *h > parent.branch_point.lsn)
        });
        let kept = horizon.map(|horizon| {
            // From here on no fork can leave the branch before the horizon,
            // which never goes back.
            self.forks.points(|points| {
                let horizon = self.own_oldest().map_or(horizon, |h| h.max(horizon));
                self.set_oldest(horizon);
                Kept::new(horizon, points)
            })
        });
        self.piece(merging, kept)
    }

    /// Opens what the job reads, one scan for each row, not for each layer.
    fn open<'a>(&'a self, job: &Merging) -> Result<Merge<'a>, Fault> {
        let inputs: HashSet<u64> = job.inputs.iter().copied().collect();
        let layers = self.layers();
        let mut rows = Vec::new();
        let mut picked = 0;
        for row in layers.files.rows() {
            let of_row: Vec<Arc<LayerFile>> = row
                .layers()
                .iter()
                .filter(|l| inputs.contains(&l.meta.number))
                .cloned()
                .collect();
            picked += of_row.len();
            if !of_row.is_empty() {
                rows.push(RowScan::open(of_row, self.source())?);
            }
        }
        if picked != inputs.len() {
            return Err(Fault::Dead("the layers of a merge are gone".into()));
        }
        Ok(Merge::new(self, rows))
    }

    /// Writes one layer of what the job leaves, and publishes it. Returns what
    /// is left of the job.
    fn piece(&self, job: &Merging, kept: Option<Kept>) -> Result<Option<Merging>, Fault> {
        let folds = kept.is_some();
        let mut merge = self.open(job)?;
        let number = self.manifest.lock().allocate();
        let name = self.resources.layer_name(number)?;
        let write = || -> Result<_, Fault> {
            let mut out = LayerWriter::create(
                &*self.files,
                self.id,
                number,
                name.clone(),
                LayerKind::Delta,
                job.end,
            )?
            .dense();
            let fold = kept.map(|kept| Fold::new(self, kept));
            merge.write(fold, self.resources.config.merged_layer_bytes, &mut out)?;
            match out.keys() {
                0 => Ok(None),
                _ => Ok(Some(out.finish(job.run)?)),
            }
        };
        let written = write();
        if !matches!(written, Ok(Some(_))) {
            // The next start removes a file that stays.
            let _ = self.files.remove(&name);
        }
        let out = written?;
        let mut left = Vec::new();
        let mut narrow = Vec::new();
        for (number, begun_at) in merge.left() {
            left.push(number);
            narrow.extend(begun_at.map(|key| (number, key)));
        }
        drop(merge);
        let still: HashSet<u64> = left.iter().copied().collect();
        let inputs = job.inputs.iter().copied();
        let done: Vec<u64> = inputs.filter(|n| !still.contains(n)).collect();
        left.sort_unstable();
        let oldest = if folds { self.own_oldest() } else { None };
        let rest = (!left.is_empty()).then(|| Merging {
            inputs: left,
            ..job.clone()
        });
        let put = publish(self, |m| Edit {
            add: out.iter().cloned().collect(),
            remove: done.clone(),
            narrow: narrow.clone(),
            resume: m.resume,
            oldest: m.oldest.max(oldest),
            merging: m.merging_with(job.run, rest.clone()),
        })?;
        self.stats
            .merged_bytes
            .add(out.as_ref().map_or(0, |m| m.bytes));
        if rest.is_none() {
            self.stats.merges.add(1);
        }
        let added = out.map(|meta| {
            let files = Arc::clone(&self.files);
            LayerFile::new(meta, self.id, self.resources.next_id(), files)
        });
        self.merged(added, narrow, done, put == Put::Done);
        Ok(rest)
    }

    /// Takes into the list of layers what a piece of a merge has changed.
    fn merged(
        &self,
        added: Option<LayerFile>,
        narrow: Vec<(u64, Vec<u8>)>,
        done: Vec<u64>,
        durable: bool,
    ) {
        let done: HashSet<u64> = done.into_iter().collect();
        let mut narrow: HashMap<u64, Vec<u8>> = narrow.into_iter().collect();
        self.change_files(false, |files| {
            let mut next: Vec<Arc<LayerFile>> = Vec::with_capacity(files.len() + 1);
            for file in files {
                let number = file.meta.number;
                if done.contains(&number) {
                    // Were the manifest lost, the one before it would still
                    // name them: then the next start removes them.
                    if durable {
                        // While the list is locked: a scrub finds a file in
                        // one of the two.
                        let leaving = file.leave(&self.resources.caches);
                        self.leaving.lock().push(leaving);
                    }
                } else if let Some(key) = narrow.remove(&number) {
                    next.push(Arc::new(file.narrowed(key)));
                } else {
                    next.push(Arc::clone(file));
                }
            }
            next.extend(added.map(Arc::new));
            next
        });
    }

    /// Removes layer files that no manifest names and no read uses any more.
    /// Blocking: it waits for the store.
    ///
    /// # Errors
    /// The store's error for the first file that cannot be removed. The next
    /// call, or the next start, tries it and the others again.
    pub(crate) fn remove_left(&self) -> std::io::Result<()> {
        let one = self.removing.lock();
        self.remove_free(&one)
    }

    /// As [`Shared::remove_left`]; none when another thread does it now.
    pub(crate) fn try_remove_left(&self) -> Option<std::io::Result<()>> {
        let one = self.removing.try_lock()?;
        Some(self.remove_free(&one))
    }

    fn remove_free(&self, _one: &MutexGuard<'_, ()>) -> std::io::Result<()> {
        let free = || {
            let leaving = self.leaving.lock();
            let free = leaving.iter().find(|l| !l.is_held());
            free.map(|l| l.name.clone())
        };
        // The list is not locked meanwhile, and has each until it is gone: the
        // scrub looks at it.
        while !self.stopped()
            && let Some(name) = free()
        {
            self.files.remove(&name)?;
            self.leaving.lock().retain(|l| l.name != name);
        }
        Ok(())
    }
}
