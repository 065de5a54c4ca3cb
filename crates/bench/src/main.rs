//! Measures Xylem and stock MariaDB on the same machine in the same run.
//!
//! Both take turns, so that each figure has its counterpart close in time. Quote the
//! ratio: absolute times on a shared machine vary.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

mod branches;
mod neighbors;
mod oltp;
mod pages;
mod recovery;
mod report;
mod start;
mod store;

use anyhow::Result;
use clap::{Parser, ValueEnum};

/// The parts of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A new compute on an existing branch, until its first answer.
    Start,
    /// sysbench: point_select, read_write, write_only.
    Oltp,
    /// Redo of a killed server: InnoDB's crash recovery and Xylem's ingest.
    Recovery,
    /// GetPage latency and pages per second.
    Pages,
    /// The page store without MariaDB: ingest into a database larger than memory, cold
    /// reads among many layers, a branch next to one that fails. Takes some minutes and
    /// 6 GB of disk; runs only when named.
    Store,
    /// Branches of a large database, compared with mariadb-backup and a copy. Takes
    /// minutes and disk space of four times the database; runs only when named.
    Branches,
    /// A branch next to others in trouble: clients that take no answers, layers that
    /// cannot be read, a store that does not answer. Takes minutes; runs only when named.
    Neighbors,
}

#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    about = "Measure Xylem and stock MariaDB in one run"
)]
struct Args {
    /// Run only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Number of sysbench tables.
    #[arg(long, default_value_t = 8)]
    tables: u32,
    /// Rows per table.
    #[arg(long, default_value_t = 250_000)]
    rows: u32,
    /// Seconds of each sysbench run.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Turns of each measurement; the result is the median.
    #[arg(long, default_value_t = 3)]
    turns: u32,
    /// Buffer pool sizes for sysbench: by default one that holds the tables, and one that
    /// does not.
    #[arg(long, value_delimiter = ',', default_value = "1GiB,256MiB")]
    buffer_pools: Vec<String>,
    /// Size of the database for part branches, in GiB.
    #[arg(long, default_value_t = 10)]
    gib: u32,
    /// Seconds for which the store does not answer in part neighbors.
    #[arg(long, default_value_t = 600)]
    away: u32,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let wanted = |part: Part| args.only.is_empty() || args.only.contains(&part);
    report::heading();
    if wanted(Part::Start) {
        start::measure(args.turns.max(5))?;
    }
    if wanted(Part::Oltp) {
        for pool in &args.buffer_pools {
            oltp::measure(&args, pool)?;
        }
    }
    if wanted(Part::Recovery) {
        recovery::measure(&args)?;
    }
    if wanted(Part::Pages) {
        pages::measure(&args)?;
    }
    if args.only.contains(&Part::Store) {
        store::measure()?;
    }
    if args.only.contains(&Part::Branches) {
        branches::measure(args.gib)?;
    }
    if args.only.contains(&Part::Neighbors) {
        neighbors::measure(&args)?;
    }
    Ok(())
}
