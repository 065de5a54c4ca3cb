use super::super::tablespace::{DESCRIPTORS, Tablespace, descriptor_bytes};
use super::{BadPage, scan};
use std::io;
use std::path::Path;
use xylem_redo::{SpaceFlags, old_checksums, seal};
use xylem_types::Lsn;

const END: Lsn = Lsn(10_000);
const SIZE: usize = 16384;

fn full() -> SpaceFlags {
    SpaceFlags::full_crc32_of(SIZE).unwrap()
}

fn page(space: u32, no: u32, flags: SpaceFlags) -> Vec<u8> {
    let mut p: Vec<u8> = (0..flags.physical_page_size())
        .map(|i| (i * 13 % 251) as u8)
        .collect();
    p[..4].fill(0);
    p[4..8].copy_from_slice(&no.to_be_bytes());
    p[16..24].copy_from_slice(&9_000u64.to_be_bytes());
    p[24..26].copy_from_slice(&17855u16.to_be_bytes());
    p[26..34].fill(0);
    p[34..38].copy_from_slice(&space.to_be_bytes());
    seal(&mut p, flags);
    p
}

/// Page 0: `free` are marked so, all others of the first extents are used.
fn first(space: u32, pages: u32, flags: SpaceFlags, free: &[u32]) -> Vec<u8> {
    let mut p = page(space, 0, flags);
    let end = p.len() - 8;
    p[38..end].fill(0);
    p[38..42].copy_from_slice(&space.to_be_bytes());
    p[46..50].copy_from_slice(&pages.to_be_bytes());
    p[54..58].copy_from_slice(&flags.raw().to_be_bytes());
    for extent in 0..2 {
        let at = DESCRIPTORS + extent * descriptor_bytes(flags);
        p[at + 23] = 1;
    }
    for no in free {
        let at = DESCRIPTORS + *no as usize / 64 * descriptor_bytes(flags) + 24;
        let bit = *no as usize % 64 * 2;
        p[at + bit / 8] |= 1 << (bit % 8);
    }
    seal(&mut p, flags);
    p
}

fn write(path: &Path, pages: &[Vec<u8>]) {
    std::fs::write(path, pages.concat()).unwrap();
}

type Taken = Vec<(u32, Vec<u8>)>;

fn all(path: &Path) -> (Taken, super::Found) {
    let space = Tablespace::open("d/t.ibd", path).unwrap();
    let mut taken = Vec::new();
    let mut bytes = 0;
    let found = scan::<io::Error>(
        &space,
        END,
        |no, page| {
            taken.push((no, page.to_vec()));
            Ok(())
        },
        |n| {
            bytes += n;
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(bytes, space.bytes());
    (taken, found)
}

#[test]
fn pages_come_in_order_and_zeros_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.ibd");
    let zero = vec![0; SIZE];
    let pages = [
        first(9, 5, full(), &[]),
        page(9, 1, full()),
        zero.clone(),
        page(9, 3, full()),
        zero.clone(),
        // Behind the end that the header says.
        page(9, 5, full()),
    ];
    write(&path, &pages);
    let (taken, found) = all(&path);
    let numbers: Vec<u32> = taken.iter().map(|(no, _)| *no).collect();
    assert_eq!(numbers, [0, 1, 3]);
    assert_eq!(taken[1].1, pages[1]);
    assert_eq!(found.pages, 3);
    assert!(found.bad.is_empty());
}

#[test]
fn all_bad_pages_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.ibd");
    let mut flipped = page(9, 2, full());
    flipped[5000] ^= 1;
    let mut future = page(9, 5, full());
    future[16..24].copy_from_slice(&(END.0 + 1).to_be_bytes());
    seal(&mut future, full());
    let mut free = page(9, 7, full());
    free[300] ^= 4;
    let pages = [
        first(9, 8, full(), &[7]),
        page(9, 1, full()),
        flipped,
        page(8, 3, full()),
        page(9, 3, full()),
        future,
        page(9, 6, full()),
        free,
    ];
    write(&path, &pages);
    let (taken, found) = all(&path);
    // Nothing is taken behind the first.
    let numbers: Vec<u32> = taken.iter().map(|(no, _)| *no).collect();
    assert_eq!(numbers, [0, 1]);
    let bad: Vec<(u32, &str)> = found
        .bad
        .iter()
        .map(|BadPage { page, problem }| (*page, problem.as_str()))
        .collect();
    assert_eq!(bad.len(), 4, "{bad:?}");
    for ((page, problem), (want, says)) in bad.iter().zip([
        (2, "checksum"),
        (3, "carries the id of page 8:3"),
        (4, "carries the id of page 9:3"),
        (5, "after the end of the redo log"),
    ]) {
        assert_eq!(*page, want);
        assert!(problem.contains(says), "{problem}");
    }
    assert_eq!(found.bad_and_free, [7]);
}

