//! Every kind of record: decoded, and refused when malformed.
#![allow(clippy::unwrap_used)]

use crate::common::{ints, mtr, paged, parse, record};
use xylem_redo::{FileEvent, Op, RecordFault, RecordKind, RedoError};
use xylem_types::{Lsn, PageId, SpaceId};

const P: PageId = PageId::new(3, 7);

fn ops(records: &[Vec<u8>]) -> Vec<(PageId, String)> {
    let m = mtr(records);
    parse(&m)
        .records()
        .map(|r| {
            let r = r.unwrap();
            (r.page, format!("{:?}", r.op))
        })
        .collect()
}

/// The fault of the last record; those before it are fine.
fn fault(records: &[Vec<u8>]) -> (RecordKind, Option<PageId>, RecordFault) {
    let m = mtr(records);
    let mut all: Vec<_> = parse(&m).records().collect();
    assert_eq!(all.len(), records.len(), "decoding goes on after an error");
    let last = all.pop().unwrap();
    assert!(all.iter().all(Result::is_ok));
    match last.unwrap_err() {
        RedoError::Record {
            lsn,
            kind,
            page,
            fault,
        } => {
            let before: usize = records[..records.len() - 1].iter().map(Vec::len).sum();
            assert_eq!(
                lsn,
                Lsn(20000 + before as u64),
                "the error names the record's LSN"
            );
            (kind, page, fault)
        }
        e => panic!("{e}"),
    }
}

fn init() -> Vec<u8> {
    record(0x10, &paged(P, &[]))
}

#[test]
fn bytes_of_a_page() {
    let got = ops(&[
        // The example of mtr0types.h: after a write of 2 bytes at 0x60, one
        // 0x7f further on.
        vec![0x36, 0x40, 0x57, 0x60, 0x12, 0x34, 0x56],
        vec![0xb5, 0x7f, 0x23, 0x34, 0x56, 0x78],
        record(0x40, &paged(P, &[ints(&[200, 50]), vec![0xaa]].concat())),
        record(0xc0, &[ints(&[1, 9]), vec![1, 2, 3]].concat()),
        record(0xd0, &ints(&[0, 4, 6])),
        record(0xd0, &ints(&[0, 4, 7])),
    ]);
    let want = [
        (
            PageId::new(0x40, 0x57),
            "Write { offset: 96, data: [18, 52, 86] }",
        ),
        (
            PageId::new(0x40, 0x57),
            "Write { offset: 226, data: [35, 52, 86, 120] }",
        ),
        (P, "Memset { offset: 200, len: 50, pattern: [170] }"),
        (P, "Memset { offset: 251, len: 9, pattern: [1, 2, 3] }"),
        (P, "Memmove { offset: 260, len: 4, source: 264 }"),
        (P, "Memmove { offset: 264, len: 4, source: 260 }"),
    ];
    assert_eq!(got, want.map(|(p, s)| (p, s.to_owned())));
}

#[test]
fn offsets_after_other_records() {
    let w = |at| record(0xb0, &[ints(&[at]), vec![9]].concat());
    let got = ops(&[init(), w(0), w(3), record(0xa0, &[2]), w(0)]);
    let offsets: Vec<&str> = got.iter().map(|(_, s)| s.as_str()).collect();
    // From FIL_PAGE_TYPE after INIT_PAGE and EXTENDED, else from the last end.
    assert_eq!(
        offsets,
        [
            "InitPage",
            "Write { offset: 24, data: [9] }",
            "Write { offset: 28, data: [9] }",
            "UndoInit",
            "Write { offset: 24, data: [9] }"
        ]
    );
}

