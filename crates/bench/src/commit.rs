//! A commit of one client: changing one row, with and without waiting until the change
//! is durable.

use crate::Args;
use crate::limits;
use crate::report::{Figure, Report};
use crate::stats::median;
use crate::system::{System, Systems, select};
use anyhow::Result;
use mysql::prelude::Queryable;
use std::time::{Duration, Instant};

const ROWS: u32 = 1_000;

/// Microseconds for an UPDATE of one row in autocommit.
#[derive(Clone, Copy, Debug)]
struct Update {
    durable: f64,
    not_waited_for: f64,
}

/// Measures all systems, turn by turn.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let mut systems = Systems::start(args.against(), &args.pool)?;
    systems.each(|system| {
        system.sql(&format!(
            "CREATE DATABASE c; \
             CREATE TABLE c.t (id INT PRIMARY KEY, n INT NOT NULL, pad CHAR(100) NOT NULL); \
             INSERT INTO c.t SELECT seq, 0, MD5(seq) FROM c.seq_1_to_{ROWS}"
        ))?;
        Ok(())
    })?;
    systems
        .settle()?
        .into_iter()
        .for_each(|left| report.note(left));
    let time = Duration::from_secs(args.seconds.into()) / 2;
    let updates = systems.turns(args.turns, |system| update(system, time))?;
    let limits = limits::measure()?;
    report.figure(
        Figure::new("commit", "UPDATE of a row and its commit, one client", "us")
            .sides(select(&updates, |update| update.durable)),
    );
    for (of, limit) in [limits.commit(), limits.commit_between_work()] {
        report.figure(
            Figure::new("commit", "of that, waiting until it is durable", "us")
                .sides(select(&updates, |u| u.durable - u.not_waited_for))
                .limit(of, limit),
        );
    }
    Ok(())
}

fn update(system: &mut System, time: Duration) -> Result<Update> {
    Ok(Update {
        durable: latency_us(system, 1, time)?,
        not_waited_for: latency_us(system, 0, time)?,
    })
}

/// The median with this value of `innodb_flush_log_at_trx_commit`.
fn latency_us(system: &System, flush: u8, time: Duration) -> Result<f64> {
    let mut connection = system.connect()?;
    let set = "SET GLOBAL innodb_flush_log_at_trx_commit";
    connection.query_drop(format!("{set} = {flush}"))?;
    let statement = connection.prep("UPDATE c.t SET n = n + 1 WHERE id = ?")?;
    let mut times = Vec::new();
    let begin = Instant::now();
    for n in 0u32.. {
        let started = Instant::now();
        connection.exec_drop(&statement, (n.wrapping_mul(7919) % ROWS + 1,))?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
        if begin.elapsed() > time {
            break;
        }
    }
    connection.query_drop(format!("{set} = 1"))?;
    Ok(median(&times))
}
