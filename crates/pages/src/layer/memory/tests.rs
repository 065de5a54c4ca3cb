//! Bases of pages that change while they are built.

use super::*;
use crate::layer::batch::{MtrEnd, Mtrs, len_kind};

const PAGE: PageId = PageId::new(7, 1);

fn layer(start: Lsn) -> MemLayer {
    MemLayer::new(start, Arc::default(), u64::MAX, Clock::system())
}

/// Mtrs of 10 bytes from `start` on, each a change of the page.
fn mtrs(start: Lsn, count: u32) -> Mtrs {
    let end = |n: u32| MtrEnd {
        byte: (n + 1) * 10,
        run: n + 1,
        has_events: false,
    };
    let run = |n: u32| Run {
        page: page_to_u64(PAGE),
        start: n * 10,
        len_kind: len_kind(4, Kind::Delta),
    };
    Mtrs {
        start,
        bytes: vec![0; count as usize * 10],
        ends: (0..count).map(end).collect(),
        runs: (0..count).map(run).collect(),
    }
}

fn insert(layer: &MemLayer, mtrs: &Mtrs) {
    let all = Stretch::new(mtrs, 0, mtrs.ends.len());
    assert!(layer.insert(all, &Batch::default(), 64 << 10));
}

/// The versions that a read as of `at` gathers, newest first: the LSN of each, and
/// whether it is an image.
fn gathered(layer: &MemLayer, at: Lsn) -> Vec<(Lsn, bool)> {
    let mut chain = Chain::default();
    layer.collect(&Key::Page(PAGE), &Want::at(at), true, &mut chain);
    let versions = chain.backward();
    versions.map(|(l, k, _)| (l, k == Kind::Image)).collect()
}

/// A reader builds the page as of an LSN, and is slow: the layer it read of is frozen,
/// and the next one gets more versions than a slice has, some of them up to that LSN.
#[test]
fn a_base_stands_for_no_version_of_an_earlier_layer() {
    for later in [1, SLICE.0 as u32 - 1, SLICE.0 as u32, 10 * SLICE.0 as u32] {
        let frozen = layer(Lsn(1000));
        insert(&frozen, &mtrs(Lsn(1000), 3));
        let open = layer(Lsn(1030));
        insert(&open, &mtrs(Lsn(1030), 5));
        let at = Lsn(1080);
        insert(&open, &mtrs(at, later));

        let page: Arc<[u8]> = vec![0; 64].into();
        assert!(
            open.set_base(PAGE, at, Lsn::ZERO, &page, 1 << 20),
            "{later}"
        );
        assert_eq!(gathered(&open, at), [(at, true)], "{later} later versions");
        assert_eq!(gathered(&open, Lsn(1079)).len(), 4);
        let newest = gathered(&open, Lsn::MAX);
        assert_eq!(newest.len(), later as usize + 1);
        assert_eq!(newest.last(), Some(&(at, true)));
    }
}

#[test]
fn a_layer_without_a_version_up_to_the_lsn_takes_no_base() {
    let open = layer(Lsn(1000));
    let page: Arc<[u8]> = vec![0; 64].into();
    assert!(!open.set_base(PAGE, Lsn(1000), Lsn::ZERO, &page, 1 << 20));
    insert(&open, &mtrs(Lsn(1000), 2 * SLICE.0 as u32));
    assert!(!open.set_base(PAGE, Lsn(1009), Lsn::ZERO, &page, 1 << 20));
    // Nor one whose versions are of before the tablespace was truncated.
    assert!(!open.set_base(PAGE, Lsn(1010), Lsn(1011), &page, 1 << 20));
    assert!(open.set_base(PAGE, Lsn(1010), Lsn(1010), &page, 1 << 20));
}
