//! Arguments of `xylem import` and `xylem export`.

use super::parse::branch;
use crate::moment::When;
use crate::settings::ServerPorts;
use clap::Args;
use std::path::PathBuf;
use xylem_types::BranchName;

/// `xylem import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Data directory of a cleanly stopped MariaDB 10.11, or a backup prepared by
    /// mariadb-backup; it is only read
    pub datadir: PathBuf,
    /// Name of the new branch
    #[arg(long, value_name = "B", value_parser = branch, default_value = "main")]
    pub branch: BranchName,
    /// Check only whether the directory can be imported, every page included
    #[arg(long)]
    pub check: bool,
    /// Leave out unknown files, instead of refusing the directory
    #[arg(long)]
    pub leave_out_unknown: bool,
    /// Directory for the copy of the system tablespace [default: the state directory]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Object store of a new project; cannot be changed later
    #[arg(long, value_name = "URL")]
    pub object_store: Option<String>,
    /// Ports of the server.
    #[command(flatten)]
    pub ports: ServerPorts,
}

/// `xylem export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Branch
    #[arg(value_parser = branch)]
    pub branch: BranchName,
    /// Data directory to write; must not exist, or be empty
    #[arg(value_name = "DIR")]
    pub target: PathBuf,
    /// Moment to export: an LSN, a time, or '5 minutes ago' [default: now]
    #[arg(long, value_name = "LSN|TIME", value_parser = When::parse)]
    pub at: Option<When>,
}
