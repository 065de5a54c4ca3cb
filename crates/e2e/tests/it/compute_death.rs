//! Computes that die, and clients of the gateway that stay connected.

use crate::sleep::Sleepers;
use anyhow::{Context, Result, bail, ensure};
use mysql::prelude::Queryable;
use mysql::{Conn, TxOpts};
use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use xylem_e2e::raw_client::RawClient;
use xylem_e2e::wait_until;

/// The time after which the gateway knows the account of a new session.
const KNOWN: Duration = Duration::from_millis(1500);

impl Sleepers {
    fn kill_main(&self) -> Result<()> {
        self.kill("main")
    }

    /// Kills a compute behind everybody's back.
    pub fn kill(&self, name: &str) -> Result<()> {
        let computes = self.project.json(&["compute", "ls"])?;
        let mut all = computes.as_array().context("no list")?.iter();
        let compute = all
            .find(|compute| compute["name"] == name)
            .context("no compute")?;
        let pid = i32::try_from(compute["pid"].as_i64().context("no process")?)?;
        let pid = rustix::process::Pid::from_raw(pid).context("no process")?;
        Ok(rustix::process::kill_process(
            pid,
            rustix::process::Signal::KILL,
        )?)
    }
}

impl Sleepers {
    fn metrics(&self) -> Result<String> {
        let path = self.project.dir().join("gateway-metrics.sock");
        let mut text = String::new();
        UnixStream::connect(path)?.read_to_string(&mut text)?;
        Ok(text)
    }
}

fn code_of(error: &mysql::Error) -> Option<u16> {
    match error {
        mysql::Error::MySqlError(error) => Some(error.code),
        _ => None,
    }
}

/// A session, as SQL sees it.
const SESSION: &str = "SELECT CONCAT_WS('|', @@sql_mode, @@time_zone, @@lock_wait_timeout,
    CURRENT_ROLE(), DATABASE(), USER(), CURRENT_USER(), @@collation_connection,
    LAST_INSERT_ID(), @@autocommit, @@tx_isolation)";

#[test]
fn an_idle_session_survives_its_compute() -> Result<()> {
    let front = Sleepers::after("0s")?;
    let mut conn = front.connect("app")?;
    conn.query_drop("SET NAMES latin1 COLLATE latin1_german2_ci")?;
    conn.query_drop("SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES', time_zone = '+03:00'")?;
    conn.query_drop("SET ROLE clerk")?;
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")?;
    conn.query_drop("INSERT INTO t (v) VALUES ('a'), ('app@example.com')")?;
    conn.query_drop("USE mysql")?;
    let elsewhere = conn.prep("SELECT COUNT(*) FROM proc WHERE ? = 5")?;
    conn.query_drop("USE shop")?;
    let gone = conn.prep("SELECT 1")?;
    let select = conn.prep("SELECT v FROM t WHERE id = ?")?;
    conn.close(gone)?;
    let before: Option<String> = conn.query_first(SESSION)?;
    ensure!(
        before.as_ref().is_some_and(|s| s.contains("|clerk|shop|")),
        "{before:?}"
    );
    // One that has done nothing but log in, with a role that the login has activated.
    front.project.sql("SET DEFAULT ROLE clerk FOR app")?;
    let mut fresh = front.connect("app")?;
    let fresh_before: Option<String> = fresh.query_first(SESSION)?;
    std::thread::sleep(KNOWN);
    for round in 0..3 {
        // An orderly end is one as well.
        match round {
            2 => drop(front.project.xylem(&["compute", "stop", "main"])?),
            _ => front.kill_main()?,
        }
        fresh
            .ping()
            .with_context(|| format!("round {round}: {}", front.log()))?;
        let after: Option<String> = conn.query_first(SESSION)?;
        assert_eq!(after, before, "round {round}");
        let v: Option<String> = conn.exec_first(&select, (2,))?;
        assert_eq!(v.as_deref(), Some("app@example.com"));
        let none: Option<usize> = conn.exec_first(&elsewhere, (4,))?;
        assert_eq!(none, Some(0));
        let fresh_after: Option<String> = fresh.query_first(SESSION)?;
        assert_eq!(fresh_after, fresh_before);
    }
    // The documentation lists every metric, and no others.
    let text = front.metrics()?;
    let value = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line
            .with_context(|| format!("no {name} in {text}"))?
            .trim()
            .parse()?)
    };
    assert_eq!(value("xylem_gateway_clients{branch=\"main\"}")?, 2.0);
    assert_eq!(value("xylem_gateway_parked{branch=\"main\"}")?, 0.0);
    assert_eq!(value("xylem_gateway_logins_total{branch=\"main\"}")?, 2.0);
    assert_eq!(
        value("xylem_gateway_sessions_bereaved_total{branch=\"main\"}")?,
        6.0
    );
    assert_eq!(
        value("xylem_gateway_sessions_restored_total{branch=\"main\"}")?,
        6.0
    );
    assert_eq!(
        value("xylem_gateway_wake_seconds_count{branch=\"main\"}")?,
        3.0
    );
    ensure!(value("xylem_gateway_commands_bytes_total{branch=\"main\"}")? > 1000.0);
    let book = include_str!("../../../../docs/metrics.md");
    let listed = book
        .split('`')
        .filter(|word| word.starts_with("xylem_gateway_"));
    let listed: BTreeSet<&str> = listed
        .filter_map(|name| name.split('{').next())
        .map(|name| name.trim_end_matches("_total"))
        .collect();
    let told = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let told: BTreeSet<&str> = told.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(told, listed);
    Ok(())
}

