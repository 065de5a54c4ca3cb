//! Which layers are merged when, and how a merge becomes part of the truth.
//!
//! Layers form runs in the order of the log: a flush makes one, a merge makes
//! one of several that stand side by side. A read may have to look into every
//! run, so there must be few; a version is written again each time its run is
//! merged, so merges take runs of about one size ("universal" or size-tiered
//! compaction: the number of runs grows with the logarithm of the history).
//! What lies before the horizon is folded into the oldest run once that saves
//! half of it.
//!
//! A merge is done in pieces. Each piece writes one layer and publishes it
//! together with how far its inputs were read; so a merge that is interrupted
//! goes on where it was, and takes little more room than one layer.

pub(crate) mod debt;

use crate::branch::Shared;
use crate::files::Put;
use crate::flush::{Fault, publish};
use crate::fold::{Fold, Kept};
use crate::layer::LayerKind;
use crate::layer_read::{LayerError, LayerFile, Leaving};
use crate::layer_scan::LayerScan;
use crate::layer_write::LayerWriter;
use crate::manifest::{Edit, Merging};
use crate::merge::{Merge, Piece};
use std::collections::HashSet;
use std::sync::Arc;
use xylem_types::Lsn;

/// So many runs are left alone.
const RUNS_MIN: usize = 6;
/// With so many, some are merged whatever their sizes.
const RUNS_MAX: usize = 24;
/// A merge takes at least so many runs.
const MERGE_MIN: usize = 4;
/// An older run joins a merge when it has at most so many times the bytes of
/// those that have joined.
const RATIO: u64 = 2;

/// Layers that stand side by side and were written together.
#[derive(Debug)]
struct Run {
    number: u64,
    layers: Vec<u64>,
    bytes: u64,
    old_bytes: u64,
    start: Lsn,
    end: Lsn,
}

/// What is to be merged.
struct Plan {
    job: Merging,
    /// They are the branch's oldest, and history before this is folded.
    horizon: Option<Lsn>,
}

fn runs(files: &[Arc<LayerFile>]) -> Vec<Run> {
    files
        .chunk_by(|a, b| a.meta.run == b.meta.run)
        .map(|layers| {
            let sum = |f: fn(&LayerFile) -> u64| layers.iter().map(|l| f(l)).sum();
            Run {
                number: layers.first().map_or(0, |l| l.meta.run),
                layers: layers.iter().map(|l| l.meta.number).collect(),
                bytes: sum(|l| l.meta.bytes),
                old_bytes: sum(|l| l.meta.old_bytes),
                start: layers
                    .iter()
                    .map(|l| l.meta.start)
                    .min()
                    .unwrap_or_default(),
                end: layers.iter().map(|l| l.meta.end).max().unwrap_or_default(),
            }
        })
        .collect()
}

