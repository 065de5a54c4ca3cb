//! Reads a layer file front to back: for merges. Memory: one block.

use crate::block::BlockKind;
use crate::chain::Kind;
use crate::codec::Dec;
use crate::layer::{Group, IndexEntry, Root, Summary};
use crate::layer_read::{LayerError, LayerFile, Source};
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
    ended: bool,
}

impl<'a> LayerScan<'a> {
    /// Begins at the layer's first key that counts; none when no key does.
    pub(crate) fn open(
        layer: Arc<LayerFile>,
        source: Source<'a>,
    ) -> Result<Option<LayerScan<'a>>, LayerError> {
        let root = layer.root(&source)?;
        let first = layer.meta.first_key.as_slice();
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
            ended: false,
            root,
            layer,
        };
        scan.load_part()?;
        let first = scan.layer.meta.first_key.as_slice();
        let at = scan.entries.partition_point(|e| e.key.as_slice() < first);
        scan.at = at.saturating_sub(1);
        loop {
            if !scan.step()? {
                return Ok(None);
            }
            if scan.key >= scan.layer.meta.first_key {
                return Ok(Some(scan));
            }
        }
    }

    /// The layer.
    pub(crate) fn layer(&self) -> &Arc<LayerFile> {
        &self.layer
    }

    /// The key of the group at hand.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// How long its chain is as of the layer's end.
    pub(crate) fn summary(&self) -> Summary {
        self.summary
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

    /// Whether all groups were passed.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Goes to the next group. `false`: there is none.
    pub(crate) fn step(&mut self) -> Result<bool, LayerError> {
        while self.end >= self.block.len() {
            let Some(entry) = self.entries.get(self.at) else {
                if !self.load_part()? {
                    self.ended = true;
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
