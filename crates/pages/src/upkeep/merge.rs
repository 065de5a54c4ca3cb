//! Merges layers into one: by key, and within a key in the order of the WAL.
//! Memory: a block of each row read, what the writer needs, and of the key at
//! hand about one page for each point of its history that is kept.

use super::fault::Fault;
use super::fold::{Fold, Stuck, Version};
use super::image::Images;
use crate::branch::shared::Shared;
use crate::error::ReadError;
use crate::layer::chain::Kind;
use crate::layer::format::{LayerKind, Summary};
use crate::layer::key::key_text;
use crate::layer::read::LayerFile;
use crate::layer::scan::RowScan;
use crate::layer::write::LayerWriter;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use xylem_types::Lsn;

/// Keys between two looks at whether to stop.
const STOP_CHECK: usize = 256;

/// Layers on their way into others.
pub(crate) struct Merge<'a> {
    shared: &'a Shared,
    /// Oldest first.
    rows: Vec<RowScan<'a>>,
    /// The next key of each row that is not at its end, and which row it is.
    next: BinaryHeap<Reverse<(Vec<u8>, usize)>>,
    /// The rows that have the key at hand, oldest first.
    having: Vec<usize>,
    images: Images<'a>,
}

impl<'a> Merge<'a> {
    /// Merges what `rows` read, oldest first.
    pub(crate) fn new(shared: &'a Shared, rows: Vec<RowScan<'a>>) -> Merge<'a> {
        let keys = rows.iter().enumerate();
        let next = keys.filter_map(|(n, row)| Some(Reverse((row.key()?.to_vec(), n))));
        Merge {
            next: next.collect(),
            shared,
            rows,
            having: Vec::new(),
            images: Images::new(shared),
        }
    }

    /// The layers that are not read to their end: for each its number and, if
    /// it was begun, its next key.
    pub(crate) fn left(&self) -> impl Iterator<Item = (u64, Option<Vec<u8>>)> {
        self.rows.iter().flat_map(RowScan::left)
    }

    /// Writes whole keys to `out` until that has `limit` bytes or nothing is
    /// left to read.
    pub(crate) fn write(
        &mut self,
        mut fold: Option<Fold<'_>>,
        limit: u64,
        out: &mut LayerWriter,
    ) -> Result<(), Fault> {
        let mut keys = 0usize;
        while out.len() < limit {
            let Some(key) = self.take_next() else {
                return Ok(());
            };
            keys += 1;
            if keys.is_multiple_of(STOP_CHECK) && self.shared.stopped() {
                return Err(Fault::Stopped);
            }
            match &mut fold {
                None => self.copy_key(&key, out)?,
                Some(fold) => self.fold_key(&key, fold, out)?,
            }
            self.put_back(key);
        }
        Ok(())
    }

    /// The least key, and in `having` the rows that have it.
    fn take_next(&mut self) -> Option<Vec<u8>> {
        let Reverse((key, first)) = self.next.pop()?;
        self.having.clear();
        self.having.push(first);
        while let Some(Reverse((other, row))) = self.next.peek()
            && *other == key
        {
            self.having.push(*row);
            self.next.pop();
        }
        Some(key)
    }

    /// The rows that had the key are past it.
    fn put_back(&mut self, mut spare: Vec<u8>) {
        for n in &self.having {
            if let Some(key) = self.rows.get(*n).and_then(RowScan::key) {
                let mut own = std::mem::take(&mut spare);
                own.clear();
                own.extend_from_slice(key);
                self.next.push(Reverse((own, *n)));
            }
        }
    }

    fn having(&self) -> impl DoubleEndedIterator<Item = &RowScan<'a>> {
        self.having.iter().filter_map(|n| self.rows.get(*n))
    }

    /// How long the key's chain is in these layers, at most.
    fn summary(&self) -> Summary {
        let mut sum = Summary::default();
        for row in self.having().rev() {
            if row.kind() == Some(LayerKind::Image) {
                break;
            }
            let s = row.summary();
            sum.bytes = sum.bytes.saturating_add(s.bytes);
            sum.versions = sum.versions.saturating_add(s.versions);
            sum.layers = 1;
        }
        sum
    }

    /// Calls `each` with the key's versions, oldest first, and goes past them.
    fn versions(
        &mut self,
        key: &[u8],
        mut each: impl FnMut(Version<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        for n in &self.having {
            let Some(row) = self.rows.get_mut(*n) else {
                continue;
            };
            while row.key() == Some(key) {
                for (lsn, kind, bytes) in row.versions()? {
                    each(Version { lsn, kind, bytes })?;
                }
                row.step()?;
            }
        }
        Ok(())
    }

    fn copy_key(&mut self, key: &[u8], out: &mut LayerWriter) -> Result<(), Fault> {
        let mut chain = Written::default();
        out.begin_key(key, self.summary())?;
        self.versions(key, |v| {
            chain.count(&v);
            Ok(out.version(v.lsn, v.kind, v.bytes, None)?)
        })?;
        self.end_key(key, &chain, out)
    }

    /// Ends the key, with an image when readers would have to apply much.
    fn end_key(&mut self, key: &[u8], chain: &Written, out: &mut LayerWriter) -> Result<(), Fault> {
        let mut ends_in_image = chain.last == Some(Kind::Image);
        // Folding leaves little up to the horizon. Nor could it be built: the
        // descriptions of tablespaces are folded, too, so nothing tells what
        // they were at an LSN between two points.
        if !ends_in_image
            && chain.point.is_none()
            && let Some((lsn, bytes)) = self.images.of(key, chain.lsn, chain.length)
        {
            out.version(lsn, Kind::Image, &bytes, None)?;
            ends_in_image = true;
        }
        if ends_in_image {
            out.set_summary(Summary::default());
        }
        Ok(())
    }

    fn fold_key(
        &mut self,
        key: &[u8],
        fold: &mut Fold<'_>,
        out: &mut LayerWriter,
    ) -> Result<(), Fault> {
        let summary = self.summary();
        let from: Vec<(usize, Arc<LayerFile>)> = self
            .having
            .iter()
            .filter_map(|n| Some((*n, Arc::clone(self.rows.get(*n)?.layer()?))))
            .collect();
        let mut chain = Written::default();
        let mut begun = false;
        let mut put = |version: Version<'_>, point| -> Result<(), Fault> {
            if !begun {
                out.begin_key(key, summary)?;
                begun = true;
            }
            chain.count(&version);
            chain.point = point;
            Ok(out.version(version.lsn, version.kind, version.bytes, point)?)
        };
        // The folded history waits here until it is certain that all of it can
        // be made.
        let mut folded = Vec::new();
        let mut stuck = None;
        fold.begin(key);
        self.versions(key, |v| {
            if stuck.is_some() {
                return Ok(());
            }
            if let Err(e) = fold.version(&v, &mut folded) {
                stuck = Some(e);
            } else if fold.is_past_horizon() {
                for (made, point) in folded.drain(..) {
                    put(made.as_version(), point)?;
                }
            }
            Ok(())
        })?;
        if stuck.is_none() {
            stuck = fold.end(&mut folded).err();
        }
        let Some(stuck) = stuck else {
            for (made, point) in folded.drain(..) {
                put(made.as_version(), point)?;
            }
            return match begun {
                true => self.end_key(key, &chain, out),
                false => Ok(()),
            };
        };
        let why = match stuck {
            Stuck::Read(e @ ReadError::Io { .. }) => {
                return Err(Fault::Again(format!("fold: {e}")));
            }
            Stuck::Read(e) => e.to_string(),
            Stuck::Unfoldable(why) => why,
        };
        // This one key keeps its history; nothing of it was written yet.
        note_unfoldable(self.shared, key, &why);
        for (n, layer) in from {
            if let Some(row) = self.rows.get_mut(n) {
                row.back_to(layer, key)?;
            }
        }
        out.begin_key(key, summary)?;
        // All for one point: nothing of it counts as what folding could take
        // away, else it would be tried again without end.
        let point = Some(Lsn::ZERO);
        self.versions(key, |v| Ok(out.version(v.lsn, v.kind, v.bytes, point)?))
    }
}

