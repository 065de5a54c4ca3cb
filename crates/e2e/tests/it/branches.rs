//! Branches with their own computes: of a database under load, of other branches,
//! restored, killed.

use anyhow::{Context, Result};
use serde_json::Value;
use std::time::{Duration, Instant};
use xylem_e2e::sysbench::{Load, finish};
use xylem_e2e::{Project, kill, wait_until};

fn number(value: &Value, field: &str) -> Result<u64> {
    value[field]
        .as_u64()
        .with_context(|| format!("no {field} in {value}"))
}

#[test]
fn a_branch_of_a_database_under_load_goes_its_own_way() -> Result<()> {
    let load = Load {
        tables: 4,
        rows: 10_000,
        threads: 4,
        seconds: 8,
        rate: None,
    };
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE sbtest")?;
    load.prepare(&project.login()?)?;
    let running = load.start(&project.login()?, "oltp_read_write")?;
    wait_until("load to run", Duration::from_secs(20), || {
        Ok(project.status_on::<u64>("main", "Com_commit")? > 200)
    })?;
    let started = Instant::now();
    let dev = project.json(&["branch", "create", "dev"])?;
    let created = started.elapsed();
    assert_eq!(dev["parent"], "main");
    let lsn = number(&dev, "branch_point_lsn")?;
    let started = Instant::now();
    project.sql_on("dev", "SELECT 1")?;
    println!(
        "branch created in {created:?}, first query after {:?}",
        started.elapsed()
    );
    // Two computes read what was committed at that moment: one rolls open transactions
    // back and can write, the other is read-only.
    let reader = project.json(&[
        "compute",
        "start",
        "main",
        "--read-only",
        "--at",
        &lsn.to_string(),
    ])?;
    assert_eq!(
        (
            &reader["name"],
            &reader["read_only"],
            number(&reader, "lsn")?
        ),
        (&"main@1".into(), &true.into(), lsn)
    );
    let past = project.checksums_on("dev", "sbtest")?;
    assert_eq!(project.checksums_on("main@1", "sbtest")?, past);
    assert_eq!(project.check_on("dev", "sbtest")?, Vec::<String>::new());

    // Both write concurrently.
    let own = load.start(&project.login_to("dev")?, "oltp_read_write")?;
    println!("{}\n{}", finish(running)?, finish(own)?);
    let (main, dev) = (
        project.checksums("sbtest")?,
        project.checksums_on("dev", "sbtest")?,
    );
    assert!(main != past && dev != past && main != dev);
    assert_eq!(project.check("sbtest")?, Vec::<String>::new());
    assert_eq!(project.check_on("dev", "sbtest")?, Vec::<String>::new());
    // Each branch keeps its own rows, and earlier moments stay unchanged.
    let again = project.json(&[
        "compute",
        "start",
        "dev",
        "--read-only",
        "--at",
        &lsn.to_string(),
    ])?;
    assert_eq!(again["name"], "dev@1");
    for _ in 0..2 {
        assert_eq!(project.checksums("sbtest")?, main);
        assert_eq!(project.checksums_on("dev", "sbtest")?, dev);
        assert_eq!(project.checksums_on("main@1", "sbtest")?, past);
        assert_eq!(project.checksums_on("dev@1", "sbtest")?, past);
    }
    // A new compute elsewhere sees the same.
    project.xylem(&["compute", "kill", "dev"])?;
    std::fs::remove_dir_all(project.dir().join("computes/dev"))?;
    assert_eq!(project.checksums_on("dev", "sbtest")?, dev);
    Ok(())
}

#[test]
fn branches_of_branches_keep_what_each_had() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE d; USE d; CREATE TABLE d.t (a INT PRIMARY KEY); INSERT INTO d.t VALUES (0)")?;
    let mut from = "main".to_owned();
    for depth in 1..5 {
        let name = format!("b{depth}");
        project.xylem(&["branch", "create", &name, "--from", &from])?;
        project.sql_on(
            &name,
            &format!(
                "INSERT INTO d.t VALUES ({depth}); CREATE TABLE d.only{depth} (x INT); \
                 DROP TABLE IF EXISTS d.only{}",
                depth - 1
            ),
        )?;
        from = name;
    }
    project.sql("INSERT INTO d.t VALUES (100)")?;
    let expect = |depth: i32| -> String { (0..=depth).map(|n| format!("{n}\n")).collect() };
    for round in 0..2 {
        for depth in 1..5 {
            let name = format!("b{depth}");
            let rows = project.sql_on(&name, "SELECT a FROM d.t ORDER BY a")?;
            assert_eq!(rows, expect(depth), "{name}, round {round}");
            let tables = project.sql_on(&name, "SHOW TABLES IN d LIKE 'only%'")?;
            assert_eq!(tables.trim(), format!("only{depth}"), "{name}");
        }
        assert_eq!(project.sql("SELECT a FROM d.t ORDER BY a")?, "0\n100\n");
        assert_eq!(project.sql("SHOW TABLES IN d LIKE 'only%'")?, "");
        project.xylem(&["down"])?;
        project.start()?;
    }
    let tree = project.xylem(&["branch", "show"])?;
    assert!(tree.contains("└─ b1") && tree.contains("└─ b4"), "{tree}");
    let out = project.try_xylem(&["branch", "rm", "b3", "--yes"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1));
    assert!(said.contains("b4"), "{said}");
    for name in ["b4", "b3"] {
        project.xylem(&["branch", "rm", name, "--yes"])?;
        assert!(!project.dir().join("computes").join(name).exists());
    }
    let out = project.try_xylem(&["sql", "b2x", "-e", "SELECT 1"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("did you mean b2"), "{said}");
    Ok(())
}

