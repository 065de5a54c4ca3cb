//! `xylem export`: stock MariaDB starts on an export at any LSN, finds everything and
//! continues. An interrupted export leaves nothing.

use crate::stock::{SCHEMA, Stock, ask, assert_same, check, import_done, up, wait_purged};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;
use xylem_e2e::{Project, wait_until};
use xylem_oracle::server::{Install, Server};

fn query(project: &Project) -> impl Fn(&str) -> Result<String> {
    |sql| project.sql(sql)
}

/// An imported project with a running compute. Its `root` has no password, like that of
/// the stock servers in these tests.
fn imported(options: &[&str], schema: &str) -> Result<Project> {
    let stock = Stock::create(options)?;
    stock.fill(schema)?;
    let project = Project::new()?;
    import_done(&project, &stock.data())?;
    up(&project)?;
    Ok(project)
}

/// The end of the branch: everything committed is before this LSN.
fn lsn(project: &Project) -> Result<u64> {
    let text = project.sql(
        "SELECT variable_value FROM information_schema.global_status \
         WHERE variable_name = 'Innodb_page_server_lsn_durable'",
    )?;
    Ok(text.trim().parse()?)
}

/// An export, and a stock MariaDB on it.
fn exported(project: &Project, options: &[&str], more: &[&str]) -> Result<Stock> {
    let dir = tempfile::tempdir()?;
    let place = dir.path().join("out");
    let place_text = place.to_string_lossy();
    let mut args = vec!["export", "main", &place_text];
    args.extend(more);
    let report = project.json(&args)?;
    ensure!(report["dir"] == *place_text, "{report}");
    let left = std::fs::read_dir(dir.path())?.count();
    ensure!(left == 1, "{left} things beside each other");
    Stock::on(&place, options)
}

/// Runs all checks of `mariadb-check`.
fn mariadb_check(stock: &Stock, server: &Server) -> Result<()> {
    let out = stock
        .program("mariadb-check")?
        .args([
            "--no-defaults",
            "--user=root",
            "--all-databases",
            "--extended",
        ])
        .arg(format!("--socket={}", server.socket().display()))
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(
        out.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    // CHECK TABLE does not support sequences, and prints two lines about each.
    let bad: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_end().ends_with("OK"))
        .filter(|line| *line != "shop.numbers" && !line.ends_with("doesn't support check"))
        .collect();
    ensure!(bad.is_empty(), "{bad:?}");
    ensure!(text.lines().count() > 30, "{text}");
    Ok(())
}

fn goes_there_and_back(options: &[&str], schema: &str) -> Result<()> {
    let project = imported(options, schema)?;
    project.sql(
        "CALL shop.add_order(90001, 1, 1.00); UPDATE shop.big SET a = 'changed' WHERE id < 300; \
         INSERT INTO shop.customer (name, note) VALUES ('Eve', 'a red fox'); \
         TRUNCATE TABLE shop.nokey; ALTER TABLE shop.place ADD COLUMN more INT, FORCE; \
         CREATE USER later@localhost IDENTIFIED BY 'pw'; GRANT SELECT ON shop.* TO later@localhost; \
         DELETE FROM shop.squeezed WHERE id % 3 = 0; RENAME TABLE shop.audit TO shop.history; \
         RENAME TABLE shop.history TO shop.audit",
    )?;
    let here = ask(query(&project))?;
    let stock = exported(&project, options, &[])?;
    let settings = std::fs::read_to_string(stock.data().join("xylem-export.cnf"))?;
    assert!(settings.contains("innodb_page_size"), "{settings}");
    let server = stock.start()?;
    assert_same(&here, &ask(|sql| server.query(sql))?);
    mariadb_check(&stock, &server)?;
    wait_purged(|sql| server.query(sql))?;
    assert_eq!(check(|sql| server.query(sql))?, Vec::<String>::new());
    // MariaDB's own tables have the same engines as on a stock server.
    let engines = server.query(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'mysql' \
         AND engine = 'InnoDB' ORDER BY 1",
    )?;
    assert_eq!(
        engines,
        "gtid_slave_pos\ninnodb_index_stats\ninnodb_table_stats\ntransaction_registry\n"
    );
    let grants = server.query("SHOW GRANTS FOR later@localhost")?;
    assert!(grants.contains("ON `shop`.*"), "{grants}");
    // Features that read system tables directly.
    let dump = stock
        .program("mariadb-dump")?
        .args([
            "--no-defaults",
            "--user=root",
            "--all-databases",
            "--routines",
            "--events",
        ])
        .arg(format!("--socket={}", server.socket().display()))
        .output()?;
    assert!(
        dump.status.success(),
        "{}",
        String::from_utf8_lossy(&dump.stderr)
    );
    let upgrade = stock
        .program("mariadb-upgrade")?
        .args(["--no-defaults", "--user=root", "--force"])
        .arg(format!("--socket={}", server.socket().display()))
        .output()?;
    assert!(
        upgrade.status.success(),
        "{}{}",
        String::from_utf8_lossy(&upgrade.stdout),
        String::from_utf8_lossy(&upgrade.stderr)
    );
    // Stock MariaDB continues to write, and survives a crash.
    server.query(
        "CALL shop.add_order(90002, 1, 1.00); UPDATE shop.big SET a = 'more' WHERE id < 100; \
         CREATE TABLE shop.new (id INT PRIMARY KEY); INSERT INTO shop.new SELECT seq FROM shop.seq_1_to_1000; \
         ALTER TABLE shop.parts COALESCE PARTITION 1",
    ).or_else(|_| server.query("CREATE TABLE shop.new2 (id INT PRIMARY KEY)"))?;
    server.kill()?;
    let server = stock.start()?;
    assert_eq!(
        server.query("SELECT COUNT(*) FROM shop.orders WHERE id > 90000")?,
        "2\n"
    );
    mariadb_check(&stock, &server)?;
    server.stop()?;

    // The export can be imported again.
    let again = Project::new()?;
    let text = import_done(&again, &stock.data())?;
    assert!(
        text.contains("there was an account xylem already"),
        "{text}"
    );
    up(&again)?;
    assert_eq!(
        again.sql("SELECT COUNT(*) FROM shop.orders WHERE id > 90000")?,
        "2\n"
    );
    Ok(())
}

