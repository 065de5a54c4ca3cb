//! Creating branches of a large database, compared with copying it by
//! `mariadb-backup`, `--prepare` and `cp`.

use crate::report::{Figure, Report, Who};
use crate::stats::quantile;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use xylem_e2e::Project;
use xylem_oracle::server::Install;

/// The number of branches that are created.
const BRANCHES: usize = 200;
/// The number of branches that get a compute and a query.
const ASKED: usize = 10;
/// The number of branches in which rows are changed.
const CHANGED: usize = 5;
/// Rows per GiB of tables.
const ROWS_PER_GIB: u64 = 4_500_000;

/// Measures with a database of about `gib` GiB.
pub fn measure(gib: u32, report: &mut Report) -> Result<()> {
    let install = Install::from_env()?;
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let options: Vec<String> = [
        "--innodb-buffer-pool-size=2G",
        "--innodb-log-file-size=2G",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-doublewrite=0",
    ]
    .map(str::to_owned)
    .into();
    install.create_database(&data, &options)?;
    let started = Instant::now();
    fill(&install, &data, dir.path(), &options, gib)?;
    let size = tree_bytes(&data.join("big"))?;
    println!(
        "branches: a database of {:.1} GiB, made in {:.0} s",
        in_gib(size),
        started.elapsed().as_secs_f64()
    );

    let copied = copy(&install, &data, dir.path())?;
    let project = Project::new()?;
    let started = Instant::now();
    let text = data.to_str().context("the path is not UTF-8")?;
    project.xylem(&["import", text])?;
    println!(
        "branches: imported in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    std::fs::remove_dir_all(&data)?;
    project.xylem(&["down"])?;
    project.up_in_place("256MiB")?;
    let sum = "SELECT COUNT(*), SUM(k) FROM big.t1 WHERE id BETWEEN 1000000 AND 1000999";
    let there = project.sql(sum)?;

    let (before, memory) = cost(&project)?;
    let mut made = Vec::new();
    for n in 0..BRANCHES {
        let started = Instant::now();
        project.xylem(&["branch", "create", &format!("b{n}")])?;
        made.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let (with_branches, memory_then) = cost(&project)?;

    let mut first = Vec::new();
    for n in (0..BRANCHES).step_by(BRANCHES / ASKED) {
        let name = format!("b{n}");
        let started = Instant::now();
        project.xylem(&["compute", "start", &name])?;
        let answer = project.sql_on(&name, sum)?;
        first.push(started.elapsed().as_secs_f64() * 1e3);
        ensure!(answer == there, "branch {name} says {answer}, not {there}");
        project.xylem(&["compute", "stop", &name])?;
    }
    for n in 0..CHANGED {
        let name = format!("b{n}");
        let change = "UPDATE big.t1 SET k = k + 1 WHERE id BETWEEN 1 AND 1000";
        project.sql_on(&name, change)?;
        project.xylem(&["compute", "stop", &name])?;
    }
    let (changed, _) = cost(&project)?;

    report.note(format!(
        "branch create, {BRANCHES} times, ms: median {:.1}, 99 % {:.1}, worst {:.1}",
        quantile(&made, 0.5),
        quantile(&made, 0.99),
        quantile(&made, 1.0)
    ));
    let name = format!("a copy to work on, {:.0} GiB", in_gib(size));
    report.figure(
        Figure::new("branches", name, "ms")
            .side(Who::Stock, vec![copied.as_secs_f64() * 1e3])
            .side(Who::Xylem, made),
    );
    report.note(format!(
        "then a compute and its first query of 1000 rows, {ASKED} times, ms: median {:.0}, worst {:.0}",
        quantile(&first, 0.5),
        quantile(&first, 1.0)
    ));
    report.note(format!(
        "{BRANCHES} branches: {:.1} KiB of store each, {:.0} KiB of the server's memory each; with 1000 rows changed in {CHANGED}: {:.1} MiB of store more",
        (with_branches - before) as f64 / 1024.0 / BRANCHES as f64,
        memory_then.saturating_sub(memory) as f64 / 1024.0 / BRANCHES as f64,
        (changed - with_branches) as f64 / f64::from(1 << 20)
    ));
    Ok(())
}

fn fill(install: &Install, data: &Path, dir: &Path, options: &[String], gib: u32) -> Result<()> {
    let server = install.start(data, dir, options)?;
    server.query("CREATE DATABASE big")?;
    for n in 1..=gib {
        server.query(&format!(
            "SET SESSION unique_checks = 0, foreign_key_checks = 0; \
             CREATE TABLE big.t{n} (id INT PRIMARY KEY, k INT NOT NULL, c CHAR(120) NOT NULL, pad CHAR(60) NOT NULL) DEFAULT CHARSET latin1; \
             INSERT INTO big.t{n} SELECT seq, seq % 9973, \
             CONCAT(MD5(seq), '-', MD5(seq + {n}), '-', REVERSE(MD5(seq)), seq), CONCAT(MD5(seq * 7), seq) \
             FROM big.seq_1_to_{ROWS_PER_GIB}"
        ))?;
    }
    server.stop()
}

/// Measures the time to make a second data directory on which a server can start.
fn copy(install: &Install, data: &Path, dir: &Path) -> Result<Duration> {
    let server = install.start(data, dir, &["--innodb-buffer-pool-size=256M".into()])?;
    let backup = dir.join("backup");
    let target = format!("--target-dir={}", backup.display());
    let socket = format!("--socket={}", server.socket().display());
    let datadir = format!("--datadir={}", data.display());
    let started = Instant::now();
    run(install.program("mariadb-backup").args([
        "--no-defaults",
        "--backup",
        "--user=root",
        &socket,
        &datadir,
        &target,
    ]))?;
    run(install
        .program("mariadb-backup")
        .args(["--no-defaults", "--prepare", &target]))?;
    let backed_up = started.elapsed();
    let copy = dir.join("copy");
    run(Command::new("cp").arg("-a").arg(&backup).arg(&copy))?;
    run(Command::new("sync").arg("-f").arg(&copy))?;
    let took = started.elapsed();
    println!(
        "branches: mariadb-backup {:.0} s, cp {:.0} s",
        backed_up.as_secs_f64(),
        (took - backed_up).as_secs_f64()
    );
    std::fs::remove_dir_all(&backup)?;
    std::fs::remove_dir_all(&copy)?;
    server.stop()?;
    Ok(took)
}

fn run(command: &mut Command) -> Result<()> {
    let out = command.output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{command:?}: {said}");
    Ok(())
}

/// The bytes of the project's store and of the server's resident memory.
fn cost(project: &Project) -> Result<(u64, u64)> {
    let status = project.json(&["status"])?;
    let pid = status["server"]["pid"].as_i64().context("no server")?;
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .context("no resident size")?
        .parse()?;
    let store = tree_bytes(&project.dir().join("server/store"))?;
    Ok((store, pages * 4096))
}

/// Bytes of all files below `dir`.
fn tree_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += match meta.is_dir() {
            true => tree_bytes(&entry.path())?,
            false => meta.len(),
        };
    }
    Ok(bytes)
}

fn in_gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
