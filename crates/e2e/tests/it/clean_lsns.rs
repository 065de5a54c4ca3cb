//! The plugin's table of the LSNs of clean pages, compiled without InnoDB.

use anyhow::{Context, Result, ensure};
use std::process::Command;

#[test]
fn an_lsn_of_a_clean_page_is_never_too_small_and_rarely_too_large() -> Result<()> {
    let crate_dir = env!("CARGO_MANIFEST_DIR");
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("clean_lsns");
    let status = Command::new("g++")
        .args([
            "-std=gnu++11",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pthread",
        ])
        .args(["-fsanitize=address,undefined", "-fno-sanitize-recover"])
        .arg("-I")
        .arg(format!("{crate_dir}/../../mariadb/innobase/include"))
        .arg(format!("{crate_dir}/tests/clean_lsns/main.cc"))
        .arg("-o")
        .arg(&program)
        .status()
        .context("cannot run g++")?;
    ensure!(status.success(), "g++: {status}");
    let out = Command::new(&program).output()?;
    ensure!(
        out.status.success(),
        "{}: {}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}
