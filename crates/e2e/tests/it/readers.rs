//! Read-only computes: they show exactly what was committed at their moment, and refuse
//! all writes.

use anyhow::{Context, Result, ensure};
use mysql::prelude::Queryable;
use serde_json::Value;
use std::time::{Duration, Instant};
use xylem_e2e::rounds::connect_to;
use xylem_e2e::{Project, wait_until};

fn last_lsn(project: &Project) -> Result<String> {
    let branch = project.branch("main")?;
    Ok(branch["last_lsn"].as_u64().context("no LSN")?.to_string())
}

fn start(project: &Project, at: Option<&str>) -> Result<Value> {
    let mut args = vec!["compute", "start", "main", "--read-only"];
    if let Some(at) = at {
        args.extend(["--at", at]);
    }
    project.json(&args)
}

#[test]
fn readers_show_their_moment_beside_the_writer() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE d.t (a INT PRIMARY KEY, b INT); \
         INSERT INTO d.t SELECT seq, 0 FROM seq_1_to_2000",
    )?;
    let first = last_lsn(&project)?;
    project.sql("UPDATE d.t SET b = 1; CREATE TABLE d.u (a INT PRIMARY KEY)")?;
    let second = last_lsn(&project)?;
    project.sql("DELETE FROM d.t WHERE a > 1000; DROP TABLE d.u")?;

    let one = start(&project, Some(&first))?;
    let two = start(&project, Some(&second))?;
    let now = start(&project, None)?;
    for (reader, name) in [(&one, "main@1"), (&two, "main@2"), (&now, "main@3")] {
        assert_eq!(reader["name"], name);
        assert_eq!(reader["branch"], "main");
        assert_eq!(reader["state"], "running");
        assert_eq!(reader["read_only"], true);
    }
    assert_eq!(one["lsn"].to_string(), first);
    project.sql("UPDATE d.t SET b = 7")?;
    let sums = "SELECT COUNT(*), SUM(b) FROM d.t";
    for _ in 0..2 {
        assert_eq!(project.sql_on("main@1", sums)?, "2000\t0\n");
        assert_eq!(project.sql_on("main@2", sums)?, "2000\t2000\n");
        assert_eq!(project.sql_on("main@3", sums)?, "1000\t1000\n");
        assert_eq!(project.sql(sums)?, "1000\t7000\n");
        assert_eq!(project.sql_on("main@1", "SHOW TABLES IN d")?, "t\n");
        assert_eq!(project.sql_on("main@2", "SHOW TABLES IN d")?, "t\nu\n");
    }
    // The writer appears in the branch's row; readers have rows of their own.
    let rows = project.json(&["compute", "ls"])?;
    let rows = rows.as_array().context("rows")?;
    assert_eq!(rows.len(), 4);
    assert_eq!(
        (&rows[0]["name"], &rows[0]["read_only"]),
        (&"main".into(), &false.into())
    );
    // `branch ls` lists leases only on request.
    let shown = project.json(&["branch", "ls"])?;
    assert_eq!(shown.as_array().context("rows")?.len(), 1);
    assert_eq!(project.branch("main@2")?["lease"], true);

    // Stopping a reader removes it.
    let stopped = project.json(&["compute", "stop", "main@2"])?;
    assert_eq!(stopped["state"], "stopped");
    project.xylem(&["compute", "kill", "main@3"])?;
    assert!(!project.dir().join("computes/main@2").exists());
    for gone in ["main@2", "main@3"] {
        assert!(project.branch(gone).is_err(), "{gone} is still there");
        let out = project.try_xylem(&["sql", gone, "-e", "SELECT 1"])?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains("there is no read-only compute"), "{said}");
    }
    assert_eq!(project.sql_on("main@1", sums)?, "2000\t0\n");
    assert_eq!(start(&project, None)?["name"], "main@2");
    let out = project.try_xylem(&["compute", "start", "main", "--read-only", "--at", "99"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("from LSN 12288"), "{said}");
    Ok(())
}

