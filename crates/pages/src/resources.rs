//! The resources that all branches of a project share: settings, memory budget,
//! caches, place. Nothing here knows of a branch.

pub(crate) mod long_pages;

use crate::config::StoreConfig;
use crate::error::StoreError;
use crate::layer::cache::Caches;
use crate::layer::memory::MemLayer;
use crate::materialise::{InnoDb, Materialise};
use crate::place::Place;
use long_pages::LongPages;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use xylem_ambient::Clock;
use xylem_types::Lsn;

/// The least memory that a store works with, in bytes.
const MEMORY_MIN: u64 = 1 << 20;

/// The least memory of a store with which a WAL is read ahead: some MiB are held in
/// passing then.
const READ_AHEAD_MIN: u64 = 128 << 20;

/// See [`Resources::read_ahead`].
pub(crate) struct ReadAhead<'a>(&'a AtomicBool);

impl Drop for ReadAhead<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// See the module.
pub(crate) struct Resources {
    pub(crate) config: StoreConfig,
    /// Paces threads that really wait: the system's clock, whatever the
    /// configured one is. A pause that a thread sleeps through must end even
    /// while a test holds that one still.
    pub(crate) pace: Clock,
    pub(crate) caches: Caches,
    pub(crate) engine: Box<dyn Materialise>,
    pub(crate) place: Arc<dyn Place>,
    /// Memory of all open and frozen layers.
    pub(crate) layer_memory: Arc<AtomicU64>,
    /// Pages whose reads have to apply many records.
    pub(crate) long_pages: Arc<LongPages>,
    ids: AtomicU64,
    /// Several branches share the memory.
    is_crowded: AtomicBool,
    /// A thread reads a WAL ahead of a branch's ingest.
    reads_ahead: AtomicBool,
    room_lock: Mutex<()>,
    room: Condvar,
}

impl Resources {
    /// Sets up what branches in `place` share.
    ///
    /// # Errors
    /// When the budget is below 1 MiB.
    pub(crate) fn new(config: StoreConfig, place: Arc<dyn Place>) -> Result<Resources, StoreError> {
        if config.memory_bytes < MEMORY_MIN {
            let source = std::io::Error::other("memory_bytes must be at least 1 MiB");
            return Err(StoreError::Io {
                context: "set up the page store".into(),
                source,
            });
        }
        // Half for layers in memory; a sixteenth is left for what readers and
        // the flush hold in passing, and for the list of layers.
        let caches = Caches::new(config.memory_bytes / 16 * 7);
        Ok(Resources {
            config,
            pace: Clock::system(),
            caches,
            engine: Box::new(InnoDb),
            place,
            layer_memory: Arc::new(AtomicU64::new(0)),
            long_pages: Arc::default(),
            ids: AtomicU64::new(1),
            is_crowded: AtomicBool::new(false),
            reads_ahead: AtomicBool::new(false),
            room_lock: Mutex::new(()),
            room: Condvar::new(),
        })
    }

    /// A number never given out before in this process.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// A random number.
    ///
    /// # Errors
    /// When the system has none.
    pub(crate) fn random(&self) -> Result<u128, StoreError> {
        self.config.entropy.next().map_err(|source| StoreError::Io {
            context: "read a random number".into(),
            source,
        })
    }

    /// The name of a layer file: its number and a random part, so that no name
    /// is ever used twice, even by a process that reads an old manifest.
    ///
    /// # Errors
    /// When the system has no random number.
    pub(crate) fn layer_name(&self, number: u64) -> std::io::Result<String> {
        let random = self.config.entropy.next()? as u64;
        Ok(format!("{number:016x}-{random:016x}.layer"))
    }

    /// An empty layer in memory whose versions all come after `start`.
    pub(crate) fn memory_layer(&self, start: Lsn) -> MemLayer {
        MemLayer::new(
            start,
            Arc::clone(&self.layer_memory),
            self.config.long_chain_bytes,
            self.config.clock.clone(),
        )
    }

    /// Notes how many branches share the memory.
    pub(crate) fn set_branches(&self, count: usize) {
        self.is_crowded.store(count > 1, Ordering::Release);
    }

    /// The most that layers in memory may take, in bytes.
    pub(crate) fn layer_limit(&self) -> u64 {
        self.config.memory_bytes / 2
    }

    /// When an open layer is frozen, in bytes of redo.
    pub(crate) fn open_limit(&self) -> u64 {
        self.config
            .open_layer_bytes
            .min(self.config.memory_bytes / 4)
    }

    /// When an open layer is frozen, in bytes of memory: early enough that its
    /// branch goes on while it is flushed.
    pub(crate) fn open_memory_limit(&self) -> u64 {
        let crowded = self.is_crowded.load(Ordering::Acquire);
        self.layer_limit() / if crowded { 4 } else { 2 }
    }

    /// The most that the bases of one layer may take, in bytes.
    pub(crate) fn bases_limit(&self) -> u64 {
        (self.open_limit() / 8).max(64 << 10)
    }

    /// Size of an open layer's arena chunks, in bytes.
    pub(crate) fn chunk_bytes(&self) -> usize {
        (self.config.memory_bytes / 256).clamp(64 << 10, 256 << 10) as usize
    }

    /// The right to read a WAL ahead in another thread, if nobody has it and there is
    /// memory for what is read. One branch at a time: many that start together are
    /// many threads as it is.
    pub(crate) fn read_ahead(&self) -> Option<ReadAhead<'_>> {
        if self.config.memory_bytes < READ_AHEAD_MIN {
            return None;
        }
        let taken = self.reads_ahead.swap(true, Ordering::AcqRel);
        (!taken).then_some(ReadAhead(&self.reads_ahead))
    }

    /// Wakes branches that wait for memory: some was given back.
    pub(crate) fn room_made(&self) {
        let _guard = self.room_lock.lock();
        self.room.notify_all();
    }

    /// Waits for [`Resources::room_made`], at most for `limit`.
    pub(crate) fn wait_for_room(&self, limit: Duration) {
        let mut guard = self.room_lock.lock();
        self.room.wait_for(&mut guard, limit);
    }
}
