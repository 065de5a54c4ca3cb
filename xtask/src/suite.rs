//! `cargo xtask test`: formatting, lints, licenses, and all tests.

use crate::dist::Dist;
use crate::{cache, debian, package, packages, plugin, s3server, steps};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// The version of the license checker.
const CARGO_DENY: &str = "0.20.2";

/// Runs everything, or only the tests that `filter` names.
pub fn run(dist: &Dist, filter: Option<&str>) -> Result<()> {
    packages::install()?;
    let weed = s3server::weed()?;
    if filter.is_none() {
        check(
            "formatting",
            steps::cargo().args(["fmt", "--all", "--check"]),
        )?;
        check(
            "lints",
            steps::cargo().args([
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ]),
        )?;
        licences()?;
        check(
            "documentation",
            steps::cargo()
                .args([
                    "doc",
                    "--workspace",
                    "--no-deps",
                    "--document-private-items",
                ])
                .args(["--locked", "--quiet"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )?;
    }
    // End-to-end tests use the release build in the installation. Optimizing the tests
    // themselves takes longer than it saves.
    let mut tests = steps::cargo();
    tests.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    if let Some(filter) = filter {
        tests.arg(filter);
    }
    tests.env(s3server::VARIABLE, weed);
    // chroot needs root.
    if rustix::process::geteuid().is_root() {
        tests
            .env(package::VARIABLE, package::current(dist)?)
            .env(debian::ROOT_VARIABLE, debian::minimal_root()?);
    }
    check("tests", dist.environment(&mut tests))
}

fn check(name: &str, command: &mut Command) -> Result<()> {
    eprintln!("{name} ...");
    let status = command
        .current_dir(plugin::checkout())
        .status()
        .with_context(|| format!("{name}: cannot run cargo"))?;
    if !status.success() {
        bail!("{name} failed");
    }
    Ok(())
}

/// Checks the licenses and sources of all crates, and more strictly of those that run
/// inside the GPL-2.0-only server.
fn licences() -> Result<()> {
    let version = steps::output(steps::cargo().args(["deny", "--version"]));
    if version.is_err() {
        steps::run(
            "building cargo-deny (about 3 minutes)",
            steps::cargo().args(["install", "--locked", "cargo-deny", "--version", CARGO_DENY]),
            &cache::dir()?.join("log/cargo-deny.log"),
        )?;
    }
    check(
        "licences",
        steps::cargo().args(["deny", "check", "licenses", "bans", "sources"]),
    )?;
    check(
        "licences of the client library",
        steps::cargo().args([
            "deny",
            "--manifest-path",
            "crates/client/Cargo.toml",
            "--exclude-dev",
            "--config",
            "crates/client/deny.toml",
            "check",
            "licenses",
        ]),
    )
}
