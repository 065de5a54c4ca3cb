//! Answers reads of pages and tablespaces.
//!
//! What is known of a tablespace is asked for with every page, so it is cached
//! with a generation: ingest makes it odd before a change becomes visible and
//! even after the change's LSN is published. A reader takes a cached entry
//! only if the generation is the one that was even when the entry was made.

use crate::api::{Page, ReadAt, ReadError, Tablespace};
use crate::branch::{Branch, Shared};
use crate::cache::{CachedPage, CachedSpace};
use crate::catalog::SpaceInfo;
use crate::key::{TAG_PATH, TAG_SIDE, TAG_SPACE, TAG_STATE, space_of};
use crate::map::{Base, Built, Reach, Snapshot, View};
use std::sync::Arc;
use xylem_types::{Lsn, PageId, SpaceId};

/// Bytes of a file's name: what Linux and its file systems take.
const NAME_MAX: usize = 255;

impl Shared {
    /// The LSN a read is for. Layers must be taken after this.
    pub(crate) fn resolve(&self, at: ReadAt) -> Result<Lsn, ReadError> {
        if let Some(behind) = self.ancestor_behind() {
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
        let layers = self.snapshot();
        match self.oldest() {
            Some(oldest) if lsn < oldest => Err(ReadError::TooOld { lsn, oldest }),
            _ => Ok(layers),
        }
    }

    fn cached_space(&self, space: SpaceId) -> Option<CachedSpace> {
        let hit = self.store.caches.spaces.get(&(self.cache_id, space))?;
        let now = self.generations.of(space);
        (hit.generation == now && now & 1 == 0).then_some(hit)
    }

    /// What is known of a tablespace as of `at`.
    fn space_at(
        &self,
        view: &View<'_>,
        space: SpaceId,
        at: Lsn,
    ) -> Result<Option<Arc<SpaceInfo>>, ReadError> {
        if let Some(hit) = self.cached_space(space)
            && hit.since <= at
        {
            return Ok(hit.info);
        }
        Ok(view.space(space, at)?.map(|(_, info)| Arc::new(info)))
    }

    /// As [`Shared::space_at`] for the newest version, remembered. `at` moves on
    /// to where it was looked up.
    fn space_newest(
        &self,
        space: SpaceId,
        at: &mut Lsn,
    ) -> Result<Option<Arc<SpaceInfo>>, ReadError> {
        if let Some(hit) = self.cached_space(space) {
            *at = (*at).max(hit.lsn);
            return Ok(hit.info);
        }
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
            self.store
                .caches
                .spaces
                .insert((self.cache_id, space), entry);
        }
        *at = (*at).max(lsn);
        Ok(info)
    }
}

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

/// Whether a file can have this path. InnoDB logs that it creates a tablespace
/// before it makes the file; when the name is too long for any file system, it
/// never was there, even if no deletion was logged because InnoDB ended then.
fn can_be_a_file(path: &str) -> bool {
    path.split('/').all(|part| part.len() <= NAME_MAX)
}

fn key_range(tag: u8) -> ([u8; 1], [u8; 1]) {
    ([tag], [tag + 1])
}

impl Branch {
    /// A page. All zeros when it lies within its tablespace and was never
    /// written, or was freed. Blocking: may read files.
    ///
    /// # Errors
    /// See [`ReadError`]; `NoSuchTablespace` and `BeyondEnd` are answers.
    pub fn get_page(&self, page: PageId, at: ReadAt) -> Result<Page, ReadError> {
        let s = &*self.shared;
        s.stats.get_pages.add(1);
        let mut lsn = s.resolve(at)?;
        let newest = at == ReadAt::Newest;
        let info = if newest {
            s.space_newest(page.space, &mut lsn)?
        } else {
            let layers = s.snapshot_at(lsn)?;
            s.space_at(&layers.view(s.source()), page.space, lsn)?
        };
        let info = checked(info, page, lsn)?;
        let key = (s.cache_id, page);
        let cached = s.store.caches.pages.get(&key);
        if newest && let Some(c) = &cached {
            lsn = lsn.max(c.lsn());
        }
        // After the LSN is fixed, so that they have all up to it.
        let layers = s.snapshot_at(lsn)?;
        let view = layers.view(s.source());
        let base = cached.as_ref().filter(|c| c.lsn() <= lsn);
        let base_lsn = base.map(|c| c.lsn());
        let built = view.page(
            &*s.store.engine,
            page,
            &info,
            lsn,
            base.zip(base_lsn).map(|(c, lsn)| Base {
                lsn,
                bytes: &c.bytes,
            }),
            Reach::Files,
        )?;
        s.stats.read_layers.add(view.visited.get());
        match (built, base) {
            (Built::Unchanged, Some(c)) => {
                s.stats.page_cache_hits.add(1);
                c.extend(lsn);
                Ok(Page {
                    bytes: Arc::clone(&c.bytes),
                    lsn,
                })
            }
            (Built::Page(bytes, applied), base) => {
                s.stats.records_applied.add(applied as u64);
                match base {
                    Some(_) => s.stats.page_cache_forwarded.add(1),
                    None => s.stats.page_cache_misses.add(1),
                }
                let bytes: Arc<[u8]> = bytes.into();
                // An old version helps nobody else.
                if newest {
                    if applied as u64 * 64 >= s.store.config.long_chain_bytes {
                        // Others need not do the same again.
                        s.keep_base(page, lsn, &info, &bytes);
                    }
                    let entry = Arc::new(CachedPage::new(Arc::clone(&bytes), lsn));
                    s.store.caches.pages.insert(key, entry);
                }
                Ok(Page { bytes, lsn })
            }
            _ => Err(ReadError::Corrupt {
                page,
                lsn,
                message: "no answer from its layers".into(),
            }),
        }
    }

