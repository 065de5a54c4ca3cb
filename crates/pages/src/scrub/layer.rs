//! Checks one layer file, a block at a time: every byte of it, and that what
//! stands there fits together. See docs/formats/layers.md.
//!
//! Memory: two blocks, the index entries of 256, a window of the file, and of
//! the filter as much as is allowed. Where that is less than the filter, the
//! data is read several times, each time with another part of it.

use crate::finding::{Fault, FindingKind};
use crate::layer::block::{self, BlockKind, BlockRef};
use crate::layer::chain::Kind;
use crate::layer::codec::Dec;
use crate::layer::filter;
use crate::layer::format::{
    FOOTER, Footer, Group, HEADER, IndexEntry, LayerKind, LayerMeta, Root, decode_index, header,
};
use crate::layer::key::{
    TAG_PAGE, TAG_PATH, TAG_SIDE, TAG_SPACE, TAG_STATE, key_text, page_of, side_of, space_of,
};
use crate::materialise::{InnoDb, Materialise};
use crate::place::{FileReader, Files};
use std::io;
use std::sync::Arc;
use xylem_types::{BranchId, Lsn};

/// Things that are wrong with one layer before the rest of it is left.
const FAULTS_MAX: usize = 16;
/// Filter pages loaded in one step.
const FILTER_STEP: usize = 64;
/// How often a read that fails is tried.
const TRIES: u32 = 3;

/// A layer as its manifest describes it.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) branch: BranchId,
    pub(crate) number: u64,
    pub(crate) kind: LayerKind,
    pub(crate) bytes: u64,
    pub(crate) start: Lsn,
    pub(crate) end: Lsn,
    pub(crate) keys: u64,
    /// Its first key; with `narrowed` any of its keys.
    pub(crate) first_key: Option<Vec<u8>>,
    pub(crate) narrowed: bool,
    pub(crate) last_key: Option<Vec<u8>>,
    pub(crate) tags: Option<u8>,
}

impl Expected {
    /// From a manifest. `narrowed`: its first key may be a later one.
    pub(crate) fn of(branch: BranchId, meta: &LayerMeta, narrowed: bool) -> Expected {
        Expected {
            branch,
            number: meta.number,
            kind: meta.kind,
            bytes: meta.bytes,
            start: meta.start,
            end: meta.end,
            keys: meta.keys,
            first_key: Some(meta.first_key.clone()),
            narrowed,
            last_key: Some(meta.last_key.clone()),
            tags: Some(meta.tags),
        }
    }
}

/// Sees the blocks and versions that a check reads.
pub(crate) trait Visit {
    /// A block: its kind, how it is packed, its size in the file and expanded.
    fn block(&mut self, kind: BlockKind, codec: u8, stored: u64, expanded: u64);
    /// A version, in the file's order.
    fn version(&mut self, key: &[u8], lsn: Lsn, kind: Kind, bytes: &[u8]);
}

/// Ignores everything.
pub(crate) struct Nobody;

impl Visit for Nobody {
    fn block(&mut self, _: BlockKind, _: u8, _: u64, _: u64) {}
    fn version(&mut self, _: &[u8], _: Lsn, _: Kind, _: &[u8]) {}
}

/// Memory that a check may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Pages of a filter.
    pub(crate) filter_pages: usize,
    /// Bytes of the file read at once.
    pub(crate) window: usize,
}

impl Room {
    /// The share of a budget of `memory` bytes.
    pub(crate) fn of(memory: u64) -> Room {
        let filter = (memory / 64).clamp(512 << 10, 16 << 20) as usize;
        Room {
            filter_pages: filter / filter::FILTER_PAGE,
            window: (memory / 128).clamp(128 << 10, 1 << 20) as usize,
        }
    }
}

/// Where a check stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Ends,
    /// Filter pages are loaded from this one on.
    Filter(usize),
    Index,
    Data,
    Done,
}

/// A check of one layer, under way.
pub(crate) struct LayerCheck {
    expected: Expected,
    reader: Arc<dyn FileReader>,
    seed: u32,
    room: Room,
    stage: Stage,
    root: Root,
    /// Bytes read from the store so far.
    read: u64,
    window: Vec<u8>,
    window_at: u64,

    /// Which part of the filter is held: so many pages before it.
    filter_from: usize,
    filter: Vec<Option<Vec<u8>>>,
    /// The next part of the index; the entries of the one before it, and the
    /// next of them.
    part: usize,
    entries: Vec<IndexEntry>,
    at: usize,
    /// Where the next data block begins.
    next_block: u64,

