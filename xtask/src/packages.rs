//! Installs the Debian packages that building and running need.

use crate::{cache, steps};
use anyhow::{Result, bail};
use std::process::Command;

/// Packages that a fresh Debian 12 lacks and that are needed to build InnoDB, unpack
/// Debian's packages, run MariaDB, test and measure.
const NEEDED: &[&str] = &[
    "bison",
    "cmake",
    "debootstrap",
    "dpkg-dev",
    "g++",
    "gcc",
    "libaio-dev",
    "libaio1",
    "libedit2",
    "libevent-dev",
    "libncurses-dev",
    "libnuma-dev",
    "libpcre2-dev",
    "libpmem-dev",
    "libsnappy-dev",
    "libssl-dev",
    "libsystemd-dev",
    "liburing-dev",
    "make",
    "patch",
    "sysbench",
    "zlib1g-dev",
];

/// Installs missing packages. Without root, fails with the command that installs them.
pub fn install() -> Result<()> {
    let mut missing: Vec<&str> = NEEDED
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if python_with_pip().is_none() {
        missing.push("python3-pip");
    }
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "packages are missing; install them and run this again:\n\n    \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends {}\n",
            missing.join(" ")
        );
    }
    let logs = cache::dir()?.join("log");
    steps::run(
        "reading package lists",
        Command::new("apt-get").args(["update", "--quiet"]),
        &logs.join("apt-update.log"),
    )?;
    steps::run(
        &format!("installing {} packages", missing.len()),
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "--yes", "--no-install-recommends", "--quiet"])
            .args(missing),
        &logs.join("apt-install.log"),
    )
}

fn is_installed(package: &str) -> bool {
    let query = steps::output(Command::new("dpkg-query").args([
        "--show",
        "--showformat=${db:Status-Status}",
        package,
    ]));
    query.is_ok_and(|status| status == "installed")
}

/// A Python with pip, from Debian or elsewhere.
pub fn python_with_pip() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| steps::output(Command::new(python).args(["-m", "pip", "--version"])).is_ok())
}
