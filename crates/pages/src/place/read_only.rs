//! A directory that is only looked at: nothing is made, locked or changed, and
//! a server may have it open.

use super::files::{FileReader, FileWriter, Files, Place, Put};
use super::local::LocalReader;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory with folders that is only looked at.
#[derive(Clone, Debug)]
pub struct ReadOnlyPlace {
    dir: PathBuf,
}

impl ReadOnlyPlace {
    /// The directory `dir`.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(dir: &Path) -> io::Result<ReadOnlyPlace> {
        if !std::fs::metadata(dir)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(ReadOnlyPlace {
            dir: dir.to_owned(),
        })
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

/// The entries of a directory; none when it is not there.
fn entries(dir: &Path) -> io::Result<Vec<std::fs::DirEntry>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

impl Place for ReadOnlyPlace {
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Files>> {
        Ok(Arc::new(ReadOnlyFiles(self.dir.join(name))))
    }

    fn folders(&self, within: &str) -> io::Result<Vec<String>> {
        let mut out = Vec::new();
        for entry in entries(&self.dir.join(within))? {
            let is_dir = entry.file_type()?.is_dir();
            out.extend(entry.file_name().into_string().ok().filter(|_| is_dir));
        }
        Ok(out)
    }

    fn remove_folder(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }
}

struct ReadOnlyFiles(PathBuf);

impl Files for ReadOnlyFiles {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut out = Vec::new();
        for entry in entries(&self.0)? {
            // It may be gone by now.
            let meta = match entry.metadata() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
                out.push((name, meta.len()));
            }
        }
        Ok(out)
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn FileWriter>> {
        refused()
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileReader>> {
        Ok(Arc::new(LocalReader(File::open(self.0.join(name))?)))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.0.join(name))
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn put_new(&self, _: &str, _: &[u8]) -> io::Result<Put> {
        refused()
    }
}
