//! Small files: written whole or not at all, readable by their owner only.

use anyhow::{Context, Result};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// The mode of files: nothing of a project is for other users. Even log files
/// contain statements and addresses.
pub const SECRET: u32 = xylem_durable::SECRET;

/// Writes `data` to `path` through a temporary file beside it, so that a reader sees
/// the old content or the new one. Not synced: for files that can be made again
/// after a crash of the machine; for others see [`write_durable`].
///
/// # Errors
/// When the directory or the file cannot be written.
pub fn write_atomic(path: &Path, data: &[u8], mode: u32) -> Result<()> {
    xylem_durable::replace_in_cache(path, data, mode)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// As [`write_atomic`], and on disk when it returns.
///
/// # Errors
/// When the directory or the file cannot be written.
pub fn write_durable(path: &Path, data: &[u8], mode: u32) -> Result<()> {
    xylem_durable::replace(path, data, mode)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Makes a directory that only its owner may enter, and its parents.
///
/// # Errors
/// When it cannot be made.
pub fn make_private_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Closes a directory that is there to all but its owner.
///
/// # Errors
/// When it is somebody else's.
pub fn close(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700))
        .with_context(|| format!("cannot close {} to others", path.display()))
}

/// `path` with symbolic links, `.` and `..` resolved as far as it exists; in the rest
/// `..` removes the name before it.
pub fn resolved(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
        if let Ok(real) = std::fs::canonicalize(&out) {
            out = real;
        }
    }
    out
}

/// Removes a directory tree; not being there is fine.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// A file's permission bits, `None` when it is not there.
pub fn mode_of(path: &Path) -> Option<u32> {
    std::fs::symlink_metadata(path)
        .ok()
        .map(|m| m.permissions().mode() & 0o7777)
}

/// A file's length in bytes, 0 when it is not there.
pub fn length_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

/// A short name for the path or text `bytes`: FNV-1a, 64 bits. The same in every
/// version, since names on disk are made of it.
pub fn short_name(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}
