//! Records applied to pages.
#![allow(clippy::unwrap_used)]

use crate::common::{GOLDEN, ints, paged, record, replay};
use std::collections::BTreeMap;
use xylem_redo::{Applied, ApplyFault, SpaceFlags, apply, page_lsn, seal, verify};
use xylem_types::{Lsn, PageId};

const P: PageId = PageId::new(3, 7);
const END: Lsn = Lsn(0x0102_0304_0506_0708);

fn flags() -> SpaceFlags {
    SpaceFlags::full_crc32_of(4096).unwrap()
}

fn init() -> Vec<u8> {
    record(0x10, &paged(P, &[]))
}

fn run(page: &mut [u8], records: &[Vec<u8>]) -> Result<Applied, ApplyFault> {
    apply(page, P, flags(), END, &records.concat()).map_err(|e| e.fault)
}

#[test]
fn init_page() {
    let mut page = vec![0xee; 4096];
    assert_eq!(run(&mut page, &[init()]), Ok(Applied::Changed));
    assert_eq!(page[..8], [0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(page[8..16], [0xff; 8]);
    assert_eq!(page_lsn(&page), Some(END));
    assert_eq!(page[24..38], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    assert!(page[38..4088].iter().all(|&b| b == 0));
    assert_eq!(page[4088..4092], [5, 6, 7, 8], "the low half of the LSN");
}

#[test]
fn bytes() {
    let mut page = vec![0; 4096];
    let done = run(
        &mut page,
        &[
            init(),
            record(0xb0, &[&ints(&[76])[..], &[1, 2, 3, 4, 5]].concat()),
            record(0xc0, &[&ints(&[5, 7])[..], &[8, 9]].concat()),
            record(0xc0, &[&ints(&[3, 3])[..], &[6]].concat()),
            // 5 bytes from 100 to 101, which overlap.
            record(0x50, &paged(P, &ints(&[101, 5, 1]))),
        ],
    );
    assert_eq!(done, Ok(Applied::Changed));
    assert_eq!(
        page[100..123],
        [
            1, 1, 2, 3, 4, 5, 0, 0, 0, 0, 8, 9, 8, 9, 8, 9, 8, 0, 0, 0, 6, 6, 6
        ]
    );
}

#[test]
fn free_page() {
    let mut page = vec![0xee; 4096];
    let free = record(0, &paged(P, &[]));
    assert_eq!(run(&mut page, &[init(), free.clone()]), Ok(Applied::Freed));
    assert!(page.iter().all(|&b| b == 0));
    verify(&page, P, flags()).unwrap();
    // The next record must be INIT_PAGE.
    let write = record(0x30, &paged(P, &[50, 1]));
    assert!(matches!(
        run(&mut page, &[write]),
        Err(ApplyFault::NotThisPage(_))
    ));
    assert_eq!(run(&mut page, &[free, init()]), Ok(Applied::Changed));
}

#[test]
fn refusals() {
    let mut page = vec![0; 4096];
    assert_eq!(run(&mut page, &[]), Ok(Applied::Nothing));
    let other = record(0x10, &paged(PageId::new(3, 8), &[]));
    assert_eq!(
        run(&mut page, &[other]),
        Err(ApplyFault::OtherPage(PageId::new(3, 8)))
    );
    let beyond = record(0x30, &paged(P, &[&ints(&[4095])[..], &[1, 2]].concat()));
    assert_eq!(
        run(&mut page, &[init(), beyond]),
        Err(ApplyFault::Corrupted)
    );
    // Structural records on a page without that structure.
    for payload in [
        &[3, 1, 2, 3][..],
        &[4, 0, 8, 0, 0, 1, 2],
        &[6, 0, 8, 0, 0, 1, 2],
        &[8, 0],
        &[9, 0, 1, 2],
    ] {
        let r = record(0xa0, payload);
        assert_eq!(
            run(&mut page, &[init(), r]),
            Err(ApplyFault::Corrupted),
            "{payload:?}"
        );
    }
    let e = apply(&mut page[..1024], P, flags(), END, &init()).unwrap_err();
    assert_eq!(
        e.to_string(),
        "page 3:7, mini-transaction ending at LSN 72623859790382856: the page buffer has 1024 bytes, but the tablespace's pages have 4096"
    );
    // ROW_FORMAT=COMPRESSED pages have no structural records.
    let zip = SpaceFlags::new(0b10_0011).unwrap();
    let mut page = vec![0; 1024];
    let r = [init(), record(0xa0, &[1])].concat();
    assert_eq!(
        apply(&mut page, P, zip, END, &r).unwrap_err().fault,
        ApplyFault::Corrupted
    );
}

#[test]
fn index_records() {
    let mut page = vec![0; 4096];
    // An empty page; PAGE_LEVEL and so on are zero. Insert "abc" and, sharing
    // its first two bytes, "abd" after it; header of 1 byte each.
    let first = record(
        0xa0,
        &[&[6][..], &ints(&[0, 1 << 3, 0, 0]), &[3], b"abc"].concat(),
    );
    run(&mut page, &[init(), record(0xa0, &[1]), first]).unwrap();
    // Heap from 120: header byte, 5 fixed bytes, data.
    assert_eq!(page[120..129], [3, 0, 0, 16, 0xff, 0xf2, b'a', b'b', b'c']);
    assert_eq!(page[97..99], [0, 27], "infimum to record at 126");
    let second = record(
        0x20,
        &paged(P, &[&[6][..], &ints(&[27, 0, 1, 2]), b"d"].concat()),
    );
    run(&mut page, &[second]).unwrap();
    assert_eq!(page[129..138], [3, 0, 0, 24, 0xff, 0xe9, b'a', b'b', b'd']);
    assert_eq!(page[54..56], [0, 2], "PAGE_N_RECS");
    let delete = record(0x20, &paged(P, &[&[9][..], &ints(&[0, 1, 3])].concat()));
    run(&mut page, &[delete]).unwrap();
    assert_eq!(page[120..129], [3, 0, 0, 16, 0, 0, 0, 0, 0]);
    assert_eq!(
        (&page[44..46], &page[46..48]),
        (&[0, 126][..], &[0, 9][..]),
        "PAGE_FREE, PAGE_GARBAGE"
    );
    assert_eq!(page[54..56], [0, 1]);
}

#[test]
fn page_checksum_option() {
    let mut page = vec![0; 4096];
    run(&mut page, &[init()]).unwrap();
    let mut crc = crc32c::crc32c(&page[4..16]);
    crc = crc32c::crc32c_append(crc, &page[24..26]);
    crc = crc32c::crc32c_append(crc, &page[34..4088]);
    let option = |crc: u32| record(0x70, &paged(P, &[&[0][..], &crc.to_be_bytes()].concat()));
    assert_eq!(run(&mut page, &[option(crc)]), Ok(Applied::Changed));
    assert_eq!(
        run(&mut page, &[option(crc ^ 1)]),
        Err(ApplyFault::Checksum)
    );
    let unknown = record(0x70, &paged(P, &[9, 9]));
    assert_eq!(run(&mut page, &[unknown]), Ok(Applied::Nothing));
}

#[test]
fn the_recorded_log_gives_the_recorded_pages() {
    let (pages, flags) = replay(GOLDEN);
    assert_eq!(
        flags
            .iter()
            .map(|(s, f)| (*s, f.raw()))
            .collect::<BTreeMap<_, _>>()[&0],
        0x13,
        "full_crc32, 4 KiB"
    );
    let mut all = 0;
    let mut live = 0;
    for (id, page) in &pages {
        let mut page = page.clone();
        let f = flags[&id.space.0];
        seal(&mut page, f);
        verify(&page, *id, f).unwrap();
        live += u32::from(page.iter().any(|&b| b != 0));
        all = crc32c::crc32c_append(all, &page);
    }
    // Recorded from a run that InnoDB's recovery agreed with.
    assert_eq!(
        (pages.len(), live, format!("{all:08x}")),
        (326, 258, "37ab1bef".to_owned())
    );
}
