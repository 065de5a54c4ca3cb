//! Reads layer files front to back: for merges. Memory: one block.

use crate::layer::block::BlockKind;
use crate::layer::chain::Kind;
use crate::layer::codec::Dec;
use crate::layer::format::{Group, IndexEntry, LayerKind, Root, Summary};
use crate::layer::read::{LayerError, LayerFile, Source};
use std::collections::VecDeque;
use std::sync::Arc;
use xylem_types::Lsn;

/// A version as it stands in a block.
pub(crate) type Version<'b> = (Lsn, Kind, &'b [u8]);

/// Where in a layer file a scan stands: at a group of versions of one key.
pub(crate) struct LayerScan<'a> {
    layer: Arc<LayerFile>,
    source: Source<'a>,
    root: Arc<Root>,
    /// The next index block, and the entries of the one before it.
    part: usize,
    entries: Arc<Vec<IndexEntry>>,
    at: usize,
    block: Vec<u8>,
    /// Where the group at hand begins and ends in `block`.
    start: usize,
    end: usize,
    summary: Summary,
    key: Vec<u8>,
}

impl<'a> LayerScan<'a> {
    /// Begins at the layer's first key that counts; none when no key does.
    pub(crate) fn open(
        layer: Arc<LayerFile>,
        source: Source<'a>,
    ) -> Result<Option<LayerScan<'a>>, LayerError> {
        let first = layer.meta.first_key.clone();
        LayerScan::open_at(layer, source, &first)
    }

    /// Begins at `first` or the next key after it.
    fn open_at(
        layer: Arc<LayerFile>,
        source: Source<'a>,
        first: &[u8],
    ) -> Result<Option<LayerScan<'a>>, LayerError> {
        let root = layer.root(&source)?;
        let part = root.index.partition_point(|e| e.key.as_slice() < first);
        // The key may have begun in the part before.
        let part = part.saturating_sub(1);
        let mut scan = LayerScan {
            source,
            part,
            entries: Arc::default(),
            at: 0,
            block: Vec::new(),
            start: 0,
            end: 0,
            summary: Summary::default(),
            key: Vec::new(),
            root,
            layer,
        };
        scan.load_part()?;
        let at = scan.entries.partition_point(|e| e.key.as_slice() < first);
        scan.at = at.saturating_sub(1);
        loop {
            if !scan.step()? {
                return Ok(None);
            }
            if scan.key.as_slice() >= first {
                return Ok(Some(scan));
            }
        }
    }

    /// The key of the group at hand.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// The versions of the group at hand, oldest first.
    pub(crate) fn versions(&self) -> Result<Vec<Version<'_>>, LayerError> {
        let malformed = || self.layer.corrupt("a data block is malformed");
        let bytes = self.block.get(self.start..self.end).unwrap_or_default();
        let group = Group::next(&mut Dec(bytes)).ok_or_else(malformed)?;
        let mut out = Vec::new();
        for (kind, lsn, bytes) in group.versions().ok_or_else(malformed)? {
            let kind =
                Kind::from_u8(kind).ok_or_else(|| self.layer.corrupt("unknown kind of version"))?;
            out.push((lsn, kind, bytes));
        }
        Ok(out)
    }

    /// Goes to the next group. `false`: there is none.
    pub(crate) fn step(&mut self) -> Result<bool, LayerError> {
        while self.end >= self.block.len() {
            let Some(entry) = self.entries.get(self.at) else {
                if !self.load_part()? {
                    return Ok(false);
                }
                continue;
            };
            self.block = self
                .layer
                .read_block(&self.source, entry.block, BlockKind::Data)?;
            (self.start, self.end) = (0, 0);
            self.at += 1;
        }
        self.start = self.end;
        let rest = self.block.get(self.start..).unwrap_or_default();
        let mut d = Dec(rest);
        let group =
            Group::next(&mut d).ok_or_else(|| self.layer.corrupt("a data block is malformed"))?;
        self.end = self.block.len() - d.0.len();
        self.summary = group.summary;
        if self.key != group.key {
            self.key.clear();
            self.key.extend_from_slice(group.key);
        }
        Ok(true)
    }

    /// Loads the next part of the index. `false`: there is none.
    fn load_part(&mut self) -> Result<bool, LayerError> {
        let Some(entry) = self.root.index.get(self.part) else {
            return Ok(false);
        };
        self.entries = self.layer.index(&self.source, entry.block)?;
        self.part += 1;
        self.at = 0;
        Ok(true)
    }
}

