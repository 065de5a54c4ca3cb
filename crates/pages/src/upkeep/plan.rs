//! Chooses the next merge.

use super::fault::Fault;
use crate::branch::shared::Shared;
use crate::layer::list::LayerList;
use crate::layer::read::LayerFile;
use crate::manifest::record::{MERGES_MAX, Merging};
use std::ops::Range;
use std::sync::Arc;
use xylem_types::Lsn;

/// A branch with at most this many runs is left alone.
const RUNS_MIN: usize = 6;
/// From this many runs on, some are merged whatever their sizes.
pub(super) const RUNS_MAX: usize = 24;
/// A merge takes at least so many runs.
const MERGE_MIN: usize = 4;
/// With so many that are newer than those of the merges under way, another
/// begins even where they have to wait for it.
pub(super) const RUNS_NEW: usize = 12;
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
    /// The part of `bytes` that folding would take away, roughly.
    garbage: u64,
    start: Lsn,
    end: Lsn,
}

/// The runs, oldest first, where forks have their branch points at `points`.
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
fn alike(runs: &[Run], span_max: u64) -> Option<Range<usize>> {
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
/// `points` it folds, for forks with these branch points.
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

/// The stretches of runs that stand side by side and that no merge has.
/// `taken` says of each merge from which run to which it reaches.
fn free(runs: &[Run], taken: &[(u64, u64)]) -> Vec<Range<usize>> {
    let is_taken = |run: &Run| taken.iter().any(|(a, b)| (*a..=*b).contains(&run.number));
    let mut free: Vec<Range<usize>> = Vec::new();
    for (n, _) in runs.iter().enumerate().filter(|(_, run)| !is_taken(run)) {
        match free.last_mut() {
            Some(last) if last.end == n => last.end += 1,
            _ => free.push(n..n + 1),
        }
    }
    free
}

/// From which run to which the merge reaches: it has all between, too.
fn reach(files: &[Arc<LayerFile>], merging: &Merging) -> (u64, u64) {
    let inputs = files
        .iter()
        .filter(|f| merging.inputs.binary_search(&f.meta.number).is_ok());
    let oldest = inputs.map(|f| f.meta.run).min().unwrap_or(merging.run);
    (oldest.min(merging.run), merging.run)
}

/// Whether nothing of the branch is older than what the merge reads. Once so,
/// it stays so; and of merges that share no run it is so of one only.
pub(super) fn is_bottom(files: &[Arc<LayerFile>], merging: &Merging) -> bool {
    // Layers that it has written stand behind those it reads, or are newer.
    files.first().is_some_and(|oldest| {
        merging.inputs.binary_search(&oldest.meta.number).is_ok() || oldest.meta.run == merging.run
    })
}

impl Shared {
    /// The oldest LSN that must stay readable by its age.
    pub(super) fn horizon(&self) -> Result<Lsn, Fault> {
        loop {
            let oldest = self.oldest();
            match self.lsn_of_age(self.resources.config.history) {
                // Not a place behind the last mtr, which pages are not read at.
                Ok(found) => {
                    let oldest = oldest.unwrap_or_default();
                    return Ok(found.unwrap_or(oldest).min(self.applied()).max(oldest));
                }
                // A fold has let go of what was just looked at.
                Err(_) if self.oldest() != oldest => {}
                Err(e) => return Err(Fault::Again(format!("look for the horizon: {e}"))),
            }
        }
    }

    /// The merge to begin beside those under way, if any; with `others` to go
    /// on with, only one that should come before them. The caller that
    /// begins it is the only one that plans. Blocking: it looks for the horizon.
    pub(super) fn next_merge(&self, others: bool) -> Result<Option<Merging>, Fault> {
        // Before the layers: a merge leaves this list after what it changed has
        // come into theirs.
        let under_way = self.jobs.all();
        if under_way.len() >= MERGES_MAX || self.ancestors_behind().is_some() {
            return Ok(None);
        }
        let points = self.forks.points(|points| points);
        let layers = self.layers();
        let runs = runs(&layers.files, &points);
        let garbage = runs.first().is_some_and(|r| r.garbage > 0);
        if runs.len() < 2 && !garbage {
            return Ok(None);
        }
        let reaches = under_way.iter().map(|m| reach(&layers.files, m));
        let mut free = free(&runs, &reaches.collect::<Vec<_>>());
        if others {
            free.retain(|s| s.end == runs.len() && s.len() >= RUNS_NEW);
        }
        if free.is_empty() {
            return Ok(None);
        }
        let horizon = self.horizon()?;
        let newest = runs.last().map_or(Lsn::ZERO, |r| r.end);
        let span_max = newest.bytes_since(horizon.min(newest)) / SPAN_PART;
        let bottom = free.first().filter(|s| s.start == 0 && !others);
        let fold = bottom
            .and_then(|s| runs.get(s.clone()))
            .and_then(|runs| foldable(runs, horizon, self.resources.open_limit()))
            .map(|passed| 0..passed);
        let alike = free.iter().rev().filter_map(|stretch| {
            let range = alike(runs.get(stretch.clone())?, span_max)?;
            Some(stretch.start + range.start..stretch.start + range.end)
        });
        Ok(fold.into_iter().chain(alike).find_map(|range| {
            let points = (range.start == 0).then_some(&points);
            job_of(&layers.files, runs.get(range)?, points)
        }))
    }
}

#[cfg(test)]
mod tests;
