//! sysbench on all systems, turn by turn: throughput, and what a transaction costs.

use crate::Args;
use crate::limits;
use crate::report::{Figure, Report, Who};
use crate::stats::median;
use crate::sysbench;
use crate::system::{Cost, System, Systems, select};
use anyhow::Result;
use xylem_e2e::sysbench::Load;

const SCRIPTS: [&str; 4] = [
    "oltp_point_select",
    "oltp_read_only",
    "oltp_read_write",
    "oltp_write_only",
];
const WRITES: [&str; 2] = ["oltp_read_write", "oltp_write_only"];
const THREADS: [u32; 4] = [1, 4, 16, 64];
/// With more data than fits into the pool, where each figure is measured with several
/// sizes of it.
const THREADS_OF_MISSES: [u32; 2] = [1, 16];

/// A run of sysbench.
#[derive(Clone, Copy, Debug)]
struct Run {
    per_second: f64,
    transactions: u64,
    cost: Cost,
}

impl Run {
    fn of_load(load: &Load, system: &System, script: &str) -> Result<Run> {
        let before = system.counters()?;
        let report = load.run(&system.login()?, script)?;
        Ok(Run {
            per_second: sysbench::per_second(&report)?,
            transactions: sysbench::transactions(&report)?,
            cost: system.counters()?.since(&before),
        })
    }

    fn each(&self, amount: f64) -> f64 {
        amount / self.transactions as f64
    }
}

/// Measures with a buffer pool that holds all tables.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let mut systems = Systems::start(args.against(), &args.pool)?;
    let load = args.load(1, args.seconds);
    prepare(&load, &mut systems)?;
    let threads = args.threads(&THREADS);
    scripts(&mut systems, &load, &threads, ("oltp", ""), args, report)
}

/// Measures with tables of a multiple of the buffer pool.
pub fn measure_misses(args: &Args, report: &mut Report) -> Result<()> {
    let mut systems = Systems::start(args.against(), &args.pool)?;
    let load = args.load(1, args.seconds);
    prepare(&load, &mut systems)?;
    let bytes = systems.0[0].data_bytes("sbtest/%")?;
    let threads = args.threads(&THREADS_OF_MISSES);
    for &times in &args.times_pool {
        let pool = format!("{}MiB", (bytes >> 20).div_euclid(times.into()).max(8));
        systems.each(|system| {
            system.stop()?;
            system.start(&pool)
        })?;
        let suffix = format!(", data {times} x pool");
        scripts(
            &mut systems,
            &load,
            &threads,
            ("misses", &suffix),
            args,
            report,
        )?;
    }
    Ok(())
}

/// Creates and fills the tables of sysbench.
pub fn prepare(load: &Load, systems: &mut Systems) -> Result<()> {
    let load = Load {
        threads: 4,
        ..*load
    };
    systems.each(|system| {
        system.sql("CREATE DATABASE sbtest")?;
        load.prepare(&system.login()?)
    })
}

fn scripts(
    systems: &mut Systems,
    load: &Load,
    threads: &[u32],
    (part, suffix): (&'static str, &str),
    args: &Args,
    report: &mut Report,
) -> Result<()> {
    for script in SCRIPTS {
        let name = script.trim_start_matches("oltp_");
        if !args.scripts.is_empty() && !args.scripts.iter().any(|wanted| wanted == name) {
            continue;
        }
        systems
            .settle()?
            .into_iter()
            .for_each(|left| report.note(left));
        for &threads in threads {
            let load = Load { threads, ..*load };
            let runs = systems.turns(args.turns, |system| Run::of_load(&load, system, script))?;
            let plural = if threads == 1 { "" } else { "s" };
            let name = format!("{name}, {threads} thread{plural}{suffix}");
            let mut figure = Figure::new(part, &name, "tx/s")
                .higher()
                .sides(select(&runs, |run| run.per_second));
            if threads == 1 && WRITES.contains(&script) {
                let (of, time) = limits::measure()?.commit();
                figure = figure.limit(of, 1e6 / time);
            }
            report.figure(figure);
            costs(part, &name, &runs, report);
        }
    }
    Ok(())
}

/// Reports what a transaction costs.
fn costs(part: &'static str, name: &str, runs: &[(Who, Vec<Run>)], report: &mut Report) {
    // In the compute and in the server.
    type Both = fn(&Cost) -> (f64, f64);
    type Single = fn(&Cost) -> f64;
    let both: [(&'static str, &'static str, Both); 2] = [
        ("CPU", "us/tx", |c| (c.compute.cpu_us, c.server.cpu_us)),
        ("context switches", "per tx", |c| {
            (c.compute.switches as f64, c.server.switches as f64)
        }),
    ];
    for (what, unit, of) in both {
        let sum = |run: &Run| {
            let (compute, server) = of(&run.cost);
            run.each(compute + server)
        };
        let figure = Figure::new(part, what, unit)
            .detail_of(name)
            .sides(select(runs, sum))
            .remark(parts_of_xylem(runs, of));
        add(figure, report);
    }
    let single: [(&'static str, Single); 2] = [
        ("redo", |cost| cost.redo as f64),
        ("between compute and server", |cost| cost.network as f64),
    ];
    for (what, of) in single {
        let figure = Figure::new(part, what, "bytes/tx")
            .detail_of(name)
            .sides(select(runs, |run| run.each(of(&run.cost))));
        add(figure, report);
    }
}

/// Adds a figure unless it is next to nothing on all sides.
fn add(figure: Figure, report: &mut Report) {
    let any = |who: Who| figure.value(who).is_some_and(|value| value >= 0.5);
    if Who::ALL.into_iter().any(any) {
        report.figure(figure);
    }
}

/// The medians of Xylem's compute and server, for a remark.
fn parts_of_xylem(runs: &[(Who, Vec<Run>)], of: fn(&Cost) -> (f64, f64)) -> String {
    let runs = runs.iter().find(|(who, _)| *who == Who::Xylem);
    let runs = runs.map_or(&[][..], |(_, runs)| runs);
    let compute: Vec<f64> = runs.iter().map(|run| run.each(of(&run.cost).0)).collect();
    let server: Vec<f64> = runs.iter().map(|run| run.each(of(&run.cost).1)).collect();
    format!(
        "compute {:.1} + server {:.1}",
        median(&compute),
        median(&server)
    )
}
