//! A layer file: its description, its fixed parts, its groups of versions.
//! See docs/formats/layers.md.

use crate::layer::block::BlockRef;
use crate::layer::codec::{Dec, put_bytes, put_varint};
use crate::layer::key::{TAG_PAGE, TAG_STATE};
use xylem_types::{BranchId, Lsn};

pub(crate) const VERSION: u16 = 2;
pub(crate) const HEADER: usize = 64;
pub(crate) const FOOTER: usize = 64;
const HEADER_MAGIC: &[u8; 8] = b"XYLAYER\x01";
const FOOTER_MAGIC: &[u8; 8] = b"XYLAYEND";

/// The kind of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum LayerKind {
    /// Every version of its LSN range.
    Delta = 0,
    /// Whole values as of its end.
    Image = 1,
}

/// A layer as the manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerMeta {
    /// Given out by the manifest, never twice.
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) kind: LayerKind,
    /// Its size in bytes.
    pub(crate) bytes: u64,
    /// Its versions are at or after this ...
    pub(crate) start: Lsn,
    /// ... and at or before this.
    pub(crate) end: Lsn,
    /// Its first key that counts. A merge that is under way raises it: what
    /// comes before stands in another layer by then.
    pub(crate) first_key: Vec<u8>,
    pub(crate) last_key: Vec<u8>,
    /// Keys in the file.
    pub(crate) keys: u64,
    /// Bit `t` is set when it has a key with tag `t`.
    pub(crate) tags: u8,
    /// The number of the newest flush whose versions it has. Layers stand in
    /// the order of runs; those of one run are a flush, or what merging left of
    /// several.
    pub(crate) run: u64,
    /// Bytes of versions that another of the same key in the layer follows:
    /// about what folding would take away.
    pub(crate) old_bytes: u64,
    /// Bytes of all its versions.
    pub(crate) raw_bytes: u64,
    /// History that folding kept only for the branch points of forks: bytes of
    /// versions, for each such LSN. Ascending, at most [`HELD_MAX`].
    pub(crate) held: Vec<(Lsn, u64)>,
}

/// Points that a layer remembers what it keeps for: those with the most.
pub(crate) const HELD_MAX: usize = 64;

impl LayerMeta {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.number);
        put_bytes(out, self.name.as_bytes());
        out.push(self.kind as u8);
        put_varint(out, self.bytes);
        put_varint(out, self.start.0);
        put_varint(out, self.end.0);
        put_bytes(out, &self.first_key);
        put_bytes(out, &self.last_key);
        put_varint(out, self.keys);
        out.push(self.tags);
        put_varint(out, self.run);
        put_varint(out, self.old_bytes);
        put_varint(out, self.raw_bytes);
        put_varint(out, self.held.len() as u64);
        for (point, bytes) in &self.held {
            put_varint(out, point.0);
            put_varint(out, *bytes);
        }
    }

    pub(crate) fn decode(d: &mut Dec<'_>) -> Option<LayerMeta> {
        Some(LayerMeta {
            number: d.varint()?,
            name: d.string()?,
            kind: match d.u8()? {
                0 => LayerKind::Delta,
                1 => LayerKind::Image,
                _ => return None,
            },
            bytes: d.varint()?,
            start: Lsn(d.varint()?),
            end: Lsn(d.varint()?),
            first_key: d.bytes()?.to_vec(),
            last_key: d.bytes()?.to_vec(),
            keys: d.varint()?,
            tags: d.u8()?,
            run: d.varint()?,
            old_bytes: d.varint()?,
            raw_bytes: d.varint()?,
            held: {
                let n = usize::try_from(d.varint()?).ok()?;
                if n > HELD_MAX {
                    return None;
                }
                let mut held = Vec::with_capacity(n);
                for _ in 0..n {
                    held.push((Lsn(d.varint()?), d.varint()?));
                }
                held
            },
        })
    }

    /// Bytes of it that folding would take away, about, where forks have their
    /// branch points at `points`, which ascend.
    pub(crate) fn garbage(&self, points: &[Lsn]) -> u64 {
        let gone = self.held.iter();
        let gone = gone.filter(|(point, _)| points.binary_search(point).is_err());
        let gone: u64 = gone.map(|(_, bytes)| bytes).sum();
        let raw = self.old_bytes.saturating_add(gone).min(self.raw_bytes);
        // As packed as all of it is.
        let packed = u128::from(raw) * u128::from(self.bytes) / u128::from(self.raw_bytes.max(1));
        u64::try_from(packed).unwrap_or(self.bytes).min(self.bytes)
    }

    /// Memory it takes, about.
    pub(crate) fn memory(&self) -> u64 {
        (352 + self.name.len() + self.first_key.len() + self.last_key.len() + 16 * self.held.len())
            as u64
    }

    /// Whether `key` lies within its range of keys and kinds.
    pub(crate) fn spans(&self, key: &[u8]) -> bool {
        let tag = key.first().copied().unwrap_or(0).clamp(TAG_PAGE, TAG_STATE);
        self.tags & (1 << tag) != 0
            && self.first_key.as_slice() <= key
            && key <= self.last_key.as_slice()
    }
}

