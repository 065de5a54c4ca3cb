//! Facts about the machine and the builds, for the head of a report.

use crate::report::Setting;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;

/// The setting of this run.
pub fn of_this_run(against: Option<&Path>) -> Result<Setting> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut facts = vec![
        (
            "processor",
            format!(
                "{} x {}",
                available_parallelism()?,
                value_of(&cpuinfo, "model name").unwrap_or("unknown")
            ),
        ),
        (
            "memory",
            value_of(&memory, "MemTotal")
                .unwrap_or("unknown")
                .to_owned(),
        ),
        ("kernel", kernel.trim().to_owned()),
    ];
    let home = std::env::var_os("XYLEM_HOME").map(PathBuf::from);
    for (name, home) in [("xylem", home.as_deref()), ("before", against)] {
        if let Some(home) = home {
            facts.push((name, version(home)?));
        }
    }
    Ok(Setting(facts))
}

fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

fn version(home: &Path) -> Result<String> {
    let program = home.join("bin/xylem");
    let out = Command::new(&program)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
