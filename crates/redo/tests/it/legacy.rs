//! Checksums of older servers. `crates/e2e/tests/it/import.rs` compares them
//! with InnoDB's.
#![allow(clippy::unwrap_used)]

use xylem_redo::{PageCheck, SpaceFlags, is_unused, old_checksums, seal, verify, verify_old};
use xylem_types::PageId;

const P: PageId = PageId::new(3, 7);

fn page(size: usize) -> Vec<u8> {
    let mut p: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
    p[4..8].copy_from_slice(&7u32.to_be_bytes());
    p[24..26].copy_from_slice(&17855u16.to_be_bytes());
    p[26..34].fill(0);
    p[34..38].copy_from_slice(&3u32.to_be_bytes());
    let lsn = p[20..24].to_vec();
    p[size - 4..].copy_from_slice(&lsn);
    p
}

/// As MySQL 5.5 and MariaDB 10.1 wrote it.
fn old(size: usize) -> Vec<u8> {
    let mut p = page(size);
    let first = old_checksums(&p).unwrap().0;
    p[..4].copy_from_slice(&first.to_be_bytes());
    let second = old_checksums(&p).unwrap().1;
    p[size - 8..size - 4].copy_from_slice(&second.to_be_bytes());
    p
}

fn plain() -> SpaceFlags {
    SpaceFlags::new(0).unwrap()
}

#[test]
fn old_checksums_are_accepted_and_sealed_anew() {
    let mut p = old(16384);
    assert!(matches!(
        verify(&p, P, plain()),
        Err(PageCheck::Checksum { .. })
    ));
    assert_eq!(verify_old(&p, P, plain()), Ok(()));
    // MySQL 4.0.14 wrote the LSN in place of the second checksum.
    let mut older = p.clone();
    let lsn = older[16..20].to_vec();
    older[16376..16380].copy_from_slice(&lsn);
    assert_eq!(verify_old(&older, P, plain()), Ok(()));
    // innodb_checksum_algorithm=none for one of the two.
    let mut none = p.clone();
    none[..4].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
    let second = old_checksums(&none).unwrap().1;
    none[16376..16380].copy_from_slice(&second.to_be_bytes());
    assert_eq!(verify_old(&none, P, plain()), Ok(()));

    seal(&mut p, plain());
    assert_eq!(verify(&p, P, plain()), Ok(()));
}

#[test]
fn a_flipped_byte_is_seen() {
    let p = old(16384);
    for at in [0, 5, 17, 24, 36, 38, 5000, 16375, 16376, 16381] {
        let mut bad = p.clone();
        bad[at] ^= 0x10;
        assert!(verify_old(&bad, P, plain()).is_err(), "byte {at}");
    }
    assert!(matches!(
        verify_old(&p, PageId::new(3, 8), plain()),
        Err(PageCheck::PageId(P))
    ));
    // Only the current checksum of a full_crc32 page counts.
    let flags = SpaceFlags::full_crc32_of(16384).unwrap();
    assert!(verify_old(&p, P, flags).is_err());
}

#[test]
fn compressed_pages_with_adler() {
    let flags = SpaceFlags::new(0x21 | 3 << 1).unwrap();
    let mut p = page(4096);
    let covered = [&p[4..16], &p[24..26], &p[34..]].concat();
    let (mut a, mut b) = (0u64, 0u64);
    for byte in covered {
        a += u64::from(byte);
        b += a;
    }
    let sum = (((b % 65521) << 16) | (a % 65521)) as u32;
    p[..4].copy_from_slice(&sum.to_be_bytes());
    assert!(verify(&p, P, flags).is_err());
    assert_eq!(verify_old(&p, P, flags), Ok(()));
    p[2000] ^= 1;
    assert!(verify_old(&p, P, flags).is_err());
}

#[test]
fn unused_pages_of_the_system_tablespace() {
    let mut p = vec![0; 16384];
    assert!(is_unused(&p));
    p[33] = 9;
    assert!(is_unused(&p));
    assert_eq!(verify_old(&p, PageId::new(0, 768), plain()), Ok(()));
    p[34] = 1;
    assert!(!is_unused(&p));
    assert!(verify_old(&p, PageId::new(0, 768), plain()).is_err());
}

#[test]
fn no_length_panics() {
    for len in 0..64 {
        let p = vec![1; len];
        assert!(verify_old(&p, P, plain()).is_err());
        let _ = (old_checksums(&p), is_unused(&p));
    }
}