/// The oldest runs, when folding them saves enough.
fn foldable(runs: &[Run], horizon: Lsn, least: u64) -> Option<usize> {
    let passed = runs.iter().take_while(|r| r.end <= horizon).count();
    let oldest = runs.first().filter(|_| passed > 0)?;
    let kept = oldest.bytes.saturating_sub(oldest.old_bytes);
    let above: u64 = runs.get(1..passed)?.iter().map(|r| r.bytes).sum();
    (above + oldest.old_bytes > (kept / 2).max(least)).then_some(passed)
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

    fn plan(&self) -> Result<Option<Plan>, Fault> {
        if self.ancestor_behind().is_some() {
            return Ok(None);
        }
        let merging = self.manifest.lock().merging.clone();
        let layers = self.layers();
        let runs = runs(&layers.files);
        let all = |range: std::ops::Range<usize>| {
            let picked = runs.get(range).unwrap_or_default();
            let newest = picked.last();
            let layers = picked.iter().flat_map(|r| r.layers.iter().copied());
            Merging {
                inputs: layers.collect(),
                run: newest.map_or(0, |r| r.number),
                end: newest.map_or(Lsn::ZERO, |r| r.end),
            }
        };
        if let Some(job) = merging {
            // What it has written stands behind what it reads, or is newer.
            let oldest = layers.files.first().map(|f| (f.meta.number, f.meta.run));
            let bottom = oldest.is_some_and(|(n, run)| job.inputs.contains(&n) || run == job.run);
            let horizon = match bottom {
                true => Some(self.horizon()?),
                false => None,
            };
            return Ok(Some(Plan { job, horizon }));
        }
        if runs.len() < 2 && runs.first().is_none_or(|r| r.old_bytes == 0) {
            return Ok(None);
        }
        let horizon = self.horizon()?;
        let least = self.store.open_limit();
        if let Some(passed) = foldable(&runs, horizon, least) {
            return Ok(Some(Plan {
                job: all(0..passed),
                horizon: Some(horizon),
            }));
        }
        let newest = runs.last().map_or(Lsn::ZERO, |r| r.end);
        let span_max = newest.bytes_since(horizon.min(newest)) / 2;
        Ok(alike(&runs, span_max).map(|range| Plan {
            horizon: (range.start == 0).then_some(horizon),
            job: all(range),
        }))
    }

    /// Does one piece of what is to be merged. `false`: there is nothing.
    pub(crate) fn compact(&self, unfoldable: &mut HashSet<Vec<u8>>) -> Result<bool, Fault> {
        let _one = self.upkeep.lock();
        if self.stopped() {
            return Err(Fault::Stopped);
        }
        let Some(plan) = self.plan()? else {
            unfoldable.clear();
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
        loop {
            match self.piece(&plan.job, kept.as_ref(), unfoldable)? {
                Piece::Done => return Ok(true),
                Piece::Unfoldable(key, why) => {
                    tracing::error!(branch = %self.id, key = ?key, error = %why, "a key cannot be folded: all its history stays");
                    self.note_unfoldable(&key, &why);
                    unfoldable.insert(key);
                }
            }
        }
    }

    fn piece(
        &self,
        job: &Merging,
        kept: Option<&Kept>,
        unfoldable: &HashSet<Vec<u8>>,
    ) -> Result<Piece, Fault> {
        let layers = self.layers();
        let picked: Vec<&Arc<LayerFile>> = layers
            .files
            .iter()
            .filter(|f| job.inputs.contains(&f.meta.number))
            .collect();
        if picked.len() != job.inputs.len() {
            return Err(Fault::Dead("the layers of a merge are gone".into()));
        }
        let mut scans = Vec::new();
        for layer in &picked {
            let scan = LayerScan::open(Arc::clone(layer), self.source());
            scans.extend(scan.map_err(|e| match e {
                LayerError::Io(..) => Fault::Again(format!("merge: {e}")),
                LayerError::Corrupt(..) => Fault::Stuck(format!("merge: {e}")),
            })?);
        }
        let mut merge = Merge::new(scans);
        let number = self.manifest.lock().allocate();
        let name = Shared::layer_name(number);
        let mut write = || -> Result<(Piece, LayerWriter), Fault> {
            let mut out = LayerWriter::create(
                &*self.files,
                self.id,
                number,
                name.clone(),
                LayerKind::Delta,
                job.end,
            )?
            .dense();
            let fold = kept.map(|kept| Fold::new(self, kept.clone(), unfoldable));
            let limit = self.store.config.merged_layer_bytes;
            let piece = merge.write(self, fold, limit, &mut out)?;
            Ok((piece, out))
        };
        let written = match write() {
            Ok((Piece::Done, out)) if out.keys() == 0 => Ok(None),
            Ok((Piece::Done, out)) => out.finish(job.run).map(Some).map_err(Fault::from),
            Ok((unfoldable, _)) => {
                let _ = self.files.remove(&name);
                return Ok(unfoldable);
            }
            Err(e) => Err(e),
        };
        if !matches!(written, Ok(Some(_))) {
            // What stays is removed at the next start.
            let _ = self.files.remove(&name);
        }
        let out = written?;
        let narrow = merge.places();
        let left: Vec<u64> = narrow.iter().map(|(n, _)| *n).collect();
        let done: Vec<u64> = picked
            .iter()
            .map(|f| f.meta.number)
            .filter(|n| !left.contains(n))
            .collect();
        let oldest = kept.and_then(|_| self.own_oldest());
        let put = publish(self, |m| Edit {
            add: out.iter().cloned().collect(),
            remove: done.clone(),
            narrow: narrow.clone(),
            resume: m.resume,
            oldest: m.oldest.max(oldest),
            merging: (!left.is_empty()).then(|| Merging {
                inputs: left,
                ..job.clone()
            }),
        })?;
        self.stats
            .merged_bytes
            .add(out.as_ref().map_or(0, |m| m.bytes));
        if narrow.is_empty() {
            self.stats.merges.add(1);
        }
        let added = out.map(|meta| {
            let files = Arc::clone(&self.files);
            LayerFile::new(meta, self.id, self.store.next_id(), files)
        });
        self.merged(added, &narrow, &done, put == Put::Done);
        Ok(Piece::Done)
    }

    /// Takes into the list of layers what a piece of a merge has changed.
    fn merged(
        &self,
        added: Option<LayerFile>,
        narrow: &[(u64, Vec<u8>)],
        done: &[u64],
        durable: bool,
    ) {
        self.leaving.lock().retain(Leaving::is_held);
        self.change_files(|files| {
            let mut next: Vec<Arc<LayerFile>> = Vec::with_capacity(files.len() + 1);
            for file in files {
                let number = file.meta.number;
                if done.contains(&number) {
                    // Were the manifest lost, the one before it would still
                    // name them: then the next start removes them.
                    if durable {
                        let leaving = file.doom(&self.store.caches);
                        self.leaving.lock().push(leaving);
                    }
                } else if let Some((_, key)) = narrow.iter().find(|(n, _)| *n == number) {
                    next.push(Arc::new(file.narrowed(key.clone())));
                } else {
                    next.push(Arc::clone(file));
                }
            }
            next.extend(added.map(Arc::new));
            next.sort_by_key(|f| (f.meta.run, f.meta.number));
            next
        });
    }
}
