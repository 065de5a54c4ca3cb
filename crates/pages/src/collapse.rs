//! Keeps reads of pages that are changed all the time short.
//!
//! Until its layer is flushed, each change of a page makes one more version
//! that a read has to apply: a counter that a million mtrs have raised. When
//! what a read has to gather has grown by [`StoreConfig::long_chain_bytes`], a
//! thread of its own builds the page from where it was built last, and leaves
//! it where reads pass by. Ingest only says which page; it waits for nobody.
//!
//! [`StoreConfig::long_chain_bytes`]: crate::StoreConfig::long_chain_bytes

use crate::api::{ReadAt, ReadError, StoreError};
use crate::branch::Shared;
use crate::catalog::SpaceInfo;
use crate::map::{Base, Built, Reach};
use crate::store::Store;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;
use xylem_types::{BranchId, Lsn, PageId};

/// Pages that wait; further ones are let go of until they are longer still.
const WAITING_MAX: usize = 1024;
/// How often the thread looks whether its store is still there.
const TICK: Duration = Duration::from_secs(1);

/// Pages that wait to be built.
#[derive(Default)]
pub(crate) struct Waiting {
    queue: Mutex<VecDeque<(BranchId, PageId)>>,
    signal: Condvar,
}

impl Waiting {
    fn push(&self, branch: BranchId, page: PageId) {
        let mut queue = self.queue.lock();
        if queue.len() < WAITING_MAX && !queue.contains(&(branch, page)) {
            queue.push_back((branch, page));
            self.signal.notify_one();
        }
    }

    fn next(&self) -> Option<(BranchId, PageId)> {
        let mut queue = self.queue.lock();
        if queue.is_empty() {
            self.signal.wait_for(&mut queue, TICK);
        }
        queue.pop_front()
    }
}

impl Store {
    /// Starts the thread, which ends with the store.
    pub(crate) fn start_collapse(self: &Arc<Store>) -> Result<(), StoreError> {
        let (store, waiting) = (Arc::downgrade(self), Arc::clone(&self.long_pages));
        std::thread::Builder::new()
            .name("pages-collapse".to_owned())
            .spawn(move || run(&store, &waiting))
            .map(|_| ())
            .map_err(|source| StoreError::Io {
                context: "start thread pages-collapse".to_owned(),
                source,
            })
    }

    /// The most that the bases of one layer may take, in bytes.
    fn bases_limit(&self) -> u64 {
        (self.open_limit() / 8).max(64 << 10)
    }
}

fn run(store: &Weak<Store>, waiting: &Waiting) {
    while store.strong_count() > 0 {
        let Some((id, page)) = waiting.next() else {
            continue;
        };
        // Whoever closes the store must not wait for this thread's hold on it.
        let branch = store
            .upgrade()
            .and_then(|s| s.live().into_iter().find(|b| b.id == id));
        if let Some(branch) = branch.filter(|b| !b.stopped())
            && let Err(error) = branch.shorten(page)
        {
            // It was a favor; who reads the page learns of it.
            tracing::debug!(branch = %id, %page, %error, "a long chain was not shortened");
        }
    }
}

impl Shared {
    /// After a batch: hands over the pages whose chains it made long.
    pub(crate) fn note_long(&self) {
        for page in self.layers().open.take_long() {
            self.store.long_pages.push(self.id, page);
        }
    }

    /// Gives the page a base as of now.
    fn shorten(&self, page: PageId) -> Result<(), ReadError> {
        let lsn = self.resolve(ReadAt::Newest)?;
        let layers = self.snapshot_at(lsn)?;
        let view = layers.view(self.source());
        let found = view.space(page.space, lsn)?;
        let Some((_, info)) = found.filter(|(_, i)| i.exists && page.page.0 < i.pages) else {
            return Ok(());
        };
        let cached = self.store.caches.pages.peek(&(self.cache_id, page));
        let base_lsn = cached.as_ref().map(|c| c.lsn());
        let base = cached.as_ref().zip(base_lsn).map(|(c, lsn)| Base {
            lsn,
            bytes: &c.bytes,
        });
        let engine = &*self.store.engine;
        match view.page(engine, page, &info, lsn, base, Reach::Files)? {
            Built::Page(bytes, _) => self.keep_base(page, lsn, &info, &bytes.into()),
            Built::Unchanged => {
                if let Some(cached) = &cached {
                    self.keep_base(page, lsn, &info, &cached.bytes);
                }
            }
            Built::NotInMemory => {}
        }
        Ok(())
    }

    /// Leaves the page as it is at `lsn` where further reads pass by.
    pub(crate) fn keep_base(&self, page: PageId, lsn: Lsn, info: &SpaceInfo, bytes: &Arc<[u8]>) {
        let layers = self.layers();
        let limit = self.store.bases_limit();
        let frozen = layers.frozen.iter().rev().map(|f| &f.layer);
        for layer in std::iter::once(&layers.open).chain(frozen) {
            if layer.set_base(page, lsn, info.floor, bytes, limit) {
                break;
            }
        }
    }
}