#[test]
fn only_what_was_committed_is_seen() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE d.t (a INT PRIMARY KEY, b INT); \
         CREATE TABLE d.other (a INT PRIMARY KEY); \
         INSERT INTO d.t SELECT seq, 0 FROM seq_1_to_3000",
    )?;
    let mut open = connect_to(&project, "main")?;
    open.query_drop("USE d")?;
    open.query_drop("BEGIN")?;
    open.query_drop("UPDATE d.t SET b = 666")?;
    open.query_drop("DELETE FROM d.t WHERE a > 1500")?;
    open.query_drop("INSERT INTO d.t SELECT seq, 666 FROM seq_5001_to_7000")?;
    let mut prepared = connect_to(&project, "main")?;
    prepared.query_drop("XA START 'x'")?;
    prepared.query_drop("INSERT INTO d.other VALUES (1)")?;
    prepared.query_drop("XA END 'x'")?;
    prepared.query_drop("XA PREPARE 'x'")?;
    // A commit makes the redo of all statements durable.
    project.sql("INSERT INTO d.other VALUES (77)")?;
    let lsn = last_lsn(&project)?;
    open.query_drop("COMMIT")?;
    prepared.query_drop("XA COMMIT 'x'")?;

    start(&project, Some(&lsn))?;
    project.xylem(&["branch", "create", "dev", "--at", &lsn])?;
    let sums = "SELECT COUNT(*), SUM(b), MAX(a) FROM d.t";
    for name in ["main@1", "dev"] {
        // Also while open transactions are being rolled back.
        for _ in 0..3 {
            assert_eq!(project.sql_on(name, sums)?, "3000\t0\t3000\n", "{name}");
            assert_eq!(project.sql_on(name, "SELECT a FROM d.other")?, "77\n");
        }
        assert_eq!(project.check_on(name, "d")?, Vec::<String>::new());
    }
    // A prepared transaction is not committed by a reader.
    let recovered = project.sql_on("main@1", "XA RECOVER")?;
    assert!(recovered.contains('x'), "{recovered}");
    project.sql_error_on("main@1", "XA COMMIT 'x'")?;
    assert_eq!(project.sql_on("main@1", "SELECT a FROM d.other")?, "77\n");
    assert_eq!(project.sql(sums)?, "3500\t2331000\t7000\n");
    Ok(())
}

#[test]
fn nobody_writes_on_a_reader() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE d.t (a INT PRIMARY KEY); INSERT INTO d.t VALUES (1); \
         CREATE USER 'o''dd'@'%' IDENTIFIED BY 'x'; GRANT ALL ON *.* TO 'o''dd'@'%' WITH GRANT OPTION; \
         CREATE ROLE boss; GRANT ALL ON *.* TO boss; \
         INSERT INTO mysql.global_priv VALUES ('some.host', 'ann', '{\"access\":18446744073709551615}'); \
         CREATE PROCEDURE d.writes() SQL SECURITY DEFINER INSERT INTO d.t VALUES (5); \
         CREATE EVENT d.ev ON SCHEDULE EVERY 1 SECOND DO REPLACE INTO d.t VALUES (99)",
    )?;
    start(&project, None)?;
    let before = project.sql_on("main@1", "SELECT a FROM d.t")?;
    for sql in [
        "INSERT INTO d.t VALUES (2)",
        "UPDATE d.t SET a = 5",
        "UPDATE d.t x, d.t y SET x.a = 6",
        "DELETE FROM d.t",
        "TRUNCATE d.t",
        "CREATE TABLE d.u (a INT)",
        "DROP TABLE d.t",
        "ALTER TABLE d.t ADD b INT",
        "RENAME TABLE d.t TO d.t9",
        "OPTIMIZE LOCAL TABLE d.nothing, d.t; DROP TABLE d.t",
        "CREATE DATABASE e",
        "DROP DATABASE d",
        "CREATE USER foo",
        "GRANT READ ONLY ADMIN ON *.* TO root@localhost",
        "SET PASSWORD = PASSWORD('abc')",
        "SET GLOBAL read_only = 0",
        "SET ROLE boss; INSERT INTO d.t VALUES (2)",
        "SET ROLE boss; SET GLOBAL read_only = 0",
        "CALL d.writes()",
        "LOCK TABLES d.t WRITE",
        "CREATE PROCEDURE d.p() SELECT 1",
        "CREATE SEQUENCE d.sq",
        "CREATE VIEW d.v AS SELECT 1",
        "INSTALL SONAME 'ha_archive'",
        "ALTER TABLE d.t DISCARD TABLESPACE",
    ] {
        let error = project.sql_error_on("main@1", sql)?;
        assert!(
            ["read-only", "READ_ONLY", "disabled", "DISABLED", "denied"]
                .iter()
                .any(|word| error.contains(word)),
            "{sql}: {error}"
        );
    }
    // Also as a user who is no longer exempt.
    let compute = project.compute_named("main@1")?;
    let socket = compute["socket"].as_str().context("no socket")?;
    let options = mysql::OptsBuilder::new()
        .socket(Some(socket))
        .user(Some("o'dd"))
        .pass(Some("x"));
    let mut odd = mysql::Conn::new(options)?;
    for sql in ["INSERT INTO d.t VALUES (2)", "SET GLOBAL read_only = 0"] {
        assert!(odd.query_drop(sql).is_err(), "{sql}");
    }
    // Temporary tables are private to their session.
    let sum = project.sql_on(
        "main@1",
        "CREATE TEMPORARY TABLE d.tmp (a INT PRIMARY KEY) ENGINE=InnoDB; \
         INSERT INTO d.tmp SELECT a FROM d.t; UPDATE d.tmp SET a = a + 1 ORDER BY a DESC; \
         SELECT COUNT(*) FROM d.tmp",
    )?;
    assert_eq!(sum.trim().parse::<usize>()?, before.lines().count());
    assert_eq!(project.sql_on("main@1", "SELECT a FROM d.t")?, before);
    // The branch is unchanged.
    project.sql_on("main", "INSERT INTO d.t VALUES (1000)")?;
    assert_eq!(project.sql_on("main@1", "SELECT a FROM d.t")?, before);
    Ok(())
}

