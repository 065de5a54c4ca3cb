//! Reads of pages.
//!
//! Every read of a page asks what is known of its tablespace, so that is cached
//! with a generation: ingest makes it odd before a change becomes visible and
//! even after the change's LSN is published. A reader takes a cached entry
//! only if the generation is the one that was even when the entry was made.

use super::build::{Base, Built, Wanted};
use super::shared::Shared;
use super::view::Snapshot;
use crate::api::{Page, Reach, ReadAt};
use crate::error::ReadError;
use crate::layer::cache::CachedSpace;
use crate::layer::catalog::SpaceInfo;
use std::sync::Arc;
use xylem_types::{Lsn, PageId, SpaceId};

/// Bytes that a run of records counts as, when it is told whether a chain is
/// long: see [`crate::StoreConfig::long_chain_bytes`].
const RUN_WEIGHT: u64 = 64;

/// The tablespace if the page is in it.
fn checked(
    info: Option<Arc<SpaceInfo>>,
    page: PageId,
    lsn: Lsn,
) -> Result<Arc<SpaceInfo>, ReadError> {
    let info = info
        .filter(|i| i.exists)
        .ok_or(ReadError::NoSuchTablespace {
            space: page.space,
            lsn,
        })?;
    if page.page.0 >= info.pages {
        return Err(ReadError::BeyondEnd {
            page,
            pages: info.pages,
            lsn,
        });
    }
    Ok(info)
}

impl Shared {
    /// The LSN a read is for. Layers must be taken after this.
    pub(crate) fn resolve(&self, at: ReadAt) -> Result<Lsn, ReadError> {
        if let Some(behind) = self.ancestors_behind() {
            return Err(behind);
        }
        let applied = self.applied();
        let lsn = match at {
            ReadAt::Newest => return Ok(applied),
            ReadAt::Lsn(lsn) => lsn,
        };
        if lsn > self.newest() {
            return Err(match self.failed() {
                Some(why) => ReadError::Stopped(why),
                None => ReadError::NotReached {
                    wanted: lsn,
                    reached: applied,
                    hop: "ingest",
                },
            });
        }
        match self.oldest() {
            Some(oldest) if lsn < oldest => Err(ReadError::TooOld { lsn, oldest }),
            _ => Ok(lsn),
        }
    }

    /// The layers for a read at `lsn`, which was resolved. Checked again: the
    /// history there may have been let go of meanwhile.
    pub(crate) fn snapshot_at(&self, lsn: Lsn) -> Result<Snapshot, ReadError> {
        self.snapshot_within(lsn, Reach::Files)
    }

    fn cached_space(&self, space: SpaceId) -> Option<CachedSpace> {
        let hit = self.resources.caches.spaces.get(&(self.cache_id, space))?;
        let now = self.generations.of(space);
        (hit.generation == now && now & 1 == 0).then_some(hit)
    }

    /// As [`Shared::snapshot_at`]; with [`Reach::Memory`] without waiting for a lock.
    fn snapshot_within(&self, lsn: Lsn, reach: Reach) -> Result<Snapshot, ReadError> {
        let layers = match reach {
            Reach::Files => self.snapshot(),
            Reach::Memory => self.try_snapshot().ok_or(ReadError::NotInMemory)?,
        };
        match self.oldest() {
            Some(oldest) if lsn < oldest => Err(ReadError::TooOld { lsn, oldest }),
            _ => Ok(layers),
        }
    }

    /// A tablespace's description as of `at`. For the newest version, `lsn` moves
    /// on to where it was looked up.
    fn space_for_page(
        &self,
        space: SpaceId,
        at: ReadAt,
        lsn: &mut Lsn,
        reach: Reach,
    ) -> Result<Option<Arc<SpaceInfo>>, ReadError> {
        let newest = at == ReadAt::Newest;
        if let Some(hit) = self.cached_space(space)
            && (newest || hit.since <= *lsn)
        {
            if newest {
                *lsn = (*lsn).max(hit.lsn);
            }
            return Ok(hit.info);
        }
        if reach == Reach::Memory {
            return Err(ReadError::NotInMemory);
        }
        if newest {
            return self.look_up_newest(space, lsn);
        }
        let layers = self.snapshot_at(*lsn)?;
        let found = layers.view(self.source()).space(space, *lsn)?;
        Ok(found.map(|(_, info)| Arc::new(info)))
    }

