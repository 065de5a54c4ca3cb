//! Measures Xylem and stock MariaDB on the same machine in the same run.
//!
//! All sides take turns, so that each figure has its counterpart close in time. Quote the
//! ratio: absolute times on a shared machine vary.
//!
//! Each part has a file. What parts measure goes into a [`report::Report`], which knows
//! nothing of how it was measured.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

mod alike;
mod binlog;
mod branches;
mod commit;
mod copier;
mod gateway;
mod index;
mod instructions;
mod kill;
mod limits;
mod load;
mod long;
mod metrics;
mod neighbors;
mod network;
mod oltp;
mod pages;
mod proc;
mod recovery;
mod report;
mod scan;
mod setting;
mod start;
mod stats;
mod store;
mod syncs;
mod sysbench;
mod system;
mod tables;

#[cfg(test)]
mod tests;

use crate::report::Report;
use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use std::path::{Path, PathBuf};
use xylem_e2e::sysbench::Load;

/// The parts of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Bare system calls: fdatasync, round trips, memcpy, CRC-32C, pread. The parts that
    /// are bound by these measure them again.
    Limits,
    /// A new compute on an existing branch, until its first answer.
    Start,
    /// sysbench with all data in the buffer pool: throughput; CPU time, context switches
    /// and bytes of each transaction.
    Oltp,
    /// The same with data of a multiple of the buffer pool.
    Misses,
    /// A commit of one client.
    Commit,
    /// A cold full scan of a table of four times the buffer pool.
    Scan,
    /// LOAD DATA into an empty table.
    Load,
    /// CREATE INDEX.
    Index,
    /// Redo of a killed server: InnoDB's crash recovery and Xylem's ingest.
    Recovery,
    /// GetPage latency and pages per second.
    Pages,
    /// The first answer after the page server, or stock MariaDB, is killed under write
    /// load and started again.
    Kill,
    /// Ten minutes of write_only for each side, second by second; runs only when named.
    Long,
    /// Instructions of point_select in mariadbd, counted by callgrind (Debian package
    /// valgrind); runs only when named.
    Instructions,
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
    /// Computes far from the server, behind a TCP proxy that delays every byte: cold
    /// scans, starts, commits, commits beside DDL. Takes half an hour; runs only when
    /// named.
    Network,
    /// The gateway beside its compute's own port: throughput with and without TLS, the time
    /// that it adds to a statement, wakes of sleeping branches, memory of idle clients. Takes
    /// a quarter of an hour; runs only when named.
    Gateway,
    /// sysbench write_only with the binary log and without it, on each side; runs only when
    /// named.
    Binlog,
}

impl Part {
    /// Whether a run without `--only` includes it.
    fn by_default(self) -> bool {
        !matches!(
            self,
            Part::Long
                | Part::Instructions
                | Part::Store
                | Part::Branches
                | Part::Neighbors
                | Part::Network
                | Part::Gateway
                | Part::Binlog
        )
    }
}