    /// The last group's key and its last version's LSN.
    key: Vec<u8>,
    lsn: Lsn,
    keys: u64,
    tags: u8,
    first_key: Option<Vec<u8>>,
    has_expected: bool,
    /// A part of it could not be read: totals tell nothing.
    gaps: bool,
    /// The filter was found to be wrong.
    filter_told: bool,
    faults: usize,
}

impl LayerCheck {
    /// Begins to check the file `name`. The store is asked from here on.
    pub(crate) fn open(
        files: &dyn Files,
        name: &str,
        expected: Expected,
        room: Room,
    ) -> io::Result<LayerCheck> {
        Ok(LayerCheck::on(files.open_uncached(name)?, expected, room))
    }

    /// As [`LayerCheck::open`], with a reader.
    pub(crate) fn on(reader: Arc<dyn FileReader>, expected: Expected, room: Room) -> LayerCheck {
        LayerCheck {
            seed: block::seed(expected.branch.0, expected.number),
            expected,
            reader,
            room,
            stage: Stage::Ends,
            root: Root {
                index: Vec::new(),
                filter: Vec::new(),
            },
            read: 0,
            window: Vec::new(),
            window_at: 0,
            filter_from: 0,
            filter: Vec::new(),
            part: 0,
            entries: Vec::new(),
            at: 0,
            next_block: HEADER as u64,
            key: Vec::new(),
            lsn: Lsn::ZERO,
            keys: 0,
            tags: 0,
            first_key: None,
            has_expected: false,
            gaps: false,
            filter_told: false,
            faults: 0,
        }
    }

    /// Goes on by about one block. Faults go to `out`. Returns how
    /// many bytes were read from the store; none at the end.
    pub(crate) fn step(&mut self, visit: &mut dyn Visit, out: &mut Vec<Fault>) -> Option<u64> {
        let before = self.read;
        let known = out.len();
        let done = match self.stage {
            Stage::Done => return None,
            Stage::Ends => self.ends(visit),
            Stage::Filter(from) => self.load_filter(from, visit, out),
            Stage::Index => self.load_part(visit, out),
            Stage::Data => self.data_block(visit, out),
        };
        if let Err(fault) = done {
            out.push(fault);
            self.stage = Stage::Done;
        }
        self.faults += out.len() - known;
        if self.faults >= FAULTS_MAX && self.stage != Stage::Done {
            out.push(damage("there is more, which is not looked at"));
            self.stage = Stage::Done;
        }
        Some(self.read - before)
    }

