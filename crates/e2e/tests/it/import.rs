//! `xylem import`: everything in a stock server's directory is imported, what cannot be
//! imported is refused, and the directory is never changed.

use crate::stock::{
    SCHEMA, Stock, ask, assert_same, check, fingerprint, import, import_done, sums, up, wait_purged,
};
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Output;
use xylem_e2e::Project;

fn query(project: &Project) -> impl Fn(&str) -> Result<String> {
    |sql| project.sql(sql)
}

/// A stock server's answers; the server stops cleanly.
fn answers(stock: &Stock) -> Result<std::collections::BTreeMap<String, String>> {
    let server = stock.start()?;
    let said = ask(|sql| server.query(sql))?;
    server.stop()?;
    Ok(said)
}

/// Fills `stock`, imports it, compares, changes it, loses the compute.
fn carries_everything(stock: &Stock, schema: &str) -> Result<Project> {
    stock.fill(schema)?;
    let there = answers(stock)?;
    let before = fingerprint(&stock.data())?;
    let project = Project::new()?;
    import_done(&project, &stock.data())?;
    assert_eq!(fingerprint(&stock.data())?, before);
    up(&project)?;
    assert_same(&there, &ask(query(&project))?);
    wait_purged(query(&project))?;
    assert_eq!(check(query(&project))?, Vec::<String>::new());

    // The imported branch works as any branch does.
    project.sql(
        "CALL shop.add_order(90001, 1, 1.00); UPDATE shop.big SET a = 'changed' WHERE id < 300; \
         INSERT INTO shop.customer (name, note) VALUES ('Eve', 'a red fox'); \
         TRUNCATE TABLE shop.nokey; ALTER TABLE shop.place ADD COLUMN more INT, FORCE; \
         DROP TABLE shop.packed; CREATE TABLE shop.packed (id INT PRIMARY KEY); \
         ALTER TABLE shop.parts REORGANIZE PARTITION p0 INTO (PARTITION a VALUES LESS THAN (1995), \
         PARTITION b VALUES LESS THAN (2000))",
    )?;
    let there = sums(&query(&project), "shop")?;
    project.kill_server()?;
    project.lose_compute()?;
    project.start()?;
    assert_same(&there, &sums(&query(&project), "shop")?);
    let foxes =
        project.sql("SELECT COUNT(*) FROM shop.customer WHERE MATCH (note) AGAINST ('fox')")?;
    assert_eq!(foxes.trim(), "2");
    wait_purged(query(&project))?;
    assert_eq!(check(query(&project))?, Vec::<String>::new());
    Ok(project)
}

#[test]
fn everything_is_carried() -> Result<()> {
    let stock = Stock::create(&[])?;
    let project = carries_everything(&stock, SCHEMA)?;
    // Accounts are unchanged, and Xylem's own client has its own account.
    assert_eq!(project.sql("SELECT USER()")?, "xylem@localhost\n");
    assert_eq!(project.compute()?["user"], "xylem");
    let login = |user: &str, password: &str| -> Result<Output> {
        let socket = project.compute()?["socket"].as_str().map(str::to_owned);
        Ok(stock
            .program("mariadb")?
            .args(["--no-defaults", "-e", "SELECT 1"])
            .arg(format!("--socket={}", socket.context("no socket")?))
            .arg(format!("--user={user}"))
            .arg(format!("--password={password}"))
            .output()?)
    };
    assert!(login("teller", "till")?.status.success());
    assert!(login("root", "")?.status.success());
    assert!(!login("teller", "wrong")?.status.success());
    assert!(!login("xylem", "")?.status.success());
    Ok(())
}

#[test]
fn other_page_sizes_checksums_and_files() -> Result<()> {
    // ROW_FORMAT=COMPRESSED needs pages of at most 16 KiB, PAGE_COMPRESSED a
    // file for each table.
    let large = SCHEMA.replace("ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8", "");
    let together = large.replace("PAGE_COMPRESSED=1", "");
    for (options, schema) in [
        (
            &[
                "--innodb-checksum-algorithm=crc32",
                "--innodb-undo-tablespaces=3",
                "--innodb-data-file-path=ibdata1:10M;ibdata2:10M:autoextend",
            ][..],
            SCHEMA,
        ),
        (
            &["--innodb-page-size=65536", "--innodb-file-per-table=OFF"][..],
            &together,
        ),
        (&["--innodb-page-size=32768"][..], &large),
    ] {
        let stock = Stock::create(options)?;
        carries_everything(&stock, schema)?;
    }
    Ok(())
}

