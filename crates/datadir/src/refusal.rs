//! Why a directory cannot be imported, and what helps.

use serde::{Deserialize, Serialize};

/// The hint for a file that cannot be read.
pub const READABLE: &str =
    "check the disk, and that this user may read the directory (its owner or root may)";

/// One thing that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The file or table.
    pub subject: String,
    /// The problem with it.
    pub problem: String,
    /// The remedy.
    pub hint: String,
}

impl Refusal {
    /// `subject` has the problem `problem`; `hint` helps.
    pub fn new(
        subject: impl Into<String>,
        problem: impl Into<String>,
        hint: impl Into<String>,
    ) -> Refusal {
        Refusal {
            subject: subject.into(),
            problem: problem.into(),
            hint: hint.into(),
        }
    }
}

/// A list for people. What helps stands once behind all it helps for.
pub fn text(refusals: &[Refusal]) -> String {
    let mut out = Vec::new();
    for (nth, refusal) in refusals.iter().enumerate() {
        out.push(format!("  {}: {}", refusal.subject, refusal.problem));
        let next = refusals.get(nth + 1);
        if next.is_none_or(|next| next.hint != refusal.hint) && !refusal.hint.is_empty() {
            out.push(format!("    hint: {}", refusal.hint));
        }
    }
    out.join("\n")
}
