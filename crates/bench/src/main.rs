//! Xylem beside stock MariaDB on the same machine in the same run.
//!
//! Each figure of one is measured right beside the other's, turn by turn, and
//! the ratio is what to quote: seconds on a shared machine are not.

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

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A new compute on an existing branch, until its first answer.
    Start,
    /// sysbench: point_select, read_write, write_only.
    Oltp,
    /// Redo of a killed server: InnoDB's crash recovery and our ingest.
    Recovery,
    /// GetPage latency and pages per second.
    Pages,
    /// The page store by itself: ingest into a database larger than memory,
    /// cold reads among many layers, a branch beside one that fails. Takes some
    /// minutes and 6 GB of disk: only when asked for.
    Store,
    /// Branches of a large database, beside mariadb-backup and a copy. Takes
    /// minutes and four times the database's size of disk: only when asked for.
    Branches,
    /// A branch beside others in trouble: clients that take no answers, layers
    /// that cannot be read, a store that is away. Takes minutes: only when
    /// asked for.
    Neighbors,
}

#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    about = "Measure Xylem beside stock MariaDB"
)]
struct Args {
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// sysbench tables.
    #[arg(long, default_value_t = 8)]
    tables: u32,
    /// Rows in each.
    #[arg(long, default_value_t = 250_000)]
    rows: u32,
    /// Seconds of each sysbench run.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Turns of each measurement; the median counts.
    #[arg(long, default_value_t = 3)]
    turns: u32,
    /// Buffer pools to measure sysbench with: one that holds the tables, and
    /// one from which pages are evicted and read again.
    #[arg(long, value_delimiter = ',', default_value = "1GiB,256MiB")]
    buffer_pools: Vec<String>,
    /// GiB of the database that branches are made of.
    #[arg(long, default_value_t = 10)]
    gib: u32,
    /// Seconds for which the store of part neighbors is away.
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
