//! A layer file by itself: its description of itself, its content, its faults.

use super::kinds::{LayerKind, VersionKind};
use crate::layer::block::BlockKind;
use crate::layer::chain::Kind;
use crate::layer::codec::Dec;
use crate::layer::format::{FOOTER, Footer, HEADER, LayerKind as Stored, VERSION, header};
use crate::layer::key::{key_text, page_of};
use crate::place::FileReader;
use crate::scrub::layer::{Expected, LayerCheck, Room, Visit};
use std::ops::ControlFlow;
use std::sync::Arc;
use xylem_types::{BranchId, Lsn, PageId};

/// Memory that looking at a file may take, of which it takes a share.
const MEMORY: u64 = 1 << 30;
/// Groups of keys: pages, tablespaces, paths, side files, state.
const TAGS: usize = 5;

/// Blocks of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blocks {
    /// How many.
    pub count: u64,
    /// Their bytes in the file.
    pub stored: u64,
    /// Their bytes expanded.
    pub expanded: u64,
    /// How many are as they are, packed with LZ4, and with Zstandard.
    pub packed: [u64; 3],
}

/// A number of things and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The content of a layer file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerFileInfo {
    /// The branch that it belongs to.
    pub branch: BranchId,
    /// Its number.
    pub number: u64,
    /// Deltas or images.
    pub kind: LayerKind,
    /// Format version.
    pub version: u16,
    /// Its size.
    pub bytes: u64,
    /// No version is before this LSN, as its footer says.
    pub start: Lsn,
    /// No version is after this LSN, as its footer says.
    pub end: Lsn,
    /// Keys, as its footer says.
    pub keys: u64,
    /// Its first and last key.
    pub first_key: String,
    /// See `first_key`.
    pub last_key: String,
    /// Keys that were seen: pages, tablespaces, paths, side files, state.
    pub keys_by_kind: [u64; TAGS],
    /// Versions that were seen: deltas, fresh ones, images.
    pub versions: [Tally; 3],
    /// Blocks that were seen: data, index, filter, root.
    pub blocks: [Blocks; 4],
    /// Its faults, in words.
    pub faults: Vec<String>,
    /// All of it was looked at.
    pub complete: bool,
}

/// A version in a layer file.
#[derive(Clone, Copy, Debug)]
pub struct VersionRef<'a> {
    key: &'a [u8],
    /// Its LSN.
    pub lsn: Lsn,
    /// Delta, fresh or image.
    pub kind: VersionKind,
    /// Redo records, a value, or a change of one.
    pub bytes: &'a [u8],
}

impl VersionRef<'_> {
    /// The page, if it is a page's.
    pub fn page(&self) -> Option<PageId> {
        page_of(self.key)
    }

    /// The key in words.
    pub fn key_text(&self) -> String {
        key_text(self.key)
    }
}

/// Collects what passes.
struct Collect<'a> {
    info: LayerFileInfo,
    key: Vec<u8>,
    each: &'a mut dyn FnMut(VersionRef<'_>) -> ControlFlow<()>,
    stopped: bool,
}

impl Visit for Collect<'_> {
    fn block(&mut self, kind: BlockKind, codec: u8, stored: u64, expanded: u64) {
        if let Some(blocks) = self.info.blocks.get_mut(kind as usize - 1) {
            blocks.count += 1;
            blocks.stored += stored;
            blocks.expanded += expanded;
            if let Some(n) = blocks.packed.get_mut(usize::from(codec)) {
                *n += 1;
            }
        }
    }

    fn version(&mut self, key: &[u8], lsn: Lsn, kind: Kind, bytes: &[u8]) {
        if self.stopped {
            return;
        }
        if self.key != key {
            if self.key.is_empty() {
                self.info.first_key = key_text(key);
            }
            self.key.clear();
            self.key.extend_from_slice(key);
            let tag = key.first().copied().unwrap_or(0);
            let tag = usize::from(tag).wrapping_sub(1);
            if let Some(n) = self.info.keys_by_kind.get_mut(tag) {
                *n += 1;
            }
        }
        if let Some(tally) = self.info.versions.get_mut(kind as usize) {
            tally.count += 1;
            tally.bytes += bytes.len() as u64;
        }
        let version = VersionRef {
            key,
            lsn,
            kind: VersionKind::of(kind),
            bytes,
        };
        self.stopped = (self.each)(version).is_break();
    }
}

/// Reads header and footer: the layer's identity, and its content as they
/// describe it.
fn ends(reader: &dyn FileReader, bytes: u64) -> Result<(Expected, u16), String> {
    let read = |at: u64, out: &mut [u8]| {
        let done = reader.read_at(at, out);
        done.map_err(|e| format!("it cannot be read at byte {at}: {e}"))
    };
    let end = bytes.checked_sub((HEADER + FOOTER) as u64);
    if end.is_none() {
        return Err(format!("a file of {bytes} bytes is no layer"));
    }
    let mut head = [0; HEADER];
    read(0, &mut head)?;
    let mut d = Dec(&head);
    let fields = (|| {
        d.take(8)?;
        let version = d.u16()?;
        let kind = d.u8()?;
        d.take(5)?;
        Some((version, kind, BranchId(d.u128()?), d.u64()?))
    })();
    let (version, kind, branch, number) = fields.ok_or("too short")?;
    let kind = match kind {
        0 => Stored::Delta,
        _ => Stored::Image,
    };
    if version != VERSION {
        return Err(format!(
            "it is no layer, or its format version {version} is not known"
        ));
    }
    if head != header(branch, number, kind) {
        return Err("it is no layer, or its header is damaged".into());
    }
    let mut raw = [0; FOOTER];
    read(bytes - FOOTER as u64, &mut raw)?;
    let footer = Footer::decode(&raw)?;
    let expected = Expected {
        branch,
        number,
        kind,
        bytes,
        start: footer.start,
        end: footer.end,
        keys: footer.keys,
        first_key: None,
        narrowed: false,
        last_key: None,
        tags: None,
    };
    Ok((expected, version))
}

/// Reads the layer file `reader` of `bytes` bytes from end to end, and checks
/// it. `each` sees every version, in the order of keys, and may stop that.
///
/// # Errors
/// When header or footer are not those of a layer. The answer has other faults.
pub fn layer_file(
    reader: Arc<dyn FileReader>,
    bytes: u64,
    each: &mut dyn FnMut(VersionRef<'_>) -> ControlFlow<()>,
) -> Result<LayerFileInfo, String> {
    let (expected, version) = ends(&*reader, bytes)?;
    let mut collect = Collect {
        info: LayerFileInfo {
            branch: expected.branch,
            number: expected.number,
            kind: LayerKind::of(expected.kind),
            version,
            bytes,
            start: expected.start,
            end: expected.end,
            keys: expected.keys,
            first_key: String::new(),
            last_key: String::new(),
            keys_by_kind: [0; TAGS],
            versions: [Tally::default(); 3],
            blocks: [Blocks::default(); 4],
            faults: Vec::new(),
            complete: true,
        },
        key: Vec::new(),
        each,
        stopped: false,
    };
    let mut check = LayerCheck::on(reader, expected, Room::of(MEMORY));
    let mut faults = Vec::new();
    while check.step(&mut collect, &mut faults).is_some() {
        if collect.stopped {
            collect.info.complete = false;
            break;
        }
    }
    collect.info.faults = faults.into_iter().map(|f| f.1).collect();
    collect.info.last_key = key_text(&collect.key);
    Ok(collect.info)
}
