//! Pages that are kept in memory as of an LSN. A page that did not change since a
//! branch left its parent is kept once, with the ancestor, for all branches that
//! share it.

use super::shared::Shared;
use crate::layer::cache::CachedPage;
use std::sync::Arc;
use xylem_types::{Lsn, PageId};

/// A page that is kept.
pub(crate) struct Cached {
    entry: Arc<CachedPage>,
    pub(crate) bytes: Arc<[u8]>,
    /// The branch whose entry has the bytes.
    holder: u64,
    /// What the page is in this branch as of here.
    pub(crate) lsn: Lsn,
    /// The entry is an ancestor's, with which this branch shares versions up to here.
    cap: Option<Lsn>,
}

impl Shared {
    /// The page as it is kept for the branch, or for an ancestor if it is the same.
    pub(crate) fn cached_page(&self, page: PageId) -> Option<Cached> {
        let caches = &self.resources.caches;
        if let Some((entry, bytes, holder)) = caches.page(self.cache_id, page) {
            return Some(Cached {
                lsn: entry.lsn(),
                entry,
                bytes,
                holder,
                cap: None,
            });
        }
        let mut cap = Lsn::MAX;
        self.ancestors().find_map(|parent| {
            cap = cap.min(parent.branch_point.lsn);
            let (entry, bytes, holder) = caches.page(parent.shared.cache_id, page)?;
            (entry.since <= cap).then(|| Cached {
                lsn: entry.lsn().min(cap),
                entry,
                bytes,
                holder,
                cap: Some(cap),
            })
        })
    }

    /// The page that is kept did not change up to `lsn`.
    pub(crate) fn keep_unchanged(&self, page: PageId, cached: &Cached, lsn: Lsn) {
        let Some(cap) = cached.cap else {
            return cached.entry.extend(lsn);
        };
        // What the ancestor has beyond the branch point is its own.
        cached.entry.extend(lsn.min(cap));
        let own = CachedPage::shared(cached.holder, cached.entry.since, lsn);
        let pages = &self.resources.caches.pages;
        pages.insert((self.cache_id, page), Arc::new(own));
    }

    /// Keeps the page as it is at `lsn`, and has been since `since`.
    pub(crate) fn keep_page(&self, page: PageId, bytes: &Arc<[u8]>, since: Lsn, lsn: Lsn) {
        let pages = &self.resources.caches.pages;
        let keep = |branch: u64, entry: CachedPage| pages.insert((branch, page), Arc::new(entry));
        let whole = |lsn: Lsn| CachedPage::new(Arc::clone(bytes), since, lsn);
        let Some((holder, cap)) = self.sharer(since) else {
            return keep(self.cache_id, whole(lsn));
        };
        // An entry that the ancestor has for itself stays: it may be newer, and
        // the ancestor's reads go on from there.
        match pages.peek(&(holder, page)) {
            None => keep(holder, whole(cap)),
            Some(other) if other.has_bytes_since(since) => {}
            Some(_) => return keep(self.cache_id, whole(lsn)),
        }
        keep(self.cache_id, CachedPage::shared(holder, since, lsn));
    }

    /// The furthest ancestor that has the same page as this branch, if that has been
    /// so since `since`; and the LSN up to which both share versions.
    fn sharer(&self, since: Lsn) -> Option<(u64, Lsn)> {
        let mut cap = Lsn::MAX;
        let shared = self.ancestors().map_while(|parent| {
            cap = cap.min(parent.branch_point.lsn);
            (since <= cap).then_some((parent.shared.cache_id, cap))
        });
        shared.last()
    }
}
