//! InnoDB's recovery and `xylem-redo` must make the same pages in every workload.
//!
//! Needs a stock MariaDB; `cargo xtask test` provides one.
#![allow(clippy::unwrap_used)]

use xylem_oracle::server::Install;
use xylem_oracle::{run, workload};

fn judge(name: &str) {
    let install = Install::from_env().unwrap();
    let workloads = workload::all(1, 1);
    let workload = workloads.iter().find(|w| w.name == name).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let outcome = run::run(&install, workload, dir.path()).unwrap();
    println!("{}", outcome.text);
    assert!(outcome.agrees(), "{}", outcome.text);
    assert!(
        outcome.from_checkpoint.pages > 100,
        "too little was compared: {}",
        outcome.text
    );
    let whole = workload.log_mib > 4;
    assert_eq!(outcome.from_nothing.is_some(), whole, "{}", outcome.text);
}

#[test]
fn oltp() {
    judge("oltp");
}

#[test]
fn oltp_small_pool() {
    judge("oltp-small-pool");
}

#[test]
fn oltp_small_log() {
    judge("oltp-small-log");
}

#[test]
fn ddl() {
    judge("ddl");
}

#[test]
fn ddl_system_space() {
    judge("ddl-system-space");
}

#[test]
fn rows() {
    judge("rows");
}

#[test]
fn rows_crc32() {
    judge("rows-crc32");
}

#[test]
fn mixed_4k() {
    judge("mixed-4k");
}

#[test]
fn mixed_8k() {
    judge("mixed-8k");
}

#[test]
fn mixed_32k() {
    judge("mixed-32k");
}

#[test]
fn mixed_64k() {
    judge("mixed-64k");
}
