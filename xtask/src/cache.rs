//! The cache outside the checkout: build products that take long, keyed by all of their
//! inputs.
//!
//! Everything in the cache can be deleted at any time. A product is built in a folder with
//! another name and renamed into place, so that a folder with the right name is complete.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// `$XYLEM_CACHE`, else `~/.cache/xylem`.
pub fn dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("XYLEM_CACHE") {
        return Ok(dir.into());
    }
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context(
            "neither XYLEM_CACHE nor HOME is set: set one of them to choose the cache directory",
        )?;
    Ok(base.join("xylem"))
}

/// A hash of all inputs of a product.
#[derive(Default)]
pub struct Key(Sha256);

impl Key {
    /// Adds a named text.
    pub fn text(mut self, name: &str, text: &str) -> Key {
        self.0.update(format!("{name}\0{}\0", text.len()));
        self.0.update(text);
        self
    }

    /// Adds a file's content.
    pub fn file(mut self, path: &Path) -> Result<Key> {
        let content =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.0.update(format!("{name}\0{}\0", content.len()));
        self.0.update(content);
        Ok(self)
    }

    /// 16 hexadecimal digits.
    pub fn finish(self) -> String {
        self.0
            .finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// All files below `dir`, sorted.
pub fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in
            std::fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?
        {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the product `path`. If it does not exist, `make` builds it in a temporary
/// folder.
pub fn product(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let parent = path.parent().context("a product has a folder")?;
    std::fs::create_dir_all(parent)
        .with_context(|| format!("cannot create {}", parent.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let partial = parent.join(format!(".{name}.{}", std::process::id()));
    if partial.exists() {
        std::fs::remove_dir_all(&partial)?;
    }
    std::fs::create_dir(&partial)
        .with_context(|| format!("cannot create {}", partial.display()))?;
    let made = make(&partial).and_then(|()| {
        std::fs::rename(&partial, path)
            .with_context(|| format!("cannot rename {} into place", partial.display()))
    });
    if made.is_err() {
        // Best effort, and the error of `make` matters more: the next attempt removes
        // what stays.
        let _ = std::fs::remove_dir_all(&partial);
    }
    made
}
