//! Layers whose blocks are good and which are wrong all the same.

use super::*;
use crate::layer::format::Summary;
use crate::layer::write::LayerWriter;
use crate::place::LocalFiles;

const BRANCH: BranchId = BranchId(77);

struct Made {
    dir: tempfile::TempDir,
    meta: LayerMeta,
}

/// A page of LSN 100.
fn image(n: u32) -> [u8; 100] {
    let mut out = [n as u8; 100];
    out[16..24].copy_from_slice(&100u64.to_be_bytes());
    out
}

fn page(n: u32) -> Vec<u8> {
    crate::layer::key::page_key(xylem_types::PageId::new(5, n)).to_vec()
}

/// A layer with so many pages, and what `more` adds.
fn made(pages: u32, kind: LayerKind, more: impl Fn(&mut LayerWriter)) -> Made {
    let dir = tempfile::tempdir().unwrap();
    let files = LocalFiles::open(dir.path(), None).unwrap();
    let name = "layer".to_owned();
    let end = Lsn(1000);
    let mut out = LayerWriter::create(&files, BRANCH, 3, name, kind, end).unwrap();
    for n in 0..pages {
        out.begin_key(&page(n), Summary::default()).unwrap();
        for lsn in [100, 200 + u64::from(n % 50)] {
            out.version(Lsn(lsn), Kind::Image, &image(n), None).unwrap();
        }
    }
    more(&mut out);
    let meta = out.finish(3).unwrap();
    Made { dir, meta }
}

fn check(made: &Made, expected: Expected, room: Room) -> (Vec<String>, u64) {
    let files = LocalFiles::open(made.dir.path(), None).unwrap();
    let mut check = LayerCheck::open(&files, &made.meta.name, expected, room).unwrap();
    let (mut faults, mut read) = (Vec::new(), 0);
    while let Some(bytes) = check.step(&mut Nobody, &mut faults) {
        read += bytes;
    }
    (faults.into_iter().map(|f| f.1).collect(), read)
}

fn faults(made: &Made, change: impl Fn(&mut Expected)) -> Vec<String> {
    let mut expected = Expected::of(BRANCH, &made.meta, false);
    change(&mut expected);
    check(made, expected, Room::of(0)).0
}

fn one(found: &[String], word: &str) {
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains(word), "{found:?}");
}

#[test]
fn a_good_layer_is_read_once() {
    let made = made(20_000, LayerKind::Delta, |_| {});
    let expected = Expected::of(BRANCH, &made.meta, false);
    let (found, read) = check(&made, expected, Room::of(0));
    assert_eq!((found.as_slice(), read), (&[][..], made.meta.bytes));
}

#[test]
fn a_filter_larger_than_memory_is_checked_in_parts() {
    let made = made(50_000, LayerKind::Delta, |_| {});
    let room = |filter_pages| Room {
        filter_pages,
        window: 4096,
    };
    let expected = || Expected::of(BRANCH, &made.meta, false);
    let (found, whole) = check(&made, expected(), room(1000));
    assert_eq!((found, whole), (vec![], made.meta.bytes));
    // 10 pages of filter: 4 passes.
    let (found, parts) = check(&made, expected(), room(3));
    assert_eq!(found, Vec::<String>::new());
    assert!(parts > 3 * whole && parts < 4 * whole, "{parts} {whole}");
}

#[test]
fn what_the_manifest_says_must_be_so() {
    let made = made(300, LayerKind::Delta, |_| {});
    assert_eq!(faults(&made, |_| {}), Vec::<String>::new());
    one(&faults(&made, |e| e.number = 4), "header");
    one(&faults(&made, |e| e.branch = BranchId(1)), "header");
    one(&faults(&made, |e| e.kind = LayerKind::Image), "header");
    one(&faults(&made, |e| e.keys = 299), "footer");
    one(&faults(&made, |e| e.start = Lsn(99)), "footer");
    one(&faults(&made, |e| e.end = Lsn(1001)), "footer");
    one(&faults(&made, |e| e.bytes -= 1), "not the end");
    one(&faults(&made, |e| e.tags = Some(6)), "other kinds");
    one(&faults(&made, |e| e.last_key = Some(page(298))), "last key");
    one(&faults(&made, |e| e.first_key = Some(page(7))), "first key");
    // A merge may have passed some keys, but not to one that is not there.
    let narrowed = |n| {
        faults(&made, |e| {
            (e.first_key, e.narrowed) = (Some(page(n)), true);
        })
    };
    assert_eq!(narrowed(7), Vec::<String>::new());
    one(&narrowed(300), "first key");
}

