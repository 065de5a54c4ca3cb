//! The forms of `xylem inspect` and `xylem scrub`.

use super::branch;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use xylem_server::size::ByteSize;
use xylem_types::{BranchName, Lsn, PageId};

/// `xylem scrub`
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status 1 when something is damaged, missing or cannot be read.\n\
    Files that nothing names are told and are no damage."
)]
pub struct ScrubArgs {
    /// Only this branch
    #[arg(value_parser = branch)]
    pub branch: Option<BranchName>,
    /// Read so much in a second at most, such as 100MiB [default: no limit]
    #[arg(long, value_name = "SIZE")]
    pub rate: Option<ByteSize>,
    /// Look at a store without a server, such as file:///srv/xylem/store; nothing is changed
    #[arg(long, value_name = "URL", conflicts_with = "branch")]
    pub store: Option<String>,
}

/// `xylem inspect …`
#[derive(Debug, Subcommand)]
pub enum InspectCommand {
    /// A page's history: every version, where it lies, the records between
    Page(PageArgs),
    /// The layers of a branch, in memory and in the store
    Layers(super::OneBranch),
    /// What stands in manifest files, and the layers they come to
    Manifest(ManifestArgs),
    /// What stands in a layer file, and whether it is whole
    Layer(LayerArgs),
    /// The entries of a local log, which may be in use
    Log(LogArgs),
}

/// `xylem inspect page`
#[derive(Debug, Args)]
pub struct PageArgs {
    /// The branch
    #[arg(value_parser = branch)]
    pub branch: BranchName,
    /// SPACE:PAGE; SPACE is a tablespace's number, a table as db/table, or a file such as undo001
    #[arg(value_name = "SPACE:PAGE", value_parser = place)]
    pub page: PagePlace,
    /// As of this LSN
    #[arg(long, value_name = "LSN", value_parser = lsn)]
    pub at: Option<Lsn>,
    /// Show so many versions; 0: all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: u32,
    /// Build the page as of each version: its LSN, type and checksum
    #[arg(long)]
    pub build: bool,
    /// Show the page as of --at in hexadecimal
    #[arg(long)]
    pub hex: bool,
}

/// `xylem inspect manifest`
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// Manifest files, or a branch's directory
    #[arg(required = true, value_name = "FILE|DIR")]
    pub files: Vec<PathBuf>,
}

/// `xylem inspect layer`
#[derive(Debug, Args)]
pub struct LayerArgs {
    /// The layer file
    pub file: PathBuf,
    /// List the versions
    #[arg(long)]
    pub versions: bool,
    /// List the versions of this page only
    #[arg(long, value_name = "SPACE:PAGE", value_parser = page_id)]
    pub page: Option<PageId>,
    /// With the records of each
    #[arg(long)]
    pub records: bool,
    /// With the bytes of each
    #[arg(long)]
    pub hex: bool,
    /// List so many; 0: all
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: u64,
}

/// `xylem inspect log`
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The log's directory
    pub dir: PathBuf,
    /// Begin at this position, which is between two entries
    #[arg(long, value_name = "POSITION")]
    pub from: Option<u64>,
    /// Begin with the entry that holds this LSN
    #[arg(long, value_name = "LSN", value_parser = lsn)]
    pub lsn: Option<Lsn>,
    /// Show so many entries; 0: all
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: u64,
    /// With the mini-transactions that end in each entry
    #[arg(long)]
    pub mtrs: bool,
    /// With their records
    #[arg(long)]
    pub records: bool,
    /// Only records of this page, and entries that have some
    #[arg(long, value_name = "SPACE:PAGE", value_parser = page_id)]
    pub page: Option<PageId>,
}

/// A page, by its tablespace's number or by a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PagePlace {
    /// By number.
    Id(PageId),
    /// By a table or file, and the page's number.
    Named(String, u32),
}

/// Reads `5:3` or `db/table:3`.
pub(crate) fn place(text: &str) -> Result<PagePlace, String> {
    let wrong = || format!("{text:?} is not a page: write SPACE:PAGE, such as 5:3 or db/table:3");
    let (space, page) = text.rsplit_once(':').ok_or_else(wrong)?;
    let page: u32 = page.parse().map_err(|_| wrong())?;
    if space.is_empty() {
        return Err(wrong());
    }
    Ok(match space.parse() {
        Ok(space) => PagePlace::Id(PageId::new(space, page)),
        Err(_) => PagePlace::Named(space.to_owned(), page),
    })
}

fn page_id(text: &str) -> Result<PageId, String> {
    match place(text)? {
        PagePlace::Id(page) => Ok(page),
        PagePlace::Named(..) => Err("files know tablespaces by number only".to_owned()),
    }
}

fn lsn(text: &str) -> Result<Lsn, String> {
    let number = text.parse().map(Lsn);
    number.map_err(|_| format!("{text:?} is not an LSN, which is a decimal number"))
}
