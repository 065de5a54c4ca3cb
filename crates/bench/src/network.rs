//! Computes far from the server: a TCP proxy between them delays every byte. Computes
//! have no page cache and begin with an empty buffer pool.
//!
//! Stock MariaDB has its files at hand, so it takes part only where that is the question:
//! in scans and starts.

use crate::Args;
use crate::report::{Figure, Report, Who};
use crate::system::{System, Systems, select};
use crate::tables;
use anyhow::{Context, Result, anyhow, bail, ensure};
use mysql::Conn;
use mysql::prelude::Queryable;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xylem_objects::testing::DelayProxy;

/// Size of the smaller table in buffer pools.
const TIMES_POOL: u64 = 4;
/// The buffer pool where its size does not matter.
const POOL: &str = "256MiB";
/// How long a compute runs before it is ended: it takes two seconds after its start to
/// write down which pages the next start reads.
const RUN: Duration = Duration::from_secs(6);
/// The numbers of clients that commit at a time.
const CLIENTS: [u32; 2] = [8, 32];

/// Measures scans with the first round trip of `args`, and starts and commits with the
/// second.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let [near, far] = args.round_trips_ms[..] else {
        bail!("--round-trips-ms takes two numbers, such as 1,100");
    };
    let mut systems = Systems::start(args.against(), &args.pool)?;
    let rows = args.tables * args.rows;
    systems.each(|system| {
        tables::fill(system, rows)?;
        tables::fill_scattered(system)
    })?;
    systems
        .settle()?
        .into_iter()
        .for_each(|left| report.note(left));

    let between = Between::start(&systems, near)?;
    scans(args, &mut systems, &between, report)?;

    let between = Between::start(&systems, far)?;
    starts(args, &mut systems, &between, report)?;
    systems.0.retain(|system| system.project().is_some());
    commits(args, &mut systems, far, report)?;
    beside_ddl(args, &mut systems, far, report)
}

/// A proxy in front of the server of each build of Xylem.
struct Between {
    proxies: BTreeMap<Who, DelayProxy>,
    round_trip_ms: u32,
}

impl Between {
    fn start(systems: &Systems, round_trip_ms: u32) -> Result<Between> {
        let round_trip = Duration::from_millis(round_trip_ms.into());
        let mut proxies = BTreeMap::new();
        for system in &systems.0 {
            let Some(project) = system.project() else {
                continue;
            };
            let status = project.json(&["status"])?;
            let server = status["server"]["grpc"].as_str();
            let server = server.context("the server has no address")?.parse()?;
            proxies.insert(system.who, DelayProxy::start(server, round_trip)?);
        }
        Ok(Between {
            proxies,
            round_trip_ms,
        })
    }

    /// Stops mariadbd and starts it with an empty buffer pool: Xylem's compute on this
    /// side of the proxy, as its later starts.
    fn restart(&self, system: &mut System, pool: &str) -> Result<()> {
        system.stop()?;
        match (system.project(), self.proxies.get(&system.who)) {
            (Some(project), Some(proxy)) => {
                let port = format!("--innodb-page-server-port={}", proxy.addr().port());
                let settings = ["--buffer-pool", pool, "--page-cache", "0", "--"];
                let mariadbd = [
                    "--innodb-page-server-socket=",
                    &port,
                    "--innodb-buffer-pool-load-at-startup=OFF",
                    "--innodb-buffer-pool-dump-at-shutdown=OFF",
                ];
                project.xylem(&[&["up", "--detach"], &settings[..], &mariadbd].concat())?;
                Ok(())
            }
            _ => system.start(pool),
        }
    }
}

/// Measures the seconds of the first scan of each table after a start.
fn scans(args: &Args, systems: &mut Systems, between: &Between, report: &mut Report) -> Result<()> {
    let tables = [("t", "in key order"), ("r", "inserted in random key order")];
    let pool = systems.0[0].data_bytes("d/t")? / TIMES_POOL;
    let pool = format!("{}MiB", (pool >> 20).max(8));
    let rows = u64::from(args.tables * args.rows);
    // Those of tables that are open: before a restart.
    let sizes = tables
        .iter()
        .map(|(table, _)| systems.0[0].data_bytes(&format!("d/{table}")))
        .collect::<Result<Vec<_>>>()?;
    for ((table, order), bytes) in tables.into_iter().zip(sizes) {
        let mib = bytes >> 20;
        let seconds = systems.turns(args.turns, |system| {
            between.restart(system, &pool)?;
            let mut connection = system.connect()?;
            // What every start and the opening of the table read.
            connection.query_drop(format!("SELECT * FROM d.{table} LIMIT 1"))?;
            let started = Instant::now();
            let row: Option<(u64, u64)> = connection
                .query_first(format!("SELECT COUNT(*), SUM(LENGTH(pad)) FROM d.{table}"))?;
            let seconds = started.elapsed().as_secs_f64();
            let (count, _) = row.context("no row")?;
            ensure!(count == rows, "{count} rows instead of {rows}");
            Ok(seconds)
        })?;
        let name = format!(
            "cold scan of {mib} MiB, rows {order}, pool {pool}, {} ms",
            between.round_trip_ms
        );
        report.figure(
            Figure::new("network", name, "s")
                .sides(select(&seconds, |seconds| *seconds))
                .remark("stock: local files"),
        );
    }
    Ok(())
}

