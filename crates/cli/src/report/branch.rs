//! A branch, as a document.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use xylem_proto::control::Branch;

/// A branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BranchReport {
    /// Its name.
    pub name: String,
    /// Its identity, which never changes.
    pub id: String,
    /// The name of its parent branch.
    pub parent: Option<String>,
    /// Its branch point in the parent; 0 without one.
    pub branch_point_lsn: u64,
    /// The end of its WAL.
    pub last_lsn: u64,
    /// RFC 3339.
    pub created_at: String,
    /// The newest epoch.
    pub epoch: u64,
    /// The LSN up to which pages can be read.
    pub applied_lsn: u64,
    /// How far page reads are behind the WAL, in bytes.
    pub lag_bytes: u64,
    /// Bytes of its WAL.
    pub wal_bytes: u64,
    /// Bytes of its own layers.
    pub layer_bytes: u64,
    /// Bytes of its WAL and its own layers.
    pub own_bytes: u64,
    /// Bytes of its ancestors' layers, some of which it shares.
    pub ancestors_layer_bytes: u64,
    /// The oldest LSN of its history; unknown while it is empty.
    pub oldest_lsn: Option<u64>,
    /// The time of `oldest_lsn`, RFC 3339. In a project made from a template this
    /// is a time of the template.
    pub oldest_time: Option<String>,
    /// The time of the newest change, RFC 3339.
    pub newest_time: Option<String>,
    /// The time from which on its history can be named by times, RFC 3339: that of
    /// `oldest_lsn`, or the beginning of the project if that is later.
    pub history_from: Option<String>,
    /// Names of its child branches.
    pub child_branches: Vec<String>,
    /// It belongs to a read-only compute, and is removed with that.
    pub lease: bool,
    /// `open`; `stopped`: its WAL or its ingest has failed; `closed`: it did not
    /// open, and only the catalogue knows of it.
    pub state: String,
    /// Why it is not open.
    pub trouble: Option<String>,
}

impl From<Branch> for BranchReport {
    fn from(branch: Branch) -> BranchReport {
        let known = |text: String| Some(text).filter(|text| !text.is_empty());
        BranchReport {
            parent: known(branch.parent),
            branch_point_lsn: branch.branch_point_lsn,
            last_lsn: branch.last_lsn,
            created_at: branch.created_at,
            epoch: branch.epoch,
            applied_lsn: branch.applied_lsn,
            lag_bytes: branch.last_lsn.saturating_sub(branch.applied_lsn),
            wal_bytes: branch.wal_bytes,
            layer_bytes: branch.layer_bytes,
            own_bytes: branch.wal_bytes.saturating_add(branch.layer_bytes),
            ancestors_layer_bytes: branch.ancestors_layer_bytes,
            oldest_lsn: Some(branch.oldest_lsn).filter(|lsn| *lsn > 0),
            oldest_time: known(branch.oldest_time),
            newest_time: known(branch.newest_time),
            history_from: None,
            child_branches: branch.children,
            lease: branch.lease,
            state: branch.state,
            trouble: known(branch.trouble),
            name: branch.name,
            id: branch.id,
        }
    }
}

/// The reports of `branches`, which hold all parents of one another.
pub fn reports(branches: Vec<Branch>) -> Vec<BranchReport> {
    let mut reports: Vec<BranchReport> = branches.into_iter().map(BranchReport::from).collect();
    let starts: Vec<Option<String>> = reports.iter().map(|b| history_from(&reports, b)).collect();
    for (report, start) in reports.iter_mut().zip(starts) {
        report.history_from = start;
    }
    reports
}

/// See [`BranchReport::history_from`]. The project began when the branch at the
/// root of the tree was created.
fn history_from(all: &[BranchReport], branch: &BranchReport) -> Option<String> {
    let oldest = branch.oldest_time.clone()?;
    let mut root = branch;
    while let Some(parent) = &root.parent {
        let Some(next) = all.iter().find(|b| b.name == *parent) else {
            return Some(oldest);
        };
        root = next;
    }
    let time = |text: &str| text.parse::<Timestamp>().ok();
    if time(&root.created_at) > time(&oldest) {
        return Some(root.created_at.clone());
    }
    Some(oldest)
}
