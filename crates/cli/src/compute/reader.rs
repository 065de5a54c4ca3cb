//! Read-only computes: mariadbd with `read_only`, from which nobody is exempt.
//!
//! InnoDB's own `innodb_read_only` reads without views, and so shows uncommitted
//! rows. A read-only compute is a compute like any other, on a branch of its own,
//! where open transactions roll back; only its users may not write.

use super::mycnf::defaults_file;
use crate::failure::Failure;
use crate::home::Home;
use crate::state::ComputeDir;
use anyhow::{Context, Result};
use std::process::{Command, Stdio};

/// SQL that takes the right to write in spite of `read_only` from every user
/// and role. mariadbd runs the init file with all rights, one statement a line.
///
/// Accounts of hosts by name cannot be revoked from: with `skip_name_resolve`
/// they are not there. Nobody can be one of them either, but the table says so
/// in the end, as it does of all others.
pub const INIT_SQL: &str = "BEGIN NOT ATOMIC DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; \
FOR it IN (SELECT User AS who, Host AS place, JSON_EXISTS(Priv, '$.is_role') AS is_role FROM mysql.global_priv) DO \
EXECUTE IMMEDIATE CONCAT('REVOKE READ ONLY ADMIN ON *.* FROM ', \
IF(it.is_role, CONCAT('`', REPLACE(it.who, '`', '``'), '`'), CONCAT(QUOTE(it.who), '@', QUOTE(it.place)))); \
END FOR; END;\n\
UPDATE mysql.global_priv SET Priv = JSON_SET(Priv, '$.access', \
CAST(JSON_VALUE(Priv, '$.access') AS UNSIGNED) & ~8589934592, '$.version_id', 101100) \
WHERE JSON_VALUE(Priv, '$.access') & 8589934592 OR JSON_VALUE(Priv, '$.version_id') IS NULL;\n";

/// Counts accounts that can write: there must be none. `READ_ONLY_ADMIN_ACL` in `sql/privilege.h` is
/// `1 << 33`; accounts of former versions have it with SUPER, and no version.
const WHO_WRITES: &str = "SELECT CONCAT(@@read_only + 0, ' ', COUNT(*)) FROM mysql.global_priv \
WHERE JSON_VALUE(Priv, '$.access') & 8589934592 OR JSON_VALUE(Priv, '$.version_id') IS NULL";

/// Checks that the read-only compute that was started accepts no writes.
///
/// # Errors
/// When somebody could write.
pub fn check(home: &Home, dir: &ComputeDir) -> Result<()> {
    let output = Command::new(home.client())
        .arg(defaults_file(&dir.client_cnf()))
        .args(["--batch", "--skip-column-names"])
        .arg(format!("--execute={WHO_WRITES}"))
        .env("LD_LIBRARY_PATH", home.library_path())
        .stdin(Stdio::null())
        .output()
        .context("cannot run MariaDB's client")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && said.trim() == "1 0" {
        return Ok(());
    }
    Err(Failure::new(
        format!(
            "the read-only compute would accept writes ({} {})",
            said.trim(),
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        format!("see {}", dir.log().display()),
    ))
}
