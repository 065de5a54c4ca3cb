//! `cargo xtask soak`: a long load through the gateway that finds leaks.

use anyhow::Result;
use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;
use xylem_e2e::soak::{self, Plan};

#[derive(Parser)]
#[command(
    name = "cargo xtask soak",
    bin_name = "cargo xtask soak",
    about = "Load a project through its gateway, and fail if a process grows"
)]
struct Args {
    /// Length of the load. Its first half, at most 15 minutes, is not measured.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(2..))]
    minutes: u64,
    /// Write every sample as CSV.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    soak::run(&Plan {
        length: Duration::from_secs(args.minutes * 60),
        csv: args.csv,
    })
}
