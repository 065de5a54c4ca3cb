//! Scans of cold data request leaves ahead of need, in the order of the index and not of
//! the file.

use anyhow::{Result, ensure};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use xylem_e2e::Project;

/// Reads that a thread waited for, and reads ahead of need.
fn reads(project: &Project, sql: &str) -> Result<(u64, u64)> {
    let value = |name: &str| project.status_on("main", &format!("Innodb_page_server_{name}"));
    let both = || -> Result<(u64, u64)> { Ok((value("pages_read")?, value("pages_read_async")?)) };
    let before = both()?;
    project.sql(sql)?;
    let after = both()?;
    Ok((after.0 - before.0, after.1 - before.1))
}

/// A server with a buffer pool of 64 MiB, without a page cache. Tables of more than 40
/// MiB: `t`, whose leaves are in the file in another order than in the primary key, with
/// an index on `b`.
fn filled() -> Result<Project> {
    let project = Project::with(Vec::new(), &["--page-cache", "0"])?;
    project.up_in_place("64MiB")?;
    project.sql(
        "CREATE DATABASE d; USE d; \
         CREATE TABLE t (a BINARY(16) PRIMARY KEY, b INT NOT NULL, \
                         c VARBINARY(1000) NOT NULL, KEY (b)); \
         INSERT INTO t SELECT UNHEX(MD5(seq)), seq * 7 % 40009, RANDOM_BYTES(900) \
         FROM seq_1_to_40000",
    )?;
    Ok(project)
}

/// Restarts the compute, which begins with an empty buffer pool.
fn restart(project: &Project) -> Result<()> {
    project.sql("SET GLOBAL innodb_buffer_pool_dump_at_shutdown = OFF")?;
    project.xylem(&["compute", "stop", "main"])?;
    project.xylem(&["compute", "start", "main"])?;
    // Pages that every start and every connection read.
    project.sql("SELECT COUNT(*) FROM d.t WHERE a = UNHEX(MD5(1))")?;
    Ok(())
}

#[test]
fn a_scan_waits_for_few_of_the_pages_that_it_reads() -> Result<()> {
    let project = filled()?;
    restart(&project)?;
    let (waited, ahead) = reads(&project, "SELECT SUM(LENGTH(c)) FROM d.t")?;
    ensure!(
        ahead > 2400 && waited < ahead / 20,
        "{waited} waited, {ahead} ahead"
    );

    // What a short range needs, and hardly more.
    restart(&project)?;
    let short = "SELECT SUM(LENGTH(c)) FROM (SELECT c FROM d.t ORDER BY a LIMIT 20) AS s";
    let (waited, ahead) = reads(&project, short)?;
    ensure!(waited + ahead < 20, "{waited} waited, {ahead} ahead");

    // An index other than the primary key, a build of an index, and a check.
    restart(&project)?;
    let (waited, ahead) = reads(&project, "SELECT SUM(b) FROM d.t FORCE INDEX (b)")?;
    ensure!(ahead > 20 && waited < 15, "{waited} waited, {ahead} ahead");
    restart(&project)?;
    let (waited, ahead) = reads(&project, "ALTER TABLE d.t ADD KEY k (b, a)")?;
    ensure!(
        ahead > 2400 && waited < ahead / 20,
        "{waited} waited, {ahead} ahead"
    );
    restart(&project)?;
    let (waited, ahead) = reads(&project, "CHECK TABLE d.t")?;
    ensure!(
        ahead > 2400 && waited < ahead / 20,
        "{waited} waited, {ahead} ahead"
    );

    // Nothing is requested ahead when that is turned off.
    restart(&project)?;
    project.sql("SET GLOBAL innodb_page_server_read_ahead = 0")?;
    let (waited, ahead) = reads(&project, "SELECT SUM(LENGTH(c)) FROM d.t")?;
    ensure!(
        waited > 2000 && ahead < 200,
        "{waited} waited, {ahead} ahead"
    );

    // A small buffer pool evicts the pages that name the leaves, again and again.
    project.xylem(&["compute", "stop", "main"])?;
    project.xylem(&[
        "up",
        "--detach",
        "--buffer-pool",
        "16MiB",
        "--page-cache",
        "0",
    ])?;
    restart(&project)?;
    let (waited, ahead) = reads(&project, "SELECT SUM(LENGTH(c)) FROM d.t")?;
    ensure!(
        ahead > 2000 && waited < ahead / 2,
        "{waited} waited, {ahead} ahead"
    );
    Ok(())
}

/// The pages that name the leaves are split and merged while scans walk along them.
#[test]
fn scans_see_every_row_while_pages_are_split_and_merged() -> Result<()> {
    let project = Project::with(Vec::new(), &["--page-cache", "0"])?;
    project.up_in_place("16MiB")?;
    project.sql(
        "CREATE DATABASE d; USE d; \
         CREATE TABLE t (a BINARY(16) PRIMARY KEY, b INT NOT NULL, c VARBINARY(1000) NOT NULL); \
         INSERT INTO t SELECT UNHEX(MD5(seq)), 1, RANDOM_BYTES(900) FROM seq_1_to_30000",
    )?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| -> Result<()> {
            let mut round = 0;
            while !stop.load(Ordering::Acquire) {
                round += 1;
                project.sql(&format!(
                    "USE d; INSERT INTO t SELECT UNHEX(MD5(CONCAT({round}, '-', seq))), 0, \
                     RANDOM_BYTES(900) FROM seq_1_to_2000; \
                     DELETE FROM t WHERE b = 0"
                ))?;
            }
            Ok(())
        });
        let scans = || -> Result<()> {
            for _ in 0..12 {
                let rows = project.sql("SELECT SUM(b) FROM d.t")?;
                ensure!(rows.trim() == "30000", "{rows}");
            }
            Ok(())
        };
        let scanned = scans();
        stop.store(true, Ordering::Release);
        writer
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        scanned
    })?;
    ensure!(project.check("d")? == Vec::<String>::new());
    Ok(())
}