#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    about = "Measure Xylem and stock MariaDB in one run"
)]
struct Args {
    /// Run only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Also measure another build of Xylem: its target/dist.
    #[arg(long, value_name = "DIST")]
    against: Option<PathBuf>,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a table in Markdown and plots in SVG.
    #[arg(long, value_name = "DIR")]
    markdown: Option<PathBuf>,
    /// Number of sysbench tables.
    #[arg(long, default_value_t = 8)]
    tables: u32,
    /// Rows per table. The scanned table has the rows of all tables.
    #[arg(long, default_value_t = 250_000)]
    rows: u32,
    /// Seconds of each sysbench run.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Turns of each measurement; the result is the median.
    #[arg(long, default_value_t = 3)]
    turns: u32,
    /// Client threads [default: 1,4,16,64 for oltp, 1,16 for misses, 8,32 for network,
    /// 1,16,64 for gateway].
    #[arg(long, value_delimiter = ',')]
    threads: Vec<u32>,
    /// Run only these sysbench scripts: point_select, read_only, read_write, write_only.
    #[arg(long, value_delimiter = ',')]
    scripts: Vec<String>,
    /// Buffer pool that holds the tables.
    #[arg(long, default_value = "1GiB")]
    pool: String,
    /// Sizes of the data for part misses, in buffer pools.
    #[arg(long, value_delimiter = ',', default_value = "2,4")]
    times_pool: Vec<u32>,
    /// Rows for parts load and index.
    #[arg(long, default_value_t = 1_000_000)]
    load_rows: u32,
    /// Seconds of part long, for each side.
    #[arg(long, default_value_t = 600)]
    long_seconds: u32,
    /// Seconds of load before the kill in part kill.
    #[arg(long, default_value_t = 15)]
    kill_seconds: u32,
    /// Size of the database for part branches, in GiB.
    #[arg(long, default_value_t = 10)]
    gib: u32,
    /// Seconds for which the store does not answer in part neighbors.
    #[arg(long, default_value_t = 600)]
    away: u32,
    /// Milliseconds of the round trip in part network: for scans; for starts and commits.
    #[arg(long, value_name = "MS,MS", value_delimiter = ',', default_value = "1,100",
          value_parser = clap::value_parser!(u32).range(1..))]
    round_trips_ms: Vec<u32>,
    /// Wakes of sleeping branches in part gateway.
    #[arg(long, default_value_t = 104)]
    wakes: u32,
    /// Be the copier of part gateway instead, to this port.
    #[arg(long, hide = true, value_name = "PORT")]
    copy_to: Option<u16>,
}

impl Args {
    /// The other build of Xylem.
    fn against(&self) -> Option<&Path> {
        self.against.as_deref()
    }

    /// The load with the tables of this run.
    fn load(&self, threads: u32, seconds: u32) -> Load {
        Load {
            tables: self.tables,
            rows: self.rows,
            threads,
            seconds,
            rate: None,
        }
    }

    /// The numbers of client threads to measure with.
    fn threads(&self, default: &[u32]) -> Vec<u32> {
        match self.threads.is_empty() {
            true => default.to_vec(),
            false => self.threads.clone(),
        }
    }

    fn wants(&self, part: Part) -> bool {
        match self.only.is_empty() {
            true => part.by_default(),
            false => self.only.contains(&part),
        }
    }
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    if let Some(port) = args.copy_to {
        return copier::run(port);
    }
    if let Some(home) = &mut args.against {
        *home = std::fs::canonicalize(&*home)
            .with_context(|| format!("no build at {}", home.display()))?;
    }
    let setting = setting::of_this_run(args.against())?;
    let mut report = Report::begin(setting, args.against.is_some());
    let mut parts = Part::value_variants().iter().copied();
    let done = parts.try_for_each(|part| match args.wants(part) {
        true => measure(part, &args, &mut report),
        false => Ok(()),
    });
    // What was measured before a failure is kept.
    if let Some(path) = &args.json {
        report.write_json(path)?;
    }
    if let Some(dir) = &args.markdown {
        report.write_markdown(dir)?;
    }
    done
}

fn measure(part: Part, args: &Args, report: &mut Report) -> Result<()> {
    match part {
        Part::Limits => limits::report(report).and_then(|()| syncs::report(report)),
        Part::Start => start::measure(args, report),
        Part::Oltp => oltp::measure(args, report),
        Part::Misses => oltp::measure_misses(args, report),
        Part::Commit => commit::measure(args, report),
        Part::Scan => scan::measure(args, report),
        Part::Load => load::measure(args, report),
        Part::Index => index::measure(args, report),
        Part::Recovery => recovery::measure(args, report),
        Part::Pages => pages::measure(args, report),
        Part::Kill => kill::measure(args, report),
        Part::Long => long::measure(args, report),
        Part::Instructions => instructions::measure(args, report),
        Part::Store => store::measure(report),
        Part::Branches => branches::measure(args.gib, report),
        Part::Neighbors => neighbors::measure(args, report),
        Part::Network => network::measure(args, report),
        Part::Gateway => gateway::measure(args, report),
        Part::Binlog => binlog::measure(args, report),
    }
    .with_context(|| format!("part {part:?}").to_lowercase())
}
