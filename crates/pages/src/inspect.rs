//! What stands in manifests, layers and memory, for people who look for what
//! happened: of a branch that is open, and of files by themselves.

mod history;
mod layer_file;

use crate::branch::Branch;
use crate::chain::Kind;
use crate::key::{TAG_PATH, TAG_STATE, page_of, side_of, space_of};
use crate::layer::{LayerKind as Stored, LayerMeta};
use crate::manifest::{Ancestor, Merging, Resume, look};
pub use history::{BuiltPage, HistoryOptions, PageHistory, PageVersion, Whence};
pub use layer_file::{Blocks, LayerFileInfo, Tally, VersionRef, layer_file};
use xylem_types::{BranchId, Lsn};
use xylem_wal::Position;

/// What a layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// Every version of its LSN range.
    Delta,
    /// Whole values.
    Image,
}

impl LayerKind {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            LayerKind::Delta => "delta",
            LayerKind::Image => "image",
        }
    }

    pub(crate) fn of(kind: Stored) -> LayerKind {
        match kind {
            Stored::Delta => LayerKind::Delta,
            Stored::Image => LayerKind::Image,
        }
    }
}

/// What a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionKind {
    /// Changes what was before it.
    Delta,
    /// Changes, too, but what was before it does not matter.
    Fresh,
    /// The whole value.
    Image,
}

impl VersionKind {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            VersionKind::Delta => "delta",
            VersionKind::Fresh => "fresh",
            VersionKind::Image => "image",
        }
    }

    pub(crate) fn of(kind: Kind) -> VersionKind {
        match kind {
            Kind::Delta => VersionKind::Delta,
            Kind::Fresh => VersionKind::Fresh,
            Kind::Image => VersionKind::Image,
        }
    }
}

/// A layer as a manifest has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its number.
    pub number: u64,
    /// Its file.
    pub name: String,
    /// What it holds.
    pub kind: LayerKind,
    /// The file's size.
    pub bytes: u64,
    /// No version is before this LSN.
    pub start: Lsn,
    /// No version is after this LSN.
    pub end: Lsn,
    /// Its first key that counts.
    pub first_key: String,
    /// Its last key.
    pub last_key: String,
    /// Keys in the file.
    pub keys: u64,
    /// The newest flush of which it has versions. Layers of one run stand side
    /// by side.
    pub run: u64,
    /// Bytes of versions, before packing, that others in it follow.
    pub old_bytes: u64,
    /// A merge is reading it.
    pub merging: bool,
}

impl LayerInfo {
    pub(crate) fn of(meta: &LayerMeta, merging: bool) -> LayerInfo {
        LayerInfo {
            number: meta.number,
            name: meta.name.clone(),
            kind: LayerKind::of(meta.kind),
            bytes: meta.bytes,
            start: meta.start,
            end: meta.end,
            first_key: key_text(&meta.first_key),
            last_key: key_text(&meta.last_key),
            keys: meta.keys,
            run: meta.run,
            old_bytes: meta.old_bytes,
            merging,
        }
    }
}

/// Where a branch left another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AncestorInfo {
    /// The other.
    pub branch: BranchId,
    /// The last LSN they share.
    pub lsn: Lsn,
    /// Side-file operations before this place in its log are shared.
    pub position: Position,
}

impl AncestorInfo {
    pub(crate) fn of(a: Ancestor) -> AncestorInfo {
        AncestorInfo {
            branch: a.branch,
            lsn: a.lsn,
            position: a.position,
        }
    }
}

/// From where the log is read again after a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResumeInfo {
    /// The place.
    pub position: Position,
    /// Redo before this is in layers.
    pub lsn: Lsn,
    /// Side-file operations before this place are in layers.
    pub operations: Position,
    /// Whether an epoch has begun.
    pub begun: bool,
}

impl ResumeInfo {
    pub(crate) fn of(r: Resume) -> ResumeInfo {
        ResumeInfo {
            position: r.position,
            lsn: r.lsn,
            operations: r.operations,
            begun: r.begun,
        }
    }
}

