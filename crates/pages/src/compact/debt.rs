//! What waits to be merged.

use super::{RUNS_MAX, RUNS_NEW, Shared};
use crate::branch::Branch;
use crate::health::PATIENCE;
use std::collections::HashSet;
use xylem_types::Lsn;

/// What a branch's layers owe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Debt {
    /// Bytes of the layers that the merge under way, or the next one, reads.
    pub(crate) bytes: u64,
    /// That merge folds what is before this.
    pub(crate) folds: bool,
}

impl Shared {
    /// What waits to be merged; none while a manifest is being written, which
    /// may take as long as a disk is full. Blocking: it looks for the horizon.
    pub(crate) fn debt(&self) -> Option<Debt> {
        let merging = self.manifest.try_lock_for(PATIENCE)?.merging.clone();
        let Some(plan) = self.plan(merging).ok()? else {
            return Some(Debt::default());
        };
        let layers = self.layers();
        let input: HashSet<u64> = plan.job.inputs.iter().copied().collect();
        let inputs = layers
            .files
            .iter()
            .filter(|f| input.contains(&f.meta.number));
        Some(Debt {
            bytes: inputs.map(|f| f.meta.bytes).sum(),
            folds: plan.horizon.is_some(),
        })
    }

    /// Bytes of the runs by which there are more than merges leave, and than
    /// may come before one that is under way makes way.
    pub(crate) fn behind(&self) -> u64 {
        let layers = self.layers();
        let rows = layers.files.rows();
        let runs = rows.chunk_by(|a, b| a.run == b.run);
        let bytes = runs.map(|run| run.iter().map(|row| row.bytes).sum::<u64>());
        // The newest are those that came too many.
        bytes.skip(RUNS_MAX + RUNS_NEW).sum()
    }

    /// Runs of layers.
    pub(crate) fn runs(&self) -> u64 {
        let layers = self.layers();
        let rows = layers.files.rows();
        rows.chunk_by(|a, b| a.run == b.run).count() as u64
    }

    /// The LSN before which nothing must be kept for its age. Blocking.
    pub(crate) fn horizon_now(&self) -> Option<Lsn> {
        self.horizon().ok()
    }
}

impl Branch {
    /// How far merges are behind: bytes of the newest layers, by whose runs
    /// there are more than merges let come. 0 as long as they keep up. It grows by
    /// what is flushed, so by about as many bytes as redo is ingested, and cold
    /// reads and folding become dearer with it: whoever paces writers counts it
    /// as ingest lag. Cheap: a walk over the runs.
    pub fn merge_debt(&self) -> u64 {
        self.shared.behind()
    }
}
