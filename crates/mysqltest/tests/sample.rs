//! A sample of MariaDB's suite `innodb`: tests that restart or kill their server, move
//! tablespaces, and alter tables.

use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

/// The beginnings of the tests' names, as a regular expression.
const SAMPLE: &str = "alter_foreign_crash|alter_non_debug|import_bugs|import_hidden_fts|\
    innodb-autoinc$|innodb-wl5522-1|innodb_28867993|instant_alter_import|\
    insert_into_empty_notembedded|rename_table_debug|sp_temp_table|truncate_inject|\
    undo_truncate$|update_time|xa_recovery";

fn run(mode: &str) -> Result<String> {
    let home = std::env::var("XYLEM_HOME").context("run this with cargo xtask test")?;
    let dir = tempfile::Builder::new().prefix("mysqltest").tempdir()?;
    let out = Command::new(env!("CARGO_BIN_EXE_xylem-mysqltest"))
        .args(["innodb", SAMPLE, "--mode", mode, "--parallel", "2", "--dir"])
        .arg(dir.path())
        .env("XYLEM_HOME", home)
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(
        out.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(said)
}

/// The number before some words.
fn count(said: &str, words: &str) -> Result<usize> {
    let line = said
        .lines()
        .find_map(|line| line.trim().strip_suffix(words));
    line.and_then(|number| number.trim().parse().ok())
        .with_context(|| format!("no line {words:?}:\n{said}"))
}

#[test]
fn a_sample_passes_on_the_page_server_and_with_the_feature_off() -> Result<()> {
    let said = run("page-server")?;
    let passed = count(&said, "passed")?;
    ensure!(passed >= 10, "{said}");
    ensure!(said.contains(" 0 of them wrong"), "{said}");
    let off = run("off")?;
    ensure!(count(&off, "passed")? == passed, "{off}");
    Ok(())
}
