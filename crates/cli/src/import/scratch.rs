//! A private directory for the time of an import.

use crate::files;
use crate::process::Process;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The beginning of a scratch directory's name; the tag of its process follows.
const PREFIX: &str = "import-";

/// A private directory that is removed when this is dropped, or by the next
/// import if this process is killed.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one in `parent`, and removes those of processes that are gone.
    ///
    /// # Errors
    /// When `parent` cannot be read or written.
    pub fn make(parent: &Path) -> Result<Scratch> {
        let listed = std::fs::read_dir(parent);
        for entry in listed
            .with_context(|| format!("cannot read {}", parent.display()))?
            .flatten()
        {
            let name = entry.file_name();
            let tag = name.to_str().and_then(|n| n.strip_prefix(PREFIX));
            if tag
                .and_then(Process::from_tag)
                .is_some_and(|p| !p.is_alive())
            {
                files::remove_tree(&entry.path())?;
            }
        }
        let path = parent.join(format!("{PREFIX}{}", Process::current()?.tag()));
        files::make_private_dir(&path)?;
        Ok(Scratch { path })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The next import removes what cannot be removed now.
        let _ = files::remove_tree(&self.path);
    }
}
