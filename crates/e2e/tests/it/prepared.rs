//! Transactions that were being committed at a branch point. With a binary log they are
//! prepared in InnoDB, and a binary log that the branch does not have decides their
//! outcome.
//!
//! Semi-synchronous replication without a replica holds a commit between the binary log
//! and InnoDB for as long as the test needs.

use crate::stock::Stock;
use anyhow::{Context, Result, ensure};
use mysql::prelude::Queryable;
use std::os::unix::fs::PermissionsExt;
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;
use xylem_e2e::{Project, wait_until};

/// A project whose compute writes a binary log, and the directory of the binary log.
fn with_binlog() -> Result<(Project, TempDir)> {
    let logs = tempfile::Builder::new().prefix("xylem-binlog-").tempdir()?;
    // A compute may run as another user than this test.
    std::fs::set_permissions(logs.path(), std::fs::Permissions::from_mode(0o777))?;
    let log = format!("--log-bin={}", logs.path().join("main").display());
    let project = Project::with(Vec::new(), &["--", &log, "--sync-binlog=1"])?;
    project.up_in_place("32MiB")?;
    ensure!(project.sql("SELECT @@log_bin")? == "1\n", "no binary log");
    project.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY); INSERT INTO d.t VALUES (1); \
         XA START 'ours'; INSERT INTO d.t VALUES (2); XA END 'ours'; XA PREPARE 'ours'",
    )?;
    Ok((project, logs))
}

/// Starts to commit row 3 on `main`; returns when the transaction is prepared and in the
/// binary log. The commit does not finish before [`let_go`].
fn hold_commit(project: &Project) -> Result<JoinHandle<mysql::Result<()>>> {
    project.sql(
        "SET GLOBAL rpl_semi_sync_master_timeout = 3600000, \
         rpl_semi_sync_master_wait_point = AFTER_SYNC, rpl_semi_sync_master_wait_no_slave = ON, \
         rpl_semi_sync_master_enabled = ON",
    )?;
    let login = project.login()?;
    let mut connection = mysql::Conn::new(
        mysql::OptsBuilder::new()
            .socket(login.socket.to_str())
            .user(Some(login.user))
            .pass(Some(login.password)),
    )?;
    let held = std::thread::spawn(move || connection.query_drop("INSERT INTO d.t VALUES (3)"));
    wait_until("a commit to wait", Duration::from_secs(60), || {
        Ok(project
            .sql("SHOW STATUS LIKE 'Rpl_semi_sync_master_wait_sessions'")?
            .ends_with("\t1\n"))
    })?;
    Ok(held)
}

fn let_go(project: &Project, held: JoinHandle<mysql::Result<()>>) -> Result<()> {
    project.sql("SET GLOBAL rpl_semi_sync_master_enabled = OFF")?;
    held.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    Ok(())
}

/// Rows 1 and 3, which the XA transaction did not write, and whether that transaction is
/// still prepared.
const STATE: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
     SELECT GROUP_CONCAT(a ORDER BY a) FROM d.t; XA RECOVER";
const WITHOUT: &str = "1\n1\t4\t0\tours\n";
const WITH: &str = "1,3\n1\t4\t0\tours\n";

/// Checks that no lock on the rolled-back row remains.
fn assert_rolled_back(project: &Project, compute: &str) -> Result<()> {
    wait_until("the rollback", Duration::from_secs(60), || {
        Ok(project.sql_on(compute, STATE)? == WITHOUT)
    })?;
    project.sql_on(
        compute,
        "INSERT INTO d.t VALUES (3); DELETE FROM d.t WHERE a = 3",
    )?;
    Ok(())
}

#[test]
fn what_was_being_committed_is_decided_on_every_branch() -> Result<()> {
    let (project, _logs) = with_binlog()?;
    let held = hold_commit(&project)?;

    project.xylem(&["branch", "create", "dev"])?;
    project.xylem(&["compute", "start", "dev"])?;
    assert_rolled_back(&project, "dev")?;

    let started = project.json(&["compute", "start", "main", "--read-only"])?;
    let reader = started["name"].as_str().context("no name")?;
    wait_until("the rollback", Duration::from_secs(60), || {
        Ok(project.sql_on(reader, STATE)? == WITHOUT)
    })?;

    let dir = tempfile::tempdir()?;
    let place = dir.path().join("out");
    project.xylem(&["export", "main", &place.to_string_lossy()])?;
    ensure!(
        !place.join("xylem.binlog").exists(),
        "a stock server has no use for it"
    );
    let exported = Stock::on(&place, &[])?;
    let server = exported.start_with(&["--skip-grant-tables"])?;
    assert_eq!(server.query(STATE)?, WITHOUT);
    server.stop()?;

    let lsn = project.branch("main")?["last_lsn"].to_string();
    let_go(&project, held)?;
    assert_eq!(project.sql(STATE)?, WITH);

    // Again on a new compute after the decision, and on a child of the branch.
    project.xylem(&["compute", "kill", "dev"])?;
    let data = project.compute_named("dev")?["dir"].clone();
    std::fs::remove_dir_all(data.as_str().context("no dir")?)?;
    project.xylem(&["compute", "start", "dev"])?;
    assert_rolled_back(&project, "dev")?;
    project.xylem(&["branch", "create", "further", "--from", "dev"])?;
    project.xylem(&["compute", "start", "further"])?;
    assert_eq!(project.sql_on("further", STATE)?, WITHOUT);

    // The restored branch's compute has the binary log's file, but that log describes the
    // old branch.
    project.xylem(&["branch", "restore", "main", "--at", &lsn])?;
    assert_rolled_back(&project, "main")?;
    Ok(())
}

#[test]
fn a_binary_log_of_its_own_decides() -> Result<()> {
    let (project, _logs) = with_binlog()?;
    for _ in 0..2 {
        let held = hold_commit(&project)?;
        project.lose_compute()?;
        // The transaction's connection is gone.
        let _ = held.join();
        project.xylem(&["compute", "start", "main"])?;
        assert_eq!(project.sql(STATE)?, WITH);
        project.sql("DELETE FROM d.t WHERE a = 3")?;
    }
    Ok(())
}
