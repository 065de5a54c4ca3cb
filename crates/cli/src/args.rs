//! The command line's forms.

pub mod inspect;

use clap::{Args, Parser, Subcommand};
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
    /// Where layers go, such as file:///srv/xylem; cannot be changed later
    #[arg(long, value_name = "URL")]
    pub object_store: Option<String>,
    /// Address that computes listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    pub bind: Option<IpAddr>,
    /// Memory of the server's page store, such as 512MiB
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Buffer pool of a compute, such as 256M
    #[arg(long, value_name = "SIZE")]
    pub buffer_pool: Option<String>,
    /// Page size of a new project's database: 16k, 32k or 64k [default: 16k]
    #[arg(long, value_name = "SIZE", value_parser = page_size)]
    pub page_size: Option<u32>,
    /// Further arguments of mariadbd; as all settings here, kept for later starts
    #[arg(last = true, value_name = "MARIADBD ARGS")]
    pub mariadbd_args: Vec<String>,
}

/// `xylem sql`
#[derive(Debug, Args)]
pub struct SqlArgs {
    /// The branch
    #[arg(value_parser = branch, default_value = "main")]
    pub branch: BranchName,
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
    /// Start a branch's compute
    Start(ComputeStartArgs),
    /// Stop a branch's compute
    Stop(OneBranch),
    /// End a branch's compute at once (SIGKILL); nothing committed is lost
    Kill(OneBranch),
    /// List the computes of this state directory
    Ls,
}

/// `xylem compute start`
#[derive(Debug, Args)]
pub struct ComputeStartArgs {
    /// The branch
    #[arg(value_parser = branch)]
    pub branch: BranchName,
    /// Port [default: the one of last time, or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Take no writes (not supported in this version)
    #[arg(long)]
    pub read_only: bool,
    /// Show the branch as of then (not supported in this version)
    #[arg(long, value_name = "LSN|TIME")]
    pub at: Option<String>,
}

/// A command on one branch.
#[derive(Debug, Args)]
pub struct OneBranch {
    /// The branch
    #[arg(value_parser = branch)]
    pub branch: BranchName,
}

/// `xylem branch …`
#[derive(Debug, Subcommand)]
pub enum BranchCommand {
    /// List the branches
    Ls,
    /// Show one branch
    Show(OneBranch),
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
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

fn branch(text: &str) -> Result<BranchName, String> {
    BranchName::parse(text).map_err(|e| e.to_string())
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
