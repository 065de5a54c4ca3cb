//! The newest manifest of a branch in memory, and what must hold of it.

use super::record::{BranchPoint, Edit, Merging, Resume, SLOTS};
use crate::layer::format::LayerMeta;
use std::collections::BTreeSet;
use xylem_types::{BranchId, Lsn};

/// The newest manifest.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(super) branch: BranchId,
    /// Random: tells the manifests of this process from others'.
    pub(super) writer: u128,
    pub(super) number: u64,
    pub(super) edits: u32,
    pub(crate) branch_point: Option<BranchPoint>,
    pub(crate) resume: Resume,
    pub(crate) oldest: Option<Lsn>,
    pub(crate) next_layer: u64,
    /// Oldest first: by run, then by number.
    pub(crate) layers: Vec<LayerMeta>,
    /// By run.
    pub(crate) merging: Vec<Merging>,
}

impl Manifest {
    /// An empty one, the first of a branch without a parent.
    pub(crate) fn root() -> Manifest {
        Manifest {
            branch: BranchId(0),
            writer: 0,
            number: 1,
            edits: 0,
            branch_point: None,
            resume: Resume::default(),
            oldest: None,
            next_layer: 1,
            layers: Vec::new(),
            merging: Vec::new(),
        }
    }

    /// Makes the changes of `edit`, which was checked.
    pub(crate) fn apply(&mut self, edit: Edit) {
        self.layers.retain(|l| !edit.remove.contains(&l.number));
        for (number, key) in edit.narrow {
            if let Some(l) = self.layers.iter_mut().find(|l| l.number == number) {
                l.first_key = key;
            }
        }
        self.layers.extend(edit.add);
        self.layers.sort_by_key(|l| (l.run, l.number));
        self.resume = edit.resume;
        self.oldest = edit.oldest;
        self.merging = edit.merging;
    }

    /// The merges under way when `rest` is what is left of the one that writes
    /// `run`; that may have just begun.
    pub(crate) fn merging_with(&self, run: u64, rest: Option<Merging>) -> Vec<Merging> {
        let others = self.merging.iter().filter(|m| m.run != run);
        let mut merging: Vec<Merging> = others.cloned().chain(rest).collect();
        merging.sort_by_key(|m| m.run);
        merging
    }

    /// A number for a layer, never given out before.
    pub(crate) fn allocate(&mut self) -> u64 {
        let n = self.next_layer;
        self.next_layer += 1;
        n
    }

    /// Checks an edit: without these invariants a read could miss a version.
    pub(super) fn check(&self, edit: &Edit) -> Result<(), String> {
        if edit.resume.lsn < self.resume.lsn || edit.resume.operations < self.resume.operations {
            return Err(format!(
                "resume point {:?} is behind {:?}",
                edit.resume, self.resume
            ));
        }
        for l in &edit.add {
            if l.number >= self.next_layer || self.layers.iter().any(|o| o.number == l.number) {
                return Err(format!(
                    "layer number {} was not allocated for it",
                    l.number
                ));
            }
            if l.end.bytes_since(edit.resume.lsn) > SLOTS {
                return Err(format!("layer {} ends after the resume point", l.name));
            }
        }
        let known = |n: &u64| self.layers.iter().any(|l| l.number == *n);
        let changed = edit.remove.iter().chain(edit.narrow.iter().map(|(n, _)| n));
        if let Some(n) = changed.into_iter().find(|n| !known(n)) {
            return Err(format!("layer {n} is changed and not there"));
        }
        Merging::fit(&edit.merging, |n| known(&n) && !edit.remove.contains(&n))?;
        if edit.oldest < self.oldest {
            return Err(format!(
                "the history kept begins at {:?}, and would at {:?}",
                self.oldest, edit.oldest
            ));
        }
        Ok(())
    }

    /// Its number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The number of the oldest manifest that counts: a snapshot.
    pub(crate) fn first(&self) -> u64 {
        self.number.saturating_sub(self.edits.into())
    }

    /// Whether it equals `other`, the manifest of the same number.
    pub(crate) fn agrees(&self, other: &Manifest) -> bool {
        self.layers == other.layers
            && self.branch_point == other.branch_point
            && self.resume == other.resume
            && self.oldest == other.oldest
            && self.merging == other.merging
    }

    /// Checks its layers, whatever edit came last.
    pub(super) fn fits(&self) -> Result<(), String> {
        let mut numbers = BTreeSet::new();
        let mut names = BTreeSet::new();
        for l in &self.layers {
            let digits = l.name.split('-').next().unwrap_or_default();
            if u64::from_str_radix(digits, 16) != Ok(l.number) || l.number >= self.next_layer {
                return Err(format!("layer {} cannot have number {}", l.name, l.number));
            }
            if !numbers.insert(l.number) || !names.insert(&l.name) {
                return Err(format!("layer {} is there twice", l.name));
            }
            if l.first_key > l.last_key || l.start > l.end || l.keys == 0 {
                return Err(format!("layer {} has a range that cannot be", l.name));
            }
        }
        Merging::fit(&self.merging, |n| numbers.contains(&n))
    }
}
