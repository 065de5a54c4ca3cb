//! The cost of the binary log: throughput with it and without it, on each side.

use crate::Args;
use crate::limits;
use crate::oltp;
use crate::report::{Figure, Report, Who};
use crate::sysbench;
use crate::system::{System, Systems};
use anyhow::{Context, Result};
use xylem_e2e::Project;
use xylem_oracle::server::Install;

const SCRIPT: &str = "oltp_write_only";
const THREADS: [u32; 4] = [1, 4, 16, 64];

/// Measures four systems in turns: stock MariaDB and Xylem, each with the log and without it.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let without = Systems::start(None, &args.pool)?.0;
    let project = Project::with(Vec::new(), &["--", "--log-bin"])?;
    project.up_in_place(&args.pool)?;
    // As a compute has them. Stock MariaDB must sync the log as well to lose no commit.
    let options = ["--log-bin=binlog", "--sync-binlog=1", "--server-id=1"];
    let with = [
        System::stock(Install::from_env()?, &args.pool, &options)?,
        System::of(Who::Xylem, project),
    ];
    // A turn begins with another system each time, and with and without alternate.
    let mut systems = Systems(
        without
            .into_iter()
            .zip(with)
            .flat_map(|(a, b)| [a, b])
            .collect(),
    );
    let load = args.load(1, args.seconds);
    oltp::prepare(&load, &mut systems)?;
    let left = systems.settle()?;
    left.into_iter().for_each(|left| report.note(left));
    for threads in args.threads(&THREADS) {
        let load = xylem_e2e::sysbench::Load { threads, ..load };
        let runs = systems.turns(args.turns, |system| {
            sysbench::per_second(&load.run(&system.login()?, SCRIPT)?)
        })?;
        let of = |who: Who| runs.iter().filter(move |(side, _)| *side == who);
        let nth = |who: Who, nth: usize| {
            let run = of(who).nth(nth).map(|(_, rates)| rates.clone());
            run.with_context(|| format!("no figures of {}", who.name()))
        };
        let plural = if threads == 1 { "" } else { "s" };
        let mut costs = Vec::new();
        let mut figures = Vec::new();
        for (at, which) in ["without the log", "with the log"].into_iter().enumerate() {
            let name = format!("write_only, {threads} thread{plural}, {which}");
            let mut figure = Figure::new("binlog", name, "tx/s").higher();
            for who in [Who::Stock, Who::Xylem] {
                figure = figure.side(who, nth(who, at)?);
            }
            figures.push(figure);
        }
        for who in [Who::Stock, Who::Xylem] {
            let pairs = nth(who, 0)?.into_iter().zip(nth(who, 1)?);
            costs.push((who, pairs.map(|(without, with)| without / with).collect()));
        }
        if threads == 1 {
            let (of, time) = limits::measure()?.commit();
            figures = figures
                .into_iter()
                .map(|f| f.limit(of, 1e6 / time))
                .collect();
        }
        figures.into_iter().for_each(|figure| report.figure(figure));
        let name = format!("cost of the log, {threads} thread{plural}");
        report.figure(Figure::new("binlog", name, "x").sides(costs));
    }
    Ok(())
}
