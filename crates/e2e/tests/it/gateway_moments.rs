//! Moments in place of branches: `app@main~5min` is a read-only compute, made on the way and
//! gone when idle.

use crate::gateway::refused;
use crate::sleep::Sleepers;
use anyhow::{Context, Result, ensure};
use mysql::Conn;
use mysql::prelude::Queryable;
use std::time::Duration;
use xylem_e2e::wait_until;

/// The computes at moments: their names, process ids and LSNs.
fn moments(sleepers: &Sleepers) -> Result<Vec<(String, i64, u64)>> {
    let computes = sleepers.project.json(&["compute", "ls"])?;
    let computes = computes.as_array().context("no list")?.iter();
    let readers = computes.filter(|compute| compute["read_only"] == true);
    readers
        .map(|reader| {
            let name = reader["name"].as_str().context("no name")?;
            let pid = reader["pid"].as_i64().unwrap_or_default();
            let lsn = reader["lsn"].as_u64().context("no LSN")?;
            Ok((name.to_owned(), pid, lsn))
        })
        .collect()
}

fn rows(conn: &mut Conn) -> Result<Option<usize>> {
    Ok(conn.query_first("SELECT COUNT(*) FROM t")?)
}

/// Adds a row, and returns the LSN and the time at which it is there.
fn add(sleepers: &Sleepers) -> Result<(u64, String)> {
    sleepers
        .project
        .sql("INSERT INTO shop.t (v) VALUES ('x')")?;
    let branch = sleepers.project.json(&["branch", "show", "main"])?;
    let lsn = branch["last_lsn"].as_u64().context("no LSN")?;
    let time = sleepers.project.sql("SELECT UTC_TIMESTAMP(3)")?;
    Ok((lsn, time.trim().replace(' ', "T") + "Z"))
}

fn allow(sleepers: &Sleepers, branch: &str) -> Result<()> {
    let set = sleepers
        .project
        .json(&["branch", "set", branch, "--moments", "on"])?;
    assert_eq!(set["moments"], true);
    Ok(())
}

#[test]
fn a_moment_is_a_branch_that_takes_no_writes_and_goes_when_idle() -> Result<()> {
    let sleepers = Sleepers::after("3s")?;
    let (lsn, time) = add(&sleepers)?;
    // Accounts of a moment have the passwords that they had then: the owner decides.
    let (code, message) = refused(sleepers.connect(&format!("app@main~{time}")))?;
    ensure!(
        code == 1049 && message.contains("--moments on"),
        "{message}"
    );
    allow(&sleepers, "main")?;
    std::thread::sleep(Duration::from_millis(1500));
    add(&sleepers)?;

    let mut now = sleepers.connect("app")?;
    assert_eq!(rows(&mut now)?, Some(2));
    let mut then = sleepers.connect(&format!("app@main~{time}"))?;
    assert_eq!(rows(&mut then)?, Some(1));
    let error = then.query_drop("INSERT INTO t (v) VALUES ('y')");
    ensure!(error.is_err_and(|error| error.to_string().contains("read-only")));
    let shown = moments(&sleepers)?;
    let [(_, pid, at)] = &shown[..] else {
        anyhow::bail!("{shown:?}");
    };
    ensure!(*at >= lsn);
    // Who means the same moment gets the same compute, however it is written.
    let mut same = sleepers.connect(&format!("app@main~{at}"))?;
    assert_eq!(rows(&mut same)?, Some(1));
    same.query_drop("SET @mine = 7")?;
    assert_eq!(moments(&sleepers)?, shown);
    drop(then);

    wait_until("the compute is gone", Duration::from_secs(30), || {
        Ok(moments(&sleepers)?.is_empty())
    })
    .with_context(|| sleepers.log())?;
    let all = sleepers.project.json(&["branch", "ls", "--all"])?;
    let leases = all.as_array().context("no list")?.iter();
    assert_eq!(leases.filter(|branch| branch["lease"] == true).count(), 0);
    // A client that has stayed finds its moment and its session.
    let mine: Option<(usize, u64)> = same.query_first("SELECT COUNT(*), @mine FROM t")?;
    assert_eq!(mine, Some((1, 7)));
    let again = moments(&sleepers)?;
    ensure!(
        again.len() == 1 && again[0].1 != *pid && again[0].2 == *at,
        "{again:?}"
    );
    Ok(())
}

#[test]
fn a_compute_at_a_moment_may_die() -> Result<()> {
    let sleepers = Sleepers::after("0s")?;
    allow(&sleepers, "main")?;
    let (lsn, _) = add(&sleepers)?;
    let mut conn = sleepers.connect(&format!("app@main~{lsn}"))?;
    conn.query_drop("SET time_zone = '+03:00'")?;
    // The gateway knows the account soon.
    std::thread::sleep(Duration::from_secs(2));
    let (name, _, _) = moments(&sleepers)?.pop().context("no compute")?;
    sleepers.kill(&name)?;
    // Between two statements, and not while one is on its way.
    std::thread::sleep(Duration::from_millis(500));
    let zone: Option<String> = conn.query_first("SELECT @@time_zone")?;
    assert_eq!(zone.as_deref(), Some("+03:00"), "{}", sleepers.log());
    // The directory and the lease of the one that has died go.
    wait_until("it is removed", Duration::from_secs(30), || {
        let shown = moments(&sleepers)?;
        Ok(shown.len() == 1 && shown[0].0 != name)
    })?;
    // A moment before a branch was created is one of its parent.
    sleepers.project.xylem(&["branch", "create", "dev"])?;
    allow(&sleepers, "dev")?;
    let mut dev = sleepers.connect(&format!("app@dev~{lsn}"))?;
    assert_eq!(rows(&mut dev)?, Some(1));
    // It does not keep its branch from being removed, nor outlive the gateway.
    sleepers.project.xylem(&["branch", "rm", "dev", "--yes"])?;
    assert_eq!(moments(&sleepers)?.len(), 1);
    drop((dev, conn));
    sleepers
        .project
        .xylem(&["up", "--detach", "--gateway", "off"])?;
    assert_eq!(moments(&sleepers)?.len(), 0);
    Ok(())
}

#[test]
fn a_moment_that_is_none_is_an_error_that_says_why() -> Result<()> {
    let sleepers = Sleepers::after("0s")?;
    allow(&sleepers, "main")?;
    for (user, words) in [
        ("app@main~9999999999999", "outside the history"),
        ("app@main~2020-01-01T00:00Z", "outside the history"),
        ("app@main~tomorrow", "neither an LSN nor a time"),
        (
            "app@nobody~5min",
            "Unknown branch 'nobody'; there are: main",
        ),
        ("app@~5min", "Unknown branch ''"),
    ] {
        let (code, message) = refused(sleepers.connect(user))?;
        ensure!(
            code == 1049 && message.contains(words),
            "{user}: {code} {message}"
        );
    }
    ensure!(moments(&sleepers)?.is_empty());
    Ok(())
}
