//! A block: the unit of reading, compression and checksum of a layer file.
//! See docs/formats/layers.md.

use crate::layer::codec::Dec;
use parking_lot::Mutex;
use std::io;

/// The kind of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BlockKind {
    Data = 1,
    Index = 2,
    Filter = 3,
    Root = 4,
}

/// How a block is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// LZ4: for what is written while redo comes in.
    Fast,
    /// Zstandard: for what is written in the background and stays.
    Dense,
}

/// Zstandard's level. On pages of a sysbench table higher ones save nothing
/// more and take longer (`examples/codecs.rs`, docs/benchmarks.md).
const ZSTD_LEVEL: i32 = 1;

/// Contexts of Zstandard for further blocks: making one takes longer than expanding
/// a block.
struct Contexts<T>(Mutex<Vec<T>>);

/// About as many as threads that are at blocks at once. One takes 0.1 to 1 MB.
const CONTEXTS_MAX: usize = 8;

static PACKERS: Contexts<zstd::bulk::Compressor<'static>> = Contexts(Mutex::new(Vec::new()));
static UNPACKERS: Contexts<zstd::bulk::Decompressor<'static>> = Contexts(Mutex::new(Vec::new()));

impl<T> Contexts<T> {
    /// Runs `work` with a kept context, or with one that `make` makes. One with which
    /// it failed is not used again.
    fn with<R>(
        &self,
        make: impl FnOnce() -> io::Result<T>,
        work: impl FnOnce(&mut T) -> io::Result<R>,
    ) -> io::Result<R> {
        let kept = self.0.lock().pop();
        let mut context = kept.map_or_else(make, Ok)?;
        let done = work(&mut context)?;
        let mut all = self.0.lock();
        if all.len() < CONTEXTS_MAX {
            all.push(context);
        }
        Ok(done)
    }
}

/// Bytes before a block's payload.
pub(crate) const BLOCK_HEADER: usize = 16;
/// No block is larger, compressed or not: the longest record plus its key.
pub(crate) const BLOCK_MAX: usize = 64 << 20;

/// A block's place in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlockRef {
    pub(crate) offset: u64,
    /// Header and payload.
    pub(crate) len: u32,
}

/// Makes a block's checksum depend on its file and place, so that a good
/// block in a wrong place is not taken for the right one.
pub(crate) fn seed(branch: u128, layer: u64) -> u32 {
    let crc = crc32c::crc32c(&branch.to_le_bytes());
    crc32c::crc32c_append(crc, &layer.to_le_bytes())
}

fn checksum(seed: u32, offset: u64, rest: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(seed, &offset.to_le_bytes());
    crc32c::crc32c_append(crc, rest)
}

/// Appends the packed payload to `out` and returns the codec's number in
/// the file; 0, and nothing appended, when packing saves less than an eighth,
/// which is not worth the time to expand it.
fn pack(out: &mut Vec<u8>, codec: Codec, payload: &[u8]) -> u8 {
    let body = out.len();
    let (number, room) = match codec {
        Codec::Fast => (1, lz4_flex::block::get_maximum_output_size(payload.len())),
        Codec::Dense => (2, zstd::zstd_safe::compress_bound(payload.len())),
    };
    out.resize(body + room, 0);
    let Some(into) = out.get_mut(body..) else {
        return 0;
    };
    let packed = match codec {
        Codec::Fast => lz4_flex::block::compress_into(payload, into).ok(),
        Codec::Dense => PACKERS
            .with(
                || zstd::bulk::Compressor::new(ZSTD_LEVEL),
                |packer| packer.compress_to_buffer(payload, into),
            )
            .ok(),
    };
    match packed {
        Some(n) if n < payload.len() - payload.len() / 8 => {
            out.truncate(body + n);
            number
        }
        _ => {
            out.truncate(body);
            0
        }
    }
}

/// Appends the block to `out`, packed when that makes it smaller.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    seed: u32,
    offset: u64,
    kind: BlockKind,
    codec: Codec,
    payload: &[u8],
) {
    let start = out.len();
    out.extend_from_slice(&[0; BLOCK_HEADER]);
    let body = out.len();
    let codec = match kind {
        BlockKind::Filter => 0,
        _ => pack(out, codec, payload),
    };
    if codec == 0 {
        out.extend_from_slice(payload);
    }
    let stored = (out.len() - body) as u32;
    let mut head = [0u8; BLOCK_HEADER];
    head[4] = codec;
    head[5] = kind as u8;
    head[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[12..16].copy_from_slice(&stored.to_le_bytes());
    if let Some(h) = out.get_mut(start..body) {
        h.copy_from_slice(&head);
    }
    let crc = checksum(seed, offset, out.get(start + 4..).unwrap_or_default());
    if let Some(c) = out.get_mut(start..start + 4) {
        c.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Checks and expands a block.
pub(crate) fn decode(
    raw: &[u8],
    seed: u32,
    offset: u64,
    kind: BlockKind,
) -> Result<Vec<u8>, String> {
    let bad = |what: &str| Err(format!("block at byte {offset}: {what}"));
    let mut d = Dec(raw);
    let (Some(crc), rest) = (d.u32(), d.0) else {
        return bad("too short");
    };
    let computed = checksum(seed, offset, rest);
    if crc != computed {
        return bad(&format!(
            "CRC-32C is {computed:#010x}, stored is {crc:#010x}"
        ));
    }
    let (Some(codec), Some(found), Some(_), Some(raw_len), Some(stored)) =
        (d.u8(), d.u8(), d.u16(), d.u32(), d.u32())
    else {
        return bad("too short");
    };
    if found != kind as u8 {
        return bad(&format!("is of kind {found}, not {}", kind as u8));
    }
    let raw_len = raw_len as usize;
    if stored as usize != d.0.len() || raw_len > BLOCK_MAX {
        return bad("has the wrong length");
    }
    match codec {
        0 if raw_len == d.0.len() => Ok(d.0.to_vec()),
        1 => match lz4_flex::block::decompress(d.0, raw_len) {
            Ok(out) if out.len() == raw_len => Ok(out),
            _ => bad("does not expand"),
        },
        2 => match UNPACKERS.with(zstd::bulk::Decompressor::new, |unpacker| {
            unpacker.decompress(d.0, raw_len)
        }) {
            Ok(out) if out.len() == raw_len => Ok(out),
            _ => bad("does not expand"),
        },
        _ => bad("has an unknown encoding"),
    }
}

#[cfg(test)]
mod tests;
