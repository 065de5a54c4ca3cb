//! The content of manifest files, whichever branch they belong to.

use super::layers::LayerInfo;
use crate::layer::codec::Dec;
use crate::layer::format::LayerMeta;
use crate::layer::key::key_text;
use crate::manifest::format::{Parsed, parse};
use crate::manifest::record::{BranchPoint, Merging, Resume};
use crate::manifest::version::Manifest;
use xylem_types::{BranchId, Lsn};
use xylem_wal::Position;

/// Where a branch left its parent branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchPointInfo {
    /// The branch that was left.
    pub parent: BranchId,
    /// The last LSN that both share.
    pub lsn: Lsn,
    /// The branch shares side-file operations before this place in the parent's
    /// WAL.
    pub position: Position,
}

impl BranchPointInfo {
    fn of(point: BranchPoint) -> BranchPointInfo {
        BranchPointInfo {
            parent: point.parent,
            lsn: point.lsn,
            position: point.position,
        }
    }
}

/// The place from which ingest reads the WAL again after a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResumeInfo {
    /// The place in the WAL.
    pub position: Position,
    /// Redo before this is in layers.
    pub lsn: Lsn,
    /// Side-file operations before this place are in layers.
    pub operations: Position,
    /// Whether an epoch has begun.
    pub begun: bool,
}

impl ResumeInfo {
    fn of(r: Resume) -> ResumeInfo {
        ResumeInfo {
            position: r.position,
            lsn: r.lsn,
            operations: r.operations,
            begun: r.begun,
        }
    }
}

/// The content of one manifest file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestInfo {
    /// The branch that it belongs to.
    pub branch: BranchId,
    /// Its number.
    pub number: u64,
    /// It has all layers, not only what changes.
    pub snapshot: bool,
    /// A random number of the process that wrote it.
    pub writer: u128,
    /// Where the branch left its parent; `None` for a branch without one.
    pub branch_point: Option<BranchPointInfo>,
    /// Where the history kept begins.
    pub oldest: Option<Lsn>,
    /// The place from which ingest reads the WAL again.
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

/// Reads the manifest file `raw`, whichever branch it belongs to.
///
/// # Errors
/// The fault of the file, in words.
pub fn manifest(raw: &[u8]) -> Result<ManifestInfo, String> {
    let ids = raw.get(16..40).ok_or("too short to be a manifest")?;
    let mut d = Dec(ids);
    let (Some(branch), Some(number)) = (d.u128(), d.u64()) else {
        return Err("too short to be a manifest".into());
    };
    let branch = BranchId(branch);
    let p = parse(raw, branch, number)?;
    let inputs = Merging::inputs_of(&p.edit.merging);
    let layer = |l: &LayerMeta| LayerInfo::of(l, inputs.contains(&l.number));
    Ok(ManifestInfo {
        branch,
        number,
        snapshot: p.snapshot,
        writer: p.writer,
        branch_point: p.branch_point.map(BranchPointInfo::of),
        oldest: p.edit.oldest,
        resume: ResumeInfo::of(p.edit.resume),
        next_layer: p.next_layer,
        added: p.edit.add.iter().map(layer).collect(),
        removed: p.edit.remove,
        narrowed: p
            .edit
            .narrow
            .iter()
            .map(|(n, key)| (*n, key_text(key)))
            .collect(),
        merging: inputs,
    })
}

/// Replays the manifest files of one branch and returns the layers they come
/// to, oldest first. Files before the newest snapshot do not count.
///
/// # Errors
/// Why the files do not follow one another.
pub fn replay(raws: &[Vec<u8>]) -> Result<Vec<LayerInfo>, String> {
    let mut parsed: Vec<(BranchId, u64, Parsed)> = Vec::new();
    for raw in raws {
        let head = manifest(raw)?;
        let p = parse(raw, head.branch, head.number)?;
        parsed.push((head.branch, head.number, p));
    }
    parsed.sort_by_key(|(_, number, _)| *number);
    let Some(base) = parsed.iter().rposition(|(_, _, p)| p.snapshot) else {
        return Err("there is no snapshot among them".into());
    };
    let mut m = Manifest::root();
    let mut before: Option<(BranchId, u64)> = None;
    for (branch, number, p) in parsed.drain(base..) {
        if let Some((of, last)) = before
            && (of != branch || last + 1 != number)
        {
            return Err(format!("manifest {number} does not follow number {last}"));
        }
        before = Some((branch, number));
        m.next_layer = p.next_layer;
        m.apply(p.edit);
    }
    let inputs = Merging::inputs_of(&m.merging);
    let layer = |l: &LayerMeta| LayerInfo::of(l, inputs.contains(&l.number));
    Ok(m.layers.iter().map(layer).collect())
}
