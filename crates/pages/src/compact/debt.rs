//! How much waits to be merged.

use super::plan::{RUNS_MAX, RUNS_NEW, is_bottom};
use crate::branch::{Branch, Shared};
use std::collections::HashSet;
use xylem_types::Lsn;

/// What a branch's layers owe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Debt {
    /// Bytes of the layers that the merges under way, and the next one, read.
    pub(crate) bytes: u64,
    /// One of them folds history.
    pub(crate) folds: bool,
}

impl Shared {
    /// Measures how much waits to be merged. Blocking: it looks for the horizon.
    pub(crate) fn debt(&self) -> Debt {
        if self.ancestor_behind().is_some() {
            return Debt::default();
        }
        let mut merges = self.jobs.all();
        merges.extend(self.next_merge(false).ok().flatten());
        let layers = self.layers();
        let read: HashSet<u64> = merges.iter().flat_map(|m| m.inputs.clone()).collect();
        let inputs = layers.files.iter().map(|f| &f.meta);
        let inputs = inputs.filter(|m| read.contains(&m.number));
        Debt {
            bytes: inputs.map(|m| m.bytes).sum(),
            folds: merges.iter().any(|m| is_bottom(&layers.files, m)),
        }
    }

    /// Bytes of the runs by which there are more than merges leave, and than
    /// may come before another begins beside those under way.
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
