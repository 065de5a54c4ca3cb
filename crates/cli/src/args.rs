//! The command line's forms.

pub mod inspect;

use crate::compute::name::ComputeName;
use crate::moment::Moment;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use xylem_types::BranchName;

/// MariaDB with compute and storage apart: instant branches, computes that
/// start in a moment, history to go back to.
#[derive(Debug, Parser)]
#[command(
    name = "xylem",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(after_help = "Exit status: 0 done, 1 failed, 2 wrong usage.\n\
    Begin with `xylem up`; if something is wrong, `xylem doctor`.")]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// State directory [default: ./.xylem]
    #[arg(long, global = true, env = crate::state::VARIABLE, value_name = "D", hide_env_values = true)]
    pub dir: Option<PathBuf>,
    /// Print one JSON document on stdout, and nothing else there
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start everything on this machine: the server and the compute of branch main
    Up(UpArgs),
    /// Stop everything: computes, then the server
    Down,
    /// Show what runs, LSNs, lag, sizes
    Status,
    /// A MariaDB client connected to a branch; its compute is started if need be
    Sql(SqlArgs),
    /// Computes: MariaDB servers on a branch
    #[command(subcommand)]
    Compute(ComputeCommand),
    /// Branches: lines of history
    #[command(subcommand)]
    Branch(BranchCommand),
    /// Make a branch of a stock data directory, or of a prepared backup
    Import(crate::cmd::import::ImportArgs),
    /// Write a branch, at any moment, as a stock data directory
    Export(crate::cmd::export::ExportArgs),
    /// Run the storage roles as a service, in the foreground
    Server(Box<xylem_server::config::ServerArgs>),
    /// Look for what is wrong, and say what to do about it
    Doctor,
    /// Read everything in the store and check it
    Scrub(inspect::ScrubArgs),
    /// Look into pages, layers, manifests and logs
    #[command(subcommand)]
    Inspect(inspect::InspectCommand),
    /// Make a template of a new project in DIR
    #[command(hide = true)]
    Template(TemplateArgs),
    /// Become a session's leader, then another program
    #[command(name = "__daemon", hide = true)]
    Daemon(DaemonArgs),
}

/// `xylem up`
#[derive(Debug, Default, Args)]
pub struct UpArgs {
    /// Return when all is ready, rather than stay until Ctrl-C
    #[arg(long)]
    pub detach: bool,
    /// Port of branch main's compute [default: 3306, or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub mysql_port: Option<u16>,
    /// Port of the server's gRPC [default: 8080, or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub grpc_port: Option<u16>,
    /// Port of the server's HTTP [default: 8081, or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub http_port: Option<u16>,
    /// Where catalogue, layers and manifests go, such as file:///srv/xylem; cannot be changed later
    #[arg(long, value_name = "URL")]
    pub object_store: Option<String>,
    /// Where logs go: local (this machine's disk), or object (the object store: a
    /// commit waits for it, and nothing is lost with this machine); cannot be
    /// changed later [default: local]
    #[arg(long, value_name = "WHERE", value_parser = ["local", "object"])]
    pub wal_store: Option<String>,
    /// Local logs are copied to the object store: how old a commit may become before
    /// its copy is there, such as 500ms; 0s: no copy [default: 1s with a remote
    /// store, else 0s]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub wal_backup: Option<String>,
    /// Local logs that are not here are lost: restore them from their copies
    #[arg(long)]
    pub restore_wal: bool,
    /// Address that computes listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<IpAddr>,
    /// Memory of the server's page store, such as 512MiB
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// How far back every moment stays within reach, such as 36h [default: 7d]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub history: Option<String>,
    /// Buffer pool of a compute, such as 256M
    #[arg(long, value_name = "SIZE")]
    pub buffer_pool: Option<String>,
    /// System account that mariadbd runs as when root calls, such as mysql; root: as root
    /// [default: xylem, which is made if it is not there]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Page size of a new project's database: 16k, 32k or 64k [default: 16k]
    #[arg(long, value_name = "SIZE", value_parser = page_size)]
    pub page_size: Option<u32>,
    /// Forget settings that earlier starts were given, so that their defaults hold again
    #[arg(long, value_name = "SETTING", value_enum, value_delimiter = ',')]
    pub unset: Vec<Setting>,
    /// Further arguments of mariadbd; as all settings here, kept for later starts
    #[arg(last = true, value_name = "MARIADBD ARGS")]
    pub mariadbd_args: Vec<String>,
}

/// A setting of `up` that is kept for later starts and can be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Setting {
    /// --bind
    Bind,
    /// --buffer-pool
    BufferPool,
    /// --grpc-port
    GrpcPort,
    /// --history
    History,
    /// --http-port
    HttpPort,
    /// --wal-backup
    WalBackup,
    /// The arguments of mariadbd
    MariadbdArgs,
    /// --memory
    Memory,
    /// --mysql-port
    MysqlPort,
    /// --user
    User,
}

/// `xylem sql`
#[derive(Debug, Args)]
pub struct SqlArgs {
    /// The branch, or a read-only compute such as main@1
    #[arg(value_parser = compute, value_name = "BRANCH", default_value = "main")]
    pub compute: ComputeName,
    /// Run these statements and end
    #[arg(short = 'e', long, value_name = "SQL")]
    pub execute: Option<String>,
    /// Further arguments of the client, such as a database or --table
    #[arg(last = true, value_name = "CLIENT ARGS")]
    pub client_args: Vec<OsString>,
}

