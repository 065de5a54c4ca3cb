//! The operating system's files, as a [`Disk`].

use super::{Disk, DiskFile};
use rustix::fs::FallocateFlags;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xylem_ambient::Entropy;

/// The file whose lock owns the directory.
const LOCK: &str = "LOCK";

/// How many slices one `pwritev` takes (`IOV_MAX` on Linux).
const SLICES_MAX: usize = 1024;

/// A directory of the operating system.
#[derive(Debug)]
pub struct OsDisk {
    dir: PathBuf,
    entropy: Entropy,
}

impl OsDisk {
    /// The directory `dir`, which need not be there yet. Salts come from
    /// `entropy`.
    pub fn new(dir: &Path, entropy: Entropy) -> OsDisk {
        OsDisk {
            dir: dir.to_owned(),
            entropy,
        }
    }
}

/// The names in `dir`, in no order; those that are not UTF-8 are none of ours.
pub(crate) fn names(dir: &Path) -> io::Result<Vec<String>> {
    std::fs::read_dir(dir)?
        .filter_map(|entry| entry.map(|e| e.file_name().into_string().ok()).transpose())
        .collect()
}

impl Disk for OsDisk {
    fn path(&self) -> &Path {
        &self.dir
    }

    fn lock(&self) -> io::Result<Box<dyn Send>> {
        create_dir_durably(&self.dir)?;
        let path = self.dir.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn salt(&self) -> io::Result<u64> {
        Ok(self.entropy.next()? as u64)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        names(&self.dir)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.dir.join(name))?;
        Ok(Arc::new(OsFile { file }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.dir.join(name))?;
        Ok(Arc::new(OsFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

struct OsFile {
    file: File,
}

impl DiskFile for OsFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            // Where the file system cannot, the caller's zeros take the room.
            Err(rustix::io::Errno::OPNOTSUPP) if self.size()? < bytes => self.file.set_len(bytes),
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        // Empty slices at the front would look like a write that got nowhere.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let count = parts.len().min(SLICES_MAX);
            match rustix::io::pwritev(&self.file, &parts[..count], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut parts, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Makes `dir` and what is missing above it, and makes their names durable:
/// a WAL in a directory that a crash takes away is lost with it.
fn create_dir_durably(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = dir
        .ancestors()
        .take_while(|d| !d.as_os_str().is_empty() && !d.exists())
        .collect();
    std::fs::create_dir_all(dir)?;
    // The caller may have made `dir` a moment ago without a sync.
    for made in std::iter::once(dir).chain(missing) {
        let above = match made.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            Some(_) => Path::new("."),
            None => continue,
        };
        // A parent that may not be read (a mount point's, say) was not made here.
        match File::open(above) {
            Ok(d) => d.sync_all()?,
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