    /// Looks the tablespace up as of now, and remembers it. `at` moves on to
    /// where it was looked up.
    fn look_up_newest(
        &self,
        space: SpaceId,
        at: &mut Lsn,
    ) -> Result<Option<Arc<SpaceInfo>>, ReadError> {
        let generation = self.generations.of(space);
        let lsn = self.applied();
        let layers = self.snapshot();
        let found = layers.view(self.source()).space(space, lsn)?;
        let since = found.as_ref().map_or(lsn, |(since, _)| *since);
        let info = found.map(|(_, info)| Arc::new(info));
        if generation & 1 == 0 {
            let entry = CachedSpace {
                info: info.clone(),
                generation,
                lsn,
                since,
            };
            let spaces = &self.resources.caches.spaces;
            spaces.insert((self.cache_id, space), entry);
        }
        *at = (*at).max(lsn);
        Ok(info)
    }

    /// A page: see [`crate::Branch::get_page`].
    pub(crate) fn get_page(
        &self,
        page: PageId,
        at: ReadAt,
        reach: Reach,
    ) -> Result<Page, ReadError> {
        let found = self.find_page(page, at, reach);
        // A read that memory alone cannot answer is asked again.
        if reach == Reach::Files || found.is_ok() {
            self.stats.get_pages.add(1);
        }
        if let Err(error @ ReadError::Corrupt { .. }) = &found {
            self.stats.unreadable_pages.add(1);
            // The LSN may be another one each time.
            let subject = format!("page {page} ");
            let troubles = &self.health.unreadable;
            if troubles.note(self.now_us(), &subject, error.to_string()) {
                tracing::error!(branch_id = %self.id, %error, "a page cannot be read");
            }
        }
        found
    }

    fn find_page(&self, page: PageId, at: ReadAt, reach: Reach) -> Result<Page, ReadError> {
        // Before the tablespace's generation is looked at: what is known of the
        // tablespace then holds at this LSN.
        let mut lsn = self.resolve(at)?;
        let newest = at == ReadAt::Newest;
        let info = self.space_for_page(page.space, at, &mut lsn, reach)?;
        let info = checked(info, page, lsn)?;
        let cached = self.cached_page(page);
        if newest && let Some(c) = &cached {
            lsn = lsn.max(c.lsn);
        }
        // After the LSN is fixed, so that they have all up to it.
        let layers = self.snapshot_within(lsn, reach)?;
        let view = layers.view(self.source());
        let base = cached.as_ref().filter(|c| c.lsn <= lsn);
        let wanted = Wanted {
            page,
            info: &info,
            at: lsn,
            base: base.map(|c| Base {
                lsn: c.lsn,
                bytes: &c.bytes,
            }),
            reach,
        };
        let built = view.page(&*self.resources.engine, &wanted)?;
        self.stats.read_layers.add(view.visited.get());
        match (built, base) {
            (Built::Unchanged, Some(c)) => {
                self.stats.page_cache_hits.add(1);
                self.keep_unchanged(page, c, lsn);
                Ok(Page {
                    bytes: Arc::clone(&c.bytes),
                    lsn,
                })
            }
            (Built::Page(bytes, applied, since), base) => {
                self.stats.records_applied.add(applied as u64);
                match base {
                    Some(_) => self.stats.page_cache_forwarded.add(1),
                    None => self.stats.page_cache_misses.add(1),
                }
                let bytes: Arc<[u8]> = bytes.into();
                // An old version helps nobody else.
                if newest {
                    let weight = applied as u64 * RUN_WEIGHT;
                    let long = weight >= self.resources.config.long_chain_bytes;
                    // Others need not do the same again. It waits for a lock.
                    if long && reach == Reach::Files {
                        self.keep_base(page, lsn, &info, &bytes);
                    }
                    self.keep_page(page, &bytes, since, lsn);
                }
                Ok(Page { bytes, lsn })
            }
            (Built::NotInMemory, _) if reach == Reach::Memory => Err(ReadError::NotInMemory),
            _ => Err(ReadError::Corrupt {
                page,
                lsn,
                message: "no answer from its layers".into(),
            }),
        }
    }

    /// Leaves the page as it is at `lsn` where further reads pass by.
    pub(crate) fn keep_base(&self, page: PageId, lsn: Lsn, info: &SpaceInfo, bytes: &Arc<[u8]>) {
        let layers = self.layers();
        let limit = self.resources.bases_limit();
        let frozen = layers.frozen.iter().rev().map(|f| &f.layer);
        for layer in std::iter::once(&layers.open).chain(frozen) {
            if layer.set_base(page, lsn, info.floor, bytes, limit) {
                break;
            }
        }
    }
}