#[test]
fn what_is_out_of_order_is_found() {
    let put = |out: &mut LayerWriter, key: &[u8], lsns: &[u64], kind: Kind| {
        out.begin_key(key, Summary::default()).unwrap();
        for lsn in lsns {
            out.version(Lsn(*lsn), kind, b"x", None).unwrap();
        }
    };
    let made_with = |kind, key: Vec<u8>, lsns: &'static [u64], version| {
        made(3, kind, move |out| put(out, &key, lsns, version))
    };
    let found = |made: &Made| faults(made, |_| {});
    let delta = LayerKind::Delta;
    one(
        &found(&made_with(delta, page(1), &[300], Kind::Delta)),
        "comes after",
    );
    one(
        &found(&made_with(delta, page(2), &[300], Kind::Delta)),
        "comes after",
    );
    one(
        &found(&made_with(delta, vec![9, 9], &[300], Kind::Delta)),
        "no key",
    );
    one(
        &found(&made_with(delta, vec![1, 9], &[300], Kind::Delta)),
        "no key",
    );
    let image = LayerKind::Image;
    one(
        &found(&made_with(image, page(4), &[300], Kind::Delta)),
        "no image",
    );
    assert_eq!(
        found(&made_with(delta, page(4), &[300, 300, 301], Kind::Fresh)),
        Vec::<String>::new()
    );
}

#[test]
fn an_image_that_is_newer_than_its_lsn_is_found() {
    let with = |lsn| {
        let made = made(3, LayerKind::Image, |out| {
            out.begin_key(&page(9), Summary::default()).unwrap();
            out.version(Lsn(lsn), Kind::Image, &image(9), None).unwrap();
        });
        faults(&made, |_| {})
    };
    assert_eq!(with(100), Vec::<String>::new());
    one(&with(99), "its image of LSN 99 is as of LSN 100");
}

#[test]
fn a_key_may_span_blocks() {
    let big = vec![7u8; 10_000];
    let made = made(3, LayerKind::Delta, |out| {
        out.begin_key(&page(9), Summary::default()).unwrap();
        for lsn in 300..330 {
            out.version(Lsn(lsn), Kind::Delta, &big, None).unwrap();
        }
        out.begin_key(&page(10), Summary::default()).unwrap();
        out.version(Lsn(300), Kind::Delta, b"x", None).unwrap();
    });
    assert_eq!(faults(&made, |_| {}), Vec::<String>::new());
}

#[test]
fn a_filter_of_other_keys_is_found() {
    // Their filters are of one size, so one can stand in the other's place.
    let (a, b) = (
        made(200, LayerKind::Delta, |_| {}),
        made(0, LayerKind::Delta, |out| {
            for n in 200..400 {
                out.begin_key(&page(n), Summary::default()).unwrap();
                out.version(Lsn(100), Kind::Image, b"x", None).unwrap();
            }
        }),
    );
    let path = |m: &Made| m.dir.path().join(&m.meta.name);
    let (mut bytes, other) = (
        std::fs::read(path(&a)).unwrap(),
        std::fs::read(path(&b)).unwrap(),
    );
    let filter = |bytes: &[u8], meta: &LayerMeta| {
        let footer = Footer::decode(&bytes[bytes.len() - FOOTER..]).unwrap();
        let root = &bytes[footer.root.offset as usize..][..footer.root.len as usize];
        let seed = block::seed(BRANCH.0, meta.number);
        let root = block::decode(root, seed, footer.root.offset, BlockKind::Root).unwrap();
        Root::decode(&root).unwrap().filter[0]
    };
    let (to, from) = (filter(&bytes, &a.meta), filter(&other, &b.meta));
    let payload = &other[from.offset as usize + 16..][..filter::FILTER_PAGE];
    let mut block = Vec::new();
    let seed = block::seed(BRANCH.0, 3);
    let codec = block::Codec::Fast;
    block::encode(
        &mut block,
        seed,
        to.offset,
        BlockKind::Filter,
        codec,
        payload,
    );
    bytes[to.offset as usize..][..block.len()].copy_from_slice(&block);
    std::fs::write(path(&a), &bytes).unwrap();
    one(&faults(&a, |_| {}), "filter does not let");
}
