//! Writers that record what was acknowledged.
//!
//! Transaction n of a writer inserts three rows with n and sets the writer's counter to
//! n. After a kill, a counter of k means that every transaction up to k is complete and no
//! later one exists. k must be the last acknowledged number, or the one that was under way.

use super::{Random, Victim, check, connect, let_run, revive};
use crate::Project;
use crate::cdc::Cdc;
use crate::replica::Replica;
use anyhow::{Context, Result, ensure};
use mysql::Conn;
use mysql::prelude::Queryable;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The state of a writer.
struct Writer {
    acknowledged: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// All writers.
pub struct Writers {
    writers: Vec<Writer>,
    stop: Arc<AtomicBool>,
}

impl Writers {
    /// Creates the tables for `count` writers in database `kills`.
    ///
    /// # Errors
    /// A statement fails.
    pub fn prepare(project: &Project, count: usize) -> Result<Writers> {
        let mut conn = connect(project)?;
        conn.query_drop("CREATE DATABASE kills")?;
        conn.query_drop("CREATE TABLE kills.counter (id INT PRIMARY KEY, n BIGINT NOT NULL)")?;
        for id in 0..count {
            conn.query_drop(format!(
                "CREATE TABLE kills.w{id} (id BIGINT AUTO_INCREMENT PRIMARY KEY, n BIGINT NOT NULL, \
                 filler VARCHAR(2000), KEY (n))"
            ))?;
            conn.query_drop(format!("INSERT INTO kills.counter VALUES ({id}, 0)"))?;
        }
        let writers = (0..count)
            .map(|_| Writer {
                acknowledged: Arc::default(),
                thread: None,
            })
            .collect();
        Ok(Writers {
            writers,
            stop: Arc::default(),
        })
    }

    /// Starts all writers; each continues after its last transaction.
    ///
    /// # Errors
    /// A writer cannot connect.
    pub fn start(&mut self, project: &Project) -> Result<()> {
        self.stop.store(false, Ordering::Relaxed);
        for (id, writer) in self.writers.iter_mut().enumerate() {
            let conn = connect(project)?;
            let (acknowledged, stop) = (writer.acknowledged.clone(), self.stop.clone());
            writer.thread = Some(std::thread::spawn(move || {
                write(conn, id, &acknowledged, &stop)
            }));
        }
        Ok(())
    }

    /// Waits until all writers have ended; `stop` tells them to end.
    ///
    /// # Errors
    /// A writer panicked.
    pub fn join(&mut self, stop: bool) -> Result<()> {
        self.stop.store(stop, Ordering::Relaxed);
        for writer in &mut self.writers {
            if let Some(thread) = writer.thread.take() {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a writer panicked"))?;
            }
        }
        Ok(())
    }

    /// The number of acknowledged transactions of all writers.
    pub fn acknowledged(&self) -> u64 {
        self.writers
            .iter()
            .map(|writer| writer.acknowledged.load(Ordering::SeqCst))
            .sum()
    }

    /// Compares the data with what was acknowledged. The writers must have ended.
    ///
    /// # Errors
    /// A transaction is missing, incomplete, or unexpected.
    pub fn verify(&mut self, conn: &mut Conn) -> Result<()> {
        for (id, writer) in self.writers.iter().enumerate() {
            let acknowledged = writer.acknowledged.load(Ordering::SeqCst);
            let counter: u64 = conn
                .query_first(format!("SELECT n FROM kills.counter WHERE id = {id}"))?
                .context("a counter is missing")?;
            ensure!(
                (acknowledged..=acknowledged + 1).contains(&counter),
                "writer {id}: {acknowledged} transactions were acknowledged, {counter} are there"
            );
            let (rows, transactions, last): (u64, u64, u64) = conn
                .query_first(format!(
                    "SELECT COUNT(*), COUNT(DISTINCT n), COALESCE(MAX(n), 0) FROM kills.w{id}"
                ))?
                .context("no answer")?;
            ensure!(
                rows == 3 * counter && transactions == counter && last == counter,
                "writer {id}: counter {counter}, but {rows} rows of {transactions} transactions up to {last}"
            );
            writer.acknowledged.store(counter, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Commits transactions until told to stop, or until the connection breaks.
fn write(mut conn: Conn, id: usize, acknowledged: &AtomicU64, stop: &AtomicBool) {
    let filler = "x".repeat(50 + id * 300);
    while !stop.load(Ordering::Relaxed) {
        let n = acknowledged.load(Ordering::SeqCst) + 1;
        let insert = format!("INSERT INTO kills.w{id} (n, filler) VALUES ({n}, '{filler}')");
        let done = conn
            .query_drop("BEGIN")
            .and_then(|()| conn.query_drop(format!("{insert}, ({n}, 'second')")))
            .and_then(|()| {
                conn.query_drop(format!("UPDATE kills.counter SET n = {n} WHERE id = {id}"))
            })
            .and_then(|()| conn.query_drop(&insert))
            .and_then(|()| conn.query_drop("COMMIT"));
        if done.is_err() {
            return;
        }
        acknowledged.store(n, Ordering::SeqCst);
    }
}

/// Runs `rounds` rounds.
///
/// # Errors
/// The first fault that is found.
pub fn run(project: &Project, rounds: u32, random: &mut Random) -> Result<()> {
    rounds_of(project, rounds, random, &mut || Ok(()))
}

/// Runs `rounds` rounds on a project whose main has a binary log. A stock replica and, where
/// [`crate::cdc::PYTHON`] is set, a CDC client follow through all of them.
///
/// # Errors
/// The first fault that is found.
pub fn run_followed(project: &Project, rounds: u32, random: &mut Random) -> Result<()> {
    let replica = Replica::of(project)?;
    let cdc = Cdc::of(project)?;
    if cdc.is_none() {
        println!("{} is not set: without a CDC client", crate::cdc::PYTHON);
    }
    let tables = [
        "kills.counter",
        "kills.w0",
        "kills.w1",
        "kills.w2",
        "kills.w3",
    ];
    rounds_of(project, rounds, random, &mut || {
        replica.follows(project, &tables)?;
        cdc.as_ref().map_or(Ok(()), |cdc| cdc.follows(project))
    })
}

fn rounds_of(
    project: &Project,
    rounds: u32,
    random: &mut Random,
    after: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let mut writers = Writers::prepare(project, 4)?;
    for round in 1..=rounds {
        writers.start(project)?;
        let_run(Duration::from_millis(50 + random.below(1200)));
        let victim = Victim::choose(random);
        victim.strike(project)?;
        if victim.ends_connections() {
            writers.join(false)?;
        }
        let mut conn = revive(project)?;
        if !victim.ends_connections() {
            // The kill delayed the writers, but did not break their connections.
            let before = writers.acknowledged();
            crate::wait_until("writers to go on", Duration::from_secs(30), || {
                Ok(writers.acknowledged() > before + 4)
            })?;
            writers.join(true)?;
        }
        writers
            .verify(&mut conn)
            .and_then(|()| after())
            .with_context(|| format!("round {round}, {victim:?}"))?;
        if round % 10 == 0 || round == rounds {
            check(project, &["kills"]).with_context(|| format!("round {round}, {victim:?}"))?;
            println!(
                "rows: round {round}, {} transactions acknowledged",
                writers.acknowledged()
            );
        }
    }
    Ok(())
}
