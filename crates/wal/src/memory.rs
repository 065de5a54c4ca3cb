//! The memory of all WALs of one server, bounded together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A budget in bytes for entries that wait to be durable, and for objects that
/// WALs in an object store keep for their readers. Clones are the same budget.
///
/// When it is used up, each WAL still takes one entry at a time, so that none
/// waits for another. Together they hold at most the budget, plus one entry and
/// one object for each WAL.
#[derive(Clone, Debug)]
pub struct Memory(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Memory {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Memory {
        Memory(Arc::new(Budget {
            limit,
            used: AtomicU64::new(0),
        }))
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Acquire)
    }

    /// Whether `more` bytes fit.
    pub(crate) fn has_room(&self, more: u64) -> bool {
        self.used().saturating_add(more) <= self.0.limit
    }

    /// A share of the budget for a part of a WAL, empty at first.
    pub(crate) fn part(&self) -> Part {
        Part {
            memory: self.clone(),
            bytes: 0,
        }
    }
}

impl Default for Memory {
    /// A budget without a limit.
    fn default() -> Memory {
        Memory::new(u64::MAX)
    }
}

/// A part's share of a budget, given back on drop.
#[derive(Debug)]
pub(crate) struct Part {
    memory: Memory,
    bytes: u64,
}

impl Part {
    /// Holds so much now.
    pub fn set(&mut self, bytes: u64) {
        let used = &self.budget().used;
        match bytes >= self.bytes {
            true => used.fetch_add(bytes - self.bytes, Ordering::AcqRel),
            false => used.fetch_sub(self.bytes - bytes, Ordering::AcqRel),
        };
        self.bytes = bytes;
    }

    /// Whether `more` bytes fit into the budget.
    pub fn has_room(&self, more: u64) -> bool {
        self.memory.has_room(more)
    }

    fn budget(&self) -> &Budget {
        &self.memory.0
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.set(0);
    }
}
