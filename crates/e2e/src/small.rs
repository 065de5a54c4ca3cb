//! A file system that is soon full.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system in memory, made as root; unmounted when dropped.
pub struct Small(PathBuf);

impl Small {
    /// None where this is not allowed: as another user than root, or in a
    /// container without the right to mount.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn mount(at: &Path, megabytes: u32) -> Result<Option<Small>> {
        std::fs::create_dir_all(at)?;
        let mut command = Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={megabytes}m"))
            .arg("tmpfs")
            .arg(at);
        if run(&mut command).is_err() {
            eprintln!("no small file system can be mounted here: not tested");
            return Ok(None);
        }
        Ok(Some(Small(at.to_owned())))
    }

    /// Sets its size.
    ///
    /// # Errors
    /// When the system does not.
    pub fn resize(&self, megabytes: u32) -> Result<()> {
        self.remount(&format!("size={megabytes}m"))
    }

    /// Leaves room for so many more files, whatever they hold.
    ///
    /// # Errors
    /// When the system does not.
    pub fn leave_files(&self, more: u64) -> Result<()> {
        let out = Command::new("df")
            .arg("--output=iused")
            .arg(&self.0)
            .output()?;
        let text = String::from_utf8(out.stdout)?;
        let used: u64 = text
            .lines()
            .nth(1)
            .context("df is silent")?
            .trim()
            .parse()?;
        self.remount(&format!("nr_inodes={}", used + more))
    }

    fn remount(&self, option: &str) -> Result<()> {
        run(Command::new("mount")
            .args(["-o", &format!("remount,{option}")])
            .arg(&self.0))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // What is open there keeps it until it is closed.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
