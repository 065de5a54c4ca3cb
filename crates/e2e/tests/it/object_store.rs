//! Projects in an object store, a real S3 server: what survives the loss of this machine's
//! disk.

use crate::stock::{SCHEMA, Stock, ask, assert_same, import, sums, up};
use anyhow::{Context, Result};
use std::process::Command;
use std::time::{Duration, Instant};
use xylem_e2e::{Project, kill};
use xylem_objects::testing::S3Server;

/// The machine is lost with its disk.
fn lose_machine(project: &Project) -> Result<()> {
    for pid in pids(project)? {
        kill(i32::try_from(pid)?)?;
    }
    std::fs::remove_dir_all(project.dir().join("server"))?;
    std::fs::remove_dir_all(project.dir().join("computes"))?;
    Ok(())
}

fn pids(project: &Project) -> Result<Vec<i64>> {
    let status = project.json(&["status"])?;
    let mut pids = vec![status["server"]["pid"].as_i64().context("no server")?];
    let computes = status["computes"].as_array().context("no computes")?;
    pids.extend(computes.iter().filter_map(|c| c["pid"].as_i64()));
    Ok(pids)
}

#[test]
fn nothing_acknowledged_is_lost_with_all_local_directories() -> Result<()> {
    let s3 = S3Server::shared()?;
    let url = s3.place();
    let args = ["--object-store", &url, "--wal-store", "object"];
    let project = Project::with(s3.env(), &args)?;
    project.up_in_place("16MiB")?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY, b TEXT)")?;
    project.sql("INSERT INTO d.t SELECT seq, REPEAT('x', 500) FROM d.seq_1_to_2000")?;
    project.xylem(&["branch", "create", "dev"])?;
    project.sql_on(
        "dev",
        "DELETE FROM d.t WHERE a > 1000; CREATE TABLE d.dev (a INT)",
    )?;
    project.xylem(&["branch", "create", "older", "--from", "dev"])?;
    for round in 0..3 {
        project.sql_on("dev", &format!("INSERT INTO d.dev VALUES ({round})"))?;
        project.sql(&format!("UPDATE d.t SET b = 'round {round}' WHERE a <= 10"))?;
        let main = project.checksums("d")?;
        let dev = project.checksums_on("dev", "d")?;
        lose_machine(&project)?;
        project.xylem(&["up", "--detach"])?;
        assert_eq!(project.checksums("d")?, main, "round {round}");
        assert_eq!(project.checksums_on("dev", "d")?, dev, "round {round}");
        assert_eq!(
            project.sql_on("older", "SELECT COUNT(*) FROM d.t")?.trim(),
            "1000"
        );
        assert_eq!(project.check("d")?, Vec::<String>::new());
    }
    project.xylem(&["branch", "rm", "older", "--yes"])?;
    Ok(())
}

fn epoch_of(project: &Project) -> Result<i64> {
    let branch = project.json(&["branch", "show", "main"])?;
    branch["epoch"].as_i64().context("no epoch")
}

/// The age at which a commit must be in the copy of a local WAL.
const INTERVAL: Duration = Duration::from_millis(1500);

#[test]
fn with_a_local_log_no_more_than_the_interval_is_lost() -> Result<()> {
    let s3 = S3Server::shared()?;
    let url = s3.place();
    let interval = format!("{}ms", INTERVAL.as_millis());
    let args = ["--object-store", &url, "--wal-backup", &interval];
    let project = Project::with(s3.env(), &args)?;
    project.up_in_place("16MiB")?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY, b TEXT)")?;
    project.sql("INSERT INTO d.t SELECT seq, REPEAT('x', 500) FROM d.seq_1_to_2000")?;
    project.sql("CREATE TABLE d.ticks (n INT PRIMARY KEY)")?;
    project.xylem(&["branch", "create", "dev"])?;
    project.sql_on(
        "dev",
        "DELETE FROM d.t WHERE a > 1000; CREATE TABLE d.dev (a INT)",
    )?;
    let mut next = 0;
    for round in 0..3 {
        let epoch = epoch_of(&project)?;
        let dev = project.checksums_on("dev", "d")?;
        // Commits before now are older than the interval at the end. Of later commits,
        // the newest ones are lost.
        project.sql(&format!("UPDATE d.t SET b = 'round {round}' WHERE a <= 10"))?;
        let mut committed = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < INTERVAL * 2 {
            project.sql(&format!("INSERT INTO d.ticks VALUES ({next})"))?;
            committed.push((Instant::now(), next));
            next += 1;
        }
        let end = Instant::now();
        lose_machine(&project)?;
        // A start without --restore-wal is refused.
        let refused = project.try_xylem(&["up", "--detach"])?;
        assert!(!refused.status.success());
        let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            refused.contains("--restore-wal") && refused.contains("another disk"),
            "{refused}"
        );
        project.xylem(&["up", "--detach", "--restore-wal"])?;
        let last: i64 = project
            .sql("SELECT COALESCE(MAX(n), -1) FROM d.ticks")?
            .trim()
            .parse()?;
        let kept = project.sql("SELECT COUNT(*) FROM d.ticks")?;
        assert_eq!(kept.trim(), (last + 1).to_string(), "a prefix of commits");
        let lost = committed.iter().filter(|(_, n)| *n > last).count();
        let oldest = committed.iter().find(|(_, n)| *n > last);
        let age = oldest.map(|(at, _)| end - *at).unwrap_or_default();
        println!(
            "round {round}: {lost} of {} commits lost, the oldest {age:?} old",
            committed.len()
        );
        assert!(age <= INTERVAL, "a commit that was {age:?} old is lost");
        next = last + 1;
        let rows = format!("SELECT COUNT(*) FROM d.t WHERE b = 'round {round}'");
        assert_eq!(project.sql(&rows)?.trim(), "10");
        assert_eq!(project.checksums_on("dev", "d")?, dev, "round {round}");
        assert_eq!(project.check("d")?, Vec::<String>::new());
        assert!(
            epoch_of(&project)? > epoch + 1000,
            "no epoch is given twice"
        );
        // From here on everything works as before.
        project.xylem(&["down"])?;
        project.xylem(&["up", "--detach"])?;
    }
    Ok(())
}

