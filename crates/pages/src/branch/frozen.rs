//! Layers on their way from memory to files: the flush thread waits for them,
//! others for it.

use super::layers::{Frozen, Layers};
use super::shared::Shared;
use crate::layer::list::LayerList;
use crate::layer::read::LayerFile;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Shared {
    pub(crate) fn has_frozen(&self) -> bool {
        !self.layers.read().frozen.is_empty()
    }

    /// Memory of the open layer, in bytes.
    pub(crate) fn open_memory(&self) -> u64 {
        self.layers.read().open.memory()
    }

    /// Memory of its open and frozen layers, in bytes.
    pub(crate) fn layer_memory(&self) -> u64 {
        let layers = self.layers();
        let frozen = layers.frozen.iter().map(|f| f.layer.memory());
        layers.open.memory() + frozen.sum::<u64>()
    }

    /// Whether it can give back none of its memory until something heals that
    /// fails now.
    pub(crate) fn is_stuck(&self) -> bool {
        self.has_no_flusher()
            || self.publish_fails.load(Ordering::Acquire)
            || self.health.flush.is_failing()
    }

    /// Whether the flush thread has ended, so that nothing will be flushed.
    pub(crate) fn has_no_flusher(&self) -> bool {
        self.flusher_ended.load(Ordering::Acquire)
    }

    /// Waits for a frozen layer. `None`: the branch stops.
    pub(crate) fn next_frozen(&self) -> Option<Frozen> {
        let mut guard = self.flush_lock.lock();
        loop {
            if self.stopped() {
                return None;
            }
            if let Some(f) = self.layers.read().frozen.first() {
                return Some(f.clone());
            }
            self.flush_signal.wait(&mut guard);
        }
    }

    /// Waits for `time`, less if the branch stops or freezes a layer.
    pub(crate) fn flush_pause(&self, time: Duration) {
        let mut guard = self.flush_lock.lock();
        if !self.stopped() {
            self.flush_signal.wait_for(&mut guard, time);
        }
    }

    /// Replaces the list of layer files by what `change` makes of it, and lets
    /// go of the oldest frozen layer when `flushed` says that it is in the list
    /// now.
    pub(crate) fn change_files(
        &self,
        flushed: bool,
        change: impl FnOnce(&[Arc<LayerFile>]) -> Vec<Arc<LayerFile>>,
    ) {
        // Reads and ingest do not wait while the list is arranged; another
        // change of it does.
        let _one = self.files_change.lock();
        let now = self.layers();
        let files = Arc::new(LayerList::new(change(&now.files), &now.files));
        drop(now);
        {
            let mut layers = self.layers.write();
            let mut next = Layers::clone(&layers);
            next.files = files;
            if flushed && !next.frozen.is_empty() {
                next.frozen.remove(0);
            }
            *layers = Arc::new(next);
        }
        self.changed();
    }

    /// Adds `files`, which hold the oldest frozen layer, to the list, and lets go
    /// of that layer.
    pub(crate) fn flushed(&self, files: Vec<Arc<LayerFile>>) {
        self.change_files(true, |now| [now, files.as_slice()].concat());
        self.stats.flushes.add(1);
        {
            let _guard = self.flush_lock.lock();
            self.flushed_signal.notify_all();
        }
        self.resources.room_made();
    }

    /// Notes that the flush thread ends, and wakes those who wait for it.
    pub(crate) fn flusher_ends(&self) {
        self.flusher_ended.store(true, Ordering::Release);
        let _guard = self.flush_lock.lock();
        self.flushed_signal.notify_all();
    }

    /// Freezes what is in memory and waits until it is in layer files, or until
    /// the branch stops. Blocking.
    pub(crate) fn flush_now(&self) {
        self.freeze();
        let mut guard = self.flush_lock.lock();
        while self.has_frozen() && !self.stopped() && !self.has_no_flusher() {
            self.flushed_signal.wait(&mut guard);
        }
    }
}
