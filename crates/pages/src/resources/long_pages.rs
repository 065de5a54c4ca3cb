//! The queue of pages that wait to be built because their reads apply many
//! records. Ingest fills it, `upkeep/collapse.rs` takes from it.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::time::Duration;
use xylem_types::{BranchId, PageId};

/// Pages that wait; a further one is dropped until its chain is longer still.
const WAITING_MAX: usize = 1024;

/// See the module.
#[derive(Default)]
pub(crate) struct LongPages {
    queue: Mutex<VecDeque<(BranchId, PageId)>>,
    signal: Condvar,
}

impl LongPages {
    /// Adds a page. Never waits for the thread that takes it.
    pub(crate) fn push(&self, branch: BranchId, page: PageId) {
        let mut queue = self.queue.lock();
        if queue.len() < WAITING_MAX && !queue.contains(&(branch, page)) {
            queue.push_back((branch, page));
            self.signal.notify_one();
        }
    }

    /// Takes the page that has waited longest. Waits for one, at most for
    /// `limit`.
    pub(crate) fn next(&self, limit: Duration) -> Option<(BranchId, PageId)> {
        let mut queue = self.queue.lock();
        if queue.is_empty() {
            self.signal.wait_for(&mut queue, limit);
        }
        queue.pop_front()
    }
}
