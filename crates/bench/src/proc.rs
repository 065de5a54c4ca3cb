//! What the kernel counts of a process; see proc(5).

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;

/// Counters of a process since its start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// CPU time in microseconds, user and system, including threads that have ended.
    pub cpu_us: f64,
    /// Context switches of each thread, voluntary and involuntary. The kernel forgets
    /// threads that have ended.
    pub switches: BTreeMap<u32, u64>,
}

/// The growth of the counters of one or several processes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time in microseconds.
    pub cpu_us: f64,
    /// Context switches of threads that live.
    pub switches: u64,
}

impl Sample {
    /// Reads the counters of the process `pid`.
    pub fn of(pid: u32) -> Result<Sample> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        let mut switches = BTreeMap::new();
        let tasks = format!("/proc/{pid}/task");
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot list {tasks}"))? {
            let task = task?.file_name();
            let id: u32 = task.to_string_lossy().parse()?;
            // A thread may end meanwhile.
            if let Ok(status) = read(&format!("task/{id}/status")) {
                switches.insert(id, switches_in(&status)?);
            }
        }
        let ticks = ticks_in(&read("stat")?)?;
        let per_second = rustix::param::clock_ticks_per_second();
        Ok(Sample {
            cpu_us: ticks as f64 * 1e6 / per_second as f64,
            switches,
        })
    }

    /// The growth since an earlier sample of the same process.
    pub fn since(&self, earlier: &Sample) -> Usage {
        let grown = self.switches.iter().map(|(id, now)| {
            let before = earlier.switches.get(id).copied().unwrap_or(0);
            now.saturating_sub(before)
        });
        Usage {
            cpu_us: self.cpu_us - earlier.cpu_us,
            switches: grown.sum(),
        }
    }
}

/// `utime` and `stime` in the content of `/proc/PID/stat`, in clock ticks.
pub fn ticks_in(stat: &str) -> Result<u64> {
    // The command name comes before `)` and may contain spaces.
    let fields = stat.rsplit_once(')').context("no name")?.1;
    let ticks: Vec<u64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context("no CPU times")?;
    match ticks[..] {
        [user, system] => Ok(user + system),
        _ => anyhow::bail!("no CPU times in: {stat}"),
    }
}

/// Voluntary and involuntary context switches in the content of
/// `/proc/PID/task/TID/status`.
pub fn switches_in(status: &str) -> Result<u64> {
    Ok(field(status, "voluntary_ctxt_switches")? + field(status, "nonvoluntary_ctxt_switches")?)
}

fn field(text: &str, name: &str) -> Result<u64> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .with_context(|| format!("no {name} in: {text}"))
}
