//! What all branches share: the memory budget, the caches, the place.

use crate::api::{StoreConfig, StoreError};
use crate::branch::{Shared, folder};
use crate::cache::Caches;
use crate::collapse::Waiting;
use crate::files::Place;
use crate::materialise::{InnoDb, Materialise};
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::watch;
use xylem_types::BranchId;

/// What all branches of a project share.
pub struct Store {
    pub(crate) config: StoreConfig,
    pub(crate) caches: Caches,
    pub(crate) engine: Box<dyn Materialise>,
    pub(crate) place: Arc<dyn Place>,
    /// Memory of all open and frozen layers.
    pub(crate) layer_memory: Arc<AtomicU64>,
    ids: AtomicU64,
    pub(crate) branches: Mutex<Vec<Weak<Shared>>>,
    pub(crate) room_lock: Mutex<()>,
    pub(crate) room: Condvar,
    started: watch::Sender<bool>,
    pub(crate) long_pages: Arc<Waiting>,
}

impl Store {
    /// The store of branches that live in `place`.
    ///
    /// # Errors
    /// When the budget is below 1 MiB.
    pub fn open(config: StoreConfig, place: Arc<dyn Place>) -> Result<Arc<Store>, StoreError> {
        if config.memory_bytes < 1 << 20 {
            let source = std::io::Error::other("memory_bytes must be at least 1 MiB");
            return Err(StoreError::Io {
                context: "set up the page store".into(),
                source,
            });
        }
        // Half for layers in memory; a sixteenth is left for what readers and
        // the flush hold in passing, and for the list of layers.
        let caches = Caches::new(config.memory_bytes / 16 * 7);
        Ok(Arc::new(Store {
            config,
            caches,
            engine: Box::new(InnoDb),
            place,
            layer_memory: Arc::new(AtomicU64::new(0)),
            ids: AtomicU64::new(1),
            branches: Mutex::new(Vec::new()),
            room_lock: Mutex::new(()),
            room: Condvar::new(),
            started: watch::Sender::new(false),
            long_pages: Arc::default(),
        }))
    }

    /// Bytes of memory in use by open layers, frozen layers, indexes and caches.
    pub fn memory_used(&self) -> u64 {
        let lists: u64 = self.live().iter().map(|b| b.list_memory()).sum();
        self.layer_memory.load(Ordering::Acquire) + self.caches.memory() + lists
    }

    /// How it is set up.
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// A number never given out before in this process.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn add_branch(&self, branch: &Arc<Shared>) {
        let mut branches = self.branches.lock();
        branches.retain(|b| b.strong_count() > 0);
        branches.push(Arc::downgrade(branch));
    }

    /// Lets the branches follow their logs, and upkeep merge their layers; those
    /// that are opened later do so at once. Not before every branch is open
    /// that left another one: what that one reads again counts as before or
    /// after the fork, and what it needs of the other must be kept.
    pub fn start_ingest(&self) {
        self.started.send_replace(true);
    }

    /// Lets branches that are opened from now on, and their upkeep, wait for the
    /// next [`Store::start_ingest`]: a branch is opened again, and those that
    /// left it after it. Those that follow their logs already go on.
    pub fn hold_ingest(&self) {
        self.started.send_replace(false);
    }

    /// Whether branches may follow their logs.
    pub(crate) fn started(&self) -> watch::Receiver<bool> {
        self.started.subscribe()
    }

    /// Where everything durable lives.
    pub fn place(&self) -> &Arc<dyn Place> {
        &self.place
    }

    /// Removes a branch that was shut down, and all it has. Blocking. Called
    /// again after an error it goes on.
    ///
    /// # Errors
    /// [`StoreError::HasForks`], or when files cannot be removed.
    pub fn remove_branch(&self, id: BranchId) -> Result<(), StoreError> {
        let forks = self
            .live()
            .iter()
            .find(|b| b.id == id)
            .map(|b| b.forks.branches());
        if let Some(forks) = forks.filter(|forks| !forks.is_empty()) {
            return Err(StoreError::HasForks { branch: id, forks });
        }
        let removed = self.place.remove_folder(&folder(id));
        removed.map_err(|source| StoreError::Io {
            context: format!("remove branch {id} from {}", self.place.url()),
            source,
        })?;
        self.forget_fork(id);
        Ok(())
    }

    /// `id` needs nothing of other branches any more.
    pub(crate) fn forget_fork(&self, id: BranchId) {
        for branch in self.live() {
            branch.forks.remove(id);
            // It may have kept history for that one alone.
            branch.changed();
        }
    }

    pub(crate) fn live(&self) -> Vec<Arc<Shared>> {
        self.branches
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// The most that layers in memory may take.
    pub(crate) fn layer_limit(&self) -> u64 {
        self.config.memory_bytes / 2
    }

    /// When an open layer is frozen, in bytes.
    pub(crate) fn open_limit(&self) -> u64 {
        self.config
            .open_layer_bytes
            .min(self.config.memory_bytes / 4)
    }

    /// Size of an open layer's arena chunks.
    pub(crate) fn chunk_bytes(&self) -> usize {
        (self.config.memory_bytes / 256).clamp(64 << 10, 256 << 10) as usize
    }

    /// Memory of layers was given back.
    pub(crate) fn room_made(&self) {
        let _guard = self.room_lock.lock();
        self.room.notify_all();
    }
}

/// A random number.
pub(crate) fn random() -> u128 {
    rand::random()
}
