//! The command line: every command with its arguments.

pub mod api;
pub mod branch;
pub mod compute;
pub mod gateway;
pub mod inspect;
pub mod parse;
pub mod project;
pub mod token;
pub mod transfer;

use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// MariaDB with compute separated from storage: instant branches, fast restarts,
/// point-in-time restore.
#[derive(Debug, Parser)]
#[command(
    name = "xylem",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(after_help = "Exit status: 0 success, 1 failure, 2 wrong usage.\n\
    Begin with `xylem up`; if something is wrong, run `xylem doctor`.")]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Environment variable that names the API of a server elsewhere.
pub const SERVER: &str = "XYLEM_SERVER";

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// State directory [default: ./.xylem]
    #[arg(long, global = true, env = crate::state::VARIABLE, value_name = "D", hide_env_values = true)]
    pub dir: Option<PathBuf>,
    /// Print one JSON document on stdout, and nothing else there
    #[arg(long, global = true)]
    pub json: bool,
    /// Work on a server elsewhere, by its API at this address
    #[arg(long, global = true, env = SERVER, value_name = "https://HOST:PORT", hide_env_values = true)]
    pub server: Option<String>,
    /// With --server: file that holds the token
    #[arg(
        long,
        global = true,
        env = "XYLEM_TOKEN_FILE",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub token_file: Option<PathBuf>,
    /// With --server: authority (PEM) of its certificate, such as a copy of the project's
    /// tls/ca.pem [default: the system's authorities]
    #[arg(
        long,
        global = true,
        env = "XYLEM_CA",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub ca: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a project on this machine: the server, the compute of branch main, the gateway
    Up(Box<project::UpArgs>),
    /// Stop the project: the gateway, its computes, then the server
    Down,
    /// Show the server, the gateway, branches and computes: state, LSNs, lag, sizes
    Status,
    /// Open a MariaDB client on a branch, and start its compute if needed
    Sql(compute::SqlArgs),
    /// Start, stop and list computes, the MariaDB servers of branches
    #[command(subcommand)]
    Compute(compute::ComputeCommand),
    /// Create, list, remove and restore branches
    #[command(subcommand)]
    Branch(branch::BranchCommand),
    /// Make, list and revoke tokens, which say who may do what
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Import a stock data directory or a prepared backup as a branch
    Import(transfer::ImportArgs),
    /// Export a branch, as of any moment, as a stock data directory
    Export(transfer::ExportArgs),
    /// Run the page server as a service, in the foreground
    Server(Box<xylem_server::config::ServerArgs>),
    /// Listen for MariaDB's clients at one address for all branches, in the foreground
    Gateway(gateway::GatewayArgs),
    /// Serve the HTTP API of the project, in the foreground
    Api(api::ApiArgs),
    /// Diagnose problems and suggest fixes
    Doctor,
    /// Read and check everything in the store
    Scrub(inspect::ScrubArgs),
    /// Show the inside of pages, layers, manifests and WALs
    #[command(subcommand)]
    Inspect(inspect::InspectCommand),
    /// Make a template for new projects in DIR
    #[command(hide = true)]
    Template(project::TemplateArgs),
    /// Become a session's leader, then another program
    #[command(name = "__daemon", hide = true)]
    Daemon(DaemonArgs),
}

/// `xylem __daemon`
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// NAME=VALUE for the program's environment
    #[arg(long)]
    pub env: Vec<OsString>,
    /// User id of the program
    #[arg(long)]
    pub user: Option<u32>,
    /// Group id of the program
    #[arg(long)]
    pub group: Option<u32>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}
