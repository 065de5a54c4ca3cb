//! A data directory being written: beside its name until it is complete.

use crate::failure::Failure;
use crate::files;
use crate::proc::Process;
use anyhow::{Context, Result, bail};
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// What stands in the name of a directory that is being written.
const MARK: &str = ".xylem-export-";

/// Files below a directory that is not yet where it will be. Dropped before
/// [`Target::finish`] it removes them.
#[derive(Debug)]
pub struct Target {
    /// Where it will be.
    place: PathBuf,
    /// Where it is now.
    path: PathBuf,
    made: HashSet<PathBuf>,
    finished: bool,
}

impl Target {
    /// For the directory `place`, which must not be there, or be empty.
    ///
    /// # Errors
    /// When something is there, or it cannot be written.
    pub fn begin(place: &Path) -> Result<Target> {
        let place = std::path::absolute(place).context("cannot tell the current directory")?;
        let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
            bail!("{} cannot be the name of a directory", place.display());
        };
        check_free(&place)?;
        if !parent.is_dir() {
            return Err(Failure::new(
                format!("there is no directory {}", parent.display()),
                "make it first",
            ));
        }
        let name = name.to_string_lossy();
        sweep(parent, &name);
        let me = Process::find(std::process::id()).context("cannot find this process")?;
        let path = parent.join(format!(".{name}{MARK}{}-{}", me.pid, me.start_time));
        files::make_private_dir(&path)?;
        Ok(Target {
            made: HashSet::from([path.clone()]),
            place,
            path,
            finished: false,
        })
    }

    /// Where it is now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it will be.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Makes a directory within it.
    ///
    /// # Errors
    /// When the path leads elsewhere, or it cannot be made.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let path = self.resolve(path)?;
        self.make(&path, mode)
    }

    /// Makes a file within it.
    ///
    /// # Errors
    /// When the path leads elsewhere, or the file is there or cannot be made.
    pub fn create(&mut self, path: &str, mode: u32) -> Result<File> {
        let path = self.resolve(path)?;
        if let Some(parent) = path.parent() {
            let parent = parent.to_owned();
            self.make(&parent, 0o700)?;
        }
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .map_err(|e| cannot_write(&path, e))
    }

    fn resolve(&self, path: &str) -> Result<PathBuf> {
        let inside = Path::new(path)
            .components()
            .all(|c| matches!(c, Component::Normal(_)));
        if path.is_empty() || !inside {
            bail!("the server sent a file named {path:?}, which is not inside the data directory");
        }
        Ok(self.path.join(path))
    }

    fn make(&mut self, path: &Path, mode: u32) -> Result<()> {
        if self.made.contains(path) {
            return Ok(());
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .map_err(|e| cannot_write(path, e))?;
        self.made.insert(path.to_owned());
        Ok(())
    }

    /// Makes all of it durable and gives it its name.
    ///
    /// # Errors
    /// When that fails, or something is there by now.
    pub fn finish(mut self) -> Result<PathBuf> {
        let failed = || format!("cannot make {} durable", self.path.display());
        let dir = File::open(&self.path).with_context(failed)?;
        // Everything on that file system, which is less work than each file.
        rustix::fs::syncfs(&dir).with_context(failed)?;
        check_free(&self.place)?;
        // Takes the place of an empty directory.
        std::fs::rename(&self.path, &self.place)
            .with_context(|| format!("cannot put {} into place", self.place.display()))?;
        self.finished = true;
        if let Some(parent) = self.place.parent() {
            File::open(parent)
                .and_then(|dir| dir.sync_all())
                .with_context(|| format!("cannot sync {}", parent.display()))?;
        }
        Ok(self.place.clone())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.finished {
            // What stays is removed by the next export to the same place.
            let _ = files::remove_tree(&self.path);
        }
    }
}

/// An error of writing, which mostly is a full disk.
pub fn cannot_write(path: &Path, error: std::io::Error) -> anyhow::Error {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let hint = match error.kind() {
        StorageFull | QuotaExceeded => "free some space there, or export to another disk",
        _ => "",
    };
    Failure::new(format!("cannot write {}: {error}", path.display()), hint)
}

/// Refuses a place where something is.
fn check_free(place: &Path) -> Result<()> {
    const HINT: &str = "name a directory that is not there yet, or is empty";
    let meta = match std::fs::symlink_metadata(place) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot look at {}", place.display()))?,
    };
    if !meta.is_dir() {
        return Err(Failure::new(
            format!("{} is there, and is not a directory", place.display()),
            HINT,
        ));
    }
    let first = std::fs::read_dir(place)
        .with_context(|| format!("cannot read {}", place.display()))?
        .next();
    if first.is_some() {
        return Err(Failure::new(
            format!("{} is not empty", place.display()),
            HINT,
        ));
    }
    let parent = place.parent().and_then(|p| std::fs::metadata(p).ok());
    if parent.is_some_and(|parent| parent.dev() != meta.dev()) {
        return Err(Failure::new(
            format!(
                "{} is where a disk is mounted, and cannot be replaced",
                place.display()
            ),
            "name a directory in it, which is not there yet",
        ));
    }
    Ok(())
}

/// Removes what exports to `name` have left whose process is gone.
fn sweep(parent: &Path, name: &str) {
    let prefix = format!(".{name}{MARK}");
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let process = found.to_str().and_then(|n| n.strip_prefix(&prefix));
        let process = process.and_then(|p| {
            let (pid, start_time) = p.split_once('-')?;
            Some(Process {
                pid: pid.parse().ok()?,
                start_time: start_time.parse().ok()?,
            })
        });
        if process.is_some_and(|p| !p.is_alive()) {
            let _ = files::remove_tree(&entry.path());
        }
    }
}
