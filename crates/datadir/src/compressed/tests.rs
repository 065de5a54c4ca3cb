//! Pages compressed as InnoDB does it (`fil_page_compress()`).

use super::{ExpandError, expand};
use crc32c::crc32c;
use xylem_redo::SpaceFlags;

fn page() -> Vec<u8> {
    let mut p: Vec<u8> = (0..16384).map(|i| (i / 64 % 251) as u8).collect();
    p[..4].fill(0);
    p[24..26].copy_from_slice(&17855u16.to_be_bytes());
    p[26..34].fill(0);
    p
}

fn zlib(page: &[u8]) -> Vec<u8> {
    miniz_oxide::deflate::compress_to_vec_zlib(page, 6)
}

fn lz4(page: &[u8]) -> Vec<u8> {
    lz4_flex::block::compress(page)
}

/// With full_crc32.
fn full(page: &[u8], data: &[u8], exact: bool) -> Vec<u8> {
    let mut out = vec![0; 16384];
    out[..26].copy_from_slice(&page[..26]);
    out[26..26 + data.len()].copy_from_slice(data);
    let actual = 26 + data.len();
    let size = (actual + usize::from(exact) + 4 + 255) & !255;
    out[24] = 0x80;
    out[25] = (size >> 8) as u8;
    if exact {
        out[size - 5] = (actual + 5) as u8;
    }
    let sum = crc32c(&out[..size - 4]);
    out[size - 4..size].copy_from_slice(&sum.to_be_bytes());
    out
}

fn older(page: &[u8], algorithm: u64, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 16384];
    out[..38].copy_from_slice(&page[..38]);
    out[..4].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
    out[24..26].copy_from_slice(&34354u16.to_be_bytes());
    out[26..34].copy_from_slice(&algorithm.to_be_bytes());
    out[38..40].copy_from_slice(&(data.len() as u16).to_be_bytes());
    out[40..40 + data.len()].copy_from_slice(data);
    out
}

fn full_flags(algorithm: u32) -> SpaceFlags {
    SpaceFlags::new(0x15 | algorithm << 5).unwrap()
}

fn older_flags() -> SpaceFlags {
    SpaceFlags::new(1 << 16).unwrap()
}

#[test]
fn what_was_compressed_comes_back() {
    let p = page();
    let expanded = expand(&full(&p, &zlib(&p), false), full_flags(1));
    assert_eq!(expanded.as_deref(), Ok(&p[..]));
    // Lengths whose low byte is anything: 0 stands for a full one.
    for filler in 0..600 {
        let mut p = p.clone();
        let mut x = 12345u32;
        for b in &mut p[1000..1000 + filler] {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *b = (x >> 24) as u8;
        }
        let expanded = expand(&full(&p, &lz4(&p), true), full_flags(2));
        assert_eq!(expanded.as_deref(), Ok(&p[..]), "{filler}");
    }
    let expanded = expand(&older(&p, 1, &zlib(&p)), older_flags());
    assert_eq!(expanded.as_deref(), Ok(&p[..]));
    let expanded = expand(&older(&p, 2, &lz4(&p)), older_flags());
    assert_eq!(expanded.as_deref(), Ok(&p[..]));
}

#[test]
fn what_cannot_be_expanded_is_said() {
    let p = page();
    assert_eq!(
        expand(&full(&p, b"anything", true), full_flags(6)),
        Err(ExpandError::Algorithm("snappy"))
    );
    assert_eq!(
        expand(&older(&p, 4, b"anything"), older_flags()),
        Err(ExpandError::Algorithm("lzma"))
    );
    let mut encrypted = full(&p, &zlib(&p), false);
    encrypted[3] = 1;
    let size = usize::from(encrypted[25]) << 8;
    let sum = crc32c(&encrypted[..size - 4]);
    encrypted[size - 4..size].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(
        expand(&encrypted, full_flags(1)),
        Err(ExpandError::Encrypted)
    );
}

#[test]
fn damage_is_seen_and_nothing_panics() {
    let p = page();
    let good = full(&p, &zlib(&p), false);
    for at in [0, 24, 25, 26, 40, 100] {
        let mut bad = good.clone();
        bad[at] ^= 0x41;
        assert!(expand(&bad, full_flags(1)).is_err(), "{at}");
    }
    let good = older(&p, 2, &lz4(&p));
    for at in 0..200 {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        let _ = expand(&bad, older_flags());
    }
    for len in 0..100 {
        assert!(expand(&good[..len], older_flags()).is_err());
        assert!(expand(&good[..len], full_flags(2)).is_err());
    }
}
