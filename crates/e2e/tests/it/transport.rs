//! FLUSH TABLES … FOR EXPORT and IMPORT TABLESPACE: data files of a compute work in stock
//! MariaDB. Those of stock MariaDB work in a compute and survive its loss.

use anyhow::{Result, ensure};
use std::path::Path;
use tempfile::TempDir;
use xylem_e2e::Project;
use xylem_oracle::server::{Install, Server};

/// Tables of every page format, with BLOB pages, a fulltext index and a spatial index.
const TABLES: &[(&str, &str)] = &[
    (
        "t1",
        "(id INT PRIMARY KEY, a VARCHAR(100), b LONGTEXT, KEY(a))",
    ),
    (
        "t2",
        "(id INT PRIMARY KEY, a VARCHAR(100), b LONGTEXT, KEY(a)) ROW_FORMAT=REDUNDANT",
    ),
    (
        "t3",
        "(id INT PRIMARY KEY, a VARCHAR(100), b LONGTEXT, KEY(a)) ROW_FORMAT=COMPRESSED \
         KEY_BLOCK_SIZE=4",
    ),
    (
        "t4",
        "(id INT PRIMARY KEY, a VARCHAR(100), b LONGTEXT, g POINT NOT NULL DEFAULT POINT(1,2), \
         SPATIAL KEY(g))",
    ),
];

fn create() -> String {
    let mut sql = String::from("CREATE DATABASE d CHARACTER SET utf8mb4; USE d;");
    for (name, columns) in TABLES {
        sql.push_str(&format!("CREATE TABLE {name} {columns};"));
    }
    sql
}

fn fill() -> String {
    let mut sql = String::from("USE d;");
    for (name, _) in TABLES {
        sql.push_str(&format!(
            "INSERT INTO {name} (id, a, b) SELECT seq, CONCAT('row ', seq), \
             IF(seq % 97, MD5(seq), REPEAT(MD5(seq), 2000)) FROM seq_1_to_5000;\
             UPDATE {name} SET a = CONCAT('new ', id) WHERE id % 7 = 0;\
             DELETE FROM {name} WHERE id % 11 = 0;"
        ));
    }
    sql
}

fn names() -> String {
    let names: Vec<String> = TABLES.iter().map(|(name, _)| format!("d.{name}")).collect();
    names.join(", ")
}

/// Copies the files while the tables are locked. Waits for purge first, since MariaDB
/// cannot import a spatial index with delete-marked records.
fn export(data: &Path, to: &Path) -> String {
    format!(
        "SET GLOBAL innodb_max_purge_lag_wait = 0; FLUSH TABLES {} FOR EXPORT;\nsystem cp {}/d/*.ibd {}/d/*.cfg {}\nUNLOCK TABLES;",
        names(),
        data.display(),
        data.display(),
        to.display()
    )
}

/// Replaces the files of new tables.
fn import(data: &Path, from: &Path) -> String {
    let mut sql = create();
    for (name, _) in TABLES {
        sql.push_str(&format!("ALTER TABLE {name} DISCARD TABLESPACE;"));
    }
    // The files get the owner that the server runs as.
    let (from, to) = (from.display(), data.join("d"));
    let to = to.display();
    sql.push_str(&format!(
        "\nsystem cp {from}/* {to}/ && chown --reference={to} {to}/*\n"
    ));
    for (name, _) in TABLES {
        sql.push_str(&format!("ALTER TABLE d.{name} IMPORT TABLESPACE;"));
    }
    sql
}

fn sums() -> String {
    format!("CHECKSUM TABLE {} EXTENDED", names())
}

fn check() -> String {
    format!("CHECK TABLE {} EXTENDED", names())
}

fn assert_clean(rows: &str) {
    assert_eq!(rows.lines().count(), TABLES.len(), "{rows}");
    assert!(rows.lines().all(|row| row.ends_with("\tOK")), "{rows}");
}

/// A stock MariaDB; its data directory is `data` in `dir`.
fn stock(dir: &TempDir) -> Result<Server> {
    let install = Install::from_env()?;
    let data = dir.path().join("data");
    install.create_database(&data, &[])?;
    install.start(&data, dir.path(), &[])
}

fn data(project: &Project) -> Result<std::path::PathBuf> {
    let dir = project.compute()?["dir"].as_str().map(str::to_owned);
    let dir = dir.map(|dir| Path::new(&dir).join("data"));
    dir.ok_or_else(|| anyhow::anyhow!("the compute has no directory"))
}

#[test]
fn stock_mariadb_takes_an_exported_table() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql(&create())?;
    project.sql(&fill())?;
    let sums_here = project.sql(&sums())?;
    // The export must not depend on what the compute has in memory.
    project.lose_compute()?;
    project.start()?;
    let files = tempfile::tempdir()?;
    project.sql(&export(&data(&project)?, files.path()))?;
    ensure!(std::fs::read_dir(files.path())?.count() == 2 * TABLES.len());

    let dir = tempfile::tempdir()?;
    let server = stock(&dir)?;
    server.query(&import(&dir.path().join("data"), files.path()))?;
    assert_eq!(server.query(&sums())?, sums_here);
    assert_clean(&server.query(&check())?);
    server.stop()
}

#[test]
fn a_table_of_stock_mariadb_is_imported_and_not_lost() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let server = stock(&dir)?;
    server.query(&create())?;
    server.query(&fill())?;
    let sums_there = server.query(&sums())?;
    let files = tempfile::tempdir()?;
    server.query(&export(&dir.path().join("data"), files.path()))?;

    let project = Project::up("16MiB")?;
    project.sql(&import(&data(&project)?, files.path()))?;
    assert_eq!(project.sql(&sums())?, sums_there);
    project.lose_compute()?;
    project.kill_server()?;
    project.start()?;
    assert_eq!(project.sql(&sums())?, sums_there);
    assert_clean(&project.sql(&check())?);
    project.sql(&fill().replace("seq_1_to_5000", "seq_5001_to_6000"))?;
    assert_clean(&project.sql(&check())?);
    Ok(())
}
