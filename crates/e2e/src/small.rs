//! A small file system, for tests of a full disk.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small tmpfs, which needs root. It is unmounted on drop.
pub struct Small(PathBuf);

impl Small {
    /// Mounts the file system. `None` without the permission to mount: as another user
    /// than root, or in a container.
    ///
    /// # Errors
    /// The directory cannot be created.
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

    /// Sets the size of the file system.
    ///
    /// # Errors
    /// `mount` fails.
    pub fn resize(&self, megabytes: u32) -> Result<()> {
        self.remount(&format!("size={megabytes}m"))
    }

    /// Limits the number of further files, whatever their size.
    ///
    /// # Errors
    /// `mount` fails.
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
        // Lazy: open files keep the file system until they are closed.
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
