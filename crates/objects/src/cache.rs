//! Local disk as a bounded cache of immutable objects.
//!
//! An object's file is as long as the object and sparse; a map in memory says
//! which chunks of it are there. What is missing is fetched by range, by one
//! thread however many want it, and chunks that were not used lately are
//! punched out of their files when the limit is reached. Nothing here is ever
//! the truth: what cannot be kept is read from the store each time.

mod disk;
mod entry;
mod evict;
mod object;
mod stats;
mod warm;
mod writer;

pub use disk::{Hook, Step};
pub use object::CachedObject;
pub use stats::CacheStats;
pub use writer::CacheWriter;

use crate::Bucket;
use disk::Disk;
use entry::Entry;
use parking_lot::{Condvar, Mutex};
use stats::Counters;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use warm::Warmer;

/// How a cache is set up.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// Bytes of disk at most, files being written included.
    pub max_bytes: u64,
    /// What is fetched and evicted at a time: a power of two, at least 4096.
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

/// A cache of a bucket's objects in a directory.
pub struct DiskCache {
    shared: Arc<Shared>,
    warmer: Warmer,
}

pub(crate) struct Shared {
    config: CacheConfig,
    bucket: Bucket,
    disk: Disk,
    entries: Mutex<HashMap<Arc<str>, Arc<Entry>>>,
    /// Entries with chunks, in the order in which they are looked at for
    /// eviction.
    clock: Mutex<VecDeque<Arc<Entry>>>,
    held: AtomicU64,
    room: FetchRoom,
    counters: Counters,
}

impl DiskCache {
    /// Opens the cache in `dir`, which is created; no other process may have
    /// it open. Objects that were whole are still there.
    ///
    /// # Errors
    /// When the directory is in use, or has files that are not a cache's, or
    /// as the system says.
    pub fn open(dir: &Path, config: CacheConfig, bucket: Bucket) -> io::Result<Arc<DiskCache>> {
        DiskCache::open_with(dir, config, bucket, None)
    }

    /// The same with a hook before each step on the disk, for tests.
    ///
    /// # Errors
    /// As for [`DiskCache::open`].
    pub fn open_with(
        dir: &Path,
        config: CacheConfig,
        bucket: Bucket,
        hook: Option<Hook>,
    ) -> io::Result<Arc<DiskCache>> {
        let CacheConfig {
            chunk_bytes,
            fetch_bytes,
            fetch_memory_bytes,
            ..
        } = config;
        if !chunk_bytes.is_power_of_two()
            || !(4096..=64 << 20).contains(&chunk_bytes)
            || fetch_bytes < chunk_bytes
            || fetch_memory_bytes < fetch_bytes
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "cache: chunk_bytes must be a power of two from 4096 to 64 MiB, fetch_bytes at \
                 least that, fetch_memory_bytes at least fetch_bytes",
            ));
        }
        let (disk, found) = Disk::open(dir, bucket.url(), hook)?;
        let counters = Counters::new(bucket.objects().config().clock.clone());
        let shared = Arc::new(Shared {
            config,
            bucket,
            disk,
            entries: Mutex::new(HashMap::new()),
            clock: Mutex::new(VecDeque::new()),
            held: AtomicU64::new(0),
            room: FetchRoom::new(fetch_memory_bytes),
            counters,
        });
        for (name, size) in found {
            // The limit may have become smaller.
            let cost = shared.cost_of(size);
            if shared.held() + cost > config.max_bytes {
                let _ = shared.disk.remove(&Disk::whole_name(&name, size));
                continue;
            }
            shared.held.fetch_add(cost, Ordering::AcqRel);
            shared.keep_whole(&name, size, None)?;
        }
        let warmer = Warmer::start(&shared)?;
        Ok(Arc::new(DiskCache { shared, warmer }))
    }

    /// The bucket whose objects it keeps.
    pub fn bucket(&self) -> &Bucket {
        &self.shared.bucket
    }

    /// Opens an object for reading. Asks the store only for what is not known
    /// of it here.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or when the store does not answer.
    pub fn object(&self, name: &str) -> io::Result<CachedObject> {
        Shared::object(&self.shared, name)
    }

    /// Begins an object. It is written to local disk, uploaded when finished,
    /// and then kept here; without room on disk it goes straight to the store.
    pub fn create(&self, name: &str) -> CacheWriter {
        CacheWriter::new(Arc::clone(&self.shared), name)
    }

    /// Fetches all of an object in the background, as far as there is room.
    /// Answers whether it was queued: the queue has a limit.
    pub fn warm(&self, name: &str) -> bool {
        self.warmer.queue(name)
    }

    /// Objects that are queued for [`DiskCache::warm`], or being fetched.
    pub fn warming(&self) -> usize {
        self.warmer.pending()
    }

    /// Drops what is kept of `range` of an object, so that it is fetched again.
    pub fn forget(&self, name: &str, range: Range<u64>) {
        let entry = self.shared.entries.lock().get(name).cloned();
        if let Some(entry) = entry {
            self.shared.forget(&entry, range);
        }
    }

    /// Drops what is kept of an object, which was removed from the store.
    pub fn remove(&self, name: &str) {
        let entry = self.shared.entries.lock().remove(name);
        if let Some(entry) = entry {
            self.shared.bury(&entry);
        }
    }

    /// Drops what is kept of all objects below `folder`.
    pub fn remove_folder(&self, folder: &str) {
        let mut gone = Vec::new();
        self.shared.entries.lock().retain(|name, entry| {
            let below = name
                .strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with('/'));
            if below {
                gone.push(Arc::clone(entry));
            }
            !below
        });
        for entry in gone {
            self.shared.bury(&entry);
        }
    }

    /// What it did so far and what it holds.
    pub fn stats(&self) -> CacheStats {
        self.shared.stats()
    }
}

