//! Who may take how much of the memory for layers.
//!
//! All branches share it. What one cannot give back, because its flushes fail,
//! the others must not need.

use crate::branch::Shared;
use crate::store::Store;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A branch waits so often for the layers of others before it gives its own
/// away, 20 ms each.
const OTHERS_TURN: u32 = 25;

impl Shared {
    /// Memory of its open and frozen layers.
    pub(crate) fn layer_memory(&self) -> u64 {
        let layers = self.layers();
        let frozen = layers.frozen.iter().map(|f| f.layer.memory());
        layers.open.memory() + frozen.sum::<u64>()
    }

    /// Nothing of its memory can be given back before something heals that
    /// fails now.
    pub(crate) fn is_stuck(&self) -> bool {
        self.has_no_flusher()
            || self.publish_fails.load(Ordering::Acquire)
            || self.health.flush.is_failing()
    }

    /// Nothing of its memory will be flushed any more.
    pub(crate) fn has_no_flusher(&self) -> bool {
        self.flusher_ended.load(Ordering::Acquire)
    }
}

impl Store {
    /// Whether `branch` may take `more` bytes of layer memory.
    pub(crate) fn has_room(&self, branch: &Shared, more: u64) -> bool {
        let used = self.layer_memory.load(Ordering::Acquire);
        // A batch larger than all goes alone.
        if used == 0 {
            return true;
        }
        if used.saturating_add(more) > self.layer_limit() {
            return false;
        }
        let own = branch.layer_memory();
        let taken = own.saturating_add(more);
        own == 0 || taken <= self.layer_limit() / 16 || taken <= self.share(branch)
    }

    /// The most that the layers in memory of one branch may take. Alone it may
    /// have all. Beside others it leaves half of what is not held by branches
    /// that cannot give anything back: so however much memory those hold that
    /// fail, one after the other, there is some for the next.
    fn share(&self, branch: &Shared) -> u64 {
        let mut others = 0;
        let mut held = 0u64;
        for other in self.live() {
            if other.id != branch.id {
                others += 1;
                if other.is_stuck() {
                    held += other.layer_memory();
                }
            }
        }
        match others {
            0 => self.layer_limit(),
            _ => self.layer_limit().saturating_sub(held) / 2,
        }
    }

    /// When an open layer is frozen, in bytes of memory: early enough that its
    /// branch goes on while it is flushed.
    pub(crate) fn open_memory_limit(&self) -> u64 {
        let others = self.branches.lock().len() > 1;
        self.layer_limit() / if others { 4 } else { 2 }
    }

    /// Waits a while for another layer to be flushed; freezes an open one when
    /// none is on its way. `waits` says how often the branch did so already.
    pub(crate) fn wait_for_room(&self, branch: &Shared, waits: u32) {
        let on_its_way = |b: &Shared| b.has_frozen() && !b.is_stuck();
        // What others do may take for ever; what it has itself helps, too.
        let own = branch.layer_memory() >= self.share(branch) / 2 || waits >= OTHERS_TURN;
        if own && !branch.has_frozen() {
            branch.freeze();
        } else if !own {
            let live = self.live();
            let able = || live.iter().filter(|b| !b.is_stuck());
            if !live.iter().any(|b| on_its_way(b))
                && let Some(largest) = able().max_by_key(|b| b.open_memory())
            {
                largest.freeze();
            }
        }
        let mut guard = self.room_lock.lock();
        self.room.wait_for(&mut guard, Duration::from_millis(20));
    }
}