/// A second imported branch in the project, each with its own compute.
#[test]
fn a_branch_of_its_own_beside_others() -> Result<()> {
    let project = Project::up("32MiB")?;
    project.sql("CREATE DATABASE here; CREATE TABLE here.t (a INT PRIMARY KEY)")?;
    let stock = Stock::create(&[])?;
    stock.fill("CREATE DATABASE there; CREATE TABLE there.t (a INT PRIMARY KEY); INSERT INTO there.t VALUES (7)")?;
    let dir = stock.data();
    let dir = dir.to_string_lossy();
    let out = project.try_xylem(&["import", &dir])?;
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(error.contains("there is a branch main already"), "{error}");
    let report = project.json(&["import", &dir, "--branch", "old"])?;
    assert_eq!(report["branch"], "old");
    assert_eq!(report["refused"], serde_json::json!([]));
    project.xylem(&["compute", "start", "old"])?;
    let there = project.xylem(&[
        "sql",
        "old",
        "-e",
        "SELECT a, USER() FROM there.t",
        "--",
        "--batch",
        "--skip-column-names",
    ])?;
    assert_eq!(there, "7\txylem@localhost\n");
    assert_eq!(
        project.sql("SELECT USER(), COUNT(*) FROM here.t")?,
        "xylem@localhost\t0\n"
    );
    let error = project.sql_error("SELECT * FROM there.t")?;
    assert!(error.contains("there"), "{error}");
    let rows = project.json(&["branch", "ls"])?;
    let names: Vec<&str> = rows
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(|row| row["name"].as_str())
        .collect();
    assert_eq!(names, ["main", "old"]);
    // Everything again after a restart of everything.
    project.xylem(&["compute", "stop", "old"])?;
    project.kill_server()?;
    project.start()?;
    project.xylem(&["compute", "start", "old"])?;
    project.xylem(&["compute", "stop", "old"])?;

    let other = Stock::create(&["--innodb-page-size=32768"])?;
    let out = project.try_xylem(&["import", &other.data().to_string_lossy(), "--branch", "b"])?;
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(error.contains("32768"), "{error}");
    Ok(())
}

/// The number of rows that open transactions have changed. InnoDB caches the answer for
/// 0.1 s.
const OPEN_ROWS: &str =
    "DO SLEEP(0.2); SELECT SUM(trx_rows_modified) FROM information_schema.innodb_trx";

/// A backup of a busy server with open transactions.
#[test]
fn a_prepared_backup() -> Result<()> {
    let stock = Stock::create(&[])?;
    stock.fill(SCHEMA)?;
    let server = stock.start()?;
    server.query(
        "CREATE TABLE shop.open (id INT PRIMARY KEY, v CHAR(200)); \
        INSERT INTO shop.open SELECT seq, 'committed' FROM shop.seq_1_to_5000",
    )?;
    let there = ask(|sql| server.query(sql))?;
    let mut client = stock
        .program("mariadb")?
        .args(["--no-defaults", "--user=root", "-e"])
        .arg("BEGIN; UPDATE shop.open SET v = 'open'; DELETE FROM shop.big; DO SLEEP(60)")
        .arg(format!("--socket={}", server.socket().display()))
        .spawn()?;
    xylem_e2e::wait_until(
        "an open transaction",
        std::time::Duration::from_secs(30),
        || {
            let trx = server.query(OPEN_ROWS)?;
            Ok(trx.trim().parse::<u64>().unwrap_or(0) > 6000)
        },
    )?;
    let target = stock.dir.path().join("backup");
    let run = |args: &[&str]| -> Result<()> {
        let out = stock
            .program("mariadb-backup")?
            .arg("--no-defaults")
            .args(args)
            .arg(format!("--target-dir={}", target.display()))
            .output()?;
        ensure!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    };
    run(&[
        "--backup",
        "--user=root",
        &format!("--socket={}", server.socket().display()),
        &format!("--datadir={}", stock.data().display()),
    ])?;
    client.kill()?;
    client.wait()?;
    server.stop()?;

    let project = Project::new()?;
    let error = refused(&project, &target, &[])?;
    assert!(error.contains("mariadb-backup --prepare"), "{error}");
    run(&["--prepare"])?;
    let before = fingerprint(&target)?;
    import_done(&project, &target)?;
    assert_eq!(fingerprint(&target)?, before);
    up(&project)?;
    assert_same(&there, &ask(query(&project))?);
    wait_purged(query(&project))?;
    assert_eq!(check(query(&project))?, Vec::<String>::new());
    Ok(())
}

