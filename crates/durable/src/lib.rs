//! Small files that are replaced as a whole: keys, tokens, certificates, settings.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The mode of a file that its owner alone may read.
pub const SECRET: u32 = 0o600;

/// Replaces the file `path` by `content`, through the file `path.tmp`: another process
/// sees the old content or the new content, and so does the next start after a crash of
/// the machine. The new content is on disk when this returns. One process at a time, so
/// that the temporary file always has the same name: a crash leaves no second copy of a
/// secret for long.
///
/// # Errors
/// When the file or its directory cannot be written. The file has the old or the new
/// content.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    replace_by(path, content, mode, (".tmp", File::sync_all))?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// As [`replace`], for files that can be made again after a crash of the machine, by
/// several processes at a time: not synced.
///
/// # Errors
/// As for [`replace`].
pub fn replace_in_cache(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let own = format!(".{}.tmp", std::process::id());
    replace_by(path, content, mode, (&own, |_| Ok(())))
}

fn replace_by(
    path: &Path,
    content: &[u8],
    mode: u32,
    (suffix, sync): (&str, impl Fn(&File) -> io::Result<()>),
) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    let temporary = path.with_file_name(name);
    // A leftover may have another mode, which opening would not change.
    let _ = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        // The umask may take bits away; it adds none.
        .mode(mode)
        .open(&temporary)?;
    let written = file
        .write_all(content)
        .and_then(|()| sync(&file))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "old and longer").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        replace(&path, b"new", SECRET).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SECRET);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        // A directory cannot be replaced by a file.
        std::fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"new", SECRET).is_err());
        assert!(path.is_dir());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
