//! The file system as the local WAL uses it, behind a trait so that a test can
//! replace it. [`os`] is the real one; `model` loses power on request.

#[cfg(feature = "conformance")]
pub mod model;
pub mod os;

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// One directory of files. Names have no slashes.
pub trait Disk: Send + Sync + 'static {
    /// The directory, for messages.
    fn path(&self) -> &Path;

    /// Makes the directory if it is not there, durably, and takes it for this
    /// owner until the guard is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another has it.
    fn lock(&self) -> io::Result<Box<dyn Send>>;

    /// A random number.
    ///
    /// # Errors
    /// The system's error.
    fn salt(&self) -> io::Result<u64>;

    /// The names in the directory, in no order.
    ///
    /// # Errors
    /// The system's error.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// The system's error.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes an empty file; one of that name is emptied.
    ///
    /// # Errors
    /// The system's error.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, replacing what is called `to`.
    ///
    /// # Errors
    /// The system's error.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The system's error.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// The system's error. Changes that were not durable before are then in
    /// doubt, even when a later call succeeds.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file. Calls may come from several threads.
pub trait DiskFile: Send + Sync + 'static {
    /// Its length in bytes.
    ///
    /// # Errors
    /// The system's error.
    fn size(&self) -> io::Result<u64>;

    /// Makes the file at least `bytes` long and takes the room for it, where
    /// the file system can; the new bytes read as zeros.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] when there is no room.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the file ends first.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `parts`, one after the other, from `offset`. The slices
    /// are used up.
    ///
    /// # Errors
    /// The system's error; some of the bytes may have been written.
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Makes what was written durable: bytes and length, not times.
    ///
    /// # Errors
    /// The system's error. Bytes written since the last success are then lost,
    /// even where reads still show them and a later call succeeds.
    fn sync(&self) -> io::Result<()>;
}
