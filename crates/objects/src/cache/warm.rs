//! Fetches whole objects in the background, one at a time.

use super::object::CachedObject;
use super::shared::Shared;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};

/// Objects that may wait.
const QUEUE: usize = 1024;

pub(super) struct Warmer {
    queue: SyncSender<String>,
    pending: Arc<AtomicUsize>,
}

impl Warmer {
    /// Starts the thread. It ends when the cache does.
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Warmer> {
        let (queue, names) = sync_channel(QUEUE);
        let pending = Arc::new(AtomicUsize::new(0));
        let (cache, left) = (Arc::downgrade(shared), Arc::clone(&pending));
        std::thread::Builder::new()
            .name("xylem-warm".to_owned())
            .spawn(move || run(&cache, &names, &left))?;
        Ok(Warmer { queue, pending })
    }

    pub(super) fn queue(&self, name: &str) -> bool {
        self.pending.fetch_add(1, Ordering::AcqRel);
        let queued = self.queue.try_send(name.to_owned()).is_ok();
        if !queued {
            self.pending.fetch_sub(1, Ordering::AcqRel);
        }
        queued
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Acquire)
    }
}

fn run(cache: &Weak<Shared>, names: &Receiver<String>, pending: &AtomicUsize) {
    while let Ok(name) = names.recv() {
        if let Err(error) = warm(cache, &name) {
            tracing::warn!(object = %name, %error, "could not fetch an object ahead of need; its first read fetches it");
        }
        pending.fetch_sub(1, Ordering::AcqRel);
    }
}

fn warm(cache: &Weak<Shared>, name: &str) -> io::Result<()> {
    let mut at = Some(0);
    while let Some(offset) = at {
        // Held for one request only, so that the cache can end between two.
        let Some(shared) = cache.upgrade() else {
            return Ok(());
        };
        at = CachedObject::open(&shared, name)?.warm_piece(offset)?;
    }
    Ok(())
}
