//! Framing of mini-transactions: chunks of any size, truncation, damage.
#![allow(clippy::unwrap_used)]

use crate::common::{GOLDEN, each_mtr, ints, mtr, paged, record};
use proptest::prelude::*;
use xylem_redo::{MTR_SIZE_MAX, MtrCheck, MtrReader, ParseStep, RedoError, parse_mtr, varint};
use xylem_types::{Lsn, PageId};

const PAGE: PageId = PageId::new(0x34, 0x56);

#[test]
fn the_recorded_log_is_whole() {
    let (mut n, mut end, mut ends) = (0, Lsn::ZERO, [0; 2]);
    each_mtr(GOLDEN, Lsn::FIRST, |m| {
        n += 1;
        end = m.end_lsn();
        ends[usize::from(m.end_byte())] += 1;
    });
    assert_eq!((n, end), (3775, Lsn(412_188)));
    assert_eq!(ends, [0, 3775], "the ring never turned");
}

#[test]
fn golden_bytes() {
    // The example of mtr0types.h: INIT_PAGE of page 0x56 of tablespace 0x34.
    assert_eq!(record(0x10, &paged(PAGE, &[])), [0x12, 0x34, 0x56]);
    let m = mtr(&[record(0x10, &paged(PAGE, &[]))]);
    assert_eq!(m, [0x12, 0x34, 0x56, 0x01, 0x26, 0xe9, 0xc2, 0x99]);
}

#[test]
fn varints() {
    for (value, bytes) in [
        (0, &[0][..]),
        (127, &[0x7f]),
        (128, &[0x80, 0]),
        (16_511, &[0xbf, 0xff]),
        (16_512, &[0xc0, 0, 0]),
        (2_113_663, &[0xdf, 0xff, 0xff]),
        (2_113_664, &[0xe0, 0, 0, 0]),
        (270_549_119, &[0xef, 0xff, 0xff, 0xff]),
        (270_549_120, &[0xf0, 0, 0, 0, 0]),
        (u32::MAX, &[0xf0, 0xef, 0xdf, 0xbf, 0x7f]),
    ] {
        let mut out = Vec::new();
        varint::encode(&mut out, value);
        assert_eq!(out, bytes);
        assert_eq!(varint::decode(bytes), Some((value, bytes.len())));
        assert_eq!(varint::decode(&bytes[..bytes.len() - 1]), None);
    }
    // Beyond 32 bits, and reserved.
    assert_eq!(varint::decode(&[0xf0, 0xef, 0xdf, 0xbf, 0x80]), None);
    assert_eq!(varint::decode(&[0xf8, 0, 0, 0, 0, 0]), None);
}

#[test]
fn either_end_byte() {
    for end in [0, 1] {
        let mut m = mtr(&[record(0x10, &paged(PAGE, &[]))]);
        m[3] = end;
        let ParseStep::Mtr(parsed) = parse_mtr(&m, Lsn(5)).unwrap() else {
            panic!()
        };
        assert_eq!(
            (parsed.end_byte(), parsed.size(), parsed.end_lsn()),
            (end, 8, Lsn(13))
        );
    }
}

#[test]
fn every_cut_needs_more() {
    let long = record(0x30, &paged(PAGE, &[ints(&[100]), vec![7; 3000]].concat()));
    for m in [
        mtr(&[record(0, &paged(PAGE, &[]))]),
        mtr(&[long.clone(), long]),
    ] {
        for cut in 0..m.len() {
            assert_eq!(
                parse_mtr(&m[..cut], Lsn(1)),
                Ok(ParseStep::NeedMore),
                "cut at {cut}"
            );
        }
        assert!(matches!(parse_mtr(&m, Lsn(1)), Ok(ParseStep::Mtr(_))));
    }
}

#[test]
fn damage_is_an_error() {
    let m = mtr(&[record(0x10, &paged(PAGE, &[]))]);
    for at in [1, 2, 4, 7] {
        let mut bad = m.clone();
        bad[at] ^= 4;
        let e = parse_mtr(&bad, Lsn(9)).unwrap_err();
        assert!(matches!(e, RedoError::Checksum { lsn: Lsn(9), .. }), "{e}");
    }
    assert_eq!(
        parse_mtr(&[0; 20], Lsn(9)),
        Err(RedoError::Empty { lsn: Lsn(9) })
    );
    assert_eq!(
        parse_mtr(&[1; 20], Lsn(9)),
        Err(RedoError::Empty { lsn: Lsn(9) })
    );
    // A length of 4 bytes, reserved, in the second record.
    let bad = [&[0x12, 1, 1][..], &[0x30, 0xe0, 0, 0, 0]].concat();
    assert_eq!(
        parse_mtr(&bad, Lsn(9)),
        Err(RedoError::BadLength { lsn: Lsn(12) })
    );
}

