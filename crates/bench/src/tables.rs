//! A table that is larger than sysbench's, filled by one statement.

use crate::system::System;
use anyhow::Result;

/// The columns. Rows take about 230 bytes.
pub const COLUMNS: &str = "id INT UNSIGNED PRIMARY KEY, k INT UNSIGNED NOT NULL, \
     c CHAR(120) NOT NULL, pad CHAR(60) NOT NULL";

/// Creates table `d.t` with `rows` rows.
pub fn fill(system: &System, rows: u32) -> Result<()> {
    system.sql(&format!(
        "CREATE DATABASE IF NOT EXISTS d; \
         CREATE TABLE d.t ({COLUMNS}) DEFAULT CHARSET latin1; \
         INSERT INTO d.t SELECT seq, seq * 48271 % 2147483647, \
         CONCAT(MD5(seq), '-', MD5(seq + 1), '-', REVERSE(MD5(seq)), seq), \
         CONCAT(MD5(seq * 7), seq) FROM d.seq_1_to_{rows}"
    ))?;
    Ok(())
}
