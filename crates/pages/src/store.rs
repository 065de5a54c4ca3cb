//! The store: the branches that are open, and what they share.

mod room;

use crate::branch::shared::Shared;
use crate::config::StoreConfig;
use crate::error::StoreError;
use crate::place::{Place, branch_folder};
use crate::resources::Resources;
use parking_lot::Mutex;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use tokio::sync::watch;
use xylem_types::BranchId;

/// The branches of a project, and what they share: one memory budget, the
/// caches, the place.
pub struct Store {
    pub(crate) resources: Arc<Resources>,
    branches: Mutex<Vec<Weak<Shared>>>,
    started: watch::Sender<bool>,
}

impl Store {
    /// Opens the store of the branches that live in `place`.
    ///
    /// # Errors
    /// When the memory budget is below 1 MiB.
    pub fn open(config: StoreConfig, place: Arc<dyn Place>) -> Result<Arc<Store>, StoreError> {
        Ok(Arc::new(Store {
            resources: Arc::new(Resources::new(config, place)?),
            branches: Mutex::new(Vec::new()),
            started: watch::Sender::new(false),
        }))
    }

    /// Bytes of memory in use by open layers, frozen layers, indexes and caches.
    pub fn memory_used(&self) -> u64 {
        let lists: u64 = self.live().iter().map(|b| b.list_memory()).sum();
        let resources = &self.resources;
        resources.layer_memory.load(Ordering::Acquire) + resources.caches.memory() + lists
    }

    /// The settings it was opened with.
    pub fn config(&self) -> &StoreConfig {
        &self.resources.config
    }

    /// The place where everything durable lives.
    pub fn place(&self) -> &Arc<dyn Place> {
        &self.resources.place
    }

    /// Lets the branches follow their WALs, and upkeep merge their layers;
    /// branches that are opened later do so at once.
    ///
    /// The caller has opened all branches by then. What a branch reads again
    /// counts as before or after a fork, and what a fork needs of its parent
    /// must be kept, so both must be known.
    pub fn start_ingest(&self) {
        self.started.send_replace(true);
    }

    /// Makes branches that are opened from now on, and their upkeep, wait for
    /// the next [`Store::start_ingest`]: for opening a branch again, and its
    /// forks after it. Branches that follow their WALs already go on.
    pub fn hold_ingest(&self) {
        self.started.send_replace(false);
    }

    /// Whether branches may follow their WALs.
    pub(crate) fn started(&self) -> watch::Receiver<bool> {
        self.started.subscribe()
    }

    /// Removes a branch that was shut down, and all its files. Blocking. Called
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
        let place = self.place();
        let removed = place.remove_folder(&branch_folder(id));
        removed.map_err(|source| StoreError::Io {
            context: format!("remove branch {id} from {}", place.url()),
            source,
        })?;
        for branch in self.live() {
            branch.forget_fork(id);
        }
        Ok(())
    }

    /// Adds a branch that was opened.
    pub(crate) fn add_branch(&self, branch: &Arc<Shared>) {
        let mut branches = self.branches.lock();
        branches.retain(|b| b.strong_count() > 0);
        branches.push(Arc::downgrade(branch));
        self.resources.set_branches(branches.len());
    }

    /// The branches that are open.
    pub(crate) fn live(&self) -> Vec<Arc<Shared>> {
        self.branches
            .lock()
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }
}
