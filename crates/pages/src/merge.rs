//! Merges layers into one: by key, and within a key in the order of the log.
//! Memory: a block of each layer read, what the writer needs, and of the key
//! at hand about one page.

use crate::branch::Shared;
use crate::chain::Kind;
use crate::flush::Fault;
use crate::fold::{Fold, Stuck, Version};
use crate::layer::{LayerKind, Summary};
use crate::layer_read::LayerError;
use crate::layer_scan::LayerScan;
use crate::layer_write::LayerWriter;

/// Keys between two looks at whether to stop.
const STOP_CHECK: usize = 256;

/// Layers on their way into others.
pub(crate) struct Merge<'a> {
    /// Oldest first.
    scans: Vec<LayerScan<'a>>,
}

/// How a piece ended.
pub(crate) enum Piece {
    /// It is full, or all is read.
    Done,
    /// A key cannot be folded: begin again and leave it as it is.
    Unfoldable(Vec<u8>, String),
}

fn fault(e: LayerError) -> Fault {
    match e {
        LayerError::Io(..) => Fault::Again(format!("merge: {e}")),
        LayerError::Corrupt(..) => Fault::Stuck(format!("merge: {e}")),
    }
}

impl<'a> Merge<'a> {
    /// Merges what `scans` read, oldest first.
    pub(crate) fn new(scans: Vec<LayerScan<'a>>) -> Merge<'a> {
        Merge { scans }
    }

    /// Where the scans stand: for each that is not at its end, its layer's
    /// number and its next key.
    pub(crate) fn places(&self) -> Vec<(u64, Vec<u8>)> {
        let place = |s: &LayerScan<'_>| (s.layer().meta.number, s.key().to_vec());
        self.scans.iter().map(place).collect()
    }

    /// Writes whole keys to `out` until that has `limit` bytes or nothing is
    /// left to read.
    pub(crate) fn write(
        &mut self,
        shared: &Shared,
        mut fold: Option<Fold<'_>>,
        limit: u64,
        out: &mut LayerWriter,
    ) -> Result<Piece, Fault> {
        let mut keys = 0usize;
        let mut folded: Vec<(Version, bool)> = Vec::new();
        while let Some(key) = self.scans.iter().map(LayerScan::key).min() {
            if out.len() >= limit {
                break;
            }
            keys += 1;
            if keys.is_multiple_of(STOP_CHECK) && shared.stopped() {
                return Err(Fault::Stopped);
            }
            let key = key.to_vec();
            let done = match &mut fold {
                None => self.copy_key(&key, out).map(|()| Piece::Done),
                Some(fold) => self.fold_key(&key, fold, &mut folded, out),
            }?;
            if let Piece::Unfoldable(..) = done {
                return Ok(done);
            }
        }
        Ok(Piece::Done)
    }

    /// How long the key's chain is at the end of the newest layer.
    fn summary(&self, key: &[u8]) -> Summary {
        let mut having = self.scans.iter().rev().filter(|s| s.key() == key);
        let Some(newest) = having.next() else {
            return Summary::default();
        };
        if newest.layer().meta.kind == LayerKind::Image {
            return Summary::default();
        }
        let others = having.count() as u32;
        let summary = newest.summary();
        Summary {
            layers: summary.layers.saturating_sub(others).max(1),
            ..summary
        }
    }

    /// Calls `each` with the key's versions, oldest first, and goes past them.
    fn versions(
        &mut self,
        key: &[u8],
        mut each: impl FnMut(xylem_types::Lsn, Kind, &[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut ended = false;
        for scan in &mut self.scans {
            while scan.key() == key && !scan.ended() {
                for (lsn, kind, bytes) in scan.versions().map_err(fault)? {
                    each(lsn, kind, bytes)?;
                }
                ended |= !scan.step().map_err(fault)?;
            }
        }
        if ended {
            self.scans.retain(|s| !s.ended());
        }
        Ok(())
    }

    fn copy_key(&mut self, key: &[u8], out: &mut LayerWriter) -> Result<(), Fault> {
        out.begin_key(key, self.summary(key))?;
        self.versions(key, |lsn, kind, bytes| {
            Ok(out.version(lsn, kind, bytes, true)?)
        })
    }

    fn fold_key(
        &mut self,
        key: &[u8],
        fold: &mut Fold<'_>,
        folded: &mut Vec<(Version, bool)>,
        out: &mut LayerWriter,
    ) -> Result<Piece, Fault> {
        let summary = self.summary(key);
        let mut begun = false;
        let mut last = Kind::Delta;
        let mut unfoldable = None;
        fold.begin(key);
        let mut put = |folded: &mut Vec<(Version, bool)>| -> Result<(), Fault> {
            for (version, after) in folded.drain(..) {
                if !begun {
                    out.begin_key(key, summary)?;
                    begun = true;
                }
                out.version(version.lsn, version.kind, &version.bytes, after)?;
                last = version.kind;
            }
            Ok(())
        };
        let stuck = |e: Stuck, unfoldable: &mut Option<Piece>| match e {
            Stuck::Read(e @ crate::api::ReadError::Io { .. }) => {
                Err(Fault::Again(format!("fold: {e}")))
            }
            Stuck::Read(e) => {
                *unfoldable = Some(Piece::Unfoldable(key.to_vec(), e.to_string()));
                Ok(())
            }
            Stuck::Unfoldable(key, why) => {
                *unfoldable = Some(Piece::Unfoldable(key, why));
                Ok(())
            }
        };
        self.versions(key, |lsn, kind, bytes| {
            if unfoldable.is_none() {
                match fold.version(lsn, kind, bytes, folded) {
                    Ok(()) => put(folded)?,
                    Err(e) => stuck(e, &mut unfoldable)?,
                }
            }
            Ok(())
        })?;
        if unfoldable.is_none() {
            match fold.end(folded) {
                Ok(()) => put(folded)?,
                Err(e) => stuck(e, &mut unfoldable)?,
            }
        }
        if last == Kind::Image {
            out.set_summary(Summary::default());
        }
        Ok(unfoldable.unwrap_or(Piece::Done))
    }
}