#[test]
fn stock_mariadb_goes_on_with_an_export() -> Result<()> {
    goes_there_and_back(&[], SCHEMA)
}

#[test]
fn other_page_sizes_and_undo_tablespaces() -> Result<()> {
    let large = SCHEMA.replace("ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8", "");
    goes_there_and_back(
        &["--innodb-page-size=65536", "--innodb-undo-tablespaces=2"],
        &large,
    )
}

/// An export of an earlier moment at which a transaction was open.
#[test]
fn an_export_of_the_past_shows_the_past() -> Result<()> {
    let project = imported(
        &[],
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v CHAR(100), KEY (v)); \
         INSERT INTO d.t SELECT seq, 'first' FROM d.seq_1_to_20000",
    )?;
    let imported_at = lsn(&project)?;
    project.sql(
        "UPDATE d.t SET v = 'second' WHERE id <= 10000; CREATE TABLE d.short (a INT PRIMARY KEY)",
    )?;
    let login = project.login()?;
    let mut client = std::process::Command::new(project.home().join("mariadb/usr/bin/mariadb"))
        .env("LD_LIBRARY_PATH", project.home().join("mariadb/usr/lib/x86_64-linux-gnu"))
        .args(["--no-defaults", "-e"])
        .arg("BEGIN; UPDATE d.t SET v = 'never' WHERE id > 5000; DELETE FROM d.t WHERE id < 100; DO SLEEP(120)")
        .arg(format!("--socket={}", login.socket.display()))
        .arg(format!("--user={}", login.user))
        .arg(format!("--password={}", login.password))
        .spawn()?;
    wait_until("an open transaction", Duration::from_secs(60), || {
        let rows = project.sql(
            "DO SLEEP(0.2); SELECT SUM(trx_rows_modified) FROM information_schema.innodb_trx",
        )?;
        Ok(rows.trim().parse::<u64>().unwrap_or(0) >= 15_099)
    })?;
    // A commit makes all earlier redo durable.
    project.sql("INSERT INTO d.short VALUES (1)")?;
    let moment = lsn(&project)?;
    client.kill()?;
    client.wait()?;
    project.sql(
        "INSERT INTO d.short VALUES (2); DROP TABLE d.short; DROP TABLE d.t; DROP DATABASE d",
    )?;

    let stock = exported(&project, &[], &["--at", &moment.to_string()])?;
    let server = stock.start()?;
    let rows =
        || server.query("SELECT v, COUNT(*) FROM d.t GROUP BY v ORDER BY v; SELECT * FROM d.short");
    wait_until("the rollback", Duration::from_secs(60), || {
        Ok(server.query(
            "DO SLEEP(0.2); SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_rows_modified > 0",
        )? == "0\n")
    })?;
    assert_eq!(rows()?, "first\t10000\nsecond\t10000\n1\n");
    wait_purged(|sql| server.query(sql))?;
    mariadb_check(&stock, &server)?;
    server.stop()?;

    let stock = exported(&project, &[], &["--at", &imported_at.to_string()])?;
    let server = stock.start()?;
    assert_eq!(
        server.query("SELECT v, COUNT(*) FROM d.t GROUP BY v")?,
        "first\t20000\n"
    );
    server.stop()?;

    let stock = exported(&project, &[], &[])?;
    let server = stock.start()?;
    assert!(server.query("SELECT * FROM d.t").is_err());
    server.stop()
}

