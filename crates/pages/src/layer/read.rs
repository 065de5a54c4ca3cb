//! Reads a layer file through the caches.

use crate::layer::block::{self, BlockKind, BlockRef};
use crate::layer::cache::{CachedBlock, Caches, ROOT_AT, cached};
use crate::layer::chain::{Chain, Kind, Want};
use crate::layer::codec::Dec;
use crate::layer::filter;
use crate::layer::format::{FOOTER, Footer, Group, HEADER, IndexEntry, LayerMeta, Root, header};
use crate::place::{FileReader, Files};
use crate::stats::Counters;
use std::io;
use std::sync::{Arc, Weak};
use xylem_types::BranchId;

/// Why a layer could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    #[error("layer {0}: {1}")]
    Corrupt(String, String),
    #[error("layer {0}: {1}")]
    Io(String, io::Error),
}

/// The caches and counters that reading a layer needs.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) caches: &'a Caches,
    pub(crate) stats: &'a Counters,
}

/// A layer file of a branch, as one manifest has it.
pub(crate) struct LayerFile {
    pub(crate) meta: LayerMeta,
    stored: Arc<Stored>,
}

/// The file itself.
struct Stored {
    /// Unique in this process, for the caches' keys.
    id: u64,
    branch: BranchId,
    files: Arc<dyn Files>,
    seed: u32,
}

/// A file that upkeep removes once it has no readers. Its last reader cannot
/// remove it: that may be a thread that must not wait for a store.
pub(crate) struct Leaving {
    pub(crate) name: String,
    stored: Weak<Stored>,
}

impl Leaving {
    /// Somebody may still read it.
    pub(crate) fn is_held(&self) -> bool {
        self.stored.strong_count() > 0
    }
}

/// A block of the index and a place in it.
struct Cursor {
    part: usize,
    entries: Arc<Vec<IndexEntry>>,
    at: usize,
}

impl LayerFile {
    pub(crate) fn new(
        meta: LayerMeta,
        branch: BranchId,
        id: u64,
        files: Arc<dyn Files>,
    ) -> LayerFile {
        let stored = Stored {
            id,
            branch,
            files,
            seed: block::seed(branch.0, meta.number),
        };
        LayerFile {
            meta,
            stored: Arc::new(stored),
        }
    }

    /// A copy of this where `first_key` is the first key that counts.
    pub(crate) fn narrowed(&self, first_key: Vec<u8>) -> LayerFile {
        LayerFile {
            meta: LayerMeta {
                first_key,
                ..self.meta.clone()
            },
            stored: Arc::clone(&self.stored),
        }
    }

    /// Lets the file, which no manifest names any more, go once it has no readers.
    pub(crate) fn leave(&self, caches: &Caches) -> Leaving {
        caches.readers.remove(&self.stored.id);
        Leaving {
            name: self.meta.name.clone(),
            stored: Arc::downgrade(&self.stored),
        }
    }

    /// Memory it takes outside the caches.
    pub(crate) fn memory(&self) -> u64 {
        self.meta.memory()
    }

    pub(crate) fn corrupt(&self, what: impl Into<String>) -> LayerError {
        LayerError::Corrupt(self.meta.name.clone(), what.into())
    }

    fn io(&self, e: io::Error) -> LayerError {
        // A file that ends too early is not the file that was written.
        match e.kind() {
            io::ErrorKind::UnexpectedEof => self.corrupt("the file is too short"),
            _ => LayerError::Io(self.meta.name.clone(), e),
        }
    }

    fn reader(&self, s: &Source<'_>) -> Result<Arc<dyn FileReader>, LayerError> {
        if let Some(r) = s.caches.readers.get(&self.stored.id) {
            return Ok(r);
        }
        let r = self
            .stored
            .files
            .open(&self.meta.name)
            .map_err(|e| self.io(e))?;
        s.caches.readers.insert(self.stored.id, Arc::clone(&r));
        Ok(r)
    }

    pub(crate) fn read_block(
        &self,
        s: &Source<'_>,
        at: BlockRef,
        kind: BlockKind,
    ) -> Result<Vec<u8>, LayerError> {
        let end = at.offset.checked_add(u64::from(at.len));
        if end.is_none_or(|end| end > self.meta.bytes) || at.len as usize > block::BLOCK_MAX + 64 {
            return Err(self.corrupt("a block lies outside the file"));
        }
        let mut raw = vec![0u8; at.len as usize];
        let reader = self.reader(s)?;
        reader
            .read_at(at.offset, &mut raw)
            .map_err(|e| self.io(e))?;
        s.stats.blocks_read.add(1);
        let why = match block::decode(&raw, self.stored.seed, at.offset, kind) {
            Ok(bytes) => return Ok(bytes),
            Err(why) => why,
        };
        // A copy on local disk may have gone bad: once more from the store.
        if reader.forget(at.offset, u64::from(at.len)) {
            tracing::warn!(branch_id = %self.stored.branch, file = %self.meta.name, error = %why, "a cached block is bad; it is fetched again");
            s.stats.blocks_repaired.add(1);
            reader
                .read_at(at.offset, &mut raw)
                .map_err(|e| self.io(e))?;
            return block::decode(&raw, self.stored.seed, at.offset, kind)
                .map_err(|e| self.corrupt(e));
        }
        Err(self.corrupt(why))
    }

