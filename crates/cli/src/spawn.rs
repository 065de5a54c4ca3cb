//! Starting programs that outlive this one.

use crate::account::User;
use crate::args::DaemonArgs;
use crate::files::{self, SECRET};
use crate::process::Process;
use anyhow::{Context, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

/// Opens the log file at `path` for appending, readable by its owner only: this
/// user, or `user`, whose process opens it by its name as well.
///
/// # Errors
/// When it cannot be opened, or given to `user`.
pub fn open_log(path: &Path, user: Option<&User>) -> Result<std::fs::File> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(SECRET)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    // One that an earlier version made, or this version for another user.
    log.set_permissions(PermissionsExt::from_mode(SECRET))
        .and_then(|()| match user {
            Some(user) => std::os::unix::fs::fchown(&log, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        })
        .with_context(|| format!("cannot make {} private", path.display()))?;
    Ok(log)
}

/// A log file larger than this is put aside before a start.
const LOG_BYTES_MAX: u64 = 32 << 20;

/// Renames a log file that has grown large; an older one that was put aside is
/// replaced.
pub fn put_aside(log: &Path) {
    if files::length_of(log) > LOG_BYTES_MAX {
        let mut old = log.as_os_str().to_owned();
        old.push(".1");
        let _ = std::fs::rename(log, old);
    }
}

/// Waits for a child; kills it when the waiting is given up.
///
/// # Errors
/// When the system cannot say how the child does.
pub async fn wait_child(child: std::process::Child) -> Result<std::process::ExitStatus> {
    struct Guard(std::process::Child);
    impl Drop for Guard {
        fn drop(&mut self) {
            // Neither does anything to a child that was waited for.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let mut guard = Guard(child);
    loop {
        let ended = guard.0.try_wait();
        if let Some(status) = ended.context("cannot wait for a child process")? {
            return Ok(status);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The part of this process's environment that a program gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherits {
    /// All of it, with the store's credentials, which the server needs.
    All,
    /// Only [`harmless`] variables: people who can run SQL on mariadbd must not learn
    /// the caller's credentials.
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
    /// The program to run.
    pub program: &'a Path,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables for it, and not for the helper that starts it.
    pub envs: Vec<(String, OsString)>,
    /// The part of this process's environment that it gets.
    pub inherits: Inherits,
    /// The account that it runs as, if not this process's.
    pub user: Option<&'a User>,
    /// The file to which its output is appended.
    pub log: &'a Path,
    /// Its working directory.
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
    /// When the log file cannot be opened or the process cannot be created. If the
    /// program cannot be executed the log file says so, and the process is gone.
    pub fn spawn(self) -> Result<Process> {
        let log = open_log(self.log, self.user)?;
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

/// `xylem __daemon`: becomes a session's leader, then `program`, run by another
/// user and group if given. Returns only when that fails.
///
/// # Errors
/// When `program` cannot be executed.
pub fn become_daemon(daemon: &DaemonArgs, program: &OsStr, args: &[OsString]) -> Result<()> {
    // Refused only for the leader of a process group, which is detached enough.
    let _ = rustix::process::setsid();
    let mut command = std::process::Command::new(program);
    command.args(args);
    if let Some(group) = daemon.group {
        command.gid(group);
    }
    if let Some(user) = daemon.user {
        // This also drops the caller's supplementary groups.
        command.uid(user);
    }
    for pair in &daemon.env {
        let bytes = pair.as_bytes();
        let at = bytes.iter().position(|b| *b == b'=');
        let at = at.context("--env takes NAME=VALUE")?;
        command.env(
            OsStr::from_bytes(&bytes[..at]),
            OsStr::from_bytes(&bytes[at + 1..]),
        );
    }
    let error = command.exec();
    Err(error).with_context(|| format!("cannot execute {}", program.display()))
}
