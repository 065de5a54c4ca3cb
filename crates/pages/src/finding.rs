//! The findings of scrubs.

use parking_lot::Mutex;
use xylem_types::BranchId;

/// Findings of one branch that are remembered, and of one scrub that are told.
pub(crate) const FINDINGS_MAX: usize = 1000;

/// The kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// Bytes are not what was written, or do not fit together.
    Damaged,
    /// Something that is named is not there.
    Missing,
    /// It could not be looked at.
    Unreadable,
    /// Nothing names it. No damage: the next start of the server removes it.
    Orphan,
}

impl FindingKind {
    /// Its name: one word, lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            FindingKind::Damaged => "damaged",
            FindingKind::Missing => "missing",
            FindingKind::Unreadable => "unreadable",
            FindingKind::Orphan => "orphan",
        }
    }
}

/// Something that a scrub found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The branch.
    pub branch: BranchId,
    /// The file in its folder; empty when it is none of them.
    pub file: String,
    /// Its kind.
    pub kind: FindingKind,
    /// The fault in words.
    pub message: String,
}

impl Finding {
    /// Whether something that was stored is lost or in doubt.
    pub fn is_damage(&self) -> bool {
        matches!(self.kind, FindingKind::Damaged | FindingKind::Missing)
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "branch {}", self.branch)?;
        if !self.file.is_empty() {
            write!(f, ", {}", self.file)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A fault of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) FindingKind, pub(crate) String);

/// The outcome of the newest scrub of a branch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastScrub {
    /// When it ended, in microseconds since 1970; none: there was none yet.
    pub ended_us: Option<u64>,
    /// Bytes read.
    pub bytes: u64,
    /// Layer files.
    pub layers: u64,
    /// Its findings, at most 1000.
    pub findings: Vec<Finding>,
}

/// The scrubs of a branch.
#[derive(Debug, Default)]
pub(crate) struct Scrubbed {
    last: Mutex<LastScrub>,
}

impl Scrubbed {
    /// A scrub of the whole branch has ended.
    pub(crate) fn ended(&self, last: LastScrub) {
        *self.last.lock() = last;
    }

    /// The newest.
    pub(crate) fn last(&self) -> LastScrub {
        self.last.lock().clone()
    }
}
