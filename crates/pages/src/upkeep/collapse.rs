//! Keeps reads of pages that are changed all the time short.
//!
//! Until its layer is flushed, each change of a page makes one more version
//! that a read has to apply: a counter that a million mtrs have raised. When
//! what a read has to gather has grown by [`StoreConfig::long_chain_bytes`], a
//! thread of its own builds the page from where it was built last, and leaves
//! it where reads pass by. Ingest only names the page; it does not wait.
//!
//! [`StoreConfig::long_chain_bytes`]: crate::StoreConfig::long_chain_bytes

use crate::api::{Reach, ReadAt};
use crate::branch::build::{Base, Built, Wanted};
use crate::branch::shared::Shared;
use crate::error::ReadError;
use crate::resources::long_pages::LongPages;
use crate::store::Store;
use std::sync::Weak;
use std::time::Duration;
use xylem_types::PageId;

/// How often the thread looks whether its store is still there.
const TICK: Duration = Duration::from_secs(1);

/// The thread, which ends with the store.
pub(super) fn run(store: &Weak<Store>, long_pages: &LongPages) {
    while store.strong_count() > 0 {
        let Some((id, page)) = long_pages.next(TICK) else {
            continue;
        };
        // Closing the store must not wait for this thread's hold on it.
        let branch = store
            .upgrade()
            .and_then(|s| s.live().into_iter().find(|b| b.id == id));
        if let Some(branch) = branch.filter(|b| !b.stopped())
            && let Err(error) = branch.shorten(page)
        {
            // It was a favor; a read of the page finds the error, too.
            tracing::debug!(branch_id = %id, %page, %error, "a long chain was not shortened");
        }
    }
}

impl Shared {
    /// Gives the page a base as of now.
    fn shorten(&self, page: PageId) -> Result<(), ReadError> {
        let lsn = self.resolve(ReadAt::Newest)?;
        let layers = self.snapshot_at(lsn)?;
        let view = layers.view(self.source());
        let found = view.space(page.space, lsn)?;
        let Some((_, info)) = found.filter(|(_, i)| i.exists && page.page.0 < i.pages) else {
            return Ok(());
        };
        let cached = self.cached_page(page);
        let base = cached.as_ref().map(|c| Base {
            lsn: c.lsn,
            bytes: &c.bytes,
        });
        let engine = &*self.resources.engine;
        let wanted = Wanted {
            page,
            info: &info,
            at: lsn,
            base,
            reach: Reach::Files,
        };
        match view.page(engine, &wanted)? {
            Built::Page(bytes, ..) => self.keep_base(page, lsn, &info, &bytes.into()),
            Built::Unchanged => {
                if let Some(cached) = &cached {
                    self.keep_base(page, lsn, &info, &cached.bytes);
                }
            }
            Built::NotInMemory => {}
        }
        Ok(())
    }
}
