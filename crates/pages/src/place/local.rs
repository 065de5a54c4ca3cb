//! A directory as a place, each step of writing through a hook that tests make
//! fail.

use super::files::{FileReader, FileWriter, Files, Place, Put};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A step of [`LocalFiles`], for the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// `open(O_CREAT | O_EXCL)`.
    Create(&'a str),
    /// A write of so many bytes.
    Write(&'a str, usize),
    /// `fsync` of a file.
    Sync(&'a str),
    /// `link` of a temporary file to its name.
    Link(&'a str),
    /// `fsync` of the directory.
    SyncDir,
    /// `unlink`.
    Remove(&'a str),
}

/// Called before each step; an error takes its place.
pub type Hook = Arc<dyn Fn(Step<'_>) -> io::Result<()> + Send + Sync>;

/// A directory with folders, held for this process while it is open.
pub struct LocalPlace {
    dir: PathBuf,
    hook: Option<Hook>,
    _lock: File,
}

impl LocalPlace {
    /// The directory `dir`, which is created.
    ///
    /// # Errors
    /// When another process has it open, or as the system says.
    pub fn open(dir: &Path) -> io::Result<LocalPlace> {
        LocalPlace::open_with(dir, None)
    }

    /// As [`LocalPlace::open`], with a hook before each step of writing, for
    /// tests.
    ///
    /// # Errors
    /// As for [`LocalPlace::open`].
    pub fn open_with(dir: &Path, hook: Option<Hook>) -> io::Result<LocalPlace> {
        use fs4::fs_std::FileExt;
        std::fs::create_dir_all(dir)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("LOCK"))?;
        if !FileExt::try_lock_exclusive(&lock)? {
            return Err(io::Error::other("another process has it open"));
        }
        Ok(LocalPlace {
            dir: dir.to_owned(),
            hook,
            _lock: lock,
        })
    }
}

impl Place for LocalPlace {
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Files>> {
        let mut dir = self.dir.clone();
        for part in name.split('/') {
            // Each level durable, the last one by `LocalFiles`.
            std::fs::create_dir_all(&dir)?;
            File::open(&dir)?.sync_all()?;
            dir.push(part);
        }
        Ok(Arc::new(LocalFiles::open(&dir, self.hook.clone())?))
    }

    fn folders(&self, within: &str) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(self.dir.join(within)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut out = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let (true, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string())
            {
                out.push(name);
            }
        }
        Ok(out)
    }

    fn remove_folder(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_dir_all(self.dir.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }

    fn is_exclusive(&self) -> bool {
        true
    }
}

/// A directory of files.
#[derive(Clone)]
pub struct LocalFiles {
    dir: PathBuf,
    hook: Option<Hook>,
}

/// Suffix of files that are not yet what they will be.
const TEMP: &str = ".tmp";

impl LocalFiles {
    /// The directory `dir`, which is created.
    ///
    /// # Errors
    /// As the system says.
    pub fn open(dir: &Path, hook: Option<Hook>) -> io::Result<LocalFiles> {
        std::fs::create_dir_all(dir)?;
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(LocalFiles {
            dir: dir.to_owned(),
            hook,
        })
    }

    fn step(&self, step: Step<'_>) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(step))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.step(Step::SyncDir)?;
        File::open(&self.dir)?.sync_all()
    }

    fn create_local(&self, name: &str) -> io::Result<LocalWriter> {
        self.step(Step::Create(name))?;
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(self.dir.join(name))?;
        Ok(LocalWriter {
            files: self.clone(),
            name: name.to_owned(),
            file,
        })
    }
}

struct LocalWriter {
    files: LocalFiles,
    name: String,
    file: File,
}

impl LocalWriter {
    fn sync(&self) -> io::Result<()> {
        self.files.step(Step::Sync(&self.name))?;
        self.file.sync_all()
    }
}

impl FileWriter for LocalWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.files.step(Step::Write(&self.name, bytes.len()))?;
        self.file.write_all(bytes)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.sync()?;
        self.files.sync_dir()
    }
}

/// A file of a directory, open for reading.
pub(super) struct LocalReader(pub(super) File);

impl FileReader for LocalReader {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }
}

impl Files for LocalFiles {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let meta = match entry.metadata() {
                // Removed meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
                out.push((name, meta.len()));
            }
        }
        Ok(out)
    }

    /// Without a look at each file, as listing with sizes takes.
    fn after(&self, name: &str) -> io::Result<Vec<String>> {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            if let Ok(found) = entry?.file_name().into_string()
                && found.as_str() > name
            {
                out.push(found);
            }
        }
        Ok(out)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn FileWriter>> {
        Ok(Box::new(self.create_local(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn FileReader>> {
        Ok(Arc::new(LocalReader(File::open(self.dir.join(name))?)))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.dir.join(name))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step(Step::Remove(name))?;
        match std::fs::remove_file(self.dir.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> io::Result<Put> {
        let temp = format!("{name}{TEMP}");
        // A leftover of an attempt that failed.
        let _ = self.remove(&temp);
        let mut writer = self.create_local(&temp)?;
        writer.write(bytes)?;
        writer.sync()?;
        self.step(Step::Link(name))?;
        // Unlike rename, link does not replace what is there.
        match std::fs::hard_link(self.dir.join(&temp), self.dir.join(name)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let _ = self.remove(&temp);
                return Ok(Put::Exists);
            }
            Err(e) => return Err(e),
        }
        // From here on it exists, whatever else fails.
        let _ = self.remove(&temp);
        match self.sync_dir() {
            Ok(()) => Ok(Put::Done),
            Err(_) => Ok(Put::NotSynced),
        }
    }
}
