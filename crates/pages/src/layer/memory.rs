//! A layer in memory: the open one that ingest fills, and frozen ones that
//! wait to be flushed.
//!
//! Whole mtrs lie one after the other in an arena; each version is 16 bytes in a
//! second one, which points into the first and to the version before it of its
//! key. A page costs one entry of a hash table, so appending a version is one
//! look-up and one append, and the mtrs of a batch are copied at once.
//! Readers and the one writer share a lock that the writer takes for a batch
//! of mtrs, not for each. A reader holds it for [`SLICE`] versions at a time:
//! versions stay where they are, so it can go on along a chain later.
//!
//! A page that is changed often gets a *base*: the page as of one of its
//! versions, made by its readers, where their walk ends. It is never
//! written to disk.

use crate::layer::batch::{Batch, LEN_MASK, Run, Stretch, kind_of};
use crate::layer::chain::{Chain, Kind, Want};
use crate::layer::key::{Key, page_from_u64, page_to_u64};
use crate::layer::pages::{Head, NONE, Pages};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xylem_ambient::Clock;
use xylem_types::{Lsn, PageId};

const UNIT: usize = 64 << 10;
const VERSIONS_PER_CHUNK: usize = 4096;
/// The arena's first size, in bytes.
const FIRST_BYTES: usize = 4 << 10;
/// Sorted keys, pages to image, hashes: 8 bytes each.
const FLUSH_BYTES_PER_KEY: usize = 24;
/// Versions, and bytes of them, that a reader takes while it holds the lock.
const SLICE: (usize, usize) = (512, 256 << 10);
/// The cost of a version for a reader beside its bytes, in bytes.
const VERSION_WEIGHT: u32 = 64;
/// Multiplies and folds: page ids need no more, and no attacker chooses them.
#[derive(Default)]
pub(crate) struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u64(&mut self, v: u64) {
        let x = (self.0 ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = x ^ (x >> 29);
    }
}

/// A page as of one of its versions.
struct Base {
    version: u32,
    bytes: Arc<[u8]>,
}

#[derive(Clone, Copy)]
struct Version {
    lsn_offset: u32,
    pos: u32,
    /// Length in the low 30 bits, [`Kind`] in the high 2.
    len_kind: u32,
    prev: u32,
}

#[derive(Default)]
struct Inner {
    /// Each has whole units of addresses. The first grows into them, since many
    /// branches are written little; the others have their memory at once.
    arena: Vec<Vec<u8>>,
    /// Addresses left in the last one.
    room: usize,
    /// For each unit of the arena's address space, its chunk and that chunk's
    /// first unit.
    units: Vec<(u32, u32)>,
    arena_bytes: u64,
    versions: Vec<Vec<Version>>,
    pages: Pages,
    others: BTreeMap<Vec<u8>, Head>,
    others_bytes: u64,
    bases: HashMap<u64, Base, BuildHasherDefault<PageHasher>>,
    bases_bytes: u64,
}

/// The most memory that [`MemLayer::insert`] may take for these.
pub(crate) fn memory_bound(redo: &Stretch<'_>, batch: &Batch) -> u64 {
    let versions = redo.len() + batch.len();
    (redo.bytes().len() + batch.bytes() + UNIT + versions * 80 + batch.len() * 256) as u64
}

/// A layer in memory.
pub(crate) struct MemLayer {
    start: Lsn,
    inner: RwLock<Inner>,
    /// Memory it takes.
    memory: AtomicU64,
    /// Bytes of records in it.
    records: AtomicU64,
    /// When it got its first batch, by the steady clock in microseconds.
    since: std::sync::OnceLock<u64>,
    clock: Clock,
    /// A page is long when its weight reaches this, and each time again.
    long_at: u32,
    /// Pages that got long, until they are taken.
    long: Mutex<Vec<PageId>>,
    /// The sum over all layers of all branches; reduced on drop.
    total: Arc<AtomicU64>,
}

impl Drop for MemLayer {
    fn drop(&mut self) {
        self.total.fetch_sub(self.memory(), Ordering::AcqRel);
    }
}

