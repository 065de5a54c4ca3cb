//! The files of a data directory, and whether they change.

use crate::classify::{self, Top};
use crate::error::DatadirError;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file or directory, symbolic links followed.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its last name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// It is a directory.
    pub dir: bool,
    /// It is neither a file nor a directory.
    pub special: bool,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    stamp: Stamp,
}

/// Changes when the file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(meta: &std::fs::Metadata) -> Stamp {
        Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }
}

/// The entries of `dir`, by name.
///
/// # Errors
/// When it cannot be read, or a name in it is not UTF-8.
pub fn entries(dir: &Path) -> Result<Vec<Entry>, DatadirError> {
    let mut out = Vec::new();
    for found in std::fs::read_dir(dir).map_err(DatadirError::read(dir))? {
        let found = found.map_err(DatadirError::read(dir))?;
        let path = found.path();
        let name = found
            .file_name()
            .into_string()
            .map_err(|name| DatadirError::Name {
                name,
                dir: dir.to_owned(),
            })?;
        let meta = match std::fs::metadata(&path) {
            // A link to nothing: as if it were not there.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(DatadirError::read(&path))?,
        };
        out.push(Entry {
            name,
            dir: meta.is_dir(),
            special: !meta.is_dir() && !meta.is_file(),
            size: meta.len(),
            mode: meta.mode() & 0o777,
            stamp: Stamp::of(&meta),
            path,
        });
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(out)
}

impl Entry {
    /// Whether the file is no longer what it was.
    pub fn has_changed(&self) -> bool {
        std::fs::metadata(&self.path).map_or(true, |meta| Stamp::of(&meta) != self.stamp)
    }

    /// The process that holds a lock on the file, as a server does on those of
    /// the system tablespace.
    pub fn locked_by(&self) -> Option<u32> {
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        let device = self.stamp.device;
        let id = format!(
            "{:02x}:{:02x}:{}",
            rustix::fs::major(device),
            rustix::fs::minor(device),
            self.stamp.inode
        );
        // 1: POSIX  ADVISORY  WRITE 4711 fd:01:131090 0 EOF
        locks.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let at = fields.iter().position(|f| *f == id)?;
            fields.get(at.checked_sub(1)?)?.parse().ok()
        })
    }
}

/// How many undo tablespaces `datadir` has; `None` without any.
pub fn undo_tablespaces(datadir: &Path) -> Option<u32> {
    let entries = std::fs::read_dir(datadir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let count = names
        .filter(|name| classify::top(name) == Top::Undo)
        .count();
    u32::try_from(count).ok().filter(|count| *count > 0)
}
