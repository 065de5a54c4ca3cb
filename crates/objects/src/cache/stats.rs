//! The counters of a cache.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use xylem_ambient::Clock;

/// The counters of a cache so far, and the bytes held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Reads answered from local disk.
    pub hits: u64,
    /// Reads for which something was fetched.
    pub misses: u64,
    /// Requests to the store for parts of objects.
    pub fetches: u64,
    /// Bytes that they brought.
    pub fetched_bytes: u64,
    /// Chunks dropped to make room.
    pub evictions: u64,
    /// Their bytes.
    pub evicted_bytes: u64,
    /// Chunks that were fetched and not kept: no room, or the disk failed.
    pub not_kept: u64,
    /// Chunks dropped because they were bad.
    pub forgotten: u64,
    /// Files that were uploaded from memory, since there was no room on disk.
    pub streamed: u64,
    /// Steps on the disk that failed.
    pub disk_failures: u64,
    /// Bytes of disk in use.
    pub held_bytes: u64,
    /// The limit for these.
    pub max_bytes: u64,
    /// Objects known.
    pub objects: u64,
}

pub(super) struct Counters {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) fetches: AtomicU64,
    pub(super) fetched_bytes: AtomicU64,
    pub(super) evictions: AtomicU64,
    pub(super) evicted_bytes: AtomicU64,
    pub(super) not_kept: AtomicU64,
    pub(super) forgotten: AtomicU64,
    pub(super) streamed: AtomicU64,
    disk_failures: AtomicU64,
    clock: Clock,
    /// When a failure was last logged, on the steady clock.
    last_warning_us: parking_lot::Mutex<Option<u64>>,
}

/// A full disk fails many times a second.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn new(clock: Clock) -> Counters {
        Counters {
            hits: AtomicU64::default(),
            misses: AtomicU64::default(),
            fetches: AtomicU64::default(),
            fetched_bytes: AtomicU64::default(),
            evictions: AtomicU64::default(),
            evicted_bytes: AtomicU64::default(),
            not_kept: AtomicU64::default(),
            forgotten: AtomicU64::default(),
            streamed: AtomicU64::default(),
            disk_failures: AtomicU64::default(),
            clock,
            last_warning_us: parking_lot::Mutex::default(),
        }
    }

    pub(super) fn read(&self, held_bytes: u64, max_bytes: u64, objects: u64) -> CacheStats {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        CacheStats {
            hits: get(&self.hits),
            misses: get(&self.misses),
            fetches: get(&self.fetches),
            fetched_bytes: get(&self.fetched_bytes),
            evictions: get(&self.evictions),
            evicted_bytes: get(&self.evicted_bytes),
            not_kept: get(&self.not_kept),
            forgotten: get(&self.forgotten),
            streamed: get(&self.streamed),
            disk_failures: get(&self.disk_failures),
            held_bytes,
            max_bytes,
            objects,
        }
    }

    /// The disk failed; the cache goes on without.
    pub(super) fn disk_failed(&self, doing: &str, path: &Path, error: &io::Error) {
        add(&self.disk_failures, 1);
        let now_us = self.clock.steady_us();
        let mut last_us = self.last_warning_us.lock();
        let since = |us| Duration::from_micros(now_us.saturating_sub(us));
        if last_us.is_none_or(|us| since(us) >= BETWEEN_WARNINGS) {
            *last_us = Some(now_us);
            tracing::warn!(
                %error, path = %path.display(),
                "the cache's disk failed at {doing}; reads go to the store, slower"
            );
        }
    }
}