/// Reads layers whose keys ascend from one to the next, each opened when the
/// one before it is at its end.
pub(crate) struct RowScan<'a> {
    source: Source<'a>,
    /// The layer that is read; none at the end.
    scan: Option<LayerScan<'a>>,
    /// Those after it.
    rest: VecDeque<Arc<LayerFile>>,
    /// The key that the layer at hand was begun at counts no more.
    moved: bool,
}

impl<'a> RowScan<'a> {
    /// Begins at the first key that counts.
    pub(crate) fn open(
        layers: impl IntoIterator<Item = Arc<LayerFile>>,
        source: Source<'a>,
    ) -> Result<RowScan<'a>, LayerError> {
        let mut row = RowScan {
            source,
            scan: None,
            rest: layers.into_iter().collect(),
            moved: false,
        };
        row.open_next()?;
        Ok(row)
    }

    fn open_next(&mut self) -> Result<(), LayerError> {
        self.scan = None;
        self.moved = false;
        while self.scan.is_none()
            && let Some(layer) = self.rest.pop_front()
        {
            self.scan = LayerScan::open(layer, self.source)?;
        }
        Ok(())
    }

    /// The key of the group at hand; none at the end.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.scan.as_ref().map(LayerScan::key)
    }

    /// The layer of the group at hand.
    pub(crate) fn layer(&self) -> Option<&Arc<LayerFile>> {
        self.scan.as_ref().map(|s| &s.layer)
    }

    /// The kind of the layer at hand.
    pub(crate) fn kind(&self) -> Option<LayerKind> {
        self.layer().map(|l| l.meta.kind)
    }

    /// How long the chain of the key at hand is in its layer.
    pub(crate) fn summary(&self) -> Summary {
        self.scan
            .as_ref()
            .map_or_else(Summary::default, |s| s.summary)
    }

    /// The versions of the group at hand, oldest first.
    pub(crate) fn versions(&self) -> Result<Vec<Version<'_>>, LayerError> {
        self.scan
            .as_ref()
            .map_or(Ok(Vec::new()), LayerScan::versions)
    }

    /// Goes to the next group.
    pub(crate) fn step(&mut self) -> Result<(), LayerError> {
        let Some(scan) = &mut self.scan else {
            return Ok(());
        };
        self.moved = true;
        if !scan.step()? {
            self.open_next()?;
        }
        Ok(())
    }

    /// Goes back to `key`, which was passed in `layer`, with nothing but it
    /// since.
    pub(crate) fn back_to(&mut self, layer: Arc<LayerFile>, key: &[u8]) -> Result<(), LayerError> {
        if let Some(scan) = self.scan.take()
            && scan.layer.meta.number != layer.meta.number
        {
            self.rest.push_front(scan.layer);
        }
        self.moved = key > layer.meta.first_key.as_slice();
        self.scan = LayerScan::open_at(layer, self.source, key)?;
        Ok(())
    }

    /// The layers that are not read to their end: for each its number and, if
    /// it was begun, its next key.
    pub(crate) fn left(&self) -> impl Iterator<Item = (u64, Option<Vec<u8>>)> {
        let begun = self.scan.iter().map(|s| {
            let place = self.moved.then(|| s.key.clone());
            (s.layer.meta.number, place)
        });
        begun.chain(self.rest.iter().map(|l| (l.meta.number, None)))
    }
}
