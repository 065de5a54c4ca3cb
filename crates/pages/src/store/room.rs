//! How much of the memory for layers each branch may take.
//!
//! All branches share it. What one cannot give back, because its flushes fail,
//! the others must not need.

use super::Store;
use crate::branch::shared::Shared;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a branch waits for the layers of others before it gives its own
/// away, [`WAIT`] each time.
const OTHERS_TURN: u32 = 25;
const WAIT: Duration = Duration::from_millis(20);

impl Store {
    /// Whether `branch` may take `more` bytes of layer memory.
    pub(crate) fn has_room(&self, branch: &Shared, more: u64) -> bool {
        let resources = &self.resources;
        let used = resources.layer_memory.load(Ordering::Acquire);
        // A batch larger than all goes alone.
        if used == 0 {
            return true;
        }
        if used.saturating_add(more) > resources.layer_limit() {
            return false;
        }
        let own = branch.layer_memory();
        let taken = own.saturating_add(more);
        own == 0 || taken <= resources.layer_limit() / 16 || taken <= self.share(branch)
    }

    /// The most that the layers in memory of one branch may take. Alone it may
    /// have all. Beside others it leaves half of what is not held by branches
    /// that cannot give anything back: however much memory branches hold that
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
        let limit = self.resources.layer_limit();
        match others {
            0 => limit,
            _ => limit.saturating_sub(held) / 2,
        }
    }

    /// Waits a while for another layer to be flushed; freezes an open one when
    /// no flush is on its way. `waits` counts the branch's waits before this.
    pub(crate) fn wait_for_room(&self, branch: &Shared, waits: u32) {
        let on_its_way = |b: &Shared| b.has_frozen() && !b.is_stuck();
        // The flushes of others may take for ever; its own help, too.
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
        self.resources.wait_for_room(WAIT);
    }
}
