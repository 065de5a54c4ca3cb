//! The layer files of a branch, arranged so that a key's are found without
//! looking at all of them.
//!
//! A run has many layers after a merge, whose keys ascend from one to the
//! next: a [`Row`]. A flush leaves one row or, with an image layer, two. So a
//! look-up costs a binary search in each row, and the number of rows grows
//! with that of runs, not with that of layers.

use crate::layer::read::LayerFile;
use std::ops::Deref;
use std::sync::Arc;
use xylem_types::Lsn;

/// Layers of one run, of which no two share a key.
pub(crate) struct Row {
    /// In the order of their keys.
    layers: Vec<Arc<LayerFile>>,
    /// The run's number.
    pub(crate) run: u64,
    /// No version is before this ...
    pub(crate) start: Lsn,
    /// ... or after this.
    pub(crate) end: Lsn,
    /// The tags of all its layers; see [`crate::layer::format::LayerMeta::tags`].
    pub(crate) tags: u8,
    /// The bytes of all its layers.
    pub(crate) bytes: u64,
}

impl Row {
    fn new(layers: Vec<Arc<LayerFile>>) -> Row {
        let metas = || layers.iter().map(|l| &l.meta);
        Row {
            run: metas().next().map_or(0, |m| m.run),
            start: metas().map(|m| m.start).min().unwrap_or_default(),
            end: metas().map(|m| m.end).max().unwrap_or_default(),
            tags: metas().fold(0, |tags, m| tags | m.tags),
            bytes: metas().map(|m| m.bytes).sum(),
            layers,
        }
    }

    /// In the order of their keys.
    pub(crate) fn layers(&self) -> &[Arc<LayerFile>] {
        &self.layers
    }

    /// The layer that may hold `key`.
    pub(crate) fn find(&self, key: &[u8]) -> Option<&Arc<LayerFile>> {
        let after = self
            .layers
            .partition_point(|l| l.meta.first_key.as_slice() <= key);
        let found = self.layers.get(after.checked_sub(1)?)?;
        found.meta.spans(key).then_some(found)
    }

    /// The layers that may hold keys after `after` and before `end`.
    pub(crate) fn within<'r>(
        &'r self,
        after: &[u8],
        end: &'r [u8],
    ) -> impl Iterator<Item = &'r Arc<LayerFile>> {
        let first = self
            .layers
            .partition_point(|l| l.meta.last_key.as_slice() <= after);
        let rest = self.layers.get(first..).unwrap_or_default();
        rest.iter()
            .take_while(move |l| l.meta.first_key.as_slice() < end)
    }

    /// Whether none of its layers has a key in the range of `layer`.
    pub(crate) fn is_apart_from(&self, layer: &LayerFile) -> bool {
        let after = self
            .layers
            .partition_point(|l| l.meta.first_key <= layer.meta.first_key);
        let before = after.checked_sub(1).and_then(|n| self.layers.get(n));
        before.is_none_or(|l| l.meta.last_key < layer.meta.first_key)
            && self
                .layers
                .get(after)
                .is_none_or(|l| layer.meta.last_key < l.meta.first_key)
    }
}

/// All layer files of a branch at one moment: those of older runs first, and
/// within a run by number.
#[derive(Default)]
pub(crate) struct LayerList {
    files: Vec<Arc<LayerFile>>,
    rows: Vec<Arc<Row>>,
}

impl LayerList {
    /// Arranges `files`. What `before` has of a run that did not change is
    /// taken over, so that a change costs little more than what it changes.
    pub(crate) fn new(mut files: Vec<Arc<LayerFile>>, before: &LayerList) -> LayerList {
        files.sort_by_key(|f| (f.meta.run, f.meta.number));
        let mut old = before
            .files
            .chunk_by(|a, b| a.meta.run == b.meta.run)
            .peekable();
        let mut old_rows = before.rows.chunk_by(|a, b| a.run == b.run);
        let mut rows = Vec::with_capacity(before.rows.len() + 1);
        for run in files.chunk_by(|a, b| a.meta.run == b.meta.run) {
            let number = run.first().map(|f| f.meta.run);
            let run_of = |files: &[Arc<LayerFile>]| files.first().map(|f| f.meta.run);
            while old.next_if(|files| run_of(files) < number).is_some() {
                old_rows.next();
            }
            let same = old.next_if(|files| run_of(files) == number);
            let known = same.and_then(|_| old_rows.next());
            match (same, known) {
                (Some(same), Some(known))
                    if same.len() == run.len()
                        && same.iter().zip(run).all(|(a, b)| Arc::ptr_eq(a, b)) =>
                {
                    rows.extend(known.iter().cloned());
                }
                _ => rows.extend(rows_of(run).into_iter().map(Arc::new)),
            }
        }
        LayerList { files, rows }
    }

    /// Oldest first. A key's versions in one row are all newer than those in
    /// the rows before it.
    pub(crate) fn rows(&self) -> &[Arc<Row>] {
        &self.rows
    }
}

impl LayerList {
    /// Runs of layers.
    pub(crate) fn runs(&self) -> u64 {
        self.rows.chunk_by(|a, b| a.run == b.run).count() as u64
    }
}

impl Deref for LayerList {
    type Target = [Arc<LayerFile>];

    fn deref(&self) -> &[Arc<LayerFile>] {
        &self.files
    }
}

/// Arranges the layers of one run, which come by number.
fn rows_of(run: &[Arc<LayerFile>]) -> Vec<Row> {
    let mut sorted = run.to_vec();
    sorted.sort_by(|a, b| a.meta.first_key.cmp(&b.meta.first_key));
    let apart = sorted.windows(2).all(|w| match w {
        [a, b] => a.meta.last_key < b.meta.first_key,
        _ => true,
    });
    if apart {
        return vec![Row::new(sorted)];
    }
    // A layer stands behind those of lower numbers whose keys it shares.
    let mut rows: Vec<Row> = Vec::new();
    for layer in run {
        let mut fits = None;
        for (n, row) in rows.iter().enumerate().rev() {
            if !row.is_apart_from(layer) {
                break;
            }
            fits = Some(n);
        }
        match fits.and_then(|n| rows.get_mut(n)) {
            Some(row) => {
                let mut layers = std::mem::take(&mut row.layers);
                let at = layers.partition_point(|l| l.meta.first_key <= layer.meta.first_key);
                layers.insert(at, Arc::clone(layer));
                *row = Row::new(layers);
            }
            None => rows.push(Row::new(vec![Arc::clone(layer)])),
        }
    }
    rows
}

#[cfg(test)]
mod tests;
