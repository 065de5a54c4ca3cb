//! Converts MariaDB's own tables back to Aria, the engine that stock MariaDB gives
//! them.
//!
//! Stock MariaDB reads its grant tables from InnoDB as well, but finds a
//! database's routines in `mysql.proc` in a way that only Aria supports:
//! information_schema.routines and mariadb-dump --routines would fail.

use crate::classify::{self, Engine, SYSTEM_DATABASES};
use crate::error::DatadirError;
use crate::frm::{self, Definition};
use crate::names;
use std::fmt::Write;
use std::path::Path;

#[cfg(test)]
mod tests;

/// The script that makes MariaDB's own tables, one statement a line.
const SCRIPT: &str = "mysql_system_tables.sql";
const CREATE: &str = "CREATE TABLE IF NOT EXISTS ";

/// The SQL that turns the tables in the data directory `data` back, where
/// `share` is the directory with MariaDB's scripts.
///
/// # Errors
/// When a file cannot be read.
pub fn sql(share: &Path, data: &Path) -> Result<String, DatadirError> {
    let path = share.join(SCRIPT);
    let script = std::fs::read(&path).map_err(DatadirError::read(&path))?;
    let mut tables: Vec<(&str, String, bool)> = aria_tables(&String::from_utf8_lossy(&script))
        .into_iter()
        .map(|(table, transactional)| (SYSTEM_DATABASES[0], table, transactional))
        .collect();
    tables.push((SYSTEM_DATABASES[1], "sys_config".to_owned(), true));
    let mut out = String::from("SET foreign_key_checks=0;\nSET sql_mode='';\n");
    for (database, table, transactional) in tables {
        let frm = data.join(database).join(format!("{table}.frm"));
        let Ok(bytes) = std::fs::read(&frm) else {
            continue;
        };
        let innodb = matches!(
            frm::definition(&bytes),
            Definition::Table(engine) if classify::engine(&engine) == Engine::InnoDb
        );
        if innodb {
            let _ = writeln!(
                out,
                "ALTER TABLE {}.{} ENGINE=Aria TRANSACTIONAL={} STATS_PERSISTENT=DEFAULT;",
                names::sql(database),
                names::sql(&table),
                u8::from(transactional)
            );
        }
    }
    Ok(out)
}

/// The tables that the script makes in Aria, and whether they are
/// transactional there.
fn aria_tables(script: &str) -> Vec<(String, bool)> {
    let mut out = Vec::new();
    for line in script.lines() {
        let Some(rest) = line.strip_prefix(CREATE) else {
            continue;
        };
        let lower = rest.to_ascii_lowercase();
        let name = rest.split([' ', '(']).next().unwrap_or_default();
        if lower.contains("engine=aria") && !name.is_empty() {
            let name = name.trim_matches('`').to_owned();
            out.push((name, !lower.contains("transactional=0")));
        }
    }
    out
}
