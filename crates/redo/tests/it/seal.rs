//! Checksums of every kind of tablespace.
#![allow(clippy::unwrap_used)]

use xylem_redo::{PageCheck, SpaceFlags, seal, verify};
use xylem_types::PageId;

const P: PageId = PageId::new(3, 7);

/// full_crc32 and crc32 of every page size, every compressed page size.
fn kinds() -> Vec<SpaceFlags> {
    let mut all = Vec::new();
    for ssize in 3..=7 {
        all.push(SpaceFlags::new(0x10 | ssize).unwrap());
        all.push(SpaceFlags::new(if ssize == 5 { 0 } else { ssize << 6 }).unwrap());
    }
    for zip in 1..=5 {
        all.push(SpaceFlags::new(0x21 | zip << 1).unwrap());
    }
    all
}

fn page(flags: SpaceFlags) -> Vec<u8> {
    let mut p: Vec<u8> = (0..flags.physical_page_size())
        .map(|i| (i * 7 % 251) as u8)
        .collect();
    p[..4].fill(0);
    p[4..8].copy_from_slice(&7u32.to_be_bytes());
    p[24..26].copy_from_slice(&17855u16.to_be_bytes());
    p[26..34].fill(0);
    p[34..38].copy_from_slice(&3u32.to_be_bytes());
    p
}

#[test]
fn sizes() {
    let got: Vec<_> = kinds()
        .iter()
        .map(|f| (f.physical_page_size(), f.zip_size()))
        .collect();
    assert_eq!(
        got[..4],
        [(4096, None), (4096, None), (8192, None), (8192, None)]
    );
    assert_eq!(got[8..10], [(65536, None), (65536, None)]);
    assert_eq!(got[10], (1024, Some(1024)));
    assert_eq!(got[14], (16384, Some(16384)));
    // No page size; a compressed page larger than the page; too large a one.
    for bad in [
        0x10,
        0x12,
        0x18,
        1 << 6,
        5 << 6,
        0x21 | 4 << 1 | 3 << 6,
        0x21 | 6 << 1,
    ] {
        assert!(SpaceFlags::new(bad).is_err(), "{bad:#x}");
    }
}

#[test]
fn sealed_pages_are_valid_and_others_are_not() {
    for flags in kinds() {
        let mut p = page(flags);
        assert!(verify(&p, P, flags).is_err());
        seal(&mut p, flags);
        verify(&p, P, flags).unwrap_or_else(|e| panic!("{flags}: {e}"));
        let again = p.clone();
        seal(&mut p, flags);
        assert_eq!(p, again);
        assert_eq!(
            verify(&p, PageId::new(3, 8), flags),
            Err(PageCheck::PageId(P))
        );
        for at in [5, 24, 40, p.len() / 2] {
            p[at] ^= 1;
            assert!(verify(&p, P, flags).is_err(), "{flags}: byte {at}");
            p[at] ^= 1;
        }
        let short = p.len() - 1;
        assert!(matches!(
            verify(&p[..short], P, flags),
            Err(PageCheck::PageSize { .. })
        ));
    }
}

#[test]
fn zeros_stay_zeros() {
    for flags in kinds() {
        let mut p = vec![0; flags.physical_page_size()];
        verify(&p, P, flags).unwrap();
        seal(&mut p, flags);
        assert!(p.iter().all(|&b| b == 0));
    }
}

#[test]
fn golden() {
    let sum = |raw: u32| {
        let flags = SpaceFlags::new(raw).unwrap();
        let mut p = page(flags);
        seal(&mut p, flags);
        let n = p.len();
        (format!("{:02x?}", &p[..4]), format!("{:02x?}", &p[n - 8..]))
    };
    let want = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    // The trailer is the low half of the LSN and the checksum.
    assert_eq!(
        sum(0x15),
        want("[00, 00, 00, 00]", "[8c, 93, 9a, a1, 77, 58, 2b, 1b]")
    );
    // The checksum twice, and the low half of the LSN after it.
    assert_eq!(
        sum(0),
        want("[d1, 24, 0d, b8]", "[d1, 24, 0d, b8, 8c, 93, 9a, a1]")
    );
    // No trailer.
    assert_eq!(
        sum(0x25),
        want("[0d, 27, 40, 8c]", "[e0, e7, ee, f5, 01, 08, 0f, 16]")
    );
}

#[test]
fn what_other_code_wrote() {
    let flags = SpaceFlags::new(0).unwrap();
    let mut p = page(flags);
    seal(&mut p, flags);
    // innodb_checksum_algorithm=none
    let n = p.len();
    p[..4].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
    p[n - 8..n - 4].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
    verify(&p, P, flags).unwrap();
    p[n - 1] ^= 1;
    assert_eq!(verify(&p, P, flags), Err(PageCheck::Lsn));
    let full = SpaceFlags::new(0x15).unwrap();
    let mut p = page(full);
    p[24] = 0x80;
    assert_eq!(verify(&p, P, full), Err(PageCheck::PageCompressed));
}