/// Exports at LSNs within DDL, as after a crash: stock MariaDB finds a consistent state.
#[test]
fn ddl_can_be_cut_anywhere() -> Result<()> {
    let project = imported(
        &[],
        "CREATE DATABASE d; USE d; CREATE TABLE a (id INT PRIMARY KEY, v CHAR(20), t TEXT, FULLTEXT KEY (t)); \
         INSERT INTO a SELECT seq, 'x', 'some words' FROM seq_1_to_500; \
         CREATE TABLE b LIKE a; INSERT INTO b SELECT * FROM a; \
         CREATE TABLE p (id INT PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 2; \
         INSERT INTO p SELECT seq FROM seq_1_to_500",
    )?;
    let statements = [
        "RENAME TABLE d.a TO d.c, d.b TO d.a",
        "TRUNCATE TABLE d.a",
        "ALTER TABLE d.c ADD COLUMN w INT, FORCE",
        "ALTER TABLE d.c ADD COLUMN z INT, ALGORITHM=COPY",
        "ALTER TABLE d.p ADD PARTITION PARTITIONS 1",
        "CREATE TABLE d.new (id INT PRIMARY KEY) SELECT seq AS id FROM d.seq_1_to_100",
        "DROP TABLE d.a",
    ];
    let mut moments = Vec::new();
    for statement in statements {
        let before = lsn(&project)?;
        project.sql(statement)?;
        let after = lsn(&project)?;
        let step = (after - before) / 4;
        moments.extend((1..4).map(|n| (statement, before + n * step)));
    }
    for (statement, moment) in moments {
        let context = || format!("{statement} at LSN {moment}");
        let stock =
            exported(&project, &[], &["--at", &moment.to_string()]).with_context(context)?;
        let server = stock.start().with_context(context)?;
        let tables = server.query(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'd' ORDER BY 1",
        )?;
        let mut rows = 0u64;
        for table in tables.lines() {
            let check = server.query(&format!("CHECK TABLE d.`{table}` EXTENDED"))?;
            ensure!(
                check
                    .lines()
                    .all(|row| row.ends_with("\tOK") || row.contains("\tWarning\t")),
                "{}: {check}\n{}",
                context(),
                server.log_tail()
            );
            let count = server.query(&format!("SELECT COUNT(*) FROM d.`{table}`"))?;
            rows += count.trim().parse::<u64>()?;
        }
        // Rows of p and of the table that was first named a are never lost.
        ensure!(rows >= 1000, "{}: {tables} with {rows} rows", context());
        server
            .query("CREATE TABLE d.z (a INT PRIMARY KEY); DROP DATABASE d")
            .with_context(context)?;
        server.stop()?;
    }
    Ok(())
}

fn refused(project: &Project, args: &[&str]) -> Result<String> {
    let out = project.try_xylem(args)?;
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(!out.status.success(), "{args:?} succeeded");
    ensure!(out.stdout.is_empty(), "it printed something");
    Ok(error)
}

/// The entries of `dir`.
fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(dir)?
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