    fn fetch(&mut self, at: u64, out: &mut [u8]) -> Result<(), Fault> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.reader.read_at(at, out) {
                Ok(()) => {
                    self.read += out.len() as u64;
                    return Ok(());
                }
                Err(e) => match e.kind() {
                    io::ErrorKind::UnexpectedEof => return Err(damage("the file is too short")),
                    io::ErrorKind::NotFound => {
                        return Err(Fault(FindingKind::Missing, "it is missing".into()));
                    }
                    _ if tries < TRIES => {}
                    _ => {
                        let what = format!("it cannot be read at byte {at}: {e}");
                        return Err(Fault(FindingKind::Unreadable, what));
                    }
                },
            }
        }
    }

    /// A block by itself.
    fn lone_block(
        &mut self,
        at: BlockRef,
        kind: BlockKind,
        visit: &mut dyn Visit,
    ) -> Result<Vec<u8>, Fault> {
        let mut raw = vec![0; at.len as usize];
        self.fetch(at.offset, &mut raw)?;
        let bytes = block::decode(&raw, self.seed, at.offset, kind).map_err(damage)?;
        let codec = raw.get(4).copied().unwrap_or(0);
        visit.block(kind, codec, raw.len() as u64, bytes.len() as u64);
        Ok(bytes)
    }

    /// Header, footer, root; and that blocks lie side by side from the one to
    /// the other, so that no byte stays unchecked.
    fn ends(&mut self, visit: &mut dyn Visit) -> Result<(), Fault> {
        let e = self.expected.clone();
        let mut head = [0; HEADER];
        self.fetch(0, &mut head)?;
        if head != header(e.branch, e.number, e.kind) {
            return Err(damage("its header is not this layer's"));
        }
        let at = e.bytes.checked_sub(FOOTER as u64);
        let at = at.ok_or_else(|| damage("the file is too short"))?;
        let mut raw = [0; FOOTER];
        self.fetch(at, &mut raw)?;
        let footer = Footer::decode(&raw).map_err(damage)?;
        if footer.number != e.number {
            return Err(damage(format!(
                "its footer is that of layer {}",
                footer.number
            )));
        }
        if (footer.keys, footer.start, footer.end) != (e.keys, e.start, e.end) {
            return Err(damage(format!(
                "its footer says {} keys of LSN {} to {}, the manifest {} of {} to {}",
                footer.keys, footer.start, footer.end, e.keys, e.start, e.end
            )));
        }
        let inside = footer.root.offset.checked_add(footer.root.len.into());
        if inside != Some(at) || footer.root.len as usize > block::BLOCK_MAX {
            return Err(damage("its root does not stand before its footer"));
        }
        let raw = self.lone_block(footer.root, BlockKind::Root, visit)?;
        let root = Root::decode(&raw).ok_or_else(|| damage("the root block is malformed"))?;
        let (Some(first), Some(_)) = (root.index.first(), root.filter.first()) else {
            return Err(damage("the root block is empty"));
        };
        let mut next = first.block.offset;
        let rest = root.index.iter().map(|e| &e.block).chain(&root.filter);
        for block in rest.chain([&footer.root]) {
            if block.offset != next || block.len as usize > block::BLOCK_MAX {
                return Err(damage("its index and filter do not lie side by side"));
            }
            next = next.saturating_add(block.len.into());
        }
        let wanted = usize::try_from(e.keys).map(filter::pages_for);
        if wanted != Ok(root.filter.len()) {
            return Err(damage(format!(
                "a filter of {} pages does not go with {} keys",
                root.filter.len(),
                e.keys
            )));
        }
        if !root.index.is_sorted_by(in_order) {
            return Err(damage("its root is out of order"));
        }
        self.root = root;
        self.stage = Stage::Filter(0);
        Ok(())
    }

    /// Where the data ends.
    fn data_end(&self) -> u64 {
        self.root.index.first().map_or(0, |e| e.block.offset)
    }

    fn load_filter(
        &mut self,
        from: usize,
        visit: &mut dyn Visit,
        out: &mut Vec<Fault>,
    ) -> Result<(), Fault> {
        if from == self.filter_from {
            self.filter.clear();
        }
        let held = self.filter_from + self.room.filter_pages.max(1);
        let until = held.min(self.root.filter.len());
        let upto = until.min(from + FILTER_STEP);
        for n in from..upto {
            let Some(at) = self.root.filter.get(n).copied() else {
                break;
            };
            match self.lone_block(at, BlockKind::Filter, visit) {
                Ok(page) if page.len() == filter::FILTER_PAGE => self.filter.push(Some(page)),
                Ok(_) => {
                    out.push(damage("a filter page has the wrong size"));
                    self.filter.push(None);
                }
                Err(fault) if fault.0 == FindingKind::Damaged => {
                    out.push(fault);
                    self.filter.push(None);
                }
                Err(fault) => return Err(fault),
            }
        }
        self.stage = match upto {
            n if n < until => Stage::Filter(n),
            _ => {
                (self.part, self.at) = (0, 0);
                self.entries.clear();
                self.key.clear();
                self.next_block = HEADER as u64;
                Stage::Index
            }
        };
        Ok(())
    }

    /// Whether this is the pass in which all is looked at.
    fn first_pass(&self) -> bool {
        self.filter_from == 0
    }

    fn load_part(&mut self, visit: &mut dyn Visit, out: &mut Vec<Fault>) -> Result<(), Fault> {
        let Some(entry) = self.root.index.get(self.part).cloned() else {
            self.end_pass(out);
            return Ok(());
        };
        self.part += 1;
        let part = self.read_part(&entry, visit);
        match part {
            Ok(entries) => {
                self.entries = entries;
                self.at = 0;
                self.stage = Stage::Data;
            }
            Err(fault) if fault.0 == FindingKind::Damaged => {
                if self.first_pass() {
                    out.push(fault);
                }
                self.gaps = true;
                // Where its data ends is where the next part's begins, which
                // is not known yet.
                self.next_block = 0;
                self.key.clear();
            }
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    fn read_part(
        &mut self,
        entry: &IndexEntry,
        visit: &mut dyn Visit,
    ) -> Result<Vec<IndexEntry>, Fault> {
        let at = entry.block.offset;
        let raw = match self.first_pass() {
            true => self.lone_block(entry.block, BlockKind::Index, visit)?,
            false => self.lone_block(entry.block, BlockKind::Index, &mut Nobody)?,
        };
        let bad = |what: &str| damage(format!("index block at byte {at}: {what}"));
        let mut d = Dec(&raw);
        let entries = decode_index(&mut d)
            .filter(|entries| d.is_empty() && !entries.is_empty())
            .ok_or_else(|| bad("it is malformed"))?;
        let first = entries.first().map(|e| (&e.key, e.lsn));
        if first != Some((&entry.key, entry.lsn)) {
            return Err(bad("it does not begin with the key that the root says"));
        }
        if !entries.is_sorted_by(in_order) {
            return Err(bad("it is out of order"));
        }
        Ok(entries)
    }

    fn data_block(&mut self, visit: &mut dyn Visit, out: &mut Vec<Fault>) -> Result<(), Fault> {
        let Some(entry) = self.entries.get(self.at).cloned() else {
            self.stage = Stage::Index;
            return Ok(());
        };
        self.at += 1;
        let at = entry.block;
        let bad = |what: &str| damage(format!("data block at byte {}: {what}", at.offset));
        let end = at.offset.saturating_add(at.len.into());
        let known = std::mem::replace(&mut self.next_block, end);
        if (known != 0 && known != at.offset)
            || at.offset < HEADER as u64
            || end > self.data_end()
            || at.len as usize > block::BLOCK_MAX + block::BLOCK_HEADER
        {
            return Err(bad("it does not follow the block before it"));
        }
        let (codec, block) = match self.window_block(at) {
            Ok(block) => block,
            Err(fault) if fault.0 == FindingKind::Damaged => {
                if self.first_pass() {
                    out.push(fault);
                }
                self.gaps = true;
                self.key.clear();
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        if self.first_pass() {
            visit.block(BlockKind::Data, codec, at.len.into(), block.len() as u64);
        }
        let checked = self.groups(&entry, &block, visit, out);
        if let Err(what) = checked
            && self.first_pass()
        {
            self.gaps = true;
            out.push(bad(&what));
        }
        Ok(())
    }

    /// A data block, by way of a window that is read at once.
    fn window_block(&mut self, at: BlockRef) -> Result<(u8, Vec<u8>), Fault> {
        let end = at.offset + u64::from(at.len);
        let held = self.window_at + self.window.len() as u64;
        if at.offset < self.window_at || end > held {
            // The part that is held stays: no byte is read twice.
            let keep = match at.offset < self.window_at || at.offset >= held {
                true => 0,
                false => (held - at.offset) as usize,
            };
            let mut window = std::mem::take(&mut self.window);
            window.drain(..window.len() - keep);
            let len = u64::from(at.len).max(self.room.window as u64);
            let len = len.min(self.data_end() - at.offset) as usize;
            window.resize(len, 0);
            window.shrink_to(self.room.window);
            if let Some(rest) = window.get_mut(keep..) {
                self.fetch(at.offset + keep as u64, rest)?;
            }
            self.window = window;
            self.window_at = at.offset;
        }
        let from = (at.offset - self.window_at) as usize;
        let raw = self.window.get(from..from + at.len as usize);
        let raw = raw.unwrap_or_default();
        let block = block::decode(raw, self.seed, at.offset, BlockKind::Data);
        let codec = raw.get(4).copied().unwrap_or(0);
        block.map(|block| (codec, block)).map_err(damage)
    }

    /// Checks the groups of a data block.
    fn groups(
        &mut self,
        entry: &IndexEntry,
        block: &[u8],
        visit: &mut dyn Visit,
        out: &mut Vec<Fault>,
    ) -> Result<(), String> {
        let mut d = Dec(block);
        let mut first = true;
        while !d.is_empty() {
            let group = Group::next(&mut d).ok_or("it is malformed")?;
            let versions = group.versions().ok_or("it is malformed")?;
            let Some((_, lsn, _)) = versions.first() else {
                return Err(format!("{} has no versions", key_text(group.key)));
            };
            if first && (entry.key.as_slice(), entry.lsn) != (group.key, *lsn) {
                return Err("it does not begin with the key and LSN that the index says".into());
            }
            // A key's versions may go on in the next block.
            let goes_on = first && self.key == group.key && !self.key.is_empty();
            if !goes_on && self.key.as_slice() >= group.key {
                return Err(format!(
                    "{} comes after {}",
                    key_text(group.key),
                    key_text(&self.key)
                ));
            }
            first = false;
            if !goes_on {
                self.new_key(group.key, out);
            }
            if !self.first_pass() {
                continue;
            }
            for (kind, lsn, bytes) in &versions {
                let kind = Kind::from_u8(*kind).ok_or_else(|| {
                    format!("{} has a version of kind {kind}", key_text(group.key))
                })?;
                self.version(group.key, *lsn, kind, bytes)?;
                visit.version(group.key, *lsn, kind, bytes);
            }
        }
        match first {
            true => Err("it is empty".into()),
            false => Ok(()),
        }
    }

    fn new_key(&mut self, key: &[u8], out: &mut Vec<Fault>) {
        self.key.clear();
        self.key.extend_from_slice(key);
        self.lsn = Lsn::ZERO;
        let hash = filter::hash(key);
        let page = filter::page_of(hash, self.root.filter.len());
        let held = page.checked_sub(self.filter_from);
        if let Some(Some(Some(page))) = held.map(|n| self.filter.get(n))
            && !filter::may_contain(page, hash)
            && !std::mem::replace(&mut self.filter_told, true)
        {
            out.push(damage(format!(
                "its filter does not let {} pass",
                key_text(key)
            )));
        }
        if !self.first_pass() {
            return;
        }
        if !well_formed(key) {
            out.push(damage(format!("{} is no key", key_text(key))));
        }
        self.keys += 1;
        self.tags |= 1 << key.first().copied().unwrap_or(0).min(7);
        self.has_expected |= self.expected.first_key.as_deref() == Some(key);
        if self.first_key.is_none() {
            self.first_key = Some(key.to_vec());
        }
    }

    fn version(&mut self, key: &[u8], lsn: Lsn, kind: Kind, bytes: &[u8]) -> Result<(), String> {
        let e = &self.expected;
        if lsn < e.start || lsn > e.end {
            return Err(format!(
                "{} has a version of LSN {lsn}, and the layer those of {} to {}",
                key_text(key),
                e.start,
                e.end
            ));
        }
        if lsn < self.lsn {
            return Err(format!(
                "{} has a version of LSN {lsn} after one of {}",
                key_text(key),
                self.lsn
            ));
        }
        if e.kind == LayerKind::Image && kind != Kind::Image {
            return Err(format!("{} is no image", key_text(key)));
        }
        if kind == Kind::Image && page_of(key).is_some() {
            let checked = InnoDb.check_image(bytes, lsn);
            checked.map_err(|e| format!("{}: {e}", key_text(key)))?;
        }
        self.lsn = lsn;
        Ok(())
    }

    fn end_pass(&mut self, out: &mut Vec<Fault>) {
        if self.first_pass() {
            self.totals(out);
        }
        let next = self.filter_from + self.room.filter_pages.max(1);
        self.stage = match next < self.root.filter.len() {
            true => {
                self.filter_from = next;
                Stage::Filter(next)
            }
            false => Stage::Done,
        };
    }

    fn totals(&self, out: &mut Vec<Fault>) {
        if self.gaps {
            return;
        }
        let e = &self.expected;
        if self.next_block != self.data_end() {
            out.push(damage("its data does not reach to its index"));
        }
        if self.keys != e.keys {
            out.push(damage(format!(
                "it has {} keys, its footer says {}",
                self.keys, e.keys
            )));
        }
        if e.tags.is_some_and(|tags| tags != self.tags) {
            out.push(damage("it has keys of other kinds than the manifest says"));
        }
        let text = |key: &Option<Vec<u8>>| key_text(key.as_deref().unwrap_or_default());
        if let Some(last) = e.last_key.as_deref().filter(|last| *last != self.key) {
            out.push(damage(format!(
                "its last key is {}, the manifest says {}",
                key_text(&self.key),
                key_text(last)
            )));
        }
        let right = match e.narrowed {
            true => self.has_expected,
            false => e.first_key.is_none() || self.first_key == e.first_key,
        };
        if !right {
            out.push(damage(format!(
                "its first key is {}, the manifest says {}",
                text(&self.first_key),
                text(&e.first_key)
            )));
        }
    }
}

fn damage(what: impl Into<String>) -> Fault {
    Fault(FindingKind::Damaged, what.into())
}

fn in_order(a: &IndexEntry, b: &IndexEntry) -> bool {
    (&a.key, a.lsn) <= (&b.key, b.lsn)
}

/// Whether something may be stored under `key`.
fn well_formed(key: &[u8]) -> bool {
    match key.first().copied() {
        Some(TAG_PAGE) => page_of(key).is_some(),
        Some(TAG_SPACE) => space_of(key).is_some(),
        Some(TAG_SIDE) => side_of(key).is_some(),
        Some(TAG_PATH | TAG_STATE) => key.len() > 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
