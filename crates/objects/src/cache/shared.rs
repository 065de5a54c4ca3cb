//! State that a cache's parts share: the table of objects, and the bytes that
//! they hold.

use super::disk::Disk;
use super::entry::{self, Entry};
use super::stats::{CacheStats, Counters};
use crate::Bucket;
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a cache is set up.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// Bytes of disk at most, files being written included.
    pub max_bytes: u64,
    /// The unit of fetching and eviction: a power of two, at least 4096.
    pub chunk_bytes: u64,
    /// Most that one request to the store fetches.
    pub fetch_bytes: u64,
    /// Most memory for all that is being fetched.
    pub fetch_memory_bytes: u64,
}

impl Default for CacheConfig {
    fn default() -> CacheConfig {
        CacheConfig {
            max_bytes: 10 << 30,
            chunk_bytes: 256 << 10,
            fetch_bytes: 4 << 20,
            fetch_memory_bytes: 64 << 20,
        }
    }
}

pub(super) struct Shared {
    pub(super) config: CacheConfig,
    pub(super) bucket: Bucket,
    pub(super) disk: Disk,
    pub(super) entries: Mutex<HashMap<Arc<str>, Arc<Entry>>>,
    /// Entries with chunks, in the order in which they are looked at for
    /// eviction.
    pub(super) clock: Mutex<VecDeque<Arc<Entry>>>,
    pub(super) held: AtomicU64,
    pub(super) room: FetchRoom,
    pub(super) counters: Counters,
}

impl Shared {
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    pub(super) fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Disk that an object of this size takes when it is whole.
    pub(super) fn cost_of(&self, size: u64) -> u64 {
        size.next_multiple_of(entry::DISK_BLOCK)
    }

    pub(super) fn stats(&self) -> CacheStats {
        let objects = self.entries.lock().len() as u64;
        self.counters
            .read(self.held(), self.config.max_bytes, objects)
    }

    /// Takes in an object whose file is whole and whose disk space is reserved.
    /// The file is called `temp`, or has its final name already. Returns false
    /// when the cache has an object of that name.
    pub(super) fn keep_whole(&self, name: &str, size: u64, temp: Option<&str>) -> io::Result<bool> {
        let mut entries = self.entries.lock();
        if entries.contains_key(name) {
            return Ok(false);
        }
        if let Some(temp) = temp {
            self.disk.rename(temp, &Disk::whole_name(name, size))?;
        }
        let name: Arc<str> = name.into();
        let entry = Entry::whole(Arc::clone(&name), size, self.config.chunk_bytes);
        let entry = Arc::new(entry);
        entries.insert(name, Arc::clone(&entry));
        self.clock.lock().push_back(entry);
        Ok(true)
    }

    /// Ends an entry that is no longer in the table. Its readers go on with
    /// the file they have.
    pub(super) fn bury(&self, entry: &Entry) {
        let mut state = entry.state.lock();
        if state.dead {
            return;
        }
        state.dead = true;
        self.release(entry.held_by(&state));
        if let Some(file) = state.file_name(entry) {
            self.removed(&file);
        }
    }

    /// Removes a file; one that stays is removed at the next start.
    pub(super) fn removed(&self, file: &str) {
        if let Err(error) = self.disk.remove(file) {
            self.counters
                .disk_failed("removing a file", &self.disk.path(file), &error);
        }
    }

    /// Drops an entry that holds no chunk and has no reader.
    pub(super) fn purge(&self, entry: &Arc<Entry>) {
        let mut entries = self.entries.lock();
        let listed = entries
            .get(&entry.name)
            .is_some_and(|e| Arc::ptr_eq(e, entry));
        if !listed || entry.readers() > 0 {
            return;
        }
        let state = entry.state.lock();
        if state.present_chunks() > 0 {
            return;
        }
        drop(state);
        entries.remove(&entry.name);
        // Under the lock: the next one of this name has a file of this name.
        self.bury(entry);
    }
}

/// Bounds the memory of what is being fetched.
pub(super) struct FetchRoom {
    total: u64,
    free: Mutex<u64>,
    given_back: Condvar,
}

impl FetchRoom {
    pub(super) fn new(total: u64) -> FetchRoom {
        FetchRoom {
            total,
            free: Mutex::new(total),
            given_back: Condvar::new(),
        }
    }

    /// Waits for room.
    pub(super) fn take(&self, bytes: u64) -> FetchGuard<'_> {
        let bytes = bytes.min(self.total);
        let mut free = self.free.lock();
        while *free < bytes {
            self.given_back.wait(&mut free);
        }
        *free -= bytes;
        FetchGuard { room: self, bytes }
    }
}

pub(super) struct FetchGuard<'a> {
    room: &'a FetchRoom,
    bytes: u64,
}

impl Drop for FetchGuard<'_> {
    fn drop(&mut self) {
        *self.room.free.lock() += self.bytes;
        self.room.given_back.notify_all();
    }
}
