//! The resources of the machine that a process holds; see proc(5).

use anyhow::{Context, Result};
use std::fs;

/// The resources of a process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Resident memory in KiB.
    pub memory_kib: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

impl Resources {
    /// Reads those of the process `pid`.
    ///
    /// # Errors
    /// When it has ended.
    pub fn of(pid: u32) -> Result<Resources> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let files = format!("/proc/{pid}/fd");
        let files = fs::read_dir(&files).with_context(|| format!("cannot list {files}"))?;
        Ok(Resources {
            memory_kib: number_in(&status, "VmRSS")?,
            descriptors: files.count() as u64,
            threads: number_in(&status, "Threads")?,
        })
    }
}

/// A number in the content of `/proc/PID/status`, without its unit.
pub fn number_in(status: &str, name: &str) -> Result<u64> {
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no {name} in: {status}"))
}