#[test]
fn a_reader_starts_about_as_fast_as_a_writer() -> Result<()> {
    // It takes a branch, too, and finds no page cache.
    const LIMIT: u32 = 3;
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE d; USE d; CREATE TABLE d.t (a INT PRIMARY KEY)")?;
    let mut writer = Duration::MAX;
    let mut reader = Duration::MAX;
    // The best of several, because other tests run at the same time: at most 20, until enough.
    for round in 0..20 {
        project.xylem(&["compute", "stop", "main"])?;
        let started = Instant::now();
        project.xylem(&["compute", "start", "main"])?;
        writer = writer.min(started.elapsed());
        let started = Instant::now();
        project.xylem(&["compute", "start", "main", "--read-only"])?;
        reader = reader.min(started.elapsed());
        project.xylem(&["compute", "stop", "main@1"])?;
        if round >= 4 && reader < writer * LIMIT {
            break;
        }
    }
    println!("a writer starts in {writer:?}, a reader in {reader:?}");
    assert!(reader < writer * LIMIT, "{reader:?} and {writer:?}");
    Ok(())
}

/// The query by which `mariadb-dump --events` reads events.
#[test]
fn events_are_shown_and_do_not_run() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql(
        "SET GLOBAL event_scheduler = ON; CREATE DATABASE d; USE d; \
         CREATE TABLE d.t (a INT PRIMARY KEY AUTO_INCREMENT); \
         CREATE EVENT d.e ON SCHEDULE EVERY 1 SECOND DO INSERT INTO d.t VALUES (NULL)",
    )?;
    wait_until("the event to run", Duration::from_secs(60), || {
        Ok(project.sql("SELECT COUNT(*) > 0 FROM d.t")? == "1\n")
    })?;
    start(&project, None)?;
    let shown = project.sql_on("main@1", "SHOW CREATE EVENT d.e; SHOW EVENTS IN d")?;
    ensure!(shown.contains("EVERY 1 SECOND"), "{shown}");
    let scheduler = "SELECT @@event_scheduler, COUNT(*) FROM information_schema.processlist \
                     WHERE user = 'event_scheduler'";
    assert_eq!(project.sql_on("main@1", scheduler)?, "OFF\t0\n");
    Ok(())
}