impl Inner {
    /// Appends both, one after the other.
    fn append(&mut self, one: &[u8], two: &[u8], chunk_bytes: usize) -> Option<u32> {
        let len = one.len() + two.len();
        if self.arena.is_empty() || self.room < len {
            let units = len.max(chunk_bytes).div_ceil(UNIT).max(1);
            let first = u32::try_from(self.units.len()).ok()?;
            let chunk = self.arena.len() as u32;
            // The address space is 4 GiB; freezing comes long before.
            if (self.units.len() + units) * UNIT > u32::MAX as usize {
                return None;
            }
            self.units
                .extend(std::iter::repeat_n((chunk, first), units));
            self.room = units * UNIT;
            let now = if chunk == 0 { 0 } else { self.room };
            self.arena.push(Vec::with_capacity(now));
            self.arena_bytes += (now + 24 + units * 8) as u64;
        }
        let index = self.arena.len() - 1;
        let first = self.units.last()?.1;
        let chunk = self.arena.get_mut(index)?;
        let pos = first as usize * UNIT + chunk.len();
        let before = chunk.capacity();
        if before - chunk.len() < len {
            let whole = chunk.len() + self.room;
            let wanted = (chunk.len() + len).next_power_of_two();
            let wanted = wanted.clamp(FIRST_BYTES.min(whole), whole);
            chunk.reserve_exact(wanted - chunk.len());
        }
        self.arena_bytes += (chunk.capacity() - before) as u64;
        chunk.extend_from_slice(one);
        chunk.extend_from_slice(two);
        self.room -= len;
        u32::try_from(pos).ok()
    }

    fn record(&self, v: Version) -> &[u8] {
        let Some(&(chunk, first)) = self.units.get(v.pos as usize / UNIT) else {
            return &[];
        };
        let start = v.pos as usize - first as usize * UNIT;
        let len = (v.len_kind & LEN_MASK) as usize;
        self.arena
            .get(chunk as usize)
            .and_then(|c| c.get(start..start + len))
            .unwrap_or_default()
    }

    fn version(&self, index: u32) -> Option<Version> {
        let index = index as usize;
        self.versions
            .get(index / VERSIONS_PER_CHUNK)?
            .get(index % VERSIONS_PER_CHUNK)
            .copied()
    }

    fn head(&self, key: &Key) -> Option<Head> {
        match key {
            Key::Page(page) => self.pages.get(page_to_u64(*page)),
            Key::Other(bytes) => self.others.get(bytes).copied(),
        }
    }

    fn memory(&self) -> u64 {
        let further = self.versions.len().saturating_sub(1) * VERSIONS_PER_CHUNK;
        let versions = self.versions.first().map_or(0, Vec::capacity) + further;
        // With what the flush will need for each key, which it takes in passing.
        self.arena_bytes
            + (versions * 16 + self.versions.len() * 24) as u64
            + self.pages.memory()
            + (self.pages.len() * FLUSH_BYTES_PER_KEY) as u64
            + self.others_bytes
            + self.bases_bytes
    }
}

/// Appends a version; answers where it lies.
fn push_version(versions: &mut Vec<Vec<Version>>, v: Version) -> u32 {
    if versions
        .last()
        .is_none_or(|c| c.len() == VERSIONS_PER_CHUNK)
    {
        // The first grows, as the arena's does.
        let capacity = if versions.is_empty() {
            0
        } else {
            VERSIONS_PER_CHUNK
        };
        versions.push(Vec::with_capacity(capacity));
    }
    let full = versions.len() - 1;
    let Some(chunk) = versions.last_mut() else {
        return NONE;
    };
    chunk.push(v);
    (full * VERSIONS_PER_CHUNK + chunk.len() - 1) as u32
}

impl MemLayer {
    /// An empty layer whose versions all come after `start`, or at it for side
    /// files. `long_at`: see [`MemLayer::take_long`].
    pub(crate) fn new(start: Lsn, total: Arc<AtomicU64>, long_at: u64, clock: Clock) -> MemLayer {
        MemLayer {
            start,
            inner: RwLock::default(),
            memory: AtomicU64::new(0),
            records: AtomicU64::new(0),
            since: std::sync::OnceLock::new(),
            clock,
            long_at: u32::try_from(long_at).unwrap_or(u32::MAX).max(1),
            long: Mutex::new(Vec::new()),
            total,
        }
    }

    pub(crate) fn start(&self) -> Lsn {
        self.start
    }

    pub(crate) fn memory(&self) -> u64 {
        self.memory.load(Ordering::Acquire)
    }

    pub(crate) fn record_bytes(&self) -> u64 {
        self.records.load(Ordering::Acquire)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.memory() == 0
    }

    /// How long ago it got its first batch.
    pub(crate) fn age(&self) -> std::time::Duration {
        let now = self.clock.steady_us();
        let since = self.since.get().copied().unwrap_or(now);
        std::time::Duration::from_micros(now.saturating_sub(since))
    }