/// Measures the time from the start of a new compute to the first row of a table.
fn starts(
    args: &Args,
    systems: &mut Systems,
    between: &Between,
    report: &mut Report,
) -> Result<()> {
    systems.each(|system| between.restart(system, POOL))?;
    let times = systems.turns(args.turns.max(5), |system| {
        std::thread::sleep(RUN);
        system.end()?;
        let started = Instant::now();
        system.start_compute(POOL)?;
        system.sql("SELECT * FROM d.t LIMIT 1")?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    })?;
    let name = format!("start to first row, {} ms", between.round_trip_ms);
    report.figure(
        Figure::new("network", name, "ms")
            .sides(select(&times, |time| *time))
            .remark("stock: local files"),
    );
    Ok(())
}

/// Measures the commits per second of clients that each change a row of their own.
fn commits(args: &Args, systems: &mut Systems, round_trip: u32, report: &mut Report) -> Result<()> {
    let time = Duration::from_secs(args.seconds.into());
    for clients in args.threads(&CLIENTS) {
        let rates = systems.turns(args.turns, |system| rate(system, clients, time))?;
        let name = format!("commits of {clients} clients, {round_trip} ms");
        let limit = f64::from(clients) * 1e3 / f64::from(round_trip);
        report.figure(
            Figure::new("network", name, "commits/s")
                .higher()
                .sides(select(&rates, |rate| *rate))
                .limit("a round trip for each", limit),
        );
    }
    Ok(())
}

fn rate(system: &System, clients: u32, time: Duration) -> Result<f64> {
    let mut connections = (1..=clients)
        .map(|id| {
            let mut connection = system.connect()?;
            // The row's page is read.
            change(&mut connection, id)?;
            Ok((connection, id))
        })
        .collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    let done = std::thread::scope(|scope| {
        let clients: Vec<_> = connections
            .iter_mut()
            .map(|(connection, id)| {
                scope.spawn(|| changes(connection, *id, || began.elapsed() < time))
            })
            .collect();
        clients.into_iter().map(joined).collect::<Result<Vec<_>>>()
    })?;
    let commits: usize = done.iter().map(Vec::len).sum();
    Ok(commits as f64 / began.elapsed().as_secs_f64())
}

/// Measures the longest commit of a client while another makes, renames and drops tables.
fn beside_ddl(
    args: &Args,
    systems: &mut Systems,
    round_trip: u32,
    report: &mut Report,
) -> Result<()> {
    let time = Duration::from_secs(args.seconds.into());
    let longest = systems.turns(args.turns, |system| {
        let (mut client, mut other) = (system.connect()?, system.connect()?);
        change(&mut client, 1)?;
        let ended = AtomicBool::new(false);
        let times = std::thread::scope(|scope| {
            let ddl = scope.spawn(|| {
                let done = change_tables(&mut other, time);
                ended.store(true, Ordering::Release);
                done
            });
            let times = changes(&mut client, 1, || !ended.load(Ordering::Acquire));
            joined(ddl)?;
            times
        })?;
        Ok(times.into_iter().fold(0.0, f64::max))
    })?;
    let name = format!("longest commit beside DDL of another client, {round_trip} ms");
    report.figure(
        Figure::new("network", name, "ms")
            .sides(select(&longest, |longest| *longest))
            .limit("a round trip", round_trip.into()),
    );
    Ok(())
}

/// Changes a row, and commits.
fn change(connection: &mut Conn, id: u32) -> Result<()> {
    Ok(connection.query_drop(format!("UPDATE d.t SET k = k + 1 WHERE id = {id}"))?)
}

/// Changes a row as long as `goes_on`; the milliseconds of each commit.
fn changes(connection: &mut Conn, id: u32, goes_on: impl Fn() -> bool) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    while goes_on() {
        let started = Instant::now();
        change(connection, id)?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// Makes, renames and drops a table, for `time` and once at least.
fn change_tables(connection: &mut Conn, time: Duration) -> Result<()> {
    let began = Instant::now();
    loop {
        connection.query_drop("CREATE TABLE d.a (id INT PRIMARY KEY)")?;
        connection.query_drop("RENAME TABLE d.a TO d.b")?;
        connection.query_drop("DROP TABLE d.b")?;
        if began.elapsed() > time {
            return Ok(());
        }
    }
}

/// The result of a client's thread.
fn joined<T>(client: std::thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    client.join().map_err(|_| anyhow!("a client panicked"))?
}