/// The first bytes of a layer file.
pub(crate) fn header(branch: BranchId, number: u64, kind: LayerKind) -> [u8; HEADER] {
    let mut out = [0u8; HEADER];
    out[..8].copy_from_slice(HEADER_MAGIC);
    out[8..10].copy_from_slice(&VERSION.to_le_bytes());
    out[10] = kind as u8;
    out[16..32].copy_from_slice(&branch.0.to_le_bytes());
    out[32..40].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&out[..60]);
    out[60..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The last bytes of a layer file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) root: BlockRef,
    pub(crate) start: Lsn,
    pub(crate) end: Lsn,
    pub(crate) keys: u64,
    pub(crate) number: u64,
}

impl Footer {
    pub(crate) fn encode(&self) -> [u8; FOOTER] {
        let mut out = [0u8; FOOTER];
        out[..8].copy_from_slice(FOOTER_MAGIC);
        out[8..16].copy_from_slice(&self.root.offset.to_le_bytes());
        out[16..20].copy_from_slice(&self.root.len.to_le_bytes());
        out[20..22].copy_from_slice(&VERSION.to_le_bytes());
        out[24..32].copy_from_slice(&self.start.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.end.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.keys.to_le_bytes());
        out[48..56].copy_from_slice(&self.number.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(raw: &[u8]) -> Result<Footer, &'static str> {
        let body = raw.get(..60).ok_or("footer is too short")?;
        let mut d = Dec(raw);
        let short = "footer is too short";
        if d.take(8) != Some(FOOTER_MAGIC) {
            return Err("not the end of a layer file");
        }
        let root = BlockRef {
            offset: d.u64().ok_or(short)?,
            len: d.u32().ok_or(short)?,
        };
        let version = d.u16().ok_or(short)?;
        d.u16();
        let footer = Footer {
            root,
            start: Lsn(d.u64().ok_or(short)?),
            end: Lsn(d.u64().ok_or(short)?),
            keys: d.u64().ok_or(short)?,
            number: d.u64().ok_or(short)?,
        };
        d.u32();
        if d.u32() != Some(crc32c::crc32c(body)) {
            return Err("footer fails its CRC-32C");
        }
        if version != VERSION {
            return Err("layer format version is not known");
        }
        Ok(footer)
    }
}

/// How long a key's chain is since its last image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Bytes of records.
    pub(crate) bytes: u32,
    /// Versions.
    pub(crate) versions: u32,
    /// Layers they lie in.
    pub(crate) layers: u32,
}

/// Where a block begins in the order of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) key: Vec<u8>,
    /// The LSN of its first version, of `key`.
    pub(crate) lsn: Lsn,
    pub(crate) block: BlockRef,
}

