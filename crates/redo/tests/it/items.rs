//! Splitting by page.
#![allow(clippy::unwrap_used)]

use crate::common::{GOLDEN, each_mtr, mtr, paged, parse, record};
use xylem_redo::{FileEvent, MtrItem, Records, RedoError, SpaceFlags};
use xylem_types::{Lsn, PageId, SpaceId};

const A: PageId = PageId::new(3, 7);
const B: PageId = PageId::new(4, 0);

fn items(m: &[u8]) -> Vec<MtrItem<'_>> {
    parse(m).items().map(Result::unwrap).collect()
}

#[test]
fn runs() {
    let init = record(0x10, &paged(A, &[]));
    let same = vec![0xb2, 30, 1];
    let write = record(0x30, &paged(A, &[50, 1]));
    let other = record(0x30, &paged(B, &[50, 1]));
    let free = record(0, &paged(A, &[]));
    let m = mtr(&[
        write.clone(),
        same.clone(),
        init.clone(),
        same.clone(),
        write.clone(),
        other.clone(),
        same.clone(),
        write.clone(),
        free.clone(),
    ]);
    let page = |page, records: &[&Vec<u8>], starts_fresh| {
        (
            page,
            records
                .iter()
                .flat_map(|r| r.iter().copied())
                .collect::<Vec<u8>>(),
            starts_fresh,
        )
    };
    let got: Vec<_> = items(&m)
        .into_iter()
        .map(|i| match i {
            MtrItem::Page {
                page,
                records,
                starts_fresh,
                ..
            } => (page, records.to_vec(), starts_fresh),
            i => panic!("{i:?}"),
        })
        .collect();
    assert_eq!(
        got,
        [
            page(A, &[&write, &same], false),
            page(A, &[&init, &same, &write], true),
            page(B, &[&other, &same], false),
            page(A, &[&write], false),
            page(A, &[&free], true),
        ]
    );
}

#[test]
fn tablespace_headers() {
    let space = SpaceId(4);
    // Size and flags in one write, as FORCED ones of their own, and partly.
    let whole = record(
        0x30,
        &paged(
            B,
            &[&[46, 0, 0, 1, 0][..], &[0; 4], &[0, 0, 0, 0x15]].concat(),
        ),
    );
    let size = record(0x30, &paged(B, &[46, 0, 0, 2, 0]));
    let part = record(0xb0, &[0, 9]);
    let m = mtr(&[whole.clone(), size.clone(), part]);
    let got = items(&m);
    assert_eq!(
        got[0],
        MtrItem::SpaceFlags {
            space,
            flags: SpaceFlags::new(0x15).unwrap()
        }
    );
    assert_eq!(
        got[1],
        MtrItem::SpaceSize { space, pages: 512 },
        "the last one counts"
    );
    assert!(matches!(got[2], MtrItem::Page { page: B, .. }));
    assert_eq!(got.len(), 3);
    // On other pages the same bytes have no meaning.
    let elsewhere = mtr(&[record(0x30, &paged(A, &[46, 0, 0, 2, 0]))]);
    assert_eq!(items(&elsewhere).len(), 1);
    // Flags of 0 are not written.
    let zero = mtr(&[record(0x10, &paged(B, &[]))]);
    assert_eq!(
        items(&zero)[0],
        MtrItem::SpaceFlags {
            space,
            flags: SpaceFlags::new(0).unwrap()
        }
    );
    // Flags without a page size.
    let bad = mtr(&[record(0x30, &paged(B, &[54, 0, 0, 0, 0x11]))]);
    let mut it = parse(&bad).items();
    assert!(matches!(
        it.next(),
        Some(Err(RedoError::Record {
            lsn: Lsn(20000),
            ..
        }))
    ));
    assert!(it.next().is_none());
}

#[test]
fn trims_and_files() {
    let m = mtr(&[
        record(0x80, &[&[5, 0][..], b"./x.ibd"].concat()),
        vec![0xf2, 0, 0],
        record(0x20, &paged(PageId::new(9, 640), &[10])),
        record(0x10, &paged(A, &[])),
        record(0x20, &paged(PageId::new(9, 641), &[10])),
    ]);
    let got = items(&m);
    assert_eq!(
        got[0],
        MtrItem::File(FileEvent::Create {
            space: SpaceId(5),
            name: b"./x.ibd"
        })
    );
    assert_eq!(
        got[1],
        MtrItem::Trim {
            space: SpaceId(9),
            pages: 640
        }
    );
    assert!(matches!(
        got[2],
        MtrItem::Page {
            page: A,
            starts_fresh: true,
            ..
        }
    ));
    assert_eq!(
        got[3],
        MtrItem::Trim {
            space: SpaceId(9),
            pages: 641
        }
    );
    assert_eq!(got.len(), 4);
}

#[test]
fn nothing_is_lost_or_invented() {
    each_mtr(GOLDEN, Lsn::FIRST, |m| {
        let mut records = Vec::new();
        for item in m.items() {
            if let MtrItem::Page {
                page,
                at,
                records: run,
                starts_fresh,
            } = item.unwrap()
            {
                assert_eq!(&m.record_bytes()[at as usize..][..run.len()], run);
                let mut fresh = false;
                for (i, r) in Records::of_run(run, m.end_lsn()).enumerate() {
                    let r = r.unwrap();
                    assert_eq!(r.page, page);
                    let makes = matches!(r.op, xylem_redo::Op::InitPage | xylem_redo::Op::FreePage);
                    assert!(!makes || i == 0);
                    fresh |= makes;
                    records.push((r.kind, format!("{:?}", r.op)));
                }
                assert_eq!(fresh, starts_fresh);
            }
        }
        let want: Vec<_> = m
            .records()
            .map(Result::unwrap)
            .filter(|r| !matches!(r.op, xylem_redo::Op::File(_)))
            .map(|r| (r.kind, format!("{:?}", r.op)))
            .collect();
        assert_eq!(records, want);
    });
}

/// The runs of a mini-transaction, as its items are.
fn runs_of_items(m: &xylem_redo::Mtr<'_>) -> Option<Vec<(PageId, u32, u32)>> {
    let run = |item: Result<MtrItem<'_>, RedoError>| match item.ok()? {
        MtrItem::Page {
            page,
            at,
            records,
            starts_fresh: false,
        } if page.page.0 > 2 => Some((page, at, records.len() as u32)),
        _ => None,
    };
    m.items().map(run).collect()
}

#[test]
fn ordinary_runs_are_those_of_the_items() {
    let (mut ordinary, mut others) = (0, 0);
    each_mtr(GOLDEN, Lsn::FIRST, |m| {
        let mut runs = Vec::new();
        let found = m.ordinary_runs(|page, at, len| runs.push((page, at, len)));
        match found {
            Some(()) => {
                ordinary += 1;
                assert_eq!(Some(runs), runs_of_items(&m));
            }
            None => {
                others += 1;
                // There is an item of another kind, or a record that has no effect.
                let has_option = m
                    .records()
                    .any(|r| r.unwrap().op == xylem_redo::Op::Ignored);
                assert!(runs_of_items(&m).is_none() || has_option);
            }
        }
    });
    assert!(ordinary > others && others > 0, "{ordinary} and {others}");
}
