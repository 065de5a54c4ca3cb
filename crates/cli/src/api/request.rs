//! The bodies of requests, for both sides.

use crate::moment::{Moment, When};
use crate::report::token::RightOnSchema;
use crate::settings::Switch;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use xylem_tokens::RightOn;

/// A branch to be created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBranch {
    /// Its name.
    #[schema(
        max_length = 200,
        pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*)*$"
    )]
    pub name: String,
    /// Its parent branch. Default: `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        max_length = 200,
        pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*)*$"
    )]
    pub from: Option<String>,
    /// Its branch point: an LSN, a time (RFC 3339), how long ago (`5 minutes ago`), or a
    /// transaction of the branch's own binary log (`gtid:0-1-42`).
    /// Default: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1)]
    pub at: Option<String>,
    /// Time after which its compute sleeps if nobody uses it, such as `5m`; `0s`: never.
    /// Default: the project's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^([0-9]{1,6}(ms|s|m|h|d|w) ?)+$")]
    pub suspend_after: Option<String>,
}

/// Changes of a branch; what is missing stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(min_properties = 1)]
pub struct ChangeBranch {
    /// Its new name. A compute that runs is restarted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        max_length = 200,
        pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*)*$"
    )]
    pub name: Option<String>,
    /// Time after which its compute sleeps if nobody uses it, such as `5m`; `0s`: never;
    /// `default`: the project's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(default|([0-9]{1,6}(ms|s|m|h|d|w) ?)+)$")]
    pub suspend_after: Option<String>,
    /// Most sessions of the gateway's clients on its compute, such as `100`; `off`: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(off|[1-9][0-9]{0,8})$")]
    pub pool_size: Option<String>,
    /// Whether clients of the gateway may name its moments: `on` or `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moments: Option<Switch>,
}

/// A moment to restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreBranch {
    /// An LSN, a time (RFC 3339), how long ago (`5 minutes ago`), or a transaction of the
    /// branch's own binary log (`gtid:0-1-42`).
    #[schema(min_length = 1)]
    pub at: String,
    /// Name of the branch that keeps the present state. Default: NAME-before-NOW.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        max_length = 200,
        pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*)*$"
    )]
    pub keep_as: Option<String>,
}

/// A compute to be started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StartCompute {
    /// Start one more compute, which shows the branch at one moment and accepts no writes.
    #[serde(default)]
    pub read_only: bool,
    /// With `read_only`: the moment to show: an LSN, a time (RFC 3339), or how long ago.
    /// Default: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1)]
    pub at: Option<String>,
    /// Its port. Default: the same as last time, or the next free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
}

/// A token to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Its owner's name, for people.
    #[schema(min_length = 1, pattern = "[!-~]")]
    pub name: String,
    /// Its rights: at least one.
    #[schema(value_type = Vec<RightOnSchema>, min_items = 1)]
    pub rights: Vec<RightOn>,
    /// How long it is valid, such as `30d`, or `never`. Default: `30d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(never|([1-9][0-9]{0,3}(s|m|h|d|w) ?)+)$")]
    pub expires: Option<String>,
}

/// A data directory to be imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewImport {
    /// Whole path, on the server's machine, of the data directory of a cleanly stopped MariaDB
    /// 10.11, or of a backup prepared by mariadb-backup; it is only read.
    #[schema(pattern = "^/")]
    pub datadir: String,
    /// Name of the new branch. Default: `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        max_length = 200,
        pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*)*$"
    )]
    pub branch: Option<String>,
    /// Check only whether the directory can be imported, every page included. The answer lists
    /// the obstacles.
    #[serde(default)]
    pub check: bool,
    /// Leave out unknown files, instead of refusing the directory.
    #[serde(default)]
    pub leave_out_unknown: bool,
    /// Whole path, on the server's machine, of a directory for the copy of the system
    /// tablespace. Default: the state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^/")]
    pub scratch: Option<String>,
}

/// An export of a branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportBranch {
    /// Whole path, on the server's machine, of the data directory to write; it must not exist,
    /// or be empty.
    #[schema(pattern = "^/")]
    pub dir: String,
    /// The moment to export: an LSN, a time (RFC 3339), how long ago (`5 minutes ago`), or a
    /// transaction of the branch's own binary log (`gtid:0-1-42`).
    /// Default: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1)]
    pub at: Option<String>,
}

/// A change of the keys that sign tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKeys {
    /// Refuse everything that older keys have signed, the caller's token included.
    #[serde(default)]
    pub drop_old: bool,
}

/// A moment as a request has it.
pub fn at_text(moment: Moment) -> String {
    match moment {
        Moment::Lsn(lsn) => lsn.to_string(),
        Moment::Time(time) => time.to_string(),
        Moment::Gtid(gtid) => format!("gtid:{gtid}"),
    }
}

/// Reads a moment. Times without an offset from UTC are refused: the two sides may be in
/// different zones.
///
/// # Errors
/// When it is none.
pub fn moment(text: &str, now: Timestamp) -> Result<Moment, String> {
    match When::parse(text)? {
        When::Local(_) | When::Today(_) => Err(format!(
            "{text:?} has no offset from UTC: write it as 2026-11-22T14:05:00Z or 2026-11-22T14:05:00+01:00"
        )),
        when => when.resolve(now, &TimeZone::UTC),
    }
}