/// Notes that a key's history cannot be folded.
fn note_unfoldable(shared: &Shared, key: &[u8], why: &str) {
    shared.stats.unfoldable_keys.add(1);
    let subject = format!("{}: ", key_text(key));
    let message = format!("{subject}{why}");
    let troubles = &shared.health.unfoldable;
    if troubles.note(shared.now_us(), &subject, message) {
        tracing::error!(branch_id = %shared.id, key = %key_text(key), error = %why, "a key cannot be folded: all its history stays");
    }
}

/// The versions that were written of a key.
#[derive(Default)]
struct Written {
    /// Since the last version that needs nothing before it.
    length: Summary,
    last: Option<Kind>,
    lsn: Lsn,
    /// The point that the last version is kept for; none after the horizon.
    point: Option<Lsn>,
}

impl Written {
    fn count(&mut self, v: &Version<'_>) {
        if v.kind.ends_walk() {
            self.length = Summary::default();
        }
        if v.kind != Kind::Image {
            let bytes = u32::try_from(v.bytes.len()).unwrap_or(u32::MAX);
            self.length.bytes = self.length.bytes.saturating_add(bytes);
            self.length.versions = self.length.versions.saturating_add(1);
        }
        (self.last, self.lsn) = (Some(v.kind), v.lsn);
    }
}
