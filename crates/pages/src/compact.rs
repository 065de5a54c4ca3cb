//! Which layers are merged when, and how a merge becomes part of the truth.
//!
//! Layers form runs in the order of the log: a flush makes one, a merge makes
//! one of several that stand side by side. A read may have to look into every
//! run, so there must be few; a version is written again each time its run is
//! merged, so merges take runs of about one size ("universal" or size-tiered
//! compaction: the number of runs grows with the logarithm of the history).
//! What lies before the horizon is folded into the oldest run once that saves
//! a fifth of what stands there: then layers take at most a quarter more than
//! what must be kept.
//!
//! A merge is done in pieces. Each piece writes one layer and publishes it
//! together with how far its inputs were read; so a merge that is interrupted
//! goes on where it was, and takes little more room than one layer. Between
//! two pieces it may be given up: what it has written stands in the order of
//! keys before what it has not read, as in any run. So a long one makes way
//! when new runs pile up meanwhile, and the plan that comes after leaves out
//! what is merged already: layers of its newest run that share keys with none
//! of the others and hold little that could go.

pub(crate) mod debt;

use crate::branch::Shared;
use crate::files::Put;
use crate::flush::{Fault, publish};
use crate::fold::{Fold, Kept};
use crate::layer::LayerKind;
use crate::layer_list::LayerList;
use crate::layer_read::LayerFile;
use crate::layer_scan::RowScan;
use crate::layer_write::LayerWriter;
use crate::manifest::{Edit, Merging};
use crate::merge::Merge;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use xylem_types::Lsn;

/// So many runs are left alone.
const RUNS_MIN: usize = 6;
/// With so many, some are merged whatever their sizes.
const RUNS_MAX: usize = 24;
/// A merge takes at least so many runs.
const MERGE_MIN: usize = 4;
/// With so many that are newer than those of the merge under way, it makes way.
const RUNS_NEW: usize = 12;
/// Folding begins when what it would take away is more than this part of what
/// it would leave.
const FOLD_PART: u64 = 4;
/// Merges span at most this part of the history that must be kept: folding
/// waits until the horizon has passed the whole of a run.
const SPAN_PART: u64 = 2;
/// An older run joins a merge when it has at most so many times the bytes of
/// those that have joined.
const RATIO: u64 = 2;

/// Layers that stand side by side and were written together.
#[derive(Debug)]
struct Run {
    number: u64,
    bytes: u64,
    /// Of these folding would take away so many, about.
    garbage: u64,
    start: Lsn,
    end: Lsn,
}

/// What is to be merged.
struct Plan {
    job: Merging,
    /// They are the branch's oldest, and history before this is folded.
    horizon: Option<Lsn>,
}

/// The runs, oldest first, where other branches left at `points`.
fn runs(files: &[Arc<LayerFile>], points: &[Lsn]) -> Vec<Run> {
    files
        .chunk_by(|a, b| a.meta.run == b.meta.run)
        .map(|layers| {
            let metas = || layers.iter().map(|l| &l.meta);
            Run {
                number: metas().next().map_or(0, |m| m.run),
                bytes: metas().map(|m| m.bytes).sum(),
                garbage: metas().map(|m| m.garbage(points)).sum(),
                start: metas().map(|m| m.start).min().unwrap_or_default(),
                end: metas().map(|m| m.end).max().unwrap_or_default(),
            }
        })
        .collect()
}

/// Whether folding is worth it that takes away `garbage` of `bytes`.
fn worth_folding(bytes: u64, garbage: u64, least: u64) -> bool {
    garbage > (bytes.saturating_sub(garbage) / FOLD_PART).max(least)
}

/// The oldest runs, when folding them saves enough.
fn foldable(runs: &[Run], horizon: Lsn, least: u64) -> Option<usize> {
    let passed = runs.iter().take_while(|r| r.end <= horizon).count();
    let oldest = runs.first().filter(|_| passed > 0)?;
    let above: u64 = runs.get(1..passed)?.iter().map(|r| r.bytes).sum();
    let garbage = above.saturating_add(oldest.garbage);
    worth_folding(oldest.bytes.saturating_add(above), garbage, least).then_some(passed)
}

