//! Marks the `ib_logfile0` of a running compute: its directory holds no database.
//!
//! `mariadb-backup` asks the server where its files are, reads the header of this
//! one and then copies data files. On a compute data files are empty shells, so
//! that the backup would succeed and hold nothing. InnoDB here reads the header
//! once, at its start, and writes nothing into the file; after that the header
//! becomes one of an unknown format. Every reader, also a stock server on a copy of
//! the directory, then ends at once and shows its creator:
//!
//! ```text
//! InnoDB: Unsupported redo log format. The redo log was created with
//! Xylem; back up by `xylem export`.
//! ```
//!
//! Source of the layout: `recv_sys_t::find_checkpoint()` in `log0recv.cc`.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// `LOG_HEADER_FORMAT`; none of MariaDB's formats, which are small numbers or
/// `0x5048…`, and its highest bit, which says encrypted, is 0.
const FORMAT: [u8; 4] = *b"Xyle";

/// `LOG_HEADER_CREATOR` and its 32 bytes, which InnoDB prints as they are.
const CREATOR: std::ops::Range<usize> = 16..48;
const MESSAGE: &[u8] = b"Xylem; back up by `xylem export`";

/// Bytes of the header, its CRC-32C the last four.
const HEADER: usize = 512;

/// Puts the header into the log of the data directory `data`, whose server has
/// started.
///
/// # Errors
/// When the file is not what the base backup made, or cannot be written.
pub fn put(data: &Path) -> Result<()> {
    let path = data.join("ib_logfile0");
    let failed = || format!("cannot mark {} as no database", path.display());
    // The directory may be another user's: no link of theirs is followed.
    let flags =
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
        .map_err(std::io::Error::from)
        .with_context(failed)?;
    let file = File::from(file);
    let meta = file.metadata().with_context(failed)?;
    if !meta.is_file() || meta.nlink() != 1 {
        bail!(
            "{} is not the file that the compute began with",
            path.display()
        );
    }
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).with_context(failed)?;
    let header = marked(header);
    file.write_all_at(&header, 0).with_context(failed)
}

/// `header` as [`put`] writes it.
pub fn marked(mut header: [u8; HEADER]) -> [u8; HEADER] {
    let (rest, crc) = header.split_at_mut(HEADER - 4);
    rest[..FORMAT.len()].copy_from_slice(&FORMAT);
    rest[CREATOR].copy_from_slice(MESSAGE);
    crc.copy_from_slice(&crc32c::crc32c(rest).to_be_bytes());
    header
}
