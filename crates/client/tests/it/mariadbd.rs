//! Side files of a real server. A stock mariadbd runs DDL with the library
//! preloaded. The frames that the page server receives must rebuild its side
//! files.
//!
//! Needs a MariaDB prefix (`usr/sbin/mariadbd` and so on below it), named by
//! `XYLEM_MARIADB_PREFIX`; `cargo xtask test` sets it.
// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use crate::common;
use crate::common::Server;
use crate::common::replay::{replay_onto, same};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SQL: &str = "
CREATE DATABASE shop CHARACTER SET utf8mb4;
USE shop;
CREATE TABLE t1 (id INT PRIMARY KEY, name VARCHAR(100), KEY (name)) ENGINE=InnoDB;
CREATE TABLE t2 (id INT PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 4;
INSERT INTO t1 VALUES (1, 'one'), (2, 'two');
ALTER TABLE t1 ADD COLUMN extra INT, ALGORITHM=COPY;
ALTER TABLE t1 ADD COLUMN more INT, ALGORITHM=INSTANT;
ALTER TABLE t2 ADD PARTITION PARTITIONS 2;
CREATE VIEW v1 AS SELECT id FROM t1;
CREATE OR REPLACE VIEW v1 AS SELECT id, name FROM t1;
CREATE TRIGGER r1 BEFORE INSERT ON t1 FOR EACH ROW SET NEW.extra = 1;
CREATE TRIGGER r2 BEFORE UPDATE ON t1 FOR EACH ROW SET NEW.extra = 2;
DROP TRIGGER r1;
CREATE TABLE t3 LIKE t1;
RENAME TABLE t3 TO t4, t2 TO t5;
TRUNCATE TABLE t4;
CREATE TABLE t6 AS SELECT * FROM t1;
CREATE TEMPORARY TABLE temporary (a INT) ENGINE=InnoDB;
CREATE SEQUENCE s1;
DROP TABLE t6;
ALTER DATABASE shop CHARACTER SET latin1;
CREATE DATABASE `odd-#name`;
CREATE TABLE `odd-#name`.`t/1` (a INT);
CREATE DATABASE gone;
CREATE TABLE gone.t (a INT);
DROP DATABASE gone;
SET GLOBAL log_output = 'TABLE';
SET GLOBAL general_log = 1;
SELECT 1;
SET GLOBAL general_log = 0;
TRUNCATE TABLE mysql.general_log;
OPTIMIZE TABLE t1;
CREATE TABLE c (a INT NOT NULL) ENGINE=CSV;
INSERT INTO c VALUES (1), (2), (3);
UPDATE c SET a = 9 WHERE a = 2;
FLUSH TABLES;
";

fn copy_tree(from: &Path, to: &Path) {
    let done = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(done.success());
}

#[test]
fn the_side_files_of_a_real_server() {
    let prefix = std::env::var_os("XYLEM_MARIADB_PREFIX")
        .map(PathBuf::from)
        .expect("XYLEM_MARIADB_PREFIX is not set: run this with cargo xtask test");
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let datadir = dir.path().join("data");
    let base = dir.path().join("base");
    let attach = dir.path().join("attach.so");
    let here = env!("CARGO_MANIFEST_DIR");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
        .arg(&attach)
        .arg(format!("-I{here}/include"))
        .arg(format!("{here}/tests/c/attach.c"))
        .arg(common::library())
        .status()
        .unwrap();
    assert!(built.success());
    let installed = Command::new(prefix.join("usr/bin/mariadb-install-db"))
        .arg("--no-defaults")
        .arg(format!("--basedir={}", prefix.join("usr").display()))
        .arg(format!("--datadir={}", datadir.display()))
        .args([
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--user=root",
        ])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(installed.success());
    copy_tree(&datadir, &base);
    let socket = dir.path().join("s");
    let mut mariadbd = Command::new(prefix.join("usr/sbin/mariadbd"))
        .args([
            "--no-defaults",
            "--user=root",
            "--skip-networking",
            "--skip-log-bin",
        ])
        .arg(format!("--basedir={}", prefix.join("usr").display()))
        .arg(format!("--datadir={}", datadir.display()))
        .arg(format!("--socket={}", socket.display()))
        .arg(format!(
            "--lc-messages-dir={}",
            prefix.join("usr/share/mysql").display()
        ))
        .arg(format!("--log-error={}", dir.path().join("log").display()))
        .env("LD_LIBRARY_PATH", common::library().parent().unwrap())
        .env(
            "LD_PRELOAD",
            format!("{}:{}", common::library().display(), attach.display()),
        )
        .env("XYLEM_DATADIR", &datadir)
        .env("XYLEM_TEST_PORT", server.addr.port().to_string())
        .spawn()
        .unwrap();
    let log = || std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    let run = |sql: &str| {
        Command::new(prefix.join("usr/bin/mariadb"))
            .args(["--no-defaults", "-uroot"])
            .arg(format!("--socket={}", socket.display()))
            .args(["-e", sql])
            .output()
            .unwrap()
    };
    let mut tries = 0;
    while !run("SELECT 1").status.success() {
        tries += 1;
        if tries > 100 || mariadbd.try_wait().unwrap().is_some() {
            let _ = mariadbd.kill();
            panic!("mariadbd did not start: {}", log());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let out = run(SQL);
    let message = String::from_utf8_lossy(&out.stderr).into_owned();
    let ended = run("SHUTDOWN");
    assert!(mariadbd.wait().unwrap().success(), "{}", log());
    assert!(
        out.status.success() && ended.status.success(),
        "{message}{}",
        log()
    );
    let script = server.script();
    assert_eq!(script.problems, Vec::<String>::new());
    println!("{} operations", script.frames.len());
    replay_onto(&base, &script.frames);
    same(&datadir, &base);
}
