//! What tells a data directory from a copy of it, and one life of the machine
//! from another.
//!
//! A server that holds the lock of a directory knows that whoever held it
//! before is dead, if it is the same lock of the same running system. A copied
//! directory has another lock file; a disk that was attached to another
//! machine, or cloned block by block, has the same one under another boot.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// What the system gives each boot: Linux, `random(4)`.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A directory under a running system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    /// Inode of the lock file, and its time of birth in nanoseconds since 1970
    /// (0 where the file system has none): no copy has the same.
    file: String,
    /// Empty when the system does not say.
    boot: String,
}

/// How a noted seat stands to the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distance {
    /// The same lock, under the same running system.
    Same,
    /// Perhaps the same lock: the system was started again, or does not say.
    Unknown,
    /// A copy.
    Copy,
}

impl Seat {
    /// The seat of `data_dir`, whose lock is held.
    pub(crate) fn of(data_dir: &Path) -> Option<Seat> {
        let lock = std::fs::metadata(data_dir.join(crate::lock::FILE)).ok()?;
        let born = lock.created().ok();
        let born = born.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        Some(Seat {
            file: format!("{}.{}", lock.ino(), born.unwrap_or_default().as_nanos()),
            boot: boot.trim().to_owned(),
        })
    }

    /// Reads what [`Seat`] shows.
    pub(crate) fn parse(text: &str) -> Option<Seat> {
        let (file, boot) = text.split_once('@')?;
        Some(Seat {
            file: file.to_owned(),
            boot: boot.to_owned(),
        })
    }

    /// How `noted` stands to `now`.
    pub(crate) fn distance(noted: Option<&Seat>, now: Option<&Seat>) -> Distance {
        match (noted, now) {
            (Some(noted), Some(now)) if noted.file != now.file => Distance::Copy,
            (Some(noted), Some(now)) if noted.boot == now.boot && !now.boot.is_empty() => {
                Distance::Same
            }
            _ => Distance::Unknown,
        }
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.file, self.boot)
    }
}
