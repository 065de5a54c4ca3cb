//! Tests that cannot pass here, each with a reason: `mariadb/mtr/excluded.def`.
//!
//! The format is that of MariaDB's own `disabled.def`: a test's full name, a
//! colon, the reason; `#` begins a comment. `mysql-test-run.pl` reads the same
//! file and shows such a test as disabled.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;

/// Tests by full name (`innodb.alter_table`), with the reason.
pub type Excluded = BTreeMap<String, String>;

/// Reads the list.
///
/// # Errors
/// When it cannot be read, or a line is not `SUITE.TEST : REASON`.
pub fn read(path: &Path) -> Result<Excluded> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Excluded> {
    let mut excluded = Excluded::new();
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
        if excluded
            .insert(name.to_owned(), reason.to_owned())
            .is_some()
        {
            bail!("line {}: {name} stands there twice", number + 1);
        }
    }
    Ok(excluded)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn takes_names_with_reasons_only() {
        let list = parse("# why\n\ninnodb.one : reads a file: this one\n").unwrap();
        assert_eq!(list["innodb.one"], "reads a file: this one");
        for wrong in ["innodb.one", "one : why", "a.b :", "a.b : x\na.b : y"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_list_of_the_repository_can_be_read() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../mariadb/mtr/excluded.def"
        );
        assert!(super::read(path.as_ref()).is_ok());
    }
}