/// `xylem compute …`
#[derive(Debug, Subcommand)]
pub enum ComputeCommand {
    /// Start a branch's compute, or another one that only reads
    Start(ComputeStartArgs),
    /// Stop a compute
    Stop(OneCompute),
    /// End a compute at once (SIGKILL); nothing committed is lost
    Kill(OneCompute),
    /// List the computes of this state directory
    Ls,
}

/// `xylem compute start`
#[derive(Debug, Args)]
pub struct ComputeStartArgs {
    /// The branch
    #[arg(value_parser = compute, value_name = "BRANCH")]
    pub compute: ComputeName,
    /// Port [default: the one of last time, or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// One more compute, which shows the branch at a moment and takes no
    /// writes; it is called BRANCH@1, BRANCH@2, …
    #[arg(long)]
    pub read_only: bool,
    /// With --read-only: that moment, an LSN or a time [default: now]
    #[arg(long, value_name = "LSN|TIME", value_parser = Moment::parse, requires = "read_only")]
    pub at: Option<Moment>,
}

/// A command on one compute.
#[derive(Debug, Args)]
pub struct OneCompute {
    /// The branch, or a read-only compute such as main@1
    #[arg(value_parser = compute, value_name = "COMPUTE")]
    pub compute: ComputeName,
}

/// `xylem branch …`
#[derive(Debug, Subcommand)]
pub enum BranchCommand {
    /// Make a branch of another, as of now or of a moment in the past
    Create(BranchCreateArgs),
    /// List the branches
    Ls(BranchLsArgs),
    /// Show the tree of branches, or one of them
    Show(BranchShowArgs),
    /// Remove a branch that no other depends on, with all its history
    Rm(BranchRmArgs),
    /// Open a branch again that has stopped or did not open, and those that left it
    Reopen(OneBranch),
    /// Give a branch another name
    Rename(BranchRenameArgs),
    /// Put a branch back to a moment; its present state is kept under a name
    Restore(BranchRestoreArgs),
}

/// `xylem branch create`
#[derive(Debug, Args)]
pub struct BranchCreateArgs {
    /// What it is called
    #[arg(value_parser = branch)]
    pub name: BranchName,
    /// The branch it leaves
    #[arg(long, value_name = "B", value_parser = branch, default_value = "main")]
    pub from: BranchName,
    /// Where it leaves it, an LSN or a time [default: now]
    #[arg(long, value_name = "LSN|TIME", value_parser = Moment::parse)]
    pub at: Option<Moment>,
}

/// `xylem branch ls`
#[derive(Debug, Args)]
pub struct BranchLsArgs {
    /// The hidden branches of read-only computes, too
    #[arg(long)]
    pub all: bool,
}

/// `xylem branch show`
#[derive(Debug, Args)]
pub struct BranchShowArgs {
    /// The branch [default: all]
    #[arg(value_parser = compute, value_name = "BRANCH")]
    pub branch: Option<ComputeName>,
}

/// A command on one branch.
#[derive(Debug, Args)]
pub struct OneBranch {
    /// The branch
    #[arg(value_parser = compute, value_name = "BRANCH")]
    pub branch: ComputeName,
}

/// `xylem branch rm`
#[derive(Debug, Args)]
pub struct BranchRmArgs {
    /// The branch
    #[arg(value_parser = compute, value_name = "BRANCH")]
    pub branch: ComputeName,
    /// Do not ask; without a terminal nothing is removed otherwise
    #[arg(long)]
    pub yes: bool,
}

/// `xylem branch rename`
#[derive(Debug, Args)]
pub struct BranchRenameArgs {
    /// The branch
    #[arg(value_parser = branch)]
    pub old: BranchName,
    /// What it is called from now on
    #[arg(value_parser = branch)]
    pub new: BranchName,
}

/// `xylem branch restore`
#[derive(Debug, Args)]
pub struct BranchRestoreArgs {
    /// The branch
    #[arg(value_parser = branch)]
    pub branch: BranchName,
    /// The moment, an LSN or a time
    #[arg(long, value_name = "LSN|TIME", value_parser = Moment::parse, required = true)]
    pub at: Moment,
    /// What its present state is called [default: BRANCH-before-NOW]
    #[arg(long, value_name = "NAME", value_parser = branch)]
    pub keep_as: Option<BranchName>,
}

/// `xylem template`
#[derive(Debug, Args)]
pub struct TemplateArgs {
    /// Where it goes; must not be there
    pub target: PathBuf,
}

/// `xylem __daemon`
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// NAME=VALUE for the program's environment
    #[arg(long)]
    pub env: Vec<OsString>,
    /// The program's user id
    #[arg(long)]
    pub user: Option<u32>,
    /// The program's group id
    #[arg(long)]
    pub group: Option<u32>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

fn branch(text: &str) -> Result<BranchName, String> {
    BranchName::parse(text).map_err(|e| e.to_string())
}

fn span(text: &str) -> Result<String, String> {
    let span = text.parse::<xylem_server::span::Span>();
    span.map(|span| span.to_string()).map_err(|e| e.to_string())
}

fn compute(text: &str) -> Result<ComputeName, String> {
    ComputeName::parse(text)
}

/// `innodb_page_size` in bytes.
fn page_size(text: &str) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    match lower.trim_end_matches('k') {
        "16" | "16384" => Ok(16_384),
        "32" | "32768" => Ok(32_768),
        "64" | "65536" => Ok(65_536),
        "4" | "4096" | "8" | "8192" => Err(
            "MariaDB's own tables have keys too long for pages of 4 and 8 KiB; use 16k, 32k or 64k"
                .to_owned(),
        ),
        _ => Err("use 16k, 32k or 64k".to_owned()),
    }
}
