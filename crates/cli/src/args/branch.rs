//! Arguments of `xylem branch`.

use super::parse::{branch, compute};
use crate::compute::name::ComputeName;
use crate::moment::When;
use crate::settings::{Switch, span};
use crate::work::branch::{PoolSize, SpanOrDefault};
use clap::{Args, Subcommand};
use xylem_types::BranchName;

/// `xylem branch …`
#[derive(Debug, Subcommand)]
pub enum BranchCommand {
    /// Create a branch from another, as of now or of a moment in the past
    Create(BranchCreateArgs),
    /// List the branches
    Ls(BranchLsArgs),
    /// Show the tree of branches, or one branch in detail
    Show(BranchShowArgs),
    /// Remove a branch without child branches, and all its history
    Rm(BranchRmArgs),
    /// Reopen a branch that has stopped or did not open, and its child branches
    Reopen(OneBranch),
    /// Rename a branch
    Rename(BranchRenameArgs),
    /// Change the settings of a branch
    Set(BranchSetArgs),
    /// Restore a branch to a moment; its present state is kept as another branch
    Restore(BranchRestoreArgs),
}

/// `xylem branch create`
#[derive(Debug, Args)]
pub struct BranchCreateArgs {
    /// Name of the branch
    #[arg(value_parser = branch)]
    pub name: BranchName,
    /// Parent branch
    #[arg(long, value_name = "B", value_parser = branch, default_value = "main")]
    pub from: BranchName,
    /// Branch point: an LSN, a time or a transaction [default: now]
    #[arg(long, value_name = "LSN|TIME|gtid:GTID", value_parser = When::parse)]
    pub at: Option<When>,
    /// Branch point: right after this transaction of the parent's binary log (0-1-42)
    #[arg(long, value_name = "GTID", value_parser = When::parse_gtid, conflicts_with = "at")]
    pub at_gtid: Option<When>,
    /// Time after which the branch's compute sleeps if nobody uses it; 0s: never
    /// [default: the project's]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub suspend_after: Option<String>,
}

/// `xylem branch set`
#[derive(Debug, Args)]
pub struct BranchSetArgs {
    /// Branch
    #[arg(value_parser = branch)]
    pub name: BranchName,
    /// Time after which the branch's compute sleeps if nobody uses it; 0s: never;
    /// default: the project's
    #[arg(long, value_name = "SPAN|default", value_parser = SpanOrDefault::parse)]
    #[arg(required_unless_present_any = ["pool_size", "moments"])]
    pub suspend_after: Option<SpanOrDefault>,
    /// Most sessions that clients of the gateway have on the branch's compute at a time:
    /// idle clients make room for others; off: no limit
    #[arg(long, value_name = "N|off", value_parser = PoolSize::parse)]
    pub pool_size: Option<PoolSize>,
    /// Whether clients of the gateway may name moments of the branch (app@main~5min), at which
    /// accounts have the passwords and rights that they had then
    #[arg(long, value_name = "on|off")]
    pub moments: Option<Switch>,
}

/// `xylem branch ls`
#[derive(Debug, Args)]
pub struct BranchLsArgs {
    /// List the hidden branches of read-only computes, too
    #[arg(long)]
    pub all: bool,
}

/// `xylem branch show`
#[derive(Debug, Args)]
pub struct BranchShowArgs {
    /// Branch [default: all]
    #[arg(value_parser = compute, value_name = "BRANCH")]
    pub branch: Option<ComputeName>,
    /// Show this moment of the branch: its LSN, its time and, with a binary log, its GTIDs
    #[arg(long, value_name = "LSN|TIME|gtid:GTID", value_parser = When::parse, requires = "branch")]
    pub at: Option<When>,
}

/// A command on one branch.
#[derive(Debug, Args)]
pub struct OneBranch {
    /// Branch
    #[arg(value_parser = compute, value_name = "BRANCH")]
    pub branch: ComputeName,
}

/// `xylem branch rm`
#[derive(Debug, Args)]
pub struct BranchRmArgs {
    /// Branch
    #[arg(value_parser = compute, value_name = "BRANCH")]
    pub branch: ComputeName,
    /// Do not ask for confirmation; required without a terminal
    #[arg(long)]
    pub yes: bool,
}

/// `xylem branch rename`
#[derive(Debug, Args)]
pub struct BranchRenameArgs {
    /// Present name
    #[arg(value_parser = branch)]
    pub old: BranchName,
    /// New name
    #[arg(value_parser = branch)]
    pub new: BranchName,
}

/// `xylem branch restore`
#[derive(Debug, Args)]
pub struct BranchRestoreArgs {
    /// Branch
    #[arg(value_parser = branch)]
    pub branch: BranchName,
    /// Moment to restore: an LSN, a time or a transaction
    #[arg(long, value_name = "LSN|TIME|gtid:GTID", value_parser = When::parse)]
    #[arg(required_unless_present = "at_gtid")]
    pub at: Option<When>,
    /// Moment to restore: right after this transaction of the branch's binary log (0-1-42)
    #[arg(long, value_name = "GTID", value_parser = When::parse_gtid, conflicts_with = "at")]
    pub at_gtid: Option<When>,
    /// Name of the branch that keeps the present state [default: BRANCH-before-NOW]
    #[arg(long, value_name = "NAME", value_parser = branch)]
    pub keep_as: Option<BranchName>,
}
