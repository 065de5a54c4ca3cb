//! Processes by number and start time: a number alone may have been reused.

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A process that was alive once. Its start time (field 22 of
/// `/proc/<pid>/stat`, clock ticks since the machine started) tells it from a
/// later one that got the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The process id.
    pub pid: u32,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

/// The parts of a `/proc/<pid>/stat` line that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `Z`, …
    pub state: char,
    /// Threads that have not ended.
    pub threads: u64,
    /// Clock ticks since boot.
    pub start_time: u64,
}

/// Reads one line of `/proc/<pid>/stat`. The second field is the command in
/// parentheses and may itself hold spaces and parentheses.
pub fn parse_stat(line: &str) -> Option<Stat> {
    let rest = line.get(line.rfind(')')? + 1..)?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // `state` is field 3, the number of threads 20, the start time 22.
    let threads = fields.nth(16)?.parse().ok()?;
    let start_time = fields.nth(1)?.parse().ok()?;
    Some(Stat {
        state,
        threads,
        start_time,
    })
}

fn stat_of(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

impl Process {
    /// The process that has the number `pid` now.
    pub fn find(pid: u32) -> Option<Process> {
        stat_of(pid).map(|stat| Process {
            pid,
            start_time: stat.start_time,
        })
    }

    /// The process of a name's end such as `4711-98765` ([`Process::tag`]).
    pub fn from_tag(tag: &str) -> Option<Process> {
        let (pid, start_time) = tag.split_once('-')?;
        Some(Process {
            pid: pid.parse().ok()?,
            start_time: start_time.parse().ok()?,
        })
    }

    /// A name's end that tells whose a file or directory is: `4711-98765`.
    pub fn tag(self) -> String {
        format!("{}-{}", self.pid, self.start_time)
    }

    /// This process.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn current() -> Result<Process> {
        Process::find(std::process::id()).context("cannot find this process in /proc")
    }

    /// Whether it still runs. A zombie does not: where process 1 reaps nobody,
    /// zombies stay for ever. A zombie with other threads does: its first
    /// thread has ended, and the others still hold its files and ports.
    pub fn is_alive(self) -> bool {
        stat_of(self.pid).is_some_and(|stat| {
            let ended = matches!(stat.state, 'Z' | 'X' | 'x') && stat.threads <= 1;
            stat.start_time == self.start_time && !ended
        })
    }

    /// Sends `signal`. False when the process is gone already.
    ///
    /// # Errors
    /// When the system refuses, as for a process of somebody else.
    pub fn signal(self, signal: Signal) -> Result<bool> {
        let raw = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = raw else { return Ok(false) };
        // The descriptor is taken before the check, so that the number cannot
        // change hands between the check and the signal.
        let descriptor = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok();
        if !self.is_alive() {
            return Ok(false);
        }
        let sent = match &descriptor {
            Some(fd) => rustix::process::pidfd_send_signal(fd, signal),
            None => rustix::process::kill_process(pid, signal),
        };
        match sent {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(e) => Err(e).with_context(|| format!("cannot signal process {}", self.pid)),
        }
    }

    /// Waits until it is gone. False when it still runs after `limit`.
    pub async fn wait_gone(self, limit: Duration) -> bool {
        let gone = async {
            let mut pause = Duration::from_millis(2);
            while self.is_alive() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(25));
            }
        };
        tokio::time::timeout(limit, gone).await.is_ok()
    }

    /// Asks it to end (SIGTERM), waits up to `limit`, then ends it (SIGKILL)
    /// and tells `escalated`.
    ///
    /// # Errors
    /// When the system refuses a signal, or the process outlives even SIGKILL.
    pub async fn stop(self, limit: Duration, escalated: impl FnOnce()) -> Result<()> {
        if !self.signal(Signal::TERM)? || self.wait_gone(limit).await {
            return Ok(());
        }
        escalated();
        self.kill().await
    }

    /// Ends it at once (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses the signal, or the process does not go within
    /// ten seconds (it hangs in the kernel, perhaps on a dead disk).
    pub async fn kill(self) -> Result<()> {
        if self.signal(Signal::KILL)? && !self.wait_gone(Duration::from_secs(10)).await {
            anyhow::bail!(
                "process {} does not end even on SIGKILL: it hangs in the kernel, perhaps on a disk; see /proc/{0}/stack",
                self.pid
            );
        }
        Ok(())
    }
}

impl Process {
    /// Collects it if it has ended and is a child of this process. Others may wait for
    /// other children meanwhile.
    pub fn reap(self) {
        use rustix::process::{WaitOptions, waitpid};
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if pid.is_some() && !self.is_alive() {
            let _ = waitpid(pid, WaitOptions::NOHANG);
        }
    }
}

/// Collects children that have ended. Call it only where nobody waits for a
/// child in another way.
pub fn reap_children() {
    use rustix::process::{WaitOptions, wait};
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}
