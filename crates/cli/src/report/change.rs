//! The outcomes of commands that change something, as documents.

use super::ComputeReport;
use super::branch::BranchReport;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use xylem_proto::control::ResolveTimeResponse;
use xylem_proto::inspect::{BranchHealth, Trouble};

/// `xylem branch create`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Created {
    /// The branch.
    #[serde(flatten)]
    pub branch: BranchReport,
    /// How long it took.
    pub took_ms: u64,
}

/// `xylem branch show`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Shown {
    /// The branch.
    #[serde(flatten)]
    pub branch: BranchReport,
    /// The newest failure to flush layers; none while flushes succeed.
    pub flush_trouble: Option<String>,
    /// The newest failure to merge layers; none while merges succeed.
    pub merge_trouble: Option<String>,
    /// Why the WAL's backup does not proceed; none while it does.
    pub backup_trouble: Option<String>,
}

/// `xylem branch set`, `rename`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// The branch.
    #[serde(flatten)]
    pub branch: BranchReport,
    /// Time after which its compute sleeps if nobody uses it; `null`: never.
    pub suspend_after: Option<String>,
    /// Most sessions of the gateway's clients on its compute; `null`: no limit.
    pub pool_size: Option<u32>,
    /// Whether clients of the gateway may name its moments.
    pub moments: bool,
    /// The name that it had, if it was renamed.
    pub renamed_from: Option<String>,
    /// Its compute, if that was restarted.
    pub compute: Option<Started>,
}

/// `xylem branch rm`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    /// The branch, as it was.
    #[serde(flatten)]
    pub branch: BranchReport,
    /// Its compute ran, and was stopped.
    pub compute_stopped: bool,
}

/// `xylem branch restore`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Restored {
    /// The branch, as it is now.
    #[serde(flatten)]
    pub branch: BranchReport,
    /// The branch that keeps the previous state.
    pub kept: BranchReport,
    /// Its compute, if that was running.
    pub compute: Option<Started>,
    /// The time of the moment, RFC 3339.
    pub restored_time: Option<String>,
    /// How long it took.
    pub took_ms: u64,
}

/// `xylem compute start`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Started {
    /// The compute.
    #[serde(flatten)]
    pub compute: ComputeReport,
    /// It ran before.
    pub already: bool,
    /// How long the start took.
    pub took_ms: u64,
}

/// `xylem compute stop`, `kill`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ended {
    /// The compute.
    #[serde(flatten)]
    pub compute: ComputeReport,
    /// It ran before.
    pub ran: bool,
}

/// A moment of a branch, and the limits of its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MomentReport {
    /// The moment's LSN.
    pub lsn: u64,
    /// The time of the newest change up to it, RFC 3339; unknown for some LSNs.
    pub time: Option<String>,
    /// The position of the branch's own binary log; `null` without one, and while it is empty.
    pub gtid: Option<String>,
    /// Why the position is not known though there is a log, such as an encrypted one.
    pub gtid_trouble: Option<String>,
    /// The oldest LSN of the history.
    pub oldest_lsn: u64,
    /// Its time, RFC 3339.
    pub oldest_time: Option<String>,
    /// The newest LSN.
    pub newest_lsn: u64,
    /// Its time, RFC 3339.
    pub newest_time: Option<String>,
}

impl From<ResolveTimeResponse> for MomentReport {
    fn from(found: ResolveTimeResponse) -> MomentReport {
        let known = |text: String| Some(text).filter(|text| !text.is_empty());
        MomentReport {
            lsn: found.lsn,
            time: known(found.time),
            gtid: known(found.gtid),
            gtid_trouble: known(found.gtid_trouble),
            oldest_lsn: found.oldest_lsn,
            oldest_time: known(found.oldest_time),
            newest_lsn: found.newest_lsn,
            newest_time: known(found.newest_time),
        }
    }
}

impl Shown {
    /// The branch with what the server says of its health.
    pub fn new(branch: BranchReport, health: Option<BranchHealth>) -> Shown {
        let health = health.unwrap_or_default();
        let said = |trouble: Trouble| format!("{} (at {})", trouble.message, trouble.time);
        let backup = health.wal_backup.map(|backup| backup.trouble);
        Shown {
            branch,
            flush_trouble: health.flush_trouble.map(said),
            merge_trouble: health.merge_trouble.map(said),
            backup_trouble: backup.filter(|trouble| !trouble.is_empty()),
        }
    }
}
