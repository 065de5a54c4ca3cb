//! A long run of writes, second by second, to see what flushes and merges in the
//! background do to it.

use crate::Args;
use crate::oltp;
use crate::report::{Figure, Report, Series};
use crate::stats::{longest_standstill, steadiness};
use crate::sysbench;
use crate::system::{System, Systems, select, status};
use anyhow::{Result, anyhow};
use mysql::Conn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xylem_e2e::sysbench::{Load, finish};

const THREADS: u32 = 16;
const SCRIPT: &str = "oltp_write_only";
/// How often commits are counted.
const SAMPLE: Duration = Duration::from_millis(50);

struct Run {
    seconds: Vec<f64>,
    standstill: Duration,
}

/// Measures one system after the other.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let mut systems = Systems::start(args.against(), &args.pool)?;
    let load = args.load(THREADS, args.long_seconds);
    oltp::prepare(&load, &mut systems)?;
    systems
        .settle()?
        .into_iter()
        .for_each(|left| report.note(left));
    // One turn: a long run cannot be alternated.
    let runs = systems.turns(1, |system| run(system, &load))?;
    let name = format!("write_only, {THREADS} threads, {} s", args.long_seconds);
    for (who, runs) in &runs {
        for run in runs {
            report.series(Series {
                name: name.clone(),
                who: *who,
                seconds: run.seconds.clone(),
            });
        }
    }
    report.figure(
        Figure::new("long", format!("median second of {name}"), "tx/s")
            .higher()
            .sides(select(&runs, |run| steadiness(&run.seconds).median)),
    );
    report.figure(
        Figure::new("long", "worst second in medians", "")
            .higher()
            .sides(select(&runs, |run| steadiness(&run.seconds).worst)),
    );
    report.figure(
        Figure::new("long", "longest time without a commit", "ms")
            .sides(select(&runs, |run| run.standstill.as_secs_f64() * 1e3)),
    );
    Ok(())
}

fn run(system: &mut System, load: &Load) -> Result<Run> {
    let ended = AtomicBool::new(false);
    let connection = system.connect()?;
    let login = system.login()?;
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| count_commits(connection, &ended));
        let report = load.start_by_second(&login, SCRIPT).and_then(finish);
        ended.store(true, Ordering::Release);
        let samples = sampler
            .join()
            .map_err(|_| anyhow!("the sampler panicked"))?;
        Ok(Run {
            seconds: sysbench::seconds(&report?)?,
            standstill: longest_standstill(&samples?),
        })
    })
}

/// Counts commits until the load has ended. What comes before its first commit is left
/// out.
fn count_commits(mut connection: Conn, ended: &AtomicBool) -> Result<Vec<(Duration, u64)>> {
    let started = Instant::now();
    let mut samples: Vec<(Duration, u64)> = Vec::new();
    while !ended.load(Ordering::Acquire) {
        let commits = status(&mut connection, "Com_commit")?;
        samples.push((started.elapsed(), commits));
        std::thread::sleep(SAMPLE);
    }
    let first = samples.first().map_or(0, |(_, commits)| *commits);
    let begin = samples.partition_point(|(_, commits)| *commits == first);
    Ok(samples.split_off(begin))
}
