//! A scrub's findings, as a document.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use xylem_proto::inspect::Finding;

/// A finding of a scrub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FindingRow {
    /// The branch's name.
    pub branch: String,
    /// Its id.
    pub branch_id: String,
    /// The file in its directory.
    pub file: Option<String>,
    /// `damaged`, `missing`, `unreadable` or `orphan`.
    pub kind: String,
    /// The problem with it.
    pub message: String,
}

impl From<&Finding> for FindingRow {
    fn from(f: &Finding) -> FindingRow {
        FindingRow {
            branch: f.branch.clone(),
            branch_id: f.branch_id.clone(),
            file: Some(f.file.clone()).filter(|file| !file.is_empty()),
            kind: f.kind.clone(),
            message: f.message.clone(),
        }
    }
}

impl FindingRow {
    /// Whether data is lost or in doubt.
    pub fn is_damage(&self) -> bool {
        self.kind == "damaged" || self.kind == "missing"
    }

    /// A line for people.
    pub fn text(&self) -> String {
        let file = self.file.as_deref().map(|f| format!(", {f}"));
        format!(
            "{}: branch {}{}: {}",
            self.kind,
            self.branch,
            file.unwrap_or_default(),
            self.message
        )
    }
}