#[test]
fn what_cannot_be_written_is_refused_and_nothing_is_left() -> Result<()> {
    let project = imported(
        &[],
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v LONGTEXT); \
         INSERT INTO d.t SELECT seq, REPEAT(MD5(seq), 1000) FROM d.seq_1_to_3000",
    )?;
    let dir = tempfile::tempdir()?;
    let place = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    std::fs::create_dir(place("full"))?;
    std::fs::write(place("full/x"), "x")?;
    std::fs::write(place("file"), "x")?;
    for (name, says) in [
        ("full", "is not empty"),
        ("file", "not a directory"),
        ("no/such/parent", "there is no directory"),
    ] {
        let error = refused(&project, &["export", "main", &place(name)])?;
        assert!(error.contains(says), "{error}");
    }
    let error = refused(&project, &["export", "nobody", &place("out")])?;
    assert!(error.contains("there is no branch nobody"), "{error}");
    let error = refused(
        &project,
        &["export", "main", &place("out"), "--at", "99999999999"],
    )?;
    assert!(error.contains("LSN 99999999999 is outside"), "{error}");
    let error = refused(
        &project,
        &["export", "main", &place("out"), "--at", "20000"],
    )?;
    assert!(error.contains("20000"), "{error}");
    let error = refused(&project, &["export", "main", &place("out"), "--at", "noon"])?;
    assert!(error.contains("noon"), "{error}");
    assert_eq!(names(dir.path())?, ["file", "full"]);

    // Interrupted by SIGTERM and by SIGKILL.
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
        let mut child = project
            .command(&["export", "main", &place("out")])
            .stdout(std::process::Stdio::null())
            .spawn()?;
        let begun = |names: &[String]| names.iter().any(|n| n.starts_with(".out.xylem-export-"));
        wait_until("the export to begin", Duration::from_secs(20), || {
            Ok(begun(&names(dir.path())?))
        })?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id())?).context("no pid")?;
        rustix::process::kill_process(pid, signal)?;
        assert!(!child.wait()?.success());
        let left = names(dir.path())?;
        assert!(!left.contains(&"out".to_owned()), "{left:?}");
        assert_eq!(begun(&left), signal == rustix::process::Signal::KILL);
        for name in left.iter().filter(|n| n.starts_with(".out")) {
            let half: PathBuf = dir.path().join(name);
            assert!(
                !half.join("ib_logfile0").exists(),
                "it looks like a data directory"
            );
        }
    }
    // An export into an empty directory works, and removes what the killed one left.
    std::fs::create_dir(place("out"))?;
    project.xylem(&["export", "main", &place("out")])?;
    assert_eq!(names(dir.path())?, ["file", "full", "out"]);
    let error = refused(&project, &["export", "main", &place("out")])?;
    assert!(error.contains("is not empty"), "{error}");
    Ok(())
}

#[test]
fn small_compressed_tables() -> Result<()> {
    let project = imported(&[], "CREATE DATABASE d")?;
    project.sql(
        "CREATE TABLE d.z (a INT PRIMARY KEY) ROW_FORMAT=COMPRESSED; \
         CREATE TABLE d.z1 (a INT PRIMARY KEY) ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=1; \
         CREATE TABLE d.z2 (a INT PRIMARY KEY) ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=2 \
         PARTITION BY HASH (a) PARTITIONS 2; \
         INSERT INTO d.z1 VALUES (1); INSERT INTO d.z2 VALUES (1), (2), (3)",
    )?;
    let stock = exported(&project, &[], &[])?;
    for file in ["z", "z1", "z2#P#p0", "z2#P#p1"] {
        let path = stock.data().join(format!("d/{file}.ibd"));
        let bytes = std::fs::metadata(&path)?.len();
        ensure!(bytes >= 4 * 16_384, "{file} has {bytes} bytes");
    }
    let server = stock.start()?;
    let counts = "SELECT (SELECT COUNT(*) FROM d.z), (SELECT COUNT(*) FROM d.z1), \
                  (SELECT COUNT(*) FROM d.z2)";
    assert_eq!(server.query(counts)?.trim(), "0\t1\t3");
    server.query("INSERT INTO d.z SELECT seq FROM d.seq_1_to_2000")?;
    let checked = server.query("CHECK TABLE d.z, d.z1, d.z2 EXTENDED")?;
    assert_eq!(checked.matches("\tOK").count(), 3, "{checked}");
    server.stop()
}

/// A backup of a compute's files, which hold no data, must fail.
#[test]
fn mariadb_backup_on_a_compute_fails_at_once() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY)")?;
    let target = tempfile::tempdir()?;
    let place = target.path().join("backup");
    let login = project.login()?;
    let out = Install::from_env()?
        .program("mariadb-backup")
        .args(["--no-defaults", "--backup"])
        .arg(format!("--user={}", login.user))
        .arg(format!("--password={}", login.password))
        .arg(format!("--socket={}", login.socket.display()))
        .arg(format!("--target-dir={}", place.display()))
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(!out.status.success(), "it ended well: {said}");
    ensure!(said.contains("back up by `xylem export`"), "{said}");
    ensure!(!said.contains("completed OK"), "{said}");
    ensure!(!place.join("ibdata1").exists(), "it copied something");

    // The compute is not affected, whether it continues or is recreated.
    project.sql("INSERT INTO d.t VALUES (1)")?;
    project.xylem(&["compute", "kill", "main"])?;
    project.start()?;
    project.sql("INSERT INTO d.t VALUES (2)")?;
    project.xylem(&["compute", "stop", "main"])?;
    project.start()?;
    assert_eq!(project.sql("SELECT COUNT(*) FROM d.t")?.trim(), "2");
    Ok(())
}
