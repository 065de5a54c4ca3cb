//! Bulk load: LOAD DATA of a file into an empty table.

use crate::Args;
use crate::report::{Figure, Report};
use crate::system::{System, Systems, select};
use crate::tables;
use anyhow::{Context, Result, ensure};
use mysql::prelude::Queryable;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

/// Measures all systems, turn by turn.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("rows.tsv");
    write_rows(&file, args.load_rows)?;
    let megabytes = file.metadata()?.len() as f64 / 1e6;
    let mut systems = Systems::start(args.against(), &args.pool)?;
    systems.each(|system| {
        system.sql("CREATE DATABASE d")?;
        system.give_file(&file)
    })?;
    let seconds = systems.turns(args.turns, |system| {
        let seconds = load(system, &file, args.load_rows)?;
        if let Some(left) = system.settle()? {
            report.note(left);
        }
        Ok(seconds)
    })?;
    let rows = f64::from(args.load_rows);
    let name = format!("LOAD DATA, {rows} rows, {megabytes:.0} MB");
    report.figure(
        Figure::new("load", name, "rows/s")
            .higher()
            .sides(select(&seconds, |seconds| rows / seconds)),
    );
    Ok(())
}

/// Loads the file into a new table and drops it; the seconds that loading took.
fn load(system: &System, file: &Path, rows: u32) -> Result<f64> {
    let file = system
        .files()
        .join(file.file_name().context("no file name")?);
    let mut connection = system.connect()?;
    let create = format!(
        "CREATE TABLE d.t ({}) DEFAULT CHARSET latin1",
        tables::COLUMNS
    );
    connection.query_drop(create)?;
    let started = Instant::now();
    connection.query_drop(format!(
        "LOAD DATA INFILE '{}' INTO TABLE d.t",
        file.display()
    ))?;
    let seconds = started.elapsed().as_secs_f64();
    let loaded = connection.affected_rows();
    ensure!(loaded == u64::from(rows), "{loaded} rows instead of {rows}");
    connection.query_drop("DROP TABLE d.t")?;
    Ok(seconds)
}

fn write_rows(path: &Path, rows: u32) -> Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for id in 1..=u64::from(rows) {
        // Any text will do that is not the same in each row.
        let text = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let c = format!("{text:016x}").repeat(7);
        let k = id * 48_271 % 0x7fff_ffff;
        writeln!(out, "{id}\t{k}\t{c}\t{text:016x}{id:032}")?;
    }
    out.flush()?;
    Ok(())
}
