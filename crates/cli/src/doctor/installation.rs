//! Checks that the installation is complete and fits together.

use super::Check;
use crate::home::{Home, VARIABLE};
use anyhow::{Context, Result};
use std::process::{Command, Output, Stdio};

pub(super) fn check(home: &Home, checks: &mut Vec<Check>) {
    let missing = home.missing();
    if missing.is_empty() {
        checks.push(Check::ok("home", home.root().display().to_string()));
    } else {
        let list: Vec<String> = missing
            .iter()
            .map(|(what, path)| format!("{what} is missing: {}", path.display()))
            .collect();
        checks.push(Check::fail(
            "home",
            list.join("\n"),
            format!("set {VARIABLE} to the installation's directory, or reinstall Xylem"),
        ));
    }
    let version = libraries(home, checks);
    if let Some(version) = version {
        plugin(home, &version, checks);
    }
    checks.push(match home.template() {
        Some(path) => Check::ok("template", path.display().to_string()),
        None => Check::ok(
            "template",
            "none: new projects create their system tables themselves, which takes some seconds",
        ),
    });
}

fn execute(home: &Home, program: &std::path::Path, preload: bool) -> std::io::Result<Output> {
    let mut command = Command::new(program);
    command
        .arg("--no-defaults")
        .arg("--version")
        .env("LD_LIBRARY_PATH", home.library_path());
    if preload {
        command.env("LD_PRELOAD", home.client_library());
    }
    command.stdin(Stdio::null()).output()
}

/// The version of the installation's mariadbd as SQL tells it, such as
/// `10.11.18-MariaDB-0+deb12u1`.
///
/// # Errors
/// When it cannot be executed.
pub(crate) fn mariadb_version(home: &Home) -> Result<String> {
    let program = home.mariadbd();
    let out = execute(home, &program, true)
        .with_context(|| format!("cannot execute {}", program.display()))?;
    let said = String::from_utf8_lossy(&out.stdout);
    let behind = said.split_once(" Ver ").map(|(_, version)| version);
    let version = behind.and_then(|version| version.split_whitespace().next());
    let version = version.map(str::to_owned);
    version.with_context(|| format!("{} tells no version: {said}", program.display()))
}

/// Runs the programs; returns mariadbd's version, such as `10.11.18`.
fn libraries(home: &Home, checks: &mut Vec<Check>) -> Option<String> {
    const REINSTALL: &str =
        "install missing libraries with the system's package manager, or reinstall Xylem";
    let mut version = None;
    let mut found = Vec::new();
    for (what, program, preload) in [
        ("mariadbd", home.mariadbd(), true),
        ("client", home.client(), false),
    ] {
        if !program.exists() {
            continue;
        }
        match execute(home, &program, preload) {
            Err(error) => {
                checks.push(Check::fail(
                    "libraries",
                    format!("{} cannot be executed: {error}", program.display()),
                    REINSTALL,
                ));
                return None;
            }
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
                let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                // The loader only complains about what it cannot preload.
                if !output.status.success() || complaint.contains("cannot be preloaded") {
                    checks.push(Check::fail(
                        "libraries",
                        format!("{what} does not start: {complaint}"),
                        REINSTALL,
                    ));
                    return None;
                }
                let short = version_in(&said).unwrap_or_else(|| said.clone());
                if what == "mariadbd" {
                    version = Some(short.clone());
                }
                found.push(format!("{what} {short}"));
            }
        }
    }
    if !found.is_empty() {
        checks.push(Check::ok(
            "libraries",
            format!("all found ({})", found.join(", ")),
        ));
    }
    version
}

/// The first `a.b.c` in the answer to `--version`, behind the program's path, which
/// may contain a version as well.
pub(super) fn version_in(text: &str) -> Option<String> {
    let text = text
        .split_once(" Ver ")
        .map_or(text, |(_, version)| version);
    text.split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .find(|word| {
            let parts: Vec<&str> = word.split('.').collect();
            // The client says `Ver 15.1 Distrib 10.11.18-MariaDB`.
            parts.len() == 3 && parts.iter().all(|part| !part.is_empty())
        })
        .map(str::to_owned)
}

/// A storage engine works only with the very version it was built for, and
/// names that version in its code.
fn plugin(home: &Home, version: &str, checks: &mut Vec<Check>) {
    let path = home.plugin();
    if !path.exists() {
        return;
    }
    checks.push(match std::fs::read(&path) {
        Err(error) => Check::fail(
            "plugin",
            format!("cannot read {}: {error}", path.display()),
            "check its permissions",
        ),
        Ok(code) if !contains(&code, version.as_bytes()) => Check::fail(
            "plugin",
            format!("{} was not built for mariadbd {version}", path.display()),
            "install mariadbd and the plugin from the same Xylem release",
        ),
        Ok(code) if !contains(&code, b"page_server_enabled") => Check::fail(
            "plugin",
            format!("{} is an InnoDB without a page server", path.display()),
            "put Xylem's ha_innodb.so in its place",
        ),
        Ok(_) => Check::ok("plugin", format!("built for mariadbd {version}")),
    });
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else {
        return true;
    };
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(needle) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}
