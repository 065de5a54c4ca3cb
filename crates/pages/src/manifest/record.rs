//! The parts of a manifest: where ingest goes on, the merges under way, and the
//! changes that one manifest makes to the one before it.

use crate::layer::codec::{Dec, put_varint};
use crate::layer::format::LayerMeta;
use xylem_types::{BranchId, Lsn};
use xylem_wal::Position;

/// LSNs behind the end of an mtr that side-file operations may count from. An
/// mtr takes at least 7 bytes (a record of 2, the end marker, the checksum of
/// 4), so no other mtr ends there. See `branch/forks.rs`.
pub(crate) const SLOTS: u64 = 5;
/// Merges of a branch that may be under way.
pub(crate) const MERGES_MAX: usize = 4;

/// The place where ingest goes on after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resume {
    /// Where to read the WAL from: the entry that holds the first byte of the
    /// first mtr that no layer has, or the one after all that is in layers.
    pub(crate) position: Position,
    /// That mtr's LSN. Redo before it is skipped.
    pub(crate) lsn: Lsn,
    /// Side-file operations before this place are in layers and are skipped.
    pub(crate) operations: Position,
    /// Whether an epoch has begun.
    pub(crate) begun: bool,
}

/// Where a branch left its parent branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BranchPoint {
    pub(crate) parent: BranchId,
    /// The last LSN that both share.
    pub(crate) lsn: Lsn,
    /// The branch does not share side-file operations at or after this place in
    /// the parent's WAL, whatever their LSN.
    pub(crate) position: Position,
}

/// A merge that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Merging {
    /// The layers that are not read to their end, ascending.
    pub(crate) inputs: Vec<u64>,
    /// The run of what it writes: the newest of the runs it reads. No other
    /// merge has any of them.
    pub(crate) run: u64,
    /// The end of that run.
    pub(crate) end: Lsn,
}

impl Merging {
    /// The layers that `merges` read, ascending.
    pub(crate) fn inputs_of(merges: &[Merging]) -> Vec<u64> {
        let mut inputs: Vec<u64> = merges.iter().flat_map(|m| m.inputs.clone()).collect();
        inputs.sort_unstable();
        inputs
    }

    /// Checks merges that run side by side: one writes each run, and one reads
    /// each layer, for which `is_there` holds.
    pub(super) fn fit(merges: &[Merging], is_there: impl Fn(u64) -> bool) -> Result<(), String> {
        if merges.len() > MERGES_MAX {
            return Err(format!("{} merges are under way", merges.len()));
        }
        if !merges.is_sorted_by(|a, b| a.run < b.run) {
            return Err("merges under way are not in the order of their runs".into());
        }
        let inputs = Merging::inputs_of(merges);
        if let Some(n) = inputs.iter().find(|n| !is_there(**n)) {
            return Err(format!("layer {n} is being merged and not there"));
        }
        let twice = inputs.windows(2).find(|w| matches!(w, [a, b] if a == b));
        match twice.and_then(|w| w.first()) {
            Some(n) => Err(format!("layer {n} is being merged twice")),
            None => Ok(()),
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.inputs.len() as u64);
        for n in &self.inputs {
            put_varint(out, *n);
        }
        put_varint(out, self.run);
        put_varint(out, self.end.0);
    }

    /// One of so many inputs, whose number was read before.
    pub(super) fn decode(inputs: u64, d: &mut Dec<'_>) -> Option<Merging> {
        let inputs: Option<Vec<u64>> = (0..inputs).map(|_| d.varint()).collect();
        let mut inputs = inputs?;
        inputs.sort_unstable();
        Some(Merging {
            inputs,
            run: d.varint()?,
            end: Lsn(d.varint()?),
        })
    }
}

/// The changes that one manifest makes to the one before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edit {
    pub(crate) add: Vec<LayerMeta>,
    pub(crate) remove: Vec<u64>,
    /// Layers whose first key that counts is now another.
    pub(crate) narrow: Vec<(u64, Vec<u8>)>,
    pub(crate) resume: Resume,
    /// Where the history kept begins, once that is known.
    pub(crate) oldest: Option<Lsn>,
    /// All merges that are under way then; see `Manifest::merging_with`.
    pub(crate) merging: Vec<Merging>,
}
