//! How much waits to be merged.

use super::plan::{RUNS_MAX, RUNS_NEW, is_bottom};
use crate::branch::shared::Shared;
use std::collections::HashSet;
use xylem_types::Lsn;

/// The merges that a branch's layers wait for.
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
        if self.ancestors_behind().is_some() {
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

    /// Bytes of the runs beyond those that merges leave, and beyond those that
    /// may come before another merge begins beside those under way.
    pub(crate) fn merge_debt(&self) -> u64 {
        let layers = self.layers();
        let rows = layers.files.rows();
        let runs = rows.chunk_by(|a, b| a.run == b.run);
        let bytes = runs.map(|run| run.iter().map(|row| row.bytes).sum::<u64>());
        // The newest are those that came too many.
        bytes.skip(RUNS_MAX + RUNS_NEW).sum()
    }

    /// The LSN before which nothing must be kept for its age. Blocking.
    pub(crate) fn horizon_now(&self) -> Option<Lsn> {
        self.horizon().ok()
    }
}