/// Runs an import that must be refused and must leave nothing; returns the error.
fn refused(project: &Project, dir: &Path, more: &[&str]) -> Result<String> {
    let out = import(project, dir, more)?;
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.code() == Some(1), "{:?}: {error}", out.status);
    ensure!(
        out.stdout.is_empty() || more.contains(&"--json"),
        "it printed something"
    );
    ensure!(
        !project.dir().join("project.toml").exists(),
        "a project was left"
    );
    ensure!(!project.dir().join("server").exists(), "a server was left");
    let left: Vec<_> = std::fs::read_dir(project.dir())?
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("import-"))
        .collect();
    ensure!(left.is_empty(), "{left:?} was left");
    Ok(error)
}

#[test]
fn what_cannot_be_carried_is_refused_with_a_list() -> Result<()> {
    let stock = Stock::create(&[])?;
    let elsewhere = tempfile::tempdir()?;
    stock.fill(&format!(
        "CREATE DATABASE d; USE d; \
         CREATE TABLE good (a INT PRIMARY KEY); \
         CREATE TABLE m (a INT) ENGINE=MyISAM; \
         CREATE TABLE `a-b.c` (a INT) ENGINE=Aria; \
         CREATE TABLE c (a INT NOT NULL) ENGINE=CSV; \
         CREATE TABLE h (a INT) ENGINE=MEMORY; \
         CREATE TABLE p (a INT) ENGINE=MyISAM PARTITION BY HASH (a) PARTITIONS 2; \
         CREATE TABLE away (a INT PRIMARY KEY) DATA DIRECTORY='{}'",
        elsewhere.path().display()
    ))?;
    std::fs::write(stock.data().join("d/notes.txt"), "x")?;
    let before = fingerprint(&stock.data())?;
    let project = Project::new()?;
    let error = refused(&project, &stock.data(), &[])?;
    for word in [
        "`d`.`m`: its engine is MyISAM",
        "`d`.`a-b.c`: its engine is Aria",
        "`d`.`c`: its engine is CSV",
        "`d`.`p`: its engine is MyISAM",
        "`d`.`away`",
        "DATA DIRECTORY",
        "d/notes.txt",
        "ALTER TABLE … ENGINE=InnoDB",
    ] {
        assert!(error.contains(word), "{word} in {error}");
    }
    assert!(
        !error.contains("`good`") && !error.contains("`h`"),
        "{error}"
    );
    let out = import(&project, &stock.data(), &["--json", "--check"])?;
    let report: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    let subjects: Vec<&str> = report["refused"]
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(|r| r["subject"].as_str())
        .collect();
    // The tablespace of `away` is in the dictionary but not in the directory.
    assert_eq!(subjects.len(), 7, "{subjects:?}");
    assert_eq!(fingerprint(&stock.data())?, before);

    // The suggested option works.
    stock.fill("DROP TABLE d.m, d.p, d.c, d.away; ALTER TABLE d.`a-b.c` ENGINE=InnoDB")?;
    let error = refused(&project, &stock.data(), &[])?;
    assert!(error.contains("--leave-out-unknown"), "{error}");
    let out = import(&project, &stock.data(), &["--leave-out-unknown"])?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(
        text.contains("d/notes.txt") && text.contains("`d`.`h` (MEMORY)"),
        "{text}"
    );
    up(&project)?;
    assert_eq!(
        project.sql("SELECT COUNT(*) FROM d.`a-b.c`; SELECT COUNT(*) FROM d.h")?,
        "0\n0\n"
    );
    Ok(())
}

