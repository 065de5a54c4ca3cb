//! Writes a layer file, front to back, from keys in order. Memory: a block,
//! the index entry of each block, 8 bytes for each key.

use crate::layer::block::{self, BlockKind, BlockRef, Codec};
use crate::layer::chain::Kind;
use crate::layer::codec::{put_bytes, put_varint};
use crate::layer::filter;
use crate::layer::format::{
    FOOTER, Footer, Group, HEADER, HELD_MAX, IndexEntry, LayerKind, LayerMeta, Root, Summary,
    encode_index, header,
};
use crate::place::{FileWriter, Files};
use std::collections::BTreeMap;
use std::io;
use xylem_types::{BranchId, FileOp, Lsn};

/// Bytes of a data block before compression, about.
const BLOCK_TARGET: usize = 16 << 10;
/// Data blocks that one index block lists.
const INDEX_FANOUT: usize = 256;
/// Bytes gathered before they are written.
const WRITE_BUFFER: usize = 256 << 10;

/// Bytes of a key: the longest path, and room for what stands around it. An
/// index block has some hundreds of keys, and the root one of each of those.
const KEY_MAX: usize = FileOp::PATH_MAX + 64;

fn refused(what: String) -> io::Error {
    let why = format!("{what} cannot be written into a layer");
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// A layer file being written.
pub(crate) struct LayerWriter {
    out: Box<dyn FileWriter>,
    seed: u32,
    number: u64,
    name: String,
    kind: LayerKind,
    /// Bytes before `buffer`.
    written: u64,
    buffer: Vec<u8>,
    /// The block being filled: finished groups.
    block: Vec<u8>,
    block_first: Option<(Vec<u8>, Lsn)>,
    /// The group being filled.
    key: Vec<u8>,
    summary: Summary,
    body: Vec<u8>,
    versions: u64,
    group_first: Lsn,
    group_last: u64,
    in_key: bool,
    index: Vec<IndexEntry>,
    hashes: Vec<u64>,
    start: Lsn,
    end: Lsn,
    first_key: Option<Vec<u8>>,
    tags: u8,
    codec: Codec,
    /// Length of the key's last version.
    last_len: u64,
    /// The point that it is kept for, and bytes of the key's versions that are
    /// kept for the same point.
    last_point: Option<Lsn>,
    point_bytes: u64,
    old_bytes: u64,
    raw_bytes: u64,
    held: BTreeMap<Lsn, u64>,
}

impl LayerWriter {
    /// Begins the file `name`, which shows the branch up to `end`.
    pub(crate) fn create(
        files: &dyn Files,
        branch: BranchId,
        number: u64,
        name: String,
        kind: LayerKind,
        end: Lsn,
    ) -> io::Result<LayerWriter> {
        let out = files.create(&name)?;
        let mut buffer = Vec::with_capacity(WRITE_BUFFER);
        buffer.extend_from_slice(&header(branch, number, kind));
        Ok(LayerWriter {
            out,
            seed: block::seed(branch.0, number),
            number,
            name,
            kind,
            written: 0,
            buffer,
            block: Vec::with_capacity(BLOCK_TARGET * 2),
            block_first: None,
            key: Vec::new(),
            summary: Summary::default(),
            body: Vec::new(),
            versions: 0,
            group_first: Lsn::ZERO,
            group_last: 0,
            in_key: false,
            index: Vec::new(),
            hashes: Vec::new(),
            start: end,
            end,
            first_key: None,
            tags: 0,
            codec: Codec::Fast,
            last_len: 0,
            last_point: None,
            point_bytes: 0,
            old_bytes: 0,
            raw_bytes: 0,
            held: BTreeMap::new(),
        })
    }

    /// Blocks are packed as small as is worth the time: for layers that stay.
    pub(crate) fn dense(mut self) -> LayerWriter {
        self.codec = Codec::Dense;
        self
    }

    /// Bytes so far, about.
    pub(crate) fn len(&self) -> u64 {
        self.written + (self.buffer.len() + self.block.len() + self.body.len()) as u64
    }

    /// Begins the next key, which comes after all before it.
    pub(crate) fn begin_key(&mut self, key: &[u8], summary: Summary) -> io::Result<()> {
        if key.len() > KEY_MAX {
            return Err(refused(format!("a key of {} bytes", key.len())));
        }
        self.end_key()?;
        if self.first_key.is_none() {
            self.first_key = Some(key.to_vec());
        }
        self.key.clear();
        self.key.extend_from_slice(key);
        self.summary = summary;
        self.last_len = 0;
        self.last_point = None;
        self.point_bytes = 0;
        self.in_key = true;
        self.hashes.push(filter::hash(key));
        self.tags |= 1 << key.first().copied().unwrap_or(0).min(7);
        Ok(())
    }

    /// The key's chain is as long as this after all.
    pub(crate) fn set_summary(&mut self, summary: Summary) {
        self.summary = summary;
    }

    /// Adds the key's next version. One before the horizon is kept for readers
    /// at the LSN `point` alone. One after it has no such point, and the one
    /// before it is of no use once the horizon has passed this one.
    pub(crate) fn version(
        &mut self,
        lsn: Lsn,
        kind: Kind,
        bytes: &[u8],
        point: Option<Lsn>,
    ) -> io::Result<()> {
        // An image stands alone, so that reading a page reads one block of
        // about its size; a long group is cut, and its key continues.
        let full = self.block.len() + self.body.len() + bytes.len() > BLOCK_TARGET;
        if full && self.versions > 0 {
            self.end_group();
            self.end_block()?;
        } else if full && !self.block.is_empty() {
            self.end_block()?;
        }
        if self.versions == 0 {
            self.group_first = lsn;
            self.group_last = 0;
        }
        let len = bytes.len() as u64;
        let before = std::mem::replace(&mut self.last_len, len);
        let last_point = std::mem::replace(&mut self.last_point, point);
        self.raw_bytes += len;
        if point.is_none() {
            self.old_bytes += before;
        } else if point == last_point {
            self.point_bytes += len;
        } else {
            let bytes = std::mem::replace(&mut self.point_bytes, len);
            if let Some(point) = last_point {
                *self.held.entry(point).or_default() += bytes;
            }
        }
        self.body.push(kind as u8);
        put_varint(&mut self.body, lsn.0.saturating_sub(self.group_last));
        put_bytes(&mut self.body, bytes);
        self.group_last = lsn.0;
        self.versions += 1;
        self.start = self.start.min(lsn);
        self.end = self.end.max(lsn);
        Ok(())
    }

    fn end_group(&mut self) {
        if self.versions == 0 {
            return;
        }
        if self.block_first.is_none() {
            self.block_first = Some((self.key.clone(), self.group_first));
        }
        Group::put(
            &mut self.block,
            &self.key,
            self.summary,
            self.versions,
            &self.body,
        );
        self.body.clear();
        self.versions = 0;
    }

    fn end_key(&mut self) -> io::Result<()> {
        if self.in_key {
            self.end_group();
            if self.block.len() >= BLOCK_TARGET {
                self.end_block()?;
            }
            self.in_key = false;
        }
        Ok(())
    }

    fn end_block(&mut self) -> io::Result<()> {
        let Some((key, lsn)) = self.block_first.take() else {
            return Ok(());
        };
        let payload = std::mem::take(&mut self.block);
        let block = self.put_block(BlockKind::Data, &payload)?;
        self.block = payload;
        self.block.clear();
        self.index.push(IndexEntry { key, lsn, block });
        Ok(())
    }

    fn put_block(&mut self, kind: BlockKind, payload: &[u8]) -> io::Result<BlockRef> {
        // No reader takes a larger block.
        if payload.len() > block::BLOCK_MAX {
            return Err(refused(format!("a block of {} bytes", payload.len())));
        }
        let offset = self.written + self.buffer.len() as u64;
        let before = self.buffer.len();
        block::encode(
            &mut self.buffer,
            self.seed,
            offset,
            kind,
            self.codec,
            payload,
        );
        let len = (self.buffer.len() - before) as u32;
        if self.buffer.len() >= WRITE_BUFFER {
            self.write_out()?;
        }
        Ok(BlockRef { offset, len })
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.out.write(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Its number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Keys so far.
    pub(crate) fn keys(&self) -> usize {
        self.hashes.len()
    }

    /// Writes index, filter and footer, and makes the file durable: part of
    /// the run `run`.
    pub(crate) fn finish(mut self, run: u64) -> io::Result<LayerMeta> {
        self.end_key()?;
        self.end_block()?;
        let index = std::mem::take(&mut self.index);
        let mut root = Root {
            index: Vec::new(),
            filter: Vec::new(),
        };
        let mut payload = Vec::new();
        for part in index.chunks(INDEX_FANOUT) {
            payload.clear();
            encode_index(&mut payload, part);
            let block = self.put_block(BlockKind::Index, &payload)?;
            if let Some(first) = part.first() {
                root.index.push(IndexEntry {
                    key: first.key.clone(),
                    lsn: first.lsn,
                    block,
                });
            }
        }
        let pages = filter::build(&self.hashes);
        for page in pages.chunks(filter::FILTER_PAGE) {
            let block = self.put_block(BlockKind::Filter, page)?;
            root.filter.push(block);
        }
        let root = self.put_block(BlockKind::Root, &root.encode())?;
        let footer = Footer {
            root,
            start: self.start,
            end: self.end,
            keys: self.hashes.len() as u64,
            number: self.number,
        };
        self.buffer.extend_from_slice(&footer.encode());
        self.write_out()?;
        debug_assert!(self.written >= (HEADER + FOOTER) as u64);
        let mut held: Vec<(Lsn, u64)> = self.held.into_iter().collect();
        held.sort_unstable_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        held.truncate(HELD_MAX);
        held.sort_unstable();
        let meta = LayerMeta {
            number: self.number,
            name: self.name,
            kind: self.kind,
            bytes: self.written,
            start: self.start,
            end: self.end,
            first_key: self.first_key.unwrap_or_default(),
            last_key: self.key,
            keys: self.hashes.len() as u64,
            tags: self.tags,
            run,
            old_bytes: self.old_bytes,
            raw_bytes: self.raw_bytes,
            held,
        };
        self.out.finish()?;
        Ok(meta)
    }
}
