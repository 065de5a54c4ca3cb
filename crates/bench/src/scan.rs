//! A full scan of a table of four times the buffer pool by a server that has just
//! started. The operating system still has the data in its page cache.

use crate::Args;
use crate::limits;
use crate::report::{Figure, Report};
use crate::system::{Systems, select};
use crate::tables;
use anyhow::{Context, Result, ensure};
use mysql::prelude::Queryable;
use std::time::Instant;

/// Table size in buffer pools.
const TIMES_POOL: u64 = 4;

/// Measures all systems, turn by turn.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let mut systems = Systems::start(args.against(), &args.pool)?;
    let rows = args.tables * args.rows;
    systems.each(|system| tables::fill(system, rows))?;
    systems
        .settle()?
        .into_iter()
        .for_each(|left| report.note(left));
    let bytes = systems.0[0].data_bytes("d/t")?;
    let pool = format!("{}MiB", ((bytes / TIMES_POOL) >> 20).max(8));
    let rates = systems.turns(args.turns, |system| {
        system.stop()?;
        system.start(&pool)?;
        let mut connection = system.connect()?;
        let started = Instant::now();
        let row: Option<(u64, u64)> =
            connection.query_first("SELECT COUNT(*), SUM(LENGTH(pad)) FROM d.t")?;
        let rate = bytes as f64 / 1e6 / started.elapsed().as_secs_f64();
        let (count, _) = row.context("no row")?;
        ensure!(count == u64::from(rows), "{count} rows instead of {rows}");
        Ok(rate)
    })?;
    let (of, limit) = limits::measure()?.scan_rate();
    let name = format!("cold scan of {} MiB, pool {pool}", bytes >> 20);
    report.figure(
        Figure::new("scan", name, "MB/s")
            .higher()
            .sides(select(&rates, |rate| *rate))
            .limit(of, limit),
    );
    Ok(())
}