    fn block(
        &self,
        s: &Source<'_>,
        at: BlockRef,
        kind: BlockKind,
    ) -> Result<CachedBlock, LayerError> {
        let key = (self.stored.id, at.offset);
        if let Some(b) = s.caches.blocks.get(&key) {
            s.stats.block_cache_hits.add(1);
            return Ok(b);
        }
        let raw = self.read_block(s, at, kind)?;
        let block = cached(kind, raw).ok_or_else(|| self.corrupt("an index block is malformed"))?;
        s.caches.blocks.insert(key, block.clone());
        Ok(block)
    }

    fn bytes(
        &self,
        s: &Source<'_>,
        at: BlockRef,
        kind: BlockKind,
    ) -> Result<Arc<[u8]>, LayerError> {
        match self.block(s, at, kind)? {
            CachedBlock::Bytes(b) => Ok(b),
            _ => Err(self.corrupt("another kind of block stands in its place")),
        }
    }

    pub(crate) fn index(
        &self,
        s: &Source<'_>,
        at: BlockRef,
    ) -> Result<Arc<Vec<IndexEntry>>, LayerError> {
        match self.block(s, at, BlockKind::Index)? {
            CachedBlock::Index(entries, _) if !entries.is_empty() => Ok(entries),
            _ => Err(self.corrupt("an index block is empty")),
        }
    }

    pub(crate) fn root(&self, s: &Source<'_>) -> Result<Arc<Root>, LayerError> {
        let key = (self.stored.id, ROOT_AT);
        if let Some(CachedBlock::Root(root)) = s.caches.blocks.get(&key) {
            return Ok(root);
        }
        let mut head = [0u8; HEADER];
        self.reader(s)?
            .read_at(0, &mut head)
            .map_err(|e| self.io(e))?;
        if head != header(self.stored.branch, self.meta.number, self.meta.kind) {
            return Err(self.corrupt("its header is not this layer's"));
        }
        let at = self
            .meta
            .bytes
            .checked_sub(FOOTER as u64)
            .ok_or_else(|| self.corrupt("too short"))?;
        let mut raw = [0u8; FOOTER];
        self.reader(s)?
            .read_at(at, &mut raw)
            .map_err(|e| self.io(e))?;
        let footer = Footer::decode(&raw).map_err(|e| self.corrupt(e))?;
        if footer.number != self.meta.number || footer.keys != self.meta.keys {
            return Err(self.corrupt("is another layer's file"));
        }
        let raw = self.read_block(s, footer.root, BlockKind::Root)?;
        let root = Root::decode(&raw).ok_or_else(|| self.corrupt("the root block is malformed"))?;
        if root.index.is_empty() || root.filter.is_empty() {
            return Err(self.corrupt("the root block is empty"));
        }
        let root = Arc::new(root);
        s.caches
            .blocks
            .insert(key, CachedBlock::Root(Arc::clone(&root)));
        Ok(root)
    }

    /// Whether the layer may hold `key`, whose hash is `hash`.
    fn may_hold(&self, s: &Source<'_>, root: &Root, hash: u64) -> Result<bool, LayerError> {
        let page = filter::page_of(hash, root.filter.len());
        let at = root
            .filter
            .get(page)
            .copied()
            .ok_or_else(|| self.corrupt("no such filter page"))?;
        let page = self.bytes(s, at, BlockKind::Filter)?;
        if page.len() != filter::FILTER_PAGE {
            return Err(self.corrupt("a filter page has the wrong size"));
        }
        Ok(filter::may_contain(&page, hash))
    }

    /// The last block whose first key is at or before `key`.
    fn seek(&self, s: &Source<'_>, root: &Root, key: &[u8]) -> Result<Option<Cursor>, LayerError> {
        let part = root.index.partition_point(|e| e.key.as_slice() <= key);
        let Some(part) = part.checked_sub(1) else {
            return Ok(None);
        };
        let Some(e) = root.index.get(part) else {
            return Ok(None);
        };
        let entries = self.index(s, e.block)?;
        let at = entries.partition_point(|e| e.key.as_slice() <= key);
        // The part's first key is its first block's first key.
        let at = at
            .checked_sub(1)
            .ok_or_else(|| self.corrupt("the index is out of order"))?;
        Ok(Some(Cursor { part, entries, at }))
    }