/// Typical operations on a project in an object store, with a local disk cache that holds
/// only a part of it.
#[test]
fn all_that_there_is_works_in_an_object_store() -> Result<()> {
    let stock = Stock::create(&[])?;
    stock.fill(SCHEMA)?;
    let server = stock.start()?;
    let there = ask(|sql| server.query(sql))?;
    server.stop()?;

    let s3 = S3Server::shared()?;
    let url = s3.place();
    let args = ["--object-store", &url, "--wal-backup", "500ms"];
    let project = Project::with(s3.env(), &args)?;
    let out = import(&project, &stock.data(), &["--object-store", &url])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    anyhow::ensure!(out.status.success(), "{said}");
    pause();
    let imported = now()?;
    pause();
    up(&project)?;
    let query = |sql: &str| project.sql(sql);
    assert_same(&there, &ask(query)?);
    project.sql("CREATE TABLE shop.orders_copy AS SELECT * FROM shop.orders")?;
    pause();
    let before = now()?;
    pause();
    project.sql("DROP TABLE shop.orders_copy; DELETE FROM shop.customer")?;

    // A time just before the mistake: as a read-only compute, as an export, and as a
    // restored branch.
    project.xylem(&["compute", "start", "main", "--read-only", "--at", &before])?;
    let rows = "SELECT COUNT(*) FROM shop.orders_copy";
    let count = project.sql_on("main@1", rows)?;
    assert_eq!(
        count,
        project.sql_on("main@1", "SELECT COUNT(*) FROM shop.orders")?
    );
    project.xylem(&["compute", "stop", "main@1"])?;
    let dir = tempfile::tempdir()?;
    let export = |at: &str, name: &str| -> Result<Stock> {
        let place = dir.path().join(name);
        project.xylem(&["export", "main", &place.to_string_lossy(), "--at", at])?;
        Stock::on(&place, &[])
    };
    let exported = export(&before, "before")?;
    let server = exported.start()?;
    assert_eq!(server.query(rows)?, count);
    server.stop()?;
    // At that time only the import had been done.
    let exported = export(&imported, "imported")?;
    let server = exported.start()?;
    assert_same(&there, &ask(|sql| server.query(sql))?);
    server.stop()?;
    project.xylem(&["branch", "restore", "main", "--at", &before])?;
    assert_eq!(project.sql(rows)?, count);

    // Branches of branches, and a scrub of the whole store.
    project.xylem(&["branch", "create", "one"])?;
    project.sql_on("one", "UPDATE shop.big SET a = 'one'")?;
    project.xylem(&["branch", "create", "two", "--from", "one"])?;
    project.sql_on("two", "DELETE FROM shop.big WHERE id % 2 = 0")?;
    let two = sums(&|sql: &str| project.sql_on("two", sql), "shop")?;
    project.xylem(&["branch", "rename", "two", "second"])?;
    project.xylem(&["down"])?;
    std::fs::remove_dir_all(project.dir().join("server/cache"))?;
    project.xylem(&["up", "--detach"])?;
    assert_same(
        &two,
        &sums(&|sql: &str| project.sql_on("second", sql), "shop")?,
    );
    let scrub = project.json(&["scrub"])?;
    assert_eq!(scrub["clean"], true, "{scrub}");
    assert!(scrub["layers"].as_u64() > Some(0), "{scrub}");
    assert_eq!(scrub["branches"], 4, "{scrub}");
    let doctor = project.json(&["doctor"])?;
    assert_eq!(doctor["verdict"], "ok", "{doctor:#}");
    Ok(())
}

/// The present time as text.
fn now() -> Result<String> {
    let out = Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%S.%NZ"])
        .output()?;
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

/// Waits for a sample of the clock that separates earlier from later commits.
fn pause() {
    #[allow(clippy::disallowed_methods, reason = "the clock must go on")]
    std::thread::sleep(Duration::from_millis(100));
}