#[test]
fn a_server_that_runs_or_crashed_is_refused() -> Result<()> {
    let stock = Stock::create(&[])?;
    stock.fill("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY)")?;
    let project = Project::new()?;
    let server = stock.start()?;
    server.query("INSERT INTO d.t SELECT seq FROM d.seq_1_to_1000")?;
    let error = refused(&project, &stock.data(), &[])?;
    assert!(error.contains("has it open"), "{error}");
    server.kill()?;
    let before = fingerprint(&stock.data())?;
    let error = refused(&project, &stock.data(), &[])?;
    assert!(error.contains("not stopped cleanly"), "{error}");
    assert!(error.contains("SHUTDOWN"), "{error}");
    assert_eq!(fingerprint(&stock.data())?, before);
    // A fast shutdown is not enough.
    let server = stock.start_with(&["--innodb-fast-shutdown=2"])?;
    server.query("INSERT INTO d.t SELECT seq FROM d.seq_2001_to_3000")?;
    server.stop()?;
    let error = refused(&project, &stock.data(), &[])?;
    assert!(error.contains("not stopped cleanly"), "{error}");
    // The suggested command works.
    stock.start()?.stop()?;
    import_done(&project, &stock.data())?;
    up(&project)?;
    assert_eq!(project.sql("SELECT COUNT(*) FROM d.t")?, "2000\n");
    Ok(())
}

#[test]
fn damaged_pages_are_all_found() -> Result<()> {
    let stock = Stock::create(&[])?;
    stock.fill(SCHEMA)?;
    let flip = |file: &str, page: u64, at: u64| -> Result<()> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(stock.data().join(file))?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, page * 16384 + at)?;
        file.write_all_at(&[byte[0] ^ 0x20], page * 16384 + at)?;
        Ok(())
    };
    flip("shop/big.ibd", 3, 5000)?;
    flip("shop/big.ibd", 10, 16000)?;
    flip("shop/customer.ibd", 3, 100)?;
    let before = fingerprint(&stock.data())?;
    let project = Project::new()?;
    for more in [&[][..], &["--check"]] {
        let error = refused(&project, &stock.data(), more)?;
        for word in [
            "for 3 reasons",
            "shop/big.ibd page 3: the checksum",
            "shop/big.ibd page 10: the checksum",
            "shop/customer.ibd page 3: the checksum",
        ] {
            assert!(error.contains(word), "{word} in {error}");
        }
    }
    // Damage in a system tablespace.
    flip("ibdata1", 7, 300)?;
    flip("mysql/innodb_table_stats.ibd", 3, 300)?;
    let error = refused(&project, &stock.data(), &[])?;
    for word in ["ibdata1", "shop/big.ibd page 3"] {
        assert!(error.contains(word), "{word} in {error}");
    }
    flip("ibdata1", 7, 300)?;
    let error = refused(&project, &stock.data(), &[])?;
    assert!(
        error.contains("mysql/innodb_table_stats.ibd page 3"),
        "{error}"
    );
    assert!(error.contains("shop/customer.ibd page 3"), "{error}");
    flip("mysql/innodb_table_stats.ibd", 3, 300)?;
    // A page from another directory.
    for (page, at) in [(3, 5000), (10, 16000)] {
        flip("shop/big.ibd", page, at)?;
    }
    flip("shop/customer.ibd", 3, 100)?;
    assert_eq!(fingerprint(&stock.data())?.len(), before.len());
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(stock.data().join("shop/big.ibd"))?;
    let mut page = vec![0; 16384];
    file.read_exact_at(&mut page, 5 * 16384)?;
    file.write_all_at(&page, 6 * 16384)?;
    let error = refused(&project, &stock.data(), &[])?;
    assert!(
        error.contains("shop/big.ibd page 6: page carries the id"),
        "{error}"
    );
    file.set_len(20 * 16384)?;
    let error = refused(&project, &stock.data(), &[])?;
    assert!(error.contains("its end is missing"), "{error}");
    Ok(())
}

#[test]
fn what_is_no_data_directory_is_refused() -> Result<()> {
    let project = Project::new()?;
    let error = refused(&project, Path::new("/nonexistent/place"), &[])?;
    assert!(error.contains("/nonexistent/place"), "{error}");
    let empty = tempfile::tempdir()?;
    let error = refused(&project, empty.path(), &[])?;
    assert!(
        error.contains("ib_logfile0") && error.contains("ibdata1"),
        "{error}"
    );
    let small = Stock::create(&["--innodb-page-size=4096"])?;
    let error = refused(&project, &small.data(), &[])?;
    assert!(error.contains("innodb_page_size"), "{error}");
    let old = Stock::create(&[])?;
    std::fs::write(old.data().join("mysql_upgrade_info"), "10.6.12-MariaDB")?;
    let error = refused(&project, &old.data(), &[])?;
    assert!(error.contains("mariadb-upgrade"), "{error}");
    Ok(())
}

