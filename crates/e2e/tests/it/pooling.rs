//! Pooling: many clients share a few sessions on a compute.

use crate::sleep::{Sleepers, number};
use anyhow::{Context, Result, ensure};
use mysql::prelude::Queryable;
use mysql::{Conn, Statement};
use std::time::{Duration, Instant};

/// The numbers of clients and of sessions in the test with many clients.
const CLIENTS: &str = "XYLEM_TEST_POOL_CLIENTS";
const SESSIONS: &str = "XYLEM_TEST_POOL_SESSIONS";

/// A client that knows what its session has.
struct Client {
    conn: Conn,
    statement: Statement,
    nth: usize,
}

impl Client {
    fn connect(sleepers: &Sleepers, nth: usize) -> Result<Client> {
        let mut conn = sleepers.connect("app")?;
        conn.query_drop(format!("SET @nth = {nth}, time_zone = '+0{}:00'", nth % 9))?;
        let statement = conn.prep("SELECT CONCAT(@nth, '|', @@time_zone, '|', ?)")?;
        Ok(Client {
            conn,
            statement,
            nth,
        })
    }

    fn check(&mut self) -> Result<()> {
        let Client {
            conn,
            statement,
            nth,
        } = self;
        let said: Option<String> = conn.exec_first(&*statement, (*nth,))?;
        ensure!(
            said.as_ref() == Some(&format!("{nth}|+0{}:00|{nth}", *nth % 9)),
            "{said:?} of client {nth}"
        );
        Ok(())
    }
}

impl Sleepers {
    /// The sessions that clients have on the compute of main.
    fn sessions(&self) -> Result<usize> {
        let count = self
            .project
            .sql("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'app'")?;
        Ok(count.trim().parse()?)
    }

    fn pool(&self, size: &str) -> Result<serde_json::Value> {
        self.project
            .json(&["branch", "set", "main", "--pool-size", size])
    }
}

#[test]
fn many_clients_share_a_few_sessions() -> Result<()> {
    let (clients, sessions) = (number(CLIENTS, 24)?, number(SESSIONS, 4)?);
    let sleepers = Sleepers::after("0s")?;
    let set = sleepers.pool(&sessions.to_string())?;
    assert_eq!(set["pool_size"], sessions);
    assert_eq!(set["suspend_after"], serde_json::Value::Null);
    let began = Instant::now();
    let mut all = Vec::new();
    for nth in 0..clients {
        let client = Client::connect(&sleepers, nth);
        all.push(client.with_context(|| format!("client {nth}\n{}", sleepers.log()))?);
    }
    let connected = began.elapsed();
    ensure!(sleepers.sessions()? <= sessions);
    // One after another, in an order in which each has lost its place.
    let began = Instant::now();
    for client in &mut all {
        client.check().with_context(|| sleepers.log())?;
    }
    println!(
        "{clients} clients on {sessions} sessions: {:?} for each login, {:?} for each statement",
        connected / clients as u32,
        began.elapsed() / clients as u32,
    );
    ensure!(sleepers.sessions()? <= sessions);
    // At the same time, as many as find places within the time that clients wait for them.
    std::thread::scope(|scope| {
        let running: Vec<_> = all
            .iter_mut()
            .take(4 * sessions)
            .map(|client| scope.spawn(|| (0..3).try_for_each(|_| client.check())))
            .collect();
        running.into_iter().try_for_each(|one| match one.join() {
            Ok(done) => done,
            Err(_) => anyhow::bail!("a client's thread has panicked"),
        })
    })
    .with_context(|| sleepers.log())?;
    ensure!(sleepers.sessions()? <= sessions);
    sleepers.pool("off")?;
    // The gateway takes the setting without a restart.
    std::thread::sleep(Duration::from_secs(2));
    // A compute has room for 151 connections, and those of the pool are still there.
    let some = clients.min(40);
    for client in &mut all[..some] {
        client.check()?;
    }
    ensure!(sleepers.sessions()? >= some);
    Ok(())
}

#[test]
fn a_session_that_cannot_leave_keeps_its_place() -> Result<()> {
    let sleepers = Sleepers::after("0s")?;
    sleepers.pool("2")?;
    let mut busy = Vec::new();
    for nth in 0..2 {
        let mut client = Client::connect(&sleepers, nth)?;
        client.conn.query_drop("BEGIN")?;
        client.conn.query_drop("INSERT INTO t (v) VALUES ('x')")?;
        busy.push(client);
    }
    let began = Instant::now();
    let Err(error) = sleepers.connect("app") else {
        anyhow::bail!("there was a place for a third one");
    };
    ensure!(
        error.to_string().contains("Too many connections"),
        "{error}"
    );
    let waited = began.elapsed();
    ensure!((5..30).contains(&waited.as_secs()), "after {waited:?}");
    std::thread::scope(|scope| -> Result<()> {
        let waits = scope.spawn(|| Client::connect(&sleepers, 3));
        // Longer than a session is silent before it is asked to leave.
        std::thread::sleep(Duration::from_secs(3));
        ensure!(!waits.is_finished());
        let began = Instant::now();
        busy[0].conn.query_drop("COMMIT")?;
        match waits.join() {
            Ok(client) => client?.check()?,
            Err(_) => anyhow::bail!("a client's thread has panicked"),
        }
        let waited = began.elapsed();
        ensure!(
            waited < Duration::from_secs(4),
            "{waited:?} for a free place"
        );
        Ok(())
    })?;
    busy[1].conn.query_drop("COMMIT")?;
    for client in &mut busy {
        client.check()?;
        let rows: Option<usize> = client.conn.query_first("SELECT COUNT(*) FROM t")?;
        assert_eq!(rows, Some(2));
    }
    Ok(())
}
