//! What waits to be merged.

use super::{Shared, runs};
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
    /// What waits to be merged. Blocking: it looks for the horizon.
    pub(crate) fn debt(&self) -> Option<Debt> {
        let Some(plan) = self.plan().ok()? else {
            return Some(Debt::default());
        };
        let layers = self.layers();
        let input = |n: &u64| plan.job.inputs.contains(n);
        let inputs = layers.files.iter().filter(|f| input(&f.meta.number));
        Some(Debt {
            bytes: inputs.map(|f| f.meta.bytes).sum(),
            folds: plan.horizon.is_some(),
        })
    }

    /// Runs of layers.
    pub(crate) fn runs(&self) -> u64 {
        runs(&self.layers().files).len() as u64
    }

    /// The LSN before which nothing must be kept for its age. Blocking.
    pub(crate) fn horizon_now(&self) -> Option<Lsn> {
        self.horizon().ok()
    }
}
