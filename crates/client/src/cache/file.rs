//! The file of a page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

/// The outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The bytes are in the buffer.
    Done,
    /// The bytes are not in the system's memory.
    WouldBlock,
}

/// How many slots the file may grow by before the free space is looked at again.
const GRANT: i64 = 64;
/// How often growing is refused before the free space is looked at again.
const REFUSALS: i64 = 1024;
/// The cache leaves this part of its file system free, in addition to [`FREE_MIN`].
const FREE_PART: u64 = 20;
/// The bytes that the cache leaves free on its file system.
const FREE_MIN: u64 = 256 << 20;

/// See the module.
#[derive(Debug)]
pub struct PageFile {
    file: File,
    size: u64,
    /// Slots by which the file may still grow; below 0, refusals still to be made.
    grant: AtomicI64,
}

impl PageFile {
    /// Opens the file with a size of `size` bytes, and empties it unless `keep`. It takes
    /// space on the disk as it is written.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn open(path: &Path, size: u64, keep: bool) -> io::Result<PageFile> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(!keep)
            .mode(0o600)
            .open(path)?;
        file.set_len(size)?;
        Ok(PageFile {
            file,
            size,
            grant: AtomicI64::new(0),
        })
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// Those of the system, and an unexpected end of the file.
    pub fn read(&self, buf: &mut [u8], offset: u64, wait: bool) -> io::Result<Read> {
        if wait {
            return self.file.read_exact_at(buf, offset).map(|()| Read::Done);
        }
        let at = i64::try_from(offset).map_err(io::Error::other)?;
        let iov = libc::iovec {
            iov_base: buf.as_mut_ptr().cast(),
            iov_len: buf.len(),
        };
        // SAFETY: the one iovec is the caller's buffer.
        let read = unsafe { libc::preadv2(self.file.as_raw_fd(), &iov, 1, at, libc::RWF_NOWAIT) };
        match usize::try_from(read) {
            Ok(read) if read == buf.len() => Ok(Read::Done),
            // The rest must be waited for, as must everything where the file system does
            // not know the flag. An error shows when it is waited for.
            _ => Ok(Read::WouldBlock),
        }
    }

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// Those of the system.
    pub fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    /// Whether the file may grow by a slot. The caches of this machine must not take the
    /// space that others need.
    pub fn has_room(&self) -> bool {
        let before = self.grant.fetch_sub(1, Ordering::Relaxed);
        if before > 0 {
            return true;
        }
        if before < 0 && before > -REFUSALS {
            return false;
        }
        let room = free_beyond_reserve(&self.file);
        self.grant
            .store(if room { GRANT } else { -1 }, Ordering::Relaxed);
        room
    }
}

/// Whether the file system has more free space than it must keep.
fn free_beyond_reserve(file: &File) -> bool {
    let mut fs = std::mem::MaybeUninit::<libc::statvfs64>::uninit();
    // SAFETY: fstatvfs64 fills the structure when it returns 0.
    let fs = unsafe {
        if libc::fstatvfs64(file.as_raw_fd(), fs.as_mut_ptr()) != 0 {
            return false;
        }
        fs.assume_init()
    };
    let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
    bytes(fs.f_bavail) > bytes(fs.f_blocks) / FREE_PART + FREE_MIN
}

/// Removes a file if it is there. What remains is emptied by the next run.
pub fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}