#[test]
fn extended() {
    let e = |payload: &[u8]| ops(&[record(0x20, &paged(P, payload))]).remove(0).1;
    assert_eq!(e(&[0]), "InitIndex { compact: false }");
    assert_eq!(e(&[1]), "InitIndex { compact: true }");
    assert_eq!(e(&[2]), "UndoInit");
    assert_eq!(e(&[3, 1, 2, 3]), "UndoAppend { data: [1, 2, 3] }");
    assert_eq!(
        e(&[4, 1, 2, 3, 4, 5, 6]),
        "InsertRedundant { reuse: false, prev: 1, header: 2, header_common: 3, data_common: 4, data: [5, 6] }"
    );
    assert_eq!(
        e(&[5, 1, 2, 3, 4]),
        "InsertRedundant { reuse: true, prev: 1, header: 2, header_common: 3, data_common: 4, data: [] }"
    );
    assert_eq!(
        e(&[6, 1, 2, 3, 4, 5]),
        "InsertDynamic { reuse: false, prev: 1, shift: 0, header: 2, header_common: 3, data_common: 4, data: [5] }"
    );
    assert_eq!(
        e(&[7, 1, 9, 2, 3, 4, 5]),
        "InsertDynamic { reuse: true, prev: 1, shift: 9, header: 2, header_common: 3, data_common: 4, data: [5] }"
    );
    assert_eq!(e(&[8, 5]), "DeleteRedundant { prev: 5 }");
    assert_eq!(
        e(&[9, 5, 6, 7]),
        "DeleteDynamic { prev: 5, header_size: 6, data_size: 7 }"
    );
    assert_eq!(e(&[10]), "TrimPages");
}

#[test]
fn options_are_optional() {
    let o = |payload: &[u8]| ops(&[record(0x70, &paged(P, payload))]).remove(0).1;
    assert_eq!(o(&[0, 1, 2, 3, 4]), "PageChecksum { crc: 16909060 }");
    assert_eq!(o(&[0, 1, 2, 3]), "Ignored");
    assert_eq!(o(&[99, 1, 2, 3, 4]), "Ignored");
    assert_eq!(o(&[]), "Ignored");
}

#[test]
fn files() {
    let named = |first: u8, name: &[u8]| record(first, &[ints(&[5, 0]), name.to_vec()].concat());
    let m = mtr(&[
        named(0x80, b"./a/b.ibd"),
        named(0x90, b"./a/c.ibd"),
        named(0xa0, b"./a/d.ibd\0./a/e.ibd"),
        named(0xb0, b"./a/f.ibd"),
        vec![0xf1, 0],
        vec![0xf2, 0, 0],
        init(),
    ]);
    let got: Vec<Op<'_>> = parse(&m).records().map(|r| r.unwrap().op).collect();
    let space = SpaceId(5);
    assert_eq!(
        got,
        [
            Op::File(FileEvent::Create {
                space,
                name: b"./a/b.ibd"
            }),
            Op::File(FileEvent::Delete {
                space,
                name: b"./a/c.ibd"
            }),
            Op::File(FileEvent::Rename {
                space,
                old: b"./a/d.ibd",
                new: b"./a/e.ibd"
            }),
            Op::File(FileEvent::Modify {
                space,
                name: b"./a/f.ibd"
            }),
            Op::File(FileEvent::Padding),
            Op::File(FileEvent::Padding),
            Op::InitPage,
        ]
    );
    let checkpoint = record(0xf0, &[0, 0, 0, 0, 0, 0, 0, 0, 0x30, 0x39]);
    assert_eq!(
        ops(std::slice::from_ref(&checkpoint))[0].1,
        "File(Checkpoint { lsn: Lsn(12345) })"
    );
    for padding in [10, 13, 500] {
        assert_eq!(
            ops(&[record(0xf0, &vec![0; padding])])[0].1,
            "File(Padding)"
        );
    }
    let reserved = vec![0xe5, 5, 0, b'x', b'y', b'z'];
    assert_eq!(
        fault(&[reserved]),
        (RecordKind::FileReserved, None, RecordFault::Unknown)
    );
}

#[test]
fn a_checkpoint_must_be_last() {
    let m = mtr(&[record(0xf0, &[0, 0, 0, 0, 0, 0, 0, 0, 0x30, 0x39]), init()]);
    let first = parse(&m).records().next().unwrap();
    assert!(matches!(
        first,
        Err(RedoError::Record {
            kind: RecordKind::FileCheckpoint,
            ..
        })
    ));
}

