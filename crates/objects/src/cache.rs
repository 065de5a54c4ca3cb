//! Local disk as a bounded cache of immutable objects.
//!
//! An object's file is as long as the object and sparse; a map in memory says
//! which chunks of it are there. A missing range is fetched by one thread,
//! however many readers want it. When the limit is reached, chunks that were
//! not used lately are punched out of their files. The cache is never the
//! truth: data that it cannot keep is read from the store each time.
//!
//! The cache is our own because libraries that cache on disk (foyer, cacache)
//! keep whole values in files of their own. Here a layer of many MiB is read by
//! ranges, its file is the one that was written before the upload, and a
//! restart finds that file again.

mod disk;
mod entry;
mod evict;
mod object;
mod shared;
mod stats;
mod warm;
mod writer;

pub use disk::{Hook, Step};
pub use object::CachedObject;
pub use shared::CacheConfig;
pub use stats::CacheStats;
pub use writer::CacheWriter;

use crate::Bucket;
use disk::Disk;
use parking_lot::Mutex;
use shared::{FetchRoom, Shared};
use stats::Counters;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use warm::Warmer;

/// A cache of a bucket's objects in a directory.
pub struct DiskCache {
    shared: Arc<Shared>,
    warmer: Warmer,
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
        CachedObject::open(&self.shared, name)
    }

    /// Begins an object. It is written to local disk, uploaded when finished,
    /// and then kept here; without room on disk it goes straight to the store.
    pub fn create(&self, name: &str) -> CacheWriter {
        CacheWriter::new(Arc::clone(&self.shared), name)
    }

    /// Fetches all of an object in the background, as far as there is room.
    /// Returns whether it was queued: the queue has a limit.
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

    /// The counters so far, and the bytes held.
    pub fn stats(&self) -> CacheStats {
        self.shared.stats()
    }
}
