//! The time until a new compute on an existing branch answers its first query, compared
//! with a stock server on an existing data directory.

use crate::Args;
use crate::report::{Figure, Report};
use crate::system::{Systems, select};
use anyhow::Result;
use mysql::prelude::Queryable;
use std::time::Instant;

const POOL: &str = "256MiB";

/// Measures all systems, turn by turn.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let mut systems = Systems::start(args.against(), POOL)?;
    let times = systems.turns(args.turns.max(5), |system| {
        system.end()?;
        let started = Instant::now();
        system.start_compute(POOL)?;
        system.connect()?.query_drop("SELECT 1")?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    })?;
    report.figure(
        Figure::new("start", "start to first query", "ms").sides(select(&times, |time| *time)),
    );
    Ok(())
}
