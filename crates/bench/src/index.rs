//! CREATE INDEX on a filled table.

use crate::Args;
use crate::report::{Figure, Report};
use crate::system::{Systems, select};
use crate::tables;
use anyhow::Result;
use mysql::prelude::Queryable;
use std::time::Instant;

/// Measures all systems, turn by turn.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let mut systems = Systems::start(args.against(), &args.pool)?;
    systems.each(|system| tables::fill(system, args.load_rows))?;
    systems
        .settle()?
        .into_iter()
        .for_each(|left| report.note(left));
    let seconds = systems.turns(args.turns, |system| {
        let mut connection = system.connect()?;
        let started = Instant::now();
        connection.query_drop("CREATE INDEX by_k ON d.t (k, pad)")?;
        let seconds = started.elapsed().as_secs_f64();
        connection.query_drop("DROP INDEX by_k ON d.t")?;
        if let Some(left) = system.settle()? {
            report.note(left);
        }
        Ok(seconds)
    })?;
    let rows = f64::from(args.load_rows);
    report.figure(
        Figure::new("index", format!("CREATE INDEX, {rows} rows"), "rows/s")
            .higher()
            .sides(select(&seconds, |seconds| rows / seconds)),
    );
    Ok(())
}