    /// Takes in the runs of `redo` and a batch. `false`, and nothing is taken, when
    /// they do not fit into the layer's address space.
    pub(crate) fn insert(&self, redo: Stretch<'_>, batch: &Batch, chunk_bytes: usize) -> bool {
        let bytes = if redo.len() > 0 { redo.bytes() } else { &[] };
        let mut inner = self.inner.write();
        let inner = &mut *inner;
        let Some(base) = inner.append(bytes, &batch.bytes, chunk_bytes) else {
            return false;
        };
        for (lsn, runs) in redo.runs() {
            let lsn_offset = self.offset(lsn);
            for run in runs {
                let mut v = Version {
                    lsn_offset,
                    pos: base + redo.place(run),
                    len_kind: run.len_kind,
                    prev: NONE,
                };
                inner.pages.change(run.page, |head| {
                    v.prev = head.last;
                    head.last = push_version(&mut inner.versions, v);
                    self.weigh(head, run);
                });
            }
        }
        let base = base + bytes.len() as u32;
        for (key, staged) in &batch.others {
            let old = inner.others.get(key).copied();
            let v = Version {
                lsn_offset: self.offset(staged.lsn),
                pos: base + staged.start,
                len_kind: staged.len_kind,
                prev: old.map_or(NONE, |h| h.last),
            };
            let last = push_version(&mut inner.versions, v);
            match inner.others.get_mut(key) {
                Some(head) => head.last = last,
                None => {
                    inner.others_bytes += (2 * key.len() + 96 + FLUSH_BYTES_PER_KEY) as u64;
                    inner.others.insert(key.clone(), Head { last, weight: 0 });
                }
            }
        }
        self.since.get_or_init(|| self.clock.steady_us());
        self.account(inner);
        let added = bytes.len() + batch.bytes();
        self.records.fetch_add(added as u64, Ordering::AcqRel);
        true
    }

    /// Whether `lsn` can be told apart in this layer.
    pub(crate) fn reaches(&self, lsn: Lsn) -> bool {
        lsn.bytes_since(self.start) < u64::from(u32::MAX) / 2
    }

    /// The pages whose chains have grown long since the last call: reading them
    /// takes a while, unless they get a base.
    pub(crate) fn take_long(&self) -> Vec<PageId> {
        let mut long = std::mem::take(&mut *self.long.lock());
        long.sort_unstable();
        long.dedup();
        long
    }

    /// Gathers the wanted versions of `key`. `None`: with `wait` false, the
    /// writer was in the way, or there is more than a slice of them.
    pub(crate) fn collect(
        &self,
        key: &Key,
        want: &Want,
        wait: bool,
        out: &mut Chain,
    ) -> Option<()> {
        let mut at = None;
        loop {
            let inner = if wait {
                self.inner.read()
            } else {
                self.inner.try_read()?
            };
            let Some(head) = inner.head(key) else {
                return Some(());
            };
            let mut next = at.unwrap_or(head.last);
            let base = match key {
                Key::Page(page) if !out.is_history() => inner.bases.get(&page_to_u64(*page)),
                _ => None,
            };
            let (_, begun) = out.size();
            for _ in 0..SLICE.0 {
                let Some(v) = inner.version(next) else {
                    return Some(());
                };
                let lsn = self.lsn_of(v);
                let (kind, bytes) = match base.filter(|b| b.version == next && lsn <= want.at) {
                    Some(base) => (Kind::Image, &*base.bytes),
                    None => (kind_of(v.len_kind), inner.record(v)),
                };
                if !out.offer(want, lsn, kind, bytes) {
                    return Some(());
                }
                next = v.prev;
                if out.size().1 - begun >= SLICE.1 {
                    break;
                }
            }
            // One layer may have little and the next one more.
            let (versions, bytes) = out.size();
            let more = next != NONE;
            if !wait && (more || versions > SLICE.0 || bytes > SLICE.1) {
                return None;
            }
            if !more {
                return Some(());
            }
            at = Some(next);
        }
    }

    /// Adds the cost of a run that is new to that of its page.
    fn weigh(&self, head: &mut Head, run: &Run) {
        let before = head.weight;
        head.weight = match kind_of(run.len_kind).ends_walk() {
            true => 0,
            false => before
                .saturating_add(run.len_kind & LEN_MASK)
                .saturating_add(VERSION_WEIGHT),
        };
        // Few are that long, and a division takes a while.
        if head.weight >= self.long_at && before / self.long_at < head.weight / self.long_at {
            self.long.lock().push(page_from_u64(run.page));
        }
    }

    fn offset(&self, lsn: Lsn) -> u32 {
        lsn.bytes_since(self.start).min(u64::from(u32::MAX)) as u32
    }

    fn lsn_of(&self, v: Version) -> Lsn {
        Lsn(self.start.0 + u64::from(v.lsn_offset))
    }