/// Rows of `d.t`, and a later mistake.
fn mistake(project: &Project) -> Result<(u64, std::collections::BTreeMap<String, String>)> {
    project.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE d.t (a INT PRIMARY KEY, b VARCHAR(100)); \
         INSERT INTO d.t SELECT seq, REPEAT(seq, 10) FROM seq_1_to_5000",
    )?;
    let good = project.checksums("d")?;
    let lsn = number(&project.branch("main")?, "last_lsn")?;
    Ok((lsn, good))
}

#[test]
fn a_dropped_table_comes_back_and_nothing_is_lost() -> Result<()> {
    let project = Project::up("16MiB")?;
    let (lsn, good) = mistake(&project)?;
    project.sql("CREATE TABLE d.later (a INT PRIMARY KEY); DROP TABLE d.t")?;
    let later = project.checksums("d")?;
    let before = project.compute()?;
    let restored = project.json(&["branch", "restore", "main", "--at", &lsn.to_string()])?;
    assert_eq!(restored["name"], "main");
    assert_eq!(number(&restored, "branch_point_lsn")?, lsn);
    // The compute was running, and runs again at the same address.
    let after = project.compute()?;
    assert_eq!(after["state"], "running");
    assert_eq!(
        (&after["port"], &after["socket"]),
        (&before["port"], &before["socket"])
    );
    assert_eq!(project.checksums("d")?, good);
    project.sql("INSERT INTO d.t VALUES (5001, 'x')")?;
    let kept = restored["kept"]["name"].as_str().context("no kept")?;
    assert!(kept.starts_with("main-before-"), "{kept}");
    assert_eq!(project.checksums_on(kept, "d")?, later);
    // Undo the restore by renaming.
    project.xylem(&["branch", "rename", "main", "tried"])?;
    project.xylem(&["branch", "rename", kept, "main"])?;
    assert_eq!(project.checksums("d")?, later);
    assert_eq!(
        project.sql_on("tried", "SELECT COUNT(*) FROM d.t")?,
        "5001\n"
    );
    // The error for an invalid moment gives the valid range.
    let out = project.try_xylem(&["branch", "restore", "main", "--at", "5"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1));
    assert!(said.contains("from LSN 12288"), "{said}");
    assert_eq!(project.checksums("d")?, later, "it was left alone");
    Ok(())
}

#[test]
fn killed_with_branches_around_everything_is_there() -> Result<()> {
    let load = Load {
        tables: 2,
        rows: 5_000,
        threads: 4,
        seconds: 30,
        rate: None,
    };
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE sbtest")?;
    load.prepare(&project.login()?)?;
    let past = project.checksums("sbtest")?;
    project.xylem(&["branch", "create", "dev"])?;
    project.xylem(&["compute", "start", "dev"])?;
    project.xylem(&["compute", "start", "main", "--read-only"])?;
    for round in 0..3 {
        let running =
            ["main", "dev"].map(|name| load.start(&project.login_to(name)?, "oltp_read_write"));
        wait_until("load to run", Duration::from_secs(20), || {
            Ok(project.status_on::<u64>("dev", "Com_commit")? > 50)
        })?;
        let new = format!("r{round}");
        project.xylem(&["branch", "create", &new, "--from", "dev"])?;
        if round != 1 {
            project.kill_server()?;
        }
        for name in ["main", "dev", "main@1"] {
            let pid = number(&project.compute_named(name)?, "pid")?;
            kill(i32::try_from(pid)?)?;
        }
        for running in running {
            assert!(finish(running?).is_err(), "sysbench must notice");
        }
        project.start()?;
        for name in ["main", "dev", &new] {
            assert_eq!(
                project.check_on(name, "sbtest")?,
                Vec::<String>::new(),
                "{name}, round {round}"
            );
        }
        // A reader shows the same data after a restart.
        assert_eq!(project.compute_named("main@1")?["state"], "crashed");
        assert_eq!(
            project.checksums_on("main@1", "sbtest")?,
            past,
            "round {round}"
        );
    }
    project.xylem(&["down"])?;
    project.start()?;
    let rows = project.json(&["branch", "ls", "--all"])?;
    let names: Vec<&str> = rows
        .as_array()
        .context("rows")?
        .iter()
        .filter_map(|row| row["name"].as_str())
        .collect();
    assert_eq!(names, ["dev", "main", "r0", "r1", "r2"]);
    Ok(())
}
