//! Why something cannot be imported, and what to do about it.

use serde::Serialize;

/// One thing that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The file or table.
    pub subject: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub to_do: String,
}

impl Refusal {
    /// `subject` has the problem `problem`; `to_do` helps.
    pub fn new(
        subject: impl Into<String>,
        problem: impl Into<String>,
        to_do: impl Into<String>,
    ) -> Refusal {
        Refusal {
            subject: subject.into(),
            problem: problem.into(),
            to_do: to_do.into(),
        }
    }
}

/// A list for people. What helps stands once behind all it helps for.
pub fn text(refusals: &[Refusal]) -> String {
    let mut out = Vec::new();
    for (nth, refusal) in refusals.iter().enumerate() {
        out.push(format!("  {}: {}", refusal.subject, refusal.problem));
        let next = refusals.get(nth + 1);
        if next.is_none_or(|next| next.to_do != refusal.to_do) && !refusal.to_do.is_empty() {
            out.push(format!("    to do: {}", refusal.to_do));
        }
    }
    out.join("\n")
}