#[test]
fn encrypted_tables_are_refused() -> Result<()> {
    let keys = tempfile::NamedTempFile::new()?;
    std::fs::write(keys.path(), format!("1;{}\n", "a7".repeat(32)))?;
    let file = format!("--file-key-management-filename={}", keys.path().display());
    let options = [
        "--plugin-load-add=file_key_management",
        &file,
        "--plugin-maturity=unknown",
    ];
    for algorithm in ["full_crc32", "crc32"] {
        let stock = Stock::create(&[&format!("--innodb-checksum-algorithm={algorithm}")])?;
        let server = stock.start_with(&options)?;
        server.query(
            "CREATE DATABASE d; CREATE TABLE d.secret (a INT PRIMARY KEY) ENCRYPTED=YES; \
             CREATE TABLE d.open (a INT PRIMARY KEY); INSERT INTO d.secret VALUES (1)",
        )?;
        server.stop()?;
        let project = Project::new()?;
        let error = refused(&project, &stock.data(), &[])?;
        assert!(error.contains("d/secret.ibd: it is encrypted"), "{error}");
        assert!(!error.contains("d/open"), "{error}");
        let server = stock.start_with(&options)?;
        server.query("ALTER TABLE d.secret ENCRYPTED=NO")?;
        server.stop()?;
        import_done(&project, &stock.data())?;
        up(&project)?;
        assert_eq!(project.sql("SELECT * FROM d.secret")?, "1\n");
    }
    Ok(())
}

#[test]
fn prepared_transactions_are_carried() -> Result<()> {
    let stock = Stock::create(&[])?;
    let server = stock.start()?;
    server.query(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY, v INT); INSERT INTO d.t VALUES (1, 1), (2, 2); \
         XA START 'one'; UPDATE d.t SET v = 10 WHERE a = 1; XA END 'one'; XA PREPARE 'one'",
    )?;
    server.stop()?;
    let project = Project::new()?;
    import_done(&project, &stock.data())?;
    up(&project)?;
    assert!(project.sql("XA RECOVER")?.trim().ends_with("one"));
    assert_eq!(project.sql("SELECT v FROM d.t ORDER BY a")?, "1\n2\n");
    project.sql("XA COMMIT 'one'")?;
    assert_eq!(project.sql("SELECT v FROM d.t ORDER BY a")?, "10\n2\n");
    Ok(())
}

