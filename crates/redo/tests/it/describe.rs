//! Records in words.
#![allow(clippy::unwrap_used)]

use xylem_redo::{Op, PageHead, RecordKind, Records};
use xylem_types::{Lsn, PageId};

/// The kind and the description of each record of a run.
fn lines(run: &[u8]) -> Vec<String> {
    Records::of_run(run, Lsn(5000))
        .map(|r| r.map(|r| format!("{} {}", r.kind, r.op)).unwrap())
        .collect()
}

#[test]
fn records_are_told_in_words() {
    // Page 5:3. INIT_PAGE; then records on the same page.
    let run = [
        vec![0x12, 5, 3],
        vec![0xb3, 0, 0x45, 0xbf],
        vec![0xc3, 16, 9, 7],
        vec![0xa1, 1],
        // Two header bytes, one and two copied; after the infimum.
        vec![0xa8, 6, 0, 0x11, 1, 2, 0xaa, 0xbb, 0xcc],
        vec![0xa4, 9, 28, 1, 12],
    ]
    .concat();
    assert_eq!(
        lines(&run),
        [
            "INIT_PAGE the page becomes zeros with only its identity",
            "WRITE 2 bytes at 24 (FIL_PAGE_TYPE): 45bf",
            "MEMSET 9 bytes at 42 are filled with 07",
            "INIT_ROW_FORMAT_DYNAMIC the page becomes an empty index page, ROW_FORMAT=COMPACT or DYNAMIC",
            "INSERT_HEAP_DYNAMIC a record is inserted after the infimum, at the heap's top; \
             1 header and 2 data bytes copied from that record, 3 new: aabbcc",
            "DELETE_ROW_FORMAT_DYNAMIC the record after the record at 127 is deleted: \
             6 header and 12 data bytes",
        ]
    );
}

#[test]
fn long_data_is_cut() {
    let data = [0x11; 40];
    let op = Op::Write {
        offset: 100,
        data: &data,
    };
    let text = op.to_string();
    assert!(text.starts_with("40 bytes at 100: 1111"), "{text}");
    assert!(
        text.ends_with('…') && text.matches("11").count() == 32,
        "{text}"
    );
    assert_eq!(op.range(), Some((100, 40)));
    assert_eq!(Op::UndoInit.range(), None);
    assert_eq!(RecordKind::Write.to_string(), "WRITE");
}

#[test]
fn a_page_tells_what_it_is() {
    let mut page = vec![0; 16384];
    page[4..8].copy_from_slice(&3u32.to_be_bytes());
    page[16..24].copy_from_slice(&777u64.to_be_bytes());
    page[24..26].copy_from_slice(&17855u16.to_be_bytes());
    page[34..38].copy_from_slice(&5u32.to_be_bytes());
    let head = PageHead::of(&page).unwrap();
    assert_eq!((head.id, head.lsn), (PageId::new(5, 3), Lsn(777)));
    assert_eq!(head.kind_name(), "FIL_PAGE_INDEX");
    assert_eq!(PageHead::of(&page[..20]), None);
}
