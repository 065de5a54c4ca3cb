//! Counters that tell readers whether what they remember of a tablespace still
//! holds: odd while it is changing, another even number afterwards. See
//! `branch/read.rs`.

use std::sync::atomic::{AtomicU64, Ordering};
use xylem_types::SpaceId;

#[cfg(test)]
mod tests;

/// Tablespaces share counters: what is remembered of one is then looked up
/// again when another changed.
const SLOTS: usize = 256;

/// One counter for each slot. Only one thread changes them.
pub(crate) struct Generations(Vec<AtomicU64>);

/// The slots that are odd, each once.
#[must_use]
pub(crate) struct Changing(Vec<usize>);

fn slot(space: SpaceId) -> usize {
    space.0 as usize % SLOTS
}

impl Generations {
    pub(crate) fn new() -> Generations {
        Generations((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }

    /// The generation of what is known of a tablespace. Odd: it is changing.
    pub(crate) fn of(&self, space: SpaceId) -> u64 {
        // No reader takes an odd number.
        let found = self.0.get(slot(space));
        found.map_or(1, |g| g.load(Ordering::Acquire))
    }

    /// `spaces` change from here on. Tablespaces of one slot count once: two
    /// steps would leave it even while they change.
    pub(crate) fn begin(&self, spaces: &[SpaceId]) -> Changing {
        let mut slots: Vec<usize> = spaces.iter().map(|s| slot(*s)).collect();
        slots.sort_unstable();
        slots.dedup();
        self.step(&slots);
        Changing(slots)
    }

    /// They have changed, and the LSN of the change is published.
    pub(crate) fn end(&self, changing: Changing) {
        self.step(&changing.0);
    }

    fn step(&self, slots: &[usize]) {
        for g in slots.iter().filter_map(|n| self.0.get(*n)) {
            g.fetch_add(1, Ordering::AcqRel);
        }
    }
}