/// Whichever process is killed during an import: there is no branch, what was written is
/// removed, and the same import succeeds afterwards.
#[test]
fn an_import_that_is_cut_off_leaves_nothing() -> Result<()> {
    let stock = Stock::create(&["--innodb-page-size=32768"])?;
    stock.fill(
        "CREATE DATABASE d; USE d; SET group_concat_max_len = 1000000; \
         CREATE TABLE d.t (a INT PRIMARY KEY, v LONGTEXT); \
         INSERT INTO d.t SELECT seq, (SELECT GROUP_CONCAT(MD5(s.seq * t.seq) SEPARATOR '') \
         FROM d.seq_1_to_1000 s) FROM d.seq_1_to_4000 t",
    )?;
    let before = fingerprint(&stock.data())?;
    let project = Project::new()?;
    let dir = stock.data();
    let dir = dir.to_string_lossy();
    let ports: Vec<String> = xylem_e2e::free_ports(2)?
        .iter()
        .map(u16::to_string)
        .collect();
    let args = [
        "import",
        &dir,
        "--grpc-port",
        &ports[0],
        "--http-port",
        &ports[1],
    ];
    let limit = std::time::Duration::from_secs(60);
    let log = || std::fs::read_to_string(project.dir().join("server.log")).unwrap_or_default();
    let begun = || log().matches("an import begins").count();
    let layers = project.dir().join("server/store/branches");
    for round in 0..4 {
        let already = begun();
        let mut child = project
            .command(&args)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        xylem_e2e::wait_until("the import to begin", limit, || {
            Ok(begun() > already || child.try_wait()?.is_some())
        })?;
        let pid = i32::try_from(child.id())?;
        match round {
            // A file of the directory changes meanwhile.
            0 => {
                let file = std::fs::File::options()
                    .write(true)
                    .open(stock.data().join("d/t.frm"))?;
                file.set_modified(std::time::SystemTime::now())?;
            }
            1 => {
                let pid = rustix::process::Pid::from_raw(pid).context("no pid")?;
                rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            }
            2 => xylem_e2e::kill(pid)?,
            _ => project.kill_server()?,
        }
        assert!(!child.wait()?.success(), "round {round}");
        if round < 2 {
            // The command could clean up itself: there is no project any more.
            assert!(
                !project.dir().join("project.toml").exists(),
                "round {round}"
            );
            assert!(!project.dir().join("server").exists(), "round {round}");
            continue;
        }
        // The server cleans up, at once or at its next start.
        let names = project.json(&["branch", "ls"])?;
        assert_eq!(names.as_array().map(Vec::len), Some(1));
        assert_eq!(names[0]["applied_lsn"], 0, "{names}");
        xylem_e2e::wait_until("its layers to go", limit, || {
            Ok(std::fs::read_dir(&layers)?.count() == 1)
        })?;
    }
    project.xylem(&["import", &dir])?;
    let left: Vec<String> = std::fs::read_dir(project.dir())?
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("import-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    up(&project)?;
    assert_eq!(
        project.sql("SELECT COUNT(*), MIN(LENGTH(v)) FROM d.t")?,
        "4000\t32000\n"
    );
    assert_eq!(project.sql("SELECT @@innodb_page_size")?, "32768\n");
    let mut after = fingerprint(&stock.data())?;
    let mut before = before;
    let touched = stock.data().join("d/t.frm");
    assert!(before.remove(&touched).is_some() && after.remove(&touched).is_some());
    assert_eq!(before, after);
    Ok(())
}

/// Checksums of older servers, which InnoDB and Xylem accept.
#[test]
fn checksums_of_older_servers() -> Result<()> {
    let stock = Stock::create(&["--innodb-checksum-algorithm=crc32"])?;
    stock.fill(SCHEMA)?;
    let path = stock.data().join("shop/big.ibd");
    let mut file = std::fs::read(&path)?;
    let mut changed = 0;
    for page in file
        .chunks_exact_mut(16384)
        .filter(|p| p.iter().any(|b| *b != 0))
    {
        let first = xylem_redo::old_checksums(page).context("no page")?.0;
        page[..4].copy_from_slice(&first.to_be_bytes());
        let second = xylem_redo::old_checksums(page).context("no page")?.1;
        page[16376..16380].copy_from_slice(&second.to_be_bytes());
        changed += 1;
    }
    assert!(changed > 50);
    std::fs::write(&path, &file)?;
    // Stock InnoDB reads these pages, and writes none of them meanwhile.
    let server = stock.start_with(&["--innodb-read-only"])?;
    let sum = server.query("CHECKSUM TABLE shop.big EXTENDED")?;
    assert!(!sum.contains("NULL"), "{sum}");
    server.stop()?;
    assert_eq!(std::fs::read(&path)?, file);

    let project = Project::new()?;
    import_done(&project, &stock.data())?;
    up(&project)?;
    assert_eq!(project.sql("CHECKSUM TABLE shop.big EXTENDED")?, sum);
    Ok(())
}

/// Files that the official container image and file systems create in the directory.
#[test]
fn harmless_files_are_passed_over_and_listed() -> Result<()> {
    let stock = Stock::create(&[])?;
    stock.fill(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY); INSERT INTO d.t VALUES (7)",
    )?;
    let data = stock.data();
    let files = [
        ".my-healthcheck.cnf",
        "system_mysql_backup_10.6.12-MariaDB.sql.zst",
    ];
    for file in files {
        std::fs::write(data.join(file), "[mariadb-client]\n")?;
    }
    let folders = ["lost+found", ".snapshot", "d/.snapshot"];
    for folder in folders {
        std::fs::create_dir(data.join(folder))?;
    }
    std::fs::write(data.join("notes.txt"), "x")?;
    let project = Project::new()?;
    let error = refused(&project, &data, &[])?;
    assert!(error.contains("notes.txt"), "{error}");
    for name in files {
        assert!(!error.contains(&format!("{name}: ")), "{error}");
    }
    std::fs::remove_file(data.join("notes.txt"))?;
    let said = import_done(&project, &data)?;
    for name in files.iter().chain(&folders) {
        assert!(said.contains(name), "{name} in {said}");
    }
    up(&project)?;
    assert_eq!(project.sql("SELECT a FROM d.t")?.trim(), "7");
    Ok(())
}
