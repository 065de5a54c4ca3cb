//! Distinguishes a data directory from a copy of it, and one boot of the machine from
//! another.
//!
//! A server that holds the lock of a directory knows that the previous holder is dead,
//! if the lock file and the running system are the same. A copied directory has another
//! lock file. A disk that was attached to another machine, or cloned block by block, has
//! the same lock file under another boot.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// The kernel's id of the present boot; see `random(4)`.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A directory on a running system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    /// The inode of the lock file and its creation time in nanoseconds since 1970 (0 if
    /// the file system has none). A copy differs.
    file: String,
    /// The boot id; empty when the system has none.
    boot: String,
}

/// The relation of a recorded seat to the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distance {
    /// The same lock file, on the same running system.
    Same,
    /// Perhaps the same lock file: the system was rebooted, or has no boot id.
    Unknown,
    /// The directory is a copy.
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

    /// Reads the output of `Display`.
    pub(crate) fn parse(text: &str) -> Option<Seat> {
        let (file, boot) = text.split_once('@')?;
        Some(Seat {
            file: file.to_owned(),
            boot: boot.to_owned(),
        })
    }

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
