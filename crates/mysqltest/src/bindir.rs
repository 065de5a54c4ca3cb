//! The directory in which `mysql-test-run.pl` looks for programs: MariaDB's programs,
//! with [`crate::standin`] in place of the server.

use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Creates `bindir` from `usr` of a MariaDB installation.
///
/// # Errors
/// A file cannot be written.
pub fn make(bindir: &Path, usr: &Path) -> Result<()> {
    let sbin = bindir.join("sbin");
    fs::create_dir_all(&sbin).with_context(|| format!("cannot make {}", sbin.display()))?;
    let parts = [
        ("bin", "bin"),
        ("lib", "lib"),
        ("share", "share"),
        ("mysql-test", "share/mysql/mysql-test"),
    ];
    for (name, part) in parts {
        let link = bindir.join(name);
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link).with_context(|| format!("cannot replace {}", link.display()))?;
        }
        symlink(usr.join(part), &link)
            .with_context(|| format!("cannot link {}", link.display()))?;
    }
    let me = std::env::current_exe().context("cannot find this program's own file")?;
    let script = format!(
        "#!/bin/sh\nexec {} {} \"$@\"\n",
        quoted(&me.to_string_lossy()),
        crate::standin::COMMAND
    );
    let path = sbin.join("mariadbd");
    fs::write(&path, script)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Quotes a text as one word of the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
