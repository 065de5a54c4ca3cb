//! The caches that all branches share, each bounded in bytes.

use crate::layer::block::BlockKind;
use crate::layer::catalog::SpaceInfo;
use crate::layer::format::{IndexEntry, Root};
use crate::place::FileReader;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xylem_types::{Lsn, PageId, SpaceId};

/// Bytes that an entry costs beside its value.
const ENTRY: u64 = 96;

/// A block as it is kept: checked, expanded, parsed if it is an index.
#[derive(Clone)]
pub(crate) enum CachedBlock {
    Bytes(Arc<[u8]>),
    Index(Arc<Vec<IndexEntry>>, u64),
    Root(Arc<Root>),
}

/// A page as of an LSN that later reads may move on.
pub(crate) struct CachedPage {
    bytes: Bytes,
    /// The page has been so since this LSN, or before.
    pub(crate) since: Lsn,
    /// No change of the page lies in (`since`, this].
    lsn: AtomicU64,
}

/// Where the bytes of a [`CachedPage`] are.
enum Bytes {
    Here(Arc<[u8]>),
    /// In the entry that this branch, an ancestor, has for the page, if it has
    /// one with the same `since`.
    With(u64),
}

impl CachedPage {
    pub(crate) fn new(bytes: Arc<[u8]>, since: Lsn, lsn: Lsn) -> CachedPage {
        CachedPage {
            bytes: Bytes::Here(bytes),
            since,
            lsn: AtomicU64::new(lsn.0),
        }
    }

    /// The page up to `lsn` is as the branch `owner` has it.
    pub(crate) fn shared(owner: u64, since: Lsn, lsn: Lsn) -> CachedPage {
        CachedPage {
            bytes: Bytes::With(owner),
            since,
            lsn: AtomicU64::new(lsn.0),
        }
    }

    /// Whether it has bytes of its own, of the page as it has been since `since`.
    pub(crate) fn has_bytes_since(&self, since: Lsn) -> bool {
        matches!(self.bytes, Bytes::Here(_)) && self.since == since
    }

    pub(crate) fn lsn(&self) -> Lsn {
        Lsn(self.lsn.load(Ordering::Acquire))
    }

    /// The page did not change up to `lsn` either.
    pub(crate) fn extend(&self, lsn: Lsn) {
        self.lsn.fetch_max(lsn.0, Ordering::AcqRel);
    }
}

/// A tablespace's description, valid while its generation stands.
#[derive(Clone)]
pub(crate) struct CachedSpace {
    pub(crate) info: Option<Arc<SpaceInfo>>,
    pub(crate) generation: u64,
    /// The applied LSN it was looked up at.
    pub(crate) lsn: Lsn,
    /// The LSN since which it is so.
    pub(crate) since: Lsn,
}

#[derive(Clone)]
pub(crate) struct Weigh;

impl Weighter<(u64, u64), CachedBlock> for Weigh {
    fn weight(&self, _: &(u64, u64), v: &CachedBlock) -> u64 {
        ENTRY
            + match v {
                CachedBlock::Bytes(b) => b.len() as u64,
                CachedBlock::Index(_, bytes) => *bytes,
                CachedBlock::Root(root) => root.memory(),
            }
    }
}

impl Weighter<(u64, PageId), Arc<CachedPage>> for Weigh {
    fn weight(&self, _: &(u64, PageId), v: &Arc<CachedPage>) -> u64 {
        ENTRY
            + match &v.bytes {
                Bytes::Here(bytes) => bytes.len() as u64,
                Bytes::With(_) => 0,
            }
    }
}

impl Weighter<(u64, SpaceId), CachedSpace> for Weigh {
    fn weight(&self, _: &(u64, SpaceId), v: &CachedSpace) -> u64 {
        ENTRY + 96 + v.info.as_ref().map_or(0, |i| i.path.len() as u64)
    }
}

impl Weighter<u64, Arc<dyn FileReader>> for Weigh {
    fn weight(&self, _: &u64, _: &Arc<dyn FileReader>) -> u64 {
        1
    }
}

/// The offset of a root in the cache of blocks: no block stands there.
pub(crate) const ROOT_AT: u64 = u64::MAX;

/// The caches; see the module.
pub(crate) struct Caches {
    /// By layer and offset; the root, which has its header and footer with it,
    /// at [`ROOT_AT`].
    pub(crate) blocks: Cache<(u64, u64), CachedBlock, Weigh>,
    /// By branch and page.
    pub(crate) pages: Cache<(u64, PageId), Arc<CachedPage>, Weigh>,
    /// By branch and tablespace.
    pub(crate) spaces: Cache<(u64, SpaceId), CachedSpace, Weigh>,
    /// Open layer files by layer: bounds the file descriptors in use.
    pub(crate) readers: Cache<u64, Arc<dyn FileReader>, Weigh>,
}

/// Most layer files held open.
const OPEN_FILES: u64 = 256;

impl Caches {
    /// Caches that take no more than `bytes` together.
    pub(crate) fn new(bytes: u64) -> Caches {
        let eighth = (bytes / 8).max(4096);
        let blocks = eighth * 3 + eighth / 2;
        let items = |each: u64, share: u64| (share / each).clamp(16, 1 << 20) as usize;
        Caches {
            blocks: Cache::with_weighter(items(16 << 10, blocks), blocks, Weigh),
            pages: Cache::with_weighter(items(16 << 10, eighth * 4), eighth * 4, Weigh),
            spaces: Cache::with_weighter(items(256, eighth / 2), eighth / 2, Weigh),
            readers: Cache::with_weighter(OPEN_FILES as usize, OPEN_FILES, Weigh),
        }
    }

    /// A branch's entry for a page, its bytes, and the branch whose entry has them.
    pub(crate) fn page(
        &self,
        branch: u64,
        page: PageId,
    ) -> Option<(Arc<CachedPage>, Arc<[u8]>, u64)> {
        let entry = self.pages.get(&(branch, page))?;
        let (bytes, holder) = match &entry.bytes {
            Bytes::Here(bytes) => (Arc::clone(bytes), branch),
            Bytes::With(holder) => {
                let held = self.pages.get(&(*holder, page))?;
                match &held.bytes {
                    Bytes::Here(bytes) if held.since == entry.since => (Arc::clone(bytes), *holder),
                    _ => return None,
                }
            }
        };
        Some((entry, bytes, holder))
    }

    /// Bytes in use by blocks, pages and tablespaces.
    pub(crate) fn memory(&self) -> u64 {
        self.blocks.weight() + self.pages.weight() + self.spaces.weight()
    }
}

/// How a block of this kind is kept.
pub(crate) fn cached(kind: BlockKind, bytes: Vec<u8>) -> Option<CachedBlock> {
    match kind {
        BlockKind::Index => {
            let entries =
                crate::layer::format::decode_index(&mut crate::layer::codec::Dec(&bytes))?;
            let memory: usize = entries.iter().map(|e| 64 + e.key.len()).sum();
            Some(CachedBlock::Index(Arc::new(entries), memory as u64))
        }
        _ => Some(CachedBlock::Bytes(bytes.into())),
    }
}
