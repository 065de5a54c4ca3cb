//! Arguments of `xylem inspect` and `xylem scrub`.

use super::branch::OneBranch;
use super::parse::{PagePlace, branch, lsn, page_id, place};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use xylem_server::size::ByteSize;
use xylem_types::{BranchName, Lsn, PageId};

/// `xylem scrub`
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status 1 if something is damaged, missing or unreadable. Orphaned files, which\n\
    no manifest names, are listed and are no damage."
)]
pub struct ScrubArgs {
    /// Branch [default: all]
    #[arg(value_parser = branch)]
    pub branch: Option<BranchName>,
    /// Limit the bytes read in a second, such as 100MiB [default: no limit]
    #[arg(long, value_name = "SIZE")]
    pub rate: Option<ByteSize>,
    /// Check a store without a server, such as file:///srv/xylem/store; it is only read
    #[arg(long, value_name = "URL", conflicts_with = "branch")]
    pub store: Option<String>,
}

/// `xylem inspect …`
#[derive(Debug, Subcommand)]
pub enum InspectCommand {
    /// Show the history of a page: its versions, where they are, their records
    Page(PageArgs),
    /// Show the layers of a branch, in memory and in the store
    Layers(OneBranch),
    /// Show manifest files, and the layers that they add up to
    Manifest(ManifestArgs),
    /// Show a layer file, and check it
    Layer(LayerArgs),
    /// Show the entries of a local WAL, which may be in use
    Wal(WalArgs),
}

/// `xylem inspect page`
#[derive(Debug, Args)]
pub struct PageArgs {
    /// Branch
    #[arg(value_parser = branch)]
    pub branch: BranchName,
    /// Page; SPACE is a tablespace's number, a table as db/table, or a file such as undo001
    #[arg(value_name = "SPACE:PAGE", value_parser = place)]
    pub page: PagePlace,
    /// Show the page as of this LSN [default: the newest]
    #[arg(long, value_name = "LSN", value_parser = lsn)]
    pub at: Option<Lsn>,
    /// Show at most N versions; 0: all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u32,
    /// Build the page as of each version, and show its LSN, type and checksum
    #[arg(long)]
    pub build: bool,
    /// Show the page as of --at in hexadecimal
    #[arg(long)]
    pub hex: bool,
}

/// `xylem inspect manifest`
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// Manifest files, or the directory of a branch in the store
    #[arg(required = true, value_name = "FILE|DIR")]
    pub files: Vec<PathBuf>,
}

/// `xylem inspect layer`
#[derive(Debug, Args)]
pub struct LayerArgs {
    /// Layer file
    pub file: PathBuf,
    /// List the versions
    #[arg(long)]
    pub versions: bool,
    /// List the versions of this page only
    #[arg(long, value_name = "SPACE:PAGE", value_parser = page_id)]
    pub page: Option<PageId>,
    /// List the versions with their records
    #[arg(long)]
    pub records: bool,
    /// List the versions with their bytes
    #[arg(long)]
    pub hex: bool,
    /// List at most N versions; 0: all
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: u64,
}

/// `xylem inspect wal`
#[derive(Debug, Args)]
pub struct WalArgs {
    /// Directory of the WAL
    pub dir: PathBuf,
    /// Begin at this position, which must be between two entries
    #[arg(long, value_name = "POSITION")]
    pub from: Option<u64>,
    /// Begin with the entry that holds this LSN
    #[arg(long, value_name = "LSN", value_parser = lsn)]
    pub lsn: Option<Lsn>,
    /// Show at most N entries; 0: all
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: u64,
    /// Show the mini-transactions that end in each entry
    #[arg(long)]
    pub mtrs: bool,
    /// Show the records of the mini-transactions
    #[arg(long)]
    pub records: bool,
    /// Show only records of this page, and entries that have some
    #[arg(long, value_name = "SPACE:PAGE", value_parser = page_id)]
    pub page: Option<PageId>,
}