#[test]
fn a_transaction_that_is_lost_is_one_error_and_no_half_of_it_stays() -> Result<()> {
    let front = Sleepers::after("0s")?;
    let mut idle = front.connect("app")?;
    let mut busy = front.connect("app")?;
    let mut tied = front.connect("app")?;
    let mut new_base = front.connect("app")?;
    std::thread::sleep(KNOWN);
    idle.query_drop("BEGIN")?;
    idle.query_drop("INSERT INTO t (v) VALUES ('idle')")?;
    tied.query_drop("SET @a = 1")?;
    new_base.query_drop("SELECT 1")?;
    std::thread::scope(|scope| -> Result<()> {
        let waiting = scope.spawn(move || -> Result<Conn> {
            busy.query_drop("BEGIN")?;
            busy.query_drop("INSERT INTO t (v) VALUES ('busy')")?;
            let error = busy
                .query_drop("SELECT SLEEP(60)")
                .err()
                .context("it slept")?;
            ensure!(code_of(&error) == Some(1213), "{error}");
            Ok(busy)
        });
        std::thread::sleep(Duration::from_millis(700));
        let began = Instant::now();
        front.kill_main()?;
        let Ok(done) = waiting.join() else {
            bail!("the client's thread has panicked")
        };
        let mut busy = done.with_context(|| front.log())?;
        ensure!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            began.elapsed()
        );
        // The next statement of a client that was between two is not outside of its
        // transaction, though it would succeed there.
        let error = idle.query_drop("INSERT INTO t (v) VALUES ('other half')");
        let error = error.err().context("half of a transaction was kept")?;
        ensure!(
            code_of(&error) == Some(1213)
                && error.to_string().contains("try the transaction again"),
            "{error}"
        );
        for conn in [&mut idle, &mut busy, &mut new_base] {
            let mut transaction = conn.start_transaction(TxOpts::default())?;
            transaction.query_drop("INSERT INTO t (v) VALUES ('again')")?;
            transaction.commit()?;
        }
        // It has something that only the dead compute knew.
        match tied.query_drop("SELECT 1") {
            Err(error) => ensure!(code_of(&error).is_none(), "{error}"),
            Ok(()) => bail!("a session has lost its variables without a word"),
        }
        let kept: Vec<String> = idle.query("SELECT v FROM t")?;
        assert_eq!(kept, ["again"; 3]);
        Ok(())
    })
}

#[test]
fn commands_without_an_answer_get_no_error() -> Result<()> {
    let front = Sleepers::after("0s")?;
    let mut raw = RawClient::connect(front.port, "raw", "shop")?;
    let prepared = raw.command(b"\x16SELECT 7")?;
    raw.list()?;
    std::thread::sleep(KNOWN);
    raw.command(b"\x03BEGIN")?;
    raw.command(b"\x03INSERT INTO t (v) VALUES ('lost')")?;
    front.kill_main()?;
    std::thread::sleep(Duration::from_millis(300));
    // The transaction that is lost looks like one to a driver that goes by the status.
    let pong = raw.command(b"\x0e")?;
    assert_eq!(pong[3] & 1, 1, "{pong:?}");
    raw.say(&[b"\x19", &prepared[1..5]].concat())?;
    let error = raw
        .command(b"\x03ROLLBACK")
        .err()
        .context("it is not told")?;
    ensure!(
        error.to_string().contains("try the transaction again"),
        "{error}"
    );
    raw.command(b"\x03SELECT 'mine'")?;
    let rows = [raw.list()?, raw.list()?].concat();
    ensure!(rows.iter().any(|row| row == b"\x04mine"), "{rows:?}");
    let unknown = raw.command(&[b"\x17", &prepared[1..5], &[0, 1, 0, 0, 0]].concat());
    ensure!(unknown.is_err(), "a statement that was closed is there");

    // A database that is gone is not another one.
    let mut conn = front.connect("app")?;
    for statement in ["CREATE DATABASE a", "CREATE DATABASE b", "USE a", "USE b"] {
        conn.query_drop(statement)?;
    }
    std::thread::sleep(KNOWN);
    front.project.sql("DROP DATABASE b")?;
    front.kill_main()?;
    std::thread::sleep(Duration::from_millis(300));
    let error = conn
        .query_drop("CREATE TABLE here (i INT)")
        .err()
        .context("in another one")?;
    ensure!(
        error.to_string().contains("cannot continue this session"),
        "{error}"
    );
    Ok(())
}

