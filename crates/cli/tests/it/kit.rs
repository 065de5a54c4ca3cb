//! What tests of the program share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the program on the state directory `dir`, without an installation.
pub fn xylem_in(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xylem"))
        .args(args)
        .env("XYLEM_DIR", dir)
        .env("XYLEM_HOME", dir.join("no-home"))
        .output()
        .expect("xylem runs")
}

/// Runs the program without a project.
pub fn xylem(args: &[&dyn AsRef<OsStr>]) -> Output {
    let dir = std::env::temp_dir().join("xylem-none");
    Command::new(env!("CARGO_BIN_EXE_xylem"))
        .args(args.iter().map(|a| a.as_ref()))
        .env("XYLEM_DIR", dir)
        .output()
        .expect("xylem runs")
}

/// What a program printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command that succeeds prints.
pub fn says(args: &[&dyn AsRef<OsStr>]) -> String {
    let out = xylem(args);
    assert!(out.status.success(), "{}", text(&out.stderr));
    text(&out.stdout)
}

/// The document that a command that succeeds prints.
pub fn json(args: &[&dyn AsRef<OsStr>]) -> serde_json::Value {
    serde_json::from_str(&says(args)).unwrap()
}

/// Compares with `tests/golden/NAME`; `UPDATE_EXPECT=1` writes it anew.
pub fn golden(name: &str, found: &str) {
    expect_test::expect_file![format!("../golden/{name}")].assert_eq(found);
}
