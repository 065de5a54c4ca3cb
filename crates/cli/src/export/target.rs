//! A data directory that is being written: under another name until it is
//! complete.

use crate::failure::{Failure, Kind};
use crate::files;
use crate::process::Process;
use anyhow::{Context, Result, bail};
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// The middle of the name of a directory that is being written; the tag of its
/// process follows.
const MARK: &str = ".xylem-export-";

/// A directory that gets its name in [`Target::finish`], and is removed if this is
/// dropped before.
#[derive(Debug)]
pub struct Target {
    /// Its final path.
    place: PathBuf,
    /// Its present path.
    path: PathBuf,
    made: HashSet<PathBuf>,
    finished: bool,
}

impl Target {
    /// Begins to write the directory `place`, which must not exist, or be empty.
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
            return Err(Failure::of(
                Kind::Invalid,
                format!("there is no directory {}", parent.display()),
                format!("create it first: `mkdir -p {}`", parent.display()),
            ));
        }
        let name = name.to_string_lossy();
        sweep(parent, &name);
        let path = parent.join(format!(".{name}{MARK}{}", Process::current()?.tag()));
        files::make_private_dir(&path)?;
        Ok(Target {
            made: HashSet::from([path.clone()]),
            place,
            path,
            finished: false,
        })
    }

    /// Its present path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the directory `path` within it.
    ///
    /// # Errors
    /// When the path leads elsewhere, or it cannot be created.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let path = self.resolve(path)?;
        self.make(&path, mode)
    }

    /// Creates the file `path` within it.
    ///
    /// # Errors
    /// When the path leads elsewhere, or the file exists or cannot be created.
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

    /// Makes the directory durable and gives it its name.
    ///
    /// # Errors
    /// When that fails, or something has that name by now.
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
            // The next export to the same place removes what cannot be removed now.
            let _ = files::remove_tree(&self.path);
        }
    }
}

/// An error of writing, which mostly is a full disk.
pub fn cannot_write(path: &Path, error: std::io::Error) -> anyhow::Error {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let (kind, hint) = match error.kind() {
        StorageFull | QuotaExceeded => (
            Kind::Unavailable,
            "free some space there, or export to another disk",
        ),
        _ => (Kind::Failed, ""),
    };
    Failure::of(
        kind,
        format!("cannot write {}: {error}", path.display()),
        hint,
    )
}

/// Checks that nothing would be overwritten at `place`.
fn check_free(place: &Path) -> Result<()> {
    const HINT: &str = "name a directory that does not exist yet, or is empty";
    let meta = match std::fs::symlink_metadata(place) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot look at {}", place.display()))?,
    };
    if !meta.is_dir() {
        return Err(Failure::of(
            Kind::Conflict,
            format!("{} exists, and is not a directory", place.display()),
            HINT,
        ));
    }
    let first = std::fs::read_dir(place)
        .with_context(|| format!("cannot read {}", place.display()))?
        .next();
    if first.is_some() {
        return Err(Failure::of(
            Kind::Conflict,
            format!("{} is not empty", place.display()),
            HINT,
        ));
    }
    let parent = place.parent().and_then(|p| std::fs::metadata(p).ok());
    if parent.is_some_and(|parent| parent.dev() != meta.dev()) {
        return Err(Failure::of(
            Kind::Invalid,
            format!(
                "{} is a mount point, and cannot be replaced",
                place.display()
            ),
            "name a directory in it, which does not exist yet",
        ));
    }
    Ok(())
}

/// Removes directories that killed exports to `name` have left in `parent`.
fn sweep(parent: &Path, name: &str) {
    let prefix = format!(".{name}{MARK}");
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let process = found.to_str().and_then(|n| n.strip_prefix(&prefix));
        let process = process.and_then(Process::from_tag);
        if process.is_some_and(|p| !p.is_alive()) {
            let _ = files::remove_tree(&entry.path());
        }
    }
}
