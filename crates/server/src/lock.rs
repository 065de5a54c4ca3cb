//! The lock of a data directory: one server at a time.

use crate::error::ServerError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The lock file of a data directory.
pub(crate) const FILE: &str = "lock";

/// The right to use a data directory, until dropped. The operating system releases the
/// lock whenever the process dies; the file stays.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock file of `dir`, which must exist.
    ///
    /// # Errors
    /// [`ServerError::InUse`] with the other server's process id.
    pub fn take(dir: &Path) -> Result<DirLock, ServerError> {
        let path = dir.join(FILE);
        let failed = |source| ServerError::io(format!("cannot lock {}", path.display()), source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(dir, file)),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let pid = format!("{}\n", std::process::id());
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        file.set_len(0).map_err(failed)?;
        file.write_all(pid.as_bytes()).map_err(failed)?;
        Ok(DirLock { _file: file })
    }

    /// Takes a shared lock of `dir`, which keeps servers away while the caller reads
    /// the directory. Writes nothing. `None` when no server ever ran on `dir`.
    ///
    /// # Errors
    /// [`ServerError::InUse`] with the process id of the running server.
    pub fn share(dir: &Path) -> Result<Option<DirLock>, ServerError> {
        let path = dir.join(FILE);
        let failed = |source| ServerError::io(format!("cannot lock {}", path.display()), source);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(DirLock { _file: file })),
            Err(TryLockError::WouldBlock) => Err(in_use(dir, file)),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

fn in_use(dir: &Path, mut file: File) -> ServerError {
    let mut pid = String::new();
    // Only for the message; the other server may not have written its id yet.
    let _ = file.read_to_string(&mut pid);
    let pid = pid.trim();
    let pid = if pid.is_empty() { "unknown" } else { pid }.to_owned();
    ServerError::InUse {
        dir: dir.to_owned(),
        pid,
    }
}