pub(crate) fn encode_index(out: &mut Vec<u8>, entries: &[IndexEntry]) {
    put_varint(out, entries.len() as u64);
    for e in entries {
        put_bytes(out, &e.key);
        put_varint(out, e.lsn.0);
        put_varint(out, e.block.offset);
        put_varint(out, u64::from(e.block.len));
    }
}

pub(crate) fn decode_index(d: &mut Dec<'_>) -> Option<Vec<IndexEntry>> {
    let n = d.varint()?;
    // Each entry takes at least 4 bytes, so a wrong count cannot ask for more
    // memory than the block has.
    if n > d.0.len() as u64 {
        return None;
    }
    let mut out = Vec::with_capacity(n as usize);
    for _ in 0..n {
        out.push(IndexEntry {
            key: d.bytes()?.to_vec(),
            lsn: Lsn(d.varint()?),
            block: BlockRef {
                offset: d.varint()?,
                len: u32::try_from(d.varint()?).ok()?,
            },
        });
    }
    Some(out)
}

/// The block above the index: it lists the blocks of index and filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) index: Vec<IndexEntry>,
    pub(crate) filter: Vec<BlockRef>,
}

impl Root {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode_index(&mut out, &self.index);
        put_varint(&mut out, self.filter.len() as u64);
        for f in &self.filter {
            put_varint(&mut out, f.offset);
            put_varint(&mut out, u64::from(f.len));
        }
        out
    }

    pub(crate) fn decode(raw: &[u8]) -> Option<Root> {
        let mut d = Dec(raw);
        let index = decode_index(&mut d)?;
        let n = d.varint()?;
        if n > d.0.len() as u64 {
            return None;
        }
        let mut filter = Vec::with_capacity(n as usize);
        for _ in 0..n {
            filter.push(BlockRef {
                offset: d.varint()?,
                len: u32::try_from(d.varint()?).ok()?,
            });
        }
        d.is_empty().then_some(Root { index, filter })
    }

    /// Memory it takes, about.
    pub(crate) fn memory(&self) -> u64 {
        let keys: usize = self.index.iter().map(|e| e.key.len()).sum();
        (self.index.len() * 64 + keys + self.filter.len() * 16 + 64) as u64
    }
}

/// A group of versions of one key in a data block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Group<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) summary: Summary,
    versions: u64,
    body: &'a [u8],
}

impl<'a> Group<'a> {
    /// Takes the next group off the front of a block.
    pub(crate) fn next(block: &mut Dec<'a>) -> Option<Group<'a>> {
        let key = block.bytes()?;
        let summary = Summary {
            bytes: u32::try_from(block.varint()?).ok()?,
            versions: u32::try_from(block.varint()?).ok()?,
            layers: u32::try_from(block.varint()?).ok()?,
        };
        let versions = block.varint()?;
        let body = block.bytes()?;
        Some(Group {
            key,
            summary,
            versions,
            body,
        })
    }

    /// Its versions, oldest first: kind, LSN, bytes.
    pub(crate) fn versions(&self) -> Option<Vec<(u8, Lsn, &'a [u8])>> {
        let mut d = Dec(self.body);
        if self.versions > d.0.len() as u64 {
            return None;
        }
        let mut out = Vec::with_capacity(self.versions as usize);
        let mut lsn = 0u64;
        for _ in 0..self.versions {
            let kind = d.u8()?;
            lsn = lsn.checked_add(d.varint()?)?;
            out.push((kind, Lsn(lsn), d.bytes()?));
        }
        d.is_empty().then_some(out)
    }

    pub(crate) fn put(out: &mut Vec<u8>, key: &[u8], summary: Summary, versions: u64, body: &[u8]) {
        put_bytes(out, key);
        put_varint(out, u64::from(summary.bytes));
        put_varint(out, u64::from(summary.versions));
        put_varint(out, u64::from(summary.layers));
        put_varint(out, versions);
        put_bytes(out, body);
    }
}