/// Runs of about one size, the newest that there are.
fn alike(runs: &[Run], span_max: u64) -> Option<std::ops::Range<usize>> {
    if runs.len() <= RUNS_MIN {
        return None;
    }
    for newest in (MERGE_MIN - 1..runs.len()).rev() {
        let end = runs.get(newest)?.end;
        let mut bytes = runs.get(newest)?.bytes;
        let mut first = newest;
        while let Some(older) = first.checked_sub(1).and_then(|n| runs.get(n)) {
            if older.bytes > bytes * RATIO || end.bytes_since(older.start) > span_max {
                break;
            }
            bytes += older.bytes;
            first -= 1;
        }
        if newest + 1 - first >= MERGE_MIN {
            return Some(first..newest + 1);
        }
    }
    if runs.len() < RUNS_MAX {
        return None;
    }
    let cheapest = runs
        .windows(MERGE_MIN)
        .map(|w| w.iter().map(|r| r.bytes).sum::<u64>())
        .enumerate()
        .min_by_key(|(_, bytes)| *bytes)?
        .0;
    Some(cheapest..cheapest + MERGE_MIN)
}

/// The merge of the runs `picked`; none when all is merged already. With
/// `points` it folds, for branches that left there.
fn job_of(files: &LayerList, picked: &[Run], points: Option<&Vec<Lsn>>) -> Option<Merging> {
    let (first, last) = (picked.first()?, picked.last()?);
    let rows = files.rows();
    let from = rows.partition_point(|row| row.run < first.number);
    let to = rows.partition_point(|row| row.run <= last.number);
    let rows = rows.get(from..to).unwrap_or_default();
    let mut inputs = Vec::new();
    for (n, row) in rows.iter().enumerate() {
        for layer in row.layers() {
            let others = || rows.iter().enumerate().filter(|(other, _)| *other != n);
            let folds = points.is_some_and(|points| {
                worth_folding(layer.meta.bytes, layer.meta.garbage(points), 0)
            });
            // Others would stand in an older run than what is merged.
            let may_stay = row.run == last.number;
            if !may_stay || folds || !others().all(|(_, row)| row.is_apart_from(layer)) {
                inputs.push(layer.meta.number);
            }
        }
    }
    inputs.sort_unstable();
    (!inputs.is_empty()).then_some(Merging {
        inputs,
        run: last.number,
        end: last.end,
    })
}

impl Shared {
    /// The oldest LSN that must stay readable by its age.
    fn horizon(&self) -> Result<Lsn, Fault> {
        let oldest = self.oldest().unwrap_or_default();
        match self.lsn_of_age(self.store.config.history) {
            // Not a place behind the last mtr, which pages are not read at.
            Ok(found) => Ok(found.unwrap_or(oldest).min(self.applied()).max(oldest)),
            Err(e) => Err(Fault::Again(format!("look for the horizon: {e}"))),
        }
    }