    /// The newest version of a page if memory alone can tell: no file is read
    /// and no lock waited for.
    pub fn get_page_cached(&self, page: PageId) -> Option<Page> {
        let s = &*self.shared;
        // Before the generation is looked at: what is known of the tablespace
        // then holds at this LSN.
        let applied = s.applied();
        let space = s.cached_space(page.space)?;
        let mut lsn = applied.max(space.lsn);
        let info = checked(space.info, page, lsn).ok()?;
        let key = (s.cache_id, page);
        let cached = s.store.caches.pages.get(&key);
        if let Some(c) = &cached {
            lsn = lsn.max(c.lsn());
        }
        let layers = s.try_snapshot()?;
        let base_lsn = cached.as_ref().map(|c| c.lsn());
        let base = cached.as_ref().zip(base_lsn).filter(|(_, l)| *l <= lsn);
        let built = layers
            .view(s.source())
            .page(
                &*s.store.engine,
                page,
                &info,
                lsn,
                base.map(|(c, lsn)| Base {
                    lsn,
                    bytes: &c.bytes,
                }),
                Reach::Memory,
            )
            .ok()?;
        match built {
            Built::Unchanged => {
                let c = cached.as_ref()?;
                s.stats.get_pages.add(1);
                s.stats.page_cache_hits.add(1);
                c.extend(lsn);
                Some(Page {
                    bytes: Arc::clone(&c.bytes),
                    lsn,
                })
            }
            Built::Page(bytes, applied) => {
                s.stats.get_pages.add(1);
                s.stats.records_applied.add(applied as u64);
                match base {
                    Some(_) => s.stats.page_cache_forwarded.add(1),
                    None => s.stats.page_cache_misses.add(1),
                }
                let bytes: Arc<[u8]> = bytes.into();
                s.store
                    .caches
                    .pages
                    .insert(key, Arc::new(CachedPage::new(Arc::clone(&bytes), lsn)));
                Some(Page { bytes, lsn })
            }
            Built::NotInMemory => None,
        }
    }

    fn tablespace(
        &self,
        space: SpaceId,
        info: &SpaceInfo,
        lsn: Lsn,
    ) -> Result<Option<Tablespace>, ReadError> {
        // Created, but its first page is not written yet: no reader can use it.
        if !info.exists || info.pages == 0 || !can_be_a_file(&info.path) {
            return Ok(None);
        }
        let page_bytes = self
            .shared
            .store
            .engine
            .page_bytes(info.flags)
            .map_err(|message| ReadError::Corrupt {
                page: PageId {
                    space,
                    ..PageId::default()
                },
                lsn,
                message,
            })?;
        Ok(Some(Tablespace {
            space,
            path: info.path.clone(),
            flags: info.flags,
            pages: info.pages,
            page_bytes: page_bytes as u32,
        }))
    }

    /// All tablespaces, by id. One whose first page is not written yet is left
    /// out. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn tablespaces(&self, at: ReadAt) -> Result<Vec<Tablespace>, ReadError> {
        let s = &*self.shared;
        let lsn = s.resolve(at)?;
        let layers = s.snapshot_at(lsn)?;
        let view = layers.view(s.source());
        let (start, end) = key_range(TAG_SPACE);
        let mut out = Vec::new();
        let mut after = start.to_vec();
        loop {
            let keys = view.keys(&after, &end, lsn)?;
            let Some(last) = keys.last() else {
                return Ok(out);
            };
            after.clone_from(last);
            for space in keys.iter().filter_map(|k| space_of(k)) {
                if let Some((_, info)) = view.space(space, lsn)? {
                    out.extend(self.tablespace(space, &info, lsn)?);
                }
            }
        }
    }

    /// The tablespace whose file is `path`. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn tablespace_by_path(
        &self,
        path: &str,
        at: ReadAt,
    ) -> Result<Option<Tablespace>, ReadError> {
        let s = &*self.shared;
        let lsn = s.resolve(at)?;
        let layers = s.snapshot_at(lsn)?;
        let view = layers.view(s.source());
        let path = crate::ingest::relative(path);
        let Some(space) = view.path_owner(path, lsn)? else {
            return Ok(None);
        };
        match view.space(space, lsn)? {
            Some((_, info)) => self.tablespace(space, &info, lsn),
            None => Ok(None),
        }
    }

    /// One tablespace by its id. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn tablespace_by_id(
        &self,
        space: SpaceId,
        at: ReadAt,
    ) -> Result<Option<Tablespace>, ReadError> {
        let s = &*self.shared;
        let lsn = s.resolve(at)?;
        let layers = s.snapshot_at(lsn)?;
        match layers.view(s.source()).space(space, lsn)? {
            Some((_, info)) => self.tablespace(space, &info, lsn),
            None => Ok(None),
        }
    }
}

/// The first key and the one after the last that are neither pages nor before.
pub(crate) const CATALOG: ([u8; 1], [u8; 1]) = ([TAG_SPACE], [TAG_STATE + 1]);
const _: () = assert!(TAG_SPACE < TAG_PATH && TAG_PATH < TAG_SIDE && TAG_SIDE < TAG_STATE);