impl Shared {
    fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    fn release(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Disk that an object of this size takes when it is whole.
    fn cost_of(&self, size: u64) -> u64 {
        size.next_multiple_of(entry::DISK_BLOCK)
    }

    fn stats(&self) -> CacheStats {
        let objects = self.entries.lock().len() as u64;
        self.counters
            .read(self.held(), self.config.max_bytes, objects)
    }

    fn object(shared: &Arc<Shared>, name: &str) -> io::Result<CachedObject> {
        if let Some(entry) = shared.entries.lock().get(name) {
            return Ok(CachedObject::new(shared, entry));
        }
        let size = shared.bucket.size(name)?;
        let mut entries = shared.entries.lock();
        let entry = entries.entry(name.into()).or_insert_with_key(|name| {
            Arc::new(Entry::new(
                Arc::clone(name),
                size,
                shared.config.chunk_bytes,
            ))
        });
        Ok(CachedObject::new(shared, entry))
    }

    /// Takes in an object whose file is whole and whose disk is reserved. The
    /// file is called `temp` so far, or as it should be. Answers false when
    /// something of that name is here already.
    fn keep_whole(&self, name: &str, size: u64, temp: Option<&str>) -> io::Result<bool> {
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
    fn bury(&self, entry: &Entry) {
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
    fn removed(&self, file: &str) {
        if let Err(error) = self.disk.remove(file) {
            self.counters
                .disk_failed("removing a file", &self.disk.path(file), &error);
        }
    }

    /// Lets go of an entry that has nothing and that nobody reads.
    fn purge(&self, entry: &Arc<Entry>) {
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
struct FetchRoom {
    total: u64,
    free: Mutex<u64>,
    given_back: Condvar,
}

impl FetchRoom {
    fn new(total: u64) -> FetchRoom {
        FetchRoom {
            total,
            free: Mutex::new(total),
            given_back: Condvar::new(),
        }
    }

    /// Waits for room.
    fn take(&self, bytes: u64) -> FetchGuard<'_> {
        let bytes = bytes.min(self.total);
        let mut free = self.free.lock();
        while *free < bytes {
            self.given_back.wait(&mut free);
        }
        *free -= bytes;
        FetchGuard { room: self, bytes }
    }
}

struct FetchGuard<'a> {
    room: &'a FetchRoom,
    bytes: u64,
}

impl Drop for FetchGuard<'_> {
    fn drop(&mut self) {
        *self.room.free.lock() += self.bytes;
        self.room.given_back.notify_all();
    }
}
