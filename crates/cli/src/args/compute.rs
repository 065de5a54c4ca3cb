//! Arguments of the commands on computes.

use super::parse::compute;
use crate::compute::name::ComputeName;
use crate::moment::When;
use clap::{Args, Subcommand};
use std::ffi::OsString;

/// `xylem sql`
#[derive(Debug, Args)]
pub struct SqlArgs {
    /// Branch, or read-only compute such as main@1
    #[arg(value_parser = compute, value_name = "BRANCH", default_value = "main")]
    pub compute: ComputeName,
    /// Run these statements and exit
    #[arg(short = 'e', long, value_name = "SQL")]
    pub execute: Option<String>,
    /// Further arguments of the client, such as a database or --table
    #[arg(last = true, value_name = "CLIENT ARGS")]
    pub client_args: Vec<OsString>,
}

/// `xylem compute …`
#[derive(Debug, Subcommand)]
pub enum ComputeCommand {
    /// Start the compute of a branch, or a further, read-only one
    Start(ComputeStartArgs),
    /// Stop a compute
    Stop(OneCompute),
    /// Kill a compute (SIGKILL); nothing committed is lost
    Kill(OneCompute),
    /// List the computes of this project
    Ls,
}

/// `xylem compute start`
#[derive(Debug, Args)]
pub struct ComputeStartArgs {
    /// Branch
    #[arg(value_parser = compute, value_name = "BRANCH")]
    pub compute: ComputeName,
    /// Port [default: the same as last time, or the next free one]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Start a further compute, named BRANCH@1, BRANCH@2, …, that shows the branch
    /// as of one moment and accepts no writes
    #[arg(long)]
    pub read_only: bool,
    /// With --read-only: the moment to show, an LSN or a time [default: now]
    #[arg(long, value_name = "LSN|TIME", value_parser = When::parse, requires = "read_only")]
    pub at: Option<When>,
}

/// A command on one compute.
#[derive(Debug, Args)]
pub struct OneCompute {
    /// Branch, or read-only compute such as main@1
    #[arg(value_parser = compute, value_name = "COMPUTE")]
    pub compute: ComputeName,
}