#[test]
fn malformed() {
    use RecordFault::{BadPageId, Invalid, OutOfPage, Trailing, Truncated, Unknown};
    let page = |first: u8, rest: &[u8]| record(first, &paged(P, rest));
    let cases: &[(&str, Vec<Vec<u8>>, RecordFault)] = &[
        ("reserved kind", vec![page(0x60, &[1])], Unknown),
        ("unknown subtype", vec![page(0x20, &[11])], Unknown),
        ("no subtype", vec![page(0x20, &[])], Truncated),
        (
            "free, same page",
            vec![init(), vec![0x82, 3, 7]],
            Invalid("same-page flag"),
        ),
        (
            "init, same page",
            vec![init(), vec![0x92, 3, 7]],
            Invalid("same-page flag"),
        ),
        ("free with payload", vec![page(0, &[1])], Trailing),
        ("init with payload", vec![page(0x10, &[1])], Trailing),
        (
            "write after free",
            vec![page(0, &[]), vec![0xb2, 30, 1]],
            Invalid("same-page flag"),
        ),
        ("page id cut", vec![vec![0x32, 3, 0x80]], BadPageId),
        ("page id reserved", vec![vec![0x33, 0xf8, 3, 3]], BadPageId),
        ("write without data", vec![page(0x30, &[50])], Truncated),
        ("write before byte 8", vec![page(0x30, &[7, 1])], OutOfPage),
        (
            "write beyond 64 KiB",
            vec![page(0x30, &[ints(&[65535]), vec![1, 2]].concat())],
            OutOfPage,
        ),
        (
            "offset of 4 bytes",
            vec![page(0x30, &[0xe0, 0, 0, 0, 1])],
            Invalid("integer"),
        ),
        (
            "memset without data",
            vec![page(0x40, &[50, 9])],
            Invalid("pattern length"),
        ),
        (
            "memset pattern too long",
            vec![page(0x40, &[50, 2, 1, 2, 3])],
            Invalid("pattern length"),
        ),
        (
            "memmove from before",
            vec![page(0x50, &[50, 2, 99])],
            OutOfPage,
        ),
        (
            "memmove with rest",
            vec![page(0x50, &[50, 2, 4, 1])],
            Trailing,
        ),
        (
            "undo record too short",
            vec![page(0x20, &[3, 1, 2])],
            Truncated,
        ),
        ("init index with rest", vec![page(0x20, &[1, 1])], Trailing),
        ("insert cut", vec![page(0x20, &[6, 1, 2])], Truncated),
        ("delete cut", vec![page(0x20, &[9, 1, 2])], Truncated),
        ("delete with rest", vec![page(0x20, &[8, 1, 2])], Trailing),
        (
            "trim, same page",
            vec![init(), vec![0xa1, 10]],
            Invalid("same-page flag"),
        ),
        (
            "index record on page 2",
            vec![record(0x20, &paged(PageId::new(3, 2), &[1]))],
            Invalid("page number"),
        ),
        (
            "file of page 1",
            vec![record(0x80, &[5, 1, b'x', b'.', b'i', b'b', b'd'])],
            BadPageId,
        ),
        (
            "file of tablespace 0",
            vec![record(0x80, &[0, 0, b'x', b'.', b'i', b'b', b'd'])],
            BadPageId,
        ),
        (
            "file name",
            vec![record(0x80, &[5, 0, b'x'])],
            Invalid("file name"),
        ),
        (
            "rename with one name",
            vec![record(0xa0, &[5, 0, b'.', b'i', b'b', b'd'])],
            Truncated,
        ),
        (
            "checkpoint LSN",
            vec![record(0xf0, &[0, 0, 1, 2, 3])],
            Invalid("checkpoint LSN"),
        ),
    ];
    for (what, records, want) in cases {
        let (_, _, got) = fault(records);
        assert_eq!(got, *want, "{what}");
    }
    // A run that does not begin with a page's name.
    let bytes = [0xb2, 30, 1];
    let e = xylem_redo::Records::of_run(&bytes, Lsn(1))
        .next()
        .unwrap()
        .unwrap_err();
    assert!(
        matches!(
            e,
            RedoError::Record {
                kind: RecordKind::FileModify,
                ..
            }
        ),
        "{e}"
    );
}

#[test]
fn errors_say_where() {
    let m = mtr(&[init(), record(0x20, &paged(P, &[77]))]);
    let e = parse(&m).records().find_map(Result::err).unwrap();
    assert_eq!(
        e.to_string(),
        "redo at LSN 20003: EXTENDED(77) record of page 3:7: unknown kind"
    );
}
