//! The options of a scrub on demand, its events and its report.

use crate::finding::{Finding, FindingKind};
use std::ops::ControlFlow;
use xylem_types::BranchId;

/// How to scrub.
#[derive(Clone, Debug, Default)]
pub struct ScrubOptions {
    /// The branches; none: all that there are.
    pub branches: Option<Vec<BranchId>>,
    /// Most bytes read from the store in a second; 0: no limit.
    pub bytes_per_second: u64,
}

/// How far a scrub is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// The branch at hand.
    pub branch: Option<BranchId>,
    /// Branches that are done.
    pub branches_done: u64,
    /// Branches in all.
    pub branches: u64,
    /// Layer files that are done.
    pub layers_done: u64,
    /// Layer files in all, as far as is known.
    pub layers: u64,
    /// Bytes read.
    pub bytes_done: u64,
    /// Bytes of layer files in all, as far as is known.
    pub bytes: u64,
}

/// An event of a scrub that is under way.
#[derive(Debug)]
pub enum ScrubEvent<'a> {
    /// It has come so far.
    Progress(&'a ScrubProgress),
    /// It has found something.
    Finding(&'a Finding),
}

/// The outcome of a scrub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// How far it came.
    pub progress: ScrubProgress,
    /// Findings that are damage: data lost or in doubt.
    pub damage: u64,
    /// Findings of files that could not be read.
    pub unreadable: u64,
    /// Files that nothing names.
    pub orphans: u64,
    /// It was stopped before its end.
    pub stopped: bool,
}

impl ScrubReport {
    /// Whether everything was looked at and is well.
    pub fn is_clean(&self) -> bool {
        self.damage == 0 && self.unreadable == 0 && !self.stopped
    }

    pub(super) fn count(&mut self, finding: &Finding) {
        match finding.kind {
            FindingKind::Damaged | FindingKind::Missing => self.damage += 1,
            FindingKind::Unreadable => self.unreadable += 1,
            FindingKind::Orphan => self.orphans += 1,
        }
    }
}

/// Takes the events of a scrub; `Break` stops it.
pub type Tell<'a> = dyn FnMut(ScrubEvent<'_>) -> ControlFlow<()> + 'a;
