//! One server at a time on a data directory.

use crate::error::ServerError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The lock file of a data directory.
pub(crate) const FILE: &str = "lock";

/// The right to use a data directory, until dropped. The system gives it back
/// when the process dies, however that happens; the file stays.
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

    /// Keeps servers away from `dir` while it is only read; others may do the
    /// same. Writes nothing there; `None` when no server ever ran on it.
    ///
    /// # Errors
    /// [`ServerError::InUse`] with the process id of the server that runs there.
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
    // Only for the message; the holder may be about to write it.
    let _ = file.read_to_string(&mut pid);
    let pid = pid.trim();
    let pid = if pid.is_empty() { "unknown" } else { pid }.to_owned();
    ServerError::InUse {
        dir: dir.to_owned(),
        pid,
    }
}
