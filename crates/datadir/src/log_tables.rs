//! `mysql.general_log` and `mysql.slow_log`: their rows, in CSV, are no part of a
//! branch. They are empty in each compute's directory and in exported ones.

use crate::error::DatadirError;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The tables.
pub const NAMES: [&str; 2] = ["general_log", "slow_log"];

/// The files of a table without rows in MariaDB's CSV engine: a magic number, the
/// version, four counters of 8 bytes, and whether it is in use
/// (`write_meta_file()` in `ha_tina.cc`). Without it the table counts as crashed.
const EMPTY_META: [u8; 35] = {
    let mut meta = [0; 35];
    meta[0] = 254;
    meta[1] = 1;
    meta
};

/// Whether `path`, relative to a data directory, holds such rows.
pub fn is_rows(path: &str) -> bool {
    let stem = path.strip_prefix("mysql/").and_then(|name| {
        name.strip_suffix(".CSV")
            .or_else(|| name.strip_suffix(".CSM"))
    });
    stem.is_some_and(|stem| NAMES.contains(&stem))
}

/// Empties those of the tables that there are in the data directory `datadir`. Returns
/// the paths of the files that it wrote.
///
/// # Errors
/// When a file cannot be written.
pub fn empty(datadir: &Path) -> Result<Vec<PathBuf>, DatadirError> {
    let mut written = Vec::new();
    for name in NAMES {
        let place = |extension: &str| datadir.join(format!("mysql/{name}.{extension}"));
        if !place("frm").exists() {
            continue;
        }
        for (extension, content) in [("CSV", &[][..]), ("CSM", &EMPTY_META)] {
            let path = place(extension);
            std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o660)
                .open(&path)
                .and_then(|mut file| std::io::Write::write_all(&mut file, content))
                .map_err(DatadirError::write(&path))?;
            written.push(path);
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests;