#[test]
fn a_mini_transaction_has_a_bound() {
    let big = record(0x30, &paged(PAGE, &vec![5; 2_000_000]));
    let mut reader = MtrReader::new(Lsn(1));
    let mut pushed = 0;
    let error = loop {
        reader.push(&big);
        pushed += big.len();
        match reader.next() {
            Ok(None) => assert!(pushed <= MTR_SIZE_MAX + big.len()),
            Ok(Some(_)) => panic!("never ends"),
            Err(e) => break e,
        }
    };
    assert_eq!(error, RedoError::TooLong { lsn: Lsn(1) });
    let mut check = MtrCheck::new(Lsn(1));
    let stopped = std::iter::repeat_n((), 20).find_map(|()| check.push(&big).err());
    assert_eq!(stopped, Some(error.clone()));
    assert_eq!(reader.next(), Err(error), "and it stays so");
}

#[test]
fn the_reader_says_where_it_is() {
    let m = mtr(&[record(0x10, &paged(PAGE, &[]))]);
    let mut reader = MtrReader::new(Lsn(100));
    reader.push(&m);
    reader.push(&m[..3]);
    assert_eq!(reader.next().unwrap().unwrap().start_lsn(), Lsn(100));
    assert_eq!(reader.next().unwrap(), None);
    assert_eq!(
        (reader.end_lsn(), reader.buffered(), reader.pushed_lsn()),
        (Lsn(108), 3, Lsn(111))
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_chunking_gives_the_same(seed in any::<u64>(), max in 1usize..5000) {
        let log = &GOLDEN[..60_000];
        let mut whole = Vec::new();
        let mut at = 0;
        while let Ok(ParseStep::Mtr(m)) = parse_mtr(&log[at..], Lsn(12288 + at as u64)) {
            at += m.size();
            whole.push((m.start_lsn(), m.record_bytes()));
        }
        let mut reader = MtrReader::new(Lsn::FIRST);
        let (mut rest, mut state, mut n) = (log, seed | 1, 0);
        while !rest.is_empty() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (chunk, after) = rest.split_at(((state >> 33) as usize % max + 1).min(rest.len()));
            rest = after;
            reader.push(chunk);
            // Sometimes leaves mini-transactions unread, so that the reader must
            // hold several.
            while (state >> 20) & 3 != 0 || rest.is_empty() {
                let Some(m) = reader.next().unwrap() else { break };
                prop_assert_eq!((m.start_lsn(), m.record_bytes()), whole[n]);
                n += 1;
            }
        }
        prop_assert_eq!(n, whole.len());
        prop_assert_eq!(reader.end_lsn(), Lsn(12288 + at as u64));
        prop_assert_eq!(reader.buffered(), log.len() - at);
    }

    #[test]
    fn a_check_of_what_passes_finds_what_a_reader_finds(
        seed in any::<u64>(),
        max in 1usize..3000,
        damage in proptest::option::of((0usize..60_000, 1u8..)),
    ) {
        let mut log = GOLDEN[..60_000].to_vec();
        if let Some((at, bits)) = damage {
            log[at] ^= bits;
        }
        let mut reader = MtrReader::new(Lsn::FIRST);
        let mut check = MtrCheck::new(Lsn::FIRST);
        let (mut rest, mut state) = (&log[..], seed | 1);
        while !rest.is_empty() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Often single bytes, so that heads and checksums are cut everywhere.
            let most = if state >> 60 < 8 { 3 } else { max };
            let (chunk, after) = rest.split_at(((state >> 33) as usize % most + 1).min(rest.len()));
            rest = after;
            reader.push(chunk);
            let read = loop {
                match reader.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            let before = check;
            prop_assert_eq!(&check.push(chunk), &read);
            if read.is_err() {
                prop_assert_eq!(check, before, "it stays where it was");
                return Ok(());
            }
            prop_assert_eq!(check.whole_lsn(), reader.end_lsn());
            prop_assert_eq!(check.lsn(), reader.pushed_lsn());
        }
        prop_assert!(damage.is_none() || reader.buffered() > 0);
    }
}
