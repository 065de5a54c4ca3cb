//! The default of the page store's memory.

/// The minimum, in bytes.
const LEAST: u64 = 512 << 20;

/// An eighth of the machine's memory, or of the control group's limit. A stock
/// server would use all of the memory as the system's page cache. The page store
/// reads past that cache only what its own cache lacks.
pub(super) fn default_bytes() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total(&text));
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    share(machine, group)
}

/// The share of the smaller known limit.
pub(crate) fn share(machine: Option<u64>, group: Option<u64>) -> u64 {
    let all = machine.into_iter().chain(group).min().unwrap_or(0);
    (all / 8).max(LEAST)
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
pub(crate) fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
