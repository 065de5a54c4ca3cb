//! Reads the data files of a data directory, by tablespace.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xylem_redo::SpaceFlags;

/// A tablespace's only file.
#[derive(Debug)]
pub struct DataFile {
    /// The path of the file.
    pub path: PathBuf,
    /// The flags on page 0.
    pub flags: SpaceFlags,
    file: File,
}

impl DataFile {
    /// Reads a page. Bytes beyond the end of the file are zeros.
    ///
    /// # Errors
    /// When reading fails.
    pub fn page(&self, no: u32) -> Result<Vec<u8>> {
        let size = self.flags.physical_page_size();
        let mut page = vec![0; size];
        let mut at = 0;
        while let Some(rest) = page.get_mut(at..).filter(|r| !r.is_empty()) {
            match self
                .file
                .read_at(rest, u64::from(no) * size as u64 + at as u64)?
            {
                0 => break,
                n => at += n,
            }
        }
        Ok(page)
    }
}

/// The tablespaces of a data directory, except for files whose page 0 was never
/// written.
///
/// # Errors
/// When the directory cannot be read.
pub fn tablespaces(data: &Path) -> Result<BTreeMap<u32, DataFile>> {
    let mut found = BTreeMap::new();
    for path in candidates(data)? {
        let file = File::open(&path)?;
        let mut head = [0; 58];
        if file.read_exact_at(&mut head, 0).is_err() || head.iter().all(|&b| b == 0) {
            continue;
        }
        let at = |n: usize| u32::from_be_bytes([head[n], head[n + 1], head[n + 2], head[n + 3]]);
        let flags = SpaceFlags::new(at(54)).with_context(|| path.display().to_string())?;
        found.insert(at(34), DataFile { path, flags, file });
    }
    Ok(found)
}

fn candidates(data: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(data)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                let path = entry?.path();
                if path.extension().is_some_and(|e| e == "ibd") {
                    paths.push(path);
                }
            }
        } else if name == "ibdata1" || name.starts_with("undo") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
