//! Tables that are larger than sysbench's, each filled by one statement.

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

/// Creates table `d.r` with the rows of `d.t`, whose new keys come in random order: two
/// neighboring leaves of the primary key are anywhere in the file.
pub fn fill_scattered(system: &System) -> Result<()> {
    system.sql(
        "CREATE TABLE d.r (id BIGINT UNSIGNED PRIMARY KEY, k INT UNSIGNED NOT NULL, \
         c CHAR(120) NOT NULL, pad CHAR(60) NOT NULL) DEFAULT CHARSET latin1; \
         INSERT INTO d.r SELECT CONV(LEFT(MD5(id), 15), 16, 10), k, c, pad FROM d.t",
    )?;
    Ok(())
}
