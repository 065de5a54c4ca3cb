//! No input panics.
#![allow(clippy::unwrap_used)]

use crate::common::{GOLDEN, each_mtr, mtr, replay};
use proptest::prelude::*;
use std::sync::OnceLock;
use xylem_redo::{
    MtrItem, MtrReader, ParseStep, Records, SpaceFlags, apply, parse_mtr, read_log_file_header,
    seal, verify,
};
use xylem_types::{Lsn, PageId};

/// Passes bytes to every function that reads redo.
fn exercise(bytes: &[u8], page: &mut [u8], flags: SpaceFlags, id: PageId) {
    if let Ok(ParseStep::Mtr(m)) = parse_mtr(bytes, Lsn(u64::MAX - 3)) {
        let _ = m.records().count();
        let mut end = 0;
        let valid = m.ordinary_runs(|_, at, len| {
            assert_eq!(at, end);
            end = at + len;
        });
        if valid.is_some() {
            assert_eq!(end as usize, m.record_bytes().len());
            assert!(m.items().all(|item| item.is_ok()));
        }
        for item in m.items().flatten() {
            if let MtrItem::Page {
                page: id, records, ..
            } = item
            {
                let _ = apply(page, id, flags, m.end_lsn(), records);
            }
        }
    }
    let _ = Records::of_run(bytes, Lsn(1)).count();
    let _ = apply(page, id, flags, Lsn(u64::MAX), bytes);
    seal(page, flags);
    let _ = verify(page, id, flags);
}

/// A page, its tablespace, its contents before, and records for it.
type Run = (PageId, SpaceFlags, Vec<u8>, Vec<u8>);

/// The runs of the recorded redo, each with the page before it.
fn runs() -> &'static Vec<(PageId, SpaceFlags, Vec<u8>, Vec<u8>)> {
    static RUNS: OnceLock<Vec<Run>> = OnceLock::new();
    RUNS.get_or_init(|| {
        let (_, flags) = replay(GOLDEN);
        let mut pages = std::collections::BTreeMap::<PageId, Vec<u8>>::new();
        let mut all = Vec::new();
        each_mtr(GOLDEN, Lsn::FIRST, |m| {
            for item in m.items().flatten() {
                let MtrItem::Page { page, records, .. } = item else {
                    continue;
                };
                let f = flags[&page.space.0];
                let p = pages
                    .entry(page)
                    .or_insert_with(|| vec![0; f.physical_page_size()]);
                all.push((page, f, p.clone(), records.to_vec()));
                apply(p, page, f, m.end_lsn(), records).unwrap();
            }
        });
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), flags in any::<u32>()) {
        let flags = SpaceFlags::new(flags & 0x1ff).unwrap_or(SpaceFlags::full_crc32_of(4096).unwrap());
        let mut page = vec![0x55; flags.physical_page_size()];
        exercise(&bytes, &mut page, flags, PageId::new(1, 5));
        // The same with a matching checksum.
        exercise(&mtr(std::slice::from_ref(&bytes)), &mut page, flags, PageId::new(1, 5));
        let _ = read_log_file_header(&bytes);
        let mut reader = MtrReader::new(Lsn(u64::MAX - 100));
        reader.push(&bytes);
        while let Ok(Some(m)) = reader.next() {
            let _ = m.end_lsn();
        }
    }

    #[test]
    fn flipped_records(n in any::<proptest::sample::Index>(), flips in proptest::collection::vec((any::<proptest::sample::Index>(), 0u8..8), 1..4)) {
        let (id, flags, page, records) = n.get(runs());
        let mut records = records.clone();
        for (at, bit) in flips {
            let at = at.index(records.len());
            records[at] ^= 1 << bit;
        }
        let mut page = page.clone();
        exercise(&records, &mut page, *flags, *id);
    }

    #[test]
    fn flipped_pages(n in any::<proptest::sample::Index>(), flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..30)) {
        let (id, flags, page, records) = n.get(runs());
        let mut page = page.clone();
        for (at, v) in flips {
            // Mostly in the header, which holds the structure.
            let at = at.index(page.len());
            let at = if v & 1 == 0 { 38 + at % 90 } else { at };
            page[at] = v;
        }
        exercise(records, &mut page, *flags, *id);
    }

    #[test]
    fn cut_log_headers(cut in 0usize..12304, at in 0usize..12304, v in any::<u8>()) {
        let mut file = xylem_redo::log_file(Lsn(12288), 4 << 20);
        file[at] ^= v;
        let _ = read_log_file_header(&file[..cut]);
        let _ = read_log_file_header(&file);
    }
}