    fn step_back(&self, s: &Source<'_>, root: &Root, c: &mut Cursor) -> Result<bool, LayerError> {
        if let Some(at) = c.at.checked_sub(1) {
            c.at = at;
            return Ok(true);
        }
        let Some(part) = c.part.checked_sub(1) else {
            return Ok(false);
        };
        let Some(e) = root.index.get(part) else {
            return Ok(false);
        };
        c.entries = self.index(s, e.block)?;
        c.part = part;
        c.at = c.entries.len() - 1;
        Ok(true)
    }

    fn step_on(&self, s: &Source<'_>, root: &Root, c: &mut Cursor) -> Result<bool, LayerError> {
        if c.at + 1 < c.entries.len() {
            c.at += 1;
            return Ok(true);
        }
        let Some(e) = root.index.get(c.part + 1) else {
            return Ok(false);
        };
        c.entries = self.index(s, e.block)?;
        c.part += 1;
        c.at = 0;
        Ok(true)
    }

    fn find<'b>(&self, block: &'b [u8], key: &[u8]) -> Result<Option<Group<'b>>, LayerError> {
        let mut d = Dec(block);
        while !d.is_empty() {
            let g = Group::next(&mut d).ok_or_else(|| self.corrupt("a data block is malformed"))?;
            match g.key.cmp(key) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(Some(g)),
                std::cmp::Ordering::Greater => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Gathers the wanted versions of `key`.
    pub(crate) fn collect(
        &self,
        s: &Source<'_>,
        key: &[u8],
        hash: u64,
        want: &Want,
        out: &mut Chain,
    ) -> Result<(), LayerError> {
        let root = self.root(s)?;
        if !self.may_hold(s, &root, hash)? {
            s.stats.layers_skipped.add(1);
            return Ok(());
        }
        s.stats.layers_visited.add(1);
        out.visited += 1;
        let Some(mut c) = self.seek(s, &root, key)? else {
            return Ok(());
        };
        loop {
            let Some(e) = c.entries.get(c.at) else {
                return Ok(());
            };
            let begins_with_key = e.key.as_slice() == key;
            if !(begins_with_key && e.lsn > want.at) {
                let block = self.bytes(s, e.block, BlockKind::Data)?;
                if let Some(group) = self.find(&block, key)? {
                    let versions = group
                        .versions()
                        .ok_or_else(|| self.corrupt("a data block is malformed"))?;
                    for (kind, lsn, bytes) in versions.iter().rev() {
                        let kind = Kind::from_u8(*kind)
                            .ok_or_else(|| self.corrupt("unknown kind of version"))?;
                        if !out.offer(want, *lsn, kind, bytes) {
                            return Ok(());
                        }
                    }
                }
            }
            if !begins_with_key || !self.step_back(s, &root, &mut c)? {
                return Ok(());
            }
        }
    }

    /// At most about `limit` of its keys after `after` and before `end`.
    pub(crate) fn keys(
        &self,
        s: &Source<'_>,
        after: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, LayerError> {
        let mut out: Vec<Vec<u8>> = Vec::new();
        if self.meta.first_key.as_slice() >= end || self.meta.last_key.as_slice() <= after {
            return Ok(out);
        }
        let root = self.root(s)?;
        let mut c = match self.seek(s, &root, after)? {
            Some(c) => c,
            None => {
                let Some(e) = root.index.first() else {
                    return Ok(out);
                };
                Cursor {
                    part: 0,
                    entries: self.index(s, e.block)?,
                    at: 0,
                }
            }
        };
        loop {
            let Some(e) = c.entries.get(c.at) else {
                return Ok(out);
            };
            if e.key.as_slice() >= end || out.len() >= limit {
                return Ok(out);
            }
            let block = self.bytes(s, e.block, BlockKind::Data)?;
            let mut d = Dec(&block);
            while !d.is_empty() {
                let g =
                    Group::next(&mut d).ok_or_else(|| self.corrupt("a data block is malformed"))?;
                if g.key >= end {
                    return Ok(out);
                }
                let counts = g.key > after && g.key >= self.meta.first_key.as_slice();
                if counts && out.last().is_none_or(|l| l.as_slice() < g.key) {
                    out.push(g.key.to_vec());
                }
            }
            if !self.step_on(s, &root, &mut c)? {
                return Ok(out);
            }
        }
    }
}
