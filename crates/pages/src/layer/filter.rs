//! Which keys a layer may hold: a blocked Bloom filter in pages, so that only
//! the page a key falls into is read.
//!
//! A key's 64-bit hash picks a page by its high bits, a 64-byte line of it by
//! the next, and 6 bits of that line. At 12 bits a key about 1 % of absent
//! keys pass. After Putze, Sanders, Singler, "Cache-, hash- and
//! space-efficient Bloom filters", 2007.

/// Bytes of a filter page.
pub(crate) const FILTER_PAGE: usize = 8 << 10;
const LINE: usize = 64;
const BITS_PER_KEY: usize = 12;
const PROBES: u32 = 6;

/// A key's hash. Part of the file format: it must never change.
pub(crate) fn hash(key: &[u8]) -> u64 {
    // FNV-1a over the bytes, then the finish of MurmurHash3.
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for b in key {
        h = (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

/// Pages of a filter for so many keys.
pub(crate) fn pages_for(keys: usize) -> usize {
    (keys * BITS_PER_KEY).div_ceil(FILTER_PAGE * 8).max(1)
}

/// The page of `pages` that `hash` falls into.
pub(crate) fn page_of(hash: u64, pages: usize) -> usize {
    ((hash >> 32).wrapping_mul(pages as u64) >> 32) as usize
}

fn probes(hash: u64) -> (usize, impl Iterator<Item = (usize, u8)>) {
    let lines = FILTER_PAGE / LINE;
    let line = (hash as usize >> 1) % lines * LINE;
    let mut h = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bits = (0..PROBES).map(move |_| {
        let bit = (h >> 55) as usize;
        h = h.wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(17);
        (bit / 8, 1u8 << (bit % 8))
    });
    (line, bits)
}

/// Builds the filter's pages.
pub(crate) fn build(hashes: &[u64]) -> Vec<u8> {
    let pages = pages_for(hashes.len());
    let mut out = vec![0u8; pages * FILTER_PAGE];
    for h in hashes {
        let (line, bits) = probes(*h);
        let start = page_of(*h, pages) * FILTER_PAGE + line;
        for (byte, mask) in bits {
            if let Some(b) = out.get_mut(start + byte) {
                *b |= mask;
            }
        }
    }
    out
}

/// Whether the key with this hash may be in the layer, by its page.
pub(crate) fn may_contain(page: &[u8], hash: u64) -> bool {
    let (line, mut bits) = probes(hash);
    bits.all(|(byte, mask)| page.get(line + byte).is_none_or(|b| b & mask != 0))
}

#[cfg(test)]
mod tests;
