//! Processes by number and start time: a number alone may have been reused.

use crate::files;
use crate::user::User;
use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

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
        let begin = Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            if !self.is_alive() {
                return true;
            }
            if begin.elapsed() >= limit {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(25));
        }
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

/// Collects children that have ended. Call it only where nobody waits for a
/// child in another way.
pub fn reap_children() {
    use rustix::process::{WaitOptions, wait};
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// What a program gets of this process's environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherits {
    /// All of it: the server finds the store's credentials there.
    All,
    /// What [`harmless`] lets through: whoever can run SQL on mariadbd is not
    /// whoever called, and must not come by the caller's credentials.
    Harmless,
}

/// Whether mariadbd may know the environment variable `name`: where programs
/// are, the language and the time zone.
pub fn harmless(name: &OsStr) -> bool {
    const NAMES: [&str; 4] = ["PATH", "LANG", "LANGUAGE", "TZ"];
    name.to_str()
        .is_some_and(|name| NAMES.contains(&name) || name.starts_with("LC_"))
}

/// This process's environment, as far as [`harmless`] lets it through.
pub fn harmless_environment() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| harmless(name))
}

/// A program to start in a session of its own.
#[derive(Debug)]
pub struct Detached<'a> {
    /// What to run.
    pub program: &'a Path,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables for it, and not for the helper that starts it.
    pub envs: Vec<(String, OsString)>,
    /// What it gets of this process's environment.
    pub inherits: Inherits,
    /// Who it runs as, if not as this process.
    pub user: Option<&'a User>,
    /// Where its output goes, appended.
    pub log: &'a Path,
    /// Where it stands.
    pub cwd: &'a Path,
}

impl Detached<'_> {
    /// Starts it. It outlives this process and its terminal.
    ///
    /// This very program is started first, as `xylem __daemon`: it becomes the
    /// leader of a session and then turns into the wanted program. (Doing that
    /// between fork and exec would need unsafe code.)
    ///
    /// # Errors
    /// When the log cannot be opened or the process not made. A program that
    /// cannot be executed shows in the log, and as a process that is gone.
    pub fn spawn(self) -> Result<Process> {
        let log = files::open_log(self.log, self.user)?;
        let errors = log
            .try_clone()
            .context("cannot duplicate a file descriptor")?;
        let me = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = std::process::Command::new(&me);
        command.arg("__daemon");
        for (name, value) in &self.envs {
            let mut pair = OsString::from(name);
            pair.push("=");
            pair.push(value);
            command.arg("--env").arg(pair);
        }
        if let Some(user) = self.user {
            command.arg("--user").arg(user.uid.to_string());
            command.arg("--group").arg(user.gid.to_string());
        }
        if self.inherits == Inherits::Harmless {
            command.env_clear().envs(harmless_environment());
        }
        command
            .arg("--")
            .arg(self.program)
            .args(&self.args)
            .current_dir(self.cwd)
            .stdin(std::process::Stdio::null())
            .stdout(log)
            .stderr(errors);
        let child = command.spawn().with_context(|| {
            format!(
                "cannot start {} for {}",
                me.display(),
                self.program.display()
            )
        })?;
        // Even when it is dead by now it is a zombie, which has a start time.
        Process::find(child.id()).with_context(|| {
            format!(
                "process {} vanished, see {}",
                child.id(),
                self.log.display()
            )
        })
    }
}

/// What `xylem __daemon` does: becomes a session's leader, then `program`, run
/// by another user and group if given. Returns only when that failed.
///
/// # Errors
/// When `program` cannot be executed.
pub fn become_daemon(
    envs: &[OsString],
    user: Option<u32>,
    group: Option<u32>,
    program: &OsStr,
    args: &[OsString],
) -> Result<()> {
    // Refused only for a process group's leader, which is detached enough.
    let _ = rustix::process::setsid();
    let mut command = std::process::Command::new(program);
    command.args(args);
    if let Some(group) = group {
        command.gid(group);
    }
    if let Some(user) = user {
        // This also drops the caller's supplementary groups.
        command.uid(user);
    }
    for pair in envs {
        let bytes = pair.as_bytes();
        let at = bytes
            .iter()
            .position(|b| *b == b'=')
            .context("--env takes NAME=VALUE")?;
        command.env(
            OsStr::from_bytes(&bytes[..at]),
            OsStr::from_bytes(&bytes[at + 1..]),
        );
    }
    let error = command.exec();
    Err(error).with_context(|| format!("cannot execute {}", program.display()))
}