/// SUPER suffices to switch the event scheduler on. MariaDB records executions in
/// `mysql.event`, which is local to the reader; writes of events are refused.
#[test]
fn events_that_run_all_the_same_write_nothing() -> Result<()> {
    const WRITES: [&str; 8] = [
        "INSERT INTO d.t VALUES (NULL)",
        "UPDATE d.t SET a = a + 1000",
        "DELETE FROM d.t",
        "CALL d.writes()",
        "CREATE OR REPLACE TABLE d.u (a INT)",
        "CREATE OR REPLACE VIEW d.v AS SELECT 1",
        "SET GLOBAL read_only = 0",
        "TRUNCATE d.t",
    ];
    let project = Project::up("16MiB")?;
    // Readers allow setting a variable, in which the event counts refused writes.
    let event = |begins: &str, tells: &str| {
        format!(
            "ON SCHEDULE {begins} DO BEGIN DECLARE n INT DEFAULT 1000; \
             DECLARE CONTINUE HANDLER FOR SQLEXCEPTION SET n = n + 1; {}; \
             SET GLOBAL {tells} = n; END",
            WRITES.join("; ")
        )
    };
    let (often, once) = ("slow_launch_time", "net_retry_count");
    let script = project.dir().join("events.sql");
    let tomorrow = "AT CURRENT_TIMESTAMP + INTERVAL 1 DAY";
    std::fs::write(
        &script,
        format!(
            "CREATE DATABASE d; USE d; CREATE TABLE t (a INT PRIMARY KEY AUTO_INCREMENT);\n\
             INSERT INTO t VALUES (1), (2), (3);\n\
             CREATE PROCEDURE writes() SQL SECURITY DEFINER INSERT INTO d.t VALUES (NULL);\n\
             CREATE USER other@localhost; GRANT ALL ON *.* TO other@localhost;\n\
             DELIMITER //\n\
             CREATE EVENT often {} //\n\
             CREATE DEFINER = other@localhost EVENT once {} //\n\
             CREATE EVENT later ON SCHEDULE {tomorrow} DO DELETE FROM d.t //\n",
            event("EVERY 1 SECOND", often),
            event("AT CURRENT_TIMESTAMP + INTERVAL 1 SECOND", once)
        ),
    )?;
    project.sql(&format!("source {}", script.display()))?;
    start(&project, None)?;
    let sums = "SELECT COUNT(*), SUM(a) FROM d.t; SHOW FULL TABLES IN d; SELECT @@read_only";
    let expected = "3\t6\nt\tBASE TABLE\n1\n";
    assert_eq!(project.sql_on("main@1", sums)?, expected);
    project.sql_on("main@1", "SET GLOBAL event_scheduler = ON")?;
    for tells in [often, once] {
        let (want, mut told) = (format!("{}\n", 1000 + WRITES.len()), String::new());
        wait_until("an event to run", Duration::from_secs(120), || {
            told = project.sql_on("main@1", &format!("SELECT @@GLOBAL.{tells}"))?;
            Ok(told.len() == want.len())
        })?;
        assert_eq!(told, want, "{tells}");
        assert_eq!(project.sql_on("main@1", sums)?, expected);
    }
    let log = project.dir().join("computes/main@1/mariadbd.log");
    let log = std::fs::read_to_string(log)?;
    assert!(!log.contains("[FATAL]"), "{log}");

    for sql in [
        "CREATE EVENT d.more ON SCHEDULE EVERY 1 HOUR DO DELETE FROM d.t",
        "CREATE OR REPLACE EVENT d.often ON SCHEDULE EVERY 1 HOUR DO DELETE FROM d.t",
        "ALTER EVENT d.often ENABLE",
        "ALTER EVENT d.often DISABLE",
        "ALTER EVENT d.often RENAME TO d.seldom",
        "ALTER EVENT d.later ON SCHEDULE EVERY 1 SECOND",
        "DROP EVENT d.often",
        "DROP DATABASE d",
    ] {
        let error = project.sql_error_on("main@1", sql)?;
        assert!(error.contains("read-only"), "{sql}: {error}");
    }
    let names = "SELECT event_name, status FROM information_schema.events ORDER BY 1";
    assert_eq!(
        project.sql_on("main@1", names)?,
        "later\tENABLED\noften\tENABLED\n"
    );
    project.sql_on("main@1", "SET GLOBAL event_scheduler = OFF")?;
    assert_eq!(project.sql_on("main@1", sums)?, expected);

    // The branch is unaffected.
    assert_eq!(
        project.sql(names)?,
        "later\tENABLED\noften\tENABLED\nonce\tENABLED\n"
    );
    let ran = "SELECT COUNT(last_executed) FROM information_schema.events";
    assert_eq!(project.sql(ran)?, "0\n");
    assert_eq!(
        project.sql("SELECT COUNT(*), SUM(a) FROM d.t; SHOW TABLES IN d")?,
        "3\t6\nt\n"
    );
    Ok(())
}