#[test]
fn old_checksums_become_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.ibd");
    let flags = SpaceFlags::new(0).unwrap();
    let mut old = page(9, 1, flags);
    let want = old.clone();
    let sum = old_checksums(&old).unwrap().0;
    old[..4].copy_from_slice(&sum.to_be_bytes());
    let sum = old_checksums(&old).unwrap().1;
    old[SIZE - 8..SIZE - 4].copy_from_slice(&sum.to_be_bytes());
    assert_ne!(old, want);
    write(&path, &[first(9, 2, flags, &[]), old]);
    let (taken, found) = all(&path);
    assert!(found.bad.is_empty(), "{found:?}");
    assert_eq!(taken[1].1, want);
}

#[test]
fn compressed_pages_become_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.ibd");
    let flags = SpaceFlags::new(full().raw() | 1 << 5).unwrap();
    let whole = page(9, 1, flags);
    let data = miniz_oxide::deflate::compress_to_vec_zlib(&whole, 6);
    let mut small = vec![0; SIZE];
    small[..26].copy_from_slice(&whole[..26]);
    small[26..26 + data.len()].copy_from_slice(&data);
    let size = (26 + data.len() + 4 + 255) & !255;
    small[24..26].copy_from_slice(&(0x8000 | (size >> 8) as u16).to_be_bytes());
    let sum = crc32c::crc32c(&small[..size - 4]);
    small[size - 4..size].copy_from_slice(&sum.to_be_bytes());
    write(&path, &[first(9, 2, flags, &[]), small]);
    let (taken, found) = all(&path);
    assert!(found.bad.is_empty(), "{found:?}");
    assert_eq!(taken[1].1, whole);
}

#[test]
fn what_is_no_tablespace_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.ibd");
    let open = |pages: &[Vec<u8>]| {
        write(&path, pages);
        Tablespace::open("d/t.ibd", &path).unwrap_err().to_string()
    };
    assert!(open(&[]).contains("empty"));
    assert!(open(&[vec![0; SIZE]]).contains("empty"));
    assert!(open(&[vec![7; SIZE]]).contains("not that of a tablespace"));
    let says = open(&[first(9, 2, full(), &[])]);
    assert!(says.contains("2 pages, the file has 1"), "{says}");
    let mut flags = first(9, 1, full(), &[]);
    flags[54..58].copy_from_slice(&[0xff; 4]);
    assert!(open(&[flags]).contains("flags are 0xffffffff"));
    let mut encrypted = first(9, 1, full(), &[]);
    let at = 38 + DESCRIPTORS + descriptor_bytes(full()) * SIZE / 64;
    encrypted[at..at + 6].copy_from_slice(b"s\x0e\x0cREt");
    encrypted[at + 6..at + 8].copy_from_slice(&[1, 16]);
    encrypted[at + 24..at + 28].copy_from_slice(&3u32.to_be_bytes());
    write(&path, &[encrypted]);
    assert_eq!(Tablespace::open("d/t.ibd", &path).unwrap().key_version, 3);
}