    /// What is to be merged where `merging` is under way.
    fn plan(&self, merging: Option<Merging>) -> Result<Option<Plan>, Fault> {
        if self.ancestor_behind().is_some() {
            return Ok(None);
        }
        let points = self.forks.points(|points| points);
        let layers = self.layers();
        let runs = runs(&layers.files, &points);
        let newest = runs.last().map_or(Lsn::ZERO, |r| r.end);
        let span_max = |horizon: Lsn| newest.bytes_since(horizon.min(newest)) / SPAN_PART;
        if let Some(job) = merging {
            let first_new = runs.partition_point(|r| r.number <= job.run);
            if let Some(new) = runs.get(first_new..).filter(|new| new.len() >= RUNS_NEW)
                && let Some(range) = alike(new, span_max(self.horizon()?))
                && let Some(picked) = new.get(range)
                && let Some(job) = job_of(&layers.files, picked, None)
            {
                return Ok(Some(Plan { job, horizon: None }));
            }
            // What it has written stands behind what it reads, or is newer.
            let oldest = layers.files.first().map(|f| (f.meta.number, f.meta.run));
            let bottom = oldest.is_some_and(|(n, run)| job.inputs.contains(&n) || run == job.run);
            let horizon = match bottom {
                true => Some(self.horizon()?),
                false => None,
            };
            return Ok(Some(Plan { job, horizon }));
        }
        if runs.len() < 2 && runs.first().is_none_or(|r| r.garbage == 0) {
            return Ok(None);
        }
        let horizon = self.horizon()?;
        let fold = foldable(&runs, horizon, self.store.open_limit()).map(|passed| 0..passed);
        let Some(range) = fold.or_else(|| alike(&runs, span_max(horizon))) else {
            return Ok(None);
        };
        let bottom = range.start == 0;
        let picked = runs.get(range).unwrap_or_default();
        let job = job_of(&layers.files, picked, bottom.then_some(&points));
        Ok(job.map(|job| Plan {
            job,
            horizon: bottom.then_some(horizon),
        }))
    }

    /// Does one piece of what is to be merged. `false`: there is nothing.
    pub(crate) fn compact(&self) -> Result<bool, Fault> {
        let _one = self.upkeep.lock();
        if self.stopped() {
            return Err(Fault::Stopped);
        }
        let merging = self.manifest.lock().merging.clone();
        let Some(plan) = self.plan(merging)? else {
            return Ok(false);
        };
        let horizon = plan.horizon.filter(|h| {
            // Nothing of its own is older than where it left its ancestor.
            self.parent.as_ref().is_none_or(|parent| *h > parent.lsn)
        });
        let kept = horizon.map(|horizon| {
            // From here on nobody can leave the branch before the horizon.
            self.forks.points(|points| {
                self.set_oldest(horizon);
                Kept::new(horizon, points)
            })
        });
        self.piece(&plan.job, kept)?;
        Ok(true)
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

    /// Writes one layer of what the job leaves, and publishes it.
    fn piece(&self, job: &Merging, kept: Option<Kept>) -> Result<(), Fault> {
        let folds = kept.is_some();
        let mut merge = self.open(job)?;
        let number = self.manifest.lock().allocate();
        let name = Shared::layer_name(number);
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
            merge.write(fold, self.store.config.merged_layer_bytes, &mut out)?;
            match out.keys() {
                0 => Ok(None),
                _ => Ok(Some(out.finish(job.run)?)),
            }
        };
        let written = write();
        if !matches!(written, Ok(Some(_))) {
            // What stays is removed at the next start.
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
        let ended = left.is_empty();
        let put = publish(self, |m| Edit {
            add: out.iter().cloned().collect(),
            remove: done.clone(),
            narrow: narrow.clone(),
            resume: m.resume,
            oldest: m.oldest.max(oldest),
            merging: (!ended).then(|| Merging {
                inputs: left,
                ..job.clone()
            }),
        })?;
        self.stats
            .merged_bytes
            .add(out.as_ref().map_or(0, |m| m.bytes));
        if ended {
            self.stats.merges.add(1);
        }
        let added = out.map(|meta| {
            let files = Arc::clone(&self.files);
            LayerFile::new(meta, self.id, self.store.next_id(), files)
        });
        self.merged(added, narrow, done, put == Put::Done);
        Ok(())
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
                        let leaving = file.leave(&self.store.caches);
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

    /// Removes layer files that no manifest names and nobody reads any more.
    /// Blocking: it waits for the store.
    ///
    /// # Errors
    /// What the store said of the first that cannot be removed: it and the
    /// others are tried again by the next call, or by the next start.
    pub(crate) fn remove_left(&self) -> std::io::Result<()> {
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
