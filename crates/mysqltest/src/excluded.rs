//! Tests that cannot pass here, each with a reason: `mariadb/mysqltest/excluded.def`.
//!
//! The format is that of MariaDB's own `disabled.def`: a test's full name, a colon, the
//! reason; `#` begins a comment. A combination in quotes may follow the name. MariaDB's
//! lists do not support that, so `mysql-test-run.pl` gets the list without those lines,
//! and the results of those tests do not count.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;

/// Excluded tests, with reasons.
#[derive(Debug, Default)]
pub struct Excluded {
    /// Tests by full name (`innodb.alter_table`).
    tests: BTreeMap<String, String>,
    /// Tests that are excluded in one combination only.
    combinations: BTreeMap<(String, String), String>,
}

impl Excluded {
    /// Whether a test that ran, as the runner names it
    /// (`innodb.alter_table 'crypt,4k'`), is excluded in its combination.
    pub fn has(&self, name: &str) -> bool {
        let (test, rest) = name.split_once(' ').unwrap_or((name, ""));
        self.tests.contains_key(test)
            || rest.trim_matches('\'').split(',').any(|combination| {
                self.combinations
                    .contains_key(&(test.to_owned(), combination.to_owned()))
            })
    }

    /// The list for `mysql-test-run.pl`; empty if it has no entry.
    pub fn for_runner(&self) -> String {
        let lines = self.tests.iter();
        lines
            .map(|(test, why)| format!("{test} : {why}\n"))
            .collect()
    }
}

/// Reads the list.
///
/// # Errors
/// The list cannot be read, or a line is not `SUITE.TEST : REASON`.
pub fn read(path: &Path) -> Result<Excluded> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Excluded> {
    let mut excluded = Excluded::default();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, reason)) = line.split_once(':') else {
            bail!("line {}: no colon: {line}", number + 1);
        };
        let (name, reason) = (name.trim(), reason.trim());
        if !name.contains('.') || reason.is_empty() {
            bail!("line {}: not SUITE.TEST : REASON: {line}", number + 1);
        }
        let before = match name.split_once(" '") {
            None => excluded.tests.insert(name.to_owned(), reason.to_owned()),
            Some((test, combination)) => {
                let combination = combination.trim_end_matches('\'').to_owned();
                let key = (test.trim().to_owned(), combination);
                excluded.combinations.insert(key, reason.to_owned())
            }
        };
        if before.is_some() {
            bail!("line {}: {name} is listed twice", number + 1);
        }
    }
    Ok(excluded)
}

#[cfg(test)]
mod tests;
