//! `xylem-oracle`: compares `xylem-redo` with InnoDB's own recovery, and measures
//! it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use xylem_oracle::log::Log;
use xylem_oracle::server::Install;
use xylem_oracle::{bench, run, workload};
use xylem_redo::Op;
use xylem_types::PageId;

#[derive(Parser)]
#[command(about = "Compare xylem-redo with InnoDB's own recovery")]
struct Args {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Run workloads and compare every page.
    Run {
        /// Names of workloads, see `list` [default: all].
        names: Vec<String>,
        /// Seed of the SQL generators.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Multiplies the amount of work.
        #[arg(long, default_value_t = 1)]
        scale: u64,
        /// Keep the data directories here (must not exist).
        #[arg(long)]
        keep: Option<PathBuf>,
    },
    /// Recover the crashed data directory DIR/data both ways and compare. InnoDB's
    /// recovery writes to DIR/recovered.
    Judge {
        /// The directory that holds `data`.
        dir: PathBuf,
        /// The innodb_page_size of the data directory.
        #[arg(long, default_value_t = 16384)]
        page_size: usize,
        /// The innodb_undo_tablespaces of the data directory.
        #[arg(long, default_value_t = 0)]
        undo_tablespaces: u32,
    },
    /// Print the names of the workloads.
    List,
    /// Copy the redo of an ib_logfile0 to a file, without the header.
    Extract {
        /// The redo log.
        file: PathBuf,
        /// The file to write.
        out: PathBuf,
    },
    /// Print the records for a page in an ib_logfile0.
    Trace {
        /// The redo log.
        file: PathBuf,
        /// The tablespace's id.
        space: u32,
        /// The page's number.
        page: u32,
    },
    /// Measure parsing and applying on an ib_logfile0.
    ParseBench {
        /// The redo log.
        file: PathBuf,
        /// The number of measurements, of which the best counts.
        #[arg(long, default_value_t = 3)]
        rounds: u32,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Cmd::List => {
            for w in workload::all(1, 1) {
                println!("{}", w.name);
            }
            Ok(())
        }
        Cmd::Judge {
            dir,
            page_size,
            undo_tablespaces,
        } => {
            let install = Install::from_env()?;
            let outcome = run::judge(&install, "judged", page_size, undo_tablespaces, &dir)?;
            print!("{}", outcome.text);
            ensure!(outcome.agrees(), "pages differ");
            Ok(())
        }
        Cmd::Extract { file, out } => {
            let log = Log::read(&file)?;
            std::fs::write(&out, log.bytes())?;
            println!("LSN {} to {}", log.start(), log.end());
            Ok(())
        }
        Cmd::Trace { file, space, page } => {
            let log = Log::read(&file)?;
            log.for_each(log.start(), |mtr| {
                for record in mtr.records() {
                    let r = record?;
                    let trim = r.op == Op::TrimPages && r.page.space.0 == space;
                    if r.page == PageId::new(space, page) || trim {
                        println!(
                            "{}..{} {} {:.200?}",
                            mtr.start_lsn(),
                            mtr.end_lsn(),
                            r.page,
                            r.op
                        );
                    }
                }
                Ok(())
            })
        }
        Cmd::ParseBench { file, rounds } => {
            print!("{}", bench::bench(&Log::read(&file)?, rounds)?);
            Ok(())
        }
        Cmd::Run {
            names,
            seed,
            scale,
            keep,
        } => {
            let install = Install::from_env()?;
            let mut disagree = Vec::new();
            let all = workload::all(seed, scale);
            for name in &names {
                ensure!(
                    all.iter().any(|w| w.name == name),
                    "no workload {name}; see `list`"
                );
            }
            for w in all
                .iter()
                .filter(|w| names.is_empty() || names.iter().any(|n| n == w.name))
            {
                let temp = tempfile::tempdir()?;
                let dir = match &keep {
                    Some(dir) => dir.join(w.name),
                    None => temp.path().join("w"),
                };
                std::fs::create_dir_all(&dir)?;
                let outcome =
                    run::run(&install, w, &dir).with_context(|| format!("workload {}", w.name))?;
                print!("{}", outcome.text);
                if !outcome.agrees() {
                    disagree.push(w.name);
                }
            }
            ensure!(disagree.is_empty(), "pages differ: {}", disagree.join(", "));
            Ok(())
        }
    }
}