    /// Takes `bytes` as the page's base: what it is at `at`, nothing before
    /// `floor` counting. All bases together take `limit` bytes at most. False
    /// when the layer has no version of the page that this could stand for.
    ///
    /// `false` sends the caller to the layer before, so a walk that gave up must
    /// not answer it: the page of another LSN would stand for that layer's newest
    /// version, and the flush would write it as an image.
    pub(crate) fn set_base(
        &self,
        page: PageId,
        at: Lsn,
        floor: Lsn,
        bytes: &Arc<[u8]>,
        limit: u64,
    ) -> bool {
        let Some((version, lsn)) = self.newest_up_to(&Key::Page(page), at) else {
            return false;
        };
        if lsn < floor {
            return false;
        }
        let key = page_to_u64(page);
        let mut inner = self.inner.write();
        let inner = &mut *inner;
        let old = inner.bases.get(&key);
        let freed = old.map_or(0, |b| b.bytes.len() as u64);
        let size = inner.bases_bytes - freed + bytes.len() as u64;
        if old.is_some_and(|b| b.version >= version) || size > limit {
            return true;
        }
        let bytes = Arc::clone(bytes);
        inner.bases.insert(key, Base { version, bytes });
        inner.bases_bytes = size;
        inner.pages.change(key, |head| head.weight = 0);
        self.account(inner);
        true
    }

    /// The newest version of `key` up to `at`: where it lies, and its LSN. Those
    /// that the writer appends meanwhile are all newer.
    fn newest_up_to(&self, key: &Key, at: Lsn) -> Option<(u32, Lsn)> {
        let mut next = self.inner.read().head(key)?.last;
        loop {
            let inner = self.inner.read();
            for _ in 0..SLICE.0 {
                let version = inner.version(next)?;
                let lsn = self.lsn_of(version);
                if lsn <= at {
                    return Some((next, lsn));
                }
                next = version.prev;
            }
        }
    }

    /// Counts what it takes now.
    fn account(&self, inner: &Inner) {
        let now = inner.memory();
        let before = self.memory.swap(now, Ordering::AcqRel);
        self.total
            .fetch_add(now.wrapping_sub(before), Ordering::AcqRel);
    }

    /// The LSN of the newest version of `key`.
    pub(crate) fn newest(&self, key: &Key) -> Option<Lsn> {
        let inner = self.inner.read();
        let v = inner.version(inner.head(key)?.last)?;
        Some(self.lsn_of(v))
    }

    /// Its page keys, sorted.
    pub(crate) fn page_keys(&self) -> Vec<u64> {
        let inner = self.inner.read();
        let mut out: Vec<u64> = inner.pages.keys().collect();
        out.sort_unstable();
        out
    }

    /// At most `limit` of its other keys after `after` and before `end`.
    pub(crate) fn other_keys(&self, after: &[u8], end: &[u8], limit: usize) -> Vec<Vec<u8>> {
        if after >= end {
            return Vec::new();
        }
        let inner = self.inner.read();
        let range = (Bound::Excluded(after), Bound::Excluded(end));
        inner
            .others
            .range::<[u8], _>(range)
            .take(limit)
            .map(|(k, _)| k.clone())
            .collect()
    }

    /// Puts the versions of each key into the `out` of the same place, oldest
    /// first, for [`MemLayer::each`]. The layer must be frozen by then.
    ///
    /// Each step along a chain waits for memory; many chains at once wait
    /// together.
    pub(crate) fn gather(&self, keys: &[Key], out: &mut [Versions]) {
        let inner = self.inner.read();
        let mut at: Vec<u32> = keys
            .iter()
            .map(|k| inner.head(k).map_or(NONE, |h| h.last))
            .collect();
        out.iter_mut().for_each(|o| o.0.clear());
        let mut active = true;
        while active {
            active = false;
            for (at, out) in at.iter_mut().zip(out.iter_mut()) {
                if let Some(v) = inner.version(*at) {
                    *at = v.prev;
                    out.0.push(v);
                    active = true;
                }
            }
        }
        out.iter_mut().for_each(|o| o.0.reverse());
    }

    /// Calls `each` with the versions gathered.
    pub(crate) fn each<E>(
        &self,
        versions: &Versions,
        mut each: impl FnMut(Lsn, Kind, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let inner = self.inner.read();
        for v in &versions.0 {
            each(self.lsn_of(*v), kind_of(v.len_kind), inner.record(*v))?;
        }
        Ok(())
    }
}

/// Versions of a key where they lie.
#[derive(Default)]
pub(crate) struct Versions(Vec<Version>);

impl Versions {
    /// Kind and length of each, oldest first.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (Kind, u32)> {
        self.0
            .iter()
            .map(|v| (kind_of(v.len_kind), v.len_kind & LEN_MASK))
    }
}

#[cfg(test)]
mod tests;
