//! The index of a page cache, written when its server ends and read when the next one
//! starts. It is removed as it is read, so that a server that dies leaves none.
//!
//! All integers are little-endian.
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `XYLPGC01` |
//! | 4, 4, 4 | page size in bytes, number of shards, slots of a shard |
//! | 8, 8 | epoch of the compute, LSN up to which it wrote |
//! | 4, n | length of the branch's identifier, the identifier |
//! | for each shard: 4 | number of entries |
//! | for each entry: 8 | page: tablespace << 32, page number |
//! | 4, 4, 4 | slot; length in bytes, with the highest bit set in the main queue; CRC-32C |
//! | 4 | CRC-32C of everything before |

use super::shard::Entry;
use std::io;
use std::path::Path;

const MAGIC: &[u8; 8] = b"XYLPGC01";
/// The bit of an entry's length that marks the main queue.
const MAIN: u32 = 1 << 31;

/// The branch and the shape of a cache. A cache uses only an index that has its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub branch: String,
    pub page_size: u32,
    pub shards: u32,
    pub per_shard: u32,
}

/// An index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub owner: Owner,
    pub epoch: u64,
    pub end_lsn: u64,
    pub shards: Vec<Vec<Entry>>,
}

/// Writes an index. It need not reach the disk: a torn one has a wrong checksum.
pub fn put(path: &Path, saved: &Saved) -> io::Result<()> {
    std::fs::write(path, encode(saved))
}

/// Reads an index and removes it. `None` when there is none that can be understood.
///
/// # Errors
/// When the file cannot be read or removed.
pub fn take(path: &Path) -> io::Result<Option<Saved>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    std::fs::remove_file(path)?;
    Ok(decode(&bytes))
}

fn encode(saved: &Saved) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let owner = &saved.owner;
    for n in [owner.page_size, owner.shards, owner.per_shard] {
        out.extend(n.to_le_bytes());
    }
    out.extend(saved.epoch.to_le_bytes());
    out.extend(saved.end_lsn.to_le_bytes());
    out.extend((owner.branch.len() as u32).to_le_bytes());
    out.extend(owner.branch.as_bytes());
    for entries in &saved.shards {
        out.extend((entries.len() as u32).to_le_bytes());
        for entry in entries {
            let main = if entry.main { MAIN } else { 0 };
            out.extend(entry.page.to_le_bytes());
            out.extend(entry.slot.to_le_bytes());
            out.extend((entry.len | main).to_le_bytes());
            out.extend(entry.crc.to_le_bytes());
        }
    }
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<Saved> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let rest = &mut rest;
    let (page_size, shards, per_shard) = (u32_of(rest)?, u32_of(rest)?, u32_of(rest)?);
    let (epoch, end_lsn) = (u64_of(rest)?, u64_of(rest)?);
    let branch_len = u32_of(rest)? as usize;
    let (branch, after) = rest.split_at_checked(branch_len)?;
    *rest = after;
    let owner = Owner {
        branch: String::from_utf8(branch.to_vec()).ok()?,
        page_size,
        shards,
        per_shard,
    };
    let mut all = Vec::new();
    for _ in 0..shards {
        let mut entries = Vec::new();
        for _ in 0..u32_of(rest)? {
            let (page, slot, len, crc) =
                (u64_of(rest)?, u32_of(rest)?, u32_of(rest)?, u32_of(rest)?);
            entries.push(Entry {
                page,
                slot,
                len: len & !MAIN,
                crc,
                main: len & MAIN != 0,
            });
        }
        all.push(entries);
    }
    rest.is_empty().then_some(Saved {
        owner,
        epoch,
        end_lsn,
        shards: all,
    })
}

fn u32_of(bytes: &mut &[u8]) -> Option<u32> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*first))
}

fn u64_of(bytes: &mut &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*first))
}