#[test]
fn a_session_that_is_killed_ends() -> Result<()> {
    let front = Sleepers::after("0s")?;
    let mut victim = front.connect("app")?;
    let mut other = front.connect("app")?;
    std::thread::sleep(KNOWN);
    other.query_drop(format!("KILL {}", victim.connection_id()))?;
    let ended = victim.query_drop("SELECT 1").err().context("it lives")?;
    ensure!(code_of(&ended).is_none_or(|code| code == 1927), "{ended}");
    victim.query_drop("SELECT 1").err().context("it lives")?;
    // That of the server, too.
    other.query_drop("SET wait_timeout = 1")?;
    std::thread::sleep(Duration::from_secs(3));
    other.query_drop("SELECT 1").err().context("it lives")?;
    Ok(())
}

#[test]
fn each_of_64_clients_sees_one_error_at_most() -> Result<()> {
    const CLIENTS: usize = 64;
    const KILLS: usize = 2;
    let front = Sleepers::after("0s")?;
    front
        .project
        .sql("CREATE TABLE shop.done (client INT, n INT, PRIMARY KEY (client, n))")?;
    let mut conns = Vec::new();
    for _ in 0..CLIENTS {
        let mut conn = front.connect("app")?;
        conn.query_drop("SET NAMES utf8mb4, lock_wait_timeout = 77")?;
        conns.push(conn);
    }
    std::thread::sleep(KNOWN);
    let (over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let turns: Vec<AtomicUsize> = (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| -> Result<()> {
        let mut all = Vec::new();
        for (nth, mut conn) in conns.into_iter().enumerate() {
            let (over, turns) = (&over, &turns);
            all.push(scope.spawn(move || -> Result<(Vec<usize>, Vec<u16>)> {
                let insert = conn.prep("INSERT INTO done VALUES (?, ?)")?;
                let (mut kept, mut errors) = (Vec::new(), Vec::new());
                for n in 0.. {
                    if over.load(SeqCst) {
                        break;
                    }
                    // Transactions, single statements, and reads.
                    let done = match n % 3 {
                        0 => conn
                            .start_transaction(TxOpts::default())
                            .and_then(|mut one| {
                                one.exec_drop(&insert, (nth, n))?;
                                one.query_drop("SELECT COUNT(*) FROM t")?;
                                one.commit()
                            }),
                        1 => conn.exec_drop(&insert, (nth, n)),
                        _ => conn.query_drop("SELECT * FROM done LIMIT 50"),
                    };
                    match done {
                        Ok(()) if n % 3 < 2 => kept.push(n),
                        Ok(()) => {}
                        Err(error) => {
                            let code = code_of(&error)
                                .with_context(|| format!("client {nth}: {error}"))?;
                            errors.push(code);
                            // As a driver does after an error, whatever it is.
                            conn.query_drop("ROLLBACK")?;
                        }
                    }
                    turns[nth].fetch_add(1, SeqCst);
                }
                let timeout: Option<u32> = conn.query_first("SELECT @@lock_wait_timeout")?;
                assert_eq!(timeout, Some(77));
                Ok((kept, errors))
            }));
        }
        let killing = (|| -> Result<()> {
            for kill in 1..=KILLS {
                let before: Vec<usize> = turns.iter().map(|n| n.load(SeqCst)).collect();
                wait_until("all clients work", Duration::from_secs(60), || {
                    let mut now = turns.iter().map(|n| n.load(SeqCst)).zip(&before);
                    Ok(now.all(|(now, before)| now >= before + 3))
                })?;
                front.kill_main()?;
                rounds.store(kill, SeqCst);
            }
            let before: Vec<usize> = turns.iter().map(|n| n.load(SeqCst)).collect();
            wait_until("all clients go on", Duration::from_secs(60), || {
                let mut now = turns.iter().map(|n| n.load(SeqCst)).zip(&before);
                Ok(now.all(|(now, before)| now >= before + 3))
            })
        })();
        over.store(true, SeqCst);
        let mut counted = 0;
        let mut check = front.connect("app")?;
        for (nth, one) in all.into_iter().enumerate() {
            let Ok(done) = one.join() else {
                bail!("client {nth} has panicked")
            };
            let (kept, errors) = done.with_context(|| format!("client {nth}: {}", front.log()))?;
            ensure!(errors.len() <= KILLS, "client {nth}: {errors:?}");
            ensure!(
                errors.iter().all(|code| matches!(code, 1213 | 1053)),
                "{errors:?}"
            );
            counted += errors.len();
            let there: Vec<usize> = check.exec("SELECT n FROM done WHERE client = ?", (nth,))?;
            for n in &kept {
                ensure!(
                    there.contains(n),
                    "client {nth}: {n} was acknowledged and is gone"
                );
            }
            // Beyond those, only what a lost answer was about.
            ensure!(there.len() <= kept.len() + errors.len(), "client {nth}");
        }
        killing?;
        println!("{CLIENTS} clients, {KILLS} kills: {counted} errors");
        ensure!(counted > 0, "no client was in the middle of something");
        Ok(())
    })
}
