//! The layers of a branch that is open.

use super::kinds::LayerKind;
use crate::branch::shared::Shared;
use crate::layer::format::LayerMeta;
use crate::layer::key::key_text;
use crate::manifest::record::Merging;
use xylem_types::{BranchId, Lsn};

/// A layer as a manifest has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Its number.
    pub number: u64,
    /// Its file.
    pub name: String,
    /// Deltas or images.
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

/// A layer in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLayerInfo {
    /// It waits to be flushed.
    pub frozen: bool,
    /// Its versions come after this LSN.
    pub start: Lsn,
    /// The LSN of its end; none while ingest fills it.
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
    /// The parent branch, and the LSN of the branch point.
    pub parent: Option<(BranchId, Lsn)>,
    /// The end of the last whole mtr ingested.
    pub applied: Lsn,
    /// Where the history kept begins.
    pub oldest: Option<Lsn>,
    /// Layers in memory, oldest first.
    pub memory: Vec<MemoryLayerInfo>,
    /// Layer files, oldest first.
    pub files: Vec<LayerInfo>,
}

impl Shared {
    /// Its layers, and those in memory.
    pub(crate) fn layers_info(&self) -> LayersInfo {
        let layers = self.layers();
        // Perhaps not of the same moment; it only says what is going on.
        let merging = self
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
            branch: self.id,
            parent: self
                .parent
                .as_ref()
                .map(|p| (p.shared.id, p.branch_point.lsn)),
            applied: self.applied(),
            oldest: self.oldest(),
            memory,
            files: layers
                .files
                .iter()
                .map(|f| LayerInfo::of(&f.meta, merging.contains(&f.meta.number)))
                .collect(),
        }
    }
}