/// What stands in one manifest file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestInfo {
    /// Whose it is.
    pub branch: BranchId,
    /// Its number.
    pub number: u64,
    /// It has all layers, not only what changes.
    pub snapshot: bool,
    /// A random number of the process that wrote it.
    pub writer: u128,
    /// The branch that was left.
    pub ancestor: Option<AncestorInfo>,
    /// Where the history kept begins.
    pub oldest: Option<Lsn>,
    /// From where the log is read again.
    pub resume: ResumeInfo,
    /// The next layer's number.
    pub next_layer: u64,
    /// Layers that it adds; in a snapshot all.
    pub added: Vec<LayerInfo>,
    /// Layers that it removes.
    pub removed: Vec<u64>,
    /// Layers whose first key that counts becomes another.
    pub narrowed: Vec<(u64, String)>,
    /// Layers that merges under way read, by number.
    pub merging: Vec<u64>,
}

/// A layer in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLayerInfo {
    /// It waits to be flushed.
    pub frozen: bool,
    /// Its versions come after this LSN.
    pub start: Lsn,
    /// Where it ends; none while it is filled.
    pub end: Option<Lsn>,
    /// Memory it takes.
    pub memory_bytes: u64,
    /// Bytes of versions in it.
    pub bytes: u64,
}

/// The layers of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayersInfo {
    /// The branch.
    pub branch: BranchId,
    /// The branch that it left.
    pub ancestor: Option<(BranchId, Lsn)>,
    /// What is ingested.
    pub applied: Lsn,
    /// Where the history kept begins.
    pub oldest: Option<Lsn>,
    /// Layers in memory, oldest first.
    pub memory: Vec<MemoryLayerInfo>,
    /// Layer files, oldest first.
    pub files: Vec<LayerInfo>,
}

/// A key in words.
pub fn key_text(key: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if let Some(page) = page_of(key) {
        return format!("page {page}");
    }
    if let Some(space) = space_of(key) {
        return format!("tablespace {space}");
    }
    if let Some((path, chunk)) = side_of(key) {
        return match chunk {
            0 => format!("file {path}"),
            n => format!("file {path} chunk {}", n - 1),
        };
    }
    match key.split_first() {
        Some((&TAG_PATH, path)) => format!("path {}", text(path)),
        Some((&TAG_STATE, name)) => format!("state {}", text(name)),
        _ => {
            let hex: Vec<String> = key.iter().map(|b| format!("{b:02x}")).collect();
            format!("key {}", hex.concat())
        }
    }
}

/// What stands in the manifest file `raw`.
///
/// # Errors
/// What is wrong with it.
pub fn manifest(raw: &[u8]) -> Result<ManifestInfo, String> {
    look::info(raw)
}

/// The layers that manifest files of one branch come to, oldest first. Those
/// before the newest snapshot do not count.
///
/// # Errors
/// Why they do not follow one another.
pub fn replay(raws: &[Vec<u8>]) -> Result<Vec<LayerInfo>, String> {
    look::replay(raws)
}

impl Branch {
    /// Its layers, and those in memory.
    pub fn layers_info(&self) -> LayersInfo {
        let s = &*self.shared;
        let layers = s.layers();
        // Perhaps not of the same moment; it only says what is going on.
        let merging = s
            .manifest
            .try_lock()
            .map(|m| Merging::inputs_of(&m.merging));
        let merging = merging.unwrap_or_default();
        let mut memory: Vec<MemoryLayerInfo> = layers
            .frozen
            .iter()
            .map(|f| MemoryLayerInfo {
                frozen: true,
                start: f.layer.start(),
                end: Some(f.end),
                memory_bytes: f.layer.memory(),
                bytes: f.layer.record_bytes(),
            })
            .collect();
        memory.push(MemoryLayerInfo {
            frozen: false,
            start: layers.open.start(),
            end: None,
            memory_bytes: layers.open.memory(),
            bytes: layers.open.record_bytes(),
        });
        LayersInfo {
            branch: s.id,
            ancestor: s.parent.as_ref().map(|p| (p.shared.id, p.lsn)),
            applied: s.applied(),
            oldest: s.oldest(),
            memory,
            files: layers
                .files
                .iter()
                .map(|f| LayerInfo::of(&f.meta, merging.contains(&f.meta.number)))
                .collect(),
        }
    }
}
